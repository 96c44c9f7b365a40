//! Instances come, drain and go while traffic runs: the experiment of Stratos section 7.2, with captures at every hop.
#![cfg(feature = "dpdk")]

mod testbed;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use packet::DropReason;
use testbed::capture::{Capture, Connection, Conversations, EndCapture, Volume, conversations};
use testbed::config::{HostEntry, tenant};
use testbed::host::Host;
use testbed::hosts::{CLIENT, SERVER, TwoHosts};
use testbed::streams::{Stream, TcpEcho, UdpEcho, at};
use testbed::traffic::{POST_BYTES, Requests, WebServer, assert_all_answered};
use testbed::until;

/// Posts a second and address family: fifty in all, as in the paper.
const POSTS_PER_SECOND: u32 = 25;

/// Posts of each address family: a little longer than the changes take.
const POSTS: usize = 450;

/// Posts between two changes.
const POSTS_BETWEEN: usize = 80;

/// Seconds after which a closed connection's rules go, so that drained instances go within the test.
const CLOSING_S: u32 = 1;

/// Seconds after which silent flows are forgotten.
const IDLE_S: u32 = 3;

/// Both hosts, with short times.
fn entries() -> [HostEntry; 2] {
    ["host1", "host2"].map(|name| {
        let entry = HostEntry::new(name).limit("tcp_closing_s", CLOSING_S).limit("tcp_idle_s", IDLE_S);
        entry.limit("udp_idle_s", IDLE_S).limit("other_idle_s", IDLE_S)
    })
}

/// The paper's chain: generator, passthrough, mangler (or another passthrough), server.
fn chain(second: &str) -> String {
    let functions = format!(
        r#"    nfs:
      tap: {{function: passthrough}}
      second: {second}
    instances:
      - {{nf: tap, host: host1, cpu: 1}}
      - {{nf: second, host: host2, cpu: 1}}
    chains:
      all: {{from: clients, to: servers, through: [tap, second]}}
"#
    );
    tenant("acme", 100, "host: host1, port: left", "host: host2, port: right", &functions)
}

/// A change of the instances while traffic runs.
struct Change {
    arguments: Vec<String>,
    /// The instance that is there afterwards, and where.
    added: Option<(&'static str, usize)>,
}

impl Change {
    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }
}

/// A further instance, without flows until its capture runs.
fn scale(kind: &str, instance: &'static str, host: usize, config: Option<String>) -> Change {
    let mut arguments =
        vec!["scale".to_owned(), format!("acme/{kind}"), "--on".to_owned(), format!("host{}", host + 1)];
    arguments.extend(["--cpu", "0", "--weight", "0"].map(str::to_owned));
    arguments.extend(config.into_iter().flat_map(|config| ["--config".to_owned(), config]));
    Change { arguments, added: Some((instance, host)) }
}

fn drain(instance: &str) -> Change {
    Change { arguments: vec!["drain".to_owned(), instance.to_owned()], added: None }
}

/// Two rounds over the kinds, then the same back.
fn two_rounds(pool: impl Fn(u8) -> Option<String>) -> Vec<Change> {
    vec![
        scale("tap", "acme/tap/2", 1, None),
        scale("second", "acme/second/2", 0, pool(2)),
        scale("tap", "acme/tap/3", 0, None),
        scale("second", "acme/second/3", 1, pool(3)),
        drain("acme/tap/2"),
        drain("acme/second/2"),
        drain("acme/tap/3"),
        drain("acme/second/3"),
    ]
}

fn run_change(host: &Host, arguments: &[&str]) {
    let output = host.towpath(arguments);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}");
    assert!(said.contains("0 live flows moved"), "{arguments:?}: {said}");
}

