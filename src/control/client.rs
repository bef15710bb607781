//! The client side of the control socket.
//!
//! Every wait for a silent process is bounded. A request that needs no work is waited for a few seconds. During long
//! work the client checks from time to time that the process still exists.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::process::Process;
use super::protocol::{CheckRequest, Presence, Progress, Reply, Request, StatusReport};
use super::socket::{self, Address};
use crate::check::CheckReport;
use crate::error::{Error, Result};
use crate::gc::CycleRecord;
use crate::snapshots::{Answer, Place, Task};

/// How long a request that needs no work may take. During longer work, also the interval at which the process is
/// checked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the process that has a store open.
pub struct Client {
    stream: BufReader<UnixStream>,
    /// How it was reached.
    address: Option<Address>,
    /// What it says of itself.
    presence: Presence,
    process: Option<Process>,
    /// Each answer has to come within the timeout of the stream.
    has_timeout: bool,
    /// Called each time that a wait takes longer than a moment.
    on_long_wait: Option<Box<dyn FnMut() + Send>>,
}

impl Client {
    /// Connects; None if no process has the store open (or it is about to close it).
    pub fn connect(store: &Path) -> Result<Option<Self>> {
        Self::connect_within(store, None)
    }

    /// The same with a timeout, which holds for later waits too. When it is over, the error is one for which
    /// [`is_unresponsive`] is true.
    pub fn connect_within(store: &Path, timeout: Option<Duration>) -> Result<Option<Self>> {
        Self::greeted(Address::Store(store.to_owned()), None, timeout)
    }

    /// Connects to the process with this presence, wherever its store is. If its abstract socket cannot be reached,
    /// connects through the store's directory, if that is the same directory here. None if the process is about to
    /// close the store, or cannot be reached.
    pub fn of_presence(presence: &Presence, store: &Path, timeout: Option<Duration>) -> Result<Option<Self>> {
        let there = Address::Abstract(presence.socket.clone());
        if let Some(client) = Self::greeted(there, Some(presence.token.clone()), timeout)? {
            return Ok(Some(client));
        }
        let is_there = fs::metadata(store).is_ok_and(|meta| (meta.dev(), meta.ino()) == presence.directory);
        let client = if is_there { Self::connect_within(store, timeout)? } else { None };
        Ok(client.filter(|client| client.presence.is_of_same_process(presence)))
    }

