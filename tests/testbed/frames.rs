//! Raw Ethernet frames, sent and received behind the kernel's back.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::SOON;
use super::namespace::{Namespace, PYTHON};

/// The program that opens the raw socket.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/frames.py");

/// A station on an interface that sends what it is told, and hears everything.
#[derive(Debug)]
pub struct Station {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Station {
    /// A station on an interface.
    pub fn new(namespace: &Namespace, interface: &str) -> Self {
        let mut command = namespace.command(PYTHON, &[PROGRAM, interface]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let station = Self { child, input, lines };
        assert_eq!(station.line(), "ready");
        station
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(SOON).expect("a line from the station")
    }

    fn write(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).expect("the station's input");
    }

    /// Sends frames in order, and waits until the kernel has them all.
    pub fn send<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) {
        let text: String = frames.into_iter().map(|frame| hex(frame) + "\n").collect();
        self.write(&text);
        self.write("mark sent\n");
        // What is heard meanwhile is not kept: who wants to hear asks `exchange`.
        while self.line() != "sent" {}
    }

    /// Begins to hear.
    pub fn listen(&mut self) {
        self.write("listen\nmark listening\n");
        while self.line() != "listening" {}
    }

    /// The next frame that is to the caller's liking.
    pub fn hear(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            if let Some(frame) = from_hex(&self.line()).filter(|frame| wanted(frame)) {
                return frame;
            }
        }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Back from [`hex`].
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}
