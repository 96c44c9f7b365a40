//! [`Port`]: a device that is configured and started, with its queues.
//!
//! On the packet's path: its first and last station. At launch each device becomes a port, whose queues go to the
//! lcores that poll them; the [`Port`] itself stays with the control thread, for statistics and the link. When the port
//! and all its queues are gone, the device stops, frees the mbufs that it holds, and is removed. (One driver,
//! net_af_xdp, keeps those of its fill ring for good.)
//!
//! Several receive queues spread flows by RSS with a symmetric key, so that both directions of a flow meet in one queue
//! (the repeated key 0x6d5a of Woo and Park, "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling",
//! 2012).
//!
//! Units: MTU in bytes of the IP packet, without Ethernet's header. All multicast is received: neighbour discovery
//! needs it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::ptr;
use std::sync::Arc;

use dpdk_sys::{rte_eth_conf, rte_eth_dev_info};
use packet::MacAddr;

use crate::log::{self, Detail};
use crate::{Device, Errno, Mempool, Meta, RxQueue, SocketId, TxQueue, interface};

/// What a port is made of.
#[derive(Debug, Clone)]
pub struct PortConfig<M = ()> {
    /// The largest IP packet, bytes.
    pub mtu: u16,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of each queue; the device may round it.
    pub descriptors: u16,
    /// With several receive queues: spread flows so that both directions of one meet in the same queue. False leaves it
    /// to the device how packets come to its queues. Fragments have no ports to hash, so they may meet in another queue
    /// than the rest of their flow.
    pub symmetric_rss: bool,
    /// Receive frames for other stations too.
    pub promiscuous: bool,
    /// Where received packets are put.
    pub mempool: Mempool<M>,
}

impl<M> PortConfig<M> {
    /// One queue each way, 512 descriptors, an MTU of 1,500 bytes, promiscuous.
    pub fn new(mempool: Mempool<M>) -> Self {
        Self {
            mtu: 1_500,
            rx_queues: 1,
            tx_queues: 1,
            descriptors: 512,
            symmetric_rss: true,
            promiscuous: true,
            mempool,
        }
    }
}

/// A device that can't be made a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No queue, or more than the device has.
    #[error("port {device}: {asked} {direction} queues are outside 1..={max}, what its driver {driver} has")]
    Queues {
        /// The device.
        device: String,
        /// `receive` or `transmit`.
        direction: &'static str,
        /// What was asked for.
        asked: u16,
        /// The most.
        max: u16,
        /// The driver.
        driver: String,
    },
    /// The device can't spread flows over queues.
    #[error(
        "port {device}: its driver {driver} has no RSS over IP addresses and ports, so {queues} receive queues can't keep a \
         flow together; use one"
    )]
    NoRss {
        /// The device.
        device: String,
        /// The driver.
        driver: String,
        /// What was asked for.
        queues: u16,
    },
    /// A frame of this MTU doesn't fit into one mbuf.
    #[error(
        "port {device}: a frame of MTU {mtu} needs {needed} bytes in an mbuf, headroom included, and mempool {mempool} has \
         {data_room}; make the mempool with a larger data_room"
    )]
    MbufTooSmall {
        /// The device.
        device: String,
        /// The MTU.
        mtu: u16,
        /// Bytes needed.
        needed: u32,
        /// The mempool.
        mempool: String,
        /// Bytes there.
        data_room: u16,
    },
    /// The device or its kernel interface doesn't take the MTU.
    #[error("port {device}: its driver {driver} refuses MTU {mtu}: {errno}{detail}")]
    Mtu {
        /// The device.
        device: String,
        /// The driver.
        driver: String,
        /// The MTU asked for.
        mtu: u16,
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        detail: Detail,
    },
    /// The frames of a net_af_packet device are too small for the MTU.
    #[error(
        "port {device}: MTU {mtu} needs frames of {needed} bytes in net_af_packet's ring, which has {slot}; raise framesz, and \
         blocksz to a multiple of it and of the page size, among the device's arguments"
    )]
    Slots {
        /// The device.
        device: String,
        /// The MTU asked for.
        mtu: u16,
        /// Bytes a frame has.
        slot: u32,
        /// Bytes needed.
        needed: u32,
    },
    /// A step of the configuration failed.
    #[error("port {device}: its driver {driver} can't {step}: {errno}{detail}")]
    Step {
        /// The device.
        device: String,
        /// The driver.
        driver: String,
        /// What was attempted.
        step: &'static str,
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        detail: Detail,
    },
}

