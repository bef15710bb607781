//! Appending regions to packs, and making them durable.
//!
//! What it keeps true:
//! * I1, its half: when [`PackWriter::sync`] returns without error, every byte appended before the call and the name of
//!   every file made before it are durable;
//! * I2: a sealed pack is never written again, and a file that exists is never written over: if a pack's name is taken,
//!   by a pack that a crash left behind, the next id is used;
//! * I8: after a failed write or sync nothing more is written. The one exception is a full disk at an append, which is
//!   ordinary: nothing was promised, the position stays, and the next append writes over what may be torn there.
//!
//! Appends take turns under the state's lock; a sync holds it only to note what there is to do, so that appends go on
//! while the disk works.
//!
//! Lock order: `syncing` before `state`.

use std::collections::BTreeSet;
use std::io;

use super::format::{self, IndexEntry};
use super::{Location, PACKS, PackId, decode_header};
use crate::error::{Error, Result};
use crate::media::{Media, MediaFile};
use crate::sync::{Arc, Mutex};

/// The one writer of a store's packs.
#[derive(Debug)]
pub struct PackWriter {
    media: Arc<dyn Media>,
    store: [u8; 16],
    size_limit: u64,
    /// Held through a sync: a second one must not return while the first still works on what it took over.
    syncing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: PackId,
    open: Option<OpenPack>,
    /// Files with bytes that no sync covered, the open one's included.
    dirty: Vec<(PackId, Arc<dyn MediaFile>)>,
    /// Directories with names that no sync covered.
    dirs: BTreeSet<String>,
    /// Whether the name of the directory of packs was put on that list.
    top_noted: bool,
    /// The first failure; nothing is written after it.
    failure: Option<String>,
}

/// The pack that is written to.
#[derive(Debug)]
struct OpenPack {
    id: PackId,
    file: Arc<dyn MediaFile>,
    /// Where the next record goes.
    end: u64,
    /// An append failed on a full disk: there may be bytes behind `end`.
    torn: bool,
    index: Vec<IndexEntry>,
}

impl PackWriter {
    /// A writer for packs of the store with this uuid. A pack is sealed before it would grow beyond `size_limit` bytes;
    /// a single larger record gets a pack of its own. The first new pack gets the id `next`, or the first one after it
    /// that no file has.
    pub fn new(media: Arc<dyn Media>, store: [u8; 16], size_limit: u64, next: PackId) -> Self {
        Self {
            media,
            store,
            size_limit,
            syncing: Mutex::new(()),
            state: Mutex::new(State {
                next,
                open: None,
                dirty: Vec::new(),
                dirs: BTreeSet::new(),
                top_noted: false,
                failure: None,
            }),
        }
    }

    /// Appends a region's record. It is durable after the next [`sync`](Self::sync), not before.
    pub fn append(&self, record: &[u8]) -> Result<Location> {
        // Only what can be read back is written; the head is checked, its bytes were just made.
        let header = decode_header(record)?;
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
        let written = (pack.id, Arc::clone(&pack.file));
        state.note_dirty(written);
        Ok(location)
    }

