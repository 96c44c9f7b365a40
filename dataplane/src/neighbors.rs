//! Neighbours: which MAC address a next hop on a link has, by ARP (RFC 826) and ND (RFC 4861).
//!
//! On the packet's path: step 6 (egress to an endpoint) and step 5 (to another VTEP), on the I/O lcore that owns the port.
//! A packet for an unknown neighbour waits, in order, while the host asks; after [`GIVE_UP_NS`] it ends as
//! `neighbor-unresolved`. A known neighbour that is in use is asked again after [`STALE_NS`], without holding anything up.
//!
//! An address that was used lately is at hand without a look into the whole table, until it changes or a question is due.
//!
//! Links are named by vport: an endpoint's own, or the tunnel's for the underlay. Bounded: [`CAPACITY`] neighbours,
//! [`HELD`] waiting packets in all, [`HELD_PER_NEIGHBOR`] for one.

use std::net::{IpAddr, Ipv4Addr};

use ahash::RandomState;
use hashbrown::HashMap;
use packet::ethernet::MacWord;
use packet::{MacAddr, VportId};

use crate::parking::{ParkedFlow, Parking};

/// Neighbours per lcore on endpoints' links.
pub const CAPACITY: usize = 4_096;
/// Neighbours up to which those are added that nobody wanted yet, because they asked: forged questions must leave room.
const UNASKED: usize = CAPACITY / 2;
/// Further neighbours that only the underlay may have: VTEPs and their router.
const UNDERLAY: usize = 256;
/// Waiting packets per lcore.
pub const HELD: u32 = 1_024;
/// Waiting packets per neighbour.
pub const HELD_PER_NEIGHBOR: u16 = 64;
/// Time between two questions for the same neighbour.
pub const ASK_EVERY_NS: u64 = 500_000_000;
/// Time after which packets no longer wait for an answer.
pub const GIVE_UP_NS: u64 = 2_000_000_000;
/// Age at which a neighbour in use is asked again.
pub const STALE_NS: u64 = 30_000_000_000;
/// Age at which an address that was not confirmed is forgotten.
pub const FORGET_NS: u64 = 120_000_000_000;

/// Neighbours whose addresses are at hand without a look into the whole table; a power of two.
const RECENT: usize = 1_024;

/// Who: a link and an address on it.
pub type NeighborKey = (VportId, IpAddr);

#[derive(Debug)]
struct Neighbor {
    mac: Option<MacAddr>,
    /// When it was confirmed; for an unknown one, when it was first wanted.
    since_ns: u64,
    asked_ns: Option<u64>,
    held: ParkedFlow,
}

/// What is known of a neighbour, and whether it is time to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// Its address, if known.
    pub mac: Option<MacAddr>,
    /// Send a question now.
    pub ask: Option<Ask>,
}

/// To whom a question goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// To the address that is known, to see whether it still holds (RFC 1122 section 2.3.2.1, unicast poll).
    Known(MacAddr),
    /// To everybody on the link: nothing is known, or the known address did not answer and may be wrong.
    Everybody,
}

/// The neighbours of one lcore's links, and the packets that wait for them.
#[derive(Debug)]
pub struct Neighbors<T> {
    known: HashMap<NeighborKey, Neighbor, RandomState>,
    /// Packets that wait on endpoints' links, and those that wait for VTEPs: an endpoint full of absent addresses must not hold
    /// the tunnel up.
    held: [Parking<T>; 2],
    recent: AtHand,
    /// How often somebody's address changed.
    version: u64,
}

/// IPv4 neighbours that were looked up lately. Invariant: who is here has this address still.
#[derive(Debug)]
struct AtHand(Box<[Recent; RECENT]>);

impl AtHand {
    /// Somebody's address is another, or gone.
    fn forget(&mut self, (link, address): NeighborKey) {
        let IpAddr::V4(address) = address else { return };
        let key = Recent::key(link, address);
        let recent = &mut self.0[Recent::slot(key)];
        if recent.key == key {
            *recent = Recent::default();
        }
    }
}

/// A neighbour whose address can be used without another look.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    /// The link's vport above, the address below.
    key: u64,
    /// When it is due for a question; 0 if nobody is here.
    until_ns: u64,
    mac: MacWord,
}

impl Recent {
    #[inline(always)]
    fn key(link: VportId, address: Ipv4Addr) -> u64 {
        u64::from(link.0) << 32 | u64::from(address.to_bits())
    }