/// A port's counters since it was opened, as its driver keeps them; some keep only a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets transmitted.
    pub tx_packets: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Packets that arrived while all descriptors were full.
    pub rx_missed: u64,
    /// Packets that arrived damaged.
    pub rx_errors: u64,
    /// Packets for which the mempool had no mbuf.
    pub rx_no_mbuf: u64,
    /// Packets that the device could not transmit.
    pub tx_errors: u64,
}

/// A started device, shared by its port and queues.
#[derive(Debug)]
pub(crate) struct OpenPort {
    device: Device,
}

impl OpenPort {
    #[inline]
    pub(crate) fn number(&self) -> u16 {
        self.device.port()
    }

    pub(crate) fn name(&self) -> &str {
        self.device.name()
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        // SAFETY: the port is open; its `Port` and all its queues are gone, so nobody uses it. The device closes it
        // after this.
        let ((), _detail) = log::during(|| unsafe {
            dpdk_sys::rte_eth_dev_stop(self.number());
        });
    }
}

/// A started port: what the control thread keeps of it.
#[derive(Debug)]
pub struct Port {
    open: Arc<OpenPort>,
    driver: String,
    mtu: u16,
    socket: SocketId,
    /// DPDK's control functions of a port are for one thread at a time: Send, not Sync.
    one_thread: PhantomData<Cell<()>>,
}

/// A port with its receive and transmit queues, in the order of their numbers.
pub type ConfiguredPort<M> = (Port, Vec<RxQueue<M>>, Vec<TxQueue>);

impl Port {
    /// Configures a device and starts it.
    pub fn configure<M: Meta>(device: Device, config: &PortConfig<M>) -> Result<ConfiguredPort<M>, PortError> {
        let setup = Setup::new(device)?;
        setup.check(config)?;
        setup.configure(config)?;
        let mtu = setup.set_mtu(config.mtu)?;
        setup.set_up_queues(config)?;
        let Setup { device, driver, .. } = setup.start(config)?;
        // SAFETY: the port is open; the function only reads.
        let socket = SocketId(unsafe { dpdk_sys::rte_eth_dev_socket_id(device.port()) });
        let open = Arc::new(OpenPort { device });
        let rx = (0..config.rx_queues).map(|queue| RxQueue::new(Arc::clone(&open), queue)).collect();
        let tx = (0..config.tx_queues).map(|queue| TxQueue::new(Arc::clone(&open), queue)).collect();
        Ok((Self { open, driver, mtu, socket, one_thread: PhantomData }, rx, tx))
    }

    /// The device's name: `net_tap0`, `0000:21:00.0`.
    pub fn name(&self) -> &str {
        self.open.name()
    }

    /// The driver's name: `net_tap`, `mlx5_pci`.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The largest IP packet, bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The socket that the device is attached to; [`SocketId::ANY`] for virtual devices and where the machine doesn't
    /// say.
    pub fn socket(&self) -> SocketId {
        self.socket
    }

    /// Its Ethernet address; zeros if the device has none.
    pub fn mac(&self) -> MacAddr {
        // SAFETY: rte_ether_addr is six bytes, for which zeros are valid.
        let mut address: dpdk_sys::rte_ether_addr = unsafe { mem::zeroed() };
        // SAFETY: the port is open, and `address` is live; a failure leaves it as it is.
        unsafe { dpdk_sys::rte_eth_macaddr_get(self.open.number(), &mut address) };
        MacAddr(address.addr_bytes)
    }

