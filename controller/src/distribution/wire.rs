//! One connection between two controllers: bytes in, letters out, and the other way; no I/O here.
//!
//! ```text
//!  preamble   "TOWPATH" 0x01, then 0 (plain) or 1 (Noise)
//!  Noise      u16 length, handshake message   → e with the shared key; ← e, ee   (Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s)
//!             u16 length, encrypted bytes, …
//!  frames     u32 length, JSON: first a Hello, then Letters
//! ```
//!
//! Lengths are little-endian. In plain mode frames follow the preamble directly; with Noise they are the decrypted bytes.
//!
//! Invariants: never more is kept than [`MAX_FRAME`] and a little; before the other side has proved who it is, than
//! [`MAX_HELLO`].
//!
//! Errors: [`WireError`]; the connection is of no use afterwards. Source: the Noise Protocol Framework, revision 34.

use serde::{Deserialize, Serialize};
use snow::{Builder, HandshakeState, TransportState};

use super::{Key, Letter};

const PREAMBLE: &[u8; 8] = b"TOWPATH\x01";
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Counted up when what is said changes its meaning.
const PROTOCOL: u32 = 2;
/// The longest letter, bytes.
pub(super) const MAX_FRAME: usize = 32 << 20;
/// The longest Hello, bytes.
pub(super) const MAX_HELLO: usize = 1_024;
/// Noise's longest message, and its authentication tag, bytes.
const MAX_RECORD: usize = 65_535;
const TAG_BYTES: usize = 16;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(
        "it does not speak the controllers' protocol; is its `controller:` address right, and its release the same?"
    )]
    Preamble,
    #[error("it uses a key and this host does not; start all controllers with the same --key-file")]
    TheyHaveKey,
    #[error("it uses no key and this host does; start all controllers with the same --key-file")]
    WeHaveKey,
    #[error("it has another key; give all controllers the same --key-file")]
    Key,
    #[error("it sent a frame of {0} bytes, more than is allowed")]
    TooLong(usize),
    #[error("it sent what this release does not understand ({0}); run the same release on all hosts")]
    Unreadable(serde_json::Error),
    #[error("it speaks protocol {0}, this release speaks {PROTOCOL}; run the same release on all hosts")]
    Protocol(u32),
    #[error(
        "it calls itself `{from}` and looks for `{to}`; correct --host, or the `controller:` addresses of the file"
    )]
    Name { from: String, to: String },
}

/// Who is there, and whom it looks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    towpath: u32,
    from: String,
    to: String,
}

enum Cipher {
    Plain,
    Shaking(Box<HandshakeState>),
    Noise(Box<TransportState>),
}

/// What a connection brought.
#[derive(Debug, PartialEq)]
pub(super) enum Arrived {
    /// The other side is this host.
    Peer(String),
    /// It said this.
    Letter(Box<Letter>),
}

/// One connection.
pub(super) struct Wire {
    me: String,
    initiates: bool,
    /// Whom we called; who calls us says so itself.
    peer: Option<String>,
    known: bool,
    greeted: bool,
    has_key: bool,
    cipher: Cipher,
    /// As they came.
    encrypted: Vec<u8>,
    /// Frames, decrypted.
    plain: Vec<u8>,
    /// To be sent.
    pub(super) outgoing: Vec<u8>,
}

impl Wire {
    /// Of a connection that this host made to a peer, or of one that was made to it.
    pub(super) fn new(me: &str, peer: Option<&str>, key: Option<&Key>) -> Self {
        let initiates = peer.is_some();
        let mut wire = Self {
            me: me.to_owned(),
            initiates,
            peer: peer.map(str::to_owned),
            known: false,
            greeted: false,
            has_key: key.is_some(),
            cipher: key.and_then(|key| handshake(key, initiates)).map_or(Cipher::Plain, Cipher::Shaking),
            encrypted: Vec::new(),
            plain: Vec::new(),
            outgoing: PREAMBLE.to_vec(),
        };
        wire.outgoing.push(u8::from(wire.has_key));
        if initiates {
            wire.shake();
            if !wire.has_key {
                wire.say_hello();
            }
        }
        wire
    }

    /// Writes our next message of the handshake.
    fn shake(&mut self) {
        let Cipher::Shaking(state) = &mut self.cipher else { return };
        let mut message = [0; 256];
        if let Ok(length) = state.write_message(&[], &mut message) {
            record(&mut self.outgoing, &message[..length]);
        }
    }

    fn say_hello(&mut self) {
        let Some(to) = self.peer.clone() else { return };
        let hello = Hello { towpath: PROTOCOL, from: self.me.clone(), to };
        if let Ok(text) = serde_json::to_vec(&hello) {
            self.frame(&text);
        }
    }

    /// Queues a letter.
    pub(super) fn send(&mut self, letter: &Letter) {
        match serde_json::to_vec(letter) {
            Ok(text) if text.len() <= MAX_FRAME => self.frame(&text),
            Ok(text) => tracing::error!("a letter of {} bytes is too long to be sent", text.len()),
            Err(error) => tracing::error!("a letter can't be written: {error}"),
        }
    }

