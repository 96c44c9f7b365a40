//! The rules of one path: the exact action at its head and a tag rule for each further hop, in both directions.
//!
//! From element *e* to element *f* of a path, on *e*'s host: `(e, e, VNI, tag) → f`, or to the tunnel with *f*'s vport in it. If
//! they are on different hosts, on *f*'s host also `(tunnel, f, VNI, tag) → f`: the inner destination address says which
//! segment it is, so a path may enter a host as often as it likes. The rule that delivers to the last element carries what the
//! end keeps about the flow. The first hop is no tag rule but the head's exact rule.

use packet::{Direction, Tag, VportId};
use shm::rules::{Delivery, ExactAction, Next, ReverseHead, TagAction, TagKey, TagRule};

use super::geometry::HostGeometry;
use super::{Element, InstancePath, PlacedTag};

/// The rules of paths over these hosts.
pub(super) struct Layer<'a> {
    pub(super) hosts: &'a [HostGeometry],
}

/// One direction of a path.
struct Way<'a> {
    path: &'a InstancePath,
    direction: Direction,
    tag: Tag,
    end: Delivery,
}

impl Layer<'_> {
    /// How an element's packets get to the next one.
    fn next(&self, from: &Element, to: &Element) -> Next {
        match self.hosts[to.host].vtep {
            Some(vtep) if from.host != to.host => Next::Tunnel { vtep, next: to.vport },
            _ => Next::Vport(to.vport),
        }
    }

    /// What the forward end keeps.
    fn learn(&self, path: &InstancePath) -> Delivery {
        let (tail, before) = (&path.elements[path.elements.len() - 1], &path.elements[path.elements.len() - 2]);
        Delivery::Learn(ReverseHead {
            tag: path.reverse,
            next: self.next(tail, before),
            ends_here: is_one_hop_here(path),
            path: path.id,
            path_mtu: path.mtu_reverse,
        })
    }

    /// The exact rule's action at the head.
    pub(super) fn action(&self, path: &InstancePath) -> ExactAction {
        ExactAction {
            vni: path.vni,
            tag: path.forward,
            direction: Direction::Forward,
            next: self.next(&path.elements[0], &path.elements[1]),
            delivery: if is_one_hop_here(path) { self.learn(path) } else { Delivery::None },
            path: path.id,
            path_mtu: path.mtu_forward,
        }
    }

    /// The path's tag rules with their hosts, always in the same order; their counters are numbered later.
    pub(super) fn lay(&self, path: &InstancePath) -> Vec<(usize, PlacedTag)> {
        let forward: Vec<&Element> = path.elements.iter().collect();
        let reverse: Vec<&Element> = path.elements.iter().rev().collect();
        let mut rules = Vec::with_capacity(4 * forward.len());
        let end = self.learn(path);
        self.lay_way(&Way { path, direction: Direction::Forward, tag: path.forward, end }, &forward, &mut rules);
        let end = Delivery::Refresh;
        self.lay_way(&Way { path, direction: Direction::Reverse, tag: path.reverse, end }, &reverse, &mut rules);
        rules
    }

    fn lay_way(&self, way: &Way<'_>, elements: &[&Element], rules: &mut Vec<(usize, PlacedTag)>) {
        for (hop, pair) in elements.windows(2).enumerate() {
            let (from, to) = (pair[0], pair[1]);
            let delivery = if hop + 2 == elements.len() { way.end } else { Delivery::None };
            let crosses = from.host != to.host;
            if hop > 0 {
                let at_sender = if crosses { Delivery::None } else { delivery };
                let rule = way.rule(from.vport, from.vport, self.next(from, to), at_sender);
                rules.push((from.host, PlacedTag { lcore: from.lcore, rule }));
            }
            if crosses {
                let rule = way.rule(VportId::TUNNEL, to.vport, Next::Vport(to.vport), delivery);
                rules.push((to.host, PlacedTag { lcore: self.hosts[to.host].tunnel_lcore, rule }));
            }
        }
    }
}

fn is_one_hop_here(path: &InstancePath) -> bool {
    path.elements.len() == 2 && path.elements[0].host == path.elements[1].host
}

impl Way<'_> {
    fn rule(&self, prior: VportId, segment: VportId, next: Next, delivery: Delivery) -> TagRule {
        TagRule {
            key: TagKey { prior, segment, vni: self.path.vni, tag: self.tag },
            action: TagAction { direction: self.direction, next, delivery, path: self.path.id, counter: 0 },
        }
    }
}
