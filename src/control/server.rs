//! The server side of the control socket: one thread that accepts, and one for each connection.
//!
//! The server starts after the store was opened and stops before it is closed. Only clients that wait for the closing
//! stay connected longer; [`Closing::report`] answers them. If a connection is still at work when the server stops, it
//! breaks when the process ends: a check only reads, and the shutdown of the collector ends a cycle.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::protocol::{CheckRequest, Presence, Progress, Reply, Request, StatusReport, WireError};
use super::socket;
use crate::check::CheckReport;
use crate::error::{Error, Result};
use crate::gc::CycleRecord;
use crate::snapshots::{Answer, Place, Task};

/// What the process that has the store open does for commands. Called from many threads.
pub trait ControlHandler: Send + Sync {
    /// The presence of this process. Waits for nothing. Its names never change.
    fn presence(&self) -> Presence;
    /// The figures of the store.
    fn status(&self) -> Result<StatusReport>;
    /// Runs a cycle, telling its stages.
    fn gc(&self, dry_run: bool, progress: &mut dyn FnMut(Progress)) -> Result<CycleRecord>;
    /// Starts a cycle soon.
    fn gc_soon(&self) -> Result<()>;
    /// Runs a check. If `progress` returns false, nobody waits for the check any more, and it ends.
    fn check(&self, request: CheckRequest, progress: &mut dyn FnMut(Progress) -> bool)
    -> Result<CheckReport>;
    /// Makes everything durable.
    fn sync(&self) -> Result<()>;
    /// Does something with groups and snapshots.
    fn snapshots(&self, place: &Place, task: &Task) -> Result<Answer>;
}

/// More connections at once are refused, so that a loop in a script cannot use up all threads.
const MAX_CONNECTIONS: usize = 32;

/// A request is short; a client that sends more is not ours.
const MAX_REQUEST: u64 = 4096;

struct Shared {
    handler: Arc<dyn ControlHandler>,
    /// Set once, before the listener is shut.
    stopping: AtomicBool,
    connections: AtomicUsize,
    /// Those who wait for the store's closing.
    awaiting: Mutex<Vec<UnixStream>>,
}

/// The running server.
pub struct Server {
    store: PathBuf,
    shared: Arc<Shared>,
    listening: Vec<Listening>,
}

/// One socket and the thread that accepts there.
struct Listening {
    listener: UnixListener,
    thread: JoinHandle<()>,
}

impl Listening {
    /// Clients have to send `token` first.
    fn start(listener: UnixListener, shared: &Arc<Shared>, token: Option<String>) -> Result<Self> {
        let failed = |e| Error::io("starting the control server", e);
        let accepting = listener.try_clone().map_err(failed)?;
        let shared = Arc::clone(shared);
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || accept_loop(&accepting, &shared, token.as_deref()))
            .map_err(failed)?;
        Ok(Self { listener, thread })
    }

    fn stop(self) {
        // Shutting a listening socket wakes the thread that waits in accept.
        if let Err(e) = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both) {
            tracing::warn!("shutting the control socket: {e}");
        }
        if self.thread.join().is_err() {
            tracing::error!("the control server had ended by a panic");
        }
    }
}

/// Those who wait for the store's closing, after the server has stopped.
#[must_use = "those who wait for the closing have to be told"]
#[derive(Default)]
pub struct Closing(Vec<UnixStream>);

impl Server {
    /// Starts to answer at the store's socket, and at the one that the handler's presence names.
    pub fn start(store: &Path, handler: Arc<dyn ControlHandler>) -> Result<Self> {
        let listener = socket::listen(store)?;
        let mut server = Self::without_sockets(store, handler);
        server.listening.push(Listening::start(listener, &server.shared, None)?);
        // Those who see the store's directory get through without it.
        if let Err(error) = server.listen_without_path() {
            tracing::warn!("{error}");
        }
        Ok(server)
    }

    /// The same without a socket in the store's directory, if there is no room for one.
    pub fn start_without_path(store: &Path, handler: Arc<dyn ControlHandler>) -> Result<Self> {
        let mut server = Self::without_sockets(store, handler);
        server.listen_without_path()?;
        Ok(server)
    }

    fn without_sockets(store: &Path, handler: Arc<dyn ControlHandler>) -> Self {
        let shared = Arc::new(Shared {
            handler,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            awaiting: Mutex::new(Vec::new()),
        });
        Self { store: store.to_owned(), shared, listening: Vec::new() }
    }

    fn listen_without_path(&mut self) -> Result<()> {
        let presence = self.shared.handler.presence();
        let listener = socket::listen_abstract(&presence.socket)?;
        self.listening.push(Listening::start(listener, &self.shared, Some(presence.token))?);
        Ok(())
    }

