//! Subchains and their instance paths, with numbers and MTU.

use std::collections::HashMap;

use packet::{Direction, PathId, Tag};
use shm::rules::{Delivery, ExactAction, Next};

use super::{Element, Head, HostPart, InstancePath, Numbering, Place, Subchain};
use crate::config::{Attachment, Chain, Config, End, Problem, Problems, Segment, Tenant};

/// Paths that a VNI has tags for.
const MAX_PATHS: usize = Tag::COUNT / 2;

/// What VXLAN takes of the underlay's MTU: outer IP, UDP, VXLAN and inner Ethernet headers.
const fn overhead(is_v4: bool) -> u16 {
    if is_v4 { 50 } else { 70 }
}

/// Subchains, paths, and which chain has which.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) subchains: Vec<Subchain>,
    pub(super) paths: Vec<InstancePath>,
    pub(super) chains: Vec<Vec<Vec<usize>>>,
}

/// What makes two chains' subchains the same: the segment, and how it shares flows out.
type Shape = (usize, Segment, Vec<(usize, u32)>);

struct Planner<'a> {
    config: &'a Config,
    places: HashMap<Place, Element>,
    numbers: &'a mut Numbering,
    plan: Plan,
    known: HashMap<Shape, usize>,
    by_name: HashMap<String, usize>,
}

/// Plans every chain of every tenant, in the file's order.
pub(super) fn plan(problems: &mut Problems, config: &Config, hosts: &[HostPart], numbers: &mut Numbering) -> Plan {
    let mut planner = Planner {
        config,
        places: places(hosts),
        numbers,
        plan: Plan::default(),
        known: HashMap::new(),
        by_name: HashMap::new(),
    };
    for (tenant_index, tenant) in config.tenants.iter().enumerate() {
        let chains = tenant.chains.iter().map(|chain| planner.chain(problems, tenant_index, tenant, chain)).collect();
        planner.plan.chains.push(chains);
    }
    planner.plan
}

fn places(hosts: &[HostPart]) -> HashMap<Place, Element> {
    let mut places = HashMap::new();
    for (host, part) in hosts.iter().enumerate() {
        for vport in part.vports.iter().filter(|vport| vport.place != Place::Tunnel) {
            let Some(id) = part.vport(&vport.name) else { continue };
            let element = Element { place: vport.place, name: vport.name.clone(), host, vport: id, lcore: vport.lcore };
            places.insert(vport.place, element);
        }
    }
    places
}

/// The elements that can stand at a subchain's end.
fn candidates(tenant_index: usize, tenant: &Tenant, end: End) -> Vec<Place> {
    match end {
        End::Endpoint(index) => vec![Place::Endpoint(tenant_index, index)],
        End::Mangler(nf) => tenant.instances_of(nf).map(|index| Place::Instance(tenant_index, index)).collect(),
    }
}

