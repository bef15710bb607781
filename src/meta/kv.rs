//! The embedded database: the only file that names the crate `redb`.
//!
//! Keeps true: every value carries a checksum over table, key and value, so that a damaged row is an error and never
//! another row's content; a write transaction is applied whole or not at all; a durable commit has been synced when it
//! returns. Why redb and how it is fed: `docs/decisions/0001-metadata-engine.md`.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};
use crate::media::MediaFile;
use crate::sync::{Mutex, MutexGuard};

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
    /// Inode with several names, directory -> how many of them are in it.
    Links,
    /// Directory that is immutable or append-only -> nothing.
    Held,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub const ALL: [Table; 11] = [
        Table::Inodes,
        Table::Dirents,
        Table::Xattrs,
        Table::Extents,
        Table::Regions,
        Table::Digests,
        Table::Orphans,
        Table::State,
        Table::Bad,
        Table::Links,
        Table::Held,
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
            Table::Links => "links",
            Table::Held => "held",
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

/// A value with its checksum, as it is stored.
fn stored(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    [value, &checksum(table, key, value)].concat()
}

/// Takes the checksum off a stored value.
fn verified<'a>(table: Table, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8]> {
    let split = stored.len().checked_sub(SUM_LEN);
    let (value, sum) = stored.split_at(split.ok_or_else(|| short_row(table, key))?);
    if sum == checksum(table, key, value) {
        return Ok(value);
    }
    Err(Error::damaged(format!(
        "metadata row {} of table {} does not match its checksum",
        hex(key),
        table.name()
    )))
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
        redb::Error::Io(source) => Error::io("metadata database", source),
        redb::Error::Corrupted(what) => Error::damaged(format!("metadata database: {what}")),
        other => Error::io("metadata database", io::Error::other(other.to_string())),
    }
}

/// redb's view of a file of the store.
#[derive(Debug)]
struct Backend(Arc<dyn MediaFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let have = self.0.len()?;
        if len > have {
            // A file that only claims its length would fail at some later write; claim the blocks now, where
            // running out of space is still a clean refusal.
            self.0.allocate(have, len - have)
        } else {
            self.0.set_len(len)
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

/// The database.
pub struct Kv {
    /// Gone once it was closed.
    db: RwLock<Option<Database>>,
    /// Held by the one write transaction. The engine would make others wait as well, but inside its own locks, where
    /// nobody sees who waits for whom.
    writing: Mutex<()>,
}

impl Kv {
    /// Makes the database in an empty file, or opens the one that is there.
    pub fn open(file: Arc<dyn MediaFile>, cache_bytes: usize) -> Result<Self> {
        let db = guarded(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(cache_bytes).create_with_backend(Backend(file)).map_err(db_error)
        })?;
        let kv = Self { db: RwLock::new(Some(db)), writing: Mutex::new(()) };
        let txn = kv.write()?;
        guarded(|| {
            for table in Table::ALL {
                txn.txn.open_table(table.definition()).map_err(db_error)?;
            }
            Ok(())
        })?;
        txn.commit(true)?;
        Ok(kv)
    }

    /// Writes what the database wants to write last, and closes it. Views that are still held can be read.
    pub fn close(&self) -> Result<()> {
        match self.db.write().take() {
            Some(db) => guarded(|| db.close().map_err(db_error)),
            None => Ok(()),
        }
    }

    fn with_db<R>(&self, use_it: impl FnOnce(&Database) -> Result<R>) -> Result<R> {
        let db = self.db.read();
        let db = db.as_ref().ok_or_else(|| Error::Latched("it was closed".to_owned()))?;
        guarded(|| use_it(db))
    }

    /// The present state, unmoved by later commits for as long as it is held.
    pub fn read(&self) -> Result<ReadView> {
        self.with_db(|db| {
            let txn = db.begin_read().map_err(db_error)?;
            let mut tables = Vec::with_capacity(Table::ALL.len());
            for table in Table::ALL {
                tables.push(txn.open_table(table.definition()).map_err(db_error)?);
            }
            Ok(ReadView { tables, _txn: txn })
        })
    }

    /// Begins the one write transaction; waits while another is under way.
    pub fn write(&self) -> Result<WriteTxn<'_>> {
        let turn = self.writing.lock();
        let mut txn = self.with_db(|db| db.begin_write().map_err(db_error))?;
        // Opening after a crash must not depend on the store's size.
        txn.set_quick_repair(true);
        Ok(WriteTxn { txn, _turn: turn })
    }
}

