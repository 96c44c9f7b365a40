//! What several entries of the file must agree about.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::segment::{End, Segment};
use super::{Attachment, Chain, Config, Host, Problem, Problems, Tenant};

/// vports of a host, the tunnel included.
const MAX_VPORTS: usize = 256;

pub(super) fn check(problems: &mut Problems, config: &mut Config) {
    let mut warnings = Warnings { file: config.file.clone(), found: Vec::new() };
    check_vnis(problems, config);
    check_underlays(problems, config);
    for (index, host) in config.hosts.iter().enumerate() {
        check_cpus(problems, &mut warnings, config, index, host);
        check_ports(problems, config, index, host);
        let vports = 1 + on_host(config, index).count();
        if vports > MAX_VPORTS {
            let text =
                format!("{vports} vports (tunnel, endpoints, instances), at most {MAX_VPORTS} fit; use another host");
            problems.note(host.line, key_of(host), text);
        }
    }
    for tenant in &config.tenants {
        check_prefixes(problems, tenant);
        check_pools(problems, tenant);
        check_selectors(problems, &mut warnings, tenant);
        check_functions(problems, &mut warnings, tenant);
        check_manglers(problems, tenant);
        check_weights(problems, tenant);
    }
    config.warnings = warnings.found;
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

/// Endpoints and instances of a host, by name.
fn on_host(config: &Config, host: usize) -> impl Iterator<Item = String> + '_ {
    config.tenants.iter().flat_map(move |tenant| {
        let endpoints = tenant.endpoints.iter().filter(move |endpoint| endpoint.host == host);
        let instances = tenant.instances.iter().filter(move |instance| instance.host == host);
        let names = endpoints.map(|endpoint| &endpoint.name).chain(instances.map(|instance| &instance.name));
        names.map(|name| format!("{}/{name}", tenant.name))
    })
}

fn check_vnis(problems: &mut Problems, config: &Config) {
    let mut owners: HashMap<_, &str> = HashMap::new();
    for tenant in &config.tenants {
        if let Some(owner) = owners.insert(tenant.vni, &tenant.name)
            && tenant.vni.value() != 0
        {
            let text = format!("VNI {} is tenant `{owner}`'s already; give each tenant its own", tenant.vni);
            problems.note(tenant.line, format!("tenants.{}.vni", tenant.name), text);
        }
    }
}

