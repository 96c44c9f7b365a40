#!/usr/bin/python3
"""Writes the golden captures of the test `service_header`: what goes into a host, and what must come out, as scapy builds it.

    client -> passthrough -> service header in VXLAN to the peer          encap_in.pcap -> encap_out.pcap
    service header in VXLAN from the peer -> passthrough -> client        decap_in.pcap -> decap_out.pcap
    from the peer -> passthrough -> to the peer                           transit_in.pcap -> transit_out.pcap

Tags, networks and vports are those of `rig/peer.rs`. The outer UDP source port of what is sent is zero here, since RFC 7348 leaves
it to the sender; the test clears it. The host's own MAC addresses are the device's; the test puts them in. Run it in this
directory after a change (scapy 2.5 or later); the output is the same each time."""

from scapy.all import ICMP, IP, TCP, UDP, VXLAN, Ether, ICMPv6EchoRequest, IPv6, Raw, split_layers, wrpcap
from scapy.contrib.nsh import NSH

CLIENT, LEFT, RIGHT, PEER = ("02:00:00:00:01:01", "02:00:00:00:0a:01", "02:00:00:00:0a:02", "02:00:00:00:03:03")
OURS, THEIRS = "192.0.2.1", "192.0.2.2"
VNI, FURTHER, FORWARD, REVERSE, TRANSIT = 100, 200, 1, 2, 9
PASS, AT_PEER, BEYOND = 3, 7, 10


def vport(number):
    return f"02:74:70:00:00:{number:02x}"


def tos(dscp, ecn):
    return dscp << 2 | ecn


def v4(source, destination, dscp, ecn, ttl):
    return IP(src=source, dst=destination, tos=tos(dscp, ecn), ttl=ttl, id=7)


def v6(source, destination, dscp, ecn, ttl):
    return IPv6(src=source, dst=destination, tc=tos(dscp, ecn), hlim=ttl, fl=0x12345)


def service(packet, spi, si, ttl=63, **more):
    """The header of MD type 2 without metadata, unless told otherwise."""
    next_protocol = 2 if IPv6 in packet else 1
    return NSH(mdtype=more.pop("mdtype", 2), nextproto=next_protocol, spi=spi, si=si, ttl=ttl, **more)


def vxlan(to_peer, vni, port, dscp, ecn, inner):
    source, destination = (OURS, THEIRS) if to_peer else (THEIRS, OURS)
    macs = (PEER, RIGHT) if to_peer else (RIGHT, PEER)
    outer = IP(src=source, dst=destination, tos=tos(dscp, ecn), ttl=64, id=0, flags="DF")
    udp = UDP(sport=port, dport=4789, chksum=0)
    return Ether(dst=macs[0], src=macs[1]) / outer / udp / VXLAN(flags=8, vni=vni) / inner


