//! Flow keys as the table stores and hashes them: [`KeyImage`], 18 bytes, and [`Seed`].
//!
//! On the packet's path: every look into ExactTable packs its key and hashes it here.
//!
//! ```text
//!  addresses, 64 bits     IPv4: destination | source, as bytes in a frame      IPv6: a seeded hash of both
//!  ports, 64 bits         destination port | source port, likewise | IPv6? | vport | low 16 bits of the VNI
//!  rest, 16 bits          high 8 bits of the VNI | protocol
//! ```
//!
//! The image of an IPv4 key is the key. IPv6 addresses do not fit: what matches an IPv6 image is compared with the addresses
//! themselves, which lie beside the entries. Which of the two it is takes the bit that no vport has.
//!
//! **The hash.** Flow keys are chosen by whoever sends packets, so it is built of products of two factors, *each* masked by a
//! secret word: `fold(x, y)` is the exclusive or of both halves of the 128-bit product `(x ^ secret) * (y ^ other secret)`.
//! A sender knows differences between keys, but no factor. What a difference in `x` does to the product depends on all of the
//! unknown `y ^ other secret`, and the other way round; for keys to collide, the changes of both halves must be the same 64
//! bits, which for any difference holds for a vanishing part of the secrets. So keys that collide in one table are to
//! another one like any keys, and nothing that is prepared without the seed finds its line. (Where one factor is known, as in
//! many fast hashes, the effect of a difference depends on a few carries only, which can be guessed.) A second
//! product over the first one's result takes the linear order out that keys which are counted up still have after one.
//!
//! Invariant: equal keys of one table have equal images, and equal IPv4 images are equal keys.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{FiveTuple, FlowKey, Plain, Vni, VportId};
use shm::counters::MAX_VPORTS;

/// Source and destination of an IPv6 flow.
pub type V6Addresses = [[u8; 16]; 2];

/// A key in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyImage {
    /// Both addresses, or their hash.
    pub addresses: u64,
    /// Both ports, the vport, whether the addresses are IPv6, and the low half of the VNI.
    pub ports: u64,
    /// The rest of the VNI, and the protocol.
    pub rest: u16,
}

/// Of the word of ports: the addresses are IPv6.
const IS_V6: u64 = 1 << 31;
/// The vport's bits of the half word above the VNI.
const VPORT: u16 = 0x7fff;

const _: () = assert!(MAX_VPORTS <= VPORT as usize);

/// What makes one table's hash unlike any other's.
#[derive(Clone)]
pub struct Seed([u64; 12]);

impl Seed {
    /// A new one, from the system's source of randomness.
    pub fn new() -> Self {
        let system = RandomState::new(); // SipHash with keys from the system, its outputs tell nothing of each other
        Self(std::array::from_fn(|word| system.hash_one(word)))
    }

    /// The image of a key. The addresses of a five-tuple are of one family.
    #[inline(always)]
    pub fn image(&self, key: &FlowKey) -> KeyImage {
        let of_v6 = || KeyImage::new(key, self.hash_v6(key)).of_v6();
        KeyImage::of_v4(key).unwrap_or_else(of_v6)
    }

    /// The hash of an image, of which both halves are fit to choose a line, and its tag.
    ///
    /// The tag stands for `rest` where addresses and ports are known, and unlike it differs from key to key.
    #[inline(always)]
    pub fn hash(&self, image: &KeyImage) -> (u64, u16) {
        let Self([_, _, c, d, ..]) = self;
        let mixed = self.mix(image.addresses, image.ports);
        (fold(mixed ^ c, u64::from(image.rest) ^ d), image.rest ^ mixed as u16)
    }

    /// What makes a tag of `rest`, and `rest` of a tag.
    pub fn mask(&self, addresses: u64, ports: u64) -> u16 {
        self.mix(addresses, ports) as u16
    }

