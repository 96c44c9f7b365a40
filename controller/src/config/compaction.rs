//! Operations without those that make no difference any more: [`compact`].
//!
//! Off the packet's path, before a change is proposed. Without it a function that is scaled out and in day by day would leave
//! two operations and a dead instance each time, for every later change to be computed from.
//!
//! - An instance that operations added and drained, and that no host has any more, goes with all that names it.
//! - Shares of new flows that a later operation sets again go; so does what is said twice.
//!
//! Invariant: what is left makes the same configuration, but for those instances; if it does not, nothing goes.

use std::collections::{BTreeMap, BTreeSet};

use super::operations::{Operation, apply};
use super::{Config, Instance};

/// The operations that still make a difference. Instances must be numbered ([`super::operations::number`]); `is_gone` says of a
/// tenant's instance, by their names, whether no host has it.
pub fn compact(config: &Config, operations: &[Operation], is_gone: impl Fn(&str, &str) -> bool) -> Vec<Operation> {
    let dead = dead(operations, is_gone);
    let left = without(operations, &dead);
    let same = left.len() < operations.len() || left != operations;
    match (apply(config, operations), apply(config, &left)) {
        (Ok(all), Ok(few)) if same && outline(&all, &dead) == outline(&few, &dead) => left,
        _ => operations.to_vec(),
    }
}

/// Tenant and name.
type Names = BTreeSet<(String, String)>;

/// What was added and drained, and is gone.
fn dead(operations: &[Operation], is_gone: impl Fn(&str, &str) -> bool) -> Names {
    let added = operations.iter().filter_map(|operation| match operation {
        Operation::AddInstance { tenant, nf, number: Some(number), .. } => {
            Some((tenant.clone(), format!("{nf}/{number}")))
        }
        _ => None,
    });
    let added: Names = added.collect();
    let drained = operations.iter().filter_map(|operation| match operation {
        Operation::DrainInstance { tenant, instance } => Some((tenant.clone(), instance.clone())),
        _ => None,
    });
    drained.filter(|name| added.contains(name) && is_gone(&name.0, &name.1)).collect()
}

/// From the last to the first, so that the later of two that do the same stays.
fn without(operations: &[Operation], dead: &Names) -> Vec<Operation> {
    let mut shares: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
    let mut left: Vec<Operation> = Vec::new();
    let is_dead = |tenant: &String, name: &String| dead.contains(&(tenant.clone(), name.clone()));
    for operation in operations.iter().rev() {
        match operation {
            Operation::AddInstance { tenant, nf, number: Some(number), .. }
                if is_dead(tenant, &format!("{nf}/{number}")) => {}
            Operation::DrainInstance { tenant, instance } if is_dead(tenant, instance) => {}
            Operation::SetWeights { tenant, chain, weights } => {
                let mut stays = BTreeMap::new();
                for (name, weight) in weights.iter().filter(|(name, _)| !is_dead(tenant, name)) {
                    if shares.insert((tenant, chain, name)) {
                        stays.insert(name.clone(), *weight);
                    }
                }
                if !stays.is_empty() {
                    let (tenant, chain) = (tenant.clone(), chain.clone());
                    left.push(Operation::SetWeights { tenant, chain, weights: stays });
                }
            }
            Operation::DrainInstance { .. } if left.contains(operation) => {}
            _ => left.push(operation.clone()),
        }
    }
    left.reverse();
    let mut accepted: Vec<Operation> = Vec::new();
    left.retain(|operation| {
        let again = accepted.contains(operation);
        if matches!(operation, Operation::AcceptMangler { .. }) {
            accepted.push(operation.clone());
        }
        !again
    });
    left
}

