//! The two shapes of testbed: a chain over two hosts, and all of it on one.

use std::fs;
use std::path::PathBuf;

use super::config::{self, HostEntry, UNDERLAY_MTU};
use super::host::Host;
use super::namespace::Namespace;
use super::scope::Scope;

/// The client's addresses.
pub const CLIENT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
/// The server's addresses.
pub const SERVER: [&str; 2] = ["10.2.0.2", "fd00:2::2"];
/// The controllers' addresses among each other.
pub const OFFICE: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
/// What the mangler makes of the client's.
pub const MANGLED: [&str; 2] = ["10.9.0.1", "fd00:9::1"];

/// The kernels at the ends, the underlay, and the claim to it all.
#[derive(Debug)]
pub struct Ends {
    /// Where clients are.
    pub client: Namespace,
    /// Where servers are.
    pub server: Namespace,
    /// The underlay's bridge; the interface `bridge` is one more station on it.
    pub fabric: Namespace,
    /// Names, files, logs.
    pub scope: Scope,
}

impl Ends {
    /// Both ends without interfaces, and an empty fabric.
    pub fn new() -> Self {
        let scope = Scope::claim();
        let [client, server, fabric] = ["client", "server", "fabric"].map(|role| Namespace::new(&scope, role));
        // No snooping and no own addresses: a wire with several ends.
        fabric.ip("link add bridge mtu 1600 type bridge mcast_snooping 0\nlink set bridge up");
        fabric.ip("link add office type bridge\nlink set office up");
        Self { client, server, fabric, scope }
    }

    /// A host's namespace with `under` on the fabric.
    fn host_namespace(&self, name: &str) -> Namespace {
        let namespace = Namespace::for_dataplane(&self.scope, name);
        self.fabric.link(name, &namespace, "under", UNDERLAY_MTU);
        self.fabric.ip(&format!("link set {name} master bridge"));
        namespace
    }

    /// Joins a host's kernel to the management network, on which controllers talk.
    fn join_office(&self, host: &Namespace, name: &str, address: &str) {
        let interface = format!("o-{name}");
        self.fabric.link(&interface, host, "office", 1_500);
        self.fabric.ip(&format!("link set {interface} master office"));
        host.ip(&format!("address add {address}/24 dev office"));
    }

    /// Gives the client its place behind an interface.
    pub fn settle_client(&self, interface: &str) {
        self.client.addresses(interface, &["10.1.0.2/24", "fd00:1::2/64"], &["10.1.0.1", "fd00:1::1"]);
    }

    /// Gives the server its place behind an interface.
    pub fn settle_server(&self, interface: &str) {
        self.server.addresses(interface, &["10.2.0.2/24", "fd00:2::2/64"], &["10.2.0.1", "fd00:2::1"]);
    }

    /// Writes the configuration file.
    pub fn write(&self, yaml: &str) -> PathBuf {
        let path = self.scope.directory().join("towpath.yaml");
        fs::write(&path, yaml).expect("the configuration");
        path
    }
}

/// client – host1 – fabric – host2 – server.
#[derive(Debug)]
pub struct TwoHosts {
    /// The clients' host.
    pub host1: Host,
    /// The servers' host.
    pub host2: Host,
    /// Everything around.
    pub ends: Ends,
}

impl TwoHosts {
    /// Both hosts running, with these tenants.
    pub fn start(tenants: &str) -> Self {
        Self::start_on([HostEntry::new("host1"), HostEntry::new("host2")], tenants)
    }

    /// The same, with limits of their own.
    pub fn start_on(entries: [HostEntry; 2], tenants: &str) -> Self {
        Self::start_with(entries, tenants, |_| Vec::new())
    }

    /// The same; the controllers get these further arguments.
    pub fn start_with(entries: [HostEntry; 2], tenants: &str, more: impl FnOnce(&Ends) -> Vec<String>) -> Self {
        let ends = Ends::new();
        let [one, two] = ["host1", "host2"].map(|name| ends.host_namespace(name));
        ends.client.link("eth0", &one, "left", 1_500);
        ends.server.link("eth0", &two, "right", 1_500);
        ends.settle_client("eth0");
        ends.settle_server("eth0");
        ends.join_office(&one, "host1", OFFICE[0]);
        ends.join_office(&two, "host2", OFFICE[1]);
        let [first, second] = entries;
        let [at_first, at_second] = OFFICE.map(|address| format!("{address}:7475"));
        let entries = [
            first.vtep("192.0.2.1/24").port("left").controller(&at_first),
            second.vtep("192.0.2.2/24").port("right").controller(&at_second),
        ];
        let file = ends.write(&config::file(&entries, tenants));
        let more = more(&ends);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let mut host1 = Host::new(&ends.scope, "host1", one, &file);
        let mut host2 = Host::new(&ends.scope, "host2", two, &file);
        host1.launch_with(&more);
        host2.launch_with(&more);
        host1.await_attached();
        host2.await_attached();
        Self { host1, host2, ends }
    }

    /// Ends both hosts in order, and checks what they leave.
    pub fn stop(mut self) {
        self.host1.stop();
        self.host2.stop();
    }
}

/// client – host1 – server, with the fabric at host1's underlay.
#[derive(Debug)]
pub struct OneHost {
    /// The only host.
    pub host: Host,
    /// Everything around.
    pub ends: Ends,
}

impl OneHost {
    /// The host running with ports `left` to the client and `right` to the server, and these tenants.
    pub fn start(tenants: &str) -> Self {
        Self::start_on(HostEntry::new("host1").vtep("192.0.2.1/24"), tenants, |_, _| ())
    }

    /// The same; `before` may add to the namespaces before the host starts.
    pub fn start_on(entry: HostEntry, tenants: &str, before: impl FnOnce(&Ends, &Namespace)) -> Self {
        let ends = Ends::new();
        let namespace = ends.host_namespace("host1");
        ends.client.link("eth0", &namespace, "left", 1_500);
        ends.server.link("eth0", &namespace, "right", 1_500);
        ends.settle_client("eth0");
        ends.settle_server("eth0");
        before(&ends, &namespace);
        let file = ends.write(&config::file(&[entry.port("left").port("right")], tenants));
        let mut host = Host::new(&ends.scope, "host1", namespace, &file);
        host.launch();
        host.await_attached();
        Self { host, ends }
    }

    /// Ends the host in order, and checks what it leaves.
    pub fn stop(mut self) {
        self.host.stop();
    }
}