    #[inline(always)]
    fn mix(&self, addresses: u64, ports: u64) -> u64 {
        let Self([a, b, ..]) = self;
        fold(addresses ^ a, ports ^ b)
    }

    #[inline(never)] // inlined, it makes the compiler read IPv4 addresses byte by byte
    fn hash_v6(&self, key: &FlowKey) -> u64 {
        let Self([.., a, b, c, d, e, f]) = self;
        let [source, destination] = v6_addresses(key).map(u128::from_be_bytes);
        let source = fold((source >> 64) as u64 ^ a, source as u64 ^ b);
        let destination = fold((destination >> 64) as u64 ^ c, destination as u64 ^ d);
        fold(source ^ e, destination ^ f)
    }
}

#[cfg(test)]
impl Seed {
    /// The worst one there is: zeros make a product of zero.
    pub fn of_zeros() -> Self {
        Self([0; 12])
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(secret)")
    }
}

impl KeyImage {
    /// The image of an IPv4 key, which takes no seed.
    #[inline(always)]
    pub fn of_v4(key: &FlowKey) -> Option<Self> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (key.five_tuple.source, key.five_tuple.destination) else {
            return None;
        };
        let bytes = |address: Ipv4Addr| u64::from(u32::from_le_bytes(address.octets()));
        Some(Self::new(key, bytes(source) | bytes(destination) << 32))
    }

    /// The image of the key that a plain packet has at a vport of this network.
    #[inline(always)]
    pub fn of_plain(plain: &Plain, vport: VportId, vni: Vni) -> Self {
        Self::of_words(plain.addresses, plain.ports, plain.protocol(), vport, vni)
    }

    /// The image of the key that its answers have.
    #[inline(always)]
    pub fn of_answers(plain: &Plain, vport: VportId, vni: Vni) -> Self {
        Self::of_words(plain.addresses_reversed(), plain.ports_reversed(), plain.protocol(), vport, vni)
    }

    #[inline(always)]
    fn of_words(addresses: u64, ports: u32, protocol: u8, vport: VportId, vni: Vni) -> Self {
        let vni = vni.value();
        Self {
            addresses,
            ports: u64::from(ports) << 32 | u64::from(vport.0 & VPORT) << 16 | u64::from(vni as u16),
            rest: (vni >> 8) as u16 & 0xff00 | u16::from(protocol),
        }
    }

    #[inline(always)]
    fn new(key: &FlowKey, addresses: u64) -> Self {
        let FiveTuple { source_port, destination_port, protocol, .. } = key.five_tuple;
        let ports = u32::from(source_port.swap_bytes()) | u32::from(destination_port.swap_bytes()) << 16;
        Self::of_words(addresses, ports, protocol, key.vport, key.vni)
    }

    /// The same with addresses that are a hash.
    #[inline(always)]
    const fn of_v6(self) -> Self {
        Self { ports: self.ports | IS_V6, ..self }
    }

    /// True if the addresses are IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        is_v6(self.ports)
    }

    /// The key of this image. `v6` are its addresses if they are IPv6.
    pub fn key(&self, v6: &V6Addresses) -> FlowKey {
        let (source, destination) = if self.is_v6() {
            let [source, destination] = v6.map(Ipv6Addr::from);
            (IpAddr::V6(source), IpAddr::V6(destination))
        } else {
            let v4 = |bytes: u64| IpAddr::V4(Ipv4Addr::from((bytes as u32).to_le_bytes()));
            (v4(self.addresses), v4(self.addresses >> 32))
        };
        let vni = u32::from(self.rest & 0xff00) << 8 | self.ports as u32 & 0xffff;
        FlowKey {
            vport: VportId((self.ports >> 16) as u16 & VPORT),
            vni: Vni::new(vni).unwrap_or_default(), // 24 bits by construction
            five_tuple: FiveTuple {
                source,
                destination,
                source_port: ((self.ports >> 32) as u16).swap_bytes(),
                destination_port: ((self.ports >> 48) as u16).swap_bytes(),
                protocol: self.protocol(),
            },
        }
    }

    /// The IP protocol.
    pub const fn protocol(&self) -> u8 {
        self.rest as u8
    }
}

