#!/usr/bin/python3
"""Sends and receives raw Ethernet frames on an interface: `frames.py IFACE`.

Input, one line each: a frame as hex is sent. `listen` prints every frame received from then on as hex, until `stop`.
`mark WORD` prints WORD once everything before it is sent."""

import socket
import struct
import sys
import threading

OUTGOING = 4  # linux/if_packet.h
SOL_PACKET, PACKET_AUXDATA, VLAN_VALID = 263, 8, 1 << 4
SO_RCVBUFFORCE = 33  # asm-generic/socket.h

raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
raw.bind((sys.argv[1], 0))
listening = threading.Event()


def whole(frame, ancillary):
    """The frame as it was on the wire: the kernel has taken its VLAN tag off and tells it apart (packet(7))."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tag, ethertype = struct.unpack("IIIHHHH", data)
            if status & VLAN_VALID:
                return frame[:12] + struct.pack("!HH", ethertype or 0x8100, tag) + frame[12:]
    return frame


def receive():
    while True:
        frame, ancillary, _, (_, _, kind, _, _) = raw.recvmsg(65536, 64)
        if kind != OUTGOING and listening.is_set():
            print(whole(frame, ancillary).hex(), flush=True)


threading.Thread(target=receive, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "listen":
        listening.set()
    elif word == "stop":
        listening.clear()
    elif word == "mark":
        print(rest, flush=True)
    elif word:
        raw.send(bytes.fromhex(word))
