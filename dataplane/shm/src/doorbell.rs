//! How a lcore wakes the controller up, without a system call when it is awake.
//!
//! Off the packet's path, but its [`Doorbell::ring_if_waiting`] is called by lcores, once per poll that pushed something.
//!
//! # No wake-up is lost
//!
//! ```text
//!  lcore                                       controller
//!    1. publish events (store of the tail)       a. sleeping = 1
//!    2. fence(SeqCst)                            b. fence(SeqCst)
//!    3. sleeping == 1 ? set 0, write eventfd     c. look into every ring: anything? then awake(), work
//!                                                d. nothing: wait for the eventfd
//! ```
//!
//! Each side stores, then loads what the other stores: a store-load pair, which neither release/acquire nor x86 keeps in
//! order. Of two SeqCst fences one comes first. If 2 is before b, then c sees the tail of 1. If b is before 2, then 3 sees
//! `sleeping == 1` and rings. Without either fence both may see the old value, and the controller sleeps on a full ring.
//!
//! The price on the lcore is one fence (some 10 ns) and one load per poll that pushed events; nothing when it pushed none.
//!
//! Several lcores share one flag and one eventfd: the one that takes the flag from 1 to 0 rings, so a waking controller
//! costs one system call, not one per lcore.
//!
//! Trust: a controller that always claims to sleep makes each such poll cost a system call, no more. The eventfd is
//! non-blocking; a full one counts as rung.
//!
//! Source: C++20 [atomics.fences]; loom checks it below.

use crate::atomic::{AtomicU64, Ordering, fence};

const AWAKE: u64 = 0;
const SLEEPING: u64 = 1;

/// Steps 2 and 3 up to the write: true if the caller has to ring. Everything published before is seen by who wakes up.
fn must_ring(sleeping: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    sleeping.load(Ordering::Relaxed) != AWAKE && sleeping.swap(AWAKE, Ordering::Relaxed) != AWAKE
}

/// Steps a and b.
fn announce_sleep(sleeping: &AtomicU64) {
    sleeping.store(SLEEPING, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

#[cfg(not(loom))]
pub use shared::{Doorbell, DoorbellWaiter};

#[cfg(not(loom))]
mod shared {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::sync::Arc;

    use super::{AWAKE, announce_sleep, must_ring};
    use crate::atomic::Ordering;
    use crate::region::Words;

    /// A lcore's end.
    #[derive(Debug, Clone)]
    pub struct Doorbell {
        flag: Arc<Words>,
        eventfd: Arc<OwnedFd>,
    }

    impl Doorbell {
        /// `flag` is one word that the other side's [`DoorbellWaiter`] shares.
        pub(crate) fn new(flag: Words, eventfd: Arc<OwnedFd>) -> Self {
            Self { flag: Arc::new(flag), eventfd }
        }

        /// Wakes the controller up if it sleeps. Call it after pushing events or captures, once per poll; true if it rang.
        pub fn ring_if_waiting(&self) -> bool {
            let rings = self.flag.first().is_some_and(must_ring);
            if rings {
                self.ring();
            }
            rings
        }

        /// Wakes the controller up in any case: for the last words before an end.
        pub fn ring(&self) {
            // The only errors are a full counter, which wakes up as well, and a descriptor that is gone with its reader.
            let _ = rustix::io::write(&*self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// The controller's end: its descriptor is readable when a lcore rang.
    #[derive(Debug)]
    pub struct DoorbellWaiter {
        flag: Words,
        eventfd: OwnedFd,
    }

    impl DoorbellWaiter {
        /// `flag` is one word that the other side's [`Doorbell`] shares; the eventfd is non-blocking.
        pub(crate) fn new(flag: Words, eventfd: OwnedFd) -> Self {
            Self { flag, eventfd }
        }

        /// Says that the controller is about to sleep. Look into every ring after this call and before waiting; if one has
        /// something, do not wait.
        pub fn prepare_to_wait(&self) {
            if let Some(flag) = self.flag.first() {
                announce_sleep(flag);
            }
        }

        /// Says that the controller is awake again, and silences the bell.
        pub fn awake(&self) {
            if let Some(flag) = self.flag.first() {
                flag.store(AWAKE, Ordering::Relaxed);
            }
            let mut count = [0; 8];
            // Nobody rang: WouldBlock.
            let _ = rustix::io::read(&self.eventfd, &mut count);
        }
    }

    impl AsFd for DoorbellWaiter {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.eventfd.as_fd()
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    //! Every interleaving of a lcore that says something and a controller that goes to sleep, by loom.

    use std::sync::Arc;

    use loom::thread;

    use super::*;

    #[test]
    fn without_a_fence_on_either_side_a_controller_would_sleep_on_a_full_ring() {
        loom::model(|| {
            let sleeping = Arc::new(AtomicU64::new(AWAKE));
            let tail = Arc::new(AtomicU64::new(0));
            let rang = Arc::new(AtomicU64::new(0));
            let lcore = {
                let (sleeping, tail, rang) = (Arc::clone(&sleeping), Arc::clone(&tail), Arc::clone(&rang));
                thread::spawn(move || {
                    tail.store(1, Ordering::Release);
                    if must_ring(&sleeping) {
                        rang.store(1, Ordering::Release);
                    }
                })
            };
            announce_sleep(&sleeping);
            let sleeps = tail.load(Ordering::Acquire) == 0;
            lcore.join().unwrap();
            assert!(!sleeps || rang.load(Ordering::Acquire) == 1, "nobody wakes the controller up");
        });
    }

    #[test]
    fn two_lcores_that_speak_at_once_wake_the_controller_at_least_once() {
        loom::model(|| {
            let sleeping = Arc::new(AtomicU64::new(AWAKE));
            let tails: Arc<[AtomicU64; 2]> = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            let rang = Arc::new(AtomicU64::new(0));
            let lcores: Vec<_> = (0..2)
                .map(|lcore| {
                    let (sleeping, tails, rang) = (Arc::clone(&sleeping), Arc::clone(&tails), Arc::clone(&rang));
                    thread::spawn(move || {
                        tails[lcore].store(1, Ordering::Release);
                        if must_ring(&sleeping) {
                            rang.fetch_add(1, Ordering::AcqRel);
                        }
                    })
                })
                .collect();
            announce_sleep(&sleeping);
            let sleeps = tails.iter().all(|tail| tail.load(Ordering::Acquire) == 0);
            for lcore in lcores {
                lcore.join().unwrap();
            }
            let rang = rang.load(Ordering::Acquire);
            assert!(!sleeps || rang == 1, "woken {rang} times");
        });
    }
}
