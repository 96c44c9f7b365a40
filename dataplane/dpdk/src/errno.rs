//! [`Errno`]: the number by which DPDK says why something failed, with its text.
//!
//! DPDK returns it negated, or leaves it in the calling thread's `rte_errno`; both ways end here as a positive number.

use std::ffi::{CStr, c_int};
use std::fmt;

/// A positive errno value, of the kernel or of DPDK.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// From a function's negative return value.
    pub(crate) fn returned(value: c_int) -> Self {
        Self(value.saturating_neg())
    }

    /// From the calling thread's `rte_errno`, for functions that return only -1 or null.
    pub(crate) fn last() -> Self {
        // SAFETY: a C function without arguments that reads a thread-local integer, valid in every thread.
        Self(unsafe { dpdk_sys::shim_errno() })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror takes any integer and returns a NUL-terminated string in a buffer of the calling thread,
        // which stays as it is until this thread's next call; it is copied out before that.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
