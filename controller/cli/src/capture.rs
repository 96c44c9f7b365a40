//! `towpath capture`: writes what passes a hop to a pcapng file.
//!
//! The controller sends the file's bytes as they come to be; they are passed on as they are, and blocks are only counted
//! (pcapng, draft-ietf-opsawg-pcapng: every block starts with its type and its length, both 32 bits).

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::net::Shutdown;

use controller::api::{CounterKind, Request, Response};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Failure;
use crate::arguments::{CaptureOptions, Which};
use crate::connection;

const ENHANCED_PACKET: u32 = 6;
const BLOCK_HEADER: usize = 8;
/// Larger than any block that a controller sends.
const MAX_BLOCK: usize = 1 << 20;

/// Captures until the count is reached, a signal comes, or the controller ends.
pub fn run(which: &Which, options: &CaptureOptions) -> Result<(), Failure> {
    let client = connection::connect(which)?;
    let missed_before = missed(which)?;
    let (at, mut stream) = client.capture(&options.at, options.snap)?;
    let file = options.write.display().to_string();
    let out =
        File::create(&options.write).map_err(|error| Failure::Other(format!("{file}: can't be written: {error}")))?;
    let socket = stream.try_clone_socket()?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let ender = std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = socket.shutdown(Shutdown::Both); // it may be closed already
        }
    });
    eprintln!("capturing at {}; end with Ctrl-C", at.join(", "));
    let packets = copy_blocks(&mut stream, BufWriter::new(out), options.count)
        .map_err(|error| Failure::Other(format!("{file}: {error}")))?;
    handle.close();
    let _ = ender.join(); // it only waits for signals
    let missed = missed(which).unwrap_or(missed_before).saturating_sub(missed_before);
    eprintln!(
        "{packets} packets written to {file}, {missed} missed because they came faster than they could be written"
    );
    Ok(())
}

/// Copies whole blocks until the stream ends or enough packets are written; returns how many.
fn copy_blocks(stream: &mut impl Read, mut out: impl Write, count: Option<u64>) -> std::io::Result<u64> {
    let mut packets = 0;
    let mut block = Vec::new();
    while count.is_none_or(|count| packets < count) {
        let mut header = [0; BLOCK_HEADER];
        if stream.read_exact(&mut header).is_err() {
            break; // the end, or a block that was cut off by it
        }
        let [kind, length] =
            [0, 4].map(|at| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let length = length as usize;
        if !(BLOCK_HEADER..=MAX_BLOCK).contains(&length) {
            return Err(std::io::Error::other(format!("the controller sent a block of {length} bytes")));
        }
        block.resize(length - BLOCK_HEADER, 0);
        if stream.read_exact(&mut block).is_err() {
            break;
        }
        out.write_all(&header)?;
        out.write_all(&block)?;
        out.flush()?;
        packets += u64::from(kind == ENHANCED_PACKET);
    }
    Ok(packets)
}

/// How many copies the lcores could not make so far.
fn missed(which: &Which) -> Result<u64, Failure> {
    let Response::Counters(counters) = connection::ask(which, &Request::Counters)? else { return Ok(0) };
    let of_lcores = counters.rows.iter().filter(|row| row.kind == CounterKind::Lcore);
    Ok(of_lcores.filter_map(|row| row.values.get("capture_missed")).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = (BLOCK_HEADER + body.len()) as u32;
        [&kind.to_ne_bytes(), &length.to_ne_bytes(), body].concat()
    }

    #[test]
    fn whole_blocks_are_copied_packets_counted_and_a_cut_block_left_out() {
        let whole = [block(0x0a0d_0d0a, b"section."), block(ENHANCED_PACKET, b"one."), block(ENHANCED_PACKET, b"two.")]
            .concat();
        let cut = [whole.clone(), block(ENHANCED_PACKET, b"three...")[..10].to_vec()].concat();
        let mut out = Vec::new();
        assert_eq!(copy_blocks(&mut cut.as_slice(), &mut out, None).unwrap(), 2);
        assert_eq!(out, whole);
        let mut out = Vec::new();
        assert_eq!(copy_blocks(&mut cut.as_slice(), &mut out, Some(1)).unwrap(), 1);
        assert_eq!(out.len(), whole.len() - 12);
    }

    #[test]
    fn a_block_of_no_possible_length_is_an_error_and_not_a_huge_allocation() {
        let forged = [&6u32.to_ne_bytes()[..], &u32::MAX.to_ne_bytes()].concat();
        assert!(copy_blocks(&mut forged.as_slice(), Vec::new(), None).is_err());
    }
}
