//! A solution as a picture: hosts with their cores and instances, links coloured by load. SVG, or DOT for Graphviz.

use std::fmt::Write;

use crate::formats::table::names;
use crate::problem::Problem;
use crate::solve::Solved;

fn colour(used: f64) -> String {
    let red = (used.clamp(0.0, 1.0) * 220.0) as u8;
    format!("#{:02x}{:02x}40", 30 + red, 190 - red / 2)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The instances of a host with their load, as `firewall/1 3/10`.
fn inside(problem: &Problem, solved: &Solved, host: usize) -> Vec<(String, f64)> {
    let names = names(problem, solved);
    let instances = solved.solution.instances.iter().enumerate().filter(|(_, at)| at.host == host);
    let text = |(number, at): (usize, &crate::checker::Instance)| {
        let (load, capacity) = (solved.loads.instances[number], problem.kinds[at.kind].capacity[host]);
        (format!("{} {load}/{capacity}", names[number]), load as f64 / capacity.max(1) as f64)
    };
    instances.map(text).collect()
}

/// For Graphviz.
pub fn dot(problem: &Problem, solved: &Solved) -> String {
    let mut out = String::from("digraph placement {\n  node [shape=box];\n");
    for (number, host) in problem.hosts.iter().enumerate() {
        let cores: u32 = host.cores.iter().sum();
        let mut label = format!("{} ({cores} cores)", host.name.replace('"', "'"));
        for (text, _) in inside(problem, solved, number) {
            label += "\\n";
            label += &text.replace('"', "'");
        }
        let _ = writeln!(out, "  h{number} [label=\"{label}\"];");
    }
    for (link, &load) in problem.links.iter().zip(&solved.loads.links) {
        let colour = colour(load as f64 / link.capacity as f64);
        let (from, to, capacity) = (link.from, link.to, link.capacity);
        let _ = writeln!(out, "  h{from} -> h{to} [label=\"{load}/{capacity}\", color=\"{colour}\"];");
    }
    out + "}\n"
}

/// Where hosts are drawn: their positions scaled to the picture, or a circle if not all have one.
fn places(problem: &Problem, width: f64, height: f64) -> Vec<(f64, f64)> {
    let known: Option<Vec<(f64, f64)>> = problem.hosts.iter().map(|host| host.position).collect();
    let count = problem.hosts.len();
    let angle = |number: usize| number as f64 / count as f64 * std::f64::consts::TAU;
    let points = known.unwrap_or_else(|| (0..count).map(|number| (angle(number).cos(), angle(number).sin())).collect());
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let values = points.iter().map(pick);
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
    };
    let ((left, right), (low, high)) = (range(|point| point.0), range(|point| point.1));
    let scale = |value: f64, from: f64, to: f64| if to > from { (value - from) / (to - from) } else { 0.5 };
    let place = |&(x, y): &(f64, f64)| {
        (
            MARGIN + scale(x, left, right) * (width - 2.0 * MARGIN),
            height - MARGIN - scale(y, low, high) * (height - 2.0 * MARGIN),
        )
    };
    points.iter().map(place).collect()
}

const MARGIN: f64 = 90.0;

/// For a browser.
pub fn svg(problem: &Problem, solved: &Solved) -> String {
    let (width, height) = (1400.0, 1000.0);
    let places = places(problem, width, height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n"
    );
    for (link, &load) in problem.links.iter().zip(&solved.loads.links) {
        let ((x1, y1), (x2, y2)) = (places[link.from], places[link.to]);
        let used = load as f64 / link.capacity as f64;
        // The two directions of a pair lie side by side.
        let length = (x2 - x1).hypot(y2 - y1).max(1.0);
        let (dx, dy) = (-(y2 - y1) / length * 3.0, (x2 - x1) / length * 3.0);
        let (names, capacity) = ((&problem.hosts[link.from].name, &problem.hosts[link.to].name), link.capacity);
        let _ = writeln!(
            out,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{}\" stroke-width=\"{:.1}\"><title>{} to {}: {load}/{capacity}</title></line>",
            x1 + dx,
            y1 + dy,
            x2 + dx,
            y2 + dy,
            colour(used),
            1.0 + used * 4.0,
            escape(names.0),
            escape(names.1)
        );
    }
    for (number, host) in problem.hosts.iter().enumerate() {
        let (x, y) = places[number];
        let inside = inside(problem, solved, number);
        let cores: u32 = host.cores.iter().sum();
        let tall = 20.0 + 14.0 * inside.len() as f64;
        let _ = writeln!(
            out,
            "<g><rect x=\"{:.1}\" y=\"{:.1}\" width=\"110\" height=\"{tall}\" rx=\"4\" fill=\"#ffffff\" stroke=\"#606060\"/><text x=\"{:.1}\" y=\"{:.1}\">{} ({cores})</text>",
            x - 55.0,
            y - tall / 2.0,
            x - 50.0,
            y - tall / 2.0 + 14.0,
            escape(&host.name)
        );
        for (row, (text, used)) in inside.iter().enumerate() {
            let top = y - tall / 2.0 + 28.0 + 14.0 * row as f64;
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{top:.1}\" fill=\"{}\">{}</text>",
                x - 46.0,
                colour(*used),
                escape(text)
            );
        }
        out += "</g>\n";
    }
    out + "</svg>\n"
}
