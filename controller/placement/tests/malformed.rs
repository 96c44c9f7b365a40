//! What is wrong with a file is said with file, line and reason, whatever is wrong; and no text makes a reader panic.

use placement::formats::{self, Defaults, FormatError, Topology, document, topology};
use placement::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
use proptest::prelude::*;

const ROCKETFUEL: &str =
    "# map\n174:Paris, France -> 174:Lyon, France 2.5\n174:Lyon, France -> 174:Paris, France 2.5\n";
const SNDLIB: &str = "?SNDlib native format; type: network; version: 1.0\n\nNODES (\n  A ( 10.0 50.0 )\n  B ( 11.0 51.0 )\n)\n\nLINKS (\n  L1 ( A B ) 0.00 0.00 1.00 0.00 ( 40.00 1.0 155.00 2.0 )\n  L2 ( B A ) 5.00 0.00 1.00 0.00 ( )\n)\n";
const GML: &str = "Creator \"by hand\"\ngraph [\n  directed 0\n  node [\n    id 0\n    label \"Here\"\n    Longitude 10.0\n    Latitude 50.0\n    graphics [ x 1 label \"x\" ]\n  ]\n  node [\n    id 1\n    label \"There\"\n  ]\n  edge [\n    source 0\n    target 1\n    LinkSpeedRaw 1000000000.0\n  ]\n]\n";
const YAML: &str = "name: two\nhosts:\n  - {name: a, cores: 2}\n  - name: b\n    cores: [1, 1]\n    position: [13.4, 52.5]\nlinks:\n  - from: a\n    to: b\n    capacity: 10\n    delay_ms: 1.5\n    both_ways: true\nkinds:\n  - {name: firewall, capacity: 10}\n  - name: nat\n    capacity: 800\n    measure: packets\n    on: {b: 400}\nflows:\n  - {from: a, to: b, chain: [firewall], count: 3}\n  - from: b\n    to: a\n    chain:\n      - firewall\n      - nat\n    packets_pps: 10\n    delay_max_ms: 20\nexisting:\n  - {kind: firewall, host: a, used: 2}\n";
const JSON: &str = "{\n  \"hosts\": [\n    {\"name\": \"a\", \"cores\": 1},\n    {\"name\": \"b\", \"cores\": 1}\n  ],\n  \"links\": [\n    {\"from\": \"a\", \"to\": \"b\", \"capacity\": 1}\n  ],\n  \"kinds\": [{\"name\": \"k\", \"capacity\": 1}],\n  \"flows\": [\n    {\"from\": \"a\", \"to\": \"b\", \"chain\": [\"k\"]}\n  ]\n}\n";

fn read_topology(text: &str, file: &str) -> Result<Topology, FormatError> {
    topology(text, file, &Defaults::default())
}

/// Changes the good text and expects the error on this line with these words.
fn expect<T: std::fmt::Debug>(
    good: &str,
    file: &str,
    read: fn(&str, &str) -> Result<T, FormatError>,
    cases: &[(&str, &str, usize, &str)],
) {
    read(good, file).unwrap_or_else(|error| panic!("the good file: {error}"));
    for &(from, to, line, words) in cases {
        assert!(good.contains(from), "the good file has no {from:?}");
        let error = read(&good.replacen(from, to, 1), file).expect_err(&format!("{from:?} to {to:?}"));
        let said = error.to_string();
        assert!(said.starts_with(&format!("{file}:{line}: ")), "{from:?} to {to:?}: line {line} in: {said}");
        assert!(error.reason.contains(words), "{from:?} to {to:?}: no {words:?} in: {said}");
    }
}

