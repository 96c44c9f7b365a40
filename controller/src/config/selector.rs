//! Which flows a chain takes: [`Selector`].
//!
//! A flow is given to the first chain of its source endpoint, in the file's order, whose selector matches. An absent list
//! means "any", but for `source` and `destination`, which then are the prefixes of the chain's endpoints.

use std::fmt;

use ipnet::IpNet;
use packet::{FiveTuple, protocol};
use serde::{Deserialize, Serialize};

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not before the first.
    pub last: u16,
}

impl PortRange {
    const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl std::str::FromStr for PortRange {
    type Err = ();

    /// `80`, or `8000-8099`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: u16 = first.trim().parse().map_err(|_| ())?;
        let last: u16 = last.trim().parse().map_err(|_| ())?;
        if first <= last { Ok(Self { first, last }) } else { Err(()) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Which flows a chain takes. An empty list matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Selector {
    /// IP protocol numbers.
    pub protocols: Vec<u8>,
    /// Prefixes of the source address.
    pub sources: Vec<IpNet>,
    /// Prefixes of the destination address.
    pub destinations: Vec<IpNet>,
    /// TCP or UDP source ports.
    pub source_ports: Vec<PortRange>,
    /// TCP or UDP destination ports.
    pub destination_ports: Vec<PortRange>,
}

impl Selector {
    /// Whether the flow is one of the chain's.
    pub fn matches(&self, flow: &FiveTuple) -> bool {
        let has = |list: &[IpNet], address| list.is_empty() || list.iter().any(|prefix| prefix.contains(&address));
        let in_range = |list: &[PortRange], port| list.is_empty() || list.iter().any(|range| range.contains(port));
        (self.protocols.is_empty() || self.protocols.contains(&flow.protocol))
            && has(&self.sources, flow.source)
            && has(&self.destinations, flow.destination)
            && in_range(&self.source_ports, flow.source_port)
            && in_range(&self.destination_ports, flow.destination_port)
    }

    /// True if every flow that the other one takes is also taken by this one, item by item; a union of items that covers
    /// only together is not seen.
    pub fn covers(&self, other: &Self) -> bool {
        fn each<T>(mine: &[T], theirs: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
            let covered = |item: &T| mine.iter().any(|own| covers(own, item));
            mine.is_empty() || (!theirs.is_empty() && theirs.iter().all(covered))
        }
        each(&self.protocols, &other.protocols, |own, item| own == item)
            && each(&self.sources, &other.sources, |own, item| own.contains(item))
            && each(&self.destinations, &other.destinations, |own, item| own.contains(item))
            && each(&self.source_ports, &other.source_ports, |own, item| own.covers(*item))
            && each(&self.destination_ports, &other.destination_ports, |own, item| own.covers(*item))
    }

    /// True if no packet can match, because source and destination have no family in common.
    pub fn has_no_family(&self) -> bool {
        let families = |list: &[IpNet]| {
            let any = list.is_empty();
            (any || list.iter().any(|net| net.addr().is_ipv4()), any || list.iter().any(|net| net.addr().is_ipv6()))
        };
        let (source, destination) = (families(&self.sources), families(&self.destinations));
        !(source.0 && destination.0 || source.1 && destination.1)
    }
}

/// The number of a protocol's name, or of a number.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(protocol::TCP),
        "udp" => Some(protocol::UDP),
        "icmp" => Some(protocol::ICMP),
        "icmp6" => Some(protocol::ICMPV6),
        number => number.parse().ok(),
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::ICMP => "icmp".into(),
        protocol::ICMPV6 => "icmp6".into(),
        other => format!("ip-{other}"),
    }
}

fn joined<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocols: Vec<String> = self.protocols.iter().map(|number| protocol_name(*number)).collect();
        let side = |prefixes: &[IpNet], ports: &[PortRange]| {
            let prefixes = if prefixes.is_empty() { "any".to_owned() } else { joined(prefixes) };
            if ports.is_empty() { prefixes } else { format!("{prefixes} port {}", joined(ports)) }
        };
        let protocol = if protocols.is_empty() { "any".to_owned() } else { joined(&protocols) };
        let source = side(&self.sources, &self.source_ports);
        write!(f, "{protocol} {source} > {}", side(&self.destinations, &self.destination_ports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str, destination: &str, destination_port: u16) -> FiveTuple {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        FiveTuple { source, destination, source_port: 40_000, destination_port, protocol: protocol::TCP }
    }

    fn web() -> Selector {
        Selector {
            protocols: vec![protocol::TCP],
            sources: vec!["10.1.0.0/24".parse().unwrap()],
            destinations: vec!["10.2.0.0/24".parse().unwrap()],
            source_ports: vec![],
            destination_ports: vec!["80".parse().unwrap(), "8000-8099".parse().unwrap()],
        }
    }

    #[test]
    fn every_part_of_a_selector_can_say_no() {
        assert!(web().matches(&flow("10.1.0.7", "10.2.0.1", 8099)));
        assert!(!web().matches(&flow("10.1.1.7", "10.2.0.1", 80)));
        assert!(!web().matches(&flow("10.1.0.7", "10.3.0.1", 80)));
        assert!(!web().matches(&flow("10.1.0.7", "10.2.0.1", 8100)));
        assert!(!web().matches(&FiveTuple { protocol: protocol::UDP, ..flow("10.1.0.7", "10.2.0.1", 80) }));
        assert!(Selector::default().matches(&flow("fd00::1", "fd00::2", 1)));
    }

    #[test]
    fn a_selector_covers_itself_and_narrower_ones_only() {
        let narrow = Selector { destination_ports: vec!["8001".parse().unwrap()], ..web() };
        assert!(web().covers(&web()) && web().covers(&narrow) && Selector::default().covers(&web()));
        assert!(!narrow.covers(&web()) && !web().covers(&Selector::default()));
    }

    #[test]
    fn a_port_range_runs_upwards() {
        assert!("90-80".parse::<PortRange>().is_err());
        assert!("65536".parse::<PortRange>().is_err());
        assert_eq!("80".parse::<PortRange>().unwrap().to_string(), "80");
    }

    #[test]
    fn families_must_meet() {
        let mixed = Selector { destinations: vec!["fd00::/64".parse().unwrap()], ..web() };
        assert!(mixed.has_no_family() && !web().has_no_family() && !Selector::default().has_no_family());
    }

    #[test]
    fn a_selector_reads_like_a_sentence() {
        assert_eq!(web().to_string(), "tcp 10.1.0.0/24 > 10.2.0.0/24 port 80,8000-8099");
        assert_eq!(Selector::default().to_string(), "any any > any");
    }
}
