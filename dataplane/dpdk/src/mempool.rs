//! [`Mempool`]: a fixed number of mbufs of one size, on one socket.
//!
//! On the packet's path: devices take the mbufs of received packets from it, dropped and transmitted ones return to it.
//! Each lcore has a cache of its own in front of the shared store, so that it seldom touches what others touch; other
//! threads go to the store directly. A mempool lives as long as the process (see the crate's page).
//!
//! Units: counts in mbufs, sizes in bytes.

use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::rte_mempool;

use crate::log::{self, Detail};
use crate::{Burst, Eal, Errno, Mbuf, Meta, PRIVATE_BYTES, SocketId};

/// What a mempool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Its name, unique in the process, at most 25 bytes.
    pub name: String,
    /// How many mbufs; 2^n - 1 wastes least.
    pub count: u32,
    /// How many mbufs each lcore may keep for itself, 0..=512 and at most two thirds of `count`.
    pub cache: u32,
    /// Bytes for data in each mbuf, the headroom of 128 bytes included.
    pub data_room: u16,
    /// Where its memory is.
    pub socket: SocketId,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self { name: "mbufs".to_owned(), count: 8_191, cache: 256, data_room: 2_048 + 128, socket: SocketId::ANY }
    }
}

/// A mempool that can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MempoolError {
    /// DPDK's names are short and have no NUL.
    #[error("mempool name {name:?} must have 1 to {max} bytes and no NUL")]
    Name {
        /// The name.
        name: String,
        /// How many bytes it may have.
        max: usize,
    },
    /// Another mempool has the name.
    #[error("there is already a mempool named {name}; give each a name of its own")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The cache is too large for DPDK or for the mempool.
    #[error("mempool {name}: a cache of {cache} per lcore is too large for {count} mbufs; at most {max} fit")]
    Cache {
        /// The mempool.
        name: String,
        /// What was asked for.
        cache: u32,
        /// The mempool's size.
        count: u32,
        /// The largest cache for it.
        max: u32,
    },
    /// EAL has too little memory, there or anywhere.
    #[error(
        "mempool {name}: no memory for {count} mbufs ({mib} MiB) on socket {socket}; raise EAL's memory (memory_mib), \
         or reserve hugepages on that socket \
         (/sys/devices/system/node/node*/hugepages/hugepages-*/nr_hugepages){detail}"
    )]
    NoMemory {
        /// The mempool.
        name: String,
        /// Its size.
        count: u32,
        /// What it needs, MiB.
        mib: u64,
        /// Where.
        socket: SocketId,
        /// What DPDK logged.
        detail: Detail,
    },
    /// Anything else.
    #[error("mempool {name} can't be made: {errno}{detail}")]
    Create {
        /// The mempool.
        name: String,
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        detail: Detail,
    },
}

/// A mempool of mbufs with metadata `M`; a clone is another handle to the same.
#[derive(Debug)]
pub struct Mempool<M = ()> {
    raw: NonNull<rte_mempool>,
    name: Arc<str>,
    count: u32,
    data_room: u16,
    socket: SocketId,
    meta: PhantomData<fn() -> M>,
}

// SAFETY: rte_mempool serves any number of threads: its store is a multi-producer multi-consumer ring, and a cache
// belongs to one lcore. The handle's own fields are never written after it was made.
unsafe impl<M> Send for Mempool<M> {}

// SAFETY: as for Send; all methods may run at the same time in several threads.
unsafe impl<M> Sync for Mempool<M> {}

impl<M> Clone for Mempool<M> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), ..*self }
    }
}

/// DPDK puts `MP_` in front of a mempool's name and numbers behind it, in the names of its memory zones.
const NAME_MAX: usize = dpdk_sys::RTE_MEMZONE_NAMESIZE as usize - 7;

