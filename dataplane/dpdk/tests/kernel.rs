//! Ports whose other end is the kernel's: TAP, and AF_PACKET over a veth pair. Each test is a process of its own in a
//! network namespace of its own, which goes with it. They need root, and say so where they don't have it.

mod own_process;

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use dpdk::{Burst, Eal, Mempool, MempoolConfig, Port, PortConfig, PortError, RxQueue, TxQueue, clock};

/// IEEE's EtherType for local experiments, which the kernel itself never sends.
const EXPERIMENT: u16 = 0x88b5;
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the test in its own process and network namespace, if this is root.
fn as_root(name: &str, body: impl FnOnce()) {
    // SAFETY: geteuid has no arguments and can't fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("{name}: not run, it makes network devices and so needs root");
        return;
    }
    own_process::run(name, || {
        // SAFETY: unshare takes flags only; this thread, and those it starts from here on, get a namespace of their
        // own.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
        body();
    });
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// The kernel's side of a link: whole frames of [`EXPERIMENT`].
struct KernelEnd {
    socket: OwnedFd,
}

impl KernelEnd {
    fn new(interface: &str) -> Self {
        let name = CString::new(interface).expect("no NUL");
        // SAFETY: socket takes integers only; the descriptor it returns is new and owned by nobody else.
        let socket = unsafe {
            let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(EXPERIMENT.to_be()));
            assert!(raw >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(raw)
        };
        let timeout = libc::timeval { tv_sec: 10, tv_usec: 0 };
        // SAFETY: zeros are valid for sockaddr_ll; both structs are live and passed with their sizes.
        unsafe {
            let mut address: libc::sockaddr_ll = mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = EXPERIMENT.to_be();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let size = mem::size_of_val(&address) as u32;
            assert_eq!(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size), 0, "{interface}");
            let (level, option, size) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO, mem::size_of_val(&timeout) as u32);
            libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const timeout).cast(), size);
        }
        Self { socket }
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: the frame is live and passed with its length.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 16_384];
        // SAFETY: the buffer is live and passed with its length.
        let length = unsafe { libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(usize::try_from(length).expect("a frame within the time limit"));
        frame
    }
}

/// A broadcast frame of [`EXPERIMENT`] with a payload that tells it from others.
fn frame(number: u8, length: usize) -> Vec<u8> {
    let header = [[0xff; 6], [0x02, 0, 0, 0, 0, number]].concat();
    let payload = (0..length - 14).map(|index| (index as u8).wrapping_mul(number | 1));
    header.into_iter().chain(EXPERIMENT.to_be_bytes()).chain(payload).collect()
}

/// The next frames of [`EXPERIMENT`] that the port receives.
fn receive(rx: &mut RxQueue, count: usize) -> Vec<Vec<u8>> {
    let (mut burst, mut seen, start) = (Burst::new(), Vec::new(), Instant::now());
    while seen.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count} frames came", seen.len());
        if rx.rx(&mut burst) == 0 {
            clock::yield_now();
        }
        let ours =
            |mbuf: dpdk::Mbuf| Some(mbuf.data().to_vec()).filter(|data| data[12..14] == EXPERIMENT.to_be_bytes());
        seen.extend(burst.drain().filter_map(ours));
    }
    seen
}

fn send(tx: &mut TxQueue, pool: &Mempool, frames: &[Vec<u8>]) {
    let (mut burst, start) = (Burst::new(), Instant::now());
    for frame in frames {
        burst.push(pool.alloc_from(frame).expect("the mempool is large enough")).expect("room");
        while !burst.is_empty() {
            assert!(start.elapsed() < PATIENCE, "{} frames wait", burst.len());
            tx.tx(&mut burst);
        }
    }
}

/// Sends frames of all lengths both ways and compares them.
fn round_trip(rx: &mut RxQueue, tx: &mut TxQueue, pool: &Mempool, kernel: &KernelEnd, longest: usize) {
    let frames: Vec<Vec<u8>> =
        (0..30).map(|number| frame(number, 60 + usize::from(number) * (longest - 60) / 29)).collect();
    frames.iter().for_each(|frame| kernel.send(frame));
    assert_eq!(receive(rx, frames.len()), frames);
    send(tx, pool, &frames);
    frames.iter().for_each(|frame| assert_eq!(kernel.receive(), *frame));
}

fn one_queue(eal: &Eal, device: &str, config: &PortConfig) -> (Port, RxQueue, TxQueue) {
    let device = eal.open_device(device).expect("the device can be opened");
    let (port, mut rx, mut tx) = Port::configure(device, config).expect("the device becomes a port");
    (port, rx.remove(0), tx.remove(0))
}

fn wait_for_link(port: &Port) {
    let start = Instant::now();
    while !port.link_up() {
        assert!(start.elapsed() < PATIENCE, "the link stays down");
        clock::yield_now();
    }
}

