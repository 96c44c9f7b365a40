//! What the API shows: rows with names, from the plan, the Hello, the counters and the flow thread's figures.

use std::collections::BTreeMap;

use packet::{DropReason, PathId, VportId};
use shm::counters::CountersReader;
use shm::hello::{Hello, LcoreReport, LcoreRole};
use shm::rules::Next;
use shm::snapshot::LcoreSnapshot;

use super::{Server, State, away};
use crate::api::{
    Audit, AuditRow, ChainRow, ConfigInForce, CounterKind, CounterRow, CountersSnapshot, DataplaneState,
    DataplaneStatus, DropRow, FlowRow, Flows, Hop, HostRow, InstanceRow, InstanceState, LcoreRow, NamedCount, PathRow,
    Request, Response, Status, VersionRow, class_name,
};
use crate::compose::{Element, InstancePath, Place, PlacedInstance, PlacedTag};
use crate::steering::{Installed, Stats};

/// The lcore's name: `io`, with its number if there are several, or the NF instance.
fn lcore_name(hello: &Hello, lcore: &LcoreReport) -> String {
    let io = hello.lcores.iter().filter(|other| other.role == LcoreRole::Io).count();
    match &lcore.instance {
        Some(instance) => instance.clone(),
        None if lcore.role == LcoreRole::Spare => format!("spare-{}", lcore.index),
        None if io == 1 => "io".into(),
        None => format!("io-{}", lcore.index),
    }
}

fn as_socket(socket: Option<u32>) -> Option<i32> {
    socket.and_then(|socket| i32::try_from(socket).ok())
}

impl Server {
    pub(super) fn answer_with_stats(&self, request: &Request, stats: &Stats) -> Response {
        match request {
            Request::Chains => Response::Chains(self.chains(stats)),
            Request::Paths => Response::Paths(self.paths(stats)),
            Request::Instances => Response::Instances(self.instances(stats)),
            _ => Response::Status(self.status(stats)),
        }
    }

    fn attachment(&self) -> Option<(&Hello, &CountersReader)> {
        match &self.state {
            State::Attached(attachment) => Some((&attachment.hello, &attachment.counters)),
            _ => None,
        }
    }

    fn status(&self, stats: &Stats) -> Status {
        let hello = self.attachment().map(|(hello, _)| hello);
        let mut warnings: Vec<String> = self.plan.composition.warnings.iter().map(ToString::to_string).collect();
        warnings.extend(self.news.iter().cloned());
        Status {
            host: self.options.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            config_file: self.plan.config.file.clone(),
            config_version: self.versions.machine.active().version,
            epoch: stats.epoch,
            flows_set_up: stats.set_up,
            flows_rejected: stats.rejected,
            sessions: stats.sessions,
            batches_refused: stats.refused,
            dataplane: DataplaneStatus {
                state: if hello.is_some() { DataplaneState::Attached } else { DataplaneState::Restarting },
                pid: hello.map(|hello| hello.pid),
                // Both sides are of one release, or they would not have attached.
                version: hello.map(|_| env!("CARGO_PKG_VERSION").into()),
                restarts: self.restarts,
                shares_cores: hello.is_some_and(|hello| hello.lcores.iter().any(|lcore| lcore.cpu_shared)),
                hugepages: hello.is_some_and(|hello| hello.launch.eal.hugepages),
            },
            warnings,
        }
    }

    pub(super) fn hosts(&self) -> Vec<HostRow> {
        let plan = &self.plan;
        let row = |(index, host): (usize, &crate::config::Host)| {
            let part = &plan.composition.hosts[index];
            let named = |wanted: fn(&Place) -> bool| -> Vec<String> {
                part.vports.iter().filter(|vport| wanted(&vport.place)).map(|vport| vport.name.clone()).collect()
            };
            HostRow {
                host: host.name.clone(),
                here: index == plan.host,
                vtep: host.underlay.as_ref().map(|underlay| underlay.address.addr()),
                cpus: part.launch.lcores.iter().map(|lcore| lcore.cpu).collect(),
                ports: part.launch.ports.iter().map(|port| port.name.clone()).collect(),
                endpoints: named(|place| matches!(place, Place::Endpoint(..))),
                instances: named(|place| matches!(place, Place::Instance(..))),
            }
        };
        plan.config.hosts.iter().enumerate().map(row).collect()
    }

