//! A running dataplane: lcores that poll, until told to stop; and its change into another while it runs.
//!
//! Off the packet's path: the control thread. A reconfiguration ([`Dataplane::begin`]) is taken on by [`Dataplane::advance`], which
//! never waits: instances are made on their own lcores' threads, topologies are taken by the lcores between two bursts, and an
//! ending instance finishes what is in its ring. The steps are those of [`crate::roster`].
//!
//! A spare lcore's thread waits in EAL for work, without polling.

use std::fmt;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dpdk::{Clock, Eal, LcoreError, LcoreHandle};
use shm::hello::Hello;
use shm::launch::Launch;
use shm::link::{LcoreLink, LinkError, LinkFds, LinkMemory};

use crate::assembly::{Assembly, eal_config, lcore_number, name_of, shares_cpu};
pub use crate::assembly::{LaunchError, OpenDevices};
use crate::change::ReconfigureError;
use crate::idle::Idle;
use crate::lcore::{self, Order, Orders, Poll};
use crate::meta::Mempool;
use crate::roster::{NotStarted, Prepared, Roster, Started};

/// A running dataplane.
pub struct Dataplane {
    roster: Roster,
    /// By lcore; none where one is spare.
    crew: Vec<Option<Post>>,
    under_way: Option<UnderWay>,
    panicked: Vec<String>,
    clock: Clock,
    eal: Eal,
}

/// A lcore that polls.
struct Post {
    handle: LcoreHandle<Box<dyn Poll>>,
    orders: Arc<Orders>,
}

/// An instance that is being made.
struct Build {
    instance: String,
    handle: LcoreHandle<Result<Started, NotStarted>>,
}

/// How far a reconfiguration has come.
enum UnderWay {
    /// New instances are being made; the first reason not to go on is kept until all are done.
    Making { prepared: Box<Prepared>, builds: Vec<Build>, refused: Option<ReconfigureError> },
    /// The new document is in force; lcores move to the new topology.
    Moving { staying: Vec<usize>, ends: Vec<usize> },
    /// Instances that nobody sends to any more finish.
    Ending { ends: Vec<usize> },
}

/// How a reconfiguration goes.
#[derive(Debug)]
pub enum Progress {
    /// There is none.
    Idle,
    /// Not done yet: call [`Dataplane::advance`] again in a moment.
    UnderWay,
    /// The document is in force: every lcore has the new topology, new instances poll, ended ones are gone.
    Done,
    /// It could not be done; nothing has changed.
    Refused(ReconfigureError),
}

impl Dataplane {
    /// Starts EAL, builds everything and starts the lcores.
    pub fn launch(launch: &Launch) -> Result<Self, LaunchError> {
        let eal = Eal::init(eal_config(launch)?)?;
        Self::with_devices(eal, launch, OpenDevices::new())
    }

    /// The same with an EAL that runs already, and with devices that were opened on it.
    pub fn with_devices(eal: Eal, launch: &Launch, devices: OpenDevices) -> Result<Self, LaunchError> {
        let Assembly { roster, lcores } = Assembly::build(&eal, launch, devices)?;
        let clock = Clock::new(&eal);
        let crew = lcores.iter().map(|_| None).collect();
        let mut dataplane = Self { roster, crew, under_way: None, panicked: Vec::new(), clock, eal };
        for (lcore, poll) in lcores.into_iter().enumerate() {
            if let Some(poll) = poll {
                dataplane.run(lcore, poll)?;
            }
        }
        Ok(dataplane)
    }

    /// What a controller is told when it attaches: the document in force, and its lcores.
    pub fn hello(&self) -> &Hello {
        &self.roster.hello
    }

