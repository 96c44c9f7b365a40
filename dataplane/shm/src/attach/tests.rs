//! The door from both sides: who gets in, who does not, and what is left when one side is killed.
//!
//! Threads play the other user and the hostile peer: on Linux a thread can have a user of its own, and the kernel asks the
//! thread that connects. Processes play what is killed: this test binary again, told by its environment which part to play.

mod killed;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Uid;
use tempfile::TempDir;

use super::*;
use crate::hello::{Control, LcoreReport, LcoreRole};
use crate::launch::{EalLaunch, Launch, Limits};
use crate::link::LcoreLink;
use crate::rules::{Epoch, Update};

const SOON: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65_534;

/// A directory and the path of a socket in it.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("towpath-attach-").tempdir().unwrap();
    let path = directory.path().join("run/dataplane.sock");
    (directory, path)
}

fn hello(lcores: usize) -> Hello {
    let lcore = |index| LcoreReport {
        index,
        cpu: 0,
        cpu_shared: true,
        socket: Some(0),
        mempool_socket: None,
        role: LcoreRole::Nf,
        instance: Some("firewall/1".to_owned()),
        vport: Some(packet::VportId(3)),
        nf_counters: vec!["rule 1: allow tcp".to_owned()],
    };
    let eal = EalLaunch { memory_mib: 64, hugepages: false, share_cores: true, control_cpu: None, extra: Vec::new() };
    Hello {
        version: HELLO_VERSION,
        pid: std::process::id(),
        started_unix_ns: 1_700_000_000_000_000_000,
        clock_offset_ns: i64::MAX,
        launch: Launch {
            host: "left".to_owned(),
            eal,
            lcores: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            tunnel: None,
            limits: Limits::default(),
        },
        lcores: (0..lcores).map(lcore).collect(),
        ports: Vec::new(),
        warnings: vec!["lcore 0 shares CPU 0".to_owned()],
    }
}

fn wait_readable(what: impl AsFd) {
    let fd = what.as_fd();
    let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)), Ok(1));
}

/// The dataplane's part: waits for one controller and lets it in.
fn admit(listener: &mut Listener, lcores: usize) -> (Vec<LcoreLink>, ControlStream) {
    wait_readable(&*listener);
    let newcomer = listener.accept().unwrap().expect("somebody knocked");
    let (link, links) = crate::link::create(lcores).unwrap();
    let (counters, _writers) = crate::counters::create(lcores).unwrap();
    let stream = newcomer.greet(&hello(lcores), &link, counters).unwrap();
    (links, stream)
}

/// Attaches on a thread of its own, while `dataplane` runs here.
fn attach_beside<T>(path: &Path, dataplane: impl FnOnce() -> T) -> (Result<Attachment, AttachError>, T) {
    std::thread::scope(|scope| {
        let controller = scope.spawn(|| attach(path, SOON));
        let outcome = dataplane();
        (controller.join().unwrap(), outcome)
    })
}

fn receive(stream: &mut ControlStream) -> Received {
    wait_readable(&*stream);
    stream.receive().unwrap()
}

