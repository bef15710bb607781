//! What an opening finds in the log.

use crate::error::{Error, Result};
use crate::media::{Media, open_or_create};
use crate::meta::log::{FOLDED_KEY, FoldedRow, LEAST, LOG_FILE, Log, Position};
use crate::meta::{Kv, Run, Table};
use crate::pack::{PackStore, restore};
use crate::sync::Arc;

use super::super::space::SpaceManager;

/// Bytes of the log, at most.
const MOST: u64 = 8 << 20;

/// The log of a store, and what it has beyond the database.
pub struct Replay {
    /// Ready for the next entry.
    pub log: Log,
    /// The last entry.
    pub last: Position,
    /// The changes of each entry that is not folded, in order.
    pub runs: Vec<Arc<Run>>,
    /// All of it is durable where it stands; otherwise it has to be folded before anybody sees it.
    pub is_settled: bool,
}

impl Replay {
    /// Reads the log of the store with this uuid, whose reserve has so many bytes. The records that entries carry are back
    /// in their packs, and durable, when this returns.
    pub fn read(
        (media, packs, space): (&dyn Media, &dyn PackStore, &SpaceManager),
        kv: &Kv,
        store: [u8; 16],
        reserve: u64,
    ) -> Result<Self> {
        let row = kv.read()?.get(Table::State, FOLDED_KEY)?;
        let lacking = || Error::damaged("the metadata database does not say how far the log is folded");
        let folded = FoldedRow::decode(&row.ok_or_else(lacking)?)?;
        let failed = |error| Error::io(format!("opening {LOG_FILE}"), error);
        let is_missing = !media.exists(LOG_FILE).map_err(failed)?;
        if is_missing && !kv.was_closed() {
            return Err(Error::damaged(format!(
                "{LOG_FILE} is missing, and with it what was committed last"
            )));
        }
        let file = open_or_create(media, LOG_FILE).map_err(failed)?;
        if is_missing {
            media.sync_dir("meta").map_err(failed)?;
        }
        let size = (reserve / 2).clamp(LEAST, MOST);
        let mut log = Log::new(file, size, folded.key);
        let found = log.replay(&folded.folded)?;
        if let Some(what) = &found.unfinished {
            tracing::warn!(
                "{what}: either the machine stopped while it was written, and nobody was told that it is durable, or it is damaged"
            );
        }
        let carried = || found.entries.iter().flat_map(|entry| &entry.carried);
        let put_back =
            || restore(packs, store, carried().map(|carried| (carried.at, carried.record.as_ref())));
        let mut put = put_back();
        // They were acknowledged.
        while put.as_ref().is_err_and(Error::is_no_space) && space.give_up_for_replay() {
            put = put_back();
        }
        put?;
        let is_settled = log.settle(&found)?;
        let runs = found.entries.into_iter().map(|entry| Arc::new(entry.rows)).collect();
        Ok(Self { log, last: found.last, runs, is_settled })
    }
}