/// All that operations can make different, dead instances left out; by names, since numbers of places shift.
fn outline(config: &Config, dead: &Names) -> Vec<impl PartialEq> {
    let mut outlines = Vec::new();
    for tenant in &config.tenants {
        let lives = |instance: &&Instance| !dead.contains(&(tenant.name.clone(), instance.name.clone()));
        let instances: Vec<Instance> = tenant.instances.iter().filter(lives).cloned().collect();
        let shares = tenant.chains.iter().map(|chain| {
            let named =
                chain.weights.iter().filter_map(|(index, weight)| Some((tenant.instances.get(*index)?, *weight)));
            let living = named.filter(|(instance, _)| lives(instance));
            living.map(|(instance, weight)| (instance.name.clone(), weight)).collect::<BTreeMap<_, _>>()
        });
        let shares: Vec<BTreeMap<String, u32>> = shares.collect();
        let kinds: Vec<(bool, bool)> = tenant.nfs.iter().map(|nf| (nf.mangles, nf.detect)).collect();
        outlines.push((tenant.name.clone(), instances, shares, kinds));
    }
    outlines
}

#[cfg(test)]
mod tests {
    use super::super::operations::number;
    use super::*;
    use crate::config;

    fn add(weight: Option<u32>) -> Operation {
        let (tenant, nf) = ("acme".to_owned(), "edge".to_owned());
        Operation::AddInstance { tenant, nf, number: None, host: None, cpu: None, config: None, serves: None, weight }
    }

    fn drain(instance: &str) -> Operation {
        Operation::DrainInstance { tenant: "acme".into(), instance: instance.into() }
    }

    fn weights(shares: &[(&str, u32)]) -> Operation {
        let weights = shares.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        Operation::SetWeights { tenant: "acme".into(), chain: "web".into(), weights }
    }

    /// Breaks if scaling out and in, again and again, makes every later change longer.
    #[test]
    fn what_came_and_went_leaves_nothing() {
        let config = config::parse("e.yaml", config::EXAMPLE).unwrap();
        let mut operations = Vec::new();
        for _ in 0..500 {
            operations.push(add(Some(3)));
            let (_, numbered) = number(&config, &operations).unwrap();
            let Some(Operation::AddInstance { number: Some(last), .. }) = numbered.last() else { panic!() };
            let name = format!("edge/{last}");
            operations = numbered;
            operations.extend([weights(&[("edge/1", 7), (&name, 2)]), drain(&name)]);
            operations = compact(&config, &operations, |_, _| true);
            assert!(operations.len() <= 1, "{operations:?}");
        }
        assert_eq!(operations, [weights(&[("edge/1", 7)])]);
    }

    /// Breaks if an instance that still runs is renamed, or loses its drain, since another one has gone.
    #[test]
    fn what_is_still_there_keeps_its_name_and_its_drain() {
        let config = config::parse("e.yaml", config::EXAMPLE).unwrap();
        let (_, mut operations) = number(&config, &[add(None), add(None), add(None)]).unwrap();
        let names: Vec<String> = operations
            .iter()
            .filter_map(|operation| match operation {
                Operation::AddInstance { number: Some(number), .. } => Some(format!("edge/{number}")),
                _ => None,
            })
            .collect();
        operations.extend([drain(&names[0]), drain(&names[1]), drain("edge/1"), drain("edge/1")]);
        let left = compact(&config, &operations, |_, name| name == names[0] || name == "edge/1");
        assert_eq!(left.len(), 4, "{left:?}");
        let after = apply(&config, &left).unwrap();
        let drains: BTreeMap<&str, bool> =
            after.tenants[0].instances.iter().map(|found| (found.name.as_str(), found.drain)).collect();
        assert_eq!(
            (drains.get(names[0].as_str()), drains[names[1].as_str()], drains[names[2].as_str()]),
            (None, true, false)
        );
        assert!(drains["edge/1"], "the file's instance is still in the file");
        let (_, again) = number(&config, &[left.as_slice(), &[add(None)]].concat()).unwrap();
        let Some(Operation::AddInstance { number: Some(next), .. }) = again.last() else { panic!() };
        assert!(!names.contains(&format!("edge/{next}")), "a name that is in use is not given twice");
    }

    #[test]
    fn only_the_last_of_shares_that_are_set_again_stays() {
        let config = config::parse("e.yaml", config::EXAMPLE).unwrap();
        let operations = [weights(&[("edge/1", 2)]), weights(&[("edge/1", 5)]), weights(&[("edge/1", 2)])];
        assert_eq!(compact(&config, &operations, |_, _| true), [weights(&[("edge/1", 2)])]);
    }
}
