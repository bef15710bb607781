//! The log of commits: one file, `meta/log`, written from its beginning, and begun anew whenever it was folded.
//!
//! Keeps true:
//! * an entry is there whole or not at all, and in order: each is written only after the one before was synced, and has
//!   that one's digest; so a gap is never what a power cut leaves, and is told as damage;
//! * what stands in the file from before the last fold is never taken for an entry: numbers of entries are not used twice,
//!   and every block has a sum under a key that only the database knows, so that neither old blocks nor the content of
//!   files that entries carry can pass for one;
//! * it does not grow: what has no room is folded first.
//!
//! The file is blocks of 4096 bytes. A block has the number of its entry (8 bytes), its place in the entry (4), a sum (4)
//! and 4080 bytes of content. What the blocks of an entry have is, one after the other: the digest of the entry before
//! (32), its own digest (32), the length of its rows (4), how many records it carries (4), their length (4), the rows
//! ([`Run::encode`]), the records, and zeros up to the end of its last block. Numbers are little-endian. The digest is
//! SHA-256 of the key, the number and all of that without the digest itself and the zeros.

use std::io;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::chunk::is_zero;
use crate::error::{Error, Result};
use crate::media::MediaFile;
use crate::pack::{Location, PackId};
use crate::sabotage::{Protection, out};

use super::run::Run;

/// The file's name in the store.
pub const LOG_FILE: &str = "meta/log";

const BLOCK: usize = 4096;
const BLOCK_HEAD: usize = 16;
const CONTENT: usize = BLOCK - BLOCK_HEAD;
/// Digests and lengths.
const ENTRY_HEAD: usize = 32 + 32 + 4 + 4 + 4;
/// Bytes that a log has at least before its first entry is written.
pub const LEAST: u64 = 256 << 10;
/// Bytes that are blanked at once.
const BLANKED: usize = 1 << 20;
/// Pack, offset and length of a record.
const RECORD_HEAD: usize = 8 + 8 + 4;

/// An entry, by its number and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Counts up by one from entry to entry, over all openings.
    pub number: u64,
    /// What the next entry has as the digest of the one before.
    pub digest: [u8; 32],
}

impl Position {
    /// The one after it, of what is folded and stands in no entry of the file.
    pub fn next_folded(&self) -> Self {
        let number = self.number + 1;
        let mut hash = Sha256::new();
        hash.update(b"folded");
        hash.update(number.to_le_bytes());
        hash.update(self.digest);
        Self { number, digest: hash.finalize().into() }
    }
}

/// How far the log is folded, and the key of its sums: a row of the database alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldedRow {
    /// The last entry that is in the database.
    pub folded: Position,
    /// Of this store, and random.
    pub key: [u8; 16],
}

/// The key of [`FoldedRow`] in the table `state`.
pub const FOLDED_KEY: &[u8] = b"log";

impl FoldedRow {
    /// That of a new store.
    pub fn begin(key: [u8; 16]) -> Self {
        Self { folded: Position { number: 0, digest: [0; 32] }, key }
    }

    /// The row's bytes: number, digest, key.
    pub fn encode(&self) -> Vec<u8> {
        let number = self.folded.number.to_le_bytes();
        [&number[..], &self.folded.digest, &self.key].concat()
    }

    /// The row from its bytes.
    pub fn decode(from: &[u8]) -> Result<Self> {
        let wrong = || Error::damaged("the row that says how far the log is folded has a wrong length");
        let (number, rest) = from.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (digest, key) = rest.split_first_chunk::<32>().ok_or_else(wrong)?;
        let folded = Position { number: u64::from_le_bytes(*number), digest: *digest };
        Ok(Self { folded, key: key.try_into().map_err(|_| wrong())? })
    }
}

/// The record of a region that an entry carries, so that its pack need not be synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Where it belongs.
    pub at: Location,
    /// Its bytes.
    pub record: Arc<[u8]>,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its final rows.
    pub rows: Run,
    /// Records of regions that its rows, or those of later entries, name.
    pub carried: Vec<Carried>,
}

