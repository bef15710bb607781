//! Finds out where every chunk is: by the old database where it can be read, otherwise by the packs.
//!
//! The head of each region in a pack lists its chunks. If a chunk is in two packs (it was moved, or stored again after
//! damage), the later copy is used if it can be read. Chunks that the database knows but no pack has keep their rows
//! and are recorded as bad, so that their files heal when the same content is written again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Bound;

use roaring::RoaringTreemap;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::rows::{RegionEntry, RegionRow, bad_row, chunk_of, digest, id_key};
use crate::meta::{Counter, Kv, ReadView, Table, WriteTxn};
use crate::pack::{Codec, Location, PackId, PackReader, PackScan, PackStore, RegionChunk, RegionHeader};
use crate::store::healing::split_row;
use crate::sync::Arc;

use super::super::findings::sentence;
use super::super::ids::ranges;
use super::report::{Database, RepairReport};
use super::sink::Sink;
use super::source::lost_whole;

/// What is known of chunks.
#[derive(Default)]
pub(super) struct Chunks {
    /// Known to the old database, in a place that exists.
    known: RoaringTreemap,
    /// Found in a pack by the repair.
    found: RoaringTreemap,
    /// Known to the old database, in a place that does not exist.
    gone: RoaringTreemap,
    any_gone: bool,
    /// Of the missing ones, those found in another pack.
    pub found_again: u64,
    /// The old database does not know all chunks.
    incomplete: bool,
    /// Above every id found.
    pub next_chunk: u64,
    /// Above every pack found.
    pub next_pack: u64,
}

impl Chunks {
    /// Is the chunk in a pack, as far as heads of regions tell?
    pub fn has(&self, id: u64) -> bool {
        self.known.contains(id) || self.found.contains(id)
    }
}

/// Fills the table of regions from an old database, if there is one, and from the packs. The old database names all
/// chunks only if it `is_whole_truth`: an interrupted repair may have made it while a pack could not be read.
pub(super) fn rebuild(
    (packs, codec): (&Arc<dyn PackStore>, Codec),
    store: [u8; 16],
    (old, is_whole_truth): (Option<&ReadView>, bool),
    sink: &mut Sink<'_>,
    report: &mut RepairReport,
) -> Result<Chunks> {
    let reader = PackReader::new(packs.clone(), codec);
    let ids = packs.list()?;
    report.packs = ids.len() as u64;
    let mut chunks = Chunks { incomplete: !is_whole_truth, ..Chunks::default() };
    chunks.next_pack = ids.last().map_or(1, |pack| pack.0 + 1);
    let mut unopened = HashSet::new();
    if let Some(view) = old {
        let lens = lengths(packs.as_ref(), &ids, &mut unopened, report)?;
        take_old(view, &lens, &mut chunks, sink, report)?;
        look_at_derived(view, report);
    }
    if chunks.incomplete || chunks.any_gone {
        for pack in ids {
            let name = packs.name(pack);
            match reader.walk(pack) {
                Ok(scan) => take_pack((&reader, &name), store, &scan, &mut chunks, sink, report)?,
                Err(error) if error.is_access_error() => return Err(error),
                Err(_) if unopened.contains(&pack) => {}
                Err(error) => {
                    report.unread_parts += u64::from(matches!(error, Error::Io { .. }));
                    report.damaged_packs.add(|| format!("{name}: {}", sentence(&error)));
                }
            }
        }
    }
    report.chunks_found = chunks.found_again;
    for (first, end) in ranges(&chunks.gone) {
        for id in (first..end).filter(|id| !chunks.found.contains(*id)) {
            let row = row_of(sink.txn()?, id)?;
            sink.put(Table::Bad, &id_key(id), &bad_row(row.map_or(PackId(0), |row| row.at.pack)))?;
        }
    }
    Ok(chunks)
}

