//! A whole dataplane on ring ports, polled by hand: one I/O lcore with a client's and a server's port, a passthrough and a
//! mangler. The test is the link, the client, the server and the controller, so every step is in its hands.
//!
//! The chain is clients (vport 1) → passthrough (3) → mangler (4) → servers (2).

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod peer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane::assembly::{Assembly, OpenDevices, eal_config};
use dataplane::change::ReconfigureError;
use dataplane::lcore::{self, Poll};
use dataplane::meta::{Mempool, Meta};
use dataplane::roster::{MadeFunction, NotStarted, Started};
use dpdk::{Eal, RingPortConfig, RingPortEnds, SocketId};
use packet::neighbor::{self, NeighborMessage};
use packet::{Direction, DropReason, FlowKey, MacAddr, PathId, Tag, Vni, VportId};
use shm::counters::CountersReader;
use shm::launch::*;
use shm::link::{self, ControllerLink};
use shm::rules::*;
use shm::snapshot::LcoreSnapshot;

pub const CLIENTS: VportId = VportId(1);
pub const SERVERS: VportId = VportId(2);
pub const PASS: VportId = VportId(3);
pub const MANGLER: VportId = VportId(4);
pub const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);
const MILLISECOND_NS: u64 = 1_000_000;

/// Where on the host the lcores are in the launch document.
pub const IO: usize = 0;
pub const PASS_LCORE: usize = 1;
pub const MANGLER_LCORE: usize = 2;

pub struct Rig {
    pub assembly: Assembly,
    pub client: RingPortEnds<Meta>,
    pub server: RingPortEnds<Meta>,
    pub links: Vec<ControllerLink>,
    pub now_ns: u64,
    mempool: Mempool,
    /// Allocations that lcores made while they moved to another topology.
    pub moving_allocations: u64,
    macs: Vec<MacAddr>,
    epoch: u64,
    eal: Eal,
}

pub fn vni() -> Vni {
    Vni::new(100).unwrap()
}

pub fn client(port: u16) -> SocketAddr {
    SocketAddr::new([10, 1, 0, 2].into(), port)
}

pub fn server() -> SocketAddr {
    SocketAddr::new([10, 2, 0, 2].into(), 80)
}

pub fn endpoint(vport: VportId, name: &str, port: &str, net: u8) -> EndpointLaunch {
    EndpointLaunch {
        vport,
        name: format!("acme/{name}"),
        vni: vni(),
        attachment: Attachment::Port { port: port.to_owned(), vlan: None },
        prefixes: vec![format!("10.{net}.0.0/24").parse().unwrap()],
        next_hops: Vec::new(),
        answers: vec![format!("10.{net}.0.1/32").parse().unwrap()],
        gateways: vec![IpAddr::V4(Ipv4Addr::new(10, net, 0, 1))],
    }
}

pub fn instance(vport: VportId, function: &str, config: serde_json::Value, mangles: bool) -> LcoreLaunch {
    let nf = NfLaunch {
        vport,
        vni: vni(),
        instance: format!("acme/{function}/1"),
        function: function.to_owned(),
        config,
        mangles,
    };
    LcoreLaunch { cpu: 0, role: RoleLaunch::Nf(nf) }
}

pub fn launch(limits: Limits) -> Launch {
    let port = |name: &str| PortLaunch {
        name: name.to_owned(),
        device: format!("net_ring_{name}"),
        mtu: 1_500,
        lcore: IO,
        queues: 1,
        descriptors: 512,
    };
    Launch {
        host: "rig".to_owned(),
        eal: EalLaunch { memory_mib: 64, hugepages: false, share_cores: true, control_cpu: None, extra: Vec::new() },
        lcores: vec![
            LcoreLaunch { cpu: 0, role: RoleLaunch::Io },
            instance(PASS, "passthrough", serde_json::json!({}), false),
            instance(MANGLER, "mangler", serde_json::json!({ "pool": ["10.9.0.0/24"] }), true),
        ],
        ports: vec![port("left"), port("right")],
        endpoints: vec![endpoint(CLIENTS, "clients", "left", 1), endpoint(SERVERS, "servers", "right", 2)],
        tunnel: None,
        limits,
    }
}

fn mac(text: &str) -> MacAddr {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    MacAddr(bytes.try_into().unwrap())
}

pub fn tag(value: u8) -> Tag {
    Tag::new(value).unwrap()
}

