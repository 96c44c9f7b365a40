//! Who is on which lcore: the control thread's knowledge of a dataplane that changes while it runs.
//!
//! Off the packet's path. A reconfiguration goes in steps, and whoever runs the lcores takes them ([`crate::launch`] with threads,
//! a test by hand):
//!
//! 1. [`Roster::prepare`] compares the new document with the running one and takes the slots of the lcores that are to start.
//! 2. [`Start::build`] makes each new instance, on its own lcore. Until all are made, nothing has changed, and
//!    [`Roster::keep`] takes the slots back if one fails.
//! 3. [`Roster::switch`] puts the new document in force: the new lcores run, and every staying lcore finds the new topology in its
//!    mailbox. It takes it between two bursts; nobody pauses.
//! 4. When [`Roster::has_moved`] is true of every staying lcore, nobody sends to an ending instance any more: it finishes what is
//!    in its ring and stops.
//! 5. [`Roster::vacate`] takes it apart; its lcore is spare again.
//!
//! The old topology is kept until a reconfiguration is done, so that no lcore frees it.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use dpdk::{Eal, SocketId};
use packet::{NetworkFunction, NfError};
use shm::counters::CountersWriter;
use shm::hello::Hello;
use shm::launch::{Launch, Limits, NfLaunch, RoleLaunch};
use shm::link::{self, LcoreLink, LinkError, LinkFds, LinkMemory};

use crate::account::Account;
use crate::assembly::{LaunchError, check_cores, lcore_number, mempool_config, sockets};
use crate::change::{Change, ReconfigureError, difference};
use crate::forwarder::Forwarder;
use crate::lcore::Poll;
use crate::meta::Mempool;
use crate::nf_lcore::NfLcore;
use crate::outlets::{Outlets, RingProducer};
use crate::report;
use crate::topology::Topology;
use crate::updates::{ControllerPort, Mailbox, Slot};

/// The lcores as they are, and what is needed to start others.
pub struct Roster {
    /// What a controller is told when it attaches: the document in force.
    pub hello: Hello,
    /// The counters' memory, for readers.
    pub counters: OwnedFd,
    /// Where each lcore takes new topologies and a new controller's rings from.
    pub mailboxes: Vec<Arc<Mailbox>>,
    topology: Arc<Topology>,
    /// Still in use by lcores that have not taken the present one.
    previous: Option<Arc<Topology>>,
    /// One on each socket that has or had a lcore with something to do.
    mempools: BTreeMap<i32, Mempool>,
    producers: Vec<RingProducer>,
    /// Of the lcores that are spare and can be used.
    slots: BTreeMap<usize, Slot>,
    port_sockets: Vec<SocketId>,
    /// Of the controller's rings that were made last.
    link: Option<LinkMemory>,
}

/// What a lcore's forwarder is made of, beside its slot.
pub struct Materials {
    topology: Arc<Topology>,
    producers: Vec<RingProducer>,
    mailbox: Arc<Mailbox>,
    mempool: Mempool,
    limits: Limits,
}

/// A change that was found possible.
pub struct Prepared {
    /// The instances that are to be made first.
    pub starts: Vec<Start>,
    /// The lcores whose instance is to end at last.
    pub ends: Vec<usize>,
    wanted: Launch,
    topology: Arc<Topology>,
}

/// An instance that is to be made.
pub struct Start {
    /// The lcore.
    pub lcore: usize,
    /// The CPU that the lcore's thread is to stay on.
    pub cpu: u16,
    nf: NfLaunch,
    materials: Materials,
    slot: Slot,
}

/// An instance that was made.
pub struct Started {
    /// The lcore.
    pub lcore: usize,
    /// Its work.
    pub poll: Box<dyn Poll>,
    nf_counters: Vec<String>,
}

/// An instance that could not be made.
pub struct NotStarted {
    /// The lcore.
    pub lcore: usize,
    /// To be kept for another.
    pub slot: Slot,
    /// Why.
    pub reason: Box<ReconfigureError>,
}

impl Roster {
    /// Of a dataplane that is being built; [`Self::keep`] tells it of the spare lcores.
    pub(crate) fn new(
        hello: Hello,
        counters: OwnedFd,
        topology: Arc<Topology>,
        mempools: BTreeMap<i32, Mempool>,
        producers: Vec<RingProducer>,
        port_sockets: Vec<SocketId>,
    ) -> Self {
        let mailboxes = producers.iter().map(|_| Mailbox::empty()).collect();
        let (previous, slots, link) = (None, BTreeMap::new(), None);
        Self { hello, counters, mailboxes, topology, previous, mempools, producers, slots, port_sockets, link }
    }

