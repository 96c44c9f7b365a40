//! Specifications that are what they claim to be, composed and proved.

use super::*;

fn parsed(chains: usize) -> (Specification, Config) {
    let specification = Specification::of(chains);
    let config = config::parse("s.yaml", &specification.yaml()).map_err(|errors| errors.to_string()).unwrap();
    (specification, config)
}

#[test]
fn a_specification_has_the_chains_hosts_and_sharing_that_it_claims() {
    let (specification, config) = parsed(98);
    assert_eq!((specification.chains, specification.hosts), (100, 10));
    assert_eq!(config.hosts.len(), specification.hosts);
    assert_eq!(config.tenants.len(), specification.tenants());
    let chains: Vec<_> = config.tenants.iter().flat_map(|tenant| &tenant.chains).collect();
    assert_eq!(chains.len(), specification.chains);
    assert!(chains.iter().all(|chain| chain.through.len() == 4));
    for tenant in &config.tenants {
        for nf in 0..tenant.nfs.len() {
            assert_eq!(tenant.chains.iter().filter(|chain| chain.through.contains(&nf)).count(), specification::GROUP);
            assert_eq!(tenant.instances_of(nf).count(), specification::INSTANCES);
        }
        assert_eq!(tenant.nfs.iter().filter(|nf| nf.mangles).count() * specification::GROUP, tenant.chains.len());
    }
    assert!(config.hosts.iter().all(|host| host.underlay.is_some()));
}

#[test]
fn a_small_run_is_checked_and_one_instance_more_adds_paths_for_its_group_alone() {
    let report = run(&ComposePlan { chains: vec![5, 10], runs: 2 }, Vec::new(), None, |_| {}).unwrap();
    let size = &report.sizes[1];
    assert_eq!((size.chains, size.hosts, size.tenants, size.instances), (10, 2, 1, 16));
    // A chain: 2×2×2 ways to the mangler. A group: two manglers with two ways on each.
    assert_eq!(size.paths, 10 * 8 + 2 * 4);
    // A third instance beside two: half as many ways to the mangler again, for five chains.
    assert_eq!(size.one_more_paths, 5 * 4);
    assert_eq!((size.from_nothing.runs_ns.len(), size.one_more.runs_ns.len()), (2, 2));
    assert!(report.growth_from_nothing.is_some() && report.text().contains("Growth"));
    let read: ComposeReport = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(read, report);
}

#[test]
fn what_can_t_be_measured_is_refused() {
    let refused = |chains, runs| {
        run(&ComposePlan { chains: vec![chains], runs }, Vec::new(), None, |_| {}).unwrap_err().to_string()
    };
    assert!(refused(0, 1).starts_with("0 chains") && refused(10, 0).starts_with("0 runs"));
}
