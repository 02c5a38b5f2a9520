//! Sixty years of sea surface temperatures: broadcasting and reductions, in text and with Rust operators.
//!
//! ```text
//! cargo run --release --example sea_temperatures
//! ```

use numfuse::{Axis, Index, eval, evaluate, lazy, npy, vars};

/// Runs the example.
pub fn main() -> Result<(), numfuse::Error> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/");
    let sst = npy::read(format!("{data}nino12_sst.npy"))?;
    let years = npy::read(format!("{data}nino12_sst_years.npy"))?;
    println!("sst {:?} of {}, {} years", sst.shape(), sst.dtype(), years.len());

    // How far each month is from what is usual for it, in standard deviations: columns by their own mean and spread.
    let anomalies = evaluate("(sst - mean(sst, axis=0)) / std(sst, axis=0)", &vars! { sst })?;
    println!("standardised anomalies\n{anomalies}");

    // The same with operators, and two results of it: nothing is computed before `eval`.
    let t = lazy(&sst);
    let d = (&t - t.mean(0)) / t.std(0);
    let (yearly, warmest) = eval((d.mean(1), d.max(Axis::All)))?;
    let means = yearly.as_slice::<f64>()?;
    let hottest = (0..means.len()).max_by(|a, b| means[*a].total_cmp(&means[*b])).unwrap_or(0);
    println!("warmest year {} at {:+.2}", years.as_slice::<i64>()?[hottest], means[hottest]);
    println!("warmest month at {:+.2} standard deviations", warmest.item::<f64>()?);

    // The seasons: twelve means, and how much of the variance they explain.
    let seasonal = evaluate("var(mean(sst, axis=0)) / var(sst)", &vars! { sst })?.item::<f64>()?;
    println!("the seasons explain {:.0} % of the variance", 100.0 * seasonal);
    // January against January: the change from each year to the next.
    let january = t.index((.., 0));
    let change = january.index(1..) - january.index(..-1);
    println!("largest change of a January {:.2}", eval(change.abs().max(0))?.item::<f64>()?);

    // The two ways agree to the bit, and the anomalies are what the name says.
    assert_eq!(eval(d.clone())?, anomalies);
    let rest = evaluate("max(abs(mean(d, axis=0))), max(abs(std(d, axis=0) - 1))", &vars! { d: anomalies });
    assert!(rest.is_err(), "a text with two results goes to `Engine::evaluate_with`");
    assert!(evaluate("max(abs(mean(d, axis=0)))", &vars! { d: anomalies })?.item::<f64>()? < 1e-12);
    assert!(evaluate("max(abs(std(d, axis=0) - 1))", &vars! { d: anomalies })?.item::<f64>()? < 1e-12);
    assert_eq!(eval(d.index((.., Index::NewAxis)))?.shape(), [61, 1, 12]);
    // 1983 and 1997/98 were the great El Niño years.
    assert!([1983, 1997, 1998].contains(&years.as_slice::<i64>()?[hottest]));
    Ok(())
}
