//! Questions of the API that all hosts' controllers answer together.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mio::Token;

use super::Server;
use crate::api::{Audit, Request, Response};
use crate::distribution::Letter;

/// How long the others may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A question whose answers are being gathered.
pub(super) struct Question {
    token: Token,
    audit: Audit,
    /// Hosts that have not answered.
    open: BTreeSet<String>,
    deadline: Instant,
}

impl Server {
    /// Asks all hosts for their audits; the answer, or nothing if it comes later.
    pub(super) fn audit_everywhere(&mut self, token: Token) -> Option<Response> {
        let mut audit = self.audit();
        let peers: Vec<(String, bool)> =
            self.versions.machine.peers().map(|(name, connected, _)| (name.to_owned(), connected)).collect();
        self.versions.next_question += 1;
        let ticket = self.versions.next_question;
        let question = serde_json::to_string(&Request::Audit { everywhere: false }).unwrap_or_default();
        let mut open = BTreeSet::new();
        for (name, connected) in peers {
            if !connected {
                audit.silent.push(name);
                continue;
            }
            open.insert(name.clone());
            let events = self.versions.links.send(&name, &Letter::Ask { ticket, question: question.clone() });
            self.hear_links(events);
        }
        if open.is_empty() {
            return Some(Response::Audit(audit));
        }
        let deadline = Instant::now() + PATIENCE;
        self.versions.questions.insert(ticket, Question { token, audit, open, deadline });
        None
    }

    /// A peer asks; only what a peer may know is answered.
    pub(super) fn answer_peer(&mut self, host: &str, ticket: u64, question: &str) {
        let response = match serde_json::from_str(question) {
            Ok(Request::Audit { .. }) => Response::Audit(self.audit()),
            _ => super::failed(crate::api::FailureKind::BadRequest, vec!["peers may ask for audits only".into()]),
        };
        let answer = serde_json::to_string(&response).unwrap_or_default();
        let events = self.versions.links.send(host, &Letter::Answer { ticket, answer });
        self.hear_links(events);
    }

    pub(super) fn hear_answer(&mut self, host: &str, ticket: u64, answer: &str) {
        let Some(question) = self.versions.questions.get_mut(&ticket) else { return };
        if !question.open.remove(host) {
            return;
        }
        match serde_json::from_str(answer) {
            // A host speaks for itself alone.
            Ok(Response::Audit(audit)) => {
                question.audit.rows.extend(audit.rows.into_iter().filter(|row| row.host == host))
            }
            _ => question.audit.silent.push(host.to_owned()),
        }
        self.end_answered();
    }

    /// A peer is gone and will not answer.
    pub(super) fn lose_answers(&mut self, host: &str) {
        for question in self.versions.questions.values_mut() {
            if question.open.remove(host) {
                question.audit.silent.push(host.to_owned());
            }
        }
        self.end_answered();
    }

    pub(super) fn give_up_late_answers(&mut self, now: Instant) {
        for question in self.versions.questions.values_mut().filter(|question| question.deadline <= now) {
            let late = std::mem::take(&mut question.open);
            question.audit.silent.extend(late);
        }
        self.end_answered();
    }

    fn end_answered(&mut self) {
        let done: Vec<u64> = self
            .versions
            .questions
            .iter()
            .filter(|(_, question)| question.open.is_empty())
            .map(|(key, _)| *key)
            .collect();
        for ticket in done {
            if let Some(Question { token, mut audit, .. }) = self.versions.questions.remove(&ticket) {
                // Stable: a host's rows stay in the order of its lcores.
                audit.rows.sort_by_key(|row| self.plan.config.host(&row.host));
                self.respond_late(token, &Response::Audit(audit));
            }
        }
    }
}
