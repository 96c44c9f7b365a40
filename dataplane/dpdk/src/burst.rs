//! [`Burst`]: up to [`BURST`] mbufs that are handled together.
//!
//! On the packet's path: the unit of every hand-over, from a queue, into a ring, to a network function. It lives on the
//! stack or in a lcore's own state and never allocates. What is left in it when it goes is freed in one go.

use std::mem::MaybeUninit;
use std::{fmt, slice};

use arrayvec::ArrayVec;
use dpdk_sys::rte_mbuf;

use crate::{Mbuf, Meta};

/// How many packets a burst holds at most.
pub const BURST: usize = 32;

/// Up to [`BURST`] owned mbufs, in order.
pub struct Burst<M = ()> {
    mbufs: ArrayVec<Mbuf<M>, BURST>,
}

impl<M> Burst<M> {
    /// An empty one.
    #[inline]
    pub const fn new() -> Self {
        Self { mbufs: ArrayVec::new_const() }
    }

    /// How many mbufs it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.mbufs.len()
    }

    /// True if it holds none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.mbufs.is_empty()
    }

    /// True if it takes no more.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.mbufs.is_full()
    }

    /// How many more it takes.
    #[inline]
    pub fn room(&self) -> usize {
        BURST - self.len()
    }

    /// Adds one at the end, or hands it back if the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf<M>) -> Result<(), Mbuf<M>> {
        self.mbufs.try_push(mbuf).map_err(|full| full.element())
    }

    /// Takes the last one out.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf<M>> {
        self.mbufs.pop()
    }

    /// Takes all out, in order; those that the iterator didn't reach are freed.
    #[inline]
    pub fn drain(&mut self) -> impl DoubleEndedIterator<Item = Mbuf<M>> + ExactSizeIterator + '_ {
        self.mbufs.drain(..)
    }

    /// Hands all over, in order; like [`Self::drain`], but a panic in `take` leaves those behind it to nobody.
    #[inline(always)]
    pub fn take_each(&mut self, mut take: impl FnMut(Mbuf<M>)) {
        self.take_each_beside(&[(); BURST], |mbuf, ()| take(mbuf));
    }

    /// Hands each over with what stands beside it, in order; those with nothing beside them are freed. A panic in `take` leaves
    /// those behind it to nobody.
    #[inline(always)]
    pub fn take_each_beside<T>(&mut self, beside: &[T], mut take: impl FnMut(Mbuf<M>, &T)) {
        let count = self.len();
        // SAFETY: zero is never beyond the capacity; the first `count` elements are no longer the array's.
        unsafe { self.mbufs.set_len(0) };
        // SAFETY: for an `index` below the length that the array had, an initialised element is there; each is read once, and after
        // `set_len(0)` nothing else will read or drop it.
        let mbuf = |index| unsafe { self.mbufs.as_ptr().add(index).read() };
        let has_beside = count.min(beside.len());
        for (index, beside) in beside[..has_beside].iter().enumerate() {
            take(mbuf(index), beside);
        }
        (has_beside..count).for_each(|index| drop(mbuf(index)));
    }

    /// Notes of each, in order, what `look` finds, or `nothing`; what `notes` held before is gone.
    #[inline(always)]
    pub fn note_each<T: Copy>(
        &self,
        notes: &mut ArrayVec<T, BURST>,
        nothing: T,
        mut look: impl FnMut(&Mbuf<M>) -> Option<T>,
    ) {
        notes.clear();
        let start = notes.as_mut_ptr();
        for (index, mbuf) in self.iter().enumerate() {
            // SAFETY: `index` is below a burst's length, which is the capacity of `notes`; nothing else uses the notes meanwhile, and
            // no value has to be there.
            let place = unsafe { &mut *start.add(index).cast::<MaybeUninit<T>>() };
            match look(mbuf) {
                Some(found) => {
                    place.write(found);
                }
                None => note_nothing(place, nothing),
            }
        }
        // SAFETY: as many as there are mbufs were just written, and fit.
        unsafe { notes.set_len(self.len()) };
    }

    /// Moves mbufs from the front of this one to the end of `target`, as many as it takes; returns how many.
    pub fn move_to(&mut self, target: &mut Self) -> usize {
        let count = self.len().min(target.room());
        target.mbufs.extend(self.mbufs.drain(..count));
        count
    }

    /// Keeps those for which `keep` says true, in order, and frees the others.
    #[inline]
    pub fn retain(&mut self, keep: impl FnMut(&mut Mbuf<M>) -> bool) {
        self.mbufs.retain(keep);
    }

    /// The mbufs.
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf<M>] {
        &self.mbufs
    }

    /// The mbufs, to change.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf<M>] {
        &mut self.mbufs
    }

    /// The mbufs, in order.
    #[inline]
    pub fn iter(&self) -> slice::Iter<'_, Mbuf<M>> {
        self.mbufs.iter()
    }

    /// The mbufs, in order, to change.
    #[inline]
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, Mbuf<M>> {
        self.mbufs.iter_mut()
    }

    /// Frees all, in one call.
    #[inline]
    pub fn clear(&mut self) {
        let count = self.len();
        if count == 0 {
            return;
        }
        // SAFETY: zero is never beyond the capacity; the first `count` elements are no longer the array's, but still
        // owned here, until the next call takes them.
        unsafe { self.mbufs.set_len(0) };
        // SAFETY: `Mbuf` is a transparent pointer to an rte_mbuf, so this is an array of `count` live mbufs, each owned
        // here alone; after `set_len(0)` nothing else will free them.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(self.raw_start(), count as u32) };
    }

    fn raw_start(&mut self) -> *mut *mut rte_mbuf {
        self.mbufs.as_mut_ptr().cast()
    }

    /// Lets `give` take mbufs from the front: it gets an array of so many mbufs and returns how many it took.
    ///
    /// # Safety
    /// `give` must take ownership of exactly the first mbufs that it returns the count of, and not write to the array.
    #[inline]
    pub(crate) unsafe fn give(&mut self, give: impl FnOnce(*mut *mut rte_mbuf, u16) -> usize) -> usize {
        let held = self.len();
        let given = give(self.raw_start(), held as u16).min(held);
        let start = self.mbufs.as_mut_ptr();
        // SAFETY: the first `given` elements have a new owner by the caller's promise, so they are forgotten: the rest
        // moves to the front, within the array, and the length shrinks to it.
        unsafe {
            self.mbufs.set_len(0);
            if given < held {
                start.add(given).copy_to(start, held - given);
            }
            self.mbufs.set_len(held - given);
        }
        given
    }
}

