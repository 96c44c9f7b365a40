//! `towpath bench forward`, `chain`, `tables`, `updates`, `flood` and `goals`: the command lines of the speed harness, and their runs.
//!
//! Each trial is this program once more, as `towpath bench trial`, because DPDK starts once in a process.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bench::goals::{self, GoalsReport};
use bench::speed::cases::{self, Common, Plan};
use bench::speed::report::SpeedReport;
use bench::speed::rounds::{self, Progress};
use bench::speed::traffic::{self, Order, Size};
use bench::speed::{Source, TrialSpec, plot};
use clap::{Args, Subcommand, ValueEnum};

use crate::Failure;

/// What about the forwarder's speed is measured.
#[derive(Debug, Subcommand)]
pub enum SpeedCommand {
    /// Measure one lcore's forwarding: exact match, set DSCP, VXLAN; beside a plain loop over the same devices
    #[command(
        after_help = "Needs root and, for figures that mean something, hugepages: about 2.5 KiB for each flow, and 128 \
    MiB.\n\nExamples:\n  towpath bench forward\n  towpath bench forward --flows 1k,1M --sizes 60,imix --json forward.json \
    --svg forward.svg\n  towpath bench forward --source ring --flows 4M --zipf 1.0"
    )]
    Forward(ForwardOptions),
    /// Measure chains: passthroughs hop by hop, and a firewall with 1,000 rules
    #[command(
        after_help = "Where there are too few CPUs for a lcore each, one thread polls all lcores in turn: that shows the \
    cycles of each hop, not what moving between caches costs.\n\nExample: towpath bench chain --lengths 1,4,8"
    )]
    Chain(ChainOptions),
    /// Measure table lookups against what memory allows
    #[command(after_help = "Example: towpath bench tables --flows 1k,64k,1M,4M")]
    Tables(TablesOptions),
    /// Measure rules that come and go under full load: none, a million a second, as many as go, in turns; lost packets, the dip
    #[command(after_help = "Example: towpath bench updates --batches 1,64,256")]
    Updates(UpdatesOptions),
    /// Measure what established flows keep under a flood of SYNs of new flows
    #[command(after_help = "Example: towpath bench flood --shares 0,4,10,50,90")]
    Flood(FloodOptions),
    /// Measure all of it, flow setup too, as far as goals speak of it: each goal, its value, a verdict
    #[command(
        after_help = "Takes about 20 minutes with what is usual, and 2.8 GiB of hugepages for the million flows of `forward`; one that \
    does not fit is left out.\n\nExample: towpath bench goals --rounds 3 --duration 0.5 --json goals.json --svg goals.svg"
    )]
    Goals(CommonOptions),
    /// Write the packets that the benches replay as a pcap, for other programs
    #[command(after_help = "Example: towpath bench packets --flows 64k --write 64k.pcap --neighbors arp.pcap")]
    Packets(PacketsOptions),
    /// Run one trial; the specification is JSON on standard input
    #[command(hide = true)]
    Trial,
}

