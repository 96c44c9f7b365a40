//! Time on a lcore: the time stamp counter, its conversion to nanoseconds, and the three ways to wait.
//!
//! On the packet's path: the counter is read once per burst; a conversion is one multiplication and one shift. All
//! lcores read the same time, since DPDK runs only where the counter is invariant. It starts at the machine's boot.

use std::{hint, thread};

use crate::Eal;

/// The time stamp counter, in ticks.
#[inline]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86-64 and only reads a counter; Linux leaves it open to user space.
    let ticks = unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: a C function without arguments that reads the architecture's counter.
    let ticks = unsafe { dpdk_sys::shim_tsc() };
    ticks
}

/// Tells the CPU that this thread is spinning; takes some tens of cycles.
#[inline]
pub fn pause() {
    hint::spin_loop();
}

/// Lets another thread run on this CPU, if one wants to.
#[inline]
pub fn yield_now() {
    thread::yield_now();
}

/// Sleeps for at least this long, unless a signal ends it earlier. A lcore wakes some microseconds late, some tens on a
/// virtual machine; other threads some fifty more (see [`Eal::launch`]).
pub fn sleep_ns(duration_ns: u32) {
    let second_ns = 1_000_000_000;
    let time = libc::timespec {
        tv_sec: libc::time_t::from(duration_ns / second_ns),
        tv_nsec: libc::c_long::from(duration_ns % second_ns),
    };
    // SAFETY: `time` is a live, valid timespec (nanoseconds below one second); the remainder is not asked for.
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

/// Sets the calling thread's timer slack from 50 µs, the kernel's default, to the least, so that short sleeps are
/// short.
pub(crate) fn sharpen_timers() {
    let slack_ns: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes one integer and concerns the calling thread only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns) };
}

/// Converts between ticks and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    hz: u64,
    /// Nanoseconds per tick, times 2^[`SHIFT`].
    ns_per_tick: u64,
    /// Ticks per nanosecond, times 2^[`SHIFT`].
    ticks_per_ns: u64,
}

const SHIFT: u32 = 32;

impl Clock {
    /// The clock at the rate that EAL measured at its start.
    pub fn new(_eal: &Eal) -> Self {
        // SAFETY: EAL is initialised (there is an `Eal`), so the rate is known; the function only reads it.
        Self::with_hz(unsafe { dpdk_sys::rte_get_tsc_hz() })
    }

    fn with_hz(hz: u64) -> Self {
        let hz = hz.max(1);
        let second_ns: u128 = 1_000_000_000;
        let ratio = |numerator: u128, denominator: u128| ((numerator << SHIFT) / denominator) as u64;
        Self { hz, ns_per_tick: ratio(second_ns, u128::from(hz)), ticks_per_ns: ratio(u128::from(hz), second_ns) }
    }

    /// Ticks per second.
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// So many ticks in nanoseconds, rounded down; off by less than one part in a hundred million.
    #[inline]
    pub const fn ns(&self, ticks: u64) -> u64 {
        ((ticks as u128 * self.ns_per_tick as u128) >> SHIFT) as u64
    }

    /// So many nanoseconds in ticks, rounded down.
    #[inline]
    pub const fn ticks(&self, duration_ns: u64) -> u64 {
        ((duration_ns as u128 * self.ticks_per_ns as u128) >> SHIFT) as u64
    }

    /// Nanoseconds since the counter started; the same on every lcore, never going back.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.ns(tsc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_converts_there_and_back_within_one_part_in_a_hundred_million() {
        for hz in [1_000_000_000, 2_100_000_000, 2_899_999_937, 5_000_000_000] {
            let clock = Clock::with_hz(hz);
            let year_ns = 365 * 24 * 3600 * 1_000_000_000_u64;
            let ticks = u64::try_from(u128::from(year_ns) * u128::from(hz) / 1_000_000_000).expect("fits");
            assert!(clock.ns(ticks).abs_diff(year_ns) < year_ns / 100_000_000, "{hz}");
            assert!(clock.ticks(year_ns).abs_diff(ticks) < ticks / 100_000_000, "{hz}");
        }
    }

    #[test]
    fn the_counter_runs_forward_over_a_sleep() {
        let before = tsc();
        sleep_ns(1_000);
        assert!(tsc() > before);
    }
}
