//! The numbers of paths, kept beside the dataplane that uses them: `<run-dir>/numbers.json`.

use std::path::Path;

use crate::compose::State;
use crate::process::{ProcessError, write_private};

const NAME: &str = "numbers.json";

/// What an earlier controller gave away; nothing if it left nothing that can be read.
pub(super) fn read(run_dir: &Path) -> State {
    let path = run_dir.join(NAME);
    let Ok(text) = std::fs::read(&path) else { return State::default() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{}: {error}; paths are numbered anew", path.display());
        State::default()
    })
}

/// Writes them down for the next controller.
pub(super) fn write(run_dir: &Path, numbers: &State) -> Result<(), ProcessError> {
    write_private(&run_dir.join(NAME), &serde_json::to_vec_pretty(numbers).unwrap_or_default())
}
