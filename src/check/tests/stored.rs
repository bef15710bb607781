//! Damage of what is stored: regions, digests, packs, bytes; and what a cycle may change meanwhile.

use super::super::findings::{Findings, MAX_NAMES};
use super::super::packs::confirm_damage;
use super::place::{Place, noise};
use super::*;
use crate::chunk::{ChunkId, Digest};
use crate::meta::rows::{RegionRow, id_key};
use crate::pack::{Location, PackId};

/// All files but `small`, whose one chunk is in the last region with the end of the others.
fn sorted(mut files: Vec<&str>) -> Vec<&str> {
    files.sort_unstable();
    files
}

/// The files that refer to these chunks, as the extents have it.
fn referring(place: &Place, ids: std::ops::Range<u64>) -> Vec<String> {
    let gone = format!("(inode {}, without a path)", place.gone);
    let files = [
        (place.a, "dir/a"),
        (place.b, "dir/b"),
        (place.copy, "copy"),
        (place.small, "small"),
        (place.gone, gone.as_str()),
    ];
    let refers = |ino: u64| {
        let touches = |first: u64, end: u64| first < ids.end && end > ids.start;
        place.extents(ino).iter().any(|e| touches(e.first.0, e.first.0 + e.lens.len() as u64))
    };
    let hit = files.into_iter().filter(|(ino, _)| refers(*ino)).map(|(_, path)| path).collect();
    sorted(hit).into_iter().map(str::to_owned).collect()
}

fn as_strs(files: &[String]) -> Vec<&str> {
    files.iter().map(String::as_str).collect()
}

