//! The numbers of paths, kept beside the dataplane that uses them: `<run-dir>/numbers.json`.

use std::path::Path;

use crate::compose::Numbers;
use crate::process::{ProcessError, write_private};

const NAME: &str = "numbers.json";

/// What an earlier controller gave away; nothing if it left nothing that can be read.
pub(super) fn read(run_dir: &Path) -> Numbers {
    let path = run_dir.join(NAME);
    let Ok(text) = std::fs::read(&path) else { return Numbers::default() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{}: {error}; paths are numbered anew", path.display());
        Numbers::default()
    })
}

/// Writes them down for the next controller.
pub(super) fn write(run_dir: &Path, numbers: &Numbers) -> Result<(), ProcessError> {
    write_private(&run_dir.join(NAME), &serde_json::to_vec_pretty(numbers).unwrap_or_default())
}
