//! The stages of a packet's path, one after the other on lcores that are polled by hand, for an instruction counter to look at.
//!
//! Each function in [`counted`] is one stage; nothing else of the run shall be counted
//! (`valgrind --tool=callgrind --toggle-collect='*counted::*'`). Instructions hardly depend on what else the machine does, so they can
//! guard the hot path where times can't. `scripts/guard` compares them with `benches/budgets`.
//!
//! | stage | what is in it |
//! |---|---|
//! | `forward` | I/O lcore: receive, parse, exact hit, set DSCP, restore DSCP, send |
//! | `keep_answers` | the same at a chain's end, where the answers' rule is kept alive |
//! | `encapsulate` | `forward` with VXLAN in place of the endpoint's egress |
//! | `decapsulate` | I/O lcore: receive VXLAN, tag hit, egress |
//! | `enter_chain` | I/O lcore: receive, parse, exact hit, set DSCP, into an NF's ring |
//! | `nf_hop` | NF lcore: out of the ring, parse, passthrough, tag hit, into the next ring |
//! | `leave_chain` | I/O lcore: out of the ring, egress |
//! | `end_strangers` | I/O lcore: receive, look at SYNs of new flows while nothing more can be parked, end them |
//! | `end_rejected` | the same with SYNs of flows that the controller has rejected |
//! | `parse`, `exact_hit`, `tag_hit`, `set_dscp`, `vxlan_header` | single steps |

use dataplane::assembly::{Assembly, OpenDevices, eal_config};
use dataplane::exact::{ExactTable, FlowState};
use dataplane::lcore::Poll;
use dataplane::meta::{Burst, Mempool, Meta};
use dataplane::tag::TagTable;
use dpdk::{Eal, RingPortConfig, RingPortEnds, SocketId};
use packet::headers::{self, Headers};
use packet::vxlan::Outer;
use packet::{Ecn, FlowKey, MacAddr, Tag, VportId, build};
use shm::launch::{EalLaunch, Launch, LcoreLaunch, Limits, PortLaunch, RoleLaunch};
use shm::link::{self, ControllerLink};
use shm::rules::{Epoch, Event, TagKey, TagRule, Update};

use super::traffic::{self, PEER_MAC, PEER_VTEP, SERVER, SERVER_GATEWAY, Sender, VTEP};
use super::{Function, SpeedError, Traffic, Work, failed, rules};
use crate::allocations::so_far as allocations;

/// Packets of one burst, each of a flow of its own.
const BURST: u32 = dpdk::BURST as u32;
/// Bursts before the count begins.
const WARM_UP: u32 = 8;
const IO: usize = 0;
const NF: usize = 1;
const LEFT: usize = 0;
const RIGHT: usize = 1;
const UNDERLAY: usize = 2;
/// The first of the strangers that are rejected, that are parked, and that are one too many.
const REJECTED: u32 = 0;
const PARKED: u32 = 1_000;
const STRANGERS: u32 = 10_000;
const NAMES: [&str; 3] = ["left", "right", "underlay"];

/// What is counted: each function is called from here alone, and never inlined.
pub mod counted {
    use std::hint::black_box;

    use super::{FlowKey, Headers, Outer, Poll, TagKey, headers};
    use dataplane::exact::ExactTable;
    use dataplane::tag::TagTable;

    macro_rules! polls {
        ($($name:ident),*) => {$(
            /// One poll of this stage's lcore.
            #[inline(never)]
            pub fn $name(lcore: &mut dyn Poll, now_ns: u64) {
                black_box(stringify!($name)); // or the linker makes all of them one
                black_box(lcore.poll_once(now_ns));
            }
        )*};
    }

    polls!(
        forward,
        keep_answers,
        encapsulate,
        decapsulate,
        enter_chain,
        nf_hop,
        leave_chain,
        end_strangers,
        end_rejected
    );

    /// Parses frames.
    #[inline(never)]
    pub fn parse(frames: &[Vec<u8>]) {
        for frame in frames {
            let _ = black_box(headers::parse(black_box(frame)));
        }
    }

    /// Finds flows and their entries.
    #[inline(never)]
    pub fn exact_hit(table: &mut ExactTable, keys: &[FlowKey]) {
        for key in keys {
            let flow = table.find(black_box(key));
            black_box(flow.and_then(|flow| table.get_mut(flow)));
        }
    }

    /// Finds tag rules.
    #[inline(never)]
    pub fn tag_hit(table: &TagTable, keys: &[TagKey]) {
        for key in keys {
            black_box(table.find(black_box(key)));
        }
    }

    /// Sets the DSCP.
    #[inline(never)]
    pub fn set_dscp(frames: &mut [(Vec<u8>, Headers)], dscp: u8) {
        for (frame, found) in frames {
            headers::set_dscp(black_box(frame), found, black_box(dscp));
        }
    }

