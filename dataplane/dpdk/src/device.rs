//! [`Device`]: a NIC or virtual device that EAL has opened and no port uses yet.
//!
//! Off the packet's path: at launch, each device is opened by name, becomes a [`crate::Port`], and is closed and
//! removed when that is dropped. DPDK tells little about why a device can't be opened, so the usual causes are looked
//! for first: an interface or file that doesn't exist, a NIC that is still bound to the kernel's driver.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, fs, mem};

use crate::log::{self, Detail};
use crate::ring::RingStore;
use crate::{Eal, Errno, RingError, interface};

/// A device that can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A name that DPDK can't take.
    #[error(
        "device {device:?} must be a PCI address or a driver's name with a number and arguments, such as net_tap0,iface=x"
    )]
    Name {
        /// What was given.
        device: String,
    },
    /// The device is a port already.
    #[error("device {device} is open already; a device makes one port")]
    AlreadyOpen {
        /// The device.
        device: String,
    },
    /// The kernel's interface that the device is about doesn't exist.
    #[error(
        "device {device}: there is no network interface {interface} here (see `ip link`, in this network namespace)"
    )]
    NoSuchInterface {
        /// The device.
        device: String,
        /// The interface.
        interface: String,
    },
    /// The file that the device reads doesn't exist.
    #[error("device {device}: there is no file {}", .file.display())]
    NoSuchFile {
        /// The device.
        device: String,
        /// The file.
        file: PathBuf,
    },
    /// EAL was started without PCI.
    #[error("device {device} is a NIC, but EAL may not touch the PCI bus; name it in EAL's list of PCI addresses")]
    PciNotAllowed {
        /// The device.
        device: String,
    },
    /// The machine has no such NIC.
    #[error("there is no PCI device {device} in this machine (see `dpdk-devbind.py --status`)")]
    NoSuchPci {
        /// The device.
        device: String,
    },
    /// The NIC is not bound to a driver that hands it to user space.
    #[error(
        "PCI device {device} is bound to {}, not to vfio-pci; bind it: `dpdk-devbind.py --bind=vfio-pci {device}`",
        .driver.as_deref().unwrap_or("no driver")
    )]
    PciNotBound {
        /// The device.
        device: String,
        /// The kernel's driver that has it.
        driver: Option<String>,
    },
    /// The driver made a device, but no port of it.
    #[error("device {device} was opened but has no Ethernet port; is it a NIC?{detail}")]
    NoPort {
        /// The device.
        device: String,
        /// What DPDK logged.
        detail: Detail,
    },
    /// Anything else.
    #[error("device {device} can't be opened: {errno}{detail}")]
    Probe {
        /// The device, with its arguments.
        device: String,
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        detail: Detail,
    },
    /// One of the rings of a ring port can't be made.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// The DPDK port numbers that a [`Device`] owns. Held while a device is opened or removed, which DPDK does one at a
/// time.
static OPEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn open() -> MutexGuard<'static, BTreeSet<u16>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open device. Dropping it closes and removes it.
pub struct Device {
    port: u16,
    name: String,
    /// What it was opened with, its name included.
    arguments: String,
    /// The rings that a ring port reads and writes; they must outlive it.
    _rings: Vec<Arc<RingStore>>,
}

impl Eal {
    /// Opens a device: a PCI address (`0000:21:00.0`), or a virtual device with its arguments (`net_tap0,iface=tow0`).
    pub fn open_device(&self, device: &str) -> Result<Device, DeviceError> {
        let name = device.split(',').next().unwrap_or_default();
        let pci = pci_address(name);
        let name = pci.clone().unwrap_or_else(|| name.to_owned());
        let c_device = CString::new(device).ok().filter(|_| is_name(&name));
        let c_device = c_device.ok_or_else(|| DeviceError::Name { device: device.to_owned() })?;
        let mut open = open();
        if let Some(port) = port_by_name(&name) {
            // EAL opened it at its start.
            return Device::register(&mut open, port, name, device, Vec::new());
        }
        match &pci {
            Some(address) => check_pci(self, address)?,
            None => check_arguments(device)?,
        }
        let (status, detail) = log::during(|| {
            // SAFETY: EAL is initialised, the string is live and copied, and OPEN is held, so nobody else opens or
            // removes.
            unsafe { dpdk_sys::rte_dev_probe(c_device.as_ptr()) }
        });
        if status < 0 {
            return Err(DeviceError::Probe { device: device.to_owned(), errno: Errno::returned(status), detail });
        }
        match port_by_name(&name) {
            Some(port) => Device::register(&mut open, port, name, device, Vec::new()),
            None => Err(DeviceError::NoPort { device: name, detail }),
        }
    }
}

