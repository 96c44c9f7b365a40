//! A new configuration while running: check, say what changes, make before break.
//!
//! New tag rules first, then the new plan; flows keep their rules. Paths that are gone keep their tags and tag rules until no
//! flow of this host has them and their rules have been quiet for the longest idle time ([`Draining`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use packet::PathId;
use shm::rules::Refusal;
use shm::snapshot::LcoreSnapshot;

use super::{Server, State, Waiting, failed, numbers_file};
use crate::api::{Applied, FailureKind, Response};
use crate::compose::{Composition, PlacedTag, compose};
use crate::config::{self, Chain, Config, Tenant};
use crate::flows::Plan;
use crate::process::differences;
use crate::steering::{Command, Stats};

/// A change that waits for its tag rules to be in force.
pub(super) struct PendingApply {
    plan: Arc<Plan>,
    applied: Applied,
}

/// Paths of earlier plans whose flows may still live.
#[derive(Debug, Default)]
pub(super) struct Draining {
    paths: Vec<Drain>,
}

#[derive(Debug)]
struct Drain {
    name: String,
    id: Option<PathId>,
    tags: Vec<PlacedTag>,
    packets: u64,
    quiet_since: Instant,
}

impl Draining {
    /// Paths that an earlier controller has given numbers and this composition does not have.
    pub(super) fn of_earlier(composition: &Composition) -> Self {
        let drain = |(id, name): (PathId, &str)| Drain {
            name: name.to_owned(),
            id: Some(id),
            tags: Vec::new(),
            packets: 0,
            quiet_since: Instant::now(),
        };
        Self { paths: composition.state.retired().map(drain).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Adds what retires with the new plan, and takes out what is in use again.
    fn turn_to(&mut self, new: &Plan) {
        let retired: BTreeSet<PathId> = new.composition.state.retired().map(|(id, _)| id).collect();
        self.paths.retain(|drain| drain.id.is_some_and(|id| retired.contains(&id)));
        let known: BTreeSet<PathId> = self.paths.iter().filter_map(|drain| drain.id).collect();
        for path in new.composition.paths.iter().filter(|path| path.retired && !known.contains(&path.id)) {
            let of_path = |tag: &&PlacedTag| tag.rule.action.path == path.id;
            self.paths.push(Drain {
                name: path.name.clone(),
                id: Some(path.id),
                tags: new.part().tags.iter().filter(of_path).copied().collect(),
                packets: 0,
                quiet_since: Instant::now(),
            });
        }
    }

    /// Takes out the paths that are idle long enough: their names and tag rules.
    fn finished(&mut self, lcores: &[LcoreSnapshot], stats: &Stats, quiet: Duration) -> (Vec<String>, Vec<PlacedTag>) {
        let now = Instant::now();
        let count = |tag: &PlacedTag| -> u64 {
            let counter = lcores.get(tag.lcore).and_then(|lcore| lcore.tags.get(&tag.rule.action.counter));
            counter.map_or(0, |counter| counter.packets)
        };
        let (mut names, mut tags) = (Vec::new(), Vec::new());
        self.paths.retain_mut(|drain| {
            let packets = drain.tags.iter().map(count).sum();
            let flows = drain.id.and_then(|id| stats.per_path.get(&id)).copied().unwrap_or(0);
            if packets != drain.packets || flows > 0 {
                drain.packets = packets;
                drain.quiet_since = now;
            }
            let done = now.duration_since(drain.quiet_since) >= quiet;
            if done {
                names.push(drain.name.clone());
                tags.append(&mut drain.tags);
            }
            !done
        });
        (names, tags)
    }
}

impl Server {
    /// Checks a new file and begins to take it into force; the answer, or nothing if it comes later.
    pub(super) fn apply(
        &mut self,
        token: Token,
        file: &str,
        yaml: &str,
        allow_restart: bool,
        dry_run: bool,
    ) -> Option<Response> {
        let is_apply = |waiting: &Waiting| matches!(waiting, Waiting::Apply(..));
        if !dry_run && (self.restarting_for.is_some() || self.waiting.values().any(is_apply)) {
            return Some(failed(FailureKind::Busy, vec!["another change is being applied; try again".into()]));
        }
        let plan = match self.plan_of(file, yaml) {
            Ok(plan) => Arc::new(plan),
            Err(lines) => return Some(failed(FailureKind::BadConfiguration, lines)),
        };
        let restart = match &self.state {
            State::Attached(attachment) => differences(&attachment.hello.launch, plan.part()),
            _ => Vec::new(),
        };
        if !restart.is_empty() && !allow_restart && !dry_run {
            let mut lines = vec![
                "the change needs a restart of the dataplane, which interrupts traffic; allow it, or leave out:"
                    .to_owned(),
            ];
            lines.extend(restart);
            return Some(failed(FailureKind::NeedsRestart, lines));
        }
        let applied = Applied {
            dry_run,
            changes: changes(&self.plan, &plan),
            restart: (!restart.is_empty()).then(|| restart.join("; ")),
            flows_kept: 0,
            warnings: plan.composition.warnings.iter().map(ToString::to_string).collect(),
        };
        if dry_run {
            self.ask(Waiting::DryRun(token, applied), Command::Stats);
        } else if restart.is_empty() {
            let pending = Box::new(PendingApply { plan: Arc::clone(&plan), applied });
            self.ask(Waiting::Apply(token, pending), |ticket| Command::Adopt(plan, ticket));
        } else {
            self.restart_with(plan, token, applied);
        }
        None
    }

    fn plan_of(&self, file: &str, yaml: &str) -> Result<Plan, Vec<String>> {
        let lines = |errors: config::ConfigErrors| errors.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let config = config::parse(file, yaml).map_err(lines)?;
        let Some(host) = config.host(&self.options.host) else {
            return Err(vec![format!(
                "{file}: host `{}`, which this controller serves, is missing",
                self.options.host
            )]);
        };
        let composition =
            compose(&config, &self.plan.composition.state, Some(&self.plan.composition)).map_err(lines)?;
        Ok(Plan { config, composition, host })
    }

    /// The dataplane forgets everything, so there is nothing to drain; flows whose path stays are installed again.
    fn restart_with(&mut self, plan: Arc<Plan>, token: Token, applied: Applied) {
        let mut plan = plan;
        let stale = Draining::of_earlier(&plan.composition);
        if let Some(plan) = Arc::get_mut(&mut plan) {
            let gone = stale.paths.iter().filter_map(|drain| drain.id).collect();
            plan.composition.state = plan.composition.state.forget(&gone);
        }
        self.draining = Draining::default();
        self.restart();
        self.handle.send(Command::Move(Arc::clone(&plan)));
        self.take_plan(plan);
        self.restarting_for = Some((token, applied));
    }

    fn take_plan(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
        if let Err(error) = numbers_file::write(&self.dataplane.run_dir, &self.plan.composition.state) {
            self.note(error.to_string());
        }
    }

    /// The flow thread goes by the new plan now, or the dataplane refused its rules.
    pub(super) fn finish_apply(&mut self, token: Token, pending: PendingApply, result: Result<u64, Refusal>) {
        let PendingApply { plan, mut applied } = pending;
        match result {
            Ok(flows) => {
                applied.flows_kept = flows;
                self.draining.turn_to(&plan);
                self.take_plan(plan);
                self.respond_late(token, &Response::Applied(applied));
            }
            Err(reason) => {
                let line = format!(
                    "the dataplane refused the new tag rules ({reason:?}); the old configuration stays in force"
                );
                self.respond_late(token, &failed(FailureKind::DataplaneAway, vec![line]));
            }
        }
    }

    /// Looks whether paths of earlier plans have ended.
    pub(super) fn drain(&mut self, stats: &Stats) {
        let State::Attached(attachment) = &self.state else { return };
        let limits = &self.plan.part().launch.limits;
        let quiet = limits.tcp_idle_s.max(limits.udp_idle_s).max(limits.other_idle_s);
        let lcores = attachment.counters.snapshots();
        let (names, tags) = self.draining.finished(&lcores, stats, Duration::from_secs(quiet.into()));
        if names.is_empty() {
            return;
        }
        tracing::info!("paths have ended: {}", names.join(", "));
        self.handle.send(Command::RemoveTags(tags));
        let mut composition = self.plan.composition.clone();
        let ended = |(id, name): (PathId, &str)| names.iter().any(|gone| gone == name).then_some(id);
        let gone = composition.state.retired().filter_map(ended).collect();
        composition.state = composition.state.forget(&gone);
        let plan = Plan { config: self.plan.config.clone(), composition, host: self.plan.host };
        self.take_plan(Arc::new(plan));
    }
}

/// What is different, one line each.
fn changes(old: &Plan, new: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    let (before, after) = (chains(&old.config), chains(&new.config));
    for (name, (tenant, chain)) in &after {
        match before.get(name) {
            None => lines.push(format!("chain {name} added: {}", chain.selector)),
            Some(known) => compare_chains(name, *known, (tenant, chain), &mut lines),
        }
    }
    lines.extend(before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("chain {name} removed")));
    let names = |plan: &Plan| plan.composition.paths.iter().map(|path| path.name.clone()).collect::<BTreeSet<_>>();
    let (before, after) = (names(old), names(new));
    lines.extend(after.difference(&before).map(|name| format!("path added, {name}")));
    lines.extend(before.difference(&after).map(|name| format!("path removed once its flows have ended, {name}")));
    lines
}

fn chains(config: &Config) -> BTreeMap<String, (&Tenant, &Chain)> {
    let of = |tenant: &'_ Tenant| -> Vec<String> {
        tenant.chains.iter().map(|chain| format!("{}/{}", tenant.name, chain.name)).collect()
    };
    let pairs = config
        .tenants
        .iter()
        .flat_map(|tenant| of(tenant).into_iter().zip(tenant.chains.iter().map(move |chain| (tenant.as_ref(), chain))));
    pairs.collect()
}

