//! Hosts, their written records and the network between them, simulated: whatever happens in whatever order, the invariants
//! hold after every step, and once faults stop all hosts go by one version.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::compose::State;

fn times() -> Times {
    Times { prepare_ms: 100, install_ms: 200, activate_ms: 100, lost_ms: 150, repeat_ms: 20, forget_again_ms: 500 }
}

fn document(version: u64, text: &str) -> Document {
    let (file, operations, state) = ("f.yaml".to_owned(), Vec::new(), State::default());
    Document { version, file, yaml: text.to_owned(), operations, state }
}

fn composed(document: &Document) -> String {
    digest(&("composed", &document.yaml))
}

/// A controller: its machine while it runs, what it wrote down, what it does for the machine.
struct Host {
    machine: Option<Machine>,
    record: Record,
    runs: u64,
    /// Tasks under way.
    tasks: VecDeque<(Task, Option<Document>)>,
    /// What is installed beside what is active.
    installed: Option<Document>,
    /// What heads go by.
    heads: Document,
    outcomes: Vec<Result<Vec<String>, Refusal>>,
    news: Vec<String>,
    avoided: BTreeMap<String, Vec<String>>,
    forgettable: Vec<packet::PathId>,
    /// The next task of this kind is answered by no.
    refuses: bool,
}

struct World {
    names: Vec<String>,
    hosts: BTreeMap<String, Host>,
    /// By sender and receiver.
    wires: BTreeMap<(String, String), VecDeque<Message>>,
    connected: BTreeSet<(String, String)>,
    now_ms: u64,
    /// Every document that was ever active, by version.
    ever: BTreeMap<u64, BTreeSet<Stamp>>,
    proposals: u64,
}

fn pair(a: &str, b: &str) -> (String, String) {
    if a < b { (a.to_owned(), b.to_owned()) } else { (b.to_owned(), a.to_owned()) }
}

impl World {
    fn new(count: usize) -> Self {
        let names: Vec<String> = (1..=count).map(|number| format!("host{number}")).collect();
        let first = document(1, "first");
        let host = |name: &String| {
            let record = Record { active: first.clone(), installed: None, refused: Vec::new() };
            let host = Host {
                machine: None,
                record,
                runs: 0,
                tasks: VecDeque::new(),
                installed: None,
                heads: first.clone(),
                outcomes: Vec::new(),
                news: Vec::new(),
                avoided: BTreeMap::new(),
                forgettable: Vec::new(),
                refuses: false,
            };
            (name.clone(), host)
        };
        let hosts = names.iter().map(host).collect();
        let mut world = Self {
            names: names.clone(),
            hosts,
            wires: BTreeMap::new(),
            connected: BTreeSet::new(),
            now_ms: 0,
            ever: BTreeMap::new(),
            proposals: 0,
        };
        names.iter().for_each(|name| world.start(name));
        world
    }

    fn start(&mut self, name: &str) {
        let names = self.names.clone();
        let host = self.hosts.get_mut(name).unwrap();
        if host.machine.is_some() {
            return;
        }
        host.runs += 1;
        host.heads = host.record.active.clone();
        host.installed = host.record.installed.as_ref().map(|installed| installed.document.clone());
        let digest = composed(&host.record.active);
        host.machine = Some(Machine::new(name, &names, host.record.clone(), digest, host.runs, times()));
    }

    fn crash(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        host.machine = None;
        host.tasks.clear();
        for other in self.names.clone() {
            if other != name {
                self.disconnect(name, &other);
            }
        }
    }

    /// It ends while it does what a letter, or time, makes it do.
    fn die(&mut self, name: &str, limit: usize) {
        let letter = self.wires.iter_mut().find(|((_, to), wire)| to == name && !wire.is_empty());
        let input = match letter.and_then(|((from, _), wire)| Some((from.clone(), wire.pop_front()?))) {
            Some((from, message)) => Input::Heard(from, message),
            None => Input::Tick,
        };
        self.input_until(name, input, limit);
        self.crash(name);
    }

