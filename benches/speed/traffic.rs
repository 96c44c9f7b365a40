//! Which packets a trial sends: flows, their order, sizes; and the pcap files that `net_pcap` replays.
//!
//! Flow `n` is UDP from `10.1.1.0 + n / 64`, port `1024 + 1000 (n mod 64)`, to 10.2.0.2:9000, so that 4 million flows have a
//! five-tuple each. *Strangers* are TCP SYNs from 10.64.0.0 on that no rule is installed for. Everything follows from the seed.
//!
//! The pcap format is the classic one (magic 0xa1b2c3d4, microseconds, Ethernet), little-endian:
//!
//! ```text
//!  0  magic 4, version 2+2, zone 4, accuracy 4, longest packet 4, link type 4
//! 24  seconds 4, microseconds 4, bytes kept 4, bytes of the packet 4, the packet; and so on
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use packet::neighbor;
use packet::{FiveTuple, MacAddr, build, protocol};
use serde::{Deserialize, Serialize};

/// The address of the first `net_pcap` device of a process; the driver counts the last byte up.
pub const LEFT_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 0]);
/// The address of the second one.
pub const RIGHT_MAC: MacAddr = MacAddr([0x02, 0x70, 0x63, 0x61, 0x70, 1]);
/// The station behind the second device: a server, and another host's VTEP.
pub const PEER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
/// Where the flows go.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const SERVER_PORT: u16 = 9_000;
/// The host's address on the server's link.
pub const SERVER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// This host's VTEP.
pub const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The other host's VTEP.
pub const PEER_VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The most flows.
pub const FLOWS_MAX: u32 = 4_000_000;
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// The simple IMIX: of 12 packets 7 are small, 4 middling and 1 is large.
const IMIX: [u16; 12] = [60, 590, 60, 60, 590, 60, 1_514, 60, 590, 60, 590, 60];
/// A Zipf order has at least and at most so many packets before it repeats.
const ZIPF_PACKETS: (u32, u32) = (65_536, 1_048_576);

/// The packets of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Flows with a rule.
    pub flows: u32,
    /// In which order they come.
    pub order: Order,
    /// How long the frames are.
    pub size: Size,
    /// Of 100 packets, how many are strangers.
    pub strangers_percent: u8,
    /// At least so many packets before they repeat: what a source keeps in memory slows it down, so cases that are compared with
    /// each other should have as many. 0 is as many as it takes for each flow once.
    #[serde(default)]
    pub packets: u32,
    /// Seed of the order.
    pub seed: u64,
}

/// In which order flows come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Each flow once, shuffled, then again: the worst for caches.
    Uniform,
    /// The k-th flow in proportion to k to the minus this.
    Zipf(f64),
}

/// How long frames are, bytes without the checksum that the wire adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// All the same.
    Fixed(u16),
    /// 60, 590 and 1,514 bytes as 7 : 4 : 1.
    Imix,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { flows: 1_000, order: Order::Uniform, size: Size::Fixed(60), strangers_percent: 0, packets: 0, seed: 1 }
    }
}

/// A packet of the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Of this flow.
    Flow(u32),
    /// Of a flow without a rule.
    Stranger(u32),
}

