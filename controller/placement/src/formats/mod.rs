//! Text in, text out: topologies of others, the crate's own problem document, solutions as JSON, table and picture.
//!
//! Readers take the text and the file's name and touch no file. What a foreign topology does not say (cores, and capacities or delays
//! that are missing) comes from [`Defaults`].
//!
//! Errors: [`FormatError`], always with file, line and reason. A reader takes any text without panicking, and never gives a number, a place
//! or a size that [`crate::problem::Problem`] would not take.

pub mod document;
pub mod gml;
pub mod picture;
pub mod rocketfuel;
pub mod sndlib;
pub mod table;

use std::collections::{HashMap, HashSet};

use crate::problem::{Host, Link};

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct FormatError {
    /// The file's name as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

/// Nodes and directed links.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Its name.
    pub name: String,
    /// The nodes.
    pub hosts: Vec<Host>,
    /// The links.
    pub links: Vec<Link>,
}

/// What a foreign topology does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// Cores of every host.
    pub cores: u32,
    /// Capacity of a link without one.
    pub capacity: u64,
    /// Delay of a link whose ends have no position.
    pub delay_ns: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults { cores: 2, capacity: 10, delay_ns: 1_000_000 }
    }
}

/// Reads a topology in the format that its name or its first words tell: Rocketfuel, SNDlib native, GML.
pub fn topology(text: &str, file: &str, defaults: &Defaults) -> Result<Topology, FormatError> {
    let extension = file.rsplit('.').next().unwrap_or("");
    let begins = |words: &str| text.trim_start().starts_with(words);
    if extension == "gml" || begins("graph") || begins("Creator") {
        gml::read(text, file, defaults)
    } else if begins("?SNDlib") || text.lines().any(|line| line.trim_start().starts_with("NODES (")) {
        sndlib::read(text, file, defaults)
    } else {
        rocketfuel::read(text, file, defaults)
    }
}

/// The text of a file's bytes; a byte order mark is left out.
pub fn text<'b>(bytes: &'b [u8], file: &str) -> Result<&'b str, FormatError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let byte = bytes[error.valid_up_to()];
        let reason = format!("the byte 0x{byte:02x} is not UTF-8: convert the file, as `iconv -f latin1 -t utf8` does");
        FormatError { file: file.to_owned(), line, reason }
    })
}

/// No capacity, bandwidth or rate may be larger: their sums stay exact.
pub const AMOUNT_MAX: u64 = 1 << 50;
/// No NUMA node has more cores.
pub const CORES_MAX: u32 = 1 << 16;
/// No document has more flows.
pub const FLOWS_MAX: usize = 1_000_000;

/// A capacity as foreign files write it: a number, not negative; rounded to a whole, but what is more than nothing is at least 1.
fn capacity_of(value: f64) -> Option<u64> {
    let is_possible = value >= 0.0 && value <= AMOUNT_MAX as f64;
    is_possible.then(|| if value > 0.0 { (value.round() as u64).max(1) } else { 0 })
}

/// Light in fibre: 200 km in a millisecond.
const FIBRE_KM_PER_MS: f64 = 200.0;

/// The delay between two positions in degrees, along a great circle.
fn delay_between_ns(from: (f64, f64), to: (f64, f64)) -> u64 {
    let (from_x, from_y, to_x, to_y) = (from.0.to_radians(), from.1.to_radians(), to.0.to_radians(), to.1.to_radians());
    let half = |angle: f64| (angle / 2.0).sin().powi(2);
    let h = half(to_y - from_y) + from_y.cos() * to_y.cos() * half(to_x - from_x);
    let km = 2.0 * 6371.0 * h.clamp(0.0, 1.0).sqrt().asin();
    (km / FIBRE_KM_PER_MS * 1e6).round() as u64
}

/// Collects nodes and links while a reader goes through a file.
struct Collector<'t> {
    file: &'t str,
    defaults: &'t Defaults,
    topology: Topology,
    numbers: HashMap<String, usize>,
    names: HashSet<String>,
}

impl<'t> Collector<'t> {
    fn new(file: &'t str, defaults: &'t Defaults) -> Self {
        let name = file.rsplit('/').next().unwrap_or(file).to_owned();
        let topology = Topology { name, ..Topology::default() };
        Collector { file, defaults, topology, numbers: HashMap::new(), names: HashSet::new() }
    }

    fn wrong(&self, line: usize, reason: impl Into<String>) -> FormatError {
        FormatError { file: self.file.to_owned(), line, reason: reason.into() }
    }

    /// A node's number by its key; it is made if it is new.
    fn host(&mut self, key: &str) -> usize {
        match self.numbers.get(key) {
            Some(&number) => number,
            None => self.add_host(key, key.to_owned(), None),
        }
    }

    fn add_host(&mut self, key: &str, name: String, position: Option<(f64, f64)>) -> usize {
        let number = self.topology.hosts.len();
        self.numbers.insert(key.to_owned(), number);
        self.names.insert(name.clone());
        self.topology.hosts.push(Host { name, cores: vec![self.defaults.cores], position });
        number
    }

    /// A name that no host has yet: the wanted one, or that with the key behind it.
    fn free_name(&self, wanted: &str, key: &str) -> String {
        let mut name = wanted.to_owned();
        while self.names.contains(&name) {
            name = format!("{name} ({key})");
        }
        name
    }

    fn add_link(&mut self, from: usize, to: usize, capacity: Option<u64>, delay_ns: Option<u64>) {
        let capacity = capacity.unwrap_or(self.defaults.capacity);
        let position = |host: usize| self.topology.hosts[host].position;
        let delay_ns = delay_ns.unwrap_or_else(|| match (position(from), position(to)) {
            (Some(a), Some(b)) => delay_between_ns(a, b),
            _ => self.defaults.delay_ns,
        });
        self.topology.links.push(Link { from, to, capacity, used: 0, delay_ns });
    }

    fn finish(self) -> Result<Topology, FormatError> {
        if self.topology.links.is_empty() {
            return Err(self.wrong(1, "no link found: is this a Rocketfuel, SNDlib native or GML topology?"));
        }
        Ok(self.topology)
    }
}
