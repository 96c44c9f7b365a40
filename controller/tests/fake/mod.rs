//! A dataplane without packets: the real door, rings and counters of `shm`, tables that are maps, and a side door
//! (`<run-dir>/fake.sock`, one JSON line per command, one per answer) through which a test makes things happen.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use packet::{FiveTuple, FlowKey, PathId, VportId};
use serde::{Deserialize, Serialize};
use shm::attach::{ControlStream, Listener, Received};
use shm::capture::{CaptureHeader, CaptureSide};
use shm::counters::CountersWriter;
use shm::hello::{Control, HELLO_VERSION, Hello, LcoreReport, LcoreRole, PortReport};
use shm::launch::{Launch, RoleLaunch};
use shm::link::LcoreLink;
use shm::rules::{Event, ExactRule, TagKey, TagRule, Update};

/// How long a test waits for something before it fails.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What a test can have done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A lcore reports the first packet of each of these flows.
    Miss(usize, Vec<FlowKey>),
    /// A lcore has learned a rule.
    Learn(usize, ExactRule),
    /// A flow ended.
    Expire(usize, FlowKey),
    /// An instance panicked.
    Fail(usize, VportId),
    /// A tag rule that nobody asked for.
    AddTag(usize, TagRule),
    /// A tag rule is lost.
    DropTag(usize, TagKey),
    /// A frame passes a vport.
    Frame(usize, VportId, Vec<u8>),
    /// Refuse the next batch that has more than so many updates.
    RefuseAbove(usize),
    /// Refuse to become another dataplane, for this reason; or don't any more.
    RefuseLaunch(Option<String>),
    /// Take nothing from the rings until told otherwise.
    Hold(bool),
    /// An instance rewrote a flow.
    Rewrite(usize, FlowKey, FiveTuple),
    /// A flow was found on two paths.
    Violate(usize, FlowKey, PathId, PathId),
    /// What is in the tables.
    Tables,
}

/// What is in the tables, and what was said.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tables {
    /// This process.
    pub pid: u32,
    /// Exact rules of all lcores.
    pub exact: Vec<(usize, ExactRule, bool)>,
    /// Tag rules of all lcores.
    pub tags: Vec<(usize, TagRule)>,
    /// Flows that were rejected.
    pub rejected: Vec<FlowKey>,
    /// Sizes of the batches that were committed.
    pub batches: Vec<usize>,
    /// What the batches brought, in order: `tag`, `exact`, `untag`.
    pub story: Vec<String>,
    /// vports that are captured.
    pub captured: Vec<VportId>,
    /// The instances that run, by lcore.
    pub instances: Vec<(usize, String)>,
    /// How often it became another dataplane.
    pub reconfigured: usize,
}

#[derive(Default)]
struct Lcore {
    exact: HashMap<FlowKey, (ExactRule, bool)>,
    tags: BTreeMap<TagKey, TagRule>,
    staged: Vec<Update>,
    link: Option<LcoreLink>,
    counters: Option<CountersWriter>,
}

#[derive(Default)]
struct World {
    lcores: Vec<Lcore>,
    /// Lcores that run something.
    awake: Vec<usize>,
    tables: Tables,
    refuse_above: Option<usize>,
    refuse_launch: Option<String>,
    hold: bool,
}

fn reports(launch: &Launch) -> Vec<LcoreReport> {
    let report = |(index, lcore): (usize, &shm::launch::LcoreLaunch)| {
        let nf = match &lcore.role {
            RoleLaunch::Nf(nf) => Some(nf),
            RoleLaunch::Io | RoleLaunch::Spare => None,
        };
        LcoreReport {
            index,
            cpu: lcore.cpu,
            cpu_shared: false,
            socket: Some(0),
            mempool_socket: Some(0),
            role: match lcore.role {
                RoleLaunch::Io => LcoreRole::Io,
                RoleLaunch::Nf(_) => LcoreRole::Nf,
                RoleLaunch::Spare => LcoreRole::Spare,
            },
            instance: nf.map(|nf| nf.instance.clone()),
            vport: nf.map(|nf| nf.vport),
            nf_counters: nf.map(|_| vec!["passed".to_owned()]).unwrap_or_default(),
        }
    };
    launch.lcores.iter().enumerate().map(report).collect()
}

