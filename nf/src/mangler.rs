//! *mangler*: rewrites the client's address to one of a pool, and back in the answers. Addresses only; ports never
//! change.
//!
//! On the packet's path: it delimits subchains. What leaves it forward is another flow than what entered, so that its
//! output meets the exact table again; answers come back through the same instance, which alone knows the mapping.
//!
//! ```text
//! forward   client:p > server:q   becomes   pool:p > server:q       (new mapping, or the flow's own)
//! reverse   server:q > pool:p     becomes   server:q > client:p     (mapping needed, else ManglerNoMapping)
//! ```
//!
//! **Which address.** A hash of the client's network and address picks its preferred one, the same for all its flows
//! (pooling "Paired", RFC 4787 section 4.1, REQ-2) and the same after a restart, so that flows
//! survive that. Since ports stay, (VNI, pool address, destination, ports, protocol) must be free; if it is not, the
//! next addresses are tried, at most [`MAX_TRIES`]: every address of a pool of up to that size, a spread-out sample of
//! a larger one. Pools are never enumerated: the n-th address is computed. Two instances must not have overlapping
//! pools.
//!
//! **ICMP errors** follow the flow that they quote, with the quoted address rewritten as well; they neither make a
//! mapping nor keep one alive (RFC 5508 section 4). An error from a router on the client's side leaves with the flow's
//! pool address. **Echo** is a flow by its identifier. **Later fragments** have their first fragment's tuple.
//!
//! **A mapping ends** after an idle time; packets of both directions keep it alive (RFC 4787 section 4.3). For TCP the
//! time is short once both sides sent FIN or either sent RST, and long again if the client opens anew. A mapping is
//! dead at its deadline, and swept within about a second of it, a bounded number per call.
//!
//! **Not done**: port translation, hairpinning (a client reaching another by its pool address), mappings made from
//! outside.
//!
//! Drops: [`DropReason::ManglerPoolExhausted`] (no address free, mapping table full, no pool of the family: the
//! instance's own counters tell which) and [`DropReason::ManglerNoMapping`].

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;
use packet::{Direction, DropReason, NetworkFunction, NfCounter, NfError, Packet, Verdict};
use serde::Deserialize;
use serde_json::Value;

use crate::FunctionInfo;
use crate::config::{self, List, Prefix, refuse};
use crate::flow_table::{FlowTable, IdleTimes, Index, Key, Slot, address, address_bits};
use crate::signals::{self, Icmp, Segment};

/// What the registry shows.
pub const INFO: FunctionInfo = FunctionInfo {
    name: "mangler",
    mangles: true,
    summary: "rewrites source addresses from a pool, and back in the answers (NAT without ports)",
    example: "\
pool: [198.51.100.0/24, 2001:db8:100::/64] # addresses that clients appear as; a family without one is dropped
mappings: 65536     # flows at the same time, all families together
tcp_idle_s: 300     # silence after which a flow's mapping goes
tcp_closing_s: 15   # the same once both sides sent FIN, or one sent RST
udp_idle_s: 60
other_idle_s: 15    # ICMP and the rest
",
};

/// How many addresses a new flow tries before it is refused.
pub const MAX_TRIES: u64 = 256;

/// How many prefixes a pool may have.
const MAX_PREFIXES: usize = 64;

/// Where no pool address can be: no host may have these, or they do not leave their link.
const UNUSABLE: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "::ffff:0.0.0.0/96",
    "fe80::/10",
    "ff00::/8",
];

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    v4: Pool,
    v6: Pool,
    mappings: usize,
    idle: IdleTimes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    pool: List<Prefix>,
    #[serde(default = "mappings")]
    mappings: u32,
    #[serde(default = "tcp_idle_s")]
    tcp_idle_s: u32,
    #[serde(default = "tcp_closing_s")]
    tcp_closing_s: u32,
    #[serde(default = "udp_idle_s")]
    udp_idle_s: u32,
    #[serde(default = "other_idle_s")]
    other_idle_s: u32,
}