# Each: addresses' family, sender's DSCP and ECN, what follows the IP header.
FORWARDS = [
    (v4, 46, 2, UDP(sport=5000, dport=53) / Raw(b"golden, marked and capable")),
    (v4, 0, 0, TCP(sport=5001, dport=80, flags="S", seq=1, options=[("MSS", 1460)])),
    (v4, 10, 3, ICMP(type=8, id=9, seq=1) / Raw(b"echo")),
    (v4, 63, 1, UDP(sport=5002, dport=9, chksum=0)),
    (v6, 46, 2, UDP(sport=5003, dport=53) / Raw(b"golden, in IPv6")),
    (v6, 0, 0, TCP(sport=5004, dport=80, flags="S", seq=1, options=[("MSS", 1440)])),
    (v6, 8, 1, ICMPv6EchoRequest(id=9, seq=1, data=b"echo")),
    (v4, 12, 0, UDP(sport=5005, dport=4789) / Raw(b"x" * 1472)),
]
METADATA = bytes(range(16))
# Each: family, sender's DSCP, outer DSCP and ECN, inner ECN and what comes out, the header's fields, metadata, the rest.
REVERSES = [
    (v4, 46, 46, 0, 0, 0, {}, b"", UDP(sport=53, dport=5000) / Raw(b"answer")),
    (v4, 46, 0, 3, 2, 3, {}, b"", UDP(sport=53, dport=5000) / Raw(b"remarked and congested on the way")),
    (v4, 0, 63, 0, 0, 0, {"mdtype": 1, "context_header": METADATA}, b"", TCP(sport=80, dport=5001, flags="SA", seq=9, ack=2)),
    (v4, 5, 5, 1, 2, 1, {"length": 6}, METADATA, UDP(sport=53, dport=5002) / Raw(b"behind metadata")),
    (v6, 46, 46, 0, 3, 3, {"unused1": 1, "unused2": 10}, b"", UDP(sport=53, dport=5003) / Raw(b"unassigned bits")),
    (v6, 1, 1, 0, 0, 0, {"ttl": 0}, b"", TCP(sport=80, dport=5004, flags="SA", seq=9, ack=2, options=[("MSS", 1440)])),
    (v6, 1, 1, 0, 0, 0, {"ttl": 2, "si": 1}, b"", UDP(sport=53, dport=5003) / Raw(b"nearly too far")),
]
# Each: family, the header's fields as it comes and as it leaves.
TRANSITS = [
    (v4, {"si": 200, "ttl": 40, "unused1": 1, "unused2": 10}, {"si": 199, "ttl": 39, "unused1": 1, "unused2": 10}),
    (v6, {"si": 255, "ttl": 63}, {"si": 254, "ttl": 62}),
    (v4, {"si": 9, "ttl": 0, "mdtype": 1, "context_header": METADATA}, {"si": 8, "ttl": 63}),
]
ADDRESSES = {v4: ("10.1.0.2", "10.2.0.2"), v6: ("fd00:1::2", "fd00:2::2")}


def encap():
    before, after = [], []
    for ip, dscp, ecn, rest in FORWARDS:
        addresses = ADDRESSES[ip]
        frame = bytes(Ether(dst=LEFT, src=CLIENT) / ip(*addresses, dscp, ecn, 64) / rest)
        before.append(frame + bytes(max(0, 60 - len(frame))))  # as a link pads it
        packet = ip(*addresses, dscp, ecn, 63) / rest
        inner = Ether(dst=vport(AT_PEER), src=vport(PASS), type=0x894F) / service(packet, FORWARD, 254) / packet
        after.append(vxlan(True, VNI, 0, dscp, ecn, inner))
    return before, after


def decap():
    before, after = [], []
    for ip, dscp, outer_dscp, outer_ecn, inner_ecn, ecn, fields, metadata, rest in REVERSES:
        addresses = ADDRESSES[ip][::-1]
        packet = ip(*addresses, dscp, inner_ecn, 60) / rest
        header = service(packet, REVERSE, **{"si": 254, **fields})
        inner = bytes(Ether(dst=vport(PASS), src=vport(AT_PEER), type=0x894F) / header) + metadata + bytes(packet)
        before.append(vxlan(False, VNI, 50000, outer_dscp, outer_ecn, Raw(inner)))
        after.append(Ether(dst=CLIENT, src=LEFT) / ip(*addresses, dscp, ecn, 59) / rest)
    return before, after


def transit():
    before, after = [], []
    for ip, came, leaves in TRANSITS:
        def packet(ttl):
            return ip(*ADDRESSES[ip], 18, 2, ttl) / UDP(sport=6000, dport=6001) / Raw(b"passing by")
        inner = Ether(dst=vport(PASS), src=vport(AT_PEER), type=0x894F) / service(packet(60), TRANSIT, **came) / packet(60)
        before.append(vxlan(False, FURTHER, 50000, 18, 2, inner))
        inner = Ether(dst=vport(BEYOND), src=vport(PASS), type=0x894F) / service(packet(59), TRANSIT, **leaves) / packet(59)
        after.append(vxlan(True, FURTHER, 0, 18, 2, inner))
    return before, after


split_layers(UDP, VXLAN, dport=4789)  # what a flow inside carries to port 4789 is not for us to look at
for name, frames in (("encap", encap()), ("decap", decap()), ("transit", transit())):
    for suffix, packets in zip(("in", "out"), frames):
        packets = [Ether(bytes(packet)) for packet in packets]
        for at, packet in enumerate(packets):
            packet.time = 1_700_000_000 + at
        wrpcap(f"{name}_{suffix}.pcap", packets, linktype=1)
