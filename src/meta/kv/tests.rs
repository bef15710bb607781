//! Whatever page is damaged, what is read is right or an error, and reading ends.

use std::collections::BTreeSet;

use super::*;
use crate::media::Media;
use crate::media::sim::SimMedia;

const ROWS: u64 = 3_000;

fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(8)
}

/// A database of several levels.
fn filled() -> SimMedia {
    let disk = SimMedia::new();
    Kv::create(disk.create("db").unwrap(), &[]).unwrap();
    disk.sync_dir("").unwrap();
    let kv = Kv::open(disk.open("db", true).unwrap(), 1 << 20).unwrap();
    let mut txn = kv.write().unwrap();
    txn.apply(Table::Inodes, (0..ROWS).map(|number| (number.to_be_bytes(), Some(value(number))))).unwrap();
    txn.commit(true).unwrap();
    kv.close().unwrap();
    disk
}

#[test]
fn a_walk_over_any_damaged_page_ends_with_the_error() {
    let pristine = filled();
    let pages = pristine.contents("db").unwrap().len() / 4096;
    let (mut hurt, mut from_the_first) = (0, 0);
    for page in 0..pages as u64 {
        let disk = pristine.cut_at(pristine.op_count(), 1);
        disk.flip_byte("db", page * 4096 + 2048);
        let Ok(kv) = Kv::open(disk.open("db", true).unwrap(), 1 << 20) else { continue };
        let Ok(rows) = kv.read().and_then(|view| view.rows(Table::Inodes)) else { continue };
        // One more than there can be, if it does not end.
        let rows: Vec<_> = rows.take(ROWS as usize + 2).collect();
        let good = rows.iter().take_while(|row| row.is_ok()).count();
        assert!(rows.len() - good <= 1, "page {page}: {} come after an error", rows.len() - good - 1);
        for (number, row) in rows[..good].iter().flatten().enumerate() {
            assert_eq!(row.0, (number as u64).to_be_bytes());
            assert_eq!(row.1.as_ref().unwrap(), &value(number as u64));
        }
        assert_eq!(
            rows.len() == good,
            good == ROWS as usize,
            "page {page}: the end is not the end of the table"
        );
        hurt += usize::from(good < ROWS as usize);
        from_the_first += usize::from(good == 0);
    }
    assert!(
        hurt > from_the_first && from_the_first > 0,
        "{hurt} walks ended early, {from_the_first} at once"
    );
}

/// The rows that a repair does not find once these pages are damaged; none where it cannot be opened.
fn missed(pristine: &SimMedia, pages: &[u64]) -> Option<BTreeSet<u64>> {
    let disk = pristine.cut_at(pristine.op_count(), 1);
    pages.iter().for_each(|page| disk.flip_byte("db", page * 4096 + 2048));
    let kv = Kv::open(disk.open("db", true).unwrap(), 1 << 20).ok()?;
    let view = kv.read().ok()?;
    let mut missed: BTreeSet<u64> = (0..ROWS).collect();
    let (mut last, mut failed) = (None, false);
    for row in view.readable_rows(Table::Inodes, b"") {
        assert!(!(failed && row.is_err()), "pages {pages:?}: two errors for one stretch");
        failed = row.is_err();
        let Ok((key, row)) = row else { continue };
        let number = u64::from_be_bytes(key.try_into().unwrap());
        assert!(last.is_none_or(|last| last < number), "pages {pages:?}: {number} comes after {last:?}");
        assert_eq!(row.unwrap(), value(number));
        missed.remove(&number);
        last = Some(number);
    }
    Some(missed)
}

#[test]
fn a_repair_reads_on_behind_every_damaged_page() {
    let pristine = filled();
    let pages = pristine.contents("db").unwrap().len() as u64 / 4096;
    let mut leaves: Vec<(u64, BTreeSet<u64>)> = (0..pages)
        .filter_map(|page| Some((page, missed(&pristine, &[page])?)))
        .filter(|(_, rows)| (1..200).contains(&rows.len()))
        .collect();
    leaves.sort_by_key(|(_, rows)| rows.first().copied());
    // Each row is in one leaf, and costs no more than what is in it.
    let all: Vec<u64> = leaves.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    assert!(all == (0..ROWS).collect::<Vec<u64>>(), "{} rows in {} leaves", all.len(), leaves.len());
    assert!(leaves.len() > 20, "{} leaves", leaves.len());
    // The leaf between two that are damaged is not stepped over.
    for three in leaves.windows(3) {
        let both = &three[0].1 | &three[2].1;
        assert_eq!(missed(&pristine, &[three[0].0, three[2].0]), Some(both));
    }
}