/// One moment of the database.
pub struct ReadView {
    tables: Vec<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    _txn: ReadTransaction,
}

/// A key with its value.
pub type Row = (Vec<u8>, Vec<u8>);
/// A key with its value, or with what is wrong with the row.
pub type CheckedRow = (Vec<u8>, Result<Vec<u8>>);

impl ReadView {
    fn table(&self, table: Table) -> &ReadOnlyTable<&'static [u8], &'static [u8]> {
        &self.tables[table as usize]
    }

    /// The value under `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        guarded(|| {
            let found = self.table(table).get(key).map_err(db_error)?;
            found.map(|guard| verified(table, key, guard.value()).map(<[u8]>::to_vec)).transpose()
        })
    }

    /// The last row with a key in `from..=to`.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        guarded(|| {
            let mut range = self.table(table).range::<&[u8]>(from..=to).map_err(db_error)?;
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
        let mut range = guarded(|| self.table(table).range::<&[u8]>((from, to)).map_err(db_error))?;
        while let Some(row) = guarded(|| range.next().transpose().map_err(db_error))? {
            let (key, value) = row;
            let plain = verified(table, key.value(), value.value())?;
            if !each(key.value(), plain)? {
                break;
            }
        }
        Ok(())
    }

    /// All rows of a table in key order, for checks: a row that does not match its checksum comes as the error it is,
    /// and the rows behind it follow. An error outside a row is the engine's; nothing good follows it.
    pub fn rows(&self, table: Table) -> Result<impl Iterator<Item = Result<CheckedRow>> + use<>> {
        let mut range = guarded(|| self.table(table).range::<&[u8]>(..).map_err(db_error))?;
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

/// Runs `read`. redb does not expect pages that are damaged: where it panics on one, that is damage, too, and not the
/// end of whoever reads.
pub(crate) fn guarded<R>(read: impl FnOnce() -> Result<R>) -> Result<R> {
    // What is read changes nothing, so nothing is left half changed.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
        Err(Error::damaged(format!("metadata database: a page of it cannot be read ({text})")))
    })
}

/// B-trees panic on a range that ends before it begins; callers may well ask for one.
pub(crate) fn range_is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b) | Bound::Included(b)) => a >= b,
    }
}

/// A write transaction; dropped without a commit, it changes nothing.
pub struct WriteTxn<'a> {
    txn: WriteTransaction,
    _turn: MutexGuard<'a, ()>,
}

