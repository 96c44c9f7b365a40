//! What operators ask for: a whole file or operations on top of it; checked, shown, proposed to all hosts.
//!
//! Also what follows a change: retired paths keep their tags and tag rules until no flow of this host has them and their rules
//! have been quiet for the longest idle time ([`Draining`]); once that is so on all hosts, a change of its own forgets them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mio::Token;
use packet::PathId;
use shm::snapshot::LcoreSnapshot;

use super::versions::{Planned, composed, lines, plan_of};
use super::{Server, State, Waiting, failed};
use crate::api::{Applied, FailureKind, HostChange, Progress, Response};
use crate::compose::{self, Known, compose_on, difference};
use crate::config;
use crate::config::compaction::compact;
use crate::config::operations::{self, Operation};
use crate::distribution::{Document, Input, Phase, Refusal};
use crate::flows::Plan;
use crate::process::differences;
use crate::steering::{Command, Stats};

/// A change under way that this host proposed.
pub(super) struct Asked {
    /// Who waits for it; nobody if it only forgets paths or places instances at the beginning.
    token: Option<Token>,
    progress: bool,
    pub(super) applied: Applied,
}

/// What an operator wants.
pub(super) enum Wish {
    /// This file and nothing else.
    File { file: String, yaml: String },
    /// These on top of what is.
    Operations(Vec<Operation>),
    /// What is, without these retired paths.
    Forget(BTreeSet<PathId>),
    /// What is, with every instance placed anew: nothing runs yet.
    Open,
}

/// How a wish is to be treated.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    pub(super) allow_restart: bool,
    /// Instances that run and name no CPU may be replaced by others in better places.
    pub(super) may_move: bool,
    pub(super) dry_run: bool,
    pub(super) progress: bool,
}

/// Retired paths whose flows may still live.
#[derive(Debug, Default)]
pub(super) struct Draining {
    paths: BTreeMap<PathId, Drain>,
}

#[derive(Debug, Clone, Copy)]
struct Drain {
    packets: u64,
    since: Instant,
    quiet_since: Instant,
}

impl Draining {
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Takes the retired paths of a plan; those known already keep their times.
    pub(super) fn turn_to(&mut self, plan: &Plan) {
        let now = Instant::now();
        let retired = plan.composition.state.retired().map(|(id, _)| id);
        let fresh = Drain { packets: 0, since: now, quiet_since: now };
        self.paths = retired.map(|id| (id, self.paths.get(&id).copied().unwrap_or(fresh))).collect();
    }

    /// How long ago the first path retired that this answers for.
    pub(super) fn since(&self, is_of: impl Fn(PathId) -> bool) -> Option<Duration> {
        let of = self.paths.iter().filter(|(id, _)| is_of(**id));
        of.map(|(_, drain)| drain.since.elapsed()).max()
    }

    /// The paths that are idle for long enough.
    fn idle(&mut self, plan: &Plan, lcores: &[LcoreSnapshot], stats: &Stats, quiet: Duration) -> Vec<PathId> {
        let now = Instant::now();
        let mut packets: BTreeMap<PathId, u64> = BTreeMap::new();
        for tag in plan.part().tags.iter().filter(|tag| self.paths.contains_key(&tag.rule.action.path)) {
            let counter = lcores.get(tag.lcore).and_then(|lcore| lcore.tags.get(&tag.rule.action.counter));
            *packets.entry(tag.rule.action.path).or_default() += counter.map_or(0, |counter| counter.packets);
        }
        let mut idle = Vec::new();
        for (id, drain) in &mut self.paths {
            let packets = packets.get(id).copied().unwrap_or(0);
            let flows = stats.per_path.get(id).copied().unwrap_or(0);
            if packets != drain.packets || flows > 0 {
                (drain.packets, drain.quiet_since) = (packets, now);
            }
            if now.duration_since(drain.quiet_since) >= quiet {
                idle.push(*id);
            }
        }
        idle
    }
}