#[test]
fn a_tap_port_passes_frames_both_ways_and_goes_with_its_queues() {
    as_root("a_tap_port_passes_frames_both_ways_and_goes_with_its_queues", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool(&eal, 2_047);
        let (port, mut rx, mut tx) = one_queue(&eal, "net_tap0,iface=tow0", &PortConfig::new(pool.clone()));
        ip("link set tow0 up");
        wait_for_link(&port);
        round_trip(&mut rx, &mut tx, &pool, &KernelEnd::new("tow0"), 1_514);
        drop((port, tx));
        ip("link show tow0");
        drop(rx);
        let underlay = PortConfig { mtu: 1_550, ..PortConfig::new(pool.clone()) };
        let again = eal.open_device("net_tap0,iface=tow0").expect("closed again");
        let error = Port::configure(again, &underlay).expect_err("the driver transmits no larger frames");
        assert!(matches!(error, PortError::Mtu { mtu: 1_550, .. }), "{error}");
        assert!(!Command::new("ip").args(["link", "show", "tow0"]).status().expect("iproute2").success());
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn an_af_packet_port_passes_frames_both_ways() {
    as_root("an_af_packet_port_passes_frames_both_ways", || {
        ip("link add left type veth peer name right");
        ip("link set left up");
        ip("link set right up");
        let eal = own_process::eal(0);
        let pool = own_process::pool(&eal, 2_047);
        // 50 bytes more, as an underlay for VXLAN needs.
        ip("link set right mtu 1550");
        let underlay = PortConfig { mtu: 1_550, ..PortConfig::new(pool.clone()) };
        let (port, mut rx, mut tx) = one_queue(&eal, "net_af_packet0,iface=left", &underlay);
        wait_for_link(&port);
        round_trip(&mut rx, &mut tx, &pool, &KernelEnd::new("right"), 1_564);
        assert!(port.stats().rx_packets >= 30 && port.stats().tx_packets >= 30, "{:?}", port.stats());
        drop((port, rx, tx));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn an_af_packet_port_takes_jumbo_frames_with_larger_blocks() {
    as_root("an_af_packet_port_takes_jumbo_frames_with_larger_blocks", || {
        ip("link add left type veth peer name right mtu 9000");
        ip("link set left up");
        ip("link set right up");
        let eal = own_process::eal(0);
        let config = MempoolConfig { count: 1_023, cache: 32, data_room: 9_728, ..MempoolConfig::default() };
        let pool = Mempool::new(&eal, &config).expect("memory");
        let jumbo = PortConfig { mtu: 9_000, ..PortConfig::new(pool.clone()) };
        let device = "net_af_packet0,iface=left,framesz=9216,blocksz=36864,framecnt=256";
        let (port, mut rx, mut tx) = one_queue(&eal, device, &jumbo);
        assert_eq!(port.mtu(), 9_000);
        round_trip(&mut rx, &mut tx, &pool, &KernelEnd::new("right"), 9_014);
        drop((port, rx, tx));
        let small = eal.open_device("net_af_packet0,iface=left").expect("closed again");
        let error = Port::configure(small, &jumbo).expect_err("a frame is 2 KiB");
        assert!(matches!(error, PortError::Slots { mtu: 9_000, slot: 2_048, .. }), "{error}");
        assert!(error.to_string().contains("framesz"), "{error}");
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn two_memif_ports_pass_frames_to_each_other() {
    as_root("two_memif_ports_pass_frames_to_each_other", || {
        let directory = tempfile::tempdir().expect("a place for the socket");
        let socket = directory.path().join("memif.sock");
        let eal = own_process::eal(0);
        let pool = own_process::pool(&eal, 4_095);
        let end = |number: u8, role: &str| {
            let device = format!("net_memif{number},role={role},id=0,socket={},socket-abstract=no", socket.display());
            one_queue(&eal, &device, &PortConfig::new(pool.clone()))
        };
        let (server, mut server_rx, mut server_tx) = end(0, "server");
        let (client, mut client_rx, mut client_tx) = end(1, "client");
        wait_for_link(&client);
        wait_for_link(&server);
        let frames: Vec<Vec<u8>> = (0..30).map(|number| frame(number, 60 + 50 * usize::from(number))).collect();
        send(&mut client_tx, &pool, &frames);
        assert_eq!(receive(&mut server_rx, frames.len()), frames);
        // The client lends the server the buffers that it writes to, whenever it receives.
        client_rx.rx(&mut Burst::new());
        send(&mut server_tx, &pool, &frames);
        assert_eq!(receive(&mut client_rx, frames.len()), frames);
        drop((server, server_rx, server_tx, client, client_rx, client_tx));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn an_af_xdp_port_passes_frames_both_ways() {
    as_root("an_af_xdp_port_passes_frames_both_ways", || {
        ip("link add left type veth peer name right");
        ip("link set left up");
        ip("link set right up");
        let eal = own_process::eal(0);
        let pool = own_process::pool(&eal, 16_383);
        let (port, mut rx, mut tx) = one_queue(&eal, "net_af_xdp0,iface=left", &PortConfig::new(pool.clone()));
        wait_for_link(&port);
        // The driver never gives back the mbufs of its fill ring, so the mempool is not looked at.
        round_trip(&mut rx, &mut tx, &pool, &KernelEnd::new("right"), 1_514);
    });
}
