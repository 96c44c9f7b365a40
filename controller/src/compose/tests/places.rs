//! Where new instances go that name no CPU: on machines of any shape.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::inventory::{Cpu, Inventory, Node, PortPlace};

/// A machine: nodes of so many cores of so many threads; the threads of a core are numbered as Linux does, second threads behind all
/// first ones.
#[derive(Debug, Clone)]
struct Machine {
    nodes: u16,
    cores_per_node: u16,
    threads: u16,
    offline: BTreeSet<u16>,
    /// By port.
    ports: BTreeMap<&'static str, Option<u16>>,
    speed_mbps: Option<u64>,
}

impl Machine {
    fn new(nodes: u16, cores_per_node: u16, threads: u16) -> Self {
        Self { nodes, cores_per_node, threads, offline: BTreeSet::new(), ports: BTreeMap::new(), speed_mbps: None }
    }

    fn port(mut self, name: &'static str, node: Option<u16>) -> Self {
        self.ports.insert(name, node);
        self
    }

    fn cores(&self) -> u16 {
        self.nodes * self.cores_per_node
    }

    fn node(&self, cpu: u16) -> u16 {
        cpu % self.cores() / self.cores_per_node
    }

    fn inventory(&self) -> Inventory {
        let cpu = |cpu: u16| Cpu {
            cpu,
            node: Some(self.node(cpu)),
            siblings: (0..self.threads).map(|thread| cpu % self.cores() + thread * self.cores()).collect(),
            online: !self.offline.contains(&cpu),
            isolated: false,
        };
        let node = |node| Node { node, memory_mib: 1, hugepages_mib: 1 };
        let port = |(name, node): (&&str, &Option<u16>)| PortPlace {
            port: (*name).to_owned(),
            device: String::new(),
            node: *node,
            speed_mbps: self.speed_mbps,
        };
        Inventory {
            cpus: (0..self.cores() * self.threads).map(cpu).collect(),
            nodes: (0..self.nodes).map(node).collect(),
            ports: self.ports.iter().map(port).collect(),
        }
    }
}

fn known(machines: &[&Machine]) -> Known {
    let inventory = |(index, machine): (usize, &&Machine)| (format!("h{index}"), Arc::new(machine.inventory()));
    Known {
        inventories: machines.iter().enumerate().map(inventory).collect(),
        measured_pps: BTreeMap::new(),
        may_move: false,
        solve_within: Duration::from_millis(20),
    }
}

/// Hosts `h0`, `h1`, … with ports `left` and `right` and these CPUs for I/O and instances.
fn hosts(cpus: &[&str]) -> String {
    let mut text = "version: 1\nhosts:\n".to_owned();
    for (index, cpus) in cpus.iter().enumerate() {
        text += &format!(
            "  h{index}:\n    cpus: {{{cpus}}}\n    spare_lcores: 40\n    underlay: {{device: net_null0, address: \
             192.0.2.{}/24, mtu: 1600}}\n    ports: {{left: {{device: net_null1}}, right: {{device: net_null2}}}}\n",
            index + 1
        );
    }
    text
}

/// A tenant whose clients are at one port and whose servers are at another, with tags for as many paths as the tests need.
fn tenant(from: (usize, &str), to: (usize, &str), functions: &str) -> String {
    let end = |(host, port): (usize, &str), net: u8| {
        format!("{{host: h{host}, port: {port}, prefixes: [10.{net}.0.0/24], gateways: [10.{net}.0.1]}}")
    };
    let (clients, servers) = (end(from, 1), end(to, 2));
    format!(
        "tenants:\n  t:\n    vni: [7, 1000-1009]\n    endpoints:\n      a: {clients}\n      b: {servers}\n{functions}"
    )
}

fn placed(text: &str, before: &State, known: &Known) -> Result<(Config, Composition), String> {
    let config = config::parse("f.yaml", text).map_err(|errors| errors.to_string())?;
    let made = compose_on(&config, before, known, None).map_err(|errors| errors.to_string())?;
    check::verify(&config, &made).map_err(|wrong| wrong.join("\n"))?;
    // The others know nothing of the machines and come to the same.
    let again = compose(&config, &made.state, None).map_err(|errors| errors.to_string())?;
    assert!(again == made, "a composition of its own state is the same");
    Ok((config, made))
}

