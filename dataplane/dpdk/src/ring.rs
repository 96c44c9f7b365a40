//! A ring of mbufs between lcores: any number of producers, one consumer, first in first out.
//!
//! On the packet's path: how a packet goes from the I/O lcore to an NF lcore, from there to the next, and back. One
//! call moves a burst. A full ring takes fewer than it was given; the rest stays in the producer's burst. Whatever is
//! still inside when both sides are gone is freed. Source: DPDK 22.11 `rte_ring.h`.

use std::cell::Cell;
use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::{rte_mbuf, rte_ring};

use crate::log::{self, Detail};
use crate::{BURST, Burst, Eal, Errno, Meta, SocketId};

/// A ring that can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// DPDK's names are short and have no NUL.
    #[error("ring name {name:?} must have 1 to {max} bytes and no NUL")]
    Name {
        /// The name.
        name: String,
        /// How many bytes it may have.
        max: usize,
    },
    /// Another ring has the name.
    #[error("there is already a ring named {name}; give each a name of its own")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No packets, or more than DPDK can count.
    #[error("ring {name}: a capacity of {capacity} packets is outside 1..={max}")]
    Capacity {
        /// The ring.
        name: String,
        /// What was asked for.
        capacity: u32,
        /// The most.
        max: u32,
    },
    /// Most often no memory on that socket.
    #[error("ring {name} for {capacity} packets can't be made on socket {socket}: {errno}{detail}")]
    Create {
        /// The ring.
        name: String,
        /// What was asked for.
        capacity: u32,
        /// Where.
        socket: SocketId,
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        detail: Detail,
    },
}

/// DPDK puts `RG_` in front of a ring's name.
const NAME_MAX: usize = dpdk_sys::RTE_MEMZONE_NAMESIZE as usize - 4;

/// The largest capacity: DPDK rounds it up to a power of two that must be below its size mask.
const CAPACITY_MAX: u32 = (dpdk_sys::RTE_RING_SZ_MASK >> 1) - 1;

/// A ring and what is in it, shared by its two sides.
pub(crate) struct RingStore {
    raw: NonNull<rte_ring>,
}

// SAFETY: rte_ring is made for use by several threads; which operations may run at the same time is kept by
// `RingProducer` (any number) and `RingConsumer` (one).
unsafe impl Send for RingStore {}

// SAFETY: as for Send.
unsafe impl Sync for RingStore {}

impl RingStore {
    /// Many producers, one consumer, exactly this capacity.
    pub(crate) fn new(name: &str, capacity: u32, socket: SocketId) -> Result<Arc<Self>, RingError> {
        let c_name = (1..=NAME_MAX).contains(&name.len()).then(|| CString::new(name).ok()).flatten();
        let c_name = c_name.ok_or_else(|| RingError::Name { name: name.to_owned(), max: NAME_MAX })?;
        if !(1..=CAPACITY_MAX).contains(&capacity) {
            return Err(RingError::Capacity { name: name.to_owned(), capacity, max: CAPACITY_MAX });
        }
        let flags = dpdk_sys::RING_F_SC_DEQ | dpdk_sys::RING_F_EXACT_SZ;
        let (raw, detail) = log::during(|| {
            // SAFETY: EAL is initialised (callers hold an `Eal`), and the name is a live C string that DPDK copies.
            let raw = unsafe { dpdk_sys::rte_ring_create(c_name.as_ptr(), capacity, socket.0, flags) };
            NonNull::new(raw).ok_or_else(Errno::last)
        });
        let raw = raw.map_err(|errno| match errno.0 {
            libc::EEXIST => RingError::NameTaken { name: name.to_owned() },
            _ => RingError::Create { name: name.to_owned(), capacity, socket, errno, detail },
        })?;
        Ok(Arc::new(Self { raw }))
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_ring {
        self.raw.as_ptr()
    }

    fn len(&self) -> usize {
        // SAFETY: the ring is live; the function reads its two indices.
        unsafe { dpdk_sys::shim_ring_count(self.as_ptr()) as usize }
    }

    fn capacity(&self) -> usize {
        // SAFETY: the ring is live, and its capacity is never written after it was made.
        unsafe { self.raw.as_ref().capacity as usize }
    }
}

impl Drop for RingStore {
    fn drop(&mut self) {
        let mut left = [std::ptr::null_mut::<rte_mbuf>(); BURST];
        loop {
            // SAFETY: both sides are gone, so this is the only consumer; `left` has room for BURST pointers. Only mbufs
            // were ever put into the ring.
            let count =
                unsafe { dpdk_sys::shim_ring_dequeue_burst(self.as_ptr(), left.as_mut_ptr().cast(), BURST as u32) };
            if count == 0 {
                break;
            }
            // SAFETY: the first `count` elements are mbufs that the ring owned and has just given up.
            unsafe { dpdk_sys::rte_pktmbuf_free_bulk(left.as_mut_ptr(), count) };
        }
        // SAFETY: nobody holds the ring any more, and it is empty.
        unsafe { dpdk_sys::rte_ring_free(self.as_ptr()) };
    }
}

/// Makes a ring for `capacity` packets.
pub fn ring<M: Meta>(
    _eal: &Eal,
    name: &str,
    capacity: u32,
    socket: SocketId,
) -> Result<(RingProducer<M>, RingConsumer<M>), RingError> {
    let store = RingStore::new(name, capacity, socket)?;
    Ok((RingProducer::new(Arc::clone(&store)), RingConsumer::new(store, true)))
}

/// The side that puts mbufs in; each lcore that does so has a clone.
pub struct RingProducer<M = ()> {
    store: Arc<RingStore>,
    meta: PhantomData<fn(M)>,
}

impl<M> Clone for RingProducer<M> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.store))
    }
}

