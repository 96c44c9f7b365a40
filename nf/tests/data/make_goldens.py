#!/usr/bin/env python3
"""Makes the golden captures for the mangler: what enters it and what must leave it, packet by packet.

The oracle is scapy and not an address translator: every packet is built twice from nothing, once as the client's side of the
mangler sees it and once as the server's side does, and scapy computes all lengths and checksums each time. A packet that an
ICMP error quotes is built the same way, so that the quote must come out as the packet that its receiver really sent.

A frame's source MAC tells its direction: CLIENT_MAC is forward, SERVER_MAC is reverse.

Run `python3 make_goldens.py` in this directory (scapy 2.5 or later); the output is the same each time.
"""

from scapy.all import (
    ICMP, IP, TCP, UDP, Ether, ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig,
    ICMPv6TimeExceeded, IPOption_Router_Alert, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN, Raw,
    fragment, fragment6, wrpcap,
)

CLIENT_MAC = "02:00:00:00:00:c1"
SERVER_MAC = "02:00:00:00:00:51"

PAYLOAD = bytes(range(251))


class V4:
    inside, outside = "10.1.0.5", "198.51.100.1"
    server, near_router, far_router = "10.2.0.9", "10.1.0.254", "192.0.2.77"

    @staticmethod
    def ip(source, destination, **fields):
        return IP(src=source, dst=destination, id=0x1234, **fields)


class V6:
    inside, outside = "2001:db8:1::5", "2001:db8:64::1"
    server, near_router, far_router = "2001:db8:2::9", "2001:db8:1::fe", "2001:db8:77::77"

    @staticmethod
    def ip(source, destination, **fields):
        return IPv6(src=source, dst=destination, fl=0xABCDE, **fields)


# Packets, given the client's address as this side sees it.

def syn(v, client):
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    return v.ip(client, v.server) / TCP(sport=40000, dport=80, flags="S", seq=1000, options=options)


def syn_ack(v, client):
    return v.ip(v.server, client) / TCP(sport=80, dport=40000, flags="SA", seq=9000, ack=1001, options=[("MSS", 1400)])


def request(v, client):
    return v.ip(client, v.server) / TCP(sport=40000, dport=80, flags="PA", seq=1001, ack=9001) / Raw(PAYLOAD)


def answer(v, client):
    marked = {"tc": 0xB9} if v is V6 else {"tos": 0xB9}
    return v.ip(v.server, client, **marked) / TCP(sport=80, dport=40000, flags="PA", seq=9001, ack=1252) / Raw(PAYLOAD[:100])


def query(v, client):
    return v.ip(client, v.server) / UDP(sport=5353, dport=53) / Raw(b"question")


def reply(v, client):
    return v.ip(v.server, client) / UDP(sport=53, dport=5353) / Raw(b"an answer of odd length")


def echo(v, client):
    kind = ICMPv6EchoRequest(id=77, seq=1, data=b"ping!") if v is V6 else ICMP(type=8, id=77, seq=1) / Raw(b"ping!")
    return v.ip(client, v.server) / kind


def echo_reply(v, client):
    kind = ICMPv6EchoReply(id=77, seq=1, data=b"ping!") if v is V6 else ICMP(type=0, id=77, seq=1) / Raw(b"ping!")
    return v.ip(v.server, client) / kind


def large_query(v, client):
    return v.ip(client, v.server) / UDP(sport=6000, dport=6001) / Raw(PAYLOAD * 12)


def large_reply(v, client):
    return v.ip(v.server, client) / UDP(sport=6001, dport=6000) / Raw(PAYLOAD[::-1] * 12)


def without_checksum(v, client):
    return v.ip(client, v.server) / UDP(sport=5354, dport=53, chksum=0) / Raw(b"no checksum")


def other_protocol(v, client):
    # GRE's number with a payload that is none: no checksum over the addresses.
    field = {"nh": 47} if v is V6 else {"proto": 47}
    return v.ip(client, v.server, **field) / Raw(PAYLOAD[:33])


def with_extensions(v, client):
    if v is V6:
        chain = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
        return v.ip(client, v.server) / chain / UDP(sport=7000, dport=7001) / Raw(b"behind two headers")
    return v.ip(client, v.server, options=[IPOption_Router_Alert()]) / UDP(sport=7000, dport=7001) / Raw(b"behind an option")


