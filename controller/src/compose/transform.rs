//! What manglers make of the tenants' chains (Stratos section 4.1): [`Transformation`].

use std::fmt;

/// What manglers make of the tenants' chains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transformation {
    /// Every mangler that a chain goes through, by tenant in the configuration's order.
    pub manglers: Vec<Mangler>,
    /// Cores that the manglers need beyond one per kind, because they have several downstream paths.
    pub extra_cores: usize,
}

/// A mangler and its clones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mangler {
    /// Its tenant.
    pub tenant: String,
    /// The kind.
    pub kind: String,
    /// It was found by its traffic and accepted by the operator; otherwise it was declared.
    pub detected: bool,
    /// One per downstream path.
    pub clones: Vec<Clone>,
}

/// The part of a mangler's instances that has one downstream path to itself.
#[derive(Debug, PartialEq, Eq, std::clone::Clone)]
pub struct Clone {
    /// `nat`, or `nat#2` if there are several.
    pub name: String,
    /// What comes behind it, up to and with the endpoint.
    pub downstream: Vec<String>,
    /// Its instances.
    pub instances: Vec<String>,
    /// The chains through it, each rewritten: `web: clients > edge > nat#2 > tap > servers`.
    pub chains: Vec<String>,
}

impl fmt::Display for Transformation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mangler in &self.manglers {
            writeln!(f, "mangler {}/{}", mangler.tenant, mangler.kind)?;
        }
        Ok(())
    }
}
