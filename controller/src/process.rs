//! The dataplane as a process: [`Dataplane`] starts it, finds a running one, and says why one did not start.
//!
//! Off the packet's path. The dataplane runs in a session of its own, so that neither a terminal's interrupt nor the
//! controller's end reaches it. Its launch document is `<run-dir>/launch.json`, its socket `<run-dir>/dataplane.sock`, what it
//! says `<run-dir>/dataplane.log` (of the start before: `dataplane.log.old`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use shm::attach::{AttachError, Attached};
use shm::launch::{EndpointLaunch, Launch, RoleLaunch};

use crate::config::Hugepages;

/// The dataplane's program.
pub const PROGRAM: &str = "towpath-dataplane";

/// How long a dataplane that listens may take to greet.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// A dataplane that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such program.
    #[error("there is no dataplane program at {}; build it, or name it with --dataplane", .0.display())]
    NoProgram(PathBuf),
    /// A file in the run directory.
    #[error("cannot write {}: {source}; check the run directory", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system does not start it.
    #[error("cannot start {}: {source}; is it executable?", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended before it was ready; its own last words are the reason.
    #[error("the dataplane did not start: {reason} (its log is {})", log.display())]
    Ended {
        /// What it said last.
        reason: String,
        /// Where it says things.
        log: PathBuf,
    },
    /// It neither ends nor listens.
    #[error("the dataplane (process {pid}) was not ready within {seconds} s; its log is {}", log.display())]
    Silent {
        /// Its process.
        pid: u32,
        /// How long was waited.
        seconds: u64,
        /// Where it says things.
        log: PathBuf,
    },
}

/// Where the dataplane's program and files are.
#[derive(Debug, Clone)]
pub struct Dataplane {
    /// The program.
    pub program: PathBuf,
    /// The run directory.
    pub run_dir: PathBuf,
}

impl Dataplane {
    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.run_dir.join("dataplane.log")
    }

    /// Starts it with this document, in a session of its own.
    pub fn start(&self, launch: &Launch) -> Result<Child, ProcessError> {
        if !self.program.is_file() {
            return Err(ProcessError::NoProgram(self.program.clone()));
        }
        let document = self.run_dir.join("launch.json");
        let text = serde_json::to_vec_pretty(launch).unwrap_or_default();
        write_private(&document, &text)?;
        let path = self.log();
        // There is none before the first start.
        let _ = fs::rename(&path, self.run_dir.join("dataplane.log.old"));
        let failed = |source| ProcessError::File { path: path.clone(), source };
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        let log_too = log.try_clone().map_err(failed)?;
        // A child that leads no process group becomes the leader of a session without another fork: its pid is the child's.
        let mut command = Command::new("setsid");
        command.arg(&self.program).arg("--launch").arg(&document).arg("--socket").arg(self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::from(log)).stderr(Stdio::from(log_too));
        command.spawn().map_err(|source| ProcessError::Spawn { path: "setsid".into(), source })
    }

    /// Attaches to a dataplane that listens; [`AttachError::NotRunning`] if none does.
    pub fn attach(&self) -> Result<Attached, AttachError> {
        self.attach_within(GREETING_LIMIT)
    }

    /// The same, with less patience.
    pub fn attach_within(&self, limit: Duration) -> Result<Attached, AttachError> {
        shm::attach::attach(&self.socket(), limit)?.open()
    }

    /// Why it ended: the last line of its log, without time stamp colours or "error: " in front.
    pub fn last_words(&self) -> String {
        let text = fs::read(self.log()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        last_line(&text).unwrap_or_else(|| "it said nothing".into())
    }

    /// The error of a start that failed.
    pub fn ended(&self) -> ProcessError {
        ProcessError::Ended { reason: self.last_words(), log: self.log() }
    }
}

fn last_line(text: &str) -> Option<String> {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.strip_prefix("error: ").or_else(|| line.strip_prefix("Error: ")).unwrap_or(line).to_owned())
}

/// Writes a file that only its owner may read, in one step: nobody sees half of it.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), ProcessError> {
    let fresh = path.with_extension("new");
    let written = || -> io::Result<()> {
        let mut file: File = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        fs::rename(&fresh, path)
    };
    written().map_err(|source| ProcessError::File { path: path.to_owned(), source })
}

/// The document to start a dataplane with: `auto` hugepages become what the machine has now.
pub fn launch_now(launch: &Launch, hugepages: Hugepages) -> Launch {
    let mut launch = launch.clone();
    if hugepages == Hugepages::Auto {
        launch.eal.hugepages = free_hugepages_mib() >= u64::from(launch.eal.memory_mib);
    }
    launch
}

/// What is in either of two documents: instances and endpoints of the one that is installed and of the one in force. Where
/// both want the same lcore or vport for something else, the installed one has it.
pub fn union(active: &Launch, installed: &Launch) -> Launch {
    let mut both = installed.clone();
    for (lcore, old) in both.lcores.iter_mut().zip(&active.lcores) {
        if lcore.role == RoleLaunch::Spare && matches!(old.role, RoleLaunch::Nf(_)) {
            lcore.clone_from(old);
        }
    }
    let gone = |old: &&EndpointLaunch| installed.endpoints.iter().all(|new| new.vport != old.vport);
    both.endpoints.extend(active.endpoints.iter().filter(gone).cloned());
    if let (Some(tunnel), Some(old)) = (&mut both.tunnel, &active.tunnel) {
        let gone = |vni: &&packet::Vni| installed.tunnel.as_ref().is_none_or(|new| !new.vnis.contains(vni));
        tunnel.vnis.extend(old.vnis.iter().filter(gone));
    }
    both
}

