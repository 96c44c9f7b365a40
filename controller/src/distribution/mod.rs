//! One version of everything on all hosts: [`Machine`] takes a change to every host's controller, or to none.
//!
//! Off the packet's path. Each host's controller runs one machine; whoever gets the operator's request leads that change.
//!
//! ```text
//!  leader                                   every other host
//!  Prepare ──────────────────────────────►  composes it by itself, asks whether its dataplane can take it
//!          ◄────────────────────── Prepared or Refused
//!  Install ──────────────────────────────►  instances started, new tag rules in force; written down; heads still go by the old
//!          ◄───────────────────── Installed or Refused
//!  written down as active: from here on there is no way back
//!  Activate ─────────────────────────────►  written down as active; heads go by the new plan
//!          ◄───────────────────── Activated
//! ```
//!
//! Pure: no clock, no I/O. [`Input`]s with a given time go in, [`Action`]s come out and are done in their order.
//! [`links`] carries messages between hosts; what must outlive the process is a [`Record`].
//!
//! Invariants (tested by simulation with crashes, lost connections, delayed and repeated messages):
//! - No two hosts are ever active with different documents of one version.
//! - A host is active with a document only after every host has it installed, written down.
//! - A host that has said `Installed` waits for the leader's word, however long it takes, or for a peer that is active with it.
//!   Until then its old plan goes on, and what it installed stays, since others may use it. One that has only prepared gives
//!   up when it loses the leader, or after a time.
//! - Whoever is behind a peer fetches what that peer is active with.
//!
//! Errors: a [`Refusal`] names the host and the reason; the old version stays in force.
//!
//! Source: two-phase commit with unanimous votes (Gray, 1978).

mod document;
mod follow;
mod key;
mod lead;
pub mod links;
mod machine;
mod message;
mod wire;

pub use document::{Document, Installed, Record, Stamp, digest};
pub use key::{Key, KeyError};
pub use machine::{Action, Input, Machine, Phase, Refusal, Task, Times};
pub use message::{ChangeId, Letter, Message, PeerStatus};

#[cfg(test)]
mod tests;
