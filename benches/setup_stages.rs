//! The stages of a flow's set-up, for an instruction counter: run by `scripts/guard` under callgrind.
//!
//! Prints how many flows (and rules) went through each stage, and the allocations that the stages made.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Enough that a table's odd bucket does not show, few enough for callgrind.
const BURSTS: u32 = 64;

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, without `--bench`: there it only has to start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match bench::in_process::count(BURSTS) {
        Ok(counted) => {
            println!("packets {}", counted.flows);
            println!("allocations {}", counted.allocations);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
