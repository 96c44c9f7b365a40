//! Memory allocations of the whole process, counted for the benches that promise to make few or none.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations of this process since it started, all threads.
pub fn so_far() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

/// Allocations while some work was done.
pub fn during(work: &mut dyn FnMut()) -> u64 {
    let before = so_far();
    work();
    so_far() - before
}
