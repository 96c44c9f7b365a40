//! What an operator can get wrong: each mistake gives one clear error line with its remedy and a failing exit code; and what
//! other users of the machine can't reach.
#![cfg(feature = "dpdk")]

mod testbed;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use testbed::config::{self, HostEntry, tap_chain, tenant};
use testbed::host::{CONTROLLER, DATAPLANE, TOWPATH};
use testbed::hosts::{Ends, OneHost};
use testbed::namespace::{Namespace, PYTHON};
use testbed::process::finish;

/// The user `nobody`.
const NOBODY: &str = "65534";

fn good_file() -> String {
    let hosts = [HostEntry::new("host1").port("left").port("right")];
    config::file(
        &hosts,
        &tenant("acme", 100, "host: host1, port: left", "host: host1, port: right", &tap_chain("host1")),
    )
}

/// A namespace with the good file's interfaces, in which nothing runs.
struct Bench {
    ends: Ends,
    namespace: Namespace,
}

impl Bench {
    fn new() -> Self {
        let ends = Ends::new();
        let namespace = Namespace::for_dataplane(&ends.scope, "host1");
        ends.client.link("eth0", &namespace, "left", 1_500);
        ends.server.link("eth0", &namespace, "right", 1_500);
        Self { ends, namespace }
    }

    /// Runs a controller with this file, which must fail.
    fn controller(&self, yaml: &str, more: &[&str]) -> Output {
        let file = self.ends.write(yaml).display().to_string();
        let run_dir = self.ends.scope.directory().join("host1").display().to_string();
        let mut arguments = more.to_vec();
        for (option, usual) in [("--config", file.as_str()), ("--run-dir", &run_dir), ("--host", "host1")] {
            if !more.contains(&option) {
                arguments.extend([option, usual]);
            }
        }
        finish(self.namespace.command(CONTROLLER, &arguments), "")
    }
}

/// Fails the test unless the program failed with one error line that has all these words, and left no mess on the way.
fn assert_one_error(what: &str, output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{what}: it succeeded\n{text}");
    assert!(output.status.code().is_some(), "{what}: it ended by a signal\n{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{what}: error lines in\n{text}");
    assert_eq!(text.lines().last(), Some(errors[0]), "{what}: the error comes last");
    for word in words {
        assert!(errors[0].contains(word), "{what}: no `{word}` in: {}", errors[0]);
    }
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{what}: {text}");
}

/// Breaks if a mistake in the file or on the machine gives no error, several, or one without a remedy.
#[test]
fn each_mistake_gives_one_line_with_its_remedy() {
    let bench = Bench::new();
    let good = good_file();
    let change = |from: &str, to: &str| {
        assert!(good.contains(from), "the good file has no {from}");
        good.replacen(from, to, 1)
    };
    let no_device = change("iface=left", "iface=lost");
    assert_one_error("a missing interface", &bench.controller(&no_device, &[]), &["left", "lost", "ip link"]);
    let no_cpu = change("host: host1, cpu: 1}", "host: host1, cpu: 900}");
    assert_one_error("a missing CPU", &bench.controller(&no_cpu, &[]), &["CPU 900", "usable CPUs"]);
    let no_memory = change("memory_mib: 64", "hugepages: true\n    memory_mib: 1000000");
    assert_one_error("missing hugepages", &bench.controller(&no_memory, &[]), &["hugepages", "nr_hugepages"]);
    let twice = change("iface=right", "iface=left");
    assert_one_error("a device that is taken", &bench.controller(&twice, &[]), &["both use", "its own"]);
    let shared = good.replace("share_cores: true", "share_cores: false").replace("cpu: 1}", "cpu: 0}");
    assert_one_error("a CPU for two", &bench.controller(&shared, &[]), &["CPU 0", "acme/tap/1", "share_cores"]);
    let no_host = bench.controller(&good, &["--host", "host9"]);
    assert_one_error("an unknown host", &no_host, &["host9", "host1"]);
    let no_program = bench.controller(&good, &["--dataplane", "/nonexistent/dataplane"]);
    assert_one_error("no dataplane", &no_program, &["/nonexistent/dataplane", "--dataplane"]);
    let no_directory = bench.controller(&good, &["--run-dir", "/proc/none"]);
    assert_one_error("an impossible run directory", &no_directory, &["/proc/none"]);
    let unreadable = bench.controller(&good, &["--config", "/nonexistent.yaml"]);
    assert_one_error("no file", &unreadable, &["/nonexistent.yaml", "towpath init"]);
}