fn spots(made: &Composition) -> Vec<(&str, usize, u16)> {
    made.instances.iter().map(|found| (found.name.as_str(), found.host, found.cpu)).collect()
}

const ONE_TAP: &str = "    nfs: {tap: {function: passthrough}}\n    instances: [{nf: tap}]\n    chains: {all: {from: a, to: b, \
                       through: [tap]}}\n";

/// Breaks if an instance goes to the lowest CPU instead of one on the port's socket, or if the plan does not say why.
#[test]
fn an_instance_is_on_the_socket_of_its_ports() {
    let machine = Machine::new(2, 4, 1).port("left", Some(1)).port("right", Some(1));
    let text = hosts(&["io: 4, nf: \"1-3,5-7\""]) + &tenant((0, "left"), (0, "right"), ONE_TAP);
    let (_, made) = placed(&text, &State::default(), &known(&[&machine])).unwrap();
    assert_eq!(spots(&made), [("t/tap/1", 0, 5)]);
    assert_eq!(made.instances[0].why, ["NUMA node 1: ports left, right there"]);
    // A virtual device is nowhere: then the CPU that polls it counts.
    let machine = Machine::new(2, 4, 1).port("left", None).port("right", None);
    let (_, made) = placed(&text, &State::default(), &known(&[&machine])).unwrap();
    assert_eq!(spots(&made), [("t/tap/1", 0, 5)]);
    // Without an inventory it is the lowest.
    let (_, made) = placed(&text, &State::default(), &Known::default()).unwrap();
    assert_eq!(spots(&made), [("t/tap/1", 0, 1)]);
    assert_eq!(made.instances[0].why, ["NUMA nodes of host h0 are not known"]);
}

/// Breaks if the second thread of a core in use is taken while a whole core is free on the same node, or a whole core on the far
/// node before a thread on the near one.
#[test]
fn a_core_to_itself_before_a_second_thread_but_the_node_before_both() {
    let machine = Machine::new(2, 2, 2).port("left", Some(0)).port("right", Some(0));
    // CPUs 0, 1 and their second threads 4, 5 are on node 0; I/O has 0.
    let text = hosts(&["io: 0, nf: \"1-7\""]) + &tenant((0, "left"), (0, "right"), ONE_TAP);
    let text = text.replace("[{nf: tap}]", "[{nf: tap, count: 4}]");
    let (_, made) = placed(&text, &State::default(), &known(&[&machine])).unwrap();
    let cpus: Vec<u16> = made.instances.iter().map(|found| found.cpu).collect();
    assert_eq!(cpus, [1, 4, 5, 2]);
    assert_eq!(made.instances[0].why[1], "CPU 1: its physical core to itself");
    assert_eq!(made.instances[1].why[1], "CPU 4: its physical core is shared, no other is free");
    assert_eq!(made.instances[3].why[0], "NUMA node 1: no free CPU on node 0, where ports left, right is");
}

/// Breaks if a CPU that does not run is given away, or may be named.
#[test]
fn an_offline_cpu_is_not_used() {
    let mut machine = Machine::new(1, 4, 1);
    machine.offline.insert(1);
    let text = hosts(&["io: 0, nf: \"1-2\""]) + &tenant((0, "left"), (0, "right"), ONE_TAP);
    let (_, made) = placed(&text, &State::default(), &known(&[&machine])).unwrap();
    assert_eq!(spots(&made), [("t/tap/1", 0, 2)]);
    let two = text.replace("[{nf: tap}]", "[{nf: tap, count: 2}]");
    let error = placed(&two, &State::default(), &known(&[&machine])).unwrap_err();
    assert!(error.contains("chain `all` needs 2 cores for `tap`, but finds no CPU for 1"), "{error}");
    let named = text.replace("{nf: tap}", "{nf: tap, host: h0, cpu: 1}");
    let error = placed(&named, &State::default(), &known(&[&machine])).unwrap_err();
    assert!(error.contains("CPU 1 of host `h0`, which t/tap/1 needs, is not there or offline"), "{error}");
}