const fn mappings() -> u32 {
    65_536
}
const fn tcp_idle_s() -> u32 {
    300
}
const fn tcp_closing_s() -> u32 {
    15
}
const fn udp_idle_s() -> u32 {
    60
}
const fn other_idle_s() -> u32 {
    15
}

impl Settings {
    /// Reads and checks the function's configuration.
    pub fn from_json(config: &Value) -> Result<Self, NfError> {
        let raw: Raw = config::parse(config)?;
        let prefixes: Vec<IpNet> = raw.pool.0.iter().map(|prefix| prefix.0).collect();
        check_pool(&prefixes)?;
        Ok(Self {
            v4: Pool::new(prefixes.iter().filter(|prefix| prefix.addr().is_ipv4())),
            v6: Pool::new(prefixes.iter().filter(|prefix| prefix.addr().is_ipv6())),
            mappings: config::table_size("mappings", raw.mappings)?,
            idle: IdleTimes {
                tcp_ns: config::idle_ns("tcp_idle_s", raw.tcp_idle_s)?,
                tcp_closing_ns: config::idle_ns("tcp_closing_s", raw.tcp_closing_s)?,
                udp_ns: config::idle_ns("udp_idle_s", raw.udp_idle_s)?,
                other_ns: config::idle_ns("other_idle_s", raw.other_idle_s)?,
            },
        })
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn check_pool(prefixes: &[IpNet]) -> Result<(), NfError> {
    if prefixes.len() > MAX_PREFIXES {
        return refuse("pool", format!("{} prefixes; join them to at most {MAX_PREFIXES}", prefixes.len()));
    }
    let unusable: Vec<IpNet> = UNUSABLE.iter().filter_map(|prefix| prefix.parse().ok()).collect();
    for (at, prefix) in prefixes.iter().enumerate() {
        let path = || format!("pool[{at}]");
        if let Some(bad) = unusable.iter().find(|bad| overlap(bad, prefix)) {
            return refuse(
                path(),
                format!("{prefix} has addresses of {bad}, which no host can have; use routable ones"),
            );
        }
        if let Some(twice) = prefixes[..at].iter().find(|earlier| overlap(earlier, prefix)) {
            return refuse(path(), format!("{prefix} overlaps {twice}; list every address once"));
        }
    }
    Ok(())
}

/// The usable addresses of one family, by number.
#[derive(Debug, Clone)]
struct Pool {
    /// The first usable address of each prefix, and how many follow from there (counted up to 2⁶³).
    runs: Box<[(u128, u64)]>,
    size: u64,
}

impl Pool {
    fn new<'a>(prefixes: impl Iterator<Item = &'a IpNet>) -> Self {
        let runs: Box<[_]> = prefixes.map(usable_run).collect();
        let size = runs.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        Self { runs, size }
    }

    /// The n-th address, `n < size`.
    fn nth(&self, mut n: u64) -> Option<u128> {
        for (first, count) in &self.runs {
            if n < *count {
                return Some(first + u128::from(n));
            }
            n -= count;
        }
        None
    }
}

/// The first usable address of a prefix and how many there are.
///
/// In IPv4 the network and broadcast addresses are left out unless the prefix is a /31 (RFC 3021) or /32; in IPv6 the
/// subnet-router anycast address (RFC 4291 section 2.6.1) unless it is a /127 (RFC 6164) or /128.
fn usable_run(prefix: &IpNet) -> (u128, u64) {
    let host_bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    let first = address_bits(prefix.network());
    let count = 1_u64 << host_bits.min(63);
    match (prefix, host_bits) {
        (_, 0 | 1) => (first, count),
        (IpNet::V4(_), _) => (first + 1, count - 2),
        (IpNet::V6(_), _) => (first + 1, count - 1),
    }
}

/// What a flow has besides its key.
#[derive(Debug, Clone, Copy, Default)]
struct Mapping {
    /// The pool address, as a number of the key's family.
    pool: u128,
    /// TCP: the forward side, the reverse side sent FIN.
    fin: [bool; 2],
    /// TCP: a side sent RST.
    reset: bool,
}

impl Mapping {
    fn is_closing(&self) -> bool {
        self.reset || self.fin == [true, true]
    }
}

const COUNTER_NAMES: [&str; 10] = [
    "forward packets",
    "reverse packets",
    "mappings now",
    "mappings made",
    "mappings timed out",
    "dropped: every tried pool address is taken",
    "dropped: mapping table full",
    "dropped: no IPv4 pool",
    "dropped: no IPv6 pool",
    "dropped: no mapping",
];

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    forward: u64,
    reverse: u64,
    made: u64,
    timed_out: u64,
    addresses_taken: u64,
    table_full: u64,
    no_v4_pool: u64,
    no_v6_pool: u64,
    no_mapping: u64,
}

