//! What manglers make of the tenants' chains (Stratos section 4.1): [`Transformation`].
//!
//! Behind a mangler a packet does not show any more which chain it is on. So each way on behind a mangler kind, to the chain's
//! end, gets a clone of the kind: instances that serve this way and no other. Chains are rewritten to the clones.
//!
//! - Instances are dealt to clones once and stay: the state knows who serves what. `serves` in the configuration binds one.
//! - An instance that has paths, also retired ones, is not given another way on; flows that it rewrites could take either.
//!
//! Invariant: every instance of a mangler has one way on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::elements::Members;
use super::state::TenantState;
use crate::config::{Chain, Problems, Tenant};

/// What manglers make of the tenants' chains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transformation {
    /// Every mangler that a chain goes through, by tenant in the configuration's order.
    pub manglers: Vec<Mangler>,
}

/// A mangler and its clones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mangler {
    /// Its tenant.
    pub tenant: String,
    /// The kind.
    pub kind: String,
    /// It was found by its traffic and accepted by the operator; otherwise it was declared.
    pub detected: bool,
    /// One per downstream path.
    pub clones: Vec<ManglerClone>,
}

/// The part of a mangler's instances that has one downstream path to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManglerClone {
    /// `nat`, or `nat#2` if there are several.
    pub name: String,
    /// What comes behind it, up to and with the endpoint.
    pub downstream: Vec<String>,
    /// Its instances.
    pub instances: Vec<String>,
    /// The chains through it, rewritten: `web: clients > edge > nat#2 > tap > servers`.
    pub chains: Vec<String>,
}

impl Transformation {
    /// Cores that manglers need beyond one per kind, because they have several downstream paths.
    pub fn extra_cores(&self) -> usize {
        self.manglers.iter().map(|mangler| mangler.clones.len().saturating_sub(1)).sum()
    }
}

impl fmt::Display for Transformation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mangler in &self.manglers {
            let how = if mangler.detected { "detected and accepted" } else { "declared" };
            let count = mangler.clones.len();
            let paths = if count == 1 { "1 downstream path".to_owned() } else { format!("{count} downstream paths") };
            writeln!(f, "mangler {}/{} ({how}): {paths}", mangler.tenant, mangler.kind)?;
            for clone in &mangler.clones {
                let (downstream, instances) = (clone.downstream.join(" > "), clone.instances.join(", "));
                writeln!(f, "  {}: to {downstream}, by {instances}", clone.name)?;
                for chain in &clone.chains {
                    writeln!(f, "    {chain}")?;
                }
            }
        }
        match self.extra_cores() {
            0 if self.manglers.is_empty() => {
                writeln!(f, "no chain goes through a mangler: the chains stay as they are")
            }
            0 => writeln!(f, "no mangler needs a clone: the chains stay as they are"),
            1 => writeln!(f, "the clones need 1 core more than one per mangler"),
            cores => writeln!(f, "the clones need {cores} cores more than one per mangler"),
        }
    }
}

/// Where a subchain begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// An index into the tenant's endpoints.
    Endpoint(usize),
    /// An index into [`Cut::clones`].
    Clone(usize),
}

/// A subchain of a rewritten chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) head: End,
    /// Functions between.
    pub(super) through: Vec<usize>,
    pub(super) tail: End,
}

/// One way on behind a mangler, and who serves it.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) nf: usize,
    /// `tap > servers`.
    text: String,
    /// Chains that go this way.
    chains: Vec<usize>,
    /// Indices into the tenant's instances.
    pub(super) instances: Vec<usize>,
}

/// A tenant's chains, rewritten and cut.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) clones: Vec<Way>,
    /// For each chain its subchains.
    pub(super) chains: Vec<Vec<Part>>,
    /// Who serves what, for the state.
    pub(super) record: BTreeMap<String, BTreeMap<String, BTreeSet<u32>>>,
}

