//! A network function that panics takes down its own instance and nothing else.
#![cfg(feature = "dpdk")]

mod testbed;

use controller::api::InstanceState;
use packet::DropReason;
use testbed::config::{HostEntry, tenant};
use testbed::hosts::{CLIENT, OneHost, SERVER};
use testbed::namespace::Namespace;
use testbed::streams::{Stream, UdpEcho, at, udp};
use testbed::traffic::{WebServer, assert_web};
use testbed::until;

/// The port whose packets trip the wire.
const TRIP: u16 = 6_666;

/// Messages that must come back before and after.
const ENOUGH: u64 = 50;

/// Tenant `acme` with a tripwire and a tap in two chains, and tenant `beta` with the same addresses on ports of its own.
fn tenants() -> String {
    let tripwire = format!(
        "    nfs:
      wire: {{function: tripwire, config: {{panic_on_port: {TRIP}}}}}
      tap: {{function: passthrough}}
    instances:
      - {{nf: wire, host: host1, cpu: 1}}
      - {{nf: tap, host: host1, cpu: 1}}
    chains:
      wired: {{from: clients, to: servers, select: {{protocol: udp}}, through: [wire]}}
      tapped: {{from: clients, to: servers, select: {{protocol: tcp}}, through: [tap]}}
"
    );
    let acme = tenant("acme", 100, "host: host1, port: left", "host: host1, port: right", &tripwire);
    let tap = testbed::config::tap_chain("host1");
    acme + &tenant("beta", 200, "host: host1, port: left2", "host: host1, port: right2", &tap)
}

/// Breaks if the panic ends the process, if another chain or tenant notices, if the operator can't see it, if packets for
/// the dead instance are not counted, or if its mbufs do not come back.
#[test]
fn a_panicking_function_is_contained() {
    let mut beta = None;
    let entry = HostEntry::new("host1").vtep("192.0.2.1/24").port("left2").port("right2");
    let bed = OneHost::start_on(entry, &tenants(), |ends, host| {
        let [client, server] = ["client2", "server2"].map(|role| Namespace::new(&ends.scope, role));
        client.link("eth0", host, "left2", 1_500);
        server.link("eth0", host, "right2", 1_500);
        client.addresses("eth0", &["10.1.0.2/24", "fd00:1::2/64"], &["10.1.0.1", "fd00:1::1"]);
        server.addresses("eth0", &["10.2.0.2/24", "fd00:2::2/64"], &["10.2.0.1", "fd00:2::1"]);
        beta = Some((client, server));
    });
    let (client2, server2) = beta.expect("beta's namespaces");
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let _echo = [UdpEcho::start(&server2, SERVER[0], 7), UdpEcho::start(&bed.ends.server, SERVER[0], 7)];
    let other_tenant = Stream::udp(&client2, CLIENT[0], at(SERVER[0], 7));
    let wired = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    other_tenant.await_more(ENOUGH);
    wired.await_more(ENOUGH);
    wired.finish_whole();
    let dataplane = bed.host.dataplane_pid();

    let socket = udp(&bed.ends.client, CLIENT[0], 0);
    socket.send_to(b"boom", at(SERVER[0], TRIP)).expect("a datagram");
    until("the instance is reported as failed", || {
        let rows = bed.host.instances();
        let state = |name| rows.iter().find(|row| row.instance == name).map(|row| row.state);
        assert_eq!(state("acme/tap/1"), Some(InstanceState::Running));
        assert_eq!(state("beta/tap/1"), Some(InstanceState::Running));
        (state("acme/wire/1") == Some(InstanceState::Failed)).then_some(())
    });
    assert_eq!(bed.host.dropped(DropReason::NfPanicked), 1);
    socket.send_to(b"and again", at(SERVER[0], TRIP)).expect("a datagram");
    until("later packets are counted too", || (bed.host.dropped(DropReason::NfFailed) == 1).then_some(()));
    assert!(bed.host.status().warnings.iter().any(|line| line.contains("acme/wire/1")), "the operator is told");
    let usable = |name: &str| {
        let chain = format!("acme/{name}");
        bed.host.paths().iter().filter(|path| path.chains.contains(&chain)).all(|path| path.usable)
    };
    assert!(!usable("wired") && usable("tapped"), "the failed instance's chain says so, the other one does not");
    let shown = bed.host.towpath(&["get", "instances"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = shown.lines().find(|line| line.contains("acme/wire/1")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("FAILED"), "{line}");

    assert_web(&bed.ends.client, &SERVER);
    other_tenant.await_more(ENOUGH);
    other_tenant.finish_whole();
    assert_eq!(bed.host.dataplane_pid(), dataplane, "the process lived on");
    bed.stop();
}

/// Breaks if a panic between packets takes the lcore's thread along: nobody would report it, and its mbufs would stay.
#[test]
fn a_panic_between_packets_is_contained_too() {
    for call in ["expire", "counters"] {
        let tripwire = format!(
            "    nfs:
      wire: {{function: tripwire, config: {{panic_on_port: {TRIP}, panic_in: {call}}}}}
    instances:
      - {{nf: wire, host: host1, cpu: 1}}
    chains:
      wired: {{from: clients, to: servers, select: {{protocol: udp}}, through: [wire]}}
"
        );
        let tenants = tenant("acme", 100, "host: host1, port: left", "host: host1, port: right", &tripwire);
        let bed = OneHost::start_on(HostEntry::new("host1").vtep("192.0.2.1/24"), &tenants, |_, _| ());
        let dataplane = bed.host.dataplane_pid();
        let socket = udp(&bed.ends.client, CLIENT[0], 0);
        socket.send_to(b"boom", at(SERVER[0], TRIP)).expect("a datagram");
        until(&format!("the panic in {call} is reported"), || {
            let rows = bed.host.instances();
            let state = rows.iter().find(|row| row.instance == "acme/wire/1").map(|row| row.state);
            (state == Some(InstanceState::Failed)).then_some(())
        });
        assert_eq!(bed.host.dataplane_pid(), dataplane, "the process lived on");
        bed.stop();
    }
}
