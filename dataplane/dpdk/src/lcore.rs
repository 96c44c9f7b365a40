//! Lcores: EAL's threads, pinned to their CPUs, that run what they are given.
//!
//! On the packet's path: a lcore's loop runs in one [`Eal::launch`]. A panic in it ends that run, not the process: it
//! is caught, and [`LcoreHandle::join`] returns its message; what the run owned, mbufs included, is dropped on the way.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::{Eal, Errno, clock};

/// A lcore that can't run something, or didn't finish it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LcoreError {
    /// EAL was not started with it.
    #[error("EAL has no lcore {lcore}; it was started with {configured:?}")]
    Unknown {
        /// The lcore.
        lcore: u32,
        /// Those that it has.
        configured: Vec<u32>,
    },
    /// It still runs what it was given before.
    #[error("lcore {lcore} is busy; join it before it is launched again")]
    Busy {
        /// The lcore.
        lcore: u32,
    },
    /// What it ran panicked.
    #[error("lcore {lcore} panicked: {message}")]
    Panicked {
        /// The lcore.
        lcore: u32,
        /// The panic's message.
        message: String,
    },
    /// Its thread does not take work.
    #[error("lcore {lcore} can't be launched: {errno}")]
    Launch {
        /// The lcore.
        lcore: u32,
        /// Why.
        errno: Errno,
    },
}

type Outcome<T> = Result<T, Box<dyn Any + Send>>;

/// Where a run leaves its result.
struct Slot<T> {
    outcome: Mutex<Option<Outcome<T>>>,
    finished: Condvar,
}

/// A run on a lcore. Dropping it lets the run go on; join every run before the process ends, or it is cut off in the
/// middle.
pub struct LcoreHandle<T> {
    lcore: u32,
    slot: Arc<Slot<T>>,
}

type Run = Box<dyn FnOnce() + Send>;

/// Held during a launch: EAL doesn't guard against two at once.
static LAUNCHING: Mutex<()> = Mutex::new(());

impl Eal {
    /// Runs `run` on a lcore that is at rest. The lcore's timer slack is the least, so that short sleeps are
    /// short.
    pub fn launch<T, F>(&self, lcore: u32, run: F) -> Result<LcoreHandle<T>, LcoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if !self.lcores().iter().any(|binding| binding.lcore == lcore) {
            let configured = self.lcores().iter().map(|binding| binding.lcore).collect();
            return Err(LcoreError::Unknown { lcore, configured });
        }
        let slot = Arc::new(Slot { outcome: Mutex::new(None), finished: Condvar::new() });
        let target = Arc::clone(&slot);
        let run: Run = Box::new(move || {
            // `run` and all that it owns is gone after a panic; nothing can see it half changed but what it shared by
            // lock.
            let outcome = panic::catch_unwind(AssertUnwindSafe(run));
            *target.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            target.finished.notify_all();
        });
        start(lcore, run)?;
        Ok(LcoreHandle { lcore, slot })
    }
}

fn start(lcore: u32, run: Run) -> Result<(), LcoreError> {
    let argument = Box::into_raw(Box::new(run));
    let _one_at_a_time = LAUNCHING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: EAL is initialised and has the lcore, which is not the main one (the caller checked); LAUNCHING is held.
    // On success `trampoline` gets `argument` exactly once.
    let status = unsafe { dpdk_sys::rte_eal_remote_launch(Some(trampoline), argument.cast(), lcore) };
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the launch was refused, so the argument is still owned here alone.
    drop(unsafe { Box::from_raw(argument) });
    let errno = Errno::returned(status);
    Err(if errno.0 == libc::EBUSY { LcoreError::Busy { lcore } } else { LcoreError::Launch { lcore, errno } })
}

unsafe extern "C" fn trampoline(argument: *mut c_void) -> c_int {
    clock::sharpen_timers();
    // SAFETY: `start` passed a `Box<Run>` made by `into_raw`, and EAL calls this once for it.
    let run = unsafe { Box::from_raw(argument.cast::<Run>()) };
    // The run catches its own panics.
    run();
    0
}

impl<T> LcoreHandle<T> {
    /// The lcore.
    pub fn lcore(&self) -> u32 {
        self.lcore
    }

    /// True once the run ended, well or by a panic.
    pub fn is_finished(&self) -> bool {
        self.slot.outcome.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits for the run to end and returns what it returned. The lcore is then at rest and can be launched again.
    pub fn join(self) -> Result<T, LcoreError> {
        let guard = self.slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard =
            self.slot.finished.wait_while(guard, |outcome| outcome.is_none()).unwrap_or_else(PoisonError::into_inner);
        let outcome = guard.take();
        drop(guard);
        // SAFETY: EAL is initialised and has the lcore. The run has left its result, so the lcore is at rest in a
        // moment.
        unsafe { dpdk_sys::rte_eal_wait_lcore(self.lcore) };
        match outcome {
            Some(Ok(value)) => Ok(value),
            Some(Err(payload)) => Err(LcoreError::Panicked { lcore: self.lcore, message: message(&*payload) }),
            None => Err(LcoreError::Panicked { lcore: self.lcore, message: "no result".to_owned() }),
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// The calling thread's lcore: 0 for the control thread, none for a thread that EAL didn't start.
pub fn current_lcore() -> Option<u32> {
    // SAFETY: a C function without arguments that reads a thread-local integer, valid in every thread.
    let lcore = unsafe { dpdk_sys::shim_lcore_id() };
    (lcore < dpdk_sys::RTE_MAX_LCORE).then_some(lcore)
}