/// Apart, so that what is found and what is not do not come together in registers.
#[cold]
#[inline(never)]
fn note_nothing<T>(place: &mut MaybeUninit<T>, nothing: T) {
    place.write(nothing);
}

impl<M: Meta> Burst<M> {
    /// Lets `take` put up to `limit` mbufs at the end: it gets an array with room for so many and returns how many it
    /// put. Their metadata is kept if `meta_is_valid`, else set to the default.
    ///
    /// # Safety
    /// `take` must fill the first elements, as many as it returns, with live mbufs of this process's mempools, and give
    /// up their ownership. If `meta_is_valid`, each must hold a valid `M`.
    #[inline]
    pub(crate) unsafe fn take(
        &mut self,
        limit: usize,
        meta_is_valid: bool,
        take: impl FnOnce(*mut *mut rte_mbuf, u16) -> usize,
    ) -> usize {
        let held = self.len();
        let room = self.room().min(limit);
        let fresh = M::default();
        // SAFETY: `held` is at most the capacity, so the pointer stays within the array or one past its end.
        let end = unsafe { self.raw_start().add(held) };
        let taken = take(end, room as u16).min(room);
        if !meta_is_valid {
            for index in 0..taken {
                // SAFETY: `take` filled the first `taken` elements behind `end` with live mbufs, never null, that are
                // owned here.
                unsafe { Mbuf::reset_meta(std::ptr::NonNull::new_unchecked(*end.add(index)), fresh) };
            }
        }
        // SAFETY: `held + taken` is at most the capacity, and the new elements are initialised: `Mbuf` is a transparent
        // pointer to an rte_mbuf whose metadata was valid or has just been written.
        unsafe { self.mbufs.set_len(held + taken) };
        taken
    }
}

impl<M> Default for Burst<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> Drop for Burst<M> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<M> fmt::Debug for Burst<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, M> IntoIterator for &'a Burst<M> {
    type Item = &'a Mbuf<M>;
    type IntoIter = slice::Iter<'a, Mbuf<M>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, M> IntoIterator for &'a mut Burst<M> {
    type Item = &'a mut Mbuf<M>;
    type IntoIter = slice::IterMut<'a, Mbuf<M>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