/// The entries that are not folded yet.
#[derive(Debug)]
pub struct Replayed {
    /// In order.
    pub entries: Vec<Entry>,
    /// The last of them, or the last that was folded.
    pub last: Position,
    /// The block that the last of them begins with.
    last_begins: u64,
    /// What stood behind them that is no entry: one that was not written to its end, or damage.
    pub unfinished: Option<String>,
}

/// The complete entries of a log that may be damaged.
#[derive(Debug)]
pub struct Salvaged {
    /// In order; some between them may be missing.
    pub entries: Vec<Entry>,
    /// Which are missing, if others follow them.
    pub fault: Option<String>,
    /// As in [`Replayed`].
    pub unfinished: Option<String>,
}

/// The file.
#[derive(Debug)]
pub struct Log {
    file: Arc<dyn MediaFile>,
    /// Bytes that it may take.
    size: u64,
    key: [u8; 16],
    /// The block that the next entry begins with.
    next: u64,
    /// Its room is taken on the host.
    allocated: bool,
}

/// What a block is to the entry that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Nothing was ever written there.
    Empty,
    /// Of an entry with this number, at this place in it.
    Of(u64, u32),
    /// Its sum does not fit.
    Broken,
}

impl Log {
    /// The log in `file`, of at most `size` bytes.
    pub fn new(file: Arc<dyn MediaFile>, size: u64, key: [u8; 16]) -> Self {
        Self { file, size: size / BLOCK as u64 * BLOCK as u64, key, next: 0, allocated: false }
    }

    /// The key of its sums.
    pub fn key(&self) -> [u8; 16] {
        self.key
    }

    /// Bytes that it may take.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the entries in it, and of those that fit.
    pub fn room(&self) -> (u64, u64) {
        let taken = self.next * BLOCK as u64;
        (taken, self.size.saturating_sub(taken))
    }

    /// Writes an entry behind `last` and syncs it. `None` where it has no room, in the file or on the host: then nothing was
    /// promised, and its number is that of the fold that has to follow. After an error, that of a sync above all,
    /// nobody knows what is in the file (I8).
    pub fn append(&mut self, last: &Position, entry: &Entry) -> Result<Option<Position>> {
        let number = last.number + 1;
        let (content, digest) = encode(&self.key, number, &last.digest, entry);
        if (self.next + content.len().div_ceil(CONTENT) as u64) * BLOCK as u64 > self.size {
            return Ok(None);
        }
        let failed = |error| Error::io("writing the log of commits", error);
        if !self.allocated {
            match self.take_room() {
                Err(error) if is_full(&error) => return Ok(None),
                taken => taken.map_err(failed)?,
            }
            self.allocated = true;
        }
        let mut blocks = Vec::with_capacity(content.len().div_ceil(CONTENT) * BLOCK);
        for (index, part) in content.chunks(CONTENT).enumerate() {
            let start = blocks.len();
            blocks.extend_from_slice(&number.to_le_bytes());
            blocks.extend_from_slice(&(index as u32).to_le_bytes());
            blocks.extend_from_slice(&[0; 4]);
            blocks.extend_from_slice(part);
            blocks.resize(start + BLOCK, 0);
            let sum = sum_of(&self.key, &blocks[start..]);
            blocks[start + 12..start + BLOCK_HEAD].copy_from_slice(&sum.to_le_bytes());
        }
        match self.file.write_at(&blocks, self.next * BLOCK as u64) {
            Err(error) if is_full(&error) => return Ok(None),
            written => written.map_err(failed)?,
        }
        if !unsynced() {
            self.file.sync().map_err(failed)?;
        }
        self.next += (blocks.len() / BLOCK) as u64;
        Ok(Some(Position { number, digest }))
    }

