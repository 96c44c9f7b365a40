//! The section `tenants`: endpoints, functions, instances, chains. References are looked up here; what must agree between
//! several entries is [`super::check`]'s.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::Vni;

use super::hosts::{Known, is_unicast, lookup_port};
use super::hosts::{MAX_BANDWIDTH_MBPS, MAX_DELAY_US};
use super::selector::protocol_number;
use super::tree::{Section, Value, suggest};
use super::{Attachment, Chain, Demand, Endpoint, Host, Nf, PortRange, Problems, Selector, Tenant, instances};

pub(super) fn read(problems: &mut Problems, value: &Value<'_>, hosts: &[Host]) -> Vec<Tenant> {
    let hosts = Known::new(hosts);
    let entries = value.named(problems, "a table of tenants by name");
    if entries.is_empty() {
        value.note(problems, "no tenant is declared; declare at least one");
    }
    entries.iter().map(|(name, value)| tenant(problems, name, value, &hosts)).collect()
}

fn tenant(problems: &mut Problems, name: &str, value: &Value<'_>, hosts: &Known<'_>) -> Tenant {
    let known = ["vni", "endpoints", "nfs", "instances", "chains"];
    let section = value.section(problems, "a table of the tenant's keys", &known);
    let vni = section.need(problems, "vni", "give the tenant a VXLAN network identifier of its own, 1..=16777215");
    let mut vnis = vni.map(|value| vnis(problems, value)).unwrap_or_default().into_iter();
    let mut tenant = Tenant {
        name: name.to_owned(),
        line: value.line,
        vni: vnis.next().unwrap_or(UNREAD_VNI),
        spill: vnis.collect(),
        endpoints: Vec::new(),
        nfs: Vec::new(),
        instances: Vec::new(),
        chains: Vec::new(),
    };
    if let Some(value) = section.need(problems, "endpoints", "declare where clients and servers attach") {
        let entries = value.named(problems, "a table of endpoints by name");
        tenant.endpoints = entries.iter().map(|(name, value)| endpoint(problems, name, value, hosts)).collect();
    }
    if let Some(value) = section.get("nfs") {
        let entries = value.named(problems, "a table of functions by name");
        tenant.nfs = entries.iter().map(|(name, value)| nf(problems, name, value)).collect();
    }
    let items = section.get("instances").map(Value::items).unwrap_or_default();
    let served = instances::read(problems, &items, &mut tenant, hosts);
    if let Some(value) = section.get("chains") {
        let entries = value.named(problems, "a table of chains by name");
        tenant.chains = entries.iter().filter_map(|(name, value)| chain(problems, name, value, &tenant)).collect();
    }
    instances::bind(problems, served, &mut tenant);
    tenant
}

/// One network, or a list of networks and ranges of them.
fn vnis(problems: &mut Problems, value: &Value<'_>) -> Vec<Vni> {
    let mut found = Vec::new();
    for item in value.items() {
        let what = "a VXLAN network identifier, a number in 1..=16777215, or a range such as `1000-1009`";
        let Some(range) = item.parse::<NumberRange>(problems, what) else { continue };
        if range.last - range.first >= MAX_VNIS {
            item.note(
                problems,
                format!(
                    "{} networks are too many for one tenant; at most {MAX_VNIS} are",
                    range.last - range.first + 1
                ),
            );
            continue;
        }
        for vni in (range.first..=range.last).filter_map(|number| Vni::new(number).ok()) {
            if found.contains(&vni) {
                item.note(problems, format!("VNI {vni} stands in the list twice; name each once"));
            } else {
                found.push(vni);
            }
        }
    }
    if found.len() > MAX_VNIS as usize {
        value.note(problems, format!("{} networks are too many for one tenant; at most {MAX_VNIS} are", found.len()));
    }
    found
}

/// Networks of one tenant.
const MAX_VNIS: u32 = 256;

/// `100` or `1000-1009`, within what a network identifier can be.
struct NumberRange {
    first: u32,
    last: u32,
}

impl std::str::FromStr for NumberRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let read =
            |part: &str| part.trim().parse::<u32>().ok().filter(|number| (1..=0xff_ffff).contains(number)).ok_or(());
        let (first, last) = (read(first)?, read(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(()) }
    }
}

/// In place of a VNI that could not be read; the file may not use it, so it collides with nothing.
const UNREAD_VNI: Vni = match Vni::new(0) {
    Ok(vni) => vni,
    Err(_) => unreachable!(),
};