    /// Neighbours of one link have numbers in a row, more or less, and so have their slots; each link begins elsewhere.
    #[inline(always)]
    fn slot(key: u64) -> usize {
        let (link, address) = ((key >> 32) as u32, key as u32);
        link.wrapping_mul(0x9e37_79b9).wrapping_add(address) as usize % RECENT
    }
}

/// An address that may be used until a time, unless [`Neighbors::version`] changes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The address.
    pub mac: MacAddr,
    /// When the neighbour is due for a question, which [`Neighbors::resolve`] says.
    pub until_ns: u64,
}

impl<T> Default for Neighbors<T> {
    fn default() -> Self {
        Self {
            known: HashMap::with_capacity_and_hasher(CAPACITY * 2, RandomState::new()),
            held: [Parking::new(HELD, HELD_PER_NEIGHBOR), Parking::new(HELD, HELD_PER_NEIGHBOR)],
            recent: AtHand(Box::new([Recent::default(); RECENT])),
            version: 1,
        }
    }
}

fn room_for(link: VportId) -> usize {
    if link == VportId::TUNNEL { CAPACITY + UNDERLAY } else { CAPACITY }
}

fn end_held<T>(held: &mut Parking<T>, neighbor: &mut Neighbor, end: &mut impl FnMut(T)) {
    while let Some(packet) = held.take(&mut neighbor.held) {
        end(packet);
    }
}

fn queue(link: VportId) -> usize {
    usize::from(link == VportId::TUNNEL)
}

impl<T> Neighbors<T> {
    /// Looks a neighbour up, on behalf of a packet for it; none when there are too many neighbours to add it.
    pub fn resolve(&mut self, key: NeighborKey, now_ns: u64) -> Option<Resolution> {
        if self.known.len() >= room_for(key.0) && !self.known.contains_key(&key) {
            return None;
        }
        let neighbor = self.known.entry(key).or_insert_with(|| Neighbor::wanted(now_ns));
        if now_ns < neighbor.due_ns() {
            return Some(Resolution { mac: neighbor.mac, ask: None });
        }
        let answered_last = neighbor.asked_ns.is_none_or(|asked| asked < neighbor.since_ns + STALE_NS);
        let ask = neighbor.mac.filter(|_| answered_last).map_or(Ask::Everybody, Ask::Known);
        neighbor.asked_ns = Some(now_ns);
        Some(Resolution { mac: neighbor.mac, ask: Some(ask) })
    }

    /// A neighbour that is known and not due for a question; any other is [`Self::resolve`]'s.
    pub fn known(&self, key: NeighborKey, now_ns: u64) -> Option<Known> {
        let neighbor = self.known.get(&key)?;
        let until_ns = neighbor.due_ns();
        let mac = neighbor.mac.filter(|_| now_ns < until_ns)?;
        Some(Known { mac, until_ns })
    }

    /// The same for an IPv4 neighbour, who is at hand if packets went there lately.
    #[inline(always)]
    pub fn known_v4(&mut self, link: VportId, address: Ipv4Addr, now_ns: u64) -> Option<MacWord> {
        let key = Recent::key(link, address);
        let recent = &self.recent.0[Recent::slot(key)];
        let stands = recent.key == key && now_ns < recent.until_ns;
        let recent = if stands { recent } else { self.recall(link, address, now_ns)? };
        Some(recent.mac)
    }

    /// Has an IPv4 neighbour at hand, if it is known.
    #[cold]
    #[inline(never)]
    fn recall(&mut self, link: VportId, address: Ipv4Addr, now_ns: u64) -> Option<&Recent> {
        let Known { mac, until_ns } = self.known((link, address.into()), now_ns)?;
        let key = Recent::key(link, address);
        let recent = &mut self.recent.0[Recent::slot(key)];
        *recent = Recent { key, until_ns, mac: MacWord::new(mac) };
        Some(recent)
    }

    /// Another one whenever an address that [`Self::known`] gave may be wrong.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Lets a packet wait for an unknown neighbour, or gives it back when too many wait.
    pub fn hold(&mut self, key: NeighborKey, packet: T) -> Result<(), T> {
        match self.known.get_mut(&key) {
            Some(neighbor) => self.held[queue(key.0)].park(&mut neighbor.held, key.0.0, packet),
            None => Err(packet),
        }
    }

    /// Notes an address. One that answers only refreshes a neighbour that somebody wanted; one that asks may be added.
    pub fn learn(&mut self, key: NeighborKey, mac: MacAddr, may_add: bool, now_ns: u64) {
        if mac.is_multicast() {
            return;
        }
        let room = self.known.len() < UNASKED;
        if let Some(neighbor) = self.known.get_mut(&key) {
            if neighbor.mac.replace(mac) != Some(mac) {
                self.version += 1;
                self.recent.forget(key);
            }
            neighbor.since_ns = now_ns;
        } else if may_add && room {
            self.version += 1;
            self.known.insert(key, Neighbor { mac: Some(mac), ..Neighbor::wanted(now_ns) });
        }
    }

