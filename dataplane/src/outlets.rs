//! The way out of a lcore: one burst per other lcore, handed over through its ring, and a queue for what stays here.
//!
//! On the packet's path: between any two elements. A burst is handed over when it is full and at the end of each poll, so a
//! packet waits at most one poll. What a full ring does not take ends as `ring-full`.

use std::collections::VecDeque;

use shm::link::MAX_LCORES;

use crate::meta::{Burst, Mbuf, Meta};

/// Sends to another lcore's ring.
pub type RingProducer = dpdk::RingProducer<Meta>;
/// Receives from the other lcores.
pub type RingConsumer = dpdk::RingConsumer<Meta>;

/// One lcore's ways out.
pub struct Outlets {
    me: Option<usize>,
    rings: Vec<Outlet>,
    /// One bit for each lcore that packets wait for, so that spare lcores cost nothing.
    filled: u128,
    local: VecDeque<Mbuf>,
}

const _: () = assert!(MAX_LCORES <= u128::BITS as usize);

struct Outlet {
    ring: RingProducer,
    waiting: Burst,
}

impl Outlets {
    /// The rings of all lcores, by index. A lcore that calls [`Self::take_local`] gives its own index as `me` and has a queue of
    /// `local` packets in place of its ring.
    pub fn new(me: Option<usize>, rings: Vec<RingProducer>, local: usize) -> Self {
        let rings = rings.into_iter().take(MAX_LCORES).map(|ring| Outlet { ring, waiting: Burst::default() }).collect();
        Self { me, rings, filled: 0, local: VecDeque::with_capacity(local) }
    }

    /// Passes a packet to a lcore; `lost` is told how many a full ring refused.
    pub fn push(&mut self, lcore: usize, mbuf: Mbuf, mut lost: impl FnMut(u64)) {
        if Some(lcore) == self.me {
            if self.local.len() == self.local.capacity() {
                return lost(1);
            }
            return self.local.push_back(mbuf);
        }
        self.push_away(lcore, mbuf, lost);
    }

    /// The same for who knows that it is another lcore.
    #[inline(always)]
    pub fn push_away(&mut self, lcore: usize, mbuf: Mbuf, mut lost: impl FnMut(u64)) {
        let Some(outlet) = self.rings.get_mut(lcore) else { return lost(1) };
        if outlet.waiting.is_empty() {
            self.filled |= 1 << lcore;
        }
        if let Err(mbuf) = outlet.waiting.push(mbuf) {
            outlet.flush(&mut lost);
            let _ = outlet.waiting.push(mbuf); // a flushed outlet has room
        }
    }

    /// The lcore that stays: whose index was given as `me`.
    pub fn me(&self) -> Option<usize> {
        self.me
    }

    /// True if nothing waits that stays on this lcore.
    #[inline(always)]
    pub fn is_local_empty(&self) -> bool {
        self.local.is_empty()
    }

    /// Takes the oldest packet that stays on this lcore.
    pub fn take_local(&mut self) -> Option<Mbuf> {
        self.local.pop_front()
    }

    /// Hands over what waits.
    pub fn flush(&mut self, mut lost: impl FnMut(u64)) {
        while self.filled != 0 {
            let lcore = self.filled.trailing_zeros() as usize;
            self.filled &= self.filled - 1;
            if let Some(outlet) = self.rings.get_mut(lcore) {
                outlet.flush(&mut lost);
            }
        }
    }

    /// Frees everything that waits.
    pub fn clear(&mut self, mut lost: impl FnMut(u64)) {
        for outlet in &mut self.rings {
            lost(outlet.waiting.len() as u64);
            outlet.waiting.clear();
        }
        self.filled = 0;
        lost(self.local.len() as u64);
        self.local.clear();
    }
}

impl Outlet {
    #[inline(never)]
    fn flush(&mut self, lost: &mut impl FnMut(u64)) {
        self.ring.enqueue_burst(&mut self.waiting);
        if !self.waiting.is_empty() {
            lost(self.waiting.len() as u64);
            self.waiting.clear();
        }
    }
}
