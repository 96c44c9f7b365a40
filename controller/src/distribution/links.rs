//! The connections to all other controllers: [`Links`], over TCP, one for each pair of hosts.
//!
//! Off the packet's path. The host that stands first in the file calls, the other listens; a connection that breaks is made
//! again, with growing pauses. Nothing here waits: sockets don't block, what a slow peer does not take is kept up to a limit
//! and then the connection is given up.
//!
//! Only addresses of the file's hosts may connect, and they must call themselves by that host's name. What proves more is the
//! shared key ([`super::Key`]); without one the network must be trusted.
//!
//! Errors: [`LinkError`] at the start; later ones are [`LinkEvent::News`], told once until the peer is there again.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::wire::{Arrived, MAX_FRAME, Wire, WireError};
use super::{Key, Letter};

/// How long a peer may take to say who it is.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// How long a peer may be silent; its machine speaks once a second.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// The pause before a call is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Connections that have not said who they are.
const MAX_STRANGERS: usize = 16;
/// Bytes that wait for a slow peer.
const MAX_OUTGOING: usize = 2 * MAX_FRAME;
/// Reads of one connection before others have their turn.
const READS_PER_TURN: usize = 64;

/// The links can't be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is taken, or not this machine's.
    #[error(
        "cannot listen at {address}, the file's `controller:` of this host: {source}; correct it, or end who has it"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

/// What happened.
#[derive(Debug)]
pub enum LinkEvent {
    /// A peer can be spoken with.
    Up(String),
    /// It can't any more.
    Down(String),
    /// It said something.
    Heard(String, Box<Letter>),
    /// The operator should know.
    News(String),
}

struct Link {
    stream: TcpStream,
    wire: Wire,
    /// Whom we called, or who called and said so.
    peer: Option<String>,
    address: IpAddr,
    /// The call went through.
    open: bool,
    heard: Instant,
    /// Not everything that came was read.
    unread: bool,
}

struct Peer {
    address: SocketAddr,
    calls: bool,
    link: Option<Token>,
    up: bool,
    next_call: Instant,
    pause: Duration,
    problem: Option<String>,
}

/// All connections to other controllers.
pub struct Links {
    me: String,
    ours: Option<SocketAddr>,
    key: Option<Key>,
    registry: Registry,
    listener: Option<TcpListener>,
    first_token: usize,
    next_token: usize,
    links: BTreeMap<Token, Link>,
    peers: BTreeMap<String, Peer>,
    stranger: Option<String>,
}

impl Links {
    /// Listens, and begins to call. `hosts` are all of the file, in its order; tokens from `first_token` on are used.
    pub fn open(
        registry: Registry,
        first_token: usize,
        me: &str,
        hosts: &[(String, Option<SocketAddr>)],
        key: Option<Key>,
    ) -> Result<Self, LinkError> {
        let place = hosts.iter().position(|(name, _)| name == me).unwrap_or(0);
        let ours = hosts.get(place).and_then(|(_, address)| *address);
        let now = Instant::now();
        let peer = |(index, (name, address)): (usize, &(String, Option<SocketAddr>))| {
            let calls = place < index;
            let (link, up, pause, problem) = (None, false, FIRST_PAUSE, None);
            let peer = Peer { address: (*address)?, calls, link, up, next_call: now, pause, problem };
            (ours.is_some() && name != me).then(|| (name.clone(), peer))
        };
        let peers: BTreeMap<String, Peer> = hosts.iter().enumerate().filter_map(peer).collect();
        let listener = match ours.filter(|_| peers.values().any(|peer| !peer.calls)) {
            Some(address) => {
                let listening = TcpListener::bind(address).and_then(|mut listener| {
                    registry.register(&mut listener, Token(first_token), Interest::READABLE)?;
                    Ok(listener)
                });
                Some(listening.map_err(|source| LinkError::Listen { address, source })?)
            }
            None => None,
        };
        let next_token = first_token + 1;
        let (me, links) = (me.to_owned(), BTreeMap::new());
        Ok(Self { me, ours, key, registry, listener, first_token, next_token, links, peers, stranger: None })
    }

    /// True if an event of this token is for [`Self::ready`].
    pub fn owns(&self, token: Token) -> bool {
        token.0 >= self.first_token
    }

