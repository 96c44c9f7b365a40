//! A tenant's subchains and their instance paths, with tags: which there are, which are new, and which retire.

use std::collections::{BTreeSet, HashMap};

use packet::{PathId, Vni};

use super::elements::Members;
use super::state::{PathState, TenantState};
use super::tags::{Stop, Tags, Tagspace};
use super::transform::{Cut, End, Part};
use super::{Head, Subchain};
use crate::config::{Chain, Config, Problems, Tenant};

/// Paths of one subchain.
const MAX_PATHS: usize = 4_096;

/// A path on its way into the composition.
#[derive(Debug)]
pub(super) struct Draft {
    /// From head to tail, indices into [`Members::all`].
    pub(super) members: Vec<usize>,
    /// None if it is new.
    pub(super) id: Option<PathId>,
    /// None if the networks have none left.
    pub(super) tags: Option<Tags>,
    /// Of its rules; empty if it is new.
    pub(super) counters: Vec<u16>,
    pub(super) retired: bool,
}

/// A tenant's subchains and paths; indices are the tenant's own.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) subchains: Vec<Subchain>,
    pub(super) chains: Vec<Vec<usize>>,
    /// Wanted ones in the order of the chains, then retired ones.
    pub(super) paths: Vec<Draft>,
}

/// What makes two chains' subchains the same: the way, and how it shares flows out.
type Shape = (Part, Vec<(usize, u32)>);

struct Planner<'a> {
    config: &'a Config,
    tenant: &'a Tenant,
    members: &'a Members,
    cut: &'a Cut,
    plan: Plan,
    known: HashMap<Shape, usize>,
    wanted: HashMap<Vec<usize>, usize>,
    /// For each wanted path the first chain that has it.
    chains: Vec<usize>,
    instances: Vec<Vec<usize>>,
}

/// Plans every chain of a tenant, in the file's order.
pub(super) fn plan(
    problems: &mut Problems,
    config: &Config,
    index: usize,
    tenant: &Tenant,
    members: &Members,
    cut: &Cut,
    before: &TenantState,
) -> Plan {
    let mut planner = Planner {
        config,
        tenant,
        members,
        cut,
        plan: Plan::default(),
        known: HashMap::new(),
        wanted: HashMap::new(),
        chains: Vec::new(),
        instances: vec![Vec::new(); tenant.nfs.len()],
    };
    for (instance, found) in tenant.instances.iter().enumerate() {
        let member = members.instances[instance].map(|member| &members.all[member]);
        if member.is_some_and(|member| !member.state.retired) {
            planner.instances[found.nf].push(instance);
        }
    }
    for chain in 0..tenant.chains.len() {
        let subchains = planner.chain(problems, index, chain);
        planner.plan.chains.push(subchains);
    }
    let Planner { mut plan, chains, .. } = planner;
    number(problems, tenant, members, before, &chains, &mut plan.paths);
    plan
}

/// What is left of a tenant that the configuration lacks.
pub(super) fn remains(members: &Members, before: &TenantState) -> Plan {
    Plan { paths: retired(members, before, &BTreeSet::new()), ..Plan::default() }
}

