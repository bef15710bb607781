//! Names, attributes and extents: from the old database as far as it can be read, the rest from the newest whole
//! backup.
//!
//! A row of the database has priority over that of the backup, which is older. If the database has damaged rows, or
//! pages that cannot be read, the backup's rows between the sound ones replace them. Extents are replaced only for
//! files that have not changed since the backup, so that old bytes are never taken for new ones. If the backup has a
//! row and the database is readable there and has none, the row was removed since.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::media::{Media, Overlay};
use crate::meta::backup::{Backup, TABLES};
use crate::meta::kv::{CheckedRow, Row, hex};
use crate::meta::log::{FOLDED_KEY, FoldedRow};
use crate::meta::rows::{
    DirentRow, Extent, InodeRow, STATE_KEY, State, SubvolumeRow, UsageRow, decode_content_key,
    decode_extent_key, decode_owned_key, decode_seen, decode_version_row, dirent_name, ino_of, xattr_name,
};
use crate::meta::{Counter, Kv, ReadView, Table};
use crate::pack::PackStore;
use crate::sabotage::{Protection, out};
use crate::store::{META_FILE, NUMBER_GAP, list_backups, open_backup};

use super::super::findings::sentence;
use super::NEW;
use super::log::{self, Newer};
use super::report::{Database, RepairReport};
use super::sink::Sink;

/// An old database, open for reading; its file is not changed.
pub(super) struct Old {
    /// Which file it is.
    pub name: String,
    pub view: ReadView,
    kv: Kv,
}

impl Old {
    /// How far the log is folded, as far as it can be read.
    fn folded(&self) -> Option<FoldedRow> {
        self.view.get(Table::State, FOLDED_KEY).ok()?.and_then(|row| FoldedRow::decode(&row).ok())
    }

    /// The same with what is `newer`, unless the database cannot take it any more.
    fn with(self, newer: &mut Newer) -> Result<Self> {
        let Self { name, view, kv } = self;
        drop(view);
        match newer.fold_into(&kv) {
            Ok(()) => *newer = Newer::default(),
            Err(error) => tracing::warn!("the log is taken apart from the database: {error}"),
        }
        let view = kv.read_partial()?;
        Ok(Self { name, view, kv })
    }
}

/// The sources of a rebuild, beside the packs.
pub(super) struct Sources {
    pub old: Option<Old>,
    pub backup: Option<Backup>,
    /// What the log has beyond both; nothing once the old database has it.
    pub newer: Newer,
}

impl Sources {
    /// Is the old database in this file?
    pub fn is_at(&self, name: &str) -> bool {
        self.old.as_ref().is_some_and(|old| old.name == name)
    }
}

/// The name under which the `number`th old database was put aside.
pub(super) fn aside(number: u64) -> String {
    format!("{META_FILE}.damaged-{number}")
}

/// Finds the newest complete backup, and the old database in its place or where an interrupted repair has left it.
pub(super) fn find(
    (media, packs): (&dyn Media, &dyn PackStore),
    store: [u8; 16],
    report: &mut RepairReport,
) -> Result<Sources> {
    let (backup, newest) = newest_backup(media, store, report)?.unzip();
    let (newest, folded) = newest.unzip();
    let mut old = open_old(media, packs, report)?;
    if old.is_none() && report.database == Database::Missing && are_leftovers_read() {
        old = open_left(media, newest.flatten().as_ref())?;
        if let Some(old) = &old {
            report.database = Database::Damaged;
            report.database_fault =
                Some(format!("it is missing, {} is read, which an earlier repair has left", old.name));
        }
    }
    let folded = match &old {
        Some(old) => old.folded(),
        None => folded.flatten(),
    };
    let was_closed = old.as_ref().is_some_and(|old| old.kv.was_closed());
    let mut newer = log::read(media, folded, was_closed, report)?;
    if old.is_none() {
        // What was folded after the backup is lost with the database: no damage of the log.
        report.log_fault = None;
    }
    newer.restore(packs, store)?;
    if let Some(found) = old.take_if(|_| !newer.is_empty()) {
        old = Some(found.with(&mut newer)?);
    }
    Ok(Sources { old, backup, newer })
}