    /// Takes the file's room on the host, and writes all that is new of it once: a block that was never written would change the host's
    /// own metadata with the first sync of it.
    fn take_room(&self) -> io::Result<()> {
        let len = self.file.len()?;
        // Not what stands there: it may be entries.
        self.take_from(len.max(self.next * BLOCK as u64)).inspect_err(|_| {
            // A part of it may have been taken; the fold that has to follow needs that.
            let _ = self.file.set_len(len);
        })
    }

    fn take_from(&self, begin: u64) -> io::Result<()> {
        self.file.allocate(0, self.size)?;
        let zeros = vec![0; BLANKED.min(self.size as usize)];
        for at in (begin..self.size).step_by(BLANKED) {
            let len = zeros.len().min((self.size - at) as usize);
            self.file.write_at(&zeros[..len], at)?;
        }
        Ok(())
    }

    /// Everything in it is folded: the next entry stands at its beginning.
    pub fn begin_anew(&mut self) {
        self.next = 0;
    }

    /// Everything in it is folded and the store is closed: its room is given back.
    pub fn empty(&mut self) -> io::Result<()> {
        (self.next, self.allocated) = (0, false);
        self.file.set_len(0)?;
        self.file.sync()
    }

    /// Writes the last entry that was replayed once more, and syncs it; false where the host has no room for that.
    /// Whoever wrote it may have been killed before it was synced, or the sync failed, and what is read now is only in
    /// the host's memory. The entries before it were synced before it was written.
    pub fn settle(&self, found: &Replayed) -> Result<bool> {
        let failed = |error| Error::io("writing the log of commits", error);
        let (begin, len) = (found.last_begins, self.next - found.last_begins);
        if len == 0 {
            return Ok(true);
        }
        let mut blocks = vec![0; len as usize * BLOCK];
        self.file.read_at(&mut blocks, begin * BLOCK as u64).map_err(failed)?;
        match self.file.write_at(&blocks, begin * BLOCK as u64) {
            Err(error) if is_full(&error) => return Ok(false),
            written => written.map_err(failed)?,
        }
        self.file.sync().map_err(failed)?;
        Ok(true)
    }

    /// Reads what follows `folded`. Fails where an entry is damaged that others follow.
    pub fn replay(&mut self, folded: &Position) -> Result<Replayed> {
        let failed = |error| Error::io("reading the log of commits", error);
        let blocks = self.file.len().map_err(failed)? / BLOCK as u64;
        let (mut entries, mut last, mut last_begins) = (Vec::new(), *folded, 0);
        self.next = 0;
        while let Some((entry, position, len)) =
            self.read_entry(last.number + 1, Some(&last.digest), (self.next, blocks))?
        {
            entries.push(entry);
            last = position;
            last_begins = self.next;
            self.next += len;
        }
        let unfinished = self.look_behind(&last, blocks)?;
        if let Some(what) = self.cut_off(entries.len())? {
            return Err(Error::damaged(what));
        }
        Ok(Replayed { entries, last, last_begins, unfinished })
    }

    /// Reads every complete entry after `folded`, also those behind damaged ones; for a repair.
    pub fn salvage(&self, folded: &Position) -> Result<Salvaged> {
        let failed = |error| Error::io("reading the log of commits", error);
        let blocks = self.file.len().map_err(failed)? / BLOCK as u64;
        let (mut entries, mut fault, mut last, mut at) = (Vec::new(), None, folded.number, 0);
        let (mut highest, mut end) = (last, 0);
        while at < blocks {
            let kind = self.read_block(at)?.0;
            if let Block::Of(number, _) = kind {
                highest = highest.max(number);
            }
            let read = match kind {
                Block::Of(number, 0) if number > last => {
                    self.read_entry(number, None, (at, blocks)).ok().flatten()
                }
                _ => None,
            };
            let Some((entry, position, len)) = read else {
                at += 1;
                continue;
            };
            if position.number > last + 1 {
                let missing = match position.number - last {
                    2 => format!("entry {}", last + 1),
                    _ => format!("entries {} to {}", last + 1, position.number - 1),
                };
                fault.get_or_insert(format!(
                    "{missing} of the log of commits cannot be read, and others follow"
                ));
            }
            entries.push(entry);
            (last, at) = (position.number, at + len);
            end = at;
        }
        if highest > last + 1 {
            // Nobody could follow an entry that was not synced.
            fault.get_or_insert(format!(
                "entry {} of the log of commits cannot be read, and others followed",
                last + 1
            ));
        }
        if let Some(what) = self.cut_off(entries.len())? {
            fault.get_or_insert(what);
        }
        let mut unfinished = None;
        for at in end..blocks {
            unfinished = unfinished_by(self.read_block(at)?.0, last + 1, at == end).or(unfinished);
        }
        Ok(Salvaged { entries, fault, unfinished })
    }

