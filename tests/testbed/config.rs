//! Configuration files for the testbed's hosts.

use std::fmt::Write;

/// Largest IP packet on the underlay: 1,500 inside VXLAN, and more than enough around it.
pub const UNDERLAY_MTU: u16 = 1_600;

/// How long a flow's first packets wait for their rule in tests, ms.
pub const SETUP_TIMEOUT_MS: u32 = 1_000;

/// A host's entry in the file.
#[derive(Debug, Clone)]
pub struct HostEntry {
    name: String,
    vtep: Option<String>,
    controller: Option<String>,
    underlay_mtu: u16,
    ports: Vec<String>,
    ports_see_fragments: bool,
    underlay_sees_fragments: bool,
    limits: String,
    nf_cpus: Option<String>,
}

impl HostEntry {
    /// A host whose NF instances share two CPUs, without ports.
    pub fn new(name: &str) -> Self {
        let limits = format!("setup_timeout_ms: {SETUP_TIMEOUT_MS}");
        let (name, vtep, controller, ports) = (name.to_owned(), None, None, Vec::new());
        let (ports_see_fragments, underlay_sees_fragments) = (false, false);
        let underlay_mtu = UNDERLAY_MTU;
        let nf_cpus = None;
        Self {
            name,
            vtep,
            controller,
            underlay_mtu,
            ports,
            ports_see_fragments,
            underlay_sees_fragments,
            limits,
            nf_cpus,
        }
    }

    /// With an underlay on the interface `under`, and this VTEP address.
    pub fn vtep(mut self, address: &str) -> Self {
        self.vtep = Some(address.to_owned());
        self
    }

    /// With an address at which the other hosts' controllers reach its own.
    pub fn controller(mut self, address: &str) -> Self {
        self.controller = Some(address.to_owned());
        self
    }

    /// With CPUs for instances that name none, and lcores for four more.
    pub fn nf_cpus(mut self, cpus: &str) -> Self {
        self.nf_cpus = Some(cpus.to_owned());
        self
    }

    /// With an underlay that carries less.
    pub fn underlay_mtu(mut self, mtu: u16) -> Self {
        self.underlay_mtu = mtu;
        self
    }

    /// With a port on the interface of the same name.
    pub fn port(mut self, interface: &str) -> Self {
        self.ports.push(interface.to_owned());
        self
    }

    /// With ports by libpcap. `net_af_packet` lets the kernel put IPv4 fragments together before it sees them (it joins a
    /// fanout group with PACKET_FANOUT_FLAG_DEFRAG), and keeps those whose rest does not come.
    pub fn seeing_fragments(mut self) -> Self {
        self.ports_see_fragments = true;
        self
    }

    /// The same for the underlay; of one host only, since the driver gives every host's first device the same address.
    pub fn seeing_outer_fragments(mut self) -> Self {
        self.underlay_sees_fragments = true;
        self
    }

    /// With a limit other than the default.
    pub fn limit(mut self, key: &str, value: u32) -> Self {
        write!(self.limits, ", {key}: {value}").expect("text");
        self
    }

    fn text(&self) -> String {
        let nf =
            self.nf_cpus.as_ref().map(|cpus| format!(", nf: \"{cpus}\"}}\n    spare_lcores: 4")).unwrap_or("}".into());
        let mut text = format!("  {}:\n    cpus: {{io: 0{nf}\n    share_cores: true\n    memory_mib: 64\n", self.name);
        writeln!(text, "    limits: {{mbufs: 12287, {}}}", self.limits).expect("text");
        if let Some(address) = &self.controller {
            writeln!(text, "    controller: {address}").expect("text");
        }
        if let Some(address) = &self.vtep {
            let device = device(self.underlay_sees_fragments, 0, "under");
            writeln!(text, "    underlay: {{device: \"{device}\", address: {address}, mtu: {}}}", self.underlay_mtu)
                .expect("text");
        }
        if !self.ports.is_empty() {
            text.push_str("    ports:\n");
        }
        for (at, port) in self.ports.iter().enumerate() {
            let device = device(self.ports_see_fragments, at + 1, port);
            writeln!(text, "      {port}: {{device: \"{device}\"}}").expect("text");
        }
        text
    }
}

fn device(sees_fragments: bool, number: usize, interface: &str) -> String {
    if sees_fragments {
        format!("net_pcap{number},rx_iface_in={interface},tx_iface={interface}")
    } else {
        format!("net_af_packet{number},iface={interface}")
    }
}

/// A whole file: these hosts, and the tenants' section below its key.
pub fn file(hosts: &[HostEntry], tenants: &str) -> String {
    let hosts: String = hosts.iter().map(HostEntry::text).collect();
    format!("version: 1\nhosts:\n{hosts}tenants:\n{tenants}")
}

/// One tenant with clients at `client_side` and servers at `server_side` (each `host: .., port: ..` or `host: .., vtep: ..`).
/// `functions` are the lines of `nfs`, `instances` and `chains`, each indented by four spaces.
pub fn tenant(name: &str, vni: u32, client_side: &str, server_side: &str, functions: &str) -> String {
    format!(
        "  {name}:
    vni: {vni}
    endpoints:
      clients: {{{client_side}, prefixes: [10.1.0.0/24, \"fd00:1::/64\"], gateways: [10.1.0.1, \"fd00:1::1\"]}}
      servers: {{{server_side}, prefixes: [10.2.0.0/24, \"fd00:2::/64\"], gateways: [10.2.0.1, \"fd00:2::1\"]}}
{functions}"
    )
}

/// The issue's chain over two hosts: two firewalls and a mangler at host1, two passthroughs at host2. Web traffic and the rest
/// are two chains with the same functions.
pub fn full_chain() -> String {
    let functions = r#"    nfs:
      edge:
        function: firewall
        config:
          rules: [{action: deny, protocol: tcp, destination_ports: 81}]
          default: allow
      nat: {function: mangler, config: {pool: [10.9.0.1, "fd00:9::1"]}}
      tap: {function: passthrough}
    instances:
      - {nf: edge, host: host1, cpu: 0}
      - {nf: edge, host: host1, cpu: 1}
      - {nf: nat, host: host1, cpu: 1}
      - {nf: tap, host: host2, cpu: 0}
      - {nf: tap, host: host2, cpu: 1}
    chains:
      web: {from: clients, to: servers, select: {protocol: tcp}, through: [edge, nat, tap]}
      rest: {from: clients, to: servers, through: [edge, nat, tap]}
"#;
    tenant("acme", 100, "host: host1, port: left", "host: host2, port: right", functions)
}

/// A chain through one passthrough on `host`, between the same endpoints.
pub fn tap_chain(host: &str) -> String {
    format!(
        "    nfs:
      tap: {{function: passthrough}}
    instances:
      - {{nf: tap, host: {host}, cpu: 1}}
    chains:
      all: {{from: clients, to: servers, through: [tap]}}
"
    )
}