/// Breaks if what may move stays on a far node, if the old one's flows lose it, or if it moves for nothing, or a mangler moves.
#[test]
fn what_may_move_is_replaced_only_where_that_is_better() {
    let machine = Machine::new(2, 3, 1).port("left", Some(1)).port("right", Some(1));
    let text = hosts(&["io: 3, nf: \"1-2,4-5\""]) + &tenant((0, "left"), (0, "right"), ONE_TAP);
    let (_, before) = placed(&text, &State::default(), &Known::default()).unwrap();
    assert_eq!(spots(&before), [("t/tap/1", 0, 1)]);
    let free = Known { may_move: true, ..known(&[&machine]) };
    let (_, kept) = placed(&text, &before.state, &known(&[&machine])).unwrap();
    assert_eq!(spots(&kept), spots(&before));
    let (_, moved) = placed(&text, &before.state, &free).unwrap();
    assert_eq!(spots(&moved), [("t/tap/1", 0, 4), ("t/tap/1 (retired)", 0, 1)]);
    assert_eq!(moved.instances[0].why, ["moved from host h0, CPU 1", "NUMA node 1: ports left, right there"]);
    let (_, again) = placed(&text, &moved.state, &free).unwrap();
    assert!(again == moved, "it is where it should be");
    let mangler = text.replace("passthrough", "mangler, config: {pool: [10.9.0.1]}");
    let (_, before) = placed(&mangler, &State::default(), &Known::default()).unwrap();
    assert_eq!(spots(&placed(&mangler, &before.state, &free).unwrap().1), spots(&before), "two would have one pool");
    // To another host, when its chain's ends are there now.
    let two = hosts(&["io: 0, nf: \"1-2\"", "io: 0, nf: \"1-2\""]);
    let near = |host| two.clone() + &tenant((host, "left"), (host, "right"), ONE_TAP);
    let (_, before) = placed(&near(0), &State::default(), &Known::default()).unwrap();
    let free = Known { may_move: true, ..Known::default() };
    let (_, moved) = placed(&near(1), &before.state, &free).unwrap();
    assert_eq!(spots(&moved), [("t/tap/1", 1, 1), ("t/tap/1 (retired)", 0, 1)]);
}

/// Breaks if a kernel that shows nothing (a container without /sys) forbids every CPU.
#[test]
fn a_machine_that_shows_nothing_is_not_known() {
    let text = hosts(&["io: 0, nf: \"1-2\""]) + &tenant((0, "left"), (0, "right"), ONE_TAP);
    let mut known = Known::default();
    known.inventories.insert("h0".into(), Arc::default());
    assert_eq!(spots(&placed(&text, &State::default(), &known).unwrap().1), [("t/tap/1", 0, 1)]);
}

/// A chain a > p > q > b between two hosts of one free core each: p at h1 and q at h0 would cross three times.
const CROSSED: &str = "    nfs: {p: {function: passthrough}, q: {function: passthrough}}\n    instances: [{nf: q}, {nf: p}]\n    \
                       chains: {all: {from: a, to: b, through: [p, q]}}\n";

/// Breaks if functions go nearest one by one, and a chain crosses the underlay to and fro.
#[test]
fn a_chain_crosses_the_underlay_once() {
    let text = hosts(&["io: 0, nf: 1", "io: 0, nf: 1"]) + &tenant((0, "left"), (1, "left"), CROSSED);
    for known in [Known::default(), known(&[&Machine::new(1, 2, 1), &Machine::new(1, 2, 1)])] {
        let (_, made) = placed(&text, &State::default(), &known).unwrap();
        assert_eq!(spots(&made), [("t/q/1", 1, 1), ("t/p/1", 0, 1)]);
        let why = &made.instances[1].why;
        assert_eq!(why[0], "host h0: 1 of 2 ends of its chains are there");
        assert!(why[1].starts_with("no free CPU on host h1, where 1 are"), "{why:?}");
    }
}

