//! A link from both ends, and links that a hostile peer made.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use packet::VportId;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};

use super::*;
use crate::capture::{CaptureHeader, CaptureSide};
use crate::rules::Epoch;

/// Far longer than any wake-up takes: reaching it means that one was lost.
const LOST: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

fn is_rung(bell: &DoorbellWaiter, timeout: Timespec) -> bool {
    let fd = bell.as_fd();
    rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// A link whose header words are changed after it was made.
fn forged(change: impl Fn(&[AtomicU64])) -> LinkError {
    let (fds, _links) = create(1).unwrap();
    let region = Arc::new(Region::map(&fds.memory, Access::ReadWrite).unwrap());
    change(&region.words(0, HEADER_WORDS).unwrap());
    open(fds).map(|(links, _)| links.len()).unwrap_err()
}

#[test]
fn every_ring_of_every_lcore_is_its_own_and_leads_to_its_counterpart() {
    let (fds, mut lcores) = create(3).unwrap();
    let (mut controllers, _bell) = open(fds).unwrap();
    assert_eq!((lcores.len(), controllers.len()), (3, 3));
    for (number, (lcore, controller)) in (0..).zip(lcores.iter_mut().zip(&mut controllers)) {
        assert_eq!(controller.updates.push(&Update::ReadBack(number)), Ok(true));
        assert_eq!(lcore.events.push(&Event::ReadBackDone(number)), Ok(true));
        let header = CaptureHeader { vport: VportId(1), side: CaptureSide::In, original_length: 4, realtime_ns: 1 };
        assert_eq!(lcore.captures.push(&header, &number.to_le_bytes()), Ok(true));
    }
    for (number, (lcore, controller)) in (0..).zip(lcores.iter_mut().zip(&mut controllers)) {
        assert!(controller.has_work());
        assert_eq!(lcore.updates.pop(), Ok(Some(Update::ReadBack(number))));
        assert_eq!(controller.events.pop(), Ok(Some(Event::ReadBackDone(number))));
        assert_eq!(controller.captures.pop().unwrap().unwrap().data, number.to_le_bytes());
        assert!(!controller.has_work());
        assert_eq!(lcore.updates.pop(), Ok(None));
    }
}

/// Breaks if a spare lcore costs what a busy one does, or if one that becomes busy has no memory of its own.
#[test]
fn only_busy_lcores_take_memory_and_others_can_be_given_some() {
    let taken = |fds: &LinkFds| rustix::fs::fstat(&fds.memory).unwrap().st_blocks as usize * 512;
    let (fds, mut lcores, memory) = create_for(&[true, false, false]).unwrap();
    assert!((LCORE_BYTES..LCORE_BYTES + 8 * PAGE_BYTES).contains(&taken(&fds)), "{}", taken(&fds));
    let again = LinkFds { memory: fds.memory.try_clone().unwrap(), doorbell: fds.doorbell.try_clone().unwrap() };
    let (mut controllers, _bell) = open(again).unwrap();
    assert!(!controllers[2].has_work(), "nothing has been said there");
    assert!(taken(&fds) < LCORE_BYTES + 16 * PAGE_BYTES, "neither opening nor looking takes more than pages");
    memory.make_room(2).unwrap();
    assert!(taken(&fds) > 2 * LCORE_BYTES);
    assert_eq!(controllers[2].updates.push(&Update::ReadBack(7)), Ok(true));
    assert_eq!(lcores[2].updates.pop(), Ok(Some(Update::ReadBack(7))));
    memory.make_room(2).unwrap();
    assert_eq!(lcores[2].events.push(&Event::ReadBackDone(7)), Ok(true));
    assert_eq!(controllers[2].events.pop(), Ok(Some(Event::ReadBackDone(7))), "room that is there is left as it is");
    assert!(memory.make_room(3).is_err());
}

#[test]
fn rings_of_full_length_do_not_overlap() {
    let (fds, mut lcores) = create(2).unwrap();
    let (mut controllers, _bell) = open(fds).unwrap();
    for (number, (lcore, controller)) in (0..).zip(lcores.iter_mut().zip(&mut controllers)) {
        while controller.updates.push(&Update::ReadBack(number)).unwrap() {}
        while lcore.events.push(&Event::ReadBackDone(number)).unwrap() {}
        let header = CaptureHeader {
            vport: VportId(number as u16),
            side: CaptureSide::Out,
            original_length: 9000,
            realtime_ns: 1,
        };
        while lcore.captures.push(&header, &[0xff; 9000]).unwrap() {}
    }
    for (number, (lcore, controller)) in (0..).zip(lcores.iter_mut().zip(&mut controllers)) {
        assert_eq!(lcore.updates.len(), UPDATE_SLOTS);
        assert_eq!(controller.events.len(), EVENT_SLOTS);
        assert_eq!(controller.captures.len(), CAPTURE_SLOTS);
        while let Some(update) = lcore.updates.pop().unwrap() {
            assert_eq!(update, Update::ReadBack(number));
        }
        while let Some(event) = controller.events.pop().unwrap() {
            assert_eq!(event, Event::ReadBackDone(number));
        }
        while let Some(record) = controller.captures.pop().unwrap() {
            assert_eq!((record.header.vport, record.data.len()), (VportId(number as u16), 2280));
        }
    }
}

#[test]
fn a_ring_that_the_lcore_has_broken_keeps_the_controller_awake_until_it_looks() {
    let (fds, _lcores) = create(1).unwrap();
    let region = Arc::new(Region::map(&fds.memory, Access::ReadWrite).unwrap());
    let (mut controllers, _bell) = open(fds).unwrap();
    let [_, events, _] = ring_offsets(0);
    let tail = region.words(events + LINE_BYTES, 1).unwrap();
    tail[0].store(EVENT_SLOTS as u64 + 1, Ordering::Relaxed);
    assert!(controllers[0].has_work());
    assert!(matches!(controllers[0].events.pop(), Err(RingError::Corrupt { index: 4097, .. })));
}

#[test]
fn a_link_has_at_least_one_lcore_and_no_absurd_number() {
    for lcores in [0, MAX_LCORES + 1, usize::MAX] {
        assert!(matches!(create(lcores), Err(LinkError::Lcores(count)) if count == lcores as u64));
    }
}

#[test]
fn a_region_that_is_no_link_or_another_versions_is_refused() {
    assert!(matches!(forged(|header| header[0].store(5, Ordering::Relaxed)), LinkError::Magic(5)));
    assert!(matches!(
        forged(|header| header[1].store(u64::MAX, Ordering::Relaxed)),
        LinkError::Version { theirs: u64::MAX }
    ));
}

#[test]
fn a_header_that_claims_more_than_the_memory_has_is_refused() {
    for lcores in [0, MAX_LCORES as u64 + 1, u64::MAX] {
        let refused = forged(|header| header[2].store(lcores, Ordering::Relaxed));
        assert!(matches!(refused, LinkError::Lcores(count) if count == lcores), "{refused}");
    }
    let refused = forged(|header| {
        header[2].store(2, Ordering::Relaxed);
        header[3].store(link_bytes(2).unwrap() as u64, Ordering::Relaxed);
    });
    assert!(matches!(refused, LinkError::Size { lcores: 2, .. }), "{refused}");
    let refused = forged(|header| header[3].store(1, Ordering::Relaxed));
    assert!(matches!(refused, LinkError::Size { said: 1, .. }), "{refused}");
}

#[test]
fn a_region_too_short_for_its_header_or_still_resizable_is_refused() {
    let doorbell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for (bytes, seals) in [(8, seals), (PAGE_BYTES as u64, seals), (link_bytes(1).unwrap() as u64, SealFlags::GROW)] {
        let memory = rustix::fs::memfd_create("towpath-hostile", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memory, bytes).unwrap();
        let mut mark = MAGIC.to_ne_bytes().to_vec();
        mark.truncate(bytes as usize);
        rustix::io::write(&memory, &mark).unwrap();
        rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
        assert!(open(LinkFds { memory, doorbell: doorbell() }).is_err());
    }
}

#[test]
fn a_lcore_that_speaks_to_an_awake_controller_does_not_ring() {
    let (fds, lcores) = create(1).unwrap();
    let (_controllers, bell) = open(fds).unwrap();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    assert!(!lcores[0].doorbell.ring_if_waiting());
    assert!(!is_rung(&bell, now));
    bell.prepare_to_wait();
    assert!(lcores[0].doorbell.ring_if_waiting());
    assert!(!lcores[0].doorbell.ring_if_waiting(), "one ring wakes; a second would cost a system call for nothing");
    assert!(is_rung(&bell, now));
    bell.awake();
    assert!(!is_rung(&bell, now), "a bell that is not silenced would wake the controller for ever");
    bell.prepare_to_wait();
    bell.awake();
    assert!(!lcores[0].doorbell.ring_if_waiting());
    lcores[0].doorbell.ring();
    assert!(is_rung(&bell, now));
}

#[test]
fn a_full_eventfd_does_not_stop_a_lcore() {
    let (fds, lcores) = create(1).unwrap();
    rustix::io::write(&fds.doorbell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    lcores[0].doorbell.ring();
    lcores[0].doorbell.ring();
}

#[test]
fn a_doorbell_that_would_block_the_controller_is_made_not_to() {
    let (mut fds, _lcores) = create(1).unwrap();
    fds.doorbell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let (_controllers, bell) = open(fds).unwrap();
    bell.awake();
}

/// Two lcores push in bursts of irregular length and pause; the controller sleeps whenever it finds nothing.
#[test]
fn no_wake_up_is_lost_between_threads_at_full_speed() {
    const EVENTS: u64 = 30_000;
    let (fds, lcores) = create(2).unwrap();
    let (mut controllers, bell) = open(fds).unwrap();
    std::thread::scope(|scope| {
        for (seed, mut lcore) in (1_u64..).zip(lcores) {
            scope.spawn(move || {
                let mut random = seed;
                for number in 0..EVENTS {
                    while !lcore.events.push(&Event::Committed(Epoch(number))).unwrap() {
                        std::thread::yield_now();
                    }
                    lcore.doorbell.ring_if_waiting();
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    for _ in 0..random >> 55 {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let (mut seen, mut slept) = ([0; 2], 0);
        while seen != [EVENTS; 2] {
            for (seen, controller) in seen.iter_mut().zip(&mut controllers) {
                controller
                    .events
                    .pop_batch(64, |event| {
                        assert_eq!(event, Ok(Event::Committed(Epoch(*seen))));
                        *seen += 1;
                    })
                    .unwrap();
            }
            bell.prepare_to_wait();
            if !controllers.iter_mut().any(ControllerLink::has_work) && seen != [EVENTS; 2] {
                assert!(is_rung(&bell, LOST), "a wake-up was lost after {seen:?} events");
                slept += 1;
            }
            bell.awake();
        }
        assert!(slept > 0, "the controller never slept, so nothing was tested");
    });
}

#[test]
fn a_lcores_end_may_move_to_its_thread() {
    fn is_send<T: Send>() {}
    is_send::<LcoreLink>();
    is_send::<ControllerLink>();
    is_send::<DoorbellWaiter>();
}