    pub(super) fn lcores(&self) -> Response {
        let Some((hello, counters)) = self.attachment() else { return away() };
        let row = |lcore: &LcoreReport| {
            let counts = counters.snapshot(lcore.index).unwrap_or_default();
            let polled = hello.launch.ports.iter().filter(|port| port.lcore == lcore.index);
            LcoreRow {
                lcore: lcore.index,
                cpu: lcore.cpu,
                socket: as_socket(lcore.socket),
                memory_socket: as_socket(lcore.mempool_socket),
                runs: match (&lcore.instance, lcore.role) {
                    (Some(instance), _) => instance.clone(),
                    (None, LcoreRole::Spare) => "spare".into(),
                    (None, _) => "io".into(),
                },
                ports: polled.map(|port| port.name.clone()).collect(),
                shares_cpu: lcore.cpu_shared,
                useful_percent: percent(counts.busy_cycles, counts.total_cycles),
                exact_rules: counts.flows,
                tag_rules: counts.tag_rules,
                parked: counts.parked,
            }
        };
        Response::Lcores(hello.lcores.iter().map(row).collect())
    }

    fn instances(&self, stats: &Stats) -> Vec<InstanceRow> {
        let mut rows = Vec::new();
        for instance in &self.plan.composition.instances {
            let name = &instance.running_name;
            let here = instance.host == self.plan.host;
            let host = self.plan.config.hosts[instance.host].name.as_str();
            let runs = self.machines.occupied(host, name);
            let counters = if here { self.nf_counters(name) } else { Vec::new() };
            let failed = stats.failed.contains(&instance.place) || (here && self.has_panicked(name));
            rows.push(InstanceRow {
                instance: instance.name.clone(),
                function: instance.function.clone(),
                mangles: instance.mangles,
                host: host.to_owned(),
                lcore: instance.lcore,
                cpu: instance.cpu,
                confirmed_cpu: runs.and_then(|runs| runs.cpu),
                node: self.machines.node(host, instance.cpu),
                capacity_pps: runs.and_then(|runs| runs.capacity_pps),
                why: instance.why.clone(),
                state: match (here, failed) {
                    (_, true) => InstanceState::Failed,
                    _ if instance.retired => InstanceState::Draining,
                    (false, _) => InstanceState::Elsewhere,
                    (true, _) if self.of_instance(name).is_none() => InstanceState::Starting,
                    (true, _) => InstanceState::Running,
                },
                draining_s: if instance.retired { self.draining_s(instance) } else { None },
                rewrites: self.versions.rewrites.get(&instance.vport).filter(|_| here).cloned(),
                counters,
            });
        }
        rows
    }

    /// How long ago the first path through a retired instance retired.
    fn draining_s(&self, instance: &PlacedInstance) -> Option<u64> {
        let through = |path: &InstancePath| {
            path.elements.iter().any(|element| element.host == instance.host && element.vport == instance.vport)
        };
        let since = self.draining.since(|id| self.plan.composition.path(id).is_some_and(through));
        since.map(|since| since.as_secs())
    }

    pub(super) fn config_in_force(&self) -> Response {
        let document = self.versions.machine.active();
        Response::Config(ConfigInForce {
            version: document.version,
            digest: document.stamp().digest,
            file: document.file.clone(),
            yaml: document.yaml.clone(),
            operations: document.operations.iter().map(ToString::to_string).collect(),
        })
    }