    /// When [`Self::go_on`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let calls = self.peers.values().filter(|peer| peer.calls && peer.link.is_none()).map(|peer| peer.next_call);
        let silences = self.links.values().map(|link| {
            let limit = if link.wire.is_known() { SILENCE_LIMIT } else { GREETING_LIMIT };
            if link.unread { link.heard } else { link.heard + limit }
        });
        calls.chain(silences).min()
    }

    /// Queues a letter to a peer, if it is there.
    pub fn send(&mut self, host: &str, letter: &Letter) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        let Some(token) = self.peers.get(host).filter(|peer| peer.up).and_then(|peer| peer.link) else { return events };
        if let Some(link) = self.links.get_mut(&token) {
            link.wire.send(letter);
        }
        self.flush(token, &mut events);
        events
    }

    /// A socket is ready.
    pub fn ready(&mut self, token: Token) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        if token.0 == self.first_token {
            self.accept();
        } else {
            self.serve(token, &mut events);
        }
        events
    }

    /// What time brings: calls, and connections that are silent for too long.
    pub fn go_on(&mut self, now: Instant) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        let tokens: Vec<Token> = self.links.keys().copied().collect();
        for token in tokens {
            let Some(link) = self.links.get(&token) else { continue };
            let limit = if link.wire.is_known() { SILENCE_LIMIT } else { GREETING_LIMIT };
            if link.unread {
                self.serve(token, &mut events);
            } else if now >= link.heard + limit {
                let line = format!("it says nothing for {} s", limit.as_secs());
                self.close(token, Some(&line), &mut events);
            }
        }
        let due = |peer: &Peer| peer.calls && peer.link.is_none() && peer.next_call <= now;
        let names: Vec<String> =
            self.peers.iter().filter(|(_, peer)| due(peer)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.call(&name, now, &mut events);
        }
        events
    }

    fn call(&mut self, name: &str, now: Instant, events: &mut Vec<LinkEvent>) {
        let (Some(peer), Some(ours)) = (self.peers.get_mut(name), self.ours) else { return };
        peer.next_call = now + peer.pause;
        peer.pause = (peer.pause * 2).min(LONGEST_PAUSE);
        let address = peer.address;
        let token = Token(self.next_token);
        self.next_token += 1;
        let called = call(ours.ip(), address).and_then(|mut stream| {
            self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match called {
            Ok(stream) => {
                peer.link = Some(token);
                let wire = Wire::new(&self.me, Some(name), self.key.as_ref());
                let (peer, address) = (Some(name.to_owned()), address.ip());
                let link = Link { stream, wire, peer, address, open: false, heard: now, unread: false };
                self.links.insert(token, link);
            }
            Err(error) => self.complain(name, &error.to_string(), events),
        }
    }

    fn accept(&mut self) {
        while let Some(Ok((mut stream, from))) = self.listener.as_ref().map(TcpListener::accept) {
            let known = self.peers.values().any(|peer| !peer.calls && peer.address.ip() == from.ip());
            let strangers = self.links.values().filter(|link| link.peer.is_none()).count();
            if !known || strangers >= MAX_STRANGERS {
                tracing::warn!("a connection from {from} was refused: {}", if known { "too many" } else { "no host" });
                continue;
            }
            let token = Token(self.next_token);
            self.next_token += 1;
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = self.registry.register(&mut stream, token, interest) {
                tracing::error!("a connection from {from} can't be watched: {error}");
                continue;
            }
            let _ = stream.set_nodelay(true);
            let wire = Wire::new(&self.me, None, self.key.as_ref());
            let (peer, address, heard) = (None, from.ip(), Instant::now());
            self.links.insert(token, Link { stream, wire, peer, address, open: true, heard, unread: false });
        }
    }

    fn serve(&mut self, token: Token, events: &mut Vec<LinkEvent>) {
        let Some(link) = self.links.get_mut(&token) else { return };
        if !link.open {
            match opened(&mut link.stream) {
                Ok(true) => link.open = true,
                Ok(false) => return,
                Err(error) => return self.close(token, Some(&error.to_string()), events),
            }
        }
        self.flush(token, events);
        let mut buffer = vec![0; 65_536];
        for _ in 0..READS_PER_TURN {
            let Some(link) = self.links.get_mut(&token) else { return };
            link.unread = false;
            match link.stream.read(&mut buffer) {
                Ok(0) => return self.close(token, None, events),
                Ok(count) => {
                    link.heard = Instant::now();
                    link.unread = true;
                    match link.wire.receive(&buffer[..count]) {
                        Ok(arrived) => arrived.into_iter().for_each(|what| self.take(token, what, events)),
                        Err(error) => return self.reject(token, &error, events),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.close(token, Some(&error.to_string()), events),
            }
        }
        self.flush(token, events);
    }

    fn take(&mut self, token: Token, what: Arrived, events: &mut Vec<LinkEvent>) {
        match what {
            Arrived::Letter(letter) => {
                if let Some(name) = self.links.get(&token).and_then(|link| link.peer.clone()) {
                    events.push(LinkEvent::Heard(name, letter));
                }
            }
            Arrived::Peer(name) => self.meet(token, name, events),
        }
    }

    /// The other side has said who it is.
    fn meet(&mut self, token: Token, name: String, events: &mut Vec<LinkEvent>) {
        let Some(link) = self.links.get_mut(&token) else { return };
        let (address, called) = (link.address, link.peer.is_some());
        let may = |peer: &&mut Peer| peer.address.ip() == address && peer.calls == called;
        let Some(peer) = self.peers.get_mut(&name).filter(may) else {
            self.stranger = None;
            let line = format!("it calls itself `{name}`, which is no host of the file that may call from there");
            return self.close(token, Some(&line), events);
        };
        link.peer = Some(name.clone());
        let earlier = peer.link.replace(token).filter(|earlier| *earlier != token);
        let was_up = std::mem::replace(&mut peer.up, true);
        (peer.pause, peer.problem) = (FIRST_PAUSE, None);
        if let Some(earlier) = earlier {
            // The peer has started anew and does not know of it.
            self.drop_link(earlier);
        }
        if was_up {
            events.push(LinkEvent::Down(name.clone()));
        }
        events.push(LinkEvent::Up(name));
    }

    fn flush(&mut self, token: Token, events: &mut Vec<LinkEvent>) {
        let Some(link) = self.links.get_mut(&token).filter(|link| link.open) else { return };
        let mut sent = 0;
        let broken = loop {
            if sent == link.wire.outgoing.len() {
                break None;
            }
            match link.stream.write(&link.wire.outgoing[sent..]) {
                Ok(0) => break Some("it takes nothing".to_owned()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Some(error.to_string()),
            }
        };
        link.wire.outgoing.drain(..sent);
        if let Some(line) = broken {
            self.close(token, Some(&line), events);
        } else if link.wire.outgoing.len() > MAX_OUTGOING {
            self.close(token, Some("it is too slow in taking what is said to it"), events);
        }
    }

    fn reject(&mut self, token: Token, error: &WireError, events: &mut Vec<LinkEvent>) {
        // What it still has to hear: that we have a key, or none.
        if let Some(link) = self.links.get_mut(&token) {
            let _ = link.stream.write(&link.wire.outgoing);
        }
        self.close(token, Some(&error.to_string()), events);
    }

    fn drop_link(&mut self, token: Token) -> Option<Link> {
        let mut link = self.links.remove(&token)?;
        let _ = self.registry.deregister(&mut link.stream);
        Some(link)
    }

    fn close(&mut self, token: Token, why: Option<&str>, events: &mut Vec<LinkEvent>) {
        let Some(link) = self.drop_link(token) else { return };
        let Some(name) = link.peer else {
            let line = format!("a connection from {} was given up: {}", link.address, why.unwrap_or("it hung up"));
            if self.stranger.as_ref() != Some(&line) {
                self.stranger = Some(line.clone());
                events.push(LinkEvent::News(line));
            }
            return;
        };
        let Some(peer) = self.peers.get_mut(&name) else { return };
        if peer.link != Some(token) {
            return;
        }
        peer.link = None;
        peer.next_call = Instant::now() + peer.pause;
        if std::mem::replace(&mut peer.up, false) {
            events.push(LinkEvent::Down(name.clone()));
            self.complain(&name, why.unwrap_or("it hung up"), events);
        } else {
            self.complain(&name, why.unwrap_or("it hung up before it said who it is"), events);
        }
    }

    fn complain(&mut self, name: &str, line: &str, events: &mut Vec<LinkEvent>) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        if peer.problem.as_deref() != Some(line) {
            peer.problem = Some(line.to_owned());
            events
                .push(LinkEvent::News(format!("the controller of {name} ({}) can't be reached: {line}", peer.address)));
        }
    }
}

/// A call under way, from our own address: the other side knows us by it.
fn call(ours: IpAddr, theirs: SocketAddr) -> io::Result<TcpStream> {
    let family = if theirs.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(ours, 0))?;
    match rustix::net::connect(&socket, &theirs) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from_std(socket.into());
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Whether a call went through.
fn opened(stream: &mut TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
