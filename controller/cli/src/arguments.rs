//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::place::PlaceOptions;
pub use crate::speed::SpeedCommand;

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
    /// Say what a configuration would change on all hosts, and change nothing
    #[command(
        after_help = "First what manglers make of the chains: their ways on, the clones that each needs, the rewritten \
        chains, the cores that this costs. Then the difference to what is in force, and where instances start and end: host, \
        NUMA node, CPU, lcore, and why.\n\nExamples:\n  towpath plan towpath.yaml\n  towpath plan towpath.yaml -o json | jq \
        '.placements[]'"
    )]
    Plan {
        /// The configuration
        #[arg(default_value = "towpath.yaml")]
        file: PathBuf,
        /// In which form
        #[arg(short, long, default_value = "table")]
        output: Output,
        /// As `apply` with this option would do
        #[arg(long)]
        move_instances: bool,
    },
    /// Take a changed configuration into force on all hosts
    Apply(ApplyOptions),
    /// Start a further instance of a function while traffic runs
    Scale(ScaleOptions),
    /// Take an instance out of use; it ends with its last flow
    #[command(after_help = "Example: towpath drain acme/edge/2")]
    Drain {
        /// The instance: `acme/edge/2`
        #[arg(value_parser = named::<3>, value_name = "TENANT/FUNCTION/NUMBER")]
        instance: Name<3>,
        /// How it is done.
        #[command(flatten)]
        manner: Manner,
    },
    /// Set the shares of new flows that a chain's instances get
    #[command(
        after_help = "Instances that are not named keep their share; 0 takes one out of use.\n\nExample: towpath weights \
        acme/web edge/1=3 edge/2=1"
    )]
    Weights {
        /// The chain: `acme/web`
        #[arg(value_parser = named::<2>, value_name = "TENANT/CHAIN")]
        chain: Name<2>,
        /// Instances and their shares
        #[arg(value_parser = weight, value_name = "INSTANCE=WEIGHT", required = true)]
        weights: Vec<(String, u32)>,
        /// How it is done.
        #[command(flatten)]
        manner: Manner,
    },
    /// Declare a function to be a mangler that was seen to rewrite flows
    #[command(
        after_help = "`towpath get instances` shows which instances rewrite flows, with an example. From then on chains are \
        cut behind the function; flows that run keep their paths.\n\nExample: towpath accept acme/cache"
    )]
    Accept {
        /// The function: `acme/cache`
        #[arg(value_parser = named::<2>, value_name = "TENANT/FUNCTION")]
        function: Name<2>,
        /// How it is done.
        #[command(flatten)]
        manner: Manner,
    },
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

/// A name of so many parts, as in `acme/edge/2`.
pub type Name<const PARTS: usize> = [String; PARTS];

/// Reads a [`Name`].
fn named<const PARTS: usize>(text: &str) -> Result<Name<PARTS>, String> {
    let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
    let wrong = || format!("write {PARTS} names with `/` between them, the tenant first");
    if parts.iter().any(String::is_empty) {
        return Err(wrong());
    }
    parts.try_into().map_err(|_| wrong())
}

/// `edge/1=3`.
fn weight(text: &str) -> Result<(String, u32), String> {
    let (instance, weight) = text.split_once('=').ok_or("write an instance and its share: `edge/1=3`")?;
    let weight = weight.parse().map_err(|_| format!("`{weight}` is no share; use 0 to 1000"))?;
    Ok((instance.to_owned(), weight))
}

/// A JSON object.
fn object(text: &str) -> Result<serde_json::Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(value),
        Ok(_) => Err("write a JSON object: `{\"pool\": [\"10.9.1.1\"]}`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// How a change is made.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Manner {
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,
}

/// `towpath apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "All hosts' controllers check it, then install it, then go by it; if one can't, the old version stays in \
    force on all. New rules come first, flows that run keep theirs. What `scale`, `drain`, `weights` and `accept` did before \
    is replaced by the file.\n\nExamples:\n  towpath apply towpath.yaml --dry-run\n  towpath apply towpath.yaml --host host1"
)]
pub struct ApplyOptions {
    /// The configuration
    pub file: PathBuf,
    /// How it is done.
    #[command(flatten)]
    pub manner: Manner,
    /// Allow a change that needs dataplanes restarted (ports, limits, I/O CPUs); it interrupts traffic
    #[arg(long)]
    pub restart_dataplane: bool,
    /// Allow instances that name no CPU to be replaced by others in better places; the old ones drain
    #[arg(long)]
    pub move_instances: bool,
}

