//! Where packs are kept: made, read by ranges, listed, removed.
//!
//! [`PackStore`] is all that packs ask of what keeps them. It is apart from [`Media`](crate::media::Media), which
//! the database and the other files of a store need: so an object store can keep packs without writing over bytes, without
//! names that are renamed or synced, and without holes. What differs is asked for:
//! [`PackStore::grows_after_sync`], [`PackStore::can_punch`].
//!
//! Each keeps true:
//! * a name stands for one pack for ever: [`PackStore::create`] never touches one that is there (I2);
//! * what was appended can be read at once, synced or not;
//! * after [`NewPack::sync`] and [`PackStore::sync_names`] returned without error, what was appended before is there after
//!   a power cut (I1); a failure of either is final (I8).
//!
//! Errors are those of the host as they are, so that a pack that is gone (`NotFound`), a refusal and a full disk are told
//! apart; who calls says what failed. `list` and `sync_names`, which do more than one thing, say it themselves.

mod local;
#[cfg(any(test, feature = "sim"))]
mod memory;

use std::fmt::Debug;
use std::io;

use super::PackId;
use crate::error::{Error, Result};
use crate::sync::Arc;

pub use local::{LocalPacks, PACKS};
#[cfg(any(test, feature = "sim"))]
pub use memory::MemoryPacks;

/// What keeps packs.
pub trait PackStore: Send + Sync + Debug {
    /// Begins a pack; none where there is one of this name.
    fn create(&self, pack: PackId) -> io::Result<Option<Arc<dyn NewPack>>>;

    /// Opens a pack that a power cut may have cut off, or lost, to append once more what had been appended to it before; one
    /// that is not there is made. Only where [`Self::grows_after_sync`].
    fn reopen(&self, pack: PackId) -> io::Result<Arc<dyn NewPack>>;

    /// Opens a pack for reading, also one that is still written to. Whoever has it open may read it to the end even if it
    /// is removed meanwhile, or fails with an error that is no damage.
    fn open(&self, pack: PackId) -> io::Result<Arc<dyn StoredPack>>;

    /// All packs there are, in the order of their ids. Those that are still written to may be missing.
    fn list(&self) -> Result<Vec<PackId>>;

    /// The size of a pack.
    fn info(&self, pack: PackId) -> io::Result<PackInfo>;

    /// The sizes of all packs, in the order of their ids.
    fn infos(&self) -> Result<Vec<PackInfo>> {
        let info = |pack| {
            self.info(pack).map_err(|error| Error::io(format!("looking at {}", self.name(pack)), error))
        };
        self.list()?.into_iter().map(info).collect()
    }

    /// Makes durable under which names the packs are found that were made before.
    fn sync_names(&self) -> Result<()>;

    /// Whether a pack that was synced may still be appended to. Where it may not, it has to be sealed before it is synced:
    /// an object is put once, and whole.
    fn grows_after_sync(&self) -> bool;

    /// Removes a pack. Its space is free once nobody who has opened it reads any more.
    fn remove(&self, pack: PackId) -> io::Result<()>;

    /// Whether a part of a pack can be given back.
    fn can_punch(&self) -> bool;

    /// Turns a range of a pack into zeros and gives its space back; false where that turns out not to be possible, and then
    /// nothing changed.
    fn punch(&self, pack: PackId, offset: u64, len: u64) -> io::Result<bool>;

    /// What messages call a pack.
    fn name(&self, pack: PackId) -> String;
}

/// A pack that is written to, by one thread at a time.
pub trait NewPack: Send + Sync + Debug {
    /// Writes at `offset`, which is where all that was appended before ends. After an error nothing of `data` counts: the
    /// next call comes with the same offset.
    fn append(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Appends what ends the pack; nothing that a failed call may have left comes after it. After an error the pack is not
    /// sealed, and as it was.
    fn seal(&self, offset: u64, footer: &[u8]) -> io::Result<()>;

    /// Makes durable what was appended before. Appends may go on meanwhile.
    fn sync(&self) -> io::Result<()>;
}

/// A pack that is read.
pub trait StoredPack: Send + Sync + Debug {
    /// Fills the buffer from `offset`; `UnexpectedEof` where the pack is too short.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// The size of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Which one.
    pub id: PackId,
    /// Its length in bytes, holes included.
    pub len: u64,
    /// The bytes that come free if it is removed.
    pub taken: u64,
}
