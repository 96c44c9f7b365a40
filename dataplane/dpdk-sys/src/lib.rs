//! Raw bindings to DPDK 22.11: functions, structs and constants as C declares them.
//!
//! On the packet's path: nowhere by itself; the `dpdk` crate is the only one that imports these names, and gives each a
//! safe meaning. Only what that crate uses is generated (`build.rs` lists it). Names with the prefix `shim_` are this
//! crate's own C functions, for what DPDK has only as inline functions.
//!
//! Shapes, units and byte order are C's. Every function is unsafe to call: DPDK checks few of its arguments, and none
//! of its pointers. Source: the headers of Debian's `libdpdk-dev`.

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