    /// The next packet that may go now that the neighbour is known.
    pub fn take_held(&mut self, key: NeighborKey) -> Option<(MacAddr, T)> {
        let neighbor = self.known.get_mut(&key)?;
        let mac = neighbor.mac?;
        self.held[queue(key.0)].take(&mut neighbor.held).map(|packet| (mac, packet))
    }

    /// Forgets who did not answer or has aged, and hands every packet that waited in vain to `unresolved`. Walks the whole
    /// table: for twice a second.
    pub fn expire(&mut self, now_ns: u64, mut unresolved: impl FnMut(T)) {
        let Self { known, held, recent, version } = self;
        known.retain(|key, neighbor| {
            let limit = if neighbor.mac.is_some() { FORGET_NS } else { GIVE_UP_NS };
            let keep = now_ns.saturating_sub(neighbor.since_ns) < limit;
            if !keep {
                *version += 1;
                recent.forget(*key);
                end_held(&mut held[queue(key.0)], neighbor, &mut unresolved);
            }
            keep
        });
    }

    /// Forgets everybody on links that are no more, and hands every packet that waited there to `ended`: the link's vport may be
    /// another's next. Walks the whole table: for a reconfiguration.
    pub fn forget_links(&mut self, is_there: impl Fn(VportId) -> bool, mut ended: impl FnMut(T)) {
        let Self { known, held, recent, version } = self;
        known.retain(|key, neighbor| {
            let keep = is_there(key.0);
            if !keep {
                *version += 1;
                recent.forget(*key);
                end_held(&mut held[queue(key.0)], neighbor, &mut ended);
            }
            keep
        });
    }

    /// The neighbours that packets wait for and that are due for another question.
    pub fn to_ask_again(&mut self, now_ns: u64, mut ask: impl FnMut(NeighborKey)) {
        for (&key, neighbor) in &mut self.known {
            let due = neighbor.asked_ns.is_none_or(|asked| now_ns.saturating_sub(asked) >= ASK_EVERY_NS);
            if neighbor.mac.is_none() && !neighbor.held.is_empty() && due {
                neighbor.asked_ns = Some(now_ns);
                ask(key);
            }
        }
    }

    /// How many packets wait.
    pub fn held(&self) -> usize {
        self.held.iter().map(Parking::len).sum()
    }
}

impl Neighbor {
    /// From when on a packet for it brings a question with it.
    fn due_ns(&self) -> u64 {
        let stale_ns = if self.mac.is_some() { self.since_ns.saturating_add(STALE_NS) } else { 0 };
        self.asked_ns.map_or(stale_ns, |asked| stale_ns.max(asked.saturating_add(ASK_EVERY_NS)))
    }

