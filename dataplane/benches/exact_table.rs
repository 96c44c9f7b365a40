//! What a look into ExactTable costs, beside what memory allows and what others cost: nanoseconds per key, hits at random.
//!
//! `taskset -c 1 cargo bench -p dataplane --bench exact_table [-- FLOWS ...]`
//!
//! Every row does the same: it makes 32 random keys out of the flows in the table and looks them up. `keys` only makes
//! them; its time is taken off the others (IPv6 keys take a little more to make, which is not). `limit` hashes each key as the
//! table does and reads one prefetched cache line of an array as large as the table's index; the next row writes a prefetched
//! line of an array of entries, too.
//!
//! Rows take turns in rounds, each after a warm-up of its own, so that a noisy machine is as noisy to all of them; a round is
//! many short pieces, timed by the thread's own clock, which stands still while others have the CPU. What the neighbours do
//! to the caches and the memory shows all the same: the fastest tenth of the pieces says what the row costs when they are
//! quiet.
//!
//! Memory is on transparent huge pages: the tables ask for them, and the bench starts itself again with glibc's allocator
//! asking for them (`glibc.malloc.hugetlb=1`) for the sake of hashbrown. The last line says how much of it was.

use std::cell::RefCell;
use std::env;
use std::hint::black_box;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;

use ahash::RandomState;
use dataplane::exact::{ExactTable, FlowHandle, FlowState};
use dpdk::HugeArray;
use dpdk::memory::prefetch;
use hashbrown::HashMap;
use packet::{Direction, FiveTuple, FlowKey, PathId, Tag, Vni, VportId, protocol};
use rustix::time::{ClockId, clock_gettime};
use shm::launch::Limits;
use shm::rules::{Delivery, ExactAction, Next};

const BURST: usize = 32;
const SIZES: [u32; 5] = [1_000, 10_000, 65_536, 1_000_000, 4_000_000];
const ROUNDS: usize = 15;
/// Pieces of a round, and the bursts in each.
const PIECES: usize = 16;
const BURSTS: usize = 1_024;
const TUNABLES: &str = "GLIBC_TUNABLES";
const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1";

/// Lookups before a round, after which the caches hold what they will.
fn warm_up(flows: u32) -> usize {
    (flows as usize).clamp(65_536, 1_000_000)
}

fn main() {
    if env::var_os(TUNABLES).is_none() {
        let program = env::current_exe().expect("the bench has a path");
        let error = Command::new(program).args(env::args_os().skip(1)).env(TUNABLES, HUGE_PAGES).exec();
        panic!("the bench can't start itself again: {error}");
    }
    let mut sizes: Vec<u32> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes.extend(SIZES);
    }
    let pieces = ROUNDS * PIECES;
    println!(
        "ns per key: fastest tenth, median, slowest tenth of {pieces} pieces; both first as multiples of the limit"
    );
    for flows in sizes {
        measure(flows);
    }
}

/// The time that this thread had the CPU.
fn now_ns() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// One thing that is measured: a name, and what looks up that many bursts.
struct Row {
    name: &'static str,
    look_up: Box<dyn FnMut(usize) -> u64>,
    pieces_ns: Vec<f64>,
}

fn row(name: &'static str, look_up: impl FnMut(usize) -> u64 + 'static) -> Row {
    Row { name, look_up: Box::new(look_up), pieces_ns: Vec::with_capacity(ROUNDS * PIECES) }
}

fn measure(flows: u32) {
    let mut rows = rows(flows);
    for _ in 0..ROUNDS {
        for Row { look_up, pieces_ns, .. } in &mut rows {
            black_box(look_up(warm_up(flows) / BURST));
            for _ in 0..PIECES {
                let start_ns = now_ns();
                black_box(look_up(BURSTS));
                pieces_ns.push((now_ns() - start_ns) as f64 / (BURSTS * BURST) as f64);
            }
        }
    }
    for row in &mut rows {
        row.pieces_ns.sort_by(f64::total_cmp);
    }
    let tenths = |row: &Row| [1, 5, 9].map(|tenth| row.pieces_ns[row.pieces_ns.len() * tenth / 10]);
    let keys = tenths(&rows[0]);
    let limit = tenths(&rows[1]);
    println!("\n{flows} flows");
    for (number, row) in rows.iter().enumerate() {
        let all = tenths(row);
        let [fast, median, slow]: [f64; 3] =
            std::array::from_fn(|at| if number == 0 { all[at] } else { all[at] - keys[at] });
        let (of_fast, of_median) = (fast / (limit[0] - keys[0]), median / (limit[1] - keys[1]));
        println!("  {:<34} {fast:6.2} {median:7.2} {slow:7.2}   x {of_fast:.2}, x {of_median:.2}", row.name);
    }
    println!("  {}", huge_pages());
}

fn rows(flows: u32) -> Vec<Row> {
    let mut all = limits(flows);
    all.extend(ours(flows));
    all.extend(hashbrowns(flows));
    all
}

/// Random flows, as keys.
struct Keys<const V6: bool = false> {
    state: u64,
    flows: u64,
    first: u64,
}

