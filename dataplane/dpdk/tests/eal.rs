//! EAL's start and its refusals, and the lcores. Each test is a process of its own.

mod own_process;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use dpdk::{Clock, Eal, EalConfig, EalError, LcoreBinding, LcoreError, clock, current_lcore};

#[test]
fn a_second_initialisation_is_refused() {
    own_process::run("a_second_initialisation_is_refused", || {
        let first = own_process::eal(0);
        assert_eq!(Eal::init(own_process::config(0)).err(), Some(EalError::AlreadyInitialised));
        drop(first);
        assert_eq!(Eal::init(own_process::config(0)).err(), Some(EalError::AlreadyInitialised));
    });
}

#[test]
fn a_cpu_that_does_not_exist_is_named_and_the_right_one_still_works() {
    own_process::run("a_cpu_that_does_not_exist_is_named_and_the_right_one_still_works", || {
        let wrong = EalConfig { lcores: vec![LcoreBinding { lcore: 1, cpu: 4_000 }], ..own_process::config(0) };
        let error = Eal::init(wrong).expect_err("no machine has so many CPUs");
        assert!(matches!(error, EalError::NoSuchCpu { lcore: 1, cpu: 4_000, .. }), "{error}");
        assert!(error.to_string().contains("usable CPUs"), "{error}");
        Eal::init(own_process::config(1)).expect("a check that fails does not use up the one initialisation");
    });
}

#[test]
fn missing_hugepages_name_the_remedy_and_eal_starts_without_them() {
    own_process::run("missing_hugepages_name_the_remedy_and_eal_starts_without_them", || {
        let greedy = EalConfig { hugepages: true, memory_mib: 1 << 30, ..own_process::config(0) };
        let error = Eal::init(greedy).expect_err("no machine has a pebibyte of hugepages");
        assert!(matches!(error, EalError::NoHugepages { .. }), "{error}");
        assert!(error.to_string().contains("/proc/sys/vm/nr_hugepages"), "{error}");
        own_process::eal(0);
    });
}

#[test]
fn an_argument_that_eal_does_not_know_gives_its_own_words() {
    own_process::run("an_argument_that_eal_does_not_know_gives_its_own_words", || {
        let extra = vec!["--vdev=net_no_such_driver0".to_owned()];
        let error = Eal::init(EalConfig { extra, ..own_process::config(0) }).expect_err("there is no such driver");
        assert!(matches!(error, EalError::Init { .. }), "{error}");
        assert!(error.to_string().contains("net_no_such_driver0"), "{error}");
    });
}

#[test]
fn hugepages_are_used_where_there_are_some() {
    own_process::run("hugepages_are_used_where_there_are_some", || {
        let with = EalConfig { hugepages: true, memory_mib: 64, ..own_process::config(0) };
        match Eal::init(with) {
            Ok(eal) => assert_eq!(own_process::pool::<()>(&eal, 1_023).available(), 1_023),
            Err(error) => assert!(matches!(error, EalError::NoHugepages { .. }), "{error}"),
        }
    });
}

#[test]
fn nothing_is_left_in_the_file_system() {
    own_process::run("nothing_is_left_in_the_file_system", || {
        let prefix = format!("towpath-test-{}", std::process::id());
        let config = EalConfig { file_prefix: prefix.clone(), ..own_process::config(0) };
        let eal = Eal::init(config).expect("EAL starts");
        own_process::pool::<()>(&eal, 63);
        assert!(!std::path::Path::new("/var/run/dpdk").join(prefix).exists());
    });
}

#[test]
fn a_lcore_runs_on_its_cpu_and_returns_what_it_made() {
    own_process::run("a_lcore_runs_on_its_cpu_and_returns_what_it_made", || {
        let eal = own_process::eal(2);
        assert_eq!(current_lcore(), Some(0));
        for &LcoreBinding { lcore, cpu } in eal.lcores() {
            // SAFETY: sched_getcpu has no arguments and only reads.
            let run = move || (current_lcore(), unsafe { libc::sched_getcpu() });
            let (seen, on) = eal.launch(lcore, run).expect("at rest").join().expect("no panic");
            assert_eq!((seen, on), (Some(lcore), i32::from(cpu)));
        }
        let own_thread = std::thread::spawn(current_lcore).join().expect("no panic");
        assert_eq!(own_thread, None);
    });
}

#[test]
fn a_busy_or_unknown_lcore_refuses_work() {
    own_process::run("a_busy_or_unknown_lcore_refuses_work", || {
        let eal = own_process::eal(1);
        let (release, wait) = mpsc::channel::<()>();
        let first = eal.launch(1, move || wait.recv().is_ok()).expect("at rest");
        assert_eq!(eal.launch(1, || ()).err(), Some(LcoreError::Busy { lcore: 1 }));
        assert!(!first.is_finished());
        release.send(()).expect("the lcore waits");
        assert_eq!(first.join(), Ok(true));
        assert_eq!(eal.launch(1, || 7).expect("at rest again").join(), Ok(7));
        for lcore in [0, 2, 5_000] {
            assert_eq!(eal.launch(lcore, || ()).err(), Some(LcoreError::Unknown { lcore, configured: vec![1] }));
        }
    });
}

#[test]
fn a_panic_ends_the_run_not_the_process_and_loses_no_mbuf() {
    own_process::run("a_panic_ends_the_run_not_the_process_and_loses_no_mbuf", || {
        let eal = own_process::eal(2);
        let pool = own_process::pool::<()>(&eal, 255);
        let stop = Arc::new(AtomicBool::new(false));
        let (other, ask) = (pool.clone(), Arc::clone(&stop));
        let bystander = eal.launch(2, move || {
            let mut turns = 0_u64;
            while !ask.load(Ordering::Relaxed) {
                drop(other.alloc());
                turns += 1;
                clock::yield_now();
            }
            turns
        });
        let bystander = bystander.expect("at rest");
        let owner = pool.clone();
        let failing = eal.launch(1, move || {
            let mut burst = dpdk::Burst::new();
            assert_eq!(owner.alloc_burst(&mut burst, 20), 20);
            let _single = owner.alloc();
            panic!("value {}", burst.len())
        });
        let error = failing.expect("at rest").join().map(|(): ()| ()).expect_err("it panics");
        assert_eq!(error, LcoreError::Panicked { lcore: 1, message: "value 20".to_owned() });
        assert_eq!(eal.launch(1, || 3).expect("at rest again").join(), Ok(3));
        stop.store(true, Ordering::Relaxed);
        assert!(bystander.join().expect("not touched by the panic") > 0);
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn all_lcores_share_one_clock() {
    own_process::run("all_lcores_share_one_clock", || {
        let eal = own_process::eal(2);
        let clock = Clock::new(&eal);
        assert!(clock.hz() > 1_000_000);
        let mut last = clock.now_ns();
        for lcore in [1, 2, 1, 2] {
            let now = eal.launch(lcore, move || clock.now_ns()).expect("at rest").join().expect("no panic");
            assert!(now >= last, "lcore {lcore} reads {now} after {last}");
            last = now;
        }
    });
}

/// Breaks if an instance's tables may lie in what another one has left behind, on whichever socket that is.
#[test]
fn large_memory_is_fresh_each_time() {
    own_process::run("large_memory_is_fresh_each_time", || {
        dpdk::cpu::place_large_memory_anew();
        const PAGE: usize = 4_096;
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
            statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * PAGE
        };
        let tables = || drop(std::hint::black_box(vec![1_u8; 16 << 20]));
        let before = resident();
        (0..3).for_each(|_| tables());
        assert!(resident() < before + (4 << 20), "freed memory is kept");
    });
}