/// Rewrites a tenant's chains and deals its manglers' instances.
pub(super) fn cut(problems: &mut Problems, tenant: &Tenant, members: &Members, before: &TenantState) -> Cut {
    let mut cut = Cut::default();
    let mut known: HashMap<(usize, &[usize], usize), usize> = HashMap::new();
    for (index, chain) in tenant.chains.iter().enumerate() {
        let mut parts = Vec::new();
        let (mut head, mut through) = (End::Endpoint(chain.from), Vec::new());
        for (place, &nf) in chain.through.iter().enumerate() {
            if !tenant.nfs[nf].mangles {
                through.push(nf);
                continue;
            }
            let rest = &chain.through[place + 1..];
            let clone = *known.entry((nf, rest, chain.to)).or_insert_with(|| {
                let text = downstream(tenant, rest, chain.to).join(" > ");
                cut.clones.push(Way { nf, text, chains: Vec::new(), instances: Vec::new() });
                cut.clones.len() - 1
            });
            cut.clones[clone].chains.push(index);
            let tail = End::Clone(clone);
            parts.push(Part { head, through: std::mem::take(&mut through), tail });
            head = tail;
        }
        parts.push(Part { head, through, tail: End::Endpoint(chain.to) });
        cut.chains.push(parts);
    }
    let mut kinds: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, clone) in cut.clones.iter().enumerate() {
        kinds.entry(clone.nf).or_default().push(index);
    }
    let dealer = Dealer::new(tenant, members, before);
    for (nf, clones) in kinds {
        dealer.deal(problems, nf, &clones, &mut cut);
    }
    dealer.remember(&mut cut);
    cut
}

fn downstream(tenant: &Tenant, rest: &[usize], to: usize) -> Vec<String> {
    let kinds = rest.iter().map(|nf| tenant.nfs[*nf].name.clone());
    kinds.chain([tenant.endpoints[to].name.clone()]).collect()
}

/// What instances served before.
struct Dealer<'a> {
    tenant: &'a Tenant,
    members: &'a Members,
    before: &'a TenantState,
    /// By element number, the way on.
    served: HashMap<u32, &'a str>,
    /// Elements at which a path begins or ends.
    ends: BTreeSet<u32>,
}

impl<'a> Dealer<'a> {
    fn new(tenant: &'a Tenant, members: &'a Members, before: &'a TenantState) -> Self {
        let ways = before.clones.values().flatten();
        let served = ways.flat_map(|(way, numbers)| numbers.iter().map(|number| (*number, way.as_str()))).collect();
        let ends = before.paths.values().flat_map(|path| [path.elements.first(), path.elements.last()]);
        Self { tenant, members, before, served, ends: ends.flatten().copied().collect() }
    }

    /// The number of an instance that new flows may take.
    fn number(&self, instance: usize) -> Option<u32> {
        let member = self.members.instances.get(instance).copied().flatten()?;
        let member = self.members.all.get(member).filter(|member| !member.state.retired)?;
        Some(member.number)
    }

    fn deal(&self, problems: &mut Problems, nf: usize, clones: &[usize], cut: &mut Cut) {
        let (mut free, mut busy) = (Vec::new(), Vec::new());
        for instance in self.tenant.instances_of(nf) {
            let Some(number) = self.number(instance) else { continue };
            let serves = self.tenant.instances[instance].serves;
            let wanted = serves
                .and_then(|chain| clones.iter().copied().find(|clone| cut.clones[*clone].chains.contains(&chain)));
            let way = self.served.get(&number).copied();
            let served = clones.iter().copied().find(|clone| Some(cut.clones[*clone].text.as_str()) == way);
            match (wanted, served, self.ends.contains(&number) && way.is_some()) {
                (None, Some(clone), _) => cut.clones[clone].instances.push(instance),
                (Some(wanted), served, bound) if !bound || served == Some(wanted) => {
                    cut.clones[wanted].instances.push(instance);
                }
                (_, _, true) => busy.push(instance),
                (_, _, false) => free.push(instance),
            }
        }
        let mut free = free.into_iter();
        for clone in clones {
            if cut.clones[*clone].instances.is_empty() {
                cut.clones[*clone].instances.extend(free.next());
            }
        }
        for instance in free {
            let poorest = clones.iter().min_by_key(|clone| cut.clones[**clone].instances.len());
            if let Some(poorest) = poorest {
                cut.clones[*poorest].instances.push(instance);
            }
        }
        for clone in clones {
            cut.clones[*clone].instances.sort_unstable();
        }
        if clones.iter().any(|clone| cut.clones[*clone].instances.is_empty()) {
            self.note_too_few(problems, nf, clones, cut, &busy);
        }
    }

