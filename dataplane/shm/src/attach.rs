//! How a controller comes to a dataplane: a Unix socket, a check of who is there, a Hello, three file descriptors.
//!
//! Off the packet's path: the dataplane's control thread and the controller's event loop.
//!
//! ```text
//!  controller                                              dataplane: Listener
//!    connect ───────────────────────────────────────────►  accept: SO_PEERCRED, is somebody attached?
//!            ◄─────────────────────────── {"version":1,"hello":{…}} + SCM_RIGHTS [link, doorbell, counters]
//!         or ◄─────────────────────────── {"version":1,"refused":"why"}, then the end of the stream
//!            ◄──────────── Control frames, either way ────────────►
//!            the end of the stream: the other side is gone
//! ```
//!
//! A frame is a little-endian u32, the number of bytes that follow, and JSON of that length: 4 MiB at most for the Hello,
//! 3 MiB for a [`Control`](crate::hello::Control). The descriptors travel with the Hello's first byte.
//!
//! Both sides ask the kernel who the other is: the same user or root, nobody else. One controller at a time; a second is told
//! so. A controller whose end of the stream is closed no longer counts, so a restarted one need not wait.
//!
//! Errors: [`AttachError`]. Source: unix(7).

mod listener;
mod stream;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::counters::{CountersError, CountersReader};
use crate::doorbell::DoorbellWaiter;
use crate::hello::{HELLO_VERSION, Hello};
use crate::link::{ControllerLink, LinkError, LinkFds};

pub use listener::{Listener, Newcomer};
pub use stream::{ControlStream, MAX_CONTROL_BYTES, MAX_HELLO_BYTES, Received, StreamError};

/// The dataplane and the controller can't come together.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing listens.
    #[error("no dataplane listens at {}; start it, or check --socket", path.display())]
    NotRunning {
        /// Where.
        path: PathBuf,
    },
    /// The file system says no.
    #[error("no permission to connect to {}; run as the dataplane's user or as root", path.display())]
    Forbidden {
        /// Where.
        path: PathBuf,
    },
    /// Too many wait already.
    #[error("the dataplane at {} does not accept connections; is its control thread stuck?", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
    /// The path does not fit in a socket address, or names no file.
    #[error("{} is no usable socket path: it needs a file name and at most 107 bytes; choose a shorter --socket", path.display())]
    Path {
        /// Which.
        path: PathBuf,
    },
    /// The other side runs as somebody else.
    #[error("the other side (process {pid}) runs as user {theirs}, not as {ours} or root; refused")]
    OtherUser {
        /// Its process.
        pid: i32,
        /// Its user.
        theirs: u32,
        /// Our user.
        ours: u32,
    },
    /// The dataplane said no.
    #[error("the dataplane refused: {0}")]
    Refused(String),
    /// A second controller came; the first stays.
    #[error("a second controller (process {pid}) was refused; one is attached already")]
    Occupied {
        /// The second one's process.
        pid: i32,
    },
    /// Another release.
    #[error("the dataplane speaks version {theirs}, this program {HELLO_VERSION}; run the same release on both sides")]
    Version {
        /// The Hello's version.
        theirs: u32,
    },
    /// The Hello does not bring what it should.
    #[error("the dataplane's greeting came with {0} file descriptors instead of 3")]
    Descriptors(usize),
    /// The parts contradict each other.
    #[error("the dataplane reports {reported} lcores, its link has {linked}, its counters have {counted}")]
    Lcores {
        /// In the Hello.
        reported: usize,
        /// In the link.
        linked: usize,
        /// In the counters.
        counted: usize,
    },
    /// The directory of the socket is open to others.
    #[error("{} cannot hold the dataplane's socket: {problem}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why, and the remedy.
        problem: String,
    },
    /// A live dataplane holds the socket.
    #[error("another dataplane is running at {} (process {pid}); stop it, or choose another --socket", path.display())]
    AnotherRunning {
        /// Where.
        path: PathBuf,
        /// Its process, as it wrote it down.
        pid: String,
    },
    /// Something else has the name.
    #[error("{} exists and is not a socket; remove it, or choose another --socket", path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The kernel refused a step.
    #[error("cannot {step} {}: {source}", path.display())]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The conversation.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The rings.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The counters.
    #[error(transparent)]
    Counters(#[from] CountersError),
}

