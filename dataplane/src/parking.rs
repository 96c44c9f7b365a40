//! Parked packets: what a flow has sent while its rule is not there yet, in order.
//!
//! On the packet's path: step 1, between the flow miss and the rule. All slots are allocated once; each flow's packets form
//! a list through them. Bounded per lcore by the number of slots and per flow by the caller's limit. Who asks first whether an
//! owner (a vport) may have one more leaves room for the others', however many flows come from one.

use zerocopy::FromZeros;

/// Owners that are told apart.
const OWNERS: usize = shm::counters::MAX_VPORTS;
/// An owner may have so many times as many slots as are free: one alone seven eighths of all, and each further one seven eighths of
/// what the others have left.
const SHARE: usize = 7;

/// The list of one flow's parked packets. It must be handed back to [`Parking::take`] until it is empty.
///
/// It is a ring of slots, known by its last one, so that it takes 4 bytes of a flow's entry: 0 for no packets, else one more than
/// the slot's number.
#[derive(Debug, Default, PartialEq, Eq, FromZeros)]
pub struct ParkedFlow(u32);

impl ParkedFlow {
    /// No packets.
    pub const EMPTY: Self = Self(0);

    /// True if none is parked.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    fn last(&self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

/// The slots of one lcore.
#[derive(Debug)]
pub struct Parking<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    per_flow: u16,
    /// Slots that each owner has.
    owned: Box<[u32; OWNERS]>,
}

#[derive(Debug)]
struct Slot<T> {
    parked: Option<T>,
    /// The flow's next packet; behind its last one, its first.
    next: u32,
    /// In the slot of a flow's last packet, how many it has.
    count: u16,
    owner: u16,
}

impl<T> Parking<T> {
    /// Room for `capacity` packets in all, `per_flow` of one flow.
    pub fn new(capacity: u32, per_flow: u16) -> Self {
        Self {
            slots: (0..capacity).map(|_| Slot { parked: None, next: 0, count: 0, owner: 0 }).collect(),
            free: (0..capacity).rev().collect(),
            per_flow,
            owned: Box::new([0; OWNERS]),
        }
    }

    /// How many packets are parked.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if no more packets can be parked, of whichever flow.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// True if this owner has its share of what can be parked.
    pub fn is_full_for(&self, owner: u16) -> bool {
        let owned = self.owned[usize::from(owner) % OWNERS] as usize;
        self.is_full() || owned > SHARE * self.free.len()
    }

    /// True if one more packet of this flow can be parked.
    pub fn has_room(&self, flow: &ParkedFlow) -> bool {
        !self.is_full() && self.count(flow) < self.per_flow
    }

    fn count(&self, flow: &ParkedFlow) -> u16 {
        flow.last().map_or(0, |last| self.slots[last as usize].count)
    }

    /// Parks a packet of this owner behind the flow's others, or gives it back when a bound is reached; the owner's share is none.
    pub fn park(&mut self, flow: &mut ParkedFlow, owner: u16, packet: T) -> Result<(), T> {
        let count = self.count(flow);
        if count >= self.per_flow {
            return Err(packet);
        }
        let Some(slot) = self.free.pop() else { return Err(packet) };
        let first = match flow.last() {
            Some(last) => std::mem::replace(&mut self.slots[last as usize].next, slot),
            None => slot,
        };
        self.slots[slot as usize] = Slot { parked: Some(packet), next: first, count: count + 1, owner };
        self.owned[usize::from(owner) % OWNERS] += 1;
        flow.0 = slot + 1;
        Ok(())
    }

    /// Takes the flow's oldest packet.
    pub fn take(&mut self, flow: &mut ParkedFlow) -> Option<T> {
        let last = flow.last()?;
        let first = self.slots[last as usize].next;
        let packet = self.slots[first as usize].parked.take();
        self.owned[usize::from(self.slots[first as usize].owner) % OWNERS] -= 1;
        if first == last {
            flow.0 = 0;
        } else {
            let second = self.slots[first as usize].next;
            let last = &mut self.slots[last as usize];
            last.next = second;
            last.count -= 1;
        }
        self.free.push(first);
        packet
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flow_may_not_take_more_than_its_share() {
        let mut parking = Parking::new(8, 2);
        let mut flow = ParkedFlow::default();
        assert_eq!(
            (0..3).map(|packet| parking.park(&mut flow, 1, packet)).collect::<Vec<_>>(),
            [Ok(()), Ok(()), Err(2)]
        );
    }

    /// Breaks if one endpoint's new flows keep all others' out.
    #[test]
    fn however_many_one_parks_others_find_room() {
        let mut parking = Parking::new(1_024, 1);
        let mut parked_by = |owner| {
            let mut count = 0;
            while !parking.is_full_for(owner) {
                parking.park(&mut ParkedFlow::default(), owner, ()).unwrap();
                count += 1;
            }
            count
        };
        assert_eq!([1, 2, 3, 1].map(&mut parked_by), [897, 112, 14, 0]);
        assert!(Parking::<()>::new(0, 1).is_full_for(1));
    }

    proptest! {
        /// Breaks if lists get mixed up, a packet is lost, or order changes.
        #[test]
        fn each_flow_is_a_queue(steps in prop::collection::vec((0usize..3, any::<bool>()), 1..200)) {
            let mut parking = Parking::new(16, 8);
            let mut flows: [ParkedFlow; 3] = Default::default();
            let mut model: [VecDeque<usize>; 3] = Default::default();
            for (number, (flow, park)) in steps.into_iter().enumerate() {
                let total: usize = model.iter().map(VecDeque::len).sum();
                if park {
                    let fits = total < 16 && model[flow].len() < 8;
                    prop_assert_eq!(parking.is_full(), total == 16);
                    prop_assert_eq!(parking.has_room(&flows[flow]), fits);
                    prop_assert_eq!(parking.park(&mut flows[flow], flow as u16, number).is_ok(), fits);
                    if fits { model[flow].push_back(number); }
                } else {
                    prop_assert_eq!(parking.take(&mut flows[flow]), model[flow].pop_front());
                }
                for (owner, model) in model.iter().enumerate() {
                    prop_assert_eq!(parking.owned[owner] as usize, model.len());
                }
                prop_assert_eq!(parking.len(), model.iter().map(VecDeque::len).sum::<usize>());
            }
        }
    }
}
