//! A launched dataplane, lcores on threads of their own, and a controller on its socket: instances come and go under traffic,
//! fifty times. One process, one EAL.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::assembly::{OpenDevices, eal_config};
use dataplane::control;
use dataplane::launch::{Balance, Dataplane};
use dataplane::meta::{Burst, Mempool, Meta};
use dpdk::{Eal, MempoolConfig, RingPortConfig, RingPortEnds, SocketId};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use packet::{Direction, FlowKey, MacAddr, PathId, Tag, Vni, VportId, build, headers, neighbor};
use shm::attach::{Attached, Listener, Received, attach};
use shm::hello::{Control, LcoreReport, LcoreRole};
use shm::launch::*;
use shm::rules::*;
use tempfile::TempDir;

const CLIENTS: VportId = VportId(1);
const SERVERS: VportId = VportId(2);
const IO: usize = 0;
const SPARES: usize = 3;
const ROUNDS: usize = 50;
const PACKETS: usize = 32;
const SOON: Duration = Duration::from_secs(20);
const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);
const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);

fn vni() -> Vni {
    Vni::new(100).unwrap()
}

fn server() -> SocketAddr {
    SocketAddr::new([10, 2, 0, 2].into(), 80)
}

fn document(cpus: &[u16]) -> Launch {
    let port = |name: &str, device: &str| PortLaunch {
        name: name.to_owned(),
        device: device.to_owned(),
        mtu: 1_500,
        lcore: IO,
        queues: 1,
        descriptors: 512,
    };
    let endpoint = |vport, name: &str, port: &str, net: u8| EndpointLaunch {
        vport,
        name: format!("acme/{name}"),
        vni: vni(),
        attachment: Attachment::Port { port: port.to_owned(), vlan: None },
        prefixes: vec![format!("10.{net}.0.0/24").parse().unwrap()],
        next_hops: Vec::new(),
        answers: vec![format!("10.{net}.0.1/32").parse().unwrap()],
        gateways: vec![IpAddr::from([10, net, 0, 1])],
    };
    let mut lcores = vec![LcoreLaunch { cpu: cpus[0], role: RoleLaunch::Io }];
    lcores.extend((0..SPARES).map(|_| LcoreLaunch { cpu: cpus[0], role: RoleLaunch::Spare }));
    Launch {
        host: "launched".to_owned(),
        eal: EalLaunch { memory_mib: 96, hugepages: false, share_cores: true, control_cpu: None, extra: Vec::new() },
        lcores,
        ports: vec![port("left", "net_ring_left"), port("right", "net_ring_right"), port("noise", "net_null0")],
        endpoints: vec![endpoint(CLIENTS, "clients", "left", 1), endpoint(SERVERS, "servers", "right", 2)],
        tunnel: None,
        limits: Limits { mbufs: 8_191, ..Limits::default() },
    }
}

/// The document with the instance of this round, or without any.
fn with_instance(document: &Launch, round: Option<usize>, cpus: &[u16]) -> Launch {
    let mut document = document.clone();
    let Some(round) = round else { return document };
    let (function, config) = match round % 3 {
        0 => ("passthrough", serde_json::json!({})),
        1 => ("firewall", serde_json::json!({ "default": "allow" })),
        _ => ("tripwire", serde_json::json!({ "panic_on_port": 6_666 })),
    };
    let nf = NfLaunch {
        vport: vport_of(round),
        vni: vni(),
        instance: format!("acme/{function}/{round}"),
        function: function.to_owned(),
        config,
        mangles: false,
    };
    document.lcores[slot_of(round)] = LcoreLaunch { cpu: cpus[round % cpus.len()], role: RoleLaunch::Nf(nf) };
    document
}

fn slot_of(round: usize) -> usize {
    1 + round % SPARES
}

fn vport_of(round: usize) -> VportId {
    VportId(10 + (round % 7) as u16)
}

