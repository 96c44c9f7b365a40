//! Problems that have no solution, and files that are none: what is said about them.

use std::time::Duration;

use placement::formats::{self, Defaults, FormatError, document, topology};
use placement::problem::{Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
use placement::solve::{Forbidden, Goal, Limits, Load, Outcome, solve};

use super::report::Criterion;
use super::{Bench, Stopped};

/// Two hosts with a link each way, one kind, two flows.
fn parts() -> Parts {
    let host = |name: &str| Host { name: name.to_owned(), cores: vec![1], position: None };
    let link = |from, to| Link { from, to, capacity: 2, used: 0, delay_ns: 1_000 };
    let kind = Kind { name: "k".to_owned(), measure: Measure::Flows, capacity: vec![2, 2], cores: 1, per_host_max: 1 };
    let flow = Flow {
        name: "f".to_owned(),
        from: 0,
        to: 1,
        chain: vec![0],
        bandwidth: 1,
        packets_pps: 0,
        delay_max_ns: NO_DELAY_BOUND_NS,
    };
    Parts {
        name: "refused".to_owned(),
        hosts: vec![host("a"), host("b")],
        links: vec![link(0, 1), link(1, 0)],
        kinds: vec![kind],
        flows: vec![flow.clone(), flow],
        existing: Vec::new(),
    }
}

/// A change that takes a resource away, its name, and what must be said.
type Case = (&'static str, fn(&mut Parts), fn(&Forbidden) -> bool);

const CASES: [Case; 7] = [
    ("no way", |parts| parts.links.truncate(0), |why| matches!(why, Forbidden::Unreachable { .. })),
    (
        "a flow too large",
        |parts| parts.kinds[0].capacity = vec![0, 0],
        |why| matches!(why, Forbidden::FlowTooLarge { .. }),
    ),
    (
        "one kind too many flows",
        |parts| parts.kinds[0].capacity = vec![1, 0],
        |why| matches!(why, Forbidden::Cores { .. }),
    ),
    (
        "too few cores",
        |parts| parts.hosts.iter_mut().for_each(|host| host.cores = vec![0]),
        |why| matches!(why, Forbidden::Cores { .. }),
    ),
    (
        "links too narrow",
        |parts| parts.links.iter_mut().for_each(|link| link.capacity = 1),
        |why| matches!(why, Forbidden::Links { .. } | Forbidden::HostLinks { .. }),
    ),
    (
        "a delay too short",
        |parts| parts.flows[1].delay_max_ns = 999,
        |why| matches!(why, Forbidden::Delay { flow: 1, .. }),
    ),
    (
        "cores on the wrong side of a link",
        |parts| {
            parts.kinds[0].capacity = vec![0, 2];
            parts.flows.iter_mut().for_each(|flow| flow.to = 0);
            parts.links.iter_mut().for_each(|link| link.capacity = 1);
        },
        |why| matches!(why, Forbidden::Together | Forbidden::Links { .. }),
    ),
];

/// Whether each says which resource forbids it.
pub fn infeasible(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let mut named = 0;
    for (name, take_away, is_named) in CASES {
        let mut parts = parts();
        take_away(&mut parts);
        let problem = Problem::new(parts).unwrap_or_else(|error| panic!("{name} is no problem: {error}"));
        let goal = Goal { load: Load::Both, delay: true, cores: false };
        let limits = Limits { time: Duration::from_secs(5), ..Limits::default() };
        let (outcome, _) = bench.timed(|| solve(&problem, goal, limits, &mut |_| {}));
        let said = match &outcome {
            Outcome::Infeasible(why) => {
                named += usize::from(is_named(why));
                why.to_string()
            }
            other => format!("{other:?}"),
        };
        bench.case(CASES.len(), &format!("{name}: {said}"))?;
    }
    let all = CASES.len();
    Ok(vec![Criterion::at_least("name the resource", named as f64, all as f64, format!("of {all}"))])
}

const SNDLIB: &str =
    "NODES (\n  A ( 10.0 50.0 )\n  B ( 11.0 51.0 )\n)\nLINKS (\n  L ( A B ) 5.0 0.0 0.0 0.0 ( 40.0 1.0 )\n)\n";
const GML: &str =
    "graph [\n  node [ id 0 label \"a\" ]\n  node [ id 1 label \"b\" ]\n  edge [\n    source 0\n    target 1\n  ]\n]\n";
const YAML: &str = "hosts:\n  - {name: a, cores: 1}\n  - {name: b, cores: 1}\nlinks:\n  - {from: a, to: b, capacity: 1, delay_ms: 1}\nkinds:\n  - {name: k, capacity: 1}\nflows:\n  - {from: a, to: b, chain: [k]}\n";
const JSON: &str = "{\"hosts\": [{\"name\": \"a\", \"cores\": 1}],\n\"links\": [],\n\"kinds\": [],\n\"flows\": []}\n";
const ROCKETFUEL: &str = "A -> B 1.0\nB -> A 1.0\n";

/// A good file, what is replaced in it by what, and the line to be named.
const FILES: [(&str, &str, &str, &str, usize); 16] = [
    ("m.lat", ROCKETFUEL, "B -> A 1.0", "B -> A x", 2),
    ("m.lat", ROCKETFUEL, "B -> A 1.0", "B -> A -1", 2),
    ("m.lat", ROCKETFUEL, "B -> A 1.0", "B -> B 1", 2),
    ("m.lat", ROCKETFUEL, "B -> A 1.0", "B -> ", 2),
    ("n.txt", SNDLIB, "( A B )", "( A C )", 6),
    ("n.txt", SNDLIB, "5.0 0.0", "nan 0.0", 6),
    ("n.txt", SNDLIB, "B ( 11", "A ( 11", 3),
    ("n.txt", SNDLIB, "40.0 1.0 )\n)\n", "40.0 1.0 )\n", 6),
    ("g.gml", GML, "target 1", "target 9", 6),
    ("g.gml", GML, "id 1", "id 0", 3),
    ("g.gml", GML, "\"b\" ]", "\"b ]", 3),
    ("p.yaml", YAML, "chain: [k]", "chain: [x]", 9),
    ("p.yaml", YAML, "capacity: 1, delay", "capacity: -1, delay", 5),
    ("p.yaml", YAML, "delay_ms: 1", "delay_ms: .nan", 5),
    ("p.json", JSON, "\"kinds\": []", "\"kinds\": 7", 3),
    ("p.json", JSON, "]}\n", "]\n", 1),
];

fn read(file: &str, bytes: &[u8]) -> Result<(), FormatError> {
    let text = formats::text(bytes, file)?;
    match file.ends_with("yaml") || file.ends_with("json") {
        true => document::read(text, file, None).map(|_| ()),
        false => topology(text, file, &Defaults::default()).map(|_| ()),
    }
}

/// Whether each is refused with its file, its line and a reason.
pub fn malformed(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let mut named = 0;
    let all = FILES.len() + 1;
    let latin_1: (&str, Vec<u8>, usize) = ("m.lat", b"A -> B 1\nM\xfcnchen -> B 1\n".to_vec(), 2);
    let changed = FILES.map(|(file, good, from, to, line)| (file, good.replacen(from, to, 1).into_bytes(), line));
    for (file, bytes, line) in changed.into_iter().chain([latin_1]) {
        let said = match read(file, &bytes) {
            Ok(()) => format!("{file} was taken"),
            Err(error) => {
                named += usize::from((error.file.as_str(), error.line) == (file, line) && !error.reason.is_empty());
                error.to_string()
            }
        };
        bench.case(all, &said)?;
    }
    Ok(vec![Criterion::at_least("file, line and reason", named as f64, all as f64, format!("of {all}"))])
}