/// Breaks if declared traffic is put where a link can't carry it although it fits elsewhere, or if what fits nowhere is placed.
#[test]
fn declared_traffic_fits_or_is_refused_with_the_resource() {
    let chains = |mbps: u64, more: &str| {
        let demand = format!("demand: {{bandwidth_mbps: {mbps}{more}}}, through: [p, q]");
        CROSSED.replace("through: [p, q]", &demand)
    };
    let text = |mbps, more| {
        let ends = tenant((0, "left"), (1, "left"), &chains(mbps, more));
        hosts(&["io: 0, nf: \"1-2\"", "io: 0, nf: \"1-2\""]) + &ends
    };
    let mut machine = Machine::new(1, 3, 1).port("underlay", None);
    machine.speed_mbps = Some(1_000);
    let known = known(&[&machine, &machine]);
    let (_, made) = placed(&text(900, ""), &State::default(), &known).unwrap();
    let at: BTreeMap<&str, usize> = spots(&made).into_iter().map(|(name, host, _)| (name, host)).collect();
    assert!(at["t/p/1"] <= at["t/q/1"], "it crosses once: {at:?}");
    let error = placed(&text(1_100, ""), &State::default(), &known).unwrap_err();
    assert!(error.contains("tenants.t.chains.all: the underlay of host `h0` would carry 1100 Mbit/s"), "{error}");
    assert!(error.contains("and has 1000; even without functions the underlay's links are too small"), "{error}");
    let error = placed(&text(1, ", delay_max_us: 19"), &State::default(), &known).unwrap_err();
    assert!(error.contains("takes 20 µs, and `delay_max_us` allows 19; even without functions its ends"), "{error}");
    let declared = text(1_100, "").replace("mtu: 1600", "mtu: 1600, bandwidth_mbps: 2000");
    placed(&declared, &State::default(), &known).unwrap();
}

/// Breaks if what instances were measured to carry makes no difference, or if the plan does not say whose word counts.
#[test]
fn an_instance_goes_where_it_was_measured_to_carry_its_load() {
    let demand = "demand: {packets_pps: 1000000}, through: [tap]";
    let ends = tenant((0, "left"), (1, "left"), &ONE_TAP.replace("through: [tap]", demand));
    let text = hosts(&["io: 0, nf: 1", "io: 0, nf: 1"]) + &ends;
    let mut known = Known::default();
    let of = |host: &str| (host.to_owned(), "t/tap".to_owned());
    known.measured_pps = [(of("h0"), 500_000), (of("h1"), 3_000_000)].into();
    let (_, made) = placed(&text, &State::default(), &known).unwrap();
    assert_eq!(spots(&made), [("t/tap/1", 1, 1)]);
    let why = &made.instances[0].why;
    assert!(why.contains(&"gets 1000000 packets/s, carries 3000000 (measured)".to_owned()), "{why:?}");
    assert!(why.contains(&"one was measured to carry less on host h0".to_owned()), "{why:?}");
    let declared = text.replace("{function: passthrough}", "{function: passthrough, capacity_pps: 2000000}");
    let (_, made) = placed(&declared, &State::default(), &known).unwrap();
    let why = &made.instances[0].why;
    assert!(why.contains(&"gets 1000000 packets/s, carries 2000000 (declared)".to_owned()), "{why:?}");
    assert_eq!(made.instances[0].host, 0, "the declared figure counts for all hosts");
}

/// Any machines, any functions, any changes.
#[derive(Debug, Clone)]
struct Case {
    machines: Vec<Machine>,
    /// Hosts of the chains' ends, and how many copies of each function come at first and later.
    ends: (usize, usize),
    first: Vec<usize>,
    more: Vec<usize>,
    given: Vec<Option<usize>>,
}

