//! The payload of the UDP packets that the client sends and the echo server sends back: 24 bytes, network byte order.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+-------+-------+-------+-------+-------+-------+
//! |                     magic, "TWPB" (54 57 50 42)               |
//! +---------------+---------------+-------------------------------+
//! |  0 ask 1 reply|   sequence    |           zero                |
//! +---------------+---------------+-------------------------------+
//! |                        session (64 bits)                      |
//! |                                                               |
//! +---------------------------------------------------------------+
//! |                          flow (64 bits)                       |
//! |                                                               |
//! +---------------------------------------------------------------+
//! ```
//!
//! The session is random per client, so that an answer to an earlier run is not taken for this one's. The server answers only
//! what asks, so that two servers can't keep a packet going between them.

/// Length of a payload, bytes.
pub const LENGTH: usize = 24;

const MAGIC: [u8; 4] = *b"TWPB";
const ASK: u8 = 0;
const REPLY: u8 = 1;

/// The flow number of the packets that look for the server before a run; no flow of a run has it.
pub const GREETING: u64 = u64::MAX;

/// A payload's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The client's run.
    pub session: u64,
    /// The flow.
    pub flow: u64,
    /// The packet's place in it.
    pub sequence: u8,
}

impl Probe {
    /// The payload that asks for a reply.
    pub fn ask(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = ASK;
        bytes[5] = self.sequence;
        bytes[8..16].copy_from_slice(&self.session.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.flow.to_be_bytes());
        bytes
    }

    /// Reads a reply; anything else is none.
    pub fn from_reply(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let [a, b, c, d, REPLY, sequence, 0, 0, rest @ ..] = *bytes else { return None };
        if [a, b, c, d] != MAGIC {
            return None;
        }
        let (session, flow) = rest.split_first_chunk::<8>()?;
        let flow = u64::from_be_bytes(flow.try_into().ok()?);
        Some(Self { session: u64::from_be_bytes(*session), flow, sequence })
    }
}

/// Turns a payload that asks into its reply, in place; false if it does not ask, and nothing is changed.
pub fn turn_into_reply(bytes: &mut [u8]) -> bool {
    if bytes.len() != LENGTH || bytes[..4] != MAGIC || bytes[4] != ASK {
        return false;
    }
    bytes[4] = REPLY;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_says_what_was_asked() {
        let probe = Probe { session: 0x0102_0304_0506_0708, flow: 9, sequence: 63 };
        let mut bytes = probe.ask();
        assert_eq!(Probe::from_reply(&bytes), None);
        assert!(turn_into_reply(&mut bytes));
        assert_eq!(Probe::from_reply(&bytes), Some(probe));
    }

    #[test]
    fn a_reply_is_never_answered_so_two_servers_cannot_loop() {
        let mut bytes = Probe { session: 1, flow: 2, sequence: 3 }.ask();
        assert!(turn_into_reply(&mut bytes));
        assert!(!turn_into_reply(&mut bytes));
    }

    #[test]
    fn other_traffic_is_neither_answered_nor_counted() {
        let long = [0x54; 1_500];
        for other in [&b""[..], &b"TWPB"[..], &[0; LENGTH][..], &long[..]] {
            assert!(!turn_into_reply(&mut other.to_vec()));
            assert_eq!(Probe::from_reply(other), None);
        }
    }
}
