//! Flow keys as the table stores and hashes them: [`KeyImage`], 18 bytes, and [`Seed`].
//!
//! On the packet's path: every look into ExactTable packs its key and hashes it here.
//!
//! ```text
//!  addresses, 64 bits     IPv4: source, destination        IPv6: a seeded hash of both
//!  ports, 64 bits         source port | destination port | vport | low 16 bits of the VNI
//!  rest, 16 bits          high 8 bits of the VNI | protocol
//! ```
//!
//! The image of an IPv4 key is the key. IPv6 addresses do not fit: what matches an IPv6 image is compared with the addresses
//! themselves, which lie beside the entries. Which of the two it is takes one bit more, `is_v6`.
//!
//! **The hash.** Flow keys are chosen by whoever sends packets, so it is built of products of two factors, *each* masked by a
//! secret word: `fold(x, y)` is the exclusive or of both halves of the 128-bit product `(x ^ secret) * (y ^ other secret)`.
//! A sender knows differences between keys, but no factor. What a difference in `x` does to the product depends on all of the
//! unknown `y ^ other secret`, and the other way round; for keys to collide, the changes of both halves must be the same 64
//! bits, which for any difference holds for a vanishing part of the secrets. So keys that collide in one table are to
//! another one like any keys, and nothing that is prepared without the seed finds its line. (A product with a known
//! factor, as many fast hashes have, lacks this: there differences exist that collide for one seed in thousands.) A second
//! product over the first one's result takes the linear order out, which keys that are counted up still have after one.
//!
//! Invariant: equal keys of one table have equal images, and equal IPv4 images are equal keys.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{FiveTuple, FlowKey, Vni, VportId};

/// Source and destination of an IPv6 flow.
pub type V6Addresses = [[u8; 16]; 2];

/// A key in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyImage {
    /// Both addresses, or their hash.
    pub addresses: u64,
    /// Both ports, the vport and the low half of the VNI.
    pub ports: u64,
    /// The rest of the VNI, and the protocol.
    pub rest: u16,
    /// The addresses are IPv6.
    pub is_v6: bool,
}

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
        let FiveTuple { source, destination, source_port, destination_port, protocol } = key.five_tuple;
        let (addresses, is_v6) = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()), false)
            }
            _ => (self.hash_v6(key), true),
        };
        let vni = key.vni.value();
        let ports = u64::from(source_port) << 48
            | u64::from(destination_port) << 32
            | u64::from(key.vport.0) << 16
            | u64::from(vni as u16);
        KeyImage { addresses, ports, rest: (vni >> 8) as u16 & 0xff00 | u16::from(protocol), is_v6 }
    }

    /// The hash of an image; both halves are fit to choose a line.
    #[inline(always)]
    pub fn hash(&self, image: &KeyImage) -> u64 {
        let Self([a, b, c, d, ..]) = self;
        let rest = u64::from(image.rest) | u64::from(image.is_v6) << 16;
        fold(fold(image.addresses ^ a, image.ports ^ b) ^ c, rest ^ d)
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

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(secret)")
    }
}

impl KeyImage {
    /// The key of this image. `v6` are its addresses if they are IPv6.
    pub fn key(&self, v6: &V6Addresses) -> FlowKey {
        let (source, destination) = if self.is_v6 {
            let [source, destination] = v6.map(Ipv6Addr::from);
            (IpAddr::V6(source), IpAddr::V6(destination))
        } else {
            let v4 = |bits: u64| IpAddr::V4(Ipv4Addr::from_bits(bits as u32));
            (v4(self.addresses >> 32), v4(self.addresses))
        };
        let vni = u32::from(self.rest & 0xff00) << 8 | self.ports as u32 & 0xffff;
        FlowKey {
            vport: VportId((self.ports >> 16) as u16),
            vni: Vni::new(vni).unwrap_or_default(), // 24 bits by construction
            five_tuple: FiveTuple {
                source,
                destination,
                source_port: (self.ports >> 48) as u16,
                destination_port: (self.ports >> 32) as u16,
                protocol: self.protocol(),
            },
        }
    }

    /// The IP protocol.
    pub const fn protocol(&self) -> u8 {
        self.rest as u8
    }
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