    /// In the file's order.
    pub(super) fn version_rows(&self) -> Vec<VersionRow> {
        let machine = &self.versions.machine;
        let row = |host: &crate::config::Host| {
            let here = host.name == self.options.host;
            let peer = machine.peers().find(|(name, ..)| *name == host.name);
            let status = if here { Some(machine.status()) } else { peer.and_then(|(_, _, status)| status.cloned()) };
            VersionRow {
                host: host.name.clone(),
                here,
                reachable: here || peer.is_some_and(|(_, connected, _)| connected),
                active: status.as_ref().map(|status| status.active.version),
                digest: status.as_ref().map(|status| status.active.digest.clone()),
                installed: status.and_then(|status| status.installed).map(|stamp| stamp.version),
                waits_for: if here { machine.waits_for() } else { None },
            }
        };
        self.plan.config.hosts.iter().map(row).collect()
    }

    /// This host's audit; empty while the dataplane is away.
    pub(super) fn audit(&self) -> Audit {
        let Some((hello, counters)) = self.attachment() else {
            return Audit { rows: Vec::new(), silent: vec![self.options.host.clone()] };
        };
        let row = |lcore: &LcoreReport| {
            let counts = counters.snapshot(lcore.index).unwrap_or_default();
            let last = self.versions.violations.get(&lcore.index).map(|seen| {
                let (at, flow) = (self.plan.part().vport_name(seen.key.vport), seen.key.five_tuple);
                let path = |id| match self.plan.composition.path(id) {
                    Some(path) => format!("{id} ({})", path.name),
                    None => id.to_string(),
                };
                format!("{flow} at {at}: belongs to path {}, was met on {}", path(seen.expected), path(seen.found))
            });
            AuditRow {
                host: self.options.host.clone(),
                lcore: lcore_name(hello, lcore),
                audited_packets: counts.audited_packets,
                violations: counts.affinity_violations,
                last,
            }
        };
        let runs = |lcore: &&LcoreReport| lcore.role != LcoreRole::Spare;
        Audit { rows: hello.lcores.iter().filter(runs).map(row).collect(), silent: Vec::new() }
    }

    /// Also of a panic that an earlier controller was told of.
    fn has_panicked(&self, instance: &str) -> bool {
        self.of_instance(instance).is_some_and(|(_, counts)| counts.nf_failed)
    }

    fn of_instance(&self, instance: &str) -> Option<(&LcoreReport, LcoreSnapshot)> {
        let (hello, counters) = self.attachment()?;
        let lcore = hello.lcores.iter().find(|lcore| lcore.instance.as_deref() == Some(instance))?;
        Some((lcore, counters.snapshot(lcore.index)?))
    }

    fn nf_counters(&self, instance: &str) -> Vec<NamedCount> {
        let Some((lcore, counts)) = self.of_instance(instance) else { return Vec::new() };
        let value =
            |place: usize| u16::try_from(place).ok().and_then(|place| counts.nf.get(&place)).copied().unwrap_or(0);
        let named = |(place, name): (usize, &String)| NamedCount { name: name.clone(), value: value(place) };
        lcore.nf_counters.iter().enumerate().map(named).collect()
    }

    fn chains(&self, stats: &Stats) -> Vec<ChainRow> {
        let composition = &self.plan.composition;
        let mut rows = Vec::new();
        for (place, (tenant, subchains)) in self.plan.config.tenants.iter().zip(&composition.chains).enumerate() {
            for (index, (chain, subchains)) in tenant.chains.iter().zip(subchains).enumerate() {
                let mut paths: Vec<usize> = subchains
                    .iter()
                    .flat_map(|index| &composition.subchains[*index].heads)
                    .flat_map(|head| head.choices.iter().map(|(path, _)| *path))
                    .collect();
                paths.sort_unstable();
                paths.dedup();
                let named = |index: usize| format!("{}/{}", tenant.name, tenant.endpoints[index].name);
                rows.push(ChainRow {
                    chain: format!("{}/{}", tenant.name, chain.name),
                    vni: tenant.vni.value(),
                    from: named(chain.from),
                    to: named(chain.to),
                    selects: chain.selector.to_string(),
                    through: chain.through.iter().map(|nf| tenant.nfs[*nf].name.clone()).collect(),
                    subchains: subchains.len(),
                    paths: paths.len(),
                    flows: stats.per_chain.get(&(place, index)).copied().unwrap_or(0),
                });
            }
        }
        rows
    }

