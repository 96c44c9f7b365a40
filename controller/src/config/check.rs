//! What several entries of the file must agree about.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use packet::Vni;

use super::segment::{End, Segment};
use super::{Attachment, Chain, Config, Endpoint, Host, Instance, Problem, Problems, Tenant, capacity};

pub(super) fn check(problems: &mut Problems, config: &mut Config) {
    let mut warnings = Warnings { file: config.file.clone(), found: Vec::new() };
    check_vnis(problems, config);
    check_underlays(problems, config);
    let on_hosts = OnHost::of(config);
    for (host, on_host) in config.hosts.iter().zip(&on_hosts) {
        check_cpus(problems, &mut warnings, host, on_host);
        check_ports(problems, config, host, on_host);
    }
    check_controllers(problems, &mut warnings, config);
    for tenant in &config.tenants {
        check_prefixes(problems, tenant);
        check_pools(problems, tenant);
        check_selectors(problems, tenant);
        check_functions(problems, &mut warnings, tenant);
        check_weights(problems, tenant);
        capacity::check(problems, tenant);
    }
    config.warnings = warnings.found;
}

/// What the file puts on one host, each with its tenant.
#[derive(Default)]
struct OnHost<'a> {
    endpoints: Vec<(usize, &'a Tenant, &'a Endpoint)>,
    instances: Vec<(&'a Tenant, &'a Instance)>,
}

impl<'a> OnHost<'a> {
    fn of(config: &'a Config) -> Vec<Self> {
        let mut hosts: Vec<Self> = config.hosts.iter().map(|_| Self::default()).collect();
        for (index, tenant) in config.tenants.iter().enumerate() {
            for endpoint in &tenant.endpoints {
                if let Some(host) = hosts.get_mut(endpoint.host) {
                    host.endpoints.push((index, tenant, endpoint));
                }
            }
            for instance in &tenant.instances {
                if let Some(host) = instance.host.and_then(|host| hosts.get_mut(host)) {
                    host.instances.push((tenant, instance));
                }
            }
        }
        hosts
    }
}

struct Warnings {
    file: String,
    found: Vec<Problem>,
}

impl Warnings {
    fn note(&mut self, line: u64, key: String, text: String) {
        self.found.push(Problem { file: self.file.clone(), line, key, text });
    }
}

fn key_of(host: &Host) -> String {
    format!("hosts.{}", host.name)
}

fn chain_key(tenant: &Tenant, chain: &Chain) -> String {
    format!("tenants.{}.chains.{}", tenant.name, chain.name)
}

fn check_vnis(problems: &mut Problems, config: &Config) {
    let mut owners: HashMap<Vni, &str> = HashMap::new();
    for tenant in &config.tenants {
        for vni in tenant.vnis().filter(|vni| vni.value() != 0) {
            let Some(owner) = owners.insert(vni, &tenant.name) else { continue };
            let text = format!("VNI {vni} is tenant `{owner}`'s already; give each tenant its own");
            problems.note(tenant.line, format!("tenants.{}.vni", tenant.name), text);
        }
    }
}

/// Controllers of several hosts must find one another.
fn is_vtep(host: &Host, address: IpAddr) -> bool {
    host.underlay.as_ref().is_some_and(|underlay| underlay.address.addr() == address)
}

fn check_controllers(problems: &mut Problems, warnings: &mut Warnings, config: &Config) {
    let mut owners = HashMap::new();
    for host in &config.hosts {
        let Some(address) = host.controller else { continue };
        if let Some(owner) = config.hosts.iter().find(|other| is_vtep(other, address.ip())) {
            let text = format!(
                "{} is the VTEP of host `{}`, which the kernel does not have; name an address of the host's own",
                address.ip(),
                owner.name
            );
            problems.note(host.line, format!("hosts.{}.controller", host.name), text);
        }
        if let Some(owner) = owners.insert(address, &host.name) {
            let text = format!("{address} is host `{owner}`'s controller already; give each its own");
            problems.note(host.line, format!("hosts.{}.controller", host.name), text);
        }
    }
    let alone: Vec<&Host> = config.hosts.iter().filter(|host| host.controller.is_none()).collect();
    if let (Some(first), true) = (alone.first(), config.hosts.len() > 1) {
        let names: Vec<String> = alone.iter().map(|host| format!("`{}`", host.name)).collect();
        let text = format!(
            "{} without `controller`: changes are not agreed with the other hosts; give each host an address such as \
             `controller: 198.51.100.1:7475`",
            names.join(", ")
        );
        warnings.note(first.line, key_of(first), text);
    }
}

