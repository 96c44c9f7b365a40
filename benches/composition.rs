//! `cargo bench --bench composition`: what `towpath bench compose` measures, with allocations counted.

use std::process::ExitCode;

use bench::allocations;
use bench::compose::{ComposePlan, run};

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, and wants to know only that it runs.
    let measures = std::env::args().any(|argument| argument == "--bench");
    let plan = if measures {
        ComposePlan { chains: vec![10, 100, 1_000], ..ComposePlan::default() }
    } else {
        ComposePlan { chains: vec![10], runs: 1 }
    };
    match run(&plan, std::env::args().collect(), Some(allocations::during), |_| {}) {
        Ok(report) => {
            print!("{}", report.text());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
