//! A running dataplane: lcores that poll, until told to stop.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk::{Clock, Eal, LcoreHandle};
use shm::hello::Hello;
use shm::launch::Launch;

use crate::assembly::{Assembly, eal_config, lcore_number, shares_cpu};
pub use crate::assembly::{LaunchError, OpenDevices};
use crate::idle::Idle;
use crate::lcore::{self, Poll};
use crate::meta::Mempool;
use crate::updates::Mailbox;

/// A running dataplane.
pub struct Dataplane {
    /// What a controller is told when it attaches.
    pub hello: Hello,
    /// The counters' memory, for readers.
    pub counters: OwnedFd,
    /// Where each lcore takes a new controller's rings from.
    pub mailboxes: Vec<Mailbox>,
    mempools: Vec<Mempool>,
    handles: Vec<LcoreHandle<Box<dyn Poll>>>,
    stop: Arc<AtomicBool>,
    _eal: Eal,
}

impl Dataplane {
    /// Starts EAL, builds everything and starts the lcores.
    pub fn launch(launch: &Launch) -> Result<Self, LaunchError> {
        let eal = Eal::init(eal_config(launch)?)?;
        Self::with_devices(eal, launch, OpenDevices::new())
    }

    /// The same with an EAL that runs already, and with devices that were opened on it.
    pub fn with_devices(eal: Eal, launch: &Launch, devices: OpenDevices) -> Result<Self, LaunchError> {
        let Assembly { hello, counters, mailboxes, lcores, mempools } = Assembly::build(&eal, launch, devices)?;
        let stop = Arc::new(AtomicBool::new(false));
        let clock = Clock::new(&eal);
        let mut handles = Vec::new();
        for (index, lcore) in lcores.into_iter().enumerate() {
            let (stop, idle) = (Arc::clone(&stop), Idle::new(shares_cpu(launch, index)));
            handles.push(eal.launch(lcore_number(index), move || lcore::run(lcore, clock, idle, &stop))?);
        }
        Ok(Self { hello, counters, mailboxes, mempools, handles, stop, _eal: eal })
    }

    /// Stops the lcores, ends what is held, closes the ports, and says whether every mbuf came back.
    pub fn stop(self) -> Balance {
        self.stop.store(true, Ordering::Relaxed);
        let mut panicked = Vec::new();
        let mut lcores = Vec::new();
        for handle in self.handles {
            match handle.join() {
                Ok(lcore) => lcores.push(lcore),
                Err(error) => panicked.push(error.to_string()),
            }
        }
        for lcore in &mut lcores {
            lcore.drain_ring();
        }
        drop(lcores);
        let missing = self.mempools.iter().map(|pool| u64::from(pool.in_use())).sum();
        Balance { mempools: self.mempools.len(), missing, panicked }
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
