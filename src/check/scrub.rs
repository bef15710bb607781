//! The scrub: reads and compares all data, a little at a time, in the background.
//!
//! It goes through the regions in the order of their ids. The store records bad chunks, so that they heal when the same
//! content is written again, and the log has them with the affected files. The position of the scrub is in the database
//! and survives closing. The daemon decides when it reads, and how much.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::meta::Table;
use crate::meta::rows::{RegionRow, SCRUB_KEY, ScrubRow};
use crate::store::Store;
use crate::sync::{Arc, Mutex};

use super::data::{Fault, next_regions, verify_region};
use super::findings::{Affected, Findings, Kind, MAX_NAMES};
use super::run::CheckRun;
use super::{Finding, Options, paths};

/// Plain bytes after which the position is noted in the database.
const NOTE_EVERY: u64 = 256 << 20;

/// The scrub in numbers, for people and programs. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// True if a pass is under way.
    pub running: bool,
    /// Plain bytes that it has read.
    pub bytes: u64,
    /// Chunks that it found bad.
    pub bad: u64,
    /// When it began; or, if none is under way, the last one. 0 if there was none.
    pub began: i64,
    /// Whole passes so far.
    pub passes: u64,
    /// When the last whole pass ended; 0 if there was none.
    pub last_ended: i64,
    /// Chunks that it had found bad.
    pub last_bad: u64,
}

/// The scrub of one store.
pub struct Scrub {
    store: Arc<Store>,
    inner: Mutex<(ScrubRow, u64)>,
}

impl Scrub {
    /// Resumes where the last one stopped.
    pub fn of(store: &Arc<Store>) -> Self {
        let row = store.layers().get(Table::State, SCRUB_KEY).ok().flatten();
        // If the row cannot be read, a new pass begins.
        let row = row.and_then(|row| ScrubRow::decode(&row).ok()).unwrap_or_default();
        Self { store: Arc::clone(store), inner: Mutex::new((row, 0)) }
    }

    /// How far it is.
    pub fn status(&self) -> ScrubStatus {
        let (row, _) = *self.inner.lock();
        ScrubStatus {
            running: row.position > 0,
            bytes: row.bytes,
            bad: row.bad,
            began: row.began,
            passes: row.passes,
            last_ended: row.ended,
            last_bad: row.last_bad,
        }
    }

    /// Counts the time to the first pass from `now`: new data need not be read at once.
    pub fn expect_from(&self, now: i64) {
        self.inner.lock().0.began = now;
        self.note();
    }

    /// Begins a pass; `now` is for display and pacing.
    pub fn begin(&self, now: i64) {
        let mut inner = self.inner.lock();
        inner.0 = ScrubRow { position: 1, bytes: 0, bad: 0, began: now, ..inner.0 };
    }

    /// Reads about `budget` more plain bytes, if a pass is under way. Logs and returns the findings. `go_on` is asked
    /// before each region.
    pub fn step(&self, budget: u64, now: i64, go_on: &dyn Fn() -> bool) -> Result<Vec<Finding>> {
        let (mut row, noted) = *self.inner.lock();
        if row.position == 0 {
            return Ok(Vec::new());
        }
        if row.position == 1 {
            // The pass reads what is in the database.
            self.store.commits.fold()?;
        }
        let (regions, mut ended) = self.next_regions(row.position, budget);
        let (mut faults, mut refused) = (Vec::new(), None);
        let before = row.bytes;
        for region in regions {
            if !go_on() {
                ended = false;
                break;
            }
            let (end, bytes) = (region.end().0, region.live_bytes());
            match verify_region(&self.store, region) {
                Ok(found) => faults.extend(found),
                // Continue here once the host allows reading again.
                Err(error) => {
                    (ended, refused) = (false, Some(error));
                    break;
                }
            }
            row.position = end;
            row.bytes += bytes;
        }
        let faults = self.recheck(faults);
        row.bad += faults.iter().map(|fault| fault.chunks.len() as u64).sum::<u64>();
        if ended {
            (row.position, row.passes, row.ended, row.last_bad) = (0, row.passes + 1, now, row.bad);
        }
        let since = noted + row.bytes - before;
        *self.inner.lock() = (row, since);
        if ended || since >= NOTE_EVERY {
            self.note();
        }
        let findings = self.report(&faults);
        refused.map_or(findings, Err)
    }

    /// Notes in the database how far it is; durable with the next commit.
    pub fn note(&self) {
        let mut inner = self.inner.lock();
        if let Ok(member) = self.store.batches.join() {
            member.rows.put(Table::State, SCRUB_KEY, &inner.0.encode());
            inner.1 = 0;
        }
    }

    /// Region rows from `position` on; true if there are no more. Rows that cannot be read are skipped, so that the
    /// rows after them are read as well.
    fn next_regions(&self, position: u64, budget: u64) -> (Vec<RegionRow>, bool) {
        let mut bytes = 0;
        let enough = |row: &RegionRow| {
            bytes += row.live_bytes();
            bytes >= budget
        };
        let (regions, next) = next_regions(&self.store, position, enough, |behind, error| {
            tracing::error!("scrub: region rows from chunk {behind} on cannot be read: {error}");
        });
        (regions, next.is_none())
    }

    /// Reads once more what the host could not read, after some time has passed, and records bad chunks.
    fn recheck(&self, faults: Vec<Fault>) -> Vec<Fault> {
        let mut bad = Vec::new();
        for fault in faults {
            match fault.is_read_error {
                true => bad.extend(verify_region(&self.store, fault.row).unwrap_or_default()),
                false => bad.push(fault),
            }
        }
        for fault in &bad {
            self.store.healing.mark_bad(fault.chunks.iter().copied(), fault.row.at.pack);
        }
        bad
    }

    /// A line in the log for each region, with the files that it hits.
    fn report(&self, faults: &[Fault]) -> Result<Vec<Finding>> {
        if faults.is_empty() {
            return Ok(Vec::new());
        }
        let options = Options::default();
        let mut run = CheckRun::new(&self.store, &options);
        let mut findings = Findings::new(MAX_NAMES);
        for fault in faults {
            let ids = fault.chunks.iter().map(|id| (id.0, id.0 + 1));
            findings.add(Kind::Data, fault.sentence(), Affected::chunks(ids));
        }
        let findings = paths::resolve(&mut run, findings)?;
        findings.iter().for_each(|finding| finding.log("scrub"));
        Ok(findings)
    }
}
