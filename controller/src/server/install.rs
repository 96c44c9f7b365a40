//! A version on this host: installed beside the one in force, then activated, or withdrawn.
//!
//! The dataplane's document is always what the plan in force and the installed plan want together; [`Server::settle_launch`]
//! sees to that whenever one of them or the dataplane itself changes. Tag rules go in after the vports that they name are
//! there, and out before those end.

use std::collections::BTreeSet;
use std::sync::Arc;

use shm::hello::{Control, LcoreReport, LcoreRole};
use shm::launch::Launch;

use super::versions::Staged;
use super::{Server, State, Waiting};
use crate::compose::PlacedTag;
use crate::config::Hugepages;
use crate::distribution::{Input, Refusal, Task};
use crate::flows::Plan;
use crate::process::{as_running, differences, union};
use crate::steering::{Command, Occupant};

/// What runs on each lcore, as the dataplane reports it.
pub(super) fn occupants(lcores: &[LcoreReport]) -> Vec<Occupant> {
    let occupant = |lcore: &LcoreReport| match (lcore.role, lcore.vport) {
        (LcoreRole::Io, _) => Occupant::Ports,
        (LcoreRole::Nf, Some(vport)) => Occupant::Instance(vport),
        (LcoreRole::Nf, None) | (LcoreRole::Spare, _) => Occupant::Nobody,
    };
    lcores.iter().map(occupant).collect()
}

impl Server {
    /// The dataplane's document for what is in force and what is installed.
    pub(super) fn launch(&self) -> (Launch, Hugepages) {
        let part = self.plan.part();
        match &self.versions.staged {
            Some(staged) => (union(&part.launch, &staged.plan.part().launch), staged.plan.part().hugepages),
            None => (part.launch.clone(), part.hugepages),
        }
    }

    pub(super) fn install(&mut self, task: Task, plan: Arc<Plan>, allow_restart: bool) {
        self.versions.staged = Some(Staged { plan, allow_restart, anew: false });
        self.versions.installation = Some(task);
        self.versions.refused = None;
        self.go_on_installing();
    }

    /// The next step: a restart, a running dataplane's change, tag rules.
    pub(super) fn go_on_installing(&mut self) {
        let (Some(task), Some(staged)) = (self.versions.installation, &mut self.versions.staged) else { return };
        if self.versions.hold_until.is_some() {
            // There is no dataplane yet; it will be started with it.
            return self.end_installing(Ok(()));
        }
        let allowed = staged.allow_restart;
        let (wanted, hugepages) = self.launch();
        let State::Attached(attachment) = &self.state else { return };
        if !attachment.ready || self.versions.reconfiguring.is_some() {
            return;
        }
        let running = &attachment.hello.launch;
        let restart = differences(running, &wanted, hugepages);
        if !restart.is_empty() {
            if allowed {
                self.restart_for(&restart);
            } else {
                let refusal = Refusal { needs_restart: true, ..self.refusal(restart) };
                self.end_installing(Err(refusal));
            }
            return;
        }
        let wanted = as_running(running, &wanted, hugepages);
        if wanted != *running {
            return self.reconfigure(wanted);
        }
        let Some(staged) = &self.versions.staged else { return };
        let plan = Arc::clone(&staged.plan);
        self.ask(Waiting::Install(task), |ticket| Command::Install(plan, ticket));
    }

    fn restart_for(&mut self, why: &[String]) {
        tracing::warn!("the dataplane is restarted: {}", why.join("; "));
        if let Some(staged) = &mut self.versions.staged {
            staged.anew = true;
        }
        self.restart();
    }

    /// The installation came to an end.
    pub(super) fn end_installing(&mut self, result: Result<(), Refusal>) {
        if let Some(task) = self.versions.installation.take() {
            self.feed(Input::Local(task, result));
        }
    }

    fn reconfigure(&mut self, wanted: Launch) {
        let State::Attached(attachment) = &mut self.state else { return };
        let message = Control::Reconfigure { launch: Box::new(wanted.clone()) };
        match attachment.stream.send(&message) {
            Ok(()) => self.versions.reconfiguring = Some(wanted),
            Err(error) => {
                self.versions.reconfiguring = Some(wanted);
                self.not_reconfigured(&error.to_string());
            }
        }
    }

