//! `towpath place` as an operator meets it: long work that is interrupted, mistakes, every form of output. Needs no DPDK and no root.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const TOWPATH: &str = env!("CARGO_BIN_EXE_towpath");

const SMALL: &str = "name: two hosts\nhosts:\n  - {name: a, cores: 2}\n  - {name: b, cores: [1, 1]}\nlinks:\n  - {from: a, to: b, capacity: 10, delay_ms: 1.5, both_ways: true}\nkinds:\n  - {name: firewall, capacity: 10, on: {a: 0}}\nflows:\n  - {from: a, to: b, chain: [firewall], count: 3}\n";

/// Many unequal flows over mixed chains on a ring with chords: solved soon, proven never.
fn large() -> String {
    let mut text = "hosts:\n".to_owned();
    for host in 0..24 {
        let _ = writeln!(text, "  - {{name: h{host}, cores: 3}}");
    }
    text += "links:\n";
    for host in 0..24 {
        for (step, delay_ms) in [(1, 1.25), (5, 3.5), (11, 7.75)] {
            let (to, delay_ms) = ((host + step) % 24, delay_ms + f64::from(host) / 8.0);
            let _ = writeln!(
                text,
                "  - {{from: h{host}, to: h{to}, capacity: 400, delay_ms: {delay_ms}, both_ways: true}}"
            );
        }
    }
    text += "kinds:\n";
    for kind in 0..6 {
        let _ = writeln!(text, "  - {{name: k{kind}, capacity: {}, measure: packets}}", 900 + 70 * kind);
    }
    text += "flows:\n";
    for flow in 0_u32..150 {
        let (from, to) = (flow * 7 % 24, (flow * 7 + 1 + flow * 11 % 23) % 24);
        let (first, second, third) = (flow % 6, (flow / 6 + 1) % 6, (flow / 3 + 2) % 6);
        let (bandwidth, packets) = (1 + flow * 13 % 17, 20 + flow * 29 % 61);
        let _ = writeln!(
            text,
            "  - {{from: h{from}, to: h{to}, chain: [k{first}, k{second}, k{third}], bandwidth: {bandwidth}, packets_pps: {packets}}}"
        );
    }
    text
}

fn place(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(TOWPATH);
    command.current_dir(directory).arg("place").args(arguments);
    command.stdin(Stdio::null()).output().expect("towpath runs")
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn directory_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("a file");
    }
    directory
}

/// Breaks if Ctrl-C loses the best placement, is not said, or takes until the time limit.
#[test]
fn ctrl_c_keeps_the_best_placement() {
    let directory = directory_with(&[("large.yaml", &large())]);
    let mut command = Command::new(TOWPATH);
    command.current_dir(directory.path()).args([
        "place",
        "large.yaml",
        "--cores",
        "--time-limit",
        "100000",
        "-o",
        "json",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("towpath runs");
    let mut told = BufReader::new(child.stderr.take().expect("standard error"));
    let mut stdout = child.stdout.take().expect("standard output");
    // Read while it is written, so that a full pipe does not hold it up.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text).expect("text")
    });
    let mut lines = String::new();
    while !lines.contains(": have ") {
        assert_ne!(told.read_line(&mut lines).expect("text"), 0, "it ended without a placement: {lines}");
    }
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).expect("it lives");
    told.read_to_string(&mut lines).expect("text");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{lines}");
    assert!(lines.contains("interrupted after") && lines.contains("best placement so far"), "{lines}");
    let solution: Value = serde_json::from_str(&reader.join().expect("the reader")).expect("JSON");
    assert_eq!(solution["is_proven"], false);
    assert_eq!(solution["flows"].as_array().map(Vec::len), Some(150));
    assert!(solution["u"].as_f64() >= solution["u_bound"].as_f64(), "{}", solution["u"]);
}

/// Breaks if a form is not what its reader expects.
#[test]
fn every_form_of_output_is_written() {
    let directory = directory_with(&[("small.yaml", SMALL)]);
    let place = |arguments: &[&str]| {
        let output = place(directory.path(), &[&["small.yaml"], arguments].concat());
        let (text, told) = said(&output);
        assert!(output.status.success(), "{arguments:?}: {told}");
        (text, told)
    };
    let (table, told) = place(&[]);
    assert!(table.contains("\nproven optimal\n") && table.contains("a > b [firewall/"), "{table}");
    assert!(told.contains("load: ") && told.contains("proven"), "{told}");
    let (json, told) = place(&["-o", "json", "--quiet"]);
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON")["is_proven"], true);
    assert_eq!(told, "");
    assert!(place(&["-o", "dot", "-q"]).0.starts_with("digraph"));
    assert!(place(&["-o", "svg", "-q", "--svg", "picture.svg"]).0.ends_with("</svg>\n"));
    assert!(fs::read_to_string(directory.path().join("picture.svg")).expect("a picture").starts_with("<svg"));
}

