//! The file of a metadata backup: the rows that packs do not contain, in the order of their keys.
//!
//! Layout (docs/format.md has the table): a head of 64 bytes; blocks of about a megabyte of rows, each compressed and
//! with a checksum over its number and its bytes; a block without rows; a trailer with the number of rows and their
//! bytes. A file that is not complete up to its trailer is not a backup.

use std::ops::Bound;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};
use crate::media::MediaFile;
use crate::sabotage::{Protection, out};

use super::kv::{ReadView, Row, Table};
use super::varint;

const MAGIC: [u8; 8] = *b"CAIRNMB1";
const HEAD: usize = size_of::<FileHead>();
const BLOCK_HEAD: usize = size_of::<BlockHead>();
const TRAILER: usize = size_of::<Trailer>();
/// Plain bytes at which a block is closed.
const BLOCK: usize = 1 << 20;
/// No block has more plain bytes: one row is at most a few hundred KiB.
const MAX_BLOCK: usize = 16 << 20;
const LEVEL: i32 = 1;
/// A seed that is no block's number.
const SEED_OF_ENDS: u64 = u64::MAX;

/// The tables in a backup. Regions and digests are in the packs.
pub const TABLES: [Table; 12] = [
    Table::Inodes,
    Table::Dirents,
    Table::Xattrs,
    Table::Extents,
    Table::Orphans,
    Table::State,
    Table::Versions,
    Table::Subvolumes,
    Table::SubInodes,
    Table::SubDirents,
    Table::SubXattrs,
    Table::SubExtents,
];

/// The beginning of the file. Each sum is of what stands before it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileHead {
    magic: [u8; 8],
    store: [u8; 16],
    generation: U64,
    reserved: [u8; 24],
    sum: U64,
}

/// The beginning of a block. The sum is of the whole block, with nothing in its own place.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BlockHead {
    /// Bytes of the rows; 0 in the last block.
    plain: U32,
    /// Bytes that follow.
    payload: U32,
    sum: U64,
}

/// The end of the file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Trailer {
    rows: U64,
    plain: U64,
    sum: U64,
}

/// The store and generation of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The store's uuid.
    pub store: [u8; 16],
    /// The generation at the time of the backup.
    pub generation: u64,
}

/// How much a backup has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: u64,
    /// Bytes of keys and values.
    pub plain: u64,
    /// Bytes of the file.
    pub stored: u64,
}

fn failed(error: std::io::Error) -> Error {
    Error::io("metadata backup", error)
}

fn damaged(what: &str) -> Error {
    Error::damaged(format!("metadata backup: {what}"))
}

/// The sum of a head or trailer, which ends it.
fn sum_of_end(end: &(impl IntoBytes + Immutable)) -> u64 {
    let bytes = end.as_bytes();
    xxh3_64_with_seed(&bytes[..bytes.len() - 8], SEED_OF_ENDS)
}

/// Writes all rows of `view` into an empty file, and syncs it. `go_on` is asked after each block.
pub fn write(
    view: &ReadView,
    head: Head,
    file: &dyn MediaFile,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Size> {
    let generation = head.generation.into();
    let mut begin =
        FileHead { magic: MAGIC, store: head.store, generation, reserved: [0; 24], sum: U64::ZERO };
    begin.sum = sum_of_end(&begin).into();
    file.write_at(begin.as_bytes(), 0).map_err(failed)?;
    let mut blocks = Blocks { file, at: HEAD as u64, number: 0, plain: Vec::new(), size: Size::default() };
    for table in TABLES {
        view.scan(table, Bound::Unbounded, Bound::Unbounded, |key, value| {
            blocks.add(table, key, value);
            if blocks.plain.len() >= BLOCK {
                blocks.close()?;
                go_on()?;
            }
            Ok(true)
        })?;
    }
    blocks.close()?;
    blocks.end()
}

struct Blocks<'a> {
    file: &'a dyn MediaFile,
    at: u64,
    number: u64,
    plain: Vec<u8>,
    size: Size,
}