    /// Writes outer headers.
    #[inline(never)]
    pub fn vxlan_header(outer: &Outer, room: &mut [u8], frames: &[Vec<u8>]) {
        for frame in frames {
            let _ = black_box(black_box(outer).write(black_box(room), frame));
        }
    }
}

/// The stages in the order in which they run.
pub const STAGES: [&str; 14] = [
    "forward",
    "keep_answers",
    "encapsulate",
    "decapsulate",
    "enter_chain",
    "nf_hop",
    "leave_chain",
    "end_strangers",
    "end_rejected",
    "parse",
    "exact_hit",
    "tag_hit",
    "set_dscp",
    "vxlan_header",
];

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Packets through each stage.
    pub packets: u32,
    /// Allocations within the stages.
    pub allocations: u64,
}

/// Runs every stage with so many bursts.
pub fn run(bursts: u32) -> Result<Done, SpeedError> {
    let mut rig = Rig::start()?;
    rig.learn_neighbors();
    rig.install()?;
    rig.flood()?;
    let mut allocated = 0;
    for turn in 0..WARM_UP + bursts {
        let counts = turn >= WARM_UP;
        let within = rig.turn(counts);
        allocated += if counts { within } else { 0 };
    }
    allocated += steps(bursts)?;
    rig.stop();
    Ok(Done { packets: bursts * BURST, allocations: allocated })
}

struct Rig {
    lcores: Vec<Box<dyn Poll>>,
    ends: Vec<RingPortEnds<Meta>>,
    macs: Vec<MacAddr>,
    links: Vec<ControllerLink>,
    mempool: Mempool,
    now_ns: u64,
    epoch: u64,
    _eal: Eal,
}

impl Rig {
    fn start() -> Result<Self, SpeedError> {
        let launch = launch();
        let eal = eal_config(&launch).map_err(|error| failed("launch", error))?;
        let eal = Eal::init(eal).map_err(|error| failed("start DPDK", error))?;
        let (mut devices, mut ends) = (OpenDevices::new(), Vec::new());
        for name in NAMES {
            let config = RingPortConfig {
                name: name.to_owned(),
                rx_queues: 1,
                tx_queues: 1,
                capacity: 256,
                socket: SocketId::ANY,
            };
            let (device, end) = eal.ring_port(&config).map_err(|error| failed("make a ring port", error))?;
            devices.insert(name.to_owned(), device);
            ends.push(end);
        }
        let assembly = Assembly::build(&eal, &launch, devices).map_err(|error| failed("build the dataplane", error))?;
        let Assembly { mut roster, lcores } = assembly;
        let macs = roster.hello.ports.iter().map(|port| mac(&port.mac)).collect();
        let (fds, lcore_ends, memory) = roster.link().map_err(|error| failed("make the rings", error))?;
        roster.attach(lcore_ends, memory);
        let (links, _) = link::open(fds).map_err(|error| failed("open the rings", error))?;
        let mempool = roster.mempools().next().ok_or_else(|| failed("find a mempool", "there is none"))?.clone();
        Ok(Self {
            lcores: lcores.into_iter().flatten().collect(),
            ends,
            macs,
            links,
            mempool,
            now_ns: 1_000,
            epoch: 0,
            _eal: eal,
        })
    }

    /// The stations behind the right and the underlay port ask for the host, so that it knows them.
    fn learn_neighbors(&mut self) {
        self.feed(RIGHT, &[traffic::question(SERVER, SERVER_GATEWAY)]);
        self.feed(UNDERLAY, &[traffic::question(PEER_VTEP, VTEP)]);
        self.poll_all();
        self.drain_all();
    }

    fn install(&mut self) -> Result<(), SpeedError> {
        let through = Work::Chain { functions: vec![passthrough()], by_hand: true, first_packets: false };
        let ends = (Work::DeliverAndLearn, 3 * BURST);
        let works = [(Work::Deliver, 0), (Work::Encapsulate, BURST), (through, 2 * BURST), ends];
        let exact = works.iter().flat_map(|(work, first)| (*first..first + BURST).map(|flow| rules::exact(work, flow)));
        let mut io: Vec<Update> = exact.collect();
        io.push(Update::InsertTag(TagRule { key: from_tunnel(), action: last_hop()?.action }));
        self.commit(IO, &io)?;
        self.commit(NF, &[Update::InsertTag(last_hop()?)])
    }

    /// A burst of flows is rejected, and others fill the parking.
    fn flood(&mut self) -> Result<(), SpeedError> {
        self.feed_strangers(REJECTED);
        self.poll_all();
        let mut rejected = Vec::new();
        while let Some(event) = self.links[IO].events.pop().map_err(|error| failed("read events", error))? {
            if let Event::FlowMiss { key, .. } = event {
                rejected.push(Update::RejectFlow(key));
            }
        }
        assert_eq!(rejected.len(), BURST as usize, "rejected flows");
        self.commit(IO, &rejected)?;
        for first in (0..Limits::default().parked).step_by(BURST as usize) {
            self.feed_strangers(PARKED + first);
            self.poll_all();
        }
        Ok(())
    }

