//! Ports over devices that need no kernel: null, rings, capture files. Each test is a process of its own.

mod own_process;

use std::fs;

use dpdk::{
    BURST, Burst, Device, DeviceError, Eal, Mempool, MempoolConfig, Port, PortConfig, PortError, RingPortConfig,
    RingPortEnds, RxQueue, SocketId, TxQueue,
};
use packet::MacAddr;

/// The metadata of these tests: a number that must be zero on arrival.
type Mark = u64;

fn one_queue(device: Device, pool: &Mempool<Mark>) -> (Port, RxQueue<Mark>, TxQueue) {
    let (port, mut rx, mut tx) = Port::configure(device, &PortConfig::new(pool.clone())).expect("a plain port");
    (port, rx.remove(0), tx.remove(0))
}

fn ring_port(eal: &Eal, name: &str, queues: u16, capacity: u32) -> (Device, RingPortEnds<Mark>) {
    let socket = SocketId::ANY;
    let config = RingPortConfig { name: name.to_owned(), rx_queues: queues, tx_queues: queues, capacity, socket };
    eal.ring_port(&config).expect("memory for rings")
}

fn put(pool: &Mempool<Mark>, burst: &mut Burst<Mark>, frame: &[u8]) {
    let mut mbuf = pool.alloc_from(frame).expect("the mempool is large enough");
    *mbuf.meta_mut() = u64::MAX;
    burst.push(mbuf).expect("room");
}