    /// The chains that a path belongs to, and the place of its subchain in the first of them.
    fn chains_of(&self, path: usize) -> (Vec<String>, usize, u32) {
        let composition = &self.plan.composition;
        let (mut names, mut place, mut share) = (Vec::new(), None, 0);
        for (tenant, chains) in self.plan.config.tenants.iter().zip(&composition.chains) {
            for (chain, subchains) in tenant.chains.iter().zip(chains) {
                for (position, subchain) in subchains.iter().enumerate() {
                    let heads = &composition.subchains[*subchain].heads;
                    let choice = heads.iter().flat_map(|head| &head.choices).find(|(index, _)| *index == path);
                    if let Some((_, weight)) = choice {
                        names.push(format!("{}/{}", tenant.name, chain.name));
                        if place.is_none() {
                            (place, share) = (Some(position), *weight);
                        }
                    }
                }
            }
        }
        (names, place.unwrap_or(0), share)
    }

    fn paths(&self, stats: &Stats) -> Vec<PathRow> {
        let counts = self.attachment().map(|(_, counters)| counters.snapshots()).unwrap_or_default();
        let failed = |path: &InstancePath| path.elements.iter().any(|element| stats.failed.contains(&element.place));
        let row = |(index, path): (usize, &std::sync::Arc<InstancePath>)| {
            let (chains, subchain, weight) = self.chains_of(index);
            PathRow {
                path: path.id.0,
                chains,
                subchain,
                tag_forward: path.forward.dscp(),
                tag_reverse: path.reverse.dscp(),
                hops: path.elements.iter().map(|element| self.hop(path, element, &counts)).collect(),
                weight,
                path_mtu: path.mtu_forward.min(path.mtu_reverse),
                flows: stats.per_path.get(&path.id).copied().unwrap_or(0),
                usable: !failed(path),
            }
        };
        self.plan.composition.paths.iter().enumerate().map(row).collect()
    }

    /// What left an element is counted by its tag rules, which the two ends of a path don't have.
    fn hop(&self, path: &InstancePath, element: &Element, counts: &[LcoreSnapshot]) -> Hop {
        let packets = |tag: packet::Tag| {
            let from_here = |placed: &&PlacedTag| {
                let key = placed.rule.key;
                key.vni == path.vni && key.tag == tag && key.prior == element.vport
            };
            let placed = self.plan.part().tags.iter().filter(|_| element.host == self.plan.host).find(from_here)?;
            Some(tag_packets(counts, placed).0)
        };
        Hop {
            element: element.name.clone(),
            host: self.plan.config.hosts[element.host].name.clone(),
            forward_packets: packets(path.forward),
            reverse_packets: packets(path.reverse),
        }
    }

    /// Names the path's first chain.
    fn chain_of_path(&self, id: PathId) -> Option<String> {
        let index = self.plan.composition.paths.iter().position(|path| path.id == id)?;
        self.chains_of(index).0.into_iter().next()
    }

    fn next_name(&self, next: Next) -> String {
        match next {
            Next::Vport(vport) => self.plan.part().vport_name(vport),
            Next::Tunnel { vtep, next } => {
                let has =
                    |host: &crate::config::Host| host.underlay.as_ref().is_some_and(|own| own.address.addr() == vtep);
                match self.plan.config.hosts.iter().position(has) {
                    Some(host) => {
                        let part = &self.plan.composition.hosts[host];
                        format!("{}@{}", part.vport_name(next), self.plan.config.hosts[host].name)
                    }
                    None => format!("vport {next}@{vtep}"),
                }
            }
        }
    }

