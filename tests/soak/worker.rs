//! One process that works in the mount, with its oracle.
//!
//! Keeps true: every system call of a worker goes through the root of the mount it has opened, so it can never reach
//! the next daemon without having compared what that one has with its oracle. A call that fails is either the end of
//! the daemon, which the root then confirms for ever, or a loss.
//!
//! What a worker does depends on the seed and its number only, until the first kill: which changes survive that is a
//! matter of timing, and what is done next depends on what is there.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use cairnfs::media::sim::Rng;
use rustix::fs::{AtFlags, StatxFlags};
use serde::{Deserialize, Serialize};

use crate::oracle::{Change, Edit, Fid, Oracle};

/// Why a step ended early.
#[derive(Debug)]
pub enum Stop {
    /// The daemon is gone.
    Dead,
    /// What must be there is not.
    Loss(String),
}

pub type Res<T> = Result<T, Stop>;

/// What the coordinator asks for; a line on standard input each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The store is mounted, for the n-th time. Whoever was at work in it compares.
    Mounted(u64),
    /// Compare, and leave the mount.
    Stop,
    /// Compare with everything that was ever acknowledged.
    Compare,
    /// Remove everything.
    Delete,
}

/// What a worker says; a line on standard output each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// After mount n everything was as it may be.
    Verified(u64),
    Stopped,
    Compared,
    Deleted(Stats),
    Loss(String),
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub operations: BTreeMap<String, u64>,
    pub bytes_written: u64,
    pub bytes_compared: u64,
    pub files_compared: u64,
    pub after_crashes: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.operations {
            *self.operations.entry(kind.clone()).or_default() += count;
        }
        self.bytes_written += other.bytes_written;
        self.bytes_compared += other.bytes_compared;
        self.files_compared += other.files_compared;
        self.after_crashes += other.after_crashes;
    }
}

/// The mount as one daemon serves it.
pub struct Mounted {
    root: File,
    /// A path to the root that leads to this mount only.
    base: PathBuf,
}

pub struct Worker {
    pub number: u64,
    pub mnt: PathBuf,
    pub store: PathBuf,
    pub random: Rng,
    pub oracle: Oracle,
    pub stats: Stats,
    mounted: Option<Mounted>,
    /// Files without a name, still open.
    pub nameless: Vec<(Fid, File)>,
    /// Contents that were deleted lately: their chunks may be garbage by now.
    pub deleted: VecDeque<Arc<Vec<u8>>>,
    /// For calls that copy between a file and mapped memory.
    pub scratch: File,
}

