//! What a lcore does when there is nothing to do: spin, then pause, then sleep.
//!
//! A lcore that has its CPU to itself spins and pauses, and sleeps only after a second without any packet. Where several
//! share a CPU it yields at once and sleeps soon, so that the same binary runs on 64 isolated cores and on two shared ones.
//! Useful cycles are counted apart, since a polling CPU always looks busy.

use dpdk::clock;

const SPINS: u32 = 256;
const PAUSES: u32 = 1_000_000;
const NAP_NS: u32 = 20_000;
const SHARED_SPINS: u32 = 4;
const SHARED_YIELDS: u32 = 32;
/// Not shorter: several lcores that wake up every 10 µs keep a shared CPU busy with nothing else, and the packet's next hop
/// waits. Four echo streams over two hosts with seven lcores on two CPUs made 400 to 2,100 round trips a second with naps of
/// 10 µs first, and 7,000 to 9,600 with this one alone (debug build, the CPUs busy with other work too).
const SHARED_NAP_NS: u32 = 100_000;

/// The idle policy of one lcore.
#[derive(Debug)]
pub struct Idle {
    shared: bool,
    empty_polls: u32,
}

impl Idle {
    /// For a lcore whose CPU is shared with others, or its own.
    pub fn new(shared: bool) -> Self {
        Self { shared, empty_polls: 0 }
    }

    /// The last poll did something, or nothing. Returns true if the lcore slept.
    pub fn after_poll(&mut self, worked: bool) -> bool {
        if worked {
            self.empty_polls = 0;
            return false;
        }
        self.empty_polls = self.empty_polls.saturating_add(1);
        let nap_ns = match (self.shared, self.empty_polls) {
            (false, polls) if polls <= SPINS => return false,
            (false, polls) if polls <= PAUSES => {
                clock::pause();
                return false;
            }
            (false, _) => NAP_NS,
            (true, polls) if polls <= SHARED_SPINS => return false,
            (true, polls) if polls <= SHARED_YIELDS => {
                clock::yield_now();
                return false;
            }
            (true, _) => SHARED_NAP_NS,
        };
        clock::sleep_ns(nap_ns);
        true
    }
}