fn check_underlays(problems: &mut Problems, config: &Config) {
    let with = |host: &'_ Host| host.underlay.is_some();
    let hosts: Vec<(&Host, &super::Underlay)> = config
        .hosts
        .iter()
        .filter(|host| with(host))
        .filter_map(|host| Some((host, host.underlay.as_ref()?)))
        .collect();
    let Some((first, theirs)) = hosts.first() else { return };
    let mut owners: HashMap<IpAddr, &Host> = HashMap::new();
    for (host, underlay) in &hosts {
        let key = || format!("hosts.{}.underlay", host.name);
        if let Some(other) = owners.insert(underlay.address.addr(), host) {
            let text = format!("{} is host `{}`'s address; give each its own", underlay.address.addr(), other.name);
            problems.note(host.line, key(), text);
        }
        if theirs.address.addr().is_ipv4() != underlay.address.addr().is_ipv4() {
            let text = format!("the address is of another family than host `{}`'s; use one for all", first.name);
            problems.note(host.line, key(), text);
        } else if theirs.udp_port != underlay.udp_port {
            let text = format!(
                "udp_port {} differs from host `{}`'s {}; use one for all",
                underlay.udp_port, first.name, theirs.udp_port
            );
            problems.note(host.line, key(), text);
        }
    }
    let link = theirs.address.trunc();
    if hosts.iter().all(|(_, underlay)| underlay.address.trunc() == link) {
        return;
    }
    for (host, underlay) in hosts.iter().filter(|(_, underlay)| underlay.gateway.is_none()) {
        let far = |(_, other): &&(&Host, &super::Underlay)| !underlay.address.contains(&other.address.addr());
        if let Some((other, _)) = hosts.iter().find(far) {
            let text = format!(
                "host `{}` is outside {} and there is no way to it; add a `gateway`",
                other.name,
                underlay.address.trunc()
            );
            problems.note(host.line, format!("hosts.{}.underlay", host.name), text);
        }
    }
}

fn check_cpus(problems: &mut Problems, warnings: &mut Warnings, host: &Host, on_host: &OnHost<'_>) {
    let mut owners: HashMap<u16, String> = host.io_cpus.iter().map(|&cpu| (cpu, "I/O".to_owned())).collect();
    let mut shared = Vec::new();
    for (cpu, name) in [(host.control_cpu, "the control thread"), (host.controller_cpu, "the controller")] {
        let Some(cpu) = cpu else { continue };
        if let Some(owner) = owners.get(&cpu) {
            shared.push((host.line, cpu, name.to_owned(), owner.clone()));
        } else {
            owners.insert(cpu, name.to_owned());
        }
    }
    for &cpu in &host.nf_cpus {
        if let Some(owner) = owners.get(&cpu).filter(|_| !host.share_cores) {
            let text = format!("CPU {cpu} of `cpus.nf` has {owner} already; leave it out of one of the lists");
            problems.note(host.line, key_of(host), text);
        }
    }
    for (tenant, instance) in on_host.instances.iter().filter(|(_, instance)| !instance.drain) {
        let name = format!("{}/{}", tenant.name, instance.name);
        let Some(cpu) = instance.cpu else { continue };
        if let Some(owner) = owners.insert(cpu, name.clone()) {
            shared.push((instance.line, cpu, name, owner));
        }
    }
    if host.share_cores {
        if let Some((_, cpu, one, other)) = shared.first() {
            let text =
                format!("cores are shared (CPU {cpu} by {other} and {one}): fit for tests, not for measurements");
            warnings.note(host.line, key_of(host), text);
        }
        return;
    }
    for (line, cpu, one, other) in shared {
        let text = format!(
            "CPU {cpu} has {other} already, and {one} needs a CPU for itself; choose another CPU, or set `share_cores: true` \
             on host `{}` for a test",
            host.name
        );
        problems.note(line, key_of(host), text);
    }
}

