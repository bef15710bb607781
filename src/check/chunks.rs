//! Regions and digests: is every chunk where one region row says, and does the digest of each name it?
//!
//! The two tables have different orders, and looking up a hundred million digests one by one would read the table at
//! random. So the check compares sums. Each word of `sums` stands for 64 ids. It adds a hash of (id, digest) for every
//! region entry and subtracts one for every digest row. A word that is zero at the end agrees, except with a chance of
//! one in 2^64. Only the other words are checked row by row. A chunk that was stored again is among those and is no
//! fault: its digest names the newer chunk.

use std::collections::HashMap;

use roaring::RoaringTreemap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::kv::guarded;
use crate::meta::rows::{RegionRow, chunk_of, digest, id_key};
use crate::meta::{Counter, ReadView, Table};
use crate::pack::{HEADER_LEN, PackId};

use super::findings::{Affected, Kind, sentence, span};
use super::ids::Words;
use super::rows::{Rows, get};
use super::run::CheckRun;

/// What the region rows say.
#[derive(Default)]
pub(super) struct Regions {
    /// Ranges of ids whose row cannot be read; ends excluded, in rising order.
    pub unknown: Vec<(u64, u64)>,
    /// Where the last region of each pack ends.
    pub packs: HashMap<PackId, u64>,
    /// Chunks that are there.
    pub live: u64,
    sums: Words,
    /// Words in which region rows and digests do not agree.
    suspects: Vec<u64>,
}

impl Regions {
    /// True if the row that should have this chunk cannot be read.
    pub fn is_unknown(&self, id: u64) -> bool {
        let at = self.unknown.partition_point(|range| range.1 <= id);
        self.unknown.get(at).is_some_and(|range| range.0 <= id)
    }

    /// Notes that the row of `first` could not be read; the next row begins at `next`.
    fn set_unknown(&mut self, run: &mut CheckRun<'_>, unreadable: Option<(u64, Error)>, next: u64) {
        let Some((first, error)) = unreadable else {
            return;
        };
        run.set_partial(Table::Regions);
        let range = (first, next.max(first.saturating_add(1)));
        let what = format!("the region row of chunk {first} cannot be read: {}", sentence(&error));
        run.findings.add(Kind::Row, what, Affected::chunks([range]));
        self.unknown.push(range);
    }

    fn note(&mut self, run: &mut CheckRun<'_>, row: &RegionRow) {
        for (id, entry) in row.live() {
            self.live += 1;
            let word = self.sums.word(id.0 / 64);
            *word = word.wrapping_add(hash(id.0, &entry.digest));
        }
        run.count(Counter::Chunks, row.live().count() as u64);
        run.count(Counter::PlainBytes, row.live_bytes());
        run.count(Counter::StoredBytes, row.at.len.into());
        let end = self.packs.entry(row.at.pack).or_default();
        *end = row.at.end().max(*end);
    }
}

fn hash(id: u64, digest: &Digest) -> u64 {
    xxh3_64_with_seed(&digest.0, id)
}

/// Reads all region rows.
pub(super) fn regions(run: &mut CheckRun<'_>) -> Result<Regions> {
    let mut regions = Regions::default();
    let mut rows = Rows::open(run, Table::Regions);
    let mut taken_below = 0;
    // A row that could not be read, with the reason. Its range ends where the next row begins.
    let mut unreadable = None;
    while let Some((first, (key, value))) = rows.up_to(run, None)? {
        regions.set_unknown(run, unreadable.take(), first);
        let exact = if key.len() == 8 { value } else { Err(Error::damaged("its key has a wrong length")) };
        match exact.and_then(|value| decode(first, &value)) {
            Ok(row) => {
                check_region(run, &row, taken_below);
                taken_below = row.end().0.max(taken_below);
                regions.note(run, &row);
                run.step(row.entries.len() as u64)?;
            }
            Err(error) => unreadable = Some((first, error)),
        }
    }
    let end = run.next_chunk;
    regions.set_unknown(run, unreadable, end);
    run.report.chunks = regions.live;
    run.report.packs = regions.packs.len() as u64;
    Ok(regions)
}

/// A row from its bytes, with values whose sums cannot overflow.
fn decode(first: u64, value: &[u8]) -> Result<RegionRow> {
    let row = RegionRow::decode(ChunkId(first), value)?;
    match row.at.offset.checked_add(row.at.len.into()) {
        Some(_) => Ok(row),
        None => Err(Error::damaged("its place in the pack makes no sense")),
    }
}

fn check_region(run: &mut CheckRun<'_>, row: &RegionRow, taken_below: u64) {
    let (first, end) = (row.first.0, row.end().0);
    let mut wrong = Vec::new();
    if first < taken_below {
        wrong.push("begins with chunks that another row has".to_owned());
    }
    if end > run.next_chunk {
        wrong.push(format!("has chunks that were never given: the next id is {}", run.next_chunk));
    }
    if row.at.offset < HEADER_LEN {
        wrong.push(format!("names a place inside the pack's header ({})", row.at));
    }
    if row.live_bytes() > row.plain.into() {
        let (live, plain) = (row.live_bytes(), row.plain);
        wrong.push(format!("has {live} bytes in its chunks and {plain} in all"));
    }
    for what in wrong {
        let what = format!("the region row of {} {what}", span(first, end));
        run.findings.add(Kind::Region, what, Affected::chunks([(first, end)]));
    }
}