/// Breaks if a request fails while instances come and go, if a connection's packets are split over two instances of a kind, if
/// its answers come back by others, or if a packet is lost, doubled or changed in length at any hop.
#[test]
fn requests_cross_a_mangler_chain_whose_instances_come_and_go() {
    let config = |number: u8| Some(format!(r#"{{"pool": ["10.9.0.{number}", "fd00:9::{number}"]}}"#));
    let mangler = r#"{function: mangler, config: {pool: [10.9.0.1, "fd00:9::1"]}}"#;
    experiment(mangler, &two_rounds(config), &["10.9.0.1", "10.9.0.2", "10.9.0.3"]);
}

/// The same with two passthroughs, the paper's second chain.
#[test]
fn requests_cross_a_passthrough_chain_whose_instances_come_and_go() {
    experiment("{function: passthrough}", &two_rounds(|_| None), &[CLIENT[0]]);
}

fn experiment(second: &str, changes: &[Change], seen_by_server: &[&str]) {
    let bed = TwoHosts::start_on(entries(), &chain(second));
    let hosts = [&bed.host1, &bed.host2];
    let scope = &bed.ends.scope;
    let web = WebServer::start(scope, &bed.ends.server);
    let ends = [&bed.ends.client, &bed.ends.server].map(|namespace| EndCapture::start(scope, namespace, "eth0"));
    let mut captures: Vec<(&str, usize, Capture)> = [("acme/tap/1", 0), ("acme/second/1", 1)]
        .map(|(instance, host)| (instance, host, Capture::start(scope, hosts[host], instance)))
        .into();
    let posts = Requests::post(scope, &bed.ends.client, &SERVER, POSTS_PER_SECOND, POSTS);
    for (number, change) in changes.iter().enumerate() {
        // More posts than before, so that each version carries traffic.
        web.posts((number + 1) * POSTS_BETWEEN);
        run_change(hosts[number % 2], &change.arguments());
        if let Some((instance, host)) = change.added {
            captures.push((instance, host, Capture::start(scope, hosts[host], instance)));
            let share = format!("{}=1", instance.trim_start_matches("acme/"));
            run_change(hosts[number % 2], &["weights", "acme/all", &share]);
        }
    }
    let answered = posts.finish();
    assert_eq!(answered.len(), 2 * POSTS);
    assert_all_answered(&answered, POST_BYTES, &CLIENT);
    let posted = web.posts(2 * POSTS);
    assert!(posted.iter().all(|(_, bytes)| *bytes > POST_BYTES), "whole posts reach the server");
    let sources: BTreeSet<&str> =
        posted.iter().map(|(client, _)| client.as_str()).filter(|a| a.contains('.')).collect();
    assert_eq!(sources, seen_by_server.iter().copied().collect(), "the addresses that the server sees");
    assert_hops_agree(ends, captures, &hosts);
    assert_audit(&hosts);
    await_only(&hosts, &["acme/tap/1", "acme/second/1"]);
    bed.stop();
}

/// Each connection is in the captures of the generator, the server, and exactly one instance of each kind, with the same
/// packets and bytes both ways everywhere.
fn assert_hops_agree(ends: [EndCapture; 2], captures: Vec<(&str, usize, Capture)>, hosts: &[&Host; 2]) {
    let [generator, server] = ends.map(|capture| one_interface(&capture.finish()));
    assert_eq!(generator.len(), 2 * POSTS, "connections at the generator");
    assert_eq!(generator, server, "the generator's conversations and the server's");
    let mut crossed: BTreeMap<&str, BTreeMap<Connection, &str>> = BTreeMap::new();
    for (instance, host, capture) in captures {
        let sides = conversations(&capture.finish(hosts[host]), 80);
        let side = |side| sides.get(&format!("{instance} {side}")).cloned().unwrap_or_default();
        let (inward, outward): (Conversations, Conversations) = (side("in"), side("out"));
        assert!(!inward.volumes.is_empty(), "{instance} saw no connection, so that the test says nothing about it");
        assert_eq!(inward.volumes, outward.volumes, "both sides of {instance}");
        let kind = instance.split('/').nth(1).expect("a kind");
        for (connection, volume) in inward.volumes {
            let at_generator = generator.get(&connection);
            assert_eq!(at_generator, Some(&volume), "{connection:?} at the generator and at {instance}");
            let other = crossed.entry(kind).or_default().insert(connection.clone(), instance);
            assert_eq!(other, None, "{connection:?} is also at {instance}");
        }
    }
    for (kind, connections) in &crossed {
        assert!(connections.keys().eq(generator.keys()), "{kind} saw other connections than the generator");
    }
    assert_eq!(crossed.len(), 2);
}

fn one_interface(file: &Path) -> BTreeMap<Connection, Volume> {
    let found = conversations(file, 80);
    found.into_values().next().map(|interface| interface.volumes).unwrap_or_default()
}

/// No flow was seen off its path, and some were looked at.
fn assert_audit(hosts: &[&Host; 2]) {
    for host in hosts {
        let output = host.towpath(&["get", "audit", "-o", "json"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let lcores = host.counters();
        let sum = |count: fn(&shm::snapshot::LcoreSnapshot) -> u64| lcores.iter().map(count).sum::<u64>();
        assert!(sum(|lcore| lcore.audited_packets) > 0, "nothing was audited: {said}");
        assert_eq!(sum(|lcore| lcore.affinity_violations), 0, "{said}");
        for reason in [DropReason::UnknownTag, DropReason::NoSuchVport, DropReason::NfFailed, DropReason::NoForwardFlow]
        {
            assert_eq!(host.dropped(reason), 0, "{reason}");
        }
    }
}

/// Waits until every other instance is gone: its last flow has ended.
fn await_only(hosts: &[&Host; 2], wanted: &[&str]) {
    until("drained instances are gone", || {
        let there: BTreeSet<String> = hosts.iter().flat_map(|host| host.instances()).map(|row| row.instance).collect();
        there.iter().map(String::as_str).eq(wanted.iter().copied().collect::<BTreeSet<_>>()).then_some(())
    });
}

/// Breaks if a drained instance goes while a flow still uses it, or stays when the flow has ended.
#[test]
fn a_drained_instance_waits_for_its_last_flow() {
    let bed = TwoHosts::start_on(entries(), &chain("{function: passthrough}"));
    let hosts = [&bed.host1, &bed.host2];
    let server = &bed.ends.server;
    let _echoes = (UdpEcho::start(server, SERVER[0], 7), TcpEcho::start(server, SERVER[1], 7));
    let streams =
        [Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7)), Stream::tcp(&bed.ends.client, at(SERVER[1], 7))];
    streams.iter().for_each(|stream| stream.await_more(50));
    run_change(&bed.host1, &["scale", "acme/tap", "--on", "host1", "--cpu", "0"]);
    run_change(&bed.host2, &["drain", "acme/tap/1"]);
    let tap = |name: &str| bed.host1.instances().into_iter().find(|row| row.instance == name);
    for _ in 0..10 {
        streams.iter().for_each(|stream| stream.await_more(100));
        assert!(tap("acme/tap/1").is_some(), "its flows live");
    }
    let fresh = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    fresh.await_more(100);
    for stream in streams {
        assert!(stream.finish_whole() > 1_000);
    }
    until("the drained instance is gone", || tap("acme/tap/1").is_none().then_some(()));
    fresh.await_more(100);
    fresh.finish_whole();
    assert_audit(&hosts);
    bed.stop();
}

/// Breaks if new flows do not follow new weights, if a change of weights touches flows that live, or if shares miss the
/// weights.
#[test]
fn weights_change_while_flows_live() {
    let bed = TwoHosts::start_on(entries(), &chain("{function: passthrough}"));
    let hosts = [&bed.host1, &bed.host2];
    run_change(&bed.host1, &["scale", "acme/tap", "--on", "host2", "--cpu", "0"]);
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let flows = |count: usize| -> Vec<Stream> {
        let flow = |_| Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
        (0..count).map(flow).inspect(|stream| stream.await_more(1)).collect()
    };
    let per_tap = || -> Vec<u64> {
        let paths = bed.host1.paths();
        let of = |tap: &str| {
            let through = paths.iter().filter(|path| path.hops.iter().any(|hop| hop.element == tap));
            through.map(|path| path.flows).sum()
        };
        ["acme/tap/1", "acme/tap/2"].map(of).into()
    };
    let first = flows(8);
    assert_eq!(per_tap(), [4, 4]);
    run_change(&bed.host2, &["weights", "acme/all", "tap/1=3", "tap/2=1"]);
    let second = flows(16);
    assert_eq!(per_tap(), [4 + 12, 4 + 4]);
    for stream in first.into_iter().chain(second) {
        stream.finish_whole();
    }
    assert_audit(&hosts);
    bed.stop();
}
