//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::place::PlaceOptions;

/// Steers traffic along chains of network functions: check and apply a configuration, see what runs, capture, measure.
#[derive(Debug, Parser)]
#[command(name = "towpath", version, arg_required_else_help = true)]
pub struct Arguments {
    /// Which controller.
    #[command(flatten)]
    pub which: Which,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which controller to speak with; by default the only one on this machine. A run directory goes before a host's name, and
/// that before a socket, which may come from the environment.
#[derive(Debug, Clone, Default, Args)]
pub struct Which {
    /// The host whose controller is meant, when several run on this machine
    #[arg(long, global = true, value_name = "NAME")]
    pub host: Option<String>,
    /// The run directory that the controller was started with
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The controller's API socket itself
    #[arg(long, global = true, value_name = "PATH", env = "TOWPATH_SOCKET")]
    pub socket: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented example configuration
    #[command(after_help = "Example: towpath init towpath.yaml")]
    Init {
        /// The file to write; one that is there is left alone
        #[arg(default_value = "towpath.yaml")]
        file: PathBuf,
    },
    /// Say what is wrong with a configuration, or what it amounts to
    #[command(after_help = "Example: towpath check towpath.yaml\nExit status: 0 if it is right, 2 if it has mistakes.")]
    Check {
        /// The configuration
        #[arg(default_value = "towpath.yaml")]
        file: PathBuf,
    },
    /// Take a changed configuration into force on a running host
    Apply(ApplyOptions),
    /// Show what is: one table
    Get(GetOptions),
    /// Show live rates
    Top(TopOptions),
    /// Capture packets at any hop, while traffic runs
    Capture(CaptureOptions),
    /// Compute where instances should run and which way flows should take
    Place(PlaceOptions),
    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print a completion script
    #[command(after_help = "Example: towpath completions bash > /etc/bash_completion.d/towpath")]
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(after_help = "Example: towpath man --dir /usr/local/share/man/man1")]
    Man {
        /// Where to
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// `towpath apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "Chains, selectors and weights change live: new rules come first, flows that run keep theirs. Apply the \
    same file on every host.\n\nExamples:\n  towpath apply towpath.yaml --dry-run\n  towpath apply towpath.yaml --host host1"
)]
pub struct ApplyOptions {
    /// The configuration
    pub file: PathBuf,
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Allow a change that needs the dataplane restarted (ports, lcores, instances); it interrupts traffic
    #[arg(long)]
    pub restart_dataplane: bool,
}

/// `towpath get`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  towpath get drops\n  towpath get flows --limit 20\n  towpath get paths -o json | jq '.[].hops'"
)]
pub struct GetOptions {
    /// Which table
    pub table: Table,
    /// In which form
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// The most flows to show
    #[arg(long, default_value_t = 1_000)]
    pub limit: usize,
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Table {
    /// How the controller and its dataplane are
    Status,
    /// The hosts of the configuration
    Hosts,
    /// This host's lcores: CPU, socket, what runs there, useful cycles
    Lcores,
    /// NF instances and their own counters
    Instances,
    /// Chains: which traffic goes through what
    Chains,
    /// Instance paths, hop by hop, with their tags
    Paths,
    /// Exact rules: which flow goes where
    Flows,
    /// Why packets ended
    Drops,
}

/// A form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// `towpath top`.
#[derive(Debug, Args)]
#[command(after_help = "Quit with q. Examples:\n  towpath top\n  towpath top --once\n  towpath top -n 5 --interval 2")]
pub struct TopOptions {
    /// Print one interval's rates and end
    #[arg(long)]
    pub once: bool,
    /// Print so many intervals and end
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub count: Option<u32>,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub interval: f64,
}

/// `towpath capture`.
#[derive(Debug, Args)]
#[command(
    after_help = "The file is pcapng: one interface for each vport and side (`acme/edge/1 in`), nanosecond time stamps; \
    tcpdump and tshark read it. Frames are as they are inside the host: the tag in the DSCP bits, the next element in the \
    destination address.\n\nExamples:\n  towpath capture --at acme/edge/1 -w edge.pcap\n  towpath capture --at all -w all.pcap --count 100"
)]
pub struct CaptureOptions {
    /// A vport (`tunnel`, `acme/clients`, `acme/edge/1`), or `all`
    #[arg(long, value_name = "VPORT")]
    pub at: String,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// End after so many packets; without it, at Ctrl-C
    #[arg(long, value_name = "PACKETS")]
    pub count: Option<u64>,
    /// Bytes of each packet to keep
    #[arg(long, value_name = "BYTES", default_value_t = 2_280, value_parser = clap::value_parser!(u16).range(14..))]
    pub snap: u16,
}

/// `towpath bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure what a new flow's first packet costs, against an established flow's
    FlowSetup(FlowSetupOptions),
    /// Send the probes of `bench flow-setup --target` back
    #[command(after_help = "Example: towpath bench echo --listen 10.2.0.2:7000 --ports 8")]
    Echo {
        /// The first address and port
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// How many ports, from that one on: more give the client more five-tuples
        #[arg(long, default_value_t = 1)]
        ports: u16,
    },
}

/// `towpath bench flow-setup`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --target it runs a forwarder and a controller in this process, on DPDK's ring devices (root \
    and hugepages needed for figures that mean something). With --target it sends UDP through whatever is between here and \
    `towpath bench echo`.\n\nExamples:\n  towpath bench flow-setup --svg setup.svg\n  towpath bench flow-setup --target \
    10.2.0.2:7000 --ports 8 --rates 100,1000 --no-search"
)]
pub struct FlowSetupOptions {
    /// Measure over real sockets, to this echo server
    #[arg(long, value_name = "ADDR:PORT")]
    pub target: Option<SocketAddr>,
    /// How many ports the echo server listens on
    #[arg(long, default_value_t = 1, requires = "target")]
    pub ports: u16,
    /// Addresses to send from, with --target
    #[arg(long, value_delimiter = ',', requires = "target")]
    pub sources: Vec<IpAddr>,
    /// Functions of the in-process chain
    #[arg(long, value_delimiter = ',', default_value = "passthrough", conflicts_with = "target")]
    pub chain: Vec<String>,
    /// New flows per second
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    pub rates: Vec<f64>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    pub duration: f64,
    /// Do not search for the highest rate without loss
    #[arg(long)]
    pub no_search: bool,
    /// Seed of the arrivals
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the latency curves as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_controller_may_be_named_before_or_behind_the_command() {
        let parse = |words: &[&str]| Arguments::try_parse_from([&["towpath"], words].concat());
        let named = parse(&["get", "drops", "--host", "h1"]).unwrap();
        assert_eq!(named.which.host.as_deref(), Some("h1"));
        assert!(parse(&["--run-dir", "/x", "get", "drops"]).is_ok());
        assert!(parse(&["get", "nonsense"]).is_err());
    }
}
