//! Mempools, mbufs and bursts. Each test is a process of its own.

mod own_process;

use dpdk::{BURST, Burst, Mbuf, Mempool, MempoolConfig, MempoolError, SocketId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn an_empty_mempool_says_so_and_is_full_again_after_all() {
    own_process::run("an_empty_mempool_says_so_and_is_full_again_after_all", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<()>(&eal, 63);
        let held: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((held.len(), pool.available(), pool.in_use()), (63, 0, 63));
        let mut burst = Burst::new();
        assert_eq!((pool.alloc_burst(&mut burst, 1), burst.len()), (0, 0));
        drop(held);
        assert_eq!((pool.available(), pool.in_use()), (63, 0));
        assert_eq!((pool.alloc_burst(&mut burst, BURST), pool.in_use()), (BURST, 32));
        assert_eq!(pool.alloc_burst(&mut burst, 1), 0, "the burst is full");
        assert!(burst.push(pool.alloc().expect("there are more")).is_err());
        burst.clear();
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn metadata_of_an_earlier_owner_is_never_seen() {
    own_process::run("metadata_of_an_earlier_owner_is_never_seen", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<[u64; 16]>(&eal, 31);
        for _ in 0..4 {
            let mut held: Vec<Mbuf<[u64; 16]>> = std::iter::from_fn(|| pool.alloc()).collect();
            assert!(held.iter().all(|mbuf| *mbuf.meta() == [0; 16]));
            held.iter_mut().for_each(|mbuf| *mbuf.meta_mut() = [u64::MAX; 16]);
        }
        let mut burst = Burst::new();
        pool.alloc_burst(&mut burst, 31);
        assert!(burst.iter().all(|mbuf| *mbuf.meta() == [0; 16]));
    });
}

#[test]
fn a_copy_has_the_bytes_and_the_metadata_but_its_own_memory() {
    own_process::run("a_copy_has_the_bytes_and_the_metadata_but_its_own_memory", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<u32>(&eal, 63);
        let mut original = pool.alloc_from(b"0123456789").expect("room");
        *original.meta_mut() = 77;
        let whole = original.duplicate(&pool, usize::MAX).expect("room");
        let part = original.duplicate(&pool, 4).expect("room");
        original.data_mut().fill(b'x');
        assert_eq!((whole.data(), *whole.meta()), (&b"0123456789"[..], 77));
        assert_eq!((part.data(), *part.meta()), (&b"0123"[..], 77));
        assert!(pool.alloc().expect("room").duplicate(&pool, 4).is_none(), "there is nothing to copy");
        drop((original, whole, part));
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_burst_keeps_order_and_frees_what_is_left() {
    own_process::run("a_burst_keeps_order_and_frees_what_is_left", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<u8>(&eal, 127);
        let mut burst = Burst::new();
        for number in 0..20 {
            let mut mbuf = pool.alloc().expect("room");
            *mbuf.meta_mut() = number;
            burst.push(mbuf).expect("room");
        }
        burst.retain(|mbuf| mbuf.meta() % 2 == 0);
        assert_eq!((burst.len(), pool.in_use()), (10, 10));
        let mut other = Burst::new();
        pool.alloc_burst(&mut other, BURST - 3);
        assert_eq!((burst.move_to(&mut other), other.is_full()), (3, true));
        assert_eq!(burst.iter().map(|mbuf| *mbuf.meta()).collect::<Vec<_>>(), [6, 8, 10, 12, 14, 16, 18]);
        assert_eq!(burst.drain().next().map(|mbuf| *mbuf.meta()), Some(6));
        assert_eq!((burst.len(), pool.in_use()), (0, 32));
        drop(other);
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn what_is_noted_of_a_burst_stands_beside_it_and_the_rest_is_freed() {
    own_process::run("what_is_noted_of_a_burst_stands_beside_it_and_the_rest_is_freed", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<u8>(&eal, 127);
        let mut burst = Burst::new();
        pool.alloc_burst(&mut burst, BURST);
        burst.iter_mut().zip(0..).for_each(|(mbuf, number)| *mbuf.meta_mut() = number);
        let mut notes = arrayvec::ArrayVec::from([u32::MAX; BURST]);
        burst.note_each(&mut notes, 99, |mbuf| (mbuf.meta() % 2 == 0).then_some(u32::from(*mbuf.meta()) * 2));
        assert_eq!(notes[..4], [0, 99, 4, 99]);
        assert_eq!(notes.len(), BURST);
        let mut taken = Vec::new();
        burst.take_each_beside(&notes[..5], |mbuf, &note| taken.push((*mbuf.meta(), note, mbuf)));
        assert_eq!(taken.iter().map(|of| (of.0, of.1)).collect::<Vec<_>>(), [(0, 0), (1, 99), (2, 4), (3, 99), (4, 8)]);
        assert_eq!((burst.len(), pool.in_use()), (0, 5));
        burst.note_each(&mut notes, 99, |_| None);
        assert!(notes.is_empty(), "nothing is left of an earlier burst");
        let mut few = Burst::new();
        pool.alloc_burst(&mut few, 2);
        few.take_each_beside(&[1, 2, 3], |mbuf, _| drop(mbuf));
        assert_eq!(pool.in_use(), 5);
    });
}

#[test]
fn mempools_that_can_not_be_made_say_why() {
    own_process::run("mempools_that_can_not_be_made_say_why", || {
        let eal = own_process::eal(0);
        let with = |name: &str, count, cache| {
            let config = MempoolConfig { name: name.to_owned(), count, cache, ..MempoolConfig::default() };
            Mempool::<()>::new(&eal, &config)
        };
        let kept = with("kept", 127, 0).expect("small enough");
        assert!(matches!(with("kept", 127, 0), Err(MempoolError::NameTaken { .. })));
        assert!(matches!(with("", 127, 0), Err(MempoolError::Name { .. })));
        assert!(matches!(with(&"x".repeat(26), 127, 0), Err(MempoolError::Name { max: 25, .. })));
        with(&"x".repeat(25), 127, 0).expect("the longest name");
        assert!(matches!(with("cache", 127, 85), Err(MempoolError::Cache { max: 84, .. })));
        let error = with("large", 1_000_000, 0).expect_err("2 GiB in 96 MiB");
        assert!(matches!(error, MempoolError::NoMemory { count: 1_000_000, .. }), "{error}");
        assert!(error.to_string().contains("memory_mib"), "{error}");
        assert_eq!((kept.name(), kept.count(), kept.socket()), ("kept", 127, SocketId::ANY));
    });
}

/// What can be done to an mbuf's ends.
#[derive(Debug, Clone)]
enum Edit {
    Prepend(Vec<u8>),
    /// Five bytes before three others.
    PrependBefore([u8; 5], [u8; 3]),
    Append(Vec<u8>),
    Adj(usize),
    Trim(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let count = || prop_oneof![0..300_usize, Just(usize::MAX), 65_530..70_000_usize];
    prop_oneof![
        bytes().prop_map(Edit::Prepend),
        any::<([u8; 5], [u8; 3])>().prop_map(|(new, others)| Edit::PrependBefore(new, others)),
        bytes().prop_map(Edit::Append),
        count().prop_map(Edit::Adj),
        count().prop_map(Edit::Trim)
    ]
}

/// Applies an edit to the mbuf and, if the mbuf took it, to the model; says whether the mbuf should have taken it.
fn apply(mbuf: &mut Mbuf, model: &mut Vec<u8>, edit: &Edit) -> bool {
    let (headroom, tailroom, length) = (mbuf.headroom(), mbuf.tailroom(), model.len());
    match edit {
        Edit::Prepend(bytes) => {
            let taken = mbuf.prepend(bytes.len()).map(|room| room.copy_from_slice(bytes)).is_some();
            if taken {
                model.splice(0..0, bytes.iter().copied());
            }
            taken == (bytes.len() <= headroom)
        }
        Edit::PrependBefore(new, others) => {
            let taken = mbuf.prepend_before().map(|(room, behind)| (*room, *behind) = (*new, *others)).is_some();
            if taken {
                model.splice(0..3, new.iter().chain(others).copied());
            }
            taken == (new.len() <= headroom && others.len() <= length)
        }
        Edit::Append(bytes) => {
            let taken = mbuf.append(bytes.len()).map(|room| room.copy_from_slice(bytes)).is_some();
            if taken {
                model.extend(bytes);
            }
            taken == (bytes.len() <= tailroom)
        }
        Edit::Adj(count) => {
            let taken = mbuf.adj(*count);
            if taken {
                model.drain(..count);
            }
            taken == (*count <= length)
        }
        Edit::Trim(count) => {
            let taken = mbuf.trim(*count);
            if taken {
                model.truncate(length - count);
            }
            taken == (*count <= length)
        }
    }
}

#[test]
fn edits_at_both_ends_agree_with_a_vec_and_stay_in_the_buffer() {
    own_process::run("edits_at_both_ends_agree_with_a_vec_and_stay_in_the_buffer", || {
        let eal = own_process::eal(0);
        let pool = own_process::pool::<()>(&eal, 63);
        let room = usize::from(pool.data_room());
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(500) });
        let edits = prop::collection::vec(edit(), 0..40);
        let outcome = runner.run(&edits, |edits| {
            let (mut mbuf, mut model) = (pool.alloc().expect("room"), Vec::new());
            for edit in &edits {
                prop_assert!(apply(&mut mbuf, &mut model, edit), "{edit:?}");
                prop_assert_eq!(mbuf.data(), &model[..]);
                prop_assert_eq!(mbuf.len(), model.len());
                prop_assert_eq!(mbuf.headroom() + mbuf.len() + mbuf.tailroom(), room);
            }
            Ok(())
        });
        outcome.expect("the mbuf agrees with the model");
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn a_lcore_that_rests_keeps_no_mbufs_for_itself() {
    own_process::run("a_lcore_that_rests_keeps_no_mbufs_for_itself", || {
        let eal = own_process::eal(1);
        let config = MempoolConfig { count: 255, cache: 100, ..MempoolConfig::default() };
        let pool = Mempool::<()>::new(&eal, &config).expect("there is memory for a mempool");
        // A plain thread has no cache: it gets what is in the store.
        let in_store = |pool: &Mempool<()>| {
            let pool = pool.clone();
            let count = move || std::iter::from_fn(|| pool.alloc()).collect::<Vec<_>>().len();
            std::thread::spawn(count).join().expect("no panic")
        };
        let user = pool.clone();
        eal.launch(1, move || drop(user.alloc())).expect("at rest").join().expect("no panic");
        assert!(in_store(&pool) < 255, "the lcore keeps some");
        let user = pool.clone();
        eal.launch(1, move || user.empty_cache()).expect("at rest").join().expect("no panic");
        assert_eq!(in_store(&pool), 255);
    });
}
