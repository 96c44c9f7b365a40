//! What a lcore tells the outside about its packets: counters in shared memory, and copies for captures.
//!
//! One writer per block, so a count is a load and a store without a lock. A capture copies a packet as it enters or leaves
//! an element; when the capture ring is full the copy is counted as missed and the packet goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use packet::{DropReason, VportId};
use shm::capture::{CaptureHeader, CaptureProducer, CaptureSide};
use shm::counters::{CountersWriter, MAX_VPORTS, SHARED_TAG_COUNTER, VportCounters};

const SECOND_NS: u64 = 1_000_000_000;

/// Lets something that is counted every time be said once a second.
#[derive(Debug, Default)]
pub struct OnceASecond {
    next_ns: u64,
}

impl OnceASecond {
    /// True if it was not said within the last second.
    pub fn is_due(&mut self, now_ns: u64) -> bool {
        let due = now_ns >= self.next_ns;
        if due {
            self.next_ns = now_ns + SECOND_NS;
        }
        due
    }
}

/// Counters and captures of one lcore.
pub struct Account {
    /// The shared block.
    pub counters: CountersWriter,
    ring: Option<CaptureProducer>,
    snap: Vec<Option<u16>>,
    active: usize,
    /// Something was copied since [`Self::take_copied`].
    copied: bool,
    /// Packets that met one tag rule and are not counted yet.
    ruled: Ruled,
}

/// Packets of one tag rule, by its counter, in a row. The counts stand apart, so that the compiler makes no vector of them.
#[derive(Debug, Default)]
#[repr(C)]
struct Ruled {
    packets: u64,
    counter: u16,
    bytes: u64,
}

impl Account {
    /// Counts into this block; nothing is captured until somebody asks.
    pub fn new(counters: CountersWriter) -> Self {
        Self { counters, ring: None, snap: vec![None; MAX_VPORTS], active: 0, copied: false, ruled: Ruled::default() }
    }

    /// The block, and the ring for captures if a controller is attached; captures end.
    pub fn into_parts(self) -> (CountersWriter, Option<CaptureProducer>) {
        (self.counters, self.ring)
    }

    /// Counts packets that ended here.
    pub fn count_drop(&mut self, reason: DropReason, packets: u64) {
        self.counters.drops[reason.index()].add(packets);
    }

    /// Counts a packet that met a tag rule.
    pub fn count_rule(&mut self, counter: u16, bytes: usize) {
        if let Some(rule) = self.counters.tags.get(usize::from(counter)) {
            rule.packets.add(1);
            rule.bytes.add(bytes as u64);
        }
    }

    /// A tag rule is gone: whichever gets its place next is counted from zero.
    pub fn release_rule(&mut self, counter: u16) {
        if let Some(rule) = self.counters.tags.get(usize::from(counter)).filter(|_| counter != SHARED_TAG_COUNTER) {
            rule.packets.set(0);
            rule.bytes.set(0);
        }
    }

    /// A packet goes into the element at `vport`.
    pub fn enter(&mut self, vport: VportId, frame: &[u8]) {
        if let Some(counters) = self.counters.vports.get(usize::from(vport.0)) {
            counters.in_packets.add(1);
            counters.in_bytes.add(frame.len() as u64);
        }
        if self.active > 0 {
            self.copy(vport, CaptureSide::In, frame);
        }
    }

    /// A packet comes out of the element at `vport`.
    pub fn leave(&mut self, vport: VportId, frame: &[u8]) {
        if let Some(counters) = self.counters.vports.get(usize::from(vport.0)) {
            counters.out_packets.add(1);
            counters.out_bytes.add(frame.len() as u64);
        }
        if self.active > 0 {
            self.copy(vport, CaptureSide::Out, frame);
        }
    }

    /// True while somebody may get copies of packets: then each has to be shown to [`Self::enter`] and [`Self::leave`].
    pub fn is_capturing(&self) -> bool {
        self.active > 0
    }

    /// So many packets that nobody captures go into the element at `vport`.
    pub fn enter_uncaptured(&mut self, vport: VportId, packets: usize, bytes: usize) {
        if let Some(counters) = self.counters.vports.get(usize::from(vport.0)) {
            counters.in_packets.add(packets as u64);
            counters.in_bytes.add(bytes as u64);
        }
    }

