//! *firewall*: ordered rules for new connections, and state for those that were allowed.
//!
//! On the packet's path: it passes or drops, and never rewrites. Rules speak about the chain's forward direction; the
//! first packet of a connection, which must travel forward, is decided by the first rule that matches, else by the
//! default. What was allowed passes from then on in both directions, until it closes or falls silent.
//!
//! A connection is keyed by (VNI, forward five-tuple). Decisions, in this order:
//!
//! | packet | of a known connection | of none |
//! |---|---|---|
//! | ICMP error (by the flow it quotes) | passes, keeps nothing alive | `FirewallNoState` |
//! | TCP | by the state machine below | forward SYN: rules; else `FirewallNoState` (`midstream: allow`: rules) |
//! | ICMP echo reply | passes | `FirewallNoState` |
//! | anything else | passes | forward: rules; reverse: `FirewallNoState` |
//!
//! **TCP** (RFC 9293; flag combinations that no TCP sends are refused always):
//!
//! | state | forward | reverse |
//! |---|---|---|
//! | SYN sent | SYN; RST → closed; nothing else | SYN-ACK, SYN → SYN received; RST → closed; ACK without data stays |
//! | SYN received | SYN; ACK, SYN-ACK, FIN → established; RST → closed | SYN, SYN-ACK, ACK; FIN noted; RST → closed |
//! | established | all; FIN noted; both FINs or RST → closed | the same |
//! | closed | all; SYN opens anew, by the rules | all but SYN |
//!
//! The ACK in "SYN sent" is a challenge ACK (RFC 5961 section 4) of a server that still holds an older connection; the
//! client's RST and new SYN then pass as well. For the same reason a SYN within an established connection passes and
//! changes nothing: the receiver answers it. A reverse SYN in "SYN sent" is a simultaneous open (RFC 9293 section 3.5).
//! In "closed", retransmissions pass for the closing time: sequence numbers are **not** tracked, so a forged RST can't
//! be told from a real one and must not cut off a live connection. Later fragments pass if their connection is known.
//!
//! Shapes: rules are compiled once per family (`firewall/compiled.rs`) and scanned in order. Counters: at most
//! [`MAX_COUNTED_RULES`] rules are counted one by one, the rest together.
//!
//! Drops: [`DropReason::FirewallDenied`], [`DropReason::FirewallNoState`], [`DropReason::FirewallTableFull`].

mod compiled;

use std::fmt;

use packet::{Direction, DropReason, NetworkFunction, NfCounter, NfError, Packet, Verdict, protocol};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;

use self::compiled::Compiled;
use crate::FunctionInfo;
use crate::config::{self, List, Ports, Prefix, refuse};
use crate::flow_table::{FlowTable, IdleTimes, Key, Slot};
use crate::signals::{self, Icmp, Segment};

/// What the registry shows.
pub const INFO: FunctionInfo = FunctionInfo {
    name: "firewall",
    mangles: false,
    summary: "ordered rules for new connections, and state so that their replies pass",
    example: "\
# The first rule that matches decides; rules speak about the chain's forward direction.
# A key left out of a rule matches everything.
rules:
  - name: web
    action: allow                # or deny
    protocol: tcp                # any, tcp, udp, icmp (of either family), or a protocol number
    destination: [10.2.0.0/16, 2001:db8:2::/48]
    destination_ports: [80, 443, \"8000-8080\"]
  - { action: deny, source: 10.1.9.0/24 }
  - { action: allow, protocol: icmp }
default: deny                    # when no rule matches
midstream: drop                  # TCP without a SYN and without state: drop, or allow (by the rules)
connections: 65536               # at the same time
tcp_idle_s: 300                  # silence after which an established connection is forgotten
tcp_opening_s: 30                # the same during the handshake
tcp_closing_s: 15                # the same after both FINs, or a RST
udp_idle_s: 60
other_idle_s: 15                 # ICMP and the rest
",
};

/// How many rules have a counter of their own.
pub const MAX_COUNTED_RULES: usize = 240;

/// How many rules one firewall may have.
const MAX_RULES: usize = 16_384;

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let the connection open.
    Allow,
    /// Drop the packet.
    Deny,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Allow { "allow" } else { "deny" })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Midstream {
    Allow,
    Drop,
}

