//! Finds DPDK by pkg-config, generates the bindings with bindgen, and compiles the shim for DPDK's inline functions.
//!
//! The release is fixed to the 22.11 series (Debian 12), because struct layouts and driver behaviour change between
//! series. Drivers are not linked: EAL loads them from its plugin directory. The one exception is net_ring, whose
//! function for making a port out of two rings is called directly.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::exit;

/// Functions that the safe layer calls.
const FUNCTIONS: &[&str] = &[
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_get_runtime_dir",
    "rte_eal_init",
    "rte_eal_lcore_role",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_from_rings",
    "rte_eth_link_get_nowait",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_get_tsc_hz",
    "rte_lcore_to_socket_id",
    "rte_log_set_global_level",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_pktmbuf_copy",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_ring_create",
    "rte_ring_free",
    "rte_strerror",
    "shim_.*",
];

/// Constants that the safe layer reads.
const CONSTANTS: &[&str] = &[
    "RING_F_.*",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_LOG_.*",
    "RTE_MAX_LCORE",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_MEMZONE_NAMESIZE",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_RING_SZ_MASK",
];

/// Packed structs inside aligned unions, which bindgen can't lay out; nothing here uses them.
const OPAQUE: &[&str] = &["rte_arp_ipv4", "rte_arp_hdr", "rte_l2tpv2_combined_msg_hdr", "rte_gtp_psc_generic_hdr"];

fn main() {
    for file in ["build.rs", "src/shim.c", "src/shim.h", "src/wrapper.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let dpdk = probe_dpdk();
    let include_args: Vec<String> = dpdk.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    let machine = machine_flag();
    generate_bindings(&include_args, machine.as_deref());
    compile_shim(&dpdk, machine.as_deref());
    println!("cargo::rustc-link-lib=rte_net_ring");
}

/// Where DPDK is, and the arguments to link it. The linker drops the libraries that nothing refers to (`--as-needed` is
/// rustc's default).
fn probe_dpdk() -> pkg_config::Library {
    let found = pkg_config::Config::new().range_version("22.11".."22.12").probe("libdpdk");
    found.unwrap_or_else(|error| {
        let cause = match error {
            pkg_config::Error::ProbeFailure { .. } | pkg_config::Error::Failure { .. } => {
                "pkg-config knows no libdpdk of the 22.11 series".to_owned()
            }
            other => other.to_string(),
        };
        fail(&format!("DPDK 22.11 can't be found: {cause}"))
    })
}

/// Fails the build with one line that names the remedy.
fn fail(problem: &str) -> ! {
    println!(
        "cargo::error={problem}. Remedy: `apt-get install libdpdk-dev libclang-dev pkg-config build-essential`, or build \
         without the dataplane: `cargo build --no-default-features`"
    );
    // Cargo fails the build because of the line above; a failure code would make it print everything else, too.
    exit(0);
}

/// The `-march=` that DPDK was built for and its inline functions need.
fn machine_flag() -> Option<String> {
    let output = std::process::Command::new("pkg-config").args(["--cflags-only-other", "libdpdk"]).output().ok()?;
    let flags = String::from_utf8(output.stdout).ok()?;
    flags.split_whitespace().find(|flag| flag.starts_with("-march=")).map(str::to_owned)
}

fn generate_bindings(include_args: &[String], machine: Option<&str>) {
    let mut builder = bindgen::Builder::default()
        .header("src/wrapper.h")
        .clang_args(include_args)
        .clang_args(machine)
        .allowlist_recursively(true)
        // Thread-local variables, which Rust can't declare; shim.c reads them.
        .blocklist_item("per_lcore__.*")
        .derive_default(false)
        .layout_tests(true)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .rust_edition(bindgen::RustEdition::Edition2024);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    // bindgen panics where it finds no libclang; one line says it better than a backtrace.
    panic::set_hook(Box::new(|_| ()));
    let generated = panic::catch_unwind(AssertUnwindSafe(|| builder.generate()));
    drop(panic::take_hook());
    let bindings = match generated {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!("bindgen can't read DPDK's headers ({error})")),
        Err(_) => fail("bindgen finds no libclang"),
    };
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    bindings.write_to_file(&target).unwrap_or_else(|error| fail(&format!("can't write {}: {error}", target.display())));
}

fn compile_shim(dpdk: &pkg_config::Library, machine: Option<&str>) {
    let mut build = cc::Build::new();
    build.file("src/shim.c").includes(&dpdk.include_paths).flag("-include").flag("rte_config.h").opt_level(3);
    if let Some(flag) = machine {
        build.flag(flag);
    }
    build
        .try_compile("towpath_dpdk_shim")
        .unwrap_or_else(|error| fail(&format!("the C compiler can't build shim.c ({error})")));
}
