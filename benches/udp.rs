//! A path over real UDP sockets: from this host, through whatever carries the packets, to an [`crate::echo`] server and back.
//!
//! This is how flow setup is measured across hosts. Latencies are round trips as an application sees them, this host's kernel
//! and the server included; those are in the established packet's latency too, and what setup adds is the difference.
//!
//! A flow is (source address, source port, target port): each source port opens one flow to every target port and is then
//! used up. Source ports begin at a random place and run through 1024..=65535 for each source address, so that a run almost
//! never meets a rule that an earlier run left behind. Sockets are opened as flows begin; the oldest are closed once there are
//! as many as the process may have open.
//!
//! Invariant: flow `f` belongs to socket `f / ports` (in the order of opening) and target port `f % ports`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::path::{Packet, Path, PathError, PathFacts, Received, Taken};
use crate::probe::{self, Probe};
use crate::report::Latency;
use crate::stalls;

/// Source ports below this are the system's.
const FIRST_SOURCE_PORT: u16 = 1_024;
const SOURCE_PORTS: u64 = 65_536 - FIRST_SOURCE_PORT as u64;
/// Sockets kept open at most.
const MAX_OPEN: u64 = 8_192;
/// File descriptors left to the rest of the process.
const SPARE_DESCRIPTORS: u64 = 64;
/// A wait shorter than this is spent polling: the kernel's wait counts in whole milliseconds.
const SHORTEST_WAIT_NS: u64 = 2_000_000;

/// Where and how to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpOptions {
    /// The echo server's first port.
    pub target: SocketAddr,
    /// How many ports it listens on.
    pub ports: u16,
    /// Addresses of this host to send from, of the target's family; none lets the kernel choose.
    pub sources: Vec<IpAddr>,
    /// How long to look for the server before giving up.
    pub patience: Duration,
}

/// A path that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The ports do not fit in behind the first.
    #[error("{ports} ports from {target} on do not exist: the target needs a port of 1 or more, and the last is 65535")]
    Ports {
        /// The first.
        target: SocketAddr,
        /// How many.
        ports: u16,
    },
    /// A source of the other family.
    #[error(
        "the source {source_address} and the target {target} are not of the same family: use IPv4 or IPv6 for both"
    )]
    Family {
        /// The source.
        source_address: IpAddr,
        /// The target.
        target: SocketAddr,
    },
    /// A source address that this host does not have.
    #[error(
        "cannot send from {source_address}: {source}; add it to an interface of this host (`ip addr add`) or leave --source out"
    )]
    Source {
        /// The source.
        source_address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No answer.
    #[error(
        "no answer from {silent} of the {ports} ports from {target} on within {patience:?}: start `towpath bench echo --listen {target} \
         --ports {ports}` there, and check that a chain carries this traffic (`towpath get flows`, `towpath get drops`)"
    )]
    Silent {
        /// The echo server.
        target: SocketAddr,
        /// How many ports were asked.
        ports: u16,
        /// How many did not answer.
        silent: usize,
        /// How long they had.
        patience: Duration,
    },
    /// Anything else.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The client's side of the path.
#[derive(Debug)]
pub struct UdpPath {
    options: UdpOptions,
    origin: Instant,
    session: u64,
    /// Where the walk through the source ports began.
    first_port: u64,
    /// Source ports tried so far, over all source addresses.
    tried: u64,
    /// The number of the oldest open socket.
    oldest: u64,
    open: VecDeque<UdpSocket>,
    max_open: u64,
    poll: Poll,
    events: Events,
}