/// True if the word of ports is that of an IPv6 key.
#[inline(always)]
pub const fn is_v6(ports: u64) -> bool {
    ports & IS_V6 != 0
}

/// Both addresses of an IPv6 key.
pub fn v6_addresses(key: &FlowKey) -> V6Addresses {
    let wide = |address| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    [wide(key.five_tuple.source), wide(key.five_tuple.destination)]
}

/// Both halves of a product, one over the other.
#[inline(always)]
const fn fold(x: u64, y: u64) -> u64 {
    let product = x as u128 * y as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddrV4;

    use packet::build;
    use proptest::prelude::*;

    use super::*;

    /// Lines to choose from in these tests.
    const LINES: u64 = 1_024;

    fn v4(source: u32, destination: u32, ports: u32, vport: u16, vni: u32, protocol: u8) -> FlowKey {
        FlowKey {
            vport: VportId(vport),
            vni: Vni::new(vni & 0xff_ffff).unwrap(),
            five_tuple: FiveTuple {
                source: Ipv4Addr::from_bits(source).into(),
                destination: Ipv4Addr::from_bits(destination).into(),
                source_port: (ports >> 16) as u16,
                destination_port: ports as u16,
                protocol,
            },
        }
    }

    fn line(seed: &Seed, key: &FlowKey) -> u64 {
        ((seed.hash(&seed.image(key)).0 >> 32) * LINES) >> 32
    }

    proptest! {
        /// Breaks if a plain packet, or its answer, meets another flow than its parsed headers say.
        #[test]
        fn a_plain_packets_image_is_its_keys(
            source: SocketAddrV4,
            destination: SocketAddrV4,
            vport in 0..VPORT,
            vni in 0_u32..1 << 24,
            is_tcp: bool,
        ) {
            let (source, destination) = (source.into(), destination.into());
            let frame =
                if is_tcp { build::tcp(source, destination, 0x10, b"") } else { build::udp(source, destination, b"") };
            let plain = Plain::parse_of_flow(&frame).unwrap();
            let (vport, vni) = (VportId(vport), Vni::new(vni).unwrap());
            let key = FlowKey { vport, vni, five_tuple: plain.five_tuple() };
            prop_assert_eq!(Some(KeyImage::of_plain(&plain, vport, vni)), KeyImage::of_v4(&key));
            let answer = FlowKey { five_tuple: plain.five_tuple().reversed(), ..key };
            prop_assert_eq!(Some(KeyImage::of_answers(&plain, vport, vni)), KeyImage::of_v4(&answer));
        }

        /// Breaks if a field is cut, lies under another one, or comes back in another one's place.
        #[test]
        fn an_image_is_the_key(v4_addresses: [u32; 2], v6: Option<[u128; 2]>, ports: u32, vport in 0..VPORT, vni: u32, protocol: u8) {
            let mut key = v4(v4_addresses[0], v4_addresses[1], ports, vport, vni, protocol);
            if let Some([source, destination]) = v6 {
                key.five_tuple.source = Ipv6Addr::from_bits(source).into();
                key.five_tuple.destination = Ipv6Addr::from_bits(destination).into();
            }
            let seed = Seed::new();
            let image = seed.image(&key);
            prop_assert_eq!(image.is_v6(), v6.is_some());
            prop_assert_eq!(image.key(&v6_addresses(&key)), key);
            prop_assert_eq!(seed.hash(&image).1 ^ seed.mask(image.addresses, image.ports), image.rest);
        }
    }

    /// Who has found keys that collide in a table can't hurt another one with them.
    #[test]
    fn keys_that_meet_under_one_seed_part_under_others() {
        let keys = |number: u32| v4(0x0a00_0000 + number % 251, 0xc0a8_0001, number.rotate_left(16), 1, 100, 6);
        let broken = Seed::new();
        let same: Vec<FlowKey> = (0..200_000).map(keys).filter(|key| line(&broken, key) == 7).collect();
        assert!(same.len() > 100, "the search found {}", same.len());
        for _ in 0..32 {
            let seed = Seed::new();
            let mut counts = HashMap::new();
            same.iter().for_each(|key| *counts.entry(line(&seed, key)).or_insert(0) += 1);
            assert!(counts.values().all(|&count| count < 10), "{counts:?}");
        }
    }

    /// The same for differences: pairs that collide in one table, in all the ways a sender can make them, do so in another one as
    /// often as any pairs. Breaks if some difference survives the seed, as it would if a factor were known.
    #[test]
    fn differences_that_collide_under_one_seed_do_not_under_others() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut near = |key: &FlowKey| {
            let FlowKey { vport, vni, five_tuple } = *key;
            let image = Seed::of_zeros().image(key);
            let (a, b) = (1 << random.u32(..32), 1 << random.u32(..32));
            let protocol = if random.bool() { 6 } else { 17 };
            let (source, destination) = (image.addresses as u32, (image.addresses >> 32) as u32);
            let ports = u32::from(five_tuple.source_port) << 16 | u32::from(five_tuple.destination_port);
            match random.u8(..4) {
                0 => v4(source ^ a, destination ^ b, ports, vport.0, vni.value(), protocol),
                1 => v4(source ^ a, destination, ports ^ b, vport.0, vni.value(), protocol),
                2 => v4(source, destination ^ a, ports ^ b, vport.0, vni.value(), protocol),
                _ => v4(destination, source, ports.rotate_left(16) ^ a, vport.0, vni.value(), protocol),
            }
        };
        let seeds: [Seed; 9] = std::array::from_fn(|_| Seed::new());
        let pairs: Vec<[FlowKey; 2]> = (0..1_000_000_u32)
            .map(|number| v4(number.wrapping_mul(0x9e37_79b9), 0xc0a8_0001, number << 8 | 443, 1, 100, 6))
            .map(|key| [key, near(&key)])
            .filter(|[key, other]| key != other && line(&seeds[0], key) == line(&seeds[0], other))
            .collect();
        assert!(pairs.len() > 500, "the search found {}", pairs.len());
        for seed in &seeds[1..] {
            let still = pairs.iter().filter(|[key, other]| line(seed, key) == line(seed, other)).count();
            assert!(still < 16, "{still} of {} pairs collide again, one is to be expected", pairs.len());
        }
    }

    /// Breaks if keys that are counted up, in any field, fall into few lines under some seeds.
    #[test]
    fn keys_in_order_spread_like_any_keys() {
        let patterns: [fn(u32) -> FlowKey; 6] = [
            |n| v4(n, 0xc0a8_0001, 443, 1, 100, 6),
            |n| v4(0x0a00_0001, n << 8, 443, 1, 100, 6),
            |n| v4(0x0a00_0001, 0xc0a8_0001, n << 16 | 443, 1, 100, 17),
            |n| v4(n, n, n << 16 | n, 1, 100, 17),
            |n| v4(n << 12, 0xc0a8_0001, n, 1, 100, 6),
            |n| v4(0x0a00_0001, 0xc0a8_0001, 443, n as u16 & VPORT, n >> 8, n as u8),
        ];
        for seed in std::array::from_fn::<_, 16, _>(|_| Seed::new()) {
            for (at, pattern) in patterns.iter().enumerate() {
                let mut counts = [0_u32; LINES as usize];
                (0..8 * LINES as u32).for_each(|number| counts[line(&seed, &pattern(number)) as usize] += 1);
                let most = counts.iter().max().unwrap();
                assert!(*most < 40, "pattern {at}: {most} keys in one of {LINES} lines, 8 in the mean");
            }
        }
    }
}
