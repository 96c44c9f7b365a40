//! The plain loop: from one device to the other in bursts of 32 and nothing else. What is left of a trial's time when the dataplane
//! does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::meta::{Burst, Mempool, Meta};
use dpdk::{Device, Eal, MempoolConfig, Port, PortConfig, RxQueue, SocketId, TxQueue, clock};

use super::feeder::Feeder;
use super::trial::{Sample, WINDOW, measured};
use super::{SpeedError, TrialResult, TrialSpec, Work, failed, rules, site};

struct Pair {
    rx: RxQueue<Meta>,
    tx: TxQueue,
}

/// What the loop has counted; written by its lcore alone.
#[derive(Default)]
struct Counts {
    packets: AtomicU64,
    busy_cycles: AtomicU64,
}

/// Runs the loop and measures it.
pub fn run(spec: &TrialSpec) -> Result<TrialResult, SpeedError> {
    let (eal, _, ring) = site::start_eal(spec)?;
    let feeder = ring.map(|ring| Feeder::start(&eal, spec, 2, ring)).transpose()?;
    let config = MempoolConfig {
        name: "mbufs-0".to_owned(),
        count: rules::mbufs(spec),
        cache: 250,
        data_room: 2_048 + 128,
        socket: SocketId::ANY,
    };
    let mempool = Mempool::new(&eal, &config).map_err(|error| failed("make a mempool", error))?;
    let devices = match spec.work {
        Work::BareNull => ["net_null0".to_owned(), "net_null1".to_owned()],
        _ => rules::devices(spec),
    };
    let mut ports = Vec::new();
    for (at, device) in devices.iter().enumerate() {
        let fed = feeder.as_ref().filter(|_| at == 0 && spec.work == Work::Bare).and_then(Feeder::device);
        ports.push(open(&eal, fed, device, &mempool)?);
    }
    if let Some(feeder) = &feeder {
        feeder.go();
    }
    let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
    let (stopped, counting) = (Arc::clone(&stop), Arc::clone(&counts));
    let run = move || forward(ports, &stopped, &counting);
    let handle = eal.launch(1, run).map_err(|error| failed("start the loop", error))?;
    std::thread::sleep(Duration::from_millis(spec.warm_up_ms));
    let sample = || {
        let packets = counts.packets.load(Ordering::Relaxed);
        let cycles = counts.busy_cycles.load(Ordering::Relaxed);
        Sample { at: Instant::now(), packets, received: packets, cycles }
    };
    let result = measured(Duration::from_millis(spec.duration_ms), sample, || {
        std::thread::sleep(WINDOW);
        Ok(())
    });
    drop(feeder);
    stop.store(true, Ordering::Relaxed);
    let ports = handle.join().map_err(|error| failed("end the loop", error))?;
    drop(ports);
    result
}

/// The port of this device, or of the one that the feeder feeds.
fn open(eal: &Eal, fed: Option<Device>, device: &str, mempool: &Mempool) -> Result<(Port, Pair), SpeedError> {
    let device = fed.map_or_else(|| eal.open_device(device), Ok).map_err(|error| failed("open a device", error))?;
    let config = PortConfig { mtu: 1_500, descriptors: 512, ..PortConfig::<Meta>::new(mempool.clone()) };
    let (port, mut rx, mut tx) = Port::configure(device, &config).map_err(|error| failed("open a port", error))?;
    Ok((port, Pair { rx: rx.remove(0), tx: tx.remove(0) }))
}

fn forward(mut ports: Vec<(Port, Pair)>, stop: &AtomicBool, counts: &Counts) -> Vec<(Port, Pair)> {
    let mut burst = Burst::new();
    let (mut packets, mut cycles) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let from = clock::tsc();
        for (this, other) in [(0, 1), (1, 0)] {
            if ports[this].1.rx.rx(&mut burst) > 0 {
                packets += ports[other].1.tx.tx(&mut burst) as u64;
                burst.clear();
            }
        }
        cycles += clock::tsc().wrapping_sub(from);
        counts.packets.store(packets, Ordering::Relaxed);
        counts.busy_cycles.store(cycles, Ordering::Relaxed);
    }
    ports
}