impl Planner<'_> {
    fn chain(&mut self, problems: &mut Problems, tenant_index: usize, chain_index: usize) -> Vec<usize> {
        let cut = self.cut;
        let chain = &self.tenant.chains[chain_index];
        let mut subchains = Vec::new();
        for part in &cut.chains[chain_index] {
            let mut weights: Vec<(usize, u32)> = Vec::new();
            for instance in part.through.iter().flat_map(|nf| &self.instances[*nf]).chain(self.ends(part.tail)) {
                weights.push((*instance, chain.weight(*instance)));
            }
            let shape = (part.clone(), weights);
            let index = match self.known.get(&shape) {
                Some(index) => *index,
                None => {
                    let Some(subchain) = self.subchain(problems, tenant_index, chain_index, part) else { break };
                    self.plan.subchains.push(subchain);
                    self.known.insert(shape, self.plan.subchains.len() - 1);
                    self.plan.subchains.len() - 1
                }
            };
            subchains.push(index);
        }
        subchains
    }

    /// The instances of a clone.
    fn ends(&self, end: End) -> &[usize] {
        match end {
            End::Endpoint(_) => &[],
            End::Clone(clone) => &self.cut.clones[clone].instances,
        }
    }

    /// The elements that can stand at a subchain's end.
    fn candidates(&self, end: End) -> Vec<usize> {
        match end {
            End::Endpoint(index) => self.members.endpoints[index].into_iter().collect(),
            End::Clone(_) => self.ends(end).iter().filter_map(|index| self.members.instances[*index]).collect(),
        }
    }

    fn subchain(
        &mut self,
        problems: &mut Problems,
        tenant_index: usize,
        chain_index: usize,
        part: &Part,
    ) -> Option<Subchain> {
        let chain = &self.tenant.chains[chain_index];
        let heads = self.candidates(part.head);
        let mut positions: Vec<Vec<usize>> = Vec::new();
        for nf in &part.through {
            positions.push(self.instances[*nf].iter().filter_map(|index| self.members.instances[*index]).collect());
        }
        positions.push(self.candidates(part.tail));
        let count = positions.iter().try_fold(heads.len(), |count, list| count.checked_mul(list.len()));
        if count.is_none_or(|count| count > MAX_PATHS) {
            self.note_too_many(problems, chain, part, count);
            return None;
        }
        let mut subchain = Subchain { tenant: tenant_index, heads: Vec::new() };
        for head in heads {
            let ways = product(head, &positions);
            let weights: Vec<u128> = ways.iter().map(|way| self.weight(chain, &way[1..])).collect();
            let mut choices = Vec::with_capacity(ways.len());
            for (way, weight) in ways.into_iter().zip(shares(&weights)) {
                choices.push((self.path(problems, chain_index, way), weight));
            }
            if !choices.is_empty() && choices.iter().all(|(_, weight)| *weight == 0) {
                self.note_no_weight(problems, chain, part);
            }
            subchain.heads.push(Head { place: self.members.all[head].place, choices });
        }
        Some(subchain)
    }

    /// The index of the path through these elements; made if it is new.
    fn path(&mut self, problems: &mut Problems, chain: usize, members: Vec<usize>) -> usize {
        if let Some(index) = self.wanted.get(&members) {
            return *index;
        }
        self.check_underlays(problems, &self.tenant.chains[chain], &members);
        let index = self.plan.paths.len();
        self.wanted.insert(members.clone(), index);
        self.chains.push(chain);
        self.plan.paths.push(Draft { members, id: None, tags: None, counters: Vec::new(), retired: false });
        index
    }

    fn check_underlays(&self, problems: &mut Problems, chain: &Chain, members: &[usize]) {
        for pair in members.windows(2) {
            let [from, to] = [pair[0], pair[1]].map(|index| &self.members.all[index]);
            if from.host == to.host {
                continue;
            }
            let hosts = [from, to].into_iter().filter_map(|member| self.config.hosts.get(member.host?));
            let Some(host) = hosts.into_iter().find(|host| host.underlay.is_none()) else { continue };
            let text = format!(
                "the way from `{0}/{1}` to `{0}/{2}` leaves host `{3}`, which has no underlay; declare its `underlay`, or move an \
                 instance",
                self.tenant.name, from.name, to.name, host.name
            );
            problems.note(chain.line, key(self.tenant, chain), text);
        }
    }

    fn weight(&self, chain: &Chain, members: &[usize]) -> u128 {
        members.iter().fold(1, |weight, member| match self.members.all[*member].place {
            super::Place::Instance(_, index) => weight.saturating_mul(chain.weight(index).into()),
            _ => weight,
        })
    }

    fn note_too_many(&self, problems: &mut Problems, chain: &Chain, part: &Part, count: Option<usize>) {
        let count = count.map_or_else(|| "more than can be counted".to_owned(), |count| count.to_string());
        let mut factors: Vec<String> = Vec::new();
        for nf in &part.through {
            factors.push(format!("{} of `{}`", self.instances[*nf].len(), self.tenant.nfs[*nf].name));
        }
        if let End::Clone(clone) = part.tail {
            let way = &self.cut.clones[clone];
            factors.push(format!("{} of `{}`", way.instances.len(), self.tenant.nfs[way.nf].name));
        }
        let text = format!(
            "a part of the chain has {count} instance paths ({}), at most {MAX_PATHS} are possible; use fewer instances, or \
             split the chain's traffic over several kinds",
            factors.join(", ")
        );
        problems.note(chain.line, key(self.tenant, chain), text);
    }

    fn note_no_weight(&self, problems: &mut Problems, chain: &Chain, part: &Part) {
        let mut ends = part.through.iter().map(|nf| (*nf, self.instances[*nf].as_slice())).collect::<Vec<_>>();
        if let End::Clone(clone) = part.tail {
            ends.push((self.cut.clones[clone].nf, self.ends(part.tail)));
        }
        let none = |(_, instances): &&(usize, &[usize])| instances.iter().all(|index| chain.weight(*index) == 0);
        let nf = ends.iter().find(none).map_or("", |(nf, _)| self.tenant.nfs[*nf].name.as_str());
        let text =
            format!("weights: every instance of `{nf}` that serves the chain has weight 0; give one of them more");
        problems.note(chain.line, key(self.tenant, chain), text);
    }
}