fn flip_byte(place: &Place, at: &Location) {
    let path = place.temp.path().join(at.pack.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at.end() as usize - 1] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_missing_region_row_names_all_files_that_need_it() {
    let place = Place::new();
    let row = place.regions().remove(0);
    let (first, end) = (row.first.0, row.end().0);
    place.damage(|txn| {
        txn.apply(Table::Regions, [(id_key(first), None::<&[u8]>)]);
        txn.apply(Table::Digests, row.live().map(|(_, entry)| (entry.digest.0, None::<&[u8]>)));
    });
    place.add_to_counter(Counter::Chunks, -(row.entries.len() as i64));
    place.add_to_counter(Counter::PlainBytes, -(row.live_bytes() as i64));
    place.add_to_counter(Counter::StoredBytes, -i64::from(row.at.len));
    let files = referring(&place, first..end);
    assert!(files.contains(&"dir/a".to_owned()) && files.contains(&"copy".to_owned()), "{files:?}");
    assert!(!files.contains(&"dir/b".to_owned()), "{files:?}");
    let what = format!("chunks {first} to {} are referred to and not there", end - 1);
    place.finds(true, &[(&what, &as_strs(&files))]);
}

#[test]
fn a_region_row_that_does_not_decode_names_its_files_once() {
    let place = Place::new();
    let row = place.regions().remove(0);
    place.put(Table::Regions, &id_key(row.first.0), b"\xff\xff");
    let files = referring(&place, row.first.0..row.end().0);
    let what = format!("the region row of chunk {} cannot be read", row.first.0);
    place.finds(true, &[(&what, &as_strs(&files))]);
}

#[test]
fn one_missing_entry_of_a_region_is_found() {
    let place = Place::new();
    let mut row = place.regions().remove(0);
    let id = row.first.0 + 3;
    let entry = row.entries[3].take().unwrap();
    place.put_region(&row);
    place.add_to_counter(Counter::Chunks, -1);
    place.add_to_counter(Counter::PlainBytes, -i64::from(entry.len));
    let files = referring(&place, id..id + 1);
    place.finds(
        true,
        &[
            (&format!("chunk {id} is referred to and not there"), &as_strs(&files)),
            (&format!("the digest {} names chunk {id}, which is not there", entry.digest), &[]),
        ],
    );
}

#[test]
fn regions_that_overlap_or_make_no_sense_are_found() {
    let place = Place::new();
    let rows = place.regions();
    let mut long = rows[0].clone();
    let extra = rows[1].entries[0].unwrap();
    long.entries.push(Some(extra));
    long.plain += extra.len;
    place.put_region(&long);
    let report = place.check(false);
    let has = |report: &CheckReport, what: &str| report.findings.iter().any(|f| f.what.contains(what));
    assert!(has(&report, "begins with chunks that another row has"), "{report:#?}");

    let place = Place::new();
    let mut row = rows[0].clone();
    (row.plain, row.at.offset) = (1, 3);
    place.put_region(&row);
    let report = place.check(false);
    assert!(has(&report, "bytes in its chunks and 1 in all"), "{report:#?}");
    assert!(has(&report, "inside the pack's header"), "{report:#?}");

    let place = Place::new();
    let mut row = rows[0].clone();
    row.first = ChunkId(1 << 40);
    place.put_region(&row);
    assert!(has(&place.check(false), "chunks that were never given"));
}

#[test]
fn digests_and_chunks_agree_both_ways() {
    let place = Place::new();
    let row = place.regions().remove(0);
    let (id, entry) = row.live().next().map(|(id, entry)| (id.0, *entry)).unwrap();
    place.remove(Table::Digests, &entry.digest.0);
    let report = place.check(true);
    assert!(report.is_clean() && report.unfound_chunks == 1, "{report:#?}");

    place.put(Table::Digests, &entry.digest.0, &id_key(id + 1));
    let what = format!("names chunk {}, which has the digest", id + 1);
    place.finds(true, &[(&what, &[])]);
    assert_eq!(place.check(true).unfound_chunks, 1);

    place.put(Table::Digests, &entry.digest.0, &[id_key(id), id_key(id + 1)].concat());
    place.finds(true, &[(&what, &[])]);

    place.put(Table::Digests, &entry.digest.0, &id_key(id));
    place.put(Table::Digests, &[7; 32], &id_key(1 << 40));
    place.finds(true, &[("which was never given", &[])]);

    place.put(Table::Digests, &[7; 32], b"x");
    place.finds(true, &[("wrong length", &[])]);
}

#[test]
fn a_chunk_stored_once_more_is_no_fault() {
    let place = Place::new();
    let (before, before_rows) = (place.check(true).bytes_read, place.regions().len());
    let region = place.regions().swap_remove(0);
    // Every other one: the row has to be split.
    place.store.healing.mark_bad(region.live().map(|(id, _)| id).filter(|id| id.0 % 2 == 0), region.at.pack);
    super::place::file(&place.fs, place.dir, b"again", &noise(300_000, 1));
    place.fs.sync().unwrap();
    let report = place.check(true);
    assert_eq!(report.findings, []);
    assert_eq!(report.bytes_read, before, "under its old id");
    assert!(place.regions().len() > before_rows, "its row was split");
    assert_eq!(place.store.status().unwrap().bad_chunks, 0);
}

#[test]
fn a_lost_pack_names_its_files() {
    let place = Place::new();
    let pack = place.regions()[0].at.pack;
    std::fs::remove_file(place.temp.path().join(pack.path())).unwrap();
    let files = referring(&place, 0..u64::MAX);
    assert_eq!(files.len(), 5);
    for data in [false, true] {
        place.finds(data, &[("000000000001.pack is not there", &as_strs(&files))]);
    }
}

#[test]
fn a_pack_that_was_cut_off_names_the_files_of_what_is_lost() {
    let place = Place::new();
    let last = place.regions().pop().unwrap();
    let path = place.temp.path().join(last.at.pack.path());
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(last.at.end() - 1).unwrap();
    let files = referring(&place, last.first.0..last.end().0);
    assert!(files.len() < 5, "the first region is whole: {files:?}");
    for data in [false, true] {
        place.finds(data, &[("its regions need at least", &as_strs(&files))]);
    }
}

#[test]
fn a_flipped_byte_is_found_by_reading() {
    let place = Place::new();
    let row = place.regions().remove(0);
    flip_byte(&place, &row.at);
    assert_eq!(place.check(false).findings, []);
    let files = referring(&place, row.first.0..row.end().0);
    place.finds(true, &[("the bytes of a region do not match their checksum", &as_strs(&files))]);
    assert_eq!(place.store.status().unwrap().bad_chunks, row.entries.len() as u64);

    // What was found bad is never shared again: the same content is stored anew, and reads back.
    let again = super::place::file(&place.fs, place.dir, b"again", &noise(300_000, 1));
    place.fs.sync().unwrap();
    assert!(place.fs.read(again, 0, 300_000).unwrap() == noise(300_000, 1));
}

#[test]
fn bytes_that_are_not_those_of_the_digest_are_found() {
    let place = Place::new();
    let mut row = place.regions().remove(0);
    let entry = row.entries[2].as_mut().unwrap();
    let (old, new) = (entry.digest, Digest([9; 32]));
    entry.digest = new;
    let id = row.first.0 + 2;
    place.put_region(&row);
    place.remove(Table::Digests, &old.0);
    place.put(Table::Digests, &new.0, &id_key(id));
    assert_eq!(place.check(false).findings, []);
    let what = format!("chunk {id}: its bytes do not match its digest");
    let files = referring(&place, id..id + 1);
    place.finds(true, &[(&what, &as_strs(&files))]);
}

/// Moves a region to another place as a cycle does, and takes the old pack away.
fn move_all(place: &Place) {
    let rows = place.regions();
    let moved: Vec<RegionRow> = rows
        .iter()
        .map(|row| {
            let (record, _) = place.store.packs.record(&row.at).unwrap();
            RegionRow { at: place.store.packs.append(&record).unwrap(), ..row.clone() }
        })
        .collect();
    place.store.packs.sync().unwrap();
    for row in &moved {
        place.put_region(row);
    }
    assert!(moved.iter().all(|row| row.at.pack != rows[0].at.pack));
    place.store.packs.remove(rows[0].at.pack).unwrap();
}

/// Everything after the snapshot was taken, as `check` has it.
fn rest_of_check(run: &mut CheckRun<'_>) -> Vec<Finding> {
    let mut regions = chunks::regions(run).unwrap();
    chunks::digests(run, &mut regions).unwrap();
    let lost = packs::check(run, &regions).unwrap();
    tree::check(run, &regions).unwrap();
    data::read(run, &lost).unwrap();
    let findings = std::mem::replace(&mut run.findings, Findings::new(MAX_NAMES));
    paths::resolve(run, findings).unwrap()
}

#[test]
fn a_cycle_that_moves_and_frees_under_the_check_is_no_damage() {
    let place = Place::new();
    // So that regions move into a pack of their own.
    place.store.collection.flip().unwrap();
    place.store.collection.end_cycle().unwrap();
    let options = Options { data: true, ..Options::default() };
    let mut run = CheckRun::new(&place.store, &options);
    move_all(&place);
    assert_eq!(rest_of_check(&mut run), []);

    // A region whose chunks were all swept, and its pack unlinked.
    let mut run = CheckRun::new(&place.store, &options);
    let rows = place.regions();
    for row in &rows {
        place.remove(Table::Regions, &id_key(row.first.0));
    }
    place.store.packs.remove(rows[0].at.pack).unwrap();
    assert_eq!(rest_of_check(&mut run), []);
}

#[test]
fn a_pack_lost_after_the_look_at_it_is_damage() {
    let place = Place::new();
    let options = Options { data: true, ..Options::default() };
    place.store.commits.fold().unwrap();
    let mut run = CheckRun::new(&place.store, &options);
    let regions = chunks::regions(&mut run).unwrap();
    let lost = packs::check(&mut run, &regions).unwrap();
    place.store.packs.remove(place.regions()[0].at.pack).unwrap();
    data::read(&mut run, &lost).unwrap();
    let findings = std::mem::replace(&mut run.findings, Findings::new(MAX_NAMES));
    let findings = paths::resolve(&mut run, findings).unwrap();
    assert_eq!(findings.len(), place.regions().len(), "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.what.contains("not read back")), "{findings:#?}");
}

/// A healing took one chunk out of the middle of a row after the check had begun: what became of the others is told.
#[test]
fn a_row_that_became_several_is_looked_at_in_all_its_parts() {
    let place = Place::new();
    let row = place.regions().remove(0);
    let (first, healed) = (row.first.0, Location { pack: PackId(99), ..row.at });
    let part = |from: usize, to: usize, at| RegionRow {
        first: ChunkId(first + from as u64),
        at,
        entries: row.entries[from..to].to_vec(),
        ..row
    };
    let end = row.entries.len();
    let parts = [part(0, 1, healed), part(1, 3, row.at), part(3, 4, healed), part(4, end, row.at)];
    parts.iter().for_each(|part| place.put_region(part));
    let mut looked = Vec::new();
    let found = confirm_damage(&place.store, row.clone(), |row| {
        looked.push((row.first.0 - first, row.entries.len()));
        Ok(if row.at == healed { Ok(()) } else { Err(()) })
    })
    .unwrap();
    assert_eq!(found, [(parts[1].clone(), ()), (parts[3].clone(), ())]);
    looked.sort_unstable();
    assert_eq!(looked, [(0, 1), (0, end), (1, 2), (3, 1), (4, end - 4)]);
    let found = confirm_damage(&place.store, row.clone(), |_| Ok(Ok::<_, ()>(()))).unwrap();
    assert_eq!(found, [], "a place that is left may still be read");
    place.damage(|txn| {
        txn.apply(Table::Regions, parts.iter().map(|part| (id_key(part.first.0), None::<&[u8]>)));
    });
    assert_eq!(confirm_damage(&place.store, row, |_| Ok(Err(()))).unwrap(), [], "nothing needs it any more");
}