impl Worker {
    pub fn new(number: u64, seed: u64, mnt: PathBuf, store: PathBuf) -> Self {
        let scratch = rustix::fs::memfd_create("scratch", rustix::fs::MemfdFlags::CLOEXEC);
        // Modes are what the calls ask for.
        rustix::process::umask(rustix::fs::Mode::empty());
        Self {
            number,
            mnt,
            store,
            random: Rng::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(number + 1)),
            oracle: Oracle::default(),
            stats: Stats::default(),
            mounted: None,
            nameless: Vec::new(),
            deleted: VecDeque::new(),
            scratch: File::from(scratch.expect("a file in memory")),
        }
    }

    /// The path of a name in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mounted.as_ref().expect("the mount is open").base.join(name)
    }

    /// The root of the mount as it was opened.
    pub fn root(&self) -> &File {
        &self.mounted.as_ref().expect("the mount is open").root
    }

    /// Does the daemon still answer? Once it does not, it never does again.
    pub fn is_alive(&self) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        let mounted = self.mounted.as_ref();
        mounted.is_some_and(|m| rustix::fs::statx(&m.root, "", flags, StatxFlags::BASIC_STATS).is_ok())
    }

    /// The result of a call that must succeed as long as there is a daemon.
    pub fn ok<T>(&self, what: impl FnOnce() -> String, result: io::Result<T>) -> Res<T> {
        result.map_err(
            |error| {
                if self.is_alive() { Stop::Loss(format!("{}: {error}", what())) } else { Stop::Dead }
            },
        )
    }

    /// Notes a change of names and looks at how it ended: one that met the end of the daemon may be there or not.
    pub fn changed<T>(&mut self, change: Change, result: io::Result<T>) -> Res<T> {
        let what = format!("{change:?}");
        self.oracle.change(change);
        self.ok(|| what, result)
    }

    /// The same for a change of bytes.
    pub fn edited<T>(&mut self, fid: Fid, edit: Edit, result: io::Result<T>) -> Res<T> {
        let what = edit.describe();
        if let Edit::Write { data, .. } = &edit {
            self.stats.bytes_written += data.len() as u64;
        }
        self.oracle.edit(fid, edit);
        match result {
            Ok(value) => Ok(value),
            result => self.ok(|| format!("{what} of inode {fid}:\n    {}", self.oracle.history(fid)), result),
        }
    }

    pub fn count(&mut self, kind: &str) {
        *self.stats.operations.entry(kind.to_owned()).or_default() += 1;
    }

    fn enter(&mut self) -> Res<()> {
        // Between two daemons there is a moment with the host's empty directory in the mount's place.
        let root = match File::open(&self.mnt) {
            Ok(root) if is_mount(&root) => root,
            _ => return Err(Stop::Dead),
        };
        let base = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&root)));
        self.mounted = Some(Mounted { root, base });
        Ok(())
    }

    fn leave(&mut self) {
        for (fid, file) in std::mem::take(&mut self.nameless) {
            drop(file);
            self.oracle.closed(fid);
        }
        self.mounted = None;
    }

    /// Works until it is told to stop.
    fn work(&mut self, orders: &Receiver<Order>) -> Res<()> {
        let mut epoch = self.reopen(orders, None)?;
        loop {
            let step = match orders.try_recv() {
                Ok(Order::Mounted(later)) => {
                    epoch = self.reopen(orders, Some(later))?;
                    continue;
                }
                Ok(Order::Stop) => self.compare_all().map(|()| true),
                Ok(other) => panic!("{other:?} at work in mount {epoch}"),
                Err(TryRecvError::Disconnected) => std::process::exit(3),
                Err(TryRecvError::Empty) => self.step().map(|()| false),
            };
            match step {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(Stop::Dead) => epoch = self.reopen(orders, None)?,
                Err(loss) => return Err(loss),
            }
        }
    }

    /// Waits for a mount and compares what is in it; returns which mount it was.
    fn reopen(&mut self, orders: &Receiver<Order>, mut mounted: Option<u64>) -> Res<u64> {
        loop {
            self.leave();
            let epoch = match mounted.take() {
                Some(epoch) => epoch,
                None => match orders.recv() {
                    Ok(Order::Mounted(epoch)) => epoch,
                    Ok(other) => panic!("{other:?} while there is no mount"),
                    Err(_) => std::process::exit(3),
                },
            };
            match self.enter().and_then(|()| self.compare_after_crash()) {
                Ok(()) => {
                    say(&Word::Verified(epoch));
                    return Ok(epoch);
                }
                Err(Stop::Dead) => {}
                Err(loss) => return Err(loss),
            }
        }
    }

    fn at_the_end(&mut self, orders: &Receiver<Order>) -> Res<()> {
        loop {
            let Ok(order) = orders.recv() else { return Ok(()) };
            match order {
                Order::Compare => {
                    self.enter()?;
                    self.compare_all()?;
                    self.leave();
                    say(&Word::Compared);
                }
                Order::Delete => {
                    self.enter()?;
                    self.delete_all()?;
                    self.leave();
                    say(&Word::Deleted(self.stats.clone()));
                }
                other => panic!("{other:?} at the end"),
            }
        }
    }
}

/// True for what a FUSE daemon serves at this moment.
fn is_mount(root: &File) -> bool {
    // The kernel's FUSE_SUPER_MAGIC.
    const FUSE: i64 = 0x6573_5546;
    rustix::fs::fstatfs(root).is_ok_and(|fs| fs.f_type == FUSE)
}

fn say(word: &Word) {
    let line = serde_json::to_string(word).expect("words can be written");
    let mut out = io::stdout().lock();
    // The coordinator is gone only if it was ended itself.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(3);
    }
}

/// The whole life of a worker's process.
pub fn live(mut worker: Worker) {
    let (sender, orders) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(order) = serde_json::from_str(&line) else { break };
            if sender.send(order).is_err() {
                break;
            }
        }
    });
    let result = worker.work(&orders).and_then(|()| {
        worker.leave();
        say(&Word::Stopped);
        worker.at_the_end(&orders)
    });
    match result {
        Ok(()) => {}
        Err(Stop::Dead) => say(&Word::Loss("the daemon ended, and nobody had killed it".to_owned())),
        Err(Stop::Loss(text)) => say(&Word::Loss(format!("worker {}: {text}", worker.number))),
    }
}

/// The bytes of a file, asked of the daemon and not of the kernel's memory.
pub fn read_anew(file: &mut File) -> io::Result<Vec<u8>> {
    crate::sys::forget_pages(file);
    let mut bytes = Vec::new();
    io::Seek::rewind(file)?;
    io::Read::read_to_end(file, &mut bytes)?;
    Ok(bytes)
}

/// Opens a file of the mount for reading.
pub fn open(path: &std::path::Path) -> io::Result<File> {
    fs::File::open(path)
}
