//! What a testbed owns outside its process: a name prefix, a directory, the machine-wide lock. Given back when it is dropped,
//! by the reaper when the process dies, by the next run when even the reaper did.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::process::tail;

/// Lines of each log that a failed test shows.
const TAIL_LINES: usize = 60;

/// Names of everything that a testbed makes begin with this and a process id: `tp4711-0-client`.
const MARK: &str = "tp";

static COUNT: AtomicU32 = AtomicU32::new(0);
static REAPER: OnceLock<Option<Child>> = OnceLock::new();

/// Waits for its input to end, which it does when the test's process is gone, then removes what that left behind.
const REAP: &str = r#"
cat >/dev/null
for name in $(ip netns list | cut -d' ' -f1 | grep "^$1-"); do
    ip netns pids "$name" | xargs -r kill -9
    ip netns delete "$name"
done
rm -rf "$2/$1-"*
"#;

/// A testbed's claim.
#[derive(Debug)]
pub struct Scope {
    prefix: String,
    directory: PathBuf,
    logs: Mutex<Vec<PathBuf>>,
    _lock: File,
}

impl Scope {
    /// Waits for the machine, sweeps what dead runs left, and makes an empty directory.
    pub fn claim() -> Self {
        assert!(rustix::process::geteuid().is_root(), "the testbed makes network namespaces: run the tests as root");
        let path = std::env::temp_dir().join("towpath-testbed.lock");
        let lock = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        lock.lock().expect("the testbed's lock");
        let owner = format!("{MARK}{}", std::process::id());
        REAPER.get_or_init(|| start_reaper(&owner));
        sweep();
        let prefix = format!("{owner}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&prefix);
        std::fs::create_dir(&directory).expect("the testbed's directory");
        Self { prefix, directory, logs: Mutex::default(), _lock: lock }
    }

    /// The namespace's full name for a role.
    pub fn name(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }

    /// Where this testbed's files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file that is shown if the test fails.
    pub fn log(&self, name: &str) -> PathBuf {
        let path = self.directory.join(format!("{name}.log"));
        self.show(&path);
        path
    }

    /// Another file that is shown if the test fails.
    pub fn show(&self, path: &Path) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if !logs.iter().any(|log| log == path) {
            logs.push(path.to_owned());
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                eprintln!("==== {} ====\n{}", log.display(), tail(log, TAIL_LINES));
            }
        }
        remove(&self.prefix);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn start_reaper(owner: &str) -> Option<Child> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("sh");
    command
        .args(["-c", REAP, "reaper", owner])
        .arg(std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.process_group(0).spawn().ok() // its own group: Ctrl-C must not reach it
}

fn namespaces() -> Vec<String> {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("ip, from iproute2");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Kills what runs in this prefix's namespaces and deletes them.
fn remove(prefix: &str) {
    let ours = format!("{prefix}-");
    for name in namespaces().iter().filter(|name| name.starts_with(&ours)) {
        let pids = Command::new("ip").args(["netns", "pids", name]).output();
        for pid in String::from_utf8_lossy(&pids.map(|output| output.stdout).unwrap_or_default()).lines() {
            super::process::kill_by_id(pid);
        }
        let _ = Command::new("ip").args(["netns", "delete", name]).status();
    }
}

/// The process id in a name that a testbed made.
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(MARK)?.split('-').next()?.parse().ok()
}

/// Removes what testbeds of dead processes left behind.
fn sweep() {
    let is_dead = |name: &str| owner_of(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    for name in namespaces().iter().filter(|name| is_dead(name)) {
        if let Some((prefix, _)) = name.rsplit_once('-') {
            remove(prefix);
        }
    }
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten().filter(|entry| is_dead(&entry.file_name().to_string_lossy())) {
        let _ = std::fs::remove_dir_all(entry.path());
    }
}
