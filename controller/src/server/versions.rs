//! This host's part in versions: the machine's actions done, and its inputs from peers, the flow thread and time.
//!
//! Nothing here waits. An input that comes while another one's actions are being done is taken after them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use packet::{PathId, VportId};
use shm::launch::Launch;

use super::change::Asked;
use super::peers::Question;
use super::{Server, State, record_file};
use crate::compose::{self, check, compose};
use crate::config::{self, Config, ConfigErrors, operations};
use crate::distribution::links::{LinkEvent, Links};
use crate::distribution::{Action, Document, Input, Letter, Machine, Message, Refusal, Stamp, Task, digest};
use crate::flows::Plan;
use crate::inventory::Inventory;
use crate::process::differences;
use crate::steering::{Command, Violation};

/// How long the first placement may take once all hosts are there.
const OPENING_LIMIT: Duration = Duration::from_secs(5);
/// How often the machine hears of time, while there is anybody to wait for.
const LOOK: Duration = Duration::from_millis(200);

/// What this host has of versions.
pub(super) struct Versions {
    pub(super) machine: Machine,
    pub(super) links: Links,
    inputs: VecDeque<Input>,
    feeding: bool,
    next_look: Instant,
    /// What was checked last, so that it need not be composed again.
    candidate: Option<(Stamp, Arc<Plan>)>,
    /// What is installed, or being installed, beside the plan in force.
    pub(super) staged: Option<Staged>,
    /// The installation under way.
    pub(super) installation: Option<Task>,
    /// What the dataplane was asked to become.
    pub(super) reconfiguring: Option<Launch>,
    /// What it refused to become; it is not asked again.
    pub(super) refused: Option<Launch>,
    /// The change that an operator waits for, or that forgets paths.
    pub(super) asked: Option<Asked>,
    /// No dataplane is started before the peers have been heard, or this time.
    pub(super) hold_until: Option<Instant>,
    /// All hosts begin with the file, and instances are placed anew once all machines are known.
    pub(super) opening: bool,
    /// Where new instances went in the last composition that was made here for a change.
    pub(super) planned: Option<Planned>,
    /// Instances here that have panicked.
    pub(super) failed: BTreeSet<VportId>,
    /// The same of peers.
    avoided: BTreeMap<String, Vec<String>>,
    /// Instances here that rewrite flows though they are no manglers, with an example.
    pub(super) rewrites: BTreeMap<VportId, String>,
    /// The last flow of each lcore that was found on two paths.
    pub(super) violations: BTreeMap<usize, Violation>,
    /// Questions to peers that are not all answered.
    pub(super) questions: BTreeMap<u64, Question>,
    pub(super) next_question: u64,
}

/// A composition's outcome, and what it was made of: what is asked for again is not placed otherwise meanwhile.
pub(super) struct Planned {
    pub(super) base: Stamp,
    pub(super) yaml: String,
    pub(super) operations: Vec<operations::Operation>,
    pub(super) may_move: bool,
    pub(super) inventories: BTreeMap<String, Arc<Inventory>>,
    pub(super) state: compose::State,
}

/// A plan beside the one in force.
pub(super) struct Staged {
    pub(super) plan: Arc<Plan>,
    pub(super) allow_restart: bool,
    /// The dataplane was started anew for it.
    pub(super) anew: bool,
}

impl Versions {
    pub(super) fn new(machine: Machine, links: Links, staged: Option<Arc<Plan>>, hold_until: Option<Instant>) -> Self {
        Self {
            machine,
            links,
            inputs: VecDeque::new(),
            feeding: false,
            next_look: Instant::now(),
            candidate: None,
            staged: staged.map(|plan| Staged { plan, allow_restart: true, anew: false }),
            installation: None,
            reconfiguring: None,
            refused: None,
            asked: None,
            hold_until,
            opening: false,
            planned: None,
            failed: BTreeSet::new(),
            avoided: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            violations: BTreeMap::new(),
            questions: BTreeMap::new(),
            next_question: 0,
        }
    }

