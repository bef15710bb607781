//! Appending regions to packs, and making them durable.
//!
//! Keeps true:
//! * I1, its half: when [`PackWriter::sync`] returns without error, every byte appended before the call and the name of
//!   every pack made before it are durable;
//! * I2: a sealed pack is never written again, and a pack that exists is never written over: if a pack's name is taken,
//!   by a pack that a crash left behind, the next id is used;
//! * I8: after a failed write or sync nothing more is written. The only exception is a full disk at an append: nothing
//!   was promised, the position stays, and the next append overwrites the possibly torn bytes.
//!
//! Appends hold the lock of the state, one at a time. A sync holds it only to note what it has to sync, so that appends
//! go on while the disk works.
//!
//! Lock order: `syncing` before `state`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::format::{self, IndexEntry};
use super::store::{NewPack, PackStore};
use super::{Codec, Location, PackId};
use crate::error::{Error, Result};
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, Mutex};

/// The one writer of a store's packs.
#[derive(Debug)]
pub struct PackWriter {
    packs: Arc<dyn PackStore>,
    codec: Codec,
    store: [u8; 16],
    size_limit: u64,
    /// Held during a sync: a second sync must not return while the first one still works on the files that it took.
    syncing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: PackId,
    open: Option<OpenPack>,
    /// Packs with bytes that no sync covered, the open one included.
    dirty: Vec<(PackId, Arc<dyn NewPack>)>,
    /// Records that no sync covers and nobody took; none once they are too many.
    unsynced: Option<Vec<Appended>>,
    /// The same of what the sync under way is to cover: until it has ended, none of it is durable.
    under_sync: Option<Vec<Appended>>,
    /// The first failure; nothing is written after it.
    failure: Option<String>,
}

/// A record, and where it was appended.
pub type Appended = (Location, Arc<[u8]>);

/// Bytes of records up to which those that are not synced are remembered.
pub const FEW_BYTES: usize = 256 << 10;

/// The pack that is written to.
#[derive(Debug)]
struct OpenPack {
    id: PackId,
    bytes: Arc<dyn NewPack>,
    /// Where the next record goes.
    end: u64,
    index: Vec<IndexEntry>,
}

impl PackWriter {
    /// A writer for packs of the store with this uuid. A pack is sealed before it would grow beyond `size_limit` bytes;
    /// a single larger record gets a pack of its own. The first new pack gets the id `next`, or the first one after it
    /// that no pack has.
    pub fn new(
        (packs, codec): (Arc<dyn PackStore>, Codec),
        store: [u8; 16],
        size_limit: u64,
        next: PackId,
    ) -> Self {
        let (unsynced, under_sync) = (Some(Vec::new()), Some(Vec::new()));
        let state = State { next, open: None, dirty: Vec::new(), unsynced, under_sync, failure: None };
        Self { packs, codec, store, size_limit, syncing: Mutex::new(()), state: Mutex::new(state) }
    }

    /// Appends a region's record. It is durable after the next [`sync`](Self::sync), not before.
    pub fn append(&self, record: &[u8]) -> Result<Location> {
        // Only readable records are written: the head is checked; its bytes were just made.
        let header = self.codec.header(record)?;
        if record.len() != header.record_len() as usize {
            return Err(Error::damaged(format!(
                "a region record of {} bytes says it has {}; it is not stored",
                record.len(),
                header.record_len()
            )));
        }
        let mut state = self.state.lock();
        state.check()?;
        let result = self.append_record(&mut state, record, header.chunks.len() as u32);
        state.latch(result)
    }

    fn append_record(&self, state: &mut State, record: &[u8], chunks: u32) -> Result<Location> {
        let full = state.open.as_ref().is_some_and(|pack| {
            let footer = format::footer_len(pack.index.len() + 1);
            !pack.index.is_empty() && pack.end + record.len() as u64 + footer > self.size_limit
        });
        if full {
            seal_open(state)?;
        }
        let pack = match &mut state.open {
            Some(pack) => pack,
            None => self.start(state)?,
        };
        if pack.end == 0 {
            pack.write(&format::encode_header(pack.id, self.store))?;
        }
        let location = Location { pack: pack.id, offset: pack.end, len: record.len() as u32 };
        pack.write(record)?;
        pack.index.push(IndexEntry { offset: location.offset, len: location.len, chunks });
        let written = (pack.id, Arc::clone(&pack.bytes));
        state.note_dirty(written);
        state.remember(location, record);
        Ok(location)
    }

