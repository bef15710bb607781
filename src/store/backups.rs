//! Backups of the metadata: when one is due, and where it goes.
//!
//! They are files `meta-backups/NNNNNNNN.cmb`, numbered upwards; the newest two are kept. A backup is written under
//! another name, synced and renamed, and only then the oldest is removed, so the newest complete one always exists. A
//! backup names chunks that later cycles may free. It does not keep them from being freed; a repair finds out which are
//! gone.
//!
//! The changes bound the cost: the next backup is due when an eighth as many bytes of rows were committed as the last
//! backup has. So all backups together write at most about eight times what the commits write, before compression. No
//! clock is read (I10): the daemon decides when to check.

use crate::error::{Error, Result};
use crate::media::{Media, recreate};
use crate::meta::Meta;
use crate::meta::backup::{self, Backup, Head, Size};
use crate::sync::{Arc, AtomicU64, Ordering};

use super::batches::{Batches, Numbers};
use super::commit::Commits;
use super::files::allocated;

/// The directory.
pub const BACKUP_DIR: &str = "meta-backups";
/// Backups that are kept.
const KEPT: usize = 2;
/// With fewer changed bytes of rows, no backup is due.
const MIN_CHANGED: u64 = 64 << 10;
/// A store with no more bytes of rows than this gets a backup at each closing after a change.
const SMALL: u64 = 64 << 20;
/// Free space that a backup leaves on the disk.
const MARGIN: u64 = 256 << 20;

fn path(number: u64) -> String {
    format!("{BACKUP_DIR}/{number:08}.cmb")
}

fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".cmb")?.parse().ok()?;
    path(number).ends_with(&format!("/{name}")).then_some(number)
}

/// The numbers of all backups in a store, the newest first.
pub fn list_backups(media: &dyn Media) -> Result<Vec<u64>> {
    let failed = |error| Error::io(format!("listing {BACKUP_DIR}"), error);
    if !media.exists(BACKUP_DIR).map_err(failed)? {
        return Ok(Vec::new());
    }
    let names = media.list(BACKUP_DIR).map_err(failed)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

/// Opens a backup.
pub fn open_backup(media: &dyn Media, number: u64) -> Result<Backup> {
    let name = path(number);
    let file = media.open(&name, false).map_err(|error| Error::io(format!("opening {name}"), error))?;
    Backup::open(file)
}

/// The backups of one store.
pub struct Backups {
    media: Arc<dyn Media>,
    meta: Arc<Meta>,
    batches: Arc<Batches>,
    commits: Arc<Commits>,
    numbers: Arc<Numbers>,
    /// The uuid of the store.
    uuid: [u8; 16],
    /// Bytes of the store's reserve.
    reserve: u64,
    /// Bytes of rows in the last backup, approximately.
    size: AtomicU64,
}

/// The parts of a store that its backups use.
pub struct Parts {
    /// Where backups are written.
    pub media: Arc<dyn Media>,
    /// Their content.
    pub meta: Arc<Meta>,
    /// Whether the store accepts changes.
    pub batches: Arc<Batches>,
    /// How much has changed.
    pub commits: Arc<Commits>,
    /// The generation that they record.
    pub numbers: Arc<Numbers>,
}

impl Backups {
    /// Of a store with this uuid and a reserve of so many bytes.
    pub fn new(uuid: [u8; 16], reserve: u64, parts: Parts) -> Self {
        let Parts { media, meta, batches, commits, numbers } = parts;
        let size = AtomicU64::new(newest_size(media.as_ref()));
        Self { media, meta, batches, commits, numbers, uuid, reserve, size }
    }

    /// Bytes that all of them take on the host.
    pub fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for number in list_backups(self.media.as_ref())? {
            // The oldest may be removed at any moment.
            bytes += allocated(self.media.as_ref(), &path(number))?.unwrap_or(0);
        }
        Ok(bytes)
    }

    /// Has enough changed for a backup? For a small store, `at_close`, any change is enough.
    pub fn are_due(&self, at_close: bool) -> bool {
        let last = self.size.load(Ordering::Relaxed);
        let changed = self.commits.changed_bytes();
        changed >= MIN_CHANGED.max(last / 8) || at_close && changed > 0 && last <= SMALL
    }

    /// Writes a backup of the database. `go_on` is asked from time to time; if it fails, nothing stays behind. None if
    /// the disk has too little space.
    pub fn write(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Option<Size>> {
        self.batches.writable()?;
        let expected = self.size.load(Ordering::Relaxed);
        let space = self.media.space().map_err(|error| Error::io("statvfs of the store", error))?;
        if space.available < expected + MARGIN.min(self.reserve * 2) {
            return Ok(None);
        }
        let changed = self.commits.take_changed_bytes();
        self.commits.fold()?;
        let written = self.write_backup(go_on);
        if written.is_err() {
            self.commits.add_changed_bytes(changed);
        }
        let size = written?;
        self.size.store(size.plain, Ordering::Relaxed);
        Ok(Some(size))
    }

    fn write_backup(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Size> {
        let media = self.media.as_ref();
        let failed = |error| Error::io("writing a metadata backup", error);
        media.mkdir(BACKUP_DIR).map_err(failed)?;
        media.sync_dir("").map_err(failed)?;
        let numbers = list_backups(media)?;
        let name = path(numbers.first().map_or(1, |newest| newest + 1));
        let new = format!("{name}.new");
        let file = recreate(media, &new).map_err(failed)?;
        let head = Head { store: self.uuid, generation: self.numbers.generation() };
        let view = self.meta.layers().view.base().clone();
        let size = match backup::write(&view, head, file.as_ref(), go_on) {
            Ok(size) => size,
            Err(error) => {
                let _ = media.remove(&new);
                return Err(error);
            }
        };
        media.rename(&new, &name).map_err(failed)?;
        media.sync_dir(BACKUP_DIR).map_err(failed)?;
        for old in numbers.into_iter().skip(KEPT - 1) {
            media.remove(&path(old)).map_err(failed)?;
        }
        Ok(size)
    }
}

/// The size of the newest backup, estimated from its file; 0 if there is none.
fn newest_size(media: &dyn Media) -> u64 {
    // Estimated from the length of the file: rows compress to about a third.
    let newest = list_backups(media).ok().and_then(|numbers| numbers.first().copied());
    let len = newest.and_then(|number| media.open(&path(number), false).ok()?.len().ok());
    len.unwrap_or(0) * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_backups_are_backups() {
        assert_eq!(number_of("00000012.cmb"), Some(12));
        assert_eq!(number_of("123456789.cmb"), Some(123_456_789));
        for name in ["12.cmb", "00000012.cmb.new", "+0000012.cmb", "00000012"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