struct Rig {
    attached: Attached,
    client: RingPortEnds<Meta>,
    server: RingPortEnds<Meta>,
    macs: Vec<MacAddr>,
    mempool: Mempool,
    epoch: u64,
    path: PathBuf,
}

fn mac(text: &str) -> MacAddr {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    MacAddr(bytes.try_into().unwrap())
}

impl Rig {
    fn feed(&self, ends: &RingPortEnds<Meta>, port: usize, frame: &[u8], source: MacAddr) {
        let frame = build::with_addresses(frame.to_vec(), self.macs[port], source);
        let mut burst = Burst::default();
        assert!(burst.push(self.mempool.alloc_from(&frame).unwrap()).is_ok());
        assert_eq!(ends.feed[0].enqueue_burst(&mut burst), 1);
    }

    /// The server asks for its gateway, so that the host knows where it is.
    fn introduce_server(&mut self) {
        let mut request = vec![0; neighbor::MAX_LEN];
        let gateway = "10.2.0.1".parse().unwrap();
        let length = neighbor::write_request(&mut request, SERVER_MAC, server().ip(), gateway, None).unwrap();
        let mut burst = Burst::default();
        assert!(burst.push(self.mempool.alloc_from(&request[..length]).unwrap()).is_ok());
        assert_eq!(self.server.feed[0].enqueue_burst(&mut burst), 1);
        until("the host answers for the gateway", || drain(&mut self.server).len() == 1);
    }

    fn reconfigure(&mut self, launch: Launch) -> Result<Vec<LcoreReport>, String> {
        self.attached.stream.send(&Control::Reconfigure { launch: Box::new(launch) }).unwrap();
        match self.hear() {
            Control::Reconfigured { lcores, .. } => Ok(lcores),
            Control::NotReconfigured { reason } => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    /// Packets for what ends come in until it has ended.
    fn reconfigure_under_traffic(&mut self, launch: Launch, frame: &[u8]) -> Vec<LcoreReport> {
        (0..PACKETS).for_each(|_| self.feed(&self.client, 0, frame, CLIENT_MAC));
        self.attached.stream.send(&Control::Reconfigure { launch: Box::new(launch) }).unwrap();
        let mut reports = None;
        until("the instance has ended", || {
            if self.mempool.available() > 512 {
                self.feed(&self.client, 0, frame, CLIENT_MAC);
            }
            drain(&mut self.server);
            if let Received::Message(message) = self.attached.stream.receive().unwrap() {
                let Control::Reconfigured { lcores, .. } = message else { panic!("{message:?}") };
                reports = Some(lcores);
            }
            reports.is_some()
        });
        reports.unwrap()
    }

    fn hear(&mut self) -> Control {
        let mut poll = Poll::new().unwrap();
        let fd = self.attached.stream.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
        let mut events = Events::with_capacity(4);
        loop {
            match self.attached.stream.receive().unwrap() {
                Received::Message(message) => return message,
                Received::Nothing => {
                    poll.poll(&mut events, Some(SOON)).unwrap();
                    assert!(!events.is_empty(), "the dataplane does not answer");
                }
                Received::Closed => panic!("the dataplane is gone"),
            }
        }
    }

    /// One batch for one lcore, and its answer.
    fn update(&mut self, lcore: usize, update: Update) {
        self.epoch += 1;
        let link = &mut self.attached.lcores[lcore];
        for update in [update, Update::Commit(Epoch(self.epoch))] {
            assert!(link.updates.push(&update).unwrap());
        }
        let answer = Event::Committed(Epoch(self.epoch));
        until("the lcore commits", || self.attached.lcores[lcore].events.pop().unwrap() == Some(answer));
    }

    /// Rules for a flow of its own through the round's instance.
    fn steer(&mut self, round: usize) -> Vec<u8> {
        let frame = build::udp(SocketAddr::new([10, 1, 0, 2].into(), 1_000 + round as u16), server(), b"through");
        let (via, tag) = (vport_of(round), Tag::new(1).unwrap());
        let key = TagKey { prior: via, segment: via, vni: vni(), tag };
        let action = TagAction {
            direction: Direction::Forward,
            next: Next::Vport(SERVERS),
            delivery: Delivery::None,
            path: PathId(1),
            counter: 0,
        };
        self.update(slot_of(round), Update::InsertTag(TagRule { key, action }));
        let key = FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&frame).unwrap().five_tuple };
        let action = ExactAction {
            vni: vni(),
            tag,
            direction: Direction::Forward,
            next: Next::Vport(via),
            delivery: Delivery::None,
            path: PathId(1),
            path_mtu: 1_500,
        };
        self.update(IO, Update::InsertExact(ExactRule { key, action }));
        frame
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + SOON;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        dpdk::clock::yield_now();
    }
}

