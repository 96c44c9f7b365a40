//! Programs: the compact, the reach and the walk program, which bound and guide the pipeline, the ways program, which mends what the
//! search finds, the whole one for small problems, and the paper's own.

pub mod compact;
pub mod given;
pub mod paper;
mod pricing;
pub mod reach;
mod rows;
pub mod walks;
pub mod whole;
