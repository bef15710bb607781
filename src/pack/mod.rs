//! Packs: append-only files of regions.
//!
//! One [`PackWriter`] writes a pack and seals it at its size limit. After that the pack never changes, except that dead
//! regions can be punched out (I2). `region` and `format` hold the layouts and are pure; `codec` makes records of
//! regions and opens them, `compression` knows the methods; `writer` and `reader` do the I/O, through [`PackStore`]
//! alone, which says where packs are.

pub mod codec;
mod compression;
mod format;
pub mod reader;
pub mod region;
pub mod store;
pub mod writer;

use std::fmt;

pub use codec::Codec;
pub use compression::Compression;
pub use format::{HEADER_LEN, VERSION};
pub use reader::{Damage, PackReader, PackScan};
pub use region::{MAX_CHUNKS, MAX_PLAIN, Region, RegionChunk, RegionHeader};
pub use store::{LocalPacks, PACKS, PackInfo, PackStore};
pub use writer::{Appended, PackWriter, restore};

/// The name of a pack: given once, in increasing order, never reused.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct PackId(pub u64);

impl PackId {
    /// The id given after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// Where a region's record is.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// Of the record's first byte, from the beginning of the file.
    pub offset: u64,
    /// The bytes of the whole record.
    pub len: u32,
}

impl Location {
    /// The offset right after the record.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pack {} at {}+{}", self.pack, self.offset, self.len)
    }
}
