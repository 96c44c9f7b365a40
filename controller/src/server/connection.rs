//! One API connection: lines in, lines or a capture out, never waiting for the other side.

use std::io::{ErrorKind, Read, Write};

use mio::net::UnixStream;
use packet::VportId;
use shm::capture::{CaptureRecord, CaptureSide};

use crate::api::{MAX_REQUEST_BYTES, Request, Response};
use crate::pcapng;

/// Bytes of a capture that wait for a slow reader; beyond, packets are lost.
const MAX_CAPTURE_BYTES: usize = 4 << 20;

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// A request is being answered; the next one waits.
    pub(super) busy: bool,
    /// The line is too long to go on.
    overflow: bool,
    pub(super) capture: Option<Capture>,
}

/// What a connection captures.
#[derive(Debug)]
pub(super) struct Capture {
    /// In the order of their interfaces, two each: in, out.
    vports: Vec<VportId>,
    /// The file's beginning, until the answer's line is out.
    header: Vec<u8>,
    lost: u64,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, inbox: Vec::new(), outbox: Vec::new(), busy: false, overflow: false, capture: None }
    }

    pub(super) fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Reads all that is there; false once the client has hung up.
    pub(super) fn read(&mut self) -> bool {
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                // Nothing is asked during a capture.
                Ok(_) if self.capture.is_some() || self.overflow => {}
                Ok(count) => {
                    self.inbox.extend(&buffer[..count]);
                    self.overflow = self.inbox.len() > MAX_REQUEST_BYTES;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Nothing is left to do for a client that will ask no more.
    pub(super) fn is_done(&self) -> bool {
        self.capture.is_some() || (!self.busy && self.outbox.is_empty())
    }

    fn has_line(&self) -> bool {
        !self.busy && self.capture.is_none() && (self.overflow || self.inbox.contains(&b'\n'))
    }

    /// The next request, if it is its turn; an error is to be answered.
    pub(super) fn next_line(&mut self) -> Option<Result<Request, String>> {
        if !self.has_line() {
            return None;
        }
        if self.overflow {
            self.overflow = false;
            self.inbox.clear();
            return Some(Err(format!("the request is longer than {MAX_REQUEST_BYTES} bytes")));
        }
        let end = self.inbox.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.inbox.drain(..=end).collect();
        let read =
            |error: serde_json::Error| format!("the line is not a request: {error}; see the API's documentation");
        Some(serde_json::from_slice(&line).map_err(read))
    }

    /// Queues an answer; a capture's stream begins behind it.
    pub(super) fn answer(&mut self, response: &Response) {
        self.busy = false;
        match serde_json::to_vec(response) {
            Ok(line) => self.outbox.extend(line),
            Err(error) => tracing::error!("an answer can't be written: {error}"),
        }
        self.outbox.push(b'\n');
        if let Some(capture) = &mut self.capture {
            self.outbox.append(&mut capture.header);
        }
    }

    /// Queues a line before the answer; one that the client does not take at once waits with it.
    pub(super) fn tell(&mut self, response: &Response) {
        if let Ok(line) = serde_json::to_vec(response) {
            self.outbox.extend(line);
            self.outbox.push(b'\n');
        }
        // Whether the client is gone is seen when the answer is written.
        let _ = self.write();
    }

    pub(super) fn start_capture(&mut self, vports: &[VportId], names: &[String], snap: u16) {
        let interfaces: Vec<String> =
            names.iter().flat_map(|name| [format!("{name} in"), format!("{name} out")]).collect();
        self.capture = Some(Capture { vports: vports.to_vec(), header: pcapng::header(&interfaces, snap), lost: 0 });
    }

    /// Queues a captured packet, unless the reader is too slow.
    pub(super) fn add_capture(&mut self, record: &CaptureRecord) {
        let Some(capture) = &mut self.capture else { return };
        if self.outbox.len() > MAX_CAPTURE_BYTES {
            capture.lost += 1;
            return;
        }
        let Some(place) = capture.vports.iter().position(|vport| *vport == record.header.vport) else { return };
        let side = usize::from(record.header.side == CaptureSide::Out);
        let interface = u32::try_from(2 * place + side).unwrap_or(0);
        let header = &record.header;
        pcapng::packet(interface, header.realtime_ns, header.original_length, &record.data, &mut self.outbox);
    }

    /// Writes what the client takes; false once it is gone.
    pub(super) fn write(&mut self) -> bool {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => return false,
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Packets that a slow reader lost.
    pub(super) fn lost(&self) -> u64 {
        self.capture.as_ref().map_or(0, |capture| capture.lost)
    }
}
