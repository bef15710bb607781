//! What all handles of one simulated disk share, and the one way to it: each operation is numbered, meets the faults
//! that are set, and is logged.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::blocks::Blocks;
use super::disk::{Disk, Node};
use super::ops::{Fault, Op, OpKind, SHORT};
use super::power::{Change, Edit};

/// The size that a disk without a limit reports.
pub const UNLIMITED: u64 = 1 << 40;

/// The disk, its log and the faults that are set.
pub struct State {
    /// What a running process sees.
    pub live: Disk,
    /// How often each inode is open: the space of a removed file is taken until it is closed.
    pub open: HashMap<u64, u32>,
    pub next_ino: u64,
    /// The safe disk that the log starts from.
    pub base: Disk,
    pub log: Vec<Change>,
    pub queries: u64,
    pub fail_ops: HashMap<u64, i32>,
    pub fail_queries: HashMap<u64, i32>,
    pub fault: Option<Arc<Fault>>,
    pub capacity: Option<u64>,
    /// Bytes that can be allocated, although more are reported as free.
    pub quota: Option<u64>,
}

impl State {
    pub fn used(&self) -> u64 {
        self.live.files.values().map(Blocks::allocated).sum()
    }

    pub fn free(&self) -> u64 {
        self.capacity.unwrap_or(UNLIMITED).saturating_sub(self.used())
    }

    /// Bytes that can still be taken.
    pub fn room(&self) -> u64 {
        self.free().min(self.quota.unwrap_or(UNLIMITED).saturating_sub(self.used()))
    }

    /// The error if there are too few.
    pub fn full(&self) -> io::Error {
        let by_quota = self.quota.is_some() && self.room() < self.free();
        errno(if by_quota { libc::EDQUOT } else { libc::ENOSPC })
    }

    pub fn file(&self, path: &str) -> io::Result<u64> {
        match self.live.names.get(path) {
            Some(Node::File(ino)) => Ok(*ino),
            Some(Node::Dir) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    pub fn check_dir(&self, dir: &str) -> io::Result<()> {
        match self.live.names.get(dir) {
            _ if dir.is_empty() => Ok(()),
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(errno(libc::ENOTDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Logs a change of names and makes it.
    pub fn names(&mut self, change: Change) {
        change.apply_names(&mut self.live);
        self.log.push(change);
    }

    /// Logs a change of bytes and makes it.
    pub fn edit(&mut self, ino: u64, edit: Edit) {
        edit.apply(self.live.files.entry(ino).or_default());
        self.log.push(Change::Data { ino, edit });
    }

    /// Frees a file that has neither a name nor a handle.
    pub fn release(&mut self, ino: u64) {
        let named = self.live.names.values().any(|node| *node == Node::File(ino));
        if !named && !self.open.contains_key(&ino) {
            self.live.files.remove(&ino);
        }
    }
}

/// The error of an errno.
pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    /// A disk with this on it, no faults set, and a log of its own.
    pub fn new(disk: Disk, capacity: Option<u64>) -> Self {
        let next_ino = disk.files.last_key_value().map_or(1, |(ino, _)| ino + 1);
        Self(Arc::new(Mutex::new(State {
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
        })))
    }

    /// Looks at the disk beside all operations.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Asks for faults, then runs `act` with the disk. A failed change keeps its number.
    pub fn run<T>(
        &self,
        kind: OpKind,
        path: &str,
        range: (u64, u64),
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.run_or(kind, path, range, Change::Nothing, act)
    }

    /// Like [`run`](Self::run); `failed` is what a change that failed leaves in the log.
    pub fn run_or<T>(
        &self,
        kind: OpKind,
        path: &str,
        (offset, len): (u64, u64),
        failed: Change,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let (mut op, hook) = {
            let state = self.0.lock();
            let number = if kind.is_change() { state.log.len() as u64 } else { state.queries };
            let op = Op { kind, path: path.to_owned(), offset, len, number };
            (op, state.fault.clone())
        };
        let hooked = hook.and_then(|hook| hook(&op));
        let mut state = self.0.lock();
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
}
