//! A port whose wire is in this process: what is put into one end is received, what is transmitted comes out of the
//! other.
//!
//! On the packet's path: in place of a NIC, for benchmarks and tests that need no kernel in between. Each receive queue
//! reads a ring and each transmit queue writes one (DPDK's net_ring driver); the program holds the rings' other ends.

use std::ffi::{CString, c_uint};
use std::sync::Arc;

use crate::device::DeviceError;
use crate::ring::RingStore;
use crate::{Device, Eal, Errno, Meta, RingConsumer, RingProducer, SocketId};

/// What a ring port is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingPortConfig {
    /// Its name, unique in the process, at most 19 bytes. The device is called `net_ring_` and this.
    pub name: String,
    /// How many queues it can receive on.
    pub rx_queues: u16,
    /// How many queues it can transmit on.
    pub tx_queues: u16,
    /// How many packets fit into each ring.
    pub capacity: u32,
    /// Where the rings are.
    pub socket: SocketId,
}

/// The program's ends of a ring port, one for each queue.
pub struct RingPortEnds<M = ()> {
    /// What is put in here is received by the queue of that number.
    pub feed: Vec<RingProducer<M>>,
    /// What the queue of that number transmits comes out here, its metadata reset.
    pub drain: Vec<RingConsumer<M>>,
}

/// The most queues that DPDK's driver takes.
const QUEUES_MAX: u16 = 16;

impl Eal {
    /// Makes a ring port.
    pub fn ring_port<M: Meta>(&self, config: &RingPortConfig) -> Result<(Device, RingPortEnds<M>), DeviceError> {
        let name = format!("net_ring_{}", config.name);
        let c_name = CString::new(config.name.as_str()).ok();
        let queues_fit = [config.rx_queues, config.tx_queues].iter().all(|queues| (1..=QUEUES_MAX).contains(queues));
        let c_name = c_name.filter(|_| queues_fit).ok_or_else(|| DeviceError::Name { device: name.clone() })?;
        let rings = |side: &str, count: u16| -> Result<Vec<Arc<RingStore>>, DeviceError> {
            let ring =
                |queue| RingStore::new(&format!("{}_{side}{queue}", config.name), config.capacity, config.socket);
            (0..count).map(|queue| ring(queue).map_err(DeviceError::from)).collect()
        };
        let (rx, tx) = (rings("rx", config.rx_queues)?, rings("tx", config.tx_queues)?);
        let pointers = |rings: &[Arc<RingStore>]| rings.iter().map(|ring| ring.as_ptr()).collect::<Vec<_>>();
        let (rx_pointers, tx_pointers) = (pointers(&rx), pointers(&tx));
        let make = || {
            // The driver takes a NUMA node or -1 for any, in an unsigned number.
            let socket = config.socket.0 as c_uint;
            // SAFETY: EAL is initialised; the name and both arrays are live, of the counts that are passed, and copied.
            // The rings live as long as the device, which holds them.
            let port = unsafe {
                dpdk_sys::rte_eth_from_rings(
                    c_name.as_ptr(),
                    rx_pointers.as_ptr(),
                    c_uint::from(config.rx_queues),
                    tx_pointers.as_ptr(),
                    c_uint::from(config.tx_queues),
                    socket,
                )
            };
            if port < 0 { Err(Errno::last()) } else { Ok(()) }
        };
        let device = Device::made(&name, rx.iter().chain(&tx).cloned().collect(), make)?;
        let ends = RingPortEnds {
            feed: rx.into_iter().map(RingProducer::new).collect(),
            drain: tx.into_iter().map(|ring| RingConsumer::new(ring, false)).collect(),
        };
        Ok((device, ends))
    }
}
