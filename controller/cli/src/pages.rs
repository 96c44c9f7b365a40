//! `towpath completions` and `towpath man`.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Failure;
use crate::arguments::Arguments;

/// Prints the completion script of a shell.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "towpath", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}

/// Writes a manual page for the command and for each command below it.
pub fn man(directory: &Path) -> Result<(), Failure> {
    let written =
        std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Arguments::command(), directory));
    written
        .map_err(|error| Failure::Other(format!("{}: manual pages can't be written: {error}", directory.display())))?;
    writeln!(io::stdout(), "manual pages written to {0}; read one: man -l {0}/towpath.1", directory.display())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        man(directory.path()).unwrap();
        for page in ["towpath.1", "towpath-get.1", "towpath-capture.1", "towpath-bench-flow-setup.1"] {
            let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains(".TH"), "{page}");
        }
    }
}
