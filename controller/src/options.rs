//! The controller's command line.

use std::path::PathBuf;

use clap::Parser;

use crate::{api, process};

/// The controller of a Towpath host: composes chains, keeps the dataplane running, answers flow misses.
#[derive(Debug, Clone, Parser)]
#[command(name = "towpath-controller", version)]
pub struct Options {
    /// Which host of the configuration this is
    #[arg(long)]
    pub host: String,
    /// The configuration file, the same for all hosts
    #[arg(long, default_value = "towpath.yaml")]
    pub config: PathBuf,
    /// Where sockets and logs are; closed to other users [default: /run/towpath/ and the host's name]
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// The dataplane's program [default: towpath-dataplane beside this program]
    #[arg(long)]
    pub dataplane: Option<PathBuf>,
    /// Replace a running dataplane that was started with something else than the configuration wants
    #[arg(long)]
    pub replace: bool,
    /// Leave the dataplane running at SIGTERM and SIGINT
    #[arg(long)]
    pub keep_dataplane: bool,
    /// Never sleep while waiting for flow misses: lowest latency, for a CPU of its own
    #[arg(long)]
    pub spin: bool,
    /// What to log, as tracing-subscriber's EnvFilter reads it
    #[arg(long, default_value = "info")]
    pub log: String,
}

impl Options {
    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| api::default_run_dir(&self.host))
    }

    /// The dataplane's program.
    pub fn program(&self) -> PathBuf {
        let beside = || std::env::current_exe().ok()?.parent().map(|directory| directory.join(process::PROGRAM));
        self.dataplane.clone().or_else(beside).unwrap_or_else(|| process::PROGRAM.into())
    }
}