/// One instance.
#[derive(Debug)]
pub struct Mangler {
    v4: Pool,
    v6: Pool,
    idle: IdleTimes,
    /// By the flow as the client sends it.
    flows: FlowTable<Mapping>,
    /// By the flow as it leaves: the same slots, hashed by [`mangled`].
    by_mangled: Index,
    counts: Counts,
}

/// The flow as it leaves the mangler, in forward direction.
fn mangled(key: &Key, pool: u128) -> Key {
    key.with_source(pool)
}

impl Mangler {
    /// An instance without mappings; allocates its tables.
    pub fn new(settings: &Settings) -> Self {
        Self {
            v4: settings.v4.clone(),
            v6: settings.v6.clone(),
            idle: settings.idle,
            flows: FlowTable::new(settings.mappings),
            by_mangled: Index::new(settings.mappings),
            counts: Counts::default(),
        }
    }

    fn forward(&mut self, packet: &mut Packet<'_>) -> Verdict {
        let key = Key::new(packet.arrival.vni, &packet.five_tuple());
        let is_error = signals::icmp(packet) == Icmp::Error;
        let slot = match self.live_flow(&key, packet.arrival.now_ns) {
            Some(slot) => slot,
            None if is_error => return self.no_mapping(),
            None => match self.open(key, packet.arrival.now_ns) {
                Some(slot) => slot,
                None => return Verdict::Drop(DropReason::ManglerPoolExhausted),
            },
        };
        if !is_error {
            self.keep_alive(slot, packet);
        }
        self.counts.forward += 1;
        packet.set_source(address(self.flows.value(slot).pool, key.is_v6));
        Verdict::Pass
    }

    fn reverse(&mut self, packet: &mut Packet<'_>) -> Verdict {
        let outside = Key::new(packet.arrival.vni, &packet.forward_tuple());
        let Some(slot) = self.live_mangled(&outside, packet.arrival.now_ns) else { return self.no_mapping() };
        if signals::icmp(packet) != Icmp::Error {
            self.keep_alive(slot, packet);
        }
        self.counts.reverse += 1;
        let client: IpAddr = self.flows.key(slot).source_address();
        packet.set_destination(client);
        Verdict::Pass
    }

    fn no_mapping(&mut self) -> Verdict {
        self.counts.no_mapping += 1;
        Verdict::Drop(DropReason::ManglerNoMapping)
    }

    /// The flow of this client-side key, unless it is over.
    fn live_flow(&mut self, key: &Key, now_ns: u64) -> Option<Slot> {
        let slot = self.flows.find(key)?;
        self.unless_over(slot, now_ns)
    }

    /// The flow that leaves as this, unless it is over.
    fn live_mangled(&mut self, outside: &Key, now_ns: u64) -> Option<Slot> {
        let flows = &self.flows;
        let slot = self
            .by_mangled
            .find(flows.hash(outside), |slot| mangled(flows.key(slot), flows.value(slot).pool) == *outside)?;
        self.unless_over(slot, now_ns)
    }

    fn unless_over(&mut self, slot: Slot, now_ns: u64) -> Option<Slot> {
        if !self.flows.is_over(slot, now_ns) {
            return Some(slot);
        }
        self.time_out(slot);
        None
    }