/// A tag rule: out of `prior`, which at the tunnel is told apart by `segment`.
pub fn hop(
    (vni, value): (Vni, u8),
    (prior, segment): (VportId, VportId),
    next: impl Into<Hop>,
    (direction, delivery): (Direction, Delivery),
    path: u32,
) -> Update {
    let key = TagKey { prior, segment, vni, tag: tag(value) };
    let action = TagAction { direction, next: next.into().0, delivery, path: PathId(path), counter: 0 };
    Update::InsertTag(TagRule { key, action })
}

/// A head's rule, forward.
pub fn head(key: FlowKey, (vni, value): (Vni, u8), next: impl Into<Hop>, delivery: Delivery, path: u32) -> Update {
    let (direction, next) = (Direction::Forward, next.into().0);
    let action = ExactAction { vni, tag: tag(value), direction, next, delivery, path: PathId(path), path_mtu: 1_500 };
    Update::InsertExact(ExactRule { key, action })
}

/// What a forward end keeps.
pub fn learn(value: u8, next: impl Into<Hop>, ends_here: bool, path: u32) -> Delivery {
    Delivery::Learn(ReverseHead {
        tag: tag(value),
        next: next.into().0,
        ends_here,
        path: PathId(path),
        path_mtu: 1_500,
    })
}

/// Where to: a vport here, or one at another host.
pub struct Hop(Next);

impl From<VportId> for Hop {
    fn from(vport: VportId) -> Self {
        Self(Next::Vport(vport))
    }
}

impl From<(IpAddr, VportId)> for Hop {
    fn from((vtep, next): (IpAddr, VportId)) -> Self {
        Self(Next::Tunnel { vtep, next })
    }
}

impl Rig {
    pub fn new(limits: Limits) -> Self {
        Self::with(launch(limits))
    }

    /// The rig with another launch document; its ports must still be `left` and `right`.
    pub fn with(mut launch: Launch) -> Self {
        launch.limits.mbufs = 4_095;
        let eal = Eal::init(eal_config(&launch).unwrap()).unwrap();
        let mut devices = OpenDevices::new();
        let mut ends = Vec::new();
        for name in ["left", "right"] {
            let config = RingPortConfig {
                name: name.to_owned(),
                rx_queues: 1,
                tx_queues: 1,
                capacity: 1_024,
                socket: SocketId::ANY,
            };
            let (device, end) = eal.ring_port(&config).unwrap();
            devices.insert(name.to_owned(), device);
            ends.push(end);
        }
        let assembly = Assembly::build(&eal, &launch, devices).unwrap();
        let macs = assembly.roster.hello.ports.iter().map(|port| mac(&port.mac)).collect();
        let server = ends.pop().unwrap();
        let client = ends.pop().unwrap();
        let mempool = assembly.roster.mempools().next().unwrap().clone();
        let mut rig = Self {
            assembly,
            client,
            server,
            links: Vec::new(),
            now_ns: 0,
            mempool,
            moving_allocations: 0,
            macs,
            epoch: 0,
            eal,
        };
        rig.attach();
        rig
    }

