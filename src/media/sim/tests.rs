use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

/// Enough seeds to meet every way to tear.
const SEEDS: std::ops::Range<u64> = 0..200;

fn written(media: &SimMedia, path: &str, data: &[u8]) -> Arc<dyn MediaFile> {
    let file = media.create(path).unwrap();
    file.write_at(data, 0).unwrap();
    file
}

fn cut_now(media: &SimMedia, seed: u64) -> SimMedia {
    media.cut_at(media.op_count(), seed)
}

#[test]
fn what_was_synced_is_there_after_every_cut() {
    let media = SimMedia::new();
    let file = written(&media, "f", &[1; 5000]);
    file.sync().unwrap();
    media.sync_dir("").unwrap();
    let safe = media.op_count();
    file.write_at(&[2; 3000], 4000).unwrap();
    for n in safe..=media.op_count() {
        for seed in SEEDS {
            let disk = media.cut_at(n, seed);
            let bytes = disk.contents("f").expect("the name was synced");
            assert_eq!(bytes[..4000], [1; 4000], "seed {seed}");
            assert!(bytes[4000..5000].iter().all(|byte| [1, 2].contains(byte)));
            assert!(bytes[5000..].iter().all(|byte| [0, 2].contains(byte)));
        }
    }
}

#[test]
fn what_was_not_synced_is_kept_lost_or_torn() {
    let media = SimMedia::new();
    let file = media.create("f").unwrap();
    media.sync_dir("").unwrap();
    file.write_at(&[1; 2048], 0).unwrap();
    file.write_at(&[2; 2048], 2048).unwrap();
    let outcomes: HashSet<Vec<u8>> = SEEDS.map(|seed| cut_now(&media, seed).contents("f").unwrap()).collect();
    let both = [[1; 2048], [2; 2048]].concat();
    let only_later = [[0; 2048], [2; 2048]].concat();
    for wanted in [vec![], vec![1; 2048], both, only_later, vec![0; 4096]] {
        assert!(outcomes.contains(&wanted));
    }
    assert!(outcomes.len() > 20, "{} outcomes", outcomes.len());
}

#[test]
fn a_name_is_safe_only_with_its_directory() {
    let media = SimMedia::new();
    media.mkdir("d").unwrap();
    written(&media, "d/f", b"x").sync().unwrap();
    media.sync_dir("d").unwrap();
    let lost = SEEDS.filter(|seed| !cut_now(&media, *seed).exists("d/f").unwrap());
    assert!(lost.count() > 0, "the directory itself was not synced");
    media.sync_dir("").unwrap();
    for seed in SEEDS {
        assert_eq!(cut_now(&media, seed).contents("d/f").unwrap(), b"x");
    }
}

#[test]
fn changes_of_a_directory_are_kept_from_the_first_on() {
    let media = SimMedia::new();
    for name in ["a", "b", "c"] {
        media.create(name).unwrap();
    }
    let outcomes: HashSet<Vec<String>> = SEEDS.map(|seed| cut_now(&media, seed).list("").unwrap()).collect();
    let prefixes: HashSet<Vec<String>> = [&["a", "b", "c"][..0], &["a"], &["a", "b"], &["a", "b", "c"]]
        .into_iter()
        .map(|names| names.iter().map(|&name| name.to_owned()).collect())
        .collect();
    assert_eq!(outcomes, prefixes);
}

#[test]
fn a_rename_is_all_or_nothing() {
    let media = SimMedia::new();
    media.mkdir("d").unwrap();
    media.sync_dir("").unwrap();
    written(&media, "old", b"old").sync().unwrap();
    written(&media, "new", b"new").sync().unwrap();
    media.sync_dir("").unwrap();
    media.rename("new", "old").unwrap();
    media.rename("old", "d/moved").unwrap();
    for seed in SEEDS {
        let disk = cut_now(&media, seed);
        let found = ["old", "new", "d/moved"].map(|path| disk.contents(path));
        let is = |at: usize, data: &[u8]| found[at].as_deref() == Some(data);
        assert!(
            is(0, b"old") && is(1, b"new") && found[2].is_none()
                || is(0, b"new") && found[1].is_none() && found[2].is_none()
                || is(2, b"new") && found[0].is_none() && found[1].is_none(),
            "seed {seed}: {found:?}"
        );
    }
    media.sync_dir("d").unwrap();
    for seed in SEEDS {
        let disk = cut_now(&media, seed);
        assert_eq!(disk.files(), [("d/moved".to_owned(), 3)], "seed {seed}");
    }
}

#[test]
fn a_removed_file_may_come_back_until_its_directory_is_synced() {
    let media = SimMedia::new();
    written(&media, "f", b"x").sync().unwrap();
    media.sync_dir("").unwrap();
    media.remove("f").unwrap();
    let back = SEEDS.filter(|seed| cut_now(&media, *seed).exists("f").unwrap());
    assert!((1..SEEDS.end as usize).contains(&back.count()));
    media.sync_dir("").unwrap();
    assert!(SEEDS.into_iter().all(|seed| !cut_now(&media, seed).exists("f").unwrap()));
}

#[test]
fn a_failed_sync_may_lose_what_the_next_one_does_not_tell() {
    let media = SimMedia::new();
    let file = written(&media, "f", b"x");
    media.sync_dir("").unwrap();
    media.fail_op(media.op_count(), libc::EIO);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync().unwrap();
    assert_eq!(media.contents("f").unwrap(), b"x", "the page cache still has it");
    let lost = SEEDS.filter(|seed| cut_now(&media, *seed).contents("f").unwrap() != b"x");
    assert!((1..SEEDS.end as usize).contains(&lost.count()));
}