    /// Says that the file lost its end, if its length and so many entries in it show that. The first may have been written,
    /// and not acknowledged, while the file was that short; the second was not.
    fn cut_off(&self, entries: usize) -> Result<Option<String>> {
        let len = self.file.len().map_err(|error| Error::io("reading the log of commits", error))?;
        let least = self.size.min(LEAST);
        Ok((entries > 1 && len < least).then(|| {
            format!(
                "the log of commits is cut off: {LOG_FILE} has {len} bytes, and had at least {least} when its last commits were written"
            )
        }))
    }

    fn read_block(&self, at: u64) -> Result<(Block, [u8; BLOCK])> {
        let mut block = [0; BLOCK];
        let failed = |error| Error::io("reading the log of commits", error);
        self.file.read_at(&mut block, at * BLOCK as u64).map_err(failed)?;
        Ok((classify(&self.key, &block), block))
    }

    /// The entry with this number that begins at block `begin` of so many, where it is whole, with the blocks it takes. It
    /// has to follow the entry with the digest `before`, if there is one.
    fn read_entry(
        &self,
        number: u64,
        before: Option<&[u8; 32]>,
        (begin, blocks): (u64, u64),
    ) -> Result<Option<(Entry, Position, u64)>> {
        let (mut content, mut len) = (Vec::new(), None::<usize>);
        while len.is_none_or(|len| content.len() < len) {
            let index = content.len() / CONTENT;
            let at = begin + index as u64;
            if at >= blocks {
                return Ok(None);
            }
            let (kind, block) = self.read_block(at)?;
            if kind != Block::Of(number, index as u32) {
                return Ok(None);
            }
            content.extend_from_slice(&block[BLOCK_HEAD..]);
            // Its sum fits, so these are the lengths that were written.
            len = Some(ENTRY_HEAD + word(&content, 64) as usize + word(&content, 72) as usize);
        }
        let taken = (content.len() / CONTENT) as u64;
        content.truncate(len.unwrap_or(0));
        let digest = digest_of(&self.key, number, &content);
        if content[32..64] != digest {
            // Each block is one that was written; but when the power was cut, an entry with this number had been there in
            // part, and another one was written over it and cut off as well.
            return Ok(None);
        }
        let entry = decode(number, before, &content)?;
        Ok(Some((entry, Position { number, digest }, taken)))
    }

    /// What stands behind the last whole entry: an error if others follow it, which only damage explains.
    fn look_behind(&self, last: &Position, blocks: u64) -> Result<Option<String>> {
        let number = last.number + 1;
        let mut unfinished = None;
        for at in self.next..blocks {
            match self.read_block(at)?.0 {
                Block::Of(later, _) if later > number && !unchained() => {
                    return Err(Error::damaged(format!(
                        "entry {number} of the log of commits is damaged, and entry {later} follows it"
                    )));
                }
                kind => unfinished = unfinished_by(kind, number, at == self.next).or(unfinished),
            }
        }
        Ok(unfinished)
    }
}