impl UdpPath {
    /// Opens the path and makes sure that every port of the server answers.
    pub fn open(mut options: UdpOptions) -> Result<Self, UdpError> {
        let target = options.target;
        let last = target.port().checked_add(options.ports.saturating_sub(1));
        if target.port() == 0 || options.ports == 0 || last.is_none() {
            return Err(UdpError::Ports { target, ports: options.ports });
        }
        if options.sources.is_empty() {
            options.sources.push(unspecified(target.ip()));
        }
        for &source_address in &options.sources {
            if source_address.is_ipv4() != target.is_ipv4() {
                return Err(UdpError::Family { source_address, target });
            }
            std::net::UdpSocket::bind((source_address, 0))
                .map_err(|source| UdpError::Source { source_address, source })?;
        }
        let max_open = raise_descriptor_limit().saturating_sub(SPARE_DESCRIPTORS).clamp(1, MAX_OPEN);
        let poll = Poll::new().map_err(|source| PathError::Receive { local: "the poll".to_owned(), source })?;
        let mut path = Self {
            origin: Instant::now(),
            session: fastrand::u64(..),
            first_port: fastrand::u64(0..SOURCE_PORTS),
            tried: 0,
            oldest: 0,
            open: VecDeque::new(),
            max_open,
            poll,
            events: Events::with_capacity(1_024),
            options,
        };
        path.greet()?;
        Ok(path)
    }

    /// Asks every port of the server until each has answered. The flows that this opens are not used again.
    fn greet(&mut self) -> Result<(), UdpError> {
        let UdpOptions { target, ports, patience, .. } = self.options;
        let socket = self.bind_next()?;
        self.adopt(socket)?;
        let mut silent: Vec<u64> = (0..u64::from(ports)).collect();
        let started = Instant::now();
        while !silent.is_empty() {
            if started.elapsed() >= patience {
                return Err(UdpError::Silent { target, ports, silent: silent.len(), patience });
            }
            for &port in &silent {
                let ask = Probe { session: self.session, flow: probe::GREETING - port, sequence: 0 }.ask();
                self.transmit(0, port, &ask)?;
            }
            let retry_ns = self.now_ns() + 200_000_000;
            while !silent.is_empty() && self.now_ns() < retry_ns {
                self.poll(retry_ns, &mut |received| silent.retain(|port| probe::GREETING - port != received.flow))?;
            }
        }
        // The greeting's socket is number 0 of the walk, but the flows begin with a fresh one.
        self.open.clear();
        self.oldest = 0;
        Ok(())
    }

    /// The next source port that is free.
    fn bind_next(&mut self) -> Result<UdpSocket, PathError> {
        let sources = &self.options.sources;
        while self.tried < SOURCE_PORTS * sources.len() as u64 {
            let port = FIRST_SOURCE_PORT + ((self.first_port + self.tried) % SOURCE_PORTS) as u16;
            let Some(&source) = sources.get((self.tried / SOURCE_PORTS) as usize) else { break };
            self.tried += 1;
            match UdpSocket::bind(SocketAddr::new(source, port)) {
                Ok(socket) => return Ok(socket),
                Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {}
                Err(error) => return Err(PathError::Receive { local: format!("{source} port {port}"), source: error }),
            }
        }
        Err(PathError::FlowsExhausted {
            flows: SOURCE_PORTS * sources.len() as u64 * u64::from(self.options.ports),
            remedy: "give both ends more --ports, or this one more --source addresses".to_owned(),
        })
    }

    /// Registers a socket as the newest and closes the oldest if there are too many.
    fn adopt(&mut self, mut socket: UdpSocket) -> Result<(), PathError> {
        if self.open.len() as u64 >= self.max_open {
            self.open.pop_front();
            self.oldest += 1;
        }
        let number = self.oldest + self.open.len() as u64;
        let registered = self.poll.registry().register(&mut socket, Token(number as usize), Interest::READABLE);
        registered.map_err(|source| PathError::Receive { local: format!("{socket:?}"), source })?;
        self.open.push_back(socket);
        Ok(())
    }