impl WriteTxn<'_> {
    /// The value under `key`, with this transaction's own changes.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let open = self.txn.open_table(table.definition()).map_err(db_error)?;
        let found = open.get(key).map_err(db_error)?;
        found.map(|guard| verified(table, key, guard.value()).map(<[u8]>::to_vec)).transpose()
    }

    /// The last row with a key in `from..=to`, with this transaction's own changes.
    pub fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        guarded(|| {
            let open = self.txn.open_table(table.definition()).map_err(db_error)?;
            let mut range = open.range::<&[u8]>(from..=to).map_err(db_error)?;
            range.next_back().map(|row| owned(table, row)).transpose()
        })
    }

    /// The rows of `from..to`, with this transaction's own changes.
    pub fn rows(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Vec<Row>> {
        guarded(|| {
            let open = self.txn.open_table(table.definition()).map_err(db_error)?;
            let range = open.range::<&[u8]>(from..to).map_err(db_error)?;
            range.map(|row| owned(table, row)).collect()
        })
    }

    /// Applies changes of one table, in key order for speed: `None` removes.
    pub fn apply<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: Table,
        changes: impl IntoIterator<Item = (K, Option<V>)>,
    ) -> Result<()> {
        guarded(|| self.apply_unguarded(table, changes))
    }

    fn apply_unguarded<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        table: Table,
        changes: impl IntoIterator<Item = (K, Option<V>)>,
    ) -> Result<()> {
        let mut open = self.txn.open_table(table.definition()).map_err(db_error)?;
        let mut row = Vec::new();
        for (key, value) in changes {
            let key = key.as_ref();
            match value {
                None => {
                    open.remove(key).map_err(db_error)?;
                }
                Some(value) => {
                    let value = value.as_ref();
                    row.clear();
                    row.extend_from_slice(value);
                    row.extend_from_slice(&checksum(table, key, value));
                    open.insert(key, row.as_slice()).map_err(db_error)?;
                }
            }
        }
        Ok(())
    }

    /// Writes one row.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.apply(table, [(key, Some(value))])
    }

    /// Removes the rows of `from..to`, at most `limit`; returns those removed.
    pub fn remove_range(&mut self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        let mut open = self.txn.open_table(table.definition()).map_err(db_error)?;
        let mut rows = Vec::new();
        for row in open.range::<&[u8]>(from..to).map_err(db_error)?.take(limit) {
            let (key, value) = row.map_err(db_error)?;
            let plain = verified(table, key.value(), value.value())?;
            rows.push((key.value().to_vec(), plain.to_vec()));
        }
        for (key, _) in &rows {
            open.remove(key.as_slice()).map_err(db_error)?;
        }
        Ok(rows)
    }

    /// Writes rows. Where one is there already with another value, `merge` makes its value of the new and the old one.
    pub fn merge<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        table: Table,
        rows: impl IntoIterator<Item = (K, V)>,
        merge: impl Fn(&[u8], &[u8]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        guarded(|| {
            let mut open = self.txn.open_table(table.definition()).map_err(db_error)?;
            for (key, value) in rows {
                let (key, value) = (key.as_ref(), value.as_ref());
                let before = open.insert(key, stored(table, key, value).as_slice()).map_err(db_error)?;
                let merged = match &before {
                    Some(old) => match verified(table, key, old.value())? {
                        old if old == value => None,
                        old => Some(merge(value, old)?),
                    },
                    None => None,
                };
                drop(before);
                if let Some(merged) = merged {
                    open.insert(key, stored(table, key, &merged).as_slice()).map_err(db_error)?;
                }
            }
            Ok(())
        })
    }

    /// Changes those rows that are there: `change` makes the new value of what is named with the key and the old value;
    /// `None` removes the row.
    pub fn change<K: AsRef<[u8]>, C: Copy>(
        &mut self,
        table: Table,
        rows: impl IntoIterator<Item = (K, C)>,
        change: impl Fn(C, &[u8]) -> Result<Option<Vec<u8>>>,
    ) -> Result<()> {
        guarded(|| {
            let mut open = self.txn.open_table(table.definition()).map_err(db_error)?;
            for (key, what) in rows {
                let key = key.as_ref();
                let changed = match open.get(key).map_err(db_error)? {
                    None => continue,
                    Some(old) => {
                        let old = verified(table, key, old.value())?;
                        change(what, old)?.map(|new| (new != old).then_some(new))
                    }
                };
                match changed {
                    None => drop(open.remove(key).map_err(db_error)?),
                    Some(None) => {}
                    Some(Some(new)) => {
                        open.insert(key, stored(table, key, &new).as_slice()).map_err(db_error)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Makes the transaction visible; with `durable`, it and all before it have been synced when this returns.
    pub fn commit(mut self, durable: bool) -> Result<()> {
        if !durable {
            self.txn
                .set_durability(Durability::None)
                .map_err(|error| Error::io("metadata database", io::Error::other(error.to_string())))?;
        }
        guarded(|| self.txn.commit().map_err(db_error))
    }
}