    pub(super) fn reconfigured(&mut self, lcores: Vec<LcoreReport>, warnings: Vec<String>) {
        let Some(launch) = self.versions.reconfiguring.take() else { return };
        let State::Attached(attachment) = &mut self.state else { return };
        let whole = lcores.len() == launch.lcores.len();
        let in_order = lcores.iter().enumerate().all(|(index, lcore)| lcore.index == index);
        if whole && in_order {
            attachment.hello.lcores = lcores;
        } else {
            let pid = attachment.hello.pid;
            self.note(format!("dataplane {pid} reports other lcores than it has; run the same release on both sides"));
        }
        let State::Attached(attachment) = &mut self.state else { return };
        attachment.hello.launch = launch;
        for warning in warnings {
            if !attachment.hello.warnings.contains(&warning) {
                tracing::warn!("dataplane: {warning}");
                attachment.hello.warnings.push(warning);
            }
        }
        self.handle.send(Command::Occupy(occupants(&attachment.hello.lcores)));
        // Peers hear where instances run before they hear that the version is installed.
        self.look_at_machine();
        let State::Attached(attachment) = &self.state else { return };
        let runs = |lcore: &LcoreReport| if lcore.role == LcoreRole::Nf { lcore.vport } else { None };
        let running: BTreeSet<_> = attachment.hello.lcores.iter().filter_map(runs).collect();
        let before = self.versions.failed.len();
        self.versions.failed.retain(|vport| running.contains(vport));
        self.versions.rewrites.retain(|vport, _| running.contains(vport));
        if self.versions.failed.len() != before {
            self.failures_changed();
        }
        self.settle_launch();
    }

    pub(super) fn not_reconfigured(&mut self, reason: &str) {
        self.versions.refused = self.versions.reconfiguring.take();
        let line = format!("the dataplane can't become what the change wants: {reason}");
        if self.versions.installation.is_some() {
            let refusal = self.refusal(vec![line]);
            self.end_installing(Err(refusal));
        } else {
            self.note(line);
        }
    }

    /// Makes the dataplane what is wanted of it, if it is not.
    pub(super) fn settle_launch(&mut self) {
        if self.versions.installation.is_some() {
            return self.go_on_installing();
        }
        let (wanted, hugepages) = self.launch();
        let State::Attached(attachment) = &self.state else { return };
        if !attachment.ready || self.versions.reconfiguring.is_some() {
            return;
        }
        let running = &attachment.hello.launch;
        let wanted = as_running(running, &wanted, hugepages);
        if wanted == *running || self.versions.refused.as_ref() == Some(&wanted) {
            return;
        }
        let restart = differences(running, &wanted, hugepages);
        if restart.is_empty() {
            self.reconfigure(wanted);
        } else {
            self.restart_for(&restart);
        }
    }

    pub(super) fn activate(&mut self, task: Task) {
        let Some(Staged { plan, anew, .. }) = self.versions.staged.take() else {
            let refusal = self.refusal(vec!["nothing is installed; please report this".into()]);
            return self.feed(Input::Local(task, Err(refusal)));
        };
        let going = Arc::clone(&plan);
        self.ask(Waiting::Activate(task, plan), |ticket| Command::Activate { plan: going, anew, ticket });
    }

    /// The flow thread goes by the plan; what only the one before had goes.
    pub(super) fn activated(&mut self, task: Task, plan: Arc<Plan>, flows: u64) {
        let old = std::mem::replace(&mut self.plan, plan);
        let key = |tag: &PlacedTag| (tag.lcore, tag.rule.key);
        let kept: BTreeSet<_> = self.plan.part().tags.iter().map(key).collect();
        let gone: Vec<PlacedTag> = old.part().tags.iter().filter(|tag| !kept.contains(&key(tag))).copied().collect();
        if !gone.is_empty() {
            self.handle.send(Command::RemoveTags(gone));
        }
        self.draining.turn_to(&self.plan);
        // What was idle may be forgotten, or in use again; the next look says.
        self.feed(Input::Idle(Vec::new()));
        if let Some(asked) = &mut self.versions.asked {
            asked.applied.flows_kept = flows;
        }
        for warning in &self.plan.composition.warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!("version {} is in force, {flows} flows go on", self.versions.machine.active().version);
        self.settle_launch();
        self.feed(Input::Local(task, Ok(())));
    }

    pub(super) fn withdraw(&mut self) {
        self.versions.installation = None;
        if self.versions.staged.take().is_some() {
            self.handle.send(Command::Withdraw);
            self.settle_launch();
        }
    }
}
