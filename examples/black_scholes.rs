//! Prices of a million call options by Black and Scholes: one pass over the inputs, no temporaries.
//!
//! ```text
//! cargo run --release --example black_scholes
//! ```

use numfuse::explain::Stage;
use numfuse::{Engine, vars};
use std::time::Instant;

const CALL: &str = "
    d1 = (log(spot / strike) + (rate + volatility**2 / 2) * years) / (volatility * sqrt(years))
    d2 = d1 - volatility * sqrt(years)
    normal1 = erfc(-d1 / sqrt(2)) / 2
    normal2 = erfc(-d2 / sqrt(2)) / 2
    spot * normal1 - strike * exp(-rate * years) * normal2
";

/// Runs the example.
pub fn main() -> Result<(), numfuse::Error> {
    let n = 1_000_000;
    let between = |low: f64, high: f64, step: usize| -> Vec<f64> {
        (0..n).map(|i| low + (high - low) * ((i * step) % n) as f64 / n as f64).collect()
    };
    let (spot, strike, years) = (between(80.0, 120.0, 1), between(90.0, 110.0, 7), between(0.1, 2.0, 13));
    let env = vars! { spot, strike, years, rate: 0.03, volatility: 0.25 };

    let engine = Engine::default();
    let prices = engine.evaluate(CALL, &env)?;
    let start = Instant::now();
    engine.evaluate(CALL, &env)?;
    println!("{prices}");
    println!("{n} prices in {:.1?}", start.elapsed());
    print!("{}", engine.explain(CALL, &env)?.stage(Stage::Plan));

    // One price by hand: at the money, a year, from tables of the normal distribution.
    let env = vars! { spot: 100, strike: 100, years: 1, rate: 0.05, volatility: 0.2 };
    let price = engine.evaluate(CALL, &env)?.item::<f64>()?;
    assert!((price - 10.450583572185565).abs() < 1e-12, "{price}");
    // An option is worth no more than the share, and no less than the share minus the discounted strike.
    let bounds = "all(price <= spot) and all(price >= spot - strike * exp(-rate * years) - 1e-9)";
    let env = vars! { price: prices, spot, strike, years, rate: 0.03 };
    assert!(engine.evaluate(bounds, &env)?.item::<bool>()?);
    Ok(())
}
