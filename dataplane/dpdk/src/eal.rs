//! [`Eal`]: DPDK's environment layer, initialised once in a process.
//!
//! Off the packet's path: the first thing the dataplane does. What EAL would only log, or would accept and fail at
//! later, is checked before it starts, so that each cause has an error of its own: CPUs that don't exist or are not
//! allowed, too few hugepages, a second initialisation.
//!
//! The calling thread becomes lcore 0, the control thread; the other lcores wait for [`Eal::launch`]. Threads started
//! later from it inherit its CPUs. EAL leaves nothing behind in the file system, and probes no device that was not
//! named. Units: MiB. Source: DPDK 22.11, "EAL parameters".

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::{self, Hugepages, SocketId};
use crate::log::{self, Detail, LogLevel};
use crate::{Errno, device};

/// A lcore and the CPU that it is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LcoreBinding {
    /// The lcore's number, 1 or more; 0 is the control thread.
    pub lcore: u32,
    /// The CPU, as the kernel numbers it. Several lcores may share one.
    pub cpu: u16,
}

/// What EAL is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalConfig {
    /// The program's name, in logs.
    pub program: String,
    /// Memory for mempools and rings. With hugepages EAL takes more while it lasts; without, this is all.
    pub memory_mib: u32,
    /// True needs hugepages; false uses ordinary pages, which is slower and rules out most NICs.
    pub hugepages: bool,
    /// The lcores that packets are handled on.
    pub lcores: Vec<LcoreBinding>,
    /// The CPUs on which the control thread floats; empty for all that the process may use.
    pub control_cpus: Vec<u16>,
    /// Virtual devices to make at once; [`Eal::open_device`] makes others later.
    pub vdevs: Vec<String>,
    /// PCI addresses of the NICs that EAL may touch. None: EAL leaves the PCI bus alone.
    pub pci_allow: Vec<String>,
    /// Tells several DPDK processes of a host apart.
    pub file_prefix: String,
    /// How much of the logs goes to standard error.
    pub log: LogLevel,
    /// Further EAL arguments, passed on as they are.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            program: "towpath".to_owned(),
            memory_mib: 256,
            hugepages: true,
            lcores: Vec::new(),
            control_cpus: Vec::new(),
            vdevs: Vec::new(),
            pci_allow: Vec::new(),
            file_prefix: "towpath".to_owned(),
            log: LogLevel::default(),
            extra: Vec::new(),
        }
    }
}

/// EAL that can't start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EalError {
    /// DPDK can be initialised once in a process, even after a failure.
    #[error("EAL was already initialised in this process, and can't be again; start a new process")]
    AlreadyInitialised,
    /// The machine has no such CPU.
    #[error("lcore {lcore} is bound to CPU {cpu}, which this machine does not have; usable CPUs: {}", list(.allowed))]
    NoSuchCpu {
        /// The lcore.
        lcore: u32,
        /// The CPU.
        cpu: u16,
        /// The CPUs that would do.
        allowed: Vec<u16>,
    },
    /// The process may not use the CPU.
    #[error(
        "lcore {lcore} is bound to CPU {cpu}, which this process may not use (taskset, cgroup or container); usable CPUs: {}",
        list(.allowed)
    )]
    CpuNotAllowed {
        /// The lcore.
        lcore: u32,
        /// The CPU.
        cpu: u16,
        /// The CPUs that would do.
        allowed: Vec<u16>,
    },
    /// The lcore's number is 0, or too large for DPDK.
    #[error("lcore {lcore} is outside 1..={max}; 0 is the control thread")]
    LcoreOutOfRange {
        /// The lcore.
        lcore: u32,
        /// The largest number.
        max: u32,
    },
    /// Two bindings of the same lcore.
    #[error("lcore {lcore} is bound twice; give each lcore one CPU")]
    LcoreTwice {
        /// The lcore.
        lcore: u32,
    },
    /// Hugepages were asked for and there are too few.
    #[error(
        "{needed_mib} MiB of free hugepages are needed and {free_mib} MiB are there; reserve them: \
         `echo {pages} > /proc/sys/vm/nr_hugepages`, or go on without: `hugepages: false` (slower)"
    )]
    NoHugepages {
        /// What was asked for.
        needed_mib: u32,
        /// What is free.
        free_mib: u64,
        /// The number of pages to reserve.
        pages: u64,
    },
    /// Not a PCI address.
    #[error("{address:?} is not a PCI address such as 0000:21:00.0 (see `dpdk-devbind.py --status`)")]
    PciAddress {
        /// What was given.
        address: String,
    },
    /// An argument with a NUL byte.
    #[error("EAL argument {argument:?} has a NUL byte")]
    Argument {
        /// The argument.
        argument: String,
    },
    /// The stream for EAL's log can't be made.
    #[error("EAL's log can't be redirected: {errno}")]
    Log {
        /// Why.
        errno: Errno,
    },
    /// Anything else.
    #[error("EAL can't start: {errno}{detail}")]
    Init {
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        detail: Detail,
    },
}

