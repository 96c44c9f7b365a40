//! Rings between lcores. Each test is a process of its own.

mod own_process;

use dpdk::ring::ring;
use dpdk::{BURST, Burst, Mempool, RingConsumer, RingError, RingProducer, SocketId, clock};

/// Fills the burst with fresh mbufs of one producer, numbered from `next`; waits while the mempool is empty.
fn fill(pool: &Mempool<(u32, u32)>, burst: &mut Burst<(u32, u32)>, producer: u32, next: &mut u32, last: u32) {
    while !burst.is_full() && *next < last {
        let Some(mut mbuf) = pool.alloc() else { return clock::yield_now() };
        *mbuf.meta_mut() = (producer, *next);
        *next += 1;
        burst.push(mbuf).expect("the burst has room");
    }
}

fn produce(pool: Mempool<(u32, u32)>, ring: RingProducer<(u32, u32)>, producer: u32, count: u32) {
    let (mut burst, mut next) = (Burst::new(), 0);
    while next < count || !burst.is_empty() {
        fill(&pool, &mut burst, producer, &mut next, count);
        if ring.enqueue_burst(&mut burst) == 0 {
            clock::yield_now();
        }
    }
}

/// Takes `total` mbufs out and checks that each producer's come in its order.
fn consume(mut ring: RingConsumer<(u32, u32)>, producers: usize, total: u32) -> Vec<u32> {
    let (mut expected, mut burst, mut seen) = (vec![0; producers], Burst::new(), 0);
    while seen < total {
        if ring.dequeue_burst(&mut burst) == 0 {
            clock::yield_now();
        }
        for mbuf in burst.drain() {
            let (producer, number) = *mbuf.meta();
            let place = &mut expected[producer as usize];
            assert_eq!(number, *place, "producer {producer}");
            *place += 1;
            seen += 1;
        }
    }
    assert!(ring.is_empty());
    expected
}

#[test]
fn several_producers_lose_nothing_and_keep_their_order() {
    own_process::run("several_producers_lose_nothing_and_keep_their_order", || {
        let eal = own_process::eal(4);
        let pool = own_process::pool::<(u32, u32)>(&eal, 1_023);
        let (producer, consumer) = ring(&eal, "many", 100, SocketId::ANY).expect("memory");
        let count = 20_000;
        let producers: Vec<_> = (0..3)
            .map(|number| {
                let (pool, ring) = (pool.clone(), producer.clone());
                eal.launch(number + 1, move || produce(pool, ring, number, count)).expect("at rest")
            })
            .collect();
        let consumer = eal.launch(4, move || consume(consumer, 3, 3 * count)).expect("at rest");
        for handle in producers {
            handle.join().expect("no panic");
        }
        assert_eq!(consumer.join(), Ok(vec![count; 3]));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_full_ring_leaves_the_rest_in_the_burst_in_order() {
    own_process::run("a_full_ring_leaves_the_rest_in_the_burst_in_order", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<(u32, u32)>(&eal, 127);
        let (producer, mut consumer) = ring(&eal, "small", 20, SocketId::ANY).expect("memory");
        assert_eq!((producer.capacity(), consumer.capacity()), (20, 20));
        let (mut burst, mut next) = (Burst::new(), 0);
        fill(&pool, &mut burst, 0, &mut next, BURST as u32);
        assert_eq!((producer.enqueue_burst(&mut burst), burst.len(), producer.len()), (20, 12, 20));
        assert_eq!(producer.enqueue_burst(&mut burst), 0);
        let mut out = Burst::new();
        assert_eq!((consumer.dequeue_burst(&mut out), consumer.is_empty()), (20, true));
        assert_eq!(producer.enqueue_burst(&mut burst), 12);
        assert_eq!(consumer.dequeue_burst(&mut out), 12);
        let numbers: Vec<u32> = out.iter().map(|mbuf| mbuf.meta().1).collect();
        assert_eq!(numbers, (0..32).collect::<Vec<_>>());
        assert_eq!(consumer.dequeue_burst(&mut out), 0, "the burst is full");
    });
}

#[test]
fn what_is_left_in_a_ring_is_freed_when_both_sides_are_gone() {
    own_process::run("what_is_left_in_a_ring_is_freed_when_both_sides_are_gone", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<(u32, u32)>(&eal, 127);
        let make = || ring::<(u32, u32)>(&eal, "again", 64, SocketId::ANY);
        let (producer, consumer) = make().expect("memory");
        let mut burst = Burst::new();
        for _ in 0..2 {
            pool.alloc_burst(&mut burst, BURST);
            assert_eq!(producer.enqueue_burst(&mut burst), BURST);
        }
        drop(consumer);
        assert_eq!((producer.len(), pool.in_use()), (64, 64));
        assert!(matches!(make().err(), Some(RingError::NameTaken { .. })));
        drop(producer);
        assert_eq!(pool.in_use(), 0);
        make().expect("the name is free again");
    });
}

#[test]
fn rings_that_can_not_be_made_say_why() {
    own_process::run("rings_that_can_not_be_made_say_why", || {
        let eal = own_process::eal(0);
        let make = |name: &str, capacity| ring::<()>(&eal, name, capacity, SocketId::ANY).err();
        assert!(matches!(make("", 16), Some(RingError::Name { .. })));
        assert!(matches!(make(&"x".repeat(29), 16), Some(RingError::Name { max: 28, .. })));
        assert_eq!(make(&"x".repeat(28), 16), None);
        assert!(matches!(make("none", 0), Some(RingError::Capacity { capacity: 0, .. })));
        assert!(matches!(make("huge", u32::MAX), Some(RingError::Capacity { .. })));
        assert!(matches!(make("large", 100_000_000), Some(RingError::Create { capacity: 100_000_000, .. })));
    });
}
