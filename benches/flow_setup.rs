//! `cargo bench`: a short flow-setup measurement on the in-process rig.
//!
//! `towpath bench flow-setup` is the same with every option; this target exists so that the usual command finds it.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use bench::plan::{Plan, SearchPlan};
use bench::{Progress, in_process};

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, without `--bench`: there it only has to start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let mut rig = match in_process::open(&in_process::Options::default()) {
        Ok(rig) => rig,
        Err(in_process::RigError::WithoutDpdk) => {
            println!("flow_setup: skipped, it needs DPDK (build without `--no-default-features`)");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let plan = Plan {
        duration: Duration::from_secs(1),
        search: Some(SearchPlan { trial: Duration::from_millis(500), repeats: 1, ..SearchPlan::default() }),
        ..Plan::default()
    };
    let progress = &mut |progress: Progress<'_>| {
        if let Progress::Measuring { rate_per_s, .. } = progress {
            eprintln!("measuring {rate_per_s} flows/s");
        }
    };
    match bench::run(rig.as_mut(), &plan, std::env::args().collect(), progress) {
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
