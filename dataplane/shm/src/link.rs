//! The link: one region with every ring between a dataplane and the controller that is attached to it.
//!
//! Off the packet's path. The dataplane makes a fresh link for each controller that attaches, so a new controller never sees
//! what a dead one left behind half-said.
//!
//! ```text
//!  byte 0      header, words: magic, version, lcores, bytes in all
//!       128    the doorbell's flag, one word ([`crate::doorbell`])
//!       4096   lcore 0:  update ring   4096 slots of  128 bytes   controller → lcore
//!                        event ring    4096 slots of  128 bytes   lcore → controller
//!                        capture ring  1024 slots of 2304 bytes   lcore → controller
//!              lcore 1:  …
//! ```
//!
//! Each ring starts on a page. Those of a spare lcore take no memory, but for a page each once the controller has looked, until
//! [`LinkMemory::make_room`]. The header is native-endian and read once; the size of the region must be what the header
//! says, and what this version would make it.
//!
//! Errors: [`LinkError`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::capture::{CAPTURE_SLOT_WORDS, CaptureConsumer, CaptureProducer};
use crate::doorbell::{Doorbell, DoorbellWaiter};
use crate::message::SLOT_WORDS;
use crate::region::{Access, LINE_BYTES, PAGE_BYTES, Region, RegionError, WORD_BYTES};
use crate::ring::{Consumer, Producer, RingError, ring_words};
use crate::rules::{Event, Update};

/// Slots of an update ring.
pub const UPDATE_SLOTS: usize = 4096;
/// Slots of an event ring.
pub const EVENT_SLOTS: usize = 4096;
/// Slots of a capture ring.
pub const CAPTURE_SLOTS: usize = 1024;
/// Lcores of a host, at most.
pub const MAX_LCORES: usize = 128;

/// "towlink" and a zero byte.
const MAGIC: u64 = u64::from_le_bytes(*b"towlink\0");
/// Counted up with every change of a layout in this crate.
const VERSION: u64 = 2;
const HEADER_WORDS: usize = 4;

const UPDATE_WORDS: usize = ring_words(UPDATE_SLOTS, SLOT_WORDS);
const EVENT_WORDS: usize = ring_words(EVENT_SLOTS, SLOT_WORDS);
const CAPTURE_WORDS: usize = ring_words(CAPTURE_SLOTS, CAPTURE_SLOT_WORDS);
const LCORE_BYTES: usize = pages(UPDATE_WORDS) + pages(EVENT_WORDS) + pages(CAPTURE_WORDS);

/// A link that can't be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Its memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Its eventfd, or another descriptor.
    #[error("cannot set up the link's descriptors: {0}; check `ulimit -n`")]
    Descriptor(Errno),
    /// No lcore, or too many.
    #[error("a link for {0} lcores is not possible: 1 to {MAX_LCORES} are")]
    Lcores(u64),
    /// The region is not a link.
    #[error("the shared region starts with {0:#018x}, not with a link's mark; is the other side a Towpath dataplane?")]
    Magic(u64),
    /// Another version's link.
    #[error(
        "the shared region has layout version {theirs}, this program has {VERSION}; run the same release on both sides"
    )]
    Version {
        /// The region's version.
        theirs: u64,
    },
    /// The header contradicts the region.
    #[error(
        "the link for {lcores} lcores should have {expected} bytes; its header says {said}, its memory has {actual}"
    )]
    Size {
        /// The lcores of the header.
        lcores: u64,
        /// What this version makes it.
        expected: usize,
        /// The size of the header.
        said: u64,
        /// The size of the region.
        actual: usize,
    },
    /// A ring; only if the layout above is wrong.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// What passes to the controller over the Unix socket.
#[derive(Debug)]
pub struct LinkFds {
    /// The region.
    pub memory: OwnedFd,
    /// The eventfd.
    pub doorbell: OwnedFd,
}

/// A lcore's end of a link.
#[derive(Debug)]
pub struct LcoreLink {
    /// From the controller.
    pub updates: Consumer<Update>,
    /// To the controller.
    pub events: Producer<Event>,
    /// Copies of packets, to the controller.
    pub captures: CaptureProducer,
    /// Rings for this and every other lcore.
    pub doorbell: Doorbell,
}

/// The controller's end of one lcore's part of a link.
#[derive(Debug)]
pub struct ControllerLink {
    /// To the lcore.
    pub updates: Producer<Update>,
    /// From the lcore.
    pub events: Consumer<Event>,
    /// Copies of packets, from the lcore.
    pub captures: CaptureConsumer,
}

impl ControllerLink {
    /// True if a `pop` has something to say, be it that a ring is dead: the look that follows
    /// [`DoorbellWaiter::prepare_to_wait`]. A controller that keeps a dead ring will never sleep; it should attach again.
    pub fn has_work(&mut self) -> bool {
        self.events.is_ready() || self.captures.is_ready()
    }
}

/// The dataplane's hold on a link's memory, for lcores that get something to do later.
#[derive(Debug)]
pub struct LinkMemory {
    region: Arc<Region>,
    memory: OwnedFd,
}

impl LinkMemory {
    /// Takes the memory of a lcore's rings, if that was not done before.
    pub fn make_room(&self, lcore: usize) -> Result<(), LinkError> {
        let [start, ..] = ring_offsets(lcore);
        Ok(self.region.populate(&self.memory, start, LCORE_BYTES)?)
    }
}

