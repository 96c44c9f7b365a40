//! Tags by colouring: two paths need different tags only where packets of both meet one table.
//!
//! A tag rule's key is (prior vport, segment, VNI, tag), so these are the sites where tags of one tenant must differ:
//!
//! - at an instance inside paths: the key is (its vport, its vport);
//! - at the tunnel of a host: (tunnel, the next element's vport), so each element that is entered by the tunnel is one site.
//!
//! An instance that is inside one path and at the end of another (its kind was accepted as a mangler while flows ran) looks
//! for a tag rule first: what ends there must not carry a tag that has a rule there.
//!
//! Tags of existing paths are taken as they are, retired ones too. New paths get the lowest tags that are free at all their
//! sites, in the tenant's first network that has some.

use std::collections::HashMap;

use packet::{Tag, Vni};

/// The tags of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) vni: Vni,
    pub(super) forward: Tag,
    pub(super) reverse: Tag,
}

/// An element of a path, as far as tags go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop<'a> {
    /// The element's index; none if it is gone.
    pub(super) member: Option<usize>,
    pub(super) host: &'a str,
    pub(super) is_instance: bool,
}

/// The tags of a tenant that are taken, bit by bit; tag *t* is bit *t*.
pub(super) struct Tagspace {
    vnis: Vec<Vni>,
    index: HashMap<Vni, usize>,
    members: usize,
    /// By network and element: rules at the element; rules at the tunnel in front of it; paths that end there.
    taken: Vec<[u64; 3]>,
}

const AT_ELEMENT: usize = 0;
const AT_TUNNEL: usize = 1;
const ENDS: usize = 2;

/// Tags 1..=63.
const ALL: u64 = !1;

/// Where the tags of one direction must be free, and what they take: element, which of its three words.
type Sites = Vec<(usize, usize)>;

impl Tagspace {
    /// Nothing is taken; the networks are tried in this order.
    pub(super) fn new(vnis: Vec<Vni>, members: usize) -> Self {
        let index = vnis.iter().enumerate().map(|(index, vni)| (*vni, index)).collect();
        Self { taken: vec![[0; 3]; vnis.len() * members], vnis, index, members }
    }