    /// Makes a new pack the open one.
    fn start<'s>(&self, state: &'s mut State) -> Result<&'s mut OpenPack> {
        loop {
            let id = state.next;
            let created =
                self.packs.create(id).map_err(|error| Error::io(format!("creating pack {id}"), error))?;
            state.next = id.next();
            if let Some(bytes) = created {
                return Ok(state.open.insert(OpenPack { id, bytes, end: 0, index: Vec::new() }));
            }
        }
    }

    /// Makes everything appended so far durable; where a pack that was synced cannot grow, the open one is sealed for
    /// it. While it works, appends go on; those are for the next sync.
    pub fn sync(&self) -> Result<()> {
        let _turn = self.syncing.lock();
        let dirty = {
            let mut state = self.state.lock();
            state.check()?;
            if !self.packs.grows_after_sync() {
                let sealed = seal_open(&mut state);
                state.latch(sealed)?;
            }
            let begun = state.unsynced.replace(Vec::new());
            state.under_sync = if is_taken_for_synced() { Some(Vec::new()) } else { begun };
            std::mem::take(&mut state.dirty)
        };
        let result = self.sync_all(&dirty);
        let mut state = self.state.lock();
        state.under_sync = Some(Vec::new());
        // Files and names were taken off the lists: if they did not become durable, no later call may succeed (I8).
        state.latch_always(result)
    }

    fn sync_all(&self, dirty: &[(PackId, Arc<dyn NewPack>)]) -> Result<()> {
        for (id, bytes) in dirty {
            bytes.sync().map_err(|error| Error::io(format!("syncing pack {id}"), error))?;
        }
        self.packs.sync_names()
    }

    /// The records that no sync has covered yet and nobody took, if they are few: whoever makes them durable elsewhere
    /// need not sync the packs for them. Those of a sync that is under way are among them. None if there are too many.
    pub fn take_few(&self) -> Result<Option<Vec<Appended>>> {
        let mut state = self.state.lock();
        state.check()?;
        let State { unsynced, under_sync, .. } = &mut *state;
        let few = match (under_sync, unsynced) {
            (Some(begun), Some(later)) => Some([std::mem::take(begun), std::mem::take(later)].concat()),
            _ => None,
        };
        // What is put once and whole cannot be put back in parts.
        Ok(few.filter(|_| self.packs.grows_after_sync()))
    }

    /// Seals the open pack, if there is one with a region in it. Its footer is durable after the next
    /// [`sync`](Self::sync).
    pub fn seal(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        let result = seal_open(&mut state);
        state.latch(result)
    }

    /// The id the next new pack will get, or a later one if a pack has that name.
    pub fn next_pack(&self) -> PackId {
        self.state.lock().next
    }

    /// The pack and offset of the next append: nothing before it is written any more.
    pub fn append_position(&self) -> (PackId, u64) {
        let state = self.state.lock();
        state.open.as_ref().map_or((state.next, 0), |pack| (pack.id, pack.end))
    }

    /// The pack that is written to.
    pub fn open_pack(&self) -> Option<PackId> {
        self.state.lock().open.as_ref().map(|pack| pack.id)
    }
}

/// Taken out: a sync counts as ended when it begins.
fn is_taken_for_synced() -> bool {
    out(Protection::CarriedUnderSync)
}

/// Writes the footer of the open pack. On a full disk the pack stays open, and the next append overwrites the partial
/// footer.
fn seal_open(state: &mut State) -> Result<()> {
    let Some(pack) = &mut state.open else {
        return Ok(());
    };
    if pack.index.is_empty() {
        return Ok(());
    }
    let footer = format::encode_footer(pack.id, pack.end, &pack.index);
    pack.bytes
        .seal(pack.end, &footer)
        .map_err(|error| Error::io(format!("sealing pack {}", pack.id), error))?;
    let sealed = (pack.id, Arc::clone(&pack.bytes));
    state.open = None;
    state.note_dirty(sealed);
    Ok(())
}

impl OpenPack {
    /// Writes at the end, which moves only if all was written.
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.bytes
            .append(self.end, data)
            .map_err(|error| Error::io(format!("writing to pack {}", self.id), error))?;
        self.end += data.len() as u64;
        Ok(())
    }
}

impl State {
    fn note_dirty(&mut self, (id, bytes): (PackId, Arc<dyn NewPack>)) {
        // Packs are written one after the other: if this one is on the list, it is the last.
        if self.dirty.last().is_none_or(|(last, _)| *last != id) {
            self.dirty.push((id, bytes));
        }
    }

    fn remember(&mut self, at: Location, record: &[u8]) {
        if let Some(records) = &mut self.unsynced {
            let bytes: usize = records.iter().map(|(_, record)| record.len()).sum();
            if bytes + record.len() <= FEW_BYTES {
                records.push((at, record.into()));
            } else {
                self.unsynced = None;
            }
        }
    }

    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(Error::Latched(failure.clone())),
            None => Ok(()),
        }
    }

    /// Keeps a failed write for ever (I8), unless the disk was full: then the caller may make room and go on.
    fn latch<T>(&mut self, result: Result<T>) -> Result<T> {
        match result {
            Err(error) if error.is_no_space() => Err(error),
            other => self.latch_always(other),
        }
    }

    /// Keeps any failure for ever (I8): nobody knows which bytes a failed sync dropped.
    fn latch_always<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failure.get_or_insert_with(|| error.to_string());
        }
        result
    }
}

/// Puts records back to where they were appended, and syncs them: after a power cut their packs may have lost them. A
/// pack that is not there is made.
pub fn restore<'a>(
    packs: &dyn PackStore,
    store: [u8; 16],
    records: impl IntoIterator<Item = (Location, &'a [u8])>,
) -> Result<()> {
    let mut open = BTreeMap::new();
    for (at, record) in records {
        let failed = |error| Error::io(format!("restoring {}", packs.name(at.pack)), error);
        let bytes = match open.entry(at.pack) {
            Entry::Occupied(bytes) => bytes.into_mut(),
            Entry::Vacant(vacant) => {
                let bytes = packs.reopen(at.pack).map_err(failed)?;
                bytes.append(0, &format::encode_header(at.pack, store)).map_err(failed)?;
                vacant.insert(bytes)
            }
        };
        bytes.append(at.offset, record).map_err(failed)?;
    }
    for (id, bytes) in &open {
        bytes.sync().map_err(|error| Error::io(format!("syncing pack {id}"), error))?;
    }
    packs.sync_names()
}

#[cfg(test)]
mod tests;
