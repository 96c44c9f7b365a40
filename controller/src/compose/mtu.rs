//! The largest packets that paths take.

use std::collections::HashMap;

use super::elements::Members;
use super::geometry::{HostGeometry, overhead};
use super::state::AttachmentState;
use super::{Element, InstancePath, Place, Subchain};
use crate::config::{Attachment, Config, Problem, Tenant};

/// What a path itself lets through: its endpoints' ports and the underlays that it crosses.
pub(super) fn own(config: &Config, hosts: &[HostGeometry], members: &Members, path: &[usize]) -> u16 {
    let mut mtu = u16::MAX;
    for member in path.iter().map(|index| &members.all[*index]) {
        let (Some(endpoint), Some(host)) = (member.state.endpoint(), member.host) else { continue };
        mtu = mtu.min(match &endpoint.attachment {
            AttachmentState::Port { port, .. } => {
                let port = config.hosts[host].ports.iter().find(|found| found.name == *port);
                port.map_or(u16::MAX, |port| port.mtu)
            }
            AttachmentState::Vtep { .. } => hosts[host].inside_mtu,
        });
    }
    for pair in path.windows(2) {
        let [from, to] = [pair[0], pair[1]].map(|index| members.all[index].host);
        if from != to {
            let inside = |host: Option<usize>| host.map_or(u16::MAX, |host| hosts[host].inside_mtu);
            mtu = mtu.min(inside(from)).min(inside(to));
        }
    }
    mtu
}

/// Lowers each path's MTU to what the rest of its chain lets through: the sender is told at once, not behind a mangler, where
/// nobody could tell it. MTUs only fall, so this ends.
pub(super) fn limit(paths: &mut [InstancePath]) {
    fn lower(limits: &mut HashMap<Place, u16>, place: Place, mtu: u16) {
        let limit = limits.entry(place).or_insert(mtu);
        *limit = mtu.min(*limit);
    }
    loop {
        let (mut onwards, mut back) = (HashMap::new(), HashMap::new());
        for path in paths.iter() {
            let (head, tail) = (&path.elements[0], &path.elements[path.elements.len() - 1]);
            lower(&mut onwards, head.place, path.mtu_forward);
            lower(&mut back, tail.place, path.mtu_reverse);
        }
        let mut changed = false;
        for path in paths.iter_mut() {
            // At an endpoint chains do not go on.
            let limit = |limits: &HashMap<Place, u16>, end: &Element| {
                limits.get(&end.place).filter(|_| !end.is_endpoint).copied().unwrap_or(u16::MAX)
            };
            let forward = limit(&onwards, &path.elements[path.elements.len() - 1]);
            let reverse = limit(&back, &path.elements[0]);
            changed |= forward < path.mtu_forward || reverse < path.mtu_reverse;
            path.mtu_forward = path.mtu_forward.min(forward);
            path.mtu_reverse = path.mtu_reverse.min(reverse);
        }
        if !changed {
            return;
        }
    }
}

/// Chains whose endpoints would take larger packets than the way between them.
pub(super) fn warnings(
    config: &Config,
    tenant: &Tenant,
    chains: &[Vec<usize>],
    subchains: &[Subchain],
    paths: &[InstancePath],
) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for (chain, parts) in tenant.chains.iter().zip(chains) {
        let port_mtu = |index: usize| match tenant.endpoints[index].attachment {
            Attachment::Port(port, _) => config.hosts[tenant.endpoints[index].host].ports[port].mtu,
            Attachment::Vtep(_) => u16::MAX,
        };
        let wanted = port_mtu(chain.from).min(port_mtu(chain.to));
        let choices = parts.iter().flat_map(|index| &subchains[*index].heads).flat_map(|head| &head.choices);
        let least =
            choices.filter_map(|(path, _)| paths.get(*path)).map(|path| path.mtu_forward).min().unwrap_or(wanted);
        if least < wanted {
            let text = format!(
                "the underlay lets {least} of {wanted} bytes through, larger packets are answered with ICMP \"too big\"; \
                 set the underlay's mtu to {} or more if the link can carry it",
                u32::from(wanted) + u32::from(overhead(true, config.encapsulation))
            );
            let key = format!("tenants.{}.chains.{}", tenant.name, chain.name);
            warnings.push(Problem { file: config.file.clone(), line: chain.line, key, text });
        }
    }
    warnings
}
