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
//!  written down as installed everywhere
//!  Activate ─────────────────────────────►  written down as active: from here on there is no way back; heads go by the new plan
//!          ◄───────────────────── Activated
//!  after the first of them: written down as active; heads go by the new plan
//!
//!  every other host, without its leader for long                  every third host
//!  promise written down: not at the leader's word
//!  Seal ─────────────────────────────────►  the same promise, unless it goes by the version or hears the leader
//!          ◄───────────────────── Sealed, or how it is
//!  all have promised: it is undone
//! ```
//!
//! Pure: no clock, no I/O. [`Input`]s with a given time go in, [`Action`]s come out and are done in their order.
//! [`links`] carries messages between hosts; what must outlive the process is a [`Record`].
//!
//! Invariants (tested by simulation with crashes, lost connections, delayed and repeated messages):
//! - No two hosts are ever active with different documents of one version.
//! - A host is active with a document only after every host has it installed, written down.
//! - The leader is never the first that is active. So once all hosts but the leader have promised not to heed its `Activate`, and
//!   none of them is active, none ever will be, and what is installed may go: nobody has to wait for a dead leader.
//! - A host that has said `Installed` waits for the leader's word, for a peer that is active with it, or for all these promises.
//!   If a further host is away too it goes on waiting, since that one may be active; so does the leader if no host that it can
//!   reach has said anything. Meanwhile the old plan goes on, and what is installed stays, since others may use it. A host that has
//!   only prepared gives up when it loses the leader, or after a time.
//! - While one host is dead and no other fault happens, the others settle, if they are two or more.
//! - Whoever is behind a peer fetches what that peer is active with.
//!
//! Errors: a [`Refusal`] names the host and the reason; the old version stays in force.
//!
//! Source: two-phase commit with unanimous votes (Gray, 1978); the promises are those of a higher ballot (Lamport, 1998).

mod document;
mod follow;
mod key;
mod lead;
pub mod links;
mod machine;
mod message;
mod resolve;
mod wire;

pub use document::{Document, Installed, Record, Stamp, digest};
pub use key::{Key, KeyError};
pub use machine::{Action, Input, Machine, Phase, Refusal, Task, Times};
pub use message::{ChangeId, Facts, Letter, Message, PeerStatus};

#[cfg(test)]
mod tests;
