//! pcapng blocks for captures, little-endian, nanosecond time stamps.
//!
//! Off the packet's path. Interfaces are numbered in the order in which they are given to [`header`].
//! Source: draft-ietf-opsawg-pcapng, sections 4.1 (section header), 4.2 (interface description), 4.3 (enhanced packet).
//!
//! ```text
//!  block type u32 | total length u32 | body, padded to 4 bytes | total length u32
//! ```

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const OPTION_END: u16 = 0;
const OPTION_IF_NAME: u16 = 2;
const OPTION_IF_TSRESOL: u16 = 9;
/// 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

fn block(kind: u32, body: &[u8], out: &mut Vec<u8>) {
    let padding = body.len().wrapping_neg() % 4;
    let total = u32::try_from(12 + body.len() + padding).unwrap_or(u32::MAX);
    out.extend(kind.to_le_bytes());
    out.extend(total.to_le_bytes());
    out.extend(body);
    out.resize(out.len() + padding, 0);
    out.extend(total.to_le_bytes());
}

fn option(code: u16, value: &[u8], body: &mut Vec<u8>) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(code.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(&value[..usize::from(length)]);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The section header and a description of each interface, by name.
pub fn header(interfaces: &[String], snap: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body = Vec::new();
    body.extend(BYTE_ORDER_MAGIC.to_le_bytes());
    // Version 1.0, length of the section unknown.
    body.extend(1_u16.to_le_bytes());
    body.extend(0_u16.to_le_bytes());
    body.extend(u64::MAX.to_le_bytes());
    block(SECTION_HEADER, &body, &mut out);
    for name in interfaces {
        body.clear();
        body.extend(LINKTYPE_ETHERNET.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(u32::from(snap).to_le_bytes());
        option(OPTION_IF_NAME, name.as_bytes(), &mut body);
        option(OPTION_IF_TSRESOL, &[NANOSECONDS], &mut body);
        option(OPTION_END, &[], &mut body);
        block(INTERFACE_DESCRIPTION, &body, &mut out);
    }
    out
}

/// One packet; the body's own padding is the data's.
pub fn packet(interface: u32, realtime_ns: u64, original_length: u32, data: &[u8], out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(20 + data.len());
    body.extend(interface.to_le_bytes());
    body.extend(((realtime_ns >> 32) as u32).to_le_bytes());
    body.extend((realtime_ns as u32).to_le_bytes());
    body.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend(original_length.to_le_bytes());
    body.extend(data);
    block(ENHANCED_PACKET, &body, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn another_reader_finds_names_times_and_bytes() {
        let names = ["acme/edge/1 in".to_owned(), "acme/edge/1 out".to_owned()];
        let mut file = header(&names, 64);
        packet(1, 1_700_000_000_123_456_789, 100, &[1, 2, 3, 4, 5], &mut file);
        packet(0, 5, 2, &[9, 9], &mut file);
        let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
        let (mut found, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(block) => {
                    assert_eq!(block.snaplen, 64);
                    assert!(block.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                    for option in &block.options {
                        if let InterfaceDescriptionOption::IfName(name) = option {
                            found.push(name.to_string());
                        }
                    }
                }
                Block::EnhancedPacket(block) => {
                    packets.push((block.interface_id, block.original_len, block.data.into_owned()));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(found, names);
        assert_eq!(packets, [(1, 100, vec![1, 2, 3, 4, 5]), (0, 2, vec![9, 9])]);
        let high = (1_700_000_000_123_456_789_u64 >> 32) as u32;
        assert!(file.windows(4).any(|bytes| bytes == high.to_le_bytes()), "the time's upper half comes first");
    }
}
