//! Captures by `towpath capture`, and what tshark reads in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use controller::api::{CounterKind, Request, Response};
use pcap_file::pcapng::{Block, PcapNgReader};
use rustix::process::Signal;

use super::host::{Host, TOWPATH};
use super::namespace::Namespace;
use super::process::{Process, run};
use super::scope::Scope;
use super::{holds_soon, until};

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    at: String,
    passed_before: u64,
}

impl Capture {
    /// Captures what passes a vport; it runs when this returns.
    pub fn start(scope: &Scope, host: &Host, at: &str) -> Self {
        let (stem, passed_before) = (at.replace('/', "-"), passed(host, at));
        let file = scope.directory().join(format!("{stem}.pcapng"));
        let mut command = Command::new(TOWPATH);
        command.arg("--run-dir").arg(host.run_dir());
        command.args(["capture", "--at", at, "--snap", "96", "-w"]).arg(&file);
        let mut process =
            Process::start(&format!("the capture at {at}"), command, &scope.log(&format!("capture-{stem}")));
        until(&format!("the capture at {at} runs"), || {
            assert!(process.is_running(), "the capture at {at} has ended: {}", process.said());
            file.metadata().is_ok_and(|data| data.len() > 0).then_some(())
        });
        Self { process, file, at: at.to_owned(), passed_before }
    }

    /// Ends it once every packet that passed the vport is in the file, in and out.
    pub fn finish(mut self, host: &Host) -> PathBuf {
        let expected = passed(host, &self.at) - self.passed_before;
        until(&format!("{expected} packets are captured at {}", self.at), || {
            (packets(&self.file) >= expected).then_some(())
        });
        self.process.signal(Signal::INT);
        let status = self.process.wait();
        assert!(status.success(), "{status}: {}", self.process.said());
        self.file.clone()
    }
}

/// A capture of an end's own interface, by dumpcap.
#[derive(Debug)]
pub struct EndCapture {
    process: Process,
    file: PathBuf,
    namespace: Namespace,
    interface: String,
    passed_before: u64,
}

impl EndCapture {
    /// Captures what passes an interface; it runs when this returns.
    pub fn start(scope: &Scope, namespace: &Namespace, interface: &str) -> Self {
        let name = format!("{}-{interface}", namespace.name());
        let file = scope.directory().join(format!("{name}.pcapng"));
        let text = file.display().to_string();
        let command = namespace.command("dumpcap", &["-q", "-i", interface, "-s", "200", "-B", "64", "-w", &text]);
        let mut process =
            Process::start(&format!("dumpcap at {name}"), command, &scope.log(&format!("dumpcap-{name}")));
        until(&format!("dumpcap at {name} runs"), || {
            assert!(process.is_running(), "dumpcap has ended: {}", process.said());
            file.metadata().is_ok_and(|data| data.len() > 0).then_some(())
        });
        // A packet that passed before the capture ran is not in the file.
        let passed_before = namespace.passed(interface) - packets(&file);
        Self { process, file, namespace: namespace.clone(), interface: interface.to_owned(), passed_before }
    }

    /// Ends it once every packet that passed is in the file; fails the test if it lost any.
    pub fn finish(mut self) -> PathBuf {
        let expected = self.namespace.passed(&self.interface) - self.passed_before;
        let mut found = 0;
        let whole = holds_soon(|| {
            found = packets(&self.file);
            found >= expected
        });
        assert!(whole, "{found} of {expected} packets are captured at {} of {}", self.interface, self.namespace.name());
        self.process.signal(Signal::INT);
        let status = self.process.wait();
        let said = self.process.said();
        assert!(status.success() && said.contains("(pcap:0/dumpcap:0/"), "{status}: {said}");
        self.file.clone()
    }
}

/// Packets that went into a vport and came out of it so far.
fn passed(host: &Host, vport: &str) -> u64 {
    let Response::Counters(snapshot) = host.ask(&Request::Counters) else { panic!("not counters") };
    let row = snapshot.rows.into_iter().find(|row| row.kind == CounterKind::Vport && row.name == vport);
    row.map_or(0, |row| row.values["in_packets"] + row.values["out_packets"])
}

/// Packets in a capture that is still being written.
fn packets(file: &Path) -> u64 {
    let file = File::open(file).expect("a capture");
    let Ok(mut reader) = PcapNgReader::new(BufReader::new(file)) else { return 0 };
    let mut count = 0;
    while let Some(Ok(block)) = reader.next_block() {
        count += u64::from(matches!(block, Block::EnhancedPacket(_)));
    }
    count
}

/// Runs tshark over a file.
pub fn tshark(file: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file).args(arguments);
    run(command, "")
}

/// A TCP connection, named by what no network function here changes: the client's port, the server's address, and the
/// client's first sequence number, since a port is used again.
pub type Connection = (u16, String, u32);

/// Packets and bytes of a conversation, to the server and from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Volume {
    /// To the server.
    pub to: (u64, u64),
    /// From the server.
    pub from: (u64, u64),
}

/// The TCP conversations of one interface of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversations {
    /// Each with its volume.
    pub volumes: BTreeMap<Connection, Volume>,
    /// Every address that appeared on the client's side.
    pub clients: Vec<String>,
}

const FIELDS: [&str; 12] = [
    "frame.interface_name",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "frame.len",
    "tcp.stream",
    "tcp.flags",
    "tcp.seq_raw",
    "tcp.ack_raw",
];

/// tshark's view of every TCP packet to or from `server_port`, by the interface that it was captured on.
pub fn conversations(file: &Path, server_port: u16) -> BTreeMap<String, Conversations> {
    let filter = format!("tcp.port == {server_port}");
    let mut arguments = vec!["-Y", &filter, "-T", "fields", "-E", "separator=|"];
    arguments.extend(FIELDS.iter().flat_map(|field| ["-e", field]));
    let mut first_numbers: BTreeMap<u64, u32> = BTreeMap::new();
    let mut found: BTreeMap<String, Conversations> = BTreeMap::new();
    for line in tshark(file, &arguments).lines() {
        let part: Vec<&str> = line.split('|').collect();
        assert_eq!(part.len(), FIELDS.len(), "tshark: {line}");
        let (source, destination) = (format!("{}{}", part[1], part[2]), format!("{}{}", part[3], part[4]));
        let number = |at: usize| part[at].parse::<u64>().unwrap_or_else(|_| panic!("tshark: {line}"));
        let (from_port, to_port, bytes) = (number(5) as u16, number(6) as u16, number(7));
        let forward = to_port == server_port;
        let (client, server, client_port) =
            if forward { (source, destination, from_port) } else { (destination, source, to_port) };
        // Each direction may be a stream of its own for tshark, where the other one bears the mangled address.
        let flags = u16::from_str_radix(part[9].trim_start_matches("0x"), 16).expect("TCP flags");
        if flags & SYN != 0 {
            let first = if flags & ACK != 0 { (number(11) as u32).wrapping_sub(1) } else { number(10) as u32 };
            first_numbers.insert(number(8), first);
        }
        let Some(&first) = first_numbers.get(&number(8)) else {
            panic!("a packet before its connection's SYN: {line}")
        };
        let interface = found.entry(part[0].to_owned()).or_default();
        if !interface.clients.contains(&client) {
            interface.clients.push(client);
        }
        let volume = interface.volumes.entry((client_port, server, first)).or_default();
        let way = if forward { &mut volume.to } else { &mut volume.from };
        *way = (way.0 + 1, way.1 + bytes);
    }
    found
}

const SYN: u16 = 2;
const ACK: u16 = 16;