// A defect that is taken in silence, or blamed on another line.
#[test]
fn defects_of_rocketfuel_maps() {
    let cases = [
        (" 2.5\n174:Lyon", " -1\n174:Lyon", 2, "-1 ms cannot be"),
        (" 2.5\n174:Lyon", " NaN\n174:Lyon", 2, "NaN ms cannot be"),
        (" 2.5\n174:Lyon", " 1e300\n174:Lyon", 2, "cannot be"),
        (" 2.5\n174:Lyon", " inf\n174:Lyon", 2, "cannot be"),
        (" 2.5\n174:Lyon", " fast\n174:Lyon", 2, "fast is not a latency"),
        ("174:Lyon, France -> 174:Paris, France 2.5", "174:Lyon, France", 3, "expected `FROM -> TO LATENCY`"),
        ("-> 174:Paris, France 2.5", "-> 174:Lyon, France 2.5", 3, "from Lyon, France to itself"),
        ("174:Lyon, France -> 174:Paris, France", "174:Paris, France -> 174:Lyon, France", 3, "twice, first on line 2"),
        ("-> 174:Lyon, France", "-> 174:", 2, "without a name"),
        (
            "# map\n174:Paris, France -> 174:Lyon, France 2.5\n174:Lyon, France -> 174:Paris, France 2.5\n",
            "",
            1,
            "no link found",
        ),
    ];
    expect(ROCKETFUEL, "map.lat", read_topology, &cases);
}

#[test]
fn defects_of_sndlib_networks() {
    let cases = [
        ("( A B )", "( A C )", 9, "node C is not in the section NODES"),
        ("( A B )", "( A A )", 9, "from A to itself"),
        ("A B ) 0.00", "A B ) -5.00", 9, "-5.00 is not a capacity"),
        ("A B ) 0.00", "A B ) nan", 9, "nan is not a capacity"),
        ("A B ) 0.00", "A B ) 1e300", 9, "1e300 is not a capacity"),
        ("155.00", "many", 9, "many is not a capacity"),
        ("155.00 2.0", "155.00", 9, "one of them is missing"),
        ("0.00 1.00 0.00 ( 40", "0.00 cheap 0.00 ( 40", 9, "cheap is not a cost"),
        ("L2 (", "L1 (", 10, "link L1 is there twice"),
        ("B ( 11.0 51.0 )", "A ( 11.0 51.0 )", 5, "node A is there twice"),
        ("B ( 11.0 51.0 )", "B ( 11.0 )", 5, "expected `NAME ( LONGITUDE LATITUDE )`"),
        ("B ( 11.0 51.0 )", "B ( east 51.0 )", 5, "east 51.0 are not two coordinates"),
        ("B ( 11.0 51.0 )", "B ( inf 51.0 )", 5, "are not two coordinates"),
        ("5.00 0.00 1.00 0.00 ( )", "5.00", 10, "expected `NAME ( SOURCE TARGET )"),
        ("( )\n)\n", "( )\n", 10, "the section LINKS does not end"),
        ("LINKS (", "NODES (", 8, "NODES is there twice"),
        ("LINKS (", "EDGES (", 8, "expected a section"),
    ];
    expect(SNDLIB, "net.txt", read_topology, &cases);
}

#[test]
fn defects_of_gml_graphs() {
    let cases = [
        ("target 1", "target 7", 17, "the edge's target 7 is not a node"),
        ("target 1", "target 0", 15, "from Here to itself"),
        ("target 1", "", 15, "an edge has no target"),
        ("target 1", "target one", 17, "target one is not a whole number"),
        ("id 1", "id 0", 12, "node 0 is there twice"),
        ("id 1", "", 11, "a node has no id"),
        ("id 1", "id 1 id 2", 12, "id is there twice, first on line 12"),
        ("Longitude 10.0", "Longitude east", 7, "Longitude east is not a number"),
        ("Longitude 10.0", "Longitude NaN", 7, "Longitude NaN is not a number"),
        ("1000000000.0", "-1", 18, "a LinkSpeedRaw of -1 cannot be"),
        ("1000000000.0", "1e300", 18, "cannot be"),
        ("1000000000.0", "inf", 18, "LinkSpeedRaw inf is not a number"),
        ("1000000000.0", "", 18, "the key LinkSpeedRaw has no value"),
        ("\"There\"", "\"There", 13, "begins with \" and does not end"),
        ("  ]\n]\n", "  ]\n", 2, "the list graph does not end"),
        ("  ]\n]\n", "  ]\n]\n]\n", 21, "`]` closes nothing"),
        ("  ]\n  edge", "  edge", 14, "a edge is inside node"),
        ("directed 0", "directed maybe", 3, "directed maybe is neither 0 nor 1"),
        ("directed 0", "0 directed", 3, "expected a key, found 0"),
        ("directed 0", "[ directed 0 ]", 3, "expected a key, found `[`"),
        ("directed 0", "\"directed\" 0", 3, "expected a key, found directed"),
        ("graph [", "node [", 2, "a node is inside nothing"),
    ];
    expect(GML, "net.gml", read_topology, &cases);
}

