//! The file as a tree in which every key and value knows its line, and the reader that turns it into checked values.
//!
//! A value that can't be read is noted in [`Problems`] and reading goes on, so that one run shows every mistake of a file.
//! Whoever reads gets `None` or a harmless substitute then; the file as a whole is refused in the end.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

/// One mistake: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name as the caller gave it.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The key, from the top: `tenants.acme.vni`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and the remedy.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// Every mistake of a file, in the order of its lines; each is one line of text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// Where mistakes are collected while a file is read and composed.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    file: String,
    found: Vec<Problem>,
}

impl Problems {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), found: Vec::new() }
    }

    pub(crate) fn note(&mut self, line: u64, key: impl Into<String>, text: impl Into<String>) {
        self.found.push(Problem { file: self.file.clone(), line, key: key.into(), text: text.into() });
    }

    /// Ok if there are none.
    pub(crate) fn finish(mut self) -> Result<(), ConfigErrors> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|problem| problem.line);
        self.found.dedup();
        Err(ConfigErrors { problems: self.found })
    }
}

/// A YAML value.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Flag(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Node>>),
    Table(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table of keys",
        }
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Flag(flag) => (*flag).into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(list) => list.iter().map(|item| item.value.to_json()).collect(),
            Self::Table(table) => table
                .iter()
                .map(|(key, item)| (key.value.clone(), item.value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::Flag(flag))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Integer(number))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(i64::try_from(number).map_or(Node::Float(number as f64), Node::Integer))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Float(number))
    }
    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = access.next_entry()? {
            table.push(entry);
        }
        Ok(Node::Table(table))
    }
}

impl<'de> serde::Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// Tables, lists and scalars of a file: enough for 100,000 chains. What YAML multiplies by aliases stays bounded.
const MAX_NODES: usize = 8_000_000;

/// Reads the YAML; a mistake of syntax ends it, since what follows can't be trusted to be where it seems.
pub(super) fn read(problems: &mut Problems, text: &str) -> Option<Spanned<Node>> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES, max_events: 4 * MAX_NODES },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options) {
        Ok(node) => Some(node),
        Err(error) => {
            let line = error.location().map_or(1, |location| location.line());
            let whole = error.without_snippet().to_string();
            let what = whole.split(" at line ").next().unwrap_or(&whole);
            let what = if what.contains("multiple YAML documents") { "a second document begins" } else { what };
            problems.note(line, "", format!("not valid YAML: {what}; correct the syntax near this line"));
            None
        }
    }
}

/// A value together with its way from the top.
#[derive(Debug, Clone)]
pub(super) struct Value<'a> {
    pub(super) key: String,
    pub(super) line: u64,
    node: &'a Node,
}

/// What a number stands for in a message.
type What = &'static str;

impl<'a> Value<'a> {
    pub(super) fn top(node: &'a Spanned<Node>) -> Self {
        Self { key: String::new(), line: node.referenced.line().max(1), node: &node.value }
    }

    pub(super) fn note(&self, problems: &mut Problems, text: impl Into<String>) {
        problems.note(self.line, self.key.clone(), text);
    }

