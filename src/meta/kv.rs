//! The embedded database: the only module that names the crate `redb`.
//!
//! Keeps true: every value has a checksum over table, key and value, so that a damaged row is an error and never the
//! content of another row. The pages have sums of their own ([`pages`](super::pages)), so that no damage can hide a
//! row. A failed read is an error of that read only; others go on. A write transaction is applied whole or not at all.
//! A durable commit has been synced when it returns. Why redb, and how it is used:
//! `docs/decisions/0001-metadata-engine.md`.

mod readable;
mod write;

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result, contained};
use crate::media::MediaFile;
use crate::sync::Mutex;

use super::pages::{Pages, Shutdown};

pub use write::WriteTxn;

/// The tables of a store. `docs/format.md` gives the keys and rows of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Inode number -> inode row.
    Inodes,
    /// Directory, hash of the name, name -> entry.
    Dirents,
    /// Inode, attribute name -> value.
    Xattrs,
    /// Inode, file offset -> run of chunks.
    Extents,
    /// First ChunkId of a region -> where it is and what is in it.
    Regions,
    /// Digest -> ChunkId.
    Digests,
    /// Inode without a name -> nothing.
    Orphans,
    /// Counters and the generation.
    State,
    /// ChunkId that did not read back -> the pack it was in.
    Bad,
    /// Copy, version -> its parent.
    Versions,
    /// Copy, number of a subvolume -> where it is and at which version it stands.
    Subvolumes,
    /// In a subvolume: inode, version -> inode row.
    SubInodes,
    /// In a subvolume: directory, hash of the name, name, version -> entry.
    SubDirents,
    /// In a subvolume: inode, attribute name, version -> value.
    SubXattrs,
    /// In a subvolume: inode, content, file offset -> run of chunks.
    SubExtents,
    /// Version, table, key -> nothing: the version has a row of its own under that key.
    Owned,
    /// Number of a subvolume -> what it holds.
    Usage,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub const ALL: [Table; 17] = [
        Table::Inodes,
        Table::Dirents,
        Table::Xattrs,
        Table::Extents,
        Table::Regions,
        Table::Digests,
        Table::Orphans,
        Table::State,
        Table::Bad,
        Table::Versions,
        Table::Subvolumes,
        Table::SubInodes,
        Table::SubDirents,
        Table::SubXattrs,
        Table::SubExtents,
        Table::Owned,
        Table::Usage,
    ];

    /// The table's name in the database and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Table::Inodes => "inodes",
            Table::Dirents => "dirents",
            Table::Xattrs => "xattrs",
            Table::Extents => "extents",
            Table::Regions => "regions",
            Table::Digests => "digests",
            Table::Orphans => "orphans",
            Table::State => "state",
            Table::Bad => "bad",
            Table::Versions => "versions",
            Table::Subvolumes => "subvolumes",
            Table::SubInodes => "sub_inodes",
            Table::SubDirents => "sub_dirents",
            Table::SubXattrs => "sub_xattrs",
            Table::SubExtents => "sub_extents",
            Table::Owned => "owned",
            Table::Usage => "usage",
        }
    }

    fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name())
    }
}

const SUM_LEN: usize = 4;

fn checksum(table: Table, key: &[u8], value: &[u8]) -> [u8; SUM_LEN] {
    let of_key = xxh3_64_with_seed(key, table as u64);
    (xxh3_64_with_seed(value, of_key) as u32).to_le_bytes()
}

/// Makes `row` a value with its checksum, as it is stored.
fn store_in<'a>(row: &'a mut Vec<u8>, table: Table, key: &[u8], value: &[u8]) -> &'a [u8] {
    row.clear();
    row.extend_from_slice(value);
    row.extend_from_slice(&checksum(table, key, value));
    row
}