    /// True if the device says that its link is up.
    pub fn link_up(&self) -> bool {
        // SAFETY: rte_eth_link is plain data, for which zeros are valid and mean down.
        let mut link: dpdk_sys::rte_eth_link = unsafe { mem::zeroed() };
        // SAFETY: the port is open, and `link` is live; this thread is the only one with control of the port.
        unsafe { dpdk_sys::rte_eth_link_get_nowait(self.open.number(), &mut link) == 0 && link.link_status() == 1 }
    }

    /// The counters now.
    pub fn stats(&self) -> PortStats {
        // SAFETY: rte_eth_stats is plain counters, for which zeros are valid.
        let mut stats: dpdk_sys::rte_eth_stats = unsafe { mem::zeroed() };
        // SAFETY: the port is open, and `stats` is live; this thread is the only one with control of the port. A
        // failure leaves zeros.
        unsafe { dpdk_sys::rte_eth_stats_get(self.open.number(), &mut stats) };
        PortStats {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_mbuf: stats.rx_nombuf,
            tx_errors: stats.oerrors,
        }
    }

    /// Receives frames for other stations too, or no longer.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), PortError> {
        let port = self.open.number();
        // SAFETY: the port is open, and this thread is the only one with control of it.
        let (status, detail) = log::during(|| unsafe {
            if on { dpdk_sys::rte_eth_promiscuous_enable(port) } else { dpdk_sys::rte_eth_promiscuous_disable(port) }
        });
        if status == 0 {
            return Ok(());
        }
        Err(PortError::Step {
            device: self.name().to_owned(),
            driver: self.driver.clone(),
            step: "change its promiscuous mode",
            errno: Errno::returned(status),
            detail,
        })
    }
}

/// A device on its way to a port.
struct Setup {
    device: Device,
    info: rte_eth_dev_info,
    driver: String,
}

/// The driver over a kernel interface's packet rings.
const AF_PACKET: &str = "net_af_packet";

/// Ethernet's header and two VLAN tags.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4;

impl Setup {
    fn new(device: Device) -> Result<Self, PortError> {
        match device.info() {
            Ok(info) => Ok(Self { driver: Device::driver(&info), info, device }),
            Err(errno) => Err(PortError::Step {
                device: device.name().to_owned(),
                driver: "unknown".to_owned(),
                step: "tell what it is",
                errno,
                detail: Detail::default(),
            }),
        }
    }

    fn check<M>(&self, config: &PortConfig<M>) -> Result<(), PortError> {
        let directions = [
            ("receive", config.rx_queues, self.info.max_rx_queues),
            ("transmit", config.tx_queues, self.info.max_tx_queues),
        ];
        for (direction, asked, max) in directions {
            if !(1..=max).contains(&asked) {
                let (device, driver) = (self.device.name().to_owned(), self.driver.clone());
                return Err(PortError::Queues { device, direction, asked, max, driver });
            }
        }
        if self.spreads(config) && self.rss_types() == 0 {
            let (device, driver) = (self.device.name().to_owned(), self.driver.clone());
            return Err(PortError::NoRss { device, driver, queues: config.rx_queues });
        }
        let needed = dpdk_sys::RTE_PKTMBUF_HEADROOM + FRAME_OVERHEAD + u32::from(config.mtu);
        let data_room = config.mempool.data_room();
        if u32::from(data_room) < needed {
            let (device, mempool) = (self.device.name().to_owned(), config.mempool.name().to_owned());
            return Err(PortError::MbufTooSmall { device, mtu: config.mtu, needed, mempool, data_room });
        }
        Ok(())
    }

    fn spreads<M>(&self, config: &PortConfig<M>) -> bool {
        config.symmetric_rss && config.rx_queues > 1
    }

    /// The header types over which the device can hash addresses and ports.
    fn rss_types(&self) -> u64 {
        self.info.flow_type_rss_offloads & rss::TYPES
    }

