//! Runs a test in a process of its own: EAL can be initialised only once in a process, and a process can have its own
//! network namespace.
//!
//! The test calls [`run`] with its own name and a body. There the test starts this test program again for that one
//! test, and the body runs in the child; the parent waits for it and shows what it printed if it failed.

use std::env;
use std::process::Command;

use dpdk::{Eal, EalConfig, LcoreBinding, LogLevel, Mempool, MempoolConfig, Meta};

const CHILD: &str = "TOWPATH_TEST_CHILD";

/// Runs `body` in a child process. `name` is the test's own, as the test harness shows it.
pub fn run(name: &str, body: impl FnOnce()) {
    if env::var(CHILD).as_deref() == Ok(name) {
        return body();
    }
    let program = env::current_exe().expect("the test program knows its path");
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, name);
    let output = command.output().expect("the test program starts again");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{name} failed in its own process:\n{text}");
}

/// EAL without hugepages or PCI, with `lcores` lcores spread over the CPUs that are allowed.
#[allow(dead_code, reason = "not every test program needs it")]
pub fn config(lcores: u32) -> EalConfig {
    let cpus: Vec<u16> = dpdk::cpu::allowed().into_iter().collect();
    let cpu = |lcore: u32| cpus[(lcore as usize - 1) % cpus.len()];
    EalConfig {
        memory_mib: 96,
        hugepages: false,
        lcores: (1..=lcores).map(|lcore| LcoreBinding { lcore, cpu: cpu(lcore) }).collect(),
        log: LogLevel::Warning,
        ..EalConfig::default()
    }
}

/// Starts EAL as [`config`] says.
#[allow(dead_code, reason = "not every test program needs it")]
pub fn eal(lcores: u32) -> Eal {
    Eal::init(config(lcores)).expect("EAL starts without hugepages")
}

/// A mempool of `count` mbufs.
#[allow(dead_code, reason = "not every test program needs it")]
pub fn pool<M: Meta>(eal: &Eal, count: u32) -> Mempool<M> {
    let config = MempoolConfig { count, cache: 32.min(count / 4), ..MempoolConfig::default() };
    Mempool::new(eal, &config).expect("there is memory for a mempool")
}
