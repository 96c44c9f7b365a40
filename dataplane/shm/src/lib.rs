//! What the dataplane and its controller share: memory, and the words that pass through it.
//!
//! ```text
//!  towpath-dataplane                                        towpath-controller
//!    lcore 0 ── Consumer<Update> ◄── update ring ◄──────── Producer<Update>
//!            ── Producer<Event>  ──► event ring  ────────► Consumer<Event>
//!            ── CaptureProducer  ──► capture ring ───────► CaptureConsumer
//!            ── Doorbell         ──► one flag, one eventfd ► DoorbellWaiter
//!            ── CountersWriter   ──► counters (read-only there) ► CountersReader
//!    control ── Listener         ◄── Unix socket: Hello, file descriptors, Control ──► attach()
//! ```
//!
//! - [`rules`] and [`launch`] are the checked types; [`message`] is how rules and events look in a ring.
//! - [`region`] maps memory, [`ring`] and [`capture`] pass messages through it, [`doorbell`] wakes the controller up,
//!   [`link`] lays all of that out in one region, [`counters`] has its own region.
//! - [`hello`] is what the dataplane says when a controller comes, [`attach`] is the door it comes through.
//!
//! Neither side believes the other: every index, length and message that is read from shared memory is checked in release
//! builds too, and what fails is an error value, never a panic and never undefined behaviour. Shared memory is only ever
//! touched through atomics, so a peer that writes where it should not makes wrong values, not data races.
//!
//! `unsafe` is confined to [`region`] (mapping, and the view of a mapping as atomics) and [`counters`] (the view of atomics
//! as a structure of atomics).
//!
//! Byte order: native. Both sides run on the same machine.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p shm --lib --release model` explores the rings and the doorbell under loom.

// Under loom only the models call what mapped memory is made of.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(loom))]
pub mod attach;
#[cfg(not(loom))]
pub mod capture;
#[cfg(not(loom))]
pub mod counters;
pub mod doorbell;
#[cfg(not(loom))]
pub mod hello;
pub mod launch;
#[cfg(not(loom))]
pub mod link;
pub mod message;
#[cfg(not(loom))]
pub mod region;
pub mod ring;
pub mod rules;
#[cfg(not(loom))]
pub mod snapshot;

/// The atomics of this build: the machine's, or loom's, which explores every interleaving.
mod atomic {
    #[cfg(loom)]
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
    #[cfg(not(loom))]
    pub use std::sync::atomic::{AtomicU64, Ordering, fence};
}