    fn runs(&self, name: &str) -> bool {
        self.hosts[name].machine.is_some()
    }

    fn connect(&mut self, a: &str, b: &str) {
        if a != b && self.runs(a) && self.runs(b) && self.connected.insert(pair(a, b)) {
            self.input(a, Input::Connected(b.to_owned()));
            self.input(b, Input::Connected(a.to_owned()));
        }
    }

    fn disconnect(&mut self, a: &str, b: &str) {
        if self.connected.remove(&pair(a, b)) {
            self.input(a, Input::Disconnected(b.to_owned()));
            self.input(b, Input::Disconnected(a.to_owned()));
        }
    }

    fn input(&mut self, name: &str, input: Input) {
        self.input_until(name, input, usize::MAX);
    }

    /// Does only so many of the actions, then crashes.
    fn input_until(&mut self, name: &str, input: Input, limit: usize) {
        let now = self.now_ms;
        let Some(machine) = self.hosts.get_mut(name).unwrap().machine.as_mut() else { return };
        let actions = machine.handle(now, input);
        let cut = actions.len() > limit;
        actions.into_iter().take(limit).for_each(|action| self.act(name, action));
        if cut {
            self.crash(name);
        }
        self.check();
    }

    fn act(&mut self, name: &str, action: Action) {
        let host = self.hosts.get_mut(name).unwrap();
        match action {
            Action::Send(to, message) => {
                if self.connected.contains(&pair(name, &to)) {
                    self.wires.entry((name.to_owned(), to)).or_default().push_back(message);
                }
            }
            Action::Persist(record) => {
                self.ever.entry(record.active.version).or_default().insert(record.active.stamp());
                host.record = *record;
            }
            Action::Check { task, document, composed: theirs, .. } => {
                assert_eq!(theirs, composed(&document));
                host.tasks.push_back((task, None));
            }
            Action::Install { task, document, composed: theirs, .. } => {
                assert_eq!(theirs, composed(&document));
                host.tasks.push_back((task, Some(*document)));
            }
            Action::Activate { task } => {
                let next = host.installed.take();
                let next = next.unwrap_or_else(|| panic!("{name} activates what it has not installed"));
                assert_eq!(next, host.record.active, "{name} activates what it has not written down");
                host.heads = next;
                host.tasks.push_back((task, None));
            }
            Action::Withdraw => {
                host.installed = None;
                host.tasks.clear();
            }
            Action::Done(outcome) => host.outcomes.push(outcome),
            Action::News(line) => host.news.push(line),
            Action::Avoid(host_name, instances) => drop(host.avoided.insert(host_name, instances)),
            Action::Forget(paths) => host.forgettable = paths,
            Action::Progress(..) => {}
        }
    }

    fn finish_task(&mut self, name: &str, ok: bool) {
        let host = self.hosts.get_mut(name).unwrap();
        let Some((task, document)) = host.tasks.pop_front() else { return };
        let ok = ok && !host.refuses;
        let result = if ok {
            Ok(())
        } else {
            Err(Refusal {
                host: name.to_owned(),
                reasons: vec!["no core is free".into()],
                needs_restart: false,
                is_busy: false,
            })
        };
        if ok && let Some(document) = document {
            host.installed = Some(document);
        }
        self.input(name, Input::Local(task, result));
    }

    fn deliver(&mut self, from: &str, to: &str, repeat: bool, limit: usize) {
        let Some(wire) = self.wires.get_mut(&(from.to_owned(), to.to_owned())) else { return };
        let Some(message) = wire.pop_front() else { return };
        if repeat {
            wire.push_back(message.clone());
        }
        self.input_until(to, Input::Heard(from.to_owned(), message), limit);
    }