/// Breaks if the problem that is saved is another, or if standard input is not read.
#[test]
fn a_saved_problem_is_the_same_problem() {
    let demands = "kinds:\n  - {name: k, capacity: 9}\nflows:\n  - {from: A, to: B, chain: [k], count: 4}\n";
    let directory = directory_with(&[("demands.yaml", demands), ("map.lat", "A -> B 1.5\nB -> A 1.5\n")]);
    let topology = ["demands.yaml", "--topology", "map.lat", "--save-problem", "whole.yaml", "-q"];
    let first = place(directory.path(), &topology);
    assert!(first.status.success(), "{}", said(&first).1);
    let whole = fs::read_to_string(directory.path().join("whole.yaml")).expect("the problem");
    let mut command = Command::new(TOWPATH);
    command.args(["place", "-", "-q"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut again = command.spawn().expect("towpath runs");
    again.stdin.take().expect("standard input").write_all(whole.as_bytes()).expect("it reads");
    let again = again.wait_with_output().expect("it ends");
    assert_eq!(said(&again).0, said(&first).0);
}

/// Breaks if a mistake ends with a panic, several lines, no remedy, or a status that a script can't use.
#[test]
fn each_mistake_gives_one_line_and_a_status() {
    let unreachable = SMALL.replace(", both_ways: true", "").replace("from: a, to: b, chain", "from: b, to: a, chain");
    let negative = SMALL.replace("capacity: 10, delay", "capacity: -10, delay");
    let slow = SMALL.replace("count: 3", "delay_max_ms: 1");
    let directory = directory_with(&[
        ("small.yaml", SMALL),
        ("unreachable.yaml", &unreachable),
        ("negative.yaml", &negative),
        ("slow.yaml", &slow),
        ("demands.yaml", "kinds: []\n"),
        ("map.lat", "A -> B fast\n"),
        ("cut.gml", "graph [ node [ id 0 "),
    ]);
    fs::write(directory.path().join("latin1.yaml"), b"name: x\nhosts:\n  - {name: M\xfcnchen, cores: 1}\n")
        .expect("a file");
    let cases: [(&[&str], i32, &[&str]); 14] = [
        (&["nothing.yaml"], 2, &["cannot read nothing.yaml"]),
        (&["."], 2, &["cannot read .", "directory"]),
        (&["negative.yaml"], 2, &["negative.yaml:6: "]),
        (&["latin1.yaml"], 2, &["latin1.yaml:3: ", "0xfc", "iconv"]),
        (&["demands.yaml"], 2, &["demands.yaml:1: no hosts", "topology"]),
        (&["small.yaml", "--topology", "map.lat"], 2, &["map.lat:1: fast is not a latency"]),
        (&["small.yaml", "--topology", "cut.gml"], 2, &["cut.gml:1: the list node does not end"]),
        (&["small.yaml", "--time-limit", "nan"], 2, &["--time-limit"]),
        (&["small.yaml", "--time-limit", "-1"], 2, &["--time-limit"]),
        (&["small.yaml", "--link-capacity", "0"], 2, &["--link-capacity"]),
        (&["small.yaml", "--svg", "/nonexistent/x.svg"], 1, &["cannot write /nonexistent/x.svg"]),
        (&["unreachable.yaml", "-q"], 1, &["there is no placement", "flow f1 (b to a)", "links"]),
        (&["slow.yaml", "-q"], 1, &["there is no placement", "delay", "1.500 ms"]),
        (&["small.yaml", "--time-limit", "0", "-q"], 1, &["no placement found", "allow more time"]),
    ];
    for (arguments, status, words) in cases {
        let output = place(directory.path(), arguments);
        let (text, told) = said(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {told}");
        assert_eq!(text, "", "{arguments:?}");
        let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{arguments:?}: {told}");
        for word in words {
            assert!(errors[0].contains(word), "{arguments:?}: no {word:?} in {told}");
        }
        assert!(!told.contains("panicked"), "{told}");
    }
}