    /// Takes no more requests and removes the socket.
    pub fn stop(self) -> Closing {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.listening.into_iter().for_each(Listening::stop);
        if let Err(e) = socket::remove(&self.store) {
            tracing::warn!("{e}");
        }
        Closing(std::mem::take(&mut *self.shared.awaiting.lock()))
    }
}

impl Closing {
    /// Sends the result of the closing. Call this after the lock was released.
    pub fn report(self, outcome: &Result<()>) {
        let reply = match outcome {
            Ok(()) => Reply::Done,
            Err(e) => Reply::Error(e.into()),
        };
        for mut stream in self.0 {
            // A client that has gone does not want to know.
            let _ = send(&mut stream, &reply);
        }
    }
}

fn accept_loop(listener: &UnixListener, shared: &Arc<Shared>, token: Option<&str>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _)) => start_connection(stream, shared, token),
            Err(e) => {
                tracing::warn!("accepting at the control socket: {e}");
                // Out of file descriptors: retrying at once would only waste CPU until one is free.
                thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}

fn start_connection(mut stream: UnixStream, shared: &Arc<Shared>, token: Option<&str>) {
    if shared.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
        shared.connections.fetch_sub(1, Ordering::SeqCst);
        let busy = Error::Busy(format!(
            "{MAX_CONNECTIONS} commands are using this store already; try again when one has ended"
        ));
        let _ = send(&mut stream, &Reply::Error((&busy).into()));
        return;
    }
    let (owned, token) = (Arc::clone(shared), token.map(str::to_owned));
    let spawned = thread::Builder::new().name("control-conn".into()).spawn(move || {
        serve(stream, &owned, token.as_deref());
        owned.connections.fetch_sub(1, Ordering::SeqCst);
    });
    if let Err(e) = spawned {
        shared.connections.fetch_sub(1, Ordering::SeqCst);
        tracing::warn!("starting a thread for a command: {e}");
    }
}

/// Answers requests until the client hangs up. If there is a `token`, the client has to send it first.
fn serve(stream: UnixStream, shared: &Shared, mut token: Option<&str>) {
    let Ok(mut out) = stream.try_clone() else {
        return;
    };
    let mut requests = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        match (&mut requests).take(MAX_REQUEST).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Hello { token: said }) if token.is_none() || said.as_deref() == token => {
                token = None;
                Reply::Hello(shared.handler.presence())
            }
            // Any user can connect where there is no path.
            _ if token.is_some() => return,
            Ok(Request::AwaitClose) => {
                let kept = out.try_clone();
                if let Ok(kept) = kept {
                    // Noted before it is acknowledged: a client with an acknowledgement will get the result.
                    let mut awaiting = shared.awaiting.lock();
                    // Each refused unmount has left one behind.
                    awaiting.retain(still_waits);
                    if send(&mut out, &Reply::Done).is_ok() {
                        awaiting.push(kept);
                    }
                }
                return;
            }
            Ok(request) => answer(&request, shared.handler.as_ref(), &mut out),
            Err(_) => Reply::Error(WireError::Usage {
                text:
                    "the process that has the store open does not know this request; it runs another version \
                       of cairnfs: mount the store again"
                        .into(),
            }),
        };
        if send(&mut out, &reply).is_err() {
            return;
        }
    }
}

/// False if the client has hung up. A client that waits for the closing sends nothing more.
fn still_waits(stream: &UnixStream) -> bool {
    let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    !matches!(rustix::net::recv(stream, &mut [0; 1], look), Ok((_, 0)) | Err(Errno::CONNRESET))
}

fn answer(request: &Request, handler: &dyn ControlHandler, out: &mut UnixStream) -> Reply {
    let mut listens = |p| show(out, &Reply::Progress(p)).is_ok();
    let outcome = match request {
        Request::Hello { .. } => Ok(Reply::Hello(handler.presence())),
        Request::Status => handler.status().map(|s| Reply::Status(Box::new(s))),
        Request::Gc { dry_run } => handler
            // If the command has gone, its cycle goes on, since it is worth finishing.
            .gc(*dry_run, &mut |p| {
                listens(p);
            })
            .map(Reply::Cycle),
        Request::GcSoon => handler.gc_soon().map(|()| Reply::Done),
        Request::Check(request) => handler.check(*request, &mut listens).map(Reply::Check),
        Request::Sync => handler.sync().map(|()| Reply::Done),
        Request::Snapshots { place, task } => handler.snapshots(place, task).map(Reply::Snapshots),
        Request::AwaitClose => Ok(Reply::Done),
    };
    outcome.unwrap_or_else(|e| Reply::Error((&e).into()))
}

/// Sends a line that may be dropped: a client that does not read, such as a command stopped by Ctrl-Z, must not block
/// the work.
fn show(stream: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    match rustix::net::send(&*stream, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN) => Ok(()),
        // A line is sent whole, or the next one would begin in its middle.
        Ok(sent) => stream.write_all(&line.as_bytes()[sent.min(line.len())..]),
        Err(errno) => Err(errno.into()),
    }
}

