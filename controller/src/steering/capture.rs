//! Who captures where: [`Taps`].

use std::collections::{BTreeMap, BTreeSet};

use crossbeam::channel::Sender;
use packet::VportId;
use shm::capture::CaptureRecord;
use shm::rules::Update;

/// The captures that are going on.
#[derive(Debug, Default)]
pub(super) struct Taps {
    by_id: BTreeMap<u64, Tap>,
}

#[derive(Debug)]
struct Tap {
    vports: BTreeSet<VportId>,
    snap: u16,
}

impl Taps {
    /// Adds a capture: what to say to the lcores.
    pub(super) fn start(&mut self, id: u64, vports: Vec<VportId>, snap: u16) -> Vec<Update> {
        let vports: BTreeSet<VportId> = vports.into_iter().collect();
        self.by_id.insert(id, Tap { vports: vports.clone(), snap });
        self.updates_for(&vports)
    }

    /// Removes a capture: what to say to the lcores.
    pub(super) fn stop(&mut self, id: u64) -> Vec<Update> {
        self.by_id.remove(&id).map(|tap| self.updates_for(&tap.vports)).unwrap_or_default()
    }

    /// What to say to lcores that know of no capture yet.
    pub(super) fn all(&self) -> Vec<Update> {
        self.updates_for(&self.by_id.values().flat_map(|tap| &tap.vports).copied().collect())
    }

    /// The longest snap that anybody wants of each vport, or its end.
    fn updates_for(&self, vports: &BTreeSet<VportId>) -> Vec<Update> {
        let update = |vport: &VportId| {
            let wanted = self.by_id.values().filter(|tap| tap.vports.contains(vport)).map(|tap| tap.snap).max();
            wanted.map_or(Update::StopCapture(*vport), |snap| Update::StartCapture { vport: *vport, snap })
        };
        vports.iter().map(update).collect()
    }

    /// Gives a record to everybody who captures there; true if somebody got it. What a slow reader has no room for is lost.
    pub(super) fn pass_on(&self, record: CaptureRecord, captured: &Sender<(u64, CaptureRecord)>) -> bool {
        let mut sent = false;
        for (id, tap) in self.by_id.iter().filter(|(_, tap)| tap.vports.contains(&record.header.vport)) {
            let mut record = record.clone();
            record.data.truncate(usize::from(tap.snap));
            sent |= captured.try_send((*id, record)).is_ok();
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::capture::{CaptureHeader, CaptureSide};

    #[test]
    fn a_vport_is_captured_as_long_and_as_much_as_somebody_wants() {
        let mut taps = Taps::default();
        let (a, b) = (VportId(1), VportId(2));
        assert_eq!(taps.start(1, vec![a], 64), [Update::StartCapture { vport: a, snap: 64 }]);
        let both = [Update::StartCapture { vport: a, snap: 128 }, Update::StartCapture { vport: b, snap: 128 }];
        assert_eq!(taps.start(2, vec![a, b], 128), both);
        assert_eq!(taps.all(), both);
        let after = [Update::StartCapture { vport: a, snap: 64 }, Update::StopCapture(b)];
        assert_eq!(taps.stop(2), after);
        assert_eq!(taps.stop(1), [Update::StopCapture(a)]);
        assert_eq!(taps.stop(1), []);
    }

    #[test]
    fn a_slow_reader_loses_records_and_nobody_waits_for_it() {
        let mut taps = Taps::default();
        taps.start(7, vec![VportId(1)], 2);
        let (sender, receiver) = crossbeam::channel::bounded(1);
        let header = CaptureHeader { vport: VportId(1), side: CaptureSide::In, original_length: 4, realtime_ns: 0 };
        let record = CaptureRecord { header, data: vec![1, 2, 3, 4] };
        assert!(taps.pass_on(record.clone(), &sender));
        assert!(!taps.pass_on(record.clone(), &sender));
        let elsewhere = CaptureHeader { vport: VportId(2), ..header };
        assert!(!taps.pass_on(CaptureRecord { header: elsewhere, ..record }, &sender));
        let (id, got) = receiver.try_recv().unwrap();
        assert_eq!((id, got.data), (7, vec![1, 2]));
    }
}