/// Which protocols a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ProtocolMatch {
    #[default]
    Any,
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp,
    Number(u8),
}

impl ProtocolMatch {
    const TCP: Self = Self::Number(protocol::TCP);
    const UDP: Self = Self::Number(protocol::UDP);

    /// The number to compare with in this family; none matches all.
    fn number(self, is_v6: bool) -> Option<u8> {
        match self {
            Self::Any => None,
            Self::Icmp if is_v6 => Some(protocol::ICMPV6),
            Self::Icmp => Some(protocol::ICMP),
            Self::Number(number) => Some(number),
        }
    }
}

impl fmt::Display for ProtocolMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Any => f.write_str("any"),
            Self::Icmp => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::Number(number) => write!(f, "protocol {number}"),
        }
    }
}

impl<'de> Deserialize<'de> for ProtocolMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = ProtocolMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any, tcp, udp, icmp, or a protocol number from 0 to 255")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ProtocolMatch, E> {
                match text {
                    "any" => Ok(ProtocolMatch::Any),
                    "icmp" => Ok(ProtocolMatch::Icmp),
                    "tcp" => Ok(ProtocolMatch::TCP),
                    "udp" => Ok(ProtocolMatch::UDP),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ProtocolMatch, E> {
                let number =
                    u8::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))?;
                Ok(ProtocolMatch::Number(number))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    action: Action,
    #[serde(default)]
    protocol: ProtocolMatch,
    #[serde(default)]
    source: List<Prefix>,
    #[serde(default)]
    destination: List<Prefix>,
    #[serde(default)]
    source_ports: List<Ports>,
    #[serde(default)]
    destination_ports: List<Ports>,
}

impl Rule {
    fn check(&self, at: usize) -> Result<(), NfError> {
        for (key, ports) in [("source_ports", &self.source_ports), ("destination_ports", &self.destination_ports)] {
            if !ports.0.is_empty() && !matches!(self.protocol, ProtocolMatch::TCP | ProtocolMatch::UDP) {
                let problem =
                    format!("protocol {} has no ports; write `protocol: tcp` or `protocol: udp`", self.protocol);
                return refuse(format!("rules[{at}].{key}"), problem);
            }
        }
        if let (Some(source), Some(destination)) = (self.source.0.first(), self.destination.0.first()) {
            let has_both = |is_v4: bool| {
                let of_family = |list: &List<Prefix>| list.0.iter().any(|prefix| prefix.0.addr().is_ipv4() == is_v4);
                of_family(&self.source) && of_family(&self.destination)
            };
            if !has_both(true) && !has_both(false) {
                let (source, destination) = (source.0, destination.0);
                let problem = format!("{source} and {destination} are never in one packet; use one family in both");
                return refuse(format!("rules[{at}].destination"), problem);
            }
        }
        Ok(())
    }
}

/// `allow tcp 10.1.0.0/16 > any:80,443`
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined =
            |list: Vec<String>| if list.len() > 4 { format!("({} ranges)", list.len()) } else { list.join(",") };
        let side = |prefixes: &List<Prefix>, ports: &List<Ports>| {
            let prefixes = match prefixes.0.is_empty() {
                true => "any".into(),
                false => joined(prefixes.0.iter().map(|prefix| prefix.0.to_string()).collect()),
            };
            match ports.0.is_empty() {
                true => prefixes,
                false => format!("{prefixes}:{}", joined(ports.0.iter().map(Ports::to_string).collect())),
            }
        };
        let source = side(&self.source, &self.source_ports);
        let destination = side(&self.destination, &self.destination_ports);
        write!(f, "{} {} {source} > {destination}", self.action, self.protocol)
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    rules: Vec<Rule>,
    default: Action,
    midstream: Midstream,
    connections: usize,
    idle: IdleTimes,
    opening_ns: u64,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    rules: Vec<Rule>,
    default: Action,
    midstream: Midstream,
    connections: u32,
    tcp_idle_s: u32,
    tcp_opening_s: u32,
    tcp_closing_s: u32,
    udp_idle_s: u32,
    other_idle_s: u32,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            default: Action::Deny,
            midstream: Midstream::Drop,
            connections: 65_536,
            tcp_idle_s: 300,
            tcp_opening_s: 30,
            tcp_closing_s: 15,
            udp_idle_s: 60,
            other_idle_s: 15,
        }
    }
}

