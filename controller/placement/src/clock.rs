//! When a solver has to stop: a time limit, or somebody who asks it to.
//!
//! The only place where the crate looks at a clock. A stopped solver returns the best that it has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A deadline and a flag that ends the work early.
#[derive(Clone, Copy, Debug)]
pub struct Clock<'s> {
    started: Instant,
    limit: Duration,
    stop: Option<&'s AtomicBool>,
}

impl<'s> Clock<'s> {
    /// Runs from now.
    pub fn new(limit: Duration, stop: Option<&'s AtomicBool>) -> Self {
        Clock { started: Instant::now(), limit, stop }
    }

    /// The same, but ending earlier: after `slice` from now.
    pub fn slice(&self, slice: Duration) -> Self {
        Clock { limit: self.limit.min(self.elapsed().saturating_add(slice)), ..*self }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Until the end.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Whether somebody asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Whether the work has to end.
    pub fn is_over(&self) -> bool {
        self.is_stopped() || self.elapsed() >= self.limit
    }
}