fn key(tenant: &Tenant, chain: &Chain) -> String {
    format!("tenants.{}.chains.{}", tenant.name, chain.name)
}

/// Every way to choose one element per position, the last position varying fastest.
fn product(head: usize, positions: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut ways = vec![vec![head]];
    for list in positions {
        let longer = |way: &Vec<usize>| -> Vec<Vec<usize>> {
            list.iter().map(|element| [way.as_slice(), &[*element]].concat()).collect()
        };
        ways = ways.iter().flat_map(longer).collect();
    }
    ways
}

/// Weights in lowest terms, so that their round is short, and small enough for a word.
fn shares(weights: &[u128]) -> Vec<u32> {
    const MOST: u128 = 1 << 24;
    let common = weights.iter().copied().fold(0, gcd).max(1);
    let largest = weights.iter().max().map_or(1, |largest| largest / common);
    let shrink = largest.div_ceil(MOST).max(1);
    let share = |weight: &u128| match weight / common {
        0 => 0,
        weight => u32::try_from((weight / shrink).max(1)).unwrap_or(u32::MAX),
    };
    weights.iter().map(share).collect()
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Gives ids and tags of before to the paths that were there, tags to new ones, and adds those that retire.
fn number(
    problems: &mut Problems,
    tenant: &Tenant,
    members: &Members,
    before: &TenantState,
    chains: &[usize],
    paths: &mut Vec<Draft>,
) {
    let vnis: Vec<Vni> = tenant.vnis().collect();
    let mut known: HashMap<&[u32], (PathId, &PathState)> = HashMap::new();
    for (id, path) in before.paths.iter().filter(|(_, path)| vnis.contains(&path.vni)) {
        let slot = known.entry(&path.elements).or_insert((*id, path));
        if slot.1.retired && !path.retired {
            *slot = (*id, path);
        }
    }
    let mut kept = BTreeSet::new();
    for draft in paths.iter_mut() {
        let numbers: Vec<u32> = draft.members.iter().map(|index| members.all[*index].number).collect();
        let Some((id, path)) = known.get(numbers.as_slice()) else { continue };
        kept.insert(*id);
        draft.id = Some(*id);
        draft.tags = Some(Tags { vni: path.vni, forward: path.forward, reverse: path.reverse });
        draft.counters.clone_from(&path.counters);
    }
    let networks = vnis.len();
    let mut space = Tagspace::new(vnis, members.all.len());
    let gone = retired(members, before, &kept);
    for draft in gone.iter().chain(paths.iter().filter(|draft| draft.id.is_some())) {
        if let Some(tags) = draft.tags {
            space.occupy(&stops(members, &draft.members), tags);
        }
    }
    rest(&mut space, members, before);
    for index in 0..paths.len() {
        if paths[index].id.is_some() {
            continue;
        }
        let stops = stops(members, &paths[index].members);
        let Some(tags) = space.colour(&stops, networks) else {
            let all = paths.iter().chain(&gone);
            note_no_tags(problems, tenant, members, &tenant.chains[chains[index]], space.fullest(&stops), all);
            break;
        };
        paths[index].tags = Some(tags);
    }
    paths.extend(gone);
}

fn stops<'a>(members: &'a Members, path: &[usize]) -> Vec<Stop<'a>> {
    let stop = |index: &usize| {
        let member = &members.all[*index];
        Stop { member: Some(*index), host: &member.state.host, is_instance: member.state.instance().is_some() }
    };
    path.iter().map(stop).collect()
}

