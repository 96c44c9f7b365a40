//! The Internet checksum: whole (RFC 1071), updated in place (RFC 1624), and over pseudo headers (RFC 9293, RFC 8200).
//!
//! On the packet's path: verified where a frame comes in, updated wherever a header field changes, made whole only in
//! packets that the host writes itself.
//!
//! Shapes: bytes in network order; a checksum is a `u16` in host order. Byte runs start at an even offset of what the
//! checksum covers, unless a function says otherwise.
//!
//! Invariant: a checksum that was right before an update is, bit for bit, what a full computation gives after it.
//! Nothing here fails.

use std::net::IpAddr;

/// A ones' complement sum in the making (RFC 1071 section 1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing summed yet.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes that begin at an even offset; an odd last byte is padded with zero, so only the last run may be odd.
    #[must_use]
    #[inline(always)]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Summed in the machine's byte order and swapped once at the end (RFC 1071 section 2B). A frame has at most 2^14
        // such words, so the 64-bit sum can't overflow.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut native: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let (pairs, odd) = rest.as_chunks::<2>();
        native += pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum::<u64>();
        native += odd.iter().map(|byte| u64::from(u16::from_ne_bytes([*byte, 0]))).sum::<u64>();
        Self(self.0 + u64::from(u16::from_be(fold(native))))
    }

    /// Adds one 16-bit word, in host order.
    #[must_use]
    #[inline]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// The sum, folded to 16 bits and not complemented; 0xffff over data that includes a right checksum.
    #[inline]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum: the complement of the sum.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }
}

const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Both halves of a sum added up, and their carry to that, which is then the upper half of the sum and its halves exchanged.
#[inline(always)]
pub(crate) const fn fold_word(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum of some bytes, an IPv4 header for one (with its checksum field zeroed).
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// True if bytes that include their checksum sum up rightly.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    Sum::new().bytes(bytes).folded() == 0xffff
}

/// The pseudo header that TCP, UDP and ICMPv6 checksums cover: addresses, protocol, length of the transport header and
/// payload in bytes (RFC 9293 section 3.1, RFC 8200 section 8.1). Addresses of different families don't make a pseudo
/// header; each is then summed as it is.
#[must_use]
#[inline]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Sum {
    let add = |sum: Sum, address: IpAddr| match address {
        IpAddr::V4(address) => sum.bytes(&address.octets()),
        IpAddr::V6(address) => sum.bytes(&address.octets()),
    };
    add(add(Sum::new(), source), destination).bytes(&length.to_be_bytes()).word(u16::from(protocol))
}

/// A UDP checksum as it is sent: zero means "none", so a computed zero is sent as all ones (RFC 768).
#[inline]
pub const fn udp_on_the_wire(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// What a change of bytes does to every checksum that covers them: Σ (~m + m') of RFC 1624 equation 3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(Sum);

impl Delta {
    /// Nothing changed.
    pub const fn none() -> Self {
        Self(Sum::new())
    }

    /// The change from `old` to `new`, runs of one length at an even offset of what the checksum covers.
    #[must_use]
    #[inline]
    pub fn of_bytes(old: &[u8], new: &[u8]) -> Self {
        let mut delta = Self::none();
        for (old, new) in old.chunks(2).zip(new.chunks(2)) {
            delta = delta.and_word(word(old), word(new));
        }
        delta
    }

    /// The change of one 16-bit word, in host order.
    #[must_use]
    #[inline]
    pub const fn of_word(old: u16, new: u16) -> Self {
        Self::none().and_word(old, new)
    }

    /// The change of one 16-bit word that lies at an odd offset: its bytes count the other way round.
    #[must_use]
    #[inline]
    pub const fn of_odd_word(old: u16, new: u16) -> Self {
        Self::of_word(old.swap_bytes(), new.swap_bytes())
    }

    /// This change and that of one more word.
    #[must_use]
    #[inline]
    pub const fn and_word(self, old: u16, new: u16) -> Self {
        Self(self.0.word(!old).word(new))
    }

    /// The checksum after the change: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3).
    #[must_use]
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        self.0.word(!checksum).checksum()
    }
}

fn word(bytes: &[u8]) -> u16 {
    match bytes {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        [high] => u16::from_be_bytes([*high, 0]),
        [] => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 3 gives the sum of these bytes as 2ddf0, folded ddf2.
    #[test]
    fn the_sum_is_that_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().bytes(&bytes).folded(), 0xddf2);
        assert_eq!(of(&bytes), !0xddf2);
    }

    /// RFC 1624 section 4: "HC' = ~(~HC + ~m + m')" gives 0x0000 for this header, where equation 2 of RFC 1141 gives 0xffff.
    #[test]
    fn the_update_is_that_of_rfc_1624() {
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn a_run_of_odd_length_is_padded_with_a_zero_behind_it() {
        assert_eq!(Sum::new().bytes(&[1, 2, 3]), Sum::new().bytes(&[1, 2, 3, 0]));
        assert_eq!(Sum::new().bytes(&[1]).folded(), 0x0100);
        assert_eq!(Sum::new().bytes(&[]).folded(), 0);
    }

    /// RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
    #[test]
    fn a_computed_udp_checksum_of_zero_is_sent_as_all_ones() {
        assert_eq!(udp_on_the_wire(0), 0xffff);
        assert_eq!(udp_on_the_wire(1), 1);
    }

    /// The definition, one 16-bit word at a time.
    fn plain_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(word(pair));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn the_wide_sum_equals_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(Sum::new().bytes(&bytes).folded(), plain_sum(&bytes));
        }

        /// Breaks if a carry is lost, which a wide sum's last one easily is.
        #[test]
        fn a_word_folds_like_a_wide_sum(upper in prop_oneof![any::<u16>(), 0xfffc_u16..], lower in prop_oneof![any::<u16>(), 0xfffc_u16..]) {
            let sum = u32::from(upper) << 16 | u32::from(lower);
            prop_assert_eq!(fold_word(sum), fold(u64::from(sum)));
        }

        #[test]
        fn all_ones_do_not_overflow_the_sum(words in 0usize..35_000) {
            let bytes = vec![0xff; words * 2];
            prop_assert_eq!(Sum::new().bytes(&bytes).bytes(&bytes).folded(), plain_sum(&bytes));
        }

        #[test]
        fn an_update_equals_a_full_computation(
            mut bytes in prop::collection::vec(any::<u8>(), 42..100),
            at in 0usize..20,
            new in any::<[u8; 4]>(),
        ) {
            bytes[41] = 1; // A sum of nothing but zeros is the one case of two right answers.
            let before = of(&bytes);
            let field = &mut bytes[at * 2..at * 2 + 4];
            let delta = Delta::of_bytes(field, &new);
            field.copy_from_slice(&new);
            // The field may have covered the marker.
            prop_assume!(bytes.iter().any(|byte| *byte != 0));
            prop_assert_eq!(delta.apply(before), of(&bytes));
        }

        #[test]
        fn an_update_at_an_odd_offset_equals_a_full_computation(
            mut bytes in prop::collection::vec(any::<u8>(), 42..100),
            at in 0usize..19,
            new in any::<u16>(),
        ) {
            bytes[41] = 1;
            let before = of(&bytes);
            let old = word(&bytes[at * 2 + 1..]);
            bytes[at * 2 + 1..at * 2 + 3].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(Delta::of_odd_word(old, new).apply(before), of(&bytes));
        }
    }
}