/// Options of every plan.
#[derive(Debug, Args)]
pub struct CommonOptions {
    /// How often each case is measured; the cases take turns
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub duration: f64,
    /// Seconds before each measurement
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    pub warm_up: f64,
    /// Where packets come from
    #[arg(long, value_enum, default_value = "pcap")]
    pub source: SourceOption,
    /// The forwarder's CPU; by default the last one
    #[arg(long)]
    pub cpu: Option<u16>,
    /// Seed of the traffic
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the plot as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Where packets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SourceOption {
    /// DPDK's net_pcap replays them on the forwarder's own lcore
    Pcap,
    /// A lcore on another CPU makes them
    Ring,
}

/// `towpath bench forward`.
#[derive(Debug, Args)]
pub struct ForwardOptions {
    /// Numbers of flows
    #[arg(long, value_delimiter = ',', default_value = "1k,10k,64k,1M", value_parser = count)]
    pub flows: Vec<u32>,
    /// Frame sizes in bytes, or `imix`
    #[arg(long, value_delimiter = ',', default_value = "60", value_parser = size)]
    pub sizes: Vec<Size>,
    /// Let flows come by Zipf's law with this exponent, in place of each as often as the others
    #[arg(long, value_name = "EXPONENT")]
    pub zipf: Option<f64>,
    /// Of 100 packets, how many are of flows that the controller rejects
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    pub misses: u8,
    /// How it is measured.
    #[command(flatten)]
    pub common: CommonOptions,
}

/// `towpath bench chain`.
#[derive(Debug, Args)]
pub struct ChainOptions {
    /// Numbers of functions
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8")]
    pub lengths: Vec<usize>,
    /// Number of flows
    #[arg(long, default_value = "1k", value_parser = count)]
    pub flows: u32,
    /// How it is measured.
    #[command(flatten)]
    pub common: CommonOptions,
}

/// `towpath bench tables`.
#[derive(Debug, Args)]
pub struct TablesOptions {
    /// Entries of the exact table
    #[arg(long, value_delimiter = ',', default_value = "1k,64k,1M,4M", value_parser = count)]
    pub flows: Vec<u32>,
    /// Entries of the tag table
    #[arg(long, value_delimiter = ',', default_value = "63,1008", value_parser = count)]
    pub tag_rules: Vec<u32>,
    /// How it is measured.
    #[command(flatten)]
    pub common: CommonOptions,
}

/// `towpath bench updates`.
#[derive(Debug, Args)]
pub struct UpdatesOptions {
    /// Numbers of flows
    #[arg(long, value_delimiter = ',', default_value = "10k", value_parser = count)]
    pub flows: Vec<u32>,
    /// Rules between two commits; the controller's batches have 256 at most
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    pub batches: Vec<usize>,
    /// How it is measured.
    #[command(flatten)]
    pub common: CommonOptions,
}

/// `towpath bench flood`.
#[derive(Debug, Args)]
pub struct FloodOptions {
    /// Established flows
    #[arg(long, default_value = "10k", value_parser = count)]
    pub flows: u32,
    /// Of 100 packets, how many are SYNs of new flows
    #[arg(long, value_delimiter = ',', default_value = "0,4,10,50,90")]
    pub shares: Vec<u8>,
    /// How it is measured.
    #[command(flatten)]
    pub common: CommonOptions,
}

/// `towpath bench packets`.
#[derive(Debug, Args)]
pub struct PacketsOptions {
    /// Number of flows
    #[arg(long, default_value = "1k", value_parser = count)]
    pub flows: u32,
    /// Frame size in bytes, or `imix`
    #[arg(long, default_value = "60", value_parser = size)]
    pub size: Size,
    /// Let flows come by Zipf's law with this exponent
    #[arg(long, value_name = "EXPONENT")]
    pub zipf: Option<f64>,
    /// Seed of the order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub write: PathBuf,
    /// Write the other side's ARP messages too
    #[arg(long, value_name = "FILE")]
    pub neighbors: Option<PathBuf>,
}

/// `1k`, `64k`, `1M`, `250`.
fn count(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'M']) {
        Some(digits) if text.ends_with('k') => (digits, 1_000),
        Some(digits) => (digits, 1_000_000),
        None => (text, 1),
    };
    let number = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    number.filter(|&number| number > 0).ok_or_else(|| format!("{text:?} is not a number such as 250, 64k or 1M"))
}

fn size(text: &str) -> Result<Size, String> {
    if text.eq_ignore_ascii_case("imix") {
        return Ok(Size::Imix);
    }
    text.parse().map(Size::Fixed).map_err(|_| format!("{text:?} is neither a number of bytes nor `imix`"))
}

/// Runs a measurement.
pub fn run(command: SpeedCommand) -> Result<(), Failure> {
    let (plan, common) = match command {
        SpeedCommand::Forward(options) => {
            let common = common(&options.common, options.flows)?;
            (cases::forward(&common, &options.sizes, options.zipf, options.misses), options.common)
        }
        SpeedCommand::Chain(options) => {
            let common = common(&options.common, vec![options.flows])?;
            (cases::chain(&common, &options.lengths, cpus()), options.common)
        }
        SpeedCommand::Tables(options) => {
            let common = common(&options.common, options.flows)?;
            (cases::tables(&common, &options.tag_rules), options.common)
        }
        SpeedCommand::Updates(options) => {
            let common = common(&options.common, options.flows)?;
            (cases::updates(&common, &options.batches), options.common)
        }
        SpeedCommand::Flood(options) => {
            let common = common(&options.common, vec![options.flows])?;
            (cases::flood(&common, &options.shares), options.common)
        }
        SpeedCommand::Goals(options) => return measure_goals(&options),
        SpeedCommand::Packets(options) => return packets(&options),
        SpeedCommand::Trial => return trial(),
    };
    let report = measure(&plan.map_err(|error| Failure::Usage(error.to_string()))?)?;
    write_file(common.json.as_deref(), || Ok(report.json()))?;
    write_file(common.svg.as_deref(), || plot::svg(&report).map_err(Failure::of))?;
    io::stdout().write_all(report.text().as_bytes())?;
    Ok(())
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn common(options: &CommonOptions, flows: Vec<u32>) -> Result<Common, Failure> {
    let cpus = cpus() as u16;
    if cpus < 2 {
        return Err(Failure::Usage(
            "the forwarder and the harness need a CPU each; this process may use one".to_owned(),
        ));
    }
    let ms = |name: &str, seconds: f64| match seconds {
        _ if (0.0..=3_600.0).contains(&seconds) => Ok((seconds * 1e3) as u64),
        _ => Err(Failure::Usage(format!("{name} must be 0 to 3600 seconds"))),
    };
    Ok(Common {
        flows,
        rounds: options.rounds,
        source: match options.source {
            SourceOption::Pcap => Source::Pcap,
            SourceOption::Ring => Source::Ring,
        },
        cpu: options.cpu.unwrap_or(cpus - 1),
        warm_up_ms: ms("--warm-up", options.warm_up)?,
        duration_ms: ms("--duration", options.duration)?.max(10),
        seed: options.seed,
    })
}

fn measure(plan: &Plan) -> Result<SpeedReport, Failure> {
    let program = std::env::current_exe()?;
    let directory = Scratch::new()?;
    let mut trial = |spec: &TrialSpec| rounds::in_child(&program, &["bench", "trial"], spec);
    let mut say = |progress: Progress<'_>| {
        let Progress { round, case, result } = progress;
        eprintln!("round {round}: {case}: {:.2} Mpps, {:.1} ns", result.mpps, result.ns_per_packet);
    };
    rounds::run(plan, std::env::args().collect(), &directory.0, &mut trial, &mut say).map_err(Failure::of)
}