impl<const V6: bool> Keys<V6> {
    fn new(flows: u32) -> Self {
        Self { state: 1, flows: u64::from(flows), first: 0 }
    }

    #[inline(always)]
    fn flow(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.first + (((self.state >> 32) * self.flows) >> 32)
    }

    #[inline(always)]
    fn burst<'a>(&mut self, room: &'a mut [FlowKey; BURST]) -> &'a [FlowKey; BURST] {
        for place in room.iter_mut() {
            *place = if V6 { key_v6(self.flow()) } else { key(self.flow()) };
        }
        black_box(room)
    }
}

#[inline(always)]
fn key(flow: u64) -> FlowKey {
    FlowKey {
        vport: VportId(1),
        vni: Vni::new(100).unwrap_or_default(),
        five_tuple: FiveTuple {
            source: std::net::Ipv4Addr::from_bits(0x0a00_0000 + (flow >> 4) as u32).into(),
            destination: std::net::Ipv4Addr::from_bits(0xc0a8_0000 + (flow & 15) as u32).into(),
            source_port: flow.wrapping_mul(40_503) as u16,
            destination_port: 443,
            protocol: protocol::TCP,
        },
    }
}

/// The same flow of an IPv6 network.
fn key_v6(flow: u64) -> FlowKey {
    let mut key = key(flow);
    let wide = |address: u64| std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(address)).into();
    (key.five_tuple.source, key.five_tuple.destination) = (wide(flow >> 4), wide(flow & 15));
    key
}

fn limits(flows: u32) -> Vec<Row> {
    let lines = flows as usize; // as the table has
    let [mut keys, mut keys_1, mut keys_2] = [(); 3].map(|()| Keys::<false>::new(flows));
    let mut room = [key(0); BURST];
    let (lines_1, lines_2, mut entries) = (touched(lines), touched(lines), touched(flows as usize));
    vec![
        row("keys", move |bursts| {
            (0..bursts).map(|_| u64::from(keys.burst(&mut room)[7].five_tuple.source_port)).sum()
        }),
        row("limit: hash, one line", move |bursts| limit_1(&mut keys_1, &lines_1, bursts)),
        row("limit, entry's line written too", move |bursts| limit_2(&mut keys_2, &lines_2, &mut entries, bursts)),
    ]
}

fn limit_1(keys: &mut Keys, lines: &[Line], bursts: usize) -> u64 {
    let (mut room, mut at, mut sum) = ([key(0); BURST], [0; BURST], 0);
    for _ in 0..bursts {
        for (key, at) in keys.burst(&mut room).iter().zip(&mut at) {
            *at = scaled(hash(key) >> 32, lines.len());
            prefetch(&lines[*at]);
        }
        sum += at.iter().map(|&at| lines[at].0[0]).sum::<u64>();
    }
    sum
}

fn limit_2(keys: &mut Keys, lines: &[Line], entries: &mut [Line], bursts: usize) -> u64 {
    let (mut room, mut at, mut sum) = ([key(0); BURST], [(0, 0); BURST], 0);
    for _ in 0..bursts {
        for (key, at) in keys.burst(&mut room).iter().zip(&mut at) {
            let hash = hash(key);
            *at = (scaled(hash >> 32, lines.len()), scaled(hash & 0xffff_ffff, entries.len()));
            prefetch(&lines[at.0]);
            prefetch(&entries[at.1]);
        }
        for &(line, entry) in &at {
            sum += lines[line].0[0];
            entries[entry].0[0] += 1;
        }
    }
    sum
}

/// A cache line.
#[derive(zerocopy::FromZeros)]
#[repr(align(64))]
struct Line([u64; 8]);

fn touched(lines: usize) -> HugeArray<Line> {
    let mut array = HugeArray::<Line>::new(lines.max(1));
    array.iter_mut().for_each(|line| line.0[0] = 1);
    array
}

#[inline(always)]
fn scaled(half: u64, count: usize) -> usize {
    ((half * count as u64) >> 32) as usize
}

/// The same work as the table's own hash.
#[inline(always)]
fn hash(key: &FlowKey) -> u64 {
    let fold = |x: u64, y: u64| {
        let product = u128::from(x) * u128::from(y);
        product as u64 ^ (product >> 64) as u64
    };
    let [first, second, rest] = packed(key);
    fold(
        fold(first ^ 0x243f_6a88_85a3_08d3, second ^ 0x1319_8a2e_0370_7344) ^ 0xa409_3822_299f_31d0,
        rest ^ 0x082e_fa98_ec4e_6c89,
    )
}

#[inline(always)]
fn packed(key: &FlowKey) -> [u64; 3] {
    let FiveTuple { source, destination, source_port, destination_port, protocol } = key.five_tuple;
    let (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) = (source, destination) else {
        return [0; 3];
    };
    let ports = u64::from(source_port) << 48 | u64::from(destination_port) << 32 | u64::from(key.vport.0) << 16;
    [
        u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()),
        ports,
        u64::from(key.vni.value()) << 8 | u64::from(protocol),
    ]
}

