//! Without a leader: what is installed everywhere and heard of no more is made by all, or undone by all.
//!
//! A leader goes by its change only after another host does. So it is made if and only if some other host ever took its
//! `Activate`; and once all others have promised not to, it never will be. A promise is written down before it is said, binds
//! for ever, and is no bar to following a host that goes by the version. A leader that waits itself, after its restart or because
//! nobody has answered, goes on saying `Activate`: all have installed it, else it would not have written it down.

use super::machine::Work;
use super::{ChangeId, Machine, Message, Stamp};
use crate::distribution::Action;

/// How many promises are remembered: more than changes whose messages can still be on their way.
const MAX_PROMISES: usize = 64;

impl Machine {
    /// Whether the attempt is not made at its leader's word.
    pub(super) fn has_refused(&self, change: &ChangeId) -> bool {
        self.refused.contains(change)
    }

    fn promise(&mut self, change: &ChangeId) {
        if self.has_refused(change) {
            return;
        }
        if self.refused.len() >= MAX_PROMISES {
            self.refused.remove(0);
        }
        self.refused.push(change.clone());
        self.persist();
    }

    fn is_connected(&self, host: &str) -> bool {
        self.peers.get(host).is_some_and(|peer| peer.connected)
    }

    /// All hosts whose promises are needed, this one left out.
    fn others(&self, leader: &str) -> Vec<String> {
        self.peers.keys().filter(|name| *name != leader).cloned().collect()
    }

    /// Somebody wants the promise that this host will not go by the change at its leader's word.
    pub(super) fn seal(&mut self, from: &str, change: ChangeId, stamp: &Stamp) {
        if change.leader == self.me {
            return;
        }
        if self.stamp == *stamp || self.stamp.version > stamp.version {
            let status = Message::Status(self.status());
            return self.send(from, status);
        }
        let declines = match &self.work {
            // The leader's word may still come; what is not installed ends with the leader.
            Work::Following(follow) if follow.change == change && !self.has_refused(&change) => {
                !follow.is_installed() || self.is_connected(&change.leader)
            }
            // It is made.
            Work::CatchingUp { document, .. } => document.version >= stamp.version,
            _ => false,
        };
        if declines {
            return;
        }
        self.promise(&change);
        self.send(from, Message::Sealed { change });
    }

    /// A host does not go by the change, and will not at its leader's word.
    pub(super) fn sealed(&mut self, from: &str, change: &ChangeId) {
        let from = from.to_owned();
        match &mut self.work {
            Work::Following(follow) if follow.change == *change && follow.is_installed() => {
                follow.sealed.insert(from);
                self.undo_if_sealed();
            }
            Work::Leading(lead) if lead.change == *change && lead.is_open() => {
                lead.sealed.insert(from);
                if !self.peers.keys().all(|name| lead.sealed.contains(name)) {
                    return;
                }
                if let Work::Leading(lead) = std::mem::replace(&mut self.work, Work::Nothing) {
                    let line = "all other hosts had given it up while this one could not be reached; try again";
                    let (host, reasons) = (self.me.clone(), vec![line.to_owned()]);
                    self.abort(lead, super::Refusal { host, reasons, needs_restart: false, is_busy: false });
                }
            }
            _ => {}
        }
    }

    /// All but the leader have promised, so nobody will go by it.
    fn undo_if_sealed(&mut self) {
        let Work::Following(follow) = &self.work else { return };
        let (change, version) = (follow.change.clone(), follow.stamp.version);
        let leads = change.leader == self.me;
        let all = self.others(&change.leader).iter().all(|name| follow.sealed.contains(name));
        if !all || !(leads || self.has_refused(&change)) {
            return;
        }
        self.give_up();
        if leads {
            let active = self.stamp.clone();
            self.send_all(&Message::Over { change, active });
            self.actions
                .push(Action::News(format!("version {version} was given up by all other hosts; apply it again")));
        } else {
            let leader = &change.leader;
            self.actions.push(Action::News(format!(
                "version {version}, led by {leader}, is given up on all hosts, since {leader} can't be reached and none goes \
                 by it; apply it again when {leader}'s controller runs"
            )));
        }
    }

    /// From time to time: what is installed and not decided is decided, if it can be.
    pub(super) fn resolve(&mut self) {
        let now = self.now_ms;
        let lost_ms = self.times.lost_ms;
        let Work::Following(follow) = &self.work else { return };
        if !follow.is_installed() {
            return;
        }
        let (change, stamp) = (follow.change.clone(), follow.stamp.clone());
        if change.leader == self.me {
            return self.send_all(&Message::Activate { change, stamp });
        }
        let hears = self.is_connected(&change.leader);
        let refused = self.has_refused(&change);
        let others = self.others(&change.leader);
        let away = others.iter().any(|name| !self.is_connected(name));
        let Work::Following(follow) = &mut self.work else { return };
        let since = if hears { now } else { follow.lost_since_ms.unwrap_or(now) };
        follow.lost_since_ms = (!hears).then_some(since);
        if hears || now < since + lost_ms {
            if !refused {
                return;
            }
        } else if away && !std::mem::replace(&mut follow.told, true) {
            let line = self.waits_for().unwrap_or_default();
            self.actions.push(Action::News(line));
        }
        if away && !refused {
            return;
        }
        self.promise(&change);
        let Work::Following(follow) = &self.work else { return };
        let open: Vec<String> = others.into_iter().filter(|name| !follow.sealed.contains(name)).collect();
        for name in open.iter().filter(|name| self.is_connected(name)).cloned().collect::<Vec<_>>() {
            self.send(&name, Message::Seal { change: change.clone(), stamp: stamp.clone() });
        }
        self.undo_if_sealed();
    }

    /// For whom what is installed here and not decided waits, and what to do; none if nothing waits.
    pub fn waits_for(&self) -> Option<String> {
        let (change, version) = match &self.work {
            Work::Following(follow) if follow.is_installed() => (&follow.change, follow.stamp.version),
            _ => return None,
        };
        let leader = &change.leader;
        let away: Vec<String> = self.others(leader).into_iter().filter(|name| !self.is_connected(name)).collect();
        let remedy = "start what does not run; on a machine that was replaced, with an empty run directory";
        let line = if *leader == self.me {
            let who = if away.is_empty() { "the other hosts' answers".to_owned() } else { away.join(", ") };
            format!("version {version}, led by this host, waits for {who}; {remedy}")
        } else if self.is_connected(leader) && !self.has_refused(change) {
            format!("version {version} waits for {leader}'s word; see {leader}'s log if that takes long")
        } else if away.is_empty() {
            format!("version {version} waits for {leader}, which can't be reached; without it, it is given up soon")
        } else {
            format!(
                "version {version}, led by {leader}, waits for {} (one of which may go by it); {remedy}",
                away.join(", ")
            )
        };
        Some(line)
    }
}
