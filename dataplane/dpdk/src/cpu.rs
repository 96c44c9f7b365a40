//! CPUs and NUMA sockets, as the kernel shows them.
//!
//! Off the packet's path: read once, at launch, to refuse a placement that can't work and to report the ones that do.
//! CPU numbers are the kernel's. Source: `/sys/devices/system`, `sched_getaffinity(2)`.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fmt, fs, io, mem};

use crate::Errno;

/// A NUMA node, in DPDK's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub i32);

/// What the C library takes for large from the start; by itself it learns to keep ever larger pieces.
const LARGE_BYTES: libc::c_int = 128 * 1024;

impl SocketId {
    /// No particular one: a virtual device's, or "wherever there is memory".
    pub const ANY: Self = Self(-1);
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ANY { f.write_str("any") } else { write!(f, "{}", self.0) }
    }
}

/// True if the machine has this CPU, whether or not this process may use it.
pub fn exists(cpu: u16) -> bool {
    Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}")).exists()
}

/// The CPUs that the calling thread may run on: those of its `taskset`, cgroup or container.
pub fn allowed() -> BTreeSet<u16> {
    // SAFETY: cpu_set_t is a plain array of words, for which zero bits mean an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a live cpu_set_t of the size that is passed; 0 names the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &mut set) };
    if status != 0 {
        return BTreeSet::new();
    }
    // SAFETY: CPU_ISSET reads one bit of the set, and every index below CPU_SETSIZE lies within it.
    (0..libc::CPU_SETSIZE as u16).filter(|&cpu| unsafe { libc::CPU_ISSET(usize::from(cpu), &set) }).collect()
}

/// Runs `work` with the calling thread on this CPU, so that the memory it is first to touch is on the CPU's socket. Where the
/// thread may not move there, the work is done all the same.
pub fn run_on<T>(cpu: u16, work: impl FnOnce() -> T) -> T {
    let before = allowed();
    let _ = move_to(&BTreeSet::from([cpu]));
    let result = work();
    let _ = move_to(&before);
    result
}

/// A CPU that a thread can't be moved to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the thread can't be moved to CPU {cpu}: {errno}; is the CPU online, and may this process use it?")]
pub struct AffinityError {
    /// The CPU.
    pub cpu: u16,
    /// Why.
    pub errno: Errno,
}

/// Moves the calling thread to this CPU for good: a lcore that waited on another one.
pub fn stay_on(cpu: u16) -> Result<(), AffinityError> {
    move_to(&BTreeSet::from([cpu])).map_err(|errno| AffinityError { cpu, errno })
}

fn move_to(cpus: &BTreeSet<u16>) -> Result<(), Errno> {
    // SAFETY: cpu_set_t is a plain array of words, for which zero bits mean an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| i32::from(cpu) < libc::CPU_SETSIZE) {
        // SAFETY: CPU_SET writes one bit of the set, and every index below CPU_SETSIZE lies within it.
        unsafe { libc::CPU_SET(usize::from(cpu), &mut set) };
    }
    // SAFETY: `set` is a live cpu_set_t of the size that is passed; 0 names the calling thread. A refusal changes nothing.
    let status = unsafe { libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &set) };
    if status == 0 { Ok(()) } else { Err(Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))) }
}

/// From now on every large piece of memory is of fresh pages, which are on the socket of whoever touches them first, and goes
/// back to the kernel when it is freed. Otherwise the C library keeps what was freed, wherever it is: tables of an instance that
/// starts where another one ended on the other socket would be far away.
pub fn place_large_memory_anew() {
    // SAFETY: mallopt takes any integers and is safe to call from any thread. It is the C library's own allocator that Rust uses.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
}

/// The socket of a CPU; none if the machine lacks the CPU or tells no topology.
pub fn socket(cpu: u16) -> Option<SocketId> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("node")?.parse().ok().map(SocketId)
    })
}

/// Hugepages that are free now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hugepages {
    /// Over all page sizes and sockets.
    pub free_mib: u64,
    /// Pages of the default size, free or not: what `/proc/sys/vm/nr_hugepages` says.
    pub default_pages: u64,
    /// The default size.
    pub default_page_kib: u64,
}

impl Hugepages {
    pub(crate) fn read() -> Self {
        let free_kib = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name();
            let page_kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(page_kib * read_number(&entry.path().join("free_hugepages"))?)
        });
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            free_mib: free_kib.sum::<u64>() / 1024,
            default_pages: read_number(Path::new("/proc/sys/vm/nr_hugepages")).unwrap_or(0),
            default_page_kib: default_page_kib(&meminfo).unwrap_or(2048),
        }
    }

    /// The number of pages of the default size with which `needed_mib` would be free.
    pub(crate) fn pages_for(&self, needed_mib: u64) -> u64 {
        let missing_kib = needed_mib.saturating_sub(self.free_mib) * 1024;
        self.default_pages + missing_kib.div_ceil(self.default_page_kib)
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn default_page_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    line.split_whitespace().next()?.parse().ok().filter(|&kib| kib > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_on_a_cpu_leaves_the_thread_where_it_was() {
        let before = allowed();
        let Some(&cpu) = before.last() else { return };
        assert_eq!(run_on(cpu, allowed), BTreeSet::from([cpu]));
        assert_eq!(allowed(), before);
        assert_eq!(run_on(u16::MAX, allowed), before, "an impossible CPU is no reason not to work");
    }

    #[test]
    fn a_thread_stays_on_the_cpu_that_it_is_moved_to_and_is_told_where_it_cannot_go() {
        let there = std::thread::spawn(|| {
            let Some(&cpu) = allowed().last() else { return };
            assert_eq!(stay_on(cpu), Ok(()));
            assert_eq!(allowed(), BTreeSet::from([cpu]));
            assert_eq!(stay_on(u16::MAX).map_err(|error| error.cpu), Err(u16::MAX));
            assert_eq!(allowed(), BTreeSet::from([cpu]), "a refusal changes nothing");
        });
        there.join().unwrap();
    }

    #[test]
    fn this_thread_runs_on_a_cpu_that_exists_and_is_allowed() {
        let allowed = allowed();
        assert!(!allowed.is_empty());
        assert!(allowed.iter().all(|&cpu| exists(cpu)));
        assert!(!exists(u16::MAX));
    }

    #[test]
    fn the_remedy_counts_pages_that_are_already_there() {
        let pages = Hugepages { free_mib: 100, default_pages: 60, default_page_kib: 2048 };
        assert_eq!(pages.pages_for(256), 60 + 78);
        assert_eq!(pages.pages_for(100), 60);
    }

    #[test]
    fn the_default_page_size_is_read_in_kib() {
        assert_eq!(default_page_kib("MemTotal: 1 kB\nHugepagesize:       2048 kB\n"), Some(2048));
        assert_eq!(default_page_kib("MemTotal: 1 kB\n"), None);
    }
}
