//! `towpath-dataplane`: reads the launch document, builds the forwarder, serves its controller until told to stop.
//!
//! The order is the order of things: arguments, launch document, EAL with ports, tables and NFs, launch, serve, join.
//! Exit status: 0 after an orderly end with every mempool full, 1 otherwise.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;
use dataplane::control::{self, Ended};
use dataplane::launch::Dataplane;
use shm::attach::Listener;
use shm::launch::Launch;

/// Forwards packets along chains of network functions, one NF per core.
///
/// Usually started by towpath-controller, which writes the launch document from the configuration file.
#[derive(Parser)]
#[command(name = "towpath-dataplane", version = env!("TOWPATH_VERSION"))]
struct Arguments {
    /// The launch document (JSON): lcores, ports, endpoints, NF instances, limits.
    #[arg(long, value_name = "FILE")]
    launch: PathBuf,
    /// The Unix socket on which the controller attaches; its directory is made for this user alone.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_target(false).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let launch = read_launch(&arguments.launch)?;
    let mut signals = control::signals().context("cannot catch SIGTERM and SIGINT")?;
    let listener = Listener::bind(&arguments.socket)?;
    let mut dataplane = Dataplane::launch(&launch)?;
    let Ended { reason } = control::serve(&mut dataplane, listener, &mut signals)?;
    tracing::info!("stopping: {reason}");
    let balance = dataplane.stop();
    tracing::info!("{balance}");
    ensure!(balance.is_even(), "packets were lost in the dataplane itself: {balance}; please report this");
    Ok(())
}

fn read_launch(path: &PathBuf) -> anyhow::Result<Launch> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the launch document {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!("{} is not a launch document; towpath-controller writes one from the configuration", path.display())
    })
}
