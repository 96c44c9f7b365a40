//! The kernel's network interface behind a virtual device: net_tap, net_af_packet, net_af_xdp.
//!
//! Off the packet's path: looked at when a device is opened and when it becomes a port. Everything happens in the
//! calling thread's network namespace, as in the drivers. Source: `netdevice(7)`, `packet(7)`.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Errno;

/// True if there is an interface of this name.
pub(crate) fn exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name is a live C string that the call only reads.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// Sets the MTU of the interface with this number.
pub(crate) fn set_mtu(index: u32, mtu: u16) -> Result<(), Errno> {
    // SAFETY: ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name: *mut c_char = request.ifr_name.as_mut_ptr();
    // SAFETY: the name's buffer has the size that the call asks for, IF_NAMESIZE.
    if unsafe { libc::if_indextoname(index, name) }.is_null() {
        return Err(last_error());
    }
    request.ifr_ifru.ifru_mtu = c_int::from(mtu);
    // SAFETY: socket takes integers only; the descriptor that it returns is new and owned by nobody else.
    let socket = unsafe {
        let raw = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if raw < 0 {
            return Err(last_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    // SAFETY: SIOCSIFMTU reads the name and the MTU of the request, which is live and holds both.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw mut request) };
    if status == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The size of a frame's slot in net_af_packet's rings unless its arguments say otherwise (`framesz`).
pub(crate) const AF_PACKET_SLOT_BYTES: u32 = 2_048;

/// What the slot must hold for this MTU: a header of the kernel's (66 bytes, padding included, in front of a frame),
/// Ethernet's header and a VLAN tag. The kernel cuts a longer frame off.
pub(crate) const fn af_packet_slot_for(mtu: u16) -> u32 {
    mtu as u32 + 66 + 14 + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_exists_and_a_number_without_interface_has_no_mtu() {
        assert!(exists("lo") && !exists("nowhere9") && !exists("lo\0"));
        assert_eq!(set_mtu(u32::MAX, 1_500), Err(Errno(libc::ENXIO)));
    }
}
