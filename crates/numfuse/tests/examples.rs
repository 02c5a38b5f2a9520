//! The examples, as tests: each checks its own results, so that it only has to end well.

use std::sync::{Mutex, PoisonError};

#[path = "../../../examples/black_scholes.rs"]
mod black_scholes;
#[path = "../../../examples/pairwise_distances.rs"]
mod pairwise_distances;
#[path = "../../../examples/sea_temperatures.rs"]
mod sea_temperatures;

/// One at a time: an example looks at the memory of the process.
static TURN: Mutex<()> = Mutex::new(());

fn run(main: fn() -> Result<(), numfuse::Error>) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    main().unwrap();
}

#[test]
fn black_scholes_runs() {
    run(black_scholes::main);
}

#[test]
fn sea_temperatures_runs() {
    run(sea_temperatures::main);
}

#[test]
fn pairwise_distances_runs() {
    run(pairwise_distances::main);
}
