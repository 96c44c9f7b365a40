//! The dataplane's door: where the socket is, who may come in, and that only one is in.
//!
//! Off the packet's path: the control thread.
//!
//! The directory is made with mode 0700 if it is not there, and refused if it is another user's or others may write in it.
//! The socket has mode 0600 before anybody can connect. A lock file beside it (`dataplane.sock.lock`, flock(2)) is held as
//! long as the dataplane lives, by whatever way it ends: who gets the lock may replace a socket that a killed one left.
//!
//! Errors: [`AttachError`]. Those of [`Listener::accept`] concern the one who came; the door stays open.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::stream::{self, ControlStream, MAX_HELLO_BYTES};
use super::{AttachError, Greeting, PeerRefusal, check_peer};
use crate::hello::{HELLO_VERSION, Hello};
use crate::link::LinkFds;

/// How long a controller may take to read its Hello.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 16;
/// How often the lock file may vanish between opening and locking it before we give up.
const LOCK_ATTEMPTS: usize = 16;

/// The dataplane's listening socket; dropping it removes the socket. Poll its descriptor for reading.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    lock_path: PathBuf,
    /// Locked.
    _lock: File,
    attached: Weak<UnixStream>,
}

impl Listener {
    /// Listens at `path`, whose directory is made if need be.
    pub fn bind(path: &Path) -> Result<Self, AttachError> {
        let address = SocketAddrUnix::new(path).map_err(|_| AttachError::Path { path: path.to_owned() })?;
        let directory = path.parent().ok_or_else(|| AttachError::Path { path: path.to_owned() })?;
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        secure_directory(directory)?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(path, &lock_path)?;
        remove_stale(path)?;
        let failed = |step| move |source| AttachError::Kernel { step, path: path.to_owned(), source };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed("make a socket for"))?;
        rustix::net::bind(&socket, &address).map_err(failed("bind a socket to"))?;
        // Nobody can connect before listen, so nobody meets the mode that the umask made.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(kernel("close to others", path))?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listen on"))?;
        Ok(Self { socket: socket.into(), path: path.to_owned(), lock_path, _lock: lock, attached: Weak::new() })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next controller that waits at the door, if it may come in; `Ok(None)` if nobody waits. Never blocks. Call it
    /// until `Ok(None)` when the descriptor is watched for edges.
    ///
    /// [`AttachError::OtherUser`] and [`AttachError::Occupied`] say that somebody was refused, and was told why.
    pub fn accept(&mut self) -> Result<Option<Newcomer>, AttachError> {
        let socket = match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => UnixStream::from(socket),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(source) => {
                return Err(AttachError::Kernel { step: "accept on", path: self.path.clone(), source });
            }
        };
        let pid = match check_peer(&socket) {
            Ok(pid) => pid,
            Err(refusal) => {
                if let PeerRefusal::OtherUser { theirs, ours, .. } = refusal {
                    refuse(&socket, format!("user {theirs} may not attach; run as user {ours} or as root"));
                }
                return Err(refusal.into_error(&self.path));
            }
        };
        if self.attached.upgrade().is_some_and(|attached| !stream::is_hung_up(&*attached)) {
            refuse(&socket, "another controller is attached; stop it first".to_owned());
            return Err(AttachError::Occupied { pid });
        }
        let socket = Arc::new(socket);
        self.attached = Arc::downgrade(&socket);
        Ok(Some(Newcomer { socket, pid }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The lock is still held, so both are ours. If they are gone already, so be it.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// A controller that may come in. While it, or the [`ControlStream`] that it becomes, is there, no other may.
#[derive(Debug)]
pub struct Newcomer {
    socket: Arc<UnixStream>,
    pid: i32,
}

impl Newcomer {
    /// The controller's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends the Hello, a fresh link and the counters. Waits up to two seconds for a controller that reads slowly.
    pub fn greet(self, hello: &Hello, link: &LinkFds, counters: impl AsFd) -> Result<ControlStream, AttachError> {
        let greeting = Greeting { version: HELLO_VERSION, hello: Some(hello), refused: None };
        let frame = stream::frame(&greeting, MAX_HELLO_BYTES)?;
        let fds = [link.memory.as_fd(), link.doorbell.as_fd(), counters.as_fd()];
        stream::send_all(&*self.socket, &frame, &fds, Instant::now() + GREETING_TIMEOUT)?;
        Ok(ControlStream::new(self.socket))
    }

    /// Sends it away, saying why.
    pub fn refuse(self, reason: String) {
        refuse(&self.socket, reason);
    }
}

/// Tells why, as well as it goes: who does not listen does not hear it.
fn refuse(socket: &UnixStream, reason: String) {
    let greeting = Greeting::<Hello> { version: HELLO_VERSION, hello: None, refused: Some(reason) };
    if let Ok(frame) = stream::frame(&greeting, MAX_HELLO_BYTES) {
        let _ = stream::send_all(socket, &frame, &[], Instant::now());
    }
}

fn secure_directory(directory: &Path) -> Result<(), AttachError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(kernel("create", directory))?;
    let found = std::fs::metadata(directory).map_err(kernel("inspect", directory))?;
    let ours = rustix::process::geteuid().as_raw();
    let refused = |problem| Err(AttachError::Directory { path: directory.to_owned(), problem });
    if found.uid() != ours {
        return refused(format!("it belongs to user {}, not to {ours}; choose a directory of your own", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        let mode = found.mode() & 0o7777;
        return refused(format!("others may write in it (mode {mode:04o}); chmod 0700 it, or choose another"));
    }
    Ok(())
}

/// The lock that a live dataplane holds.
fn lock(path: &Path, lock_path: &Path) -> Result<File, AttachError> {
    for _ in 0..LOCK_ATTEMPTS {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(lock_path).map_err(kernel("open the lock file", lock_path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.take(16).read_to_string(&mut pid);
                return Err(AttachError::AnotherRunning { path: path.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(source) => return Err(AttachError::Kernel { step: "lock", path: lock_path.to_owned(), source }),
        }
        // A dataplane that just ended may have removed the file that we locked; then another could lock a new one.
        let locked = file.metadata().map_err(kernel("inspect", lock_path))?;
        if std::fs::metadata(lock_path).is_ok_and(|named| is_same_file(&named, &locked)) {
            file.set_len(0).map_err(kernel("write", lock_path))?;
            writeln!(file, "{}", std::process::id()).map_err(kernel("write", lock_path))?;
            return Ok(file);
        }
    }
    Err(AttachError::AnotherRunning { path: path.to_owned(), pid: "starting or ending".to_owned() })
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    one.dev() == other.dev() && one.ino() == other.ino()
}

/// Removes the socket of a dataplane that is dead, which is sure as we hold the lock; nothing but a socket.
fn remove_stale(path: &Path) -> Result<(), AttachError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(kernel("remove the stale socket", path))
        }
        Ok(_) => Err(AttachError::NotASocket { path: path.to_owned() }),
        Err(_) => Ok(()),
    }
}

fn kernel(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AttachError {
    move |error| AttachError::Kernel {
        step,
        path: path.to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    }
}
