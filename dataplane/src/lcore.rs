//! What every lcore has: a poll function, a clock that is read once per poll, and the loop around it.

use std::sync::atomic::{AtomicU8, Ordering};

use dpdk::clock::{self, Clock};

use crate::forwarder::Forwarder;
use crate::idle::Idle;
use crate::updates::Slot;

const MILLISECOND_NS: u64 = 1_000_000;
const HALF_SECOND_NS: u64 = 500 * MILLISECOND_NS;
/// Polls of an instance that ends; what is still in its ring after so many is not processed.
const LAST_POLLS: usize = 65_536;

/// A lcore's work.
pub trait Poll: Send {
    /// One round: updates, packets in, packets out. Returns true if there was anything to do.
    fn poll_once(&mut self, now_ns: u64) -> bool;

    /// The lcore's forwarder.
    fn forwarder(&mut self) -> &mut Forwarder;

    /// The lcore stops: sends what it can and ends everything that it holds.
    fn let_go(&mut self);

    /// Nobody sends to this lcore any more: ends what was put into its ring since it stopped.
    fn drain_ring(&mut self);

    /// Takes an instance apart that has let everything go; its lcore can be used again. None where that can't be: an I/O lcore
    /// is for good.
    fn vacate(self: Box<Self>) -> Option<Slot>;
}

/// What a lcore is to do, said by the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Poll.
    Run,
    /// Nobody sends here any more: process what is in the ring, then stop.
    Finish,
    /// Stop at once.
    Stop,
}

/// The order in force for one lcore.
#[derive(Debug)]
pub struct Orders(AtomicU8);

impl Orders {
    /// To poll.
    pub fn run() -> Self {
        Self(AtomicU8::new(Order::Run as u8))
    }

    /// Gives an order.
    pub fn give(&self, order: Order) {
        self.0.store(order as u8, Ordering::Release);
    }

    fn present(&self) -> Order {
        // Acquire: whoever says that nobody sends any more has seen it, so that what they sent is in the ring.
        match self.0.load(Ordering::Acquire) {
            value if value == Order::Run as u8 => Order::Run,
            value if value == Order::Finish as u8 => Order::Finish,
            _ => Order::Stop,
        }
    }
}

/// Polls until it is told otherwise, lets everything go that is held, and hands the lcore back.
pub fn run(mut lcore: Box<dyn Poll>, clock: Clock, mut idle: Idle, orders: &Orders) -> Box<dyn Poll> {
    let mut from = clock::tsc();
    while orders.present() == Order::Run {
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
    if orders.present() == Order::Finish {
        finish(lcore.as_mut(), || clock.now_ns());
    }
    lcore.let_go();
    lcore
}

/// Polls until there is nothing left to do: the end of an instance that nobody sends to any more.
pub fn finish(lcore: &mut dyn Poll, mut now_ns: impl FnMut() -> u64) {
    for _ in 0..LAST_POLLS {
        if !lcore.poll_once(now_ns()) {
            return;
        }
    }
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
