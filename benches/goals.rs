//! What the project wants to reach, and whether a report reaches it: a goal, a value, a verdict.
//!
//! A figure is judged only where a report has it; a goal that stands beside another program is judged by `scripts/compare`. Where a
//! goal is a difference or a ratio, it is taken within each round and the median counts, so that what the machine does meanwhile
//! hits both sides. Times that were measured while other work ran on the machine say little, and a verdict says no more.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::plot::{COLOURS, FAINT, FONT, INK, PlotError};
use crate::report::{FlowSetupReport, Latency};
use crate::speed::cases::{FIREWALL_ESTABLISHED, FIREWALL_NEW, POLLED_IN_TURN};
use crate::speed::report::{Row, SpeedReport};
use crate::speed::traffic::{Order, Size};
use crate::speed::{TrialResult, Work};

/// VPP's exact match and VXLAN on its own packet generator, and what is wanted without VXLAN where the plain loop does
/// [`LOOP_MPPS`]: flows, Mpps.
const VPP_MPPS: [(u32, f64); 3] = [(1_000, 21.2), (10_000, 20.7), (64_000, 14.4)];
const DELIVER_MPPS: [(u32, f64); 3] = [(1_000, 36.0), (10_000, 33.0), (64_000, 27.0)];
const LOOP_MPPS: f64 = 80.0;
/// What forwarding may add to the plain loop: flows, ns.
const ADDED_NS: [(u32, f64); 2] = [(1_000, 15.0), (1_000_000, 25.0)];
const LOOKUP_FLOWS: [u32; 2] = [1_000_000, 4_000_000];
const LOOKUP_OF_LIMIT: f64 = 1.35;
const MEET_OF_LIMIT: f64 = 2.3;
const FLOW_BYTES: f64 = 160.0;
const HOP_NS: f64 = 15.0;
/// What still counts as flat.
const FLAT: f64 = 1.25;
const HOP_FIGURE: &str = "each_nf_p50_ns";
const FIREWALL_NS: f64 = 20.0;
const NEW_FLOW_NS: f64 = 1_000.0;
const SETUP_RATE_PER_S: f64 = 10_000.0;
const SETUP_P50_US: f64 = 5.0;
const SETUP_P99_US: f64 = 50.0;
const SETUPS_PER_S: f64 = 500_000.0;
const RULES_PER_S: f64 = 1e6;
const DIP_PERCENT: f64 = 5.0;
const KEPT_PERCENT: f64 = 90.0;
/// From here on SYNs are no small part of what a lcore can take.
const SYNS_MANY_PERCENT: u8 = 10;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// What is measured.
    pub what: String,
    /// What it should be.
    pub bound: Bound,
    /// What it is.
    pub value: f64,
    /// Of both.
    pub unit: String,
    /// True if the value is within the bound.
    pub met: bool,
}

/// How good a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// All benches' figures and their goals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoalsReport {
    /// The command that repeats the run.
    pub command_line: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// Every bench's.
    pub goals: Vec<Goal>,
    /// What the figures were taken from.
    pub speed: Vec<SpeedReport>,
    /// The same.
    pub flow_setup: Option<FlowSetupReport>,
}

impl GoalsReport {
    /// Nothing measured yet.
    pub fn new(command_line: Vec<String>) -> Self {
        Self { command_line, machine: Machine::read(), goals: Vec::new(), speed: Vec::new(), flow_setup: None }
    }

    /// With one more report.
    pub fn add_speed(&mut self, report: SpeedReport) {
        self.goals.extend(report.goals.iter().cloned());
        self.speed.push(report);
    }

    /// With flow setup's.
    pub fn add_flow_setup(&mut self, report: FlowSetupReport) {
        self.goals.extend(report.goals.iter().cloned());
        self.flow_setup = Some(report);
    }

    /// The report as JSON, indented, ending in a newline.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a report has string keys only");
        json.push('\n');
        json
    }

    /// The report for a terminal: the benches' warnings, and one table.
    pub fn text(&self) -> String {
        let machine = &self.machine;
        let mut found = format!("{}, {} CPUs, Linux {}\n", machine.cpu, machine.cpus, machine.kernel);
        let speed = self.speed.iter().flat_map(SpeedReport::warnings);
        for warning in speed.chain(self.flow_setup.iter().flat_map(FlowSetupReport::warnings)) {
            let _ = writeln!(found, "warning: {warning}");
        }
        found.push_str(&text(&self.goals));
        let _ = writeln!(found, "\nRepeat with: {}", self.command_line.join(" "));
        found
    }
}