fn hello(launch: Launch) -> Hello {
    let port = |port: &shm::launch::PortLaunch| PortReport {
        name: port.name.clone(),
        device: port.device.clone(),
        driver: "fake".into(),
        mac: "02:00:00:00:00:01".into(),
        socket: None,
        mtu: port.mtu,
        queues: port.queues,
        link_up: true,
    };
    Hello {
        version: HELLO_VERSION,
        pid: std::process::id(),
        started_unix_ns: 0,
        clock_offset_ns: 0,
        lcores: reports(&launch),
        ports: launch.ports.iter().map(port).collect(),
        launch,
        warnings: Vec::new(),
    }
}

/// Runs until it is told to end.
pub fn run(launch: &Path, socket: &Path) {
    let launch: Launch = serde_json::from_slice(&std::fs::read(launch).unwrap()).unwrap();
    let mut listener = Listener::bind(socket).unwrap();
    if let Some(words) = std::env::var_os("FAKE_ENDS") {
        // The real one listens before its ports are there, too.
        let _waits = std::os::unix::net::UnixStream::connect(socket);
        eprintln!("error: {}", words.display());
        std::process::exit(1);
    }
    let count = launch.lcores.len();
    let (counters_fd, writers) = shm::counters::create(count).unwrap();
    let lcores = writers.into_iter().map(|counters| Lcore { counters: Some(counters), ..Lcore::default() }).collect();
    let tables = Tables { pid: std::process::id(), ..Tables::default() };
    let world = Arc::new(Mutex::new(World { lcores, tables, ..World::default() }));
    serve_side_door(&socket.with_file_name("fake.sock"), Arc::clone(&world));
    let mut hello = hello(launch);
    world.lock().unwrap().occupy(&hello.lcores);
    let mut stream: Option<ControlStream> = None;
    let started = Instant::now();
    // A test that died must not leave this process behind.
    while started.elapsed() < Duration::from_secs(120) {
        if let Ok(Some(newcomer)) = listener.accept() {
            let (fds, links) = shm::link::create(count).unwrap();
            let mut world = world.lock().unwrap();
            for (lcore, link) in world.lcores.iter_mut().zip(links) {
                lcore.link = Some(link);
                lcore.staged.clear();
            }
            stream = newcomer.greet(&hello, &fds, &counters_fd).ok();
        }
        match stream.as_mut().map(ControlStream::receive) {
            Some(Ok(Received::Message(Control::Shutdown))) => return,
            Some(Ok(Received::Message(Control::Reconfigure { launch }))) => {
                let answer = world.lock().unwrap().become_this(&mut hello, *launch);
                stream.as_mut().unwrap().send(&answer).unwrap();
            }
            Some(Ok(Received::Closed) | Err(_)) => stream = None,
            _ => {}
        }
        world.lock().unwrap().turn();
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn instances(lcores: &[LcoreReport]) -> Vec<(usize, String)> {
    lcores.iter().filter_map(|lcore| Some((lcore.index, lcore.instance.clone()?))).collect()
}

fn serve_side_door(path: &Path, world: Arc<Mutex<World>>) {
    let _ = std::fs::remove_file(path);
    let door = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in door.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|count| count > 0) {
                let order: Order = serde_json::from_str(&line).unwrap();
                let answer = world.lock().unwrap().obey(order);
                let mut answer = serde_json::to_string(&answer).unwrap();
                answer.push('\n');
                if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                    break;
                }
                line.clear();
            }
        }
    });
}

