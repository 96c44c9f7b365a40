//! Who had the CPUs while packets went, so that a tail can be put down to somebody.
//!
//! Of each thread of this process the kernel tells how long it ran, how long it was ready and something else had its CPU, and how
//! often it was taken off; of each CPU, how long the hypervisor gave it to another guest, where that is told at all (`/proc`, before
//! and after a measurement; nothing is read during one). Of threads that never sleep a [`Watch`] tells how long they stood still:
//! between two looks at a clock, or at a count of turns. What stood still that long, and neither waited nor was stolen from, was busy
//! with something else itself, or is a guest of a hypervisor that does not say.
//!
//! Nothing here fails: what can't be read is missing.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

/// A thread that never sleeps and stands still for as long is noted: what the goal allows a flow's first packet.
pub const STANDSTILL_NS: u64 = 50_000;
/// What a tick of `/proc/stat` is, ns (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// Who had the CPUs in a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuTime {
    /// The threads of this process that ran, waited for a CPU, or were watched; the busiest first.
    pub threads: Vec<ThreadTime>,
    /// Of each CPU, what the hypervisor gave to other guests, ns.
    pub stolen_ns: Vec<u64>,
}

/// What a thread had.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ThreadTime {
    /// Its name.
    pub name: String,
    /// The CPU it ran on last.
    pub cpu: usize,
    /// It ran.
    pub ran_ns: u64,
    /// It was ready, and something else had its CPU.
    pub waited_ns: u64,
    /// How often its CPU was taken from it.
    pub taken_off: u64,
    /// How it stood still, if it was watched.
    pub still: Option<Still>,
}

/// How a thread stood still that never sleeps: [`STANDSTILL_NS`] at a time, or longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Still {
    /// How often.
    pub count: u64,
    /// All of it.
    pub total_ns: u64,
    /// The longest.
    pub longest_ns: u64,
}

/// What a thread's standing still is put down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Other threads of this process, on its CPU.
    Ours,
    /// Other processes, or the kernel, on its CPU.
    Others,
    /// The hypervisor.
    Hypervisor,
    /// Itself, or a hypervisor that does not say.
    Unknown,
}

/// Looks at something that goes on while a thread is awake.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch {
    still: Still,
    /// What was seen last; since when, and until when.
    seen: Option<(u64, u64, u64)>,
}

impl Watch {
    /// The value that changes as long as the thread is awake, seen now. The time between two looks in which it changed counts as
    /// awake: when in it that was, nobody knows.
    pub fn look(&mut self, value: u64, now_ns: u64) {
        self.seen = Some(match self.seen {
            Some((seen, since_ns, _)) if seen == value => (seen, since_ns, now_ns),
            Some((_, since_ns, until_ns)) => {
                self.note(until_ns.saturating_sub(since_ns));
                (value, now_ns, now_ns)
            }
            None => (value, now_ns, now_ns),
        });
    }

    /// The thread's own look at the clock: between two of them it has done nothing else.
    pub fn look_at_clock(&mut self, now_ns: u64) {
        if let Some((_, _, before_ns)) = self.seen.replace((0, now_ns, now_ns)) {
            self.note(now_ns.saturating_sub(before_ns));
        }
    }

    fn note(&mut self, still_ns: u64) {
        if still_ns >= STANDSTILL_NS {
            self.still.count += 1;
            self.still.total_ns += still_ns;
            self.still.longest_ns = self.still.longest_ns.max(still_ns);
        }
    }

    /// What was seen since the last call.
    pub fn take(&mut self) -> Still {
        let last = std::mem::take(self);
        let mut still = last;
        if let Some((_, since_ns, until_ns)) = last.seen {
            still.note(until_ns.saturating_sub(since_ns)); // it may stand still yet
        }
        still.still
    }
}

/// What the kernel tells at one time.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By the thread's id.
    threads: BTreeMap<u32, ThreadTime>,
    stolen_ns: Vec<u64>,
}

impl Snapshot {
    /// Now.
    pub fn take() -> Self {
        let stolen_ns = stolen(&fs::read_to_string("/proc/stat").unwrap_or_default());
        let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Self { threads: ids.filter_map(|id| Some((id, ThreadTime::read(id)?))).collect(), stolen_ns }
    }

    /// What came since. `stills` are of the watched threads, by their names.
    pub fn until(&self, now: &Self, stills: &[(String, Still)]) -> CpuTime {
        let nothing = ThreadTime::default();
        let part = |(id, now): (&u32, &ThreadTime)| {
            let before = self.threads.get(id).unwrap_or(&nothing);
            ThreadTime {
                ran_ns: now.ran_ns.saturating_sub(before.ran_ns),
                waited_ns: now.waited_ns.saturating_sub(before.waited_ns),
                taken_off: now.taken_off.saturating_sub(before.taken_off),
                still: stills.iter().find(|(name, _)| *name == now.name).map(|&(_, still)| still),
                ..now.clone()
            }
        };
        let mut threads: Vec<ThreadTime> = now.threads.iter().map(part).collect();
        threads.retain(|thread| thread.ran_ns > 0 || thread.waited_ns > 0 || thread.still.is_some());
        threads.sort_by_key(|thread| std::cmp::Reverse(thread.ran_ns));
        let stolen = now.stolen_ns.iter().zip(&self.stolen_ns).map(|(now, before)| now.saturating_sub(*before));
        CpuTime { threads, stolen_ns: stolen.collect() }
    }
}

