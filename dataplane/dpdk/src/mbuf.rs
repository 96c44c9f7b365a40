//! [`Mbuf`]: one packet buffer, owned.
//!
//! On the packet's path: what a packet *is* from [`crate::RxQueue::rx`] to [`crate::TxQueue::tx`]. An mbuf has 128
//! bytes of DPDK's own fields, [`PRIVATE_BYTES`] of the owner's metadata `M`, then the buffer:
//!
//! ```text
//! | rte_mbuf 128 | metadata 128 | headroom | data (len) | tailroom |
//! ```
//!
//! Invariants: one owner; the metadata holds a valid `M` at all times; `headroom + len + tailroom` is the buffer's size
//! while the packet is a single segment. A frame larger than the buffer arrives as a chain of segments, of which only
//! the first is seen here: check [`Mbuf::is_single_segment`]. Source: DPDK 22.11 `rte_mbuf_core.h`.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::{fmt, mem, slice};

use dpdk_sys::rte_mbuf;

use crate::Mempool;

/// Room for metadata in every mbuf of every mempool: two cache lines, of which an mbuf touches only what `M` takes.
pub const PRIVATE_BYTES: usize = 128;

/// The owner's metadata in an mbuf: plain data that starts out as its default.
///
/// Anything of the right kind is a `Meta`. A program with one that doesn't fit into [`PRIVATE_BYTES`] does not build.
pub trait Meta: Copy + Default + Send + 'static {}

impl<T: Copy + Default + Send + 'static> Meta for T {}

/// Fails the build where an `M` would not fit.
struct Fits<M>(PhantomData<M>);

impl<M> Fits<M> {
    const CHECK: () = assert!(fits::<M>(), "the metadata is larger than an mbuf's private area, or aligned to more");
}

const fn fits<M>() -> bool {
    mem::size_of::<M>() <= PRIVATE_BYTES && mem::align_of::<M>() <= CACHE_LINE
}

/// Mbufs are aligned to it, and `rte_mbuf` is two of them long, so the private area is aligned to it too.
const CACHE_LINE: usize = 64;

/// Set when the device delivered an RSS hash (`RTE_MBUF_F_RX_RSS_HASH`, a macro that bindgen can't evaluate).
const RX_RSS_HASH: u64 = 1 << 1;

/// An owned packet buffer with metadata `M`. Dropping it gives it back to its mempool.
///
/// It can't be duplicated by accident, only copied on purpose ([`Mbuf::duplicate`]):
///
/// ```compile_fail,E0599
/// fn twice(mbuf: dpdk::Mbuf<u32>) -> (dpdk::Mbuf<u32>, dpdk::Mbuf<u32>) {
///     (mbuf.clone(), mbuf)
/// }
/// ```
///
/// ```compile_fail,E0382
/// fn used_after_it_was_given_away(mbuf: dpdk::Mbuf<u32>) -> usize {
///     drop(mbuf);
///     mbuf.len()
/// }
/// ```
#[repr(transparent)]
pub struct Mbuf<M = ()> {
    raw: NonNull<rte_mbuf>,
    meta: PhantomData<M>,
}

// SAFETY: an mbuf has one owner and no tie to a thread: rte_mbuf fields are plain memory, and freeing goes through the
// mempool, whose operations serve every thread. Its metadata moves with it, hence `M: Send`.
unsafe impl<M: Send> Send for Mbuf<M> {}

// SAFETY: through a shared reference the fields, the data and the metadata are only read.
unsafe impl<M: Sync> Sync for Mbuf<M> {}

impl<M> Drop for Mbuf<M> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `raw` is a live mbuf that this value owns alone, and nothing uses it afterwards.
        unsafe { dpdk_sys::shim_mbuf_free(self.raw.as_ptr()) };
    }
}

impl<M: Meta> Mbuf<M> {
    /// Takes ownership of an mbuf from DPDK and initialises its metadata.
    ///
    /// # Safety
    /// `raw` must be a live mbuf of a [`Mempool`] of this process, with no other owner.
    #[inline]
    pub(crate) unsafe fn adopt(raw: NonNull<rte_mbuf>) -> Self {
        // SAFETY: the caller's promise; the whole private area belongs to the mbuf's owner.
        unsafe { Self::reset_meta(raw, M::default()) };
        Self { raw, meta: PhantomData }
    }

    /// Writes an mbuf's metadata.
    ///
    /// # Safety
    /// `raw` must be a live mbuf of a [`Mempool`] of this process that the caller owns.
    #[inline]
    pub(crate) unsafe fn reset_meta(raw: NonNull<rte_mbuf>, value: M) {
        // SAFETY: every mempool is made with PRIVATE_BYTES behind the rte_mbuf (see `Mempool::new`), and the caller
        // owns them.
        unsafe { Self::meta_of(raw).write(value) };
    }

    /// Where an mbuf's metadata is: right behind the `rte_mbuf`.
    ///
    /// # Safety
    /// `raw` must be a live mbuf of a [`Mempool`] of this process.
    #[inline]
    unsafe fn meta_of(raw: NonNull<rte_mbuf>) -> NonNull<M> {
        const { Fits::<M>::CHECK };
        // SAFETY: the private area lies behind the rte_mbuf, in the same allocation; `Fits` checked size and alignment.
        unsafe { raw.add(1).cast() }
    }

