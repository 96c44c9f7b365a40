//! The section `hosts`: machines, their CPUs, memory, ports and limits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use shm::launch::Limits;

use super::tree::{Section, Value, suggest};
use super::{Host, Hugepages, Port, Problems, Underlay};

/// The highest CPU number that is believed.
const MAX_CPU: i64 = 1_023;
/// More than any link has.
pub(super) const MAX_BANDWIDTH_MBPS: i64 = 10_000_000;
/// A minute; farther is nothing.
pub(super) const MAX_DELAY_US: i64 = 60_000_000;
/// From a host to the middle of an underlay that says nothing of it: a switch and two cables.
const DELAY_US: u64 = 10;

/// The name of the underlay's port; no other port may have it.
const UNDERLAY: &str = "underlay";

pub(super) fn read(problems: &mut Problems, value: &Value<'_>) -> Vec<Host> {
    let entries = value.named(problems, "a table of hosts by name");
    if entries.is_empty() {
        value.note(problems, "no host is declared; declare at least one");
    }
    entries.iter().map(|(name, value)| host(problems, name, value)).collect()
}

fn host(problems: &mut Problems, name: &str, value: &Value<'_>) -> Host {
    let known = [
        "cpus",
        "spare_lcores",
        "share_cores",
        "memory_mib",
        "hugepages",
        "eal",
        UNDERLAY,
        "controller",
        "ports",
        "limits",
    ];
    let section = value.section(problems, "a table of the host's keys", &known);
    let Cpus { io: io_cpus, control: control_cpu, controller: controller_cpu, nf: nf_cpus } = cpus(problems, &section);
    let flag = |problems: &mut Problems, key| section.get(key).and_then(|value| value.flag(problems));
    let memory = section.get("memory_mib").and_then(|v| v.integer(problems, 16..=1_048_576, "MiB of memory"));
    let mut spread = Spread { io: &io_cpus, next: 0 };
    let underlay = section.get(UNDERLAY).and_then(|value| underlay(problems, value, &mut spread));
    let ports = match section.get("ports") {
        Some(value) => value.named(problems, "a table of ports by name"),
        None => Vec::new(),
    };
    let ports: Vec<Port> = ports.iter().map(|(name, value)| port(problems, name, value, &mut spread)).collect();
    let host = Host {
        name: name.to_owned(),
        line: value.line,
        control_cpu,
        controller_cpu,
        nf_cpus,
        spare_lcores: section
            .get("spare_lcores")
            .and_then(|value| value.integer(problems, 0..=120, "lcores for instances yet to come")),
        controller: section.get("controller").and_then(|value| controller(problems, value)),
        share_cores: flag(problems, "share_cores").unwrap_or(false),
        memory_mib: memory.unwrap_or(256),
        hugepages: section.get("hugepages").map_or(Hugepages::Auto, |value| hugepages(problems, value)),
        eal: section.get("eal").map(|value| value.parse_items(problems, "an EAL argument")).unwrap_or_default(),
        underlay,
        ports,
        limits: section.get("limits").map(|value| limits(problems, value)).unwrap_or_default(),
        io_cpus: io_cpus.clone(),
    };
    check_devices(problems, &section, &host);
    check_memory(problems, &section, &host);
    host
}

struct Cpus {
    io: Vec<u16>,
    control: Option<u16>,
    controller: Option<u16>,
    nf: Vec<u16>,
}

fn cpus(problems: &mut Problems, section: &Section<'_>) -> Cpus {
    let remedy = "write `cpus: {io: 0}` with the CPU that polls the ports";
    let Some(value) = section.need(problems, "cpus", remedy) else {
        return Cpus { io: vec![0], control: None, controller: None, nf: Vec::new() };
    };
    let keys = ["io", "control", "controller", "nf"];
    let cpus = value.section(problems, "a table with `io`, `control`, `controller` and `nf`", &keys);
    let io = match cpus.need(problems, "io", "name the CPU that polls the ports") {
        Some(value) => cpu_list(problems, value),
        None => Vec::new(),
    };
    // Also after a mistake that is noted already: ports need some CPU to be read against.
    let io = if io.is_empty() { vec![0] } else { io };
    let nf = cpus.get("nf").map(|value| cpu_list(problems, value)).unwrap_or_default();
    let mut cpu_or_none = |key| {
        let value = cpus.get(key)?;
        let none = !value.is_integer() && value.text(problems, "a CPU number or `none`").as_deref() == Some("none");
        if none { None } else { cpu(problems, value) }
    };
    let (control, controller) = (cpu_or_none("control"), cpu_or_none("controller"));
    Cpus { io, control, controller, nf }
}

