#!/usr/bin/python3
"""UDP with a look at the IP header's traffic class (DSCP and ECN).

`serve PORT`: answers each datagram, which says with which class to answer, by the class and the sender that it saw.
`ask PORT ADDRESS CLASS BACK`: prints what the server saw, and the class of its answer: `184 10.9.0.1 144`."""

import select
import socket
import sys


def udp(family):
    link = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        link.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
    return link


def mark(link, traffic_class):
    if link.family == socket.AF_INET6:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
    else:
        link.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)


def receive(link):
    data, ancillary, _, sender = link.recvmsg(2048, 256)
    return data.decode(), ancillary[0][2][0], sender


def serve(port):
    links = [udp(socket.AF_INET), udp(socket.AF_INET6)]
    for link in links:
        link.bind(("", port))
    print("ready", flush=True)
    while True:
        for link in select.select(links, [], [])[0]:
            back, seen, sender = receive(link)
            mark(link, int(back))
            link.sendto(f"{seen} {sender[0]}".encode(), sender)


def ask(port, address, traffic_class, back):
    link = udp(socket.AF_INET6 if ":" in address else socket.AF_INET)
    link.settimeout(5)
    mark(link, traffic_class)
    link.sendto(str(back).encode(), (address, port))
    answer, seen, _ = receive(link)
    print(answer, seen)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