fn endpoint(problems: &mut Problems, name: &str, value: &Value<'_>, hosts: &Known<'_>) -> Endpoint {
    let known = ["host", "port", "vlan", "vtep", "prefixes", "gateways", "next_hops"];
    let section = value.section(problems, "a table of the endpoint's keys", &known);
    let host = section.need(problems, "host", "name the host that it attaches to");
    let host = host.and_then(|value| hosts.lookup(problems, value));
    let attachment = attachment(problems, &section, host.and_then(|index| hosts.get(index)));
    let prefixes = section.need(problems, "prefixes", "list the prefixes that live there, such as `[10.1.0.0/24]`");
    let prefixes = prefixes.map(|value| prefixes_of(problems, value)).unwrap_or_default();
    let next_hops = addresses(problems, &section, "next_hops");
    let gateways = addresses(problems, &section, "gateways");
    check_gateways(problems, &section, &prefixes, &gateways, &next_hops);
    Endpoint {
        name: name.to_owned(),
        line: value.line,
        host: host.unwrap_or(usize::MAX),
        attachment,
        prefixes,
        gateways: gateways.into_iter().map(|(_, address)| address).collect(),
        next_hops: next_hops.into_iter().map(|(_, address)| address).collect(),
    }
}

fn attachment(problems: &mut Problems, section: &Section<'_>, host: Option<&Host>) -> Attachment {
    let vlan: Option<u16> =
        section.get("vlan").and_then(|value| value.integer(problems, 1..=4_094, "an 802.1Q VLAN number"));
    match (section.get("port"), section.get("vtep")) {
        (Some(value), None) => {
            let port = host.and_then(|host| lookup_port(problems, value, host));
            Attachment::Port(port.unwrap_or(usize::MAX), vlan)
        }
        (None, Some(value)) => {
            let address: Option<IpAddr> = value.parse(problems, "the address of a VXLAN tunnel endpoint");
            if section.get("vlan").is_some() {
                value.note(problems, "an endpoint behind a VTEP has no `vlan`; remove it");
            }
            if let Some(host) = host
                && host.underlay.is_none()
            {
                let text = format!("host `{}` has no underlay to reach the VTEP by; declare its `underlay`", host.name);
                value.note(problems, text);
            }
            Attachment::Vtep(address.unwrap_or(IpAddr::from([0; 4])))
        }
        (None, None) => {
            section.at.note(problems, "neither `port` nor `vtep` is given; name a port of the host, or a foreign VTEP");
            Attachment::Port(usize::MAX, None)
        }
        (Some(value), Some(_)) => {
            value.note(problems, "both `port` and `vtep` are given; an endpoint has one of them, remove the other");
            Attachment::Port(usize::MAX, None)
        }
    }
}

/// Prefixes without host bits.
fn prefixes_of(problems: &mut Problems, value: &Value<'_>) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    for item in value.items() {
        let Some(net) = item.parse::<IpNet>(problems, "a prefix such as `10.1.0.0/24` or `fd00:1::/64`") else {
            continue;
        };
        if net.trunc() != net {
            item.note(problems, format!("{net} has bits behind its length; write {}", net.trunc()));
        }
        prefixes.push(net.trunc());
    }
    if value.items().is_empty() {
        value.note(problems, "the list is empty; name at least one prefix");
    }
    prefixes
}