/// Where the controller listens to the others.
fn controller(problems: &mut Problems, value: &Value<'_>) -> Option<SocketAddr> {
    let address: SocketAddr = value.parse(problems, "an address with a TCP port, such as `198.51.100.1:7475`")?;
    if !is_unicast(address.ip()) && !address.ip().is_loopback() || address.port() == 0 {
        let text =
            format!("{address} is not an address that the other hosts can reach; name one of this host's with a port");
        value.note(problems, text);
    }
    Some(address)
}

/// A CPU number, as the kernel numbers them.
pub(super) fn cpu(problems: &mut Problems, value: &Value<'_>) -> Option<u16> {
    value.integer(problems, 0..=MAX_CPU, "a CPU number as `lscpu` shows it")
}

/// `0`, `0,2-3`, or a list of such.
fn cpu_list(problems: &mut Problems, value: &Value<'_>) -> Vec<u16> {
    let mut cpus: Vec<u16> = Vec::new();
    for item in value.items() {
        let Some(text) = item.text(problems, "CPU numbers such as `0` or `0,2-3`") else { continue };
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if first <= last && i64::from(last) <= MAX_CPU => cpus.extend(first..=last),
                _ => item.note(
                    problems,
                    format!("`{text}` is not a CPU list; write CPU numbers up to {MAX_CPU} as `0` or `0,2-3`"),
                ),
            }
        }
    }
    let mut seen = Vec::new();
    for cpu in &cpus {
        if seen.contains(cpu) {
            value.note(problems, format!("CPU {cpu} stands in the list twice; name each CPU once"));
        }
        seen.push(*cpu);
    }
    cpus
}

fn hugepages(problems: &mut Problems, value: &Value<'_>) -> Hugepages {
    match value.json() {
        serde_json::Value::Bool(true) => Hugepages::Required,
        serde_json::Value::Bool(false) => Hugepages::Never,
        serde_json::Value::String(text) if text == "auto" => Hugepages::Auto,
        other => {
            value.note(problems, format!("expected `auto`, `true` or `false`, found `{other}`"));
            Hugepages::Auto
        }
    }
}

/// Gives the ports of a host to its I/O CPUs in turn, unless a port names one.
struct Spread<'a> {
    io: &'a [u16],
    next: usize,
}

impl Spread<'_> {
    fn take(&mut self, problems: &mut Problems, section: &Section<'_>) -> u16 {
        if let Some(value) = section.get("cpu") {
            let Some(cpu) = cpu(problems, value) else { return self.io[0] };
            if !self.io.contains(&cpu) {
                let text = format!(
                    "CPU {cpu} is not one of the host's I/O CPUs; add it to `cpus.io` or name one of {:?}",
                    self.io
                );
                value.note(problems, text);
            }
            return cpu;
        }
        let cpu = self.io[self.next % self.io.len()];
        self.next += 1;
        cpu
    }
}

const PORT_KEYS: [&str; 5] = ["device", "mtu", "cpu", "queues", "descriptors"];

fn port(problems: &mut Problems, name: &str, value: &Value<'_>, spread: &mut Spread<'_>) -> Port {
    if name == UNDERLAY {
        value.note(problems, "`underlay` is the name of the underlay's own port; choose another name");
    }
    let section = value.section(problems, "a table of the port's keys", &PORT_KEYS);
    port_keys(problems, name, &section, spread)
}

fn port_keys(problems: &mut Problems, name: &str, section: &Section<'_>, spread: &mut Spread<'_>) -> Port {
    let remedy = "name a PCI address (`0000:21:00.0`) or a virtual device (`net_af_packet0,iface=eth0`)";
    let device = section.need(problems, "device", remedy).and_then(|value| value.text(problems, "a DPDK device"));
    let mut number = |key, range, what| section.get(key).and_then(|value| value.integer(problems, range, what));
    let mtu = number("mtu", 1_280..=9_600, "the largest IP packet in bytes");
    let queues = number("queues", 1..=64, "receive queues");
    let descriptors = number("descriptors", 64..=8_192, "descriptors per queue");
    Port {
        name: name.to_owned(),
        device: device.unwrap_or_default(),
        mtu: mtu.unwrap_or(1_500),
        cpu: spread.take(problems, section),
        queues: queues.unwrap_or(1),
        descriptors: descriptors.unwrap_or(512),
    }
}