impl Blocks<'_> {
    fn add(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.plain.push(table as u8);
        varint::put(&mut self.plain, key.len() as u64);
        self.plain.extend_from_slice(key);
        varint::put(&mut self.plain, value.len() as u64);
        self.plain.extend_from_slice(value);
        self.size.rows += 1;
        self.size.plain += (key.len() + value.len()) as u64;
    }

    fn close(&mut self) -> Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let payload = zstd::bulk::compress(&self.plain, LEVEL).map_err(failed)?;
        let plain = self.plain.len() as u32;
        self.plain.clear();
        self.put(plain, &payload)
    }

    fn put(&mut self, plain: u32, payload: &[u8]) -> Result<()> {
        let mut head =
            BlockHead { plain: plain.into(), payload: (payload.len() as u32).into(), sum: U64::ZERO };
        let mut block = [head.as_bytes(), payload].concat();
        head.sum = xxh3_64_with_seed(&block, self.number).into();
        block[..BLOCK_HEAD].copy_from_slice(head.as_bytes());
        self.file.write_at(&block, self.at).map_err(failed)?;
        self.at += block.len() as u64;
        self.number += 1;
        Ok(())
    }

    fn end(mut self) -> Result<Size> {
        self.put(0, &[])?;
        let mut trailer =
            Trailer { rows: self.size.rows.into(), plain: self.size.plain.into(), sum: U64::ZERO };
        trailer.sum = sum_of_end(&trailer).into();
        self.file.write_at(trailer.as_bytes(), self.at).map_err(failed)?;
        if !out(Protection::BytesBeforeNames) {
            self.file.sync().map_err(failed)?;
        }
        self.size.stored = self.at + TRAILER as u64;
        Ok(self.size)
    }
}

/// A backup that is read from its beginning: its rows in the order of [`TABLES`] and of their keys.
pub struct Backup {
    file: Arc<dyn MediaFile>,
    /// Its store and generation.
    pub head: Head,
    len: u64,
    at: u64,
    number: u64,
    block: Vec<u8>,
    in_block: usize,
    read: Size,
    ended: bool,
}

impl Backup {
    /// Opens a backup; any other file is refused.
    pub fn open(file: Arc<dyn MediaFile>) -> Result<Self> {
        let len = file.len().map_err(failed)?;
        if len < HEAD as u64 {
            return Err(damaged("it has no head"));
        }
        let mut begin = FileHead::new_zeroed();
        file.read_at(begin.as_mut_bytes(), 0).map_err(failed)?;
        if begin.magic != MAGIC || begin.sum != sum_of_end(&begin) {
            return Err(damaged("it does not begin like one"));
        }
        let head = Head { store: begin.store, generation: begin.generation.get() };
        let (block, read) = (Vec::new(), Size::default());
        Ok(Self { file, head, len, at: HEAD as u64, number: 0, block, in_block: 0, read, ended: false })
    }

    /// Reads all of it; returns how much it has.
    pub fn verify(mut self) -> Result<Size> {
        while self.next_row()?.is_some() {}
        Ok(Size { stored: self.len, ..self.read })
    }

    /// The next row; none after the last, once the trailer has been found right.
    pub fn next_row(&mut self) -> Result<Option<(Table, Row)>> {
        if self.in_block == self.block.len() && !self.next_block()? {
            return Ok(None);
        }
        let mut rest = &self.block[self.in_block..];
        let wrong = || damaged("a row in it makes no sense");
        let (&table, after) = rest.split_first().ok_or_else(wrong)?;
        rest = after;
        let table = TABLES.into_iter().find(|known| *known as u8 == table).ok_or_else(wrong)?;
        let mut part = || -> Result<Vec<u8>> {
            let len = usize::try_from(varint::take(&mut rest)?).map_err(|_| wrong())?;
            let (part, after) = rest.split_at_checked(len).ok_or_else(wrong)?;
            rest = after;
            Ok(part.to_vec())
        };
        let row = (part()?, part()?);
        self.in_block = self.block.len() - rest.len();
        self.read.rows += 1;
        self.read.plain += (row.0.len() + row.1.len()) as u64;
        Ok(Some((table, row)))
    }

    /// Reads the next block; false at the end.
    fn next_block(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let mut head = BlockHead::new_zeroed();
        if self.len - self.at < (BLOCK_HEAD + TRAILER) as u64 {
            return Err(damaged("it ends too early"));
        }
        self.file.read_at(head.as_mut_bytes(), self.at).map_err(failed)?;
        let (plain, payload) = (head.plain.get() as usize, head.payload.get() as usize);
        if plain > MAX_BLOCK || payload as u64 > self.len - self.at - (BLOCK_HEAD + TRAILER) as u64 {
            return Err(damaged("a block of it makes no sense"));
        }
        let mut block = vec![0; BLOCK_HEAD + payload];
        self.file.read_at(&mut block, self.at).map_err(failed)?;
        block[..BLOCK_HEAD].copy_from_slice(BlockHead { sum: U64::ZERO, ..head }.as_bytes());
        if head.sum != xxh3_64_with_seed(&block, self.number) {
            return Err(damaged("a block of it does not match its checksum"));
        }
        self.at += block.len() as u64;
        self.number += 1;
        if plain == 0 {
            return self.end();
        }
        self.block = zstd::bulk::decompress(&block[BLOCK_HEAD..], plain).map_err(failed)?;
        self.in_block = 0;
        Ok(true)
    }

