//! The stages of a flow's set-up, one after the other on one thread, for an instruction counter to look at; and what rules cost.
//!
//! As for the stages of a packet's path ([`crate::speed::stages`]) each function in `counted` is one stage, and nothing else
//! of the run shall be counted. Everything comes in bursts of 32.
//!
//! | stage | what is in it, for each flow or rule |
//! |---|---|
//! | `setup_miss` | I/O lcore: receive, parse, miss, park, tell the controller |
//! | `setup_answer` | flow thread: hear the misses, choose paths, answer |
//! | `setup_release` | I/O lcore: take the rules, send what was parked |
//! | `setup_hear` | flow thread: hear that the rules are in force |
//! | `insert_rules`, `remove_rules` | I/O lcore: take a batch in which flows come, or go |
//! | `insert_single`, `remove_single` | the same with a commit for each |

use dataplane::lcore::Poll;
use dpdk::{BURST, clock};
use packet::{FlowKey, VportId};
use shm::link::{self, ControllerLink};
use shm::rules::{Epoch, Event, ExactRule, Update};

use super::by_hand::{ByHand, Flows};
use super::{Machinery, Rig, failed};
use crate::allocations::so_far as allocations;
use crate::in_process::{Cores, Counted, Options, RigError};
use crate::path::{Packet, PacketKind, Path, Received};

/// Bursts before the count begins, so that queues have grown and neighbours are known.
const WARM_UP: u32 = 8;
const IO: usize = 0;

/// What is counted: each function is called from here alone, and never inlined.
mod counted {
    use std::hint::black_box;

    use super::{Flows, Poll};

    macro_rules! polls {
        ($($name:ident),*) => {$(
            /// One poll of the I/O lcore.
            #[inline(never)]
            pub fn $name(lcore: &mut dyn Poll, now_ns: u64) {
                black_box(stringify!($name)); // or the linker makes all of them one
                lcore.poll_once(black_box(now_ns));
            }
        )*};
    }

    macro_rules! turns {
        ($($name:ident),*) => {$(
            /// One turn of who answers.
            #[inline(never)]
            pub fn $name(flows: &mut Flows) {
                black_box(stringify!($name));
                flows.turn();
            }
        )*};
    }

    polls!(setup_miss, setup_release, insert_rules, remove_rules, insert_single, remove_single);
    turns!(setup_answer, setup_hear);
}

/// Runs every stage with so many bursts.
pub fn run(bursts: u32) -> Result<Counted, RigError> {
    let options = Options { hugepages: false, cores: Cores::Counted, chain: Vec::new() };
    let mut rig = Rig::open(&options)?;
    let mut allocated = 0;
    for burst in 0..WARM_UP + bursts {
        let counts = burst >= WARM_UP;
        let within = rig.set_up(u64::from(burst) * BURST as u64, counts)?;
        allocated += if counts { within } else { 0 };
    }
    allocated += rig.install(bursts)?;
    Ok(Counted { flows: bursts * BURST as u32, allocations: allocated })
}

impl Rig {
    /// A burst of new flows, and all of their packets out again; the allocations within the stages.
    fn set_up(&mut self, first: u64, counts: bool) -> Result<u64, RigError> {
        for flow in first..first + BURST as u64 {
            let packet = Packet { flow, sequence: 0, kind: PacketKind::First };
            self.send(packet).map_err(|error| failed("send", &error))?;
        }
        self.flush().map_err(|error| failed("send", &error))?;
        let mut allocated = 0;
        if counts {
            let before = allocations();
            let Machinery::ByHand(by_hand) = &mut self.machinery else { return Ok(0) };
            by_hand.set_up();
            allocated = allocations() - before;
        }
        let mut came = 0;
        for _ in 0..BURST {
            let until_ns = self.now_ns();
            self.poll(until_ns, &mut |_: Received| came += 1).map_err(|error| failed("receive", &error))?;
        }
        if came == BURST { Ok(allocated) } else { Err(failed("set a burst of flows up", &format!("{came} came out"))) }
    }