    fn time_out(&mut self, slot: Slot) {
        let outside = mangled(self.flows.key(slot), self.flows.value(slot).pool);
        self.by_mangled.remove(self.flows.hash(&outside), slot);
        self.flows.remove(slot);
        self.counts.timed_out += 1;
    }

    /// Makes a mapping for a flow that has none; `None` is counted by its cause.
    fn open(&mut self, key: Key, now_ns: u64) -> Option<Slot> {
        if self.pool(key.is_v6).size == 0 {
            match key.is_v6 {
                true => self.counts.no_v6_pool += 1,
                false => self.counts.no_v4_pool += 1,
            }
            return None;
        }
        if self.flows.is_full() {
            let mut budget = self.flows.rescue_budget();
            if let Some(slot) = self.flows.next_over(now_ns, &mut budget) {
                self.time_out(slot);
            }
        }
        if self.flows.is_full() {
            self.counts.table_full += 1;
            return None;
        }
        let Some(pool) = self.free_address(&key, now_ns) else {
            self.counts.addresses_taken += 1;
            return None;
        };
        let mapping = Mapping { pool, ..Mapping::default() };
        let slot = self.flows.insert(key, mapping, now_ns.saturating_add(self.idle.open_ns(key.protocol)))?;
        self.by_mangled.insert(self.flows.hash(&mangled(&key, pool)), slot);
        self.counts.made += 1;
        Some(slot)
    }

    fn pool(&self, is_v6: bool) -> &Pool {
        if is_v6 { &self.v6 } else { &self.v4 }
    }

    /// The client's preferred address if the flow can have it, else the next one that it can.
    fn free_address(&mut self, key: &Key, now_ns: u64) -> Option<u128> {
        // Not seeded: the choice survives a restart. Choosing clients that share an address gains an attacker nothing.
        let mut hasher = DefaultHasher::new();
        key.client().hash(&mut hasher);
        let hash = hasher.finish();
        let size = self.pool(key.is_v6).size;
        // The steps never pass the starting point, so that no address is tried twice.
        let step = 1 + hash.rotate_left(32) % (size / MAX_TRIES).max(1);
        let mut at = hash % size;
        for _ in 0..MAX_TRIES.min(size) {
            let pool = self.pool(key.is_v6).nth(at)?;
            if self.live_mangled(&mangled(key, pool), now_ns).is_none() {
                return Some(pool);
            }
            at = (u128::from(at) + u128::from(step)).rem_euclid(u128::from(size)) as u64;
        }
        None
    }

    fn keep_alive(&mut self, slot: Slot, packet: &Packet<'_>) {
        let headers = packet.headers();
        let protocol = headers.five_tuple.protocol;
        let mapping = self.flows.value_mut(slot);
        match (signals::segment(&headers), packet.arrival.direction) {
            (Some(Segment::Rst), _) => mapping.reset = true,
            (Some(Segment::Fin), Direction::Forward) => mapping.fin[0] = true,
            (Some(Segment::Fin), Direction::Reverse) => mapping.fin[1] = true,
            (Some(Segment::Syn), Direction::Forward) => *mapping = Mapping { pool: mapping.pool, ..Mapping::default() },
            _ => {}
        }
        let idle_ns = if mapping.is_closing() { self.idle.tcp_closing_ns } else { self.idle.open_ns(protocol) };
        self.flows.keep_until(slot, packet.arrival.now_ns.saturating_add(idle_ns));
    }
}

impl NetworkFunction for Mangler {
    fn process(&mut self, packet: &mut Packet<'_>) -> Verdict {
        match packet.arrival.direction {
            Direction::Forward => self.forward(packet),
            Direction::Reverse => self.reverse(packet),
        }
    }

    fn counters(&self) -> Vec<NfCounter> {
        COUNTER_NAMES.map(|name| NfCounter { name: name.into() }).into()
    }

    fn read_counters(&self, values: &mut [u64]) {
        let counts = &self.counts;
        let now = [
            counts.forward,
            counts.reverse,
            self.flows.len() as u64,
            counts.made,
            counts.timed_out,
            counts.addresses_taken,
            counts.table_full,
            counts.no_v4_pool,
            counts.no_v6_pool,
            counts.no_mapping,
        ];
        for (value, count) in values.iter_mut().zip(now) {
            *value = count;
        }
    }

