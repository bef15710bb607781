//! A real store, sound and with each kind of damage made by hand: it must be found, alone, and with the right files.

mod place;
mod rows;
mod stored;
mod usage;

use std::cell::{Cell, RefCell};

use super::*;
use crate::meta::rows::ROOT_INO;
use place::Place;

#[test]
fn a_sound_store_is_clean_and_counted() {
    let place = Place::new();
    let report = place.check(true);
    assert_eq!(report.findings, []);
    assert!(report.data);
    // The root, 2 directories, 4 files, a symlink, and the file that was deleted and is still open.
    assert_eq!((report.inodes, report.dirents), (9, 8));
    assert_eq!(report.chunks, place.store.commits.counter(Counter::Chunks));
    assert_eq!(report.bytes_read, place.store.commits.counter(Counter::PlainBytes));
    assert_eq!((report.packs, report.unreferenced_chunks), (1, 0));
    assert!(report.extents >= 5, "{}", report.extents);
    let quick = place.check(false);
    assert_eq!(quick, CheckReport { data: false, bytes_read: 0, ..report });
}

#[test]
fn a_store_that_was_never_mounted_is_clean() {
    let (dir, store) = place::empty_store();
    let run = |data| check(&store, &Options { data, ..Options::default() }).unwrap();
    assert_eq!(run(true), CheckReport { data: true, ..CheckReport::default() });
    store.close().unwrap();
    drop(dir);
}

#[test]
fn chunks_not_in_use_are_counted_and_no_fault() {
    let place = Place::new();
    place.fs.unlink(ROOT_INO, b"copy").unwrap();
    place.fs.unlink(place.dir, b"b").unwrap();
    for ino in [place.copy, place.b] {
        place.fs.forget(ino, 1);
    }
    place.fs.drain_orphans().unwrap();
    let report = place.check(true);
    assert_eq!(report.findings, []);
    assert!(report.unreferenced_chunks > 10, "{}", report.unreferenced_chunks);
    assert_eq!(report.inodes, 7);
}

#[test]
fn progress_rises_to_its_end() {
    let place = Place::new();
    let seen = RefCell::new(Vec::new());
    let progress = |step: Progress| seen.borrow_mut().push(step);
    check(&place.store, &whole(&progress, &|| false)).unwrap();
    let seen = seen.into_inner();
    let last = *seen.last().unwrap();
    assert!(last.total > 0 && last.done == last.total);
    assert_eq!(last.bytes, place.store.commits.counter(Counter::PlainBytes));
    assert!(seen.is_sorted_by_key(|step| (step.done, step.bytes)), "{seen:?}");
}

#[test]
fn a_cancelled_check_ends_and_says_so() {
    let place = Place::new();
    let asked = Cell::new(0);
    let cancelled = || {
        asked.set(asked.get() + 1);
        true
    };
    let error = check(&place.store, &whole(&|_| {}, &cancelled));
    assert_eq!(error.unwrap_err().errno(), libc::EINTR);
    assert_eq!(asked.get(), 1);
}

/// A check of the data from the beginning.
fn whole<'a>(progress: &'a dyn Fn(Progress), cancelled: &'a dyn Fn() -> bool) -> Options<'a> {
    Options { data: true, progress, cancelled, ..Options::default() }
}