impl World {
    fn say(&mut self, lcore: usize, event: Event) {
        if let Some(link) = &mut self.lcores[lcore].link {
            assert!(link.events.push(&event).unwrap());
            link.doorbell.ring_if_waiting();
        }
    }

    fn obey(&mut self, order: Order) -> Tables {
        match order {
            Order::Miss(lcore, keys) => {
                let event = |key| Event::FlowMiss { key, tcp_flags: 2, length: 60, received_ns: 1 };
                let events: Vec<Event> = keys.into_iter().map(event).collect();
                if let Some(link) = &mut self.lcores[lcore].link {
                    // Shown to the controller all at once.
                    assert_eq!(link.events.push_batch(&events).unwrap(), events.len());
                    link.doorbell.ring_if_waiting();
                }
            }
            Order::Learn(lcore, rule) => drop(self.lcores[lcore].exact.insert(rule.key, (rule, true))),
            Order::Expire(lcore, key) => {
                if let Some((rule, _)) = self.lcores[lcore].exact.remove(&key) {
                    self.say(lcore, Event::FlowExpired { key, path: rule.action.path, packets: 1, bytes: 60 });
                }
            }
            Order::Fail(lcore, vport) => self.say(lcore, Event::NfFailed(vport)),
            Order::AddTag(lcore, rule) => drop(self.lcores[lcore].tags.insert(rule.key, rule)),
            Order::DropTag(lcore, key) => drop(self.lcores[lcore].tags.remove(&key)),
            Order::Frame(lcore, vport, bytes) => self.frame(lcore, vport, &bytes),
            Order::RefuseAbove(count) => self.refuse_above = Some(count),
            Order::RefuseLaunch(reason) => self.refuse_launch = reason,
            Order::Hold(hold) => self.hold = hold,
            Order::Rewrite(lcore, key, became) => self.say(lcore, Event::FlowRewritten { key, became }),
            Order::Violate(lcore, key, expected, found) => {
                if let Some(counters) = &self.lcores[lcore].counters {
                    counters.audited_packets.add(10);
                    counters.affinity_violations.add(1);
                }
                self.say(lcore, Event::AffinityViolation { key, expected, found });
            }
            Order::Tables => {}
        }
        let mut tables = self.tables.clone();
        for (index, lcore) in self.lcores.iter().enumerate() {
            tables.exact.extend(lcore.exact.values().map(|(rule, learned)| (index, *rule, *learned)));
            tables.tags.extend(lcore.tags.values().map(|rule| (index, *rule)));
        }
        tables
    }

    fn frame(&mut self, lcore: usize, vport: VportId, bytes: &[u8]) {
        if let (true, Some(link)) = (self.tables.captured.contains(&vport), &mut self.lcores[lcore].link) {
            let original_length = bytes.len() as u32;
            let header = CaptureHeader {
                vport,
                side: CaptureSide::Out,
                original_length,
                realtime_ns: 1_700_000_000_000_000_001,
            };
            assert!(link.captures.push(&header, bytes).unwrap());
            link.doorbell.ring_if_waiting();
        }
    }

    /// As the real one: what can't change while it runs must not.
    fn become_this(&mut self, hello: &mut Hello, launch: Launch) -> Control {
        let was = &hello.launch;
        let same = (&was.eal, &was.ports, &was.limits) == (&launch.eal, &launch.ports, &launch.limits);
        if let Some(reason) = self.refuse_launch.clone() {
            return Control::NotReconfigured { reason };
        }
        if !same || was.lcores.len() != launch.lcores.len() {
            return Control::NotReconfigured { reason: "what can't change would".into() };
        }
        (hello.lcores, hello.launch) = (reports(&launch), launch);
        self.occupy(&hello.lcores);
        self.tables.reconfigured += 1;
        Control::Reconfigured { lcores: hello.lcores.clone(), warnings: Vec::new() }
    }