    /// Keeps what a document makes here, which will be asked for.
    pub(super) fn remember(&mut self, document: &Document, plan: Plan) {
        self.candidate = Some((document.stamp(), Arc::new(plan)));
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Instant {
        self.links.deadline().map_or(self.next_look, |links| links.min(self.next_look))
    }
}

/// Every mistake as a line.
pub(super) fn lines(errors: ConfigErrors) -> Vec<String> {
    errors.problems.iter().map(ToString::to_string).collect()
}

/// What a document makes for a host.
pub(super) fn plan_of(document: &Document, host: &str, reuse: Option<&Plan>) -> Result<Plan, Vec<String>> {
    let config = config::parse(&document.file, &document.yaml).map_err(lines)?;
    let config = operations::apply(&config, &document.operations).map_err(|error| vec![error.to_string()])?;
    let Some(host) = config.host(host) else {
        return Err(vec![format!("{}: host `{host}`, which this controller serves, is missing", document.file)]);
    };
    let composition = compose(&config, &document.state, reuse.map(|plan| &plan.composition)).map_err(lines)?;
    check::verify(&config, &composition).map_err(|wrong| {
        let line = |wrong: String| {
            format!("{wrong}: the composition contradicts itself, which is our mistake; report it with the file")
        };
        wrong.into_iter().map(line).collect::<Vec<_>>()
    })?;
    Ok(Plan { config, composition, host })
}

/// What all hosts must agree on: the state and what each of them installs.
pub(super) fn composed(plan: &Plan) -> String {
    let composition = &plan.composition;
    let tags = |part: &crate::compose::HostPart| part.tags.iter().map(|tag| (tag.lcore, tag.rule)).collect::<Vec<_>>();
    let parts: Vec<_> = composition.hosts.iter().map(|part| (&part.launch, tags(part))).collect();
    digest(&(&composition.state, parts))
}

/// The hosts of a configuration and where their controllers are.
pub(super) fn hosts(config: &Config) -> Vec<(String, Option<std::net::SocketAddr>)> {
    config.hosts.iter().map(|host| (host.name.clone(), host.controller)).collect()
}

impl Server {
    pub(super) fn refusal(&self, reasons: Vec<String>) -> Refusal {
        Refusal { host: self.options.host.clone(), reasons, needs_restart: false, is_busy: false }
    }

    /// Tells the machine something, and does what it wants.
    pub(super) fn feed(&mut self, input: Input) {
        self.versions.inputs.push_back(input);
        if self.versions.feeding {
            return;
        }
        self.versions.feeding = true;
        while let Some(input) = self.versions.inputs.pop_front() {
            let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let mut unwritten = None;
            for action in self.versions.machine.handle(now_ms, input) {
                self.act(action, &mut unwritten);
            }
        }
        self.versions.feeding = false;
    }

    /// `unwritten` says why the record before is not written down.
    fn act(&mut self, action: Action, unwritten: &mut Option<String>) {
        match action {
            Action::Send(host, message) => {
                let message = match (message, &unwritten) {
                    // A promise that would not outlive this process is none; the leader gives the change up and says so.
                    (Message::Installed { change }, Some(line)) => {
                        Message::Refused { change, refusal: self.refusal(vec![line.clone()]) }
                    }
                    (Message::Sealed { .. }, Some(_)) => return,
                    (message, _) => message,
                };
                let events = self.versions.links.send(&host, &Letter::Version(message));
                self.hear_links(events);
            }
            Action::Persist(record) => {
                if let Err(error) = record_file::write(&self.dataplane.run_dir, &record) {
                    let line = format!("{error}; make room in the run directory");
                    self.note(format!("{line}; after a restart this host would go by an older version for a moment"));
                    *unwritten = Some(line);
                }
            }
            Action::Check { task, document, composed, allow_restart } => {
                let result = self.check(&document, &composed, allow_restart);
                self.feed(Input::Local(task, result));
            }
            Action::Install { task, document, composed, allow_restart } => match self.verified(&document, &composed) {
                Ok(plan) => self.install(task, plan, allow_restart),
                Err(refusal) => self.feed(Input::Local(task, Err(refusal))),
            },
            Action::Activate { task } => self.activate(task),
            Action::Withdraw => self.withdraw(),
            Action::Progress(phase, waiting) => self.tell_progress(phase, waiting),
            Action::Done(outcome) => self.finish_change(outcome),
            Action::Forget(paths) => self.forget(paths),
            Action::Avoid(host, instances) => {
                self.versions.avoided.insert(host, instances);
                self.tell_failures();
            }
            Action::News(line) => self.note(line),
        }
    }