    fn greeted(address: Address, token: Option<String>, timeout: Option<Duration>) -> Result<Option<Self>> {
        let Some(stream) = socket::connect(&address, timeout.unwrap_or(ANSWER_TIMEOUT))? else {
            return Ok(None);
        };
        let mut client = Self { address: Some(address), has_timeout: true, ..Self::over(stream) };
        // The kernel accepts connections for a process that was killed a moment ago; only an answer proves that it
        // lives.
        match client.hello(token) {
            Ok(presence) => {
                client.process = Process::of(presence.pid, presence.pid_namespace);
                client.presence = presence;
            }
            Err(Error::Environment(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        client.has_timeout = timeout.is_some();
        Ok(Some(client))
    }

    /// Sets the timeout of each later wait for an answer.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<()> {
        self.has_timeout = true;
        self.stream
            .get_ref()
            .set_read_timeout(Some(timeout))
            .map_err(|e| Error::io("setting how long to wait for an answer", e))
    }

    /// Calls `tell` each time that a wait takes longer than a moment.
    pub fn on_long_wait(&mut self, tell: impl FnMut() + Send + 'static) {
        self.on_long_wait = Some(Box::new(tell));
    }

    /// Uses a stream that is already connected.
    pub fn over(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            address: None,
            presence: Presence::default(),
            process: None,
            has_timeout: false,
            on_long_wait: None,
        }
    }

    /// The presence that the process sent when it was reached.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Asks for the presence, which needs no work.
    pub fn hello(&mut self, token: Option<String>) -> Result<Presence> {
        match self.call(&Request::Hello { token }, &mut |_| {})? {
            Reply::Hello(presence) => Ok(presence),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the process has ended, after [`Client::closed`]. False if that takes longer than `timeout`; true if
    /// the process cannot be seen.
    pub fn ends_within(&self, timeout: Duration) -> bool {
        self.process.as_ref().is_none_or(|process| process.ends_within(timeout))
    }

    /// The figures of the store.
    pub fn status(&mut self) -> Result<StatusReport> {
        match self.call(&Request::Status, &mut |_| {})? {
            Reply::Status(report) => Ok(*report),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs a cycle.
    pub fn gc(&mut self, dry_run: bool, progress: &mut dyn FnMut(Progress)) -> Result<CycleRecord> {
        match self.call(&Request::Gc { dry_run }, progress)? {
            Reply::Cycle(record) => Ok(record),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for a cycle without waiting for it.
    pub fn gc_soon(&mut self) -> Result<()> {
        self.done(&Request::GcSoon)
    }

    /// Runs a check.
    pub fn check(
        &mut self,
        request: CheckRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CheckReport> {
        match self.call(&Request::Check(request), progress)? {
            Reply::Check(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes everything durable.
    pub fn sync(&mut self) -> Result<()> {
        self.done(&Request::Sync)
    }

    /// Has something done with groups and snapshots.
    pub fn snapshots(&mut self, place: Place, task: Task) -> Result<Answer> {
        match self.call(&Request::Snapshots { place, task }, &mut |_| {})? {
            Reply::Snapshots(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Announces that [`Client::closed`] will ask how the store was closed. Returns when the daemon has noted it.
    pub fn await_close(&mut self) -> Result<()> {
        self.done(&Request::AwaitClose)
    }

    /// Waits until the store is closed, after [`Client::await_close`]. An error if what was written may not be durable.
    pub fn closed(&mut self) -> Result<()> {
        match self.receive(&mut |_| {})? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn done(&mut self, request: &Request) -> Result<()> {
        match self.call(request, &mut |_| {})? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn call(&mut self, request: &Request, progress: &mut dyn FnMut(Progress)) -> Result<Reply> {
        let mut line =
            serde_json::to_string(request).map_err(|e| Error::io("encoding a request", e.into()))?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(no_answer)?;
        self.receive(progress)
    }

    /// Reads up to the final reply; an error reply becomes an error.
    fn receive(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<Reply> {
        let mut line = Vec::new();
        loop {
            match self.stream.read_until(b'\n', &mut line) {
                Ok(0) => return Err(gone()),
                // The part of the line that was received stays.
                Err(error) if is_timeout(&error) && !self.has_timeout => {
                    self.check_process()?;
                    continue;
                }
                Err(error) => return Err(no_answer(error)),
                Ok(_) => {}
            }
            let reply = serde_json::from_slice(&line).map_err(|e| {
                Error::io(
                    "the process that has the store open answers in a way this program does not \
                     understand (is it of another version? mount the store again)",
                    e.into(),
                )
            })?;
            line.clear();
            match reply {
                Reply::Progress(p) => progress(p),
                Reply::Error(wire) => return Err(wire.into()),
                fin => return Ok(fin),
            }
        }
    }

    /// The answer takes long: returns an error if there is no point in waiting on.
    fn check_process(&mut self) -> Result<()> {
        if let Some(process) = &self.process {
            match process.state() {
                None => return Err(gone()),
                Some('T' | 't') => return Err(unresponsive()),
                Some(_) => {}
            }
        }
        // A process that closes the store does not listen any more.
        if let Some(address) = &self.address
            && let Some(stream) = socket::connect(address, ANSWER_TIMEOUT)?
        {
            let mut second = Self { has_timeout: true, ..Self::over(stream) };
            let token = matches!(address, Address::Abstract(_)).then(|| self.presence.token.clone());
            match second.hello(token) {
                Err(error) if is_unresponsive(&error) => return Err(error),
                // Any answer shows that it lives.
                _ => {}
            }
        }
        if let Some(on_long_wait) = &mut self.on_long_wait {
            on_long_wait();
        }
        Ok(())
    }
}

/// True for the error of a wait that timed out: the other side exists and does not answer.
pub fn is_unresponsive(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if is_timeout(source))
}

/// Sockets report the end of a timeout with the error of a non-blocking call.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn no_answer(error: io::Error) -> Error {
    if is_timeout(&error) { unresponsive() } else { gone() }
}

fn unresponsive() -> Error {
    Error::io(
        "the process that has the store open does not answer (stopped, or its disk hangs); `cairnfs umount \
         -f` unmounts by force",
        io::ErrorKind::TimedOut.into(),
    )
}

fn gone() -> Error {
    Error::Environment(
        "the process that has the store open ended before it answered; if nobody unmounted the store, see \
         cairnfs.log in the store's directory"
            .into(),
    )
}

fn unexpected(reply: &Reply) -> Error {
    let reply = serde_json::to_string(reply).unwrap_or_default();
    Error::Environment(format!("the process that has the store open sent an unexpected answer: {reply}"))
}
