//! Rocketfuel's POP-level maps: `AS:City -> AS:City latency`, one directed link per line, latency in milliseconds.
//!
//! A pair of places may stand there once in each direction.
//! Source: Mahajan, Spring, Anderson, "Quantifying the causes of path inflation", SIGCOMM 2003, the `.lat` and `.edges` files.

use std::collections::HashMap;

use super::{Collector, Defaults, FormatError, Topology};

/// Reads a map.
pub fn read(text: &str, file: &str, defaults: &Defaults) -> Result<Topology, FormatError> {
    let mut collector = Collector::new(file, defaults);
    let mut seen: HashMap<(usize, usize), usize> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |reason: &str| FormatError { file: file.to_owned(), line: number, reason: reason.to_owned() };
        let (from, rest) = line.split_once(" -> ").ok_or_else(|| wrong("expected `FROM -> TO LATENCY`"))?;
        let (to, latency) =
            rest.rsplit_once(' ').ok_or_else(|| wrong("the latency is missing: expected `FROM -> TO LATENCY`"))?;
        let latency_ms: f64 =
            latency.parse().map_err(|_| wrong(&format!("{latency} is not a latency in milliseconds")))?;
        if !(0.0..1e9).contains(&latency_ms) {
            return Err(wrong(&format!("a latency of {latency} ms cannot be")));
        }
        let (from, to) = (city(from), city(to));
        if from.is_empty() || to.is_empty() {
            return Err(wrong("a place without a name: expected `FROM -> TO LATENCY`"));
        }
        if from == to {
            return Err(wrong(&format!("the link goes from {from} to itself: leave it out")));
        }
        let ends = (collector.host(from), collector.host(to));
        if let Some(first) = seen.insert(ends, number) {
            return Err(wrong(&format!("the link from {from} to {to} is there twice, first on line {first}")));
        }
        let (from, to) = ends;
        collector.add_link(from, to, None, Some((latency_ms * 1e6).round() as u64));
    }
    collector.finish()
}

fn city(place: &str) -> &str {
    let place = place.trim();
    match place.split_once(':') {
        Some((number, city)) if number.bytes().all(|byte| byte.is_ascii_digit()) => city.trim(),
        _ => place,
    }
}
