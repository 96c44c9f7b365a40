//! What the world may send: broken, forged, looping and random frames, at a client's port and on the underlay. Nothing
//! crashes, nothing leaks, and each frame ends under its own reason.
#![cfg(feature = "dpdk")]

mod testbed;

use packet::DropReason::{self, *};
use testbed::config::{HostEntry, full_chain};
use testbed::craft::{L3, V4_OUTER, ethernet, ipv4, ipv6, mac, tcp, udp, with, with_ip};
use testbed::frames::Station;
use testbed::host::{Host, Watch};
use testbed::hosts::{CLIENT, SERVER, TwoHosts};
use testbed::streams::{Stream, UdpEcho, at};
use testbed::traffic::{WebServer, assert_web};
use testbed::{until, until_within};

/// How often each hostile frame is sent.
const TIMES: u64 = 3;
/// Random frames at each door.
const FUZZED: usize = 4_000;
/// Frames that are under way at most, so that no kernel queue on the way overflows: libpcap's ring has room for 32.
const WINDOW: usize = 20;

const CLIENT4: [u8; 4] = [10, 1, 0, 2];
const SERVER4: [u8; 4] = [10, 2, 0, 2];
const CLIENT6: [u16; 8] = [0xfd00, 1, 0, 0, 0, 0, 0, 2];
const SERVER6: [u16; 8] = [0xfd00, 2, 0, 0, 0, 0, 0, 2];

/// A frame, and the reason that it ends for.
struct Attack {
    what: &'static str,
    frame: Vec<u8>,
    reason: DropReason,
}

fn attack(what: &'static str, reason: DropReason, frame: Vec<u8>) -> Attack {
    Attack { what, frame, reason }
}

/// Two hosts, of which host1 sees every frame as it was sent, fragments too.
fn start() -> TwoHosts {
    let host1 = HostEntry::new("host1").seeing_fragments().seeing_outer_fragments();
    TwoHosts::start_on([host1, HostEntry::new("host2")], &full_chain())
}

/// Sends each attack, and fails the test unless the host counts every copy under the expected reason.
fn assert_counted(station: &mut Station, watch: &Watch, attacks: &[Attack]) {
    for Attack { what, frame, reason } in attacks {
        let before = watch.dropped(*reason);
        for _ in 0..TIMES {
            station.send([&frame[..]]);
        }
        let limit = std::time::Duration::from_secs(5);
        let seen = || until_within(limit, what, || (watch.dropped(*reason) >= before + TIMES).then_some(()));
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(seen)).is_err() {
            panic!("{what}: expected {TIMES} more of {reason}, from {before}; the drops are {:?}", watch.drops());
        }
    }
}

/// A good frame from the client.
fn good_udp(host: [u8; 6]) -> Vec<u8> {
    ethernet(host, [2, 0, 0, 0, 0, 9], 0x0800, &ipv4(CLIENT4, SERVER4, 17, &udp(7_777, 7, b"good so far")))
}

fn good_udp6(host: [u8; 6]) -> Vec<u8> {
    ethernet(host, [2, 0, 0, 0, 0, 9], 0x86dd, &ipv6(CLIENT6, SERVER6, 17, &udp(7_777, 7, b"good so far")))
}