fn addresses<'a>(problems: &mut Problems, section: &Section<'a>, key: &str) -> Vec<(Value<'a>, IpAddr)> {
    let mut found: Vec<(Value<'a>, IpAddr)> = Vec::new();
    for item in section.get(key).map(Value::items).unwrap_or_default() {
        let Some(address) = item.parse::<IpAddr>(problems, "an address such as `10.1.0.1`") else { continue };
        if !is_unicast(address) {
            item.note(problems, format!("{address} is not an address that one host can have; choose another"));
        }
        if let Some((_, other)) = found.iter().find(|(_, other)| other.is_ipv4() == address.is_ipv4()) {
            item.note(problems, format!("{address} is a second one of its family, next to {other}; one is enough"));
        }
        found.push((item, address));
    }
    found
}

fn check_gateways(
    problems: &mut Problems,
    section: &Section<'_>,
    prefixes: &[IpNet],
    gateways: &[(Value<'_>, IpAddr)],
    next_hops: &[(Value<'_>, IpAddr)],
) {
    for (value, gateway) in gateways {
        let routed = next_hops.iter().any(|(_, hop)| hop.is_ipv4() == gateway.is_ipv4());
        if !routed && !prefixes.is_empty() && !prefixes.iter().any(|prefix| prefix.contains(gateway)) {
            let text =
                format!("gateway {gateway} is in none of the endpoint's prefixes; choose an address out of them");
            value.note(problems, text);
        }
    }
    for (value, hop) in next_hops {
        if gateways.iter().any(|(_, gateway)| gateway == hop) {
            value.note(problems, format!("{hop} is the host's own gateway address; name the router's"));
        }
    }
    for (is_v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let has = prefixes.iter().any(|prefix| prefix.addr().is_ipv4() == is_v4);
        if has && !gateways.iter().any(|(_, gateway)| gateway.is_ipv4() == is_v4) {
            let text = format!(
                "the endpoint has {family} prefixes but no {family} gateway; add to `gateways` a free address of the link, \
                 it is the host's own there"
            );
            section.at.note(problems, text);
        }
    }
}

fn nf(problems: &mut Problems, name: &str, value: &Value<'_>) -> Nf {
    let section =
        value.section(problems, "a table of the function's keys", &["function", "config", "mangles", "capacity_pps"]);
    let names = || nf::functions().iter().map(|info| info.name);
    let function = section.need(problems, "function", "name its implementation, such as `firewall`");
    let function = function.and_then(|value| {
        let function = value.text(problems, "the name of a function")?;
        let known = nf::functions().iter().find(|info| info.name == function);
        if known.is_none() {
            value.note(problems, format!("there is no function `{function}`{}", suggest(&function, names())));
        }
        known
    });
    let config = section.get("config").map_or(serde_json::Value::Null, Value::json);
    let detect = section.get("mangles").is_some_and(Value::is_detect);
    let mangles = section.get("mangles").filter(|_| !detect).and_then(|value| {
        let declared = value.flag(problems)?;
        if !declared && function.is_some_and(|info| info.mangles) {
            value.note(problems, "this function rewrites addresses, it can't be declared otherwise; remove `mangles`");
        }
        Some(declared)
    });
    let nf = Nf {
        name: name.to_owned(),
        line: value.line,
        function: function.map(|info| info.name.to_owned()).unwrap_or_default(),
        mangles: !detect && mangles.unwrap_or_else(|| function.is_some_and(|info| info.mangles)),
        detect,
        config,
        capacity_pps: section
            .get("capacity_pps")
            .and_then(|value| value.integer(problems, 1..=MAX_PACKETS_PPS, "packets per second of one instance")),
    };
    // A configuration that instances may complete is checked with each of them; alone only if it is all there is.
    if let Some(info) = function
        && let Some(value) = section.get("config")
        && let Err(error) = nf::validate(info.name, &nf.config)
        && !is_missing_key(&error)
    {
        note_nf_error(problems, value, &error);
    }
    nf
}

/// True if the configuration may only lack what its instances add.
pub(super) fn is_missing_key(error: &packet::NfError) -> bool {
    error.path == "config" || error.problem.contains("missing field")
}

/// Puts an NF's own error at the line of the key that it names.
pub(super) fn note_nf_error(problems: &mut Problems, config: &Value<'_>, error: &packet::NfError) {
    let at = config.below(&error.path);
    problems.note(at.line, format!("{}.{}", config.key, error.path), error.problem.clone());
}

pub(super) fn lookup_nf(problems: &mut Problems, value: &Value<'_>, tenant: &Tenant) -> Option<usize> {
    let name = value.text(problems, "the name of one of the tenant's functions")?;
    let found = tenant.nfs.iter().position(|nf| nf.name == name);
    if found.is_none() {
        let names = tenant.nfs.iter().map(|nf| nf.name.as_str());
        value.note(problems, format!("tenant `{}` has no function `{name}`{}", tenant.name, suggest(&name, names)));
    }
    found
}

fn lookup_endpoint(problems: &mut Problems, section: &Section<'_>, key: &str, tenant: &Tenant) -> Option<usize> {
    let value = section.need(problems, key, "name one of the tenant's endpoints")?;
    let name = value.text(problems, "the name of one of the tenant's endpoints")?;
    let found = tenant.endpoints.iter().position(|endpoint| endpoint.name == name);
    if found.is_none() {
        let names = tenant.endpoints.iter().map(|endpoint| endpoint.name.as_str());
        value.note(problems, format!("tenant `{}` has no endpoint `{name}`{}", tenant.name, suggest(&name, names)));
    }
    found
}

fn chain(problems: &mut Problems, name: &str, value: &Value<'_>, tenant: &Tenant) -> Option<Chain> {
    let known = ["from", "to", "select", "through", "weights", "demand"];
    let section = value.section(problems, "a table of the chain's keys", &known);
    let from = lookup_endpoint(problems, &section, "from", tenant);
    let to = lookup_endpoint(problems, &section, "to", tenant);
    let mut through = Vec::new();
    let mut complete = true;
    for item in section.get("through").map(Value::items).unwrap_or_default() {
        match lookup_nf(problems, &item, tenant) {
            Some(nf) => through.push(nf),
            None => complete = false,
        }
    }
    let weights = section.get("weights").map(|value| weights(problems, value, tenant)).unwrap_or_default();
    let mut selector = section.get("select").map(|value| selector(problems, value)).unwrap_or_default();
    let (from, to) = (from?, to?);
    if from == to {
        section.at.note(problems, "`from` and `to` are the same endpoint; traffic inside an endpoint needs no chain");
    }
    if selector.sources.is_empty() {
        selector.sources.clone_from(&tenant.endpoints[from].prefixes);
    }
    if selector.destinations.is_empty() {
        selector.destinations.clone_from(&tenant.endpoints[to].prefixes);
    }
    if complete && selector.has_no_family() {
        let text = "source and destination have no address family in common, so no packet can match; correct `select` or the endpoints' prefixes";
        section.at.note(problems, text);
    }
    let demand = section.get("demand").map(|value| demand(problems, value));
    Some(Chain { name: name.to_owned(), line: value.line, from, to, selector, through, weights, demand })
}

/// More packets per second than any link has.
const MAX_PACKETS_PPS: i64 = 10_000_000_000;

fn demand(problems: &mut Problems, value: &Value<'_>) -> Demand {
    let known = ["packets_pps", "bandwidth_mbps", "delay_max_us"];
    let section = value.section(problems, "a table such as `{packets_pps: 100000, bandwidth_mbps: 400}`", &known);
    let mut number = |key, range, what| section.get(key).and_then(|value| value.integer::<u64>(problems, range, what));
    Demand {
        packets_pps: number("packets_pps", 0..=MAX_PACKETS_PPS, "packets per second")
            .unwrap_or(Demand::UNSAID.packets_pps),
        bandwidth_mbps: number("bandwidth_mbps", 0..=MAX_BANDWIDTH_MBPS, "Mbit/s")
            .unwrap_or(Demand::UNSAID.bandwidth_mbps),
        delay_max_us: number("delay_max_us", 0..=MAX_DELAY_US, "microseconds"),
    }
}

fn selector(problems: &mut Problems, value: &Value<'_>) -> Selector {
    let known = ["protocol", "source", "destination", "source_ports", "destination_ports"];
    let section = value.section(problems, "a table such as `{protocol: tcp, destination_ports: [80]}`", &known);
    let mut protocols = Vec::new();
    for item in section.get("protocol").map(Value::items).unwrap_or_default() {
        let Some(name) = item.text(problems, "a protocol") else { continue };
        match protocol_number(&name) {
            Some(number) => protocols.push(number),
            None => {
                item.note(problems, format!("unknown protocol `{name}`; use tcp, udp, icmp, icmp6 or a number 0..=255"))
            }
        }
    }
    let mut prefixes = |key| section.get(key).map(|value| prefixes_of(problems, value)).unwrap_or_default();
    let (sources, destinations) = (prefixes("source"), prefixes("destination"));
    let what = "a port 0..=65535 or a range such as `8000-8099`";
    let mut ports = |key| -> Vec<PortRange> {
        let Some(value) = section.get(key) else { return Vec::new() };
        if protocols.is_empty() || protocols.iter().any(|number| ![6, 17].contains(number)) {
            value.note(problems, "only TCP and UDP have ports; add `protocol: tcp`, `udp` or both");
        }
        value.parse_items(problems, what)
    };
    let (source_ports, destination_ports) = (ports("source_ports"), ports("destination_ports"));
    Selector { protocols, sources, destinations, source_ports, destination_ports }
}

fn weights(problems: &mut Problems, value: &Value<'_>, tenant: &Tenant) -> Vec<(usize, u32)> {
    let mut weights = Vec::new();
    let known: HashMap<&str, usize> =
        tenant.instances.iter().enumerate().map(|(index, instance)| (instance.name.as_str(), index)).collect();
    for (name, value) in value.entries(problems, "a table of instances and numbers, such as `{edge/1: 3, edge/2: 1}`") {
        let found = known.get(name).copied();
        if found.is_none() {
            let names = tenant.instances.iter().map(|instance| instance.name.as_str());
            let text = format!("tenant `{}` has no instance `{name}`{}", tenant.name, suggest(name, names));
            value.note(problems, text);
        }
        let weight = value.integer(problems, 0..=1_000, "a share of new flows, relative to the others");
        weights.extend(found.zip(weight));
    }
    weights
}
