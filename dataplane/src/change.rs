//! What a new launch document changes of the running one, and what it may not change.
//!
//! Off the packet's path, and pure: [`difference`] compares two documents. Functions may start on spare lcores and end, endpoints
//! and the tunnel's peers and networks may come and go, an endpoint's prefixes, next hops, answers and gateways may change, and so
//! may whether an instance mangles. Everything else is built once, at launch.
//!
//! A lcore and a vport belong to one instance for as long as it lives, and become free when a reconfiguration without it is done:
//! no document gives them straight to another.
//!
//! Errors: [`ReconfigureError`], which names the key and both values.

use std::collections::BTreeMap;
use std::fmt;

use packet::VportId;
use serde_json::Value;
use shm::launch::{Launch, NfLaunch, RoleLaunch, TunnelLaunch};

use crate::assembly::LaunchError;

/// A value that may not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    /// Where it is in the document: `limits.flows`.
    pub key: String,
    /// As it runs.
    pub running: String,
    /// As the new document has it.
    pub wanted: String,
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, running, wanted } = self;
        write!(f, "{key} is {running} in the running dataplane and {wanted} in the new document")
    }
}

/// A document that the running dataplane can't become.
#[derive(Debug, thiserror::Error)]
pub enum ReconfigureError {
    /// Another host's document.
    #[error("{0}: this is another host's document")]
    Host(Differs),
    /// EAL's memory and CPUs.
    #[error("{0}: EAL is started once; restart the dataplane to change it")]
    Eal(Differs),
    /// A port.
    #[error("{0}: ports are opened at launch; restart the dataplane to change them")]
    Port(Differs),
    /// A limit.
    #[error("{0}: tables are made at launch; restart the dataplane to change their sizes")]
    Limit(Differs),
    /// More or fewer lcores.
    #[error("{0}: EAL's threads are made at launch; restart the dataplane, with spare lcores for what is to come")]
    LcoreCount(Differs),
    /// A lcore that polls ports, or is to.
    #[error("{0}: which lcores poll ports is settled at launch; restart the dataplane to change it")]
    IoLcore(Differs),
    /// A running instance that is to be another.
    #[error("{0}: a running instance stays what it is; start another instance, and end this one")]
    Instance(Differs),
    /// An instance that is to run on a lcore which is not spare.
    #[error("{0}: end the one first, in a document of its own, then start the other")]
    Slot(Differs),
    /// A vport that passes from one to another.
    #[error("{0}: packets to the one may be on their way; take it out in a document of its own first")]
    Vport(Differs),
    /// A CPU that passes from an instance to another.
    #[error(
        "{0}: both would run on it for a moment; end the one in a document of its own first, or set share_cores: true"
    )]
    Cpu(Differs),
    /// An endpoint that is to be elsewhere.
    #[error(
        "{0}: an endpoint's flows are known by where it is; add it under another name and vport, and remove this one"
    )]
    Endpoint(Differs),
    /// The tunnel's address, port or encapsulation.
    #[error("{0}: of the tunnel only peers and vnis may change; restart the dataplane to change the rest")]
    Tunnel(Differs),
    /// A name that is given twice.
    #[error("{0} is twice in the new document: give each its own name")]
    Twice(String),
    /// The document could not be launched either.
    #[error("the new document is wrong in itself: {0}")]
    Invalid(#[from] LaunchError),
    /// A CPU that can't be used.
    #[error("instance {instance} can't run there: {problem}")]
    UnusableCpu {
        /// The instance.
        instance: String,
        /// What is wrong.
        problem: dpdk::EalError,
    },
    /// No memory for mbufs on an instance's socket.
    #[error(
        "instance {instance} needs mbufs on its CPU's socket: {problem}; choose a CPU of another socket, or more memory"
    )]
    NoMbufs {
        /// The instance.
        instance: String,
        /// What is wrong.
        problem: dpdk::MempoolError,
    },
    /// No memory for the rings between an instance and the controller.
    #[error("instance {instance} needs rings to the controller: {problem}")]
    NoRings {
        /// The instance.
        instance: String,
        /// What is wrong.
        problem: shm::link::LinkError,
    },
    /// A lcore that something panicked on.
    #[error("lcore {0} can't be used any more: what ran on it panicked; use another, or restart the dataplane")]
    LostLcore(usize),
    /// An instance whose start panicked.
    #[error("instance {instance} panicked as it was made: {message}")]
    Panicked {
        /// The instance.
        instance: String,
        /// The panic's message.
        message: String,
    },
    /// A thread that does not take the instance.
    #[error("instance {instance} can't be started: {problem}")]
    Lcore {
        /// The instance.
        instance: String,
        /// What is wrong.
        problem: dpdk::LcoreError,
    },
    /// A thread that can't be moved to the instance's CPU.
    #[error("instance {instance} can't be started: {problem}")]
    Affinity {
        /// The instance.
        instance: String,
        /// What is wrong.
        problem: dpdk::cpu::AffinityError,
    },
    /// One at a time.
    #[error("the reconfiguration before this one is still under way: {0}; wait for its answer")]
    UnderWay(String),
}