fn filled(flows: u32, key: fn(u64) -> FlowKey) -> ExactTable {
    let mut table = ExactTable::new(&Limits { flows, ..Limits::default() });
    for flow in 0..u64::from(flows) {
        table.add(key(flow), FlowState::Active(action(flow)), 1).expect("the table has room");
    }
    table
}

fn ours(flows: u32) -> Vec<Row> {
    let table = Rc::new(RefCell::new(filled(flows, key)));
    let mut table_v6 = filled(flows, key_v6);
    let [for_find, for_one, for_miss, for_meet] = [(); 4].map(|()| Rc::clone(&table));
    let [mut keys, mut keys_one, mut keys_miss, mut keys_meet] = [(); 4].map(|()| Keys::<false>::new(flows));
    let mut keys_v6 = Keys::<true>::new(flows);
    keys_miss.first = u64::from(flows);
    let mut room = [key(0); BURST];
    vec![
        row("ours: locate_burst", move |bursts| found_in(&for_find.borrow(), &mut keys, bursts)),
        row("ours: find_burst, met", move |bursts| met_in(&mut for_meet.borrow_mut(), &mut keys_meet, bursts)),
        row("ours: locate_burst, misses", move |bursts| found_in(&for_miss.borrow(), &mut keys_miss, bursts)),
        row("ours: find_burst, met, IPv6", move |bursts| met_in(&mut table_v6, &mut keys_v6, bursts)),
        row("ours: find, one by one", move |bursts| {
            let table = for_one.borrow();
            let one = |key: &FlowKey| table.find(key).map_or(0, |flow| flow.position() as u64);
            (0..bursts).map(|_| keys_one.burst(&mut room).iter().map(one).sum::<u64>()).sum()
        }),
    ]
}

fn found_in(table: &ExactTable, keys: &mut Keys, bursts: usize) -> u64 {
    let (mut room, mut found, mut sum) = ([key(0); BURST], [None; BURST], 0);
    for _ in 0..bursts {
        table.locate_burst(keys.burst(&mut room), &mut found);
        sum += found.iter().flatten().map(|flow: &FlowHandle| flow.position() as u64).sum::<u64>();
    }
    sum
}

fn met_in<const V6: bool>(table: &mut ExactTable, keys: &mut Keys<V6>, bursts: usize) -> u64 {
    let (mut room, mut found, mut sum) = ([key(0); BURST], [None; BURST], 0);
    for _ in 0..bursts {
        table.find_burst(keys.burst(&mut room), &mut found);
        for flow in found.into_iter().flatten() {
            let Some(mut flow) = table.get_mut(flow) else { continue };
            flow.meet(60, 0x10, sum);
            sum += flow.action().map_or(0, |action| u64::from(action.path.0));
        }
    }
    sum
}

/// The action of a flow: one of a hundred paths.
fn action(flow: u64) -> ExactAction {
    ExactAction {
        vni: Vni::new(100).expect("24 bits"),
        tag: Tag::new(1 + (flow % 60) as u8).expect("six bits"),
        direction: Direction::Forward,
        next: Next::Vport(VportId(2)),
        delivery: Delivery::None,
        path: PathId((flow % 100) as u32),
        path_mtu: 1_500,
    }
}

/// What stands in hashbrown's place of an entry: as much as ours keeps.
#[derive(Default, Clone)]
#[repr(align(64))]
struct Entry {
    last_ns: u64,
    packets: u64,
    bytes: u64,
    path: u64,
}

fn hashbrowns(flows: u32) -> Vec<Row> {
    let mut map = HashMap::<[u64; 3], u32, RandomState>::with_capacity_and_hasher(flows as usize, RandomState::new());
    let entries = vec![Entry { path: 1, ..Entry::default() }; flows as usize];
    map.extend((0..flows).map(|flow| (packed(&key(u64::from(flow))), flow)));
    let map = Rc::new(map);
    let (for_meet, mut entries) = (Rc::clone(&map), entries);
    let (mut keys, mut keys_meet) = (Keys::<false>::new(flows), Keys::<false>::new(flows));
    let mut room = [key(0); BURST];
    vec![
        row("hashbrown, packed keys, ahash", move |bursts| {
            let one = |key: &FlowKey| map.get(&packed(key)).map_or(0, |&flow| u64::from(flow));
            (0..bursts).map(|_| keys.burst(&mut room).iter().map(one).sum::<u64>()).sum()
        }),
        row("hashbrown, met", move |bursts| {
            let mut sum = 0;
            for _ in 0..bursts {
                for key in keys_meet.burst(&mut room) {
                    let Some(&flow) = for_meet.get(&packed(key)) else { continue };
                    let entry = &mut entries[flow as usize];
                    entry.packets += 1;
                    entry.bytes += 60;
                    entry.last_ns = sum;
                    sum += entry.path;
                }
            }
            sum
        }),
    ]
}

fn huge_pages() -> String {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = |name: &str| {
        rollup.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
    };
    let [all, huge]: [u64; 2] = ["Rss:", "AnonHugePages:"].map(|name| line(name).unwrap_or(0));
    format!("memory: {} MiB, of which {} MiB on transparent huge pages", all / 1024, huge / 1024)
}