    pub(super) fn flows(&self, rows: &[Installed], limit: usize) -> Response {
        let mut sorted: Vec<&Installed> = rows.iter().collect();
        sorted.sort_by_key(|row| (row.rule.key.vport, row.rule.key));
        let mut chains: BTreeMap<PathId, Option<String>> = BTreeMap::new();
        let mut row = |row: &&Installed| {
            let (key, action) = (&row.rule.key, &row.rule.action);
            let tenant = self.plan.config.tenants.iter().find(|tenant| tenant.vni == key.vni);
            let chain = chains.entry(action.path).or_insert_with(|| self.chain_of_path(action.path));
            FlowRow {
                at: self.plan.part().vport_name(key.vport),
                tenant: tenant.map_or_else(|| format!("vni {}", key.vni), |tenant| tenant.name.clone()),
                flow: key.five_tuple,
                direction: action.direction,
                chain: chain.clone(),
                path: action.path.0,
                tag: action.tag.dscp(),
                next: self.next_name(action.next),
                learned: row.learned,
                packets: row.packets,
                bytes: row.bytes,
                idle_ms: row.idle_ms,
            }
        };
        let rows = sorted.iter().take(limit).map(&mut row).collect();
        Response::Flows(Flows { total: sorted.len() as u64, rows })
    }

    pub(super) fn drops(&self) -> Response {
        let Some((hello, counters)) = self.attachment() else { return away() };
        let counts = counters.snapshots();
        let mut rows = Vec::new();
        for reason in DropReason::ALL {
            let of = |lcore: &LcoreReport| {
                let packets = counts.get(lcore.index).map_or(0, |counts| counts.dropped(*reason));
                (packets > 0).then(|| (lcore_name(hello, lcore), packets))
            };
            let by_lcore: BTreeMap<String, u64> = hello.lcores.iter().filter_map(of).collect();
            if !by_lcore.is_empty() {
                rows.push(DropRow {
                    reason: reason.name().into(),
                    class: class_name(reason.class()).into(),
                    packets: by_lcore.values().sum(),
                    meaning: reason.meaning().trim().into(),
                    by_lcore,
                });
            }
        }
        Response::Drops(rows)
    }

    pub(super) fn counters(&self) -> Response {
        let Some((hello, counters)) = self.attachment() else { return away() };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let taken_ns = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
        let counts = counters.snapshots();
        let mut rows = Vec::new();
        for lcore in hello.lcores.iter().filter(|lcore| lcore.role != LcoreRole::Spare) {
            if let Some(counts) = counts.get(lcore.index) {
                rows.push(row(CounterKind::Lcore, lcore_name(hello, lcore), lcore_values(counts)));
            }
        }
        for (place, port) in hello.ports.iter().enumerate() {
            let of = |counts: &LcoreSnapshot| counts.ports.get(&u16::try_from(place).unwrap_or(u16::MAX)).copied();
            let all: Vec<_> = counts.iter().filter_map(of).collect();
            let sum = |value: fn(&shm::snapshot::PortSnapshot) -> u64| all.iter().map(value).sum::<u64>();
            let values = [
                ("rx_packets", sum(|port| port.rx_packets)),
                ("rx_bytes", sum(|port| port.rx_bytes)),
                ("tx_packets", sum(|port| port.tx_packets)),
                ("tx_bytes", sum(|port| port.tx_bytes)),
                ("rx_missed", sum(|port| port.rx_missed)),
                ("rx_errors", sum(|port| port.rx_errors)),
                ("tx_errors", sum(|port| port.tx_errors)),
                ("link_up", sum(|port| port.link_up)),
            ];
            rows.push(row(CounterKind::Port, port.name.clone(), values));
        }
        rows.extend(self.vport_rows(&counts));
        for lcore in hello.lcores.iter().filter(|lcore| !lcore.nf_counters.is_empty()) {
            let name = lcore_name(hello, lcore);
            let values = self.nf_counters(&name).into_iter().map(|count| (count.name, count.value)).collect();
            rows.push(CounterRow { kind: CounterKind::Instance, name, values });
        }
        rows.extend(self.rule_rows(&counts));
        let mut drops: BTreeMap<String, u64> = BTreeMap::new();
        for (reason, packets) in counts.iter().flat_map(|counts| &counts.drops) {
            *drops.entry(reason.clone()).or_default() += packets;
        }
        rows.push(CounterRow { kind: CounterKind::Drops, name: self.options.host.clone(), values: drops });
        let host = self.options.host.clone();
        Response::Counters(CountersSnapshot { host, taken_ns, dataplane_pid: hello.pid, rows })
    }