    fn frame(&mut self, text: &[u8]) {
        let length = (text.len() as u32).to_le_bytes();
        match &mut self.cipher {
            Cipher::Noise(state) => {
                let bytes = [&length, text].concat();
                let mut sealed = vec![0; MAX_RECORD];
                for chunk in bytes.chunks(MAX_RECORD - TAG_BYTES) {
                    // It fails only for messages that are too long, and after 2^64 of them.
                    if let Ok(length) = state.write_message(chunk, &mut sealed) {
                        record(&mut self.outgoing, &sealed[..length]);
                    }
                }
            }
            _ => {
                self.outgoing.extend(length);
                self.outgoing.extend(text);
            }
        }
    }

    /// True once the other side is known.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Takes bytes as they came; what they brought.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Arrived>, WireError> {
        self.encrypted.extend(bytes);
        let mut arrived = Vec::new();
        if !self.greeted && !self.read_preamble()? {
            return Ok(arrived);
        }
        self.decrypt()?;
        while let Some(text) = self.next_frame()? {
            if self.known {
                let letter = serde_json::from_slice(&text).map_err(WireError::Unreadable)?;
                arrived.push(Arrived::Letter(letter));
            } else {
                arrived.push(Arrived::Peer(self.meet(&text)?));
            }
        }
        Ok(arrived)
    }

    fn read_preamble(&mut self) -> Result<bool, WireError> {
        let seen = self.encrypted.len().min(PREAMBLE.len());
        if self.encrypted[..seen] != PREAMBLE[..seen] {
            return Err(WireError::Preamble);
        }
        let Some(mode) = self.encrypted.get(PREAMBLE.len()).copied() else { return Ok(false) };
        match (mode, self.has_key) {
            (0, false) | (1, true) => {}
            (0, true) => return Err(WireError::WeHaveKey),
            (1, false) => return Err(WireError::TheyHaveKey),
            _ => return Err(WireError::Preamble),
        }
        self.encrypted.drain(..=PREAMBLE.len());
        self.greeted = true;
        Ok(true)
    }

    fn decrypt(&mut self) -> Result<(), WireError> {
        if matches!(self.cipher, Cipher::Plain) {
            self.plain.append(&mut self.encrypted);
            return Ok(());
        }
        let mut at = 0;
        let mut opened = vec![0; MAX_RECORD];
        while let Some(header) = self.encrypted.get(at..at + 2) {
            let length = usize::from(u16::from_le_bytes([header[0], header[1]]));
            let Some(message) = self.encrypted.get(at + 2..at + 2 + length) else { break };
            at += 2 + length;
            match &mut self.cipher {
                Cipher::Noise(state) => {
                    let length = state.read_message(message, &mut opened).map_err(|_| WireError::Key)?;
                    self.plain.extend(&opened[..length]);
                }
                Cipher::Shaking(state) => {
                    state.read_message(message, &mut opened).map_err(|_| WireError::Key)?;
                    self.shaken()?;
                }
                Cipher::Plain => {}
            }
        }
        self.encrypted.drain(..at);
        Ok(())
    }

    /// The other side's handshake message was right: answer it if it is our turn, then all is encrypted.
    fn shaken(&mut self) -> Result<(), WireError> {
        if !self.initiates {
            self.shake();
        }
        match std::mem::replace(&mut self.cipher, Cipher::Plain) {
            Cipher::Shaking(state) => {
                let state = state.into_transport_mode().map_err(|_| WireError::Key)?;
                self.cipher = Cipher::Noise(Box::new(state));
            }
            other => self.cipher = other,
        }
        if self.initiates {
            self.say_hello();
        }
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        let Some(header) = self.plain.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        let limit = if self.known { MAX_FRAME } else { MAX_HELLO };
        if length > limit {
            return Err(WireError::TooLong(length));
        }
        if self.plain.len() < 4 + length {
            return Ok(None);
        }
        let text = self.plain[4..4 + length].to_vec();
        self.plain.drain(..4 + length);
        Ok(Some(text))
    }

    fn meet(&mut self, text: &[u8]) -> Result<String, WireError> {
        let hello: Hello = serde_json::from_slice(text).map_err(WireError::Unreadable)?;
        if hello.towpath != PROTOCOL {
            return Err(WireError::Protocol(hello.towpath));
        }
        let expected = self.peer.as_ref().is_none_or(|peer| *peer == hello.from);
        if hello.to != self.me || hello.from == self.me || !expected {
            return Err(WireError::Name { from: hello.from, to: hello.to });
        }
        self.known = true;
        if self.peer.is_none() {
            self.peer = Some(hello.from.clone());
            self.say_hello();
        }
        Ok(hello.from)
    }
}

