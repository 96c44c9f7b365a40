//! `towpath get`: one table of what is.

use std::io::{self, Write};

use controller::api::{Request, Response};
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
    Ok(())
}

const fn request(options: &GetOptions) -> Request {
    match options.table {
        Table::Status => Request::Status,
        Table::Hosts => Request::Hosts,
        Table::Lcores => Request::Lcores,
        Table::Instances => Request::Instances,
        Table::Chains => Request::Chains,
        Table::Paths => Request::Paths,
        Table::Flows => Request::Flows { limit: options.limit },
        Table::Drops => Request::Drops,
    }
}

/// The answer's content alone: a list of rows, or an object.
fn json(answer: &Response) -> Option<String> {
    match answer {
        Response::Status(content) => pretty(content),
        Response::Hosts(content) => pretty(content),
        Response::Lcores(content) => pretty(content),
        Response::Instances(content) => pretty(content),
        Response::Chains(content) => pretty(content),
        Response::Paths(content) => pretty(content),
        Response::Flows(content) => pretty(content),
        Response::Drops(content) => pretty(content),
        _ => None,
    }
}

fn pretty(content: &impl Serialize) -> Option<String> {
    serde_json::to_string_pretty(content).ok().map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_content_alone_and_other_answers_are_none() {
        assert_eq!(json(&Response::Drops(Vec::new())).as_deref(), Some("[]\n"));
        assert_eq!(json(&Response::ShuttingDown), None);
    }
}
