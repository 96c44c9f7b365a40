//! GML as the Internet Topology Zoo writes it: `graph [ node [ id label Longitude Latitude ] edge [ source target LinkSpeedRaw ] ]`.
//!
//! An edge of an undirected graph becomes two links. LinkSpeedRaw is in bit/s; the link's capacity is taken from it in Mbit/s, rounded to a
//! whole and at least 1. Without positions a link has the default delay. Lists inside nodes and edges are passed over. Two nodes may have
//! one label: the later one's name has its id behind it. Source: Himsolt, "GML: A portable graph file format", 1997.

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

/// A list's scalar values with their lines, by key, and the line where the list begins.
struct List {
    line: usize,
    values: HashMap<String, (usize, String)>,
}

/// The keys that are read; each may be in a list once.
const KEYS: [&str; 8] = ["id", "label", "Longitude", "Latitude", "source", "target", "LinkSpeedRaw", "directed"];

impl List {
    /// The value of a key, which must be a finite number.
    fn number(&self, key: &str, collector: &Collector) -> Result<Option<f64>, FormatError> {
        let Some((line, value)) = self.values.get(key) else { return Ok(None) };
        let number = value.parse::<f64>().ok().filter(|value| value.is_finite());
        number.map(Some).ok_or_else(|| collector.wrong(*line, format!("{key} {value} is not a number")))
    }

    /// The value of a key that a node or an edge must have: a node's number.
    fn id(&self, what: &str, key: &str, collector: &Collector) -> Result<(usize, &str), FormatError> {
        let found = self.values.get(key);
        let (line, value) = found.ok_or_else(|| collector.wrong(self.line, format!("{what} has no {key}")))?;
        match value.parse::<i64>() {
            Ok(_) => Ok((*line, value)),
            Err(_) => Err(collector.wrong(*line, format!("{key} {value} is not a whole number"))),
        }
    }
}

/// Reads a graph.
pub fn read(text: &str, file: &str, defaults: &Defaults) -> Result<Topology, FormatError> {
    let mut collector = Collector::new(file, defaults);
    let tokens = tokens(text, &collector)?;
    let (nodes, edges, directed) = lists(&tokens, &collector)?;
    for node in &nodes {
        let (line, id) = node.id("a node", "id", &collector)?;
        if collector.numbers.contains_key(id) {
            return Err(collector.wrong(line, format!("node {id} is there twice")));
        }
        let longitude = node.number("Longitude", &collector)?;
        let position = longitude.zip(node.number("Latitude", &collector)?);
        let label = node.values.get("label").map_or(id, |(_, label)| label);
        let name = collector.free_name(label, id);
        collector.add_host(id, name, position);
    }
    for edge in &edges {
        edge_links(&mut collector, edge, directed)?;
    }
    collector.finish()
}

fn edge_links(collector: &mut Collector, edge: &List, directed: bool) -> Result<(), FormatError> {
    let mut ends = [0; 2];
    for (end, key) in ends.iter_mut().zip(["source", "target"]) {
        let (line, id) = edge.id("an edge", key, collector)?;
        let known = collector.numbers.get(id).copied();
        *end = known.ok_or_else(|| collector.wrong(line, format!("the edge's {key} {id} is not a node")))?;
    }
    let [from, to] = ends;
    if from == to {
        let name = &collector.topology.hosts[from].name;
        return Err(collector.wrong(edge.line, format!("the edge goes from {name} to itself: leave it out")));
    }
    let mbits = match edge.number("LinkSpeedRaw", collector)? {
        Some(bits) => {
            let line = edge.values.get("LinkSpeedRaw").map_or(edge.line, |(line, _)| *line);
            let capacity = super::capacity_of(bits / 1e6);
            Some(capacity.ok_or_else(|| collector.wrong(line, format!("a LinkSpeedRaw of {bits} cannot be")))?)
        }
        None => None,
    };
    let capacity = mbits.filter(|&mbits| mbits > 0);
    collector.add_link(from, to, capacity, None);
    if !directed {
        collector.add_link(to, from, capacity, None);
    }
    Ok(())
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
    let mut open: Vec<(&str, List)> = Vec::new();
    let mut rest = tokens.iter();
    while let Some((line, token)) = rest.next() {
        let key = match token {
            Token::Close => {
                let (key, list) = open.pop().ok_or_else(|| collector.wrong(*line, "`]` closes nothing"))?;
                match (key, open.len()) {
                    ("node", 1) => nodes.push(list),
                    ("edge", 1) => edges.push(list),
                    ("graph", 0) => directed |= is_directed(&list, collector)?,
                    _ => {}
                }
                continue;
            }
            Token::Word(key) if key.starts_with(|first: char| first.is_alphabetic() || first == '_') => key.as_str(),
            Token::Word(other) | Token::Text(other) => {
                return Err(collector.wrong(*line, format!("expected a key, found {other}")));
            }
            Token::Open => return Err(collector.wrong(*line, "expected a key, found `[`")),
        };
        match rest.next() {
            Some((_, Token::Open)) => {
                check_place(key, *line, &open, collector)?;
                open.push((key, List { line: *line, values: HashMap::new() }));
            }
            Some((at, Token::Word(value) | Token::Text(value))) => {
                let Some((_, list)) = open.last_mut() else { continue };
                let before = list.values.insert(key.to_owned(), (*at, value.clone()));
                if let Some((first, _)) = before.filter(|_| KEYS.contains(&key)) {
                    return Err(collector.wrong(*line, format!("{key} is there twice, first on line {first}")));
                }
            }
            _ => return Err(collector.wrong(*line, format!("the key {key} has no value"))),
        }
    }
    match open.last() {
        Some((key, list)) => Err(collector.wrong(list.line, format!("the list {key} does not end: `]` is missing"))),
        None => Ok((nodes, edges, directed)),
    }
}

fn is_directed(graph: &List, collector: &Collector) -> Result<bool, FormatError> {
    match graph.values.get("directed") {
        None => Ok(false),
        Some((_, value)) if value == "0" || value == "1" => Ok(value == "1"),
        Some((line, value)) => Err(collector.wrong(*line, format!("directed {value} is neither 0 nor 1"))),
    }
}

/// Nodes and edges are in the graph and nowhere else; there is one graph.
fn check_place(key: &str, line: usize, open: &[(&str, List)], collector: &Collector) -> Result<(), FormatError> {
    let is_wrong = match (key, open.last()) {
        ("node" | "edge", Some((inside, _))) => *inside != "graph",
        ("node" | "edge", None) => true,
        ("graph", inside) => inside.is_some(),
        _ => false,
    };
    if is_wrong {
        let inside = open.last().map_or("nothing", |(inside, _)| inside);
        return Err(collector.wrong(line, format!("a {key} is inside {inside}, where none can be: is a `]` missing?")));
    }
    Ok(())
}
