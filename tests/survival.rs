//! What lives on when a controller or a dataplane dies, or a controller hangs.
#![cfg(feature = "dpdk")]

mod testbed;

use controller::api::DataplaneState;
use packet::DropReason;
use rustix::process::Signal;
use testbed::config::{SETUP_TIMEOUT_MS, full_chain};
use testbed::hosts::{CLIENT, SERVER, TwoHosts};
use testbed::streams::{Stream, TcpEcho, UdpEcho, at, udp};
use testbed::traffic::{Requests, WebServer, assert_all_fetched, assert_web};
use testbed::until;

/// Messages that must come back before and after each event.
const ENOUGH: u64 = 50;

/// Requests per curl; four of them run at the same time.
const REQUESTS: usize = 50;

/// An echo and streams to it in both families and both transports.
struct Established {
    udp: Vec<Stream>,
    tcp: Vec<Stream>,
    _echoes: (Vec<UdpEcho>, Vec<TcpEcho>),
}

impl Established {
    fn start(bed: &TwoHosts) -> Self {
        let server = &bed.ends.server;
        let echoes = (
            SERVER.map(|address| UdpEcho::start(server, address, 7)).into(),
            SERVER.map(|address| TcpEcho::start(server, address, 7)).into(),
        );
        let client = &bed.ends.client;
        let udp = CLIENT.into_iter().zip(SERVER).map(|(from, to)| Stream::udp(client, from, at(to, 7))).collect();
        let tcp = SERVER.map(|to| Stream::tcp(client, at(to, 7))).into();
        Self { udp, tcp, _echoes: echoes }
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.udp.iter().chain(&self.tcp)
    }

    fn await_more(&self) {
        self.streams().for_each(|stream| stream.await_more(ENOUGH));
    }

    fn finish_whole(self) {
        for stream in self.udp.into_iter().chain(self.tcp) {
            assert!(stream.finish_whole() > 3 * ENOUGH);
        }
    }
}

/// Breaks if established flows need a controller for anything, if a restarted one starts another dataplane instead of
/// taking over the one that runs, if its reconciliation disturbs flows, or if it can't set up new ones.
#[test]
fn controllers_die_and_come_back_without_loss_in_established_flows() {
    let mut bed = TwoHosts::start(&full_chain());
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let established = Established::start(&bed);
    established.await_more();
    let dataplanes = [bed.host1.dataplane_pid(), bed.host2.dataplane_pid()];

    bed.host1.kill_controller();
    established.await_more();
    bed.host2.kill_controller();
    established.await_more();
    for host in [&mut bed.host1, &mut bed.host2] {
        host.launch();
        host.await_attached();
        established.await_more();
    }
    assert_eq!([bed.host1.dataplane_pid(), bed.host2.dataplane_pid()], dataplanes, "the dataplanes lived on");
    assert_web(&bed.ends.client, &SERVER);
    established.await_more();

    established.finish_whole();
    bed.stop();
}

/// Breaks if a new release of the controller can't take over from the old one without touching traffic.
#[test]
fn a_controller_is_replaced_in_order_under_traffic() {
    let mut bed = TwoHosts::start(&full_chain());
    let _echo = SERVER.map(|address| UdpEcho::start(&bed.ends.server, address, 7));
    bed.host1.kill_controller();
    bed.host1.launch_with(&["--keep-dataplane"]);
    let dataplane = bed.host1.await_attached().dataplane.pid;
    let stream = Stream::udp(&bed.ends.client, CLIENT[0], at(SERVER[0], 7));
    stream.await_more(ENOUGH);

    bed.host1.controller().signal(Signal::TERM);
    assert!(bed.host1.controller().wait().success(), "it ends in order");
    stream.await_more(ENOUGH);
    bed.host1.launch();
    assert_eq!(bed.host1.await_attached().dataplane.pid, dataplane);
    stream.await_more(ENOUGH);
    stream.finish_whole();
    let other = Stream::udp(&bed.ends.client, CLIENT[1], at(SERVER[1], 7));
    other.await_more(ENOUGH);
    other.finish_whole();
    bed.stop();
}

/// Breaks if a controller that dies while it sets flows up leaves half of something behind, or if the next one loses count of
/// what is installed: a client's own retransmissions must be enough for every request to succeed.
#[test]
fn no_request_fails_while_controllers_die_and_come_back() {
    let mut bed = TwoHosts::start(&full_chain());
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let servers = [SERVER[0], SERVER[1], SERVER[0], SERVER[1]];
    let mut requests = Requests::start(&bed.ends.client, &servers, REQUESTS);
    let mut deaths = 0;
    while requests.are_running() || deaths < 2 {
        for host in [&mut bed.host1, &mut bed.host2] {
            host.kill_controller();
            host.launch();
            host.await_attached();
            deaths += 1;
        }
    }
    assert_all_fetched(&requests.finish(), &CLIENT);
    bed.stop();
}

/// Breaks if a controller does not notice its dataplane's end, does not start it again, or forgets a rule when it refills
/// the tables: the streams use flows that were set up before.
#[test]
fn a_dataplane_that_dies_is_started_again_and_refilled() {
    let mut bed = TwoHosts::start(&full_chain());
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let _echo = SERVER.map(|address| UdpEcho::start(&bed.ends.server, address, 7));
    let streams: Vec<Stream> =
        CLIENT.into_iter().zip(SERVER).map(|(from, to)| Stream::udp(&bed.ends.client, from, at(to, 7))).collect();
    streams.iter().for_each(|stream| stream.await_more(ENOUGH));

    for host in [&mut bed.host1, &mut bed.host2] {
        let dead = host.dataplane_pid();
        host.kill_dataplane();
        until("a new dataplane is attached", || {
            let dataplane = host.status().dataplane;
            let is_new = dataplane.state == DataplaneState::Attached && dataplane.pid != Some(dead);
            (is_new && dataplane.restarts == 1).then_some(())
        });
        streams.iter().for_each(|stream| stream.await_more(ENOUGH));
        assert_web(&bed.ends.client, &SERVER);
    }
    for stream in streams {
        let report = stream.finish();
        assert_eq!(report.stray, Vec::<u64>::new(), "messages may be lost when a dataplane dies, but not doubled");
    }
    bed.stop();
}

/// Breaks if packets of unanswered flow misses are kept for ever, vanish uncounted, or if the controller stays confused
/// when it wakes up.
#[test]
fn a_hanging_controller_costs_new_flows_only() {
    let mut bed = TwoHosts::start(&full_chain());
    let _web = WebServer::start(&bed.ends.scope, &bed.ends.server);
    let established = Established::start(&bed);
    established.await_more();

    bed.host1.controller().signal(Signal::STOP);
    let before = bed.host1.dropped(DropReason::FlowSetupTimeout);
    let socket = udp(&bed.ends.client, CLIENT[0], 0);
    for _ in 0..3 {
        socket.send_to(b"anybody?", at(SERVER[0], 7)).expect("a datagram");
    }
    until(&format!("three packets are given up after {SETUP_TIMEOUT_MS} ms"), || {
        (bed.host1.dropped(DropReason::FlowSetupTimeout) == before + 3).then_some(())
    });
    established.await_more();

    bed.host1.controller().signal(Signal::CONT);
    assert_web(&bed.ends.client, &SERVER);
    established.await_more();
    established.finish_whole();
    bed.stop();
}
