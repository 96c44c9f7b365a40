//! `towpath apply`: takes a changed configuration into force on a running host.

use std::io::{self, Write};

use controller::api::{Applied, ClientError, FailureKind, Request, Response};

use crate::Failure;
use crate::arguments::{ApplyOptions, Which};
use crate::connection;

/// Sends the file and says what changed.
pub fn run(which: &Which, options: &ApplyOptions) -> Result<(), Failure> {
    let file = options.file.display().to_string();
    let yaml = std::fs::read_to_string(&options.file)
        .map_err(|error| Failure::Other(format!("{file}: can't be read: {error}")))?;
    let request = Request::Apply { file, yaml, allow_restart: options.restart_dataplane, dry_run: options.dry_run };
    let answer = connection::connect(which)?.call(&request).map_err(explain)?;
    let Response::Applied(applied) = answer else { return Err(connection_mixed(&answer)) };
    for warning in &applied.warnings {
        eprintln!("warning: {warning}");
    }
    io::stdout().write_all(text(&applied).as_bytes())?;
    Ok(())
}

/// An answer to another question.
pub(crate) fn connection_mixed(answer: &Response) -> Failure {
    Failure::Other(format!("the controller answered something else ({answer:?}); use the same version of both"))
}

fn explain(error: ClientError) -> Failure {
    match error {
        ClientError::Failed(failure) => {
            let mut lines = failure.lines;
            match failure.kind {
                FailureKind::BadConfiguration => return Failure::Usage(lines.join("\n")),
                FailureKind::NeedsRestart => lines.push("to allow it: --restart-dataplane".to_owned()),
                _ => {}
            }
            Failure::Other(lines.join("\n"))
        }
        error => Failure::of(error),
    }
}

fn text(applied: &Applied) -> String {
    let mut text = String::new();
    for change in &applied.changes {
        text += &format!("  {change}\n");
    }
    let verb = if applied.dry_run { "would be" } else { "was" };
    if let Some(why) = &applied.restart {
        text += &format!("  the dataplane {verb} restarted: {why}\n");
    }
    let count = applied.changes.len();
    let what = match (applied.dry_run, count) {
        (_, 0) => "nothing to change".to_owned(),
        (true, _) => format!("{count} changes, none made (dry run)"),
        (false, _) => format!("{count} changes in force"),
    };
    text + &format!("{what}; {} flows keep their rules\n", applied.flows_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_listed_and_a_dry_run_says_so() {
        let applied = Applied {
            dry_run: true,
            changes: vec!["chain acme/dns added: udp any > any:53".into()],
            restart: None,
            flows_kept: 3,
            warnings: Vec::new(),
        };
        let expected =
            "  chain acme/dns added: udp any > any:53\n1 changes, none made (dry run); 3 flows keep their rules\n";
        assert_eq!(text(&applied), expected);
        let none = Applied { dry_run: false, changes: Vec::new(), ..applied };
        assert_eq!(text(&none), "nothing to change; 3 flows keep their rules\n");
    }

    #[test]
    fn a_change_that_needs_a_restart_names_the_option() {
        let failure = controller::api::Failure { kind: FailureKind::NeedsRestart, lines: vec!["ports changed".into()] };
        let said = explain(ClientError::Failed(failure)).to_string();
        assert!(said.contains("--restart-dataplane"), "{said}");
    }
}
