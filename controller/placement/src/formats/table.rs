//! A solution for people: what runs where, how full it is, and which way every flow takes; and the same as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::problem::Problem;
use crate::solve::Solved;

/// A flow's way by names.
#[derive(Clone, Debug, Serialize)]
struct FlowRow {
    flow: String,
    instances: Vec<String>,
    hosts: Vec<Vec<String>>,
    delay_ms: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct InstanceRow {
    instance: String,
    kind: String,
    host: String,
    numa: usize,
    load: u64,
    capacity: u64,
}

#[derive(Clone, Debug, Serialize)]
struct LinkRow {
    from: String,
    to: String,
    load: u64,
    capacity: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    name: String,
    u: f64,
    u_bound: f64,
    max_delay_ms: f64,
    max_delay_bound_ms: f64,
    cores: u32,
    cores_bound: u32,
    is_proven: bool,
    instances: Vec<InstanceRow>,
    links: Vec<LinkRow>,
    flows: Vec<FlowRow>,
}

/// `kind/number` of every instance, counted per kind.
pub fn names(problem: &Problem, solved: &Solved) -> Vec<String> {
    let mut count = vec![0; problem.kinds.len()];
    let name = |instance: &crate::checker::Instance| {
        count[instance.kind] += 1;
        format!("{}/{}", problem.kinds[instance.kind].name, count[instance.kind])
    };
    solved.solution.instances.iter().map(name).collect()
}

fn report(problem: &Problem, solved: &Solved) -> Report {
    let names = names(problem, solved);
    let host = |host: usize| problem.hosts[host].name.clone();
    let instances = solved.solution.instances.iter().zip(&names).zip(&solved.loads.instances);
    let instances = instances.map(|((at, name), &load)| InstanceRow {
        instance: name.clone(),
        kind: problem.kinds[at.kind].name.clone(),
        host: host(at.host),
        numa: at.numa,
        load,
        capacity: problem.kinds[at.kind].capacity[at.host],
    });
    let links = problem.links.iter().zip(&solved.loads.links);
    let links =
        links.map(|(link, &load)| LinkRow { from: host(link.from), to: host(link.to), load, capacity: link.capacity });
    let flow = |(number, flow): (usize, &crate::problem::Flow)| {
        let route = solved.solution.routes[number].clone().unwrap_or_default();
        let mut here = flow.from;
        let segment = |links: &Vec<usize>| {
            let mut hosts = vec![host(here)];
            for &link in links {
                here = problem.links[link].to;
                hosts.push(host(here));
            }
            hosts
        };
        FlowRow {
            flow: flow.name.clone(),
            hosts: route.segments.iter().map(segment).collect(),
            instances: route.instances.iter().map(|&instance| names[instance].clone()).collect(),
            delay_ms: solved.loads.delays_ns[number].map(|ns| ns as f64 / 1e6),
        }
    };
    Report {
        name: problem.name.clone(),
        u: solved.value.u.as_f64(),
        u_bound: solved.bound.u.as_f64(),
        max_delay_ms: solved.value.delay_ns as f64 / 1e6,
        max_delay_bound_ms: solved.bound.delay_ns as f64 / 1e6,
        cores: solved.value.cores,
        cores_bound: solved.bound.cores,
        is_proven: solved.is_proven(),
        instances: instances.collect(),
        links: links.collect(),
        flows: problem.flows.iter().enumerate().map(flow).collect(),
    }
}

/// The solution as JSON, everything by name.
pub fn json(problem: &Problem, solved: &Solved) -> String {
    serde_json::to_string_pretty(&report(problem, solved)).unwrap_or_default()
}

/// What is proven, and how much is open.
fn verdict(solved: &Solved) -> String {
    let [u, delay, cores] = solved.gaps();
    let named = [("U", u), ("MaxDelay", delay), ("cores", cores)];
    // The first that is open leaves what comes after it without a meaning.
    match named.iter().find(|(_, gap)| *gap > 0.0) {
        Some((name, gap)) => format!("not proven optimal: {name} may be up to {:.1} % less", gap * 100.0),
        None => "proven optimal".to_owned(),
    }
}

/// The solution as a table.
pub fn text(problem: &Problem, solved: &Solved) -> String {
    let report = report(problem, solved);
    let mut out = String::new();
    let _ = write!(out, "{}: U {:.4} (at least {:.4})", report.name, report.u, report.u_bound);
    // What the goal leaves out has no bound worth the name.
    let _ = write!(out, ", MaxDelay {:.3} ms", report.max_delay_ms);
    if solved.goal.delay {
        let _ = write!(out, " (at least {:.3})", report.max_delay_bound_ms);
    }
    let _ = write!(out, ", {} core{}", report.cores, if report.cores == 1 { "" } else { "s" });
    if solved.goal.cores {
        let _ = write!(out, " (at least {})", report.cores_bound);
    }
    let _ = writeln!(out, "\n{}\n", verdict(solved));
    let mut rows = vec![["INSTANCE", "HOST", "NUMA", "LOAD"].map(String::from).to_vec()];
    for row in &report.instances {
        let load = format!("{}/{}", row.load, row.capacity);
        rows.push(vec![row.instance.clone(), row.host.clone(), row.numa.to_string(), load]);
    }
    columns(&mut out, &rows);
    rows = vec![["LINK", "LOAD"].map(String::from).to_vec()];
    for row in report.links.iter().filter(|row| row.load > 0) {
        rows.push(vec![format!("{} -> {}", row.from, row.to), format!("{}/{}", row.load, row.capacity)]);
    }
    columns(&mut out, &rows);
    rows = vec![["FLOW", "DELAY ms", "WAY"].map(String::from).to_vec()];
    for row in &report.flows {
        let delay = row.delay_ms.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
        let mut way = String::new();
        for (at, segment) in row.hosts.iter().enumerate() {
            let hosts = if at == 0 { segment.as_slice() } else { &segment[1..] };
            for host in hosts {
                way += if way.is_empty() { "" } else { " > " };
                way += host;
            }
            if let Some(instance) = row.instances.get(at) {
                let _ = write!(way, " [{instance}]");
            }
        }
        rows.push(vec![row.flow.clone(), delay, way]);
    }
    columns(&mut out, &rows);
    out
}

fn columns(out: &mut String, rows: &[Vec<String>]) {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out.push('\n');
}
