//! One side is killed in the middle of what it says; the other sees whole messages, in order, and the end.

use std::process::{Child, Command};

use super::*;
use crate::ring::RingError;
use crate::rules::Event;

/// In the environment of a child: where the socket is.
const SOCKET: &str = "TOWPATH_TEST_SOCKET";
/// Messages to see before the kill, so that both rings have wrapped.
const ENOUGH: u64 = 20_000;

/// Starts this test binary again, to run one test alone.
fn start(test: &str, path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("attach::tests::killed::{test}"), "--nocapture"]).env(SOCKET, path);
    command.stdout(std::process::Stdio::null()).spawn().unwrap()
}

/// Counts messages, asserting that none is missing, doubled or torn.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self, epoch: Epoch) {
        assert_eq!(epoch.0, self.0, "a message was lost, doubled or torn");
        self.0 += 1;
    }
}

/// The part of a controller that never stops talking; does nothing unless started by the test below.
#[test]
fn part_of_a_controller_that_is_killed() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let mut attached = attach(Path::new(&path), SOON).unwrap().open().unwrap();
    let updates = &mut attached.lcores[0].updates;
    let mut batch = (0..).map(|number| Update::Commit(Epoch(number)));
    loop {
        let free = updates.free().min(100);
        let messages: Vec<Update> = batch.by_ref().take(free).collect();
        assert_eq!(updates.push_batch(&messages), Ok(free));
        std::thread::yield_now();
    }
}

#[test]
fn after_a_controllers_death_its_last_messages_are_whole_and_the_next_one_starts_afresh() {
    let (_directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let mut child = start("part_of_a_controller_that_is_killed", &path);
    let (mut links, mut stream) = admit(&mut listener, 1);
    let mut sequence = Sequence(0);
    let mut take = |links: &mut [LcoreLink]| {
        let update = links[0].updates.pop();
        match update {
            Ok(Some(Update::Commit(epoch))) => sequence.next(epoch),
            other => assert_eq!(other, Ok(None)),
        }
        (update != Ok(None), sequence.0)
    };
    while take(&mut links).1 < ENOUGH {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while take(&mut links).0 {}
    assert_eq!(receive(&mut stream), Received::Closed);
    assert_eq!(links[0].updates.pop(), Ok(None));
    let (attachment, (mut fresh, _stream)) = attach_beside(&path, || admit(&mut listener, 1));
    let mut attached = attachment.unwrap().open().unwrap();
    assert_eq!(fresh[0].updates.pop(), Ok(None), "nothing of the dead one's is left");
    assert_eq!(attached.lcores[0].updates.push(&Update::ReadBack(1)), Ok(true));
    assert_eq!(fresh[0].updates.pop(), Ok(Some(Update::ReadBack(1))));
}

/// The part of a dataplane that never stops talking; does nothing unless started by the test below.
#[test]
fn part_of_a_dataplane_that_is_killed() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let mut listener = Listener::bind(Path::new(&path)).unwrap();
    println!("listening");
    let (mut links, _stream) = admit(&mut listener, 1);
    for number in 0.. {
        while !links[0].events.push(&Event::Committed(Epoch(number))).unwrap() {
            std::thread::yield_now();
        }
        links[0].doorbell.ring_if_waiting();
    }
}

#[test]
fn after_a_dataplanes_death_its_last_messages_are_whole_and_its_place_can_be_taken() {
    let (_directory, path) = place();
    let mut child = start("part_of_a_dataplane_that_is_killed", &path);
    let attachment = loop {
        match attach(&path, SOON) {
            Err(AttachError::NotRunning { .. }) => assert_eq!(child.try_wait().unwrap(), None, "it could not start"),
            other => break other.unwrap(),
        }
        std::thread::yield_now();
    };
    let mut attached = attachment.open().unwrap();
    assert_eq!(attached.hello.pid, child.id());
    let refused = Listener::bind(&path).unwrap_err();
    assert!(matches!(&refused, AttachError::AnotherRunning { pid, .. } if *pid == child.id().to_string()), "{refused}");
    let mut sequence = Sequence(0);
    while sequence.0 < ENOUGH {
        attached.doorbell.prepare_to_wait();
        if !attached.lcores[0].has_work() {
            wait_readable(&attached.doorbell);
        }
        attached.doorbell.awake();
        match attached.lcores[0].events.pop().unwrap() {
            Some(Event::Committed(epoch)) => sequence.next(epoch),
            other => assert_eq!(other, None),
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rest: Result<(), RingError> = loop {
        match attached.lcores[0].events.pop() {
            Ok(Some(Event::Committed(epoch))) => sequence.next(epoch),
            Ok(Some(other)) => panic!("{other:?} was never said"),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert_eq!(rest, Ok(()));
    assert_eq!(receive(&mut attached.stream), Received::Closed);
    assert!(path.exists(), "a killed dataplane leaves its socket");
    Listener::bind(&path).unwrap();
}