fn handshake(key: &Key, initiates: bool) -> Option<Box<HandshakeState>> {
    let builder = Builder::new(PATTERN.parse().ok()?).psk(0, key.bytes()).ok()?;
    let state = if initiates { builder.build_initiator() } else { builder.build_responder() };
    state.ok().map(Box::new)
}

fn record(outgoing: &mut Vec<u8>, message: &[u8]) {
    outgoing.extend((message.len() as u16).to_le_bytes());
    outgoing.extend(message);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::distribution::Message;

    fn letter() -> Letter {
        Letter::Version(Message::Fetch)
    }

    /// Both ends until nothing is said any more, byte by byte if so wished.
    fn talk(a: &mut Wire, b: &mut Wire, piece: usize) -> Result<(Vec<Arrived>, Vec<Arrived>), WireError> {
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        while !a.outgoing.is_empty() || !b.outgoing.is_empty() {
            for chunk in std::mem::take(&mut a.outgoing).chunks(piece) {
                at_b.extend(b.receive(chunk)?);
            }
            for chunk in std::mem::take(&mut b.outgoing).chunks(piece) {
                at_a.extend(a.receive(chunk)?);
            }
        }
        Ok((at_a, at_b))
    }

    fn pair(ours: Option<&Key>, theirs: Option<&Key>) -> (Wire, Wire) {
        (Wire::new("host1", Some("host2"), ours), Wire::new("host2", None, theirs))
    }

    /// Breaks if the two ends do not come to know each other, with and without a key, however the bytes are cut.
    #[test]
    fn two_ends_meet_and_talk() {
        let key = Key::of(b"secret");
        for key in [None, Some(&key)] {
            for piece in [1, 7, 100_000] {
                let (mut a, mut b) = pair(key, key);
                let (at_a, at_b) = talk(&mut a, &mut b, piece).unwrap();
                assert_eq!(at_a, [Arrived::Peer("host2".into())]);
                assert_eq!(at_b, [Arrived::Peer("host1".into())]);
                a.send(&letter());
                b.send(&letter());
                let (at_a, at_b) = talk(&mut a, &mut b, piece).unwrap();
                assert_eq!((at_a.len(), at_b), (1, vec![Arrived::Letter(Box::new(letter()))]));
            }
        }
    }

    #[test]
    fn a_long_letter_passes_in_several_records() {
        let key = Key::of(b"secret");
        let (mut a, mut b) = pair(Some(&key), Some(&key));
        talk(&mut a, &mut b, 100_000).unwrap();
        let long = Letter::Ask { ticket: 1, question: "x".repeat(1 << 20) };
        a.send(&long);
        let (_, at_b) = talk(&mut a, &mut b, 4_096).unwrap();
        assert_eq!(at_b, [Arrived::Letter(Box::new(long))]);
    }

    #[test]
    fn another_key_and_none_are_told_apart() {
        let (key, other) = (Key::of(b"secret"), Key::of(b"other"));
        let problem = |ours, theirs| {
            let (mut a, mut b) = pair(ours, theirs);
            talk(&mut a, &mut b, 1_000).unwrap_err()
        };
        assert!(matches!(problem(Some(&key), Some(&other)), WireError::Key));
        assert!(matches!(problem(Some(&key), None), WireError::TheyHaveKey));
        assert!(matches!(problem(None, Some(&key)), WireError::WeHaveKey));
    }

    #[test]
    fn a_wrong_name_is_refused_on_both_ends() {
        let mut a = Wire::new("host1", Some("host3"), None);
        let mut b = Wire::new("host2", None, None);
        assert!(matches!(talk(&mut a, &mut b, 1_000).unwrap_err(), WireError::Name { to, .. } if to == "host3"));
    }

    #[test]
    fn what_is_said_before_the_greeting_is_short() {
        let mut wire = Wire::new("host2", None, None);
        let hostile = [&PREAMBLE[..], &[0], &u32::MAX.to_le_bytes()].concat();
        assert!(matches!(wire.receive(&hostile).unwrap_err(), WireError::TooLong(_)));
    }

    proptest! {
        /// Breaks if any bytes make a connection panic, or grow without end.
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2_000), greets in any::<bool>(), keyed in any::<bool>()) {
            let key = Key::of(b"secret");
            let mut wire = Wire::new("host2", None, keyed.then_some(&key));
            if greets {
                let _ = wire.receive(&[&PREAMBLE[..], &[u8::from(keyed)]].concat());
            }
            let _ = wire.receive(&bytes);
        }

        /// Breaks if a changed byte of an encrypted conversation passes.
        #[test]
        fn a_changed_byte_is_seen(at in 0..100_usize, flip in 1..=255_u8) {
            let key = Key::of(b"secret");
            let (mut a, mut b) = pair(Some(&key), Some(&key));
            talk(&mut a, &mut b, 100_000).unwrap();
            a.send(&letter());
            let mut bytes = std::mem::take(&mut a.outgoing);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let arrived = b.receive(&bytes);
            prop_assert!(!matches!(arrived, Ok(letters) if !letters.is_empty()));
        }
    }
}
