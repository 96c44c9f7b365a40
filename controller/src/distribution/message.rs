//! What controllers say to each other about versions.
//!
//! The enums carry their names outside: a state has numbers as keys, which serde can't read back behind a tag inside.

use std::fmt;

use packet::PathId;
use serde::{Deserialize, Serialize};

use super::{Document, Stamp};
use crate::api::OccupiedLcore;
use crate::inventory::Inventory;

/// Names one attempt to make a change; no two attempts have the same, whoever led them and whenever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChangeId {
    /// The host that leads it.
    pub leader: String,
    /// Which run of that host's controller.
    pub run: u64,
    /// Which of that run's changes.
    pub number: u64,
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change {} of {}", self.number, self.leader)
    }
}

/// How a host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// What it goes by.
    pub active: Stamp,
    /// What it has installed and not activated.
    pub installed: Option<Stamp>,
    /// Retired paths that have no flows there and whose rules have been quiet for long.
    pub idle: Vec<PathId>,
    /// Its instances that have panicked: `acme/edge/1`.
    pub failed: Vec<String>,
}

/// What passes between two controllers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// How I am; said on connecting, when it changes, and from time to time.
    Status(PeerStatus),
    /// Leader: could you go by this?
    Prepare {
        /// The attempt.
        change: ChangeId,
        /// What you must be active with; none if a whole file is to end a disagreement.
        base: Option<Stamp>,
        /// What to go by.
        document: Box<Document>,
        /// The digest of what the leader composed from it.
        composed: String,
        /// Your dataplane may be restarted for it.
        allow_restart: bool,
    },
    /// I could.
    Prepared {
        /// The attempt.
        change: ChangeId,
    },
    /// I can't, and have undone what I did for it.
    Refused {
        /// The attempt.
        change: ChangeId,
        /// Why.
        refusal: super::Refusal,
    },
    /// Leader: start its instances, put its tag rules in place.
    Install {
        /// The attempt.
        change: ChangeId,
    },
    /// They are in place, and I have written that down.
    Installed {
        /// The attempt.
        change: ChangeId,
    },
    /// Leader: everybody has installed it, I too; go by it.
    Activate {
        /// The attempt.
        change: ChangeId,
        /// Of its document.
        stamp: Stamp,
    },
    /// I do.
    Activated {
        /// The attempt.
        change: ChangeId,
    },
    /// Its leader can't be reached: promise that you will not go by it at its word.
    Seal {
        /// The attempt.
        change: ChangeId,
        /// Of its document.
        stamp: Stamp,
    },
    /// I do not go by it, and promise that I never will at its leader's word; written down.
    Sealed {
        /// The attempt.
        change: ChangeId,
    },
    /// What became of the attempt that you lead?
    Inquire {
        /// The attempt.
        change: ChangeId,
    },
    /// Leader: I lead it no more. It was made if its document is what I am active with, else it never will be.
    Over {
        /// The attempt.
        change: ChangeId,
        /// What I am active with.
        active: Stamp,
    },
    /// Send me what you are active with.
    Fetch,
    /// Here it is.
    Fetched {
        /// The document.
        document: Box<Document>,
        /// The digest of what was composed from it.
        composed: String,
    },
}

/// What a host says of its machine and its dataplane; on connecting, and when it changes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Its machine.
    pub inventory: Inventory,
    /// The instances that run.
    pub lcores: Vec<OccupiedLcore>,
    /// It has begun with the file and nothing runs yet: instances may still go elsewhere.
    #[serde(default)]
    pub opening: bool,
}

/// What is in a frame between two controllers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Letter {
    /// About versions.
    Version(Message),
    /// About the sender's machine.
    Facts(Box<Facts>),
    /// A question that the API asks of all hosts: a request of the API, as JSON.
    Ask {
        /// For the answer.
        ticket: u64,
        /// The request.
        question: String,
    },
    /// Its answer: a response of the API, as JSON.
    Answer {
        /// The question's.
        ticket: u64,
        /// The response.
        answer: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{State, compose};
    use crate::config;

    /// Breaks if a document with a real state is not what it was once it has been said.
    #[test]
    fn a_document_arrives_as_it_was_said() {
        let config = config::parse("e.yaml", config::EXAMPLE).unwrap();
        let state = compose(&config, &State::default(), None).unwrap().state;
        let (file, yaml, operations) = ("e.yaml".to_owned(), config::EXAMPLE.to_owned(), Vec::new());
        let document = Box::new(Document { version: 1, file, yaml, operations, state });
        let letter = Letter::Version(Message::Fetched { document, composed: "x".into() });
        let text = serde_json::to_string(&letter).unwrap();
        assert_eq!(serde_json::from_str::<Letter>(&text).unwrap(), letter);
    }
}
