//! Whether a composition means what its configuration says, however it was made: [`verify`].
//!
//! It reads the documents and tables that hosts install, and the configuration; it knows nothing of how either came about. What
//! it proves:
//!
//! - Equal in meaning: each chain's way, over all its subchains, is its kinds in order, from its endpoint to its endpoint.
//! - Unambiguous: behind an instance of a mangler there is one way on, also counting paths that retire.
//! - Each path's rules lead along its elements and back, and the ends keep what answers need.
//! - No two rules of a lcore have one key, each rule's target exists, vports and lcores have one owner, networks are the
//!   tenant's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use packet::{Direction, Tag, Vni, VportId};
use shm::counters::TAG_COUNTERS;
use shm::launch::RoleLaunch;
use shm::rules::{Delivery, Next, TagAction, TagKey};

use super::{Composition, Element, HostPart, InstancePath, Place};
use crate::config::{Chain, Config, Tenant};

/// Checks a composition against its configuration; what is wrong, one line each.
pub fn verify(config: &Config, composition: &Composition) -> Result<(), Vec<String>> {
    if config.hosts.len() != composition.hosts.len() || config.tenants.len() != composition.chains.len() {
        return Err(vec!["the composition is of another configuration".to_owned()]);
    }
    let mut check = Check::new(config, composition);
    for host in 0..composition.hosts.len() {
        check.documents(host);
        check.tables(host);
    }
    for path in &composition.paths {
        check.path(path);
    }
    for (tenant_index, tenant) in config.tenants.iter().enumerate() {
        for (index, chain) in tenant.chains.iter().enumerate() {
            check.chain(tenant_index, tenant, index, chain);
        }
    }
    check.ways();
    if check.wrong.is_empty() { Ok(()) } else { Err(check.wrong) }
}

/// A vport of a host.
type At = (usize, VportId);

struct Check<'a> {
    composition: &'a Composition,
    /// By host and lcore: the lcore is part of what a packet is looked up by.
    tags: Vec<HashMap<(usize, TagKey), TagAction>>,
    /// Vports of endpoints and instances, with the kind of the latter.
    kinds: HashMap<At, Option<&'a str>>,
    hosts: HashMap<IpAddr, usize>,
    tenants: HashMap<&'a str, &'a Tenant>,
    /// What is walked: by the place where a path begins, its kinds and its end.
    beginnings: BTreeMap<At, Vec<&'a InstancePath>>,
    wrong: Vec<String>,
}