fn list(cpus: &[u16]) -> String {
    cpus.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// The largest lcore number.
const LCORE_MAX: u32 = dpdk_sys::RTE_MAX_LCORE - 1;

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Proof that EAL runs; whatever needs it is made from it.
///
/// EAL runs until the process ends, also when this is dropped: mbufs and mempools may be anywhere, and
/// `rte_eal_cleanup` would take their memory away. Devices are closed when their ports go, and the kernel takes back
/// the rest, since nothing is in files.
#[derive(Debug)]
pub struct Eal {
    lcores: Vec<LcoreBinding>,
    pci: bool,
    allowed: BTreeSet<u16>,
}

impl Eal {
    /// Checks the configuration and starts EAL in it.
    pub fn init(config: EalConfig) -> Result<Self, EalError> {
        if INITIALISED.load(Ordering::Acquire) {
            return Err(EalError::AlreadyInitialised);
        }
        let allowed = cpu::allowed();
        check_cpus(&config, &allowed)?;
        check_hugepages(&config)?;
        let arguments = arguments(&config, &allowed)?;
        if INITIALISED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyInitialised);
        }
        log::take_over(config.log).map_err(|errno| EalError::Log { errno })?;
        let (status, detail) = log::during(|| start(arguments));
        status.map_err(|errno| EalError::Init { errno, detail })?;
        Ok(Self { lcores: config.lcores, pci: !config.pci_allow.is_empty(), allowed })
    }

    /// The lcores, as configured; the control thread is not among them.
    pub fn lcores(&self) -> &[LcoreBinding] {
        &self.lcores
    }

    /// Whether a lcore may be moved to this CPU: one that the process could use when EAL started.
    pub fn check_cpu(&self, lcore: u32, cpu: u16) -> Result<(), EalError> {
        check_cpu(LcoreBinding { lcore, cpu }, &self.allowed)
    }

    /// The socket of a lcore's CPU.
    pub fn lcore_socket(&self, lcore: u32) -> Option<SocketId> {
        self.lcores.iter().find(|binding| binding.lcore == lcore).and_then(|binding| cpu::socket(binding.cpu))
    }

    /// True if EAL may touch PCI devices.
    pub(crate) fn has_pci(&self) -> bool {
        self.pci
    }
}

fn check_cpus(config: &EalConfig, allowed: &BTreeSet<u16>) -> Result<(), EalError> {
    let mut seen = BTreeSet::new();
    for &LcoreBinding { lcore, .. } in &config.lcores {
        if !(1..=LCORE_MAX).contains(&lcore) {
            return Err(EalError::LcoreOutOfRange { lcore, max: LCORE_MAX });
        }
        if !seen.insert(lcore) {
            return Err(EalError::LcoreTwice { lcore });
        }
    }
    let control = config.control_cpus.iter().map(|&cpu| LcoreBinding { lcore: 0, cpu });
    control.chain(config.lcores.iter().copied()).try_for_each(|binding| check_cpu(binding, allowed))
}

fn check_cpu(LcoreBinding { lcore, cpu }: LcoreBinding, allowed: &BTreeSet<u16>) -> Result<(), EalError> {
    if allowed.contains(&cpu) {
        return Ok(());
    }
    let allowed = allowed.iter().copied().collect();
    Err(if cpu::exists(cpu) {
        EalError::CpuNotAllowed { lcore, cpu, allowed }
    } else {
        EalError::NoSuchCpu { lcore, cpu, allowed }
    })
}

fn check_hugepages(config: &EalConfig) -> Result<(), EalError> {
    let pages = Hugepages::read();
    let needed_mib = config.memory_mib;
    if config.hugepages && pages.free_mib < u64::from(needed_mib) {
        let count = pages.pages_for(u64::from(needed_mib));
        return Err(EalError::NoHugepages { needed_mib, free_mib: pages.free_mib, pages: count });
    }
    Ok(())
}

