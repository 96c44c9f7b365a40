//! SNDlib's native format: NODES with coordinates, LINKS with installed and purchasable capacities.
//!
//! `link_id ( source target ) pre_capacity pre_cost routing_cost setup_cost ( capacity cost ... )`. A link is used in both directions. Its
//! capacity is the preinstalled one, or the largest module, rounded to a whole and at least 1. Source: sndlib.zib.de, "Format descriptions".

use std::collections::HashSet;

use super::{Collector, Defaults, FormatError, Topology};

/// Reads a network.
pub fn read(text: &str, file: &str, defaults: &Defaults) -> Result<Topology, FormatError> {
    let mut collector = Collector::new(file, defaults);
    let mut section = "";
    let (mut seen, mut links) = (Vec::new(), HashSet::new());
    for (number, line) in text.lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with(['#', '?']) {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match (section, words.as_slice()) {
            ("", [name @ ("NODES" | "LINKS" | "DEMANDS" | "ADMISSIBLE_PATHS" | "META"), "("]) => {
                if seen.contains(name) {
                    return Err(collector.wrong(number, format!("the section {name} is there twice")));
                }
                seen.push(name);
                section = name;
            }
            ("", _) => {
                return Err(collector.wrong(number, format!("expected a section such as `NODES (`, found `{line}`")));
            }
            (_, [")"]) => section = "",
            ("NODES", words) => node(&mut collector, number, words)?,
            ("LINKS", words) => {
                link(&mut collector, number, words)?;
                if !links.insert(words[0]) {
                    return Err(collector.wrong(number, format!("link {} is there twice", words[0])));
                }
            }
            _ => {}
        }
    }
    match section {
        "" => collector.finish(),
        open => Err(collector.wrong(text.lines().count(), format!("the section {open} does not end: `)` is missing"))),
    }
}

fn node(collector: &mut Collector, line: usize, words: &[&str]) -> Result<(), FormatError> {
    let &[name, "(", x, y, ")"] = words else {
        return Err(collector.wrong(line, "expected `NAME ( LONGITUDE LATITUDE )`"));
    };
    let degree = |word: &str| word.parse::<f64>().ok().filter(|value| value.is_finite());
    let Some((x, y)) = degree(x).zip(degree(y)) else {
        return Err(collector.wrong(line, format!("{x} {y} are not two coordinates")));
    };
    if collector.numbers.contains_key(name) {
        return Err(collector.wrong(line, format!("node {name} is there twice")));
    }
    collector.add_host(name, name.to_owned(), Some((x, y)));
    Ok(())
}

fn link(collector: &mut Collector, line: usize, words: &[&str]) -> Result<(), FormatError> {
    let [_, "(", from, to, ")", pre, pre_cost, routing_cost, setup_cost, "(", modules @ .., ")"] = words else {
        let reason =
            "expected `NAME ( SOURCE TARGET ) PRE_CAPACITY PRE_COST ROUTING_COST SETUP_COST ( {CAPACITY COST}* )`";
        return Err(collector.wrong(line, reason));
    };
    let mut ends = [0; 2];
    for (end, name) in ends.iter_mut().zip([from, to]) {
        let known = collector.numbers.get(*name).copied();
        *end = known.ok_or_else(|| collector.wrong(line, format!("node {name} is not in the section NODES")))?;
    }
    if from == to {
        return Err(collector.wrong(line, format!("the link goes from {from} to itself: leave it out")));
    }
    let number = |word: &str| word.parse::<f64>().ok().and_then(|value| Some((value, super::capacity_of(value)?)));
    for cost in [pre_cost, routing_cost, setup_cost].into_iter().chain(modules.iter().skip(1).step_by(2)) {
        number(cost).ok_or_else(|| collector.wrong(line, format!("{cost} is not a cost")))?;
    }
    if modules.len() % 2 != 0 {
        return Err(collector.wrong(line, "a module is a capacity and a cost: one of them is missing"));
    }
    let capacity = |word: &str| number(word).ok_or_else(|| collector.wrong(line, format!("{word} is not a capacity")));
    let (_, mut most) = capacity(pre)?;
    if most == 0 {
        for word in modules.iter().step_by(2) {
            most = most.max(capacity(word)?.1);
        }
    }
    let capacity = Some(most).filter(|&capacity| capacity > 0);
    collector.add_link(ends[0], ends[1], capacity, None);
    collector.add_link(ends[1], ends[0], capacity, None);
    Ok(())
}