    fn configure<M>(&self, config: &PortConfig<M>) -> Result<(), PortError> {
        // SAFETY: rte_eth_conf is plain data, for which zeros mean the defaults and null pointers.
        let mut conf: rte_eth_conf = unsafe { mem::zeroed() };
        conf.rxmode.mtu = u32::from(config.mtu).min(self.mtu_limit());
        let mut key = rss::key();
        if self.spreads(config) {
            let key_bytes = if self.info.hash_key_size == 0 { 40 } else { self.info.hash_key_size };
            conf.rxmode.mq_mode = dpdk_sys::rte_eth_rx_mq_mode_RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = key_bytes;
            conf.rx_adv_conf.rss_conf.rss_hf = self.rss_types();
        }
        self.step("be configured", |port| {
            // SAFETY: the port is open and not started; `conf` and the key it points to are live and copied. The key is
            // as long as the largest length that a u8 can tell.
            unsafe { dpdk_sys::rte_eth_dev_configure(port, config.rx_queues, config.tx_queues, &conf) }
        })
    }

    /// The largest MTU that DPDK lets the device be configured with; some drivers take more, or less, afterwards.
    fn mtu_limit(&self) -> u32 {
        let (max_mtu, max_frame) = (u32::from(self.info.max_mtu), self.info.max_rx_pktlen);
        // As ethdev counts: a driver that tells both tells the overhead; otherwise it is Ethernet's header and
        // checksum.
        let told = max_mtu != u32::from(u16::MAX) && max_frame > max_mtu;
        let overhead = if told { max_frame - max_mtu } else { 14 + 4 };
        max_mtu.min(max_frame.saturating_sub(overhead))
    }

    /// Sets the MTU. A driver that has no way to do so keeps whatever frames it takes.
    fn set_mtu(&self, mtu: u16) -> Result<u16, PortError> {
        self.check_slots(mtu)?;
        let port = self.device.port();
        let (status, detail) = log::during(|| {
            if self.driver == AF_PACKET && u32::from(mtu) > self.mtu_limit() {
                // The driver claims small frames only, and ethdev believes it; its slots are large enough, as just
                // checked.
                return interface::set_mtu(self.info.if_index, mtu);
            }
            // SAFETY: the port is open, configured and not started.
            let status = unsafe { dpdk_sys::rte_eth_dev_set_mtu(port, mtu) };
            if status == 0 { Ok(()) } else { Err(Errno::returned(status)) }
        });
        match status {
            Err(errno) if errno.0 != libc::ENOTSUP => {
                let (device, driver) = (self.device.name().to_owned(), self.driver.clone());
                Err(PortError::Mtu { device, driver, mtu, errno, detail })
            }
            _ => Ok(mtu),
        }
    }

    /// net_af_packet and the kernel cut frames off that don't fit into a slot.
    fn check_slots(&self, mtu: u16) -> Result<(), PortError> {
        if self.driver != AF_PACKET {
            return Ok(());
        }
        let slot = self.device.argument("framesz").and_then(|value| value.parse().ok());
        let (slot, needed) = (slot.unwrap_or(interface::AF_PACKET_SLOT_BYTES), interface::af_packet_slot_for(mtu));
        if slot >= needed {
            Ok(())
        } else {
            Err(PortError::Slots { device: self.device.name().to_owned(), mtu, slot, needed })
        }
    }

