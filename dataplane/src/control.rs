//! The control thread: lets a controller attach, hands its rings to the lcores, and waits for the word to stop.
//!
//! Off the packet's path. A controller that dies is only a closed connection: the lcores keep their tables and go on, and the
//! next controller gets fresh rings.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use shm::attach::{AttachError, ControlStream, Listener, Received};
use shm::hello::Control;
use shm::link;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use tracing::{info, warn};

use crate::launch::Dataplane;

const LISTENER: Token = Token(0);
const SIGNALS: Token = Token(1);
const CONTROLLER: Token = Token(2);

/// Why the dataplane is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// In words.
    pub reason: String,
}

/// Catches SIGTERM and SIGINT from now on; before EAL starts its threads, so that none of them is ended by one.
pub fn signals() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT])
}

/// Serves controllers until one of them, or a signal, says stop.
pub fn serve(dataplane: &Dataplane, mut listener: Listener, signals: &mut Signals) -> io::Result<Ended> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&listener.as_fd().as_raw_fd()), LISTENER, Interest::READABLE)?;
    poll.registry().register(signals, SIGNALS, Interest::READABLE)?;
    let mut controller: Option<ControlStream> = None;
    let mut events = Events::with_capacity(8);
    info!("ready: {} waits for a controller", listener.path().display());
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if let Some(signal) = signals.pending().next() {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            return Ok(Ended { reason: format!("{name} received") });
        }
        if let Some(ended) = listen_to(&mut controller, &poll) {
            return Ok(ended);
        }
        admit(dataplane, &mut listener, &mut controller, &poll)?;
    }
}

/// Reads what the controller says; forgets it when it is gone.
fn listen_to(controller: &mut Option<ControlStream>, poll: &Poll) -> Option<Ended> {
    let stream = controller.as_mut()?;
    let gone = loop {
        match stream.receive() {
            Ok(Received::Nothing) => return None,
            Ok(Received::Message(Control::Shutdown)) => {
                return Some(Ended { reason: "the controller said so".to_owned() });
            }
            Ok(Received::Message(Control::Stopping { reason })) => warn!("the controller stops: {reason}"),
            Ok(Received::Message(_)) => {}
            Ok(Received::Closed) => break "its connection closed".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    warn!("the controller is gone ({gone}); established flows go on, new ones wait for another controller");
    let _ = poll.registry().deregister(&mut SourceFd(&stream.as_fd().as_raw_fd())); // it ends with the descriptor anyway
    *controller = None;
    None
}

/// Lets controllers in that wait at the door, one at a time.
fn admit(
    dataplane: &Dataplane,
    listener: &mut Listener,
    controller: &mut Option<ControlStream>,
    poll: &Poll,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok(None) => return Ok(()),
            Ok(Some(newcomer)) => {
                let pid = newcomer.pid();
                match attach(dataplane, newcomer) {
                    Ok(stream) => {
                        let fd = stream.as_fd().as_raw_fd();
                        poll.registry().register(&mut SourceFd(&fd), CONTROLLER, Interest::READABLE)?;
                        *controller = Some(stream);
                        info!("controller {pid} attached");
                    }
                    Err(error) => warn!("controller {pid} could not attach: {error}"),
                }
            }
            Err(error) => {
                warn!("{error}");
                if matches!(error, AttachError::Kernel { .. }) {
                    return Ok(());
                }
            }
        }
    }
}

fn attach(dataplane: &Dataplane, newcomer: shm::attach::Newcomer) -> Result<ControlStream, AttachError> {
    let (fds, links) = link::create(dataplane.mailboxes.len())?;
    let stream = newcomer.greet(&dataplane.hello, &fds, &dataplane.counters)?;
    for (mailbox, link) in dataplane.mailboxes.iter().zip(links) {
        mailbox.force_push(link); // rings that a lcore has not taken yet belong to a controller that is gone
    }
    Ok(stream)
}
