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
    let names = |function: &Option<Box<dyn NetworkFunction>>| match function {
        Some(function) => function.counters().into_iter().map(|counter| counter.name).collect(),
        None => Vec::new(),
    };
    let port_sockets: Vec<SocketId> = ports.iter().map(|open| open.port.socket()).collect();
    let realtime_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let monotonic_ns = Clock::new(eal).ns(clock::tsc());
    Hello {
        version: HELLO_VERSION,
        pid: std::process::id(),
        started_unix_ns: realtime_ns,
        clock_offset_ns: realtime_ns.wrapping_sub(monotonic_ns) as i64,
        launch: launch.clone(),
        lcores: lcores(launch, sockets, functions.iter().map(names).collect()),
        ports: launch.ports.iter().zip(ports).map(|(spec, open)| port_report(spec, &open.port)).collect(),
        warnings: warnings(launch, &port_sockets, sockets),
    }
}

fn known(socket: SocketId) -> Option<u32> {
    u32::try_from(socket.0).ok()
}

/// The lcores, with the names of their functions' own counters.
pub(crate) fn lcores(launch: &Launch, sockets: &[SocketId], nf_counters: Vec<Vec<String>>) -> Vec<LcoreReport> {
    let parts = launch.lcores.iter().zip(sockets).zip(nf_counters).enumerate();
    parts.map(|(index, ((_, &socket), nf_counters))| lcore_report(launch, index, socket, nf_counters)).collect()
}

fn lcore_report(launch: &Launch, index: usize, socket: SocketId, nf_counters: Vec<String>) -> LcoreReport {
    let spec = &launch.lcores[index];
    let (role, nf) = match &spec.role {
        RoleLaunch::Io => (LcoreRole::Io, None),
        RoleLaunch::Spare => (LcoreRole::Spare, None),
        RoleLaunch::Nf(nf) => (LcoreRole::Nf, Some(nf)),
    };
    LcoreReport {
        index,
        cpu: spec.cpu,
        cpu_shared: role != LcoreRole::Spare && shares_cpu(launch, index),
        socket: known(socket),
        mempool_socket: known(socket).filter(|_| role != LcoreRole::Spare),
        role,
        instance: nf.map(|nf| nf.instance.clone()),
        vport: nf.map(|nf| nf.vport),
        nf_counters,
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
pub(crate) fn warnings(launch: &Launch, port_sockets: &[SocketId], lcore_sockets: &[SocketId]) -> Vec<String> {
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
    let port_sockets: Vec<Option<u32>> = port_sockets.iter().copied().map(known).collect();
    let busy = launch.lcores.iter().map(|spec| spec.role != RoleLaunch::Spare);
    let lcore_sockets = lcore_sockets.iter().zip(busy).map(|(&socket, busy)| known(socket).filter(|_| busy));
    let lcore_sockets: Vec<Option<u32>> = lcore_sockets.collect();
    warnings.extend(crossings(launch, &port_sockets, &lcore_sockets));
    warnings
}

/// The ports and lcores on different sockets. What the machine does not tell is not warned of.
fn crossings(launch: &Launch, port_sockets: &[Option<u32>], lcore_sockets: &[Option<u32>]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (spec, port_socket) in launch.ports.iter().zip(port_sockets) {
        let Some(port_socket) = port_socket else { continue };
        for (lcore, socket) in lcore_sockets.iter().enumerate() {
            let Some(socket) = socket.filter(|socket| socket != port_socket) else { continue };
            warnings.push(format!(
                "port \"{}\" is on socket {port_socket} and {} on socket {socket}: every packet between them crosses the \
                 sockets' interconnect, which costs each cache line a remote access; choose a CPU on socket {port_socket}",
                spec.name,
                name_of(launch, lcore),
            ));
        }
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests {
    use shm::launch::{EalLaunch, LcoreLaunch, Limits, NfLaunch};

    use super::*;

    pub(crate) fn launch() -> Launch {
        let nf = NfLaunch {
            vport: packet::VportId(3),
            vni: packet::Vni::new(1).unwrap(),
            instance: "acme/edge/1".to_owned(),
            function: "passthrough".to_owned(),
            config: serde_json::Value::Null,
            mangles: false,
        };
        Launch {
            host: "h".to_owned(),
            eal: EalLaunch { memory_mib: 1, hugepages: true, share_cores: false, control_cpu: None, extra: Vec::new() },
            lcores: vec![
                LcoreLaunch { cpu: 0, role: RoleLaunch::Io },
                LcoreLaunch { cpu: 9, role: RoleLaunch::Nf(nf) },
            ],
            ports: vec![PortLaunch {
                name: "left".to_owned(),
                device: "0000:21:00.0".to_owned(),
                mtu: 1_500,
                lcore: 0,
                queues: 1,
                descriptors: 512,
            }],
            endpoints: Vec::new(),
            tunnel: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn a_port_and_an_nf_on_different_sockets_are_warned_of_by_name_and_cost() {
        let lines = crossings(&launch(), &[Some(0)], &[Some(0), Some(1)]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        for part in ["\"left\" is on socket 0", "acme/edge/1 on socket 1", "costs", "choose a CPU on socket 0"] {
            assert!(lines[0].contains(part), "{}", lines[0]);
        }
    }

    #[test]
    fn the_same_socket_and_an_unknown_one_are_no_reason_to_warn() {
        assert!(crossings(&launch(), &[Some(1)], &[Some(1), None]).is_empty());
        assert!(crossings(&launch(), &[None], &[Some(0), Some(1)]).is_empty());
    }

    #[test]
    fn two_instances_on_one_cpu_are_refused_unless_cores_are_shared() {
        let mut launch = launch();
        launch.lcores[1].cpu = 0;
        let refused = crate::assembly::eal_config(&launch).unwrap_err().to_string();
        assert!(refused.contains("CPU 0 is given to I/O and to acme/edge/1: one NF per core"), "{refused}");
        launch.eal.share_cores = true;
        assert!(crate::assembly::eal_config(&launch).is_ok());
    }

    #[test]
    fn a_spare_lcore_takes_no_cpu_from_anybody() {
        let mut launch = launch();
        launch.lcores.extend([0, 9].map(|cpu| LcoreLaunch { cpu, role: RoleLaunch::Spare }));
        assert!(crate::assembly::eal_config(&launch).is_ok());
        let sockets = [0, 0, 1, 1].map(SocketId);
        let reports = lcores(&launch, &sockets, vec![Vec::new(); 4]);
        assert!(reports.iter().all(|report| !report.cpu_shared), "{reports:?}");
        assert_eq!((reports[3].role, reports[3].mempool_socket), (LcoreRole::Spare, None));
        assert!(!warnings(&launch, &[SocketId(0)], &sockets).iter().any(|line| line.contains("socket 1")));
    }
}
