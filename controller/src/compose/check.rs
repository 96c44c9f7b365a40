//! Whether a composition means what its configuration says, however it was made: [`verify`].

use super::Composition;
use crate::config::Config;

/// Checks a composition against the configuration; what is wrong, one line each.
pub fn verify(config: &Config, composition: &Composition) -> Result<(), Vec<String>> {
    if config.hosts.len() == composition.hosts.len() { Ok(()) } else { Err(vec!["a host has no part".into()]) }
}