/// What a block behind the last whole entry says of the next, which has this number and would begin at the block that
/// `is_first`.
fn unfinished_by(block: Block, number: u64, is_first: bool) -> Option<String> {
    match block {
        Block::Of(same, _) if same == number => {
            Some(format!("the last commit, number {number} of the log, is not whole"))
        }
        Block::Broken if is_first => {
            Some(format!("what stands in the log where commit {number} would be is none"))
        }
        Block::Of(..) | Block::Broken | Block::Empty => None,
    }
}

/// Taken out: commits are answered before their entries are synced.
fn unsynced() -> bool {
    out(Protection::LogIsSynced)
}

/// Taken out: nobody looks whether an entry follows the one before it.
fn unchained() -> bool {
    out(Protection::LogIsChained)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn sum_of(key: &[u8; 16], block: &[u8]) -> u32 {
    let head = xxh3_64_with_seed(&block[..12], xxh3_64(key));
    xxh3_64_with_seed(&block[BLOCK_HEAD..], head) as u32
}

fn classify(key: &[u8; 16], block: &[u8; BLOCK]) -> Block {
    if is_zero(block) {
        return Block::Empty;
    }
    if word(block, 12) != sum_of(key, block) {
        return Block::Broken;
    }
    let number = u64::from(word(block, 0)) | u64::from(word(block, 4)) << 32;
    Block::Of(number, word(block, 8))
}

fn digest_of(key: &[u8; 16], number: u64, content: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update(number.to_le_bytes());
    hash.update(&content[..32]);
    hash.update(&content[64..]);
    hash.finalize().into()
}

/// The content of an entry, and its digest.
fn encode(key: &[u8; 16], number: u64, before: &[u8; 32], entry: &Entry) -> (Vec<u8>, [u8; 32]) {
    let mut content = vec![0; ENTRY_HEAD];
    content[..32].copy_from_slice(before);
    entry.rows.encode(&mut content);
    let rows = (content.len() - ENTRY_HEAD) as u32;
    for carried in &entry.carried {
        content.extend_from_slice(&carried.at.pack.0.to_le_bytes());
        content.extend_from_slice(&carried.at.offset.to_le_bytes());
        content.extend_from_slice(&carried.at.len.to_le_bytes());
        content.extend_from_slice(&carried.record);
    }
    let records = (content.len() - ENTRY_HEAD) as u32 - rows;
    content[64..68].copy_from_slice(&rows.to_le_bytes());
    content[68..72].copy_from_slice(&(entry.carried.len() as u32).to_le_bytes());
    content[72..76].copy_from_slice(&records.to_le_bytes());
    let digest = digest_of(key, number, &content);
    content[32..64].copy_from_slice(&digest);
    (content, digest)
}

/// The entry with this content, which matches its digest.
fn decode(number: u64, before: Option<&[u8; 32]>, content: &[u8]) -> Result<Entry> {
    let wrong = |what: &str| Error::damaged(format!("entry {number} of the log of commits {what}"));
    if before.is_some_and(|before| content[..32] != before[..]) && !unchained() {
        return Err(wrong("does not follow the one before it"));
    }
    let short = || wrong("is too short");
    let (rows, mut rest) =
        content[ENTRY_HEAD..].split_at_checked(word(content, 64) as usize).ok_or_else(short)?;
    let rows = Run::decode(rows)?;
    let mut carried = Vec::new();
    for _ in 0..word(content, 68) {
        let (head, behind) = rest.split_first_chunk::<RECORD_HEAD>().ok_or_else(short)?;
        let long = |at: usize| u64::from(word(head, at)) | u64::from(word(head, at + 4)) << 32;
        let at = Location { pack: PackId(long(0)), offset: long(8), len: word(head, 16) };
        let (record, behind) = behind.split_at_checked(at.len as usize).ok_or_else(short)?;
        carried.push(Carried { at, record: record.into() });
        rest = behind;
    }
    if rest.is_empty() { Ok(Entry { rows, carried }) } else { Err(wrong("is too long")) }
}

#[cfg(test)]
mod tests;