    fn commit(&mut self, lcore: usize, updates: &[Update]) -> Result<(), SpeedError> {
        self.epoch += 1;
        for update in updates.iter().chain(&[Update::Commit(Epoch(self.epoch))]) {
            self.links[lcore].updates.push(update).map_err(|error| failed("send rules", error))?;
        }
        (0..updates.len()).for_each(|_| self.poll_all());
        while let Some(event) = self.links[lcore].events.pop().map_err(|error| failed("read events", error))? {
            if let Event::Committed(Epoch(epoch)) = event
                && epoch == self.epoch
            {
                return Ok(());
            }
        }
        Err(SpeedError::Rules(format!("lcore {lcore} did not commit")))
    }

    /// One burst through every polled stage; returns the allocations within them.
    fn turn(&mut self, counts: bool) -> u64 {
        let mut allocated = 0;
        self.feed_flows(LEFT, 0);
        allocated += self.poll(IO, counts, counted::forward);
        self.expect(RIGHT, "forward");
        self.feed_flows(LEFT, 3 * BURST);
        allocated += self.poll(IO, counts, counted::keep_answers);
        self.expect(RIGHT, "keep_answers");
        self.feed_flows(LEFT, BURST);
        allocated += self.poll(IO, counts, counted::encapsulate);
        self.expect(UNDERLAY, "encapsulate");
        self.feed_flows(UNDERLAY, 0);
        allocated += self.poll(IO, counts, counted::decapsulate);
        self.expect(RIGHT, "decapsulate");
        self.feed_flows(LEFT, 2 * BURST);
        allocated += self.poll(IO, counts, counted::enter_chain);
        allocated += self.poll(NF, counts, counted::nf_hop);
        allocated += self.poll(IO, counts, counted::leave_chain);
        self.expect(RIGHT, "leave_chain");
        self.feed_strangers(STRANGERS);
        allocated += self.poll(IO, counts, counted::end_strangers);
        self.feed_strangers(REJECTED);
        allocated += self.poll(IO, counts, counted::end_rejected);
        allocated
    }

    fn poll(&mut self, lcore: usize, counts: bool, stage: fn(&mut dyn Poll, u64)) -> u64 {
        self.now_ns += 1_000;
        let (lcore, now_ns) = (self.lcores[lcore].as_mut(), self.now_ns);
        let before = allocations();
        if counts {
            stage(lcore, now_ns);
        } else {
            lcore.poll_once(now_ns);
        }
        allocations() - before
    }

    fn poll_all(&mut self) {
        self.now_ns += 1_000;
        let now_ns = self.now_ns;
        for lcore in &mut self.lcores {
            lcore.poll_once(now_ns);
        }
    }

    fn feed_flows(&mut self, port: usize, first: u32) {
        let frames: Vec<Vec<u8>> = (first..first + BURST)
            .map(|flow| if port == UNDERLAY { from_peer(flow, self.macs[port]) } else { frame(flow, self.macs[port]) })
            .collect();
        self.feed(port, &frames);
    }

    fn feed_strangers(&mut self, first: u32) {
        let frame = |stranger| Traffic::default().frame(0, Sender::Stranger(stranger), self.macs[LEFT]);
        let frames: Vec<Vec<u8>> = (first..first + BURST).map(frame).collect();
        self.feed(LEFT, &frames);
    }

    fn feed(&mut self, port: usize, frames: &[Vec<u8>]) {
        let mut burst = Burst::new();
        for mbuf in frames.iter().filter_map(|frame| self.mempool.alloc_from(frame)) {
            let _ = burst.push(mbuf); // at most one burst is fed at a time
        }
        self.ends[port].feed[0].enqueue_burst(&mut burst);
    }

    /// All of a burst came out there: a stage that drops packets would be cheap.
    fn expect(&mut self, port: usize, stage: &str) {
        let mut burst = Burst::new();
        let count = self.ends[port].drain[0].dequeue_burst(&mut burst);
        assert_eq!(count, BURST as usize, "of stage {stage} at port {}", NAMES[port]);
    }

    fn drain_all(&mut self) {
        let mut burst = Burst::new();
        for end in &mut self.ends {
            while end.drain[0].dequeue_burst(&mut burst) > 0 {
                burst.clear();
            }
        }
    }

    fn stop(&mut self) {
        self.lcores.iter_mut().for_each(|lcore| lcore.let_go());
        self.lcores.iter_mut().for_each(|lcore| lcore.drain_ring());
        self.drain_all();
    }
}

