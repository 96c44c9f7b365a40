//! Later fragments get their first fragment's flow: a bounded cache per lcore.
//!
//! On the packet's path: right after parsing, wherever the five-tuple matters, so that all fragments of a datagram take the
//! first one's way.
//!
//! Shapes: a datagram is known by source, destination, identification and protocol (RFC 791 section 3.2; in IPv6 without
//! the protocol, RFC 8200 section 4.5), within one vport and VNI. Times are monotonic nanoseconds.
//!
//! Invariants: nothing is allocated after [`FragmentCache::new`]; a call looks at 16 entries at most; an entry dies at its
//! timeout and its place is then free; live entries are never pushed out, so a flood can't cut established datagrams.
//! The hash is seeded, since senders choose what is hashed.
//! Errors: [`DropReason::FragmentWithoutFirst`], [`DropReason::FragmentTableFull`].

use std::net::IpAddr;

use crate::headers::{Fragment, Headers};
use crate::{DropReason, FiveTuple, Vni, VportId};

/// Entries that share a bucket; each key has two buckets.
const WAYS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: u8,
    vport: VportId,
    vni: Vni,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    datagram: Datagram,
    five_tuple: FiveTuple,
    dies_ns: u64,
}

type Bucket = [Option<Entry>; WAYS];

/// Which flow the later fragments of a datagram belong to. One lcore's own.
#[derive(Debug)]
pub struct FragmentCache {
    /// A power of two of them, at least two.
    buckets: Box<[Bucket]>,
    timeout_ns: u64,
    hasher: ahash::RandomState,
}

impl FragmentCache {
    /// Room for at least `capacity` datagrams; each is remembered for `timeout_ns` after its first fragment.
    pub fn new(capacity: usize, timeout_ns: u64) -> Self {
        let buckets = capacity.div_ceil(WAYS).next_power_of_two().max(2);
        Self { buckets: vec![[None; WAYS]; buckets].into_boxed_slice(), timeout_ns, hasher: ahash::RandomState::new() }
    }

    /// How many datagrams there is room for.
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Remembers a first fragment's flow, gives it to a later fragment, and leaves a whole packet alone.
    ///
    /// `scope` is where the packet comes from: the same addresses and identification at another vport, or of another
    /// tenant (its primary network), are another datagram.
    #[inline]
    pub fn resolve(&mut self, scope: (VportId, Vni), headers: &mut Headers, now_ns: u64) -> Result<(), DropReason> {
        match headers.fragment {
            Fragment::Whole => Ok(()),
            Fragment::First(identification) => {
                self.remember(datagram(scope, headers, identification), headers.five_tuple, now_ns)
            }
            Fragment::Later(identification) => {
                let found = self.find(&datagram(scope, headers, identification), now_ns);
                headers.five_tuple = found.ok_or(DropReason::FragmentWithoutFirst)?;
                Ok(())
            }
        }
    }

    fn remember(&mut self, datagram: Datagram, five_tuple: FiveTuple, now_ns: u64) -> Result<(), DropReason> {
        let entry = Entry { datagram, five_tuple, dies_ns: now_ns.saturating_add(self.timeout_ns) };
        let places = self.places(&datagram);
        // The datagram's own entry may stand in the second bucket behind a free place in the first.
        let own = |place: &Option<Entry>| place.is_some_and(|entry| entry.datagram == datagram);
        let free = |place: &Option<Entry>| place.is_none_or(|entry| entry.dies_ns <= now_ns);
        let place = match self.position(places, own) {
            Some(place) => place,
            None => self.position(places, free).ok_or(DropReason::FragmentTableFull)?,
        };
        if let Some(place) = self.buckets.get_mut(place.0).and_then(|bucket| bucket.get_mut(place.1)) {
            *place = Some(entry);
        }
        Ok(())
    }

    fn find(&self, datagram: &Datagram, now_ns: u64) -> Option<FiveTuple> {
        let buckets = self.places(datagram).into_iter().filter_map(|bucket| self.buckets.get(bucket));
        let mut entries = buckets.flatten().flatten();
        let entry = entries.find(|entry| entry.datagram == *datagram && entry.dies_ns > now_ns)?;
        Some(entry.five_tuple)
    }

    /// The first place in the two buckets that is wanted.
    fn position(&self, places: [usize; 2], wanted: impl Fn(&Option<Entry>) -> bool) -> Option<(usize, usize)> {
        places.into_iter().find_map(|bucket| {
            let way = self.buckets.get(bucket)?.iter().position(&wanted)?;
            Some((bucket, way))
        })
    }

    fn places(&self, datagram: &Datagram) -> [usize; 2] {
        let hash = self.hasher.hash_one(datagram);
        let mask = self.buckets.len() - 1;
        [hash as usize & mask, (hash >> 32) as usize & mask]
    }
}

/// Whose fragment it is. A fragment's tuple has the addresses of its own IP header: [`crate::headers::parse`] does not look
/// into fragmented ICMP errors.
fn datagram((vport, vni): (VportId, Vni), headers: &Headers, identification: u32) -> Datagram {
    let FiveTuple { source, destination, protocol, .. } = headers.five_tuple;
    let protocol = if headers.is_v6 { 0 } else { protocol };
    Datagram { source, destination, identification, protocol, vport, vni }
}

#[cfg(test)]
mod tests;
