//! Frames on the socket: length and JSON, with file descriptors beside the first one.
//!
//! Off the packet's path. Every wait has a deadline and every length a limit, so a peer that sends slowly, too much or half a
//! frame costs a bounded time and bounded memory.
//!
//! Errors: [`StreamError`].

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::hello::Control;

/// The largest Hello, bytes of JSON.
pub const MAX_HELLO_BYTES: usize = 4 << 20;
/// The largest [`Control`], bytes of JSON: a launch document, which must fit into a Hello beside the reports.
pub const MAX_CONTROL_BYTES: usize = MAX_HELLO_BYTES - (1 << 20);
/// What may wait to be sent. The other side reads what it is told, so there is seldom anything.
const MAX_OUTBOX_BYTES: usize = 2 * (LENGTH_BYTES + MAX_CONTROL_BYTES);
/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 16;

const LENGTH_BYTES: usize = 4;
/// One more than there should be, so that too many are noticed.
const MAX_FDS: usize = 4;

/// The conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer is gone.
    #[error("the other side closed the connection before it said everything; see its log")]
    Closed,
    /// The peer is silent, or does not read.
    #[error("the other side neither sends nor reads in time; is its control thread stuck?")]
    TimedOut,
    /// A frame that is too long.
    #[error("a message of {length} bytes is more than the {limit} that are allowed here")]
    TooLong {
        /// Its length.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// More descriptors than the protocol has.
    #[error("the other side sent more file descriptors than it should")]
    TooManyFds,
    /// Not the JSON that should be there.
    #[error("a message is not what it should be: {0}")]
    Json(serde_json::Error),
    /// The kernel.
    #[error("the connection failed: {0}")]
    Kernel(Errno),
}

/// What [`ControlStream::receive`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// Nothing whole yet; wait until the descriptor is readable.
    Nothing,
    /// A message.
    Message(Control),
    /// The other side is gone.
    Closed,
}

/// The conversation after the Hello: non-blocking, either way. Poll its descriptor for reading and for writing, and call
/// [`Self::receive`] either way.
#[derive(Debug)]
pub struct ControlStream {
    socket: Arc<UnixStream>,
    /// Bytes of at most one frame; it grows as they come, whatever the frame says of its length.
    inbox: Vec<u8>,
    /// Frames, or what is left of them, that the socket had no room for.
    outbox: VecDeque<u8>,
}

impl ControlStream {
    /// Of a non-blocking socket.
    pub(super) fn new(socket: Arc<UnixStream>) -> Self {
        Self { socket, inbox: Vec::new(), outbox: VecDeque::new() }
    }

    /// Sends a message, as far as the other side takes it; the rest goes with the calls that follow. Never waits.
    /// [`StreamError::TimedOut`] if the other side has left so much unread that too much would wait; the conversation is then
    /// over.
    pub fn send(&mut self, message: &Control) -> Result<(), StreamError> {
        let frame = frame(message, MAX_CONTROL_BYTES)?;
        self.flush()?;
        if self.outbox.len() + frame.len() > MAX_OUTBOX_BYTES {
            return Err(StreamError::TimedOut);
        }
        self.outbox.extend(frame);
        self.flush().map(drop)
    }

    /// Sends what waits, as far as the other side takes it; true if nothing is left.
    pub fn flush(&mut self) -> Result<bool, StreamError> {
        while !self.outbox.is_empty() {
            let (bytes, _) = self.outbox.as_slices();
            match rustix::net::send(&*self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(StreamError::Closed),
                Err(error) => return Err(StreamError::Kernel(error)),
            }
        }
        self.outbox.shrink_to(CHUNK_BYTES);
        Ok(true)
    }

