//! Packs: append-only files of regions.
//!
//! A pack is written by one [`PackWriter`], is sealed at its size limit, and from then on never changes but for dead
//! regions being punched out (I2). `region` and `format` hold the layouts and are pure; `writer` and `reader` do the
//! I/O, through [`Media`] alone.

mod format;
pub mod reader;
pub mod region;
pub mod writer;

use std::fmt;

use crate::error::{Error, Result};
use crate::media::Media;

pub use format::{HEADER_LEN, VERSION};
pub use reader::{Damage, PackReader, PackScan};
pub use region::{
    Compression, MAX_CHUNKS, MAX_PLAIN, Region, RegionChunk, RegionHeader, decode_header, decode_region,
    encode_region, head_len,
};
pub use writer::PackWriter;

/// The directory of all packs.
pub const PACKS: &str = "packs";
/// How many directories below it the packs are spread over.
const FAN_OUT: u64 = 0x1000;

/// The name of a pack: given once, in increasing order, never reused.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct PackId(pub u64);

impl PackId {
    /// The id given after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The directory the pack is in: `packs/00c`.
    pub fn dir(self) -> String {
        format!("{PACKS}/{:03x}", self.0 % FAN_OUT)
    }

    /// The pack's file: `packs/00c/00000000000c.pack`.
    pub fn path(self) -> String {
        format!("{}/{:012x}.pack", self.dir(), self.0)
    }

    /// The pack a file is by its name without directories; none for a name no pack has.
    pub fn from_name(name: &str) -> Option<Self> {
        let id = u64::from_str_radix(name.strip_suffix(".pack")?, 16).ok()?;
        // The way back refuses signs, capitals and missing zeros.
        (format!("{id:012x}.pack") == name).then_some(Self(id))
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

/// Every pack file there is, in the order of the ids. Files that are no packs, or are in a directory where their pack
/// would not be looked for, are left out.
pub fn list_packs(media: &dyn Media) -> Result<Vec<PackId>> {
    let list = |dir: &str| media.list(dir).map_err(|error| Error::io(format!("listing {dir}"), error));
    let mut packs = Vec::new();
    for name in list(PACKS)? {
        // A file that someone left between the directories is none of ours to read.
        if name.len() != 3 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        let dir = format!("{PACKS}/{name}");
        let found = list(&dir)?;
        packs
            .extend(found.iter().filter_map(|name| PackId::from_name(name)).filter(|pack| pack.dir() == dir));
    }
    packs.sort_unstable();
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::sim::SimMedia;

    #[test]
    fn names_go_there_and_back() {
        assert_eq!(PackId(0x1234).path(), "packs/234/000000001234.pack");
        assert_eq!(PackId::from_name("000000001234.pack"), Some(PackId(0x1234)));
        let large = PackId(u64::MAX);
        assert_eq!(large.path(), "packs/fff/ffffffffffffffff.pack");
        assert_eq!(PackId::from_name("ffffffffffffffff.pack"), Some(large));
        for name in
            ["1234.pack", "00000000123A.pack", "+00000001234.pack", "000000001234", "000000001234.tmp", ""]
        {
            assert_eq!(PackId::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn only_packs_in_their_own_directories_are_listed() {
        let media = SimMedia::new();
        for dir in ["packs", "packs/001", "packs/002", "packs/lost+found"] {
            media.mkdir(dir).unwrap();
        }
        for pack in [PackId(0x1001), PackId(2), PackId(1)] {
            media.create(&pack.path()).unwrap();
        }
        media.create("packs/002/000000000001.pack").unwrap();
        media.create("packs/002/note").unwrap();
        media.create("packs/note").unwrap();
        assert_eq!(list_packs(&media).unwrap(), [PackId(1), PackId(2), PackId(0x1001)]);
    }
}
