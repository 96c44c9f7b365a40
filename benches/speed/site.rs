//! A real dataplane in this process, and the harness as its controller.
//!
//! The lcores run as they always do ([`Dataplane::with_devices`]); rules go through the update rings with commits, and the
//! figures come from the counters in shared memory.

use std::time::{Duration, Instant};

use dataplane::assembly::{OpenDevices, eal_config};
use dataplane::launch::Dataplane;
use dataplane::meta::Meta;
use dpdk::{Eal, LcoreBinding, RingPortConfig, RingPortEnds, SocketId};
use shm::counters::CountersReader;
use shm::link::{self, ControllerLink};
use shm::rules::{Epoch, Event, Refusal, Update};
use shm::snapshot::LcoreSnapshot;

use super::feeder::{Feeder, RING_MAC_PORT};
use super::traffic::{LEFT_MAC, RIGHT_MAC};
use super::{Source, SpeedError, TrialSpec, failed, rules};

/// Rules between two commits when a table is filled.
const BATCH: usize = 4_096;
/// How long a lcore may take for a batch.
pub const PATIENCE: Duration = Duration::from_secs(20);
const RING: u32 = 4_096;

/// A running dataplane with its rules.
pub struct Site {
    dataplane: Dataplane,
    reader: CountersReader,
    pub links: Links,
    feeder: Option<Feeder>,
}

/// The controller's ends of all lcores' rings.
#[derive(Default)]
pub struct Links {
    lcores: Vec<ControllerLink>,
    epoch: u64,
    /// Flow misses seen.
    pub misses: u64,
    /// Reject every flow that is not known, and forget that again, so that its next packet is of a new flow: the traffic repeats.
    pub reject: bool,
}

impl Site {
    /// Starts EAL, the devices and the dataplane, and installs the rules of all flows.
    pub fn start(spec: &TrialSpec) -> Result<Self, SpeedError> {
        let launch = rules::launch(spec);
        let (eal, mut devices, ring) = start_eal(spec)?;
        let feeder = ring.map(|ring| Feeder::start(&eal, spec, launch.lcores.len() as u32 + 1, ring)).transpose()?;
        if let Some(device) = feeder.as_ref().and_then(Feeder::device) {
            devices.insert("left".to_owned(), device);
        }
        let mut dataplane =
            Dataplane::with_devices(eal, &launch, devices).map_err(|error| failed("launch the dataplane", error))?;
        check_macs(&dataplane, spec.source)?;
        let (fds, ends, memory) = dataplane.link().map_err(|error| failed("make the rings", error))?;
        dataplane.attach(ends, memory);
        let (lcores, _) = link::open(fds).map_err(|error| failed("open the rings", error))?;
        let reader = CountersReader::open(dataplane.counters()).map_err(|error| failed("read the counters", error))?;
        let mut links = Links::new(lcores);
        links.install_tags(spec)?;
        links.install_flows(spec)?;
        if let Some(feeder) = &feeder {
            feeder.go();
        }
        Ok(Self { dataplane, reader, links, feeder })
    }

    /// A lcore's counters.
    pub fn snapshot(&self, lcore: usize) -> LcoreSnapshot {
        self.reader.snapshot(lcore).unwrap_or_default()
    }

    /// Ends everything, and checks that every mbuf came back.
    pub fn stop(self) -> Result<(), SpeedError> {
        drop(self.feeder);
        let balance = self.dataplane.stop();
        // What a feeder still had in its ring is not the dataplane's; net_pcap gives back what it keeps when it closes.
        if balance.is_even() { Ok(()) } else { Err(failed("end with every mbuf back", balance)) }
    }
}

/// EAL with the launch document's lcores, and one more for a feeder; and what was opened for it.
type Started = (Eal, OpenDevices, Option<(dpdk::Device, RingPortEnds<Meta>)>);

/// Starts EAL and, if packets come from there, makes the ring port.
pub fn start_eal(spec: &TrialSpec) -> Result<Started, SpeedError> {
    let launch = rules::launch(spec);
    let mut config = eal_config(&launch).map_err(|error| failed("launch", error))?;
    let fed = spec.source == Source::Ring;
    if fed {
        config.lcores.push(LcoreBinding { lcore: launch.lcores.len() as u32 + 1, cpu: spec.control_cpu });
    }
    let eal = Eal::init(config).map_err(|error| failed("start DPDK", error))?;
    let ring =
        RingPortConfig { name: "left".to_owned(), rx_queues: 1, tx_queues: 1, capacity: RING, socket: SocketId::ANY };
    let ring = fed.then(|| eal.ring_port(&ring)).transpose().map_err(|error| failed("make the ring port", error))?;
    Ok((eal, OpenDevices::new(), ring))
}