/// Every bench with what goals speak of, and one table. Flow setup comes last: it starts DPDK in this process.
fn measure_goals(options: &CommonOptions) -> Result<(), Failure> {
    let plans =
        cases::goals(&common(options, Vec::new())?, cpus()).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut report = GoalsReport::new(std::env::args().collect());
    for plan in &plans {
        eprintln!("{}", plan.title);
        report.add_speed(measure(plan)?);
    }
    let flow_setup = crate::benches::measure_flow_setup(options.duration)?;
    report.add_flow_setup(flow_setup);
    write_file(options.json.as_deref(), || Ok(report.json()))?;
    write_file(options.svg.as_deref(), || goals::svg(&report).map_err(Failure::of))?;
    io::stdout().write_all(report.text().as_bytes())?;
    Ok(())
}

fn packets(options: &PacketsOptions) -> Result<(), Failure> {
    let order = options.zipf.map_or(Order::Uniform, Order::Zipf);
    let traffic =
        traffic::Traffic { flows: options.flows, order, size: options.size, seed: options.seed, ..Default::default() };
    cases::check(&traffic).map_err(|error| Failure::Usage(error.to_string()))?;
    let said = |path: &Path, error: io::Error| Failure::Other(format!("{}: can't be written: {error}", path.display()));
    traffic.write(&options.write, traffic::LEFT_MAC).map_err(|error| said(&options.write, error))?;
    let neighbors = options.neighbors.as_deref();
    neighbors.map_or(Ok(()), |path| traffic::write_neighbors(path).map_err(|error| said(path, error)))
}

fn trial() -> Result<(), Failure> {
    let mut json = String::new();
    io::stdin().read_to_string(&mut json)?;
    let spec: TrialSpec =
        serde_json::from_str(&json).map_err(|error| Failure::Usage(format!("not a trial's specification: {error}")))?;
    let result = bench::speed::run_trial(&spec).map_err(Failure::of)?;
    let json = serde_json::to_string(&result).map_err(Failure::of)?;
    writeln!(io::stdout(), "{json}")?;
    Ok(())
}

fn write_file(file: Option<&Path>, content: impl FnOnce() -> Result<String, Failure>) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, content()?)
        .map_err(|error| Failure::Other(format!("{}: can't be written: {error}", file.display())))
}

/// What the names of scratch directories begin with; the process's number follows.
const SCRATCH: &str = "towpath-bench-";

/// A directory for the traffic's files that goes when the run ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        remove_abandoned();
        let path = std::env::temp_dir().join(format!("{SCRATCH}{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

/// Removes what runs left behind that were ended by a signal: directories with the number of no process.
fn remove_abandoned() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(SCRATCH)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path()); // another's stays
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // nothing more can be done about it
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, BenchCommand, Command};

    #[test]
    fn numbers_have_suffixes_and_sizes_a_mix() {
        assert_eq!((count("250"), count("64k"), count("4M")), (Ok(250), Ok(64_000), Ok(4_000_000)));
        assert!(count("0").is_err() && count("k").is_err() && count("5000M").is_err() && count("-1").is_err());
        assert_eq!((size("60"), size("IMIX")), (Ok(Size::Fixed(60)), Ok(Size::Imix)));
        assert!(size("small").is_err());
    }

    #[test]
    fn the_plan_is_what_the_command_line_says() {
        let words = ["towpath", "bench", "forward", "--flows", "1k,2k", "--sizes", "60,imix", "--duration", "0.5"];
        let Command::Bench(BenchCommand::Speed(SpeedCommand::Forward(options))) = Arguments::parse_from(words).command
        else {
            panic!("it is `bench forward`");
        };
        let common = common(&options.common, options.flows).unwrap();
        assert_eq!((common.flows.as_slice(), common.duration_ms), (&[1_000, 2_000][..], 500));
        assert_eq!(options.sizes, [Size::Fixed(60), Size::Imix]);
    }

    #[test]
    fn a_measurement_of_no_time_or_two_hours_is_wrong_usage() {
        for seconds in ["-1", "7200", "nan"] {
            let words = ["towpath", "bench", "tables", &format!("--duration={seconds}")];
            let Command::Bench(BenchCommand::Speed(SpeedCommand::Tables(options))) =
                Arguments::parse_from(words).command
            else {
                panic!("it is `bench tables`");
            };
            assert!(matches!(common(&options.common, options.flows), Err(Failure::Usage(_))), "{seconds}");
        }
    }
}