fn drain(ends: &mut RingPortEnds<Meta>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut burst = Burst::default();
    while ends.drain[0].dequeue_burst(&mut burst) > 0 {
        frames.extend(burst.drain().map(|mbuf| mbuf.data().to_vec()));
    }
    frames
}

/// How many packets of a round's flow came out.
fn arrivals(ends: &mut RingPortEnds<Meta>, round: usize) -> usize {
    let port = |frame: &Vec<u8>| headers::parse(frame).map(|found| found.five_tuple.source_port);
    drain(ends).iter().filter(|frame| port(frame) == Ok(1_000 + round as u16)).count()
}

/// What the kernel says of a lcore's thread.
fn thread_of(lcore: usize, field: &str) -> String {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).ok());
    let value = |status: &str, name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    let name = format!("worker-{}", lcore + 1); // EAL numbers the control thread 0
    let found: Vec<String> =
        statuses.filter(|status| value(status, "Name:").ends_with(&name)).map(|status| value(&status, field)).collect();
    assert_eq!(found.len(), 1, "one thread named {name}");
    found[0].clone()
}

#[test]
fn instances_come_and_go_on_running_lcores_and_every_mbuf_comes_back() {
    let cpus: Vec<u16> = dpdk::cpu::allowed().into_iter().collect();
    let document = document(&cpus);
    let (mut rig, dataplane, _directory) = launch(&document);
    rig.introduce_server();
    for round in 0..ROUNDS {
        let reports = rig.reconfigure(with_instance(&document, Some(round), &cpus)).unwrap();
        let report = &reports[slot_of(round)];
        assert_eq!((report.role, report.vport), (LcoreRole::Nf, Some(vport_of(round))), "round {round}");
        assert_eq!(
            thread_of(slot_of(round), "Cpus_allowed_list:"),
            cpus[round % cpus.len()].to_string(),
            "round {round}"
        );
        let frame = rig.steer(round);
        (0..PACKETS).for_each(|_| rig.feed(&rig.client, 0, &frame, CLIENT_MAC));
        let mut arrived = 0;
        until("all packets pass the new instance", || {
            arrived += arrivals(&mut rig.server, round);
            arrived == PACKETS
        });
        let reports = rig.reconfigure_under_traffic(document.clone(), &frame);
        assert!(reports[1..].iter().all(|report| report.role == LcoreRole::Spare), "round {round}");
        let switches = |lcore| thread_of(lcore, "voluntary_ctxt_switches:");
        until("the spare lcore rests", || thread_of(slot_of(round), "State:").starts_with('S'));
        let rested = switches(slot_of(round));
        drain(&mut rig.server);
        rig.reconfigure(document.clone()).unwrap();
        assert_eq!(switches(slot_of(round)), rested, "a spare lcore's thread does not wake up, round {round}");
    }
    refusals_reach_the_controller(&mut rig, &document, &cpus);
    let mut rig = the_next_controller_sees_what_runs(rig, &document, &cpus);
    // It is told to end in the middle of a reconfiguration.
    let unfinished = Control::Reconfigure { launch: Box::new(with_instance(&document, Some(2), &cpus)) };
    rig.attached.stream.send(&unfinished).unwrap();
    rig.attached.stream.send(&Control::Shutdown).unwrap();
    let balance = dataplane.join().unwrap();
    assert!(balance.is_even(), "{balance}");
    drain(&mut rig.server);
    drain(&mut rig.client);
    assert_eq!(rig.mempool.in_use(), 0);
    shm::snapshot::check_conservation(&rig.attached.counters.snapshots()).unwrap();
}