#[test]
fn defects_of_documents() {
    let read = |text: &str, file: &str| document::read(text, file, None);
    let cases = [
        ("chain: [firewall]", "chain: [nut]", 20, "there is no kind named nut"),
        ("      - nat", "      - nut", 25, "there is no kind named nut"),
        ("to: b\n    capacity", "to: c\n    capacity", 9, "there is no host named c"),
        ("to: b\n    capacity", "to: a\n    capacity", 8, "from a to itself"),
        ("    to: a\n", "    to: z\n", 22, "there is no host named z"),
        ("on: {b: 400}", "on: {c: 400}", 18, "there is no host named c"),
        ("name: b", "name: a", 4, "the host a is there twice, first on line 3"),
        ("name: nat", "name: firewall", 15, "the kind firewall is there twice, first on line 14"),
        ("capacity: 10\n", "capacity: 0\n", 8, "capacity 0"),
        ("capacity: 10\n", "capacity: -10\n", 10, "invalid"),
        ("capacity: 10\n", "capacity: .nan\n", 10, "invalid"),
        ("capacity: 10\n", "capacity: ten\n", 10, "invalid"),
        ("capacity: 10\n", "capacity: 2000000000000000\n", 10, "too large"),
        ("capacity: 10\n", "capacity: 99999999999999999999999\n", 10, "invalid"),
        ("    capacity: 10\n", "", 11, "missing field `capacity`"),
        ("delay_ms: 1.5", "delay_ms: -1.5", 11, "a delay of -1.5 ms cannot be"),
        ("delay_ms: 1.5", "delay_ms: .nan", 11, "a delay of NaN ms cannot be"),
        ("delay_ms: 1.5", "delay_ms: .inf", 11, "a delay of inf ms cannot be"),
        ("delay_ms: 1.5", "delay: 1.5", 11, "unknown field `delay`"),
        ("delay_ms: 1.5", "delay_ms: 1.5\n    delay_ms: 2", 12, "duplicate"),
        ("delay_max_ms: 20", "delay_max_ms: 1e30", 27, "cannot be"),
        ("position: [13.4, 52.5]", "position: [.inf, 52.5]", 6, "two finite numbers"),
        ("cores: [1, 1]", "cores: []", 4, "no NUMA node"),
        ("cores: [1, 1]", "cores: many", 5, "data did not match"),
        ("cores: [1, 1]", "cores: 4000000000", 5, "4000000000 cores on one NUMA node"),
        ("count: 3", "count: 4000000000", 20, "more than 1000000 flows"),
        ("used: 2", "used: 20", 29, "used to 20 of 10"),
        ("host: a, used: 2", "host: a, numa: 3", 29, "do not all exist"),
        ("{kind: firewall, host", "{kind: wall, host", 29, "there is no kind named wall"),
        ("name: two\n", "name: [two\n", 1, "expected string"),
        ("name: two\n", "", 1, "no hosts"),
    ];
    expect(YAML, "p.yaml", read, &cases[..cases.len() - 1]);
    expect(
        JSON,
        "p.json",
        read,
        &[
            ("\"to\": \"b\", \"capacity\"", "\"to\": \"c\", \"capacity\"", 7, "there is no host named c"),
            ("\"capacity\": 1}\n", "\"capacity\": -1}\n", 7, "invalid"),
            ("\"cores\": 1},", "\"cores\": null},", 3, ""),
            ("{\"from\": \"a\", \"to\": \"b\", \"chain\"", "{\"to\": \"b\", \"chain\"", 11, "missing field `from`"),
        ],
    );
    for (text, line) in [("", 1), ("name: x\n", 1), ("[]", 1), ("\u{0}", 1), ("hosts: *nowhere\n", 1)] {
        let error = read(text, "p.yaml").expect_err(text);
        assert_eq!(error.line, line, "{error}");
    }
}

