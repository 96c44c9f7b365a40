//! The rules of a firewall, compiled into flat arrays, and the first one that matches.
//!
//! On the packet's path: once per new connection. A thousand rules that all hold a flow back cost some instructions each.
//!
//! Invariant: a rule's sieve lets through all that the rule matches.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use packet::FiveTuple;

use super::{Action, Rule};
use crate::config::{List, Ports, Prefix};
use crate::flow_table::{Key, address_bits};

/// A part of one of [`Compiled`]'s flat arrays; an empty one matches everything.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

/// A rule with its lists in the flat arrays.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompiledRule {
    /// None matches all.
    protocol: Option<u8>,
    pub action: Action,
    /// Its place in the configuration.
    pub number: u32,
    source: Span,
    destination: Span,
    source_ports: Span,
    destination_ports: Span,
}

/// The rules of one family. A rule whose prefixes are all of the other family is left out.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    rules: Vec<CompiledRule>,
    /// Of each rule, in the same order.
    sieves: Vec<Sieve>,
    /// Network and mask, as numbers of the family.
    prefixes: Vec<(u128, u128)>,
    ports: Vec<RangeInclusive<u16>>,
}

impl Compiled {
    /// Compiles the rules that have something to say about this family.
    pub fn new(rules: &[Rule], is_v6: bool) -> Self {
        let mut compiled = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let Some(source) = compiled.add_prefixes(&rule.source, is_v6) else { continue };
            let Some(destination) = compiled.add_prefixes(&rule.destination, is_v6) else { continue };
            let source_ports = compiled.add_ports(&rule.source_ports);
            let destination_ports = compiled.add_ports(&rule.destination_ports);
            compiled.rules.push(CompiledRule {
                protocol: rule.protocol.number(is_v6),
                action: rule.action,
                number: number as u32,
                source,
                destination,
                source_ports,
                destination_ports,
            });
        }
        compiled.sieves = compiled.rules.iter().map(|rule| compiled.sieve(rule, is_v6)).collect();
        compiled
    }

    /// None if there are prefixes but none of this family, so that nothing of the family can match.
    fn add_prefixes(&mut self, list: &List<Prefix>, is_v6: bool) -> Option<Span> {
        let start = self.prefixes.len();
        let of_family = list.0.iter().filter(|prefix| prefix.0.addr().is_ipv6() == is_v6);
        self.prefixes.extend(of_family.map(|prefix| network_and_mask(&prefix.0)));
        let span = Span { start: start as u32, end: self.prefixes.len() as u32 };
        (list.0.is_empty() || self.prefixes.len() > start).then_some(span)
    }

    fn add_ports(&mut self, list: &List<Ports>) -> Span {
        let start = self.ports.len();
        self.ports.extend(list.0.iter().map(|ports| ports.range()));
        Span { start: start as u32, end: self.ports.len() as u32 }
    }

    fn has_address(&self, span: Span, address: u128) -> bool {
        let prefixes = self.prefixes.get(span.start as usize..span.end as usize).unwrap_or_default();
        prefixes.is_empty() || prefixes.iter().any(|(network, mask)| address & mask == *network)
    }

    fn has_port(&self, span: Span, port: u16) -> bool {
        let ports = self.ports.get(span.start as usize..span.end as usize).unwrap_or_default();
        ports.is_empty() || ports.iter().any(|range| range.contains(&port))
    }

    /// The first rule that matches a flow in forward direction.
    pub fn first_match(&self, key: &Key, tuple: &FiveTuple) -> Option<&CompiledRule> {
        let (addresses, rest) = (together(key.source, key.destination, key.is_v6), rest(key.protocol, tuple));
        let passes = |sieve: &Sieve| (addresses ^ sieve.addresses) & sieve.address_mask == 0;
        let passes = |sieve: &Sieve| passes(sieve) && (rest ^ sieve.rest) & sieve.rest_mask == 0;
        let rules = self.sieves.iter().zip(&self.rules).filter(|(sieve, _)| passes(sieve));
        rules.map(|(_, rule)| rule).find(|rule| self.matches(rule, key, tuple))
    }

    fn matches(&self, rule: &CompiledRule, key: &Key, tuple: &FiveTuple) -> bool {
        rule.protocol.is_none_or(|number| number == key.protocol)
            && self.has_address(rule.destination, key.destination)
            && self.has_address(rule.source, key.source)
            && self.has_port(rule.destination_ports, tuple.destination_port)
            && self.has_port(rule.source_ports, tuple.source_port)
    }

    fn sieve(&self, rule: &CompiledRule, is_v6: bool) -> Sieve {
        let prefixes = |span: Span| &self.prefixes[span.start as usize..span.end as usize];
        let ports = |span: Span| {
            let ranges = &self.ports[span.start as usize..span.end as usize];
            common(ranges.iter().map(|range| {
                let differing = u32::from(range.start() ^ range.end());
                let mask = !(u32::MAX.checked_shr(differing.leading_zeros()).unwrap_or(0)) & 0xffff;
                (u128::from(*range.start()), u128::from(mask))
            }))
        };
        let (source, destination) =
            (common(prefixes(rule.source).iter().copied()), common(prefixes(rule.destination).iter().copied()));
        let (source_ports, destination_ports) = (ports(rule.source_ports), ports(rule.destination_ports));
        let packed = |protocol: u8, source: u128, destination: u128| {
            u64::from(protocol) << 32 | (source as u64) << 16 | destination as u64
        };
        Sieve {
            addresses: together(source.0, destination.0, is_v6),
            address_mask: together(source.1, destination.1, is_v6),
            rest: packed(rule.protocol.unwrap_or(0), source_ports.0, destination_ports.0),
            rest_mask: packed(rule.protocol.map_or(0, |_| u8::MAX), source_ports.1, destination_ports.1),
        }
    }
}