impl<'a> Check<'a> {
    fn new(config: &'a Config, composition: &'a Composition) -> Self {
        let of_instance =
            |instance: &'a super::PlacedInstance| ((instance.host, instance.vport), Some(instance.kind.as_str()));
        let mut kinds: HashMap<At, Option<&str>> = composition.instances.iter().map(of_instance).collect();
        for (host, part) in composition.hosts.iter().enumerate() {
            kinds.extend(part.launch.endpoints.iter().map(|endpoint| ((host, endpoint.vport), None)));
        }
        let vtep = |(host, part): (usize, &std::sync::Arc<HostPart>)| {
            Some((part.launch.tunnel.as_ref()?.address.addr(), host))
        };
        let mut beginnings: BTreeMap<At, Vec<&InstancePath>> = BTreeMap::new();
        for path in &composition.paths {
            let head = &path.elements[0];
            beginnings.entry((head.host, head.vport)).or_default().push(path);
        }
        Self {
            composition,
            tags: Vec::new(),
            kinds,
            hosts: composition.hosts.iter().enumerate().filter_map(vtep).collect(),
            tenants: config.tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.as_ref())).collect(),
            beginnings,
            wrong: Vec::new(),
        }
    }

    fn host_name(&self, host: usize) -> &'a str {
        self.composition.hosts.get(host).map_or("no host", |part| part.launch.host.as_str())
    }

    /// Vports and lcores have one owner, and the document, the list of vports and the list of instances agree.
    fn documents(&mut self, host: usize) {
        let part = &self.composition.hosts[host];
        let name = self.host_name(host);
        let mut owners: BTreeMap<VportId, String> = [(VportId::TUNNEL, "the tunnel".to_owned())].into();
        let endpoints = part.launch.endpoints.iter().map(|endpoint| (endpoint.vport, endpoint.name.clone()));
        let instances = part.launch.lcores.iter().enumerate().filter_map(|(lcore, spec)| match &spec.role {
            RoleLaunch::Nf(nf) => Some((lcore, spec.cpu, nf)),
            _ => None,
        });
        let mut all: Vec<(VportId, String)> = endpoints.collect();
        all.extend(instances.clone().map(|(_, _, nf)| (nf.vport, nf.instance.clone())));
        for (vport, owner) in all {
            if let Some(other) = owners.insert(vport, owner.clone()) {
                self.wrong.push(format!("{name}: vport {vport} is both {other}'s and {owner}'s"));
            }
            if part.vports.get(usize::from(vport.0)).is_none_or(|found| found.place == Place::Free) {
                self.wrong.push(format!("{name}: {owner} has vport {vport}, which is not in the host's list"));
            }
        }
        let here = self.composition.instances.iter().filter(|instance| instance.host == host);
        let listed: BTreeSet<_> =
            here.map(|found| (found.lcore, found.cpu, found.vport, found.running_name.as_str())).collect();
        let documented: BTreeSet<_> =
            instances.map(|(lcore, cpu, nf)| (lcore, cpu, nf.vport, nf.instance.as_str())).collect();
        for (lcore, _, vport, instance) in listed.symmetric_difference(&documented) {
            self.wrong.push(format!(
                "{name}: {instance} on lcore {lcore}, vport {vport}, is only in one of list and document"
            ));
        }
        for (number, vport) in part.vports.iter().enumerate().filter(|(_, vport)| vport.place != Place::Free) {
            if !owners.contains_key(&VportId(u16::try_from(number).unwrap_or(u16::MAX))) {
                self.wrong.push(format!("{name}: vport {number} ({}) is not in the document", vport.name));
            }
        }
    }

    /// Keys are unique, rules are at the lcore that asks for them, targets exist, networks are the tenant's.
    fn tables(&mut self, host: usize) {
        let part = &self.composition.hosts[host];
        let name = self.host_name(host);
        let arriving: BTreeSet<Vni> =
            part.launch.tunnel.iter().flat_map(|tunnel| tunnel.vnis.iter().copied()).collect();
        let mut rules = HashMap::with_capacity(part.tags.len());
        for placed in &part.tags {
            let (key, action) = (placed.rule.key, placed.rule.action);
            let what = || {
                format!(
                    "{name}: path {}, rule for vport {} tag {} of VNI {}",
                    action.path, key.segment, key.tag, key.vni
                )
            };
            if rules.insert((placed.lcore, key), action).is_some() {
                self.wrong.push(format!("{}: another rule has this key", what()));
            }
            if part.lcore(key.prior) != Some(placed.lcore) || usize::from(action.counter) >= TAG_COUNTERS {
                self.wrong.push(format!("{}: it is on lcore {}, where nobody asks for it", what(), placed.lcore));
            }
            if key.prior == VportId::TUNNEL && !arriving.contains(&key.vni) {
                self.wrong.push(format!("{}: the network may not arrive by the tunnel", what()));
            }
            let target = match action.next {
                Next::Vport(vport) => Some((host, vport)),
                Next::Tunnel { vtep, next } => self.hosts.get(&vtep).map(|host| (*host, next)),
            };
            if target.is_none_or(|target| !self.kinds.contains_key(&target)) {
                self.wrong.push(format!("{}: it leads to {:?}, which is not there", what(), action.next));
            }
            let Some(path) = self.composition.path(action.path) else {
                self.wrong.push(format!("{}: there is no such path", what()));
                continue;
            };
            let tenant = self.tenants.get(self.composition.tenant_name(path.tenant));
            if !path.retired && tenant.is_none_or(|tenant| !tenant.vnis().any(|vni| vni == key.vni)) {
                self.wrong.push(format!("{}: the network is not the tenant's", what()));
            }
        }
        self.tags.push(rules);
    }

    /// The rules lead along the path's elements and back.
    fn path(&mut self, path: &InstancePath) {
        let stops: Vec<At> = path.elements.iter().map(|element| (element.host, element.vport)).collect();
        let end =
            self.walk(path.vni, path.forward, Direction::Forward, stops[0], (path.action.next, path.action.delivery));
        let learned = match end {
            Ok((visited, Delivery::Learn(head))) if visited == stops[1..] => head,
            Ok((visited, delivery)) => {
                let text = format!("path {}: goes {visited:?} and ends with {delivery:?}, not {stops:?}", path.name);
                self.wrong.push(text);
                return;
            }
            Err(text) => {
                self.wrong.push(format!("path {}: {text}", path.name));
                return;
            }
        };
        let here = if learned.ends_here { Delivery::Refresh } else { Delivery::None };
        let mut back = stops.clone();
        back.reverse();
        match self.walk(path.vni, learned.tag, Direction::Reverse, back[0], (learned.next, here)) {
            Ok((visited, Delivery::Refresh)) if visited == back[1..] && learned.path == path.id => {}
            Ok((visited, _)) => self.wrong.push(format!("path {}: answers go {visited:?}, not {back:?}", path.name)),
            Err(text) => self.wrong.push(format!("path {}, answers: {text}", path.name)),
        }
    }

    /// From a head, whose rule says where to first, until a rule delivers to an end.
    fn walk(
        &self,
        vni: Vni,
        tag: Tag,
        direction: Direction,
        from: At,
        first: (Next, Delivery),
    ) -> Result<(Vec<At>, Delivery), String> {
        let (mut at, (mut next, mut delivery)) = (from, first);
        let mut visited = Vec::new();
        for _ in 0..=self.kinds.len() {
            let find = |host: usize, prior: VportId, segment: VportId| {
                let lcore = self.composition.hosts[host].lcore(prior).unwrap_or(usize::MAX);
                let action = self.tags[host].get(&(lcore, TagKey { prior, segment, vni, tag }));
                action.filter(|action| action.direction == direction).ok_or_else(|| {
                    format!("host {} has no rule for vport {prior}, segment {segment}, tag {tag}", self.host_name(host))
                })
            };
            at = match next {
                Next::Vport(vport) => (at.0, vport),
                Next::Tunnel { vtep, next } => {
                    let host = *self.hosts.get(&vtep).ok_or_else(|| format!("no host has the address {vtep}"))?;
                    let action = find(host, VportId::TUNNEL, next)?;
                    delivery = action.delivery;
                    (host, next)
                }
            };
            visited.push(at);
            if delivery != Delivery::None {
                return Ok((visited, delivery));
            }
            let action = find(at.0, at.1, at.1)?;
            (next, delivery) = (action.next, action.delivery);
        }
        Err(format!("it goes in circles: {visited:?}"))
    }

    /// The kind of an instance.
    fn kind(&self, element: &Element) -> Option<&'a str> {
        self.kinds.get(&(element.host, element.vport)).copied().flatten()
    }

    /// A chain's subchains, one after the other, are its kinds in order; shares are the product of its weights.
    fn chain(&mut self, tenant_index: usize, tenant: &Tenant, index: usize, chain: &Chain) {
        let name = format!("chain {}/{}", tenant.name, chain.name);
        let mut places: BTreeSet<Place> = [Place::Endpoint(tenant_index, chain.from)].into();
        let mut kinds: Vec<&str> = Vec::new();
        for subchain in &self.composition.chains[tenant_index][index] {
            let subchain = &self.composition.subchains[*subchain];
            let mut tails = BTreeSet::new();
            let mut middles: BTreeSet<Vec<&str>> = BTreeSet::new();
            for place in &places {
                let Some(head) = subchain.head(*place) else {
                    self.wrong.push(format!("{name}: no subchain begins at {place:?}"));
                    continue;
                };
                let mut shares = Vec::new();
                for (path, weight) in &head.choices {
                    let path = &self.composition.paths[*path];
                    let last = &path.elements[path.elements.len() - 1];
                    if path.retired || path.elements[0].place != *place || path.tenant != tenant_index {
                        self.wrong.push(format!("{name}: new flows get path {}", path.name));
                    }
                    middles.insert(path.elements[1..].iter().filter_map(|stop| self.kind(stop)).collect());
                    tails.insert(last.place);
                    shares.push((*weight, share(chain, path)));
                }
                if let Some(text) = disproportion(&shares) {
                    self.wrong.push(format!("{name}, from {place:?}: {text}"));
                }
            }
            if middles.len() != 1 {
                self.wrong.push(format!("{name}: its paths go through different kinds: {middles:?}"));
            }
            kinds.extend(middles.into_iter().next().unwrap_or_default());
            places = tails;
        }
        let wanted: Vec<&str> = chain.through.iter().map(|nf| tenant.nfs[*nf].name.as_str()).collect();
        if kinds != wanted || places != [Place::Endpoint(tenant_index, chain.to)].into() {
            self.wrong.push(format!("{name}: goes through {kinds:?} to {places:?}, not through {wanted:?}"));
        }
    }

    /// Behind each instance at which paths begin there is one way on.
    fn ways(&mut self) {
        let mut known: HashMap<At, BTreeSet<Vec<String>>> = HashMap::new();
        let instances: Vec<At> =
            self.beginnings.keys().filter(|at| self.kinds.get(at).is_some_and(Option::is_some)).copied().collect();
        for at in instances {
            let ways = self.ways_from(at, &mut known, 0);
            if ways.len() > 1 {
                let name = self.composition.hosts[at.0].vport_name(at.1);
                self.wrong.push(format!("behind mangler {name} there are several ways on: {ways:?}"));
            }
        }
        let heads = self.composition.subchains.iter().flat_map(|subchain| &subchain.heads);
        let mut begins: HashMap<Place, usize> = HashMap::new();
        for head in heads.filter(|head| !matches!(head.place, Place::Endpoint(..))) {
            *begins.entry(head.place).or_default() += 1;
        }
        for (place, count) in begins.into_iter().filter(|(_, count)| *count > 1) {
            self.wrong.push(format!("{count} subchains begin at {place:?}, and packets there don't tell which"));
        }
    }

    fn ways_from(&self, at: At, known: &mut HashMap<At, BTreeSet<Vec<String>>>, depth: usize) -> BTreeSet<Vec<String>> {
        if let Some(ways) = known.get(&at) {
            return ways.clone();
        }
        let mut ways = BTreeSet::new();
        for path in self.beginnings.get(&at).into_iter().flatten() {
            let last = &path.elements[path.elements.len() - 1];
            let kinds = path.elements[1..].iter().filter_map(|element| self.kind(element));
            let middle: Vec<String> = kinds.map(str::to_owned).collect();
            if last.is_endpoint || depth > self.kinds.len() {
                let end = last.name.split([' ', '#']).next().unwrap_or_default();
                ways.insert(middle.into_iter().chain([format!("to {end}")]).collect());
                continue;
            }
            for rest in self.ways_from((last.host, last.vport), known, depth + 1) {
                ways.insert(middle.iter().cloned().chain(rest).collect());
            }
        }
        known.insert(at, ways.clone());
        ways
    }
}

/// What the configuration says about a path's share.
fn share(chain: &Chain, path: &InstancePath) -> f64 {
    let weight = |place: Place| match place {
        Place::Instance(_, index) => f64::from(chain.weight(index)),
        _ => 1.0,
    };
    path.elements[1..].iter().map(|element| weight(element.place)).product()
}

/// Shares that are not as they should be, as far as a percent.
fn disproportion(shares: &[(u32, f64)]) -> Option<String> {
    let (given, wanted) =
        shares.iter().fold((0.0, 0.0), |(given, wanted), (weight, share)| (given + f64::from(*weight), wanted + share));
    if given == 0.0 {
        return Some("no path has any weight".to_owned());
    }
    let off = |(weight, share): &&(u32, f64)| (f64::from(*weight) / given - share / wanted).abs() > 0.01;
    shares.iter().find(off).map(|(weight, share)| format!("a path has {weight} of {given}, not {share} of {wanted}"))
}
