//! shm
pub mod launch;
pub mod rules;