    const fn wanted(now_ns: u64) -> Self {
        Self { mac: None, since_ns: now_ns, asked_ns: None, held: ParkedFlow::EMPTY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn key() -> NeighborKey {
        (VportId(1), [10, 0, 0, 9].into())
    }

    #[test]
    fn packets_wait_in_order_and_leave_when_the_answer_comes() {
        let mut neighbors = Neighbors::default();
        assert_eq!(neighbors.resolve(key(), 0), Some(Resolution { mac: None, ask: Some(Ask::Everybody) }));
        assert_eq!(neighbors.resolve(key(), 1), Some(Resolution { mac: None, ask: None }), "asked a moment ago");
        neighbors.hold(key(), 1).unwrap();
        neighbors.hold(key(), 2).unwrap();
        assert_eq!(neighbors.take_held(key()), None);
        neighbors.learn(key(), MAC, false, 2);
        assert_eq!(neighbors.take_held(key()), Some((MAC, 1)));
        assert_eq!(neighbors.take_held(key()), Some((MAC, 2)));
        assert_eq!(neighbors.resolve(key(), 3), Some(Resolution { mac: Some(MAC), ask: None }));
    }

    /// Breaks if packets go on to an address that is not the neighbour's any more, or no question is sent when one is due.
    #[test]
    fn an_address_is_at_hand_until_it_changes_or_a_question_is_due() {
        let mut neighbors = Neighbors::<u8>::default();
        let (link, address) = (VportId(1), Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(neighbors.known_v4(link, address, 0), None, "nobody was asked yet");
        neighbors.learn(key(), MAC, true, 0);
        let other = MacAddr([2, 0, 0, 0, 0, 8]);
        for mac in [MAC, other] {
            neighbors.learn(key(), mac, false, 0);
            assert_eq!(neighbors.known_v4(link, address, STALE_NS - 1), Some(MacWord::new(mac)));
            assert_eq!(neighbors.known_v4(link, address, STALE_NS - 1), Some(MacWord::new(mac)), "at hand");
            assert_eq!(neighbors.known_v4(VportId(2), address, 0), None);
        }
        assert_eq!(neighbors.known_v4(link, address, STALE_NS), None);
        assert!(neighbors.resolve(key(), STALE_NS).is_some_and(|resolution| resolution.ask.is_some()));
        assert_eq!(
            neighbors.known_v4(link, address, STALE_NS + 1),
            Some(MacWord::new(other)),
            "while the answer is awaited"
        );
        assert_eq!(neighbors.known_v4(link, address, STALE_NS + ASK_EVERY_NS), None);
        neighbors.expire(FORGET_NS, |_| ());
        assert_eq!(neighbors.known_v4(link, address, FORGET_NS), None);
    }

    #[test]
    fn a_silent_neighbor_gives_its_packets_up_once() {
        let mut neighbors = Neighbors::default();
        neighbors.resolve(key(), 0);
        neighbors.hold(key(), 7).unwrap();
        let mut asked = 0;
        neighbors.to_ask_again(ASK_EVERY_NS, |_| asked += 1);
        assert_eq!(asked, 1);
        let mut lost = Vec::new();
        neighbors.expire(GIVE_UP_NS, |packet| lost.push(packet));
        assert_eq!((lost, neighbors.held()), (vec![7], 0));
    }

    #[test]
    fn forged_questions_and_absent_addresses_leave_the_underlay_its_room() {
        let mut neighbors = Neighbors::default();
        let on = |link: u16, host: u32| (VportId(link), IpAddr::from(std::net::Ipv4Addr::from_bits(host)));
        for host in 0..2 * CAPACITY as u32 {
            neighbors.learn(on(1, host), MAC, true, 0);
        }
        for host in 0..2 * CAPACITY as u32 {
            if neighbors.resolve(on(1, 1 << 20 | host), 0).is_some() {
                let _ = neighbors.hold(on(1, 1 << 20 | host), host);
            }
        }
        let vtep = (VportId::TUNNEL, IpAddr::from([192, 0, 2, 9]));
        assert!(neighbors.resolve(vtep, 0).is_some());
        assert_eq!(neighbors.hold(vtep, 1), Ok(()));
    }

    #[test]
    fn an_unasked_reply_adds_nobody_and_a_group_address_is_never_learned() {
        let mut neighbors = Neighbors::<u8>::default();
        neighbors.learn(key(), MAC, false, 0);
        neighbors.learn(key(), MacAddr::BROADCAST, true, 0);
        assert_eq!(neighbors.resolve(key(), 0), Some(Resolution { mac: None, ask: Some(Ask::Everybody) }));
    }

    #[test]
    fn a_neighbor_in_use_is_asked_again_before_it_is_forgotten() {
        let mut neighbors = Neighbors::<u8>::default();
        neighbors.learn(key(), MAC, true, 0);
        let known = Some(Resolution { mac: Some(MAC), ask: Some(Ask::Known(MAC)) });
        assert_eq!(neighbors.resolve(key(), STALE_NS), known);
        neighbors.expire(FORGET_NS, |_| ());
        let unknown = Some(Resolution { mac: None, ask: Some(Ask::Everybody) });
        assert_eq!(neighbors.resolve(key(), FORGET_NS), unknown);
    }

    /// Breaks if a forged address is asked for ever and the real station never hears the question.
    #[test]
    fn an_address_that_does_not_answer_is_asked_of_everybody() {
        let mut neighbors = Neighbors::<u8>::default();
        neighbors.learn(key(), MAC, true, 0);
        neighbors.resolve(key(), STALE_NS);
        let again = neighbors.resolve(key(), STALE_NS + ASK_EVERY_NS);
        assert_eq!(again, Some(Resolution { mac: Some(MAC), ask: Some(Ask::Everybody) }));
        neighbors.learn(key(), MAC, false, STALE_NS + ASK_EVERY_NS);
        let later = neighbors.resolve(key(), 2 * STALE_NS + ASK_EVERY_NS).and_then(|resolution| resolution.ask);
        assert_eq!(later, Some(Ask::Known(MAC)), "an answer makes it good again");
    }
}
