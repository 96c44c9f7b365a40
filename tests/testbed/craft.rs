//! Frames by hand, byte for byte, so that a test can get every byte wrong; independent of the code under test.

/// Offset of the IP header in an untagged frame.
pub const L3: usize = 14;
/// Bytes from the start of a VXLAN frame over IPv4 to the inner frame.
pub const V4_OUTER: usize = 50;

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// `02:00:00:00:00:01` as six bytes.
pub fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC address")).collect();
    bytes.try_into().expect("six bytes")
}

/// An Ethernet II frame.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a right checksum.
pub fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend([source, destination].concat());
    packet.extend(payload);
    refresh(&mut packet);
    packet
}

/// Puts the right checksum into an IPv4 header of 20 bytes.
pub fn refresh(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 packet.
pub fn ipv6(source: [u16; 8], destination: [u16; 8], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.iter().chain(&destination).flat_map(|word| word.to_be_bytes()));
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    [&header, payload].concat()
}

/// A TCP segment without data; its checksum is wrong, as nobody on the way should mind.
pub fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut segment = [source, destination, 0, 1, 0, 0].map(u16::to_be_bytes).concat();
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

/// A frame with some bytes changed.
pub fn with(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The same, and the IPv4 header at `l3` gets a right checksum.
pub fn with_ip(frame: &[u8], l3: usize, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = with(frame, l3 + at, bytes);
    refresh(&mut frame[l3..]);
    frame
}