#[test]
fn a_controller_gets_the_hello_and_working_rings_and_counters() {
    let (_directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    assert!(listener.accept().unwrap().is_none());
    let (attachment, (mut links, _stream)) = attach_beside(&path, || admit(&mut listener, 2));
    let mut attached = attachment.unwrap().open().unwrap();
    assert_eq!(attached.hello, hello(2));
    assert_eq!(attached.counters.lcores(), 2);
    assert_eq!(attached.lcores[1].updates.push(&Update::Commit(Epoch(4))), Ok(true));
    assert_eq!(links[1].updates.pop(), Ok(Some(Update::Commit(Epoch(4)))));
    attached.doorbell.prepare_to_wait();
    assert!(links[0].doorbell.ring_if_waiting());
    wait_readable(&attached.doorbell);
}

#[test]
fn parts_that_are_about_different_lcores_do_not_open() {
    let (_directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let (attachment, _stream) = attach_beside(&path, || {
        wait_readable(&listener);
        let (link, _links) = crate::link::create(2).unwrap();
        let (counters, _writers) = crate::counters::create(1).unwrap();
        listener.accept().unwrap().unwrap().greet(&hello(2), &link, counters).unwrap()
    });
    let refused = attachment.unwrap().open().unwrap_err();
    assert!(matches!(refused, AttachError::Lcores { reported: 2, linked: 2, counted: 1 }), "{refused}");
}

#[test]
fn a_second_controller_is_told_so_and_a_restarted_one_need_not_wait() {
    let (_directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let (first, (_links, mut stream)) = attach_beside(&path, || admit(&mut listener, 1));
    let (second, refused) = attach_beside(&path, || {
        wait_readable(&listener);
        listener.accept().unwrap_err()
    });
    assert!(matches!(refused, AttachError::Occupied { pid } if pid == std::process::id() as i32), "{refused}");
    let told = second.unwrap_err().to_string();
    assert!(told.contains("another controller is attached"), "{told}");
    drop(first);
    let (third, _kept) = attach_beside(&path, || admit(&mut listener, 1));
    assert!(third.is_ok(), "the first one's stream is still open here, but its other end is not");
    assert_eq!(receive(&mut stream), Received::Closed);
}

#[test]
fn a_controller_that_is_sent_away_hears_why() {
    let (_directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let (attachment, ()) = attach_beside(&path, || {
        wait_readable(&listener);
        listener.accept().unwrap().unwrap().refuse("shutting down".to_owned());
    });
    assert!(matches!(attachment, Err(AttachError::Refused(reason)) if reason == "shutting down"));
}

#[test]
fn control_messages_pass_both_ways_and_the_end_is_seen() {
    let (_directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let (attachment, (_links, mut dataplane)) = attach_beside(&path, || admit(&mut listener, 1));
    let mut controller = attachment.unwrap().stream;
    assert_eq!(dataplane.receive().unwrap(), Received::Nothing);
    controller.send(&Control::Shutdown).unwrap();
    controller.send(&Control::Shutdown).unwrap();
    assert_eq!(receive(&mut dataplane), Received::Message(Control::Shutdown));
    assert_eq!(receive(&mut dataplane), Received::Message(Control::Shutdown));
    assert_eq!(dataplane.receive().unwrap(), Received::Nothing);
    let last = Control::Stopping { reason: "asked to".to_owned() };
    dataplane.send(&last).unwrap();
    drop(dataplane);
    assert_eq!(receive(&mut controller), Received::Message(last));
    assert_eq!(receive(&mut controller), Received::Closed);
    assert!(matches!(controller.send(&Control::Shutdown), Err(StreamError::Closed)));
}

#[test]
fn frames_that_come_in_pieces_are_put_together_and_wrong_ones_refused() {
    let stream_of = |bytes: &[&[u8]]| {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = ControlStream::new(ours.into());
        let mut outcome = stream.receive();
        for piece in bytes {
            peer.write_all(piece).unwrap();
            outcome = stream.receive();
        }
        outcome
    };
    let json = br#"{"control":"shutdown"}"#;
    let length = (json.len() as u32).to_le_bytes();
    let pieces: [&[u8]; 4] = [&length[..2], &length[2..], &json[..5], &json[5..]];
    assert_eq!(stream_of(&pieces).unwrap(), Received::Message(Control::Shutdown));
    assert_eq!(stream_of(&pieces[..3]).unwrap(), Received::Nothing);
    let too_long = (MAX_CONTROL_BYTES + 1) as u32;
    assert!(matches!(
        stream_of(&[&too_long.to_le_bytes()]),
        Err(StreamError::TooLong { limit: MAX_CONTROL_BYTES, .. })
    ));
    assert_eq!(stream_of(&[&(too_long - 1).to_le_bytes(), b"{"]).unwrap(), Received::Nothing);
    assert!(matches!(stream_of(&[&u32::MAX.to_le_bytes()]), Err(StreamError::TooLong { .. })));
    assert!(matches!(stream_of(&[&0_u32.to_le_bytes()]), Err(StreamError::Json(_))));
    assert!(matches!(stream_of(&[&[2, 0, 0, 0, b'{', b'}']]), Err(StreamError::Json(_))));
}

#[test]
fn a_reader_that_never_reads_does_not_hold_the_sender_up() {
    let (_peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut stream = ControlStream::new(ours.into());
    let error = loop {
        if let Err(error) = stream.send(&Control::Stopping { reason: "x".repeat(200_000) }) {
            break error;
        }
    };
    assert!(matches!(error, StreamError::TimedOut), "{error}");
    let refused = stream.send(&Control::Stopping { reason: "x".repeat(MAX_CONTROL_BYTES) });
    assert!(matches!(refused, Err(StreamError::TooLong { .. })));
}

/// Breaks if a launch document of a large tenant does not fit, or if its sender waits for the reader.
#[test]
fn a_message_larger_than_the_sockets_buffer_goes_in_pieces_and_arrives_whole() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    for socket in [&theirs, &ours] {
        socket.set_nonblocking(true).unwrap();
    }
    let (mut sender, mut reader) = (ControlStream::new(ours.into()), ControlStream::new(theirs.into()));
    let large = Control::NotReconfigured { reason: "x".repeat(2_000_000) };
    sender.send(&large).unwrap();
    sender.send(&Control::Shutdown).unwrap();
    assert!(!sender.flush().unwrap(), "no socket holds two megabytes");
    let mut arrived = Vec::new();
    while arrived.len() < 2 {
        match reader.receive().unwrap() {
            Received::Message(message) => arrived.push(message),
            Received::Nothing => assert_eq!(sender.receive().unwrap(), Received::Nothing, "it only sends what waits"),
            Received::Closed => panic!("nobody closed it"),
        }
    }
    assert!(sender.flush().unwrap());
    assert!(arrived == [large, Control::Shutdown]);
    let reply = Control::Stopping { reason: "done".to_owned() };
    reader.send(&reply).unwrap();
    sender.send(&Control::NotReconfigured { reason: "x".repeat(2_000_000) }).unwrap();
    drop(reader);
    assert_eq!(
        sender.receive().unwrap(),
        Received::Message(reply),
        "the last words are heard though nobody reads ours"
    );
    assert_eq!(sender.receive().unwrap(), Received::Closed);
}

#[test]
fn the_door_is_closed_to_other_users() {
    let (_directory, path) = place();
    let _listener = Listener::bind(&path).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
}

/// Runs `act` on a thread of user `nobody`; nothing if we are not root and can't.
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let nobody = Uid::from_raw(NOBODY);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            act()
        });
        Some(thread.join().unwrap())
    })
}