#[test]
fn a_null_port_fills_bursts_and_swallows_them() {
    own_process::run("a_null_port_fills_bursts_and_swallows_them", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<Mark>(&eal, 255);
        let device = eal.open_device("net_null0,size=100").expect("the driver exists");
        assert_eq!(device.name(), "net_null0");
        let (port, mut rx, mut tx) = one_queue(device, &pool);
        assert_eq!((port.name(), port.driver(), port.mtu()), ("net_null0", "net_null", 1_500));
        assert!(port.link_up());
        let mut burst = Burst::new();
        for _ in 0..50 {
            assert_eq!((rx.rx(&mut burst), rx.rx(&mut burst)), (BURST, 0), "a full burst takes no more");
            assert!(burst.iter().all(|mbuf| mbuf.len() == 100 && *mbuf.meta() == 0 && mbuf.is_single_segment()));
            burst.iter_mut().for_each(|mbuf| *mbuf.meta_mut() = 1);
            assert_eq!((tx.tx(&mut burst), burst.len()), (BURST, 0));
        }
        assert_eq!((port.stats().rx_packets, port.stats().tx_packets), (1_600, 1_600));
        drop((port, rx, tx));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_ring_port_keeps_contents_and_order_both_ways() {
    own_process::run("a_ring_port_keeps_contents_and_order_both_ways", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<Mark>(&eal, 255);
        let (device, mut ends) = ring_port(&eal, "wire", 1, 64);
        let (port, mut rx, mut tx) = one_queue(device, &pool);
        assert_eq!((port.name(), port.driver(), port.socket()), ("net_ring_wire", "net_ring", SocketId::ANY));
        let frames: Vec<Vec<u8>> = (0..20_u8).map(|number| vec![number; 60 + usize::from(number)]).collect();
        let mut burst = Burst::new();
        frames.iter().for_each(|frame| put(&pool, &mut burst, frame));
        assert_eq!(ends.feed[0].enqueue_burst(&mut burst), 20);
        assert_eq!(rx.rx(&mut burst), 20);
        assert!(burst.iter().zip(&frames).all(|(mbuf, frame)| mbuf.data() == frame && *mbuf.meta() == 0));
        burst.iter_mut().for_each(|mbuf| *mbuf.meta_mut() = 9);
        assert_eq!((tx.tx(&mut burst), burst.is_empty()), (20, true));
        assert_eq!(ends.drain[0].dequeue_burst(&mut burst), 20);
        assert!(burst.iter().zip(&frames).all(|(mbuf, frame)| mbuf.data() == frame && *mbuf.meta() == 0));
        burst.clear();
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_full_device_leaves_the_rest_in_the_burst() {
    own_process::run("a_full_device_leaves_the_rest_in_the_burst", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<Mark>(&eal, 255);
        let (device, mut ends) = ring_port(&eal, "narrow", 1, 10);
        let (_port, _rx, mut tx) = one_queue(device, &pool);
        let mut burst = Burst::new();
        (0..BURST as u8).for_each(|number| put(&pool, &mut burst, &[number; 60]));
        assert_eq!((tx.tx(&mut burst), burst.len(), tx.tx(&mut burst)), (10, 22, 0));
        assert_eq!(burst.iter().map(|mbuf| mbuf.data()[0]).collect::<Vec<_>>(), (10..32).collect::<Vec<_>>());
        let mut out = Burst::new();
        assert_eq!((ends.drain[0].dequeue_burst(&mut out), tx.tx(&mut burst)), (10, 10));
        assert_eq!(burst.as_slice()[0].data()[0], 20);
    });
}

#[test]
fn queues_of_a_port_are_separate_and_can_be_polled_by_lcores() {
    own_process::run("queues_of_a_port_are_separate_and_can_be_polled_by_lcores", || {
        let eal = own_process::eal(4);
        let pool = own_process::pool::<Mark>(&eal, 511);
        let (device, mut ends) = ring_port(&eal, "many", 4, 64);
        let several = PortConfig { rx_queues: 4, tx_queues: 4, symmetric_rss: false, ..PortConfig::new(pool.clone()) };
        let (port, rx, tx) = Port::configure(device, &several).expect("four rings each way");
        let mut burst = Burst::new();
        for (number, feed) in ends.feed.iter().enumerate() {
            (0..=number).for_each(|_| put(&pool, &mut burst, &[number as u8; 60]));
            assert_eq!(feed.enqueue_burst(&mut burst), number + 1);
        }
        let polls = (1..).zip(rx.into_iter().zip(tx)).map(|(lcore, (mut rx, mut tx))| {
            let poll = move || {
                let mut burst = Burst::new();
                (rx.rx(&mut burst), tx.tx(&mut burst), rx.number(), tx.number())
            };
            eal.launch(lcore, poll).expect("at rest")
        });
        for (number, handle) in polls.collect::<Vec<_>>().into_iter().enumerate() {
            let queue = number as u16;
            assert_eq!(handle.join(), Ok((number + 1, number + 1, queue, queue)));
        }
        for (number, drain) in ends.drain.iter_mut().enumerate() {
            assert_eq!(drain.dequeue_burst(&mut burst), number + 1);
            assert!(burst.drain().all(|mbuf| mbuf.data() == [number as u8; 60]));
        }
        assert_eq!(port.stats().rx_packets, 10);
        drop((port, ends));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn symmetric_rss_is_set_up_where_the_device_has_it_and_refused_elsewhere() {
    own_process::run("symmetric_rss_is_set_up_where_the_device_has_it_and_refused_elsewhere", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<Mark>(&eal, 4_095);
        let several = PortConfig { rx_queues: 2, tx_queues: 2, ..PortConfig::new(pool.clone()) };
        let (_port, rx, tx) =
            Port::configure(eal.open_device("net_null0").expect("exists"), &several).expect("has RSS");
        assert_eq!((rx.len(), tx.len()), (2, 2));
        let (device, _ends) = ring_port(&eal, "plain", 2, 64);
        let error = Port::configure(device, &several).expect_err("rings have no RSS");
        assert!(matches!(error, PortError::NoRss { queues: 2, .. }), "{error}");
    });
}

#[test]
fn ports_that_can_not_be_made_say_why_and_the_device_can_be_opened_again() {
    own_process::run("ports_that_can_not_be_made_say_why_and_the_device_can_be_opened_again", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<Mark>(&eal, 255);
        let plain = PortConfig::new(pool.clone());
        let (device, ends) = ring_port(&eal, "two", 2, 64);
        let greedy = PortConfig { rx_queues: 3, symmetric_rss: false, ..plain.clone() };
        let error = Port::configure(device, &greedy).expect_err("it has two");
        assert!(matches!(error, PortError::Queues { asked: 3, max: 2, direction: "receive", .. }), "{error}");
        let open = || eal.open_device("net_null0").expect("closed again");
        let error = Port::configure(open(), &PortConfig { tx_queues: 0, ..plain.clone() }).expect_err("no queue");
        assert!(matches!(error, PortError::Queues { asked: 0, direction: "transmit", .. }), "{error}");
        let error = Port::configure(open(), &PortConfig { mtu: 9_000, ..plain.clone() }).expect_err("2 KiB buffers");
        assert!(matches!(error, PortError::MbufTooSmall { mtu: 9_000, needed: 9_150, .. }), "{error}");
        Port::configure(open(), &plain).expect("the device works after three refusals");
        drop(ends);
        ring_port(&eal, "two", 2, 64);
    });
}

#[test]
fn jumbo_frames_fit_where_the_mempool_has_room_for_them() {
    own_process::run("jumbo_frames_fit_where_the_mempool_has_room_for_them", || {
        let eal = own_process::eal(0);
        let config = MempoolConfig { count: 127, cache: 0, data_room: 9_728, ..MempoolConfig::default() };
        let pool = Mempool::<Mark>::new(&eal, &config).expect("memory");
        for device in ["net_null0", "net_ring0"] {
            let jumbo = PortConfig { mtu: 9_000, ..PortConfig::new(pool.clone()) };
            let (port, ..) = Port::configure(eal.open_device(device).expect("exists"), &jumbo).expect("no limit");
            assert_eq!(port.mtu(), 9_000);
        }
        let (device, ends) = ring_port(&eal, "jumbo", 1, 16);
        let jumbo = PortConfig { mtu: 9_000, ..PortConfig::new(pool.clone()) };
        let (_port, mut rx, _tx) = Port::configure(device, &jumbo).expect("rings know no MTU");
        let mut burst = Burst::new();
        put(&pool, &mut burst, &[7; 9_014]);
        ends.feed[0].enqueue_burst(&mut burst);
        rx[0].rx(&mut burst);
        assert_eq!(burst.as_slice()[0].data(), [7; 9_014]);
    });
}

#[test]
fn a_device_that_is_missing_or_taken_is_named_with_the_reason() {
    own_process::run("a_device_that_is_missing_or_taken_is_named_with_the_reason", || {
        let eal = own_process::eal(0);
        let error = |device: &str| eal.open_device(device).expect_err("can't be opened");
        assert!(matches!(error(""), DeviceError::Name { .. }));
        assert!(matches!(error("net_null0,\0"), DeviceError::Name { .. }));
        assert!(matches!(error(&"x".repeat(64)), DeviceError::Name { .. }));
        let no_interface = error("net_af_packet0,iface=nowhere9");
        assert!(matches!(&no_interface, DeviceError::NoSuchInterface { interface, .. } if interface == "nowhere9"));
        let no_file = error("net_pcap0,rx_pcap=/no/such.pcap");
        assert!(no_file.to_string().contains("/no/such.pcap"), "{no_file}");
        let no_driver = error("net_nonsense0");
        assert!(matches!(no_driver, DeviceError::Probe { .. }));
        assert!(no_driver.to_string().contains("net_nonsense0"), "{no_driver}");
        assert!(matches!(error("ffff:ff:1f.7"), DeviceError::NoSuchPci { .. }));
        let _held = eal.open_device("net_null0").expect("exists");
        assert!(matches!(error("net_null0"), DeviceError::AlreadyOpen { .. }));
        let (_ring, _ends) = ring_port(&eal, "taken", 1, 16);
        let twice =
            RingPortConfig { name: "taken".into(), rx_queues: 1, tx_queues: 1, capacity: 16, socket: SocketId::ANY };
        assert!(matches!(eal.ring_port::<Mark>(&twice).err(), Some(DeviceError::Ring(_))));
    });
}

#[test]
fn a_device_of_eals_own_start_is_opened_by_its_name() {
    own_process::run("a_device_of_eals_own_start_is_opened_by_its_name", || {
        let config = dpdk::EalConfig { vdevs: vec!["net_null7,size=77".to_owned()], ..own_process::config(0) };
        let eal = Eal::init(config).expect("the driver exists");
        let pool = own_process::pool::<Mark>(&eal, 127);
        let (_port, mut rx, _tx) = one_queue(eal.open_device("net_null7").expect("is there"), &pool);
        let mut burst = Burst::new();
        rx.rx(&mut burst);
        assert!(burst.iter().all(|mbuf| mbuf.len() == 77));
    });
}

/// A classic pcap file (little-endian, microseconds, Ethernet) of these frames.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file: Vec<u8> =
        [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1].iter().flat_map(|word| word.to_le_bytes()).collect();
    for frame in frames {
        let length = frame.len() as u32;
        file.extend([0, 0, length, length].iter().flat_map(|word| word.to_le_bytes()));
        file.extend(frame);
    }
    file
}

#[test]
fn a_capture_file_is_read_frame_by_frame_and_written_again() {
    own_process::run("a_capture_file_is_read_frame_by_frame_and_written_again", || {
        let directory = tempfile::tempdir().expect("a place for files");
        let (source, target) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
        let frames: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number; 60 + 30 * usize::from(number)]).collect();
        fs::write(&source, pcap(&frames)).expect("a file can be written");
        let eal = own_process::eal(0);
        let pool = own_process::pool::<Mark>(&eal, 127);
        let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", source.display(), target.display());
        let (port, mut rx, mut tx) = one_queue(eal.open_device(&device).expect("the file is there"), &pool);
        assert_ne!(port.mac(), MacAddr::default());
        let (mut burst, mut seen) = (Burst::new(), Vec::new());
        while rx.rx(&mut burst) > 0 {
            seen.extend(burst.iter().map(|mbuf| mbuf.data().to_vec()));
            while !burst.is_empty() {
                tx.tx(&mut burst);
            }
        }
        assert_eq!(seen, frames);
        drop((port, rx, tx));
        let written = fs::read(&target).expect("the port wrote it");
        let records = &written[24..];
        assert_eq!(records.len(), frames.iter().map(|frame| 16 + frame.len()).sum::<usize>());
        assert!(records.ends_with(frames.last().expect("there are frames")));
        assert_eq!(pool.in_use(), 0);
    });
}
