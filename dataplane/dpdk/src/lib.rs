//! DPDK made safe: EAL, devices, ports and their queues, mempools, mbufs, bursts, rings, lcores and the clock.
//!
//! On the packet's path: every packet enters through [`RxQueue::rx`], travels as an owned [`Mbuf`] in [`Burst`]s and
//! [`ring`]s, and leaves through [`TxQueue::tx`] or is dropped, which gives it back to its [`Mempool`]. This is the
//! only crate that imports `dpdk-sys`.
//!
//! Invariants, which the types carry:
//! - Nothing of DPDK is called before [`Eal::init`] succeeded: whatever needs EAL is made from an [`Eal`].
//! - An [`Mbuf`] has exactly one owner; dropping it frees it. Its metadata is always initialised.
//! - A queue has one owner, and a port stops and closes only when its last queue is gone.
//! - Mempools live as long as the process, so an mbuf never outlives its memory, wherever it was left. EAL can be
//!   initialised only once in a process, so nothing would be gained by unmapping it.
//!
//! Units: lengths in bytes, times in nanoseconds or TSC ticks, as the names say. Numbers in headers are not looked at
//! here.
//!
//! Errors: one enum per module. Nothing on the hot path returns one; a full queue or an empty mempool shows in the
//! count.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, missing_docs)]

mod burst;
pub mod clock;
pub mod cpu;
mod device;
mod eal;
mod errno;
mod interface;
mod lcore;
mod log;
mod mbuf;
pub mod memory;
mod mempool;
mod port;
mod queue;
pub mod ring;
mod ring_port;

pub use burst::{BURST, Burst};
pub use clock::Clock;
pub use cpu::SocketId;
pub use device::{Device, DeviceError};
pub use eal::{Eal, EalConfig, EalError, LcoreBinding};
pub use errno::Errno;
pub use lcore::{LcoreError, LcoreHandle, current_lcore};
pub use log::{Detail, LogLevel};
pub use mbuf::{Mbuf, Meta, PRIVATE_BYTES};
pub use memory::HugeArray;
pub use mempool::{Mempool, MempoolConfig, MempoolError};
pub use port::{ConfiguredPort, Port, PortConfig, PortError, PortStats};
pub use queue::{RxQueue, TxQueue};
pub use ring::{RingConsumer, RingError, RingProducer};
pub use ring_port::{RingPortConfig, RingPortEnds};