/// A quick look at a rule, by bits that all that it matches have in common: what it lets through may match, what it holds back
/// does not. Most rules hold most flows back, and 32 bytes of each are read in order.
#[derive(Debug, Clone, Copy)]
struct Sieve {
    /// Source above destination: of IPv6, the first 32 bits of each.
    addresses: u64,
    address_mask: u64,
    /// Protocol, source port, destination port.
    rest: u64,
    rest_mask: u64,
}

/// The bits that several values under masks have in common, and their mask; no value stands for any.
fn common(mut values: impl Iterator<Item = (u128, u128)>) -> (u128, u128) {
    let Some(first) = values.next() else { return (0, 0) };
    let (value, mask) = values.fold(first, |(value, mask), (other, its)| (value, mask & its & !(value ^ other)));
    (value & mask, mask)
}

fn together(source: u128, destination: u128, is_v6: bool) -> u64 {
    let half = |address: u128| if is_v6 { (address >> 96) as u64 } else { u64::from(address as u32) };
    half(source) << 32 | half(destination)
}

fn rest(protocol: u8, tuple: &FiveTuple) -> u64 {
    u64::from(protocol) << 32 | u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port)
}

fn network_and_mask(prefix: &IpNet) -> (u128, u128) {
    (address_bits(prefix.network()), address_bits(prefix.netmask()))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use packet::Vni;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Few values each, so that rules and flows meet.
    fn address(is_v6: bool, number: u8) -> IpAddr {
        if is_v6 {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number & 3) << 100 | u128::from(number)).into()
        } else {
            Ipv4Addr::from_bits(0x0a01_0000 | u32::from(number & 3) << 14 | u32::from(number)).into()
        }
    }

    prop_compose! {
        fn list(is_v6: bool)(of in prop::collection::vec((any::<u8>(), 0_u8..=32), 0..3)) -> Vec<String> {
            let factor = if is_v6 { 4 } else { 1 };
            of.into_iter().map(|(number, bits)| {
                IpNet::new(address(is_v6, number), bits * factor).unwrap().trunc().to_string()
            }).collect()
        }
    }

    fn ports() -> impl Strategy<Value = Vec<String>> {
        let range = (0_u16..40, 0_u16..20).prop_map(|(first, more)| format!("{first}-{}", first + more));
        prop::collection::vec(range, 0..3)
    }

    fn rules(is_v6: bool) -> impl Strategy<Value = Vec<Value>> {
        let protocol = prop_oneof![Just("any"), Just("tcp"), Just("udp")];
        let lists = (list(is_v6), list(is_v6), ports(), ports());
        let rule = (protocol, lists).prop_map(|(protocol, (source, destination, source_ports, destination_ports))| {
            let mut rule = json!({ "action": "allow", "protocol": protocol });
            let lists = [
                ("source", source),
                ("destination", destination),
                ("source_ports", source_ports),
                ("destination_ports", destination_ports),
            ];
            for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
                rule[key] = json!(list);
            }
            rule
        });
        prop::collection::vec(rule, 1..8)
    }

    proptest! {
        /// Breaks if a sieve holds a flow back that its rule matches.
        #[test]
        fn a_sieve_hides_no_rule(
            (is_v6, rules) in any::<bool>().prop_flat_map(|is_v6| (Just(is_v6), rules(is_v6))),
            flows in prop::collection::vec((any::<u8>(), any::<u8>(), 0_u16..60, 0_u16..60, any::<bool>()), 1..40),
        ) {
            let rules: Vec<Rule> = serde_json::from_value(Value::Array(rules)).unwrap();
            let compiled = Compiled::new(&rules, is_v6);
            for (source, destination, source_port, destination_port, tcp) in flows {
                let tuple = FiveTuple {
                    source: address(is_v6, source),
                    destination: address(is_v6, destination),
                    source_port,
                    destination_port,
                    protocol: if tcp { 6 } else { 17 },
                };
                let key = Key::new(Vni::default(), &tuple);
                let plain = compiled.rules.iter().find(|rule| compiled.matches(rule, &key, &tuple));
                let found = compiled.first_match(&key, &tuple);
                prop_assert_eq!(found.map(|rule| rule.number), plain.map(|rule| rule.number));
            }
        }
    }
}
