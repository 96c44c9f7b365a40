//! The document in force, kept beside the dataplane that goes by it: `<run-dir>/document.json`.

use std::path::{Path, PathBuf};

use crate::distribution::Record;
use crate::process::{ProcessError, write_private};

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("document.json")
}

/// What an earlier controller wrote down; nothing if it left nothing that can be read.
pub(super) fn read(run_dir: &Path) -> Option<Record> {
    let path = path(run_dir);
    let text = std::fs::read(&path).ok()?;
    let read = serde_json::from_slice(&text);
    read.inspect_err(|error| tracing::warn!("{}: {error}; it is left out of account", path.display())).ok()
}

/// Writes it down for the next controller.
pub(super) fn write(run_dir: &Path, record: &Record) -> Result<(), ProcessError> {
    write_private(&path(run_dir), &serde_json::to_vec_pretty(record).unwrap_or_default())
}

/// Nothing goes by it any more.
pub(super) fn remove(run_dir: &Path) {
    let _ = std::fs::remove_file(path(run_dir));
}
