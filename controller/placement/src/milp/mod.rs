//! Integer programs: the compact one and the reach program, which bound and guide the pipeline, and the paper's own.

pub mod compact;
pub mod paper;
pub mod reach;
mod rows;
