//! The in-process rig behind [`crate::in_process`]: the forwarder's real lcores and the controller's real threads in this
//! process, joined to the harness by two ring ports.
//!
//! ```text
//! harness ─► ring port "left" ─► I/O lcore ─► NF lcores ─► I/O lcore ─► ring port "right" ─► harness
//!                                   │  ▲
//!                              miss ▼  │ rule          (shared-memory rings, as between two processes)
//!                                 controller
//! ```
//!
//! Where CPUs are few, one thread is the harness and polls the lcores in turn, and the flow thread has the other CPU (`by_hand`).
//!
//! Each flow has a source address and port of its own, so every first packet misses. The harness also plays the server's
//! host: it answers the forwarder's ARP requests. Times are read from the CPU's time stamp counter.

mod by_hand;
pub mod stages;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use controller::api::{Client, DataplaneState, Request, Response, SOCKET_NAME};
use controller::options::Options as ControllerOptions;
use controller::{compose, config, process, server, steering};
use dataplane::assembly::{OpenDevices, eal_config};
use dataplane::control;
use dataplane::launch::{Balance, Dataplane};
use dataplane::meta::{Burst, Mempool, Meta};
use dpdk::{Clock, Eal, MempoolConfig, RingPortConfig, RingPortEnds, SocketId, clock};
use packet::headers::{self, Headers};
use packet::neighbor::{self, NeighborMessage};
use packet::{MacAddr, build};
use shm::attach::Listener;
use shm::launch::Launch;

use self::by_hand::ByHand;
use crate::cpu_time::{Still, Watch};
use crate::in_process::{Cores, Options, RigError};
use crate::path::{Packet, Path, PathError, PathFacts, Received, Taken};
use crate::report::Latency;
use crate::stalls;

const HOST: &str = "bench";
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 2, 0, 2)), 9_000);
const SERVER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
const CLIENT_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
/// The address that DPDK gives to every ring port.
const RING_MAC: MacAddr = MacAddr([0; 6]);
/// Distinct source ports and, above them, distinct addresses of 10.1.0.0/16.
const PORTS: u64 = 50_000;
const FIRST_PORT: u64 = 1_024;
const ADDRESSES: u64 = 65_000;
/// Where a flow's number stands in the payload of an Ethernet, IPv4 and UDP frame.
const UDP_CHECKSUM: usize = 14 + 20 + 6;
const SOURCE_PORT: usize = 14 + 20;
const PAYLOAD: usize = 14 + 20 + 8;
const PAYLOAD_LEN: usize = 18;
const RING: u32 = 4_096;
/// How often the harness looks whether the flow thread goes on.
const LOOK_EVERY_NS: u64 = 10_000;
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// The running rig.
pub struct Rig {
    clock: Clock,
    mempool: Mempool,
    left: RingPortEnds<Meta>,
    right: RingPortEnds<Meta>,
    template: Vec<u8>,
    template_headers: Headers,
    outgoing: Burst,
    incoming: Burst,
    options: Options,
    hugepages: bool,
    watches: Watches,
    /// Last, so that it goes last: it has EAL.
    machinery: Machinery,
}

/// Who stands still, where one thread has the harness and the lcores, and the flow thread never sleeps.
#[derive(Default)]
struct Watches {
    harness: Watch,
    flows: Watch,
    /// When to look at the flow thread next. Each look takes a line of memory from it.
    due_ns: u64,
}

impl Watches {
    #[inline]
    fn look(&mut self, by_hand: &ByHand, now_ns: u64) {
        self.harness.look_at_clock(now_ns);
        if now_ns >= self.due_ns
            && let Some(turns) = by_hand.flows.turns()
        {
            self.due_ns = now_ns + LOOK_EVERY_NS;
            self.flows.look(turns, now_ns);
        }
    }
}

/// What forwards and what answers flow misses.
enum Machinery {
    ByHand(Box<ByHand>),
    Threads(Threads),
}

/// The forwarder's control thread and the controller's main thread, which have started the others.
struct Threads {
    directory: PathBuf,
    dataplane: Option<JoinHandle<Result<Balance, String>>>,
    controller: Option<JoinHandle<Result<(), String>>>,
}

/// CPUs of a rig.
#[derive(Debug, Clone, Copy)]
struct Cpus {
    /// The first lcore's, from where on the others count.
    io: usize,
    controller: u16,
    all: usize,
}

impl Cpus {
    fn of(options: &Options) -> Self {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        match options.cores {
            Cores::PolledInTurn | Cores::Counted => Self { io: all - 1, controller: 0, all },
            Cores::Own => Self { io: 0, controller: (all - 1) as u16, all },
            Cores::Shared => Self { io: 0, controller: 0, all },
        }
    }
}

