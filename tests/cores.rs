//! New instances that name no CPU: what a plan says, what the dataplanes do, and what the kernel shows of it are the same. The machine
//! is made to look like one of two sockets, one CPU each.
#![cfg(feature = "dpdk")]

mod testbed;

use std::collections::BTreeMap;
use std::fs;

use controller::api::{InstanceRow, InventoryRow, Request, Response};
use serde_json::Value;
use testbed::config::{self, HostEntry, tenant};
use testbed::host::Host;
use testbed::hosts::{CLIENT, Ends, OFFICE, SERVER, TwoHosts};
use testbed::streams::{Stream, UdpEcho, at};
use testbed::until;

const SIDES: [&str; 2] = ["host: host1, port: left", "host: host2, port: right"];

/// CPU 0 is on node 0, CPU 1 on node 1, and so are all ports.
fn two_sockets(ends: &Ends) -> Vec<String> {
    let root = ends.scope.directory().join("sys");
    let mut files = vec![
        ("devices/system/cpu/present".to_owned(), "0-1"),
        ("devices/system/cpu/online".to_owned(), "0-1"),
        ("devices/system/node/online".to_owned(), "0-1"),
        ("devices/system/node/node0/cpulist".to_owned(), "0"),
        ("devices/system/node/node1/cpulist".to_owned(), "1"),
    ];
    for port in ["left", "right", "under"] {
        files.push((format!("class/net/{port}/device/numa_node"), "1"));
        files.push((format!("class/net/{port}/speed"), "10000"));
    }
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("the tree");
        fs::write(path, format!("{text}\n")).expect("the tree");
    }
    vec!["--sysfs".to_owned(), root.display().to_string()]
}

fn functions(instances: &str) -> String {
    let functions = format!(
        "    nfs: {{tap: {{function: passthrough}}}}\n    instances: [{instances}]\n    chains: {{all: {{from: clients, to: servers, \
         through: [tap]}}}}\n"
    );
    tenant("acme", 100, SIDES[0], SIDES[1], &functions)
}

fn entries() -> [HostEntry; 2] {
    ["host1", "host2"].map(|name| HostEntry::new(name).nf_cpus("0-1"))
}

/// The same hosts with other instances, as a file.
fn file(bed: &TwoHosts, instances: &str) -> String {
    let [first, second] = entries();
    let [at_first, at_second] = OFFICE.map(|address| format!("{address}:7475"));
    let entries = [
        first.vtep("192.0.2.1/24").port("left").controller(&at_first),
        second.vtep("192.0.2.2/24").port("right").controller(&at_second),
    ];
    let path = bed.ends.scope.directory().join("more.yaml");
    fs::write(&path, config::file(&entries, &functions(instances))).expect("the file");
    path.display().to_string()
}

/// The CPU of each of a dataplane's lcores, by the lcore's number, as the kernel says.
fn cpus_of(host: &Host) -> BTreeMap<u64, String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.dataplane_pid())).expect("its threads");
    let thread = |task: fs::DirEntry| -> Option<(u64, String)> {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned());
        let worker: u64 = field("Name:")?.strip_prefix("rte-worker-")?.parse().ok()?;
        Some((worker - 1, field("Cpus_allowed_list:")?))
    };
    tasks.flatten().filter_map(thread).collect()
}

fn inventories(host: &Host) -> Vec<InventoryRow> {
    match host.ask(&Request::Inventory) {
        Response::Inventory(rows) => rows,
        other => panic!("not inventories: {other:?}"),
    }
}

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Every instance, once both controllers have heard from both kernels.
fn confirmed(bed: &TwoHosts) -> Vec<InstanceRow> {
    until("both controllers know where all instances run", || {
        let [one, two] = [&bed.host1, &bed.host2].map(Host::instances);
        let all = |rows: &[InstanceRow]| rows.iter().all(|row| row.confirmed_cpu.is_some());
        (all(&one) && all(&two)).then_some(one)
    })
}

/// What the kernels show is what the rows say.
fn assert_pinned(bed: &TwoHosts, rows: &[InstanceRow]) {
    let cpus = [("host1", cpus_of(&bed.host1)), ("host2", cpus_of(&bed.host2))];
    for row in rows {
        let (_, of_host) = cpus.iter().find(|(name, _)| *name == row.host).expect("the host");
        assert_eq!(of_host.get(&(row.lcore as u64)), Some(&row.cpu.to_string()), "{row:?}: {of_host:?}");
        assert_eq!(row.confirmed_cpu, Some(row.cpu), "{row:?}");
    }
}