impl Goal {
    fn new(what: impl Into<String>, bound: Bound, value: f64, unit: &str) -> Self {
        let met = match bound {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        };
        Self { what: what.into(), bound, value, unit: unit.to_owned(), met }
    }
}

/// The goals that a speed report has figures for.
pub fn of_speed(report: &SpeedReport) -> Vec<Goal> {
    let mut goals = Vec::new();
    forward(report, &mut goals);
    tables(report, &mut goals);
    chain(report, &mut goals);
    for row in &report.rows {
        match row.case.work {
            Work::Updates { batch } => updates(row, batch, &mut goals),
            Work::Flood { .. } => flood(report, row, &mut goals),
            _ => {}
        }
    }
    goals.retain(|goal| goal.value.is_finite()); // a figure that a report lacks
    goals
}

/// The goals that a flow-setup report has figures for.
pub fn of_flow_setup(report: &FlowSetupReport) -> Vec<Goal> {
    let mut goals = Vec::new();
    for rate in report.rates.iter().filter(|rate| rate.offered_per_s == SETUP_RATE_PER_S) {
        let mut added = |name: &str, of: fn(&Latency) -> u64, most_us| {
            let what = format!("flow setup at 10k flows/s adds, {name}");
            goals.push(Goal::new(what, Bound::AtMost(most_us), of(&rate.added) as f64 / 1e3, "µs"));
        };
        added("p50", |latency| latency.p50_ns, SETUP_P50_US);
        added("p99", |latency| latency.p99_ns, SETUP_P99_US);
        goals.push(Goal::new("flow setup at 10k flows/s loses", Bound::AtMost(0.0), rate.lost() as f64, "packets"));
    }
    if let Some(search) = &report.search {
        let bound = Bound::AtLeast(SETUPS_PER_S);
        goals.push(Goal::new("flow setups without loss", bound, search.median_per_s, "flows/s"));
    }
    goals
}