def quoted(packet, length):
    """The bytes of a packet as an error quotes it: one hop older than it was sent."""
    field = "hlim" if IPv6 in packet else "ttl"
    setattr(packet, field, getattr(packet, field) - 1)
    return Raw(bytes(packet)[:length])


def error(v, source, destination, v4, v6, quote):
    head = v6 if v is V6 else v4
    return v.ip(source, destination) / head / quote


def unreachable_from_server(v, client):
    length = 1232 if v is V6 else 28
    return error(v, v.server, client, ICMP(type=3, code=3), ICMPv6DestUnreach(code=4), quoted(query(v, client), length))


def time_exceeded_on_the_way(v, client):
    length = 1232 if v is V6 else 548
    return error(v, v.far_router, client, ICMP(type=11), ICMPv6TimeExceeded(), quoted(request(v, client), length))


def too_big_on_the_way(v, client):
    # The classic quote in IPv4, eight bytes of TCP, ends before the checksum; IPv6's is longer.
    length = 1232 if v is V6 else 28
    v4, v6 = ICMP(type=3, code=4, nexthopmtu=1280), ICMPv6PacketTooBig(mtu=1280)
    return error(v, v.far_router, client, v4, v6, quoted(request(v, client), length))


def time_exceeded_for_echo(v, client):
    length = 1232 if v is V6 else 28
    return error(v, v.far_router, client, ICMP(type=11), ICMPv6TimeExceeded(), quoted(echo(v, client), length))


def unreachable_from_client(v, client):
    length = 1232 if v is V6 else 28
    return error(v, client, v.server, ICMP(type=3, code=3), ICMPv6DestUnreach(code=4), quoted(reply(v, client), length))


def too_big_near_the_client(v, client):
    # A router on the client's side: the server's side must see the mangled address as its sender.
    source = v.near_router if client == v.inside else client
    length = 1232 if v is V6 else 548
    v4, v6 = ICMP(type=3, code=4, nexthopmtu=1280), ICMPv6PacketTooBig(mtu=1280)
    return error(v, source, v.server, v4, v6, quoted(answer(v, client), length))


CONVERSATION = [
    ("forward", syn), ("reverse", syn_ack), ("forward", request), ("reverse", answer),
    ("forward", query), ("reverse", reply), ("forward", echo), ("reverse", echo_reply),
    ("forward", large_query), ("reverse", large_reply), ("forward", without_checksum), ("forward", other_protocol),
    ("forward", with_extensions),
    ("reverse", unreachable_from_server), ("reverse", time_exceeded_on_the_way), ("reverse", too_big_on_the_way),
    ("reverse", time_exceeded_for_echo), ("forward", unreachable_from_client), ("forward", too_big_near_the_client),
]


def in_frames(v, packet, direction):
    """The packet's frames: fragments of 1,280 bytes at most, padded to Ethernet's shortest frame."""
    source, destination = (CLIENT_MAC, SERVER_MAC) if direction == "forward" else (SERVER_MAC, CLIENT_MAC)
    if v is V6 and len(packet) > 1280:
        cut = v.ip(packet.src, packet.dst) / IPv6ExtHdrFragment(id=0x0BADCAFE) / packet.payload
        packets = fragment6(cut, 1280)
    else:
        packets = fragment(packet, 1240) if v is V4 else [packet]
    for one in packets:
        frame = bytes(Ether(src=source, dst=destination) / one)
        yield frame.ljust(60, b"\0")


def write(name, v):
    entering, leaving = [], []
    for direction, packet in CONVERSATION:
        if v is V6 and packet is without_checksum:
            continue  # UDP needs its checksum in IPv6 (RFC 8200 section 8.1).
        before, after = (v.inside, v.outside) if direction == "forward" else (v.outside, v.inside)
        entering += in_frames(v, packet(v, before), direction)
        leaving += in_frames(v, packet(v, after), direction)
    for suffix, frames in (("in", entering), ("out", leaving)):
        packets = [Ether(frame) for frame in frames]
        for at, packet in enumerate(packets):
            packet.time = 1_700_000_000 + at
        wrpcap(f"{name}_{suffix}.pcap", packets)


write("mangling_ipv4", V4)
write("mangling_ipv6", V6)
