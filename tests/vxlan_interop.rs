//! VXLAN with somebody else's implementation at the other end: the Linux kernel's.
#![cfg(feature = "dpdk")]

mod testbed;

use testbed::config::{HostEntry, UNDERLAY_MTU, tap_chain, tenant};
use testbed::hosts::{CLIENT, Ends, OneHost, SERVER};
use testbed::namespace::Namespace;
use testbed::streams::{Stream, UdpEcho, at};
use testbed::traffic::{WebServer, assert_ping, assert_web};

/// An underlay's address of host1 and of the kernel's VTEP, with prefix lengths.
type Underlay = [&'static str; 2];

const OVER_IPV4: Underlay = ["192.0.2.1/24", "192.0.2.9/24"];
const OVER_IPV6: Underlay = ["2001:db8:1::1/64", "2001:db8:1::9/64"];

/// Bytes of echo payload that make a full packet of 1,500 bytes, by family.
const FULL: [u32; 2] = [1_472, 1_452];

fn bare(address: &str) -> &str {
    address.split_once('/').map_or(address, |(address, _)| address)
}

/// A machine on the underlay whose kernel is a VTEP: `vxlan0`, joined to host1's.
fn kernel_vtep(ends: &Ends, [host, own]: Underlay) -> Namespace {
    let machine = Namespace::new(&ends.scope, "vtep");
    ends.fabric.link("vtep", &machine, "under", UNDERLAY_MTU);
    ends.fabric.ip("link set vtep master bridge");
    machine.addresses("under", &[own], &[]);
    let (host, own) = (bare(host), bare(own));
    // Zero checksums over IPv6 are not asked for: both sides send and check real ones (RFC 8200 section 8.1).
    machine.ip(&format!(
        "link add vxlan0 mtu 1500 type vxlan id 100 local {own} remote {host} dev under dstport 4789\nlink set vxlan0 up"
    ));
    machine
}

/// Host1, with devices that see fragments as they are.
fn host_entry(vtep: &str) -> HostEntry {
    HostEntry::new("host1").vtep(vtep).seeing_fragments()
}

/// Traffic from `client` to `server`, of either family: small, full-sized, fragmented, HTTP, and a stream without loss.
fn assert_traffic(bed: &OneHost, client: &Namespace, server: &Namespace) {
    let _web = WebServer::start(&bed.ends.scope, server);
    for ((from, to), full) in CLIENT.into_iter().zip(SERVER).zip(FULL) {
        for bytes in [56, full, 4_000] {
            assert_ping(client, to, bytes);
        }
        let _echo = UdpEcho::start(server, to, 7);
        let stream = Stream::udp(client, from, at(to, 7));
        stream.await_more(200);
        stream.finish_whole();
    }
    assert_web(client, &SERVER);
}

fn servers_behind_the_kernel(underlay: Underlay) {
    let mut vtep = None;
    let servers = format!("host: host1, vtep: \"{}\"", bare(underlay[1]));
    let tenants = tenant("acme", 100, "host: host1, port: left", &servers, &tap_chain("host1"));
    let bed = OneHost::start_on(host_entry(underlay[0]), &tenants, |ends, _| {
        let machine = kernel_vtep(ends, underlay);
        machine.addresses("vxlan0", &["10.2.0.2/24", "fd00:2::2/64"], &["10.2.0.1", "fd00:2::1"]);
        vtep = Some(machine);
    });
    assert_traffic(&bed, &bed.ends.client, &vtep.expect("the machine"));
    bed.stop();
}

fn clients_behind_the_kernel(underlay: Underlay) {
    let mut vtep = None;
    let clients = format!("host: host1, vtep: \"{}\"", bare(underlay[1]));
    let tenants = tenant("acme", 100, &clients, "host: host1, port: right", &tap_chain("host1"));
    let bed = OneHost::start_on(host_entry(underlay[0]), &tenants, |ends, _| {
        let machine = kernel_vtep(ends, underlay);
        machine.addresses("vxlan0", &["10.1.0.2/24", "fd00:1::2/64"], &["10.1.0.1", "fd00:1::1"]);
        vtep = Some(machine);
    });
    assert_traffic(&bed, &vtep.expect("the machine"), &bed.ends.server);
    bed.stop();
}

/// Breaks if the kernel does not accept our VXLAN or we do not accept its; flows begin on our side.
#[test]
fn the_kernel_serves_behind_its_vxlan_over_ipv4() {
    servers_behind_the_kernel(OVER_IPV4);
}

/// The same over IPv6, where the outer UDP checksum must be right.
#[test]
fn the_kernel_serves_behind_its_vxlan_over_ipv6() {
    servers_behind_the_kernel(OVER_IPV6);
}

/// Breaks if a flow that begins behind the kernel's VTEP does not enter its chain.
#[test]
fn the_kernel_asks_from_behind_its_vxlan_over_ipv4() {
    clients_behind_the_kernel(OVER_IPV4);
}

/// The same over IPv6.
#[test]
fn the_kernel_asks_from_behind_its_vxlan_over_ipv6() {
    clients_behind_the_kernel(OVER_IPV6);
}