/// `towpath scale`.
#[derive(Debug, Args)]
#[command(
    after_help = "New flows take the new instance too, flows that run keep their paths. `--host` above names the controller \
    that is asked; where the instance runs is `--on`.\n\nExamples:\n  towpath scale acme/edge\n  towpath scale acme/edge --on \
    host2 --cpu 5\n  towpath scale acme/nat --serves web --config '{\"pool\": [\"10.9.1.1\"]}'"
)]
pub struct ScaleOptions {
    /// The function: `acme/edge`
    #[arg(value_parser = named::<2>, value_name = "TENANT/FUNCTION")]
    pub function: Name<2>,
    /// The host that it runs on; without it, one with a free core
    #[arg(long, value_name = "HOST")]
    pub on: Option<String>,
    /// The CPU there; without it, a free one of the host's `cpus: {nf: …}`
    #[arg(long, requires = "on")]
    pub cpu: Option<u16>,
    /// The chain that a mangler's instance serves
    #[arg(long, value_name = "CHAIN")]
    pub serves: Option<String>,
    /// Keys in place of the function's own configuration, as a JSON object: a mangler's instance needs its own pool
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub config: Option<serde_json::Value>,
    /// Its share of new flows; 0 starts it without any, to be looked at first, and `towpath weights` lets flows in
    #[arg(long, value_name = "SHARE")]
    pub weight: Option<u32>,
    /// How it is done.
    #[command(flatten)]
    pub manner: Manner,
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
    /// The hosts' machines: NUMA nodes, CPUs and what has them, ports and their nodes
    Inventory,
    /// This host's lcores: CPU, socket, what runs there, useful cycles
    Lcores,
    /// NF instances: host, lcore, CPU as the kernel confirms it, and their own counters
    Instances,
    /// Chains: which traffic goes through what
    Chains,
    /// Instance paths, hop by hop, with their tags
    Paths,
    /// Exact rules: which flow goes where
    Flows,
    /// Why packets ended
    Drops,
    /// What is in force on all hosts: its version, the file's text, what operators did on top of it
    Config,
    /// Each host's version: in force, installed, reachable
    Versions,
    /// Whether flows kept to their paths, on all hosts; the exit status is 1 if one did not
    Audit,
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
    /// Compare ways to steer chains over the same traffic: rules, messages, broken and misrouted flows
    Steering(SteeringOptions),
    /// Measure what it costs to compose a specification of so many chains, and one instance more
    Compose(ComposeOptions),
    /// Make the papers' figures again: placement by us and by the papers' methods, as CSV and SVG
    Figures(FiguresOptions),
    /// Measure what placement promises: proofs, flows that fit, rates; each with its goal and a verdict
    Placement(PlacementOptions),
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
    /// How fast packets go.
    #[command(flatten)]
    Speed(SpeedCommand),
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

/// `towpath bench steering`.
#[derive(Debug, Args)]
#[command(
    after_help = "A model of hosts, switches and stateful functions; it needs neither DPDK nor root, measures no time, and gives the \
    same figures for the same seed everywhere.\n\nExamples:\n  towpath bench steering\n  towpath bench steering --hosts 4,16 \
    --flows 500 --seed 7 --json steering.json --csv steering.csv"
)]
pub struct SteeringOptions {
    /// Numbers of hosts, one comparison each
    #[arg(long, value_delimiter = ',', default_value = "4,16")]
    pub hosts: Vec<usize>,
    /// Chains per host, an even number: they come in pairs that share a mangler
    #[arg(long, default_value_t = 2)]
    pub chains_per_host: usize,
    /// Functions per chain, 3 to 7, one comparison each
    #[arg(long, value_delimiter = ',', default_value = "3,5")]
    pub nfs: Vec<usize>,
    /// Flows of each chain
    #[arg(long, default_value_t = 200)]
    pub flows: usize,
    /// Seed of the traffic
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Change neither instances nor weights while traffic runs
    #[arg(long)]
    pub no_changes: bool,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the figures as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// `towpath bench compose`.
#[derive(Debug, Args)]
#[command(
    after_help = "Chains have 4 functions; 10 chains share a host, 5 share functions, 30 a tenant. Needs neither DPDK nor root. Times are \
    CPU time of one thread.\n\nExamples:\n  towpath bench compose\n  towpath bench compose --chains 100,1000 --runs 20 \
    --json compose.json"
)]
pub struct ComposeOptions {
    /// Numbers of chains, one measurement each
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    pub chains: Vec<usize>,
    /// How often each is composed
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `towpath bench figures`.
#[derive(Debug, Args)]
#[command(
    after_help = "Figures 3 to 12 of the placement paper and Table 3 of Stratos: ours beside the papers' methods, run here, and beside what \
    the papers print. The directory gets an SVG and a CSV file for each, README.md with one line about each, and runs.csv with every run. Takes \
    about a quarter of an hour; Ctrl-C ends it and keeps what is done.\n\nExamples:\n  towpath bench figures --into figures\n  towpath bench \
    figures --into figures --quick\n  towpath bench figures --into figures --limit 600 --paper-seeds 5"
)]
pub struct FiguresOptions {
    /// The directory for the figures; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// Seeds 1 to this for ours and heuristic A [default: 20, quick: 3]
    #[arg(long, value_name = "COUNT")]
    pub seeds: Option<u64>,
    /// Seeds 1 to this for the paper's MILP and the heuristics made of it [default: 1]
    #[arg(long, value_name = "COUNT")]
    pub paper_seeds: Option<u64>,
    /// Seconds for each of the paper's programs; ours get a twentieth [default: 8, quick: 2]
    #[arg(long, value_name = "SECONDS")]
    pub limit: Option<f64>,
    /// To see whether all is well, in a few minutes: figures not to quote
    #[arg(long)]
    pub quick: bool,
    /// Draw the runs that are in the directory again, and measure nothing
    #[arg(long, conflicts_with_all = ["seeds", "paper_seeds", "limit", "quick"])]
    pub redraw: bool,
}

