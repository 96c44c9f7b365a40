//! `towpath plan`, `apply`, `scale`, `drain`, `weights`, `accept`: changes on all hosts, shown before and while they are made.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use controller::api::{Applied, ClientError, FailureKind, Phase, Progress, Request, Response};
use controller::config::operations::Operation;

use crate::Failure;
use crate::arguments::{ApplyOptions, Manner, Name, Output, ScaleOptions, Which};
use crate::connection;

/// Says what a file would change.
pub fn plan(which: &Which, file: &Path, output: Output, may_move: bool) -> Result<(), Failure> {
    let (file, yaml) = read(file)?;
    let request = Request::Apply { file, yaml, allow_restart: false, may_move, dry_run: true, progress: false };
    let applied = ask(which, &request)?;
    if output == Output::Json {
        return show(&applied, &crate::get::pretty(&applied).unwrap_or_default());
    }
    let mut text = String::new();
    for line in &applied.transformation {
        text += &format!("{line}\n");
    }
    if !text.is_empty() {
        text.push('\n');
    }
    show(&applied, &(text + &self::text(&applied)))
}

/// Sends the file and says what changed.
pub fn run(which: &Which, options: &ApplyOptions) -> Result<(), Failure> {
    let (file, yaml) = read(&options.file)?;
    let dry_run = options.manner.dry_run;
    let (allow_restart, may_move) = (options.restart_dataplane, options.move_instances);
    change(which, &Request::Apply { file, yaml, allow_restart, may_move, dry_run, progress: !dry_run })
}

/// Starts an instance.
pub fn scale(which: &Which, options: ScaleOptions) -> Result<(), Failure> {
    let ScaleOptions { function: [tenant, nf], on: host, cpu, serves, config, weight, manner } = options;
    operate(which, Operation::AddInstance { tenant, nf, number: None, host, cpu, config, serves, weight }, manner)
}

/// Takes an instance out of use.
pub fn drain(which: &Which, instance: Name<3>, manner: Manner) -> Result<(), Failure> {
    let [tenant, nf, number] = instance;
    operate(which, Operation::DrainInstance { tenant, instance: format!("{nf}/{number}") }, manner)
}

/// Sets shares of new flows.
pub fn weights(which: &Which, chain: Name<2>, weights: Vec<(String, u32)>, manner: Manner) -> Result<(), Failure> {
    let [tenant, chain] = chain;
    operate(which, Operation::SetWeights { tenant, chain, weights: weights.into_iter().collect() }, manner)
}

/// Declares a mangler.
pub fn accept(which: &Which, function: Name<2>, manner: Manner) -> Result<(), Failure> {
    let [tenant, nf] = function;
    operate(which, Operation::AcceptMangler { tenant, nf }, manner)
}

fn operate(which: &Which, operation: Operation, manner: Manner) -> Result<(), Failure> {
    let dry_run = manner.dry_run;
    change(which, &Request::Operate { operations: vec![operation], dry_run, progress: !dry_run })
}

fn change(which: &Which, request: &Request) -> Result<(), Failure> {
    let applied = ask(which, request)?;
    show(&applied, &text(&applied))
}

fn read(file: &Path) -> Result<(String, String), Failure> {
    let name = file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(yaml) => Ok((name, yaml)),
        Err(error) => Err(Failure::Other(format!("{name}: can't be read: {error}"))),
    }
}

/// How long another change is waited for.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// Time between two attempts.
const BUSY_WAIT: Duration = Duration::from_millis(200);

fn ask(which: &Which, request: &Request) -> Result<Applied, Failure> {
    let terminal = io::stderr().is_terminal();
    let mut say = |line: Progress| {
        if terminal {
            eprintln!("{}", progress(&line));
        }
    };
    let given_up = Instant::now() + BUSY_LIMIT;
    loop {
        match connection::connect(which)?.call_with_progress(request, &mut say) {
            Ok(Response::Applied(applied)) => return Ok(applied),
            Ok(other) => return Err(connection_mixed(&other)),
            // Hosts forget what has drained by changes of their own, which are short.
            Err(ClientError::Failed(failure)) if failure.kind == FailureKind::Busy && Instant::now() < given_up => {
                std::thread::sleep(BUSY_WAIT);
            }
            Err(error) => return Err(explain(error, request)),
        }
    }
}

