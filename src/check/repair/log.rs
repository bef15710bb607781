//! What the log of commits has beyond the old database, or beyond the newest backup.
//!
//! Keeps true: rows of the log are newer than those of the database and the backup, and override them; only complete
//! entries are used. If an entry between them is damaged, later rows may refer to chunks that are gone, as with any
//! other damage: the stages that follow judge what the rows refer to.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::media::{Media, MediaFile, open_or_create};
use crate::meta::log::{Entry, FoldedRow, LEAST, LOG_FILE, Log};
use crate::meta::{Kv, Table};
use crate::pack::{PackStore, restore};

use super::report::RepairReport;

/// Entries that are not folded, in order.
#[derive(Debug, Default)]
pub(super) struct Newer {
    entries: Vec<Entry>,
}

fn file(media: &dyn Media) -> Result<Option<Arc<dyn MediaFile>>> {
    let failed = |error| Error::io(format!("looking at {LOG_FILE}"), error);
    if !media.exists(LOG_FILE).map_err(failed)? {
        return Ok(None);
    }
    media.open(LOG_FILE, false).map(Some).map_err(failed)
}

/// Reads the entries after `folded`, which is what the database or the backup says. `was_closed` if the store was closed
/// in order: then the log has nothing.
pub(super) fn read(
    media: &dyn Media,
    folded: Option<FoldedRow>,
    was_closed: bool,
    report: &mut RepairReport,
) -> Result<Newer> {
    let Some(file) = file(media)? else {
        if !was_closed {
            report.log_fault = Some(format!("{LOG_FILE} is missing, and with it what was committed last"));
        }
        return Ok(Newer::default());
    };
    let failed = |error| Error::io(format!("reading {LOG_FILE}"), error);
    let size = file.len().map_err(failed)?;
    let Some(folded) = folded else {
        if size > 0 {
            report.log_fault = Some(format!("{LOG_FILE} cannot be read without the database or a backup"));
        }
        return Ok(Newer::default());
    };
    let salvaged = Log::new(file, size.max(LEAST), folded.key).salvage(&folded.folded)?;
    report.log_fault = salvaged.fault;
    report.log_unfinished = salvaged.unfinished;
    report.log_entries = salvaged.entries.len() as u64;
    Ok(Newer { entries: salvaged.entries })
}

impl Newer {
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts the records that entries carry back into their packs, as opening the store would.
    pub fn restore(&self, packs: &dyn PackStore, store: [u8; 16]) -> Result<()> {
        let carried = self.entries.iter().flat_map(|entry| &entry.carried);
        restore(packs, store, carried.map(|carried| (carried.at, carried.record.as_ref())))
    }

    /// Writes all of them into a database that is changed in memory only.
    pub fn fold_into(&self, kv: &Kv) -> Result<()> {
        let mut txn = kv.write()?;
        for entry in &self.entries {
            for table in Table::ALL {
                txn.apply(table, entry.rows.changes(table))?;
            }
        }
        txn.commit(true)
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Empties the log of a store whose new database is in place. Its entries are in there; if this does not come about, no
/// entry fits the new database's key.
pub(super) fn empty(media: &dyn Media) -> Result<()> {
    let emptied = open_or_create(media, LOG_FILE).and_then(|file| {
        file.set_len(0)?;
        file.sync()?;
        media.sync_dir("meta")
    });
    emptied.map_err(|error| Error::io(format!("emptying {LOG_FILE}"), error))
}