fn compare_chains(name: &str, old: (&Tenant, &Chain), new: (&Tenant, &Chain), lines: &mut Vec<String>) {
    if old.1.selector != new.1.selector {
        lines.push(format!("chain {name} selects {} instead of {}", new.1.selector, old.1.selector));
    }
    let way = |(tenant, chain): (&Tenant, &Chain)| {
        let middle = chain.through.iter().map(|nf| tenant.nfs[*nf].name.clone());
        let ends = [chain.from, chain.to].map(|index| tenant.endpoints[index].name.clone());
        let [from, to] = ends;
        std::iter::once(from).chain(middle).chain([to]).collect::<Vec<_>>().join(" > ")
    };
    if way(old) != way(new) {
        lines.push(format!("chain {name} goes {} instead of {}", way(new), way(old)));
    }
    let weights = |(tenant, chain): (&Tenant, &Chain)| {
        let instances = chain.through.iter().flat_map(|nf| tenant.instances_of(*nf));
        instances.map(|index| format!("{} {}", tenant.instances[index].name, chain.weight(index))).collect::<Vec<_>>()
    };
    if weights(old) != weights(new) {
        let (before, after) = (weights(old).join(", "), weights(new).join(", "));
        lines.push(format!("chain {name} has weights {after} instead of {before}"));
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

    #[test]
    fn a_path_that_is_gone_drains_until_it_is_quiet_and_one_that_returns_does_not() {
        let dns = "      dns: {from: clients, to: servers, select: {protocol: udp}, through: [edge]}\n";
        let old = plan(&format!("{}{dns}", config::EXAMPLE), &compose::State::default());
        let new = plan(config::EXAMPLE, &old.composition.state);
        let gone = old.composition.paths.iter().find(|path| path.name == "acme: clients > edge/1 > servers").unwrap();
        let mut draining = Draining::default();
        draining.turn_to(&new);
        let (hour, now) = (Duration::from_secs(3_600), Duration::ZERO);
        let quiet = Stats::default();
        assert_eq!(draining.finished(&[], &quiet, hour), (vec![], vec![]), "not quiet for long enough");
        let (names, tags) = draining.finished(&[], &quiet, now);
        assert_eq!(names, [format!("{} (retired)", gone.name)]);
        assert!(!tags.is_empty() && tags.iter().all(|tag| tag.rule.action.path == gone.id));
        assert!(draining.is_empty());
        draining.turn_to(&new);
        draining.turn_to(&plan(&format!("{}{dns}", config::EXAMPLE), &new.composition.state));
        assert!(draining.is_empty(), "it is in the plan again");
        let later = Draining::of_earlier(&new.composition);
        assert_eq!(later.paths.len(), 1, "a restarted controller knows it by its numbers");
    }

    #[test]
    fn changes_are_told_in_words() {
        let old = plan(config::EXAMPLE, &compose::State::default());
        let text = config::EXAMPLE
            .replace("destination_ports: [80, 443, 5201]", "destination_ports: [80]")
            .replace("weights: {edge/1: 1}", "weights: {edge/1: 2}");
        let lines = changes(&old, &plan(&text, &old.composition.state));
        let ends = "10.1.0.0/24,fd00:1::/64 > 10.2.0.0/24,fd00:2::/64";
        assert_eq!(
            lines[0],
            format!("chain acme/web selects tcp {ends} port 80 instead of tcp {ends} port 80,443,5201")
        );
        assert_eq!(
            lines[1],
            "chain acme/web has weights edge/1 2, nat/1 1, tap/1 1 instead of edge/1 1, nat/1 1, tap/1 1"
        );
        assert_eq!(lines.len(), 2);
        assert_eq!(changes(&old, &plan(config::EXAMPLE, &compose::State::default())), [""; 0]);
    }
}
