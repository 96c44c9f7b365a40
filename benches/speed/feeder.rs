//! A lcore of the harness that makes packets of any number of flows and puts them into the ring of a `net_ring` port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use dataplane::meta::{Burst, Mbuf, Mempool, Meta};
use dpdk::{BURST, Device, Eal, LcoreHandle, MempoolConfig, RingPortEnds, RingProducer, clock};
use packet::MacAddr;
use packet::headers::{self, Headers};

use super::traffic::{Sender, five_tuple};
use super::{SpeedError, TrialSpec, failed};

/// The address that DPDK gives to every ring port.
pub const RING_MAC_PORT: MacAddr = MacAddr([0; 6]);
const MBUFS: u32 = 16_383;
const SOURCE_PORT: usize = 14 + 20;

const WAIT: u8 = 0;
const GO: u8 = 1;
const STOP: u8 = 2;

/// The running feeder.
pub struct Feeder {
    state: Arc<AtomicU8>,
    handle: Option<LcoreHandle<()>>,
    device: std::cell::RefCell<Option<Device>>,
}

struct Work {
    mempool: Mempool,
    ring: RingProducer<Meta>,
    frames: Vec<(Vec<u8>, Headers)>,
    senders: Vec<Sender>,
    state: Arc<AtomicU8>,
}

impl Feeder {
    /// Starts it on this lcore; it waits until [`Self::go`].
    pub fn start(
        eal: &Eal,
        spec: &TrialSpec,
        lcore: u32,
        (device, ends): (Device, RingPortEnds<Meta>),
    ) -> Result<Self, SpeedError> {
        let config = MempoolConfig { name: "feeder".to_owned(), count: MBUFS, ..MempoolConfig::default() };
        let mempool = Mempool::new(eal, &config).map_err(|error| failed("make the feeder's mempool", error))?;
        let state = Arc::new(AtomicU8::new(WAIT));
        let frames = (0..12).map(|at| spec.traffic.frame(at, Sender::Flow(0), RING_MAC_PORT));
        let frames = frames.map(|frame| headers::parse(&frame).map(|found| (frame, found)));
        let frames = frames.collect::<Result<Vec<_>, _>>().map_err(|reason| failed("parse its own frame", reason))?;
        let mut feed = ends.feed;
        let work =
            Work { mempool, ring: feed.remove(0), frames, senders: spec.traffic.sequence(), state: Arc::clone(&state) };
        let handle = eal.launch(lcore, move || work.run()).map_err(|error| failed("start the feeder", error))?;
        Ok(Self { state, handle: Some(handle), device: Some(device).into() })
    }

    /// The port's device, once.
    pub fn device(&self) -> Option<Device> {
        self.device.take()
    }

    /// Lets packets go.
    pub fn go(&self) {
        self.state.store(GO, Ordering::Release);
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.state.store(STOP, Ordering::Release);
        let _ = self.handle.take().map(LcoreHandle::join); // a panic in it was printed
    }
}

impl Work {
    fn run(self) {
        while self.state.load(Ordering::Acquire) == WAIT {
            clock::pause();
        }
        let mut burst = Burst::new();
        let mut at = 0;
        while self.state.load(Ordering::Relaxed) == GO {
            if burst.is_empty() {
                self.mempool.alloc_burst(&mut burst, BURST);
                for mbuf in &mut burst {
                    self.fill(mbuf, at);
                    at = if at + 1 < self.senders.len() { at + 1 } else { 0 };
                }
            }
            if self.ring.enqueue_burst(&mut burst) == 0 {
                clock::pause();
            }
        }
    }

    fn fill(&self, mbuf: &mut Mbuf, at: usize) {
        let (frame, found) = &self.frames[at % self.frames.len()];
        let Some(room) = mbuf.append(frame.len()) else { return };
        room.copy_from_slice(frame);
        if let Sender::Flow(flow) = self.senders[at] {
            let (tuple, mut found) = (five_tuple(flow), *found);
            let frame = mbuf.data_mut();
            headers::rewrite_source(frame, &mut found, tuple.source);
            frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&tuple.source_port.to_be_bytes());
        }
    }
}