    /// The owner's metadata.
    #[inline]
    pub fn meta(&self) -> &M {
        // SAFETY: every way to make an `Mbuf<M>` wrote an `M` there; the mbuf is owned, so nobody writes while this is
        // borrowed.
        unsafe { Self::meta_of(self.raw).as_ref() }
    }

    /// The owner's metadata, to change.
    #[inline]
    pub fn meta_mut(&mut self) -> &mut M {
        // SAFETY: as in `meta`, and the mbuf is borrowed exclusively.
        unsafe { Self::meta_of(self.raw).as_mut() }
    }

    /// A copy of the first `max_len` bytes in a fresh mbuf, metadata included. None if the mempool or the packet is
    /// empty. All segments are read; the copy is a chain only if the mempool's buffers are too small for it.
    pub fn duplicate(&self, pool: &Mempool<M>, max_len: usize) -> Option<Self> {
        let length = u32::try_from(max_len).unwrap_or(u32::MAX).min(self.fields().pkt_len);
        // SAFETY: `raw` is a live, owned mbuf that is only read, and the pool is live (pools are never freed).
        let copy = unsafe { dpdk_sys::rte_pktmbuf_copy(self.raw.as_ptr(), pool.as_ptr(), 0, length) };
        let copy = NonNull::new(copy)?;
        // SAFETY: the copy was just allocated from `pool`, a mempool of this process, and is owned here alone.
        unsafe { Self::reset_meta(copy, *self.meta()) };
        Some(Self { raw: copy, meta: PhantomData })
    }
}

impl Mbuf<()> {
    /// The same packet with metadata. Until then its metadata's cache line is not touched.
    #[inline]
    pub fn with_meta<M: Meta>(self, meta: M) -> Mbuf<M> {
        let raw = self.raw;
        mem::forget(self);
        // SAFETY: the mbuf was owned alone and has just been given up; like all of this process it comes from a `Mempool`.
        unsafe { Mbuf::<M>::reset_meta(raw, meta) };
        Mbuf { raw, meta: PhantomData }
    }
}

impl<M> Mbuf<M> {
    /// The same packet without its metadata.
    #[inline]
    pub fn without_meta(self) -> Mbuf<()> {
        let raw = self.raw;
        mem::forget(self);
        Mbuf { raw, meta: PhantomData }
    }

    #[inline]
    fn fields(&self) -> &rte_mbuf {
        // SAFETY: `raw` is a live mbuf that this value owns; DPDK doesn't write to it while it is owned here.
        unsafe { self.raw.as_ref() }
    }

    #[inline]
    fn fields_mut(&mut self) -> &mut rte_mbuf {
        // SAFETY: as in `fields`, and the mbuf is borrowed exclusively.
        unsafe { self.raw.as_mut() }
    }

    /// `length` bytes at `offset` into the buffer.
    ///
    /// # Safety
    /// `offset + length` must not exceed the buffer's length.
    #[inline]
    unsafe fn buffer_mut(&mut self, offset: u16, length: u16) -> &mut [u8] {
        // SAFETY: the caller keeps within the buffer, which the mbuf owns and the exclusive borrow covers. DPDK's
        // memory is mapped zeroed or filled by writes, so every byte is initialised.
        unsafe {
            let start = self.fields().buf_addr.cast::<u8>().add(usize::from(offset));
            slice::from_raw_parts_mut(start, usize::from(length))
        }
    }

    /// The first segment's bytes: the whole frame, unless it is a chain.
    #[inline]
    pub fn data(&self) -> &[u8] {
        let fields = self.fields();
        // SAFETY: rte_mbuf keeps data_off + data_len within the buffer, and so do all methods here; the buffer is owned
        // and, while borrowed, only read. Every byte is initialised, see `buffer_mut`.
        unsafe {
            let start = fields.buf_addr.cast::<u8>().add(usize::from(fields.data_off));
            slice::from_raw_parts(start, usize::from(fields.data_len))
        }
    }