    fn note_too_few(&self, problems: &mut Problems, nf: usize, clones: &[usize], cut: &Cut, busy: &[usize]) {
        // A chain without any instance is found when the file is read; one whose instances have no place, when they are placed.
        let there = self.tenant.live_instances_of(nf).filter(|index| self.number(*index).is_some()).count();
        if there < self.tenant.live_instances_of(nf).count() {
            return;
        }
        let tenant = self.tenant;
        let name = &tenant.nfs[nf].name;
        let of = |clone: usize| {
            let way = &cut.clones[clone];
            let chains: Vec<&str> = way.chains.iter().map(|chain| tenant.chains[*chain].name.as_str()).collect();
            format!("to {} (chain {})", way.text, chains.join(", "))
        };
        let ways: Vec<String> = clones.iter().map(|clone| of(*clone)).collect();
        let empty = clones.iter().find(|clone| cut.clones[**clone].instances.is_empty()).copied().unwrap_or(0);
        let chain = &tenant.chains[cut.clones[empty].chains[0]];
        let names: Vec<&str> = busy.iter().map(|index| tenant.instances[*index].name.as_str()).collect();
        let busy = match names.as_slice() {
            [] => String::new(),
            names => format!(
                " ({} still ha{} flows of an earlier one)",
                names.join(", "),
                if names.len() == 1 { "s" } else { "ve" }
            ),
        };
        let (ways_count, instances) = (ways.len(), if there == 1 { "instance" } else { "instances" });
        let paths = if ways_count == 1 { "downstream path" } else { "downstream paths" };
        let text = format!(
            "a packet rewritten by mangler `{name}` does not show which chain it is on, so each of its {ways_count} {paths} needs \
             an instance to itself, and there {} {there} {instances}{busy}: {}; there is none for the way {}: add `{{nf: {name}, \
             serves: {}}}` with its own pool to `instances`, or let the chains go on the same way behind `{name}`",
            if there == 1 { "is" } else { "are" },
            ways.join("; "),
            cut.clones[empty].text,
            chain.name
        );
        problems.note(chain.line, format!("tenants.{}.chains.{}", tenant.name, chain.name), text);
    }

    /// Who serves what: as dealt, and what is not free to be dealt anew.
    fn remember(&self, cut: &mut Cut) {
        let mut dealt = BTreeSet::new();
        for way in &cut.clones {
            let kind = cut.record.entry(self.tenant.nfs[way.nf].name.clone()).or_default();
            let numbers: BTreeSet<u32> = way.instances.iter().filter_map(|index| self.number(*index)).collect();
            dealt.extend(numbers.iter().copied());
            kind.entry(way.text.clone()).or_default().extend(numbers);
        }
        for (kind, ways) in &self.before.clones {
            for (way, numbers) in ways {
                for number in numbers.iter().filter(|number| !dealt.contains(number) && self.ends.contains(number)) {
                    cut.record.entry(kind.clone()).or_default().entry(way.clone()).or_default().insert(*number);
                }
            }
        }
    }
}

/// What to tell of a tenant's manglers.
pub(super) fn describe(tenant: &Tenant, cut: &Cut) -> Vec<Mangler> {
    let mut manglers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, way) in cut.clones.iter().enumerate() {
        manglers.entry(way.nf).or_default().push(index);
    }
    let mut names = vec![String::new(); cut.clones.len()];
    for (nf, clones) in &manglers {
        let kind = &tenant.nfs[*nf].name;
        for (place, clone) in clones.iter().enumerate() {
            names[*clone] = if clones.len() == 1 { kind.clone() } else { format!("{kind}#{}", place + 1) };
        }
    }
    let clone = |index: &usize| {
        let way = &cut.clones[*index];
        ManglerClone {
            name: names[*index].clone(),
            downstream: way.text.split(" > ").map(str::to_owned).collect(),
            instances: way.instances.iter().map(|instance| tenant.instances[*instance].name.clone()).collect(),
            chains: way
                .chains
                .iter()
                .map(|chain| rewritten(tenant, &tenant.chains[*chain], &cut.chains[*chain], &names))
                .collect(),
        }
    };
    let mangler = |(nf, clones): (&usize, &Vec<usize>)| Mangler {
        tenant: tenant.name.clone(),
        kind: tenant.nfs[*nf].name.clone(),
        detected: tenant.nfs[*nf].detect,
        clones: clones.iter().map(clone).collect(),
    };
    manglers.iter().map(mangler).collect()
}

fn rewritten(tenant: &Tenant, chain: &Chain, parts: &[Part], names: &[String]) -> String {
    let mut words = vec![tenant.endpoints[chain.from].name.as_str()];
    for part in parts {
        words.extend(part.through.iter().map(|nf| tenant.nfs[*nf].name.as_str()));
        words.push(match part.tail {
            End::Endpoint(index) => &tenant.endpoints[index].name,
            End::Clone(index) => &names[index],
        });
    }
    format!("{}: {}", chain.name, words.join(" > "))
}