/// What has to be done to the lcores; all else of a new document is said by its topology.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Spare lcores on which an instance starts.
    pub starts: Vec<usize>,
    /// Lcores whose instance ends.
    pub ends: Vec<usize>,
}

/// What it takes to become `wanted`, or the first thing that forbids it.
pub fn difference(running: &Launch, wanted: &Launch) -> Result<Change, ReconfigureError> {
    same("host", &running.host, &wanted.host).map_err(ReconfigureError::Host)?;
    same("eal", &running.eal, &wanted.eal).map_err(ReconfigureError::Eal)?;
    same("ports", &running.ports, &wanted.ports).map_err(ReconfigureError::Port)?;
    same("limits", &running.limits, &wanted.limits).map_err(ReconfigureError::Limit)?;
    same("tunnel", &fixed(&running.tunnel), &fixed(&wanted.tunnel)).map_err(ReconfigureError::Tunnel)?;
    same("the number of lcores", &running.lcores.len(), &wanted.lcores.len()).map_err(ReconfigureError::LcoreCount)?;
    check_names(wanted)?;
    let change = lcores(running, wanted)?;
    check_vports(running, wanted)?;
    check_endpoints(running, wanted)?;
    check_cpus(running, wanted, &change)?;
    Ok(change)
}

/// The part of the tunnel that may not change.
fn fixed(tunnel: &Option<TunnelLaunch>) -> Option<TunnelLaunch> {
    tunnel.as_ref().map(|tunnel| TunnelLaunch { peers: Vec::new(), vnis: Vec::new(), ..tunnel.clone() })
}

fn same(key: &str, running: &impl serde::Serialize, wanted: &impl serde::Serialize) -> Result<(), Differs> {
    let [running, wanted] =
        [serde_json::to_value(running), serde_json::to_value(wanted)].map(Result::unwrap_or_default);
    first_difference(key.to_owned(), &running, &wanted).map_or(Ok(()), Err)
}

/// The innermost value that differs.
fn first_difference(key: String, running: &Value, wanted: &Value) -> Option<Differs> {
    if running == wanted {
        return None;
    }
    let inner = match (running, wanted) {
        (Value::Object(running), Value::Object(wanted)) => running.iter().find_map(|(name, value)| {
            let other = wanted.get(name).unwrap_or(&Value::Null);
            first_difference(format!("{key}.{name}"), value, other)
        }),
        (Value::Array(running), Value::Array(wanted)) if running.len() == wanted.len() => {
            let mut pairs = running.iter().zip(wanted).enumerate();
            pairs.find_map(|(at, (running, wanted))| first_difference(format!("{key}[{at}]"), running, wanted))
        }
        _ => None,
    };
    inner.or_else(|| Some(differs(key, running, wanted)))
}

fn differs(key: impl Into<String>, running: impl fmt::Display, wanted: impl fmt::Display) -> Differs {
    Differs { key: key.into(), running: running.to_string(), wanted: wanted.to_string() }
}

fn check_names(wanted: &Launch) -> Result<(), ReconfigureError> {
    let instances = instances(wanted).map(|(_, nf)| ("instance", nf.instance.as_str()));
    let endpoints = wanted.endpoints.iter().map(|endpoint| ("endpoint", endpoint.name.as_str()));
    let mut seen = BTreeMap::new();
    for (kind, name) in instances.chain(endpoints) {
        if seen.insert((kind, name), ()).is_some() {
            return Err(ReconfigureError::Twice(format!("{kind} {name}")));
        }
    }
    Ok(())
}

fn instances(launch: &Launch) -> impl Iterator<Item = (usize, &NfLaunch)> {
    launch.lcores.iter().enumerate().filter_map(|(lcore, spec)| match &spec.role {
        RoleLaunch::Nf(nf) => Some((lcore, nf)),
        RoleLaunch::Io | RoleLaunch::Spare => None,
    })
}