/// Lets everybody reach the socket, as if an operator had opened it.
fn open_up(directory: &TempDir, path: &Path) {
    for (path, mode) in [(directory.path(), 0o711), (path.parent().unwrap(), 0o711), (path, 0o666)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

#[test]
fn another_user_is_stopped_by_the_modes_and_behind_them_by_the_peer_check() {
    let (directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let Some(stopped) = as_nobody(|| attach(&path, SOON)) else { return };
    assert!(matches!(stopped, Err(AttachError::Forbidden { .. })), "{stopped:?}");

    open_up(&directory, &path);
    let refused = std::thread::scope(|scope| {
        let dataplane = scope.spawn(|| {
            wait_readable(&listener);
            listener.accept()
        });
        let told = as_nobody(|| attach(&path, SOON)).unwrap().unwrap_err().to_string();
        assert!(told.contains("user 65534 may not attach"), "{told}");
        dataplane.join().unwrap()
    });
    assert!(matches!(refused, Err(AttachError::OtherUser { theirs: NOBODY, .. })), "{refused:?}");
}

#[test]
fn a_controller_does_not_trust_a_dataplane_of_another_user() {
    let (directory, path) = place();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let Some(_theirs) = as_nobody(|| Listener::bind(&path).unwrap()) else { return };
    let refused = attach(&path, SOON);
    assert!(matches!(refused, Err(AttachError::OtherUser { theirs: NOBODY, .. })), "{refused:?}");
}

#[test]
fn a_directory_that_others_may_write_in_is_refused() {
    for mode in [0o770, 0o707, 0o1777] {
        let (_directory, path) = place();
        let parent = path.parent().unwrap();
        std::fs::create_dir(parent).unwrap();
        std::fs::set_permissions(parent, PermissionsExt::from_mode(mode)).unwrap();
        let refused = Listener::bind(&path).unwrap_err();
        assert!(matches!(refused, AttachError::Directory { .. }), "{mode:o}: {refused}");
        assert!(refused.to_string().contains("chmod 0700"), "{refused}");
    }
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let (directory, path) = place();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let Some(()) = as_nobody(|| std::fs::create_dir(path.parent().unwrap()).unwrap()) else { return };
    std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let refused = Listener::bind(&path).unwrap_err().to_string();
    assert!(refused.contains("belongs to user 65534"), "{refused}");
}

#[test]
fn a_live_dataplane_keeps_its_socket_and_a_dead_ones_is_replaced() {
    let (_directory, path) = place();
    let listener = Listener::bind(&path).unwrap();
    let refused = Listener::bind(&path).unwrap_err();
    let ours = std::process::id().to_string();
    assert!(matches!(&refused, AttachError::AnotherRunning { pid, .. } if *pid == ours), "{refused}");
    assert!(path.exists(), "who is refused must not remove the live one's socket");
    drop(listener);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "an orderly end leaves nothing behind");

    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(attach(&path, SOON), Err(AttachError::NotRunning { .. })));
    let mut listener = Listener::bind(&path).unwrap();
    let (attachment, _kept) = attach_beside(&path, || admit(&mut listener, 1));
    attachment.unwrap();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let (directory, _) = place();
    let path = directory.path().join("precious");
    std::fs::write(&path, "text").unwrap();
    assert!(matches!(Listener::bind(&path), Err(AttachError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
}

#[test]
fn a_path_that_fits_in_no_socket_address_is_refused_by_both_sides() {
    let (directory, _) = place();
    let long = directory.path().join("x".repeat(108));
    assert!(matches!(Listener::bind(&long), Err(AttachError::Path { .. })));
    assert!(matches!(attach(&long, SOON), Err(AttachError::Path { .. })));
    assert!(matches!(Listener::bind(Path::new("/")), Err(AttachError::Path { .. })));
}

#[test]
fn where_nobody_listens_the_controller_hears_it_at_once() {
    let (_directory, path) = place();
    assert!(matches!(attach(&path, SOON), Err(AttachError::NotRunning { .. })));
}

/// What a controller makes of a dataplane that says `bytes`, with `fds` descriptors, and hangs up, or stays.
fn attach_to_hostile(bytes: &[u8], fds: usize, stays: bool) -> AttachError {
    let (_directory, path) = place();
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut socket, _) = listener.accept().unwrap();
            let null = std::fs::File::open("/dev/null").unwrap();
            let fds = vec![null.as_fd(); fds];
            // The controller may hang up first.
            let _ = stream::send_all(&socket, bytes, &fds, Instant::now() + SOON);
            if stays {
                let _ = socket.read(&mut [0]);
            }
        });
        attach(&path, if stays { Duration::from_millis(50) } else { SOON }).unwrap_err()
    })
}