impl Planner<'_> {
    fn chain(&mut self, problems: &mut Problems, tenant_index: usize, tenant: &Tenant, chain: &Chain) -> Vec<usize> {
        let mut subchains = Vec::new();
        for segment in tenant.segments(chain) {
            let functions = segment.through.iter().copied().chain(match segment.tail {
                End::Mangler(nf) => Some(nf),
                End::Endpoint(_) => None,
            });
            let instances = functions.flat_map(|nf| tenant.instances_of(nf));
            let shape = (tenant_index, segment.clone(), instances.map(|index| (index, chain.weight(index))).collect());
            let index = match self.known.get(&shape) {
                Some(index) => *index,
                None => {
                    let Some(subchain) = self.subchain(problems, tenant_index, tenant, chain, &segment) else { break };
                    self.plan.subchains.push(subchain);
                    self.known.insert(shape, self.plan.subchains.len() - 1);
                    self.plan.subchains.len() - 1
                }
            };
            subchains.push(index);
        }
        subchains
    }

    fn subchain(
        &mut self,
        problems: &mut Problems,
        tenant_index: usize,
        tenant: &Tenant,
        chain: &Chain,
        segment: &Segment,
    ) -> Option<Subchain> {
        let heads = candidates(tenant_index, tenant, segment.head);
        let mut positions: Vec<Vec<Place>> = Vec::new();
        for nf in &segment.through {
            positions.push(tenant.instances_of(*nf).map(|index| Place::Instance(tenant_index, index)).collect());
        }
        positions.push(candidates(tenant_index, tenant, segment.tail));
        let count = positions.iter().try_fold(heads.len(), |count, list| count.checked_mul(list.len()));
        if count.is_none_or(|count| count > MAX_PATHS) {
            too_many_paths(problems, tenant, chain, count);
            return None;
        }
        let mut subchain = Subchain { tenant: tenant_index, heads: Vec::new() };
        for head in heads {
            let mut choices = Vec::new();
            for places in product(head, &positions) {
                let weight = weight(chain, &places[1..]);
                let path = self.path(problems, tenant_index, tenant, chain, &places)?;
                choices.push((path, weight));
            }
            subchain.heads.push(Head { place: head, choices });
        }
        Some(subchain)
    }

    /// The index of the path through these places; made if it is new.
    fn path(
        &mut self,
        problems: &mut Problems,
        tenant_index: usize,
        tenant: &Tenant,
        chain: &Chain,
        places: &[Place],
    ) -> Option<usize> {
        let elements: Vec<Element> = places.iter().filter_map(|place| self.places.get(place).cloned()).collect();
        let own = |element: &Element| element.name.split_once('/').map_or("", |(_, name)| name).to_owned();
        let names: Vec<String> = elements.iter().map(own).collect();
        let name = format!("{}: {}", tenant.name, names.join(" > "));
        if let Some(index) = self.by_name.get(&name) {
            return Some(*index);
        }
        let Some(numbers) = self.numbers.of_path(&name, tenant.vni) else {
            too_many_paths(problems, tenant, chain, None);
            return None;
        };
        for pair in elements.windows(2).filter(|pair| pair[0].host != pair[1].host) {
            let bare = pair.iter().find(|element| self.config.hosts[element.host].underlay.is_none());
            if let Some(element) = bare {
                let host = &self.config.hosts[element.host];
                let text = format!(
                    "the way from `{}` to `{}` leaves host `{}`, which has no underlay; declare its `underlay`, or move an instance",
                    pair[0].name, pair[1].name, host.name
                );
                problems.note(chain.line, format!("tenants.{}.chains.{}", tenant.name, chain.name), text);
            }
        }
        let mtu = own_mtu(self.config, &elements);
        self.plan.paths.push(InstancePath {
            name: name.clone(),
            id: numbers.id,
            tenant: tenant_index,
            vni: tenant.vni,
            forward: numbers.forward,
            reverse: numbers.reverse,
            mtu_forward: mtu,
            mtu_reverse: mtu,
            action: unset_action(numbers.id, tenant.vni, numbers.forward),
            retired: false,
            elements,
        });
        let index = self.plan.paths.len() - 1;
        self.by_name.insert(name, index);
        Some(index)
    }
}

/// Until the rules are made.
fn unset_action(path: PathId, vni: packet::Vni, tag: Tag) -> ExactAction {
    let next = Next::Vport(packet::VportId::TUNNEL);
    ExactAction { vni, tag, direction: Direction::Forward, next, delivery: Delivery::None, path, path_mtu: 0 }
}

fn too_many_paths(problems: &mut Problems, tenant: &Tenant, chain: &Chain, count: Option<usize>) {
    let need = count.map_or(String::new(), |count| format!(" (one part of the chain alone has {count})"));
    let text = format!(
        "more instance paths than tenant `{}` has tags for: at most {MAX_PATHS} in all{need}; use fewer instances per function, \
         or move chains to a tenant with a VNI of its own",
        tenant.name
    );
    problems.note(chain.line, format!("tenants.{}.chains.{}", tenant.name, chain.name), text);
}