/// The table, with a line about how many goals are met.
pub fn text(goals: &[Goal]) -> String {
    let mut text = String::new();
    if goals.is_empty() {
        return text;
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["what", "goal", "value", "unit", "verdict"]);
    for goal in goals {
        let bound = match goal.bound {
            Bound::AtMost(most) => format!("≤ {}", short(most)),
            Bound::AtLeast(least) => format!("≥ {}", short(least)),
        };
        let verdict = if goal.met { "met" } else { "missed" };
        table.add_row([goal.what.clone(), bound, short(goal.value), goal.unit.clone(), verdict.to_owned()]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let met = goals.iter().filter(|goal| goal.met).count();
    let _ = writeln!(text, "\nGoals: {met} of {} met\n{table}", goals.len());
    text
}

/// Three digits, or the whole number.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The goals as bars: how much of its bound each value takes, less being better. A goal is met up to the line.
pub fn svg(report: &GoalsReport) -> Result<String, PlotError> {
    if report.goals.is_empty() {
        return Err(PlotError::Empty);
    }
    let mut text = String::new();
    draw(&mut text, &report.goals).map_err(|error| PlotError::Drawing(error.to_string()))?;
    Ok(text)
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Places in the drawing.
const LEFT: i32 = 560;
const UNIT: f64 = 160.0;
const ROW: i32 = 24;
const TOP: i32 = 70;
/// Bars end here; the value stands beside.
const MOST: f64 = 2.0;

fn draw<'a>(text: &'a mut String, goals: &[Goal]) -> Drawn<'a> {
    let height = TOP + ROW * goals.len() as i32 + 20;
    let root = SVGBackend::with_string(text, (1_100, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text(
        "Goals: each value against its bound, the line; shorter is better",
        &(FONT, 21).into_font().color(&INK),
        (24, 16),
    )?;
    let label = (FONT, 13).into_font().color(&INK);
    for (at, goal) in goals.iter().enumerate() {
        let y = TOP + ROW * at as i32;
        let taken = match goal.bound {
            Bound::AtMost(most) if most > 0.0 => goal.value / most,
            Bound::AtMost(_) => f64::from(u8::from(goal.value > 0.0)) * MOST,
            Bound::AtLeast(least) => least / goal.value.max(f64::MIN_POSITIVE),
        };
        let length = (taken.clamp(0.0, MOST) * UNIT) as i32;
        let colour = COLOURS[usize::from(!goal.met)];
        root.draw(&Rectangle::new([(LEFT, y), (LEFT + length.max(1), y + ROW - 8)], colour.filled()))?;
        root.draw_text(&goal.what, &label, (24, y))?;
        let value = format!("{} {}", short(goal.value), goal.unit);
        root.draw_text(&value, &label, (LEFT + length.max(UNIT as i32) + 8, y))?;
    }
    let line = LEFT + UNIT as i32;
    root.draw(&PathElement::new([(line, TOP - 10), (line, height - 12)], FAINT.stroke_width(2)))?;
    root.present()
}

fn forward(report: &SpeedReport, goals: &mut Vec<Goal>) {
    let is_usual = |row: &&Row| {
        let traffic = &row.case.traffic;
        (traffic.size, traffic.order, traffic.strangers_percent) == (Size::Fixed(60), Order::Uniform, 0)
    };
    let find = |work: &Work, flows: u32| {
        let mut rows = report.rows.iter().filter(is_usual);
        rows.find(|row| row.case.work == *work && row.case.traffic.flows == flows)
    };
    for (flows, least) in VPP_MPPS {
        let Some(row) = find(&Work::Encapsulate, flows) else { continue };
        let what = format!("exact match, DSCP, VXLAN at {} flows, above VPP", name(flows));
        goals.push(Goal::new(what, Bound::AtLeast(least), median(row, |round| round.mpps), "Mpps"));
    }
    for (flows, least) in DELIVER_MPPS {
        let (Some(row), Some(bare)) = (find(&Work::Deliver, flows), find(&Work::Bare, 1_000)) else { continue };
        let loop_mpps = median(bare, |round| round.mpps);
        let what = format!("exact match, DSCP at {} flows, where a plain loop does {}", name(flows), short(loop_mpps));
        let scaled = least * (loop_mpps / LOOP_MPPS).min(1.0);
        goals.push(Goal::new(what, Bound::AtLeast(scaled), median(row, |round| round.mpps), "Mpps"));
    }
    for (flows, most) in ADDED_NS {
        for (series, work) in [("DSCP", Work::Deliver), ("DSCP, VXLAN", Work::Encapsulate)] {
            let (Some(row), Some(bare)) = (find(&work, flows), find(&Work::Bare, flows)) else { continue };
            let what = format!("exact match, {series} at {} flows adds to the plain loop", name(flows));
            let added = paired(row, bare, |with, without| with.ns_per_packet - without.ns_per_packet);
            goals.push(Goal::new(what, Bound::AtMost(most), added, "ns"));
        }
    }
}

fn tables(report: &SpeedReport, goals: &mut Vec<Goal>) {
    let find = |work: &Work, flows: u32| {
        report.rows.iter().find(|row| row.case.work == *work && row.case.traffic.flows == flows)
    };
    for flows in LOOKUP_FLOWS {
        let Some(limit) = find(&Work::MemoryLimit, flows) else { continue };
        for (work, what, most) in
            [(Work::ExactLookup, "lookup", LOOKUP_OF_LIMIT), (Work::ExactMeet, "lookup and record", MEET_OF_LIMIT)]
        {
            let Some(row) = find(&work, flows) else { continue };
            let what = format!("{what} at {} flows, times hash and one line", name(flows));
            let ratio = paired(row, limit, |ours, limit| ours.ns_per_packet / limit.ns_per_packet);
            goals.push(Goal::new(what, Bound::AtMost(most), ratio, "×"));
        }
        if let Some(row) = find(&Work::ExactMeet, flows) {
            let what = format!("memory of a flow, of {}", name(flows));
            goals.push(Goal::new(what, Bound::AtMost(FLOW_BYTES), further(row, "bytes_per_flow"), "bytes"));
        }
    }
}

/// A hop's cost is that of half of its lcore's polls, which does not know what else the machine did.
fn chain(report: &SpeedReport, goals: &mut Vec<Goal>) {
    let find = |name: &str| report.rows.iter().find(|row| row.case.series == name);
    let in_turn = report.rows.iter().filter(|row| row.case.series == POLLED_IN_TURN);
    for row in in_turn.clone() {
        let what = format!("passthrough hop, each of {}", row.case.label);
        goals.push(Goal::new(what, Bound::AtMost(HOP_NS), further(row, HOP_FIGURE), "ns"));
    }
    let hops = in_turn.map(|row| further(row, HOP_FIGURE));
    let (least, most) = hops.fold((f64::INFINITY, 0.0_f64), |(least, most), hop| (least.min(hop), most.max(hop)));
    if most > least {
        goals.push(Goal::new("dearest hop, times the cheapest", Bound::AtMost(FLAT), most / least, "×"));
    }
    let first = report.rows.iter().find(|row| row.case.series == POLLED_IN_TURN && row.case.at == 1.0);
    if let (Some(row), Some(first)) = (find(FIREWALL_ESTABLISHED), first) {
        let what = "firewall of 1,000 rules, established flows, over a passthrough";
        let of = |round: &TrialResult| round.further.get(HOP_FIGURE).copied().unwrap_or(f64::NAN);
        let ns = paired(row, first, |firewall, passthrough| of(firewall) - of(passthrough));
        goals.push(Goal::new(what, Bound::AtMost(FIREWALL_NS), ns, "ns"));
    }
    if let Some(row) = find(FIREWALL_NEW) {
        let what = "firewall of 1,000 rules, new flows, its whole hop";
        goals.push(Goal::new(what, Bound::AtMost(NEW_FLOW_NS), further(row, HOP_FIGURE), "ns"));
    }
}

fn updates(row: &Row, batch: usize, goals: &mut Vec<Goal>) {
    let of = |what: &str| format!("{what}, {batch} rules a commit, {} flows", row.case.label);
    let rate = Bound::AtLeast(RULES_PER_S);
    goals.push(Goal::new(of("most rules"), rate, further(row, "most_rules_per_s"), "rules/s"));
    let dip = further(row, "dip_percent");
    goals.push(Goal::new(of("dip at 1M rules/s"), Bound::AtMost(DIP_PERCENT), dip, "%"));
    let lost = further(row, "lost_packets");
    goals.push(Goal::new(of("packets lost by rules"), Bound::AtMost(0.0), lost, "packets"));
}

/// What established flows keep. A lcore that is always saturated gives each packet its turn, so a tenth of SYNs takes a tenth of
/// the turns whatever it costs, and two things are asked. *Of their turns*: what an established flow gets of what it would get if the
/// SYNs were packets of established flows; 90 % is met at any share if a SYN costs no more than an established packet. *Of all*: what
/// the established flows have of what they have without SYNs; asked where those are few in a hundred and still a million a second.
fn flood(report: &SpeedReport, row: &Row, goals: &mut Vec<Goal>) {
    let share = row.case.traffic.strangers_percent;
    let calm = |other: &&Row| other.case.work == row.case.work && other.case.traffic.strangers_percent == 0;
    let Some(calm) = report.rows.iter().find(calm).filter(|_| share > 0) else { return };
    let received = |round: &TrialResult| round.further.get("received_mpps").copied().unwrap_or(0.0);
    let delivered = |round: &TrialResult| round.further.get("delivered_percent").copied().unwrap_or(0.0);
    let kept = paired(row, calm, |flooded, calm| {
        (received(flooded) / received(calm).max(f64::MIN_POSITIVE)).min(1.0) * delivered(flooded)
    });
    let what = format!("established flows keep of their turns under {share} % SYNs, {}", row.case.series);
    goals.push(Goal::new(what, Bound::AtLeast(KEPT_PERCENT), kept, "%"));
    if share < SYNS_MANY_PERCENT {
        let kept = paired(row, calm, |flooded, calm| flooded.mpps * 100.0 / calm.mpps.max(f64::MIN_POSITIVE));
        let syns = crate::text::rate_name(further(row, "syns_per_s"));
        let what = format!("established flows keep of all under {syns} SYNs/s, {}", row.case.series);
        goals.push(Goal::new(what, Bound::AtLeast(KEPT_PERCENT), kept, "%"));
    }
}

fn name(flows: u32) -> String {
    crate::speed::cases::flows_name(flows)
}

fn median(row: &Row, of: impl Fn(&TrialResult) -> f64) -> f64 {
    row.figure(of).median
}

fn further(row: &Row, name: &str) -> f64 {
    median(row, |round| round.further.get(name).copied().unwrap_or(f64::NAN))
}

/// The median over the rounds of what each round's two figures give.
fn paired(row: &Row, other: &Row, of: impl Fn(&TrialResult, &TrialResult) -> f64) -> f64 {
    let mut values: Vec<f64> = row.rounds.iter().zip(&other.rounds).map(|(one, other)| of(one, other)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::speed::Traffic;
    use crate::speed::cases::Case;

    fn row(work: Work, flows: u32, series: &str, at: f64, ns: &[u64]) -> Row {
        let traffic = Traffic { flows, ..Traffic::default() };
        let case = Case { series: series.to_owned(), at, label: name(flows), work, traffic };
        let round = |&ns: &u64| TrialResult::of(1_000_000, Duration::from_micros(ns * 1_000), 1);
        Row { case, rounds: ns.iter().map(round).collect() }
    }

    fn report(rows: Vec<Row>) -> SpeedReport {
        SpeedReport { rows, ..crate::speed::report::tests::report(&[1]) }
    }

    #[test]
    fn added_cost_is_taken_round_by_round_and_not_between_medians() {
        let report = report(vec![
            row(Work::Bare, 1_000, "plain loop", 1e3, &[10, 100, 50]),
            row(Work::Deliver, 1_000, "exact", 1e3, &[20, 112, 90]),
        ]);
        let goals = of_speed(&report);
        let added = goals.iter().find(|goal| goal.what.contains("adds")).unwrap();
        assert_eq!((added.value.round(), added.met), (12.0, true));
    }

    #[test]
    fn a_goal_beside_a_loop_is_scaled_by_the_loop() {
        let report = report(vec![
            row(Work::Bare, 1_000, "plain loop", 1e3, &[25]), // 40 Mpps
            row(Work::Deliver, 64_000, "exact", 64e3, &[80]), // 12.5 Mpps
        ]);
        let goals = of_speed(&report);
        assert_eq!(goals.len(), 1, "{goals:?}");
        assert_eq!((goals[0].bound, goals[0].met), (Bound::AtLeast(13.5), false));
    }

    #[test]
    fn a_flood_is_judged_by_turns_and_where_it_is_small_by_all() {
        let flooded = |share: u8, ns: u64, received_mpps: f64| {
            let work = Work::Flood { reject: false };
            let mut row = row(work, 1_000, "nobody answers", f64::from(share), &[ns]);
            row.case.traffic.strangers_percent = share;
            for (name, value) in [("received_mpps", received_mpps), ("delivered_percent", 100.0), ("syns_per_s", 1e6)] {
                row.rounds[0].further.insert(name.to_owned(), value);
            }
            row
        };
        // Without SYNs 20 Mpps; with 5 % of them 19 of 20, with 50 % 8 of 16, so that a SYN costs more than a packet.
        let rows = vec![flooded(0, 50, 20.0), flooded(5, 53, 20.0), flooded(50, 125, 16.0)];
        let goals = of_speed(&report(rows));
        let found: Vec<(f64, bool)> = goals.iter().map(|goal| (goal.value.round(), goal.met)).collect();
        assert_eq!(found, [(100.0, true), (94.0, true), (80.0, false)], "{goals:?}");
    }

    #[test]
    fn a_report_without_the_figures_has_no_goal() {
        assert!(of_speed(&report(vec![row(Work::TagLookup, 63, "tags", 63.0, &[1])])).is_empty());
        assert!(text(&[]).is_empty());
    }

    #[test]
    fn every_hop_is_judged_and_whether_they_are_flat() {
        let work = || Work::Chain { functions: Vec::new(), by_hand: true, first_packets: false };
        let rows = [(1.0, 12.0), (2.0, 14.0), (8.0, 24.0)].map(|(at, hop_ns)| {
            let mut row = row(work(), 1_000, POLLED_IN_TURN, at, &[100]);
            row.rounds[0].further.insert(HOP_FIGURE.to_owned(), hop_ns);
            row
        });
        let goals = of_speed(&report(rows.into()));
        let found: Vec<(f64, bool)> = goals.iter().map(|goal| (goal.value, goal.met)).collect();
        assert_eq!(found, [(12.0, true), (14.0, true), (24.0, false), (2.0, false)]);
        assert!(text(&goals).contains("2 of 4 met"));
    }
}