/// The pcap was written before the devices were there; its frames must be for them.
fn check_macs(dataplane: &Dataplane, source: Source) -> Result<(), SpeedError> {
    let found: Vec<&str> = dataplane.hello().ports.iter().map(|port| port.mac.as_str()).collect();
    let expected = match source {
        Source::Pcap => [LEFT_MAC, RIGHT_MAC],
        Source::Ring => [RING_MAC_PORT, LEFT_MAC],
    };
    let expected = expected.map(|mac| mac.to_string());
    if found == expected { Ok(()) } else { Err(failed("find its devices' addresses", format!("{found:?}"))) }
}

impl Links {
    /// The ends of rings that were opened elsewhere.
    pub fn new(lcores: Vec<ControllerLink>) -> Self {
        Self { lcores, ..Self::default() }
    }

    /// Installs the tag rules of a chain.
    pub fn install_tags(&mut self, spec: &TrialSpec) -> Result<(), SpeedError> {
        if let super::Work::Chain { functions, .. } = &spec.work {
            for (lcore, rule) in rules::tags(functions.len()) {
                self.commit(lcore, &[rule])?;
            }
        }
        Ok(())
    }

    /// Installs the exact rules of all flows.
    pub fn install_flows(&mut self, spec: &TrialSpec) -> Result<(), SpeedError> {
        let mut batch = Vec::with_capacity(BATCH);
        for flow in 0..spec.traffic.flows {
            batch.push(rules::exact(&spec.work, flow));
            if batch.len() == BATCH || flow + 1 == spec.traffic.flows {
                self.commit(0, &batch)?;
                batch.clear();
            }
        }
        Ok(())
    }

    /// Sends a batch to a lcore and waits until it is in force.
    pub fn commit(&mut self, lcore: usize, batch: &[Update]) -> Result<(), SpeedError> {
        self.epoch += 1;
        let commit = [Update::Commit(Epoch(self.epoch))];
        let deadline = Instant::now() + PATIENCE;
        for part in [batch, &commit] {
            let mut sent = 0;
            while sent < part.len() {
                let link = &mut self.lcores[lcore];
                sent += link.updates.push_batch(&part[sent..]).map_err(|error| failed("send rules", error))?;
                self.committed(lcore)?;
                in_time(lcore, deadline)?;
            }
        }
        while self.committed(lcore)? < self.epoch {
            in_time(lcore, deadline)?;
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// Sends as much of this as there is room for, and waits for nothing; returns how many messages.
    pub fn push(&mut self, lcore: usize, messages: &[Update]) -> Result<usize, SpeedError> {
        self.lcores[lcore].updates.push_batch(messages).map_err(|error| failed("send rules", error))
    }

    /// The last epoch that was given to a batch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Reads what the lcore says, until it says nothing; returns the latest epoch in force that it told of, 0 for none.
    pub fn committed(&mut self, lcore: usize) -> Result<u64, SpeedError> {
        let mut epoch = 0;
        while let Some(event) = self.lcores[lcore].events.pop().map_err(|error| failed("read events", error))? {
            match event {
                Event::Committed(Epoch(committed)) => epoch = committed,
                Event::Refused { reason, .. } => return Err(refused(reason)),
                Event::FlowMiss { .. } => self.misses += 1,
                _ => {}
            }
        }
        Ok(epoch)
    }

    /// Does a controller's work for a while: reads events, and rejects flows if it is to. Allocates nothing.
    pub fn serve(&mut self, until: Instant) -> Result<(), SpeedError> {
        loop {
            let mut said = false;
            while let Some(event) = self.lcores[0].events.pop().map_err(|error| failed("read events", error))? {
                let Event::FlowMiss { key, .. } = event else { continue };
                self.misses += 1;
                if self.reject {
                    let answer = [Update::RejectFlow(key), Update::RemoveExact(key)];
                    said |= self.lcores[0].updates.push_batch(&answer).unwrap_or(0) > 0;
                }
            }
            if said {
                self.epoch += 1;
                let _ = self.lcores[0].updates.push(&Update::Commit(Epoch(self.epoch))); // when full, with the next ones
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(if self.reject { Duration::from_micros(100) } else { left }));
        }
    }
}

fn in_time(lcore: usize, deadline: Instant) -> Result<(), SpeedError> {
    if Instant::now() > deadline {
        return Err(SpeedError::Rules(format!("lcore {lcore} said nothing for {} s", PATIENCE.as_secs())));
    }
    Ok(())
}

fn refused(reason: Refusal) -> SpeedError {
    SpeedError::Rules(format!("it refused a batch ({reason:?})"))
}
