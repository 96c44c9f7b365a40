//! [`RxQueue`] and [`TxQueue`]: the two ends of a port on the hot path.
//!
//! On the packet's path: its first and its last step. One call moves a burst. A queue has one owner, who may be any one
//! thread at a time; it keeps its port open.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::port::OpenPort;
use crate::{Burst, Meta};

/// A receive queue that delivers mbufs with fresh metadata `M`.
///
/// ```compile_fail,E0277
/// fn two_threads(mut queue: dpdk::RxQueue<u32>) {
///     let mut burst = dpdk::Burst::new();
///     let shared = &queue;
///     std::thread::scope(|scope| {
///         scope.spawn(|| shared.number());
///     });
///     queue.rx(&mut burst);
/// }
/// ```
#[derive(Debug)]
pub struct RxQueue<M = ()> {
    port: Arc<OpenPort>,
    queue: u16,
    meta: PhantomData<fn() -> M>,
    /// One thread at a time: Send, not Sync.
    one_thread: PhantomData<Cell<()>>,
}

impl<M: Meta> RxQueue<M> {
    /// The only value for this queue: `OpenPort` makes each number once.
    pub(crate) fn new(port: Arc<OpenPort>, queue: u16) -> Self {
        Self { port, queue, meta: PhantomData, one_thread: PhantomData }
    }

    /// Adds received packets at the end of the burst, as many as there are and it has room for; returns how many.
    #[inline]
    pub fn rx(&mut self, burst: &mut Burst<M>) -> usize {
        let (port, queue) = (self.port.number(), self.queue);
        let receive = |mbufs, room: u16| {
            // SAFETY: the port is started and stays so while `self.port` is held; the queue was set up, and only this
            // value, borrowed exclusively, receives from it. `mbufs` has room for `room` pointers.
            usize::from(unsafe { dpdk_sys::shim_rx_burst(port, queue, mbufs, room) })
        };
        // SAFETY: the driver fills the first so many elements with mbufs of the mempool that the queue was set up with
        // (or, in a ring port, that were put into its ring), all made by `Mempool`, and gives them up.
        unsafe { burst.take(usize::MAX, false, receive) }
    }

    /// The same without metadata, for who gives it to those packets only that need it ([`crate::Mbuf::with_meta`]).
    #[inline]
    pub fn rx_bare(&mut self, burst: &mut Burst) -> usize {
        let (port, queue) = (self.port.number(), self.queue);
        let receive = |mbufs, room: u16| {
            // SAFETY: as in `rx`.
            usize::from(unsafe { dpdk_sys::shim_rx_burst(port, queue, mbufs, room) })
        };
        // SAFETY: as in `rx`; there is no metadata to be valid.
        unsafe { burst.take(usize::MAX, true, receive) }
    }
}

impl<M> RxQueue<M> {
    /// Its number in the port.
    pub fn number(&self) -> u16 {
        self.queue
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        self.port.name()
    }
}

/// A transmit queue.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<OpenPort>,
    queue: u16,
    /// One thread at a time: Send, not Sync.
    one_thread: PhantomData<Cell<()>>,
}

impl TxQueue {
    /// The only value for this queue: `OpenPort` makes each number once.
    pub(crate) fn new(port: Arc<OpenPort>, queue: u16) -> Self {
        Self { port, queue, one_thread: PhantomData }
    }

    /// Hands packets from the front of the burst to the device, as many as it takes; returns how many. The others stay
    /// in the burst, in order. The device frees what it took once it was sent.
    ///
    /// Frames must fit the port's MTU: some drivers (net_tap) take nothing more while a larger one is at the front.
    #[inline]
    pub fn tx<M>(&mut self, burst: &mut Burst<M>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let (port, queue) = (self.port.number(), self.queue);
        let send = |mbufs, count: u16| {
            // SAFETY: the port is started and stays so while `self.port` is held; the queue was set up, and only this
            // value, borrowed exclusively, sends on it. `mbufs` holds `count` owned mbufs.
            usize::from(unsafe { dpdk_sys::shim_tx_burst(port, queue, mbufs, count) })
        };
        // SAFETY: the driver takes ownership of exactly the first mbufs, as many as it returns, and the array is left
        // as it is.
        unsafe { burst.give(send) }
    }

    /// Its number in the port.
    pub fn number(&self) -> u16 {
        self.queue
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        self.port.name()
    }
}
