//! `towpath`: the operator's command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::main(env!("TOWPATH_VERSION"))
}