    /// Sends from the socket of this number to the server's port of this index.
    fn transmit(&self, number: u64, port: u64, payload: &[u8]) -> Result<Taken, PathError> {
        let target = SocketAddr::new(self.options.target.ip(), self.options.target.port() + port as u16);
        let Some(socket) = number.checked_sub(self.oldest).and_then(|index| self.open.get(index as usize)) else {
            // Closed for want of descriptors: the packet is lost, and is counted so.
            return Ok(Taken::Yes);
        };
        match socket.send_to(payload, target) {
            Ok(_) => Ok(Taken::Yes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Taken::NotNow),
            // The device's queue is full.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => Ok(Taken::NotNow),
            // An ICMP error about an earlier packet: that one is lost, this one was not sent yet.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {
                Ok(Taken::NotNow)
            }
            Err(source) => Err(PathError::Send { target, source }),
        }
    }

    fn wait(&mut self, until_ns: u64) -> Result<(), PathError> {
        let left_ns = until_ns.saturating_sub(self.now_ns());
        // The kernel rounds a wait up to whole milliseconds, so wait for less, and poll for the rest.
        let wait = if left_ns < SHORTEST_WAIT_NS { 0 } else { left_ns - SHORTEST_WAIT_NS / 2 };
        match self.poll.poll(&mut self.events, Some(Duration::from_nanos(wait))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            other => other.map_err(|source| PathError::Receive { local: "the poll".to_owned(), source }),
        }
    }
}

impl Path for UdpPath {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn stalls(&self, length: Duration) -> Option<Latency> {
        Some(stalls::watch(|| self.now_ns(), length))
    }

    fn send(&mut self, packet: Packet) -> Result<Taken, PathError> {
        let ports = u64::from(self.options.ports);
        let number = packet.flow / ports;
        while number >= self.oldest + self.open.len() as u64 {
            let socket = self.bind_next()?;
            self.adopt(socket)?;
        }
        let ask = Probe { session: self.session, flow: packet.flow, sequence: packet.sequence }.ask();
        self.transmit(number, packet.flow % ports, &ask)
    }

    fn poll(&mut self, until_ns: u64, received: &mut dyn FnMut(Received)) -> Result<(), PathError> {
        self.wait(until_ns)?;
        if self.events.is_empty() {
            // Others may need this CPU, the system under test above all.
            std::thread::yield_now();
        }
        let mut buffer = [0; probe::LENGTH + 1];
        for event in &self.events {
            let index = (event.token().0 as u64).checked_sub(self.oldest);
            let Some(socket) = index.and_then(|index| self.open.get(index as usize)) else { continue };
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        let at_ns = self.now_ns();
                        if let Some(probe) = Probe::from_reply(&buffer[..length])
                            && probe.session == self.session
                        {
                            received(Received { flow: probe.flow, sequence: probe.sequence, at_ns });
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {}
                    Err(source) => {
                        return Err(PathError::Receive { local: format!("{:?}", socket.local_addr()), source });
                    }
                }
            }
        }
        Ok(())
    }

    fn facts(&self) -> PathFacts {
        let UdpOptions { target, ports, .. } = &self.options;
        let description = format!("UDP to {target} and back, {ports} target ports");
        PathFacts { description, share_cores: None, hugepages: None }
    }
}

