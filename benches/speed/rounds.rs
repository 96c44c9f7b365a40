//! Cases in turns: each trial is a child process, and each round goes through all cases, beginning one further than the last.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::cases::{Case, Plan};
use super::report::{FORMAT, Row, SpeedReport};
use super::{Source, SpeedError, TrialResult, TrialSpec, Work, traffic};
use crate::goals;
use crate::machine::Machine;

/// What a child may take beside its measurement: EAL, devices, a million rules.
const OVERHEAD: Duration = Duration::from_secs(180);
/// Memory that a trial needs per packet that `net_pcap` keeps, and beside it, MiB.
const MBUF_BYTES: u64 = 2_560;
const MEMORY_MIB: u64 = 128;

/// What has just been measured.
#[derive(Debug)]
pub struct Progress<'a> {
    /// From 1.
    pub round: u32,
    /// The case's series and label.
    pub case: String,
    /// What came out.
    pub result: &'a TrialResult,
}

/// Runs a plan; `trial` runs one trial, in a process of its own.
pub fn run(
    plan: &Plan,
    command_line: Vec<String>,
    directory: &Path,
    trial: &mut dyn FnMut(&TrialSpec) -> Result<TrialResult, SpeedError>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<SpeedReport, SpeedError> {
    let started_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let free_mib = free_hugepages_mib();
    let mut rows: Vec<Row> = plan.cases.iter().cloned().map(|case| Row { case, rounds: Vec::new() }).collect();
    let fits = |row: &Row| needed_mib(&row.case, plan.source) <= free_mib;
    // Without them, which is only to see that it works, there is memory for all.
    let hugepages = rows.iter().any(fits);
    let mut left_out = Vec::new();
    rows.retain(|row| {
        let stays = !hugepages || fits(row);
        if !stays {
            let (case, needed) = (&row.case, needed_mib(&row.case, plan.source));
            left_out.push(format!("{}, {}: needs {needed} MiB of hugepages", case.series, case.label));
        }
        stays
    });
    let neighbors = directory.join("right.pcap");
    traffic::write_neighbors(&neighbors).map_err(|problem| SpeedError::File { path: neighbors.clone(), problem })?;
    for round in 0..plan.rounds {
        for step in 0..rows.len() {
            let row = (step + round as usize) % rows.len();
            let Row { case, rounds } = &mut rows[row];
            let spec = TrialSpec {
                work: case.work.clone(),
                traffic: case.traffic,
                source: plan.source,
                pcap: pcap(directory, &case.work, plan.source, &case.traffic)?,
                neighbors: neighbors.clone(),
                cpu: plan.cpu,
                control_cpu: plan.control_cpu,
                hugepages,
                warm_up_ms: plan.warm_up_ms,
                duration_ms: plan.duration_ms,
            };
            let name = format!("{}, {}", case.series, case.label);
            let result = trial(&spec).map_err(|error| named(&name, error))?;
            progress(Progress { round: round + 1, case: name, result: &result });
            rounds.push(result);
        }
    }
    let mut report = SpeedReport {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line,
        started_unix_s,
        machine: Machine::read(),
        title: plan.title.clone(),
        axis: plan.axis.clone(),
        source: plan.source,
        hugepages,
        left_out,
        rows,
        goals: Vec::new(),
    };
    report.goals = goals::of_speed(&report);
    Ok(report)
}

fn named(case: &str, error: SpeedError) -> SpeedError {
    match error {
        SpeedError::Child { problem, .. } => SpeedError::Child { case: case.to_owned(), problem },
        other => other,
    }
}

/// Memory that a case needs in hugepages: `net_pcap` keeps all of its packets.
fn needed_mib(case: &Case, source: Source) -> u64 {
    let kept = if source == Source::Pcap && !is_table(&case.work) { case.traffic.sequence_len() } else { 0 };
    u64::from(kept) * MBUF_BYTES / (1 << 20) + MEMORY_MIB
}

/// True for a table alone, without packets.
fn is_table(work: &Work) -> bool {
    matches!(work, Work::ExactLookup | Work::ExactMeet | Work::TagLookup | Work::MemoryLimit)
}

/// The traffic's pcap, written once.
fn pcap(directory: &Path, work: &Work, source: Source, traffic: &traffic::Traffic) -> Result<PathBuf, SpeedError> {
    let order = match traffic.order {
        traffic::Order::Uniform => "uniform".to_owned(),
        traffic::Order::Zipf(exponent) => format!("zipf{exponent}"),
    };
    let traffic::Traffic { flows, strangers_percent, packets, seed, size, .. } = *traffic;
    let path = directory.join(format!("{flows}-{order}-{size:?}-{strangers_percent}-{packets}-{seed}.pcap"));
    if source == Source::Pcap && !is_table(work) && !path.exists() {
        traffic.write(&path, traffic::LEFT_MAC).map_err(|problem| SpeedError::File { path: path.clone(), problem })?;
    }
    Ok(path)
}

fn free_hugepages_mib() -> u64 {
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
    free.trim().parse::<u64>().unwrap_or(0) * 2
}

/// Runs a trial in a child, which gets the specification as JSON on its standard input and answers on its standard output.
pub fn in_child(program: &Path, arguments: &[&str], spec: &TrialSpec) -> Result<TrialResult, SpeedError> {
    let failed = |problem: String| SpeedError::Child { case: format!("{:?}", spec.work), problem };
    let json = serde_json::to_string(spec).map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let limit = OVERHEAD + Duration::from_millis(2 * (spec.warm_up_ms + spec.duration_ms));
    let outcome = talk(&mut child, &json, Instant::now() + limit);
    if outcome.is_err() {
        let _ = child.kill(); // it may have ended meanwhile
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let (said, complained) = outcome.map_err(failed)?;
    if !status.success() {
        return Err(failed(complained.trim().to_owned()));
    }
    serde_json::from_str(&said).map_err(|error| failed(format!("it answered {said:?}: {error}")))
}

/// What the child said on its two outputs, or why it did not.
fn talk(child: &mut Child, json: &str, deadline: Instant) -> Result<(String, String), String> {
    let mut input = child.stdin.take().ok_or("it has no input")?;
    input.write_all(json.as_bytes()).map_err(|error| error.to_string())?;
    drop(input);
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            stream.and_then(|mut stream| stream.read_to_string(&mut text).ok());
            text
        })
    };
    let said = read(child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let complained = read(child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    while !said.is_finished() {
        if Instant::now() > deadline {
            return Err("it took too long and was ended".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok((text(said), text(complained)))
}

#[cfg(test)]
mod tests {
    use super::super::cases::{self, Common};
    use super::super::traffic::Size;
    use super::*;

    #[test]
    fn cases_take_turns_and_every_round_begins_one_further() {
        let common =
            Common { flows: vec![10], rounds: 3, source: Source::Pcap, cpu: 1, warm_up_ms: 1, duration_ms: 1, seed: 1 };
        let plan = cases::forward(&common, &[Size::Fixed(60)], None, 0).unwrap();
        let directory = std::env::temp_dir().join(format!("towpath-rounds-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut order = Vec::new();
        let mut trial = |spec: &TrialSpec| {
            assert!(spec.pcap.exists() && spec.neighbors.exists());
            order.push(plan.cases.iter().position(|case| case.work == spec.work).unwrap());
            Ok(TrialResult::of(1_000 * order.len() as u64, Duration::from_millis(1), 1))
        };
        let report = run(&plan, vec!["x".to_owned()], &directory, &mut trial, &mut |_| {}).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(order, [0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1]);
        assert!(report.rows.iter().all(|row| row.rounds.len() == 3));
        let first: Vec<u64> = report.rows[0].rounds.iter().map(|result| result.packets).collect();
        assert_eq!(first, [1_000, 8_000, 11_000]);
    }

    #[test]
    fn a_child_s_complaint_is_the_error() {
        let spec = TrialSpec {
            work: Work::Bare,
            traffic: traffic::Traffic::default(),
            source: Source::Pcap,
            pcap: "x".into(),
            neighbors: "y".into(),
            cpu: 0,
            control_cpu: 0,
            hugepages: false,
            warm_up_ms: 1,
            duration_ms: 1,
        };
        let error = in_child(Path::new("/bin/sh"), &["-c", "cat >/dev/null; echo no such thing >&2; exit 1"], &spec);
        assert!(matches!(error, Err(SpeedError::Child { ref problem, .. }) if problem == "no such thing"), "{error:?}");
        let error = in_child(Path::new("/bin/sh"), &["-c", "cat >/dev/null; echo nonsense"], &spec);
        assert!(
            matches!(error, Err(SpeedError::Child { ref problem, .. }) if problem.contains("nonsense")),
            "{error:?}"
        );
    }
}
