//! The filesystem: POSIX semantics over the store, and nothing of any protocol.
//!
//! Which file has what: `names` and `rename` change directories, `dir` reads them, `attr` sets attributes, `write`,
//! `dirty`, `flush`, `recut` and `sync` take bytes to the store, `read` brings them back, `range` works on stretches of files,
//! `holes` takes some out, `extents` works on their rows, `rows` knows where rows stand, `subvolumes` clones and drops
//! whole trees, `xattr` works on attributes, `orphans` removes what has no name any
//! more, `settings` keeps what an administrator wants of a directory, `groups` makes new directories in a group snapshots,
//! `protected` knows which subvolumes do not change, `tree_lock` says which changes of names go side by side, `locked`
//! locks directories together with what is in them.
//!
//! Lock order: the tree lock, then inodes by rising number, then membership in a batch. Nothing waits for an inode
//! or for memory while it is a member.

mod acl;
mod attr;
mod dir;
mod dirty;
mod extents;
mod flush;
mod groups;
mod holes;
mod inode;
mod locked;
mod names;
mod orphans;
mod patched;
mod protected;
mod range;
mod read;
mod recut;
mod rename;
mod rows;
mod settings;
#[cfg(all(test, feature = "sim"))]
mod simulated;
mod staging;
mod subvolumes;
mod sync;
mod tree_lock;
mod types;
mod write;
mod xattr;

use std::time::Duration;

use crate::error::{Error, Result};
use crate::meta::rows::{DirentRow, InodeRow, NameHash, Times, id_key};
use crate::meta::{Counter, Layers, Table};
use crate::store::{Member, Store};
use crate::sync::Arc;

pub use groups::Complete;
pub use settings::Setting;
pub use subvolumes::known::{DroppedInfo, HeldBy, SubvolumeInfo};
pub use types::{
    APPEND_ONLY, Access, AccessTimes, Attr, Caller, DirEntry, FsStat, IMMUTABLE, LINK_MAX, NAME_MAX,
    NO_ATIME, NO_DUMP, NameSpace, PROTECTING, ROOT_INO, RenameFlags, SIZE_MAX, SetAttr, SetTime, Timestamp,
    is_namespace,
};

use dirty::Dirty;
use inode::{Inode, InodeTable};
use orphans::known::Orphans;
use protected::known::Protected;
use recut::waiting::Recuts;
use rows::Rows;
use subvolumes::dropped::Dropped;
use subvolumes::wishes::Wishes;
use sync::background::Background;
use tree_lock::TreeLock;

/// The options of a mount that affect semantics.
#[derive(Debug, Clone)]
pub struct FsOptions {
    /// The interval of the commits that make written data durable.
    pub commit_interval: Duration,
    /// How reading changes access times.
    pub atime: AccessTimes,
    /// Bytes that may be staged before writers wait.
    pub staging_limit: u64,
    /// A deleted file with at most this many extents and attributes is removed at once; one with more, by the queue.
    pub immediate_removal_limit: usize,
    /// Extents of a file that one step truncates, punches or copies.
    pub extents_per_step: usize,
}

/// The usual [`FsOptions::immediate_removal_limit`].
pub const IMMEDIATE_REMOVAL_LIMIT: usize = 64;

impl Default for FsOptions {
    fn default() -> Self {
        let commit_interval = Duration::from_secs(5);
        Self {
            commit_interval,
            atime: AccessTimes::Relative,
            staging_limit: 64 << 20,
            immediate_removal_limit: IMMEDIATE_REMOVAL_LIMIT,
            extents_per_step: 4096,
        }
    }
}

/// The filesystem of one open store.
pub struct Fs {
    /// Immutable.
    store: Arc<Store>,
    options: FsOptions,
    hash: NameHash,

    inodes: InodeTable,
    /// First in the lock order.
    tree: TreeLock,
    protected: Protected,
    dirty: Dirty,
    recuts: Recuts,
    orphans: Orphans,
    dropped: Dropped,
    wishes: Wishes,
    background: Background,
}

impl Fs {
    /// The filesystem of `store`; makes the root directory in a new one, and starts the threads of the background.
    pub fn new(store: Arc<Store>, options: FsOptions) -> Result<Arc<Self>> {
        let fs = Arc::new(Self {
            hash: store.name_hash(),
            store,
            options,
            inodes: InodeTable::default(),
            tree: TreeLock::default(),
            protected: Protected::default(),
            dirty: Dirty::default(),
            recuts: Recuts::default(),
            orphans: Orphans::default(),
            dropped: Dropped::default(),
            wishes: Wishes::default(),
            background: Background::default(),
        });
        if fs.store.layers().get(Table::Inodes, &id_key(ROOT_INO))?.is_none() {
            fs.make_root()?;
        }
        fs.find_subvolumes()?;
        fs.start_background()?;
        Ok(fs)
    }

    fn make_root(&self) -> Result<()> {
        let now = Timestamp::now();
        let row = InodeRow {
            mode: libc::S_IFDIR | 0o755,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            nlink: 2,
            parent: ROOT_INO,
            generation: self.store.generation(),
            times: Times::all(now),
            ..InodeRow::default()
        };
        let member = self.store.batches.join()?;
        member.rows.put(Table::Inodes, &id_key(ROOT_INO), &row.encode());
        member.rows.count(Counter::Inodes, 1);
        drop(member);
        self.store.commits.commit()
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The store's present generation.
    pub fn generation(&self) -> u64 {
        self.store.generation()
    }

    /// Space of the host file system and counts of inodes.
    pub fn statfs(&self) -> Result<FsStat> {
        let space = self.store.host_space()?;
        let block = space.block_size.max(512);
        let inodes = self.store.commits.counter(Counter::Inodes) + self.store.count_subvolumes()?.inodes;
        // Inodes have no fixed number: as many as the free space could hold rows for.
        let room = space.available / 512;
        Ok(FsStat {
            blocks: space.total / block,
            bfree: space.free / block,
            bavail: space.available / block,
            files: inodes + room,
            ffree: room,
            bsize: block as u32,
            frsize: block as u32,
            namelen: NAME_MAX as u32,
        })
    }

    fn layers(&self) -> Arc<Layers> {
        self.store.layers()
    }

    fn inode(&self, ino: u64) -> Result<Arc<Inode>> {
        self.inodes.get(ino, || {
            let layers = self.layers();
            let row = Rows::at(&layers).inode(ino)?.ok_or(Error::Posix(libc::ENOENT))?;
            // Not older than any of the layers.
            Ok((row, self.store.batches.open_number()))
        })
    }

    /// Joins the open batch, after the locks of inodes were taken. If the batch is already large, waits first.
    fn join(&self) -> Result<Member> {
        self.limit_batch()?;
        self.store.batches.join()
    }

    /// Refuses with ENOSPC where not even a row of metadata would find room.
    fn claim_row(&self) -> Result<()> {
        self.store.claim_space(512, self.dirty.bytes())
    }

    /// The entry of a name in a directory.
    fn entry(&self, layers: &Layers, parent: u64, name: &[u8]) -> Result<Option<DirentRow>> {
        Rows::at(layers).entry(parent, self.hash.of(name), name)
    }
}

/// A refusal with this errno.
fn posix<T>(errno: i32) -> Result<T> {
    Err(Error::Posix(errno))
}

/// Refuses invalid names.
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return posix(libc::ENAMETOOLONG);
    }
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return posix(libc::EINVAL);
    }
    if name == b"." || name == b".." {
        return posix(libc::EEXIST);
    }
    Ok(())
}
