//! The rules of one path: the exact action at its head and a tag rule for each further hop, in both directions.
//!
//! From element *e* to element *f* of a path, on *e*'s host: `(e, e, VNI, tag) → f`, or to the tunnel with *f*'s vport in it. If
//! they are on different hosts, on *f*'s host also `(tunnel, f, VNI, tag) → f`: the inner destination address says which
//! segment it is, so a path may enter a host as often as it likes. The rule that delivers to the last element carries what the
//! end keeps about the flow. The first hop is no tag rule but the head's exact rule.

use packet::{Direction, Tag, VportId};
use shm::rules::{Delivery, ExactAction, Next, ReverseHead, TagAction, TagKey, TagRule};

use super::{Element, HostPart, InstancePath, PlacedTag};
use crate::config::Config;

/// How an element's packets get to the next one.
fn next(config: &Config, from: &Element, to: &Element) -> Next {
    let vtep = config.hosts[to.host].underlay.as_ref().map(|underlay| underlay.address.addr());
    match vtep {
        Some(vtep) if from.host != to.host => Next::Tunnel { vtep, next: to.vport },
        _ => Next::Vport(to.vport),
    }
}

/// Adds the path's tag rules to its hosts, and sets its head's action.
pub(super) fn make(config: &Config, path: &mut InstancePath, hosts: &mut [HostPart]) {
    let forward: Vec<&Element> = path.elements.iter().collect();
    let reverse: Vec<&Element> = path.elements.iter().rev().collect();
    let one_hop_here = forward.len() == 2 && forward[0].host == forward[1].host;
    let learn = Delivery::Learn(ReverseHead {
        tag: path.reverse,
        next: next(config, reverse[0], reverse[1]),
        ends_here: one_hop_here,
        path: path.id,
        path_mtu: path.mtu_reverse,
    });
    let action = ExactAction {
        vni: path.vni,
        tag: path.forward,
        direction: Direction::Forward,
        next: next(config, forward[0], forward[1]),
        delivery: if one_hop_here { learn } else { Delivery::None },
        path: path.id,
        path_mtu: path.mtu_forward,
    };
    let ways = [
        Way { path, direction: Direction::Forward, tag: path.forward, end: learn },
        Way { path, direction: Direction::Reverse, tag: path.reverse, end: Delivery::Refresh },
    ];
    ways[0].lay(config, &forward, hosts);
    ways[1].lay(config, &reverse, hosts);
    path.action = action;
}

/// One direction of a path.
struct Way<'a> {
    path: &'a InstancePath,
    direction: Direction,
    tag: Tag,
    end: Delivery,
}

impl Way<'_> {
    fn lay(&self, config: &Config, elements: &[&Element], hosts: &mut [HostPart]) {
        for (hop, pair) in elements.windows(2).enumerate() {
            let [from, to] = pair else { continue };
            let delivery = if hop + 2 == elements.len() { self.end } else { Delivery::None };
            let crosses = from.host != to.host;
            if hop > 0 {
                let at_sender = if crosses { Delivery::None } else { delivery };
                let rule = self.rule(from.vport, from.vport, next(config, from, to), at_sender);
                hosts[from.host].tags.push(PlacedTag { lcore: from.lcore, rule });
            }
            if crosses {
                let host = &mut hosts[to.host];
                let rule = self.rule(VportId::TUNNEL, to.vport, Next::Vport(to.vport), delivery);
                host.tags.push(PlacedTag { lcore: host.vports[0].lcore, rule });
            }
        }
    }

    /// Its counter is numbered later.
    fn rule(&self, prior: VportId, segment: VportId, next: Next, delivery: Delivery) -> TagRule {
        TagRule {
            key: TagKey { prior, segment, vni: self.path.vni, tag: self.tag },
            action: TagAction { direction: self.direction, next, delivery, path: self.path.id, counter: 0 },
        }
    }
}