    /// A controller attaches; the one before it, if any, is gone.
    pub fn attach(&mut self) {
        let (fds, lcores, memory) = self.assembly.roster.link().unwrap();
        self.assembly.roster.attach(lcores, memory);
        self.links = link::open(fds).unwrap().0;
        self.poll();
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Box<dyn Poll>> {
        self.assembly.lcores.iter_mut().flatten()
    }

    /// Polls every lcore until a round finds nothing to do.
    pub fn poll(&mut self) {
        for _ in 0..1_000 {
            self.now_ns += 1_000;
            let now_ns = self.now_ns;
            let worked = self.running().fold(false, |any, lcore| lcore.poll_once(now_ns) | any);
            if !worked {
                return;
            }
        }
        panic!("the lcores never come to rest");
    }

    /// Becomes what this document says, as the threads of a launched dataplane would; each staying lcore
    /// is polled once, those that end when all others have moved.
    pub fn reconfigure(&mut self, wanted: Launch) -> Result<(), ReconfigureError> {
        self.reconfigure_by(wanted, |nf| nf::create(&nf.function, &nf.config, &nf.instance))
    }

    /// The same with another maker of functions.
    pub fn reconfigure_by(
        &mut self,
        wanted: Launch,
        make: impl Fn(&NfLaunch) -> MadeFunction,
    ) -> Result<(), ReconfigureError> {
        let Assembly { roster, lcores } = &mut self.assembly;
        let mut prepared = roster.prepare(&self.eal, wanted)?;
        let (mut started, mut refused) = (Vec::new(), None);
        for start in prepared.starts.drain(..) {
            match start.build_by(&make) {
                Ok(made) => started.push(made),
                Err(NotStarted { lcore, slot, reason }) => {
                    roster.keep(lcore, slot);
                    refused = refused.or(Some(*reason));
                }
            }
        }
        if let Some(refused) = refused {
            started.into_iter().for_each(|Started { lcore, poll, .. }| roster.vacate(lcore, poll));
            return Err(refused);
        }
        let ends = prepared.ends.clone();
        let staying = roster.switch(prepared, &started);
        for Started { lcore, poll, .. } in started {
            lcores[lcore] = Some(poll);
        }
        for lcore in staying {
            assert!(!self.assembly.roster.has_moved(lcore));
            self.moving_allocations += allocation_counter::measure(|| self.poll_only(lcore)).count_total;
            assert!(self.assembly.roster.has_moved(lcore), "one poll is all that it takes");
        }
        let ended: Vec<_> = ends.into_iter().map(|end| (end, self.assembly.lcores[end].take().unwrap())).collect();
        let stopped = ended.into_iter().map(|(end, mut poll)| {
            lcore::finish(poll.as_mut(), || self.now_ns);
            poll.let_go();
            (end, poll)
        });
        let stopped: Vec<_> = stopped.collect();
        stopped.into_iter().for_each(|(end, poll)| self.assembly.roster.vacate(end, poll));
        self.assembly.roster.settle();
        Ok(())
    }

    /// The document in force, to be changed.
    pub fn document(&self) -> Launch {
        self.assembly.roster.hello.launch.clone()
    }

    /// Polls one lcore once.
    pub fn poll_only(&mut self, lcore: usize) {
        self.now_ns += 1_000;
        self.assembly.lcores[lcore].as_mut().unwrap().poll_once(self.now_ns);
    }

    /// Lets time pass.
    pub fn wait_ms(&mut self, duration_ms: u64) {
        for _ in 0..duration_ms {
            self.now_ns += MILLISECOND_NS;
            self.poll();
        }
    }

    pub fn from_client(&self, frame: &[u8]) {
        self.feed(&self.client, IO, frame, CLIENT_MAC);
    }

    pub fn from_server(&self, frame: &[u8]) {
        self.feed(&self.server, IO + 1, frame, SERVER_MAC);
    }

    /// The address of the client's (0) or the server's (1) port.
    pub fn mac(&self, port: usize) -> MacAddr {
        self.macs[port]
    }

    fn feed(&self, ends: &RingPortEnds<Meta>, port: usize, frame: &[u8], source: MacAddr) {
        let frame = packet::build::with_addresses(frame.to_vec(), self.macs[port], source);
        self.feed_raw(ends, &frame);
    }

    /// Puts a frame on a link as it is.
    pub fn feed_raw(&self, ends: &RingPortEnds<Meta>, frame: &[u8]) {
        let mut burst = dpdk::Burst::new();
        assert!(burst.push(self.mempool.alloc_from(frame).unwrap()).is_ok());
        assert_eq!(ends.feed[0].enqueue_burst(&mut burst), 1);
    }

    pub fn to_client(&mut self) -> Vec<Vec<u8>> {
        drain(&mut self.client)
    }

    pub fn to_server(&mut self) -> Vec<Vec<u8>> {
        drain(&mut self.server)
    }

    /// Answers the ARP request that waits on the server's link; returns how many there were, and the other frames.
    pub fn answer_arp(&mut self, from_server: bool) -> (usize, Vec<Vec<u8>>) {
        let frames = if from_server { self.to_server() } else { self.to_client() };
        let mut others = Vec::new();
        let mut answered = 0;
        for frame in frames {
            let Some(NeighborMessage::Request { asker: Some((asker, mac)), target }) = neighbor::parse(&frame) else {
                others.push(frame);
                continue;
            };
            let mut reply = vec![0; neighbor::MAX_LEN];
            let own = if from_server { SERVER_MAC } else { CLIENT_MAC };
            let length = neighbor::write_reply(&mut reply, own, target, mac, asker).unwrap();
            self.feed_raw(if from_server { &self.server } else { &self.client }, &reply[..length]);
            answered += 1;
        }
        self.poll();
        (answered, others)
    }

    /// Sends updates to a lcore as one batch.
    pub fn update(&mut self, lcore: usize, updates: &[Update]) {
        self.epoch += 1;
        let link = &mut self.links[lcore];
        for update in updates.iter().chain(&[Update::Commit(Epoch(self.epoch))]) {
            assert!(link.updates.push(update).unwrap());
        }
    }

    pub fn events(&mut self, lcore: usize) -> Vec<Event> {
        std::iter::from_fn(|| self.links[lcore].events.pop().unwrap()).collect()
    }

    /// The tag rules of the chain, as the controller installs them before any flow.
    pub fn install_tag_rules(&mut self) {
        let rule = |prior, value, direction, next, delivery, counter| {
            let key = TagKey { prior, segment: prior, vni: vni(), tag: tag(value) };
            let next = Next::Vport(next);
            Update::InsertTag(TagRule {
                key,
                action: TagAction { direction, next, delivery, path: PathId(1), counter },
            })
        };
        let answers =
            ReverseHead { tag: tag(2), next: Next::Vport(PASS), ends_here: false, path: PathId(1), path_mtu: 1_500 };
        let forward = rule(PASS, 1, Direction::Forward, MANGLER, Delivery::Learn(answers), 0);
        let reverse = rule(PASS, 2, Direction::Reverse, CLIENTS, Delivery::Refresh, 1);
        self.update(PASS_LCORE, &[forward, reverse]);
        self.poll();
    }

    /// The rule of a flow's first subchain.
    pub fn head_rule(key: FlowKey) -> Update {
        Update::InsertExact(ExactRule {
            key,
            action: ExactAction {
                vni: vni(),
                tag: tag(1),
                direction: Direction::Forward,
                next: Next::Vport(PASS),
                delivery: Delivery::None,
                path: PathId(1),
                path_mtu: 1_500,
            },
        })
    }

    /// The rule of a flow behind the mangler.
    pub fn mangled_rule(key: FlowKey) -> Update {
        let answers =
            ReverseHead { tag: tag(4), next: Next::Vport(MANGLER), ends_here: true, path: PathId(2), path_mtu: 1_500 };
        Update::InsertExact(ExactRule {
            key,
            action: ExactAction {
                vni: vni(),
                tag: tag(3),
                direction: Direction::Forward,
                next: Next::Vport(SERVERS),
                delivery: Delivery::Learn(answers),
                path: PathId(2),
                path_mtu: 1_500,
            },
        })
    }

    /// Answers every flow miss of both heads, as the controller would; returns how many there were.
    pub fn answer_misses(&mut self) -> usize {
        let mut answered = 0;
        for lcore in [IO, MANGLER_LCORE] {
            for event in self.events(lcore) {
                if let Event::FlowMiss { key, .. } = event {
                    let rule = if lcore == IO { Self::head_rule(key) } else { Self::mangled_rule(key) };
                    self.update(lcore, &[rule]);
                    answered += 1;
                }
            }
        }
        self.poll();
        answered
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        let reader = CountersReader::open(&self.assembly.roster.counters).unwrap();
        reader.snapshots().iter().map(|lcore| lcore.dropped(reason)).sum()
    }

    pub fn snapshot(&self, lcore: usize) -> LcoreSnapshot {
        CountersReader::open(&self.assembly.roster.counters).unwrap().snapshot(lcore).unwrap()
    }

    /// A count over all lcores.
    pub fn total(&self, count: impl Fn(&LcoreSnapshot) -> u64) -> u64 {
        CountersReader::open(&self.assembly.roster.counters).unwrap().snapshots().iter().map(count).sum()
    }

    /// Packets that went into a vport so far.
    pub fn into_vport(&self, vport: VportId) -> u64 {
        self.total(|lcore| lcore.vports.get(&vport.0).map_or(0, |counts| counts.in_packets))
    }

    /// The flows that a lcore asks for.
    pub fn misses(&mut self, lcore: usize) -> Vec<FlowKey> {
        let key = |event| if let Event::FlowMiss { key, .. } = event { Some(key) } else { None };
        self.events(lcore).into_iter().filter_map(key).collect()
    }

    /// received + originated = transmitted + Σ drops + held, and nothing is held once everything is let go.
    pub fn assert_conservation(&mut self) {
        self.poll();
        let reader = CountersReader::open(&self.assembly.roster.counters).unwrap();
        if let Err(leak) = shm::snapshot::check_conservation(&reader.snapshots()) {
            panic!("{leak}");
        }
    }

    /// Ends the dataplane and checks that every mbuf came back.
    pub fn finish(mut self) {
        self.assert_conservation();
        self.running().for_each(|lcore| lcore.let_go());
        self.running().for_each(|lcore| lcore.drain_ring());
        self.to_client();
        self.to_server();
        let Assembly { lcores, roster } = self.assembly;
        drop(lcores);
        for mempool in roster.mempools() {
            assert_eq!(mempool.in_use(), 0, "mbufs are missing");
        }
    }
}

fn drain(ends: &mut RingPortEnds<Meta>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut burst = dpdk::Burst::new();
    while ends.drain[0].dequeue_burst(&mut burst) > 0 {
        frames.extend(burst.drain().map(|mbuf| mbuf.data().to_vec()));
    }
    frames
}
