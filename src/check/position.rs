//! The position of a check of the data, so that an interrupted check can be resumed.
//!
//! It is a file in the store's directory and not a row of the database: a check of an unmounted store opens the
//! database without writing to it, and that database may be damaged. The file is always rewritten as a whole and
//! renamed. If it cannot be read, the check reads all data.
//!
//! Ids are never reused and regions keep theirs, so "all regions below this id were read" stays true whatever is
//! written or freed meanwhile. There are three exceptions, which a resumed check reads once more: regions that were
//! found bad, since nobody was told about them and they may have healed; regions that something else found bad since;
//! and regions at places that were written since the first part began, because a cycle may have copied them there after
//! they were read.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::media::{Media, replace};
use crate::meta::rows::RegionRow;
use crate::store::Store;
use crate::sync::Arc;

use super::report::Resumed;
use super::run::CheckRun;

/// The file's name.
const FILE: &str = "check.position";
const MAGIC: [u8; 8] = *b"CAIRNCP1";
/// Plain bytes after which the position is noted.
const NOTE_EVERY: u64 = 256 << 20;
/// The time after which the position is noted, for a slow check.
const NOTE_AFTER: Duration = Duration::from_secs(5);
/// With more bad regions than this, the position is not noted any more, so that the list stays short.
const MAX_BAD: usize = 1 << 16;
/// The file is never longer.
const MAX_LEN: u64 = 64 << 20;

/// Only one check of a process writes the file at a time.
static WRITING: Mutex<()> = Mutex::new(());

/// The content of the file. The first id of a region stands for the region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Position {
    /// Regions below this one were read.
    below: u64,
    /// Plain bytes that were.
    bytes: u64,
    /// Pack and offset of the end of all packs when the first part began: places before it are not written any more.
    append_position: (u64, u64),
    /// Regions above `below` that were read too.
    ahead: BTreeSet<u64>,
    /// Regions that are to be read once more.
    bad: BTreeSet<u64>,
}

impl Position {
    fn has(&self, region: u64) -> bool {
        region < self.below || self.ahead.contains(&region)
    }

    /// True if the store has given out the ids and packs that the position names.
    fn fits(&self, run: &CheckRun<'_>) -> bool {
        self.below <= run.next_chunk
            && self.append_position <= (run.append_position.0.0, run.append_position.1)
    }

    fn encode(&self, store: &[u8; 16]) -> Vec<u8> {
        let (pack, offset) = self.append_position;
        let head = [self.below, self.bytes, pack, offset, self.ahead.len() as u64, self.bad.len() as u64];
        let words = head.iter().chain(&self.ahead).chain(&self.bad);
        let mut bytes = [&MAGIC[..], store].concat();
        bytes.extend(words.flat_map(|word| word.to_le_bytes()));
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// The position from the bytes of a file, if they are complete and of this store.
    fn decode(bytes: &[u8], store: &[u8; 16]) -> Option<Self> {
        let (rest, sum) = bytes.split_last_chunk()?;
        if xxh3_64(rest) != u64::from_le_bytes(*sum) {
            return None;
        }
        let words = rest.strip_prefix(&MAGIC)?.strip_prefix(store)?;
        let (words, []) = words.as_chunks::<8>() else { return None };
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let [below, bytes] = [words.next()?, words.next()?];
        let append_position = (words.next()?, words.next()?);
        let [ahead, bad] = [words.next()?, words.next()?];
        if ahead.checked_add(bad)? != words.len() as u64 {
            return None;
        }
        let ahead = words.by_ref().take(ahead as usize).collect();
        Some(Self { below, bytes, append_position, ahead, bad: words.collect() })
    }
}

/// When a region is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    /// It was read before. It comes after all unread regions, so that a check in many short parts ends, too.
    Again,
    Never,
}

/// The reading of all data by one check.
pub(super) struct Pass {
    store: Arc<Store>,
    at: Position,
    /// Regions that were dispatched for the first time and not read yet.
    outstanding: BTreeSet<u64>,
    /// Ids of regions that the host could not read; they are read once more at the end.
    unread: Vec<(ChunkId, ChunkId)>,
    /// The first id of the next region to dispatch.
    dispatched: u64,
    /// Bytes read since the position was noted, and when that was.
    since: u64,
    noted: Instant,
    /// False after the file could not be written.
    keeps: bool,
}

