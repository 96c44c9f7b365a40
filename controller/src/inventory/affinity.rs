//! Where the dataplane's lcores really run, as the kernel tells: what a plan is held against.
//!
//! EAL names the thread of lcore n `rte-worker-n`; number 0 is the control thread, so a launch document's lcore i is n = i + 1. The
//! kernel's `Cpus_allowed_list` of a thread that is pinned is its one CPU.
//!
//! Source: proc(5); EAL's `eal_init`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::sysfs::numbers;

/// The CPU that each lcore of a process is pinned to, by the lcore's place in the launch document. Lcores that the kernel does not
/// show, or that may run on several CPUs, are not there. `proc` is `/proc`.
pub fn pinned(proc: &Path, pid: u32) -> BTreeMap<usize, u16> {
    let tasks = fs::read_dir(proc.join(pid.to_string()).join("task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| lcore(&fs::read_to_string(task.path().join("status")).ok()?)).collect()
}

/// The lcore and its CPU, of one thread's `status`.
fn lcore(status: &str) -> Option<(usize, u16)> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let number: usize = field("Name:")?.strip_prefix("rte-worker-")?.parse().ok()?;
    match numbers(field("Cpus_allowed_list:")?).as_slice() {
        [cpu] => Some((number.checked_sub(1)?, *cpu)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a thread that is not pinned, or that is no lcore, counts as one.
    #[test]
    fn a_pinned_lcore_has_one_cpu() {
        let status =
            |name, cpus| format!("Name:\t{name}\nUmask:\t0022\nCpus_allowed:\t4\nCpus_allowed_list:\t{cpus}\n");
        assert_eq!(lcore(&status("rte-worker-2", "5")), Some((1, 5)));
        assert_eq!(lcore(&status("rte-worker-2", "0-1")), None);
        assert_eq!(lcore(&status("towpath-datapla", "5")), None);
        assert_eq!(lcore(&status("rte-worker-0", "5")), None, "the control thread is no lcore");
    }

    #[test]
    fn this_process_has_no_lcores() {
        assert!(pinned(Path::new("/proc"), std::process::id()).is_empty());
        assert!(pinned(Path::new("/nonexistent"), 1).is_empty());
    }
}