    fn set_up_queues<M>(&self, config: &PortConfig<M>) -> Result<(), PortError> {
        let (mut rx_descriptors, mut tx_descriptors) = (config.descriptors, config.descriptors);
        self.step("take so many descriptors", |port| {
            // SAFETY: the port is open, and both counts are live.
            unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut rx_descriptors, &mut tx_descriptors) }
        })?;
        // SAFETY: the port is open; the function only reads.
        let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(self.device.port()) } as u32;
        for queue in 0..config.rx_queues {
            self.step("set up a receive queue", |port| {
                // SAFETY: the port is configured with more than `queue` queues and not started; null means the driver's
                // default configuration. The mempool lives as long as the process.
                unsafe {
                    let pool = config.mempool.as_ptr();
                    dpdk_sys::rte_eth_rx_queue_setup(port, queue, rx_descriptors, socket, ptr::null(), pool)
                }
            })?;
        }
        for queue in 0..config.tx_queues {
            self.step("set up a transmit queue", |port| {
                // SAFETY: as for the receive queues.
                unsafe { dpdk_sys::rte_eth_tx_queue_setup(port, queue, tx_descriptors, socket, ptr::null()) }
            })?;
        }
        Ok(())
    }

    fn start<M>(self, config: &PortConfig<M>) -> Result<Self, PortError> {
        self.step("start", |port| {
            // SAFETY: the port is configured, and all its queues are set up.
            unsafe { dpdk_sys::rte_eth_dev_start(port) }
        })?;
        let port = self.device.port();
        let ((), _detail) = log::during(|| {
            // Drivers without such modes (rings, files) receive everything anyway, so a refusal is no error.
            // SAFETY: the port is open and started, and nobody else knows it yet.
            unsafe {
                dpdk_sys::rte_eth_allmulticast_enable(port);
                if config.promiscuous {
                    dpdk_sys::rte_eth_promiscuous_enable(port);
                }
            }
        });
        Ok(self)
    }

    /// Runs one step of the configuration.
    fn step(&self, step: &'static str, run: impl FnOnce(u16) -> i32) -> Result<(), PortError> {
        let (status, detail) = log::during(|| run(self.device.port()));
        if status >= 0 {
            return Ok(());
        }
        let (device, driver) = (self.device.name().to_owned(), self.driver.clone());
        Err(PortError::Step { device, driver, step, errno: Errno::returned(status), detail })
    }
}

/// Symmetric RSS.
mod rss {
    /// A key with a period of 16 bits: swapping source and destination, which are 16 bits or a multiple apart, leaves
    /// the Toeplitz hash as it is. As long as any device's key can be.
    pub(super) fn key() -> [u8; 256] {
        std::array::from_fn(|index| if index % 2 == 0 { 0x6d } else { 0x5a })
    }

    /// Every header type that has addresses, and ports where it has them (`RTE_ETH_RSS_IP | _TCP | _UDP`, macros that
    /// bindgen can't evaluate): bits 2 to 5 and 7 for IPv4, 8 to 11 and 13 for IPv6, 15 to 17 with extension headers.
    pub(super) const TYPES: u64 = 0b11_1010_1111_1011_1100;

    #[cfg(test)]
    mod tests {
        use super::*;

        /// The Toeplitz hash of Microsoft's RSS specification.
        fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
            let bit = |bytes: &[u8], index: usize| u32::from(bytes[index / 8] >> (7 - index % 8) & 1);
            let window = |start: usize| (start..start + 32).fold(0, |word, index| word << 1 | bit(key, index));
            (0..input.len() * 8).filter(|&index| bit(input, index) == 1).fold(0, |hash, index| hash ^ window(index))
        }

        #[test]
        fn both_directions_of_a_flow_hash_alike_and_other_flows_do_not() {
            let flow = |source: [u8; 6], destination: [u8; 6]| {
                let (addresses, ports) =
                    ([&source[..4], &destination[..4]].concat(), [&source[4..], &destination[4..]].concat());
                toeplitz(&key(), &[addresses, ports].concat())
            };
            let (client, server) = ([10, 0, 0, 1, 0x80, 0x01], [10, 0, 1, 2, 0, 80]);
            assert_eq!(flow(client, server), flow(server, client));
            assert_ne!(flow(client, server), flow([10, 0, 0, 1, 0x80, 0x02], server));
        }

        #[test]
        fn the_types_are_those_of_the_header() {
            let bits: Vec<u32> = (0..64).filter(|bit| TYPES >> bit & 1 == 1).collect();
            assert_eq!(bits, [2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 15, 16, 17]);
        }
    }
}