/// Takes the checksum off a stored value.
fn verified<'a>(table: Table, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8]> {
    let split = stored.len().checked_sub(SUM_LEN);
    let (value, sum) = stored.split_at(split.ok_or_else(|| short_row(table, key))?);
    if sum == checksum(table, key, value) {
        return Ok(value);
    }
    let (key, table) = (hex(key), table.name());
    Err(Error::damaged(format!("metadata row {key} of table {table} does not match its checksum")))
}

fn short_row(table: Table, key: &[u8]) -> Error {
    Error::damaged(format!("metadata row {} of table {} is too short", hex(key), table.name()))
}

/// A key as people can read it in a message.
pub fn hex(key: &[u8]) -> String {
    key.iter().take(40).map(|byte| format!("{byte:02x}")).collect()
}

/// redb's errors, with the host's errno kept where there is one.
fn db_error(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(source) => file_error(source),
        redb::Error::Corrupted(what) => Error::damaged(format!("metadata database: {what}")),
        other => Error::io("metadata database", io::Error::other(other.to_string())),
    }
}

/// An error of the file beneath.
fn file_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::damaged(format!("metadata database: {error}"))
        }
        _ => Error::io("metadata database", error),
    }
}

/// If a change of the file failed, returns that error: later errors of the engine are only consequences.
fn original_error(pages: &Pages, later: Error) -> Error {
    pages.failure().map_or(later, file_error)
}

/// Fails if a change of the file did (I8).
fn check_not_failed(pages: &Pages) -> Result<()> {
    pages.failure().map_or(Ok(()), |error| Err(file_error(error)))
}

/// redb's view of a file of the store.
#[derive(Debug)]
struct Backend(Arc<Pages>);

/// The payload with which a failed read unwinds.
struct ReadFailure(io::Error);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }

    /// After a read returned an error, redb fails all later reads, although other pages may be good. So a failed read
    /// unwinds through redb, and [`guarded`] turns that into an error. Only a read in a destructor that runs during
    /// this unwinding returns the error: it must not unwind again.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.0.read(offset, out) {
            Ok(()) => Ok(()),
            Err(error) if std::thread::panicking() => Err(error),
            Err(error) => std::panic::resume_unwind(Box::new(ReadFailure(error))),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.close();
        Ok(())
    }
}

/// The database.
pub struct Kv {
    /// Gone once it was closed.
    db: RwLock<Option<Database>>,
    /// Held by the one write transaction. The engine would make others wait as well, but inside its own locks, where
    /// nobody can see who waits for whom.
    writing: Mutex<()>,
    pages: Arc<Pages>,
}

impl Drop for Kv {
    fn drop(&mut self) {
        // The last work of the engine can fail, too; it reports that itself, and nobody waits for the result.
        let _ = self.close();
    }
}

impl Kv {
    /// Makes the database in an empty file, with these rows, and closes it, durable.
    pub fn create(file: Arc<dyn MediaFile>, rows: &[(Table, &[u8], &[u8])]) -> Result<()> {
        let pages = Pages::create(file).map_err(file_error)?;
        let kv = Self::on_pages(pages, 1 << 20)?;
        let mut txn = kv.write()?;
        guarded(|| Table::ALL.into_iter().try_for_each(|table| txn.open(table).map(drop)))?;
        rows.iter().try_for_each(|(table, key, value)| txn.put(*table, key, value))?;
        txn.commit(true)?;
        kv.close()
    }

    /// True if it was found as it had been closed: whoever had it open before came to his end in order.
    pub fn was_closed(&self) -> bool {
        self.pages.shutdown() == Shutdown::Clean
    }

    /// Opens the database in a file. A missing database is never made: the store would look empty, and a cycle would
    /// free everything.
    pub fn open(file: Arc<dyn MediaFile>, cache_bytes: usize) -> Result<Self> {
        let (kv, found) = Self::open_as_found(file, cache_bytes)?;
        if found == Shutdown::CopiedInUse {
            tracing::warn!(
                "the metadata database is a copy of one that was in use; all of it is checked now"
            );
            kv.check_all().map_err(|error| {
                Error::damaged(format!(
                    "the store was copied while it was in use, and the copy does not fit ({error})"
                ))
            })?;
            kv.pages.verified();
            check_not_failed(&kv.pages)?;
        }
        Ok(kv)
    }

