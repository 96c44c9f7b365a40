//! The plans behind the commands: which cases are measured, and what their figures are plotted against.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::traffic::{FLOWS_MAX, Order, Size};
use super::{Function, Source, Traffic, Work};

/// Rules of the firewall in a `chain` plan.
const FIREWALL_RULES: u32 = 1_000;
/// Series of the chain plan.
pub const POLLED_IN_TURN: &str = "passthroughs, polled in turn";
/// The same.
pub const FIREWALL_ESTABLISHED: &str = "firewall, established flows";
/// The same.
pub const FIREWALL_NEW: &str = "firewall, first packets";
/// Flows whose first packets meet the firewall.
const NEW_FLOWS: u32 = 262_144;

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The report's title.
    pub title: String,
    /// What the cases differ in along the plot's horizontal axis.
    pub axis: String,
    /// The cases, in the report's order.
    pub cases: Vec<Case>,
    /// How often each is measured.
    pub rounds: u32,
    /// Where packets come from.
    pub source: Source,
    /// CPU of the forwarder.
    pub cpu: u16,
    /// CPU of the harness.
    pub control_cpu: u16,
    /// Time before each measurement, ms.
    pub warm_up_ms: u64,
    /// Time of each measurement, ms.
    pub duration_ms: u64,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The plot's line that it belongs to.
    pub series: String,
    /// Its place on the horizontal axis.
    pub at: f64,
    /// The same in words.
    pub label: String,
    /// What is done.
    pub work: Work,
    /// With which packets.
    pub traffic: Traffic,
}

/// Options that every plan has.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// Numbers of flows.
    pub flows: Vec<u32>,
    /// How often each case is measured.
    pub rounds: u32,
    /// Where packets come from.
    pub source: Source,
    /// CPU of the forwarder.
    pub cpu: u16,
    /// Time before each measurement, ms.
    pub warm_up_ms: u64,
    /// Time of each measurement, ms.
    pub duration_ms: u64,
    /// Seed of the traffic.
    pub seed: u64,
}

/// A plan that can't be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Flows beyond what five-tuples there are.
    #[error("{0} flows are outside 1..={FLOWS_MAX}")]
    Flows(u32),
    /// A frame that Ethernet does not carry.
    #[error("frames of {0} bytes are outside 60..=1514 (the checksum on the wire not counted)")]
    Size(u16),
    /// A Zipf exponent that makes no distribution.
    #[error("a Zipf exponent of {0} is outside 0..=4")]
    Zipf(f64),
    /// A share that is none.
    #[error("{0} percent of strangers are outside 0..=99")]
    Strangers(u8),
    /// A chain that is too long, or empty.
    #[error("a chain of {0} functions is outside 1..=64")]
    Chain(usize),
    /// Nothing would be measured.
    #[error("0 rounds measure nothing")]
    Rounds,
}

impl Common {
    fn plan(&self, title: &str, axis: &str, cases: Vec<Case>) -> Result<Plan, PlanError> {
        if self.rounds == 0 {
            return Err(PlanError::Rounds);
        }
        cases.iter().try_for_each(|case| check(&case.traffic))?;
        Ok(Plan {
            title: title.to_owned(),
            axis: axis.to_owned(),
            cases,
            rounds: self.rounds,
            source: self.source,
            cpu: self.cpu,
            control_cpu: if self.cpu == 0 { 1 } else { 0 },
            warm_up_ms: self.warm_up_ms,
            duration_ms: self.duration_ms,
        })
    }

    fn traffic(&self, flows: u32) -> Traffic {
        Traffic { flows, seed: self.seed, ..Traffic::default() }
    }
}

/// Refuses traffic that can't be made.
pub fn check(traffic: &Traffic) -> Result<(), PlanError> {
    if !(1..=FLOWS_MAX).contains(&traffic.flows) {
        return Err(PlanError::Flows(traffic.flows));
    }
    if let Size::Fixed(size) = traffic.size
        && !(60..=1_514).contains(&size)
    {
        return Err(PlanError::Size(size));
    }
    match traffic.order {
        Order::Zipf(exponent) if !(0.0..=4.0).contains(&exponent) => return Err(PlanError::Zipf(exponent)),
        _ => {}
    }
    if traffic.strangers_percent > 99 {
        return Err(PlanError::Strangers(traffic.strangers_percent));
    }
    Ok(())
}

