//! Parked packets: what a flow has sent while its rule is not there yet, in order.
//!
//! On the packet's path: step 1, between the flow miss and the rule. All slots are allocated once; each flow's packets form
//! a list through them. Bounded per lcore by the number of slots and per flow by the caller's limit.

/// The list of one flow's parked packets. It must be handed back to [`Parking::take`] until it is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParkedFlow {
    first: Option<u32>,
    last: Option<u32>,
    count: u16,
}

impl ParkedFlow {
    /// No packets.
    pub const EMPTY: Self = Self { first: None, last: None, count: 0 };

    /// How many packets are parked.
    pub fn count(&self) -> u16 {
        self.count
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
    next: Option<u32>,
}

impl<T> Parking<T> {
    /// Room for `capacity` packets in all, `per_flow` of one flow.
    pub fn new(capacity: u32, per_flow: u16) -> Self {
        Self {
            slots: (0..capacity).map(|_| Slot { parked: None, next: None }).collect(),
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

    /// Parks a packet behind the flow's others, or gives it back when a bound is reached.
    pub fn park(&mut self, flow: &mut ParkedFlow, packet: T) -> Result<(), T> {
        if flow.count >= self.per_flow {
            return Err(packet);
        }
        let Some(index) = self.free.pop() else { return Err(packet) };
        self.slots[index as usize] = Slot { parked: Some(packet), next: None };
        match flow.last {
            Some(last) => self.slots[last as usize].next = Some(index),
            None => flow.first = Some(index),
        }
        flow.last = Some(index);
        flow.count += 1;
        Ok(())
    }

    /// Takes the flow's oldest packet.
    pub fn take(&mut self, flow: &mut ParkedFlow) -> Option<T> {
        let index = flow.first?;
        let slot = &mut self.slots[index as usize];
        let packet = slot.parked.take();
        flow.first = slot.next.take();
        flow.count -= 1;
        if flow.first.is_none() {
            flow.last = None;
        }
        self.free.push(index);
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