impl Settings {
    /// Reads and checks the function's configuration. An empty one denies everything.
    pub fn from_json(config: &Value) -> Result<Self, NfError> {
        let raw: Raw = config::parse(config)?;
        if raw.rules.len() > MAX_RULES {
            return refuse(
                "rules",
                format!("{} rules; at most {MAX_RULES} are possible, so join some", raw.rules.len()),
            );
        }
        raw.rules.iter().enumerate().try_for_each(|(at, rule)| rule.check(at))?;
        Ok(Self {
            rules: raw.rules,
            default: raw.default,
            midstream: raw.midstream,
            connections: config::table_size("connections", raw.connections)?,
            idle: IdleTimes {
                tcp_ns: config::idle_ns("tcp_idle_s", raw.tcp_idle_s)?,
                tcp_closing_ns: config::idle_ns("tcp_closing_s", raw.tcp_closing_s)?,
                udp_ns: config::idle_ns("udp_idle_s", raw.udp_idle_s)?,
                other_ns: config::idle_ns("other_idle_s", raw.other_idle_s)?,
            },
            opening_ns: config::idle_ns("tcp_opening_s", raw.tcp_opening_s)?,
        })
    }
}

/// Where a connection stands. Everything but TCP is `Open` all its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    SynSent,
    SynReceived,
    Established,
    /// Established, and this side sent FIN.
    Fin(Direction),
    /// Both sides sent FIN, or one sent RST.
    Closed,
}

/// What a TCP segment does to a known connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The segment passes and the connection is in this state.
    Pass(State),
    /// The segment does not belong there.
    Refuse,
    /// A new connection of the same key begins: ask the rules.
    Reopen,
}