/// One host's forwarding: the plain loop, then exact match and set DSCP, without and with VXLAN.
pub fn forward(common: &Common, sizes: &[Size], zipf: Option<f64>, strangers_percent: u8) -> Result<Plan, PlanError> {
    let works = [
        ("plain loop", Work::Bare),
        ("exact + DSCP", Work::Deliver),
        ("exact + DSCP + answers' rule", Work::DeliverAndLearn),
        ("exact + DSCP + VXLAN", Work::Encapsulate),
    ];
    let mut cases = Vec::new();
    for &size in sizes {
        for (name, work) in &works {
            for &flows in &common.flows {
                let order = zipf.map_or(Order::Uniform, Order::Zipf);
                let traffic = Traffic { order, size, strangers_percent, ..common.traffic(flows) };
                let series = if sizes.len() > 1 { format!("{name}, {}", size_name(size)) } else { (*name).to_owned() };
                cases.push(Case {
                    series,
                    at: f64::from(flows),
                    label: flows_name(flows),
                    work: work.clone(),
                    traffic,
                });
            }
        }
    }
    common.plan("Forwarding on one lcore", "flows", cases)
}

/// Chains of passthroughs, and one firewall.
pub fn chain(common: &Common, lengths: &[usize], cpus: usize) -> Result<Plan, PlanError> {
    let mut cases = Vec::new();
    let flows = common.flows.first().copied().unwrap_or(1_000);
    let mut add = |series: &str, functions: Vec<Function>, by_hand, first_packets, flows| {
        let length = functions.len();
        let work = Work::Chain { functions, by_hand, first_packets };
        let traffic = common.traffic(flows);
        cases.push(Case {
            series: series.to_owned(),
            at: length as f64,
            label: format!("{length} NFs"),
            work,
            traffic,
        });
    };
    for &length in lengths {
        if !(1..=64).contains(&length) {
            return Err(PlanError::Chain(length));
        }
        add(POLLED_IN_TURN, passthroughs(length), true, false, flows);
        let (io, others) = (1, 1);
        if length + io + others <= cpus || length == 1 {
            add("passthroughs, a CPU each", passthroughs(length), false, false, flows);
        }
    }
    add(FIREWALL_ESTABLISHED, vec![firewall(flows)], true, false, flows);
    add(FIREWALL_NEW, vec![firewall(NEW_FLOWS)], true, true, NEW_FLOWS);
    common.plan("Chains", "NFs", cases)
}

fn passthroughs(count: usize) -> Vec<Function> {
    vec![Function { name: "passthrough".to_owned(), config: json!({}) }; count]
}

/// A firewall whose rules all miss, so that a new connection is compared with each of them.
fn firewall(flows: u32) -> Function {
    let rule = |at: u32| {
        let [_, _, high, low] = at.to_be_bytes();
        json!({ "action": "deny", "protocol": "udp", "source": format!("172.16.{high}.{low}/32"), "destination_ports": 80 })
    };
    let rules: Vec<_> = (0..FIREWALL_RULES).map(rule).collect();
    let config = json!({ "default": "allow", "connections": flows * 2, "udp_idle_s": 600, "rules": rules });
    Function { name: "firewall".to_owned(), config }
}

/// The tables alone, against memory.
pub fn tables(common: &Common, tag_rules: &[u32]) -> Result<Plan, PlanError> {
    let mut cases = Vec::new();
    let works = [
        ("hash and one line", Work::MemoryLimit),
        ("exact table", Work::ExactLookup),
        ("exact table, packet recorded", Work::ExactMeet),
    ];
    for (series, work) in works {
        for &flows in &common.flows {
            let case = (series.to_owned(), f64::from(flows), flows_name(flows));
            let traffic = common.traffic(flows);
            cases.push(Case { series: case.0, at: case.1, label: case.2, work: work.clone(), traffic });
        }
    }
    for &rules in tag_rules {
        let traffic = common.traffic(rules);
        let series = "tag table".to_owned();
        cases.push(Case { series, at: f64::from(rules), label: flows_name(rules), work: Work::TagLookup, traffic });
    }
    common.plan("Table lookups", "entries", cases)
}

/// Rules that come and go under full load.
pub fn updates(common: &Common, batches: &[usize]) -> Result<Plan, PlanError> {
    let mut cases = Vec::new();
    for &batch in batches {
        for &flows in &common.flows {
            let series = format!("{batch} rules a commit");
            let (at, label) = (f64::from(flows), flows_name(flows));
            cases.push(Case { series, at, label, work: Work::Updates { batch }, traffic: common.traffic(flows) });
        }
    }
    common.plan("Forwarding while rules come and go", "flows", cases)
}