/// The lengths of the packs. A pack that cannot be opened counts as empty, so that it does not stop the others; it is
/// noted in `unopened`.
fn lengths(
    packs: &dyn PackStore,
    ids: &[PackId],
    unopened: &mut HashSet<PackId>,
    report: &mut RepairReport,
) -> Result<HashMap<PackId, u64>> {
    let mut lens = HashMap::new();
    for pack in ids {
        match packs.info(*pack) {
            Ok(info) => {
                lens.insert(*pack, info.len);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let error = Error::io(packs.name(*pack), error);
                // If access is denied, the pack must not be given up.
                if error.is_access_error() {
                    return Err(error);
                }
                report.unread_parts += 1;
                report.damaged_packs.add(|| error.to_string());
                unopened.insert(*pack);
            }
        }
    }
    Ok(lens)
}

/// Takes over what the old database says of regions.
fn take_old(
    view: &ReadView,
    lens: &HashMap<PackId, u64>,
    chunks: &mut Chunks,
    sink: &mut Sink<'_>,
    report: &mut RepairReport,
) -> Result<()> {
    if [Table::Regions, Table::Digests].into_iter().any(|table| lost_whole(view, table)) {
        report.database = Database::Damaged;
        report
            .database_fault
            .get_or_insert_with(|| "regions or digests are empty, and should not be".to_owned());
        chunks.incomplete = true;
    }
    for row in view.readable_rows(Table::Regions, b"") {
        let row = row.and_then(|(key, value)| RegionRow::decode(ChunkId(chunk_of(&key)?), &value?));
        let row = match row {
            Ok(row) if row.first.0 >= chunks.next_chunk => row,
            wrong => {
                let why = wrong.err().map_or("two rows have the same chunks".to_owned(), |e| sentence(&e));
                report.database = Database::Damaged;
                report.database_fault.get_or_insert(why);
                chunks.incomplete = true;
                continue;
            }
        };
        chunks.next_chunk = row.end().0;
        let end = row.at.offset.checked_add(row.at.len.into());
        let is_there = end.is_some_and(|end| lens.get(&row.at.pack).is_some_and(|len| *len >= end));
        for (id, _) in row.live() {
            if is_there {
                chunks.known.insert(id.0);
            } else {
                chunks.any_gone = true;
                chunks.gone.insert(id.0);
            }
        }
        sink.put(Table::Regions, &id_key(row.first.0), &row.encode())?;
    }
    // Known bad chunks stay bad. If such a row cannot be read, the next reader of the chunk finds out again.
    for (key, value) in view.readable_rows(Table::Bad, b"").filter_map(Result::ok) {
        if let (Ok(id), Ok(value)) = (chunk_of(&key), value)
            && (chunks.known.contains(id) || chunks.gone.contains(id))
        {
            sink.put(Table::Bad, &key, &value)?;
        }
    }
    Ok(())
}

/// Checks the table that is rebuilt from others; here it only matters whether the old one is intact.
fn look_at_derived(view: &ReadView, report: &mut RepairReport) {
    let rows = view.rows(Table::Digests);
    let rows = rows.map(|mut rows| rows.find_map(|row| row.and_then(|(_, value)| value).err()));
    if let Some(error) = rows.unwrap_or_else(Some) {
        report.database = Database::Damaged;
        report.database_fault.get_or_insert(sentence(&error));
    }
}

fn take_pack(
    (reader, name): (&PackReader, &str),
    store: [u8; 16],
    scan: &PackScan,
    chunks: &mut Chunks,
    sink: &mut Sink<'_>,
    report: &mut RepairReport,
) -> Result<()> {
    if scan.store.is_some_and(|of| of != store) {
        report.damaged_packs.add(|| format!("{name}: it belongs to another store"));
        return Ok(());
    }
    // A crash leaves a torn end, unless the host could not read it.
    let torn = scan.torn.iter().filter(|torn| torn.is_of_host());
    for damage in scan.damaged.iter().chain(torn) {
        if damage.error.is_access_error() {
            return Err(Error::io(name, io::Error::other(sentence(&damage.error))));
        }
        report.unread_parts += u64::from(damage.is_of_host());
        report.damaged_packs.add(|| {
            format!("{name}, {} bytes at {}: {}", damage.len, damage.offset, sentence(&damage.error))
        });
    }
    for (at, header) in &scan.regions {
        take_region(reader, at, header, chunks, sink)?;
    }
    Ok(())
}