fn framed(json: &str) -> Vec<u8> {
    [&(json.len() as u32).to_le_bytes(), json.as_bytes()].concat()
}

#[test]
fn a_dataplane_that_lies_stops_halfway_or_says_nothing_costs_an_error_and_bounded_time() {
    let good = framed(&serde_json::json!({"version": HELLO_VERSION, "hello": hello(1)}).to_string());
    let cases: [(&[u8], usize, bool, &str); 9] = [
        (b"", 0, false, "closed the connection"),
        (&good[..good.len() - 1], 3, false, "closed the connection"),
        (&good[..100], 3, true, "neither sends nor reads"),
        (&u32::MAX.to_le_bytes(), 3, true, "4294967295 bytes is more than the 4194304"),
        (&framed("not json"), 3, true, "not what it should be"),
        (&framed(r#"{"version":1}"#), 3, true, "not what it should be"),
        (&framed(r#"{"version":99,"hello":{"shape":"new"}}"#), 3, true, "speaks version 99"),
        (&good, 2, true, "came with 2 file descriptors"),
        (&good, 4, true, "came with 4 file descriptors"),
    ];
    for (bytes, fds, stays, expected) in cases {
        let error = attach_to_hostile(bytes, fds, stays).to_string();
        assert!(error.contains(expected), "{error:?} instead of {expected:?}");
    }
    let error = attach_to_hostile(&good, 5, true);
    assert!(matches!(error, AttachError::Stream(StreamError::TooManyFds)), "{error}");
}

#[test]
fn descriptors_that_are_not_what_they_should_be_do_not_open() {
    let (_directory, path) = place();
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let good = framed(&serde_json::json!({"version": HELLO_VERSION, "hello": hello(1)}).to_string());
    let (attachment, ()) = attach_beside(&path, || {
        let (socket, _) = listener.accept().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        stream::send_all(&socket, &good, &[null.as_fd(); 3], Instant::now() + SOON).unwrap();
    });
    assert!(matches!(attachment.unwrap().open(), Err(AttachError::Link(_))));
}

#[test]
fn a_controller_that_never_reads_holds_the_dataplane_up_for_a_bounded_time() {
    let (_directory, path) = place();
    let mut listener = Listener::bind(&path).unwrap();
    let _silent = UnixStream::connect(&path).unwrap();
    let newcomer = listener.accept().unwrap().unwrap();
    let (link, _links) = crate::link::create(1).unwrap();
    let (counters, _writers) = crate::counters::create(1).unwrap();
    let mut large = hello(1);
    large.warnings = vec!["x".repeat(1 << 20)];
    let refused = newcomer.greet(&large, &link, counters);
    assert!(matches!(refused, Err(AttachError::Stream(StreamError::TimedOut))), "{refused:?}");
}