    /// An existing path.
    pub(super) fn occupy(&mut self, stops: &[Stop<'_>], tags: Tags) {
        let network = *self.index.entry(tags.vni).or_insert_with(|| {
            self.vnis.push(tags.vni);
            self.taken.extend(std::iter::repeat_n([0; 3], self.members));
            self.vnis.len() - 1
        });
        let (forward, reverse) = (sites(stops), sites(&reversed(stops)));
        self.take(network, &forward, tags.forward);
        self.take(network, &reverse, tags.reverse);
    }

    /// Tags for a new path out of the first `networks` networks; none if they have none left.
    pub(super) fn colour(&mut self, stops: &[Stop<'_>], networks: usize) -> Option<Tags> {
        let (forward, reverse) = (sites(stops), sites(&reversed(stops)));
        for network in 0..networks {
            let Some(first) = lowest(self.free(network, &forward)) else { continue };
            let Some(second) = lowest(self.free(network, &reverse) & !(1 << first.dscp())) else { continue };
            self.take(network, &forward, first);
            self.take(network, &reverse, second);
            return Some(Tags { vni: self.vnis[network], forward: first, reverse: second });
        }
        None
    }

    /// The element of a path whose tags are scarcest.
    pub(super) fn fullest(&self, stops: &[Stop<'_>]) -> Option<usize> {
        let used = |member: usize| -> u32 {
            let words = (0..self.vnis.len()).map(|network| self.taken[network * self.members + member]);
            words.map(|[at, tunnel, _]| at.count_ones().max(tunnel.count_ones())).sum()
        };
        stops.iter().filter_map(|stop| stop.member).max_by_key(|member| used(*member))
    }

    fn take(&mut self, network: usize, sites: &Sites, tag: Tag) {
        for (member, word) in sites {
            self.taken[network * self.members + member][*word] |= 1 << tag.dscp();
        }
    }

    fn free(&self, network: usize, sites: &Sites) -> u64 {
        let taken = sites.iter().fold(0, |taken, (member, word)| {
            let words = self.taken[network * self.members + member];
            taken
                | match *word {
                    AT_ELEMENT => words[AT_ELEMENT] | words[ENDS],
                    AT_TUNNEL => words[AT_TUNNEL],
                    _ => words[AT_ELEMENT],
                }
        });
        ALL & !taken
    }
}

/// The sites of the direction in which the stops are given.
fn sites(stops: &[Stop<'_>]) -> Sites {
    let mut sites = Vec::with_capacity(2 * stops.len());
    for (place, stop) in stops.iter().enumerate().skip(1) {
        let Some(member) = stop.member else { continue };
        if stops[place - 1].host != stop.host {
            sites.push((member, AT_TUNNEL));
        }
        if place + 1 < stops.len() {
            sites.push((member, AT_ELEMENT));
        } else if stop.is_instance {
            sites.push((member, ENDS));
        }
    }
    sites
}

fn reversed<'a>(stops: &[Stop<'a>]) -> Vec<Stop<'a>> {
    stops.iter().rev().copied().collect()
}

fn lowest(free: u64) -> Option<Tag> {
    u8::try_from(free.trailing_zeros()).ok().and_then(|number| Tag::new(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(member: usize, host: &str, is_instance: bool) -> Stop<'_> {
        Stop { member: Some(member), host, is_instance }
    }

    fn vnis(count: u32) -> Vec<Vni> {
        (100..100 + count).map(|number| Vni::new(number).unwrap()).collect()
    }

    /// Breaks if paths that never meet would use each other's tags up.
    #[test]
    fn paths_that_meet_nowhere_share_tags_and_paths_that_meet_do_not() {
        let mut space = Tagspace::new(vnis(1), 100);
        for member in 0..30 {
            let apart = [stop(90, "a", false), stop(member, "a", true), stop(91, "a", false)];
            let tags = space.colour(&apart, 1).unwrap();
            assert_eq!((tags.forward.dscp(), tags.reverse.dscp()), (1, 2));
        }
        let together = [stop(90, "a", false), stop(0, "a", true), stop(92, "a", false)];
        assert_eq!(space.colour(&together, 1).unwrap().forward.dscp(), 3);
    }

    #[test]
    fn an_instance_has_31_paths_through_it_in_a_network_and_further_ones_spill() {
        let mut space = Tagspace::new(vnis(2), 3);
        let path = [stop(0, "a", false), stop(1, "a", true), stop(2, "a", false)];
        let networks: Vec<u32> =
            (0..62).map(|_| space.colour(&path, 2).map(|tags| tags.vni.value()).unwrap()).collect();
        assert_eq!(networks, [[100; 31], [101; 31]].concat());
        assert_eq!(space.colour(&path, 2), None);
        assert_eq!(space.fullest(&path), Some(1));
    }

    #[test]
    fn between_two_hosts_without_functions_62_paths_fit() {
        let mut space = Tagspace::new(vnis(1), 2);
        let path = [stop(0, "a", false), stop(1, "b", false)];
        assert_eq!((0..70).filter(|_| space.colour(&path, 1).is_some()).count(), 62);
    }

    /// Breaks if a flow that ends at an instance could be taken for one that goes through it.
    #[test]
    fn what_ends_at_an_instance_has_no_tag_of_a_rule_there() {
        let (through, ends) = ([stop(0, "a", false), stop(1, "a", true), stop(2, "a", false)], |from| {
            [stop(from, "a", false), stop(1, "a", true)]
        });
        let mut space = Tagspace::new(vnis(1), 4);
        let old = space.colour(&through, 1).unwrap();
        let new = space.colour(&ends(0), 1).unwrap();
        assert!(![old.forward, old.reverse].contains(&new.forward));
        let mut space = Tagspace::new(vnis(1), 4);
        let old = space.colour(&ends(0), 1).unwrap();
        assert_eq!(space.colour(&ends(3), 1).unwrap().forward, old.forward, "ends may share");
        let new = space.colour(&through, 1).unwrap();
        assert!(![new.forward, new.reverse].contains(&old.forward));
    }
}