/// Takes in the chunks of one region that are not known yet, or whose earlier places are worse.
fn take_region(
    reader: &PackReader,
    at: &Location,
    header: &RegionHeader,
    chunks: &mut Chunks,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut run: Option<RegionRow> = None;
    let mut reads: Option<bool> = None;
    for chunk in &header.chunks {
        let id = chunk.id.0;
        chunks.next_chunk = chunks.next_chunk.max(id + 1);
        if chunks.known.contains(id) {
            continue;
        }
        let has_row = chunks.found.contains(id) || chunks.gone.contains(id);
        if has_row {
            // A second copy is better than the first only if it can be read.
            if *reads.get_or_insert_with(|| reader.read_region(at).is_ok()) {
                point(sink.txn()?, chunk, at, header.plain_len)?;
                chunks.found_again += u64::from(chunks.gone.contains(id) && !chunks.found.contains(id));
                chunks.found.insert(id);
            }
        } else if chunks.incomplete && row_of(sink.txn()?, id)?.is_none_or(|row| row.end().0 <= id) {
            chunks.found.insert(id);
            let entry = Some(RegionEntry { len: chunk.len, digest: chunk.digest });
            match &mut run {
                Some(row) if row.end() == chunk.id => row.entries.push(entry),
                other => {
                    let new =
                        RegionRow { first: chunk.id, at: *at, plain: header.plain_len, entries: vec![entry] };
                    if let Some(row) = other.replace(new) {
                        sink.put(Table::Regions, &id_key(row.first.0), &row.encode())?;
                    }
                }
            }
        }
    }
    match run {
        Some(row) => sink.put(Table::Regions, &id_key(row.first.0), &row.encode()),
        None => Ok(()),
    }
}

/// The last row that begins at or before a chunk.
fn row_of(txn: &WriteTxn, id: u64) -> Result<Option<RegionRow>> {
    let found = txn.last(Table::Regions, &id_key(0), &id_key(id))?;
    found.map(|(key, row)| RegionRow::decode(ChunkId(chunk_of(&key)?), &row)).transpose()
}

/// Points the row of one chunk to another place.
fn point(txn: &mut WriteTxn, chunk: &RegionChunk, at: &Location, plain: u32) -> Result<()> {
    let Some(row) = row_of(txn, chunk.id.0)? else { return Ok(()) };
    let parts =
        split_row(&row, |id, digest| (id == chunk.id && *digest == chunk.digest).then_some((*at, plain)));
    let gone = std::iter::once((id_key(row.first.0), None));
    let rows = parts.iter().map(|part| (id_key(part.first.0), Some(part.encode())));
    txn.apply(Table::Regions, gone.chain(rows))
}

/// Makes the digests from the regions, and counts.
pub(super) fn digests(kv: &Kv, sink: &mut Sink<'_>, sums: &mut [i64; Counter::ALL.len()]) -> Result<()> {
    kv.read()?.scan(Table::Regions, Bound::Unbounded, Bound::Unbounded, |key, row| {
        let row = RegionRow::decode(ChunkId(chunk_of(key)?), row)?;
        for (id, entry) in row.live() {
            sink.txn()?.merge(Table::Digests, [(entry.digest.0, id_key(id.0))], digest::merge)?;
            sums[Counter::Chunks as usize] += 1;
            sums[Counter::PlainBytes as usize] += i64::from(entry.len);
        }
        sums[Counter::StoredBytes as usize] += i64::from(row.at.len);
        Ok(true)
    })
}
