//! Network namespaces and what is in them: interfaces, addresses, programs, sockets.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::run;
use super::scope::Scope;

/// Debian's own Python, whatever else is in the path.
pub const PYTHON: &str = "/usr/bin/python3";

/// A network namespace; the scope that it was made in deletes it.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// An empty namespace whose kernel keeps quiet: no address detection, no router solicitations.
    pub fn new(scope: &Scope, role: &str) -> Self {
        let namespace = Self { name: scope.name(role) };
        let mut add = Command::new("ip");
        add.args(["netns", "add", &namespace.name]);
        run(add, "");
        namespace.ip("link set lo up");
        namespace.sysctl(&["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.accept_ra=0"]);
        namespace.sysctl(&["net.ipv6.conf.default.router_solicitations=0", "net.ipv6.conf.all.forwarding=0"]);
        namespace
    }

    /// A namespace for a Towpath host: the kernel has no part in its traffic.
    pub fn for_dataplane(scope: &Scope, role: &str) -> Self {
        let namespace = Self::new(scope, role);
        namespace.sysctl(&["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]);
        namespace
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).args(arguments);
        command
    }

    /// Runs a program inside to its end; fails the test if it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(self.command(program, arguments), "")
    }

    /// Several lines for `ip`, such as `link set eth0 up`.
    pub fn ip(&self, lines: &str) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        run(command, &format!("{lines}\n"));
    }

    fn sysctl(&self, settings: &[&str]) {
        self.run("sysctl", &[&["-qw"], settings].concat());
    }

    /// Joins an interface here to one in another namespace. Offloads are off, since a DPDK device on the other end would see
    /// packets without checksums, and larger than the link's MTU.
    pub fn link(&self, own: &str, other: &Self, theirs: &str, mtu: u16) {
        let peer = &other.name;
        self.ip(&format!("link add {own} mtu {mtu} type veth peer name {theirs} mtu {mtu} netns {peer}"));
        for (namespace, interface) in [(self, own), (other, theirs)] {
            let off = ["tx", "rx", "tso", "gso", "gro", "txvlan", "rxvlan"].map(|feature| [feature, "off"]).concat();
            namespace.run("ethtool", &[&["-K", interface][..], &off].concat());
            namespace.ip(&format!("link set {interface} up"));
        }
    }

    /// Sets an interface's Ethernet address.
    pub fn set_mac(&self, interface: &str, mac: &str) {
        self.ip(&format!("link set {interface} address {mac}"));
    }

    /// The Ethernet address that the kernel here has learned for a neighbour.
    pub fn neighbor_mac(&self, address: &str) -> String {
        let shown = self.run("ip", &["neighbor", "show", address]);
        let mac = shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
        mac.unwrap_or_else(|| panic!("{address} is not known: {shown}")).to_owned()
    }

    /// Packets that an interface has received and sent.
    pub fn passed(&self, interface: &str) -> u64 {
        let shown = self.run("ip", &["-j", "-s", "link", "show", interface]);
        let links: serde_json::Value =
            serde_json::from_str(&shown).unwrap_or_else(|error| panic!("ip: {error}: {shown}"));
        let count = |way: &str| links[0]["stats64"][way]["packets"].as_u64().expect("a count");
        count("rx") + count("tx")
    }

    /// Addresses of an interface, and the router for everything else, one per family.
    pub fn addresses(&self, interface: &str, addresses: &[&str], routers: &[&str]) {
        for address in addresses {
            let flags = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("address add {address} dev {interface}{flags}"));
        }
        for router in routers {
            let family = if router.contains(':') { "-6 " } else { "" };
            let mut command = Command::new("ip");
            command.args(["-n", &self.name]);
            command.args(format!("{family}route replace default via {router}").split_whitespace());
            run(command, "");
        }
    }

    /// Runs `work` on a thread inside the namespace; sockets that it opens stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = PathBuf::from("/run/netns").join(&self.name);
        std::thread::scope(|threads| {
            let inside = threads.spawn(|| {
                let namespace = File::open(&path).expect("the namespace");
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("entering the namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