impl<M: Meta> Mempool<M> {
    /// Makes a mempool; all its memory is taken now.
    pub fn new(_eal: &Eal, config: &MempoolConfig) -> Result<Self, MempoolError> {
        let MempoolConfig { ref name, count, cache, data_room, socket } = *config;
        let c_name = (1..=NAME_MAX).contains(&name.len()).then(|| CString::new(name.as_str()).ok()).flatten();
        let c_name = c_name.ok_or_else(|| MempoolError::Name { name: name.clone(), max: NAME_MAX })?;
        let max = (u64::from(count) * 2 / 3).min(u64::from(dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE)) as u32;
        if cache > max {
            return Err(MempoolError::Cache { name: name.clone(), cache, count, max });
        }
        let (raw, detail) = log::during(|| {
            // SAFETY: EAL is initialised (there is an `Eal`), and the name is a live C string that DPDK copies. A
            // private size of PRIVATE_BYTES is what `Mbuf` counts on.
            let raw = unsafe {
                dpdk_sys::rte_pktmbuf_pool_create(
                    c_name.as_ptr(),
                    count,
                    cache,
                    PRIVATE_BYTES as u16,
                    data_room,
                    socket.0,
                )
            };
            NonNull::new(raw).ok_or_else(Errno::last)
        });
        let raw = raw.map_err(|errno| match errno.0 {
            libc::EEXIST => MempoolError::NameTaken { name: name.clone() },
            libc::ENOMEM => {
                let bytes = u64::from(count) * (u64::from(data_room) + PRIVATE_BYTES as u64 + 192);
                MempoolError::NoMemory { name: name.clone(), count, mib: bytes.div_ceil(1 << 20), socket, detail }
            }
            _ => MempoolError::Create { name: name.clone(), errno, detail },
        })?;
        // SAFETY: the mempool was just made and lives as long as the process; socket_id is written only while it is
        // made.
        let socket = SocketId(unsafe { raw.as_ref().socket_id });
        Ok(Self { raw, name: name.as_str().into(), count, data_room, socket, meta: PhantomData })
    }

    /// An empty mbuf with the usual headroom of 128 bytes; none if the mempool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf<M>> {
        // SAFETY: the mempool is live (pools are never freed).
        let raw = NonNull::new(unsafe { dpdk_sys::shim_mbuf_alloc(self.as_ptr()) })?;
        // SAFETY: the mbuf was just allocated from this mempool, so it is live and owned here alone.
        Some(unsafe { Mbuf::adopt(raw) })
    }

    /// An mbuf that holds a copy of `frame`; none if the mempool is empty or its buffers are too small.
    pub fn alloc_from(&self, frame: &[u8]) -> Option<Mbuf<M>> {
        let mut mbuf = self.alloc()?;
        mbuf.append(frame.len())?.copy_from_slice(frame);
        Some(mbuf)
    }

    /// Adds `count` empty mbufs to the burst, all or none; returns how many. None are added if the burst has no room
    /// for them or the mempool has fewer.
    #[inline]
    pub fn alloc_burst(&self, burst: &mut Burst<M>, count: usize) -> usize {
        if count == 0 || count > burst.room() {
            return 0;
        }
        let fill = |mbufs, count: u16| {
            // SAFETY: the mempool is live, and `mbufs` has room for `count` pointers.
            let status = unsafe { dpdk_sys::shim_mbuf_alloc_bulk(self.as_ptr(), mbufs, u32::from(count)) };
            if status == 0 { usize::from(count) } else { 0 }
        };
        // SAFETY: a successful bulk allocation fills all elements with mbufs of this mempool that nobody else owns.
        unsafe { burst.take(count, false, fill) }
    }
}

impl<M> Mempool<M> {
    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.raw.as_ptr()
    }

    /// Gives the mbufs that the calling lcore keeps for itself back to all: for a lcore that is to rest.
    pub fn empty_cache(&self) {
        // SAFETY: the mempool is live; the function touches the shared store and the calling thread's own cache, if it has one.
        unsafe { dpdk_sys::shim_mempool_empty_cache(self.as_ptr()) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many mbufs it has in all.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many are free, in the store and in all caches. Walks over every lcore: not for the hot path. While others
    /// allocate or free, it may be off by what they hold.
    pub fn available(&self) -> u32 {
        // SAFETY: the mempool is live; the function only reads counters.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// How many are owned by somebody: the program, a ring, or a device. The same caution as for [`Self::available`].
    pub fn in_use(&self) -> u32 {
        self.count.saturating_sub(self.available())
    }

    /// Bytes for data in each mbuf, headroom included.
    pub fn data_room(&self) -> u16 {
        self.data_room
    }

    /// Where its memory was asked for.
    pub fn socket(&self) -> SocketId {
        self.socket
    }
}