    fn end(&mut self) -> Result<bool> {
        let mut trailer = Trailer::new_zeroed();
        if self.len - self.at != TRAILER as u64 {
            return Err(damaged("its end is not where it should be"));
        }
        self.file.read_at(trailer.as_mut_bytes(), self.at).map_err(failed)?;
        let right = trailer.sum == sum_of_end(&trailer)
            && (trailer.rows.get(), trailer.plain.get()) == (self.read.rows, self.read.plain);
        if !right {
            return Err(damaged("it has not got the rows that its end says"));
        }
        self.ended = true;
        self.block.clear();
        self.in_block = 0;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Media;
    use crate::media::sim::SimMedia;
    use crate::meta::Kv;

    const OF: Head = Head { store: *b"0123456789abcdef", generation: 7 };

    fn written(rows: u64) -> (SimMedia, Size) {
        let media = SimMedia::new();
        Kv::create(media.create("db").unwrap(), &[]).unwrap();
        let kv = Kv::open(media.open("db", true).unwrap(), 1 << 20).unwrap();
        let mut txn = kv.write().unwrap();
        for n in 0..rows {
            let key = n.to_be_bytes();
            txn.put(Table::Inodes, &key, &[n as u8; 60]).unwrap();
            txn.put(Table::Extents, &[key, key].concat(), &vec![n as u8; (n % 300) as usize]).unwrap();
            txn.put(Table::Digests, &key, b"not in it").unwrap();
        }
        txn.commit(true).unwrap();
        let file = media.create("backup").unwrap();
        let size = write(&kv.read().unwrap(), OF, file.as_ref(), &mut || Ok(())).unwrap();
        (media, size)
    }

    #[test]
    fn all_rows_come_back_in_order() {
        let (media, size) = written(10_000);
        assert_eq!(size.rows, 20_000);
        let mut backup = Backup::open(media.open("backup", false).unwrap()).unwrap();
        assert_eq!(backup.head, OF);
        for table in [Table::Inodes, Table::Extents] {
            for n in 0..10_000u64 {
                let (of, (key, value)) = backup.next_row().unwrap().unwrap();
                assert!(of == table && key.starts_with(&n.to_be_bytes()), "{of:?} {n}");
                assert!(value.iter().all(|byte| *byte == n as u8));
            }
        }
        assert_eq!(backup.next_row().unwrap(), None);
        assert_eq!(backup.next_row().unwrap(), None);
        let again = Backup::open(media.open("backup", false).unwrap()).unwrap();
        assert_eq!(again.verify().unwrap(), size);
    }

    /// The bytes of a format that stores out there have.
    #[test]
    fn the_layout_never_changes() {
        let (media, size) = written(1);
        let bytes = media.contents("backup").unwrap();
        assert_eq!(bytes[..24], *b"CAIRNMB10123456789abcdef");
        assert_eq!(bytes[24..56], *[7u64, 0, 0, 0].map(u64::to_le_bytes).as_flattened());
        assert_eq!(bytes[56..64], xxh3_64_with_seed(&bytes[..56], u64::MAX).to_le_bytes());
        let payload = u32::from_le_bytes(bytes[68..72].try_into().unwrap()) as usize;
        let (block, rest) = bytes[64..].split_at(16 + payload);
        let rows = zstd::bulk::decompress(&block[16..], 1 << 20).unwrap();
        assert_eq!(block[..4], (rows.len() as u32).to_le_bytes());
        let mut unsummed = block.to_vec();
        unsummed[8..16].fill(0);
        assert_eq!(block[8..16], xxh3_64_with_seed(&unsummed, 0).to_le_bytes());
        let last = [0u64.to_le_bytes(), xxh3_64_with_seed(&[0; 16], 1).to_le_bytes()];
        assert_eq!(rest[..16], *last.as_flattened());
        let trailer = [size.rows, size.plain].map(u64::to_le_bytes);
        assert_eq!(rest[16..32], *trailer.as_flattened());
        assert_eq!(rest[32..], xxh3_64_with_seed(&rest[16..32], u64::MAX).to_le_bytes());
    }

    #[test]
    fn every_flip_and_every_cut_is_noticed() {
        let (media, size) = written(40);
        let bytes = media.contents("backup").unwrap();
        assert_eq!(bytes.len() as u64, size.stored);
        let verify = |bytes: &[u8]| {
            let media = SimMedia::new();
            let file = media.create("copy").unwrap();
            file.write_at(bytes, 0).unwrap();
            Backup::open(file).and_then(Backup::verify)
        };
        assert!(verify(&bytes).is_ok());
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 4;
            assert!(verify(&wrong).is_err(), "byte {at}");
            assert!(verify(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