impl Server {
    /// Checks a wish and begins to take it into force; the answer, or nothing if it comes later.
    pub(super) fn change(&mut self, token: Token, wish: Wish, manner: Manner) -> Option<Response> {
        if let Some(response) = self.stands_alone().filter(|_| !manner.dry_run) {
            return Some(response);
        }
        if !manner.dry_run && self.versions.asked.is_some() {
            return Some(failed(
                FailureKind::Busy,
                vec!["another change is under way; try again when it is done".into()],
            ));
        }
        let is_file = matches!(wish, Wish::File { .. });
        let (document, plan) = match self.document_of(wish, manner) {
            Ok(made) => made,
            Err(lines) => return Some(failed(FailureKind::BadConfiguration, lines)),
        };
        let applied = self.describe(&document, &plan, manner.dry_run);
        let active = self.versions.machine.active();
        let moves = manner.may_move && document.state != active.state;
        let same = document.yaml == active.yaml && document.operations == active.operations && !moves;
        let settle = is_file && self.peers_disagree();
        if manner.dry_run || (same && !settle) {
            let version = active.version;
            self.ask(Waiting::DryRun(token, Box::new(Applied { version, ..applied })), |ticket| {
                Command::Stats(ticket, false)
            });
            return None;
        }
        self.versions.asked = Some(Asked { token: Some(token), progress: manner.progress, applied });
        let (document, composed) = (Box::new(document), composed(&plan));
        self.versions.remember(&document, plan);
        self.feed(Input::Propose { document, composed, allow_restart: manner.allow_restart, settle });
        None
    }

    /// Why nothing can be changed: a host whose controller nobody can reach.
    fn stands_alone(&self) -> Option<Response> {
        let hosts = &self.plan.config.hosts;
        let missing: Vec<&str> =
            hosts.iter().filter(|host| host.controller.is_none()).map(|host| host.name.as_str()).collect();
        let line = format!(
            "{} has no `controller:` address in the file in force, and a change needs all hosts; end all controllers in \
             order, give each host an address such as `controller: 198.51.100.1:7475`, and start them with that file",
            missing.join(", ")
        );
        (hosts.len() > 1 && !missing.is_empty()).then(|| failed(FailureKind::Refused, vec![line]))
    }

    /// True if a peer goes by another document of our version.
    fn peers_disagree(&self) -> bool {
        let ours = self.versions.machine.status().active;
        let differs = |theirs: &crate::distribution::Stamp| theirs.version == ours.version && *theirs != ours;
        self.versions.machine.peers().any(|(_, _, status)| status.is_some_and(|status| differs(&status.active)))
    }

    /// The document that fulfils a wish, and what it makes.
    fn document_of(&mut self, wish: Wish, manner: Manner) -> Result<(Document, Plan), Vec<String>> {
        let Manner { may_move, dry_run, .. } = manner;
        let known = Known { may_move, ..self.known() };
        let is_housekeeping = matches!(wish, Wish::Forget(_) | Wish::Open);
        let active = self.versions.machine.active();
        let before = &self.plan.composition.state;
        let (file, yaml, operations, state) = match wish {
            Wish::File { file, yaml } => (file, yaml, Vec::new(), before.clone()),
            Wish::Operations(more) => {
                let operations = active.operations.iter().cloned().chain(more).collect();
                (active.file.clone(), active.yaml.clone(), operations, before.clone())
            }
            Wish::Forget(paths) => {
                (active.file.clone(), active.yaml.clone(), active.operations.clone(), before.forget(&paths))
            }
            Wish::Open => (active.file.clone(), active.yaml.clone(), active.operations.clone(), before.begun_anew()),
        };
        let config = config::parse(&file, &yaml).map_err(lines)?;
        let wrong = |error: operations::OperationError| vec![error.to_string()];
        let (_, operations) = operations::number(&config, &operations).map_err(wrong)?;
        let operations = compact(&config, &operations, |tenant, instance| !state.has_element(tenant, instance));
        let config = operations::apply(&config, &operations).map_err(wrong)?;
        let reuse = Some(&self.plan.composition);
        let state = match self.planned(&yaml, &operations, &known) {
            // What was shown is what is made.
            Some(state) if !dry_run && !is_housekeeping => state,
            _ => compose_on(&config, &state, &known, reuse).map_err(lines)?.state,
        };
        let newest = self.versions.machine.peers().filter_map(|(_, _, status)| Some(status?.active.version)).max();
        let version = active.version.max(newest.unwrap_or(0)).saturating_add(1);
        if !is_housekeeping {
            let (base, inventories) = (active.stamp(), known.inventories);
            let (yaml, operations, state) = (yaml.clone(), operations.clone(), state.clone());
            self.versions.planned = Some(Planned { base, yaml, operations, may_move, inventories, state });
        }
        let document = Document { version, file, yaml, operations, state };
        let plan = plan_of(&document, &self.options.host, Some(&self.plan))?;
        Ok((document, plan))
    }