/// The single steps; returns their allocations.
fn steps(bursts: u32) -> Result<u64, SpeedError> {
    let frames: Vec<Vec<u8>> = (0..BURST).map(|flow| frame(flow, MacAddr::default())).collect();
    let parsed = frames.iter().map(|frame| headers::parse(frame).map(|found| (frame.clone(), found)));
    let mut parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|reason| failed("parse its own frame", reason))?;
    let keys: Vec<FlowKey> = (0..BURST).map(rules::key).collect();
    let mut exact = ExactTable::new(&Limits::default());
    for flow in 0..1_000 {
        if let Update::InsertExact(rule) = rules::exact(&Work::Deliver, flow) {
            exact.add(rule.key, FlowState::Active(rule.action), 0);
        }
    }
    let hop = last_hop()?;
    let key = |at: u32| TagKey { segment: VportId(at as u16), ..hop.key };
    let mut tags = TagTable::new(1_024);
    let inserted = (0..BURST).all(|at| tags.insert(TagRule { key: key(at), ..hop }));
    debug_assert!(inserted, "there is room for a burst of rules");
    let tag_keys: Vec<TagKey> = (0..BURST).map(key).collect();
    let outer = outer(MacAddr::default());
    let mut room = vec![0; outer.overhead()];
    let before = allocations();
    for turn in 0..bursts {
        counted::parse(&frames);
        counted::exact_hit(&mut exact, &keys);
        counted::tag_hit(&tags, &tag_keys);
        counted::set_dscp(&mut parsed, (turn % 64) as u8);
        counted::vxlan_header(&outer, &mut room, &frames);
    }
    Ok(allocations() - before)
}

fn frame(flow: u32, to: MacAddr) -> Vec<u8> {
    Traffic::default().frame(0, Sender::Flow(flow), to)
}

/// A frame as the other host sends it, for the servers' endpoint.
fn from_peer(flow: u32, to: MacAddr) -> Vec<u8> {
    let inner = build::with_traffic_class(frame(flow, MacAddr::of_vport(rules::SERVERS)), 1, Ecn::NotEct);
    let outer = outer(to);
    let mut whole = vec![0; outer.overhead()];
    let written = outer.write(&mut whole, &inner);
    debug_assert!(written.is_ok(), "the room is as long as the header");
    whole.extend_from_slice(&inner);
    whole
}

fn outer(to: MacAddr) -> Outer {
    Outer {
        source_mac: PEER_MAC,
        destination_mac: to,
        source: PEER_VTEP.into(),
        destination: VTEP.into(),
        source_port: 50_000,
        udp_port: packet::vxlan::UDP_PORT,
        vni: rules::vni(),
        dscp: 0,
        ecn: Ecn::NotEct,
    }
}

/// The rule of the only NF: on to the servers.
fn last_hop() -> Result<TagRule, SpeedError> {
    match rules::tags(1).pop() {
        Some((_, Update::InsertTag(rule))) => Ok(rule),
        _ => Err(failed("make a tag rule", "there is none")),
    }
}

fn from_tunnel() -> TagKey {
    let tag = Tag::new(1).expect("1 is a tag");
    TagKey { prior: VportId::TUNNEL, segment: rules::SERVERS, vni: rules::vni(), tag }
}

fn passthrough() -> Function {
    Function { name: "passthrough".to_owned(), config: serde_json::json!({}) }
}

fn mac(text: &str) -> MacAddr {
    let mut bytes = [0; 6];
    for (byte, digits) in bytes.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    MacAddr(bytes)
}

/// An I/O lcore with three ports and one passthrough. Without hugepages, and without vector code that an instruction counter
/// doesn't know.
fn launch() -> Launch {
    let port = |name: &str, mtu| PortLaunch {
        name: name.to_owned(),
        device: format!("net_ring_{name}"),
        mtu,
        lcore: IO,
        queues: 1,
        descriptors: 512,
    };
    let lcore = |role| LcoreLaunch { cpu: 0, role };
    Launch {
        host: "stages".to_owned(),
        eal: EalLaunch {
            memory_mib: 64,
            hugepages: false,
            share_cores: true,
            control_cpu: None,
            extra: vec!["--force-max-simd-bitwidth=128".to_owned()],
        },
        lcores: vec![lcore(RoleLaunch::Io), lcore(RoleLaunch::Nf(rules::nf(0, &passthrough())))],
        ports: vec![port("left", 1_500), port("right", 1_500), port("underlay", 1_600)],
        endpoints: vec![
            rules::endpoint(rules::CLIENTS, "clients", "left", 1),
            rules::endpoint(rules::SERVERS, "servers", "right", 2),
        ],
        tunnel: Some(rules::tunnel("underlay")),
        limits: Limits { mbufs: 4_095, ..Limits::default() },
    }
}