    fn wrong(&self, problems: &mut Problems, wanted: &str) {
        let found = match self.node {
            Node::Text(text) => format!("`{text}`"),
            Node::Integer(number) => format!("`{number}`"),
            Node::Float(number) => format!("`{number}`"),
            Node::Flag(flag) => format!("`{flag}`"),
            other => other.kind().to_owned(),
        };
        self.note(problems, format!("expected {wanted}, found {found}"));
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// The word `detect`.
    pub(super) fn is_detect(&self) -> bool {
        matches!(self.node, Node::Text(text) if text == "detect")
    }

    pub(super) fn is_integer(&self) -> bool {
        matches!(self.node, Node::Integer(_))
    }

    pub(super) fn json(&self) -> serde_json::Value {
        self.node.to_json()
    }

    /// A word or phrase; numbers are taken as they are written.
    pub(super) fn text(&self, problems: &mut Problems, what: What) -> Option<String> {
        match self.node {
            Node::Text(text) if !text.is_empty() => Some(text.clone()),
            Node::Integer(number) => Some(number.to_string()),
            _ => {
                self.wrong(problems, what);
                None
            }
        }
    }

    pub(super) fn flag(&self, problems: &mut Problems) -> Option<bool> {
        match self.node {
            Node::Flag(flag) => Some(*flag),
            _ => {
                self.wrong(problems, "`true` or `false`");
                None
            }
        }
    }

    /// A number in the range; the message names the range, and `what` says what it is and what it is for.
    pub(super) fn integer<T: TryFrom<i64>>(
        &self,
        problems: &mut Problems,
        range: RangeInclusive<i64>,
        what: What,
    ) -> Option<T> {
        match self.node {
            Node::Integer(number) if range.contains(number) => T::try_from(*number).ok(),
            _ => {
                self.wrong(problems, &format!("{what}, a number in {}..={}", range.start(), range.end()));
                None
            }
        }
    }

    /// Anything that is written as one word: an address, a prefix.
    pub(super) fn parse<T: FromStr>(&self, problems: &mut Problems, what: What) -> Option<T> {
        let parsed = match self.node {
            Node::Text(text) => text.parse().ok(),
            Node::Integer(number) => number.to_string().parse().ok(),
            _ => None,
        };
        if parsed.is_none() {
            self.wrong(problems, what);
        }
        parsed
    }

    /// The value at a path such as `rules[2].protocol` below this one, as deep as the path can be followed.
    pub(super) fn below(&self, path: &str) -> Value<'a> {
        let mut at = self.clone();
        for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
            let next = match at.node {
                Node::List(list) => step.parse::<usize>().ok().and_then(|index| list.get(index)),
                Node::Table(table) => table.iter().find(|(name, _)| name.value == step).map(|(_, item)| item),
                _ => None,
            };
            let Some(next) = next else { break };
            at = Value { key: at.key, line: next.referenced.line(), node: &next.value };
        }
        at
    }

    /// The items of a list; a single value is a list of one.
    pub(super) fn items(&self) -> Vec<Value<'a>> {
        match self.node {
            Node::List(list) => {
                let item = |(index, item): (usize, &'a Spanned<Node>)| Value {
                    key: format!("{}[{index}]", self.key),
                    line: item.referenced.line(),
                    node: &item.value,
                };
                list.iter().enumerate().map(item).collect()
            }
            Node::Null => Vec::new(),
            _ => vec![self.clone()],
        }
    }

    /// The list of words.
    pub(super) fn parse_items<T: FromStr>(&self, problems: &mut Problems, what: What) -> Vec<T> {
        self.items().iter().filter_map(|item| item.parse(problems, what)).collect()
    }

    /// The entries of a table in the file's order; keys given twice are noted, the first counts.
    pub(super) fn entries(&self, problems: &mut Problems, what: What) -> Vec<(&'a str, Value<'a>)> {
        let table = match self.node {
            Node::Table(table) => table,
            Node::Null => return Vec::new(),
            _ => {
                self.wrong(problems, what);
                return Vec::new();
            }
        };
        let mut lines: HashMap<&str, u64> = HashMap::new();
        let mut entries = Vec::new();
        for (name, item) in table {
            let (line, name) = (name.referenced.line(), name.value.as_str());
            let key = if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) };
            if let Some(first) = lines.get(name) {
                problems.note(line, key, format!("the key stands here twice, first on line {first}; remove one"));
                continue;
            }
            lines.insert(name, line);
            // A value on lines of its own begins later; the key's line is the one to look at.
            let line = if item.referenced.line() == 0 { line } else { line.min(item.referenced.line()) };
            entries.push((name, Value { key, line, node: &item.value }));
        }
        entries
    }

    /// The entries of a table whose keys the operator chooses, with their names checked.
    pub(super) fn named(&self, problems: &mut Problems, what: What) -> Vec<(&'a str, Value<'a>)> {
        let entries = self.entries(problems, what);
        for (name, value) in &entries {
            let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(good) {
                let text = format!("`{name}` can't be a name; use 1 to {MAX_NAME} letters, digits, `-` and `_`");
                value.note(problems, text);
            }
        }
        entries
    }

    /// A table with these keys and no others.
    pub(super) fn section(&self, problems: &mut Problems, what: What, known: &[&str]) -> Section<'a> {
        let entries = self.entries(problems, what);
        for (name, value) in &entries {
            if !known.contains(name) {
                let text = format!("unknown key `{name}`{}", suggest(name, known.iter().copied()));
                value.note(problems, text);
            }
        }
        let broken = !matches!(self.node, Node::Table(_) | Node::Null);
        Section { at: self.clone(), entries, broken }
    }
}

/// The longest name of a host, port, tenant, endpoint, NF or chain, bytes.
const MAX_NAME: usize = 32;

/// A table with fixed keys.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) at: Value<'a>,
    entries: Vec<(&'a str, Value<'a>)>,
    broken: bool,
}

impl<'a> Section<'a> {
    /// The value of a key; `key:` with nothing behind it counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries.iter().find(|(name, value)| *name == key && !value.is_null()).map(|(_, value)| value)
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, problems: &mut Problems, key: &str, remedy: &str) -> Option<&Value<'a>> {
        let value = self.get(key);
        if value.is_none() && !self.broken {
            self.at.note(problems, format!("the key `{key}` is missing; {remedy}"));
        }
        value
    }
}

/// `; did you mean …?` or `; known are …`, for a name that is not known.
pub(super) fn suggest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = known.iter().map(|candidate| (distance(name, candidate), candidate)).min();
    match near {
        Some((steps, candidate)) if steps <= 2.max(name.len() / 3) => format!("; did you mean `{candidate}`?"),
        Some(_) => format!("; known are {}", quoted(&known)),
        None => "; none is declared".to_owned(),
    }
}

pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// How many insertions, removals and replacements lead from one word to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_single_letters() {
        assert_eq!(distance("firewall", "firewall"), 0);
        assert_eq!(distance("firewal", "firewall"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_near_miss_is_suggested_and_a_far_one_gets_the_list() {
        assert_eq!(suggest("lfet", ["left", "right"]), "; did you mean `left`?");
        assert_eq!(suggest("uplink", ["left", "right"]), "; known are `left`, `right`");
        assert_eq!(suggest("uplink", []), "; none is declared");
    }

    #[test]
    fn bad_syntax_names_its_line_and_nothing_of_the_parser() {
        let mut problems = Problems::new("x.yaml");
        assert!(read(&mut problems, "a: 1\nb: [1,\nc: 2\n").is_none());
        let errors = problems.finish().unwrap_err();
        assert_eq!(
            errors.to_string(),
            "x.yaml:2: not valid YAML: unclosed bracket '['; correct the syntax near this line"
        );
    }

    #[test]
    fn a_key_given_twice_is_found_with_both_lines() {
        let mut problems = Problems::new("x.yaml");
        let node = read(&mut problems, "a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(Value::top(&node).entries(&mut problems, "a table").len(), 2);
        let errors = problems.finish().unwrap_err();
        assert_eq!(errors.to_string(), "x.yaml:3: a: the key stands here twice, first on line 1; remove one");
    }
}