    /// The counters' memory, for readers.
    pub fn counters(&self) -> BorrowedFd<'_> {
        self.roster.counters.as_fd()
    }

    /// A fresh link for a new controller.
    pub fn link(&self) -> Result<(LinkFds, Vec<LcoreLink>, LinkMemory), LinkError> {
        self.roster.link()
    }

    /// Gives a new controller's rings to the lcores; a spare lcore's wait for its next instance.
    pub fn attach(&mut self, links: Vec<LcoreLink>, memory: LinkMemory) {
        self.roster.attach(links, memory);
    }

    fn run(&mut self, lcore: usize, poll: Box<dyn Poll>) -> Result<(), LcoreError> {
        let orders = Arc::new(Orders::run());
        let (clock, idle, heard) =
            (self.clock, Idle::new(shares_cpu(&self.roster.hello.launch, lcore)), Arc::clone(&orders));
        let handle = self.eal.launch(lcore_number(lcore), move || lcore::run(poll, clock, idle, &heard))?;
        self.crew[lcore] = Some(Post { handle, orders });
        Ok(())
    }

    /// Begins to become what this document says; [`Self::advance`] does the rest. An error means that nothing changes.
    pub fn begin(&mut self, wanted: Launch) -> Result<(), ReconfigureError> {
        if let Some(under_way) = &self.under_way {
            return Err(ReconfigureError::UnderWay(self.describe(under_way)));
        }
        let mut prepared = self.roster.prepare(&self.eal, wanted)?;
        let (mut builds, mut refused) = (Vec::new(), None);
        for start in prepared.starts.drain(..) {
            let (lcore, instance) = (lcore_number(start.lcore), start.instance().to_owned());
            match self.eal.launch(lcore, move || start.move_and_build()) {
                Ok(handle) => builds.push(Build { instance, handle }),
                Err(problem) => refused = refused.or(Some(ReconfigureError::Lcore { instance, problem })),
            }
        }
        self.under_way = Some(UnderWay::Making { prepared: Box::new(prepared), builds, refused });
        Ok(())
    }

    /// Takes the reconfiguration as far as it goes without waiting.
    pub fn advance(&mut self) -> Progress {
        loop {
            let Some(under_way) = self.under_way.take() else { return Progress::Idle };
            match under_way {
                UnderWay::Making { prepared, builds, refused }
                    if builds.iter().all(|build| build.handle.is_finished()) =>
                {
                    if let Err(refused) = self.made(*prepared, builds, refused) {
                        return Progress::Refused(refused);
                    }
                }
                UnderWay::Moving { staying, ends } if staying.iter().all(|&lcore| self.has_moved(lcore)) => {
                    self.order(&ends, Order::Finish);
                    self.under_way = Some(UnderWay::Ending { ends });
                }
                UnderWay::Ending { ends } if ends.iter().all(|&lcore| self.has_ended(lcore)) => {
                    self.vacate(&ends);
                    self.roster.settle();
                    return Progress::Done;
                }
                waiting => {
                    self.under_way = Some(waiting);
                    return Progress::UnderWay;
                }
            }
        }
    }

    /// All new instances are made, or could not be.
    fn made(
        &mut self,
        prepared: Prepared,
        builds: Vec<Build>,
        mut refused: Option<ReconfigureError>,
    ) -> Result<(), ReconfigureError> {
        let mut all = Vec::new();
        for Build { instance, handle } in builds {
            match handle.join() {
                Ok(Ok(started)) => all.push(started),
                Ok(Err(NotStarted { lcore, slot, reason })) => {
                    self.roster.keep(lcore, slot);
                    refused = refused.or(Some(*reason));
                }
                Err(problem) => refused = refused.or(Some(ReconfigureError::Lcore { instance, problem })),
            }
        }
        if let Some(refused) = refused {
            for Started { lcore, poll, .. } in all {
                self.roster.vacate(lcore, poll);
            }
            return Err(refused);
        }
        let ends = prepared.ends.clone();
        let staying = self.roster.switch(prepared, &all);
        for Started { lcore, poll, .. } in all {
            if let Err(error) = self.run(lcore, poll) {
                self.lost(lcore, &error);
            }
        }
        self.under_way = Some(UnderWay::Moving { staying, ends });
        Ok(())
    }

    /// A lcore that panicked will never move, and sends nothing either.
    fn has_moved(&self, lcore: usize) -> bool {
        self.has_ended(lcore) || self.roster.has_moved(lcore)
    }

    fn has_ended(&self, lcore: usize) -> bool {
        self.crew[lcore].as_ref().is_none_or(|post| post.handle.is_finished())
    }

    fn order(&self, lcores: &[usize], order: Order) {
        for post in lcores.iter().filter_map(|&lcore| self.crew[lcore].as_ref()) {
            post.orders.give(order);
        }
    }

    /// All of these have stopped: what one sent to another meanwhile is in its ring.
    fn vacate(&mut self, ends: &[usize]) {
        for &lcore in ends {
            match self.crew[lcore].take().map(|post| post.handle.join()) {
                Some(Ok(poll)) => {
                    self.roster.vacate(lcore, poll);
                    self.empty_caches(lcore);
                }
                Some(Err(error)) => self.lost(lcore, &error),
                None => {}
            }
        }
    }

    /// A spare lcore keeps no mbufs at hand, of no socket's mempool.
    fn empty_caches(&self, lcore: usize) {
        let mempools: Vec<Mempool> = self.roster.mempools().cloned().collect();
        let empty = move || mempools.iter().for_each(Mempool::empty_cache);
        if let Ok(handle) = self.eal.launch(lcore_number(lcore), empty) {
            let _ = handle.join(); // it is done in a moment, and does not panic
        }
    }

    fn lost(&mut self, lcore: usize, error: &LcoreError) {
        self.roster.hello.warnings.push(format!("lcore {lcore} can't be used any more: {error}"));
        self.panicked.push(error.to_string());
    }

    fn describe(&self, under_way: &UnderWay) -> String {
        let names = |lcores: &mut dyn Iterator<Item = usize>| {
            let launch = &self.roster.hello.launch;
            lcores.map(|lcore| format!("{lcore} ({})", name_of(launch, lcore))).collect::<Vec<_>>().join(", ")
        };
        match under_way {
            UnderWay::Making { .. } => "new instances are being made".to_owned(),
            UnderWay::Moving { staying, .. } => {
                let mut late = staying.iter().copied().filter(|&lcore| !self.has_moved(lcore));
                format!("lcores that have not taken the new topology: {}", names(&mut late))
            }
            UnderWay::Ending { ends } => {
                let mut late = ends.iter().copied().filter(|&lcore| !self.has_ended(lcore));
                format!("lcores whose instance has not ended: {}", names(&mut late))
            }
        }
    }

    /// Stops the lcores, ends what is held, closes the ports, and says whether every mbuf came back.
    pub fn stop(mut self) -> Balance {
        let mut lcores: Vec<Box<dyn Poll>> = Vec::new();
        if let Some(UnderWay::Making { builds, .. }) = self.under_way.take() {
            lcores.extend(builds.into_iter().filter_map(|build| Some(build.handle.join().ok()?.ok()?.poll)));
        }
        for post in self.crew.iter().flatten() {
            post.orders.give(Order::Stop);
        }
        for post in self.crew.drain(..).flatten() {
            match post.handle.join() {
                Ok(lcore) => lcores.push(lcore),
                Err(error) => self.panicked.push(error.to_string()),
            }
        }
        for lcore in &mut lcores {
            lcore.drain_ring();
        }
        drop(lcores);
        let missing = self.roster.mempools().map(|pool| u64::from(pool.in_use())).sum();
        Balance { mempools: self.roster.mempools().count(), missing, panicked: self.panicked }
    }
}

/// What an orderly end found.
#[derive(Debug)]
pub struct Balance {
    mempools: usize,
    missing: u64,
    panicked: Vec<String>,
}

impl Balance {
    /// True if every mempool is full again and no lcore panicked.
    pub fn is_even(&self) -> bool {
        self.missing == 0 && self.panicked.is_empty()
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missing {
            0 => write!(f, "every mempool is full again ({})", self.mempools)?,
            missing => write!(f, "{missing} mbufs did not come back to their mempool")?,
        }
        for panic in &self.panicked {
            write!(f, "; {panic}")?;
        }
        Ok(())
    }
}