fn unspecified(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Allows this process as many open files as it may allow itself, and says how many these are.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MAX_OPEN + SPARE_DESCRIPTORS).min(MAX_OPEN + SPARE_DESCRIPTORS);
    if limit.current.is_some_and(|current| current < wanted) {
        // Refused, it just stays as it is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::echo::{Echo, EchoCounts};
    use crate::{Plan, run};
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    struct Server {
        target: SocketAddr,
        stop: UnixStream,
        thread: JoinHandle<EchoCounts>,
    }

    impl Server {
        fn start(listen: &str, ports: u16) -> Self {
            let echo = bind_anywhere(listen.parse().unwrap(), ports);
            let (stop, stopped) = UnixStream::pair().unwrap();
            Self { target: echo.listen(), stop, thread: std::thread::spawn(move || echo.run(&stopped).unwrap()) }
        }

        fn stop(mut self) -> EchoCounts {
            self.stop.write_all(b"x").unwrap();
            self.thread.join().unwrap()
        }
    }

    /// Consecutive free ports, wherever they are.
    fn bind_anywhere(ip: IpAddr, ports: u16) -> Echo {
        let start = || fastrand::u16(20_000..60_000);
        (0..100).find_map(|_| Echo::bind(SocketAddr::new(ip, start()), ports).ok()).expect("a free range of ports")
    }

    fn options(target: SocketAddr, ports: u16) -> UdpOptions {
        UdpOptions { target, ports, sources: vec![], patience: Duration::from_secs(10) }
    }

    fn short_plan() -> Plan {
        Plan {
            rates_per_s: vec![500.0],
            warmup: Duration::ZERO,
            duration: Duration::from_millis(300),
            followers: 1,
            established: 2,
            settle: Duration::from_millis(5),
            drain: Duration::from_secs(10),
            search: None,
            ..Plan::default()
        }
    }

    #[test]
    fn every_packet_comes_back_over_ipv4_and_ipv6() {
        for listen in ["127.0.0.1", "::1"] {
            let server = Server::start(listen, 8);
            let mut path = UdpPath::open(options(server.target, 8)).unwrap();
            let report = run(&mut path, &short_plan(), vec![], &mut |_| {}).unwrap();
            let rate = &report.rates[0];
            assert!(rate.first.scheduled > 80, "{listen}: {} flows", rate.first.scheduled);
            assert_eq!((rate.lost(), rate.duplicates, rate.foreign), (0, 0, 0), "{listen}");
            assert_eq!(rate.established.received, 2 * rate.first.received);
            let counts = server.stop();
            assert!(counts.echoed >= 4 * rate.first.received + 8, "{counts:?}");
        }
    }

    #[test]
    fn each_flow_has_its_own_five_tuple_also_when_sockets_are_closed_behind_it() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let mut seen = std::collections::HashSet::new();
            let mut buffer = [0; probe::LENGTH];
            while seen.len() < 201 {
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                assert!(probe::turn_into_reply(&mut buffer[..length]));
                assert!(seen.insert(from), "{from} was used twice");
                server.send_to(&buffer, from).unwrap();
            }
        });
        let mut path = UdpPath::open(options(target, 1)).unwrap();
        path.max_open = 4;
        for flow in 0..200 {
            let packet = Packet { flow, sequence: 0, kind: crate::PacketKind::First };
            assert_eq!(path.send(packet).unwrap(), Taken::Yes);
            let mut came = false;
            while !came {
                path.poll(path.now_ns() + 10_000_000, &mut |received| came = received.flow == flow).unwrap();
            }
        }
        assert_eq!(path.open.len(), 4);
        echo.join().unwrap();
    }

    #[test]
    fn a_server_that_does_not_answer_is_named_with_the_command_that_starts_it() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = silent.local_addr().unwrap();
        let error =
            UdpPath::open(UdpOptions { patience: Duration::from_millis(50), ..options(target, 1) }).unwrap_err();
        assert!(error.to_string().contains(&format!("towpath bench echo --listen {target} --ports 1")), "{error}");
    }

    #[test]
    fn a_source_that_cannot_work_is_refused_before_anything_is_sent() {
        let target = "127.0.0.1:9".parse().unwrap();
        let open = |sources| UdpPath::open(UdpOptions { sources, ..options(target, 1) });
        assert!(matches!(open(vec!["::1".parse().unwrap()]), Err(UdpError::Family { .. })));
        assert!(matches!(open(vec!["192.0.2.1".parse().unwrap()]), Err(UdpError::Source { .. })));
        assert!(matches!(UdpPath::open(options("127.0.0.1:65535".parse().unwrap(), 2)), Err(UdpError::Ports { .. })));
    }
}