fn send(stream: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Client;
    use crate::gc::Stage;

    struct Fake;

    impl ControlHandler for Fake {
        fn presence(&self) -> Presence {
            Presence { token: "told".into(), ..Presence::of_this_process("", Path::new("/")) }
        }
        fn status(&self) -> Result<StatusReport> {
            Err(Error::Latched("disk on fire".into()))
        }
        fn gc(&self, dry_run: bool, progress: &mut dyn FnMut(Progress)) -> Result<CycleRecord> {
            progress(Progress::Stage(Stage::Mark));
            progress(Progress::Stage(Stage::Sweep));
            Ok(CycleRecord { generation: 9, dry_run, ..CycleRecord::default() })
        }
        fn gc_soon(&self) -> Result<()> {
            Ok(())
        }
        fn check(
            &self,
            CheckRequest { data, .. }: CheckRequest,
            progress: &mut dyn FnMut(Progress) -> bool,
        ) -> Result<CheckReport> {
            let mut done = 0;
            while data && progress(Progress::Check { done, total: 0, bytes: 0, reads_data: true }) {
                done += 1;
            }
            Ok(CheckReport { data, ..CheckReport::default() })
        }
        fn sync(&self) -> Result<()> {
            Err(Error::io("syncing", std::io::Error::from_raw_os_error(libc::ENOSPC)))
        }
        fn snapshots(&self, _: &Place, _: &Task) -> Result<Answer> {
            Ok(Answer::Done)
        }
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared {
            handler: Arc::new(Fake),
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            awaiting: Mutex::new(Vec::new()),
        })
    }

    #[test]
    fn requests_and_errors_make_the_round_trip() {
        let (here, there) = UnixStream::pair().unwrap();
        let server = shared();
        let thread = thread::spawn(move || serve(there, &server, None));
        let mut client = Client::over(here);

        let mut stages = Vec::new();
        let record = client.gc(true, &mut |p| stages.push(p)).unwrap();
        assert_eq!((record.generation, record.dry_run), (9, true));
        assert_eq!(stages, [Progress::Stage(Stage::Mark), Progress::Stage(Stage::Sweep)]);
        let error = client.status().unwrap_err();
        assert!(matches!(&error, Error::Latched(t) if t == "disk on fire"));
        let error = client.sync().unwrap_err();
        assert!(error.is_no_space());
        assert!(!client.check(CheckRequest::default(), &mut |_| {}).unwrap().data);
        client.gc_soon().unwrap();
        drop(client);
        thread.join().unwrap();
    }

    /// Does what [`Fake`] does, under one name.
    struct Fixed(Presence);

    impl ControlHandler for Fixed {
        fn presence(&self) -> Presence {
            self.0.clone()
        }
        fn status(&self) -> Result<StatusReport> {
            Fake.status()
        }
        fn gc(&self, dry_run: bool, progress: &mut dyn FnMut(Progress)) -> Result<CycleRecord> {
            Fake.gc(dry_run, progress)
        }
        fn gc_soon(&self) -> Result<()> {
            Fake.gc_soon()
        }
        fn check(
            &self,
            request: CheckRequest,
            progress: &mut dyn FnMut(Progress) -> bool,
        ) -> Result<CheckReport> {
            Fake.check(request, progress)
        }
        fn sync(&self) -> Result<()> {
            Fake.sync()
        }
        fn snapshots(&self, place: &Place, task: &Task) -> Result<Answer> {
            Fake.snapshots(place, task)
        }
    }

    /// Answers status only, and counts how often it is asked.
    struct Counting(AtomicUsize);

    impl ControlHandler for Counting {
        fn presence(&self) -> Presence {
            Presence::of_this_process("", Path::new("/"))
        }
        fn status(&self) -> Result<StatusReport> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(StatusReport {
                version: String::new(),
                path: String::new(),
                holder: None,
                stage: Stage::Idle,
                last_cycle: None,
                scrub: Default::default(),
                dropped: Vec::new(),
                failing: Vec::new(),
                problems: Vec::new(),
                store: Default::default(),
            })
        }
        fn gc(&self, _: bool, _: &mut dyn FnMut(Progress)) -> Result<CycleRecord> {
            Ok(CycleRecord::default())
        }
        fn gc_soon(&self) -> Result<()> {
            Ok(())
        }
        fn check(&self, _: CheckRequest, _: &mut dyn FnMut(Progress) -> bool) -> Result<CheckReport> {
            Ok(CheckReport::default())
        }
        fn sync(&self) -> Result<()> {
            Ok(())
        }
        fn snapshots(&self, _: &Place, _: &Task) -> Result<Answer> {
            Ok(Answer::Done)
        }
    }

    #[test]
    fn who_connects_and_wants_the_figures_asks_once() {
        let tmp = tempfile::tempdir().unwrap();
        let handler = Arc::new(Counting(AtomicUsize::new(0)));
        let server = Server::start(tmp.path(), handler.clone()).unwrap();
        let client = Client::connect(tmp.path()).unwrap().unwrap();
        assert_eq!(handler.0.load(Ordering::SeqCst), 0, "who answers is not asked for figures");
        { client }.status().unwrap();
        let mut client = Client::connect(tmp.path()).unwrap().unwrap();
        client.gc_soon().unwrap();
        client.status().unwrap();
        assert_eq!(handler.0.load(Ordering::SeqCst), 2, "each wish is asked for once");
        drop(client);
        server.stop().report(&Ok(()));
    }

    #[test]
    fn a_check_ends_when_nobody_listens() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let server = shared();
        let thread = thread::spawn(move || serve(there, &server, None));
        here.write_all(b"{\"check\":{\"data\":true}}\n").unwrap();
        let mut line = String::new();
        BufReader::new(&here).read_line(&mut line).unwrap();
        assert!(line.contains("progress"), "{line}");
        drop(here);
        thread.join().unwrap();
    }

    #[test]
    fn words_nobody_knows_are_answered_with_a_sentence() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let server = shared();
        let thread = thread::spawn(move || serve(there, &server, None));
        here.write_all(b"{\"fly\":1}\n").unwrap();
        let mut line = String::new();
        BufReader::new(&here).read_line(&mut line).unwrap();
        assert!(line.contains("another version"), "{line}");
        here.shutdown(std::net::Shutdown::Both).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn the_closing_is_told_after_the_server_stopped() {
        let tmp = tempfile::tempdir().unwrap();
        let server = Server::start(tmp.path(), Arc::new(Fake)).unwrap();
        let mut good = Client::connect(tmp.path()).unwrap().unwrap();
        good.await_close().unwrap();
        let closing = server.stop();
        assert!(Client::connect(tmp.path()).unwrap().is_none());
        closing.report(&Ok(()));
        good.closed().unwrap();

        let server = Server::start(tmp.path(), Arc::new(Fake)).unwrap();
        let mut bad = Client::connect(tmp.path()).unwrap().unwrap();
        bad.await_close().unwrap();
        let mut cut = Client::connect(tmp.path()).unwrap().unwrap();
        cut.await_close().unwrap();
        let mut closing = server.stop();
        drop(closing.0.pop());
        closing.report(&Err(Error::Latched("no".into())));
        assert!(matches!(bad.closed().unwrap_err(), Error::Latched(_)));
        assert!(matches!(cut.closed().unwrap_err(), Error::Environment(_)));
    }

    /// The socket without a path can be found by anybody.
    #[test]
    fn without_a_path_only_those_are_answered_who_were_told() {
        let tmp = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fixed(Fake.presence()));
        let server = Server::start(tmp.path(), fake.clone()).unwrap();
        let none = tmp.path().join("none");
        let mut client = Client::of_presence(&fake.0, &none, None).unwrap().unwrap();
        assert_eq!(*client.presence(), fake.0);
        assert!(client.gc_soon().is_ok());
        for wrong in [Presence { token: "guessed".into(), ..fake.0.clone() }, Presence::default()] {
            assert!(Client::of_presence(&wrong, &none, None).unwrap().is_none());
        }
        // What stands at the path is asked only if it is the same directory.
        let lost = |directory| Presence { socket: "cairnfs-nobody".into(), directory, ..fake.0.clone() };
        assert!(Client::of_presence(&lost((0, 0)), tmp.path(), None).unwrap().is_none());
        let mut raw =
            socket::connect(&socket::Address::Abstract(fake.0.socket.clone()), TO_TELL).unwrap().unwrap();
        raw.write_all(b"\"sync\"\n").unwrap();
        assert_eq!(raw.read(&mut [0; 9]).unwrap(), 0, "hung up on");
        server.stop().report(&Ok(()));
    }

    const TO_TELL: std::time::Duration = std::time::Duration::from_secs(100);

    #[test]
    fn who_waited_for_the_closing_and_went_is_not_kept() {
        let server = shared();
        let ask = || {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(b"\"await_close\"\n").unwrap();
            serve(there, &server, None);
            here
        };
        let stays = ask();
        for _ in 0..50 {
            drop(ask());
        }
        assert_eq!(server.awaiting.lock().len(), 2, "the one who waits, and the last who went");
        Closing(std::mem::take(&mut *server.awaiting.lock())).report(&Ok(()));
        let mut client = Client::over(stays);
        client.closed().unwrap();
        client.closed().unwrap();
    }
}