    fn vport_rows(&self, counts: &[LcoreSnapshot]) -> Vec<CounterRow> {
        let part = self.plan.part();
        let of = |(place, vport): (usize, &crate::compose::Vport)| {
            let id = VportId(u16::try_from(place).unwrap_or(u16::MAX));
            let all: Vec<_> = counts.iter().filter_map(|counts| counts.vports.get(&id.0)).collect();
            let sum = |value: fn(&&shm::snapshot::VportSnapshot) -> u64| all.iter().map(value).sum::<u64>();
            let values = [
                ("in_packets", sum(|vport| vport.in_packets)),
                ("in_bytes", sum(|vport| vport.in_bytes)),
                ("out_packets", sum(|vport| vport.out_packets)),
                ("out_bytes", sum(|vport| vport.out_bytes)),
            ];
            row(CounterKind::Vport, vport.name.clone(), values)
        };
        part.vports.iter().enumerate().map(of).collect()
    }

    fn rule_rows(&self, counts: &[LcoreSnapshot]) -> Vec<CounterRow> {
        let part = self.plan.part();
        let of = |placed: &PlacedTag| {
            let (key, action) = (placed.rule.key, placed.rule.action);
            let direction = match action.direction {
                packet::Direction::Forward => "forward",
                packet::Direction::Reverse => "reverse",
            };
            let (from, to) = (part.vport_name(key.prior), self.next_name(action.next));
            let (packets, bytes) = tag_packets(counts, placed);
            let name = format!("path {} {direction} {from} > {to}", action.path);
            row(CounterKind::Rule, name, [("packets", packets), ("bytes", bytes)])
        };
        part.tags.iter().map(of).collect()
    }
}

fn tag_packets(counts: &[LcoreSnapshot], placed: &PlacedTag) -> (u64, u64) {
    let counter = counts.get(placed.lcore).and_then(|counts| counts.tags.get(&placed.rule.action.counter));
    counter.map_or((0, 0), |counter| (counter.packets, counter.bytes))
}

fn row<const N: usize>(kind: CounterKind, name: String, values: [(&str, u64); N]) -> CounterRow {
    CounterRow { kind, name, values: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

fn lcore_values(counts: &LcoreSnapshot) -> [(&'static str, u64); 23] {
    [
        ("polls", counts.polls),
        ("busy_cycles", counts.busy_cycles),
        ("total_cycles", counts.total_cycles),
        ("sleeps", counts.sleeps),
        ("received", counts.received),
        ("originated", counts.originated),
        ("transmitted", counts.transmitted),
        ("held", counts.held),
        ("dropped", counts.drops.values().sum()),
        ("parked", counts.parked),
        ("flows", counts.flows),
        ("tag_rules", counts.tag_rules),
        ("flow_misses", counts.flow_misses),
        ("flows_learned", counts.flows_learned),
        ("flows_expired", counts.flows_expired),
        ("rewritten", counts.rewritten),
        ("audited_packets", counts.audited_packets),
        ("affinity_violations", counts.affinity_violations),
        ("update_batches", counts.update_batches),
        ("refused_batches", counts.refused_batches),
        ("events_lost", counts.events_lost),
        ("capture_missed", counts.capture_missed),
        ("nf_failed", u64::from(counts.nf_failed)),
    ]
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