    /// What the document makes here, if it is what the leader made of it.
    fn verified(&mut self, document: &Document, theirs: &str) -> Result<Arc<Plan>, Refusal> {
        let stamp = document.stamp();
        if let Some((known, plan)) = &self.versions.candidate
            && *known == stamp
        {
            return Ok(Arc::clone(plan));
        }
        let plan = plan_of(document, &self.options.host, Some(&self.plan)).map_err(|lines| self.refusal(lines))?;
        if hosts(&plan.config) != hosts(&self.plan.config) {
            let line = "the hosts of the file, or their `controller:` addresses, are not those that run; end all \
                        controllers in order (SIGTERM), then start them with the new file";
            return Err(self.refusal(vec![line.into()]));
        }
        if plan.composition.state != document.state || composed(&plan) != theirs {
            let line =
                "it makes something else of the same file: hosts run different releases; run the same everywhere";
            return Err(self.refusal(vec![line.into()]));
        }
        let plan = Arc::new(plan);
        self.versions.candidate = Some((stamp, Arc::clone(&plan)));
        Ok(plan)
    }

    /// Whether this host could go by the document.
    fn check(&mut self, document: &Document, theirs: &str, allow_restart: bool) -> Result<(), Refusal> {
        let plan = self.verified(document, theirs)?;
        if self.is_opening() {
            // Nothing runs yet; the dataplane will be started with it.
            self.versions.hold_until = Some(Instant::now() + OPENING_LIMIT);
            return Ok(());
        }
        let State::Attached(attachment) = &self.state else {
            return Err(self.refusal(vec!["its dataplane is being started; try again when it runs".into()]));
        };
        if !attachment.ready {
            return Err(self.refusal(vec!["its dataplane is being attached to; try again".into()]));
        }
        let part = plan.part();
        let restart = differences(&attachment.hello.launch, &part.launch, part.hugepages);
        if !restart.is_empty() && !allow_restart {
            return Err(Refusal { needs_restart: true, ..self.refusal(restart) });
        }
        Ok(())
    }

    pub(super) fn hear_links(&mut self, events: Vec<LinkEvent>) {
        for event in events {
            match event {
                LinkEvent::Up(host) => {
                    tracing::info!("the controller of {host} is there");
                    self.tell_machine(&host);
                    self.feed(Input::Connected(host));
                }
                LinkEvent::Down(host) => {
                    self.lose_answers(&host);
                    self.machines.lose(&host);
                    self.feed(Input::Disconnected(host));
                }
                LinkEvent::Heard(host, letter) => match *letter {
                    Letter::Version(message) => self.feed(Input::Heard(host, message)),
                    Letter::Facts(facts) => self.machines.hear(host, *facts),
                    Letter::Ask { ticket, question } => self.answer_peer(&host, ticket, &question),
                    Letter::Answer { ticket, answer } => self.hear_answer(&host, ticket, &answer),
                },
                LinkEvent::News(line) => self.note(line),
            }
        }
    }

    /// Time for peers and for the machine.
    pub(super) fn look_at_versions(&mut self, now: Instant) {
        let events = self.versions.links.go_on(now);
        self.hear_links(events);
        if now >= self.versions.next_look {
            self.versions.next_look = now + LOOK;
            self.feed(Input::Tick);
            self.give_up_late_answers(now);
        }
        self.open();
        if let Some(until) = self.versions.hold_until
            && (now >= until || (self.versions.machine.is_settled() && !self.is_opening()))
        {
            self.versions.hold_until = None;
            self.versions.opening = false;
            self.look_at_machine();
        }
    }

    /// Tells the flow thread which instances are out of use.
    fn tell_failures(&self) {
        let elsewhere = self.versions.avoided.values().flatten().cloned().collect();
        let here = self.versions.failed.iter().copied().collect();
        self.handle.send(Command::Avoid { here, elsewhere });
    }

    /// Tells everybody which instances of this host are out of use.
    pub(super) fn failures_changed(&mut self) {
        let names = self.versions.failed.iter().map(|vport| self.running_name(*vport)).collect();
        self.tell_failures();
        self.feed(Input::Failed(names));
    }

    /// What the dataplane calls the instance at a vport of this host.
    pub(super) fn running_name(&self, vport: VportId) -> String {
        let here = |found: &&crate::compose::PlacedInstance| found.host == self.plan.host && found.vport == vport;
        let instance = self.plan.composition.instances.iter().find(here);
        instance.map_or_else(|| self.plan.part().vport_name(vport), |found| found.running_name.clone())
    }

    /// Retired paths that are idle on this host.
    pub(super) fn paths_are_idle(&mut self, paths: Vec<PathId>) {
        self.feed(Input::Idle(paths));
    }
}
