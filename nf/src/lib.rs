//! The network functions that Towpath brings along, one file each, and the registry that makes them from configuration.
//!
//! On the packet's path: an NF lcore owns one [`packet::NetworkFunction`] made by [`create`], and hands it every burst
//! that its ring delivers. What an NF sees is `packet::Packet`: bytes, headers, direction, VNI, time. It never sees an
//! mbuf.
//!
//! | function | rewrites | drops |
//! |---|---|---|
//! | [`passthrough`] | nothing | nothing |
//! | [`mangler`] | addresses | what it can't map |
//! | [`firewall`] | nothing | what rules or connection state refuse |
//! | [`tripwire`] | nothing | nothing; it panics on purpose, for tests |
//!
//! A function of your own: write its file with a type that implements `NetworkFunction`, then add it to [`functions`]
//! and to the two matches below.
//!
//! Invariants: an instance allocates everything in [`create`] and nothing while packets flow; hostile bytes never make
//! it panic. Errors: [`NfError`] names the key by its path and says the remedy.
#![forbid(unsafe_code)]

mod config;
pub mod firewall;
mod flow_table;
pub mod mangler;
pub mod passthrough;
mod signals;
pub mod tripwire;

use packet::{NetworkFunction, NfError};
use serde_json::Value;

/// What the registry says about a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionInfo {
    /// The name that a configuration uses: `firewall`.
    pub name: &'static str,
    /// True if it rewrites the flow's identity, so that a new subchain begins behind it.
    pub mangles: bool,
    /// One sentence for `towpath` to show.
    pub summary: &'static str,
    /// A commented example of the function's own configuration, in YAML.
    pub example: &'static str,
}

static FUNCTIONS: [FunctionInfo; 4] = [passthrough::INFO, mangler::INFO, firewall::INFO, tripwire::INFO];

/// Every function there is, in the order in which documentation lists them.
pub fn functions() -> &'static [FunctionInfo] {
    &FUNCTIONS
}

/// Makes an instance: checks its configuration and allocates its tables.
///
/// `instance` is the instance's name (`firewall/1`). A missing configuration (`null`) stands for an empty one.
pub fn create(function: &str, config: &Value, instance: &str) -> Result<Box<dyn NetworkFunction>, NfError> {
    Ok(match function {
        "passthrough" => Box::new(passthrough::Passthrough::new(config::parse(config)?)),
        "mangler" => Box::new(mangler::Mangler::new(&mangler::Settings::from_json(config)?)),
        "firewall" => Box::new(firewall::Firewall::new(&firewall::Settings::from_json(config)?)),
        "tripwire" => Box::new(tripwire::Tripwire::new(config::parse(config)?, instance)),
        other => return Err(unknown(other)),
    })
}

/// Checks a configuration as [`create`] does, without allocating tables: for `towpath check`.
pub fn validate(function: &str, config: &Value) -> Result<(), NfError> {
    match function {
        "passthrough" => config::parse::<passthrough::Settings>(config).map(drop),
        "mangler" => mangler::Settings::from_json(config).map(drop),
        "firewall" => firewall::Settings::from_json(config).map(drop),
        "tripwire" => config::parse::<tripwire::Settings>(config).map(drop),
        other => Err(unknown(other)),
    }
}

fn unknown(function: &str) -> NfError {
    let known: Vec<_> = functions().iter().map(|info| info.name).collect();
    NfError {
        path: "function".into(),
        problem: format!("there is no function `{function}`; use one of {}", known.join(", ")),
    }
}

/// The README's example of a network function, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_listed_function_can_be_made_from_its_own_example() {
        for info in functions() {
            let config: Value = serde_saphyr::from_str(info.example).expect(info.name);
            validate(info.name, &config).expect(info.name);
            let made = create(info.name, &config, "example/1").expect(info.name);
            assert!(made.counters().len() <= 256, "{}", info.name);
        }
    }

    #[test]
    fn an_unknown_function_is_answered_with_the_known_ones() {
        let expected = "function: there is no function `router`; use one of passthrough, mangler, firewall, tripwire";
        assert_eq!(validate("router", &json!({})).unwrap_err().to_string(), expected);
        assert_eq!(
            create("router", &json!({}), "router/1").err().map(|error| error.to_string()),
            Some(expected.into())
        );
    }

    #[test]
    fn create_and_validate_refuse_the_same_unknown_key() {
        for info in functions() {
            let config = json!({"colour": "green"});
            let refused = validate(info.name, &config).unwrap_err();
            assert!(refused.problem.contains("colour") || refused.path.contains("colour"), "{refused}");
            assert_eq!(create(info.name, &config, "x/1").err(), Some(refused));
        }
    }

    #[test]
    fn a_missing_configuration_is_an_empty_one() {
        assert_eq!(validate("passthrough", &Value::Null), Ok(()));
        assert!(validate("mangler", &Value::Null).unwrap_err().to_string().contains("pool"));
    }
}