/// The table in the module's documentation.
fn step(state: State, direction: Direction, segment: Segment, has_payload: bool) -> Step {
    use Direction::{Forward, Reverse};
    use Segment::{Ack, Fin, Invalid, Rst, Syn, SynAck};
    match (state, direction, segment) {
        (_, _, Invalid) => Step::Refuse,
        (State::Closed, Forward, Syn) => Step::Reopen,
        (State::Closed, Reverse, Syn) => Step::Refuse,
        (State::Closed, _, _) | (_, _, Rst) => Step::Pass(State::Closed),

        (State::SynSent, Forward, Syn) => Step::Pass(State::SynSent),
        (State::SynSent, Reverse, Syn | SynAck) => Step::Pass(State::SynReceived),
        (State::SynSent, Reverse, Ack) if !has_payload => Step::Pass(State::SynSent),
        (State::SynSent, _, _) => Step::Refuse,

        (State::SynReceived, Forward, Ack | SynAck) => Step::Pass(State::Established),
        (State::SynReceived, _, Syn | SynAck | Ack) => Step::Pass(State::SynReceived),

        (State::Fin(side), _, Fin) if side != direction => Step::Pass(State::Closed),
        (_, _, Fin) => Step::Pass(State::Fin(direction)),
        (state, _, Syn | SynAck | Ack) => Step::Pass(state),
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    established: u64,
    related: u64,
    default: u64,
    no_state: u64,
    out_of_state: u64,
    table_full: u64,
    opened: u64,
    timed_out: u64,
}

/// One instance.
#[derive(Debug)]
pub struct Firewall {
    v4: Compiled,
    v6: Compiled,
    default: Action,
    midstream: Midstream,
    idle: IdleTimes,
    opening_ns: u64,
    connections: FlowTable<State>,
    /// What [`Self::rule_counts`] count, in its order.
    rule_names: Vec<String>,
    /// Packets decided by each rule that is counted, then by all others together if there are any.
    rule_counts: Vec<u64>,
    counts: Counts,
}

impl Firewall {
    /// An instance without connections; compiles its rules and allocates its table.
    pub fn new(settings: &Settings) -> Self {
        let rule_names = rule_names(&settings.rules);
        Self {
            v4: Compiled::new(&settings.rules, false),
            v6: Compiled::new(&settings.rules, true),
            default: settings.default,
            midstream: settings.midstream,
            idle: settings.idle,
            opening_ns: settings.opening_ns,
            connections: FlowTable::new(settings.connections),
            rule_counts: vec![0; rule_names.len()],
            rule_names,
            counts: Counts::default(),
        }
    }

    /// A packet of a known connection.
    fn known(&mut self, slot: Slot, key: Key, packet: &Packet<'_>) -> Verdict {
        if signals::icmp(packet) == Icmp::Error {
            self.counts.related += 1;
            return Verdict::Pass;
        }
        let mut state = *self.connections.value(slot);
        if let Some(segment) = signals::segment(&packet.headers()) {
            state = match step(state, packet.arrival.direction, segment, signals::has_payload(packet)) {
                Step::Pass(next) => next,
                Step::Refuse => {
                    self.counts.out_of_state += 1;
                    return Verdict::Drop(DropReason::FirewallNoState);
                }
                Step::Reopen => {
                    self.connections.remove(slot);
                    return self.unknown(key, packet);
                }
            };
        }
        *self.connections.value_mut(slot) = state;
        self.connections.keep_until(slot, self.deadline_ns(state, key.protocol, packet.arrival.now_ns));
        self.counts.established += 1;
        Verdict::Pass
    }

    /// A packet of no known connection.
    fn unknown(&mut self, key: Key, packet: &Packet<'_>) -> Verdict {
        let Some(state) = self.opening_state(packet) else {
            self.counts.no_state += 1;
            return Verdict::Drop(DropReason::FirewallNoState);
        };
        let rules = if key.is_v6 { &self.v6 } else { &self.v4 };
        let (action, count) = match rules.first_match(&key, &packet.five_tuple()) {
            Some(rule) => {
                let counted = (rule.number as usize).min(MAX_COUNTED_RULES);
                (rule.action, self.rule_counts.get_mut(counted))
            }
            None => (self.default, Some(&mut self.counts.default)),
        };
        if let Some(count) = count {
            *count += 1;
        }
        match action {
            Action::Allow => self.open(key, state, packet.arrival.now_ns),
            Action::Deny => Verdict::Drop(DropReason::FirewallDenied),
        }
    }

    /// The state that a connection begins with if this packet may open one.
    fn opening_state(&self, packet: &Packet<'_>) -> Option<State> {
        let headers = packet.headers();
        if packet.arrival.direction == Direction::Reverse || signals::icmp(packet) != Icmp::Opens {
            return None;
        }
        if headers.five_tuple.protocol != protocol::TCP {
            return Some(State::Open);
        }
        match (signals::segment(&headers)?, self.midstream) {
            (Segment::Syn, _) => Some(State::SynSent),
            (Segment::Ack, Midstream::Allow) => Some(State::Established),
            (Segment::Fin, Midstream::Allow) => Some(State::Fin(Direction::Forward)),
            (Segment::Rst, Midstream::Allow) => Some(State::Closed),
            _ => None,
        }
    }

    fn open(&mut self, key: Key, state: State, now_ns: u64) -> Verdict {
        if self.connections.is_full() {
            let mut budget = self.connections.rescue_budget();
            if let Some(slot) = self.connections.next_over(now_ns, &mut budget) {
                self.time_out(slot);
            }
        }
        let deadline_ns = self.deadline_ns(state, key.protocol, now_ns);
        match self.connections.insert(key, state, deadline_ns) {
            Some(_) => {
                self.counts.opened += 1;
                Verdict::Pass
            }
            None => {
                self.counts.table_full += 1;
                Verdict::Drop(DropReason::FirewallTableFull)
            }
        }
    }

    fn deadline_ns(&self, state: State, protocol: u8, now_ns: u64) -> u64 {
        now_ns.saturating_add(match state {
            State::SynSent | State::SynReceived => self.opening_ns,
            State::Closed => self.idle.tcp_closing_ns,
            State::Open | State::Established | State::Fin(_) => self.idle.open_ns(protocol),
        })
    }

    fn time_out(&mut self, slot: Slot) {
        self.connections.remove(slot);
        self.counts.timed_out += 1;
    }
}

/// `rules[2] (web): allow tcp any > 10.0.0.0/8:80`, with the place counted from 0 as in error messages.
fn rule_names(rules: &[Rule]) -> Vec<String> {
    let name = |(at, rule): (usize, &Rule)| match &rule.name {
        Some(name) => format!("rules[{at}] ({name}): {rule}"),
        None => format!("rules[{at}]: {rule}"),
    };
    let mut names: Vec<String> = rules.iter().enumerate().take(MAX_COUNTED_RULES).map(name).collect();
    if rules.len() > MAX_COUNTED_RULES {
        names.push(format!("rules[{MAX_COUNTED_RULES}] to rules[{}], together", rules.len() - 1));
    }
    names
}

impl NetworkFunction for Firewall {
    fn process(&mut self, packet: &mut Packet<'_>) -> Verdict {
        let key = Key::new(packet.arrival.vni, &packet.forward_tuple());
        match self.connections.find(&key) {
            Some(slot) if self.connections.is_over(slot, packet.arrival.now_ns) => {
                self.time_out(slot);
                self.unknown(key, packet)
            }
            Some(slot) => self.known(slot, key, packet),
            None => self.unknown(key, packet),
        }
    }

    fn counters(&self) -> Vec<NfCounter> {
        let fixed = [
            "passed: known connection".to_owned(),
            "passed: ICMP error of a known connection".to_owned(),
            format!("default: {}", self.default),
            "dropped: no state".to_owned(),
            "dropped: out of state".to_owned(),
            "dropped: connection table full".to_owned(),
            "connections now".to_owned(),
            "connections opened".to_owned(),
            "connections timed out".to_owned(),
        ];
        fixed.into_iter().chain(self.rule_names.iter().cloned()).map(|name| NfCounter { name }).collect()
    }

    fn read_counters(&self, values: &mut [u64]) {
        let counts = &self.counts;
        let fixed = [
            counts.established,
            counts.related,
            counts.default,
            counts.no_state,
            counts.out_of_state,
            counts.table_full,
            self.connections.len() as u64,
            counts.opened,
            counts.timed_out,
        ];
        for (value, count) in values.iter_mut().zip(fixed.iter().chain(&self.rule_counts)) {
            *value = *count;
        }
    }

    fn expire(&mut self, now_ns: u64) {
        let mut budget = self.connections.sweep_budget(now_ns);
        while let Some(slot) = self.connections.next_over(now_ns, &mut budget) {
            self.time_out(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(config: Value) -> String {
        Settings::from_json(&config).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_key_with_the_remedy() {
        let rule = |rule: Value| refused(json!({"rules": [{"action": "allow"}, rule]}));
        assert!(rule(json!({"action": "permit"})).starts_with("rules[1].action: unknown variant `permit`, expected"));
        assert!(rule(json!({"protocol": "tcp"})).contains("missing field `action`"));
        assert!(rule(json!({"action": "deny", "protocol": "gre"})).starts_with("rules[1].protocol: invalid value"));
        assert!(rule(json!({"action": "deny", "protocol": 256})).contains("a protocol number from 0 to 255"));
        assert!(
            rule(json!({"action": "deny", "sources": "::/0"})).contains("unknown field `sources`, expected one of")
        );
        assert!(rule(json!({"action": "deny", "source": ["10.0.0.0/8", "x"]})).starts_with("rules[1].source[1]: `x`"));
        let without_ports = rule(json!({"action": "deny", "source_ports": 80}));
        assert!(
            without_ports.starts_with("rules[1].source_ports: protocol any has no ports; write"),
            "{without_ports}"
        );
        let mixed = rule(json!({"action": "deny", "source": "10.0.0.0/8", "destination": "2001:db8::/32"}));
        assert!(mixed.starts_with("rules[1].destination: ") && mixed.contains("one family"), "{mixed}");
        assert!(refused(json!({"connections": 99_999_999})).starts_with("connections: "));
        assert!(refused(json!({"tcp_opening_s": 0})).starts_with("tcp_opening_s: "));
        assert!(refused(json!({"midstream": "deny"})).starts_with("midstream: unknown variant `deny`"));
    }

    #[test]
    fn a_rule_reads_in_its_counter_as_it_was_written() {
        let settings = Settings::from_json(&json!({"rules": [
            {"action": "allow", "protocol": "tcp", "destination": "10.0.0.0/8", "name": "web",
             "destination_ports": [80, "8000-8080"]},
            {"action": "deny", "protocol": 47, "source": ["10.1.0.0/16", "2001:db8::/32"]},
        ]}));
        let names = rule_names(&settings.unwrap().rules);
        assert_eq!(names[0], "rules[0] (web): allow tcp any > 10.0.0.0/8:80,8000-8080");
        assert_eq!(names[1], "rules[1]: deny protocol 47 10.1.0.0/16,2001:db8::/32 > any");
    }

    #[test]
    fn counters_stay_within_their_limit_with_many_rules() {
        let rules: Vec<_> = (0..1_000).map(|_| json!({"action": "allow"})).collect();
        let firewall = Firewall::new(&Settings::from_json(&json!({"rules": rules, "connections": 1})).unwrap());
        let counters = firewall.counters();
        assert!(counters.len() <= 256);
        assert_eq!(counters.last().unwrap().name, "rules[240] to rules[999], together");
    }

    /// One row per state and direction: SYN, SYN-ACK, ACK without data, ACK with data, FIN, RST, an invalid
    /// combination.
    #[test]
    fn the_tcp_state_machine_is_the_documented_table() {
        use Direction::{Forward as F, Reverse as R};
        use State::{Closed as C, Established as E, Fin, SynReceived as Sr, SynSent as Ss};
        let (x, n) = (Step::Refuse, Step::Reopen);
        let p = Step::Pass;
        let rows = [
            (Ss, F, [p(Ss), x, x, x, x, p(C), x]),
            (Ss, R, [p(Sr), p(Sr), p(Ss), x, x, p(C), x]),
            (Sr, F, [p(Sr), p(E), p(E), p(E), p(Fin(F)), p(C), x]),
            (Sr, R, [p(Sr), p(Sr), p(Sr), p(Sr), p(Fin(R)), p(C), x]),
            (E, F, [p(E), p(E), p(E), p(E), p(Fin(F)), p(C), x]),
            (E, R, [p(E), p(E), p(E), p(E), p(Fin(R)), p(C), x]),
            (Fin(F), F, [p(Fin(F)), p(Fin(F)), p(Fin(F)), p(Fin(F)), p(Fin(F)), p(C), x]),
            (Fin(F), R, [p(Fin(F)), p(Fin(F)), p(Fin(F)), p(Fin(F)), p(C), p(C), x]),
            (Fin(R), F, [p(Fin(R)), p(Fin(R)), p(Fin(R)), p(Fin(R)), p(C), p(C), x]),
            (Fin(R), R, [p(Fin(R)), p(Fin(R)), p(Fin(R)), p(Fin(R)), p(Fin(R)), p(C), x]),
            (C, F, [n, p(C), p(C), p(C), p(C), p(C), x]),
            (C, R, [x, p(C), p(C), p(C), p(C), p(C), x]),
        ];
        let segments = [
            (Segment::Syn, false),
            (Segment::SynAck, false),
            (Segment::Ack, false),
            (Segment::Ack, true),
            (Segment::Fin, false),
            (Segment::Rst, false),
            (Segment::Invalid, false),
        ];
        for (state, direction, expected) in rows {
            for ((segment, has_payload), expected) in segments.into_iter().zip(expected) {
                let got = step(state, direction, segment, has_payload);
                assert_eq!(got, expected, "{state:?} {direction:?} {segment:?} data={has_payload}");
            }
        }
    }
}