    /// A fresh link for a new controller. Spare lcores have their place in it, without memory.
    pub fn link(&self) -> Result<(LinkFds, Vec<LcoreLink>, LinkMemory), LinkError> {
        let busy: Vec<bool> = (0..self.mailboxes.len()).map(|lcore| !self.slots.contains_key(&lcore)).collect();
        link::create_for(&busy)
    }

    /// Gives a new controller's rings to the lcores; a spare lcore's wait for its next instance.
    pub fn attach(&mut self, links: Vec<LcoreLink>, memory: LinkMemory) {
        for (mailbox, link) in self.mailboxes.iter().zip(links) {
            mailbox.leave_link(link);
        }
        self.link = Some(memory);
    }

    /// The mempools; each lives as long as the process.
    pub fn mempools(&self) -> impl Iterator<Item = &Mempool> {
        self.mempools.values()
    }

    /// What the lcore's forwarder is made of; none without a mempool on its socket.
    pub(crate) fn materials(&self, launch: &Launch, lcore: usize) -> Option<Materials> {
        let socket = sockets(launch).get(lcore).copied()?;
        Some(Materials {
            topology: Arc::clone(&self.topology),
            producers: self.producers.clone(),
            mailbox: Arc::clone(self.mailboxes.get(lcore)?),
            mempool: self.mempools.get(&socket.0)?.clone(),
            limits: launch.limits.clone(),
        })
    }

    /// Keeps the slot of a lcore that is spare.
    pub fn keep(&mut self, lcore: usize, slot: Slot) {
        self.slots.insert(lcore, slot);
    }

    /// Finds out whether the dataplane can become what this document says. Nothing has changed yet but for memory that a new
    /// socket's mbufs take; the slots in `starts` must come back by [`Self::keep`] or go on to [`Self::switch`].
    pub fn prepare(&mut self, eal: &Eal, wanted: Launch) -> Result<Prepared, ReconfigureError> {
        check_cores(&wanted)?;
        let topology = Topology::new(&wanted).map_err(LaunchError::from)?.with_version(self.topology.version() + 1);
        let topology = Arc::new(topology);
        let Change { starts, ends } = difference(&self.hello.launch, &wanted)?;
        let mut plans = Vec::new();
        for &lcore in &starts {
            plans.push((lcore, self.plan(eal, &wanted, lcore, &topology)?));
        }
        let starts = plans.into_iter().filter_map(|(lcore, (nf, materials))| {
            let slot = self.slots.remove(&lcore)?; // it is there: that was looked at
            debug_assert!(slot.ring.is_empty(), "somebody still sends to lcore {lcore}, where nothing runs");
            self.mailboxes[lcore].discard_updates();
            Some(Start { lcore, cpu: wanted.lcores[lcore].cpu, nf, materials, slot })
        });
        let starts = starts.collect();
        Ok(Prepared { starts, ends, wanted, topology })
    }

    /// Checks what can be checked of an instance before it is made, and makes room for mbufs.
    fn plan(
        &mut self,
        eal: &Eal,
        wanted: &Launch,
        lcore: usize,
        topology: &Arc<Topology>,
    ) -> Result<(NfLaunch, Materials), ReconfigureError> {
        let spec = &wanted.lcores[lcore];
        let RoleLaunch::Nf(nf) = &spec.role else { return Err(ReconfigureError::LostLcore(lcore)) };
        let instance = || nf.instance.clone();
        if !self.slots.contains_key(&lcore) {
            return Err(ReconfigureError::LostLcore(lcore));
        }
        nf::validate(&nf.function, &nf.config)
            .map_err(|problem| LaunchError::Function { instance: instance(), problem })?;
        eal.check_cpu(lcore_number(lcore), spec.cpu)
            .map_err(|problem| ReconfigureError::UnusableCpu { instance: instance(), problem })?;
        let socket = sockets(wanted)[lcore];
        if !self.mempools.contains_key(&socket.0) {
            let mempool = Mempool::new(eal, &mempool_config(wanted, self.mempools.len(), socket))
                .map_err(|problem| ReconfigureError::NoMbufs { instance: instance(), problem })?;
            self.mempools.insert(socket.0, mempool);
        }
        if let Some(link) = &self.link {
            link.make_room(lcore).map_err(|problem| ReconfigureError::NoRings { instance: instance(), problem })?;
        }
        let materials = self.materials(wanted, lcore).ok_or(ReconfigureError::LostLcore(lcore))?;
        Ok((nf.clone(), Materials { topology: Arc::clone(topology), ..materials }))
    }

