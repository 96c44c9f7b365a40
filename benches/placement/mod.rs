//! `towpath bench placement`: what placement promises, measured in one run, each line with its goal and a verdict.

pub mod stratos;