/// Breaks if instances start on other lcores or CPUs than the plan said, if the port's socket makes no difference, if the answer
/// claims what the kernel does not show, or if what runs is moved.
#[test]
fn a_plans_cores_are_the_cores() {
    let bed = TwoHosts::start_with(entries(), &functions("{nf: tap, host: host1, cpu: 1}"), two_sockets);
    until("each controller has heard of both machines", || {
        let heard = |host: &Host| inventories(host).iter().all(|row| row.inventory.is_some());
        (heard(&bed.host1) && heard(&bed.host2)).then_some(())
    });
    let name = file(&bed, "{nf: tap, host: host1, cpu: 1}, {nf: tap, host: host1, count: 2}, {nf: tap}");
    let output = bed.host1.towpath(&["plan", &name, "-o", "json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let rows = plan["placements"].as_array().expect("placements").clone();
    let starts: Vec<&Value> = rows.iter().filter(|row| row["change"] == "starts").collect();
    assert_eq!((rows.len(), starts.len()), (4, 3), "{plan:#}");
    // CPU 0 polls and CPU 1 has tap/1: both have one, and the ports are on node 1; then CPU 0 has fewer.
    let place = |row: &Value| (row["host"].as_str().map(str::to_owned), row["cpu"].as_u64(), row["node"].as_u64());
    assert_eq!(place(starts[0]), (Some("host1".into()), Some(1), Some(1)), "{plan:#}");
    assert!(starts[0]["why"].to_string().contains("NUMA node 1: ports left, underlay there"), "{plan:#}");
    assert_eq!(place(starts[1]), (Some("host1".into()), Some(0), Some(0)), "{plan:#}");
    let text = said(&bed.host1.towpath(&["plan", &name]));
    assert!(text.contains("start acme/tap/2 on host1: NUMA node 1, CPU 1, lcore 2"), "{text}");
    assert!(text.contains("1 instance stays where it is"), "{text}");
    let output = bed.host1.towpath(&["apply", &name]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("confirmed by its dataplane").count(), 3, "{text}");
    let made = confirmed(&bed);
    assert_pinned(&bed, &made);
    for row in &rows {
        let found = made.iter().find(|found| row["instance"] == found.instance.as_str()).expect("the instance");
        let planned = (row["host"].as_str(), row["cpu"].as_u64(), row["lcore"].as_u64());
        assert_eq!(planned, (Some(found.host.as_str()), Some(found.cpu.into()), Some(found.lcore as u64)));
    }
    let text = said(&bed.host2.towpath(&["get", "inventory"]));
    assert!(text.contains("host1") && text.contains("acme/tap/2") && text.contains("left (10000 Mbit/s)"), "{text}");
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let streams: Vec<Stream> = (0..4).map(|_| Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7))).collect();
    streams.iter().for_each(|stream| stream.await_more(20));
    // One more, while flows live: the others stay.
    let output = bed.host2.towpath(&["scale", "acme/tap"]);
    assert!(output.status.success() && said(&output).contains("confirmed by its dataplane"), "{}", said(&output));
    let more = confirmed(&bed);
    assert_eq!(more.len(), 5);
    assert_pinned(&bed, &more);
    for old in &made {
        let same = more.iter().find(|row| row.instance == old.instance).expect("it stays");
        assert_eq!((same.lcore, same.cpu), (old.lcore, old.cpu), "{} has moved", old.instance);
    }
    streams.iter().for_each(|stream| stream.await_more(20));
    for stream in streams {
        stream.finish_whole();
    }
    bed.stop();
}

/// Breaks if demands that the underlay can't carry are applied, or if the refusal does not name chain and resource.
#[test]
fn a_demand_beyond_the_underlay_is_refused_with_its_chain() {
    let bed = TwoHosts::start_with(entries(), &functions("{nf: tap, host: host1, cpu: 1}"), two_sockets);
    let name = file(&bed, "{nf: tap, host: host1, cpu: 1}, {nf: tap}");
    let text = fs::read_to_string(&name).expect("the file");
    let text = text.replace("through: [tap]", "demand: {bandwidth_mbps: 20000}, through: [tap]");
    fs::write(&name, text).expect("the file");
    until("each controller has heard of both machines", || {
        inventories(&bed.host1).iter().all(|row| row.inventory.is_some()).then_some(())
    });
    let output = bed.host1.towpath(&["apply", &name]);
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    for word in ["tenants.acme.chains.all", "the underlay of host `host1` would carry 20000 Mbit/s", "and has 10000"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(bed.host1.instances().len(), 1, "nothing is started");
    bed.stop();
}

/// Breaks if hosts that are started with instances to place put them somewhere before they know each other's machines, or never come
/// to one version.
#[test]
fn hosts_that_begin_place_instances_by_all_machines() {
    let bed = TwoHosts::start_with(entries(), &functions("{nf: tap, count: 2}"), two_sockets);
    let made = confirmed(&bed);
    assert_pinned(&bed, &made);
    // By the file alone the second one is on CPU 0, which is as free as CPU 1.
    let places: Vec<(&str, u16)> = made.iter().map(|row| (row.host.as_str(), row.cpu)).collect();
    assert_eq!(places, [("host1", 1), ("host1", 1)], "{made:?}");
    assert!(made[1].why.iter().any(|why| why.starts_with("NUMA node 1: ports left, underlay")), "{made:?}");
    let versions = [&bed.host1, &bed.host2].map(|host| host.status().config_version);
    assert_eq!(versions, [2, 2], "the file, then the placement");
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let stream = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    stream.await_more(20);
    stream.finish_whole();
    bed.stop();
}