    /// Puts the new document in force. Returns the lcores that have to move to the new topology: all that ran before and do
    /// not end.
    pub fn switch(&mut self, prepared: Prepared, started: &[Started]) -> Vec<usize> {
        let Prepared { ends, wanted, topology, .. } = prepared;
        let ran = self.hello.launch.lcores.iter().enumerate().filter(|(_, spec)| spec.role != RoleLaunch::Spare);
        let staying: Vec<usize> = ran.map(|(lcore, _)| lcore).filter(|lcore| !ends.contains(lcore)).collect();
        self.previous = Some(std::mem::replace(&mut self.topology, topology));
        for &lcore in &staying {
            self.mailboxes[lcore].leave_topology(Arc::clone(&self.topology));
        }
        let nf_counters = self.hello.lcores.iter_mut().map(|report| std::mem::take(&mut report.nf_counters));
        let mut nf_counters: Vec<Vec<String>> = nf_counters.collect();
        for end in ends {
            nf_counters[end].clear();
        }
        for started in started {
            nf_counters[started.lcore].clone_from(&started.nf_counters);
        }
        let sockets = sockets(&wanted);
        self.hello.lcores = report::lcores(&wanted, &sockets, nf_counters);
        self.hello.warnings = report::warnings(&wanted, &self.port_sockets, &sockets);
        self.hello.launch = wanted;
        staying
    }

    /// True once the lcore goes by the present topology.
    pub fn has_moved(&self, lcore: usize) -> bool {
        self.mailboxes[lcore].taken() == self.topology.version()
    }

    /// Takes apart an instance that has stopped and that nobody sends to any more.
    pub fn vacate(&mut self, lcore: usize, mut poll: Box<dyn Poll>) {
        poll.drain_ring();
        if let Some(slot) = poll.vacate() {
            self.keep(lcore, slot);
        }
    }

    /// Every lcore has moved and every ending one is gone: the topology before is out of use.
    pub fn settle(&mut self) {
        self.previous = None;
    }
}

impl Materials {
    /// The forwarder; its tables are first touched by the calling thread. `io` is the lcore if it polls ports.
    pub(crate) fn forwarder(self, io: Option<usize>, counters: CountersWriter) -> Forwarder {
        let Self { topology, producers, mailbox, mempool, limits } = self;
        let local = (limits.parked + limits.ring) as usize; // what one poll can let go at once
        Forwarder::new(
            topology,
            Outlets::new(io, producers, local),
            Account::new(counters),
            ControllerPort::new(mailbox, limits.tag_rules),
            mempool,
            &limits,
        )
    }
}

impl Start {
    /// Makes the instance and its tables; they belong to the CPU that this is called on.
    pub fn build(self) -> Result<Started, NotStarted> {
        self.build_by(|nf| nf::create(&nf.function, &nf.config, &nf.instance))
    }

    /// The same with another maker of functions. A panic in it is caught.
    pub fn build_by(self, make: impl FnOnce(&NfLaunch) -> MadeFunction) -> Result<Started, NotStarted> {
        let Self { lcore, nf, materials, slot, .. } = self;
        let (function, nf_counters) = match create(&nf, make) {
            Ok(made) => made,
            Err(reason) => return Err(NotStarted { lcore, slot, reason: Box::new(reason) }),
        };
        let Slot { ring, counters } = slot;
        counters.nf_failed.set(0);
        counters.nf.iter().for_each(|counter| counter.set(0));
        let forwarder = materials.forwarder(None, counters);
        let poll = Box::new(NfLcore::new(forwarder, ring, nf.vport, nf.mangles, function));
        Ok(Started { lcore, poll, nf_counters })
    }

    /// The same after the calling thread has moved to the instance's CPU for good.
    pub fn move_and_build(self) -> Result<Started, NotStarted> {
        match dpdk::cpu::stay_on(self.cpu) {
            Ok(()) => self.build(),
            Err(problem) => {
                let reason = Box::new(ReconfigureError::Affinity { instance: self.nf.instance, problem });
                Err(NotStarted { lcore: self.lcore, slot: self.slot, reason })
            }
        }
    }

    /// The instance's name.
    pub fn instance(&self) -> &str {
        &self.nf.instance
    }
}

/// A function, or what is wrong with its configuration.
pub type MadeFunction = Result<Box<dyn NetworkFunction>, NfError>;

type Named = (Box<dyn NetworkFunction>, Vec<String>);

fn create(nf: &NfLaunch, make: impl FnOnce(&NfLaunch) -> MadeFunction) -> Result<Named, ReconfigureError> {
    let made = catch_unwind(AssertUnwindSafe(|| {
        let function = make(nf)?;
        let names = function.counters().into_iter().map(|counter| counter.name).collect();
        Ok((function, names))
    }));
    match made {
        Ok(made) => made
            .map_err(|problem| LaunchError::Function { instance: nf.instance.clone(), problem })
            .map_err(ReconfigureError::from),
        Err(payload) => {
            let (instance, message) = (nf.instance.clone(), message(&*payload));
            Err(ReconfigureError::Panicked { instance, message })
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