fn at_the_client_port(host: [u8; 6]) -> Vec<Attack> {
    let (good, good6) = (good_udp(host), good_udp6(host));
    let from = |source: [u8; 4]| with_ip(&good, L3, 12, &source);
    let odd_tcp = with(&tcp(7_777, 80, 2), 12, &[0x40]);
    vec![
        attack("an IPv4 header cut short", Truncated, good[..L3 + 12].to_vec()),
        attack("an IPv6 header cut short", Truncated, good6[..L3 + 30].to_vec()),
        attack("an IPv4 packet longer than its frame", Truncated, with_ip(&good, L3, 2, &[4, 0])),
        attack("an IPv6 packet longer than its frame", Truncated, with(&good6, L3 + 4, &[4, 0])),
        attack("a UDP header cut short", Truncated, with_ip(&good, L3, 2, &[0, 24])),
        attack("a wrong IPv4 checksum", BadIpv4Checksum, with(&good, L3 + 10, &[0xba, 0xad])),
        attack("IP version 5", MalformedHeader, with_ip(&good, L3, 0, &[0x55])),
        attack("an IPv4 header of 16 bytes", MalformedHeader, with_ip(&good, L3, 0, &[0x44])),
        attack("a packet shorter than its header", MalformedHeader, with_ip(&good, L3, 2, &[0, 19])),
        attack("UDP longer than its packet", MalformedHeader, with(&good, L3 + 24, &[4, 0])),
        attack("a TCP header of 16 bytes", MalformedHeader, {
            ethernet(host, [2, 0, 0, 0, 0, 9], 0x0800, &ipv4(CLIENT4, SERVER4, 6, &odd_tcp))
        }),
        attack("a ping of death", MalformedHeader, with_ip(&good, L3, 6, &[0x1f, 0xff])),
        attack("an unknown EtherType", UnknownEtherType, with(&good, 12, &[0x88, 0xb5])),
        attack("a VLAN that nobody has", UnknownEtherType, {
            [&good[..12], &[0x81, 0x00, 0x00, 77], &good[12..]].concat()
        }),
        attack("a multicast source", BadSource, from([224, 0, 0, 9])),
        attack("a broadcast source", BadSource, from([255; 4])),
        attack("a loopback source", BadSource, from([127, 0, 0, 1])),
        attack("an IPv6 multicast source", BadSource, with(&good6, L3 + 8, &[0xff, 0x02])),
        attack("a frame for another station", NotForUs, with(&good, 0, &[2, 0, 0, 0, 0, 8])),
        attack("a TTL of 1", TtlExpired, with_ip(&good, L3, 8, &[1])),
        attack("a hop limit of 0", TtlExpired, with(&good6, L3 + 7, &[0])),
        attack("a fragment whose first never came", FragmentWithoutFirst, with_ip(&good, L3, 4, &[0xee, 1, 0, 185])),
        attack("a destination of no chain", NoChain, with_ip(&good, L3, 16, &[10, 77, 0, 1])),
        attack("TCP out of the blue", FirewallNoState, {
            ethernet(host, [2, 0, 0, 0, 0, 9], 0x0800, &ipv4(CLIENT4, SERVER4, 6, &tcp(7_778, 80, 0x10)))
        }),
        attack("a packet for a private multicast group", LinkLocal, {
            let group = with_ip(&good, L3, 16, &[224, 0, 0, 251]);
            with(&group, 0, &[1, 0, 0x5e, 0, 0, 251])
        }),
    ]
}

