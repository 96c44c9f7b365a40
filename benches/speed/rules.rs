//! The launch document and the rules of a trial: what a controller would say for this chain.

use std::net::IpAddr;

use packet::{Direction, FlowKey, PathId, Tag, Vni, VportId};
use shm::launch::{
    Attachment, EalLaunch, EndpointLaunch, Launch, LcoreLaunch, Limits, NfLaunch, PortLaunch, RoleLaunch, TunnelLaunch,
};
use shm::rules::{Delivery, ExactAction, ExactRule, Next, ReverseHead, TagAction, TagKey, TagRule, Update};

use super::traffic::{self, PEER_VTEP, SERVER_GATEWAY, VTEP};
use super::{Function, Source, TrialSpec, Work};

/// The clients' endpoint, on the left port.
pub const CLIENTS: VportId = VportId(1);
/// The servers' endpoint, on the right port.
pub const SERVERS: VportId = VportId(2);
/// The next element on the other host.
const ELSEWHERE: VportId = VportId(9);
/// The first NF of a chain.
const FIRST_NF: u16 = 10;
/// Mbufs beside those that `net_pcap` keeps.
const MBUFS: u32 = 16_383;
const MTU: u16 = 1_500;
const UNDERLAY_MTU: u16 = 1_600;
/// Bytes of an mbuf with everything around it, rounded up.
const MBUF_BYTES: u64 = 2_560;
/// EAL's memory beside mbufs, MiB: rings, devices, EAL itself.
const MEMORY_MIB: u64 = 64;
/// Rules at a time that an `updates` trial adds and takes away.
pub const SPARE_FLOWS: u32 = 65_536;

/// The tenant's network.
pub fn vni() -> Vni {
    Vni::new(100).unwrap_or_default()
}

/// Mbufs that a trial's mempool needs.
pub fn mbufs(spec: &TrialSpec) -> u32 {
    let kept = if spec.source == Source::Pcap { spec.traffic.sequence_len() } else { 0 };
    kept + MBUFS
}

/// Memory that EAL needs for a trial, MiB.
pub fn memory_mib(spec: &TrialSpec) -> u32 {
    ((u64::from(mbufs(spec)) * MBUF_BYTES) / (1 << 20) + MEMORY_MIB) as u32
}

/// The devices' names and arguments, left and right.
pub fn devices(spec: &TrialSpec) -> [String; 2] {
    let left = match spec.source {
        Source::Pcap => format!("net_pcap0,rx_pcap={},infinite_rx=1", spec.pcap.display()),
        Source::Ring => "net_ring_left".to_owned(),
    };
    [left, format!("net_pcap1,rx_pcap={}", spec.neighbors.display())]
}

/// The launch document.
pub fn launch(spec: &TrialSpec) -> Launch {
    let [left, right] = devices(spec);
    let port = |name: &str, device: String, mtu| PortLaunch {
        name: name.to_owned(),
        device,
        mtu,
        lcore: 0,
        queues: 1,
        descriptors: 512,
    };
    let (functions, by_hand) = match &spec.work {
        Work::Chain { functions, by_hand, .. } => (functions.as_slice(), *by_hand),
        _ => (&[][..], false),
    };
    let lcore = |index: usize, role| LcoreLaunch { cpu: cpu(spec, index, by_hand), role };
    let nfs = functions.iter().enumerate().map(|(at, function)| lcore(at + 1, RoleLaunch::Nf(nf(at, function))));
    let tunneled = is_tunneled(&spec.work);
    let mut endpoints = vec![endpoint(CLIENTS, "clients", "left", 1)];
    if !tunneled {
        endpoints.push(endpoint(SERVERS, "servers", "right", 2));
    }
    Launch {
        host: "bench".to_owned(),
        eal: EalLaunch {
            memory_mib: memory_mib(spec),
            hugepages: spec.hugepages,
            share_cores: by_hand,
            control_cpu: Some(spec.control_cpu),
            extra: Vec::new(),
        },
        lcores: std::iter::once(lcore(0, RoleLaunch::Io)).chain(nfs).collect(),
        ports: vec![port("left", left, MTU), port("right", right, if tunneled { UNDERLAY_MTU } else { MTU })],
        endpoints,
        tunnel: tunneled.then(|| tunnel("right")),
        limits: limits(spec),
    }
}