    /// Counts a packet that met a tag rule, by [`Self::settle`] at the latest.
    #[inline(always)]
    pub fn count_rule_later(&mut self, counter: u16, bytes: usize) {
        if counter != self.ruled.counter {
            self.settle();
            self.ruled.counter = counter;
        }
        self.ruled.packets += 1;
        self.ruled.bytes += bytes as u64;
    }

    /// Counts what was put off; once per burst.
    pub fn settle(&mut self) {
        let Ruled { counter, packets, bytes } = std::mem::take(&mut self.ruled);
        if let Some(rule) = self.counters.tags.get(usize::from(counter)).filter(|_| packets > 0) {
            rule.packets.add(packets);
            rule.bytes.add(bytes);
        }
    }

    /// So many packets that nobody captures came out of the element at `vport`.
    pub fn leave_uncaptured(&mut self, vport: VportId, packets: u64, bytes: u64) {
        if let Some(counters) = self.counters.vports.get(usize::from(vport.0)).filter(|_| packets > 0) {
            counters.out_packets.add(packets);
            counters.out_bytes.add(bytes);
        }
    }

    /// A vport is nobody's any more: whoever gets it next is not captured for who had it, and is counted from zero.
    pub fn release(&mut self, vport: VportId) {
        self.capture(vport, None);
        if let Some(VportCounters { in_packets, in_bytes, out_packets, out_bytes }) =
            self.counters.vports.get(usize::from(vport.0))
        {
            [in_packets, in_bytes, out_packets, out_bytes].into_iter().for_each(|counter| counter.set(0));
        }
    }

    fn copy(&mut self, vport: VportId, side: CaptureSide, frame: &[u8]) {
        let Some(snap) = self.snap.get(usize::from(vport.0)).copied().flatten() else { return };
        let Some(ring) = &mut self.ring else { return };
        self.copied = true;
        let kept = frame.get(..usize::from(snap)).unwrap_or(frame);
        // Not the lcore's own clock: its rate is rounded, so that it would drift from the kernel's by seconds an hour.
        let realtime_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let header = CaptureHeader { vport, side, original_length: frame.len() as u32, realtime_ns };
        match ring.push(&header, kept) {
            Ok(true) => {}
            Ok(false) => self.counters.capture_missed.add(1),
            Err(_) => self.ring = None, // the ring is not one any more: the next controller brings another
        }
    }

    /// True if packets were copied since the last call: the controller has to be woken, or the ring overflows.
    pub fn take_copied(&mut self) -> bool {
        std::mem::take(&mut self.copied)
    }

    /// A controller attached: captures go to its ring, and those of the one before end.
    pub fn attach(&mut self, ring: CaptureProducer) {
        self.ring = Some(ring);
        self.snap.fill(None);
        self.active = 0;
    }

    /// Starts (with the bytes to keep of each packet) or stops the capture at a vport.
    pub fn capture(&mut self, vport: VportId, snap: Option<u16>) {
        if let Some(slot) = self.snap.get_mut(usize::from(vport.0)) {
            *slot = snap;
            self.active = self.snap.iter().flatten().count();
        }
    }
}

#[cfg(test)]
mod tests {
    use shm::{counters, link};

    use super::*;

    #[test]
    fn what_happens_all_the_time_is_said_once_a_second() {
        let mut pace = OnceASecond::default();
        let said = (0..30).filter(|tenth| pace.is_due(7 + tenth * SECOND_NS / 10)).count();
        assert_eq!(said, 3);
    }

    #[test]
    fn a_copied_packet_asks_once_for_the_controller_to_be_woken() {
        let (_counters, mut writers) = counters::create(1).unwrap();
        let (_fds, mut lcores) = link::create(1).unwrap();
        let mut account = Account::new(writers.remove(0));
        account.attach(lcores.remove(0).captures);
        account.capture(VportId(3), Some(64));
        account.enter(VportId(2), &[0; 60]);
        assert!(!account.take_copied(), "nobody captures there");
        account.enter(VportId(3), &[0; 60]);
        assert!(account.take_copied(), "captures bring no event with them that would wake the controller");
        assert!(!account.take_copied());
    }
}