    /// Makes a new pack the open one.
    fn start<'s>(&self, state: &'s mut State) -> Result<&'s mut OpenPack> {
        let (id, file) = loop {
            let id = state.next;
            let what = |error| Error::io(format!("creating pack {id}"), error);
            if !state.top_noted {
                self.media.mkdir(PACKS).map_err(what)?;
                state.dirs.insert(String::new());
                state.top_noted = true;
            }
            // Noted even if the directory was there: a process that was killed may have made it and not synced it.
            self.media.mkdir(&id.dir()).map_err(what)?;
            state.dirs.insert(PACKS.to_owned());
            match self.media.create(&id.path()) {
                Ok(file) => break (id, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    state.next = id.next();
                }
                Err(error) => return Err(what(error)),
            }
        };
        state.next = id.next();
        state.dirs.insert(id.dir());
        Ok(state.open.insert(OpenPack { id, file, end: 0, torn: false, index: Vec::new() }))
    }

    /// Makes everything appended so far durable. While it works, appends go on; those are for the next sync.
    pub fn sync(&self) -> Result<()> {
        let _turn = self.syncing.lock();
        let (files, dirs) = {
            let mut state = self.state.lock();
            state.check()?;
            (std::mem::take(&mut state.dirty), std::mem::take(&mut state.dirs))
        };
        let result = self.sync_all(&files, &dirs);
        // Bytes and names were taken off the lists: if they did not become durable, no later call may say so (I8).
        self.state.lock().latch_always(result)
    }

    fn sync_all(&self, files: &[(PackId, Arc<dyn MediaFile>)], dirs: &BTreeSet<String>) -> Result<()> {
        for (id, file) in files {
            file.sync().map_err(|error| Error::io(format!("syncing pack {id}"), error))?;
        }
        for dir in dirs {
            self.media
                .sync_dir(dir)
                .map_err(|error| Error::io(format!("syncing the directory \"{dir}\""), error))?;
        }
        Ok(())
    }

    /// Seals the open pack, if there is one with a region in it. Its footer is durable after the next [`sync`](Self::sync).
    pub fn seal(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        let result = seal_open(&mut state);
        state.latch(result)
    }

    /// The id the next new pack will get, or a later one if a file has that name.
    pub fn next_pack(&self) -> PackId {
        self.state.lock().next
    }

    /// Pack and offset before which nothing is written any more.
    pub fn frontier(&self) -> (PackId, u64) {
        let state = self.state.lock();
        state.open.as_ref().map_or((state.next, 0), |pack| (pack.id, pack.end))
    }

    /// The pack that is written to.
    pub fn open_pack(&self) -> Option<PackId> {
        self.state.lock().open.as_ref().map(|pack| pack.id)
    }
}

/// Writes the footer of the open pack. On a full disk the pack stays open, and what there is of the footer is written
/// over by the next append.
fn seal_open(state: &mut State) -> Result<()> {
    let Some(pack) = &mut state.open else {
        return Ok(());
    };
    if pack.index.is_empty() {
        return Ok(());
    }
    let footer = format::encode_footer(pack.id, pack.end, &pack.index);
    let written = pack.file.write_at(&footer, pack.end).and_then(|()| {
        if pack.torn {
            // The footer must end the file.
            pack.file.set_len(pack.end + footer.len() as u64)
        } else {
            Ok(())
        }
    });
    if let Err(error) = written {
        pack.torn = true;
        return Err(Error::io(format!("sealing pack {}", pack.id), error));
    }
    let sealed = (pack.id, Arc::clone(&pack.file));
    state.open = None;
    state.note_dirty(sealed);
    Ok(())
}

impl OpenPack {
    /// Writes at the end, which moves only if all was written.
    fn write(&mut self, data: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_at(data, self.end) {
            self.torn = true;
            return Err(Error::io(format!("writing to pack {}", self.id), error));
        }
        self.end += data.len() as u64;
        Ok(())
    }
}

impl State {
    fn note_dirty(&mut self, (id, file): (PackId, Arc<dyn MediaFile>)) {
        // Packs are written one after the other: if this one is on the list, it is the last.
        if self.dirty.last().is_none_or(|(last, _)| *last != id) {
            self.dirty.push((id, file));
        }
    }

    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(Error::Latched(failure.clone())),
            None => Ok(()),
        }
    }

    /// Remembers a failed write for ever (I8), unless the disk was full: then the caller may make room and go on.
    fn latch<T>(&mut self, result: Result<T>) -> Result<T> {
        match result {
            Err(error) if error.is_no_space() => Err(error),
            other => self.latch_always(other),
        }
    }

    /// Remembers any failure for ever (I8): of a failed sync nobody knows what it dropped.
    fn latch_always<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failure.get_or_insert_with(|| error.to_string());
        }
        result
    }
}

#[cfg(test)]
mod tests;