/// A fresh link for lcores that all have something to do: what to send to the controller, and what each lcore gets.
pub fn create(lcores: usize) -> Result<(LinkFds, Vec<LcoreLink>), LinkError> {
    link_bytes(lcores as u64)?;
    let (fds, links, _memory) = create_for(&vec![true; lcores])?;
    Ok((fds, links))
}

/// A fresh link for these lcores, with memory for the rings of those that are busy. The others' take none until
/// [`LinkMemory::make_room`].
pub fn create_for(busy: &[bool]) -> Result<(LinkFds, Vec<LcoreLink>, LinkMemory), LinkError> {
    let lcores = busy.len();
    let bytes = link_bytes(lcores as u64)?;
    let (region, memory) = Region::create_sparse("towpath-link", bytes)?;
    let region = Arc::new(region);
    Region::seal(&memory)?;
    region.populate(&memory, 0, PAGE_BYTES)?;
    let ours = memory.try_clone().map_err(|error| LinkError::Descriptor(errno(&error)))?;
    let link_memory = LinkMemory { region: Arc::clone(&region), memory: ours };
    busy.iter().enumerate().filter(|(_, busy)| **busy).try_for_each(|(lcore, _)| link_memory.make_room(lcore))?;
    let header = region.words(0, HEADER_WORDS)?;
    for (word, value) in header.iter().zip([MAGIC, VERSION, lcores as u64, bytes as u64]) {
        word.store(value, Ordering::Relaxed);
    }
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let doorbell = rustix::event::eventfd(0, flags).map_err(LinkError::Descriptor)?;
    let ours = Arc::new(doorbell.try_clone().map_err(|error| LinkError::Descriptor(errno(&error)))?);
    let bell = Doorbell::new(region.words(LINE_BYTES, 1)?, ours);
    let mut links = Vec::with_capacity(lcores);
    for lcore in 0..lcores {
        let [updates, events, captures] = ring_offsets(lcore);
        links.push(LcoreLink {
            updates: Consumer::new(region.words(updates, UPDATE_WORDS)?)?,
            events: Producer::new(region.words(events, EVENT_WORDS)?)?,
            captures: CaptureProducer::new(region.words(captures, CAPTURE_WORDS)?)?,
            doorbell: bell.clone(),
        });
    }
    Ok((LinkFds { memory, doorbell }, links, link_memory))
}

/// The controller's ends of a link that a dataplane made, one per lcore, and the bell that all of them ring.
pub fn open(fds: LinkFds) -> Result<(Vec<ControllerLink>, DoorbellWaiter), LinkError> {
    let region = Arc::new(Region::map(&fds.memory, Access::ReadWrite)?);
    let lcores = check_header(&region)?;
    // A blocking eventfd would stop the controller's event loop.
    let flags = rustix::fs::fcntl_getfl(&fds.doorbell).map_err(LinkError::Descriptor)?;
    rustix::fs::fcntl_setfl(&fds.doorbell, flags | OFlags::NONBLOCK).map_err(LinkError::Descriptor)?;
    let waiter = DoorbellWaiter::new(region.words(LINE_BYTES, 1)?, fds.doorbell);
    let mut links = Vec::with_capacity(lcores);
    for lcore in 0..lcores {
        let [updates, events, captures] = ring_offsets(lcore);
        links.push(ControllerLink {
            updates: Producer::new(region.words(updates, UPDATE_WORDS)?)?,
            events: Consumer::new(region.words(events, EVENT_WORDS)?)?,
            captures: CaptureConsumer::new(region.words(captures, CAPTURE_WORDS)?)?,
        });
    }
    Ok((links, waiter))
}

fn check_header(region: &Arc<Region>) -> Result<usize, LinkError> {
    let words = region.words(0, HEADER_WORDS)?;
    // One load each: what is checked is what is used.
    let mut header = words.iter().map(|word| word.load(Ordering::Relaxed));
    let mut next = || header.next().unwrap_or(0);
    let (magic, theirs, lcores, said) = (next(), next(), next(), next());
    if magic != MAGIC {
        return Err(LinkError::Magic(magic));
    }
    if theirs != VERSION {
        return Err(LinkError::Version { theirs });
    }
    let (expected, actual) = (link_bytes(lcores)?, region.bytes());
    if said != expected as u64 || actual != expected {
        return Err(LinkError::Size { lcores, expected, said, actual });
    }
    Ok(lcores as usize)
}

/// Bytes of words, in whole pages.
const fn pages(words: usize) -> usize {
    (words * WORD_BYTES).next_multiple_of(PAGE_BYTES)
}

fn link_bytes(lcores: u64) -> Result<usize, LinkError> {
    match usize::try_from(lcores) {
        Ok(count) if (1..=MAX_LCORES).contains(&count) => Ok(PAGE_BYTES + count * LCORE_BYTES),
        _ => Err(LinkError::Lcores(lcores)),
    }
}

/// Where a lcore's update, event and capture rings start, in bytes.
const fn ring_offsets(lcore: usize) -> [usize; 3] {
    let updates = PAGE_BYTES + lcore * LCORE_BYTES;
    let events = updates + pages(UPDATE_WORDS);
    [updates, events, events + pages(EVENT_WORDS)]
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(all(test, not(miri)))]
mod tests;
