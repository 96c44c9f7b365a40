//! What the machine itself makes a packet wait: a thread that does nothing but look at the clock is kept from its CPU too, by the
//! kernel's ticks, other processes, and a hypervisor that lends the CPU to another guest.
//!
//! It is measured as the packets are: one is due at fixed times, whatever happens, and waits until the thread looks next. So each
//! figure stands beside the same figure of the packets, and a tail that is not above it is none of the system's. It says nothing of
//! other CPUs than the thread's; [`crate::cpu_time`] does.

use std::time::Duration;

use crate::ledger::histogram;
use crate::report::Latency;

/// A packet is due as often.
const EACH_NS: u64 = 5_000;

/// Watches the clock for a while.
pub fn watch(now_ns: impl Fn() -> u64, length: Duration) -> Latency {
    let mut waits = histogram();
    let begin_ns = now_ns();
    let end_ns = begin_ns.saturating_add(length.as_nanos() as u64);
    let mut due_ns = begin_ns;
    while due_ns < end_ns {
        let now_ns = now_ns();
        while due_ns <= now_ns && due_ns < end_ns {
            waits.saturating_record(now_ns - due_ns);
            due_ns += EACH_NS;
        }
    }
    Latency::of(&waits)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Breaks if packets that were due while the thread was away are left out, which are the ones that matter.
    #[test]
    fn all_that_was_due_while_the_thread_was_away_waits_for_it() {
        let now = Cell::new(0);
        let look = || {
            let at = now.get();
            now.set(at + if at == 500_000 { 100_000 } else { 100 }); // away once, for a tenth of the time
            at
        };
        let waits = watch(look, Duration::from_millis(1));
        assert_eq!(waits.count, 200);
        assert!((94_000..=96_000).contains(&waits.max_ns), "{waits:?}");
        assert!(waits.p50_ns < 100 && (85_000..=96_000).contains(&waits.p99_ns), "{waits:?}");
    }
}
