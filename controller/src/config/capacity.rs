//! Whether declared demands fit into what instances are declared to carry.

use super::{Chain, Demand, Problems, Tenant};

/// What a chain brings to one of a function's instances: its share by the chain's weights.
pub(crate) fn load_pps(tenant: &Tenant, chain: &Chain, demand: Demand, instance: usize) -> u64 {
    let nf = tenant.instances[instance].nf;
    let weights = tenant.live_instances_of(nf).map(|index| u64::from(chain.weight(index)));
    let (sum, own) = (weights.sum::<u64>(), u64::from(chain.weight(instance)));
    (u128::from(demand.packets_pps) * u128::from(own) / u128::from(sum.max(1))).try_into().unwrap_or(u64::MAX)
}

/// Every instance carries its share of what the chains that say so bring.
pub(super) fn check(problems: &mut Problems, tenant: &Tenant) {
    for (nf, kind) in tenant.nfs.iter().enumerate() {
        let Some(capacity_pps) = kind.capacity_pps else { continue };
        let instances: Vec<usize> = tenant.live_instances_of(nf).collect();
        let users = || tenant.chains.iter().filter(|chain| chain.through.contains(&nf));
        let load = |instance: usize| -> u64 {
            users().filter_map(|chain| Some(load_pps(tenant, chain, chain.demand?, instance))).sum()
        };
        let Some((load_pps, busiest)) = instances.iter().map(|index| (load(*index), *index)).max() else { continue };
        if load_pps <= capacity_pps {
            continue;
        }
        let whole_pps: u64 = users().filter_map(|chain| Some(chain.demand?.packets_pps)).sum();
        let first = users().max_by_key(|chain| chain.demand.map_or(0, |demand| demand.packets_pps));
        let Some(chain) = first else { continue };
        let text = format!(
            "`{}` would get {load_pps} packets/s, but carries {capacity_pps} (`capacity_pps` of `{}`); all chains through it bring \
             {whole_pps}, which takes {} instances with equal weights: add some, or lower `demand`",
            tenant.instances[busiest].name,
            kind.name,
            whole_pps.div_ceil(capacity_pps)
        );
        problems.note(chain.line, format!("tenants.{}.chains.{}", tenant.name, chain.name), text);
    }
}