// A file that was cut off somewhere must not pass as a whole one that says less, nor be blamed on a line that it does not have.
#[test]
fn truncated_files_are_refused() {
    for end in 0..YAML.len() - 80 {
        if let Err(error) = document::read(&YAML[..end], "p.yaml", None) {
            assert!(error.line <= YAML[..end].lines().count().max(1), "{error}");
        }
    }
    for end in 1..JSON.trim_end().len() {
        assert!(document::read(&JSON[..end], "p.json", None).is_err(), "{}", &JSON[..end]);
    }
    for (good, file) in [(SNDLIB, "net.txt"), (GML, "net.gml")] {
        for end in 1..good.trim_end().len() {
            assert!(read_topology(&good[..end], file).is_err(), "{}", &good[..end]);
        }
    }
}

// Another encoding is the commonest defect of foreign files: it must say where, not only that.
#[test]
fn what_is_not_utf_8_has_a_line() {
    let error = formats::text(b"A -> B 1\nM\xfcnchen -> B 1\n", "m.lat").unwrap_err();
    assert_eq!(error.line, 2);
    assert!(error.reason.contains("0xfc") && error.reason.contains("iconv"), "{error}");
    assert_eq!(formats::text(b"\xef\xbb\xbfname: x\n", "p.yaml").unwrap(), "name: x\n");
    assert_eq!(formats::text(b"ab\xc3", "p.yaml").unwrap_err().line, 1);
}

/// Everything that reads, over one text; each error's line must be in the text.
fn read_all(text: &str) -> Result<(), TestCaseError> {
    let lines = text.lines().count().max(1);
    let names = ["x.lat", "x.txt", "x.gml"];
    let errors = names.iter().filter_map(|file| read_topology(text, file).err());
    for error in errors.chain(document::read(text, "x.yaml", None).err()) {
        prop_assert!((1..=lines).contains(&error.line), "{error} of {lines} lines in {text:?}");
        prop_assert!(!error.reason.is_empty());
    }
    Ok(())
}

/// A good text with some bytes changed, taken out, repeated or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let good = prop::sample::select(vec![ROCKETFUEL, SNDLIB, GML, YAML, JSON]);
    let word = prop::sample::select(vec![
        "",
        "(",
        ")",
        "[",
        "]",
        "\"",
        "{",
        "}",
        ":",
        "-",
        "->",
        "\n",
        "#",
        " ",
        "1e999",
        "-1",
        "nan",
        "18446744073709551616",
        "&a",
        "*a",
        "\u{0}",
        "ü",
    ]);
    (good, prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, word), 1..5)).prop_map(
        |(good, changes)| {
            let mut bytes = good.as_bytes().to_vec();
            for (at, length, word) in changes {
                let from = at.index(bytes.len() + 1);
                let to = (from + length).min(bytes.len());
                bytes.splice(from..to, word.bytes());
            }
            bytes
        },
    )
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,3}",
        "[ -~äß\"':#]{1,8}",
        Just("null".to_owned()),
        Just("1e3".to_owned()),
        Just("yes".to_owned())
    ]
}