fn show(applied: &Applied, text: &str) -> Result<(), Failure> {
    for warning in &applied.warnings {
        eprintln!("warning: {warning}");
    }
    for host in &applied.late {
        eprintln!("warning: {host} was lost after it had installed the version; it follows once it is back");
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn progress(line: &Progress) -> String {
    let phase = match line.phase {
        Phase::Preparing => "checking",
        Phase::Installing => "installing",
        Phase::Activating => "activating",
    };
    match line.waiting.as_slice() {
        [] => format!("version {}: {phase}, all hosts are done", line.version),
        hosts => format!("version {}: {phase}, waiting for {}", line.version, hosts.join(", ")),
    }
}

/// An answer to another question.
pub(crate) fn connection_mixed(answer: &Response) -> Failure {
    Failure::Other(format!("the controller answered something else ({answer:?}); use the same version of both"))
}

fn explain(error: ClientError, request: &Request) -> Failure {
    match error {
        ClientError::Failed(failure) => {
            let mut lines = failure.lines;
            match failure.kind {
                FailureKind::BadConfiguration => return Failure::Usage(lines.join("\n")),
                FailureKind::NeedsRestart if matches!(request, Request::Apply { .. }) => {
                    lines.push("to allow it: --restart-dataplane".to_owned());
                }
                FailureKind::NeedsRestart => {
                    lines.push("to allow it: write it into the file, towpath apply --restart-dataplane".to_owned());
                }
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
    text += &crate::machines::placements(applied);
    for host in &applied.hosts {
        let (added, removed) = (host.rules_added, host.rules_removed);
        text += &format!("  {}: tag rules: {added} added, {removed} removed\n", host.host);
    }
    let verb = if applied.dry_run { "would be" } else { "was" };
    if let Some(why) = &applied.restart {
        text += &format!("  a dataplane {verb} restarted, traffic interrupted: {why}\n");
    }
    let (count, version) = (applied.changes.len(), applied.version);
    let noun = if count == 1 { "change" } else { "changes" };
    let what = match (applied.dry_run, count, applied.hosts.is_empty()) {
        (_, 0, true) => format!("nothing to change in version {version}"),
        (true, ..) => format!("{count} {noun}, none made (dry run)"),
        (false, ..) if applied.late.is_empty() => format!("{count} {noun}, in force everywhere as version {version}"),
        (false, ..) => format!("{count} {noun}, in force as version {version}, later on {}", applied.late.join(", ")),
    };
    let moved = if applied.restart.is_some() { "" } else { "0 live flows moved, " };
    text + &format!("{what}; {moved}{} of this host keep their rules\n", applied.flows_kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use controller::api::HostChange;

    fn applied() -> Applied {
        Applied {
            dry_run: true,
            version: 4,
            transformation: Vec::new(),
            changes: vec!["chain acme/dns added: udp any > any:53".into()],
            placements: Vec::new(),
            hosts: vec![HostChange { host: "host1".into(), rules_added: 2, rules_removed: 0 }],
            restart: None,
            flows_kept: 3,
            late: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn changes_are_listed_and_a_dry_run_says_so() {
        let expected = "  chain acme/dns added: udp any > any:53\n  host1: tag rules: 2 added, 0 removed\n1 change, none made (dry \
                        run); 0 live flows moved, 3 of this host keep their rules\n";
        assert_eq!(text(&applied()), expected);
        let none = Applied { dry_run: false, changes: Vec::new(), hosts: Vec::new(), ..applied() };
        let expected = "nothing to change in version 4; 0 live flows moved, 3 of this host keep their rules\n";
        assert_eq!(text(&none), expected);
        let made = text(&Applied { dry_run: false, ..applied() });
        assert!(made.contains("in force everywhere as version 4"), "{made}");
        let late = text(&Applied { dry_run: false, late: vec!["host2".into()], ..applied() });
        assert!(late.contains("in force as version 4, later on host2"), "{late}");
    }

    #[test]
    fn a_change_that_needs_a_restart_names_the_option() {
        let failure = controller::api::Failure { kind: FailureKind::NeedsRestart, lines: vec!["ports changed".into()] };
        let request = Request::Operate { operations: Vec::new(), dry_run: false, progress: false };
        let said = explain(ClientError::Failed(failure), &request).to_string();
        assert!(said.contains("--restart-dataplane"), "{said}");
    }

    #[test]
    fn progress_names_the_hosts_that_are_waited_for() {
        let line = Progress { version: 4, phase: Phase::Installing, waiting: vec!["host2".into()] };
        assert_eq!(progress(&line), "version 4: installing, waiting for host2");
    }
}
