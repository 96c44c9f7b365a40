//! Places network functions on cores and routes flows through them, with a proven bound.
#![forbid(unsafe_code)]

pub mod bounds;
pub mod checker;
pub mod clock;
pub mod formats;
pub mod heuristics;
pub mod highs_run;
pub mod instance;
pub mod milp;
pub mod online;
mod pack;
pub mod problem;
pub mod ratio;
pub mod search;
pub mod solve;
pub mod stratos;