impl Rig {
    /// Builds and starts everything, and waits until flow misses are answered.
    pub fn open(options: &Options) -> Result<Self, RigError> {
        let cpus = Cpus::of(options);
        let config = config::parse("bench.yaml", &yaml(options, cpus))
            .map_err(|error| failed("read the rig's configuration", &error))?;
        let composition = compose::compose(&config, &compose::State::default(), None)
            .map_err(|error| failed("compose the rig's chain", &error))?;
        let launch = process::launch_now(&composition.hosts[0].launch, composition.hosts[0].hugepages);
        let eal = eal_config(&launch).map_err(|error| failed("launch", &error))?;
        let eal = Eal::init(eal).map_err(|error| failed("start DPDK", &error))?;
        let clock = Clock::new(&eal);
        let own = MempoolConfig { name: "harness".to_owned(), count: 16_383, ..MempoolConfig::default() };
        let mempool = Mempool::new(&eal, &own).map_err(|error| failed("make the harness's mempool", &error))?;
        let mut devices = OpenDevices::new();
        let left = ring_port(&eal, "left", &mut devices)?;
        let right = ring_port(&eal, "right", &mut devices)?;
        let template = template(RING_MAC);
        let template_headers =
            headers::parse(&template).map_err(|reason| failed("parse the harness's frame", &reason))?;
        let machinery = match options.cores {
            Cores::PolledInTurn | Cores::Counted => {
                let cpu = (options.cores == Cores::PolledInTurn).then_some(cpus.controller);
                Machinery::ByHand(Box::new(ByHand::start(eal, (config, composition), &launch, devices, cpu)?))
            }
            Cores::Own | Cores::Shared => Machinery::Threads(Threads::start(eal, &launch, devices, options, cpus)?),
        };
        Ok(Self {
            clock,
            mempool,
            left,
            right,
            template,
            template_headers,
            outgoing: Burst::new(),
            incoming: Burst::new(),
            options: options.clone(),
            hugepages: launch.eal.hugepages,
            watches: Watches::default(),
            machinery,
        })
    }

    fn answer_arp(&mut self, frame: &[u8]) {
        let Some(NeighborMessage::Request { asker: Some((asker, mac)), target }) = neighbor::parse(frame) else {
            return;
        };
        let mut reply = [0; neighbor::MAX_LEN];
        let Some(length) = neighbor::write_reply(&mut reply, SERVER_MAC, target, mac, asker) else { return };
        let mut burst = Burst::new();
        if let Some(mbuf) = self.mempool.alloc_from(&reply[..length]) {
            let _ = burst.push(mbuf); // an empty burst has room
        }
        self.right.feed[0].enqueue_burst(&mut burst);
    }
}

impl Path for Rig {
    fn now_ns(&self) -> u64 {
        self.clock.ns(clock::tsc())
    }

    fn stalls(&self, length: Duration) -> Option<Latency> {
        Some(stalls::watch(|| self.now_ns(), length))
    }

