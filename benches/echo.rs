//! The far end of a measurement over real sockets: sends each probe back to where it came from.
//!
//! On the packet's path: it stands for a tenant's server. It listens on consecutive ports, because each port doubles the
//! number of flows that a client can open from its own ports. It answers [`crate::probe`] payloads and nothing else, so that
//! an open port is no reflector.
//!
//! Listening on a wildcard address, the kernel chooses the address that answers; name the address where a host has several.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::probe;

/// Bytes that the kernel may queue per socket: a few thousand probes.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Probes taken from one socket before the next has its turn.
const BURST: usize = 256;

/// A server that can't be set up or broke.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// The ports do not fit in behind the first.
    #[error("{ports} ports from {listen} on end behind port 65535: choose a lower first port or fewer ports")]
    Ports {
        /// The first.
        listen: SocketAddr,
        /// How many.
        ports: u16,
    },
    /// A port is taken, or the address is not ours.
    #[error(
        "cannot listen on UDP {address}: {source}; choose another port (`ss -ulnp` shows who has this one) or an address of this host"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Waiting or receiving failed.
    #[error("the echo server at {listen} broke: {source}")]
    Broken {
        /// The first address.
        listen: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a server did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EchoCounts {
    /// Probes sent back.
    pub echoed: u64,
    /// Replies that the kernel did not take.
    pub unsent: u64,
    /// Datagrams that were no probes.
    pub foreign: u64,
}

/// The server.
#[derive(Debug)]
pub struct Echo {
    listen: SocketAddr,
    sockets: Vec<UdpSocket>,
    poll: Poll,
    counts: EchoCounts,
}

impl Echo {
    /// Listens on `ports` consecutive UDP ports from `listen` on. Port 0 takes any one port (then `ports` must be 1).
    pub fn bind(listen: SocketAddr, ports: u16) -> Result<Self, EchoError> {
        let too_many = EchoError::Ports { listen, ports };
        let last = listen.port().checked_add(ports.saturating_sub(1)).filter(|_| ports > 0);
        let Some(last) = last.filter(|&last| listen.port() > 0 || last == 0) else { return Err(too_many) };
        let broken = |source| EchoError::Broken { listen, source };
        let poll = Poll::new().map_err(broken)?;
        let mut sockets = Vec::with_capacity(usize::from(ports));
        for port in listen.port()..=last {
            let address = SocketAddr::new(listen.ip(), port);
            let mut socket = UdpSocket::bind(address).map_err(|source| EchoError::Bind { address, source })?;
            // A smaller buffer than wished for still works; it loses earlier.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
            poll.registry().register(&mut socket, Token(sockets.len()), Interest::READABLE).map_err(broken)?;
            sockets.push(socket);
        }
        let listen = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(listen);
        Ok(Self { listen, sockets, poll, counts: EchoCounts::default() })
    }

    /// The first address that it listens on.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Echoes until `stop` can be read (or its other end is closed).
    pub fn run(mut self, stop: &UnixStream) -> Result<EchoCounts, EchoError> {
        let listen = self.listen;
        self.serve(stop).map_err(|source| EchoError::Broken { listen, source })?;
        Ok(self.counts)
    }

    fn serve(&mut self, stop: &UnixStream) -> io::Result<()> {
        let stopped = Token(self.sockets.len());
        self.poll.registry().register(&mut SourceFd(&stop.as_raw_fd()), stopped, Interest::READABLE)?;
        let mut events = Events::with_capacity(256);
        // Sockets with probes left over from their last turn: readiness is told once.
        let mut unfinished: Vec<usize> = Vec::new();
        loop {
            let wait = if unfinished.is_empty() { None } else { Some(std::time::Duration::ZERO) };
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            let mut ready = std::mem::take(&mut unfinished);
            for event in &events {
                if event.token() == stopped {
                    return Ok(());
                }
                ready.push(event.token().0);
            }
            ready.sort_unstable();
            ready.dedup();
            for index in ready {
                if !self.echo_burst(index)? {
                    unfinished.push(index);
                }
            }
        }
    }

    /// Echoes up to a burst of one socket's probes; true if the socket is empty.
    fn echo_burst(&mut self, index: usize) -> io::Result<bool> {
        let Some(socket) = self.sockets.get(index) else { return Ok(true) };
        let mut buffer = [0; probe::LENGTH + 1];
        for _ in 0..BURST {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) if probe::turn_into_reply(&mut buffer[..length]) => {
                    match socket.send_to(&buffer[..length], from) {
                        Ok(_) => self.counts.echoed += 1,
                        Err(_) => self.counts.unsent += 1,
                    }
                }
                Ok(_) => self.counts.foreign += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                // An ICMP error about an earlier reply: the client is gone.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_remedy() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Echo::bind(address, 1).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("ss -ulnp"), "{error}");
    }

    #[test]
    fn ports_behind_the_last_one_are_refused() {
        for (listen, ports) in [("127.0.0.1:65530", 7), ("127.0.0.1:9000", 0), ("127.0.0.1:0", 2)] {
            assert!(
                matches!(Echo::bind(listen.parse().unwrap(), ports), Err(EchoError::Ports { .. })),
                "{listen} {ports}"
            );
        }
    }
}