fn underlay(problems: &mut Problems, value: &Value<'_>, spread: &mut Spread<'_>) -> Option<Underlay> {
    let known = [&["address", "gateway", "udp_port", "bandwidth_mbps", "delay_us"][..], &PORT_KEYS[..]].concat();
    let section = value.section(problems, "a table of the underlay's keys", &known);
    let port = port_keys(problems, UNDERLAY, &section, spread);
    let remedy = "give the host's VTEP address with its prefix length, such as `192.0.2.1/24`";
    let address = section.need(problems, "address", remedy);
    let address: Option<(&Value<'_>, IpNet)> =
        address.and_then(|value| Some((value, value.parse(problems, "an address with prefix length")?)));
    let gateway = section.get("gateway");
    let gateway: Option<(&Value<'_>, IpAddr)> =
        gateway.and_then(|value| Some((value, value.parse(problems, "the address of a router")?)));
    let udp_port = section.get("udp_port").and_then(|value| value.integer(problems, 1..=65_535, "a UDP port"));
    let bandwidth_mbps = section.get("bandwidth_mbps");
    let bandwidth_mbps =
        bandwidth_mbps.and_then(|value| value.integer(problems, 1..=MAX_BANDWIDTH_MBPS, "Mbit/s of the link"));
    let delay_us = section.get("delay_us");
    let delay_us = delay_us.and_then(|value| value.integer(problems, 0..=MAX_DELAY_US, "microseconds"));
    let (at, address) = address?;
    // Room for VXLAN's headers around the least packet that IPv6 must carry (RFC 8200 section 5).
    if port.mtu < 1_350 {
        section
            .at
            .note(problems, format!("mtu {} leaves less than 1280 bytes inside VXLAN; use 1350 or more", port.mtu));
    }
    if !is_unicast(address.addr()) || (address.prefix_len() < address.max_prefix_len() - 1 && is_edge(address)) {
        at.note(problems, format!("{address} is not an address that a host can have; choose one inside the prefix"));
    }
    if let Some((at, router)) = gateway
        && (!address.contains(&router) || router == address.addr())
    {
        let text = format!("{router} is not another host in {}; name a router on the underlay's link", address.trunc());
        at.note(problems, text);
    }
    let gateway = gateway.map(|(_, router)| router);
    let udp_port = udp_port.unwrap_or(4_789);
    Some(Underlay { port, address, gateway, udp_port, bandwidth_mbps, delay_us: delay_us.unwrap_or(DELAY_US) })
}

/// True for the first and last address of an IPv4 prefix, and the first of an IPv6 prefix.
fn is_edge(net: IpNet) -> bool {
    net.addr() == net.network() || (net.addr().is_ipv4() && net.addr() == net.broadcast())
}

/// An address that one host can have.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

fn limits(problems: &mut Problems, value: &Value<'_>) -> Limits {
    const RANGES: [(&str, i64, i64, &str); 11] = [
        ("flows", 64, 16_777_215, "exact rules per lcore"),
        ("tag_rules", 16, 65_536, "tag rules per lcore"),
        ("parked", 1, 1_048_576, "packets parked per lcore"),
        ("parked_per_flow", 1, 4_096, "packets parked per flow"),
        ("setup_timeout_ms", 10, 60_000, "milliseconds"),
        ("tcp_idle_s", 1, 604_800, "seconds"),
        ("tcp_closing_s", 1, 3_600, "seconds"),
        ("udp_idle_s", 1, 604_800, "seconds"),
        ("other_idle_s", 1, 604_800, "seconds"),
        ("ring", 64, 65_536, "entries of a ring between lcores"),
        ("mbufs", 1_023, 16_777_215, "packet buffers"),
    ];
    let section = value.section(problems, "a table of limits", &RANGES.map(|(key, ..)| key));
    let mut limits = Limits::default();
    for (key, first, last, what) in RANGES {
        let Some(value) = section.get(key) else { continue };
        let Some(number) = value.integer::<u32>(problems, first..=last, what) else { continue };
        match key {
            "flows" => limits.flows = number,
            "tag_rules" => limits.tag_rules = number,
            "parked" => limits.parked = number,
            "parked_per_flow" => limits.parked_per_flow = u16::try_from(number).unwrap_or(u16::MAX),
            "setup_timeout_ms" => limits.setup_timeout_ms = number,
            "tcp_idle_s" => limits.tcp_idle_s = number,
            "tcp_closing_s" => limits.tcp_closing_s = number,
            "udp_idle_s" => limits.udp_idle_s = number,
            "other_idle_s" => limits.other_idle_s = number,
            "ring" if !number.is_power_of_two() => {
                let text = format!("{number} is not a power of two; use {}", number.next_power_of_two());
                value.note(problems, text);
            }
            "ring" => limits.ring = number,
            _ => limits.mbufs = number,
        }
    }
    limits
}

/// What two devices must not have in common: the name before the arguments, or the kernel interface among them.
fn device_identities(device: &str) -> Vec<String> {
    let mut parts = device.split(',');
    let name = parts.next().unwrap_or_default().to_owned();
    let interface = parts.find_map(|part| part.strip_prefix("iface=").map(|name| format!("interface {name}")));
    [Some(name), interface].into_iter().flatten().collect()
}

fn check_devices(problems: &mut Problems, section: &Section<'_>, host: &Host) {
    let mut owners: HashMap<String, &str> = HashMap::new();
    for port in host.underlay.iter().map(|underlay| &underlay.port).chain(&host.ports) {
        if port.device.is_empty() {
            continue;
        }
        for identity in device_identities(&port.device) {
            if let Some(owner) = owners.insert(identity.clone(), &port.name) {
                let text = format!("ports `{owner}` and `{}` both use {identity}; give each its own device", port.name);
                section.at.note(problems, text);
                break;
            }
        }
    }
    if host.ports.is_empty() && host.underlay.is_none() {
        section.at.note(problems, "the host has neither `ports` nor an `underlay`; declare one, or remove the host");
    }
}

/// A packet buffer with its headroom and its mempool header, bytes.
const MBUF_BYTES: u64 = 2_560;

fn check_memory(problems: &mut Problems, section: &Section<'_>, host: &Host) {
    let need = u64::from(host.limits.mbufs) * MBUF_BYTES / (1 << 20) + 16;
    if need > u64::from(host.memory_mib) {
        let text = format!(
            "memory_mib: {} MiB can't hold {} packet buffers; set memory_mib to {need} or more, or lower limits.mbufs",
            host.memory_mib, host.limits.mbufs
        );
        section.at.note(problems, text);
    }
}

/// The declared hosts, found by name.
pub(super) struct Known<'a> {
    hosts: &'a [Host],
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Known<'a> {
    pub(super) fn new(hosts: &'a [Host]) -> Self {
        let by_name = hosts.iter().enumerate().map(|(index, host)| (host.name.as_str(), index)).collect();
        Self { hosts, by_name }
    }

    pub(super) fn get(&self, index: usize) -> Option<&'a Host> {
        self.hosts.get(index)
    }

    /// The index of a declared host.
    pub(super) fn lookup(&self, problems: &mut Problems, value: &Value<'_>) -> Option<usize> {
        let name = value.text(problems, "a host's name")?;
        let found = self.by_name.get(name.as_str()).copied();
        if found.is_none() {
            let names = self.hosts.iter().map(|host| host.name.as_str());
            value.note(problems, format!("there is no host `{name}`{}", suggest(&name, names)));
        }
        found
    }
}

/// The index of a declared port.
pub(super) fn lookup_port(problems: &mut Problems, value: &Value<'_>, host: &Host) -> Option<usize> {
    let name = value.text(problems, "a port's name")?;
    let found = host.ports.iter().position(|port| port.name == name);
    if found.is_none() {
        let names = host.ports.iter().map(|port| port.name.as_str());
        value.note(problems, format!("host `{}` has no port `{name}`{}", host.name, suggest(&name, names)));
    }
    found
}