/// Free hugepage memory of every size, MiB.
fn free_hugepages_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let mib_of = |entry: fs::DirEntry| -> Option<u64> {
        let name = entry.file_name().into_string().ok()?;
        let size_kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free: u64 = fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(size_kib * free / 1_024)
    };
    sizes.flatten().filter_map(mib_of).sum()
}

/// The document as a running dataplane would say it: hugepages are what it found.
pub fn as_running(running: &Launch, wanted: &Launch, hugepages: Hugepages) -> Launch {
    let mut wanted = wanted.clone();
    if hugepages == Hugepages::Auto {
        wanted.eal.hugepages = running.eal.hugepages;
    }
    wanted
}

/// In what a running dataplane differs from what it should be and can't become without a restart, one line each:
/// `ports[1].mtu: 1500 runs, 9000 is wanted`.
pub fn differences(running: &Launch, wanted: &Launch, hugepages: Hugepages) -> Vec<String> {
    let mut wanted = as_running(running, wanted, hugepages);
    for (old, new) in running.lcores.iter().zip(&mut wanted.lcores) {
        match (&old.role, &mut new.role) {
            // An instance starts, or ends.
            (RoleLaunch::Spare, RoleLaunch::Nf(_)) | (RoleLaunch::Nf(_), RoleLaunch::Spare) => new.clone_from(old),
            (RoleLaunch::Spare, RoleLaunch::Spare) => new.cpu = old.cpu,
            (RoleLaunch::Nf(old), RoleLaunch::Nf(new)) => new.mangles = old.mangles,
            _ => {}
        }
    }
    wanted.endpoints.clone_from(&running.endpoints);
    if let (Some(old), Some(new)) = (&running.tunnel, &mut wanted.tunnel) {
        new.peers.clone_from(&old.peers);
        new.vnis.clone_from(&old.vnis);
    }
    let as_json = |launch: &Launch| serde_json::to_value(launch).unwrap_or_default();
    let mut lines = Vec::new();
    compare("", &as_json(running), &as_json(&wanted), &mut lines);
    lines
}

fn compare(path: &str, running: &Value, wanted: &Value, lines: &mut Vec<String>) {
    match (running, wanted) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let of = |table: &serde_json::Map<String, Value>| table.get(key).cloned().unwrap_or_default();
                compare(&below, &of(a), &of(b), lines);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let of = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                compare(&format!("{path}[{index}]"), &of(a), &of(b), lines);
            }
        }
        _ if running != wanted => {
            let show = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
            lines.push(format!("{path}: {} runs, {} is wanted", show(running), show(wanted)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{HostPart, State, compose};
    use crate::config;

    fn part() -> HostPart {
        let config = config::parse("e.yaml", config::EXAMPLE).unwrap();
        compose(&config, &State::default(), None).unwrap().hosts.remove(0).as_ref().clone()
    }

    #[test]
    fn differences_name_the_key_and_both_values() {
        let part = part();
        let found = |running: &Launch| differences(running, &part.launch, Hugepages::Auto);
        assert_eq!(found(&part.launch), [""; 0]);
        let mut running = part.launch.clone();
        running.ports[1].mtu = 9_000;
        running.eal.hugepages = false;
        let expected = ["ports[1].mtu: 9000 runs, 1500 is wanted"];
        assert_eq!(found(&running), expected, "hugepages are automatic, so they don't count");
        let mut running = part.launch.clone();
        if let RoleLaunch::Nf(nf) = &mut running.lcores[1].role {
            nf.function = "passthrough".into();
        }
        assert_eq!(found(&running).len(), 1, "a running instance is what it is");
        running.lcores.pop();
        assert_eq!(found(&running).len(), 2, "{:?}", found(&running));
    }

    /// Breaks if a change that a running dataplane can make would restart it.
    #[test]
    fn instances_and_endpoints_come_and_go_without_a_restart() {
        let part = part();
        let mut running = part.launch.clone();
        running.lcores[1].role = RoleLaunch::Spare;
        running.endpoints[0].next_hops.push("10.1.0.9".parse().unwrap());
        running.tunnel.as_mut().unwrap().vnis.clear();
        assert_eq!(differences(&running, &part.launch, Hugepages::Auto), [""; 0]);
        assert_eq!(differences(&part.launch, &running, Hugepages::Auto), [""; 0]);
    }

    /// Breaks if installing what comes ends what is still in force.
    #[test]
    fn both_documents_have_their_instances_and_endpoints() {
        let part = part();
        let mut next = part.launch.clone();
        next.lcores[1].role = RoleLaunch::Spare;
        next.endpoints.clear();
        next.tunnel.as_mut().unwrap().vnis.clear();
        assert_eq!(union(&part.launch, &next), part.launch);
        assert_eq!(union(&next, &part.launch), part.launch);
    }

    #[test]
    fn the_last_words_are_the_last_line_that_says_something() {
        assert_eq!(last_line("EAL: detected\nerror: no port u1\n\n"), Some("no port u1".into()));
        assert_eq!(last_line("\n"), None);
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let dataplane = Dataplane { program: "/nonexistent/dp".into(), run_dir: directory.path().to_owned() };
        let error = dataplane.start(&part().launch).unwrap_err().to_string();
        assert_eq!(error, "there is no dataplane program at /nonexistent/dp; build it, or name it with --dataplane");
    }
}