impl Device {
    /// The device that has the port `port_by_name` finds for `name`, made by `make` over `rings`.
    pub(crate) fn made(
        name: &str,
        rings: Vec<Arc<RingStore>>,
        make: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<Self, DeviceError> {
        let mut open = open();
        if port_by_name(name).is_some() {
            return Err(DeviceError::AlreadyOpen { device: name.to_owned() });
        }
        let (status, detail) = log::during(make);
        if let Err(errno) = status {
            return Err(DeviceError::Probe { device: name.to_owned(), errno, detail });
        }
        match port_by_name(name) {
            Some(port) => Self::register(&mut open, port, name.to_owned(), name, rings),
            None => Err(DeviceError::NoPort { device: name.to_owned(), detail }),
        }
    }

    fn register(
        open: &mut BTreeSet<u16>,
        port: u16,
        name: String,
        arguments: &str,
        rings: Vec<Arc<RingStore>>,
    ) -> Result<Self, DeviceError> {
        if !open.insert(port) {
            return Err(DeviceError::AlreadyOpen { device: name });
        }
        Ok(Self { port, name, arguments: arguments.to_owned(), _rings: rings })
    }

    /// Its name, without arguments.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of an argument that it was opened with.
    pub(crate) fn argument(&self, key: &str) -> Option<&str> {
        let pairs = self.arguments.split(',').filter_map(|word| word.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next_back()
    }

    /// DPDK's number for its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What DPDK tells of the device.
    pub(crate) fn info(&self) -> Result<dpdk_sys::rte_eth_dev_info, Errno> {
        // SAFETY: rte_eth_dev_info is plain data, for which zeros are valid.
        let mut info: dpdk_sys::rte_eth_dev_info = unsafe { mem::zeroed() };
        // SAFETY: the port is open as long as this device lives, and `info` is a live struct that the call fills.
        let status = unsafe { dpdk_sys::rte_eth_dev_info_get(self.port, &mut info) };
        if status == 0 { Ok(info) } else { Err(Errno::returned(status)) }
    }

    /// The driver's name.
    pub(crate) fn driver(info: &dpdk_sys::rte_eth_dev_info) -> String {
        if info.driver_name.is_null() {
            return "unknown".to_owned();
        }
        // SAFETY: the driver's name is a C string in its shared library, which stays loaded.
        unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut open = open();
        let device = self.info().map(|info| info.device);
        let ((), _detail) = log::during(|| {
            // SAFETY: the port is open and stopped (a `Port` stops before it drops its device), no queue of it is left,
            // and OPEN is held. Closing frees the mbufs that the device holds.
            unsafe { dpdk_sys::rte_eth_dev_close(self.port) };
            if let Ok(device) = device
                && !device.is_null()
            {
                // SAFETY: the bus still has the device: only this value, which is being dropped, removes it. A failure
                // leaves it there, closed, which harms nobody.
                unsafe { dpdk_sys::rte_dev_remove(device) };
            }
        });
        open.remove(&self.port);
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).field("port", &self.port).finish()
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() < dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize
}

fn port_by_name(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut port = 0;
    // SAFETY: EAL is initialised (callers hold an `Eal` or a device), the name is live, and `port` is written on
    // success only.
    (unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) } == 0).then_some(port)
}

/// The full form of a PCI address, `0000:21:00.0`; none if the text is not one.
pub(crate) fn pci_address(text: &str) -> Option<String> {
    let hex = |digits: &str, count: usize| digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let (domain, [bus, slot, function]) = match parts[..] {
        [domain, bus, slot, function] => (domain, [bus, slot, function]),
        [bus, slot, function] => ("0000", [bus, slot, function]),
        _ => return None,
    };
    let address = format!("{domain}:{bus}:{slot}.{function}").to_ascii_lowercase();
    let well_formed = hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && hex(function, 1);
    (well_formed && address.ends_with(&text.to_ascii_lowercase())).then_some(address)
}

/// Drivers that hand a NIC to DPDK; Mellanox's shares it.
const USER_SPACE_DRIVERS: [&str; 5] = ["vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core"];

fn check_pci(eal: &Eal, address: &str) -> Result<(), DeviceError> {
    let device = address.to_owned();
    let path = Path::new("/sys/bus/pci/devices").join(address);
    if !path.exists() {
        return Err(DeviceError::NoSuchPci { device });
    }
    if !eal.has_pci() {
        return Err(DeviceError::PciNotAllowed { device });
    }
    let driver = fs::read_link(path.join("driver")).ok();
    let driver = driver.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    match driver.as_deref() {
        Some(name) if USER_SPACE_DRIVERS.contains(&name) => Ok(()),
        _ => Err(DeviceError::PciNotBound { device, driver }),
    }
}

/// Looks for the interfaces and files that a virtual device's arguments name.
fn check_arguments(device: &str) -> Result<(), DeviceError> {
    let mut words = device.split(',');
    let name = words.next().unwrap_or_default().to_owned();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let opens_interface = match key {
            "iface" => {
                name.starts_with("net_af_packet") || name.starts_with("net_af_xdp") || name.starts_with("net_pcap")
            }
            "rx_iface" | "rx_iface_in" | "tx_iface" | "remote" => true,
            _ => false,
        };
        if opens_interface && !interface::exists(value) {
            return Err(DeviceError::NoSuchInterface { device: name, interface: value.to_owned() });
        }
        if key == "rx_pcap" && !Path::new(value).exists() {
            return Err(DeviceError::NoSuchFile { device: name, file: value.into() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_is_completed_and_nothing_else_is_taken_for_one() {
        assert_eq!(pci_address("0000:21:00.0").as_deref(), Some("0000:21:00.0"));
        assert_eq!(pci_address("AF:00.1").as_deref(), Some("0000:af:00.1"));
        for other in ["net_tap0", "eth0", "0000:21:00", "21.00:0", "0000.21.00.0", "x000:21:00.0", ""] {
            assert_eq!(pci_address(other), None, "{other}");
        }
    }

    #[test]
    fn an_interface_or_file_that_does_not_exist_is_named() {
        let missing = |device: &str| check_arguments(device).expect_err("does not exist").to_string();
        assert!(missing("net_af_packet0,iface=nowhere9").contains("nowhere9"));
        assert!(missing("net_pcap0,rx_pcap=/no/such.pcap").contains("/no/such.pcap"));
        assert_eq!(check_arguments("net_tap0,iface=made-by-us"), Ok(()));
        assert_eq!(check_arguments("net_af_packet0,iface=lo"), Ok(()));
    }
}
