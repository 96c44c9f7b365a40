//! Table 3 of the Stratos paper as a figure: tasks per second, ours on one thread beside what is published.

use super::published;
use super::runs::Runs;
use super::sheet::{Body, Point, Series, Sheet, Source, printed};
use crate::placement::stratos::{Rate, Task};

fn bar(x: f64, rate: &Rate) -> Point {
    let note = format!(
        "{}; one thread; mean latency {:.1} µs; {} of {} found no rack",
        rate.how,
        1e6 / rate.per_s,
        rate.without,
        rate.count
    );
    let value = rate.per_s;
    Point { x, low: value, median: value, high: value, runs: 1, limited: 0, without: 0, bound: None, gap: None, note }
}

/// Table 3.
pub fn sheet(runs: &Runs) -> Sheet {
    let mut categories = Vec::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for rate in &runs.rates {
        let at = categories.len() as f64;
        let how = rate.how.strip_prefix("ours, ");
        let task = match rate.task {
            Task::Distribution => "distribution",
            Task::Placement => "placement",
        };
        categories.push(format!("{task}\n{}", how.unwrap_or("HiGHS, rebuilt")));
        if how.is_some() { ours.push(bar(at, rate)) } else { theirs.push(bar(at, rate)) }
    }
    let at = categories.len() as f64;
    categories.extend(["distribution\nStratos".to_owned(), "placement\nStratos".to_owned()]);
    let published = vec![printed(at, published::DISTRIBUTIONS_PER_S), printed(at + 1.0, published::PLACEMENTS_PER_S)];
    let series = |label: &str, source, colour, points| Series { label: label.to_owned(), source, colour, points };
    Sheet {
        number: "T3".to_owned(),
        file: "table-3".to_owned(),
        title: "Table 3 (Stratos): provisioning tasks per second".to_owned(),
        subtitle: "Chain 3-2-1-2-4; 20,000 racks of 20 machines, 625 aggregation switches. Published latencies: 183 ms (LP), 506 ms.".to_owned(),
        x: "Task, and by what".to_owned(),
        y: "Per second (ours: one thread)".to_owned(),
        body: Body::Bars {
            categories,
            series: vec![
                series("Fig. 6 by HiGHS", Source::Theirs, 1, theirs),
                series("simplex, racks", Source::Ours, 0, ours),
                series("Table 3, 8 cores", Source::Published, 5, published),
            ],
            guides: Vec::new(),
            is_log: true,
        },
        reading: String::new(),
    }
}
