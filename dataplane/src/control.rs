//! The control thread: lets a controller attach, hands its rings to the lcores, reconfigures, and waits for the word to stop.
//!
//! Off the packet's path. A controller that dies is only a closed connection: the lcores keep their tables and go on, and the
//! next controller gets fresh rings.
//!
//! One reconfiguration at a time. While it is under way the thread looks every millisecond how far it is, and hears signals and
//! the controller as ever; one more document may wait, a third is refused. A reconfiguration goes on to its end when its
//! controller dies; the next one's Hello says what came of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use shm::attach::{AttachError, ControlStream, Listener, Received};
use shm::hello::{Control, Hello};
use shm::launch::Launch;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use tracing::{info, warn};

use crate::change::ReconfigureError;
use crate::launch::{Dataplane, Progress};

const LISTENER: Token = Token(0);
const SIGNALS: Token = Token(1);
const CONTROLLER: Token = Token(2);
/// How often a reconfiguration that is under way is looked at.
const STEP: Duration = Duration::from_millis(1);

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
pub fn serve(dataplane: &mut Dataplane, mut listener: Listener, signals: &mut Signals) -> io::Result<Ended> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&listener.as_fd().as_raw_fd()), LISTENER, Interest::READABLE)?;
    poll.registry().register(signals, SIGNALS, Interest::READABLE)?;
    let mut visitor = Visitor::default();
    let mut events = Events::with_capacity(8);
    info!("ready: {} waits for a controller", listener.path().display());
    loop {
        if let Err(error) = poll.poll(&mut events, visitor.asked.is_some().then_some(STEP)) {
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if let Some(signal) = signals.pending().next() {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            return Ok(Ended { reason: format!("{name} received") });
        }
        if let Some(ended) = visitor.listen(dataplane) {
            return Ok(ended);
        }
        visitor.reconfigure(dataplane);
        admit(dataplane, &mut listener, &mut visitor, &poll)?;
    }
}

/// The controller that is attached, if one is, and what it has asked for.
#[derive(Default)]
struct Visitor {
    stream: Option<ControlStream>,
    asked: Option<Asked>,
}

/// A reconfiguration that is under way.
struct Asked {
    /// False once who asked is gone: then nobody is told how it went.
    waits: bool,
    /// What a controller has asked for meanwhile.
    next: Option<Box<Launch>>,
}

impl Visitor {
    /// Reads what the controller says, and sends what it has not taken yet; forgets it when it is gone.
    fn listen(&mut self, dataplane: &mut Dataplane) -> Option<Ended> {
        let gone = loop {
            match self.stream.as_mut()?.receive() {
                Ok(Received::Nothing) => return None,
                Ok(Received::Message(Control::Shutdown)) => {
                    return Some(Ended { reason: "the controller said so".to_owned() });
                }
                Ok(Received::Message(Control::Stopping { reason })) => warn!("the controller stops: {reason}"),
                Ok(Received::Message(Control::Reconfigure { launch })) => self.ask(dataplane, launch),
                Ok(Received::Message(Control::Reconfigured { .. } | Control::NotReconfigured { .. })) => {
                    break "it speaks as a dataplane does".to_owned();
                }
                Ok(Received::Closed) => break "its connection closed".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        warn!("the controller is gone ({gone}); established flows go on, new ones wait for another controller");
        self.leave();
        None
    }

    /// Nobody is there any more; the stream's registration with mio ends with its descriptor.
    fn leave(&mut self) {
        self.stream = None;
        if let Some(asked) = &mut self.asked {
            asked.waits = false;
            asked.next = None;
        }
    }

    /// Begins a reconfiguration, or keeps it until the one under way is done.
    fn ask(&mut self, dataplane: &mut Dataplane, launch: Box<Launch>) {
        match &mut self.asked {
            Some(Asked { next: next @ None, .. }) => *next = Some(launch),
            _ => match dataplane.begin(*launch) {
                Ok(()) => self.asked = Some(Asked { waits: true, next: None }),
                Err(error) => self.refuse(&error),
            },
        }
    }

    /// Takes the reconfiguration on that is under way, and says how it went.
    fn reconfigure(&mut self, dataplane: &mut Dataplane) {
        while let Some(asked) = &self.asked {
            let waits = asked.waits;
            match dataplane.advance() {
                Progress::UnderWay => return,
                Progress::Done if waits => {
                    let Hello { lcores, warnings, .. } = dataplane.hello();
                    info!("reconfigured");
                    self.tell(&Control::Reconfigured { lcores: lcores.clone(), warnings: warnings.clone() });
                }
                Progress::Refused(error) if waits => self.refuse(&error),
                Progress::Refused(error) => warn!("not reconfigured: {error}"),
                Progress::Done | Progress::Idle => info!("reconfigured, though who asked is gone"),
            }
            if let Some(next) = self.asked.take().and_then(|asked| asked.next) {
                self.ask(dataplane, next);
            }
        }
    }

    fn refuse(&mut self, error: &ReconfigureError) {
        warn!("not reconfigured: {error}");
        self.tell(&Control::NotReconfigured { reason: error.to_string() });
    }

    /// Who leaves too much unread is sent away.
    fn tell(&mut self, message: &Control) {
        if let Some(Err(error)) = self.stream.as_mut().map(|stream| stream.send(message)) {
            warn!("the controller could not be told, and is sent away: {error}");
            self.leave();
        }
    }
}

/// Lets controllers in that wait at the door, one at a time.
fn admit(dataplane: &mut Dataplane, listener: &mut Listener, visitor: &mut Visitor, poll: &Poll) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok(None) => return Ok(()),
            Ok(Some(newcomer)) => {
                let pid = newcomer.pid();
                match attach(dataplane, newcomer) {
                    Ok(stream) => {
                        visitor.leave();
                        let fd = stream.as_fd().as_raw_fd();
                        let interest = Interest::READABLE | Interest::WRITABLE; // what it has not taken yet goes when it can
                        poll.registry().register(&mut SourceFd(&fd), CONTROLLER, interest)?;
                        visitor.stream = Some(stream);
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

fn attach(dataplane: &mut Dataplane, newcomer: shm::attach::Newcomer) -> Result<ControlStream, AttachError> {
    let (fds, links, memory) = dataplane.link()?;
    let stream = newcomer.greet(dataplane.hello(), &fds, dataplane.counters())?;
    dataplane.attach(links, memory);
    Ok(stream)
}
