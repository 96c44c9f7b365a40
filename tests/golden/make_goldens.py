#!/usr/bin/python3
"""Writes the golden captures of the test `golden`: what goes into a host, and what must come out, as scapy builds it.

    client (VLAN 12 of `left`) -> host1: tap/1 -> VXLAN to host2        encap_in.pcap -> encap_out.pcap
    VXLAN from host2 -> host1: tap/1 -> client                          decap_in.pcap -> decap_out.pcap

The numbers are those that the composition gives to the test's configuration. The outer UDP source port is zero here, since
RFC 7348 leaves it to the sender; the test checks its range and clears it. Run it in this directory after a change."""

from scapy.all import (ARP, ICMP, IP, TCP, UDP, VXLAN, Dot1Q, Ether, ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr,
                       IPv6, Raw, split_layers, wrpcap)

CLIENT, LEFT, UNDER, PEER = ("02:00:00:00:0a:02", "02:00:00:00:01:01", "02:00:00:00:01:02", "02:00:00:00:02:02")
OUT_OF_SERVERS, INTO_SERVERS, TAP = ("02:74:70:00:00:01", "02:74:70:00:00:01", "02:74:70:00:00:02")
VNI, FORWARD, REVERSE = 100, 1, 2
HOST1, HOST2 = "192.0.2.1", "192.0.2.2"


def tos(dscp, ecn):
    return dscp << 2 | ecn


def v4(source, destination, dscp, ecn, ttl, **more):
    return IP(src=source, dst=destination, tos=tos(dscp, ecn), ttl=ttl, id=more.pop("id", 7), **more)


def v6(source, destination, dscp, ecn, ttl):
    return IPv6(src=source, dst=destination, tc=tos(dscp, ecn), hlim=ttl, fl=0x12345)


def vxlan(source, destination, macs, dscp, ecn, packet):
    outer = IP(src=source, dst=destination, tos=tos(dscp, ecn), ttl=64, id=0, flags="DF")
    udp = UDP(sport=0, dport=4789, chksum=0)
    inner = Ether(dst=macs[0], src=macs[1]) / packet
    link = (PEER, UNDER) if source == HOST1 else (UNDER, PEER)
    return Ether(dst=link[0], src=link[1]) / outer / udp / VXLAN(flags=8, vni=VNI) / inner


def tagged(destination, source, packet):
    return Ether(dst=destination, src=source) / Dot1Q(vlan=12) / packet


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
# Each: family, DSCP and ECN of the outer header, ECN of the inner one and of what comes out, the rest.
REVERSES = [
    (v4, 46, 0, 0, 0, UDP(sport=53, dport=5000) / Raw(b"answer")),
    (v4, 0, 3, 2, 3, UDP(sport=53, dport=5000) / Raw(b"congestion experienced")),
    (v4, 63, 1, 2, 1, UDP(sport=53, dport=5000) / Raw(b"the other capable")),
    (v4, 5, 2, 0, 0, TCP(sport=80, dport=5001, flags="SA", seq=9, ack=2, options=[("MSS", 1460)])),
    (v6, 46, 0, 3, 3, UDP(sport=53, dport=5003) / Raw(b"answer in IPv6")),
    (v6, 1, 0, 0, 0, TCP(sport=80, dport=5004, flags="SA", seq=9, ack=2, options=[("MSS", 1440)])),
]
ADDRESSES = {v4: ("10.1.0.2", "10.2.0.2"), v6: ("fd00:1::2", "fd00:2::2")}


def encap():
    before, after = [], []
    for ip, dscp, ecn, rest in FORWARDS:
        addresses = ADDRESSES[ip]
        frame = bytes(tagged(LEFT, CLIENT, ip(*addresses, dscp, ecn, 64) / rest))
        before.append(frame + bytes(max(0, 64 - len(frame))))  # as a link pads it
        after.append(vxlan(HOST1, HOST2, (INTO_SERVERS, TAP), dscp, ecn, ip(*addresses, FORWARD, ecn, 63) / rest))
    return before, after


def decap():
    before, after = [], []
    for ip, dscp, outer_ecn, inner_ecn, ecn, rest in REVERSES:
        addresses = ADDRESSES[ip][::-1]
        inner = ip(*addresses, REVERSE, inner_ecn, 60) / rest
        frame = vxlan(HOST2, HOST1, (TAP, OUT_OF_SERVERS), dscp, outer_ecn, inner)
        frame[UDP].sport = 50000
        frame[VXLAN].reserved1, frame[VXLAN].reserved2 = 0xABCDEF & 0xFFFFFF, 0x42  # ignored on receipt
        before.append(frame)
        after.append(tagged(CLIENT, LEFT, ip(*addresses, dscp, ecn, 59) / rest))
    return before, after


def greetings():
    """Neighbours make themselves known, so that nobody has to be asked."""
    arp = ARP(op=1, hwsrc=CLIENT, psrc="10.1.0.2", pdst="10.1.0.1")
    group = IPv6(src="fd00:1::2", dst="ff02::1:ff00:1", hlim=255)
    solicitation = group / ICMPv6ND_NS(tgt="fd00:1::1") / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT)
    client = [tagged("ff:ff:ff:ff:ff:ff", CLIENT, arp), tagged("33:33:ff:00:00:01", CLIENT, solicitation)]
    peer = [Ether(dst="ff:ff:ff:ff:ff:ff", src=PEER) / ARP(op=1, hwsrc=PEER, psrc=HOST2, pdst=HOST1)]
    return client, peer


split_layers(UDP, VXLAN, dport=4789)  # what a flow inside carries to port 4789 is not for us to look at
for name, frames in zip(("encap_in", "encap_out"), encap()):
    wrpcap(f"{name}.pcap", frames, linktype=1)
for name, frames in zip(("decap_in", "decap_out"), decap()):
    wrpcap(f"{name}.pcap", frames, linktype=1)
for name, frames in zip(("greeting_client", "greeting_peer"), greetings()):
    wrpcap(f"{name}.pcap", frames, linktype=1)