impl ThreadTime {
    fn read(id: u32) -> Option<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{id}/{file}")).ok();
        Self::parse(&read("stat")?, &read("schedstat")?, &read("status")?)
    }

    /// Of proc(5)'s `stat`, `schedstat` and `status`.
    fn parse(stat: &str, schedstat: &str, status: &str) -> Option<Self> {
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?; // the name may have both in it
        let mut times = schedstat.split_whitespace().map(str::parse);
        let taken_off = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
        Some(Self {
            name: name.to_owned(),
            cpu: fields.split_whitespace().nth(36)?.parse().ok()?, // field 39; the name is the second
            ran_ns: times.next()?.ok()?,
            waited_ns: times.next()?.ok()?,
            taken_off: taken_off.trim().parse().ok()?,
            still: None,
        })
    }
}

impl CpuTime {
    /// Why a watched thread stood still, if it did: who had its CPU for at least half of that.
    pub fn cause(&self, thread: &ThreadTime) -> Option<Cause> {
        let still = thread.still.filter(|still| still.count > 0)?;
        let beside = self.threads.iter().filter(|other| other.cpu == thread.cpu && other.name != thread.name);
        let ours_ns: u64 = beside.map(|other| other.ran_ns).sum();
        let stolen_ns = self.stolen_ns.get(thread.cpu).copied().unwrap_or(0);
        Some(if 2 * thread.waited_ns >= still.total_ns {
            if 2 * ours_ns >= thread.waited_ns { Cause::Ours } else { Cause::Others }
        } else if 2 * (stolen_ns + thread.waited_ns) >= still.total_ns {
            Cause::Hypervisor
        } else {
            Cause::Unknown
        })
    }
}

/// The `steal` of each CPU.
fn stolen(stat: &str) -> Vec<u64> {
    let is_cpu =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let steal = |line: &str| line.split_whitespace().nth(8)?.parse::<u64>().ok();
    stat.lines().filter(is_cpu).map(|line| steal(line).unwrap_or(0) * TICK_NS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(name: &str, cpu: usize, ran_ns: u64, waited_ns: u64, still_ns: u64) -> ThreadTime {
        let still = (still_ns > 0).then_some(Still { count: 1, total_ns: still_ns, longest_ns: still_ns });
        ThreadTime { name: name.to_owned(), cpu, ran_ns, waited_ns, taken_off: 1, still }
    }

    /// Breaks if a thread's name shifts its fields, or a field is another one's.
    #[test]
    fn a_threads_times_are_found_whatever_its_name() {
        let rest = (3..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n";
        for name in ["flows", "a b", "x) (y"] {
            let read = ThreadTime::parse(&format!("7 ({name}) {rest}"), "100 20 3\n", status).unwrap();
            let expected = ThreadTime { taken_off: 6, ..thread(name, 39, 100, 20, 0) };
            assert_eq!(read, expected);
        }
        assert_eq!(ThreadTime::parse("", "", ""), None);
    }

    #[test]
    fn the_steal_of_each_cpu_is_told_and_not_their_sum() {
        let stat = "cpu  1 2 3 4 5 6 7 30 9 10\ncpu0 1 2 3 4 5 6 7 10 9 10\ncpu1 1 2 3 4 5 6 7 20 9 10\nintr 5\n";
        assert_eq!(stolen(stat), [10 * TICK_NS, 20 * TICK_NS]);
    }

    /// Breaks if a look that comes late is taken for the other thread's standing still.
    #[test]
    fn a_count_stands_still_only_between_looks_that_found_the_same() {
        let mut watch = Watch::default();
        for (turns, now_ns) in [(1, 0), (2, 10_000), (2, 20_000), (2, 90_000), (3, 100_000), (4, 900_000), (5, 910_000)]
        {
            watch.look(turns, now_ns);
        }
        assert_eq!(watch.take(), Still { count: 1, total_ns: 80_000, longest_ns: 80_000 });
        assert_eq!(watch.take(), Still::default());
        watch.look(5, 0);
        watch.look(5, 70_000);
        assert_eq!(watch.take().count, 1, "one that goes on counts too");
    }

    #[test]
    fn a_thread_stands_still_between_its_own_looks_at_the_clock() {
        let mut watch = Watch::default();
        [0, 10_000, 70_000, 71_000, 141_000].into_iter().for_each(|now_ns| watch.look_at_clock(now_ns));
        assert_eq!(watch.take(), Still { count: 2, total_ns: 130_000, longest_ns: 70_000 });
    }

    /// Breaks if a tail is put down to the wrong one.
    #[test]
    fn a_standstill_is_put_down_to_who_had_the_cpu() {
        let cause = |waited_ns, beside_ns, stolen_ns| {
            let watched = thread("flows", 1, 1_000_000, waited_ns, 100_000);
            let threads =
                vec![watched.clone(), thread("beside", 1, beside_ns, 0, 0), thread("elsewhere", 0, 1 << 40, 0, 0)];
            CpuTime { threads, stolen_ns: vec![0, stolen_ns] }.cause(&watched)
        };
        assert_eq!(cause(90_000, 80_000, 0), Some(Cause::Ours));
        assert_eq!(cause(90_000, 1_000, 0), Some(Cause::Others));
        assert_eq!(cause(1_000, 1_000, 90_000), Some(Cause::Hypervisor));
        assert_eq!(cause(1_000, 1_000, 0), Some(Cause::Unknown));
        assert_eq!(CpuTime::default().cause(&thread("flows", 1, 1, 1, 0)), None);
    }

    #[test]
    fn this_thread_has_run() {
        let before = Snapshot::default();
        assert!(before.until(&Snapshot::take(), &[]).threads.iter().any(|thread| thread.ran_ns > 0));
    }
}