/// Every way to choose one place per position, the last position varying fastest.
fn product(head: Place, positions: &[Vec<Place>]) -> Vec<Vec<Place>> {
    let mut ways = vec![vec![head]];
    for list in positions {
        let longer = |way: &Vec<Place>| -> Vec<Vec<Place>> {
            list.iter().map(|place| [way.as_slice(), &[*place]].concat()).collect()
        };
        ways = ways.iter().flat_map(longer).collect();
    }
    ways
}

fn weight(chain: &Chain, places: &[Place]) -> u32 {
    places.iter().fold(1, |weight, place| match place {
        Place::Instance(_, index) => weight.saturating_mul(chain.weight(*index)),
        _ => weight,
    })
}

/// What the path itself lets through: its endpoints' ports and the underlays that it crosses.
fn own_mtu(config: &Config, elements: &[Element]) -> u16 {
    let inside = |host: usize| {
        let underlay = config.hosts[host].underlay.as_ref();
        underlay.map_or(u16::MAX, |link| link.port.mtu.saturating_sub(overhead(link.address.addr().is_ipv4())))
    };
    let mut mtu = u16::MAX;
    for element in elements {
        if let Place::Endpoint(tenant, endpoint) = element.place {
            mtu = mtu.min(match config.tenants[tenant].endpoints[endpoint].attachment {
                Attachment::Port(port, _) => config.hosts[element.host].ports[port].mtu,
                Attachment::Vtep(_) => inside(element.host),
            });
        }
    }
    for pair in elements.windows(2).filter(|pair| pair[0].host != pair[1].host) {
        mtu = mtu.min(inside(pair[0].host)).min(inside(pair[1].host));
    }
    mtu
}

/// Lowers each path's MTU to what the rest of its chain lets through: the sender is told at once, not behind a mangler, where
/// nobody could tell it. Manglers can't form a cycle, so this ends.
pub(super) fn limit_mtus(paths: &mut [InstancePath]) {
    let ends: Vec<(Place, Place)> =
        paths.iter().map(|path| (path.elements[0].place, path.elements[path.elements.len() - 1].place)).collect();
    loop {
        let mut changed = false;
        for before in 0..paths.len() {
            for behind in 0..paths.len() {
                if ends[before].1 != ends[behind].0 || !matches!(ends[before].1, Place::Instance(..)) {
                    continue;
                }
                let forward = paths[before].mtu_forward.min(paths[behind].mtu_forward);
                let reverse = paths[behind].mtu_reverse.min(paths[before].mtu_reverse);
                changed |= forward != paths[before].mtu_forward || reverse != paths[behind].mtu_reverse;
                paths[before].mtu_forward = forward;
                paths[behind].mtu_reverse = reverse;
            }
        }
        if !changed {
            return;
        }
    }
}

/// Chains whose endpoints would take larger packets than the way between them.
pub(super) fn mtu_warnings(config: &Config, plan: &Plan) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for (tenant, chains) in config.tenants.iter().zip(&plan.chains) {
        for (chain, subchains) in tenant.chains.iter().zip(chains) {
            let port_mtu = |index: usize| match tenant.endpoints[index].attachment {
                Attachment::Port(port, _) => config.hosts[tenant.endpoints[index].host].ports[port].mtu,
                Attachment::Vtep(_) => u16::MAX,
            };
            let wanted = port_mtu(chain.from).min(port_mtu(chain.to));
            let choices =
                subchains.iter().flat_map(|index| &plan.subchains[*index].heads).flat_map(|head| &head.choices);
            let least = choices.map(|(path, _)| plan.paths[*path].mtu_forward).min().unwrap_or(wanted);
            if least < wanted {
                let text = format!(
                    "the underlay lets {least} of {wanted} bytes through, larger packets are answered with ICMP \"too big\"; \
                     set the underlay's mtu to {} or more if the link can carry it",
                    u32::from(wanted) + u32::from(overhead(true))
                );
                let key = format!("tenants.{}.chains.{}", tenant.name, chain.name);
                warnings.push(Problem { file: config.file.clone(), line: chain.line, key, text });
            }
        }
    }
    warnings
}