/// Any problem; its names are made different by their numbers.
fn problem() -> impl Strategy<Value = Problem> {
    let host = (name(), prop::collection::vec(0_u32..9, 1..3), prop::option::of((-180.0_f64..180.0, -90.0_f64..90.0)));
    let hosts = prop::collection::vec(host, 2..5);
    let link = (0_usize..99, 1_usize..99, 1_u64..1 << 40, 0_u64..1 << 40, 0_u64..1 << 40);
    let kind = (name(), any::<bool>(), prop::collection::vec(0_u64..1 << 30, 4), 1_u32..4, prop::option::of(1_u32..9));
    let flow = (
        name(),
        0_usize..99,
        0_usize..99,
        prop::collection::vec(0_usize..99, 0..4),
        0_u64..1 << 30,
        prop::option::of(0_u64..1 << 49),
    );
    let existing = prop::option::of((0_usize..99, 0_usize..99, 0_u64..99));
    (
        name(),
        hosts,
        prop::collection::vec(link, 0..6),
        prop::collection::vec(kind, 1..4),
        prop::collection::vec(flow, 0..5),
        existing,
    )
        .prop_filter_map("a problem", |(name, hosts, links, kinds, flows, existing)| {
            let count = hosts.len();
            let host = |(number, (name, cores, position))| Host { name: format!("{name}{number}"), cores, position };
            let hosts: Vec<Host> = hosts.into_iter().enumerate().map(host).collect();
            let link = |(from, step, capacity, used, delay_ns): (usize, usize, u64, u64, u64)| Link {
                from: from % count,
                to: (from + 1 + step % (count - 1)) % count,
                capacity,
                used: used % capacity,
                delay_ns,
            };
            let links = links.into_iter().map(link).collect();
            let kinds: Vec<Kind> = kinds
                .into_iter()
                .enumerate()
                .map(|(number, (name, packets, mut capacity, cores, max))| {
                    capacity.truncate(count);
                    let measure = if packets { Measure::Packets } else { Measure::Flows };
                    let per_host_max = max.unwrap_or(u32::MAX);
                    Kind { name: format!("{name}{number}"), measure, capacity, cores, per_host_max }
                })
                .collect();
            let flow =
                |(name, from, to, chain, amount, delay): (String, usize, usize, Vec<usize>, u64, Option<u64>)| Flow {
                    name,
                    from: from % count,
                    to: to % count,
                    chain: chain.into_iter().map(|kind| kind % kinds.len()).collect(),
                    bandwidth: amount,
                    packets_pps: amount / 2,
                    delay_max_ns: delay.unwrap_or(NO_DELAY_BOUND_NS),
                };
            let flows = flows.into_iter().map(flow).collect();
            let at = existing.map(|(kind, host, used)| (kind % kinds.len(), host % count, used));
            let existing = at.map(|(kind, host, used)| Existing {
                kind,
                host,
                numa: 0,
                used: used.min(kinds[kind].capacity[host]),
                may_move: used == 0,
            });
            let existing = existing.into_iter().collect();
            Problem::new(Parts { name, hosts, links, kinds, flows, existing }).ok()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    // An index, a slice or a subtraction that trusts the text.
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match formats::text(&bytes, "x") {
            Ok(text) => read_all(text)?,
            Err(error) => prop_assert!(error.line >= 1),
        }
        read_all(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn mutated_documents_never_panic(bytes in mutated()) {
        read_all(&String::from_utf8_lossy(&bytes))?;
    }

    // A field left out, a float that loses a nanosecond, a name that YAML takes for a number.
    #[test]
    fn what_is_written_is_read_back(problem in problem()) {
        for text in [document::yaml(&problem), document::json(&problem)] {
            let back = document::read(&text, "back", None);
            prop_assert_eq!(back.as_ref().map_err(|error| format!("{error}\n{text}")), Ok(&problem));
        }
    }
}
