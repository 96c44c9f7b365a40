//! Parked packets: what a flow has sent while its rule is not there yet, in order.
//!
//! On the packet's path: step 1, between the flow miss and the rule. All slots are allocated once; each flow's packets form
//! a list through them. Bounded per lcore by the number of slots and per flow by the caller's limit.

use zerocopy::FromZeros;

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
}

#[derive(Debug)]
struct Slot<T> {
    parked: Option<T>,
    /// The flow's next packet; behind its last one, its first.
    next: u32,
    /// In the slot of a flow's last packet, how many it has.
    count: u16,
}

impl<T> Parking<T> {
    /// Room for `capacity` packets in all, `per_flow` of one flow.
    pub fn new(capacity: u32, per_flow: u16) -> Self {
        Self {
            slots: (0..capacity).map(|_| Slot { parked: None, next: 0, count: 0 }).collect(),
            free: (0..capacity).rev().collect(),
            per_flow,
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

    /// True if one more packet of this flow can be parked.
    pub fn has_room(&self, flow: &ParkedFlow) -> bool {
        !self.is_full() && self.count(flow) < self.per_flow
    }

    fn count(&self, flow: &ParkedFlow) -> u16 {
        flow.last().map_or(0, |last| self.slots[last as usize].count)
    }

    /// Parks a packet behind the flow's others, or gives it back when a bound is reached.
    pub fn park(&mut self, flow: &mut ParkedFlow, packet: T) -> Result<(), T> {
        let count = self.count(flow);
        if count >= self.per_flow {
            return Err(packet);
        }
        let Some(slot) = self.free.pop() else { return Err(packet) };
        let first = match flow.last() {
            Some(last) => std::mem::replace(&mut self.slots[last as usize].next, slot),
            None => slot,
        };
        self.slots[slot as usize] = Slot { parked: Some(packet), next: first, count: count + 1 };
        flow.0 = slot + 1;
        Ok(())
    }

    /// Takes the flow's oldest packet.
    pub fn take(&mut self, flow: &mut ParkedFlow) -> Option<T> {
        let last = flow.last()?;
        let first = self.slots[last as usize].next;
        let packet = self.slots[first as usize].parked.take();
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
        assert_eq!((0..3).map(|packet| parking.park(&mut flow, packet)).collect::<Vec<_>>(), [Ok(()), Ok(()), Err(2)]);
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
                    prop_assert_eq!(parking.park(&mut flows[flow], number).is_ok(), fits);
                    if fits { model[flow].push_back(number); }
                } else {
                    prop_assert_eq!(parking.take(&mut flows[flow]), model[flow].pop_front());
                }
                prop_assert_eq!(parking.len(), model.iter().map(VecDeque::len).sum::<usize>());
            }
        }
    }
}
