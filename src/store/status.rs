//! The store in numbers, for people and programs.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::meta::log::LOG_FILE;
use crate::meta::rows::{UsageRow, id_key};
use crate::meta::versions::subvolumes::read_rows;
use crate::meta::{Counter, Table};

use super::Store;
use super::commit::LogStatus;
use super::config::{META_FILE, RESERVE_FILE};
use super::files::allocated;

/// What `cairnfs status` shows about a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The uuid of the store.
    pub uuid: String,
    /// Its directory.
    pub path: String,
    /// The present generation.
    pub generation: u64,
    /// Inodes, those in subvolumes counted once for each subvolume that has them.
    pub inodes: u64,
    /// Subvolumes that have a name.
    #[serde(default)]
    pub subvolumes: u64,
    /// Those that were removed and wait to be reaped.
    #[serde(default)]
    pub subvolumes_dropped: u64,
    /// Deleted files that wait in the deletion queue.
    pub deletion_queue: u64,
    /// Bytes that files refer to.
    pub referenced_bytes: u64,
    /// Bytes that files stopped referring to since the last whole cycle began.
    #[serde(default)]
    pub deleted_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Plain bytes of all chunks.
    pub plain_bytes: u64,
    /// Bytes of all region records.
    pub stored_bytes: u64,
    /// Bytes that the metadata database takes on the host.
    #[serde(default)]
    pub database_bytes: u64,
    /// Bytes that the backups of the metadata take on the host.
    #[serde(default)]
    pub backup_bytes: u64,
    /// The log of commits.
    #[serde(default)]
    pub log: LogStatus,
    /// Bytes that the reserve takes on the host.
    #[serde(default)]
    pub reserve_bytes: u64,
    /// True if the reserve was given up on a full disk and is not back.
    #[serde(default)]
    pub reserve_given_up: bool,
    /// Free bytes of the host file system.
    pub host_free: u64,
    /// All bytes of the host file system.
    pub host_total: u64,
    /// True while a cycle runs.
    pub cycle_running: bool,
    /// Bad chunks that were not stored again since.
    pub bad_chunks: u64,
    /// Why the store refuses changes, if it does.
    pub read_only_because: Option<String>,
}

impl Store {
    /// The store in numbers.
    pub fn status(&self) -> Result<StoreStatus> {
        let space = self.host_space()?;
        let (media, sum) = (self.media.as_ref(), |counter| self.commits.counter(counter));
        let (reserve, subvolumes) = (allocated(media, RESERVE_FILE)?, self.count_subvolumes()?);
        Ok(StoreStatus {
            uuid: self.config.uuid.to_string(),
            path: self.path.display().to_string(),
            generation: self.generation(),
            inodes: sum(Counter::Inodes) + subvolumes.inodes,
            subvolumes: subvolumes.live,
            subvolumes_dropped: subvolumes.dropped,
            deletion_queue: sum(Counter::Orphans),
            referenced_bytes: sum(Counter::ReferencedBytes),
            deleted_bytes: sum(Counter::Deleted),
            chunks: sum(Counter::Chunks),
            plain_bytes: sum(Counter::PlainBytes),
            stored_bytes: sum(Counter::StoredBytes),
            database_bytes: allocated(media, META_FILE)?.unwrap_or(0),
            backup_bytes: self.backups.bytes()?,
            log: self.commits.log_status(allocated(media, LOG_FILE)?.unwrap_or(0)),
            reserve_bytes: reserve.unwrap_or(0),
            reserve_given_up: reserve.is_none() && self.config.reserve > 0,
            host_free: space.available,
            host_total: space.total,
            cycle_running: self.collection.is_running(),
            bad_chunks: self.healing.count(),
            read_only_because: self.batches.latch().failure().map(str::to_owned),
        })
    }
}

/// What there is of subvolumes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SubvolumeCounts {
    /// Those that have a name.
    pub live: u64,
    /// Those that were removed and wait to be reaped.
    pub dropped: u64,
    /// Inodes of those that have a name, their roots included.
    pub inodes: u64,
}

impl Store {
    /// Counts the subvolumes and what is in them, as far as it is committed; a row of each is read.
    pub fn count_subvolumes(&self) -> Result<SubvolumeCounts> {
        let layers = self.layers();
        let mut counts = SubvolumeCounts::default();
        for (number, row) in read_rows(&*layers)? {
            if row.dropped {
                counts.dropped += 1;
                continue;
            }
            counts.live += 1;
            let usage = layers.get(Table::Usage, &id_key(number))?;
            counts.inodes += 1 + usage.map_or(Ok(0), |row| UsageRow::decode(&row).map(|row| row.files))?;
        }
        Ok(counts)
    }
}

impl StoreStatus {
    /// Bytes that the store takes on the host's disk, without the dead bytes in packs that wait for a cycle.
    pub fn bytes_on_disk(&self) -> u64 {
        let metadata = self.database_bytes + self.log.bytes_on_disk + self.backup_bytes;
        self.stored_bytes + metadata + self.reserve_bytes
    }
}