fn check_ports(problems: &mut Problems, config: &Config, host: &Host, on_host: &OnHost<'_>) {
    let mut ports: HashMap<(usize, Option<u16>), String> = HashMap::new();
    let mut vteps: HashMap<(usize, IpAddr), String> = HashMap::new();
    for (tenant_index, tenant, endpoint) in &on_host.endpoints {
        let name = format!("{}/{}", tenant.name, endpoint.name);
        let key = format!("tenants.{}.endpoints.{}", tenant.name, endpoint.name);
        match endpoint.attachment {
            Attachment::Port(port, vlan) if port < host.ports.len() => {
                let Some(owner) = ports.insert((port, vlan), name) else { continue };
                let what = vlan.map_or("untagged".to_owned(), |vlan| format!("VLAN {vlan}"));
                let port = &host.ports[port].name;
                let text =
                    format!("port `{port}` {what} is endpoint `{owner}`'s already; choose another port or `vlan`");
                problems.note(endpoint.line, key, text);
            }
            Attachment::Port(..) => {}
            Attachment::Vtep(address) => {
                if let Some(owner) = vteps.insert((*tenant_index, address), name) {
                    let text =
                        format!("VTEP {address} is endpoint `{owner}`'s already; list all prefixes in one endpoint");
                    problems.note(endpoint.line, key.clone(), text);
                }
                let ours = |host: &&Host| host.underlay.as_ref().is_some_and(|own| own.address.addr() == address);
                if let Some(host) = config.hosts.iter().find(ours) {
                    let text = format!(
                        "VTEP {address} is host `{}` itself; name the `host` and a `port` of it instead",
                        host.name
                    );
                    problems.note(endpoint.line, key, text);
                }
            }
        }
    }
}

fn overlap(one: &[IpNet], other: &[IpNet], allowed: impl Fn(&IpNet, &IpNet) -> bool) -> Option<(IpNet, IpNet)> {
    let mut pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
    pairs.find(|(a, b)| (a.contains(b) || b.contains(a)) && !allowed(a, b))
}

fn check_prefixes(problems: &mut Problems, tenant: &Tenant) {
    for (index, endpoint) in tenant.endpoints.iter().enumerate() {
        for other in &tenant.endpoints[..index] {
            // "Everything else" may stand beside the prefixes that it contains.
            let rest = |a: &IpNet, b: &IpNet| (a.prefix_len() == 0) != (b.prefix_len() == 0);
            if let Some((mine, theirs)) = overlap(&endpoint.prefixes, &other.prefixes, rest) {
                let text =
                    format!("prefix {mine} overlaps {theirs} of endpoint `{}`; an address has one place", other.name);
                let key = format!("tenants.{}.endpoints.{}", tenant.name, endpoint.name);
                problems.note(endpoint.line, key, format!("{text}, so narrow one of them"));
            }
        }
    }
}

fn check_pools(problems: &mut Problems, tenant: &Tenant) {
    for (index, instance) in tenant.instances.iter().enumerate() {
        for other in &tenant.instances[..index] {
            if let Some((mine, theirs)) = overlap(&instance.pool, &other.pool, |_, _| false) {
                let text = format!(
                    "its pool ({mine}) overlaps the pool of `{}` ({theirs}), so two flows could get the same address and port; \
                     give the instance a pool of its own: `config: {{pool: [...]}}`",
                    other.name
                );
                problems.note(instance.line, format!("tenants.{}.instances ({})", tenant.name, instance.name), text);
            }
        }
    }
}

/// The first chain that matches takes a flow, so one that an earlier chain covers never gets any.
fn check_selectors(problems: &mut Problems, tenant: &Tenant) {
    let mut earlier: HashMap<usize, Vec<&Chain>> = HashMap::new();
    for chain in &tenant.chains {
        let earlier = earlier.entry(chain.from).or_default();
        if let Some(other) = earlier.iter().find(|other| other.selector.covers(&chain.selector)) {
            let text = if other.selector == chain.selector {
                format!(
                    "it selects the same flows of `{}` as chain `{}` on line {}; make the selectors differ, or remove one chain",
                    tenant.endpoints[chain.from].name, other.name, other.line
                )
            } else {
                format!(
                    "no flow reaches it: chain `{}` on line {} takes them all before; put it first, or narrow `{}`",
                    other.name, other.line, other.name
                )
            };
            problems.note(chain.line, chain_key(tenant, chain), text);
        }
        earlier.push(chain);
    }
}

