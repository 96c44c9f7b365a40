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
    ///
    /// It is what hosts begin with: version 1, the same on all of them. What is applied afterwards is a higher version, kept in
    /// the run directory as long as the dataplane runs. A controller that is started again goes on with that version, or with
    /// the newest that another host has, and warns if this file says something else; `towpath apply` takes the file into
    /// force. Ending a controller in order together with its dataplane forgets the version there.
    #[arg(long, default_value = "towpath.yaml")]
    pub config: PathBuf,
    /// A secret of 32 bytes or more, the same on all hosts, that controllers prove to each other that they know
    ///
    /// What they say to each other is then encrypted (Noise, NNpsk0). Without it whoever is on the network of the hosts'
    /// `controller:` addresses can change the configuration: keep that network to yourself. The file must be closed to
    /// other users.
    #[arg(long)]
    pub key_file: Option<PathBuf>,
    /// Where sockets and logs are; closed to other users [default: /run/towpath/ and the host's name]
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// The dataplane's program [default: towpath-dataplane beside this program]
    #[arg(long)]
    pub dataplane: Option<PathBuf>,
    /// Replace a running dataplane that is something else than the version in force wants
    #[arg(long)]
    pub replace: bool,
    /// Leave the dataplane running at SIGTERM and SIGINT
    #[arg(long)]
    pub keep_dataplane: bool,
    /// Never sleep while waiting for flow misses: lowest latency, for a CPU of its own
    #[arg(long)]
    pub spin: bool,
    /// Where the kernel shows the machine; a copy of another machine's tree makes it look like that one
    #[arg(long, default_value = "/sys", hide = true, value_name = "DIR")]
    pub sysfs: PathBuf,
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