fn refusals_reach_the_controller(rig: &mut Rig, document: &Launch, cpus: &[u16]) {
    let mut limits = document.clone();
    limits.limits.flows = 7;
    let reason = rig.reconfigure(limits).unwrap_err();
    assert!(reason.contains("limits.flows is 65536 in the running dataplane and 7"), "{reason}");
    let mut wrong = with_instance(document, Some(0), cpus);
    let RoleLaunch::Nf(nf) = &mut wrong.lcores[1].role else { panic!("it is there") };
    nf.function = "router".to_owned();
    let reason = rig.reconfigure(wrong).unwrap_err();
    assert!(reason.contains("there is no function `router`"), "{reason}");
    // Three at once: the second waits for the first, the third is refused at once or waits too, by how fast the first is.
    for _ in 0..3 {
        rig.attached.stream.send(&Control::Reconfigure { launch: Box::new(document.clone()) }).unwrap();
    }
    let answers: Vec<Control> = (0..3).map(|_| rig.hear()).collect();
    let done = answers.iter().filter(|answer| matches!(answer, Control::Reconfigured { .. })).count();
    assert!(done >= 2, "{answers:?}");
}

fn the_next_controller_sees_what_runs(mut rig: Rig, document: &Launch, cpus: &[u16]) -> Rig {
    let wanted = with_instance(document, Some(1), cpus);
    rig.reconfigure(wanted.clone()).unwrap();
    let Rig { attached, client, server, macs, mempool, epoch, path } = rig;
    drop(attached);
    let attached = attach(&path, SOON).unwrap().open().unwrap();
    assert_eq!(attached.hello.launch, wanted);
    assert_eq!(attached.hello.lcores[slot_of(1)].instance.as_deref(), Some("acme/firewall/1"));
    assert!(!attached.hello.lcores[slot_of(1)].nf_counters.is_empty());
    let mut rig = Rig { attached, client, server, macs, mempool, epoch, path };
    let frame = rig.steer(1);
    rig.feed(&rig.client, 0, &frame, CLIENT_MAC);
    until("the packet passes", || arrivals(&mut rig.server, 1) == 1);
    rig
}

/// Everything up: EAL, ports, lcores, the control thread at its socket, and a controller.
fn launch(document: &Launch) -> (Rig, JoinHandle<Balance>, TempDir) {
    let eal = Eal::init(eal_config(document).unwrap()).unwrap();
    let config = MempoolConfig { name: "harness".to_owned(), count: 1_023, ..MempoolConfig::default() };
    let mempool = Mempool::new(&eal, &config).unwrap();
    let mut devices = OpenDevices::new();
    let mut open = |name: &str| {
        let (name, capacity, socket) = (name.to_owned(), 1_024, SocketId::ANY);
        let config = RingPortConfig { name: name.clone(), rx_queues: 1, tx_queues: 1, capacity, socket };
        let (device, ends) = eal.ring_port(&config).unwrap();
        devices.insert(name, device);
        ends
    };
    let (client, server) = (open("left"), open("right"));
    let mut dataplane = Dataplane::with_devices(eal, document, devices).unwrap();
    let macs = dataplane.hello().ports.iter().map(|port| mac(&port.mac)).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/dataplane.sock");
    let listener = Listener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let mut signals = control::signals().unwrap();
        control::serve(&mut dataplane, listener, &mut signals).unwrap();
        dataplane.stop()
    });
    let attached = attach(&path, SOON).unwrap().open().unwrap();
    (Rig { attached, client, server, macs, mempool, epoch: 0, path }, thread, directory)
}