/// Established flows under a flood of SYNs.
pub fn flood(common: &Common, shares_percent: &[u8]) -> Result<Plan, PlanError> {
    let mut cases = Vec::new();
    let flows = common.flows.first().copied().unwrap_or(10_000);
    let most = shares_percent.iter().copied().max().unwrap_or(0).min(99);
    let packets = (u64::from(flows) * 100 / u64::from(100 - most)) as u32;
    for (series, reject) in [("nobody answers", false), ("the controller rejects them", true)] {
        for &share in shares_percent {
            let traffic = Traffic { strangers_percent: share, packets, ..common.traffic(flows) };
            let (at, label) = (f64::from(share), format!("{share} % SYNs"));
            cases.push(Case { series: series.to_owned(), at, label, work: Work::Flood { reject }, traffic });
        }
    }
    common.plan("Established flows under a SYN flood", "percent of packets that are SYNs of new flows", cases)
}

/// What goals speak of, on a machine with so many CPUs.
pub fn goals(common: &Common, cpus: usize) -> Result<Vec<Plan>, PlanError> {
    let with = |flows: &[u32]| Common { flows: flows.to_vec(), ..common.clone() };
    let mut forwarding = forward(&with(&[1_000, 10_000, 64_000, 1_000_000]), &[Size::Fixed(60)], None, 0)?;
    forwarding.cases.retain(|case| case.work != Work::DeliverAndLearn);
    Ok(vec![
        forwarding,
        chain(&with(&[1_000]), &[1, 2, 4, 8], cpus)?,
        tables(&with(&[1_000_000, 4_000_000]), &[])?,
        updates(&with(&[10_000]), &[1, 64, 256])?,
        flood(&with(&[10_000]), &[0, 4, 10, 50, 90])?,
    ])
}

/// `10k` for 10,000.
pub fn flows_name(flows: u32) -> String {
    crate::text::rate_name(f64::from(flows))
}

fn size_name(size: Size) -> String {
    match size {
        Size::Fixed(bytes) => format!("{bytes} B"),
        Size::Imix => "IMIX".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(flows: &[u32]) -> Common {
        Common {
            flows: flows.to_vec(),
            rounds: 3,
            source: Source::Pcap,
            cpu: 1,
            warm_up_ms: 100,
            duration_ms: 1_000,
            seed: 1,
        }
    }

    #[test]
    fn forward_has_its_baseline_at_every_number_of_flows() {
        let plan = forward(&common(&[1_000, 64_000]), &[Size::Fixed(60)], None, 0).unwrap();
        for label in ["1k", "64k"] {
            let works: Vec<_> = plan.cases.iter().filter(|case| case.label == label).map(|case| &case.work).collect();
            assert_eq!(works, [&Work::Bare, &Work::Deliver, &Work::DeliverAndLearn, &Work::Encapsulate]);
        }
        assert_ne!(plan.cpu, plan.control_cpu);
    }

    #[test]
    fn what_can_t_be_measured_is_refused() {
        let sizes = [Size::Fixed(60)];
        assert_eq!(forward(&common(&[0]), &sizes, None, 0), Err(PlanError::Flows(0)));
        assert_eq!(forward(&common(&[1]), &[Size::Fixed(59)], None, 0), Err(PlanError::Size(59)));
        assert_eq!(forward(&common(&[1]), &sizes, Some(-1.0), 0), Err(PlanError::Zipf(-1.0)));
        assert_eq!(flood(&common(&[1]), &[100]), Err(PlanError::Strangers(100)));
        assert_eq!(chain(&common(&[1]), &[0], 2), Err(PlanError::Chain(0)));
        assert_eq!(tables(&Common { rounds: 0, ..common(&[1]) }, &[]), Err(PlanError::Rounds));
    }

    #[test]
    fn chains_get_a_cpu_each_only_where_there_are_enough() {
        let with_own = |cpus| {
            let plan = chain(&common(&[1_000]), &[1, 2, 8], cpus).unwrap();
            plan.cases.iter().filter(|case| case.series.ends_with("a CPU each")).count()
        };
        assert_eq!((with_own(2), with_own(4), with_own(10)), (1, 2, 3));
    }
}
