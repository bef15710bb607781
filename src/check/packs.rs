//! Packs: checks that every pack that a region row names exists and is long enough.
//!
//! A cycle may move a region and unlink its pack during the check. So a place in a pack is called damaged only by
//! [`confirm_damage`], which first makes sure that the newest view still names that place.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::Table;
use crate::meta::kv::guarded;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::pack::{Location, PackId, PackInfo};
use crate::store::Store;

use super::chunks::Regions;
use super::findings::{Affected, Kind};
use super::rows::Rows;
use super::run::CheckRun;

/// Packs that are missing or too short, each with its length; the faults of their regions were reported.
#[derive(Debug, Default)]
pub(super) struct MissingPacks(HashMap<PackId, u64>);

impl MissingPacks {
    /// True if the region is not in its pack.
    pub fn has(&self, at: &Location) -> bool {
        self.0.get(&at.pack).is_some_and(|len| at.end() > *len)
    }
}

/// What is wrong with a pack.
#[derive(Debug, Clone)]
struct Fault {
    /// As the end of a sentence.
    what: String,
    /// The bytes it has.
    len: u64,
}

/// Checks every pack that a region row names.
pub(super) fn check(run: &mut CheckRun<'_>, regions: &Regions) -> Result<MissingPacks> {
    let mut suspects: HashMap<PackId, Fault> = HashMap::new();
    for (&pack, &end) in &regions.packs {
        run.extra_work(16)?;
        if let Err(fault) = check_length(run.store, pack, end)? {
            suspects.insert(pack, fault);
        }
    }
    if suspects.is_empty() {
        return Ok(MissingPacks::default());
    }
    let mut lost = MissingPacks::default();
    let mut hit: HashMap<PackId, (Fault, Vec<(u64, u64)>)> = HashMap::new();
    let mut rows = Rows::open(run, Table::Regions);
    while let Some((key, value)) = rows.next(run)? {
        // Rows that cannot be read were reported when all of them were read.
        let row = value.and_then(|value| RegionRow::decode(ChunkId(chunk_of(&key)?), &value));
        let Some(row) = row.ok().filter(|row| suspects.contains_key(&row.at.pack)) else {
            continue;
        };
        let store = run.store;
        for (row, fault) in
            confirm_damage(store, row, |row| check_length(store, row.at.pack, end_of(&row.at)))?
        {
            let ids = row.live().map(|(id, _)| (id.0, id.0 + 1));
            hit.entry(row.at.pack).or_insert_with(|| (fault, Vec::new())).1.extend(ids);
        }
    }
    let mut hit: Vec<_> = hit.into_iter().collect();
    hit.sort_unstable_by_key(|(pack, _)| *pack);
    for (pack, (fault, ids)) in hit {
        let name = run.store.packs.name(pack);
        let what = format!("{name} {}; {} chunks were in what is lost", fault.what, ids.len());
        run.findings.add(Kind::Pack, what, Affected::chunks(ids));
        lost.0.insert(pack, fault.len);
    }
    Ok(lost)
}

fn end_of(at: &Location) -> u64 {
    at.offset.saturating_add(at.len.into())
}

/// Whether a pack exists and has this many bytes. An error if the host refuses to look.
fn check_length(store: &Store, pack: PackId, end: u64) -> Result<Result<(), Fault>> {
    Ok(match store.packs.info(pack) {
        Ok(PackInfo { len, .. }) if len >= end => Ok(()),
        Ok(PackInfo { len, .. }) => {
            Err(Fault { what: format!("has {len} bytes, its regions need at least {end}"), len })
        }
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(Fault { what: "is not there".to_owned(), len: 0 })
        }
        Err(error) if error.is_access_error() => return Err(error),
        Err(error) => Err(Fault { what: format!("cannot be looked at ({error})"), len: 0 }),
    })
}

/// Calls `read` with the row of a region. If that finds a fault and the newest view differs from the row, it calls
/// `read` with all rows that the newest view has for these chunks, since one row may have become several. Returns the
/// current rows that have a fault, each with the fault; none if all is well, or if nothing needs the region any more.
/// An error of `read` is an error here too.
pub(super) fn confirm_damage<E>(
    store: &Store,
    row: RegionRow,
    mut read: impl FnMut(&RegionRow) -> Result<Result<(), E>>,
) -> Result<Vec<(RegionRow, E)>> {
    let (mut faults, mut left) = (Vec::new(), vec![row]);
    while let Some(row) = left.pop() {
        let Err(fault) = read(&row)? else { continue };
        match newest(store, (row.first, row.end())) {
            Ok(rows) if !rows.contains(&row) => left.extend(rows),
            // A row that can no longer be read names no better place.
            Ok(_) | Err(_) => faults.push((row, fault)),
        }
    }
    faults.sort_unstable_by_key(|(row, _)| row.first);
    Ok(faults)
}

/// The rows of the newest view for a range of chunks; the end is excluded.
pub(super) fn newest(store: &Store, (first, end): (ChunkId, ChunkId)) -> Result<Vec<RegionRow>> {
    let (from, to) = (id_key(first.0), id_key(end.0));
    let (mut rows, layers) = (Vec::new(), store.layers());
    guarded(|| {
        layers.view.scan(Table::Regions, Bound::Included(&from), Bound::Excluded(&to), |key, row| {
            rows.push(RegionRow::decode(ChunkId(chunk_of(key)?), row)?);
            Ok(true)
        })
    })?;
    Ok(rows)
}