    /// Takes the next message, if it is there, and sends what waits. Never waits itself. Call it until [`Received::Nothing`] when the descriptor is
    /// watched for edges, as mio does. After an error the conversation is over.
    pub fn receive(&mut self) -> Result<Received, StreamError> {
        let flushed = self.flush();
        if !matches!(flushed, Ok(_) | Err(StreamError::Closed)) {
            return flushed.map(|_| Received::Nothing); // of a closed one the last words can still be read
        }
        loop {
            let wanted = self.wanted()?;
            if wanted == 0 {
                let message = self.inbox.get(LENGTH_BYTES..).unwrap_or(&[]);
                let message = serde_json::from_slice(message).map_err(StreamError::Json)?;
                self.inbox.clear();
                self.inbox.shrink_to(CHUNK_BYTES);
                return Ok(Received::Message(message));
            }
            let mut buffer = [0; CHUNK_BYTES];
            let buffer = buffer.get_mut(..wanted.min(CHUNK_BYTES)).unwrap_or_default();
            match rustix::net::recv(&*self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Ok((_, count)) => self.inbox.extend(buffer.iter().take(count)),
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::INTR) => {}
                Err(error) => return Err(StreamError::Kernel(error)),
            }
        }
    }

    /// Bytes that the frame in the inbox still lacks.
    fn wanted(&self) -> Result<usize, StreamError> {
        let Some(length) = self.inbox.first_chunk::<LENGTH_BYTES>() else {
            return Ok(LENGTH_BYTES - self.inbox.len());
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_CONTROL_BYTES {
            return Err(StreamError::TooLong { length, limit: MAX_CONTROL_BYTES });
        }
        Ok((LENGTH_BYTES + length).saturating_sub(self.inbox.len()))
    }
}

impl AsFd for ControlStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// True if the peer's end is closed.
pub(super) fn is_hung_up(socket: impl AsFd) -> bool {
    let fd = socket.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Length and JSON.
pub(super) fn frame(message: &impl serde::Serialize, limit: usize) -> Result<Vec<u8>, StreamError> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(StreamError::Json)?;
    let length = frame.len() - LENGTH_BYTES;
    let prefix =
        u32::try_from(length).ok().filter(|_| length <= limit).ok_or(StreamError::TooLong { length, limit })?;
    for (to, from) in frame.iter_mut().zip(prefix.to_le_bytes()) {
        *to = from;
    }
    Ok(frame)
}

/// Sends bytes, and the descriptors with the first of them, on a non-blocking socket.
pub(super) fn send_all(
    socket: impl AsFd,
    mut bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    deadline: Instant,
) -> Result<(), StreamError> {
    let mut fds = Some(fds);
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(fds) = fds.filter(|fds| !fds.is_empty())
            && !ancillary.push(SendAncillaryMessage::ScmRights(fds))
        {
            return Err(StreamError::TooManyFds);
        }
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or(&[]);
                fds = None;
            }
            Err(Errno::AGAIN) => wait(&socket, PollFlags::OUT, deadline)?,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(StreamError::Closed),
            Err(error) => return Err(StreamError::Kernel(error)),
        }
    }
    Ok(())
}

/// Receives one frame of at most `limit` bytes, and the descriptors that come with it, and nothing behind it.
pub(super) fn read_frame(
    socket: impl AsFd,
    limit: usize,
    fds: &mut Vec<OwnedFd>,
    deadline: Instant,
) -> Result<Vec<u8>, StreamError> {
    let mut length = [0; LENGTH_BYTES];
    read_exact(&socket, &mut length, fds, deadline)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(StreamError::TooLong { length, limit });
    }
    let mut json = vec![0; length];
    read_exact(&socket, &mut json, fds, deadline)?;
    Ok(json)
}

fn read_exact(
    socket: impl AsFd,
    mut buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    deadline: Instant,
) -> Result<(), StreamError> {
    while !buffer.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(&socket, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => {
                for rights in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = rights {
                        fds.extend(received);
                    }
                }
                if message.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
                    return Err(StreamError::TooManyFds);
                }
                if message.bytes == 0 {
                    return Err(StreamError::Closed);
                }
                buffer = buffer.get_mut(message.bytes..).unwrap_or_default();
            }
            Err(Errno::AGAIN) => wait(&socket, PollFlags::IN, deadline)?,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Err(StreamError::Closed),
            Err(error) => return Err(StreamError::Kernel(error)),
        }
    }
    Ok(())
}

fn wait(socket: impl AsFd, events: PollFlags, deadline: Instant) -> Result<(), StreamError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_| StreamError::TimedOut)?;
    let fd = socket.as_fd();
    match rustix::event::poll(&mut [PollFd::new(&fd, events)], Some(&timeout)) {
        Ok(0) => Err(StreamError::TimedOut),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(StreamError::Kernel(error)),
    }
}