    /// Where the same change was to put its instances when it was last shown, if all is as it was then.
    fn planned(&self, yaml: &str, operations: &[Operation], known: &Known) -> Option<compose::State> {
        let planned = self.versions.planned.as_ref()?;
        let same = planned.base == self.versions.machine.active().stamp()
            && planned.yaml == yaml
            && planned.operations == operations
            && planned.may_move == known.may_move
            && planned.inventories == known.inventories;
        same.then(|| planned.state.clone())
    }

    /// True while all hosts begin with the file and wait for each other's machines.
    pub(super) fn is_opening(&self) -> bool {
        self.versions.opening && self.versions.hold_until.is_some() && self.versions.machine.active().version == 1
    }

    /// At the beginning the file is composed by each host alone, which knows nothing of the others' machines. If instances are to be
    /// placed and nothing runs yet on any host, the first one places them anew once it knows all machines.
    pub(super) fn open(&mut self) {
        if !self.is_opening() || self.versions.asked.is_some() || self.versions.machine.is_busy() {
            return;
        }
        let ours = self.versions.machine.status().active;
        let mut ready = self.versions.machine.is_settled();
        for (name, connected, status) in self.versions.machine.peers() {
            match (connected, self.machines.peer_is_opening(name)) {
                // Something runs there already, by the file alone.
                (_, Some(false)) => {
                    self.versions.opening = false;
                    return;
                }
                (true, Some(true)) => ready &= status.is_some_and(|status| status.active == ours),
                _ => ready = false,
            }
        }
        let leads = self.plan.config.hosts.first().is_some_and(|host| host.name == self.options.host);
        if ready && leads {
            self.versions.opening = self.propose_quietly(Wish::Open, "instances are placed by all machines");
            self.look_at_machine();
        }
    }

    /// What the change does, in words.
    fn describe(&self, document: &Document, plan: &Plan, dry_run: bool) -> Applied {
        let difference = difference(&self.plan.composition, &plan.composition);
        let host = |host: &crate::compose::HostDifference| HostChange {
            host: host.host.clone(),
            rules_added: host.add.len(),
            rules_removed: host.remove.len(),
        };
        let touched = |host: &&HostChange| host.rules_added + host.rules_removed > 0;
        Applied {
            dry_run,
            version: document.version,
            transformation: plan.composition.transformation.to_string().lines().map(str::to_owned).collect(),
            changes: difference.lines,
            placements: self.placements(plan),
            hosts: difference.hosts.iter().map(host).filter(|host| touched(&host)).collect(),
            restart: self.restarts_for(plan),
            flows_kept: 0,
            late: Vec::new(),
            warnings: plan.composition.warnings.iter().map(ToString::to_string).collect(),
        }
    }

