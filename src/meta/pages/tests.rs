//! What was written comes back, and nothing else passes for it.

use proptest::prelude::*;

use super::*;
use crate::media::Media;
use crate::media::sim::{OpKind, SimMedia};

fn page(number: u64, kind: u8) -> Vec<u8> {
    (0..PAGE).map(|at| (at as u8).wrapping_mul(kind).wrapping_add(number as u8) | 1).collect()
}

/// A closed file of `pages` pages, each with something in it.
fn filled(pages: u64) -> SimMedia {
    let disk = SimMedia::new();
    let file = Pages::create(disk.create("db").unwrap()).unwrap();
    file.set_len(pages * PAGE);
    file.write(0, &page(0, 1)[..320]);
    for number in 1..pages {
        file.write(number * PAGE, &page(number, 1));
    }
    file.sync();
    file.close();
    assert!(file.failure().is_none());
    disk
}

fn open(disk: &SimMedia) -> io::Result<Pages> {
    Pages::open(disk.open("db", true).unwrap())
}

#[test]
fn places_and_lengths_agree() {
    for pages in [0, 1, 2, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, 5 * GROUP + 7] {
        assert_eq!(pages_in(file_len(pages)), pages);
        assert!(pages == 0 || page_at(pages - 1) + PAGE == file_len(pages));
    }
    // A page of sums with nothing behind it is no page.
    assert_eq!(pages_in(file_len(GROUP) + PAGE), GROUP);
}

#[test]
fn what_was_written_comes_back_and_long_reads_cross_groups() {
    let disk = filled(GROUP + 5);
    let file = open(&disk).unwrap();
    assert_eq!((file.shutdown(), file.len()), (Shutdown::Clean, (GROUP + 5) * PAGE));
    let mut out = vec![0; 8 * PAGE as usize];
    file.read((GROUP - 3) * PAGE, &mut out).unwrap();
    let expected: Vec<u8> = (GROUP - 3..GROUP + 5).flat_map(|number| page(number, 1)).collect();
    assert!(out == expected);
    let mut head = [0; 320];
    file.read(0, &mut head).unwrap();
    assert_eq!(head[..], page(0, 1)[..320]);
    assert!(file.read((GROUP + 4) * PAGE, &mut out).is_err());
}

#[test]
fn every_changed_byte_is_noticed_where_it_is_read() {
    let disk = filled(3);
    let len = file_len(3);
    for at in 0..len {
        if at % 7 != 0 && at > HEAD_LEN as u64 && at % PAGE > 64 {
            continue;
        }
        disk.flip_byte("db", at);
        let noticed = match open(&disk) {
            Err(_) => true,
            Ok(file) => {
                let unknown = file.shutdown() != Shutdown::Clean;
                let mut out = vec![0; 3 * PAGE as usize];
                unknown || file.read(0, &mut out).is_err()
            }
        };
        // Bytes of the head's page behind the head, and sums of pages that are not there, mean nothing.
        let idle = (HEAD_LEN as u64..PAGE).contains(&at) || (PAGE + 12..2 * PAGE).contains(&at);
        // The sum of the engine's head stands in our head.
        let first = (PAGE..PAGE + 4).contains(&at);
        assert_eq!(noticed, !idle && !first, "byte {at}");
        disk.flip_byte("db", at);
    }
}

#[test]
fn another_length_and_no_content_are_refused() {
    let disk = filled(3);
    let file = disk.open("db", true).unwrap();
    for len in [0, 17, PAGE, file_len(2), file_len(3) - 1, file_len(3) + 1, file_len(4)] {
        file.set_len(len).unwrap();
        assert!(open(&disk).is_err(), "{len}");
    }
}

#[test]
fn a_file_that_was_not_closed_is_known_and_so_is_its_copy() {
    let disk = filled(3);
    open(&disk).unwrap().write(2 * PAGE, &page(2, 9));
    assert_eq!(open(&disk).unwrap().shutdown(), Shutdown::Unclean);
    let copy = SimMedia::new();
    copy.create("other").unwrap();
    let bytes = disk.contents("db").unwrap();
    copy.create("db").unwrap().write_at(&bytes, 0).unwrap();
    let opened = open(&copy).unwrap();
    assert_eq!(opened.shutdown(), Shutdown::CopiedInUse);
    // Whatever ends before all of it was read, the next one has to read it.
    opened.write(PAGE, &page(1, 7));
    opened.sync();
    assert_eq!(open(&copy).unwrap().shutdown(), Shutdown::CopiedInUse);
    opened.close();
    assert_eq!(open(&copy).unwrap().shutdown(), Shutdown::CopiedInUse);
    opened.verified();
    assert_eq!(open(&copy).unwrap().shutdown(), Shutdown::Unclean);
}

