//! Streams of numbered messages with an echo at the far end: a message that gets lost, overtaken or doubled is known by its
//! number.
//!
//! Each message waits for its echo before the next is sent, so that there is always traffic, at whatever speed the machine
//! has, and a loss is certain: nothing is "late".

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::namespace::Namespace;
use super::{SOON, until};

/// How long a message waits for its echo before it counts as lost.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How often a thread that waits for input looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// The address of a host's port, either family.
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// A thread with a flag that ends it.
#[derive(Debug)]
struct Worker<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        Self { stop, thread: Some(std::thread::spawn(move || work(&flag))) }
    }

    fn finish(&mut self) -> Option<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends every datagram back to where it came from.
#[derive(Debug)]
pub struct UdpEcho {
    _worker: Worker<()>,
}

impl UdpEcho {
    /// An echo at this address in the namespace.
    pub fn start(namespace: &Namespace, address: &str, port: u16) -> Self {
        let socket = udp(namespace, address, port);
        socket.set_read_timeout(Some(LOOK)).expect("a time limit");
        let worker = Worker::start(move |stop| {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { _worker: worker }
    }
}

/// A UDP socket in the namespace; port 0 lets the kernel choose.
pub fn udp(namespace: &Namespace, address: &str, port: u16) -> UdpSocket {
    namespace.enter(|| UdpSocket::bind(at(address, port))).unwrap_or_else(|error| panic!("{address} {port}: {error}"))
}

/// Sends every byte back, one connection at a time per thread.
#[derive(Debug)]
pub struct TcpEcho {
    _worker: Worker<()>,
}

impl TcpEcho {
    /// An echo at this address in the namespace.
    pub fn start(namespace: &Namespace, address: &str, port: u16) -> Self {
        let listener = namespace.enter(|| TcpListener::bind(at(address, port))).expect("a listener");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let worker = Worker::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || echo(stream))),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { _worker: worker }
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4_096];
    let _ = stream.set_nonblocking(false);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// What a stream has seen at its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Messages sent.
    pub sent: u64,
    /// Numbers of messages whose echo did not come.
    pub lost: Vec<u64>,
    /// Numbers of echoes that were not the next one.
    pub stray: Vec<u64>,
}

/// A stream that runs until it is told to end.
#[derive(Debug)]
pub struct Stream {
    passed: Arc<AtomicU64>,
    worker: Worker<Report>,
}

impl Stream {
    /// Datagrams from the client's namespace to an echo.
    pub fn udp(client: &Namespace, from: &str, to: SocketAddr) -> Self {
        let socket = udp(client, from, 0);
        socket.connect(to).expect("a destination");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self::start(move |number| {
            let _ = socket.send(&number.to_be_bytes());
            let mut buffer = [0; 8];
            let length = socket.recv(&mut buffer).ok()?;
            (length == buffer.len()).then(|| u64::from_be_bytes(buffer))
        })
    }

    /// The same over one TCP connection, which opens now.
    pub fn tcp(client: &Namespace, to: SocketAddr) -> Self {
        let mut connection = client.enter(|| TcpStream::connect_timeout(&to, SOON)).expect("a connection");
        connection.set_nodelay(true).expect("no delay");
        connection.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self::start(move |number| {
            connection.write_all(&number.to_be_bytes()).ok()?;
            let mut buffer = [0; 8];
            connection.read_exact(&mut buffer).ok()?;
            Some(u64::from_be_bytes(buffer))
        })
    }

    fn start(mut exchange: impl FnMut(u64) -> Option<u64> + Send + 'static) -> Self {
        let passed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&passed);
        let worker = Worker::start(move |stop| {
            let mut report = Report::default();
            while !stop.load(Ordering::Relaxed) {
                let number = report.sent;
                report.sent += 1;
                match exchange(number) {
                    Some(echo) if echo == number => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(echo) => report.stray.push(echo),
                    None => report.lost.push(number),
                }
            }
            report
        });
        Self { passed, worker }
    }

    /// Waits until this many more messages have come back.
    pub fn await_more(&self, count: u64) {
        let goal = self.passed.load(Ordering::Relaxed) + count;
        until(&format!("{count} more messages come back"), || {
            (self.passed.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Ends it.
    pub fn finish(mut self) -> Report {
        self.worker.finish().expect("a report")
    }

    /// Ends it, and fails the test unless every message came back, in order, once.
    pub fn finish_whole(self) -> u64 {
        let report = self.finish();
        assert_eq!((&report.lost, &report.stray), (&vec![], &vec![]), "of {} messages", report.sent);
        report.sent
    }
}