#[test]
fn faults_hit_what_they_were_set_for() {
    let media = SimMedia::new();
    let file = written(&media, "f", b"x");
    media.fail_op(media.op_count() + 1, libc::EIO);
    file.write_at(b"y", 0).unwrap();
    assert!(file.write_at(b"z", 0).is_err());
    file.write_at(b"w", 1).unwrap();
    assert_eq!(media.contents("f").unwrap(), b"yw");
    media.fail_query(media.query_count(), libc::EIO);
    let mut buf = [0];
    assert!(file.read_at(&mut buf, 0).is_err());
    file.read_at(&mut buf, 0).unwrap();

    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let disk = media.clone();
    media.set_fault(Box::new(move |op| {
        assert!(disk.used() > 0, "a hook may look at the disk");
        count.fetch_add(1, Ordering::Relaxed);
        (op.kind == OpKind::Punch && op.path == "f").then_some(libc::EPERM)
    }));
    assert!(file.punch(0, 1).is_err());
    assert!(!file.is_empty().unwrap());
    media.clear_faults();
    file.punch(0, 1).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    assert_eq!(media.contents("f").unwrap(), b"\0w");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let media = SimMedia::new();
    media.set_capacity(Some(3 * BLOCK));
    let file = written(&media, "f", &[1; BLOCK as usize]);
    let error = file.write_at(&[2; 3 * BLOCK as usize], 100).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!((media.used(), file.len().unwrap()), (3 * BLOCK, 3 * BLOCK));
    assert_eq!(media.space().unwrap().available, 0);
    // What is there can be written over, and space comes back.
    file.write_at(&[3; 100], 2 * BLOCK).unwrap();
    file.punch(BLOCK, BLOCK).unwrap();
    assert_eq!(media.space().unwrap().available, BLOCK);
    assert!(file.allocate(0, 4 * BLOCK).is_err());
    file.allocate(0, 3 * BLOCK).unwrap();
    assert_eq!(media.space().unwrap().available, 0);
}

#[test]
fn a_removed_files_space_is_taken_while_it_is_open() {
    let media = SimMedia::new();
    let file = written(&media, "f", b"x");
    media.remove("f").unwrap();
    assert_eq!(media.used(), BLOCK);
    let mut buf = [0];
    file.read_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"x");
    drop(file);
    assert_eq!(media.used(), 0);
}

#[test]
fn a_flipped_byte_stays_flipped() {
    let media = SimMedia::new();
    let file = written(&media, "f", &[0; 100]);
    file.sync().unwrap();
    media.sync_dir("").unwrap();
    media.flip_byte("f", 7);
    for seed in SEEDS {
        let bytes = cut_now(&media, seed).contents("f").unwrap();
        let changed: Vec<usize> = (0..100).filter(|at| bytes[*at] != 0).collect();
        assert_eq!(changed, [7]);
    }
}

#[test]
fn names_and_handles_keep_the_hosts_rules() {
    let media = SimMedia::new();
    let code = |result: io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(code(media.create("no/f").map(drop)), Some(libc::ENOENT));
    media.create("f").unwrap();
    assert_eq!(code(media.create("f").map(drop)), Some(libc::EEXIST));
    assert_eq!(code(media.mkdir("f")), Some(libc::ENOTDIR));
    assert_eq!(code(media.sync_dir("f")), Some(libc::ENOTDIR));
    media.mkdir("d").unwrap();
    media.mkdir("d").unwrap();
    assert_eq!(code(media.open("d", false).map(drop)), Some(libc::EISDIR));
    let reader = media.open("f", false).unwrap();
    assert_eq!(code(reader.write_at(b"x", 0)), Some(libc::EBADF));
    let mut buf = [0];
    assert_eq!(reader.read_at(&mut buf, 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(media.list("").unwrap(), ["d", "f"]);
    assert!(media.list("d").unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Of any run of writes and syncs: bytes that only synced writes touched are as the last of them left them.
    #[test]
    fn synced_bytes_survive_any_run(
        steps in prop::collection::vec((any::<bool>(), 0u64..3000, 1usize..2000, 1u8..), 1..20),
        seed: u64,
    ) {
        let media = SimMedia::new();
        let file = media.create("f").unwrap();
        media.sync_dir("").unwrap();
        let mut safe = Vec::new();
        let mut now: Vec<u8> = Vec::new();
        let mut touched = HashSet::new();
        for (sync, offset, len, byte) in steps {
            if sync {
                file.sync().unwrap();
                safe.clone_from(&now);
                touched.clear();
            } else {
                file.write_at(&vec![byte; len], offset).unwrap();
                let end = offset as usize + len;
                now.resize(now.len().max(end), 0);
                now[offset as usize..end].fill(byte);
                touched.extend(offset as usize..end);
            }
        }
        prop_assert_eq!(media.contents("f").unwrap(), now);
        let left = cut_now(&media, seed);
        let bytes = left.contents("f").unwrap();
        prop_assert!(bytes.len() >= safe.len());
        for (at, byte) in safe.iter().enumerate() {
            prop_assert!(touched.contains(&at) || bytes[at] == *byte, "byte {} of {}", at, safe.len());
        }
        prop_assert_eq!(bytes, cut_now(&media, seed).contents("f").unwrap(), "the seed decides all");
    }
}
