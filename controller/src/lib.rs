//! The controller of a host: it reads the configuration, composes chains into rules, keeps the dataplane running and answers
//! flow misses.
//!
//! On a packet's path it stands beside the forwarder: only the first packet of a flow at the head of a subchain waits for it.
//!
//! ```text
//!  towpath.yaml ─ config ─► compose ─► Plan ─┬─► steering (flow thread) ◄═ rings ═► towpath-dataplane
//!                                            │      flows: which path?                  ▲ spawned, watched
//!  towpath ◄──── api, Unix socket ────► server (main thread, mio) ──────────────────────┘ process
//!  other hosts' controllers ◄─── distribution, TCP ───► │
//! ```
//!
//! - [`config`] reads and checks the file, [`compose`] makes rules of it: pure, the same on every host.
//! - [`flows`] decides which path a new flow takes: pure. [`steering`] is the thread that asks it and owns the rings.
//! - [`distribution`] takes each change to all hosts' controllers or to none: a pure machine, and the links between hosts.
//! - [`server`] is the main thread: API, signals, the dataplane's life ([`process`]). [`api`] is what clients see.
//!
//! No DPDK and no `unsafe` here; the forwarder is another process, reached through `shm`.
#![forbid(unsafe_code)]

pub mod api;
pub mod compose;
pub mod config;
pub mod distribution;
pub mod flows;
pub mod inventory;
mod lane;
pub mod options;
mod pcapng;
pub mod process;
pub mod server;
pub mod steering;

use std::path::Path;

/// Reads, checks and composes a configuration file, as every host's controller does at its start.
pub fn check(file: &Path) -> Result<(config::Config, compose::Composition), config::LoadError> {
    let config = config::load(file)?;
    let composition = compose::compose(&config, &compose::State::default(), None)?;
    Ok((config, composition))
}