    /// The same without verifying a copy of a database that was in use: for a repair, which takes every row that it can
    /// read and that matches its sum.
    pub fn open_unchecked(file: Arc<dyn MediaFile>, cache_bytes: usize) -> Result<Self> {
        Self::open_as_found(file, cache_bytes).map(|(kv, _)| kv)
    }

    fn open_as_found(file: Arc<dyn MediaFile>, cache_bytes: usize) -> Result<(Self, Shutdown)> {
        let pages = Pages::open(file).map_err(file_error)?;
        let found = pages.shutdown();
        if pages.len() == 0 {
            // redb would make a new database of it.
            return Err(Error::damaged("metadata database: its file ends before its first page"));
        }
        Ok((Self::on_pages(pages, cache_bytes)?, found))
    }

    fn on_pages(pages: Pages, cache_bytes: usize) -> Result<Self> {
        let pages = Arc::new(pages);
        let backend = Backend(pages.clone());
        let db = guarded(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(cache_bytes).create_with_backend(backend).map_err(db_error)
        })
        .map_err(|error| original_error(&pages, error))?;
        let kv = Self { db: RwLock::new(Some(db)), writing: Mutex::new(()), pages };
        check_not_failed(&kv.pages).map(|()| kv)
    }

    /// Reads every used page, also those that only the engine knows, along every path to it. After an error nothing
    /// more can be read.
    pub fn check_all(&self) -> Result<()> {
        let mut held = self.db.write();
        let Some(db) = held.as_mut() else { return Ok(()) };
        let checked = guarded(|| db.check_integrity().map_err(db_error));
        if checked.is_err() {
            // After an incomplete check, it would panic when dropped.
            std::mem::forget(held.take());
        }
        checked.and_then(|_| check_not_failed(&self.pages))
    }

    /// Lets the database write its last pages, and closes it. Views that are still held can be read.
    pub fn close(&self) -> Result<()> {
        let Some(db) = self.db.write().take() else { return Ok(()) };
        guarded(|| db.close().map_err(db_error)).map_err(|error| original_error(&self.pages, error))?;
        check_not_failed(&self.pages)
    }

    fn with_db<R>(&self, use_it: impl FnOnce(&Database) -> Result<R>) -> Result<R> {
        let db = self.db.read();
        let db = db.as_ref().ok_or_else(|| Error::Latched("it was closed".to_owned()))?;
        guarded(|| use_it(db))
    }

    /// A view of the present state; later commits do not change it.
    pub fn read(&self) -> Result<ReadView> {
        self.with_db(|db| {
            let txn = db.begin_read().map_err(db_error)?;
            let mut tables = Vec::with_capacity(Table::ALL.len());
            for table in Table::ALL {
                tables.push(Ok(txn.open_table(table.definition()).map_err(db_error)?));
            }
            Ok(ReadView { tables, _txn: txn })
        })
    }
}

type OpenTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// A view of the database at one moment.
pub struct ReadView {
    /// The tables, or why one cannot be opened; the latter only in a view for a repair.
    tables: Vec<std::result::Result<OpenTable, String>>,
    _txn: ReadTransaction,
}

/// A key with its value.
pub type Row = (Vec<u8>, Vec<u8>);
/// A key with its value, or with the error of the row.
pub type CheckedRow = (Vec<u8>, Result<Vec<u8>>);

impl ReadView {
    fn table(&self, table: Table) -> Result<&OpenTable> {
        self.tables[table as usize].as_ref().map_err(|what| Error::Damaged(what.clone()))
    }

