//! The kernel's tree of small files, or a copy of it.

use std::fs;
use std::path::Path;
use std::str::FromStr;

/// A tree below a root.
pub(super) struct Tree<'a> {
    root: &'a Path,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// A file's text; none if it is not there or can't be read (the speed of an interface that is down).
    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    pub(super) fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.trim().parse().ok()
    }

    /// A list such as `0-3,8`, ascending; none if there is no such file.
    pub(super) fn list(&self, path: &str) -> Option<Vec<u16>> {
        Some(numbers(&self.text(path)?))
    }

    /// The names in a directory, sorted.
    pub(super) fn entries(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// `0-3,8` in the kernel's notation; what is no number is left out.
pub(super) fn numbers(text: &str) -> Vec<u16> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u16>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    let mut numbers: Vec<u16> = text.trim().split(',').filter_map(range).flatten().collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
