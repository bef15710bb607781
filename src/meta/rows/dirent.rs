//! Directory entries: the inode of a name, and the order in which a directory is read.
//!
//! Entries are in the order of a keyed hash of their names, and the hash is the readdir cookie. A cookie therefore
//! stays valid while other entries are added and removed, as in ext4's hashed directories.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};
use crate::meta::varint;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// The hash of names, keyed by the store so that nobody can choose names that collide.
#[derive(Debug, Clone, Copy)]
pub struct NameHash {
    seed: u64,
}

impl NameHash {
    /// Hashes below this are for "." and "..".
    pub const FIRST: u64 = 16;

    /// The hash of one store.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// 63 bits, since the kernel's directory offsets are signed; never below [`Self::FIRST`].
    pub fn of(self, name: &[u8]) -> u64 {
        (xxh3_64_with_seed(name, self.seed) >> 1).max(Self::FIRST)
    }
}

/// The inode of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirentRow {
    /// The inode.
    pub ino: u64,
    /// Its type, as the S_IFMT bits of a mode.
    pub kind: u32,
}

impl DirentRow {
    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8);
        out.push((self.kind >> 12) as u8);
        varint::put(&mut out, self.ino);
        out
    }

    /// The row from its bytes.
    pub fn decode(mut from: &[u8]) -> Result<Self> {
        let (&kind, rest) = from.split_first().ok_or_else(|| Error::damaged("a directory entry is empty"))?;
        from = rest;
        let ino = varint::take(&mut from)?;
        if !from.is_empty() || kind > 0xf {
            return Err(Error::damaged("a directory entry does not decode"));
        }
        Ok(Self { ino, kind: u32::from(kind) << 12 })
    }
}
