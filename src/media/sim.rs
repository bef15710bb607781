//! A simulated disk for crash and fault tests.
//!
//! It keeps everything in memory and logs every change. So a test can ask for the disk after a power cut before any
//! change ([`SimMedia::cut_at`]), let any call fail ([`SimMedia::fail_op`], [`SimMedia::set_fault`]), run out of space
//! ([`SimMedia::set_capacity`]) or find a byte changed ([`SimMedia::flip_byte`]). It is stricter than common hosts: the
//! name of a new file is lost unless its directory was synced, even if the file was synced.
//!
//! Every choice comes from the seed given to `cut_at`; the same log, number and seed give the same disk.

mod blocks;
mod disk;
mod file;
mod ops;
mod power;
mod state;

pub use ops::{Fault, Op, OpKind, SHORT};
pub use power::Rng;

use std::fmt;
use std::io;
use std::sync::Arc;

use super::{Media, MediaFile, Space};
use blocks::BLOCK;
use disk::{Disk, Node, parent};
use file::SimFile;
use power::{Change, Edit};
use state::{Shared, State, UNLIMITED, errno};

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimMedia {
    state: Shared,
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
        Self { state: Shared::new(Disk::default(), None) }
    }

    /// The disk after power was cut right before change `n`: what was synced is there, of the rest what the seed
    /// chose. It has no faults set and a log of its own. With `n` at [`op_count`](Self::op_count), nothing was cut off.
    pub fn cut_at(&self, n: u64, seed: u64) -> Self {
        let state = self.state.lock();
        let n = usize::try_from(n).map_or(state.log.len(), |n| n.min(state.log.len()));
        Self { state: Shared::new(power::cut(&state.base, &state.log[..n], seed), state.capacity) }
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

    fn handle(&self, state: &mut State, ino: u64, path: &str, writable: bool) -> Arc<dyn MediaFile> {
        *state.open.entry(ino).or_insert(0) += 1;
        Arc::new(SimFile { disk: self.state.clone(), ino, path: path.to_owned(), writable })
    }
}

impl Media for SimMedia {
    fn create(&self, path: &str) -> io::Result<Arc<dyn MediaFile>> {
        self.state.run(OpKind::Create, path, (0, 0), |state| {
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
        self.state.run(OpKind::Open, path, (0, 0), |state| {
            let ino = state.file(path)?;
            Ok(self.handle(state, ino, path, writable))
        })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.state.run(OpKind::Exists, path, (0, 0), |state| Ok(state.live.names.contains_key(path)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.state.run(OpKind::List, dir, (0, 0), |state| {
            state.check_dir(dir)?;
            let below = state.live.names.keys().filter(|path| parent(path) == dir);
            Ok(below.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
        })
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.state.run(OpKind::Mkdir, dir, (0, 0), |state| {
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
        self.state.run(OpKind::Remove, path, (0, 0), |state| {
            let ino = state.file(path)?;
            state.names(Change::Remove { path: path.to_owned() });
            state.release(ino);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state.run(OpKind::Rename, from, (0, 0), |state| {
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
        self.state.run(OpKind::Link, from, (0, 0), |state| {
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
        self.state.run(OpKind::SyncDir, dir, (0, 0), |state| {
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
