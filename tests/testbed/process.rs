//! Processes that a test starts: their output goes to a log, and they do not outlive it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{SOON, until_within};

/// A process that runs beside the test.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says is appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log).expect("a log");
        command.stdout(open()).stderr(open());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to its input, if the command asked for one.
    pub fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// What it has said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it at once, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(SOON)
    }

    /// Waits for its end.
    pub fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        let Self { name, child, .. } = self;
        until_within(limit, &format!("the end of {name}"), || child.try_wait().expect("its status"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills a process that runs in a namespace of ours.
pub fn kill_by_id(id: &str) {
    signal_by_id(id, Signal::KILL);
}

/// Sends a signal to a process that runs in a namespace of ours.
pub fn signal_by_id(id: &str, signal: Signal) {
    if let Some(pid) = id.trim().parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Runs to its end with this input; fails the test if it fails.
pub fn run(command: Command, input: &str) -> String {
    let what = format!("{command:?}");
    let output = finish(command, input);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Runs to its end with this input.
pub fn finish(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("its output");
    let _ = writer.join();
    output
}

/// The last lines of a text file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
