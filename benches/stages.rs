//! The stages of a packet's path, for an instruction counter: run by `scripts/guard` under callgrind.
//!
//! Prints how many packets each stage carried, and the allocations that the stages made.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Enough that a table's odd bucket does not show, few enough for callgrind.
const BURSTS: u32 = 64;

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, without `--bench`: there it only has to start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match bench::speed::stages::run(BURSTS) {
        Ok(done) => {
            println!("packets {}", done.packets);
            println!("allocations {}", done.allocations);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