    /// The first segment's bytes, to change.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (offset, length) = (self.fields().data_off, self.fields().data_len);
        // SAFETY: rte_mbuf keeps data_off + data_len within the buffer, and so do all methods here.
        unsafe { self.buffer_mut(offset, length) }
    }

    /// The packet's length over all segments, bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.fields().pkt_len as usize
    }

    /// True if the packet has no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// False if the frame was larger than a buffer; [`Mbuf::data`] then shows only its beginning.
    #[inline]
    pub fn is_single_segment(&self) -> bool {
        self.fields().nb_segs == 1
    }

    /// Free bytes in front of the data.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.fields().data_off)
    }

    /// Free bytes behind the first segment's data.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let fields = self.fields();
        usize::from(fields.buf_len).saturating_sub(usize::from(fields.data_off) + usize::from(fields.data_len))
    }

    /// Makes room for `count` bytes in front and returns it; what it holds is left over from earlier. None if the
    /// headroom is too small.
    #[inline]
    pub fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let count = u16::try_from(count).ok()?;
        let offset = self.begin_earlier(count)?;
        // SAFETY: the data now starts at `offset` and is at least `count` long; its end did not move.
        Some(unsafe { self.buffer_mut(offset, count) })
    }

    /// [`Self::prepend`] of a count that is known beforehand.
    #[inline]
    pub fn prepend_array<const COUNT: usize>(&mut self) -> Option<&mut [u8; COUNT]> {
        const { assert!(COUNT <= u16::MAX as usize) };
        let offset = self.begin_earlier(COUNT as u16)?;
        // SAFETY: the data now starts at `offset` and is at least `COUNT` long, since its end did not move; it is this mbuf's
        // alone and initialised, see `buffer_mut`.
        Some(unsafe { &mut *self.fields().buf_addr.cast::<u8>().add(usize::from(offset)).cast() })
    }

    /// [`Self::prepend_array`] of `COUNT` bytes, beside the first `BEHIND` of those that were there. None, too, if the first segment
    /// has fewer.
    #[inline]
    pub fn prepend_before<const COUNT: usize, const BEHIND: usize>(
        &mut self,
    ) -> Option<(&mut [u8; COUNT], &mut [u8; BEHIND])> {
        const { assert!(COUNT + BEHIND <= u16::MAX as usize) };
        if usize::from(self.fields().data_len) < BEHIND {
            return None;
        }
        let offset = self.begin_earlier(COUNT as u16)?;
        // SAFETY: the data now starts at `offset`, and its end did not move: `COUNT` bytes are new, and `BEHIND` were there before.
        // They are this mbuf's alone, initialised (see `buffer_mut`), and the two do not overlap. No buffer begins at null.
        unsafe {
            let start = self.fields().buf_addr.cast::<u8>().add(usize::from(offset));
            std::hint::assert_unchecked(!start.is_null());
            Some((&mut *start.cast(), &mut *start.add(COUNT).cast()))
        }
    }

    /// Lets the data begin `count` bytes earlier; where in the buffer that is. None if the headroom is too small.
    #[inline]
    fn begin_earlier(&mut self, count: u16) -> Option<u16> {
        let fields = self.fields_mut();
        let offset = fields.data_off.checked_sub(count)?;
        fields.data_off = offset;
        fields.data_len += count; // what was headroom, and with it no more than the buffer's size
        fields.pkt_len += u32::from(count);
        Some(offset)
    }

    /// Takes `count` bytes off the front. False, and nothing changed, if the first segment has fewer.
    #[inline]
    #[must_use]
    pub fn adj(&mut self, count: usize) -> bool {
        let fields = self.fields_mut();
        let Some((count, length)) = u16::try_from(count).ok().and_then(|n| Some((n, fields.data_len.checked_sub(n)?)))
        else {
            return false;
        };
        fields.data_off += count;
        fields.data_len = length;
        fields.pkt_len -= u32::from(count);
        true
    }

    /// Makes the data `count` bytes longer at its end and returns the new bytes; what they hold is left over from
    /// earlier. None if the tailroom is too small or the packet is a chain.
    #[inline]
    pub fn append(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.tailroom() || !self.is_single_segment() {
            return None;
        }
        let count = u16::try_from(count).ok()?;
        let fields = self.fields_mut();
        let end = fields.data_off + fields.data_len;
        fields.data_len += count;
        fields.pkt_len += u32::from(count);
        // SAFETY: `count` is at most the tailroom, which is what the buffer has behind `end`.
        Some(unsafe { self.buffer_mut(end, count) })
    }

    /// Takes `count` bytes off the end. False, and nothing changed, if there are fewer or the packet is a chain.
    #[inline]
    #[must_use]
    pub fn trim(&mut self, count: usize) -> bool {
        let single = self.is_single_segment();
        let fields = self.fields_mut();
        let Some((count, length)) = u16::try_from(count).ok().and_then(|n| Some((n, fields.data_len.checked_sub(n)?)))
        else {
            return false;
        };
        if single {
            fields.data_len = length;
            fields.pkt_len -= u32::from(count);
        }
        single
    }

    /// The hash by which the device spread the packet over its queues, if it told.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        let fields = self.fields();
        // SAFETY: the `rss` member of the union lies within the rte_mbuf, and any bits are a valid u32.
        let hash = unsafe { fields.__bindgen_anon_2.hash.rss };
        (fields.ol_flags & RX_RSS_HASH != 0).then_some(hash)
    }

    /// Asks the CPU to fetch the first cache line of the data.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let start = self.data().as_ptr();
            // SAFETY: a prefetch is a hint; it has no effect on memory and faults on no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.cast()) };
        }
    }
}

impl<M> fmt::Debug for Mbuf<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf").field("len", &self.len()).field("segments", &self.fields().nb_segs).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_fits_up_to_two_aligned_cache_lines() {
        #[repr(align(128))]
        struct Overaligned;
        assert!(fits::<()>() && fits::<[u64; 16]>());
        assert!(!fits::<[u8; 129]>() && !fits::<Overaligned>());
    }
}