    fn propose(&mut self, name: &str) {
        let Some(machine) = &self.hosts[name].machine else { return };
        self.proposals += 1;
        let document = document(machine.active().version + 1, &format!("text {}", self.proposals));
        self.propose_this(name, document, false);
    }

    fn propose_this(&mut self, name: &str, document: Document, settle: bool) {
        let composed = composed(&document);
        let document = Box::new(document);
        self.input(name, Input::Propose { document, composed, allow_restart: false, settle });
    }

    /// What must always hold.
    fn check(&self) {
        for (version, stamps) in &self.ever {
            assert!(stamps.len() == 1, "version {version} has been several documents: {stamps:?}");
        }
        let newest = self.hosts.values().map(|host| &host.record.active).max_by_key(|active| active.version).unwrap();
        for (name, host) in &self.hosts {
            let has = host.record.active == *newest;
            let waits = host.record.installed.as_ref().is_some_and(|installed| installed.document == *newest);
            assert!(has || waits, "version {} is active, and {name} has not installed it", newest.version);
        }
    }

    /// No more faults: everything runs, everybody hears everybody, tasks succeed.
    fn settle(&mut self) {
        self.settle_without("");
    }

    /// The same while this host stays dead.
    fn settle_without(&mut self, dead: &str) {
        let names: Vec<String> = self.names.iter().filter(|name| *name != dead).cloned().collect();
        for _ in 0..80 {
            self.now_ms += 25;
            for name in &names {
                self.start(name);
                names.iter().for_each(|other| self.connect(name, other));
                self.input(name, Input::Tick);
            }
            self.run_dry();
        }
    }

    /// What each host that is still open to both outcomes says of it.
    fn waits(&self) -> Vec<String> {
        self.hosts.values().filter_map(|host| host.machine.as_ref()?.waits_for()).collect()
    }

    /// Until nothing is on its way.
    fn run_dry(&mut self) {
        let names = self.names.clone();
        for _ in 0..10_000 {
            let busy: Vec<(String, String)> =
                self.wires.iter().filter(|(_, wire)| !wire.is_empty()).map(|(key, _)| key.clone()).collect();
            busy.iter().for_each(|(from, to)| self.deliver(from, to, false, usize::MAX));
            names.iter().for_each(|name| self.finish_task(name, true));
            let tasks = self.hosts.values().any(|host| !host.tasks.is_empty());
            if busy.is_empty() && !tasks {
                return;
            }
        }
        panic!("hosts talk without end");
    }

    fn versions(&self) -> Vec<u64> {
        self.hosts.values().map(|host| host.heads.version).collect()
    }

    fn assert_one_version(&self) {
        self.assert_one_version_without("");
    }

