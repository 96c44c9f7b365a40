//! GML as the Internet Topology Zoo writes it: `graph [ node [ id label Longitude Latitude ] edge [ source target LinkSpeedRaw ] ]`.
//!
//! An edge of an undirected graph becomes two links. LinkSpeedRaw is in bit/s; the link's capacity is taken from it in Mbit/s. Without
//! positions a link has the default delay. Source: Himsolt, "GML: A portable graph file format", 1997.

use std::collections::HashMap;

use super::{Collector, Defaults, FormatError, Topology};

/// A token with its line.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    Word(String),
    Text(String),
}

/// A list's scalar values, by key, with the line where the list begins.
struct List {
    line: usize,
    values: HashMap<String, String>,
}

/// Reads a graph.
pub fn read(text: &str, file: &str, defaults: &Defaults) -> Result<Topology, FormatError> {
    let mut collector = Collector::new(file, defaults);
    let tokens = tokens(text, &collector)?;
    let (nodes, edges, directed) = lists(&tokens, &collector)?;
    let mut names: HashMap<String, usize> = HashMap::new();
    for node in &nodes {
        let id = node.values.get("id").ok_or_else(|| collector.wrong(node.line, "a node has no id"))?;
        if collector.numbers.contains_key(id) {
            return Err(collector.wrong(node.line, format!("node {id} is there twice")));
        }
        let degree = |key: &str| node.values.get(key).and_then(|value| value.parse::<f64>().ok());
        let position = degree("Longitude").zip(degree("Latitude"));
        let label = node.values.get("label").unwrap_or(id);
        let again = names.entry(label.clone()).or_insert(0);
        *again += 1;
        let name = if *again == 1 { label.clone() } else { format!("{label} ({id})") };
        collector.add_host(id, name, position);
    }
    for edge in &edges {
        let mut ends = [0; 2];
        for (end, key) in ends.iter_mut().zip(["source", "target"]) {
            let id = edge.values.get(key).ok_or_else(|| collector.wrong(edge.line, format!("an edge has no {key}")))?;
            let known = collector.numbers.get(id).copied();
            *end = known.ok_or_else(|| collector.wrong(edge.line, format!("the edge's {key} {id} is not a node")))?;
        }
        if ends[0] == ends[1] {
            continue;
        }
        let speed = edge.values.get("LinkSpeedRaw").and_then(|speed| speed.parse::<f64>().ok());
        let capacity = speed.map(|bits| (bits / 1e6).round() as u64).filter(|&mbits| mbits > 0);
        collector.add_link(ends[0], ends[1], capacity, None);
        if !directed {
            collector.add_link(ends[1], ends[0], capacity, None);
        }
    }
    collector.finish()
}

fn tokens(text: &str, collector: &Collector) -> Result<Vec<(usize, Token)>, FormatError> {
    let mut found = Vec::new();
    let mut rest = text.char_indices().peekable();
    let mut line = 1;
    while let Some((at, letter)) = rest.next() {
        match letter {
            '\n' => line += 1,
            '#' => while rest.next_if(|(_, letter)| *letter != '\n').is_some() {},
            '[' => found.push((line, Token::Open)),
            ']' => found.push((line, Token::Close)),
            '"' => {
                let began = line;
                let mut end = None;
                for (next, letter) in rest.by_ref() {
                    match letter {
                        '"' => {
                            end = Some(next);
                            break;
                        }
                        '\n' => line += 1,
                        _ => {}
                    }
                }
                let end = end.ok_or_else(|| collector.wrong(began, "a text begins with \" and does not end"))?;
                found.push((began, Token::Text(text[at + 1..end].to_owned())));
            }
            _ if letter.is_whitespace() => {}
            _ => {
                let mut end = at + letter.len_utf8();
                while let Some((next, letter)) =
                    rest.next_if(|(_, letter)| !letter.is_whitespace() && !"[]\"".contains(*letter))
                {
                    end = next + letter.len_utf8();
                }
                found.push((line, Token::Word(text[at..end].to_owned())));
            }
        }
    }
    Ok(found)
}

type Lists = (Vec<List>, Vec<List>, bool);

fn lists(tokens: &[(usize, Token)], collector: &Collector) -> Result<Lists, FormatError> {
    let (mut nodes, mut edges, mut directed) = (Vec::new(), Vec::new(), false);
    let mut open: Vec<(String, List)> = Vec::new();
    let mut rest = tokens.iter().peekable();
    while let Some((line, token)) = rest.next() {
        match token {
            Token::Close => {
                let (key, list) = open.pop().ok_or_else(|| collector.wrong(*line, "`]` closes nothing"))?;
                match key.as_str() {
                    "node" => nodes.push(list),
                    "edge" => edges.push(list),
                    "graph" => directed = list.values.get("directed").is_some_and(|value| value == "1"),
                    _ => {}
                }
            }
            Token::Word(key) => match rest.next() {
                Some((_, Token::Open)) => open.push((key.clone(), List { line: *line, values: HashMap::new() })),
                Some((_, Token::Word(value) | Token::Text(value))) => {
                    if let Some((_, list)) = open.last_mut() {
                        list.values.insert(key.clone(), value.clone());
                    }
                }
                _ => return Err(collector.wrong(*line, format!("the key {key} has no value"))),
            },
            Token::Open | Token::Text(_) => return Err(collector.wrong(*line, "expected a key")),
        }
    }
    match open.last() {
        Some((key, list)) => Err(collector.wrong(list.line, format!("the list {key} does not end: `]` is missing"))),
        None => Ok((nodes, edges, directed)),
    }
}
