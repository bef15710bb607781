//! The log: whole or not there, in order, and nothing old taken for new.

use super::*;
use crate::media::Media;
use crate::media::sim::{OpKind, SimMedia};
use crate::meta::{Memtable, Table};

const SIZE: u64 = 64 << 10;
const KEY: [u8; 16] = [7; 16];
const BEGIN: Position = Position { number: 0, digest: [0; 32] };

fn entry(number: u8, record: usize) -> Entry {
    let rows = Memtable::default();
    rows.put(Table::Inodes, &[number], &[number; 100]);
    rows.delete(Table::Xattrs, &[number]);
    let at = Location { pack: PackId(number.into()), offset: 64, len: record as u32 };
    let carried = (record > 0).then(|| Carried { at, record: vec![number; record].into() });
    Entry { rows: Run::of(None, &rows), carried: carried.into_iter().collect() }
}

fn file() -> Arc<dyn MediaFile> {
    SimMedia::new().create("log").unwrap()
}

/// Writes entries with records of these lengths; the log, and where each of them ends.
fn written(file: &Arc<dyn MediaFile>, from: Position, records: &[usize]) -> (Log, Vec<(Position, u64)>) {
    let mut log = Log::new(file.clone(), SIZE, KEY);
    let (mut last, mut ends) = (from, Vec::new());
    for (index, &record) in records.iter().enumerate() {
        last = log.append(&last, &entry(index as u8, record)).unwrap().unwrap();
        ends.push((last, log.next));
    }
    (log, ends)
}

fn replay(file: &Arc<dyn MediaFile>, folded: &Position) -> Result<Replayed> {
    Log::new(file.clone(), SIZE, KEY).replay(folded)
}

const RECORDS: [usize; 5] = [0, 5000, 0, 20_000, 300];

#[test]
fn what_was_written_is_replayed_from_any_place_on() {
    let file = file();
    let (_, ends) = written(&file, BEGIN, &RECORDS);
    let all = replay(&file, &BEGIN).unwrap();
    let wanted: Vec<Entry> = RECORDS.iter().enumerate().map(|(n, len)| entry(n as u8, *len)).collect();
    assert_eq!(all.entries, wanted);
    assert_eq!((all.last, all.unfinished), (ends[4].0, None));
    // Folded to its end: nothing is left of it, also before anything is written over.
    let none = replay(&file, &ends[4].0).unwrap();
    assert_eq!((none.entries.len(), none.last, none.unfinished), (0, ends[4].0, None));
    let folded = ends[4].0.next_folded();
    assert!(replay(&file, &folded).unwrap().entries.is_empty());
}

#[test]
fn what_stands_behind_from_before_the_fold_is_no_entry() {
    let file = file();
    let (mut log, ends) = written(&file, BEGIN, &RECORDS);
    log.begin_anew();
    let folded = ends[4].0.next_folded();
    let last = log.append(&folded, &entry(9, 10)).unwrap().unwrap();
    let found = replay(&file, &folded).unwrap();
    assert_eq!((found.entries, found.last, found.unfinished), (vec![entry(9, 10)], last, None));
}

/// Each byte of the file changed in turn: either the entry that has it is the last, and is missing, which is said; or
/// others follow, and that is an error. What a byte beside them says does not matter.
#[test]
fn a_changed_byte_is_told_and_never_read() {
    let file = file();
    let (_, ends) = written(&file, BEGIN, &RECORDS);
    let end = ends[4].1 as usize * BLOCK;
    let last_begins = ends[3].1 as usize * BLOCK;
    let mut bytes = vec![0; end];
    file.read_at(&mut bytes, 0).unwrap();
    for at in (0..end).step_by(7) {
        let byte = [bytes[at] ^ 0x10];
        file.write_at(&byte, at as u64).unwrap();
        match replay(&file, &BEGIN) {
            Err(error) => assert!(at < last_begins && error.to_string().contains("damaged"), "{at}: {error}"),
            Ok(found) => {
                assert!(at >= last_begins, "{at}");
                assert_eq!(found.entries.len(), 4, "{at}");
                assert!(found.unfinished.is_some(), "{at}");
            }
        }
        file.write_at(&bytes[at..=at], at as u64).unwrap();
    }
}

#[test]
fn an_entry_that_was_cut_off_is_not_there() {
    let source = file();
    let (_, ends) = written(&source, BEGIN, &RECORDS);
    let mut bytes = vec![0; ends[3].1 as usize * BLOCK];
    source.read_at(&mut bytes, 0).unwrap();
    let begins = ends[2].1 as usize * BLOCK;
    for blocks in 0..(bytes.len() - begins) / BLOCK {
        let cut = file();
        cut.set_len(SIZE).unwrap();
        cut.write_at(&bytes[..begins + blocks * BLOCK], 0).unwrap();
        let found = replay(&cut, &BEGIN).unwrap();
        assert_eq!((found.entries.len(), found.unfinished.is_some()), (3, blocks > 0), "{blocks} blocks");
    }
}