/// Breaks if a mistake in the file is reported without its line and key, or hides the next one.
#[test]
fn every_mistake_in_a_file_is_named_by_line_and_key() {
    let bench = Bench::new();
    let bad = good_file().replace("vni: 100", "vni: 16777216").replace("through: [tap]", "through: [tub]");
    let file = bench.ends.write(&bad).display().to_string();
    let mut check = Command::new(TOWPATH);
    check.args(["check", &file]);
    for output in [finish(check, ""), bench.controller(&bad, &[])] {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text}");
        let line_of = |part: &str| 1 + bad.lines().position(|line| line.contains(part)).expect("the line");
        for (part, key, word) in
            [("vni:", "tenants.acme.vni", "16777215"), ("through:", "tenants.acme.chains.all", "tub")]
        {
            let place = format!("{file}:{}: {key}", line_of(part));
            let found =
                text.lines().find(|line| line.contains(&place)).unwrap_or_else(|| panic!("no {place} in\n{text}"));
            assert!(found.contains(word), "{found}");
        }
    }
    let not_yaml = bench.controller("hosts: [", &[]);
    assert!(!not_yaml.status.success());
    assert!(String::from_utf8_lossy(&not_yaml.stderr).contains("towpath.yaml:1"), "{not_yaml:?}");
}

/// Breaks if a second controller or dataplane takes over or disturbs the first.
#[test]
fn what_is_taken_is_refused() {
    let tenants = tenant("acme", 100, "host: host1, port: left", "host: host1, port: right", &tap_chain("host1"));
    let bed = OneHost::start(&tenants);
    let run_dir = bed.host.run_dir().display().to_string();
    let file = bed.ends.scope.directory().join("towpath.yaml").display().to_string();
    let second = bed.host.namespace.command(CONTROLLER, &["--config", &file, "--host", "host1", "--run-dir", &run_dir]);
    assert_one_error("a second controller", &finish(second, ""), &["run", &run_dir]);
    let (launch, socket) = (format!("{run_dir}/launch.json"), format!("{run_dir}/dataplane.sock"));
    let second = bed.host.namespace.command(DATAPLANE, &["--launch", &launch, "--socket", &socket]);
    assert_one_error("a second dataplane", &finish(second, ""), &["another dataplane", "--socket"]);
    assert_eq!(bed.host.status().dataplane.restarts, 0, "the first is not disturbed");
    bed.stop();
}

/// Breaks if a dataplane that is started by hand gives no reason.
#[test]
fn a_bad_launch_document_is_refused() {
    let bench = Bench::new();
    let directory = bench.ends.scope.directory().display().to_string();
    let (launch, socket) = (format!("{directory}/launch.json"), format!("{directory}/run/dataplane.sock"));
    let run = || finish(bench.namespace.command(DATAPLANE, &["--launch", &launch, "--socket", &socket]), "");
    assert_one_error("no document", &run(), &[&launch]);
    fs::write(&launch, "{\"host\": 1}").expect("a document");
    assert_one_error("not a document", &run(), &[&launch, "towpath-controller writes one"]);
}

/// Breaks if another user of the machine can open a socket, list the run directory, or read what is in it.
#[test]
fn other_users_have_no_access() {
    let tenants = tenant("acme", 100, "host: host1, port: left", "host: host1, port: right", &tap_chain("host1"));
    let bed = OneHost::start(&tenants);
    let run_dir = bed.host.run_dir();
    assert_eq!(mode(run_dir), 0o700, "the run directory");
    for entry in fs::read_dir(run_dir).expect("the run directory").flatten() {
        assert_eq!(mode(&entry.path()) & 0o077, 0, "{}", entry.path().display());
        assert_eq!(entry.metadata().expect("its data").uid(), 0);
    }
    // The directory alone must not be all that protects them.
    fs::set_permissions(run_dir, fs::Permissions::from_mode(0o711)).expect("another mode");
    for socket in ["api.sock", "dataplane.sock"] {
        let path = run_dir.join(socket).display().to_string();
        let program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        let output = as_nobody(&[PYTHON, "-c", program, &path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("PermissionError"), "{socket}: {text}");
    }
    let run_dir_text = run_dir.display().to_string();
    let refused = as_nobody(&[TOWPATH, "--run-dir", &run_dir_text, "get", "hosts"]);
    assert_one_error("the tool as another user", &refused, &[&run_dir_text]);
    let rings = format!("/proc/{}/fd", bed.host.dataplane_pid());
    assert!(!as_nobody(&["ls", &rings]).status.success(), "the rings' descriptors");
    bed.stop();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

fn as_nobody(arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).args(arguments);
    finish(command, "")
}
