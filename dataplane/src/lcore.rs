//! What every lcore has: a poll function, a clock that is read once per poll, and the loop around it.

use std::sync::atomic::{AtomicBool, Ordering};

use dpdk::clock::{self, Clock};

use crate::forwarder::Forwarder;
use crate::idle::Idle;

const MILLISECOND_NS: u64 = 1_000_000;
const HALF_SECOND_NS: u64 = 500 * MILLISECOND_NS;

/// A lcore's work.
pub trait Poll: Send {
    /// One round: updates, packets in, packets out. Returns true if there was anything to do.
    fn poll_once(&mut self, now_ns: u64) -> bool;

    /// The lcore's forwarder.
    fn forwarder(&mut self) -> &mut Forwarder;

    /// The lcore stops: sends what it can and ends everything that it holds.
    fn let_go(&mut self);

    /// All lcores have stopped: ends what was put into this one's ring meanwhile.
    fn drain_ring(&mut self);
}

/// Polls until `stop`, lets everything go that is held, and hands the lcore back.
pub fn run(mut lcore: Box<dyn Poll>, clock: Clock, mut idle: Idle, stop: &AtomicBool) -> Box<dyn Poll> {
    let mut from = clock::tsc();
    while !stop.load(Ordering::Relaxed) {
        let now_ns = clock.ns(from);
        let worked = lcore.poll_once(now_ns);
        let slept = idle.after_poll(worked);
        let to = clock::tsc();
        let counters = &lcore.forwarder().account.counters;
        counters.polls.add(1);
        counters.sleeps.add(u64::from(slept));
        counters.heartbeat_ns.set(now_ns);
        counters.total_cycles.add(to.wrapping_sub(from));
        if worked {
            counters.busy_cycles.add(to.wrapping_sub(from));
        }
        from = to;
    }
    lcore.let_go();
    lcore
}

/// When something is due that is not done at every poll.
#[derive(Debug, Default)]
pub struct Ticks {
    millisecond_ns: u64,
    half_second_ns: u64,
}

impl Ticks {
    /// True once a millisecond.
    pub fn millisecond(&mut self, now_ns: u64) -> bool {
        due(&mut self.millisecond_ns, MILLISECOND_NS, now_ns)
    }

    /// True twice a second.
    pub fn half_second(&mut self, now_ns: u64) -> bool {
        due(&mut self.half_second_ns, HALF_SECOND_NS, now_ns)
    }
}

fn due(next_ns: &mut u64, every_ns: u64, now_ns: u64) -> bool {
    let due = now_ns >= *next_ns;
    if due {
        *next_ns = now_ns + every_ns;
    }
    due
}
