//! The side of the control socket that asks.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{CheckRequest, Progress, Reply, Request, StatusReport};
use super::socket;
use crate::check::CheckReport;
use crate::error::{Error, Result};
use crate::gc::CycleRecord;

/// A connection to the process that has a store open.
pub struct Client {
    stream: BufReader<UnixStream>,
    /// The answer that showed that somebody lives there.
    greeting: Option<Box<StatusReport>>,
}

impl Client {
    /// Connects; None if no process has the store open (or it is about to close it).
    pub fn connect(store: &Path) -> Result<Option<Self>> {
        Self::connect_within(store, None)
    }

    /// The same, and no wait, this one nor a later one, is longer than `patience`: what lasts longer is an error that
    /// [`is_silence`] knows.
    pub fn connect_within(store: &Path, patience: Option<Duration>) -> Result<Option<Self>> {
        let Some(mut client) = socket::connect(store, patience)?.map(Self::over) else {
            return Ok(None);
        };
        // The kernel takes connections for a process that was killed a moment ago; only an answer shows one that lives.
        match client.status() {
            Err(Error::Environment(_)) => Ok(None),
            Err(error) if is_silence(&error) => Err(error),
            answer => {
                client.greeting = answer.ok().map(Box::new);
                Ok(Some(client))
            }
        }
    }

    /// How long each wait for an answer may be from now on.
    pub fn be_patient(&self, patience: Duration) -> Result<()> {
        self.stream
            .get_ref()
            .set_read_timeout(Some(patience))
            .map_err(|e| Error::io("setting how long to wait for an answer", e))
    }

    /// Speaks over a stream that stands already.
    pub fn over(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream), greeting: None }
    }

    /// The figures of the store as they were told at [`Client::connect`]; asked for if they were not.
    pub fn greeting(mut self) -> Result<StatusReport> {
        match self.greeting.take() {
            Some(report) => Ok(*report),
            None => self.status(),
        }
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

    /// Says that [`Client::closed`] will want to know how the store was closed. Returns when the daemon has noted it.
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

    /// Reads up to the final reply; an error reply becomes the error it is.
    fn receive(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<Reply> {
        let mut line = String::new();
        loop {
            line.clear();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err(gone()),
                Err(error) => return Err(no_answer(error)),
                Ok(_) => {}
            }
            let reply = serde_json::from_str(&line).map_err(|e| {
                Error::io(
                    "the process that has the store open answers in a way this program does not \
                     understand (is it of another version? mount the store again)",
                    e.into(),
                )
            })?;
            match reply {
                Reply::Progress(p) => progress(p),
                Reply::Error(wire) => return Err(wire.into()),
                fin => return Ok(fin),
            }
        }
    }
}

/// True for the error of a wait that was given up: the other side is there and says nothing.
pub fn is_silence(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if is_timeout(source))
}

/// Sockets tell the end of a timeout as if they were not to wait at all.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn no_answer(error: io::Error) -> Error {
    if is_timeout(&error) {
        Error::io("waiting for the answer of the process that has the store open", error)
    } else {
        gone()
    }
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
    Error::Environment(format!(
        "the process that has the store open gave an answer to another question: {reply}"
    ))
}
