//! What EAL and the drivers log: kept for the errors of this crate, and shown on standard error as far as asked for.
//!
//! Off the packet's path: drivers log when they are opened, configured and closed. DPDK's return values seldom tell a
//! cause, its log lines do; so while a call runs under [`during`], its warnings and errors are collected instead of
//! shown, and become part of the error that the caller sees.

use std::io::Write;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Errno;

/// How much of EAL's and the drivers' logs goes to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Nothing.
    Silent,
    /// Errors, except those that become part of an error of this crate.
    #[default]
    Error,
    /// And warnings.
    Warning,
    /// And notices.
    Notice,
    /// And EAL's account of what it found.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    /// The least important RTE_LOG_* level that is shown.
    fn threshold(self) -> u32 {
        match self {
            Self::Silent => 0,
            Self::Error => dpdk_sys::RTE_LOG_ERR,
            Self::Warning => dpdk_sys::RTE_LOG_WARNING,
            Self::Notice => dpdk_sys::RTE_LOG_NOTICE,
            Self::Info => dpdk_sys::RTE_LOG_INFO,
            Self::Debug => dpdk_sys::RTE_LOG_DEBUG,
        }
    }
}

/// More lines than this of one call are not kept: the first ones tell the cause.
const KEPT_LINES: usize = 8;

static THRESHOLD: AtomicU32 = AtomicU32::new(0);
/// The lines of the call that runs under [`during`]; none when no call does.
static COLLECTED: Mutex<Option<Vec<String>>> = Mutex::new(None);
/// Held by the call that runs under [`during`], so that two calls' lines don't mix.
static COLLECTING: Mutex<()> = Mutex::new(());

fn collected() -> MutexGuard<'static, Option<Vec<String>>> {
    COLLECTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over DPDK's log from here on. Called before EAL starts, which would otherwise write to syslog.
pub(crate) fn take_over(level: LogLevel) -> Result<(), Errno> {
    THRESHOLD.store(level.threshold(), Ordering::Relaxed);
    // SAFETY: `receive` matches the declared type, lives as long as the process, keeps no pointer and never unwinds.
    if unsafe { dpdk_sys::shim_log_to(Some(receive)) } == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// Runs a call of DPDK and returns, with its result, what it logged as warning or worse.
pub(crate) fn during<R>(call: impl FnOnce() -> R) -> (R, Detail) {
    let _one_at_a_time = COLLECTING.lock().unwrap_or_else(PoisonError::into_inner);
    *collected() = Some(Vec::new());
    let result = call();
    let lines = collected().take().unwrap_or_default();
    (result, Detail(lines))
}

/// What DPDK logged while a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detail(Vec<String>);

impl std::fmt::Display for Detail {
    /// `; DPDK says: a; b`, or nothing, so that it can close any sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; DPDK says: {}", self.0.join("; ")) }
    }
}

extern "C" fn receive(level: u32, bytes: *const std::ffi::c_char, length: usize) {
    if bytes.is_null() {
        return;
    }
    // SAFETY: the C library's stream passes its own buffer of `length` initialised bytes and leaves it alone until this
    // function returns; the slice is not kept.
    let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), length) };
    for line in String::from_utf8_lossy(bytes).lines() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let shown = level <= THRESHOLD.load(Ordering::Relaxed);
        match collected().as_mut() {
            Some(lines) if level <= dpdk_sys::RTE_LOG_WARNING => {
                let kept = lines.len() < KEPT_LINES;
                lines.extend(kept.then(|| line.to_owned()));
            }
            _ if shown => {
                // Standard error may be closed; then there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_warnings_become_its_detail_and_later_lines_do_not() {
        let say = |level, text: &'static str| receive(level, text.as_ptr().cast(), text.len());
        let ((), detail) = during(|| {
            say(dpdk_sys::RTE_LOG_ERR, "EAL: no such device\n");
            say(dpdk_sys::RTE_LOG_INFO, "EAL: chatter\n");
        });
        say(dpdk_sys::RTE_LOG_ERR, "later\n");
        assert_eq!(detail.to_string(), "; DPDK says: EAL: no such device");
        assert_eq!(during(|| ()).1.to_string(), "");
    }
}
