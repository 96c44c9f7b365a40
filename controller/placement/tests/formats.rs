//! Topologies of others, documents, and what is said about malformed ones.

use placement::formats::{Defaults, document, picture, table, topology};
use placement::solve::{Goal, Limits, Load, solve};

const SNDLIB: &str = "?SNDlib native format; type: network; version: 1.0\n# a\nNODES (\n  A ( 10.0 50.0 )\n  B ( 11.0 51.0 )\n)\nLINKS (\n  L1 ( A B ) 0.00 0.00 0.00 0.00 ( 40.00 1.0 155.00 2.0 )\n)\n";
const GML: &str = "graph [\n  node [\n    id 0\n    label \"Here\"\n    Longitude 10.0\n    Latitude 50.0\n  ]\n  node [\n    id 1\n    label \"Here\"\n  ]\n  edge [\n    source 0\n    target 1\n    LinkSpeedRaw 1000000000.0\n  ]\n]\n";
const DOCUMENT: &str = "name: two\nhosts:\n  - {name: a, cores: 2}\n  - {name: b, cores: [1, 1]}\nlinks:\n  - {from: a, to: b, capacity: 10, delay_ms: 1.5, both_ways: true}\nkinds:\n  - {name: firewall, capacity: 10, on: {a: 0}}\nflows:\n  - {from: a, to: b, chain: [firewall], count: 3}\n";

#[test]
fn the_papers_topology_is_read() {
    let text = include_str!("../data/as16631.edges.lat");
    let found = topology(text, "as16631.edges.lat", &Defaults::default()).unwrap();
    assert_eq!((found.hosts.len(), found.links.len()), (22, 64));
    assert_eq!(found.links[0].delay_ns, 2_302_309);
}

// A link of SNDlib and an undirected edge of GML go both ways; names that are there twice are told apart.
#[test]
fn sndlib_and_gml_are_read() {
    let found = topology(SNDLIB, "x.txt", &Defaults::default()).unwrap();
    assert_eq!((found.hosts.len(), found.links.len(), found.links[0].capacity), (2, 2, 155));
    assert!(found.links[0].delay_ns > 500_000);
    let found = topology(GML, "x.gml", &Defaults::default()).unwrap();
    assert_eq!((found.links.len(), found.links[1].capacity, found.hosts[1].name.as_str()), (2, 1000, "Here (1)"));
}

// Without the line, an operator would look for the mistake in thousands of them.
#[test]
fn mistakes_have_file_line_and_reason() {
    let said = |text: &str, file: &str| topology(text, file, &Defaults::default()).unwrap_err().to_string();
    assert_eq!(said("A -> B 1.0\nB -> A x\n", "m.lat"), "m.lat:2: x is not a latency in milliseconds");
    assert_eq!(said(&SNDLIB.replace("( A B )", "( A C )"), "m.txt"), "m.txt:8: node C is not in the section NODES");
    assert_eq!(said(&GML.replace("target 1", "target 7"), "m.gml"), "m.gml:14: the edge's target 7 is not a node");
    assert!(said(GML.trim_end().trim_end_matches(']'), "m.gml").contains("`]` is missing"));
    let wrong = DOCUMENT.replace("chain: [firewall]", "chain: [nat]");
    assert_eq!(
        document::read(&wrong, "d.yaml", None).unwrap_err().to_string(),
        "d.yaml:10: there is no kind named nat"
    );
    let wrong = DOCUMENT.replace("capacity: 10, delay_ms", "capacity: ten, delay_ms");
    assert_eq!(document::read(&wrong, "d.yaml", None).unwrap_err().line, 6);
}

#[test]
fn a_document_is_solved_and_shown() {
    let problem = document::read(DOCUMENT, "d.yaml", None).unwrap();
    let goal = Goal { load: Load::Both, delay: true, cores: true };
    let outcome = solve(&problem, goal, Limits::default(), &mut |_| {});
    let solved = outcome.solved().unwrap();
    assert!(solved.is_proven());
    assert!(table::text(&problem, solved).contains("a > b [firewall/"), "{}", table::text(&problem, solved));
    let first = |goal: Goal| {
        let outcome = solve(&problem, goal, Limits::default(), &mut |_| {});
        table::text(&problem, outcome.solved().unwrap()).lines().next().unwrap().to_owned()
    };
    assert_eq!(first(goal), "two: U 0.3000 (at least 0.3000), MaxDelay 1.500 ms (at least 1.500), 1 core (at least 1)");
    assert!(first(Goal { cores: false, ..goal }).ends_with("ms (at least 1.500), 1 core"));
    assert!(table::json(&problem, solved).contains("\"max_delay_ms\": 1.5"));
    assert!(picture::dot(&problem, solved).starts_with("digraph"));
    assert!(picture::svg(&problem, solved).ends_with("</svg>\n"));
}