fn check_underlays(problems: &mut Problems, config: &Config) {
    let mut seen: Vec<(&Host, &super::Underlay)> = Vec::new();
    for host in &config.hosts {
        let Some(underlay) = &host.underlay else { continue };
        let key = || format!("hosts.{}.underlay", host.name);
        for (other, theirs) in &seen {
            if theirs.address.addr() == underlay.address.addr() {
                let text = format!("{} is host `{}`'s address; give each its own", underlay.address.addr(), other.name);
                problems.note(host.line, key(), text);
            }
        }
        if let Some((first, theirs)) = seen.first() {
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
        seen.push((host, underlay));
    }
    for (host, underlay) in &seen {
        let far = |(_, other): &&(&Host, &super::Underlay)| !underlay.address.contains(&other.address.addr());
        if let (None, Some((other, _))) = (underlay.gateway, seen.iter().find(far)) {
            let text = format!(
                "host `{}` is outside {} and there is no way to it; add a `gateway`",
                other.name,
                underlay.address.trunc()
            );
            problems.note(host.line, format!("hosts.{}.underlay", host.name), text);
        }
    }
}

fn check_cpus(problems: &mut Problems, warnings: &mut Warnings, config: &Config, index: usize, host: &Host) {
    let mut owners: HashMap<u16, String> = host.io_cpus.iter().map(|&cpu| (cpu, "I/O".to_owned())).collect();
    let mut shared = Vec::new();
    if let Some(cpu) = host.control_cpu
        && host.io_cpus.contains(&cpu)
    {
        shared.push((host.line, cpu, "the control thread".to_owned(), "I/O".to_owned()));
    }
    if let Some(cpu) = host.control_cpu {
        owners.entry(cpu).or_insert_with(|| "the control thread".to_owned());
    }
    for tenant in &config.tenants {
        for instance in tenant.instances.iter().filter(|instance| instance.host == index) {
            let name = format!("{}/{}", tenant.name, instance.name);
            if let Some(owner) = owners.insert(instance.cpu, name.clone()) {
                shared.push((instance.line, instance.cpu, name, owner));
            }
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

fn check_ports(problems: &mut Problems, config: &Config, index: usize, host: &Host) {
    let mut ports: HashMap<(usize, Option<u16>), String> = HashMap::new();
    let mut vteps: HashMap<(usize, IpAddr), String> = HashMap::new();
    for (tenant_index, tenant) in config.tenants.iter().enumerate() {
        for endpoint in tenant.endpoints.iter().filter(|endpoint| endpoint.host == index) {
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
                    if let Some(owner) = vteps.insert((tenant_index, address), name) {
                        let text = format!(
                            "VTEP {address} is endpoint `{owner}`'s already; list all prefixes in one endpoint"
                        );
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

fn check_selectors(problems: &mut Problems, warnings: &mut Warnings, tenant: &Tenant) {
    for (index, chain) in tenant.chains.iter().enumerate() {
        let earlier = tenant.chains[..index].iter().filter(|other| other.from == chain.from);
        let Some(other) = earlier.into_iter().find(|other| other.selector.covers(&chain.selector)) else { continue };
        let key = chain_key(tenant, chain);
        if other.selector == chain.selector {
            let text = format!(
                "it selects the same flows of `{}` as chain `{}` on line {}; make the selectors differ, or remove one chain",
                tenant.endpoints[chain.from].name, other.name, other.line
            );
            problems.note(chain.line, key, text);
        } else {
            let text = format!("no flow reaches it: chain `{}` before it takes them all; put it first", other.name);
            warnings.note(chain.line, key, text);
        }
    }
}

fn check_functions(problems: &mut Problems, warnings: &mut Warnings, tenant: &Tenant) {
    for chain in &tenant.chains {
        for segment in tenant.segments(chain) {
            for (place, nf) in segment.through.iter().enumerate() {
                if segment.through[..place].contains(nf) {
                    let name = &tenant.nfs[*nf].name;
                    let text = format!(
                        "function `{name}` stands twice between manglers; declare a second one under `nfs` and use that"
                    );
                    problems.note(chain.line, chain_key(tenant, chain), text);
                }
            }
        }
    }
    for (index, nf) in tenant.nfs.iter().enumerate() {
        let user = tenant.chains.iter().find(|chain| chain.through.contains(&index));
        let key = || format!("tenants.{}.nfs.{}", tenant.name, nf.name);
        match (user, tenant.instances_of(index).next()) {
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

/// The segments behind manglers, each with the chain that has it.
fn behind_manglers(tenant: &Tenant) -> Vec<(usize, Segment, &Chain)> {
    let mut found = Vec::new();
    for chain in &tenant.chains {
        for segment in tenant.segments(chain) {
            if let End::Mangler(nf) = segment.head {
                found.push((nf, segment, chain));
            }
        }
    }
    found
}

fn describe(tenant: &Tenant, segment: &Segment) -> String {
    let mut names: Vec<&str> = segment.through.iter().map(|nf| tenant.nfs[*nf].name.as_str()).collect();
    names.push(match segment.tail {
        End::Endpoint(index) => &tenant.endpoints[index].name,
        End::Mangler(index) => &tenant.nfs[index].name,
    });
    names.join(", ")
}

/// Behind a mangler nothing tells any more which chain a packet was on, so all its chains must go on the same way.
fn check_manglers(problems: &mut Problems, tenant: &Tenant) {
    let mut first: HashMap<usize, (Segment, &Chain)> = HashMap::new();
    for (nf, segment, chain) in behind_manglers(tenant) {
        let (known, other) = first.entry(nf).or_insert_with(|| (segment.clone(), chain));
        if *known == segment {
            continue;
        }
        let (name, function) = (&tenant.nfs[nf].name, &tenant.nfs[nf].function);
        let text = format!(
            "behind mangler `{name}` this chain goes to {}, but chain `{}` goes to {}, and a rewritten packet does not show \
             which chain it is on; declare a second function under `nfs` (`{name}2: {{function: {function}, ...}}`) with its own \
             instances and pool, and use it in one of the chains",
            describe(tenant, &segment),
            other.name,
            describe(tenant, known)
        );
        problems.note(chain.line, chain_key(tenant, chain), text);
    }
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
            let mut instances = tenant.instances_of(*nf).peekable();
            if instances.peek().is_some() && instances.all(|instance| chain.weight(instance) == 0) {
                let text = format!(
                    "weights: every instance of `{}` has weight 0; give one of them more",
                    tenant.nfs[*nf].name
                );
                problems.note(chain.line, chain_key(tenant, chain), text);
            }
        }
    }
    let mut first: HashMap<Segment, &Chain> = HashMap::new();
    for (_, segment, chain) in behind_manglers(tenant) {
        let other = *first.entry(segment.clone()).or_insert(chain);
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