    /// Rules without packets, in place of the flow thread.
    fn install(&mut self, bursts: u32) -> Result<u64, RigError> {
        let Machinery::ByHand(by_hand) = &mut self.machinery else { return Ok(0) };
        by_hand.install(bursts)
    }
}

impl ByHand {
    fn set_up(&mut self) {
        let now_ns = self.clock.ns(clock::tsc());
        counted::setup_miss(self.lcores[IO].as_mut(), now_ns);
        counted::setup_answer(&mut self.flows);
        counted::setup_release(self.lcores[IO].as_mut(), now_ns);
        counted::setup_hear(&mut self.flows);
    }

    fn install(&mut self, bursts: u32) -> Result<u64, RigError> {
        let (mut link, rule) = (self.attach()?, self.any_rule()?);
        let lcore = self.lcores[IO].as_mut();
        let now_ns = self.clock.ns(clock::tsc());
        let mut allocated = 0;
        let mut epoch = 1_000_000;
        for burst in 0..bursts {
            let keys: Vec<FlowKey> = (0..BURST as u32).map(|at| other_key(&rule, burst * BURST as u32 + at)).collect();
            let come = || keys.iter().map(|&key| Update::InsertExact(ExactRule { key, ..rule }));
            let go = || keys.iter().map(|&key| Update::RemoveExact(key));
            let mut stage = |updates: Vec<Update>, each: usize, stage: fn(&mut dyn Poll, u64)| {
                for part in updates.chunks(each) {
                    epoch += 1;
                    let sent = link.updates.push_batch(&[part, &[Update::Commit(Epoch(epoch))]].concat());
                    sent.map_err(|error| failed("send rules", &error))?;
                }
                let before = allocations();
                // A poll takes 64 messages; a burst of rules with a commit for each is as many.
                stage(lcore, now_ns);
                allocated += allocations() - before;
                confirm(&mut link, epoch)
            };
            stage(come().collect(), BURST, counted::insert_rules)?;
            stage(go().collect(), BURST, counted::remove_rules)?;
            stage(come().collect(), 1, counted::insert_single)?;
            stage(go().collect(), 1, counted::remove_single)?;
        }
        Ok(allocated)
    }

    /// Rings of our own for the I/O lcore.
    fn attach(&mut self) -> Result<ControllerLink, RigError> {
        let (fds, ends, memory) = self.roster.link().map_err(|error| failed("make the rings", &error))?;
        self.roster.attach(ends, memory);
        let (mut links, _) = link::open(fds).map_err(|error| failed("open the rings", &error))?;
        let now_ns = self.clock.ns(clock::tsc());
        self.lcores[IO].poll_once(now_ns);
        Ok(links.remove(IO))
    }

    /// A rule that the controller has installed.
    fn any_rule(&mut self) -> Result<ExactRule, RigError> {
        let table = &self.lcores[IO].forwarder().exact;
        let rules = (0..).map_while(|position| table.at(position)).flatten();
        let mut active = rules.filter_map(|flow| match flow.state() {
            dataplane::exact::FlowState::Active(action) if !flow.learned => Some(ExactRule { key: flow.key(), action }),
            _ => None,
        });
        active.next().ok_or_else(|| failed("find a rule", &"there is none"))
    }
}

/// A flow that nobody has sent a packet of.
fn other_key(rule: &ExactRule, number: u32) -> FlowKey {
    let mut key = rule.key;
    key.five_tuple.source = std::net::Ipv4Addr::from_bits(0x0a40_0000 + number).into();
    debug_assert!(key.vport != VportId::TUNNEL, "flows begin at endpoints");
    key
}

/// The lcore has said that all up to this epoch is in force.
fn confirm(link: &mut ControllerLink, epoch: u64) -> Result<(), RigError> {
    let mut last = 0;
    while let Some(event) = link.events.pop().map_err(|error| failed("read events", &error))? {
        if let Event::Committed(Epoch(committed)) = event {
            last = committed;
        }
    }
    if last == epoch { Ok(()) } else { Err(failed("install rules", &format!("epoch {last} of {epoch} is in force"))) }
}