/// Takes the tags of paths that are forgotten in this step: their rules may still be in force somewhere.
fn rest(space: &mut Tagspace, members: &Members, before: &TenantState) {
    let by_number = members.by_number();
    for path in &before.resting.paths {
        let element = |number: &u32| before.elements.get(number).or_else(|| before.resting.elements.get(number));
        let stop = |number: &u32| {
            let state = element(number)?;
            Some(Stop {
                member: by_number.get(number).copied(),
                host: &state.host,
                is_instance: state.instance().is_some(),
            })
        };
        let stops: Vec<Stop<'_>> = path.elements.iter().filter_map(stop).collect();
        space.occupy(&stops, Tags { vni: path.vni, forward: path.forward, reverse: path.reverse });
    }
}

/// Paths of before that are not among the kept ones, in the order of their ids.
fn retired(members: &Members, before: &TenantState, kept: &BTreeSet<PathId>) -> Vec<Draft> {
    let by_number = members.by_number();
    let draft = |(id, path): (&PathId, &PathState)| {
        let members: Option<Vec<usize>> = path.elements.iter().map(|number| by_number.get(number).copied()).collect();
        let tags = Tags { vni: path.vni, forward: path.forward, reverse: path.reverse };
        Some(Draft {
            members: members?,
            id: Some(*id),
            tags: Some(tags),
            counters: path.counters.clone(),
            retired: true,
        })
    };
    before.paths.iter().filter(|(id, _)| !kept.contains(id)).filter_map(draft).collect()
}

fn note_no_tags<'a>(
    problems: &mut Problems,
    tenant: &Tenant,
    members: &Members,
    chain: &Chain,
    fullest: Option<usize>,
    paths: impl Iterator<Item = &'a Draft>,
) {
    let Some(fullest) = fullest else { return };
    let (mut all, mut retired) = (0, 0);
    for draft in paths.filter(|draft| draft.members.contains(&fullest)) {
        all += 1;
        retired += usize::from(draft.retired);
    }
    let draining = if retired == 0 { String::new() } else { format!(", {retired} of them with flows that drain") };
    let count = tenant.vnis().count();
    let networks = if count == 1 { "network".to_owned() } else { format!("{count} networks") };
    let text = format!(
        "`{}/{}` is on {all} instance paths{draining}, more than the tenant's {networks} {} tags for (63 where paths meet, two for \
         a path through an instance); add networks to the tenant, such as `vni: [{}, 1000-1009]`, or use fewer instances per \
         function",
        tenant.name,
        members.all[fullest].name,
        if count == 1 { "has" } else { "have" },
        tenant.vni
    );
    problems.note(chain.line, key(tenant, chain), text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_taken_to_lowest_terms_and_keep_their_proportions() {
        assert_eq!(shares(&[10, 20, 0]), [1, 2, 0]);
        assert_eq!(shares(&[]), [0; 0]);
        assert_eq!(shares(&[0, 0]), [0, 0]);
        let large = shares(&[1_000_u128.pow(5), 500 * 1_000_u128.pow(4) + 1, 1]);
        assert!(large[0].abs_diff(2 * large[1]) <= 2 && large[2] == 1, "{large:?}");
    }
}