impl<M> RingProducer<M> {
    pub(crate) fn new(store: Arc<RingStore>) -> Self {
        Self { store, meta: PhantomData }
    }

    /// Puts mbufs from the front of the burst into the ring, as many as fit; returns how many. The others stay in the
    /// burst.
    #[inline]
    pub fn enqueue_burst(&self, burst: &mut Burst<M>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let put = |mbufs: *mut *mut rte_mbuf, count: u16| {
            // SAFETY: the ring is live and lets several producers in at once; `mbufs` holds `count` pointers, which are
            // copied.
            unsafe {
                dpdk_sys::shim_ring_enqueue_burst(self.store.as_ptr(), mbufs.cast_const().cast(), u32::from(count))
                    as usize
            }
        };
        // SAFETY: enqueueing copies the first so many pointers, which then belong to the ring, and doesn't write to the
        // array.
        unsafe { burst.give(put) }
    }

    /// How many are inside; while others put and take, as it was a moment ago.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// True if nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many fit.
    pub fn capacity(&self) -> usize {
        self.store.capacity()
    }
}

/// The side that takes mbufs out; there is one.
pub struct RingConsumer<M = ()> {
    store: Arc<RingStore>,
    /// False if mbufs with other metadata may be inside: a port transmits into the ring.
    meta_is_valid: bool,
    meta: PhantomData<fn() -> M>,
    /// One thread at a time: Send, not Sync.
    one_thread: PhantomData<Cell<()>>,
}

impl<M: Meta> RingConsumer<M> {
    pub(crate) fn new(store: Arc<RingStore>, meta_is_valid: bool) -> Self {
        Self { store, meta_is_valid, meta: PhantomData, one_thread: PhantomData }
    }

    /// Takes mbufs out, oldest first, as many as the burst has room for; returns how many.
    #[inline]
    pub fn dequeue_burst(&mut self, burst: &mut Burst<M>) -> usize {
        let get = |mbufs: *mut *mut rte_mbuf, count: u16| {
            // SAFETY: the ring is live, this is its only consumer and borrowed exclusively; `mbufs` has room for
            // `count` pointers.
            unsafe { dpdk_sys::shim_ring_dequeue_burst(self.store.as_ptr(), mbufs.cast(), u32::from(count)) as usize }
        };
        // SAFETY: dequeueing fills the first so many elements with mbufs that the ring owned. Producers put in only
        // mbufs of this process's mempools, with an `M` in each if `meta_is_valid`.
        unsafe { burst.take(BURST, self.meta_is_valid, get) }
    }
}

impl<M> RingConsumer<M> {
    /// How many are inside; while others put, as it was a moment ago.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// True if nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many fit.
    pub fn capacity(&self) -> usize {
        self.store.capacity()
    }
}
