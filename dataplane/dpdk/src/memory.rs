//! Memory for tables that packets look into at random: huge pages where the kernel has them, and the prefetch.
//!
//! On the packet's path: a table much larger than the caches costs one cache miss per look, and on ordinary pages a TLB miss
//! more. A [`HugeArray`] is mapped at launch and asks for transparent huge pages (`/sys/kernel/mm/transparent_hugepage/enabled`
//! must say `madvise` or `always`); where there are none it works the same, slower. EAL's own huge pages stay for packets.
//!
//! Pages are allocated when they are first written, on the socket of the CPU that writes; until then they cost address
//! space only. To allocate a huge page takes about 0.1 ms, so what packets look into from the first one on is allocated
//! beforehand ([`HugeArray::populate`]). Units: bytes, unless a name says elements.
//!
//! Errors: none; like any collection, it ends the process if there is no address space. Source: mmap(2), madvise(2).

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use zerocopy::FromZeros;

/// Bytes of a huge page on x86-64, and with 4 KiB base pages on Arm.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// The size from which a whole huge page is worth its rest.
const HUGE_FROM_BYTES: usize = HUGE_PAGE_BYTES / 2;

/// Asks the CPU to fetch the cache line at which `item` begins.
#[inline(always)]
pub fn prefetch<T>(item: &T) {
    prefetch_at(item);
}

#[inline(always)]
fn prefetch_at<T>(item: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint; it has no effect on memory and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(item.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = item;
}

/// An array of fixed length that begins as zeros. Its elements are never dropped.
pub struct HugeArray<T> {
    start: NonNull<T>,
    elements: usize,
    bytes: usize,
}

// SAFETY: needed because of the raw pointer. The mapping belongs to this value alone and is unmapped once, in Drop, so it may
// move to another thread whenever its elements may.
unsafe impl<T: Send> Send for HugeArray<T> {}
// SAFETY: as for Send: `&HugeArray` gives out `&T` only.
unsafe impl<T: Sync> Sync for HugeArray<T> {}

impl<T: FromZeros> HugeArray<T> {
    /// This many elements, all zeros, of which no memory is used yet.
    pub fn new(elements: usize) -> Self {
        let Ok(layout) = Layout::array::<T>(elements) else {
            panic!("an array of {elements} elements is not addressable")
        };
        assert!(layout.align() <= 4096, "no type here is aligned to more than a page");
        if layout.size() == 0 {
            return Self { start: NonNull::dangling(), elements, bytes: 0 };
        }
        let huge = layout.size() >= HUGE_FROM_BYTES;
        let bytes = if huge { layout.size().next_multiple_of(HUGE_PAGE_BYTES) } else { layout.size() };
        let start = if huge { map_aligned(bytes) } else { map(bytes) };
        let Some(start) = NonNull::new(start.cast::<T>()) else { handle_alloc_error(layout) };
        if huge {
            // SAFETY: advice about a mapping that is this function's own; it changes no contents. A refusal means ordinary pages.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Self { start, elements, bytes }
    }
}

impl<T> HugeArray<T> {
    /// Asks the CPU to fetch the element at `index`; one that is not there is asked for in vain.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        prefetch_at(self.start.as_ptr().wrapping_add(index));
    }

    /// Has all pages allocated, on the socket of the calling CPU. Kernels before 5.14 don't do that; there they come one by one.
    pub fn populate(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the mapping is this value's own and whole; populating it changes no contents. A refusal leaves it as it was.
            unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_POPULATE_WRITE) };
        }
    }
}

/// New private memory of whole pages, zeros; null if there is none.
fn map(bytes: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: needed for memory that is aligned, zero and not yet there, which the allocator has not. The address is left to the
    // kernel, so no memory that Rust knows of is touched.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED { std::ptr::null_mut() } else { start.cast() }
}

/// The same, at a multiple of the huge page.
fn map_aligned(bytes: usize) -> *mut u8 {
    let Some(with_margin) = bytes.checked_add(HUGE_PAGE_BYTES) else { return std::ptr::null_mut() };
    let start = map(with_margin);
    if start.is_null() {
        return start;
    }
    let before = start.addr().next_multiple_of(HUGE_PAGE_BYTES) - start.addr();
    let aligned = start.wrapping_add(before);
    // SAFETY: both ranges are whole pages inside the mapping made above, outside the part that is given out, and unknown to
    // anybody else; an empty range is refused and changes nothing.
    unsafe {
        libc::munmap(start.cast(), before);
        libc::munmap(aligned.wrapping_add(bytes).cast(), HUGE_PAGE_BYTES - before);
    }
    aligned
}

impl<T> Drop for HugeArray<T> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the mapping was made in `new`, is whole, and no reference to it outlives this value.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

impl<T> Deref for HugeArray<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned (a page, or dangling for no bytes), the mapping holds `elements` of T and lives as long as
        // self; zeros are a valid T (FromZeros), and what was written since came through a `&mut T`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.elements) }
    }
}

impl<T> DerefMut for HugeArray<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for Deref; `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.elements) }
    }
}

impl<T> fmt::Debug for HugeArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugeArray").field("elements", &self.elements).field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(FromZeros)]
    #[repr(align(64))]
    struct Line([u64; 8]);

    /// Breaks if an element lies across two cache lines, the end is cut with the margin, or a mapping is given out twice.
    #[test]
    fn arrays_are_zero_aligned_and_writable_to_the_end() {
        for elements in [1, 63, 20_000, 70_000] {
            let mut first = HugeArray::<Line>::new(elements);
            let second = HugeArray::<Line>::new(elements);
            assert_eq!(std::ptr::from_ref(&first[0]).addr() % 64, 0);
            assert_eq!((first.len(), first[elements - 1].0), (elements, [0; 8]));
            for line in first.iter_mut() {
                line.0 = [u64::MAX; 8];
            }
            assert!(second.iter().all(|line| line.0 == [0; 8]));
        }
    }

    #[test]
    fn an_array_of_nothing_needs_no_memory() {
        let mut array = HugeArray::<Line>::new(0);
        array.populate();
        assert!(array.is_empty());
    }

    /// Breaks if a packet is what makes the kernel clear a huge page.
    #[test]
    fn a_populated_array_has_all_of_its_pages() {
        let mut array = HugeArray::<Line>::new(70_000);
        let resident = |array: &HugeArray<Line>| {
            let mut pages = vec![0_u8; array.bytes / 4096];
            // SAFETY: the range is the array's mapping, and there is a byte for each of its pages.
            let status = unsafe { libc::mincore(array.start.as_ptr().cast(), array.bytes, pages.as_mut_ptr()) };
            assert_eq!(status, 0);
            pages.iter().filter(|&&page| page & 1 != 0).count()
        };
        assert_eq!(resident(&array), 0);
        array.populate();
        assert_eq!(resident(&array), array.bytes / 4096);
        assert!(array.iter().all(|line| line.0 == [0; 8]));
    }

    #[test]
    fn a_large_array_begins_at_a_huge_page() {
        let array = HugeArray::<Line>::new(HUGE_PAGE_BYTES / size_of::<Line>() + 1);
        assert_eq!(array.as_ptr().addr() % HUGE_PAGE_BYTES, 0);
    }
}
