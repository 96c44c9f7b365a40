//! What composition promises, whatever the configuration and whatever happens to it while flows live.
//!
//! Random specifications are composed, changed and forgotten. Packets are walked through an independent model of the hosts'
//! tables at every moment of every change, also where hosts are at different versions and where a change is given up. Every
//! packet visits exactly its chain's kinds in order, answers visit the same instances in reverse, and a flow keeps its
//! instances for its life.
//!
//! `TOWPATH_CASES` says how many specifications, `TOWPATH_SEED` at which seed to begin.

#[path = "composition/random.rs"]
mod random;
#[path = "composition/scale.rs"]
mod scale;
#[path = "composition/world.rs"]
mod world;

use std::collections::BTreeMap;

use controller::compose::{Composition, State, check, compose};
use controller::config::operations::{Operation, apply};
use controller::config::{self, Config};

use random::{Random, Spec};
use world::World;

/// Why a specification may be refused; anything else is a fault.
const REFUSALS: [&str; 11] = [
    "a packet rewritten by mangler",
    "still has",
    "weight 0",
    "both chains share the way behind the mangler",
    "which has no instance",
    "whose instances all drain",
    "tags for",
    "finds no CPU",
    "no spare lcore left",
    "needs a CPU for itself",
    "tag rules, its table has room for",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The composition, checked in every way that a composition alone can be.
fn composed(config: &Config, before: &State, reuse: Option<&Composition>) -> Result<Composition, String> {
    let fresh = compose(config, before, None).map_err(|errors| errors.to_string());
    let reused = compose(config, before, reuse).map_err(|errors| errors.to_string());
    match (fresh, reused) {
        (Ok(fresh), Ok(reused)) => {
            assert!(fresh == reused, "what is taken over makes no difference");
            check::verify(config, &fresh).map_err(|lines| lines.join("\n")).unwrap();
            let text = serde_json::to_string(&fresh.state).unwrap();
            let state: State = serde_json::from_str(&text).unwrap();
            assert!(state == fresh.state, "the state survives its writing");
            let again = compose(config, &state, None).map_err(|errors| errors.to_string()).unwrap();
            assert!(again == fresh, "a composition of its own state is the same");
            Ok(reused)
        }
        (Err(one), Err(other)) => {
            assert_eq!(one, other);
            assert!(REFUSALS.iter().any(|known| one.contains(known)), "{one}");
            Err(one)
        }
        (one, other) => panic!("{:?} without an earlier one, {:?} with it", one.map(drop), other.map(drop)),
    }
}

fn read(text: &str) -> Result<Config, String> {
    let errors = match config::parse("f.yaml", text) {
        Ok(config) => return Ok(config),
        Err(errors) => errors.to_string(),
    };
    assert!(
        errors.lines().all(|line| REFUSALS.iter().any(|known| line.contains(known))),
        "{}",
        errors.lines().take(9).collect::<Vec<_>>().join("\n")
    );
    Err(errors)
}

/// An operation on something that is there.
fn operation(config: &Config, random: &mut Random) -> Option<Operation> {
    let tenant = &config.tenants[random.below(config.tenants.len())];
    let name = tenant.name.clone();
    Some(match random.below(5) {
        0 | 1 => {
            let nf = tenant.nfs[random.below(tenant.nfs.len())].name.clone();
            let host = random.chance(50).then(|| config.hosts[random.below(config.hosts.len())].name.clone());
            Operation::AddInstance {
                tenant: name,
                nf,
                host,
                cpu: None,
                config: None,
                serves: None,
                weight: None,
                number: None,
            }
        }
        2 if !tenant.instances.is_empty() => {
            let instance = tenant.instances[random.below(tenant.instances.len())].name.clone();
            Operation::DrainInstance { tenant: name, instance }
        }
        3 if !tenant.chains.is_empty() => {
            let chain = &tenant.chains[random.below(tenant.chains.len())];
            let on = tenant.instances.iter().filter(|instance| chain.through.contains(&instance.nf));
            let weights: BTreeMap<String, u32> =
                on.map(|found| (found.name.clone(), random.between(1, 5) as u32)).collect();
            Operation::SetWeights { tenant: name, chain: chain.name.clone(), weights }
        }
        _ => {
            let detected = tenant.nfs.iter().find(|nf| nf.detect && !nf.mangles)?;
            Operation::AcceptMangler { tenant: name, nf: detected.name.clone() }
        }
    })
}

/// What became of a specification.
#[derive(Default, Debug)]
struct Tally {
    refused: usize,
    composed: usize,
    changes: usize,
    given_up: usize,
    changes_refused: usize,
    forgotten: usize,
    accepted: usize,
    packets: u64,
}

fn live(seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut random = Random(seed);
    let mut spec = Spec::new(&mut random);
    let Ok(config) = read(&spec.yaml()) else {
        tally.refused += 1;
        return Ok(());
    };
    let Ok(composition) = composed(&config, &State::default(), None) else {
        tally.refused += 1;
        return Ok(());
    };
    tally.composed += 1;
    let mut world = World::new(config, composition);
    world.traffic(&mut random, 6)?;
    for _ in 0..random.between(2, 6) {
        world.end_flows(&mut random, 20);
        let ended = world.ended();
        let (config, state) = if !ended.is_empty() && random.chance(60) {
            tally.forgotten += ended.len();
            (world.config.as_ref().clone(), world.composition.state.forget(&ended))
        } else {
            match change(&mut spec, &world, &mut random) {
                Some(config) => (config, world.composition.state.clone()),
                None => {
                    tally.changes_refused += 1;
                    continue;
                }
            }
        };
        let Ok(composition) = composed(&config, &state, Some(&world.composition)) else {
            tally.changes_refused += 1;
            continue;
        };
        let accepts = |config: &Config| -> usize {
            config.tenants.iter().flat_map(|tenant| &tenant.nfs).filter(|nf| nf.detect && nf.mangles).count()
        };
        let accepted = accepts(&config).saturating_sub(accepts(&world.config));
        match world.turn_to(config, composition, &mut random)? {
            true => tally.changes += 1,
            false => tally.given_up += 1,
        }
        tally.accepted += accepted;
        world.traffic(&mut random, 3)?;
    }
    tally.packets += world.packets;
    Ok(())
}

/// The next configuration: an operation on the one in force, or another file.
fn change(spec: &mut Spec, world: &World, random: &mut Random) -> Option<Config> {
    if random.chance(50) {
        let operation = operation(&world.config, random)?;
        return match apply(&world.config, std::slice::from_ref(&operation)) {
            Ok(config) => Some(config),
            Err(error) => {
                let text = error.to_string();
                assert!(REFUSALS.iter().any(|known| text.contains(known)), "{text}");
                None
            }
        };
    }
    let mut next = spec.clone();
    for _ in 0..random.between(1, 3) {
        next.change(random);
    }
    let config = read(&next.yaml()).ok()?;
    *spec = next;
    Some(config)
}

/// Breaks if any rule, tag, clone, number or order of steps lets one packet go astray.
#[test]
fn every_flow_keeps_its_way_through_any_sequence_of_changes() {
    let (cases, first) = (number("TOWPATH_CASES", 250), number("TOWPATH_SEED", 0));
    let mut tally = Tally::default();
    for seed in first..first + cases {
        if let Err(text) = live(seed, &mut tally) {
            panic!("TOWPATH_SEED={seed} TOWPATH_CASES=1: {text}");
        }
    }
    eprintln!("{tally:?}");
    if cases >= 250 {
        assert!(tally.composed > tally.refused, "most specifications are composed: {tally:?}");
        assert!(
            tally.changes > tally.composed && tally.given_up > 0 && tally.forgotten > 0 && tally.accepted > 0,
            "{tally:?}"
        );
    }
}

/// Breaks if tags run out where paths do not meet, or if two paths that meet get the same.
#[test]
fn a_tenant_has_a_thousand_paths_over_eight_hosts() {
    for seed in 0..number("TOWPATH_LAYOUTS", 4) {
        let config = read(&scale::thousand_paths(&mut Random(seed))).unwrap();
        let composition = compose(&config, &State::default(), None).map_err(|errors| errors.to_string()).unwrap();
        assert_eq!(composition.paths.len(), 1_000);
        check::verify(&config, &composition).unwrap();
    }
}

/// `TOWPATH_CHAINS` says how many chains; times are printed, not asserted.
#[test]
fn many_chains_over_many_hosts_are_composed_and_one_more_instance_changes_little() {
    let count = number("TOWPATH_CHAINS", 120);
    let text = scale::chains(count as usize);
    let timed = |what: &str, since: std::time::Instant| eprintln!("{what}: {:?}", since.elapsed());
    let start = std::time::Instant::now();
    let config = read(&text).unwrap();
    timed("read", start);
    let start = std::time::Instant::now();
    let before = compose(&config, &State::default(), None).map_err(|errors| errors.to_string()).unwrap();
    timed("composed", start);
    let start = std::time::Instant::now();
    check::verify(&config, &before).unwrap();
    timed("verified", start);
    assert_eq!(before.chains.iter().map(Vec::len).sum::<usize>() as u64, count);
    let nf = "k0-0".to_owned();
    let operation = Operation::AddInstance {
        tenant: "t0".into(),
        nf,
        number: None,
        host: None,
        cpu: None,
        config: None,
        serves: None,
        weight: None,
    };
    let start = std::time::Instant::now();
    let config = apply(&config, &[operation]).unwrap();
    timed("applied", start);
    let start = std::time::Instant::now();
    let after = compose(&config, &before.state, Some(&before)).map_err(|errors| errors.to_string()).unwrap();
    timed("composed again", start);
    let start = std::time::Instant::now();
    let difference = controller::compose::difference(&before, &after);
    timed("compared", start);
    assert!(after == compose(&config, &before.state, None).unwrap());
    check::verify(&config, &after).unwrap();
    assert_eq!(after.paths.len(), before.paths.len() + 10, "one for each of ten chains");
    assert!(difference.hosts.iter().all(|host| host.remove.is_empty()));
    let other = before.hosts.iter().zip(&after.hosts).filter(|(old, new)| !std::sync::Arc::ptr_eq(old, new)).count();
    assert!(other <= 60, "{other} hosts have another part");
}