    fn assert_one_version_without(&self, dead: &str) {
        let living = || self.hosts.iter().filter(|(name, _)| *name != dead);
        let mut stamps: Vec<Stamp> = living().map(|(_, host)| host.heads.stamp()).collect();
        stamps.dedup();
        assert_eq!(stamps.len(), 1, "hosts go by {stamps:?}");
        for (name, host) in living() {
            assert!(host.record.installed.is_none(), "{name} still waits");
            assert!(!host.machine.as_ref().unwrap().is_busy(), "{name} is still busy");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Deliver { wire: usize, repeat: bool, limit: usize },
    Finish { task: usize, ok: bool },
    Propose(usize),
    Crash(usize),
    Start(usize),
    Connect(usize, usize),
    Disconnect(usize, usize),
    Pass(u64),
    Tick(usize),
}

/// Hosts and the network do well; letters and work take their time, up to this much.
fn undisturbed(pause_ms: u64) -> impl Strategy<Value = Step> {
    let host = 0..5_usize;
    prop_oneof![
        30 => (0..64_usize).prop_map(|wire| Step::Deliver { wire, repeat: false, limit: usize::MAX }),
        14 => (0..64_usize).prop_map(|task| Step::Finish { task, ok: true }),
        3 => host.clone().prop_map(Step::Propose),
        1 => (1..pause_ms).prop_map(Step::Pass),
        2 => host.prop_map(Step::Tick),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let host = 0..5_usize;
    let limit = prop_oneof![20 => Just(usize::MAX), 1 => 0..4_usize];
    prop_oneof![
        30 => (0..64_usize, prop::bool::weighted(0.1), limit)
            .prop_map(|(wire, repeat, limit)| Step::Deliver { wire, repeat, limit }),
        14 => (0..64_usize, prop::bool::weighted(0.95)).prop_map(|(task, ok)| Step::Finish { task, ok }),
        3 => host.clone().prop_map(Step::Propose),
        1 => host.clone().prop_map(Step::Crash),
        2 => host.clone().prop_map(Step::Start),
        6 => (host.clone(), host.clone()).prop_map(|(a, b)| Step::Connect(a, b)),
        1 => (host.clone(), host.clone()).prop_map(|(a, b)| Step::Disconnect(a, b)),
        2 => (1..300_u64).prop_map(Step::Pass),
        4 => host.prop_map(Step::Tick),
    ]
}

fn play(world: &mut World, step: &Step) {
    let names = world.names.clone();
    let name = |index: &usize| names[index % names.len()].clone();
    match step {
        Step::Deliver { wire, repeat, limit } => {
            let busy: Vec<_> =
                world.wires.iter().filter(|(_, wire)| !wire.is_empty()).map(|(key, _)| key.clone()).collect();
            if let Some((from, to)) = busy.get(wire % busy.len().max(1)) {
                world.deliver(from, to, *repeat, *limit);
            }
        }
        Step::Finish { task, ok } => {
            let busy: Vec<_> = names.iter().filter(|name| !world.hosts[*name].tasks.is_empty()).collect();
            if let Some(name) = busy.get(task % busy.len().max(1)) {
                world.finish_task(name, *ok);
            }
        }
        Step::Propose(host) => world.propose(&name(host)),
        Step::Crash(host) => world.crash(&name(host)),
        Step::Start(host) => world.start(&name(host)),
        Step::Connect(a, b) => world.connect(&name(a), &name(b)),
        Step::Disconnect(a, b) => world.disconnect(&name(a), &name(b)),
        Step::Pass(ms) => world.now_ms += ms,
        Step::Tick(host) => world.input(&name(host), Input::Tick),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    /// Breaks if any order of events, with controllers killed between any two actions, lets two hosts go by different
    /// documents of one version, or one host by what another has not installed; or if hosts never agree again.
    #[test]
    fn whatever_happens_hosts_agree(count in 1..=5_usize, steps in prop::collection::vec(step(), 0..400)) {
        let mut world = World::new(count);
        world.settle();
        steps.iter().for_each(|step| play(&mut world, step));
        world.settle();
        world.assert_one_version();
        let before = world.versions()[0];
        world.propose("host1");
        world.settle();
        world.assert_one_version();
        prop_assert_eq!(world.versions()[0], before + 1, "a change is still possible");
    }

    /// Breaks if any host's death for ever, at any moment of a change, leaves the others waiting for it. Of two hosts, a leader
    /// may have to wait: the dead one may have gone by the change with its last breath.
    #[test]
    fn one_dead_host_stops_nobody(
        count in 2..=5_usize,
        before in prop::collection::vec(undisturbed(20), 0..250),
        (victim, limit) in (0..5_usize, 0..6_usize),
        after in prop::collection::vec(undisturbed(400), 0..80),
    ) {
        let mut world = World::new(count);
        world.settle();
        before.iter().for_each(|step| play(&mut world, step));
        let dead = world.names[victim % count].clone();
        world.die(&dead, limit);
        after.iter().for_each(|step| play(&mut world, step));
        world.settle_without(&dead);
        let waits = world.waits();
        if count > 2 || waits.is_empty() {
            prop_assert_eq!(&waits, &[] as &[String]);
            world.assert_one_version_without(&dead);
        } else {
            prop_assert!(waits.len() == 1 && waits[0].contains("led by this host") && waits[0].contains(&dead), "{:?}", waits);
        }
        world.settle();
        world.assert_one_version();
    }

    /// Breaks if after any faults, with one host dead for ever, hosts undo what that one may go by, go by what it may have
    /// undone, or wait without saying for whom.
    #[test]
    fn who_waits_says_for_whom(
        count in 2..=5_usize,
        steps in prop::collection::vec(step(), 0..400),
        (victim, limit) in (0..5_usize, 0..6_usize),
    ) {
        let mut world = World::new(count);
        world.settle();
        steps.iter().for_each(|step| play(&mut world, step));
        let dead = world.names[victim % count].clone();
        world.die(&dead, limit);
        world.settle_without(&dead);
        let waits = world.waits();
        prop_assert!(waits.iter().all(|line| line.contains(&dead)), "{:?} without {}", waits, dead);
        if waits.is_empty() {
            world.assert_one_version_without(&dead);
        }
        world.settle();
        world.assert_one_version();
    }
}

fn settled(count: usize) -> World {
    let mut world = World::new(count);
    world.settle();
    world
}

#[test]
fn a_change_reaches_all_hosts_whoever_leads_it() {
    let mut world = settled(3);
    for (version, leader) in [(2, "host2"), (3, "host1"), (4, "host3")] {
        world.propose(leader);
        world.run_dry();
        assert_eq!(world.versions(), [version; 3]);
        assert_eq!(world.hosts[leader].outcomes.last(), Some(&Ok(Vec::new())));
    }
}

#[test]
fn a_host_alone_needs_nobody() {
    let mut world = World::new(1);
    world.propose("host1");
    world.run_dry();
    assert_eq!(world.versions(), [2]);
}

/// Breaks if a refusal on one host leaves anything on another, or does not say who and why.
#[test]
fn what_one_host_refuses_nobody_gets() {
    let mut world = settled(3);
    world.hosts.get_mut("host3").unwrap().refuses = true;
    world.propose("host1");
    world.run_dry();
    assert_eq!(world.versions(), [1; 3]);
    let refusal = world.hosts["host1"].outcomes.last().unwrap().clone().unwrap_err();
    assert_eq!((refusal.host.as_str(), refusal.reasons), ("host3", vec!["no core is free".to_owned()]));
    assert!(world.hosts.values().all(|host| host.installed.is_none()));
    world.hosts.get_mut("host3").unwrap().refuses = false;
    world.propose("host2");
    world.run_dry();
    assert_eq!(world.versions(), [2; 3]);
}

#[test]
fn a_host_that_is_away_is_named() {
    let mut world = settled(3);
    world.crash("host2");
    world.propose("host1");
    let refusal = world.hosts["host1"].outcomes.last().unwrap().clone().unwrap_err();
    assert!(refusal.host == "host2" && refusal.reasons[0].contains("can't be reached"), "{refusal:?}");
    world.settle();
    assert_eq!(world.versions(), [1; 3]);
}

/// Breaks if a follower that has only prepared is stuck by a leader that is dead, or one that has installed undoes what
/// others may be using.
#[test]
fn a_dead_leader_is_given_up_at_once_before_installation_and_after_a_time_behind_it() {
    let mut world = settled(2);
    world.propose("host1");
    world.deliver("host1", "host2", false, usize::MAX);
    world.finish_task("host2", true);
    world.crash("host1");
    assert!(!world.hosts["host2"].machine.as_ref().unwrap().is_busy());
    world.wires.clear();
    world.settle();
    world.propose("host1");
    world.deliver("host1", "host2", false, usize::MAX);
    world.finish_task("host1", true);
    world.finish_task("host2", true);
    world.deliver("host2", "host1", false, usize::MAX);
    world.deliver("host1", "host2", false, usize::MAX);
    world.finish_task("host2", true);
    assert!(world.hosts["host2"].record.installed.is_some());
    world.crash("host1");
    world.wires.clear();
    world.now_ms += 25;
    world.input("host2", Input::Tick);
    assert!(world.hosts["host2"].installed.is_some(), "the leader may be back soon");
    world.settle_without("host1");
    assert!(world.hosts["host2"].installed.is_none());
    let told = |line: &String| line.contains("version 2, led by host1, is given up");
    assert!(world.hosts["host2"].news.iter().any(told), "{:?}", world.hosts["host2"].news);
    world.settle();
    assert_eq!(world.versions(), [1; 2]);
    world.propose("host1");
    world.run_dry();
    assert_eq!(world.versions(), [2; 2]);
}

/// Until the leader has sent its `Activate`, and nothing more.
fn decided(world: &mut World) {
    world.propose("host1");
    for _ in 0..20 {
        if world.hosts["host1"].record.installed.is_some() {
            return;
        }
        let names = world.names.clone();
        for (from, to) in names.iter().flat_map(|a| names.iter().map(move |b| (a, b))) {
            world.deliver(from, to, false, usize::MAX);
            if world.hosts["host1"].record.installed.is_some() {
                return;
            }
        }
        names.iter().for_each(|name| world.finish_task(name, true));
    }
    panic!("not everybody has installed it");
}

/// Breaks if hosts that have promised not to go by a change do not follow one that does.
#[test]
fn who_goes_by_a_change_takes_the_others_along_without_the_leader() {
    let mut world = settled(3);
    decided(&mut world);
    world.deliver("host1", "host2", false, usize::MAX);
    assert_eq!(world.hosts["host2"].record.active.version, 2);
    world.crash("host1");
    world.wires.retain(|(from, _), _| from != "host1");
    world.settle_without("host1");
    world.assert_one_version_without("host1");
    assert_eq!(world.hosts["host3"].heads.version, 2);
    world.settle();
    assert_eq!(world.versions(), [2; 3], "the leader had it written down as installed");
}

/// Breaks if a host undoes a change on its own promise, while another may still hear the dead leader's word.
#[test]
fn one_hosts_promise_is_not_enough() {
    let mut world = settled(3);
    decided(&mut world);
    world.crash("host1");
    for _ in 0..2 {
        world.now_ms += times().lost_ms;
        world.input("host3", Input::Tick);
    }
    assert!(world.hosts["host3"].record.refused.len() == 1 && world.hosts["host3"].installed.is_some());
    while world.hosts["host2"].record.active.version == 1 {
        world.deliver("host1", "host2", false, usize::MAX);
    }
    world.wires.retain(|(from, _), _| from != "host1");
    world.settle_without("host1");
    world.assert_one_version_without("host1");
    assert_eq!(world.hosts["host3"].heads.version, 2);
}

/// Breaks if a leader's late word is heeded by a host that has promised the others not to.
#[test]
fn a_late_word_of_the_leader_changes_nothing_once_all_have_promised() {
    let mut world = settled(3);
    decided(&mut world);
    let late: Vec<Message> = world.wires[&("host1".to_owned(), "host2".to_owned())].iter().cloned().collect();
    assert!(late.iter().any(|message| matches!(message, Message::Activate { .. })));
    world.crash("host1");
    world.wires.retain(|(from, _), _| from != "host1");
    world.settle_without("host1");
    assert!(world.hosts["host2"].installed.is_none() && world.hosts["host3"].installed.is_none());
    late.into_iter().for_each(|message| world.input("host2", Input::Heard("host1".into(), message)));
    world.settle();
    assert_eq!(world.versions(), [1; 3]);
    world.assert_one_version();
}

/// Breaks if hosts undo a change while one that may go by it is away, or do not say for whom they wait.
#[test]
fn with_two_hosts_away_the_others_wait_and_say_for_whom() {
    let mut world = settled(3);
    decided(&mut world);
    world.crash("host1");
    world.crash("host3");
    world.wires.clear();
    for _ in 0..40 {
        world.now_ms += 25;
        world.input("host2", Input::Tick);
    }
    assert!(world.hosts["host2"].installed.is_some());
    let machine = world.hosts["host2"].machine.as_ref().unwrap();
    let line = machine.waits_for().unwrap();
    assert!(
        line.contains("version 2, led by host1, waits for host3") && line.contains("empty run directory"),
        "{line}"
    );
    assert_eq!(world.hosts["host2"].news.iter().filter(|news| **news == line).count(), 1, "told once");
    // A new machine in host3's place knows nothing of it.
    let host = world.hosts.get_mut("host3").unwrap();
    host.record = Record { active: document(1, "first"), installed: None, refused: Vec::new() };
    host.installed = None;
    world.settle_without("host1");
    assert!(world.hosts["host2"].installed.is_none() && world.waits().is_empty());
}

/// Breaks if two hosts that were started with different files go on silently, or if a whole file does not end it.
#[test]
fn different_documents_of_one_version_are_told_and_a_whole_file_ends_it() {
    let mut world = World::new(2);
    world.crash("host2");
    let other = document(1, "another file");
    let host = world.hosts.get_mut("host2").unwrap();
    (host.record.active, host.heads) = (other.clone(), other);
    world.start("host2");
    // The invariant is what the operator broke.
    let (a, b) = ("host1".to_owned(), "host2".to_owned());
    for (from, to) in [(&a, &b), (&b, &a)] {
        let status = world.hosts[from].machine.as_ref().unwrap().status();
        let machine = world.hosts.get_mut(to).unwrap().machine.as_mut().unwrap();
        machine.handle(0, Input::Connected(from.clone()));
        let actions = machine.handle(0, Input::Heard(from.clone(), Message::Status(status.clone())));
        let told = |action: &Action| matches!(action, Action::News(line) if line.contains("apply one file"));
        assert!(actions.iter().any(told), "{actions:?}");
        let again = machine.handle(0, Input::Heard(from.clone(), Message::Status(status)));
        assert!(!again.iter().any(told), "once is enough");
    }
    let machine = world.hosts.get_mut("host1").unwrap().machine.as_mut().unwrap();
    let next = document(2, "one file");
    let mut propose = |settle| {
        let (document, composed) = (Box::new(next.clone()), composed(&next));
        machine.handle(0, Input::Propose { document, composed, allow_restart: false, settle })
    };
    let actions = propose(false);
    assert!(matches!(&actions[0], Action::Done(Err(refusal)) if refusal.host == "host2"), "{actions:?}");
    let actions = propose(true);
    assert!(actions.iter().any(|action| matches!(action, Action::Send(_, Message::Prepare { base: None, .. }))));
}

#[test]
fn paths_that_are_idle_on_all_hosts_are_forgotten_by_the_first_host() {
    use packet::PathId;
    let mut world = settled(2);
    world.input("host1", Input::Idle(vec![PathId(4), PathId(5)]));
    world.settle();
    assert!(world.hosts["host1"].forgettable.is_empty(), "host2 has not said so");
    world.input("host2", Input::Idle(vec![PathId(5), PathId(6)]));
    world.settle();
    assert_eq!(world.hosts["host1"].forgettable, [PathId(5)]);
    assert!(world.hosts["host2"].forgettable.is_empty(), "one host does it");
}

#[test]
fn a_peers_failed_instance_is_told_and_its_recovery_too() {
    let mut world = settled(2);
    world.input("host2", Input::Failed(vec!["acme/edge/2".into()]));
    world.run_dry();
    assert_eq!(world.hosts["host1"].avoided["host2"], ["acme/edge/2"]);
    world.input("host2", Input::Failed(Vec::new()));
    world.run_dry();
    assert!(world.hosts["host1"].avoided["host2"].is_empty());
}