/// `towpath bench placement`.
#[derive(Debug, Args)]
#[command(
    after_help = "AS-16631, flows by seed, one thread. Times are CPU time. The goal max-delay comes last and may take an hour; Ctrl-C ends the \
    run and keeps what is done.\n\nExamples:\n  towpath bench placement --json placement.json\n  towpath bench placement proofs-60 racks \
    online\n  towpath bench placement --quick"
)]
pub struct PlacementOptions {
    /// Only these goals
    #[arg(value_name = "GOAL", value_parser = bench::placement::names())]
    pub goals: Vec<String>,
    /// Seeds 1 to this [default: 20, quick: 3]
    #[arg(long, value_name = "COUNT")]
    pub seeds: Option<u64>,
    /// Seconds for each problem of the goals proofs-clm and max-delay [default: 60, quick: 2]
    #[arg(long, value_name = "SECONDS")]
    pub limit: Option<f64>,
    /// To see whether all is well, in a few minutes
    #[arg(long)]
    pub quick: bool,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
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

    #[test]
    fn names_and_weights_are_read_or_refused() {
        let parse = |words: &[&str]| Arguments::try_parse_from([&["towpath"], words].concat());
        let weights = parse(&["weights", "acme/web", "edge/1=3", "edge/2=0"]).unwrap();
        let Command::Weights { chain, weights, .. } = weights.command else { panic!() };
        assert_eq!((chain[1].as_str(), weights), ("web", vec![("edge/1".to_owned(), 3), ("edge/2".to_owned(), 0)]));
        assert!(parse(&["weights", "acme/web"]).is_err(), "nothing to set");
        assert!(parse(&["weights", "acme/web", "edge/1"]).is_err());
        assert!(parse(&["drain", "acme/edge"]).is_err() && parse(&["drain", "acme//2"]).is_err());
        assert!(parse(&["drain", "acme/edge/2", "--dry-run"]).is_ok());
        assert!(parse(&["scale", "acme/edge", "--cpu", "5"]).is_err(), "a CPU is one of a host");
        assert!(parse(&["scale", "acme/nat", "--config", "[1]"]).is_err());
        assert!(parse(&["scale", "acme/nat", "--on", "h", "--config", "{\"pool\": []}"]).is_ok());
    }
}
