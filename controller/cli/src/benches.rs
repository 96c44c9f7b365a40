//! `towpath bench`: runs the harness of the `bench` crate and writes its report.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use bench::compose::{self, ComposeError, ComposePlan};
use bench::echo::Echo;
use bench::in_process;
use bench::placement::{self, PlacementPlan};
use bench::plan::{Plan, SearchPlan};
use bench::steering::{self, SteeringPlan};
use bench::udp::{UdpOptions, UdpPath};
use bench::{FlowSetupReport, Path, Progress};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Failure;
use crate::arguments::{BenchCommand, ComposeOptions, FlowSetupOptions, PlacementOptions, SteeringOptions};
use crate::interrupt;

const PATIENCE: Duration = Duration::from_secs(5);
const GOALS_RATE_PER_S: f64 = 10_000.0;

/// Runs a measurement, or its far end.
pub fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::FlowSetup(options) => flow_setup(&options),
        BenchCommand::Speed(command) => crate::speed::run(command),
        BenchCommand::Steering(options) => compare_steering(&options),
        BenchCommand::Compose(options) => measure_compose(&options),
        BenchCommand::Placement(options) => measure_placement(&options),
        BenchCommand::Figures(options) => crate::figures::run(&options),
        BenchCommand::Echo { listen, ports } => {
            let (stop, stopped) = UnixStream::pair()?;
            for signal in [SIGINT, SIGTERM] {
                signal_hook::low_level::pipe::register(signal, stop.try_clone()?)?;
            }
            let echo = Echo::bind(listen, ports).map_err(Failure::of)?;
            eprintln!("echoing at {}, {ports} ports from there on; end with Ctrl-C", echo.listen());
            let counts = echo.run(&stopped).map_err(Failure::of)?;
            eprintln!("{} echoed, {} not sent, {} that were no probes", counts.echoed, counts.unsent, counts.foreign);
            Ok(())
        }
    }
}

/// Flow setup in this process at the rate that goals speak of, and the search for the highest one.
pub fn measure_flow_setup(seconds: f64) -> Result<FlowSetupReport, Failure> {
    let plan =
        Plan { rates_per_s: vec![GOALS_RATE_PER_S], duration: Duration::from_secs_f64(seconds), ..Plan::default() };
    plan.check().map_err(|error| Failure::Usage(error.to_string()))?;
    let mut path = in_process::open(&in_process::Options::default()).map_err(Failure::of)?;
    bench::run(path.as_mut(), &plan, std::env::args().collect(), &mut say).map_err(Failure::of)
}

fn flow_setup(options: &FlowSetupOptions) -> Result<(), Failure> {
    let plan = plan(options)?;
    let mut path = open(options)?;
    let command_line = std::env::args().collect();
    let report = bench::run(path.as_mut(), &plan, command_line, &mut say).map_err(Failure::of)?;
    drop(path);
    write_file(options.json.as_deref(), || Ok(report.json()))?;
    write_file(options.svg.as_deref(), || bench::plot::svg(&report).map_err(Failure::of))?;
    io::stdout().write_all(report.text().as_bytes())?;
    lost(&report)
}

fn compare_steering(options: &SteeringOptions) -> Result<(), Failure> {
    let plan = SteeringPlan {
        hosts: options.hosts.clone(),
        chains_per_host: options.chains_per_host,
        nfs_per_chain: options.nfs.clone(),
        flows_per_chain: options.flows,
        seed: options.seed,
        changes: !options.no_changes,
    };
    let say = |hosts, nfs, mode| eprintln!("{hosts} hosts, {nfs} NFs per chain: {mode}");
    let report = steering::run(&plan, std::env::args().collect(), say).map_err(|error| match error {
        steering::SteeringError::Composition(_) => Failure::of(error),
        wrong => Failure::Usage(wrong.to_string()),
    })?;
    write_file(options.json.as_deref(), || Ok(report.json()))?;
    write_file(options.csv.as_deref(), || Ok(report.csv()))?;
    io::stdout().write_all(report.text().as_bytes())?;
    Ok(())
}

fn measure_compose(options: &ComposeOptions) -> Result<(), Failure> {
    let plan = ComposePlan { chains: options.chains.clone(), runs: options.runs };
    let say = |chains| eprintln!("composing {chains} chains");
    let report = compose::run(&plan, std::env::args().collect(), None, say).map_err(|error| match error {
        ComposeError::Chains(_) | ComposeError::Runs(_) => Failure::Usage(error.to_string()),
        fault => Failure::of(fault),
    })?;
    write_file(options.json.as_deref(), || Ok(report.json()))?;
    io::stdout().write_all(report.text().as_bytes())?;
    Ok(())
}

