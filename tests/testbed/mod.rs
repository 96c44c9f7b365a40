//! A testbed: real hosts in network namespaces, real processes, real packets.
//!
//! Around the packet's path: the kernel's stacks at both ends (namespaces `client`, `server`), Towpath's hosts between them
//! (`host1`, `host2`), and the underlay (`fabric`, a bridge). Every host runs its own controller, which starts its dataplane
//! on `net_af_packet` devices over veth.
//!
//! ```text
//!  client eth0 ── left host1 under ── h1 fabric h2 ── under host2 right ── eth0 server
//! ```
//!
//! Invariants: one testbed at a time on a machine (a file lock), since all share its cores. Names carry the test's process
//! id, so that what a dead run left behind is known by it and swept before the next begins; a reaper process cleans up even
//! when the test is killed. Nothing waits for time to pass, only for conditions, with a deadline. If a test fails, the ends
//! of all logs are shown.
//!
//! Needs root, and iproute2, ethtool, nginx, curl, iperf3, tshark and python3, all from Debian.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod capture;
pub mod config;
pub mod craft;
pub mod frames;
pub mod host;
pub mod hosts;
pub mod namespace;
pub mod process;
pub mod scope;
pub mod streams;
pub mod traffic;

use std::time::{Duration, Instant};

/// How long a condition may take that should hold soon; two cores are shared by everything, so it is generous.
pub const SOON: Duration = Duration::from_secs(20);

/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `look` finds something; fails the test when it has not after [`SOON`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(SOON, what, look)
}

/// Waits until `look` finds something; fails the test when it has not after `limit`.
pub fn until_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Whether something comes to hold within [`SOON`].
pub fn holds_soon(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        if holds() {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}