fn are_leftovers_read() -> bool {
    !out(Protection::LeftoversAreRead)
}

/// The database that an interrupted repair has left, if none is in its place: the new one, if it is complete; or the
/// last one that was put aside, if it is not older than the newest backup, whose state is `newest`. An older one was
/// put aside after an earlier damage and is out of date.
fn open_left(media: &dyn Media, newest: Option<&State>) -> Result<Option<Old>> {
    let failed = |error| Error::io("looking for what a repair has left", error);
    if !media.exists("meta").map_err(failed)? {
        return Ok(None);
    }
    if media.exists(NEW).map_err(failed)?
        && let Ok(old) = looked(open(media, NEW))?
        && state_of(&old.view).is_some()
        && looked(check_all(media, NEW))?.is_ok()
    {
        return Ok(Some(old));
    }
    let names = media.list("meta").map_err(failed)?;
    let number = |name: &String| {
        let number = name.rsplit_once(".damaged-")?.1.parse().ok()?;
        (aside(number) == format!("meta/{name}")).then_some(number)
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    for number in numbers.into_iter().rev() {
        if let Ok(old) = looked(open(media, &aside(number)))?
            && !is_new(&old.view)
            && newest.is_none_or(|newest| !is_older(&old.view, newest))
        {
            return Ok(Some(old));
        }
    }
    Ok(None)
}

/// Is a database older than this state? Numbers only grow, and each opening of a store skips many.
fn is_older(view: &ReadView, than: &State) -> bool {
    match state_of(view) {
        Some(state) => {
            let numbers = |state: &State| [state.generation, state.next_chunk, state.next_ino];
            numbers(&state).into_iter().zip(numbers(than)).any(|(ours, other)| ours < other)
        }
        None => {
            let inodes = view.readable_rows(Table::Inodes, b"").filter_map(Result::ok);
            let last = inodes.filter_map(|(key, _)| ino_of(&key).ok()).max();
            last.unwrap_or(0) + NUMBER_GAP <= than.next_ino
        }
    }
}

fn state_of(view: &ReadView) -> Option<State> {
    view.get(Table::State, STATE_KEY).ok().flatten().and_then(|row| State::decode(&row).ok())
}

/// Opens what can be read of a database without changing its file.
fn open(media: &dyn Media, name: &str) -> Result<Old> {
    let kv = open_kv(media, name)?;
    let view = kv.read_partial()?;
    Ok(Old { name: name.to_owned(), view, kv })
}

/// Reads every used page. No view may be held meanwhile, and a bad database is not read from afterwards.
fn check_all(media: &dyn Media, name: &str) -> Result<()> {
    open_kv(media, name)?.check_all()
}

/// Damage can be repaired. But if the host refuses access, nothing is known, and nothing is repaired.
fn looked<T>(found: Result<T>) -> Result<Result<T>> {
    match found {
        Err(error) if error.is_access_error() => Err(error),
        found => Ok(found),
    }
}

fn open_kv(media: &dyn Media, name: &str) -> Result<Kv> {
    let failed = |error| Error::io(format!("looking at {name}"), error);
    let file = Overlay::new(media.open(name, false).map_err(failed)?).map_err(failed)?;
    Kv::open_unchecked(Arc::new(file), 32 << 20)
}

/// Opens the database that is in its place.
fn open_old(media: &dyn Media, packs: &dyn PackStore, report: &mut RepairReport) -> Result<Option<Old>> {
    let failed = |error| Error::io(format!("looking at {META_FILE}"), error);
    if !media.exists(META_FILE).map_err(failed)? {
        return Ok(None);
    }
    let file = media.open(META_FILE, false).map_err(failed)?;
    if file.is_empty().map_err(failed)? {
        return Ok(None);
    }
    // Even if no row needs the page, the next commit may.
    let pages = looked(check_all(media, META_FILE))?;
    match looked(open(media, META_FILE))? {
        // A program that found no database may have made an empty one.
        Ok(old) if is_new(&old.view) => {
            if pages.is_ok() && packs.list()?.is_empty() && list_backups(media)?.is_empty() {
                // As mkfs left it: nothing was ever stored.
                report.database = Database::Whole;
            }
            Ok(None)
        }
        Ok(old) => {
            report.database = if pages.is_ok() { Database::Whole } else { Database::Damaged };
            report.database_fault = pages.err().as_ref().map(sentence);
            Ok(Some(old))
        }
        Err(error) => {
            report.database = Database::Unreadable;
            report.database_fault = Some(sentence(&error));
            Ok(None)
        }
    }
}

fn is_new(view: &ReadView) -> bool {
    let is_own = |row: Result<CheckedRow>| row.map_or(true, |(key, _)| key != FOLDED_KEY);
    let has_rows = |table| view.rows(table).map_or(true, |mut rows| rows.any(is_own));
    !TABLES.into_iter().any(has_rows)
}

/// The state row of a backup, and how far the log was folded then.
type BackedUp = (Option<State>, Option<FoldedRow>);

/// The newest backup of this store that can be read to its end, and the state that is in it.
fn newest_backup(
    media: &dyn Media,
    store: [u8; 16],
    report: &mut RepairReport,
) -> Result<Option<(Backup, BackedUp)>> {
    for number in list_backups(media)? {
        let whole = open_backup(media, number).and_then(|mut backup| {
            if backup.head.store != store {
                return Err(Error::damaged("metadata backup: it belongs to another store"));
            }
            let (mut state, mut folded) = (None, None);
            while let Some((table, (key, row))) = backup.next_row()? {
                if table == Table::State && key == STATE_KEY {
                    state = State::decode(&row).ok();
                } else if table == Table::State && key == FOLDED_KEY {
                    folded = FoldedRow::decode(&row).ok();
                }
            }
            Ok((open_backup(media, number)?, (state, folded)))
        });
        match looked(whole)? {
            Ok((backup, state)) => {
                report.backup = Some((number, backup.head.generation));
                return Ok(Some((backup, state)));
            }
            Err(error) => report.damaged_backups.push(format!("{number:08}.cmb: {}", sentence(&error))),
        }
    }
    Ok(None)
}

/// The rows of a backup, one table after the other.
struct Older {
    backup: Option<Backup>,
    next: Option<(Table, Row)>,
}

impl Older {
    fn new(backup: Option<Backup>) -> Result<Self> {
        let mut older = Self { backup, next: None };
        older.advance()?;
        Ok(older)
    }

    fn advance(&mut self) -> Result<()> {
        self.next = self.backup.as_mut().map_or(Ok(None), Backup::next_row)?;
        Ok(())
    }

    /// The next row of `table`, if its key is below `key`.
    fn below(&mut self, table: Table, key: &[u8]) -> Result<Option<Row>> {
        let next = self.next.take_if(|(of, (next, _))| *of == table && next.as_slice() < key);
        self.after(next)
    }

    /// The row of `key`, if it is the next one.
    fn at(&mut self, table: Table, key: &[u8]) -> Result<Option<Row>> {
        let next = self.next.take_if(|(of, (next, _))| *of == table && next.as_slice() == key);
        self.after(next)
    }

    /// The next row of `table`.
    fn rest(&mut self, table: Table) -> Result<Option<Row>> {
        let next = self.next.take_if(|(of, _)| *of == table);
        self.after(next)
    }

    fn after(&mut self, taken: Option<(Table, Row)>) -> Result<Option<Row>> {
        if taken.is_some() {
            self.advance()?;
        }
        Ok(taken.map(|(_, row)| row))
    }
}

/// The result of the copying, beside rows.
#[derive(Default)]
pub(super) struct Copied {
    /// The state row of the database, if it could be read.
    pub state: Option<State>,
    /// The state row of the backup.
    pub older_state: Option<State>,
    /// Inodes that changed since the backup: its extents are not theirs any more.
    changed: HashSet<u64>,
}

/// Copies everything that packs do not contain into the new database.
pub(super) fn copy(
    old: Option<&ReadView>,
    backup: Option<Backup>,
    sink: &mut Sink<'_>,
    report: &mut RepairReport,
) -> Result<Copied> {
    let mut copied = Copied::default();
    let mut older = Older::new(backup)?;
    for table in TABLES {
        match old {
            Some(view) => copy_table(view, table, &mut older, sink, report, &mut copied)?,
            None => take_rest(table, &mut older, sink, report, &mut copied)?,
        }
        // What is left of this table was removed since.
        while older.rest(table)?.is_some() {}
    }
    Ok(copied)
}

/// Copies what the log has over it.
pub(super) fn copy_newer(newer: &Newer, sink: &mut Sink<'_>, copied: &mut Copied) -> Result<()> {
    for (entry, table) in newer.entries().iter().flat_map(|entry| TABLES.map(|table| (entry, table))) {
        for (key, row) in entry.rows.changes(table) {
            match row {
                Some(row) => {
                    sound(table, key, row)?;
                    keep(table, key, row, false, sink, copied)?;
                }
                None => sink.remove(table, key)?,
            }
        }
    }
    Ok(())
}

fn copy_table(
    view: &ReadView,
    table: Table,
    older: &mut Older,
    sink: &mut Sink<'_>,
    report: &mut RepairReport,
    copied: &mut Copied,
) -> Result<()> {
    if lost_whole(view, table) {
        note(report, || format!("the table {} is empty, and should not be", table.name()));
        report.tables_with_gaps.push(table.name().to_owned());
        return take_rest(table, older, sink, report, copied);
    }
    // Counts the damaged rows since the last sound one, and whether pages cannot be read there: rows of the backup up
    // to the next sound one may replace them. The keys of damaged rows are not reliable.
    let (mut damaged, mut gap) = (0, false);
    for row in view.readable_rows(table, b"") {
        let (key, value) = match row {
            Ok(row) => row,
            Err(error) => {
                note(report, || format!("the table {}: {}", table.name(), sentence(&error)));
                if report.tables_with_gaps.last().is_none_or(|last| last != table.name()) {
                    report.tables_with_gaps.push(table.name().to_owned());
                }
                gap = true;
                continue;
            }
        };
        match value.and_then(|value| sound(table, &key, &value).map(|()| value)) {
            Err(error) => {
                note(report, || sentence(&error));
                damaged += 1;
            }
            Ok(value) => {
                let mut saved = 0;
                while let Some((key, value)) = older.below(table, &key)? {
                    if damaged > 0 || gap {
                        saved += keep_older(table, &key, &value, sink, copied)?;
                    }
                }
                count_damaged(report, std::mem::take(&mut damaged), saved);
                gap = false;
                let old = older.at(table, &key)?;
                compare(table, &key, &value, old, copied);
                report.rows_from_database += 1;
                keep(table, &key, &value, false, sink, copied)?;
            }
        }
    }
    if damaged > 0 || gap {
        let before = report.rows_from_backup;
        take_rest(table, older, sink, report, copied)?;
        let saved = report.rows_from_backup - before;
        report.rows_from_backup = before;
        count_damaged(report, damaged, saved);
    }
    Ok(())
}

/// Is a table empty that has rows by the state row? Damage at the root of a table looks like that.
pub(super) fn lost_whole(view: &ReadView, table: Table) -> bool {
    let counter = match table {
        Table::Inodes | Table::Dirents => Counter::Inodes,
        Table::Extents => Counter::ReferencedBytes,
        Table::Regions | Table::Digests => Counter::Chunks,
        Table::Orphans => Counter::Orphans,
        Table::Xattrs | Table::State | Table::Bad => return false,
        Table::Versions | Table::Subvolumes | Table::Owned | Table::Usage => return false,
        Table::SubInodes | Table::SubDirents | Table::SubXattrs | Table::SubExtents => return false,
    };
    let state = state_of(view);
    // The root has no name, and neither have inodes in the deletion queue.
    let nameless = |state: &State| match table {
        Table::Dirents => state.counter(Counter::Orphans) + 1,
        _ => 0,
    };
    state.is_none_or(|state| state.counter(counter) > nameless(&state))
        && view.rows(table).is_ok_and(|mut rows| rows.next().is_none())
}

/// Counts damaged rows, and rows of the backup that replace them.
fn count_damaged(report: &mut RepairReport, damaged: u64, saved: u64) {
    report.rows_from_backup += saved;
    report.rows_lost += damaged.saturating_sub(saved);
}

/// Compares a row of the database with that of the backup.
fn compare(table: Table, key: &[u8], value: &[u8], old: Option<Row>, copied: &mut Copied) {
    match table {
        Table::Inodes => {
            // Setting mtime back changes ctime.
            let times = |row: InodeRow| (row.times.mtime, row.times.ctime, row.size, row.allocated);
            let of = |row: &[u8]| InodeRow::decode(row).map(times).ok();
            if old.is_none_or(|(_, old)| of(&old) != of(value))
                && let Ok(ino) = ino_of(key)
            {
                copied.changed.insert(ino);
            }
        }
        Table::State if key == STATE_KEY => {
            copied.older_state = old.and_then(|(_, old)| State::decode(&old).ok());
        }
        _ => {}
    }
}

fn take_rest(
    table: Table,
    older: &mut Older,
    sink: &mut Sink<'_>,
    report: &mut RepairReport,
    copied: &mut Copied,
) -> Result<()> {
    while let Some((key, value)) = older.rest(table)? {
        report.rows_from_backup += keep_older(table, &key, &value, sink, copied)?;
    }
    Ok(())
}

fn note(report: &mut RepairReport, what: impl FnOnce() -> String) {
    report.database = Database::Damaged;
    report.database_fault.get_or_insert_with(what);
}

/// Takes a row of the backup, unless it is known to be out of date; how many were taken.
fn keep_older(
    table: Table,
    key: &[u8],
    value: &[u8],
    sink: &mut Sink<'_>,
    copied: &mut Copied,
) -> Result<u64> {
    if table == Table::Extents && copied.changed.contains(&ino_of(key)?) {
        return Ok(0);
    }
    keep(table, key, value, true, sink, copied)?;
    Ok(1)
}

fn keep(
    table: Table,
    key: &[u8],
    value: &[u8],
    is_older: bool,
    sink: &mut Sink<'_>,
    copied: &mut Copied,
) -> Result<()> {
    if table == Table::State && key == STATE_KEY {
        let state = Some(State::decode(value)?);
        *(if is_older { &mut copied.older_state } else { &mut copied.state }) = state;
        return Ok(());
    }
    // How far the old log was folded says nothing about the new one.
    if table == Table::State && key == FOLDED_KEY { Ok(()) } else { sink.put(table, key, value) }
}

/// Does a row say something that makes sense?
fn sound(table: Table, key: &[u8], value: &[u8]) -> Result<()> {
    let wrong =
        || Error::damaged(format!("the key {} of the table {} makes no sense", hex(key), table.name()));
    match table {
        Table::Inodes => InodeRow::decode(value).map(drop).and_then(|()| exactly(key, 8).ok_or_else(wrong)),
        Table::Dirents => DirentRow::decode(value).and_then(|_| dirent_name(key).map(drop)),
        Table::Xattrs => xattr_name(key).map(drop),
        Table::Extents => {
            exactly(key, 16).ok_or_else(wrong)?;
            Extent::decode(decode_extent_key(key)?.1, value).map(drop)
        }
        Table::Orphans => exactly(key, 8).ok_or_else(wrong),
        Table::State if key == STATE_KEY => State::decode(value).map(drop),
        Table::State => Ok(()),
        Table::Versions => decode_version_row(value).map(drop),
        Table::Subvolumes => SubvolumeRow::decode(value).map(drop),
        Table::SubInodes => decode_seen(value)?.map_or(Ok(()), |row| InodeRow::decode(row).map(drop)),
        Table::SubDirents => decode_seen(value)?.map_or(Ok(()), |row| DirentRow::decode(row).map(drop)),
        Table::SubXattrs => decode_seen(value).map(drop),
        Table::SubExtents => {
            exactly(key, 24).ok_or_else(wrong)?;
            Extent::decode(decode_content_key(key)?.2, value).map(drop)
        }
        Table::Owned => decode_owned_key(key).map(drop),
        Table::Usage => UsageRow::decode(value).map(drop),
        Table::Regions | Table::Digests | Table::Bad => Ok(()),
    }
}

fn exactly(key: &[u8], len: usize) -> Option<()> {
    (key.len() == len).then_some(())
}