impl Traffic {
    /// The packets in order, until they repeat.
    pub fn sequence(&self) -> Vec<Sender> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let flows = match self.order {
            Order::Uniform => {
                let mut flows: Vec<u32> = (0..self.flows).collect();
                random.shuffle(&mut flows);
                let count = self.flow_packets() as usize;
                while flows.len() < count && !flows.is_empty() {
                    flows.extend_from_within(..flows.len().min(count - flows.len()));
                }
                flows
            }
            Order::Zipf(exponent) => zipf(self.flows, exponent, &mut random),
        };
        let strangers = u64::from(self.strangers_percent.min(99));
        let mut next = 0;
        let mut sequence = Vec::with_capacity(flows.len() * 100 / (100 - strangers as usize) + 1);
        for (at, flow) in flows.into_iter().enumerate() {
            sequence.push(Sender::Flow(flow));
            let due = (at as u64 + 1) * strangers / (100 - strangers);
            while u64::from(next) < due {
                sequence.push(Sender::Stranger(next));
                next += 1;
            }
        }
        sequence
    }

    /// How many packets [`Self::sequence`] has.
    pub fn sequence_len(&self) -> u32 {
        let flows = self.flow_packets();
        let strangers = u64::from(self.strangers_percent.min(99));
        flows + (u64::from(flows) * strangers / (100 - strangers)) as u32
    }

    /// How many of them are of flows.
    fn flow_packets(&self) -> u32 {
        let share = u64::from(100 - self.strangers_percent.min(99));
        match self.order {
            Order::Uniform => self.flows.max((u64::from(self.packets) * share / 100) as u32),
            Order::Zipf(_) => self.flows.clamp(ZIPF_PACKETS.0, ZIPF_PACKETS.1),
        }
    }

    /// The frame of a packet at this place of the sequence, as it arrives at a port with this address.
    pub fn frame(&self, at: usize, sender: Sender, to: MacAddr) -> Vec<u8> {
        let server = SocketAddr::new(SERVER.into(), SERVER_PORT);
        let frame = match sender {
            Sender::Flow(flow) => {
                let size = match self.size {
                    Size::Fixed(size) => size,
                    Size::Imix => IMIX[at % IMIX.len()],
                };
                build::udp(client(flow), server, &vec![0; usize::from(size).saturating_sub(HEADERS)])
            }
            Sender::Stranger(stranger) => {
                let mut frame = build::tcp(stranger_address(stranger), server, build::flags::SYN, &[]);
                frame.resize(60, 0); // Ethernet's padding
                frame
            }
        };
        build::with_addresses(frame, to, build::CLIENT_MAC)
    }

    /// Writes the whole sequence as a pcap.
    pub fn write(&self, path: &Path, to: MacAddr) -> io::Result<()> {
        let mut file = PcapFile::create(path)?;
        for (at, &sender) in self.sequence().iter().enumerate() {
            file.add(&self.frame(at, sender, to))?;
        }
        file.end()
    }
}

/// The five-tuple of a flow.
pub fn five_tuple(flow: u32) -> FiveTuple {
    let source = client(flow);
    FiveTuple {
        source: source.ip(),
        destination: SERVER.into(),
        source_port: source.port(),
        destination_port: SERVER_PORT,
        protocol: protocol::UDP,
    }
}

fn client(flow: u32) -> SocketAddr {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 1, 0).to_bits() + flow / 64);
    SocketAddr::new(address.into(), 1_024 + 1_000 * (flow % 64) as u16)
}

fn stranger_address(stranger: u32) -> SocketAddr {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 0).to_bits() + stranger / 64);
    SocketAddr::new(address.into(), 1_024 + 1_000 * (stranger % 64) as u16)
}

fn zipf(flows: u32, exponent: f64, random: &mut fastrand::Rng) -> Vec<u32> {
    let mut sum = 0.0;
    let weight = |rank: u32| f64::from(rank).powf(-exponent);
    let up_to: Vec<f64> = (1..=flows)
        .map(|rank| {
            sum += weight(rank);
            sum
        })
        .collect();
    let mut ranks: Vec<u32> = (0..flows).collect();
    random.shuffle(&mut ranks); // neighbours in rank are not neighbours in address
    let count = flows.clamp(ZIPF_PACKETS.0, ZIPF_PACKETS.1);
    let mut draw = || {
        let point = random.f64() * sum;
        up_to.partition_point(|&below| below < point).min(flows as usize - 1)
    };
    (0..count).map(|_| ranks[draw()]).collect()
}

/// Writes the frames that make the other side's stations known: each asks the host for its address.
pub fn write_neighbors(path: &Path) -> io::Result<()> {
    let mut file = PcapFile::create(path)?;
    for (asker, host) in [(SERVER, SERVER_GATEWAY), (PEER_VTEP, VTEP)] {
        file.add(&question(asker, host))?;
    }
    file.end()
}

/// An ARP request as the other side's station sends it.
pub fn question(asker: Ipv4Addr, host: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; neighbor::MAX_LEN];
    let length = neighbor::write_request(&mut frame, PEER_MAC, IpAddr::V4(asker), IpAddr::V4(host), None);
    frame.truncate(length.unwrap_or(0));
    frame
}

