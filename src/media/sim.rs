//! A simulated disk for crash and fault tests.
//!
//! It keeps everything in memory and logs every change. So a test can ask for the disk after a power cut before any
//! change ([`SimMedia::cut_at`]), let any call fail ([`SimMedia::fail_op`], [`SimMedia::set_fault`]), run out of space
//! ([`SimMedia::set_capacity`]) or find a byte changed ([`SimMedia::flip_byte`]). It is stricter than common hosts: the
//! name of a new file is lost unless its directory was synced, even if the file was synced.
//!
//! Every choice comes from the seed given to `cut_at`; the same log, number and seed give the same disk.

mod blocks;
mod file;
mod power;

pub use power::Rng;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Media, MediaFile, Space};
use blocks::{BLOCK, Blocks};
use file::SimFile;
use power::{Change, Edit};

/// The size that a disk without a limit reports.
const UNLIMITED: u64 = 1 << 40;

/// What an operation is. Those that change something, or make it durable, are numbered by [`SimMedia::op_count`]; the
/// others, from `Open` on, by [`SimMedia::query_count`].
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[expect(missing_docs, reason = "each is the method of that name")]
pub enum OpKind {
    Create,
    Mkdir,
    Remove,
    Rename,
    Link,
    SyncDir,
    Write,
    SetLen,
    Allocate,
    Punch,
    Sync,
    Open,
    Exists,
    List,
    Read,
    Len,
}

impl OpKind {
    /// Whether it changes something or makes it durable.
    pub fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::Exists | Self::List | Self::Read | Self::Len)
    }
}

/// An operation about to happen, as a fault hook sees it.
#[derive(Clone, Debug)]
pub struct Op {
    /// What it is.
    pub kind: OpKind,
    /// The file or directory; for an open file the path it was opened by; for a rename or link the old name.
    pub path: String,
    /// Where in the file, or the new length.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Its number among the changes or among the queries. Exact while one thread works on the disk.
    pub number: u64,
}

/// Decides whether an operation fails, and with which errno. Called without any lock held; it may look at the disk.
pub type Fault = dyn Fn(&Op) -> Option<i32> + Send + Sync;

/// A fault in place of an errno: a read comes to the end too early; of a write, half of its sectors are written, and then
/// it fails with EIO.
pub const SHORT: i32 = 0;

/// What a name stands for.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(in crate::media) enum Node {
    File(u64),
    Dir,
}

/// Names and bytes.
#[derive(Clone, Debug, Default)]
struct Disk {
    names: BTreeMap<String, Node>,
    files: BTreeMap<u64, Blocks>,
}

impl Disk {
    /// Drops names whose directory is not there and files that have no name.
    fn drop_unreachable(&mut self) {
        // Parents come before their children in the order of the names.
        let mut dirs = HashSet::from([String::new()]);
        let mut inodes = HashSet::new();
        self.names.retain(|path, node| {
            let kept = dirs.contains(parent(path));
            match node {
                Node::Dir if kept => {
                    dirs.insert(path.clone());
                }
                Node::File(ino) if kept => {
                    inodes.insert(*ino);
                }
                _ => {}
            }
            kept
        });
        self.files.retain(|ino, _| inodes.contains(ino));
    }
}

/// The directory a path is in.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

struct State {
    /// What a running process sees.
    live: Disk,
    /// How often each inode is open: the space of a removed file is taken until it is closed.
    open: HashMap<u64, u32>,
    next_ino: u64,
    /// The safe disk that the log starts from.
    base: Disk,
    log: Vec<Change>,
    queries: u64,
    fail_ops: HashMap<u64, i32>,
    fail_queries: HashMap<u64, i32>,
    fault: Option<Arc<Fault>>,
    capacity: Option<u64>,
    /// Bytes that can be allocated, although more are reported as free.
    quota: Option<u64>,
}

impl State {
    fn used(&self) -> u64 {
        self.live.files.values().map(Blocks::allocated).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.unwrap_or(UNLIMITED).saturating_sub(self.used())
    }

    /// Bytes that can still be taken.
    fn room(&self) -> u64 {
        self.free().min(self.quota.unwrap_or(UNLIMITED).saturating_sub(self.used()))
    }

    /// The error if there are too few.
    fn full(&self) -> io::Error {
        let by_quota = self.quota.is_some() && self.room() < self.free();
        errno(if by_quota { libc::EDQUOT } else { libc::ENOSPC })
    }