#[test]
fn what_a_file_has_is_not_taken_for_an_entry() {
    // The content of a file that is carried has blocks as the log has them, under another key.
    let forged = file();
    let mut other = Log::new(forged.clone(), SIZE, [8; 16]);
    other.append(&Position { number: 5, digest: [0; 32] }, &entry(3, 0)).unwrap();
    let mut block = vec![0; BLOCK];
    forged.read_at(&mut block, 0).unwrap();
    let file = file();
    written(&file, BEGIN, &[0]);
    file.write_at(&block, BLOCK as u64 * 2).unwrap();
    let found = replay(&file, &BEGIN).unwrap();
    assert_eq!((found.entries.len(), found.unfinished), (1, None));
}

#[test]
fn another_history_is_refused() {
    let file = file();
    written(&file, BEGIN, &RECORDS);
    let other = Position { number: 0, digest: [1; 32] };
    assert!(replay(&file, &other).unwrap_err().to_string().contains("does not follow"));
}

#[test]
fn the_row_that_says_how_far_it_is_folded_comes_back() {
    let row = FoldedRow { folded: Position { number: 1 << 40, digest: [3; 32] }, key: KEY };
    assert_eq!(FoldedRow::decode(&row.encode()).unwrap(), row);
    assert!(FoldedRow::decode(&row.encode()[1..]).is_err());
}

#[test]
fn taking_room_leaves_what_stands_there() {
    let file = file();
    let (mut log, ends) = written(&file, BEGIN, &[0]);
    // As another opening finds it, cut off behind the last entry.
    file.set_len(log.next * BLOCK as u64).unwrap();
    log = Log::new(file.clone(), SIZE, KEY);
    let found = log.replay(&BEGIN).unwrap();
    log.append(&found.last, &entry(9, 0)).unwrap().unwrap();
    assert_eq!(replay(&file, &BEGIN).unwrap().entries.len(), ends.len() + 1);
}

/// The power is cut while an entry is written, and again while another one with its number is written over it: neither
/// was acknowledged, whatever blocks of the two are there.
#[test]
fn an_entry_over_one_that_was_cut_off_is_cut_off_as_well() {
    let attempt = |number: u8| {
        let file = file();
        let (mut log, ends) = written(&file, BEGIN, &[5000]);
        let position = log.append(&ends[0].0, &entry(number, 20_000)).unwrap().unwrap();
        let begin = ends[0].1 as usize * BLOCK;
        let mut bytes = vec![0; log.next as usize * BLOCK];
        file.read_at(&mut bytes, 0).unwrap();
        (bytes, begin, position)
    };
    let ((old, begin, _), (new, ..)) = (attempt(1), attempt(2));
    let blocks = (new.len() - begin) / BLOCK;
    assert!(blocks > 3);
    for mix in 0..1u32 << blocks {
        let mut bytes = old.clone();
        for block in (0..blocks).filter(|block| mix & (1 << block) != 0) {
            let at = begin + block * BLOCK;
            bytes[at..at + BLOCK].copy_from_slice(&new[at..at + BLOCK]);
        }
        let file = file();
        file.set_len(SIZE).unwrap();
        file.write_at(&bytes, 0).unwrap();
        let mut log = Log::new(file.clone(), SIZE, KEY);
        let found = log.replay(&BEGIN).unwrap();
        let whole = mix == 0 || mix == (1 << blocks) - 1;
        assert_eq!(
            (found.entries.len(), found.unfinished.is_some()),
            (1 + usize::from(whole), !whole),
            "{mix:b}"
        );
        // What is written over it now is what counts.
        if !whole {
            log.append(&found.last, &entry(3, 0)).unwrap().unwrap();
            assert_eq!(replay(&file, &BEGIN).unwrap().entries, [entry(0, 5000), entry(3, 0)], "{mix:b}");
        }
    }
}

#[test]
fn it_never_grows_beyond_its_size() {
    for record in CONTENT..2 * CONTENT {
        let file = file();
        let mut log = Log::new(file.clone(), 5 * BLOCK as u64, KEY);
        let mut last = BEGIN;
        // Rows in many tables, each of which takes some bytes of its own.
        let rows = Memtable::default();
        Table::ALL.into_iter().for_each(|table| rows.put(table, b"key", b"value"));
        let carried = vec![Carried {
            at: Location { pack: PackId(1), offset: 64, len: record as u32 },
            record: vec![1; record].into(),
        }];
        let entry = Entry { rows: Run::of(None, &rows), carried };
        while let Some(position) = log.append(&last, &entry).unwrap() {
            last = position;
        }
        assert_eq!(file.len().unwrap(), 5 * BLOCK as u64, "{record}");
        assert!(last.number > 0);
    }
}

/// A full disk at a write is ordinary, a failed sync never is (I8).
#[test]
fn no_room_is_told_and_a_failed_sync_is_an_error() {
    let media = SimMedia::new();
    let file = media.create("log").unwrap();
    let mut log = Log::new(file.clone(), SIZE, KEY);
    for kind in [OpKind::Allocate, OpKind::Write] {
        media.set_fault(Box::new(move |op| (op.kind == kind).then_some(libc::ENOSPC)));
        assert_eq!(log.append(&BEGIN, &entry(0, 0)).unwrap(), None, "{kind:?}");
        assert_eq!((file.len().unwrap(), file.allocated().unwrap()), (0, 0), "{kind:?}: room for the fold");
    }
    media.set_fault(Box::new(|op| (op.kind == OpKind::Sync).then_some(libc::ENOSPC)));
    assert_eq!(log.append(&BEGIN, &entry(0, 0)).unwrap_err().errno(), libc::ENOSPC);
}