    fn expire(&mut self, now_ns: u64) {
        let mut budget = self.flows.sweep_budget(now_ns);
        while let Some(slot) = self.flows.next_over(now_ns, &mut budget) {
            self.time_out(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::{FiveTuple, Vni};
    use serde_json::json;

    fn settings(pool: &[&str]) -> Settings {
        Settings::from_json(&json!({"pool": pool})).unwrap()
    }

    fn refused(config: Value) -> String {
        Settings::from_json(&config).unwrap_err().to_string()
    }

    fn addresses(pool: &Pool, is_v6: bool) -> Vec<String> {
        (0..pool.size).filter_map(|n| pool.nth(n)).map(|bits| address(bits, is_v6).to_string()).collect()
    }

    #[test]
    fn network_broadcast_and_anycast_addresses_are_not_given_out() {
        let made =
            settings(&["192.0.2.0/30", "198.51.100.8/31", "203.0.113.9/32", "2001:db8::/126", "2001:db8:1::/127"]);
        let v4 = ["192.0.2.1", "192.0.2.2", "198.51.100.8", "198.51.100.9", "203.0.113.9"];
        assert_eq!(addresses(&made.v4, false), v4);
        let v6 = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:1::", "2001:db8:1::1"];
        assert_eq!(addresses(&made.v6, true), v6);
        assert_eq!(made.v4.nth(5), None);
    }

    #[test]
    fn a_huge_pool_is_computed_and_not_enumerated() {
        let made = settings(&["2001:db8::/32", "2001:db9::/33", "2001:dba::/34"]);
        assert_eq!(made.v6.size, u64::MAX);
        assert!(made.v6.nth(u64::MAX - 1).is_some());
        let mut mangler = Mangler::new(&made);
        let tuple = FiveTuple {
            source: "2001:db8:1::7".parse().unwrap(),
            destination: "2001:db8:2::9".parse().unwrap(),
            source_port: 1,
            destination_port: 2,
            protocol: 6,
        };
        let chosen = mangler.free_address(&Key::new(Vni::new(1).unwrap(), &tuple), 0).unwrap();
        assert!(address(chosen, true).to_string().starts_with("2001:db"));
    }

    #[test]
    fn tries_cover_a_small_pool_and_never_repeat_in_a_large_one() {
        for size in [1, 2, 3, 254, 256, 257, 511, 512, 65_534, u64::MAX] {
            for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
                let step = 1 + u64::rotate_left(hash, 32) % (size / MAX_TRIES).max(1);
                let tries = MAX_TRIES.min(size);
                assert!(u128::from(step) * u128::from(tries - 1) < u128::from(size), "size {size}");
                assert!(size > MAX_TRIES || tries == size);
            }
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_key_with_the_remedy() {
        assert!(refused(json!({})).contains("pool"));
        assert!(refused(json!({"pool": []})).starts_with("pool: the list is empty"));
        assert!(refused(json!({"pool": ["198.51.100.7/24"]})).starts_with("pool[0]: `198.51.100.7/24` has bits set"));
        assert!(refused(json!({"pool": ["10.0.0.0/8", "10.1.0.0/16"]})).starts_with("pool[1]: 10.1.0.0/16 overlaps"));
        assert!(refused(json!({"pool": ["0.0.0.0/0"]})).contains("which no host can have"));
        assert!(refused(json!({"pool": "10.0.0.0/8", "mappings": 0})).contains("mappings: 0 entries"));
        assert!(refused(json!({"pool": "10.0.0.0/8", "udp_idle_s": 0})).starts_with("udp_idle_s: 0 s"));
        assert!(refused(json!({"pool": "10.0.0.0/8", "tcp_idle_s": "long"})).starts_with("tcp_idle_s: "));
        assert!(refused(json!({"pool": "10.0.0.0/8", "ports": 1})).contains("unknown field `ports`"));
    }
}