    fn file(&self, path: &str) -> io::Result<u64> {
        match self.live.names.get(path) {
            Some(Node::File(ino)) => Ok(*ino),
            Some(Node::Dir) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    fn check_dir(&self, dir: &str) -> io::Result<()> {
        match self.live.names.get(dir) {
            _ if dir.is_empty() => Ok(()),
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(errno(libc::ENOTDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Logs a change of names and makes it.
    fn names(&mut self, change: Change) {
        change.apply_names(&mut self.live);
        self.log.push(change);
    }

    /// Logs a change of bytes and makes it.
    fn edit(&mut self, ino: u64, edit: Edit) {
        edit.apply(self.live.files.entry(ino).or_default());
        self.log.push(Change::Data { ino, edit });
    }

    /// Frees a file that has neither a name nor a handle.
    fn release(&mut self, ino: u64) {
        let named = self.live.names.values().any(|node| *node == Node::File(ino));
        if !named && !self.open.contains_key(&ino) {
            self.live.files.remove(&ino);
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimMedia {
    state: Arc<Mutex<State>>,
}

impl Default for SimMedia {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SimMedia")
            .field("names", &state.live.names)
            .field("ops", &state.log.len())
            .finish_non_exhaustive()
    }
}

impl SimMedia {
    /// An empty disk without a limit.
    pub fn new() -> Self {
        Self::from_disk(Disk::default(), None)
    }

    fn from_disk(disk: Disk, capacity: Option<u64>) -> Self {
        let next_ino = disk.files.last_key_value().map_or(1, |(ino, _)| ino + 1);
        Self {
            state: Arc::new(Mutex::new(State {
                base: disk.clone(),
                live: disk,
                open: HashMap::new(),
                next_ino,
                log: Vec::new(),
                queries: 0,
                fail_ops: HashMap::new(),
                fail_queries: HashMap::new(),
                fault: None,
                capacity,
                quota: None,
            })),
        }
    }

    /// The disk after power was cut right before change `n`: what was synced is there, of the rest what the seed
    /// chose. It has no faults set and a log of its own. With `n` at [`op_count`](Self::op_count), nothing was cut off.
    pub fn cut_at(&self, n: u64, seed: u64) -> Self {
        let state = self.state.lock();
        let n = usize::try_from(n).map_or(state.log.len(), |n| n.min(state.log.len()));
        Self::from_disk(power::cut(&state.base, &state.log[..n], seed), state.capacity)
    }

    /// How many changes there were so far, failed ones included.
    pub fn op_count(&self) -> u64 {
        self.state.lock().log.len() as u64
    }

    /// How many queries there were so far.
    pub fn query_count(&self) -> u64 {
        self.state.lock().queries
    }

    /// Lets change `n` fail, once.
    pub fn fail_op(&self, n: u64, errno: i32) {
        self.state.lock().fail_ops.insert(n, errno);
    }

    /// Lets query `n` fail, once.
    pub fn fail_query(&self, n: u64, errno: i32) {
        self.state.lock().fail_queries.insert(n, errno);
    }

    /// Asks `fault` before every operation, in place of an earlier hook.
    pub fn set_fault(&self, fault: Box<Fault>) {
        self.state.lock().fault = Some(fault.into());
    }

    /// Removes all faults: those of the hook and those that have not happened yet.
    pub fn clear_faults(&self) {
        let mut state = self.state.lock();
        state.fault = None;
        state.fail_ops.clear();
        state.fail_queries.clear();
    }

    /// Limits the bytes all files together can take; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Limits the bytes that all files together can take. No figure shows this limit.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.state.lock().quota = bytes;
    }

    /// The bytes all files together take.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// Flips a bit of a file's byte, for ever. Counts as a change.
    pub fn flip_byte(&self, path: &str, offset: u64) {
        let mut state = self.state.lock();
        let ino = state.file(path).expect("a byte is flipped in a file that exists");
        state.edit(ino, Edit::Flip(offset));
    }

    /// Every file with its length, by name.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        let names = state.live.names.iter();
        names
            .filter_map(|(path, node)| match node {
                Node::File(ino) => Some((path.clone(), state.live.files[ino].len())),
                Node::Dir => None,
            })
            .collect()
    }

    /// The bytes of a file.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let ino = state.file(path).ok()?;
        Some(state.live.files[&ino].to_vec())
    }

    /// Asks for faults, then runs `act` with the disk. A failed change keeps its number.
    fn run<T>(
        &self,
        kind: OpKind,
        path: &str,
        range: (u64, u64),
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.run_or(kind, path, range, Change::Nothing, act)
    }

    /// Like [`run`](Self::run); `failed` is what a change that failed leaves in the log.
    fn run_or<T>(
        &self,
        kind: OpKind,
        path: &str,
        (offset, len): (u64, u64),
        failed: Change,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let (mut op, hook) = {
            let state = self.state.lock();
            let number = if kind.is_change() { state.log.len() as u64 } else { state.queries };
            let op = Op { kind, path: path.to_owned(), offset, len, number };
            (op, state.fault.clone())
        };
        let hooked = hook.and_then(|hook| hook(&op));
        let mut state = self.state.lock();
        let planned = if kind.is_change() {
            op.number = state.log.len() as u64;
            state.fail_ops.remove(&op.number)
        } else {
            op.number = state.queries;
            state.queries += 1;
            state.fail_queries.remove(&op.number)
        };
        let result = match hooked.or(planned) {
            Some(SHORT) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(number) => Err(errno(number)),
            None => act(&mut state),
        };
        if kind.is_change() && state.log.len() as u64 == op.number {
            state.log.push(failed);
        }
        result
    }

    fn handle(&self, state: &mut State, ino: u64, path: &str, writable: bool) -> Arc<dyn MediaFile> {
        *state.open.entry(ino).or_insert(0) += 1;
        Arc::new(SimFile { media: self.clone(), ino, path: path.to_owned(), writable })
    }
}

impl Media for SimMedia {
    fn create(&self, path: &str) -> io::Result<Arc<dyn MediaFile>> {
        self.run(OpKind::Create, path, (0, 0), |state| {
            state.check_dir(parent(path))?;
            if state.live.names.contains_key(path) {
                return Err(errno(libc::EEXIST));
            }
            let ino = state.next_ino;
            state.next_ino += 1;
            state.names(Change::Create { path: path.to_owned(), ino });
            Ok(self.handle(state, ino, path, true))
        })
    }

    fn open(&self, path: &str, writable: bool) -> io::Result<Arc<dyn MediaFile>> {
        self.run(OpKind::Open, path, (0, 0), |state| {
            let ino = state.file(path)?;
            Ok(self.handle(state, ino, path, writable))
        })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.run(OpKind::Exists, path, (0, 0), |state| Ok(state.live.names.contains_key(path)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.run(OpKind::List, dir, (0, 0), |state| {
            state.check_dir(dir)?;
            let below = state.live.names.keys().filter(|path| parent(path) == dir);
            Ok(below.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
        })
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.run(OpKind::Mkdir, dir, (0, 0), |state| {
            state.check_dir(parent(dir))?;
            match state.live.names.get(dir) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(errno(libc::ENOTDIR)),
                None => state.names(Change::Mkdir { dir: dir.to_owned() }),
            }
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.run(OpKind::Remove, path, (0, 0), |state| {
            let ino = state.file(path)?;
            state.names(Change::Remove { path: path.to_owned() });
            state.release(ino);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.run(OpKind::Rename, from, (0, 0), |state| {
            let ino = state.file(from)?;
            state.check_dir(parent(to))?;
            let replaced = match state.file(to) {
                Ok(ino) => Some(ino),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
                Err(error) => return Err(error),
            };
            if replaced != Some(ino) {
                state.names(Change::Rename {
                    from: from.to_owned(),
                    to: to.to_owned(),
                    node: Node::File(ino),
                });
                replaced.into_iter().for_each(|ino| state.release(ino));
            }
            Ok(())
        })
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.run(OpKind::Link, from, (0, 0), |state| {
            let ino = state.file(from)?;
            state.check_dir(parent(to))?;
            if state.live.names.contains_key(to) {
                return Err(errno(libc::EEXIST));
            }
            state.names(Change::Link { to: to.to_owned(), node: Node::File(ino) });
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.run(OpKind::SyncDir, dir, (0, 0), |state| {
            state.check_dir(dir)?;
            state.log.push(Change::SyncDir { dir: dir.to_owned() });
            Ok(())
        })
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state.lock();
        let free = state.free();
        Ok(Space {
            block_size: BLOCK,
            total: state.capacity.unwrap_or(UNLIMITED),
            free,
            available: free,
            files: 1 << 20,
            files_free: (1 << 20) - state.live.names.len() as u64,
            hidden_limit: state.quota.is_some(),
        })
    }
}

#[cfg(test)]
mod tests;
