//! What is replicated: [`Document`], and what a controller writes down of it: [`Record`].

use serde::{Deserialize, Serialize};

use super::message::ChangeId;
use crate::compose::State;
use crate::config::operations::Operation;

/// Everything that a composition follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Counted up by one with each change; 1 is the file that the controllers were started with.
    pub version: u64,
    /// The file's name, for messages.
    pub file: String,
    /// The file's text.
    pub yaml: String,
    /// What operators did on top of it, in order.
    pub operations: Vec<Operation>,
    /// The numbers given away, this document's own included.
    pub state: State,
}

/// Names a document: no two have the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Its version.
    pub version: u64,
    /// The [`digest`] of all that it holds but the file's name, which may differ from host to host.
    pub digest: String,
}

impl Document {
    /// Its name.
    pub fn stamp(&self) -> Stamp {
        let content = (self.version, &self.yaml, &self.operations, &self.state);
        Stamp { version: self.version, digest: digest(&content) }
    }
}

/// What a controller must know again after its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it goes by.
    pub active: Document,
    /// What it has installed, at a leader's word or as the leader, and neither activated nor withdrawn.
    pub installed: Option<Installed>,
    /// Attempts that it has promised not to make at their leader's word; the latest last.
    #[serde(default)]
    pub refused: Vec<ChangeId>,
}

/// What waits for its leader's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// The attempt.
    pub change: ChangeId,
    /// What.
    pub document: Document,
    /// The digest of what was composed from it.
    pub composed: String,
}

/// FNV-1a with 128 bits (Fowler, Noll, Vo) over the value's JSON: the same on every host and in every release. It tells
/// differences apart, it does not resist those who look for collisions.
pub fn digest(value: &impl Serialize) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    // A value without a JSON form would be a fault of ours; the empty text stands for it on every host alike.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let hash = text.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if hosts of different releases would name the same document differently.
    #[test]
    fn the_digest_is_the_published_one() {
        assert_eq!(digest(&()), {
            let hash = b"null".iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
                (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
            });
            format!("{hash:032x}")
        });
        assert_ne!(digest(&1), digest(&2));
    }

    #[test]
    fn the_name_of_the_file_is_no_difference() {
        let one = Document {
            version: 1,
            file: "a.yaml".into(),
            yaml: "x".into(),
            operations: Vec::new(),
            state: State::default(),
        };
        assert_eq!(one.stamp(), Document { file: "b.yaml".into(), ..one.clone() }.stamp());
        assert_ne!(one.stamp(), Document { yaml: "y".into(), ..one.clone() }.stamp());
        assert_ne!(one.stamp().digest, Document { version: 2, ..one.clone() }.stamp().digest);
    }
}
