//! What the dataplane says of itself: lcores, ports, and what an operator should know of them.

use std::time::{SystemTime, UNIX_EPOCH};

use dpdk::{Clock, Eal, Port, SocketId, clock};
use packet::NetworkFunction;
use shm::hello::{HELLO_VERSION, Hello, LcoreReport, LcoreRole, PortReport};
use shm::launch::{Launch, PortLaunch, RoleLaunch};

use crate::assembly::{OpenPort, name_of, shares_cpu};

/// The whole report.
pub(crate) fn hello(
    launch: &Launch,
    eal: &Eal,
    ports: &[OpenPort],
    sockets: &[SocketId],
    functions: &[Option<Box<dyn NetworkFunction>>],
) -> Hello {
    let realtime_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let monotonic_ns = Clock::new(eal).ns(clock::tsc());
    Hello {
        version: HELLO_VERSION,
        pid: std::process::id(),
        started_unix_ns: realtime_ns,
        clock_offset_ns: realtime_ns.wrapping_sub(monotonic_ns) as i64,
        launch: launch.clone(),
        lcores: (0..launch.lcores.len())
            .map(|index| lcore_report(launch, index, sockets[index], &functions[index]))
            .collect(),
        ports: launch.ports.iter().zip(ports).map(|(spec, open)| port_report(spec, &open.port)).collect(),
        warnings: warnings(launch, ports, sockets),
    }
}

fn known(socket: SocketId) -> Option<u32> {
    u32::try_from(socket.0).ok()
}

fn lcore_report(
    launch: &Launch,
    index: usize,
    socket: SocketId,
    function: &Option<Box<dyn NetworkFunction>>,
) -> LcoreReport {
    let spec = &launch.lcores[index];
    let nf = match &spec.role {
        RoleLaunch::Io => None,
        RoleLaunch::Nf(nf) => Some(nf),
    };
    let counters = function.as_ref().map(|function| function.counters()).unwrap_or_default();
    LcoreReport {
        index,
        cpu: spec.cpu,
        cpu_shared: shares_cpu(launch, index),
        socket: known(socket),
        mempool_socket: known(socket),
        role: if nf.is_some() { LcoreRole::Nf } else { LcoreRole::Io },
        instance: nf.map(|nf| nf.instance.clone()),
        vport: nf.map(|nf| nf.vport),
        nf_counters: counters.into_iter().map(|counter| counter.name).collect(),
    }
}

fn port_report(spec: &PortLaunch, port: &Port) -> PortReport {
    PortReport {
        name: spec.name.clone(),
        device: spec.device.clone(),
        driver: port.driver().to_owned(),
        mac: port.mac().to_string(),
        socket: known(port.socket()),
        mtu: spec.mtu,
        queues: spec.queues,
        link_up: port.link_up(),
    }
}

/// What an operator should know: each warning names its cost.
fn warnings(launch: &Launch, ports: &[OpenPort], sockets: &[SocketId]) -> Vec<String> {
    let mut warnings = Vec::new();
    if launch.eal.share_cores {
        warnings.push(
            "share_cores is set: several lcores may take turns on one CPU; do not measure on this host".to_owned(),
        );
    }
    if !launch.eal.hugepages {
        warnings
            .push("no hugepages: every table and mbuf access may miss the TLB (measured: 2.6 times slower)".to_owned());
    }
    for (spec, open) in launch.ports.iter().zip(ports) {
        let Some(port_socket) = known(open.port.socket()) else { continue };
        for (lcore, &socket) in sockets.iter().enumerate() {
            if known(socket).is_some_and(|socket| socket != port_socket) {
                warnings.push(format!(
                    "port \"{}\" is on socket {port_socket} and {} on socket {socket}: every packet between them crosses \
                     the sockets' interconnect, which costs each cache line a remote access; choose a CPU on socket \
                     {port_socket}",
                    spec.name,
                    name_of(launch, lcore),
                ));
            }
        }
    }
    warnings
}