impl Pass {
    /// Begins a pass, or resumes an interrupted check, if that is asked for and possible.
    pub fn begin(run: &mut CheckRun<'_>) -> Self {
        let found = run.resumes().then(|| load(run));
        let (found, why) = match found {
            Some(Ok(found)) => (Some(found), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        if found.is_none() {
            forget(run.store.media());
        }
        run.report.resumed = found.as_ref().map(|at| Resumed { chunk: at.below, bytes: at.bytes });
        run.report.began_anew = why;
        let at = found.unwrap_or(Position {
            append_position: (run.append_position.0.0, run.append_position.1),
            ..Position::default()
        });
        Self {
            store: Arc::clone(run.store),
            dispatched: at.below,
            at,
            outstanding: BTreeSet::new(),
            unread: Vec::new(),
            since: 0,
            noted: Instant::now(),
            keeps: true,
        }
    }

    /// What is to be done with a region.
    pub fn due(&self, row: &RegionRow) -> Due {
        let first = row.first.0;
        let suspect =
            || self.at.bad.contains(&first) || row.live().any(|(id, _)| self.store.healing.is_bad(id));
        match self.at.has(first) {
            false => Due::Now,
            true if (row.at.pack.0, row.at.offset) >= self.at.append_position || suspect() => Due::Again,
            true => Due::Never,
        }
    }

    /// The region is about to be read.
    pub fn dispatch(&mut self, region: u64) {
        if !self.at.has(region) {
            self.outstanding.insert(region);
        }
    }

    /// The region's pack is missing. If it comes back, a resumed check reads the region like a bad one.
    pub fn note_missing(&mut self, region: u64) {
        self.at.bad.insert(region);
    }

    /// The host could not read what has these ids.
    pub fn reread_later(&mut self, ids: (ChunkId, ChunkId)) {
        self.unread.push(ids);
    }

    /// Takes the ids that the host could not read.
    pub fn take_unread(&mut self) -> Vec<(ChunkId, ChunkId)> {
        std::mem::take(&mut self.unread)
    }

    /// All regions below this one were dispatched or need not be read.
    pub fn dispatched_below(&mut self, region: u64) {
        self.dispatched = region.max(self.dispatched);
    }

    /// Regions with this many plain bytes were read; notes the position if it is due.
    pub fn was_read(&mut self, regions: &[u64], bad: impl Iterator<Item = u64>, bytes: u64) {
        for region in regions {
            self.outstanding.remove(region);
            self.at.bad.remove(region);
            self.at.ahead.insert(*region);
        }
        self.at.bad.extend(bad);
        self.at.bytes += bytes;
        self.since += bytes;
        if self.since >= NOTE_EVERY || self.noted.elapsed() >= NOTE_AFTER {
            self.note();
        }
    }

    /// Writes the position to the file.
    pub fn note(&mut self) {
        self.at.below = self.outstanding.first().copied().unwrap_or(self.dispatched);
        self.at.ahead = self.at.ahead.split_off(&self.at.below);
        (self.since, self.noted) = (0, Instant::now());
        if !self.keeps || self.at.bad.len() > MAX_BAD {
            return;
        }
        if let Err(error) = write(self.store.media(), &self.at.encode(self.store.config().uuid.as_bytes())) {
            tracing::warn!("the position of the check cannot be noted, so it could not be resumed: {error}");
            self.keeps = false;
        }
    }

    /// Everything was read and reported.
    pub fn finish(self) {
        forget(self.store.media());
    }
}

/// Removes what an interrupted check has left.
pub(super) fn forget(media: &dyn Media) {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    if !media.exists(FILE).unwrap_or(false) {
        return;
    }
    if let Err(error) = media.remove(FILE).and_then(|()| media.sync_dir("")) {
        tracing::warn!("removing {FILE}: {error}");
    }
}

/// The position from the file, or why there is nothing to resume.
fn load(run: &CheckRun<'_>) -> std::result::Result<Position, String> {
    let store = run.store;
    if !store.media().exists(FILE).unwrap_or(true) {
        return Err("no check had been interrupted".to_owned());
    }
    let read = || {
        let file = store.media().open(FILE, false)?;
        let mut bytes = vec![0; file.len()?.min(MAX_LEN) as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes: std::io::Result<Vec<u8>> = read();
    let bytes = bytes.map_err(|error| format!("{FILE} cannot be read: {error}"))?;
    let found = Position::decode(&bytes, store.config().uuid.as_bytes());
    let found = found.ok_or_else(|| format!("{FILE} is damaged or of another store"))?;
    if found.fits(run) { Ok(found) } else { Err(format!("{FILE} is of a newer state of the store")) }
}

fn write(media: &dyn Media, bytes: &[u8]) -> Result<()> {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    replace(media, FILE, bytes).map_err(|error| Error::io(format!("writing {FILE}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_and_nothing_else_does() {
        let (ahead, bad) = (BTreeSet::from([40, 50]), BTreeSet::from([3, 50, 60]));
        let at = Position { below: 30, bytes: 4, append_position: (5, 6), ahead, bad };
        let bytes = at.encode(&[7; 16]);
        assert_eq!(Position::decode(&bytes, &[7; 16]), Some(at.clone()));
        assert_eq!(Position::decode(&bytes, &[8; 16]), None, "another store");
        for n in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[n] ^= 2;
            assert_eq!(Position::decode(&wrong, &[7; 16]), None, "byte {n}");
            assert_eq!(Position::decode(&bytes[..n], &[7; 16]), None, "cut at {n}");
        }
        assert!(at.has(29) && !at.has(30) && at.has(50));
    }
}