fn lcores(running: &Launch, wanted: &Launch) -> Result<Change, ReconfigureError> {
    let mut change = Change::default();
    for (lcore, (from, to)) in running.lcores.iter().zip(&wanted.lcores).enumerate() {
        match (&from.role, &to.role) {
            (RoleLaunch::Spare, RoleLaunch::Spare) => {}
            (RoleLaunch::Spare, RoleLaunch::Nf(nf)) => {
                if let Some((other, _)) = instances(running).find(|(_, other)| other.instance == nf.instance) {
                    let key = format!("the lcore of {}", nf.instance);
                    return Err(ReconfigureError::Instance(differs(key, other, lcore)));
                }
                change.starts.push(lcore);
            }
            (RoleLaunch::Nf(_), RoleLaunch::Spare) => change.ends.push(lcore),
            (RoleLaunch::Nf(one), RoleLaunch::Nf(other)) if one.instance != other.instance => {
                let key = format!("the instance on lcore {lcore}");
                return Err(ReconfigureError::Slot(differs(key, &one.instance, &other.instance)));
            }
            (RoleLaunch::Nf(one), RoleLaunch::Nf(other)) => {
                let fixed = NfLaunch { mangles: one.mangles, ..other.clone() };
                same(&one.instance, one, &fixed).map_err(ReconfigureError::Instance)?;
                same(&format!("the CPU of {}", one.instance), &from.cpu, &to.cpu)
                    .map_err(ReconfigureError::Instance)?;
            }
            (RoleLaunch::Io, RoleLaunch::Io) => {
                same(&format!("the CPU of lcore {lcore}"), &from.cpu, &to.cpu).map_err(ReconfigureError::IoLcore)?;
            }
            (RoleLaunch::Io, _) | (_, RoleLaunch::Io) => {
                let key = format!("the role of lcore {lcore}");
                return Err(ReconfigureError::IoLcore(differs(key, role(&from.role), role(&to.role))));
            }
        }
    }
    Ok(change)
}

fn role(role: &RoleLaunch) -> &str {
    match role {
        RoleLaunch::Io => "I/O",
        RoleLaunch::Nf(nf) => &nf.instance,
        RoleLaunch::Spare => "spare",
    }
}

fn owners(launch: &Launch) -> BTreeMap<VportId, &str> {
    let endpoints = launch.endpoints.iter().map(|endpoint| (endpoint.vport, endpoint.name.as_str()));
    endpoints.chain(instances(launch).map(|(_, nf)| (nf.vport, nf.instance.as_str()))).collect()
}

fn check_vports(running: &Launch, wanted: &Launch) -> Result<(), ReconfigureError> {
    let before = owners(running);
    for (vport, wanted) in owners(wanted) {
        if let Some(running) = before.get(&vport).filter(|running| **running != wanted) {
            return Err(ReconfigureError::Vport(differs(format!("the owner of vport {vport}"), running, wanted)));
        }
    }
    Ok(())
}

fn check_endpoints(running: &Launch, wanted: &Launch) -> Result<(), ReconfigureError> {
    for to in &wanted.endpoints {
        let Some(from) = running.endpoints.iter().find(|from| from.name == to.name) else { continue };
        let key = |what| format!("{}'s {what}", to.name);
        same(&key("vport"), &from.vport, &to.vport)
            .and_then(|()| same(&key("vni"), &from.vni, &to.vni))
            .and_then(|()| same(&key("attachment"), &from.attachment, &to.attachment))
            .map_err(ReconfigureError::Endpoint)?;
    }
    Ok(())
}