/// Made from a good frame, an answer on its way from host2 to host1.
fn on_the_underlay(good: &[u8]) -> Vec<Attack> {
    let inner_l3 = V4_OUTER + L3;
    let traffic_class = good[inner_l3 + 1];
    vec![
        attack("VXLAN of an unknown VNI", UnknownVni, with(good, 46, &[0, 0, 101])),
        attack("VXLAN from an unknown VTEP", UnknownVtep, with_ip(good, L3, 15, &[66])),
        attack("VXLAN without the I flag", BadVxlanHeader, with(good, 42, &[0])),
        attack("a VXLAN header cut short", Truncated, {
            let short = with_ip(&good[..46], L3, 2, &[0, 32]);
            with(&short, 38, &[0, 12])
        }),
        attack("an inner frame cut short", Truncated, {
            let short = with_ip(&good[..62], L3, 2, &[0, 48]);
            with(&short, 38, &[0, 28])
        }),
        attack("an inner packet cut short", Truncated, {
            let short = with_ip(&good[..70], L3, 2, &[0, 56]);
            with(&short, 38, &[0, 36])
        }),
        attack("an outer packet longer than its frame", Truncated, with_ip(good, L3, 2, &[4, 0])),
        attack("a wrong outer IPv4 checksum", BadIpv4Checksum, with(good, L3 + 10, &[0xba, 0xad])),
        attack("a wrong inner IPv4 checksum", BadIpv4Checksum, with(good, inner_l3 + 10, &[0xba, 0xad])),
        attack("a wrong outer UDP checksum", MalformedHeader, with(good, 40, &[0xba, 0xad])),
        attack("a fragment of VXLAN", MalformedHeader, with_ip(good, L3, 6, &[0x20, 0])),
        attack("UDP that is not VXLAN", NotForUs, with(good, 36, &[0, 53])),
        attack("VXLAN for another VTEP", NotForUs, with_ip(good, L3, 16, &[192, 0, 2, 77])),
        attack("a frame for another station", NotForUs, with(good, 0, &[2, 0, 0, 0, 0, 8])),
        attack("a tag that no path has", UnknownTag, with_ip(good, inner_l3, 1, &[63 << 2])),
        attack("no tag", UnknownTag, with_ip(good, inner_l3, 1, &[0])),
        attack("a tag at another element than its path's", UnknownTag, with(good, V4_OUTER + 4, &[0, 77])),
        attack("an inner address that names no element", UnknownTag, with(good, V4_OUTER, &[2, 1, 1, 1])),
        attack("an inner TTL that runs out, as in a loop", TtlExpired, with_ip(good, inner_l3, 8, &[1])),
        attack("congestion marked on a flow without ECN", EcnMismatch, with_ip(good, L3, 1, &[good[L3 + 1] | 3])),
        attack("an inner EtherType that no path carries", UnknownEtherType, with(good, V4_OUTER + 12, &[0x88, 0xb5])),
        attack("a forged answer that no one asked for", ManglerNoMapping, with(good, inner_l3 + 20, &[0x99, 0x99])),
        attack("a forged tag of a good path", ManglerNoMapping, {
            let forged = with_ip(good, inner_l3, 1, &[traffic_class]);
            with(&forged, inner_l3 + 22, &[0x98, 0x98])
        }),
    ]
}

/// A good VXLAN frame from host2 to host1, heard on the fabric while the client talks to the server.
fn overhear(bed: &TwoHosts) -> Vec<u8> {
    let mut wire = Station::new(&bed.ends.fabric, "host2");
    wire.listen();
    let stream = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    stream.await_more(3);
    stream.finish_whole();
    wire.hear(|frame| frame.len() > V4_OUTER && frame[12..14] == [8, 0] && frame[36..38] == 4789_u16.to_be_bytes())
}

/// Everything still works: same processes, same instances, new flows.
fn assert_unharmed(bed: &TwoHosts, dataplanes: [u32; 2]) {
    assert_web(&bed.ends.client, &SERVER);
    assert_eq!([bed.host1.dataplane_pid(), bed.host2.dataplane_pid()], dataplanes, "the dataplanes lived on");
    for host in [&bed.host1, &bed.host2] {
        assert!(host.counters().iter().all(|lcore| !lcore.nf_failed), "every instance lived on");
        host.assert_conserved();
    }
}

/// Breaks if a kind of bad frame is let through, crashes the host, is counted as something else, or keeps its mbuf.
#[test]
fn every_bad_frame_ends_under_its_own_reason() {
    let bed = start();
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let dataplanes = [bed.host1.dataplane_pid(), bed.host2.dataplane_pid()];
    let good = overhear(&bed);
    let watch = bed.host1.watch();

    let port = mac(&bed.ends.client.neighbor_mac("10.1.0.1"));
    let mut client = Station::new(&bed.ends.client, "eth0");
    assert_counted(&mut client, &watch, &at_the_client_port(port));
    let mut wire = Station::new(&bed.ends.fabric, "host1");
    assert_counted(&mut wire, &watch, &on_the_underlay(&good));
    assert_oversized(&bed, &mut client, &watch, port);

    assert_unharmed(&bed, dataplanes);
    bed.stop();
}