#[test]
fn a_failed_change_is_the_last_and_reads_go_on() {
    let disk = filled(3);
    let file = open(&disk).unwrap();
    file.write(PAGE, &page(1, 5));
    disk.set_fault(Box::new(|op| (op.kind == OpKind::Sync).then_some(libc::EIO)));
    file.sync();
    disk.clear_faults();
    assert_eq!(file.failure().unwrap().raw_os_error(), Some(libc::EIO));
    let before = disk.contents("db").unwrap();
    file.write(2 * PAGE, &page(2, 5));
    file.set_len(9 * PAGE);
    file.sync();
    file.close();
    assert!(disk.contents("db").unwrap() == before);
    let mut out = vec![0; PAGE as usize];
    file.read(PAGE, &mut out).unwrap();
    assert!(out == page(1, 5));
    // What could not be written is not what is read.
    assert!(file.read(2 * PAGE, &mut out).is_err());
}

#[test]
fn a_stopped_file_is_not_changed_and_says_why() {
    let disk = filled(3);
    let file = open(&disk).unwrap();
    file.write(PAGE, &page(1, 5));
    let before = disk.contents("db").unwrap();
    file.stop(&"a reason");
    file.stop(&"a later one");
    file.write(2 * PAGE, &page(2, 5));
    file.sync();
    file.close();
    assert!(disk.contents("db").unwrap() == before);
    assert_eq!(file.failure().unwrap().to_string(), "a reason");
    assert_eq!(open(&disk).unwrap().shutdown(), Shutdown::Unclean);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8),
    SetLen(u64),
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..GROUP + 20, 1u8..).prop_map(|(at, kind)| Step::Write(at, kind)),
        1 => (1..GROUP + 20).prop_map(Step::SetLen),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pages_read_like_an_array_of_pages(steps in prop::collection::vec(step(), 1..24)) {
        let disk = filled(GROUP + 2);
        let mut file = open(&disk).unwrap();
        let mut model: Vec<Vec<u8>> = (0..GROUP + 2).map(|number| page(number, 1)).collect();
        model[0][320..].fill(0);
        for step in steps {
            match step {
                Step::Write(at, kind) if at < model.len() as u64 => {
                    let bytes = page(at, kind);
                    file.write(at * PAGE, &bytes);
                    model[at as usize] = bytes;
                }
                Step::Write(..) => {}
                Step::SetLen(pages) => {
                    file.set_len(pages * PAGE);
                    model.resize(pages as usize, vec![0; PAGE as usize]);
                }
                Step::Sync => file.sync(),
                Step::Reopen => {
                    file.close();
                    file = open(&disk).unwrap();
                    prop_assert_eq!(file.shutdown(), Shutdown::Clean);
                }
            }
            prop_assert!(file.failure().is_none());
            let mut out = vec![0; model.len() * PAGE as usize];
            file.read(0, &mut out).unwrap();
            prop_assert!(out == model.concat());
        }
    }
}

/// The engine doubles its file; on a disk that has room for what is used, and not for that, it goes on.
#[test]
fn what_is_added_takes_its_place_only_when_it_is_written_to() {
    let disk = filled(3);
    let room = 3 * CLAIM;
    disk.set_capacity(Some(disk.used() + room));
    let file = open(&disk).unwrap();
    file.set_len(100 * CLAIM);
    let first = |bytes: u64| (bytes / PAGE, page(bytes / PAGE, 1));
    for (number, bytes) in [first(CLAIM), first(room - CLAIM)] {
        file.write(number * PAGE, &bytes);
    }
    file.sync();
    assert!(file.failure().is_none());
    let used = disk.used();
    // A page far behind takes no more than its own place and that of its sum, wherever the file ends.
    disk.set_capacity(None);
    let (number, bytes) = first(60 * CLAIM);
    file.write(number * PAGE, &bytes);
    file.set_len(101 * CLAIM);
    assert!(file.failure().is_none() && (1..=2 * CLAIM).contains(&(disk.used() - used)));
    // The sum of a group's last page stands in the stretch before, and has its place by the time of the sync.
    let number = 70 * GROUP + GROUP - 1;
    assert!(sums_at(70) / CLAIM < page_at(number) / CLAIM);
    file.write(number * PAGE, &page(number, 1));
    disk.set_capacity(Some(disk.used()));
    file.sync();
    assert!(file.failure().is_none());
    let used = disk.used();
    // A page beside one that was written has its place already.
    disk.set_capacity(Some(used));
    let (number, bytes) = first(CLAIM + PAGE);
    file.write(number * PAGE, &bytes);
    assert_eq!((file.failure().is_none(), disk.used()), (true, used));
    // One that has none is refused before anything of it is written.
    let (number, bytes) = first(90 * CLAIM);
    file.write(number * PAGE, &bytes);
    assert_eq!(file.failure().and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
    disk.set_capacity(None);
    drop(file);
    let file = open(&disk).unwrap();
    let mut out = vec![0; PAGE as usize];
    file.read(CLAIM, &mut out).unwrap();
    assert!(out == page(CLAIM / PAGE, 1));
}

/// A stretch that ended with the file is claimed once more when the file has grown.
#[test]
fn what_is_added_to_a_stretch_takes_its_place_with_its_neighbours() {
    let disk = filled(3);
    let file = open(&disk).unwrap();
    file.write(PAGE, &page(1, 1));
    file.set_len(CLAIM);
    file.write(500 * PAGE, &page(500, 1));
    disk.set_capacity(Some(disk.used()));
    file.write(600 * PAGE, &page(600, 1));
    assert!(file.failure().is_none());
}