    /// Why dataplanes would have to be restarted, by host.
    fn restarts_for(&self, plan: &Plan) -> Option<String> {
        let mut reasons = Vec::new();
        for part in &plan.composition.hosts {
            let name = &part.launch.host;
            let known = self.plan.composition.hosts.iter().find(|old| old.launch.host == *name);
            let running = match &self.state {
                State::Attached(attachment) if *name == self.options.host => Some(&attachment.hello.launch),
                _ => known.map(|old| &old.launch),
            };
            let lines = running.map(|running| differences(running, &part.launch, part.hugepages)).unwrap_or_default();
            reasons.extend(lines.into_iter().map(|line| format!("{name}: {line}")));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    pub(super) fn tell_progress(&mut self, phase: Phase, waiting: Vec<String>) {
        let Some(asked) = &self.versions.asked else { return };
        if let (Some(token), true) = (asked.token, asked.progress) {
            let line = Response::Progress(Progress { version: asked.applied.version, phase, waiting });
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.tell(&line);
            }
        }
    }

    /// The change is in force everywhere, or nowhere.
    pub(super) fn finish_change(&mut self, outcome: Result<Vec<String>, Refusal>) {
        let Some(Asked { token, applied, .. }) = self.versions.asked.take() else { return };
        let response = match outcome {
            Ok(late) => {
                let placements = self.confirmed(applied.placements);
                Response::Applied(Applied { late, placements, ..applied })
            }
            Err(refusal) => {
                let kind = match &refusal {
                    Refusal { needs_restart: true, .. } => FailureKind::NeedsRestart,
                    Refusal { is_busy: true, .. } => FailureKind::Busy,
                    _ => FailureKind::Refused,
                };
                let mut said: Vec<String> =
                    refusal.reasons.iter().map(|reason| format!("{}: {reason}", refusal.host)).collect();
                if refusal.needs_restart {
                    let line = "the change needs a restart of the dataplane, which interrupts traffic; allow it, or leave out:";
                    said.insert(0, line.to_owned());
                }
                failed(kind, said)
            }
        };
        match (token, response) {
            (Some(token), response) => self.respond_late(token, &response),
            (None, Response::Failed(failure)) => {
                self.versions.opening = false;
                tracing::warn!("what was proposed by itself is not done yet: {}", failure.lines.join("; "));
            }
            (None, _) => {}
        }
    }

    /// Proposes to forget retired paths that are idle everywhere.
    pub(super) fn forget(&mut self, paths: Vec<PathId>) {
        let retired: BTreeSet<PathId> = self.plan.composition.state.retired().map(|(id, _)| id).collect();
        let paths: BTreeSet<PathId> = paths.into_iter().filter(|id| retired.contains(id)).collect();
        if self.versions.asked.is_some() || paths.is_empty() {
            return;
        }
        self.propose_quietly(Wish::Forget(paths), "paths that have ended are forgotten");
    }

    /// Proposes a change that nobody waits for; false if there is nothing to propose.
    fn propose_quietly(&mut self, wish: Wish, what: &str) -> bool {
        let is_opening = matches!(wish, Wish::Open);
        match self.document_of(wish, Manner::default()) {
            Ok((_, plan)) if is_opening && plan.composition.is_same_on_hosts(&self.plan.composition) => false,
            Ok((document, plan)) => {
                let applied = self.describe(&document, &plan, false);
                tracing::info!("version {}: {what}", document.version);
                self.versions.asked = Some(Asked { token: None, progress: false, applied });
                let (document, composed) = (Box::new(document), composed(&plan));
                self.feed(Input::Propose { document, composed, allow_restart: false, settle: false });
                true
            }
            Err(lines) => {
                self.note(format!("not done: {what}: {}", lines.join("; ")));
                false
            }
        }
    }

    /// Looks which retired paths are idle.
    pub(super) fn drain(&mut self, stats: &Stats) {
        let State::Attached(attachment) = &self.state else { return };
        let limits = &self.plan.part().launch.limits;
        let quiet = limits.tcp_idle_s.max(limits.udp_idle_s).max(limits.other_idle_s);
        let lcores = attachment.counters.snapshots();
        let idle = self.draining.idle(&self.plan, &lcores, stats, Duration::from_secs(quiet.into()));
        self.paths_are_idle(idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose;

    fn plan(text: &str, before: &compose::State) -> Plan {
        let config = config::parse("f.yaml", text).map_err(|errors| errors.to_string()).unwrap();
        let composition = compose::compose(&config, before, None).map_err(|errors| errors.to_string()).unwrap();
        Plan { config, composition, host: 0 }
    }

    /// Breaks if a retired path is forgotten while it has flows, or never.
    #[test]
    fn a_retired_path_is_idle_once_it_is_quiet_and_has_no_flows() {
        let dns = "      dns: {from: clients, to: servers, select: {protocol: udp}, through: [edge]}\n";
        let old = plan(&format!("{}{dns}", config::EXAMPLE), &compose::State::default());
        let new = plan(config::EXAMPLE, &old.composition.state);
        let retired: Vec<PathId> = new.composition.state.retired().map(|(id, _)| id).collect();
        assert_eq!(retired.len(), 1);
        let mut draining = Draining::default();
        draining.turn_to(&new);
        let (hour, now) = (Duration::from_secs(3_600), Duration::ZERO);
        let mut stats = Stats::default();
        assert_eq!(draining.idle(&new, &[], &stats, hour), [], "not quiet for long enough");
        assert_eq!(draining.idle(&new, &[], &stats, now), retired);
        stats.per_path.insert(retired[0], 1);
        assert_eq!(draining.idle(&new, &[], &stats, Duration::from_nanos(1)), [], "a flow is there");
        draining.turn_to(&old);
        let back = plan(&format!("{}{dns}", config::EXAMPLE), &new.composition.state);
        draining.turn_to(&back);
        assert!(draining.is_empty(), "it is in the plan again");
    }
}