fn machine() -> impl Strategy<Value = Machine> {
    let node = || prop_oneof![Just(None), (0_u16..4).prop_map(Some)];
    let offline = prop::collection::btree_set(1_u16..24, 0..3);
    (1_u16..4, 2_u16..5, 1_u16..3, node(), node(), node(), offline).prop_map(
        |(nodes, cores, threads, under, left, right, offline)| {
            let on = |node: Option<u16>| node.map(|node| node % nodes);
            let machine = Machine::new(nodes, cores, threads);
            Machine { offline, ..machine }.port("underlay", on(under)).port("left", on(left)).port("right", on(right))
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let machines = prop::collection::vec(machine(), 1..4);
    (machines, 1_usize..4).prop_flat_map(|(machines, kinds)| {
        let hosts = machines.len();
        let given = prop::collection::vec(prop_oneof![3 => Just(None), 1 => (0..hosts).prop_map(Some)], kinds);
        let counts = |least| prop::collection::vec(least..3_usize, kinds);
        (Just(machines), (0..hosts, 0..hosts), counts(1), counts(0), given)
            .prop_map(|(machines, ends, first, more, given)| Case { machines, ends, first, more, given })
    })
}

fn text_of(case: &Case, counts: &[usize]) -> String {
    let cpus: Vec<String> = case
        .machines
        .iter()
        .map(|machine| format!("io: 0, nf: \"1-{}\"", machine.cores() * machine.threads - 1))
        .collect();
    let cpus: Vec<&str> = cpus.iter().map(String::as_str).collect();
    let names: Vec<String> = (0..counts.len()).map(|kind| format!("k{kind}")).collect();
    let nfs: Vec<String> = names.iter().map(|name| format!("{name}: {{function: passthrough}}")).collect();
    let instance = |(kind, count): (usize, &usize)| {
        let host = case.given[kind].map(|host| format!(", host: h{host}")).unwrap_or_default();
        format!("{{nf: k{kind}, count: {count}{host}}}")
    };
    let instances: Vec<String> = counts.iter().enumerate().map(instance).collect();
    let functions = format!(
        "    nfs: {{{}}}\n    instances: [{}]\n    chains: {{all: {{from: a, to: b, through: [{}]}}}}\n",
        nfs.join(", "),
        instances.join(", "),
        names.join(", ")
    );
    hosts(&cpus) + &tenant((case.ends.0, "left"), (case.ends.1, "right"), &functions)
}

/// The nodes of the ports by which the chain comes to a host and leaves it.
fn port_nodes(case: &Case, host: usize) -> BTreeSet<u16> {
    let machine = &case.machines[host];
    let port =
        |end: usize, port: &str| machine.ports[if end == host { port } else { "underlay" }].unwrap_or(machine.node(0));
    [port(case.ends.0, "left"), port(case.ends.1, "right")].into()
}

fn check_places(case: &Case, made: &Composition) -> Result<(), TestCaseError> {
    let mut taken: BTreeSet<(usize, u16)> = (0..case.machines.len()).map(|host| (host, 0)).collect();
    for found in &made.instances {
        let machine = &case.machines[found.host];
        prop_assert!(taken.insert((found.host, found.cpu)), "CPU {} of host {} twice", found.cpu, found.host);
        prop_assert!(!machine.offline.contains(&found.cpu) && found.cpu < machine.cores() * machine.threads);
        prop_assert!(!found.why.is_empty());
    }
    // Whoever is on a far node is there because no near CPU is left, at the end as when it came.
    for found in &made.instances {
        let machine = &case.machines[found.host];
        let near = port_nodes(case, found.host);
        let all = 1..machine.cores() * machine.threads;
        let mut free = all.filter(|cpu| !machine.offline.contains(cpu) && !taken.contains(&(found.host, *cpu)));
        let is_far = !near.contains(&machine.node(found.cpu));
        prop_assert!(!is_far || !free.any(|cpu| near.contains(&machine.node(cpu))), "{:?} is far", found);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_global_rejects: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Breaks if a CPU is given twice, if an offline one is, if an instance is far from its ports though there is room, if one that
    /// runs moves when others come, or if what the leader chose is not what the others compose.
    #[test]
    fn every_place_is_valid_near_and_kept(case in cases()) {
        let machines: Vec<&Machine> = case.machines.iter().collect();
        let known = known(&machines);
        let first = text_of(&case, &case.first);
        let before = match placed(&first, &State::default(), &known) {
            Ok((_, made)) => made,
            Err(error) => {
                prop_assert!(error.contains("finds no CPU for"), "{}", error);
                return Err(TestCaseError::reject("no room"));
            }
        };
        check_places(&case, &before)?;
        let again = placed(&first, &State::default(), &known).unwrap().1;
        prop_assert_eq!(spots(&again), spots(&before), "the same again");
        let counts: Vec<usize> = case.first.iter().zip(&case.more).map(|(first, more)| first + more).collect();
        match placed(&text_of(&case, &counts), &before.state, &known) {
            Ok((_, after)) => {
                check_places(&case, &after)?;
                let now: BTreeMap<&str, (usize, u16)> =
                    spots(&after).into_iter().map(|(name, host, cpu)| (name, (host, cpu))).collect();
                for (name, host, cpu) in spots(&before) {
                    prop_assert_eq!(now[name], (host, cpu), "{} has moved", name);
                }
            }
            Err(error) => prop_assert!(error.contains("finds no CPU for"), "{}", error),
        }
    }
}
