//! `towpath get`: one table of what is.

use std::io::{self, Write};

use controller::api::{Audit, Request, Response};
use serde::Serialize;

use crate::arguments::{GetOptions, Output, Table, Which};
use crate::{Failure, connection, tables};

/// Asks for a table and prints it.
pub fn run(which: &Which, options: &GetOptions) -> Result<(), Failure> {
    let answer = connection::ask(which, &request(options))?;
    let text = match options.output {
        Output::Table => tables::text(&answer),
        Output::Json => json(&answer),
    };
    let text = text.ok_or_else(|| crate::apply::connection_mixed(&answer))?;
    io::stdout().write_all(text.as_bytes())?;
    match answer {
        Response::Audit(audit) => judge(&audit),
        _ => Ok(()),
    }
}

/// Flows on two paths are a failure, and so is not to know.
fn judge(audit: &Audit) -> Result<(), Failure> {
    let violations: u64 = audit.rows.iter().map(|row| row.violations).sum();
    if violations > 0 {
        let text = "flows were found on two paths; please report the rows above with `towpath get paths`";
        return Err(Failure::Other(format!("{violations} violations: {text}")));
    }
    if !audit.silent.is_empty() {
        let hosts = audit.silent.join(", ");
        return Err(Failure::Other(format!("{hosts} did not answer; see `towpath get versions` and their logs")));
    }
    Ok(())
}

const fn request(options: &GetOptions) -> Request {
    match options.table {
        Table::Status => Request::Status,
        Table::Hosts => Request::Hosts,
        Table::Inventory => Request::Inventory,
        Table::Lcores => Request::Lcores,
        Table::Instances => Request::Instances,
        Table::Chains => Request::Chains,
        Table::Paths => Request::Paths,
        Table::Flows => Request::Flows { limit: options.limit },
        Table::Drops => Request::Drops,
        Table::Config => Request::Config,
        Table::Versions => Request::Versions,
        Table::Audit => Request::Audit { everywhere: true },
    }
}

/// The answer's content alone: a list of rows, or an object.
fn json(answer: &Response) -> Option<String> {
    match answer {
        Response::Status(content) => pretty(content),
        Response::Hosts(content) => pretty(content),
        Response::Inventory(content) => pretty(content),
        Response::Lcores(content) => pretty(content),
        Response::Instances(content) => pretty(content),
        Response::Chains(content) => pretty(content),
        Response::Paths(content) => pretty(content),
        Response::Flows(content) => pretty(content),
        Response::Drops(content) => pretty(content),
        Response::Config(content) => pretty(content),
        Response::Versions(content) => pretty(content),
        Response::Audit(content) => pretty(content),
        _ => None,
    }
}

pub(crate) fn pretty(content: &impl Serialize) -> Option<String> {
    serde_json::to_string_pretty(content).ok().map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_with_violations_or_silent_hosts_fails() {
        let row = |violations| controller::api::AuditRow {
            host: "host1".into(),
            lcore: "io".into(),
            audited_packets: 5,
            violations,
            last: None,
        };
        assert!(judge(&Audit { rows: vec![row(0)], silent: Vec::new() }).is_ok());
        assert!(judge(&Audit { rows: vec![row(0), row(1)], silent: Vec::new() }).is_err());
        let silent = judge(&Audit { rows: vec![row(0)], silent: vec!["host2".into()] }).unwrap_err();
        assert!(silent.to_string().contains("host2 did not answer"), "{silent}");
    }

    #[test]
    fn json_is_the_content_alone_and_other_answers_are_none() {
        assert_eq!(json(&Response::Drops(Vec::new())).as_deref(), Some("[]\n"));
        assert_eq!(json(&Response::ShuttingDown), None);
    }
}
