//! The `towpath` command: what an operator types.
//!
//! One file per command; [`arguments`] is the whole command line, `connection` finds the controller, `tables` turns its
//! answers into text. Every failure is one line that starts with `error:` on standard error; the exit status is 2 for a command
//! line or a configuration file that is wrong, 1 for everything else.
#![forbid(unsafe_code)]

mod apply;
pub mod arguments;
mod benches;
mod capture;
mod connection;
mod figures;
mod files;
mod get;
mod interrupt;
mod machines;
mod pages;
pub mod place;
mod speed;
mod tables;
mod top;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use arguments::{Arguments, Command};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line or the configuration file is wrong: one line per mistake.
    #[error("{0}")]
    Usage(String),
    /// Anything else, with its remedy.
    #[error("{0}")]
    Other(String),
    /// Nobody reads our output any more (`| head`): no reason to complain.
    #[error("")]
    NobodyReads,
}

impl Failure {
    /// Of any error that says enough by itself.
    pub(crate) fn of(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<controller::api::ClientError> for Failure {
    fn from(error: controller::api::ClientError) -> Self {
        Self::of(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::of(error),
        }
    }
}

/// Runs the command that the process was started with; `version` is the build's.
pub fn main(version: &'static str) -> ExitCode {
    let matches = Arguments::command().version(version).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(arguments) {
        Ok(()) | Err(Failure::NobodyReads) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.to_string().lines() {
                eprintln!("error: {line}");
            }
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { which, command } = arguments;
    match command {
        Command::Init { file } => files::init(&file),
        Command::Check { file } => files::check(&file),
        Command::Plan { file, output, move_instances } => apply::plan(&which, &file, output, move_instances),
        Command::Apply(options) => apply::run(&which, &options),
        Command::Scale(options) => apply::scale(&which, options),
        Command::Drain { instance, manner } => apply::drain(&which, instance, manner),
        Command::Weights { chain, weights, manner } => apply::weights(&which, chain, weights, manner),
        Command::Accept { function, manner } => apply::accept(&which, function, manner),
        Command::Get(options) => get::run(&which, &options),
        Command::Top(options) => top::run(&which, &options),
        Command::Capture(options) => capture::run(&which, &options),
        Command::Place(options) => place::run(&options),
        Command::Bench(command) => benches::run(command),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::man(&dir),
    }
}