/// The first frame.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting<H> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello: Option<H>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// What a controller has after the handshake.
#[derive(Debug)]
pub struct Attachment {
    /// Who is there.
    pub hello: Hello,
    /// The rings' memory and the doorbell.
    pub link: LinkFds,
    /// The counters' memory; it can only be mapped for reading.
    pub counters: OwnedFd,
    /// The conversation; its end is the dataplane's end.
    pub stream: ControlStream,
}

/// An attachment with its memory mapped, the parts in the same order: the Hello's lcores, `lcores`, the counters' blocks.
#[derive(Debug)]
pub struct Attached {
    /// Who is there.
    pub hello: Hello,
    /// The rings, one set per lcore.
    pub lcores: Vec<ControllerLink>,
    /// Every lcore rings it.
    pub doorbell: DoorbellWaiter,
    /// Every lcore's counts.
    pub counters: CountersReader,
    /// The conversation; its end is the dataplane's end.
    pub stream: ControlStream,
}

impl Attachment {
    /// Maps the rings and the counters, and checks that all are about the same lcores.
    pub fn open(self) -> Result<Attached, AttachError> {
        let (lcores, doorbell) = crate::link::open(self.link)?;
        let counters = CountersReader::open(&self.counters)?;
        let (reported, linked, counted) = (self.hello.lcores.len(), lcores.len(), counters.lcores());
        if reported != linked || linked != counted {
            return Err(AttachError::Lcores { reported, linked, counted });
        }
        Ok(Attached { hello: self.hello, lcores, doorbell, counters, stream: self.stream })
    }
}

/// Connects to the dataplane that listens at `path` and waits up to `timeout` for its Hello.
///
/// Does not wait for a dataplane that is not there: [`AttachError::NotRunning`] comes at once.
pub fn attach(path: &Path, timeout: Duration) -> Result<Attachment, AttachError> {
    let deadline = Instant::now() + timeout;
    let at = || path.to_owned();
    let address = SocketAddrUnix::new(path).map_err(|_| AttachError::Path { path: at() })?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let failed = |step| move |source| AttachError::Kernel { step, path: at(), source };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed("make a socket for"))?;
    rustix::net::connect(&socket, &address).map_err(|error| match error {
        Errno::NOENT | Errno::CONNREFUSED => AttachError::NotRunning { path: at() },
        Errno::ACCESS | Errno::PERM => AttachError::Forbidden { path: at() },
        Errno::AGAIN => AttachError::Busy { path: at() },
        source => AttachError::Kernel { step: "connect to", path: at(), source },
    })?;
    check_peer(&socket).map_err(|refusal| refusal.into_error(path))?;
    let mut fds = Vec::new();
    let json = stream::read_frame(&socket, MAX_HELLO_BYTES, &mut fds, deadline)?;
    let greeting: Greeting<serde_json::Value> = serde_json::from_slice(&json).map_err(StreamError::Json)?;
    if let Some(reason) = greeting.refused {
        return Err(AttachError::Refused(reason));
    }
    if greeting.version != HELLO_VERSION {
        return Err(AttachError::Version { theirs: greeting.version });
    }
    let hello = serde_json::from_value(greeting.hello.unwrap_or_default()).map_err(StreamError::Json)?;
    let count = fds.len();
    let [memory, doorbell, counters] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| AttachError::Descriptors(count))?;
    let stream = ControlStream::new(UnixStream::from(socket).into());
    Ok(Attachment { hello, link: LinkFds { memory, doorbell }, counters, stream })
}

/// Why a peer is not talked to.
enum PeerRefusal {
    OtherUser { pid: i32, theirs: u32, ours: u32 },
    Unknown(Errno),
}

impl PeerRefusal {
    fn into_error(self, path: &Path) -> AttachError {
        match self {
            Self::OtherUser { pid, theirs, ours } => AttachError::OtherUser { pid, theirs, ours },
            Self::Unknown(source) => {
                AttachError::Kernel { step: "ask who is at the other end of", path: path.to_owned(), source }
            }
        }
    }
}

/// The peer's process, if it runs as our user or as root.
fn check_peer(socket: impl AsFd) -> Result<i32, PeerRefusal> {
    let peer = rustix::net::sockopt::socket_peercred(socket).map_err(PeerRefusal::Unknown)?;
    let (pid, theirs) = (peer.pid.as_raw_nonzero().get(), peer.uid.as_raw());
    let ours = rustix::process::geteuid().as_raw();
    if theirs == ours || theirs == 0 { Ok(pid) } else { Err(PeerRefusal::OtherUser { pid, theirs, ours }) }
}

#[cfg(all(test, not(miri)))]
mod tests;