fn check_functions(problems: &mut Problems, warnings: &mut Warnings, tenant: &Tenant) {
    for chain in &tenant.chains {
        let mut seen = HashSet::new();
        if let Some(nf) = chain.through.iter().find(|nf| !seen.insert(**nf)) {
            let name = &tenant.nfs[*nf].name;
            let text = format!(
                "function `{name}` stands twice in the chain, which would go in a circle; declare a second one under `nfs` \
                 with its own instances, and use that"
            );
            problems.note(chain.line, chain_key(tenant, chain), text);
        }
    }
    for (index, nf) in tenant.nfs.iter().enumerate() {
        let user = tenant.chains.iter().find(|chain| chain.through.contains(&index));
        let key = || format!("tenants.{}.nfs.{}", tenant.name, nf.name);
        match (user, tenant.live_instances_of(index).next()) {
            (Some(chain), None) if tenant.instances_of(index).next().is_some() => {
                let text = format!(
                    "chain `{}` goes through `{}`, whose instances all drain; add an instance, or take it out of the chain",
                    chain.name, nf.name
                );
                problems.note(nf.line, key(), text);
            }
            (Some(chain), None) => {
                let text = format!(
                    "chain `{}` goes through `{}`, which has no instance; add `{{nf: {}, host: ..., cpu: ...}}` to `instances`",
                    chain.name, nf.name, nf.name
                );
                problems.note(nf.line, key(), text);
            }
            (None, _) => warnings.note(nf.line, key(), "no chain goes through it".to_owned()),
            (Some(_), Some(_)) => {}
        }
    }
}

/// A mangler, itself and all functions behind it, and the endpoint at the end.
type WayOn<'a> = (usize, &'a [usize], usize);

/// The segments behind manglers, each with the whole way on and the chain that has it.
fn behind_manglers(tenant: &Tenant) -> Vec<(WayOn<'_>, Segment, &Chain)> {
    let mut found = Vec::new();
    for chain in &tenant.chains {
        for segment in tenant.segments(chain) {
            if let End::Mangler(nf) = segment.head {
                let place = chain.through.iter().position(|at| *at == nf).unwrap_or(0);
                found.push(((nf, &chain.through[place..], chain.to), segment, chain));
            }
        }
    }
    found
}

fn check_weights(problems: &mut Problems, tenant: &Tenant) {
    for chain in &tenant.chains {
        for (instance, _) in &chain.weights {
            let nf = tenant.instances[*instance].nf;
            if !chain.through.contains(&nf) {
                let text =
                    format!("weights: the chain does not go through `{}`; remove the weight", tenant.nfs[nf].name);
                problems.note(chain.line, chain_key(tenant, chain), text);
            }
        }
        for nf in &chain.through {
            let mut instances = tenant.live_instances_of(*nf).peekable();
            if instances.peek().is_some() && instances.all(|instance| chain.weight(instance) == 0) {
                let text = format!(
                    "weights: every instance of `{}` has weight 0; give one of them more",
                    tenant.nfs[*nf].name
                );
                problems.note(chain.line, chain_key(tenant, chain), text);
            }
        }
    }
    let mut first: HashMap<WayOn<'_>, &Chain> = HashMap::new();
    for (way, segment, chain) in behind_manglers(tenant) {
        let other = *first.entry(way).or_insert(chain);
        let tail = match segment.tail {
            End::Mangler(nf) => Some(nf),
            End::Endpoint(_) => None,
        };
        let functions = segment.through.iter().copied().chain(tail);
        let mut instances = functions.flat_map(|nf| tenant.instances_of(nf));
        if let Some(instance) = instances.find(|&instance| chain.weight(instance) != other.weight(instance)) {
            let name = &tenant.instances[instance].name;
            let text = format!(
                "weights: `{name}` has weight {} here and {} in chain `{}`, but both chains share the way behind the mangler; \
                 use the same weight",
                chain.weight(instance),
                other.weight(instance),
                other.name
            );
            problems.note(chain.line, chain_key(tenant, chain), text);
        }
    }
}
