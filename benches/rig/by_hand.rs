//! The rig where CPUs are few: one thread is the harness and polls all lcores in turn, the controller's flow thread has the other
//! CPU for itself and spins.
//!
//! Where instructions are counted ([`super::stages`]), the harness's thread does the flow thread's work, too.
//!
//! The lcores' polls, the rings, and the flow thread are the real ones. What is left out is the controller's main thread, which
//! no flow waits for, and what a packet pays to come from another lcore's cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use controller::compose::Composition;
use controller::config::Config;
use controller::flows::Plan;
use controller::steering::{self, Command, Handle, Occupant, Outlets, Report, Seat};
use crossbeam::channel::Receiver;
use dataplane::assembly::{Assembly, OpenDevices};
use dataplane::lcore::Poll;
use dataplane::roster::Roster;
use dpdk::{Clock, Eal, clock};
use mio::{Token, Waker};
use shm::launch::{Launch, RoleLaunch};
use shm::link;
use shm::rules::Epoch;

use super::{READY_TIMEOUT, failed};
use crate::in_process::RigError;

/// Captured packets that wait; nobody captures.
const CAPTURES: usize = 1;

/// Who answers flow misses.
pub(super) enum Flows {
    /// The flow thread, on a CPU of its own.
    Thread(Handle),
    /// The harness's thread, whenever it is asked to.
    Turns(Box<steering::ByHand>),
}

impl Flows {
    fn obey(&mut self, command: Command) {
        match self {
            Self::Thread(handle) => handle.send(command),
            Self::Turns(flows) => flows.obey(command),
        }
    }

    /// How often the thread has gone round, if it is one.
    pub fn turns(&self) -> Option<u64> {
        match self {
            Self::Thread(handle) => Some(handle.turns()),
            Self::Turns(_) => None,
        }
    }

    /// A turn, if it is not a thread that takes them.
    pub fn turn(&mut self) {
        if let Self::Turns(flows) = self {
            let _ = flows.turn(); // a dead ring shows in what does not come out
        }
    }
}

/// The lcores and who answers flow misses.
pub(super) struct ByHand {
    pub lcores: Vec<Box<dyn Poll>>,
    pub clock: Clock,
    reports: Receiver<Report>,
    /// Before the roster, whose rings it has.
    pub flows: Flows,
    pub roster: Roster,
    /// The flow thread wakes a main thread that is not there.
    _poll: mio::Poll,
    _eal: Eal,
}

impl ByHand {
    /// Builds the dataplane, starts the flow thread on its CPU if it is given one, and polls until the tables are in place.
    pub fn start(
        eal: Eal,
        (config, composition): (Config, Composition),
        launch: &Launch,
        devices: OpenDevices,
        cpu: Option<u16>,
    ) -> Result<Self, RigError> {
        let assembly = Assembly::build(&eal, launch, devices).map_err(|error| failed("build the forwarder", &error))?;
        let Assembly { mut roster, lcores } = assembly;
        let (fds, ends, memory) = roster.link().map_err(|error| failed("make the rings", &error))?;
        roster.attach(ends, memory);
        let (links, doorbell) = link::open(fds).map_err(|error| failed("open the rings", &error))?;
        let poll = mio::Poll::new().map_err(|error| failed("make a waker", &error))?;
        let waker = Waker::new(poll.registry(), Token(0)).map_err(|error| failed("make a waker", &error))?;
        let (sender, reports) = crossbeam::channel::unbounded();
        let (captured, _) = crossbeam::channel::bounded(CAPTURES);
        let outlets = Outlets { reports: sender, captured, waker: Arc::new(waker) };
        let plan = Arc::new(Plan { config, composition, host: 0 });
        let flows = match cpu {
            Some(_) => steering::start(plan, outlets, Seat { cpu, spin: true }).map(Flows::Thread),
            None => steering::ByHand::new(plan, outlets).map(|flows| Flows::Turns(Box::new(flows))),
        };
        let mut flows = flows.map_err(|error| failed("start the flow thread", &error))?;
        let occupants = launch.lcores.iter().map(|lcore| occupant(&lcore.role)).collect();
        let (epoch, failed_instances) = (Epoch(0), Vec::new());
        flows.obey(Command::Attach {
            lcores: links,
            doorbell,
            epoch,
            fresh: true,
            failed: failed_instances,
            occupants,
        });
        let lcores = lcores.into_iter().flatten().collect(); // none is there where one is spare
        let clock = Clock::new(&eal);
        let mut this = Self { lcores, clock, reports, flows, roster, _poll: poll, _eal: eal };
        this.wait_until_ready()?;
        Ok(this)
    }

    fn wait_until_ready(&mut self) -> Result<(), RigError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            self.poll_once();
            match self.reports.try_recv() {
                Ok(Report::Ready { .. }) => return Ok(()),
                Ok(other) => return Err(failed("put the tables in place", &format!("{other:?}"))),
                Err(_) => clock::pause(),
            }
        }
        Err(failed("put the tables in place", &format!("{} s were not enough", Duration::as_secs(&READY_TIMEOUT))))
    }

    /// Each lcore once, in the order of the chain, and a turn of who answers.
    pub fn poll_once(&mut self) {
        let now_ns = self.clock.ns(clock::tsc());
        for lcore in &mut self.lcores {
            lcore.poll_once(now_ns);
        }
        self.flows.turn();
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.lcores.iter_mut().for_each(|lcore| lcore.let_go());
        self.lcores.iter_mut().for_each(|lcore| lcore.drain_ring());
    }
}

fn occupant(role: &RoleLaunch) -> Occupant {
    match role {
        RoleLaunch::Io => Occupant::Ports,
        RoleLaunch::Nf(nf) => Occupant::Instance(nf.vport),
        RoleLaunch::Spare => Occupant::Nobody,
    }
}