    /// Spare lcores read nothing and have no tables; what was said to one before is thrown away when it starts.
    fn occupy(&mut self, lcores: &[LcoreReport]) {
        self.tables.instances = instances(lcores);
        let awake = lcores.iter().filter(|lcore| lcore.role != LcoreRole::Spare).map(|lcore| lcore.index).collect();
        let before: Vec<usize> = std::mem::replace(&mut self.awake, awake);
        for (index, lcore) in self.lcores.iter_mut().enumerate() {
            if !self.awake.contains(&index) {
                lcore.exact.clear();
                lcore.tags.clear();
                lcore.staged.clear();
            } else if !before.contains(&index) {
                while let Some(Ok(Some(_))) = lcore.link.as_mut().map(|link| link.updates.pop()) {}
            }
        }
    }

    fn turn(&mut self) {
        if self.hold {
            return;
        }
        for index in self.awake.clone() {
            while let Some(Ok(Some(update))) = self.lcores[index].link.as_mut().map(|link| link.updates.pop()) {
                self.hear(index, update);
            }
        }
    }

    fn hear(&mut self, index: usize, update: Update) {
        match update {
            Update::Commit(epoch) => {
                let batch = std::mem::take(&mut self.lcores[index].staged);
                if self.refuse_above.is_some_and(|limit| batch.len() > limit) {
                    self.refuse_above = None;
                    self.say(index, Event::Refused { epoch, reason: shm::rules::Refusal::ExactTableFull });
                    return;
                }
                self.tables.batches.push(batch.len());
                batch.into_iter().for_each(|update| self.apply(index, update));
                if let Some(counters) = &self.lcores[index].counters {
                    counters.epoch.set(epoch.0);
                }
                self.say(index, Event::Committed(epoch));
            }
            Update::ReadBack(number) => {
                let exact: Vec<_> = self.lcores[index].exact.values().copied().collect();
                let tags: Vec<_> = self.lcores[index].tags.values().copied().collect();
                for (rule, learned) in exact {
                    self.say(index, Event::Exact { rule, learned, packets: 3, bytes: 180, idle_ms: 4 });
                }
                tags.into_iter().for_each(|rule| self.say(index, Event::TagInstalled(rule)));
                self.say(index, Event::ReadBackDone(number));
            }
            Update::StartCapture { vport, .. } => self.tables.captured.push(vport),
            Update::StopCapture(vport) => self.tables.captured.retain(|other| *other != vport),
            staged => self.lcores[index].staged.push(staged),
        }
    }

    fn apply(&mut self, index: usize, update: Update) {
        let lcore = &mut self.lcores[index];
        match update {
            Update::InsertExact(rule) => {
                lcore.exact.insert(rule.key, (rule, false));
                self.tables.story.push("exact".into());
            }
            Update::RemoveExact(key) => drop(lcore.exact.remove(&key)),
            Update::RejectFlow(key) => self.tables.rejected.push(key),
            Update::InsertTag(rule) => {
                lcore.tags.insert(rule.key, rule);
                self.tables.story.push("tag".into());
            }
            Update::RemoveTag(key) => {
                lcore.tags.remove(&key);
                self.tables.story.push("untag".into());
            }
            other => panic!("{other:?} belongs to no batch"),
        }
    }
}

/// The test's end of the side door.
pub struct SideDoor {
    path: PathBuf,
}

impl SideDoor {
    pub fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join("fake.sock") }
    }

    /// Does it; waits for a dataplane to be there.
    pub fn order(&self, order: &Order) -> Tables {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.try_order(order) {
                Ok(tables) => return tables,
                Err(error) => assert!(Instant::now() < deadline, "no fake dataplane answers: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_order(&self, order: &Order) -> std::io::Result<Tables> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.write_all((serde_json::to_string(order)? + "\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// The tables, once they are as the test wants them.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Tables) -> bool) -> Tables {
        let deadline = Instant::now() + LIMIT;
        loop {
            let tables = self.order(&Order::Tables);
            if wanted(&tables) {
                return tables;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {tables:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