    /// The value under `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        guarded(|| {
            let found = self.table(table)?.get(key).map_err(db_error)?;
            found.map(|guard| verified(table, key, guard.value()).map(<[u8]>::to_vec)).transpose()
        })
    }

    /// The last row with a key in `from..=to`.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        guarded(|| {
            let mut range = self.table(table)?.range::<&[u8]>(from..=to).map_err(db_error)?;
            match range.next_back() {
                None => Ok(None),
                Some(row) => {
                    let (key, value) = row.map_err(db_error)?;
                    let plain = verified(table, key.value(), value.value())?;
                    Ok(Some((key.value().to_vec(), plain.to_vec())))
                }
            }
        })
    }

    /// The first row with a key in `from..=to`.
    pub fn first(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        let mut found = None;
        self.scan(table, Bound::Included(from), Bound::Included(to), |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            Ok(false)
        })?;
        Ok(found)
    }

    /// Calls `each` for the rows from `from` (and below `to`) in key order until it returns false.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        if range_is_empty(from, to) {
            return Ok(());
        }
        let mut range = guarded(|| self.table(table)?.range::<&[u8]>((from, to)).map_err(db_error))?;
        while let Some(row) = guarded(|| range.next().transpose().map_err(db_error))? {
            let (key, value) = row;
            let plain = verified(table, key.value(), value.value())?;
            if !each(key.value(), plain)? {
                break;
            }
        }
        Ok(())
    }

    /// All rows of a table in key order, for checks. A row that does not match its checksum comes as an error, and the
    /// rows after it follow. An error outside a row comes from the engine, which would repeat it for ever; nothing
    /// follows it.
    pub fn rows(&self, table: Table) -> Result<impl Iterator<Item = Result<CheckedRow>> + use<>> {
        let mut walk = self.walk(table, Bound::Unbounded)?;
        let mut failed = false;
        Ok(std::iter::from_fn(move || {
            let row = (!failed).then(|| walk.next()).flatten();
            failed = matches!(row, Some(Err(_)));
            row
        }))
    }

    /// Rows from some key on, up to an error outside a row; later items mean nothing.
    fn walk(
        &self,
        table: Table,
        from: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<CheckedRow>> + use<>> {
        let range = (from, Bound::Unbounded);
        let mut range = guarded(|| self.table(table)?.range::<&[u8]>(range).map_err(db_error))?;
        let mut next = move || {
            let Some(row) = range.next() else { return Ok(None) };
            let (key, value) = row.map_err(db_error)?;
            let key = key.value().to_vec();
            let value = verified(table, &key, value.value()).map(<[u8]>::to_vec);
            Ok(Some((key, value)))
        };
        Ok(std::iter::from_fn(move || guarded(&mut next).transpose()))
    }
}

type Guard<'a> = redb::AccessGuard<'a, &'static [u8]>;

/// A row as it comes out of a range, checked.
fn owned(table: Table, row: Result<(Guard<'_>, Guard<'_>), redb::StorageError>) -> Result<Row> {
    let (key, value) = row.map_err(db_error)?;
    let plain = verified(table, key.value(), value.value())?;
    Ok((key.value().to_vec(), plain.to_vec()))
}

/// Runs `read`. redb does not expect damaged pages and may panic on one; this turns the panic into an error.
pub(crate) fn guarded<R>(read: impl FnOnce() -> Result<R>) -> Result<R> {
    // A read changes nothing, so nothing can be left half changed.
    contained(read).unwrap_or_else(|panic| {
        let panic = match panic.downcast::<ReadFailure>() {
            Ok(cannot) => return Err(file_error(cannot.0)),
            Err(panic) => panic,
        };
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
        Err(Error::damaged(format!("metadata database: a page of it cannot be read ({text})")))
    })
}

/// B-trees panic on a range that ends before it begins, and callers may ask for one.
pub(crate) fn range_is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b) | Bound::Included(b)) => a >= b,
    }
}

#[cfg(test)]
mod tests;
