//! The machine that a report was measured on, as far as the kernel tells it in `/proc` and `/sys`.
//!
//! Nothing here fails: what can't be read is "unknown" or 0, because a missing fact must not cost a measurement.

use std::fs;

use serde::{Deserialize, Serialize};

/// Facts without which a figure means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host_name: String,
    /// The CPU's model.
    pub cpu: String,
    /// CPUs that it has.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Kernel arguments that matter to latency: `isolcpus`, `nohz_full`, `rcu_nocbs`, `mitigations`.
    pub kernel_arguments: Vec<String>,
    /// True inside a virtual machine.
    pub virtual_machine: bool,
    /// Hugepages reserved, MiB.
    pub hugepages_mib: u64,
    /// The frequency governor of the first CPU: `performance`, or "unknown" where the machine has none.
    pub governor: String,
    /// An optimised build.
    pub release_build: bool,
}

impl Machine {
    /// Reads the facts.
    pub fn read() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let flags = field(&cpuinfo, "flags").unwrap_or_default();
        Self {
            host_name: known(read("/proc/sys/kernel/hostname")),
            cpu: known(field(&cpuinfo, "model name").unwrap_or_default()),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(), // this thread may be pinned
            kernel: known(read("/proc/sys/kernel/osrelease")),
            kernel_arguments: latency_arguments(&read("/proc/cmdline")),
            virtual_machine: flags.split_whitespace().any(|flag| flag == "hypervisor"),
            hugepages_mib: hugepages_mib(&read("/proc/meminfo")),
            governor: known(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            release_build: !cfg!(debug_assertions),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn known(text: String) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text }
}

/// The value of the first `key : value` line.
fn field(text: &str, key: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

fn latency_arguments(cmdline: &str) -> Vec<String> {
    let names = ["isolcpus", "nohz_full", "rcu_nocbs", "mitigations"];
    let matters = |word: &&str| names.contains(&word.split('=').next().unwrap_or_default());
    cmdline.split_whitespace().filter(matters).map(str::to_owned).collect()
}

fn hugepages_mib(meminfo: &str) -> u64 {
    let kib = field(meminfo, "Hugetlb").and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_that_change_latency_are_found_and_no_others() {
        let found = latency_arguments("BOOT_IMAGE=/vmlinuz root=/dev/sda1 isolcpus=2-7 nohz_full=2-7 quiet");
        assert_eq!(found, ["isolcpus=2-7", "nohz_full=2-7"]);
    }

    #[test]
    fn hugepages_of_every_size_are_counted() {
        assert_eq!(hugepages_mib("MemTotal: 1 kB\nHugepagesize:  2048 kB\nHugetlb:   1048576 kB\n"), 1_024);
        assert_eq!(hugepages_mib(""), 0);
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_cpu() {
        let machine = Machine::read();
        assert_ne!(machine.kernel, "unknown");
        assert!(machine.cpus >= 1);
    }
}