/// Compares the digests with the region rows, and checks that each digest names an existing chunk.
pub(super) fn digests(run: &mut CheckRun<'_>, regions: &mut Regions) -> Result<()> {
    let mut names = Words::default();
    let mut rows = Rows::open(run, Table::Digests);
    while let Some((key, value)) = rows.next(run)? {
        run.step(1)?;
        match value.and_then(|value| decode_digest(&key, &value)) {
            Ok((digest, ids)) => {
                for id in ids {
                    let word = names.word(id / 64);
                    *word = word.wrapping_add(hash(id, &digest));
                }
            }
            Err(error) => {
                run.set_partial(Table::Digests);
                run.findings.add(Kind::Row, sentence(&error), Affected::default());
            }
        }
    }
    let differ = |index: u64| regions.sums.get(index) != names.get(index);
    let mut suspects: Vec<u64> = regions.sums.nonzero().chain(names.nonzero()).map(|word| word.0).collect();
    suspects.retain(|index| differ(*index));
    suspects.sort_unstable();
    suspects.dedup();
    if !suspects.is_empty() {
        check_names(run, regions, &suspects)?;
    }
    regions.suspects = suspects;
    Ok(())
}

/// Counts the chunks in use that are not found by their digest. That is no fault: an interrupted cycle may have removed
/// a chunk from its digest, and the chunk came into use again.
pub(super) fn found(run: &mut CheckRun<'_>, regions: &Regions, referred: &RoaringTreemap) -> Result<()> {
    regions.suspects.iter().try_for_each(|index| check_entries(run, regions, *index, referred))
}

fn decode_digest(key: &[u8], value: &[u8]) -> Result<(Digest, Vec<u64>)> {
    Ok((digest::from_key(key)?, digest::chunk_ids(value)?.map(|id| id.0).collect()))
}

/// Looks up the digests of the 64 ids of a word that does not agree.
fn check_entries(
    run: &mut CheckRun<'_>,
    regions: &Regions,
    index: u64,
    referred: &RoaringTreemap,
) -> Result<()> {
    let mut id = index * 64;
    let end = id.saturating_add(64);
    while id < end {
        run.extra_work(1)?;
        let is_known = referred.contains(id) && !regions.is_unknown(id);
        let found = if is_known { region_of(&run.view(), id).ok().flatten() } else { None };
        let Some(entry) = found.as_ref().and_then(|row| row.entry(ChunkId(id))) else {
            id += 1;
            continue;
        };
        // A row that cannot be read was reported when all rows were read.
        let is_found = match get(&run.view(), Table::Digests, &entry.digest.0) {
            Ok(None) => false,
            Ok(Some(row)) => digest::chunk_ids(&row).is_ok_and(|mut ids| ids.any(|named| named.0 == id)),
            Err(_) => true,
        };
        run.report.unfound_chunks += u64::from(!is_found);
        id += 1;
    }
    Ok(())
}

/// Checks every digest that names a chunk in a word that does not agree.
fn check_names(run: &mut CheckRun<'_>, regions: &Regions, suspects: &[u64]) -> Result<()> {
    let mut rows = Rows::open(run, Table::Digests);
    while let Some((key, value)) = rows.next(run)? {
        let Ok((digest, ids)) = value.and_then(|value| decode_digest(&key, &value)) else {
            continue;
        };
        for id in ids {
            if suspects.binary_search(&(id / 64)).is_ok() && !regions.is_unknown(id) {
                check_name(run, &digest, id);
            }
        }
    }
    Ok(())
}

fn check_name(run: &mut CheckRun<'_>, digest: &Digest, id: u64) {
    let row = region_of(&run.view(), id).ok().flatten();
    let wrong = match row.as_ref().and_then(|row| row.entry(ChunkId(id))) {
        Some(entry) if entry.digest == *digest => return,
        Some(entry) => format!("which has the digest {}", entry.digest),
        None if id >= run.next_chunk => "which was never given".to_owned(),
        None => "which is not there".to_owned(),
    };
    let what = format!("the digest {digest} names chunk {id}, {wrong}");
    run.findings.add(Kind::Digest, what, Affected::default());
}

/// The region row that should have a chunk, if it has an entry for it.
pub(super) fn region_of(view: &ReadView, id: u64) -> Result<Option<RegionRow>> {
    let found = guarded(|| view.last(Table::Regions, &id_key(0), &id_key(id)))?;
    let Some((key, value)) = found else {
        return Ok(None);
    };
    let row = decode(chunk_of(&key)?, &value)?;
    Ok(row.entry(ChunkId(id)).is_some().then_some(row))
}