fn check_cpus(running: &Launch, wanted: &Launch, change: &Change) -> Result<(), ReconfigureError> {
    if wanted.eal.share_cores {
        return Ok(());
    }
    for &start in &change.starts {
        let cpu = wanted.lcores[start].cpu;
        if let Some(&end) = change.ends.iter().find(|&&end| running.lcores[end].cpu == cpu) {
            let (ending, starting) = (role(&running.lcores[end].role), role(&wanted.lcores[start].role));
            return Err(ReconfigureError::Cpu(differs(format!("the owner of CPU {cpu}"), ending, starting)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use packet::Vni;
    use proptest::prelude::*;
    use shm::launch::{Attachment, EndpointLaunch, LcoreLaunch};

    use super::*;
    use crate::report::tests::launch;

    fn nf(vport: u16, instance: &str) -> NfLaunch {
        NfLaunch {
            vport: VportId(vport),
            vni: Vni::new(1).unwrap(),
            instance: instance.to_owned(),
            function: "passthrough".to_owned(),
            config: Value::Null,
            mangles: false,
        }
    }

    fn endpoint(vport: u16, name: &str) -> EndpointLaunch {
        EndpointLaunch {
            vport: VportId(vport),
            name: name.to_owned(),
            vni: Vni::new(1).unwrap(),
            attachment: Attachment::Port { port: "left".to_owned(), vlan: Some(vport) },
            prefixes: Vec::new(),
            next_hops: Vec::new(),
            answers: Vec::new(),
            gateways: Vec::new(),
        }
    }

    /// Lcore 0 polls the port, 1 runs acme/edge/1 at vport 3, 2 and 3 are spare; two endpoints and a tunnel.
    fn running() -> Launch {
        let mut running = launch();
        running.lcores.extend([10, 11].map(|cpu| LcoreLaunch { cpu, role: RoleLaunch::Spare }));
        running.endpoints = vec![endpoint(1, "acme/clients"), endpoint(2, "acme/servers")];
        running.tunnel = Some(TunnelLaunch {
            port: "left".to_owned(),
            address: "192.0.2.1/24".parse().unwrap(),
            gateway: None,
            peers: vec![[192, 0, 2, 2].into()],
            udp_port: 4_789,
            vnis: vec![Vni::new(1).unwrap()],
            encapsulation: Default::default(),
        });
        running
    }

    fn start(launch: &mut Launch, lcore: usize, cpu: u16, nf: NfLaunch) {
        launch.lcores[lcore] = LcoreLaunch { cpu, role: RoleLaunch::Nf(nf) };
    }

    fn edge(launch: &mut Launch) -> &mut NfLaunch {
        match &mut launch.lcores[1].role {
            RoleLaunch::Nf(nf) => nf,
            _ => unreachable!("acme/edge/1 is there"),
        }
    }

    #[test]
    fn what_may_change_changes_and_only_lcores_are_started_and_ended() {
        let running = running();
        assert_eq!(difference(&running, &running).unwrap(), Change::default());
        let mut wanted = running.clone();
        edge(&mut wanted).mangles = true;
        wanted.endpoints.remove(1);
        wanted.endpoints.push(endpoint(5, "acme/more"));
        wanted.endpoints[0].answers = vec!["10.0.0.1/32".parse().unwrap()];
        wanted.endpoints[0].prefixes = vec!["10.0.0.0/24".parse().unwrap()];
        let tunnel = wanted.tunnel.as_mut().unwrap();
        tunnel.peers.clear();
        tunnel.vnis.push(Vni::new(9).unwrap());
        wanted.lcores[2].cpu = 77;
        assert_eq!(difference(&running, &wanted).unwrap(), Change::default());
        start(&mut wanted, 3, 5, nf(7, "acme/edge/2"));
        assert_eq!(difference(&running, &wanted).unwrap(), Change { starts: vec![3], ends: Vec::new() });
        wanted.lcores[1].role = RoleLaunch::Spare;
        assert_eq!(difference(&running, &wanted).unwrap(), Change { starts: vec![3], ends: vec![1] });
    }

    /// A forbidden change: how it is made, its error's name, and the parts of the message: the key and both values.
    type Case = (fn(&mut Launch), &'static str, [&'static str; 3]);

    fn check(cases: &[Case]) {
        for (change, name, parts) in cases {
            let mut wanted = running();
            change(&mut wanted);
            let error = difference(&running(), &wanted).unwrap_err();
            assert!(format!("{error:?}").starts_with(&format!("{name}(")), "{error:?}");
            for part in parts {
                assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
            }
        }
    }

    #[test]
    fn what_the_host_is_made_of_may_not_change_and_the_message_names_the_key_and_both_values() {
        check(&[
            (|w| w.host = "other".into(), "Host", ["host", "\"h\"", "\"other\""]),
            (|w| w.eal.memory_mib = 2, "Eal", ["eal.memory_mib", "1", "2"]),
            (|w| w.eal.share_cores = true, "Eal", ["eal.share_cores", "false", "true"]),
            (|w| w.ports[0].mtu = 9_000, "Port", ["ports[0].mtu", "1500", "9000"]),
            (|w| w.ports.clear(), "Port", ["ports is", "left", "[]"]),
            (|w| w.limits.flows = 1, "Limit", ["limits.flows", "65536", "1"]),
            (|w| drop(w.lcores.pop()), "LcoreCount", ["number of lcores", "4", "3"]),
            (|w| w.lcores[0].cpu = 6, "IoLcore", ["CPU of lcore 0", "0", "6"]),
            (|w| w.lcores[0].role = RoleLaunch::Spare, "IoLcore", ["role of lcore 0", "I/O", "spare"]),
            (|w| w.lcores[2].role = RoleLaunch::Io, "IoLcore", ["role of lcore 2", "spare", "I/O"]),
        ]);
    }

    #[test]
    fn a_running_instance_its_lcore_its_vport_and_its_cpu_may_not_pass_to_another() {
        check(&[
            (|w| w.lcores[1].cpu = 8, "Instance", ["the CPU of acme/edge/1", "9", "8"]),
            (|w| edge(w).function = "firewall".into(), "Instance", ["acme/edge/1.function", "passthrough", "firewall"]),
            (
                |w| edge(w).config = serde_json::json!({ "x": 1 }),
                "Instance",
                ["acme/edge/1.config", "null", "{\"x\":1}"],
            ),
            (|w| edge(w).vport = VportId(4), "Instance", ["acme/edge/1.vport", "3", "4"]),
            (|w| edge(w).vni = Vni::new(2).unwrap(), "Instance", ["acme/edge/1.vni", "1", "2"]),
            (|w| w.lcores.swap(1, 2), "Instance", ["the lcore of acme/edge/1", "1", "2"]),
            (
                |w| edge(w).instance = "acme/edge/2".into(),
                "Slot",
                ["the instance on lcore 1", "acme/edge/1", "acme/edge/2"],
            ),
            (
                |w| start(w, 2, 5, nf(2, "acme/edge/2")),
                "Vport",
                ["the owner of vport 2", "acme/servers", "acme/edge/2"],
            ),
            (
                |w| {
                    w.lcores[1].role = RoleLaunch::Spare;
                    start(w, 2, 9, nf(8, "acme/edge/2"));
                },
                "Cpu",
                ["the owner of CPU 9", "acme/edge/1", "acme/edge/2"],
            ),
        ]);
    }

    #[test]
    fn endpoints_and_the_tunnel_stay_where_they_are() {
        check(&[
            (|w| w.endpoints[0].vport = VportId(9), "Endpoint", ["acme/clients's vport", "1", "9"]),
            (|w| w.endpoints[0].vni = Vni::new(9).unwrap(), "Endpoint", ["acme/clients's vni", "1", "9"]),
            (
                |w| w.endpoints[0].attachment = Attachment::Port { port: "left".into(), vlan: Some(88) },
                "Endpoint",
                ["acme/clients's attachment", "1", "88"],
            ),
            (|w| w.tunnel = None, "Tunnel", ["tunnel", "4789", "null"]),
            (
                |w| w.tunnel.as_mut().unwrap().encapsulation = shm::launch::Encapsulation::Nsh,
                "Tunnel",
                ["tunnel.encapsulation", "vxlan", "nsh"],
            ),
            (|w| w.endpoints[1].name = "acme/clients".into(), "Twice", ["endpoint acme/clients", "twice", "name"]),
        ]);
    }

    proptest! {
        /// Breaks if a lcore is forgotten, started twice, or if a change and its undoing are not each other's mirror.
        #[test]
        fn starts_and_ends_are_mirrored_by_the_way_back(from in any::<[bool; 6]>(), to in any::<[bool; 6]>()) {
            let document = |busy: [bool; 6]| {
                let mut document = launch();
                for (at, busy) in busy.into_iter().enumerate() {
                    document.lcores.push(LcoreLaunch { cpu: 20 + at as u16, role: RoleLaunch::Spare });
                    if busy {
                        start(&mut document, at + 2, 20 + at as u16, nf(10 + at as u16, &format!("acme/nf/{at}")));
                    }
                }
                document
            };
            let there = difference(&document(from), &document(to)).unwrap();
            let back = difference(&document(to), &document(from)).unwrap();
            prop_assert_eq!((&there.starts, &there.ends), (&back.ends, &back.starts));
            for at in 0..6 {
                prop_assert_eq!(there.starts.contains(&(at + 2)), !from[at] && to[at]);
                prop_assert_eq!(there.ends.contains(&(at + 2)), from[at] && !to[at]);
            }
        }
    }
}