fn measure_placement(options: &PlacementOptions) -> Result<(), Failure> {
    let usual = if options.quick { PlacementPlan::quick() } else { PlacementPlan::default() };
    let plan = PlacementPlan {
        only: options.goals.clone(),
        seeds: options.seeds.unwrap_or(usual.seeds),
        limit_s: options.limit.unwrap_or(usual.limit_s),
    };
    let stop = interrupt::watch()?;
    let begin = Instant::now();
    let mut told_s = 0.0;
    let mut say = |said: placement::Said<'_>| {
        let now_s = begin.elapsed().as_secs_f64();
        match said {
            placement::Said::Goal(name) => eprintln!("{now_s:7.1} s  {name}"),
            // Cases of milliseconds would only flood the terminal.
            placement::Said::Case(done, of, what) if now_s - told_s >= 1.0 => {
                told_s = now_s;
                eprintln!("{now_s:7.1} s    {done} of {of}: {what}");
            }
            placement::Said::Case(..) => {}
            placement::Said::Measured(result) => {
                let verdict = if result.is_met() { "met" } else { "NOT MET" };
                eprintln!("{now_s:7.1} s    {}: {verdict}", result.text);
            }
        }
    };
    let report = placement::run(&plan, std::env::args().collect(), &stop, &mut say)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    write_file(options.json.as_deref(), || Ok(report.json()))?;
    io::stdout().write_all(report.text().as_bytes())?;
    Ok(())
}

fn plan(options: &FlowSetupOptions) -> Result<Plan, Failure> {
    if !(0.0..=86_400.0).contains(&options.duration) {
        return Err(Failure::Usage("--duration must be 0 to 86400 seconds".to_owned()));
    }
    let plan = Plan {
        rates_per_s: options.rates.clone(),
        seed: options.seed,
        duration: Duration::from_secs_f64(options.duration),
        search: (!options.no_search).then(SearchPlan::default),
        ..Plan::default()
    };
    plan.check().map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(plan)
}

fn open(options: &FlowSetupOptions) -> Result<Box<dyn Path>, Failure> {
    let Some(target) = options.target else {
        let chain = options.chain.iter().filter(|function| !function.is_empty()).cloned().collect();
        return in_process::open(&in_process::Options::for_this_machine(chain)).map_err(Failure::of);
    };
    let udp = UdpOptions { target, ports: options.ports, sources: options.sources.clone(), patience: PATIENCE };
    Ok(Box::new(UdpPath::open(udp).map_err(Failure::of)?))
}

fn say(progress: Progress<'_>) {
    match progress {
        Progress::Measuring { rate_per_s, .. } => eprintln!("measuring {rate_per_s} flows/s"),
        Progress::Measured(_) => {}
        Progress::Tried { repeat, trial } => {
            let outcome = if trial.lost == 0 { "no loss".to_owned() } else { format!("{} lost", trial.lost) };
            eprintln!("search {}: {:.0} flows/s: {outcome}", repeat + 1, trial.rate_per_s);
        }
    }
}

fn write_file(file: Option<&FilePath>, content: impl FnOnce() -> Result<String, Failure>) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, content()?)
        .map_err(|error| Failure::Other(format!("{}: can't be written: {error}", file.display())))
}

/// A run in which nothing came back measured nothing.
fn lost(report: &FlowSetupReport) -> Result<(), Failure> {
    let silent = report.rates.iter().any(|rate| rate.first.sent > 0 && rate.first.received == 0);
    if silent {
        return Err(Failure::Other("at some rate no packet came back; look at `towpath get drops`".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn options(words: &[&str]) -> FlowSetupOptions {
        let words = [&["towpath", "bench", "flow-setup"], words].concat();
        match Arguments::parse_from(words).command {
            Command::Bench(BenchCommand::FlowSetup(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_plan_is_what_the_command_line_says() {
        let plan = plan(&options(&["--rates", "50,500", "--duration", "2", "--no-search"])).unwrap();
        assert_eq!((plan.rates_per_s, plan.duration, plan.search), (vec![50.0, 500.0], Duration::from_secs(2), None));
    }

    #[test]
    fn a_plan_that_can_t_be_run_is_wrong_usage() {
        for words in [&["--rates", "-1"][..], &["--duration", "-5"]] {
            let parsed = Arguments::try_parse_from([&["towpath", "bench", "flow-setup"], words].concat());
            let refused = parsed.is_err() || matches!(plan(&options(words)), Err(Failure::Usage(_)));
            assert!(refused, "{words:?}");
        }
    }

    #[test]
    fn what_can_t_be_run_is_wrong_usage() {
        let nowhere = tempfile::tempdir().unwrap();
        let nowhere = nowhere.path().to_str().unwrap();
        for words in [
            &["steering", "--flows", "0"][..],
            &["steering", "--nfs", "2"],
            &["compose", "--chains", "0"],
            &["placement", "malformed", "--seeds", "0"],
            &["placement", "malformed", "--limit", "NaN"],
            &["figures", "--into", nowhere, "--seeds", "0"],
            &["figures", "--into", nowhere, "--limit", "0"],
            &["figures", "--into", nowhere, "--redraw"],
        ] {
            let command = match Arguments::parse_from([&["towpath", "bench"], words].concat()).command {
                Command::Bench(command) => command,
                other => panic!("{other:?}"),
            };
            assert!(matches!(run(command), Err(Failure::Usage(_))), "{words:?}");
        }
        let unknown = Arguments::try_parse_from(["towpath", "bench", "placement", "speed"]).unwrap_err().to_string();
        assert!(unknown.contains("proofs-60"), "{unknown}");
    }
}