/// Frames larger than the port's MTU, and larger than a packet buffer: the link is widened behind the port's back.
fn assert_oversized(bed: &TwoHosts, client: &mut Station, watch: &Watch, port: [u8; 6]) {
    let wide = |mtu: &str| {
        bed.ends.client.ip(&format!("link set eth0 mtu {mtu}"));
        bed.host1.namespace.ip(&format!("link set left mtu {mtu}"));
    };
    wide("9000");
    let large = |bytes: usize| {
        ethernet(port, [2, 0, 0, 0, 0, 9], 0x0800, &ipv4(CLIENT4, SERVER4, 17, &udp(7_779, 7, &vec![b'x'; bytes])))
    };
    assert_counted(client, watch, &[attack("a packet above the MTU", Oversized, large(1_500))]);
    let before = watch.dropped(Oversized) + watch.dropped(Truncated);
    client.send([&large(8_000)[..]]);
    until("a packet above the buffer is counted", || {
        (watch.dropped(Oversized) + watch.dropped(Truncated) == before + 1).then_some(())
    });
    wide("1500");
}

/// Makes hostile frames out of good ones: flipped bits, cut ends, grown ends, spliced halves, noise.
struct Fuzzer {
    random: fastrand::Rng,
    seeds: Vec<Vec<u8>>,
}

impl Fuzzer {
    fn next(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut frame = self.seeds[random.usize(..self.seeds.len())].clone();
        match random.u8(0..8) {
            0 => frame.truncate(random.usize(14..=frame.len())),
            1 => frame.extend((0..random.usize(1..200)).map(|_| random.u8(..)).collect::<Vec<u8>>()),
            2 => {
                let other = &self.seeds[random.usize(..self.seeds.len())];
                let cut = random.usize(14..=frame.len().min(other.len()));
                frame.truncate(cut);
                frame.extend(&other[cut..]);
            }
            3 => {
                let length = random.usize(14..1_500);
                frame.resize(length.max(14), 0);
                frame[14..].iter_mut().for_each(|byte| *byte = random.u8(..));
            }
            _ => {
                for _ in 0..random.usize(1..10) {
                    let at = random.usize(12..frame.len());
                    frame[at] ^= 1 << random.u8(0..8);
                }
            }
        }
        frame
    }
}

fn bombard(station: &mut Station, host: &Host, seeds: Vec<Vec<u8>>, seed: u64) {
    let watch = host.watch();
    let mut fuzzer = Fuzzer { random: fastrand::Rng::with_seed(seed), seeds };
    for _ in 0..FUZZED / WINDOW {
        let before = watch.received();
        let frames: Vec<Vec<u8>> = (0..WINDOW).map(|_| fuzzer.next()).collect();
        station.send(frames.iter().map(Vec::as_slice));
        until("the random frames arrive", || (watch.received() >= before + WINDOW as u64).then_some(()));
    }
}

/// Breaks if any byte string crashes a lcore or a function, loses a packet buffer, or leaves the host unable to serve.
#[test]
fn random_frames_do_no_harm() {
    let bed = start();
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let _echo = UdpEcho::start(&bed.ends.server, SERVER[0], 7);
    let dataplanes = [bed.host1.dataplane_pid(), bed.host2.dataplane_pid()];
    let good = overhear(&bed);

    let port = mac(&bed.ends.client.neighbor_mac("10.1.0.1"));
    let station = [2, 0, 0, 0, 0, 9];
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &station, &[10, 1, 0, 99], &[0; 6], &[10, 1, 0, 1]].concat();
    let quote = ipv4(SERVER4, CLIENT4, 17, &udp(7, 7_777, b"quoted"));
    let error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quote].concat();
    let at_client = vec![
        good_udp(port),
        good_udp6(port),
        ethernet(port, station, 0x0800, &ipv4(CLIENT4, SERVER4, 6, &tcp(7_777, 80, 2))),
        ethernet(port, station, 0x0800, &ipv4(CLIENT4, SERVER4, 1, &error)),
        ethernet([0xff; 6], station, 0x0806, &arp),
    ];
    bombard(&mut Station::new(&bed.ends.client, "eth0"), &bed.host1, at_client, 1);
    bombard(&mut Station::new(&bed.ends.fabric, "host1"), &bed.host1, vec![good], 2);
    // Some of it was ARP in the client's name, which the link's own stations can always forge: the client speaks up again.
    bed.ends.client.run("ip", &["neighbor", "flush", "dev", "eth0"]);
    assert_unharmed(&bed, dataplanes);
    bed.stop();
}