struct PcapFile(BufWriter<File>);

impl PcapFile {
    fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        for word in [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1_u32] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self(file))
    }

    fn add(&mut self, frame: &[u8]) -> io::Result<()> {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            self.0.write_all(&word.to_le_bytes())?;
        }
        self.0.write_all(frame)
    }

    fn end(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_flow_comes_once_with_a_five_tuple_of_its_own() {
        let traffic = Traffic { flows: 5_000, ..Traffic::default() };
        let flows: HashSet<_> = traffic
            .sequence()
            .into_iter()
            .map(|sender| match sender {
                Sender::Flow(flow) => five_tuple(flow),
                Sender::Stranger(_) => panic!("nobody asked for strangers"),
            })
            .collect();
        assert_eq!(flows.len(), 5_000);
        assert_ne!(five_tuple(FLOWS_MAX - 1), five_tuple(FLOWS_MAX - 2));
        assert!(matches!(five_tuple(FLOWS_MAX - 1).source, IpAddr::V4(a) if a.octets()[..2] == [10, 1]));
    }

    #[test]
    fn the_sequence_is_as_long_as_it_says_and_has_its_share_of_strangers() {
        for (percent, order) in
            [(0, Order::Uniform), (10, Order::Uniform), (90, Order::Uniform), (50, Order::Zipf(1.0))]
        {
            let traffic = Traffic { strangers_percent: percent, order, ..Traffic::default() };
            let long = Traffic { packets: 40_000, ..traffic };
            assert_eq!(long.sequence().len(), long.sequence_len() as usize, "{percent} {order:?}");
            assert!(long.sequence_len() >= 40_000);
            let sequence = traffic.sequence();
            assert_eq!(sequence.len(), traffic.sequence_len() as usize, "{percent} {order:?}");
            let strangers = sequence.iter().filter(|sender| matches!(sender, Sender::Stranger(_))).count();
            assert_eq!((strangers * 100).div_ceil(sequence.len()), usize::from(percent), "{order:?}");
        }
    }

    #[test]
    fn zipf_prefers_few_flows() {
        let traffic = Traffic { flows: 10_000, order: Order::Zipf(1.0), ..Traffic::default() };
        let mut counts = vec![0; 10_000];
        for sender in traffic.sequence() {
            if let Sender::Flow(flow) = sender {
                counts[flow as usize] += 1;
            }
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top: usize = counts[..100].iter().sum();
        assert!((0.45..0.65).contains(&(top as f64 / 65_536.0)), "{top}");
    }

    #[test]
    fn frames_have_the_length_asked_for_and_the_flow_s_five_tuple() {
        for size in [60, 590, 1_514] {
            let traffic = Traffic { size: Size::Fixed(size), ..Traffic::default() };
            let frame = traffic.frame(0, Sender::Flow(70), LEFT_MAC);
            assert_eq!(frame.len(), usize::from(size));
            assert_eq!(packet::headers::parse(&frame).unwrap().five_tuple, five_tuple(70));
        }
        let imix = Traffic { size: Size::Imix, ..Traffic::default() };
        let bytes: usize = (0..12).map(|at| imix.frame(at, Sender::Flow(0), LEFT_MAC).len()).sum();
        assert_eq!(bytes, 7 * 60 + 4 * 590 + 1_514);
    }

    #[test]
    fn others_can_read_the_pcap() {
        let directory = std::env::temp_dir().join(format!("towpath-traffic-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("left.pcap");
        let traffic = Traffic { flows: 3, ..Traffic::default() };
        traffic.write(&path, LEFT_MAC).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(bytes.len(), 24 + 3 * (16 + 60));
        assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(bytes[40..46], LEFT_MAC.0);
    }

    #[test]
    fn the_other_side_asks_as_itself() {
        let message = neighbor::parse(&question(SERVER, SERVER_GATEWAY));
        let Some(neighbor::NeighborMessage::Request { asker: Some((address, mac)), .. }) = message else {
            panic!("{message:?}");
        };
        assert_eq!((address, mac), (IpAddr::V4(SERVER), PEER_MAC));
    }
}
