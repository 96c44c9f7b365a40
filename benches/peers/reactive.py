"""An OpenFlow controller as one would write it: each new flow is one packet-in, two exact rules and one packet-out.

Runs until it is ended. The argument is the TCP port that switches connect to.
"""

import sys

from os_ken import cfg
from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import CONFIG_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib.packet import ethernet, ipv4, packet, udp
from os_ken.ofproto import ofproto_v1_3

CLIENT_PORT, SERVER_PORT = 1, 2
DSCP = 1


class Reactive(app_manager.OSKenApp):
    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]

    @set_ev_cls(ofp_event.EventOFPSwitchFeatures, CONFIG_DISPATCHER)
    def connected(self, event):
        switch = event.msg.datapath
        ofproto, parser = switch.ofproto, switch.ofproto_parser
        ask = parser.OFPActionOutput(ofproto.OFPP_CONTROLLER, ofproto.OFPCML_NO_BUFFER)
        self.add(switch, 1, parser.OFPMatch(eth_type=0x0806), [parser.OFPActionOutput(ofproto.OFPP_NORMAL)])
        self.add(switch, 0, parser.OFPMatch(), [ask])

    @set_ev_cls(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)
    def missed(self, event):
        message, switch = event.msg, event.msg.datapath
        ofproto, parser = switch.ofproto, switch.ofproto_parser
        came_by = message.match["in_port"]
        frame = packet.Packet(message.data)
        ip, ports = frame.get_protocol(ipv4.ipv4), frame.get_protocol(udp.udp)
        if ip is None or ports is None or frame.get_protocol(ethernet.ethernet) is None:
            return
        ends = (ip.src, ports.src_port), (ip.dst, ports.dst_port)
        if came_by != CLIENT_PORT:
            ends = ends[::-1]
        for port, (source, source_port), (destination, destination_port) in (
            (CLIENT_PORT, *ends),
            (SERVER_PORT, *ends[::-1]),
        ):
            match = parser.OFPMatch(
                in_port=port,
                eth_type=0x0800,
                ip_proto=17,
                ipv4_src=source,
                ipv4_dst=destination,
                udp_src=source_port,
                udp_dst=destination_port,
            )
            self.add(switch, 100, match, self.actions(parser, port), idle_timeout=60)
        out = parser.OFPPacketOut(
            datapath=switch,
            buffer_id=ofproto.OFP_NO_BUFFER,
            in_port=came_by,
            actions=self.actions(parser, came_by),
            data=message.data,
        )
        switch.send_msg(out)

    @staticmethod
    def actions(parser, came_by):
        leaves_by = SERVER_PORT if came_by == CLIENT_PORT else CLIENT_PORT
        return [parser.OFPActionSetField(ip_dscp=DSCP), parser.OFPActionOutput(leaves_by)]

    @staticmethod
    def add(switch, priority, match, actions, **options):
        parser, ofproto = switch.ofproto_parser, switch.ofproto
        apply = parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, actions)
        rule = parser.OFPFlowMod(datapath=switch, priority=priority, match=match, instructions=[apply], **options)
        switch.send_msg(rule)


if __name__ == "__main__":
    sys.modules["reactive"] = sys.modules["__main__"]
    cfg.CONF(args=["--ofp-tcp-listen-port", sys.argv[1]], project="os_ken")
    app_manager.AppManager.run_apps(["os_ken.controller.ofp_handler", "reactive"])