/// The forwarder's CPU first, then those that nothing else has; polled by hand all share one.
fn cpu(spec: &TrialSpec, index: usize, by_hand: bool) -> u16 {
    if by_hand || index == 0 {
        return spec.cpu;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u16;
    let mut others = (0..cpus).filter(|&cpu| cpu != spec.cpu && cpu != spec.control_cpu);
    others.nth(index - 1).unwrap_or(spec.control_cpu)
}

fn limits(spec: &TrialSpec) -> Limits {
    let learned = if spec.work == Work::DeliverAndLearn { spec.traffic.flows } else { 0 };
    Limits {
        flows: spec.traffic.flows + learned + SPARE_FLOWS,
        udp_idle_s: 600,
        tcp_idle_s: 600,
        mbufs: mbufs(spec),
        ..Limits::default()
    }
}

/// A chain's NF.
pub fn nf(at: usize, function: &Function) -> NfLaunch {
    NfLaunch {
        vport: VportId(FIRST_NF + at as u16),
        vni: vni(),
        instance: format!("bench/{}/{}", function.name, at + 1),
        function: function.name.clone(),
        config: function.config.clone(),
        mangles: false,
    }
}

/// An endpoint in 10.`net`.0.0/16, alone on its port.
pub fn endpoint(vport: VportId, name: &str, port: &str, net: u8) -> EndpointLaunch {
    let gateway = SERVER_GATEWAY.octets();
    let gateway = IpAddr::from([gateway[0], net, gateway[2], gateway[3]]);
    let prefix = format!("10.{net}.0.0/16");
    EndpointLaunch {
        vport,
        name: format!("bench/{name}"),
        vni: vni(),
        attachment: Attachment::Port { port: port.to_owned(), vlan: None },
        prefixes: prefix.parse().into_iter().collect(),
        next_hops: Vec::new(),
        answers: vec![gateway.into()],
        gateways: vec![gateway],
    }
}

/// The tunnel to the other host.
pub fn tunnel(port: &str) -> TunnelLaunch {
    let prefix = ipnet::Ipv4Net::new(VTEP, 24).unwrap_or_else(|_| VTEP.into());
    TunnelLaunch {
        port: port.to_owned(),
        address: prefix.into(),
        gateway: None,
        peers: vec![PEER_VTEP.into()],
        udp_port: packet::vxlan::UDP_PORT,
        vnis: vec![vni()],
        encapsulation: shm::launch::Encapsulation::Vxlan,
    }
}

fn is_tunneled(work: &Work) -> bool {
    matches!(work, Work::Encapsulate | Work::Updates { .. } | Work::Flood { .. })
}

/// The key of a flow at the chain's head.
pub fn key(flow: u32) -> FlowKey {
    FlowKey { vport: CLIENTS, vni: vni(), five_tuple: traffic::five_tuple(flow) }
}

/// The exact rule of a flow.
pub fn exact(work: &Work, flow: u32) -> Update {
    let (next, delivery) = match work {
        Work::Chain { functions, .. } if !functions.is_empty() => (Next::Vport(VportId(FIRST_NF)), Delivery::None),
        Work::DeliverAndLearn => (Next::Vport(SERVERS), Delivery::Learn(answers())),
        work if is_tunneled(work) => (Next::Tunnel { vtep: PEER_VTEP.into(), next: ELSEWHERE }, Delivery::None),
        _ => (Next::Vport(SERVERS), Delivery::None),
    };
    let action = ExactAction {
        vni: vni(),
        tag: tag(1),
        direction: Direction::Forward,
        next,
        delivery,
        path: PathId(1),
        path_mtu: MTU,
    };
    Update::InsertExact(ExactRule { key: key(flow), action })
}

fn answers() -> ReverseHead {
    ReverseHead { tag: tag(2), next: Next::Vport(CLIENTS), ends_here: true, path: PathId(1), path_mtu: MTU }
}

/// The tag rule of each lcore of a chain, with the lcore's index.
pub fn tags(functions: usize) -> Vec<(usize, Update)> {
    let rule = |at: usize| {
        let prior = VportId(FIRST_NF + at as u16);
        let last = at + 1 == functions;
        let next = Next::Vport(if last { SERVERS } else { VportId(prior.0 + 1) });
        let key = TagKey { prior, segment: prior, vni: vni(), tag: tag(1) };
        let action =
            TagAction { direction: Direction::Forward, next, delivery: Delivery::None, path: PathId(1), counter: 0 };
        (at + 1, Update::InsertTag(TagRule { key, action }))
    };
    (0..functions).map(rule).collect()
}

fn tag(value: u8) -> Tag {
    Tag::new(value).expect("1 and 2 are tags")
}