    fn send(&mut self, packet: Packet) -> Result<Taken, PathError> {
        if packet.flow / PORTS >= ADDRESSES {
            let remedy = "start a new run".to_owned();
            return Err(PathError::FlowsExhausted { flows: PORTS * ADDRESSES, remedy });
        }
        if self.outgoing.is_full() {
            self.flush()?;
        }
        let Some(mut mbuf) = self.mempool.alloc_from(&self.template).filter(|_| !self.outgoing.is_full()) else {
            return Ok(Taken::NotNow);
        };
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 1, 0).to_bits() + (packet.flow / PORTS) as u32);
        let port = (FIRST_PORT + packet.flow % PORTS) as u16;
        let mut headers = self.template_headers;
        let frame = mbuf.data_mut();
        headers::rewrite_source(frame, &mut headers, address.into());
        frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
        frame[PAYLOAD..PAYLOAD + 8].copy_from_slice(&packet.flow.to_be_bytes());
        frame[PAYLOAD + 8] = packet.sequence;
        let _ = self.outgoing.push(mbuf); // it has room, see above
        Ok(Taken::Yes)
    }

    fn flush(&mut self) -> Result<(), PathError> {
        self.left.feed[0].enqueue_burst(&mut self.outgoing);
        Ok(())
    }

    fn poll(&mut self, until_ns: u64, received: &mut dyn FnMut(Received)) -> Result<(), PathError> {
        self.flush()?;
        let mut incoming = std::mem::take(&mut self.incoming);
        loop {
            if let Machinery::ByHand(lcores) = &mut self.machinery {
                lcores.poll_once();
            }
            self.right.drain[0].dequeue_burst(&mut incoming);
            let (at_ns, empty) = (self.now_ns(), incoming.is_empty());
            if let Machinery::ByHand(by_hand) = &self.machinery {
                self.watches.look(by_hand, at_ns);
            }
            for mbuf in incoming.drain() {
                match probe(mbuf.data()) {
                    Some((flow, sequence)) => received(Received { flow, sequence, at_ns }),
                    None => self.answer_arp(mbuf.data()),
                }
            }
            if !empty || at_ns >= until_ns {
                break;
            }
            if self.options.cores == Cores::Shared {
                clock::yield_now();
            }
        }
        self.incoming = incoming;
        match &self.machinery {
            Machinery::Threads(threads) if threads.has_ended() => {
                Err(PathError::Failed("the forwarder has stopped".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn standstills(&mut self) -> Vec<(String, Still)> {
        let Watches { harness, flows, .. } = &mut self.watches;
        let (harness, flows) = (harness.take(), flows.take());
        if !matches!(self.machinery, Machinery::ByHand(_)) {
            return Vec::new();
        }
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default().trim().to_owned();
        vec![(name, harness), (steering::THREAD.to_owned(), flows)]
    }

    fn facts(&self) -> PathFacts {
        let chain = if self.options.chain.is_empty() { "no NF".to_owned() } else { self.options.chain.join(" → ") };
        let polled = match self.options.cores {
            Cores::Counted => ", all of it on one thread",
            Cores::PolledInTurn => ", all lcores and the harness polled in turn on one CPU, the controller on another",
            Cores::Own | Cores::Shared => "",
        };
        PathFacts {
            description: format!("in process: ring port → {chain} → ring port{polled}"),
            share_cores: Some(self.options.cores == Cores::Shared),
            hugepages: Some(self.hugepages),
        }
    }
}

impl Threads {
    fn start(eal: Eal, launch: &Launch, devices: OpenDevices, options: &Options, cpus: Cpus) -> Result<Self, RigError> {
        let directory = run_directory()?;
        let file = directory.join("bench.yaml");
        std::fs::write(&file, yaml(options, cpus)).map_err(|error| failed("write the configuration", &error))?;
        let mut dataplane =
            Dataplane::with_devices(eal, launch, devices).map_err(|error| failed("launch the forwarder", &error))?;
        let listener = Listener::bind(&directory.join("dataplane.sock"))
            .map_err(|error| failed("listen for the controller", &error))?;
        let dataplane = std::thread::spawn(move || {
            let mut signals = control::signals().map_err(|error| error.to_string())?;
            control::serve(&mut dataplane, listener, &mut signals).map_err(|error| error.to_string())?;
            Ok(dataplane.stop())
        });
        let controller_options = controller_options(&file, &directory);
        let controller = std::thread::spawn(move || server::run(controller_options).map_err(|error| error.to_string()));
        let mut threads = Self { directory, dataplane: Some(dataplane), controller: Some(controller) };
        threads.wait_until_ready()?;
        Ok(threads)
    }

    fn wait_until_ready(&mut self) -> Result<(), RigError> {
        let socket = self.directory.join(SOCKET_NAME);
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            if self.controller.as_ref().is_some_and(JoinHandle::is_finished) {
                let said = self.controller.take().map(JoinHandle::join);
                return Err(RigError::Failed { step: "start the controller", problem: format!("{said:?}") });
            }
            let status = Client::connect(&socket).and_then(|mut client| client.call(&Request::Status));
            if let Ok(Response::Status(status)) = status
                && status.dataplane.state == DataplaneState::Attached
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(RigError::Failed { step: "start the controller", problem: "it was not ready within 20 s".to_owned() })
    }

    fn has_ended(&self) -> bool {
        self.dataplane.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let ask = Client::connect(&self.directory.join(SOCKET_NAME));
        let asked = ask.and_then(|mut client| client.call(&Request::Shutdown { keep_dataplane: false }));
        if asked.is_ok() {
            let _ = self.controller.take().map(JoinHandle::join); // its errors were logged
            let balance = self.dataplane.take().map(JoinHandle::join);
            if let Some(Ok(Ok(balance))) = balance
                && !balance.is_even()
            {
                eprintln!("warning: {balance}");
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn failed(step: &'static str, problem: &dyn std::fmt::Display) -> RigError {
    RigError::Failed { step, problem: problem.to_string() }
}

/// A directory of this run's own, closed to others.
fn run_directory() -> Result<PathBuf, RigError> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = std::env::temp_dir().join(format!("towpath-bench-{}", std::process::id()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
    made.map_err(|error| failed("make a directory for sockets", &error))?;
    Ok(directory)
}

fn yaml(options: &Options, cpus: Cpus) -> String {
    let nf = |index: usize| format!("nf{index}");
    let names: Vec<String> = (0..options.chain.len()).map(nf).collect();
    let definitions: String =
        options.chain.iter().enumerate().map(|(index, function)| definition(index, function)).collect();
    let instance = |index: usize| {
        let cpu = match options.cores {
            Cores::PolledInTurn | Cores::Counted => cpus.io,
            Cores::Own => cpus.io + index + 1,
            Cores::Shared => (index + 1) % cpus.all,
        };
        format!("      - {{nf: nf{index}, host: {HOST}, cpu: {cpu}}}\n")
    };
    let instances: String = (0..options.chain.len()).map(instance).collect();
    let lists = if options.chain.is_empty() {
        String::new()
    } else {
        format!("    nfs:\n{definitions}    instances:\n{instances}")
    };
    let others = match options.cores {
        Cores::PolledInTurn | Cores::Counted => format!(", control: {}", cpus.io), // the thread that starts EAL is the one that polls
        Cores::Own => format!(", controller: {}", cpus.controller),
        Cores::Shared => String::new(),
    };
    format!(
        "version: 1\nhosts:\n  {HOST}:\n    cpus: {{io: {io}{others}}}\n    share_cores: {share}\n    hugepages: {huge}\n    \
         eal: {eal}\n    memory_mib: 256\n    ports:\n      left: {{device: net_ring_left}}\n      right: {{device: net_ring_right}}\n    \
         limits: {{flows: {flows}, parked: 16384, udp_idle_s: 1, mbufs: {mbufs}, ring: 32768}}\n\
         tenants:\n  bench:\n    vni: 1\n    endpoints:\n      \
         clients: {{host: {HOST}, port: left, prefixes: [10.1.0.0/16], gateways: [10.1.0.1]}}\n      \
         servers: {{host: {HOST}, port: right, prefixes: [10.2.0.0/24], gateways: [10.2.0.1]}}\n{lists}    chains:\n      \
         probe: {{from: clients, to: servers, select: {{protocol: udp}}, through: [{through}]}}\n",
        io = cpus.io,
        share = options.cores != Cores::Own,
        huge = match (options.cores, options.hugepages) {
            (Cores::Counted, _) => "false",
            (_, true) => "true",
            (_, false) => "auto",
        },
        // An instruction counter does not know the newest vector code.
        eal = if options.cores == Cores::Counted { "[--force-max-simd-bitwidth=128]" } else { "[]" },
        flows = if options.cores == Cores::Counted { 65_536 } else { 2_097_152 },
        mbufs = if options.cores == Cores::Counted { 16_383 } else { 65_535 },
        through = names.join(", "),
    )
}

fn definition(index: usize, function: &str) -> String {
    let config = match function {
        "firewall" => "{default: allow, connections: 262144}",
        "mangler" => "{pool: [10.9.0.0/24], mappings: 262144}",
        _ => "{}",
    };
    format!("      nf{index}: {{function: {function}, config: {config}}}\n")
}

fn ring_port(eal: &Eal, name: &str, devices: &mut OpenDevices) -> Result<RingPortEnds<Meta>, RigError> {
    let config =
        RingPortConfig { name: name.to_owned(), rx_queues: 1, tx_queues: 1, capacity: RING, socket: SocketId::ANY };
    let (device, ends) = eal.ring_port(&config).map_err(|error| failed("make a ring port", &error))?;
    devices.insert(name.to_owned(), device);
    Ok(ends)
}

/// A 60-byte frame, without a UDP checksum (RFC 768 allows that over IPv4).
fn template(gateway: MacAddr) -> Vec<u8> {
    let client = SocketAddr::new(Ipv4Addr::new(10, 1, 1, 0).into(), FIRST_PORT as u16);
    let mut frame = build::with_addresses(build::udp(client, SERVER, &[0; PAYLOAD_LEN]), gateway, CLIENT_MAC);
    frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
    frame
}

/// The flow and the packet's place in it, if the frame is one of the harness's.
fn probe(frame: &[u8]) -> Option<(u64, u8)> {
    let payload = frame.get(PAYLOAD..PAYLOAD + PAYLOAD_LEN)?;
    if frame.get(12..14)? != [0x08, 0x00] || frame.get(23)? != &packet::protocol::UDP {
        return None;
    }
    Some((u64::from_be_bytes(*payload.first_chunk()?), *payload.get(8)?))
}

fn controller_options(file: &FilePath, directory: &FilePath) -> ControllerOptions {
    ControllerOptions {
        host: HOST.to_owned(),
        config: file.to_owned(),
        key_file: None,
        run_dir: Some(directory.to_owned()),
        dataplane: None,
        sysfs: "/sys".into(),
        replace: false,
        keep_dataplane: false,
        spin: false, // `cpus.controller` says it where there is a CPU for it
        log: "warn".to_owned(),
    }
}