/// EAL's command line.
fn arguments(config: &EalConfig, allowed: &BTreeSet<u16>) -> Result<Vec<CString>, EalError> {
    let mut words = vec![config.program.clone(), "--no-telemetry".to_owned()];
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("--file-prefix", config.file_prefix.clone());
    option("-m", config.memory_mib.to_string());
    option("--lcores", lcore_map(config, allowed));
    option("--main-lcore", "0".to_owned());
    for address in &config.pci_allow {
        let address = device::pci_address(address).ok_or_else(|| EalError::PciAddress { address: address.clone() })?;
        option("-a", address);
    }
    words.extend(config.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
    // Both leave nothing in the file system; EAL takes --in-memory only together with hugepages.
    let memory: &[&str] = if config.hugepages { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
    words.extend(memory.iter().map(|&word| word.to_owned()));
    if config.pci_allow.is_empty() {
        // Without PCI no device needs physical addresses.
        words.extend(["--no-pci".to_owned(), "--iova-mode=va".to_owned()]);
    }
    words.extend(config.extra.iter().cloned());
    words
        .into_iter()
        .map(|word| CString::new(word.as_str()).map_err(|_| EalError::Argument { argument: word }))
        .collect()
}

/// `0@(0,1),1@0,2@1`: the control thread on its CPUs, then each lcore on its own.
fn lcore_map(config: &EalConfig, allowed: &BTreeSet<u16>) -> String {
    let control: Vec<u16> =
        if config.control_cpus.is_empty() { allowed.iter().copied().collect() } else { config.control_cpus.clone() };
    let control: Vec<String> = control.iter().map(u16::to_string).collect();
    let mut map = format!("0@({})", control.join(","));
    for LcoreBinding { lcore, cpu } in &config.lcores {
        map.push_str(&format!(",{lcore}@{cpu}"));
    }
    map
}

/// Hands the command line over to EAL.
fn start(arguments: Vec<CString>) -> Result<(), Errno> {
    // EAL may keep and reorder the words, so they are leaked; they are few, and EAL starts once.
    let mut words: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let count = words.len() as c_int;
    words.push(std::ptr::null_mut());
    let words = words.leak();
    // SAFETY: `words` is a null-ended array of `count` writable C strings that live as long as the process, as main()'s
    // would. INITIALISED lets one call happen.
    let status = unsafe { dpdk_sys::rte_eal_init(count, words.as_mut_ptr()) };
    let errno = Errno::last();
    remove_runtime_directory();
    if status < 0 { Err(errno) } else { Ok(()) }
}

/// Removes the directory that EAL makes for the files that it was told not to make.
fn remove_runtime_directory() {
    // SAFETY: the function takes nothing and returns a C string in a static buffer that EAL wrote at its start, empty
    // if it failed before; it is copied at once.
    let path = unsafe { CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
    if let Ok(path) = path.to_str()
        && !path.is_empty()
    {
        // Another process with the same prefix may have removed it, or keep files in it; then it is not ours to remove.
        let _ = fs::remove_dir(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(config: &EalConfig) -> Vec<String> {
        let allowed = BTreeSet::from([0, 1]);
        arguments(config, &allowed).expect("valid").into_iter().map(|word| word.into_string().expect("UTF-8")).collect()
    }

    #[test]
    fn lcores_are_pinned_and_the_control_thread_floats() {
        let lcores = vec![LcoreBinding { lcore: 1, cpu: 0 }, LcoreBinding { lcore: 2, cpu: 1 }];
        let config = EalConfig { lcores, ..EalConfig::default() };
        assert_eq!(lcore_map(&config, &BTreeSet::from([0, 1])), "0@(0,1),1@0,2@1");
        let pinned = EalConfig { control_cpus: vec![1], ..config };
        assert_eq!(lcore_map(&pinned, &BTreeSet::from([0, 1])), "0@(1),1@0,2@1");
    }

    #[test]
    fn the_pci_bus_is_left_alone_unless_a_nic_is_named() {
        let without = words(&EalConfig::default());
        assert!(without.contains(&"--no-pci".to_owned()) && without.contains(&"--in-memory".to_owned()));
        let with = words(&EalConfig { pci_allow: vec!["21:00.0".to_owned()], ..EalConfig::default() });
        assert!(!with.contains(&"--no-pci".to_owned()));
        assert!(with.windows(2).any(|pair| pair == ["-a", "0000:21:00.0"]));
        let wrong = EalConfig { pci_allow: vec!["eth0".to_owned()], ..EalConfig::default() };
        assert_eq!(arguments(&wrong, &BTreeSet::new()), Err(EalError::PciAddress { address: "eth0".to_owned() }));
    }

    #[test]
    fn lcore_0_and_doubled_lcores_are_refused() {
        let with = |lcores| EalConfig { lcores, ..EalConfig::default() };
        let allowed = BTreeSet::from([0]);
        let zero = with(vec![LcoreBinding { lcore: 0, cpu: 0 }]);
        assert!(matches!(check_cpus(&zero, &allowed), Err(EalError::LcoreOutOfRange { lcore: 0, .. })));
        let twice = with(vec![LcoreBinding { lcore: 1, cpu: 0 }; 2]);
        assert_eq!(check_cpus(&twice, &allowed), Err(EalError::LcoreTwice { lcore: 1 }));
    }

    #[test]
    fn a_cpu_that_exists_but_is_not_allowed_is_told_from_one_that_does_not_exist() {
        let with = |cpu| EalConfig { lcores: vec![LcoreBinding { lcore: 1, cpu }], ..EalConfig::default() };
        let nothing = BTreeSet::new();
        assert!(matches!(check_cpus(&with(0), &nothing), Err(EalError::CpuNotAllowed { lcore: 1, cpu: 0, .. })));
        assert!(matches!(check_cpus(&with(9_999), &nothing), Err(EalError::NoSuchCpu { lcore: 1, cpu: 9_999, .. })));
    }
}
