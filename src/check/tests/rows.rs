//! Damage of the tree: inodes, names, attributes, the deletion queue, extents.

use super::place::{Place, TARGET, noise, open};
use super::*;
use crate::chunk::ChunkId;
use crate::meta::pages::recompute_sums;
use crate::meta::rows::{DirentRow, dirent_key, extent_key, id_key, xattr_key};
use crate::meta::{Sums, View};

#[test]
fn a_wrong_link_count_is_found() {
    let place = Place::new();
    place.change_inode(place.b, |row| row.nlink = 2);
    place.finds(false, &[("has 1 names, by its link count it should have 2", &["dir/b"])]);
    place.change_inode(place.b, |row| row.nlink = 1);
    place.change_inode(place.dir, |row| row.nlink = 2);
    place.finds(false, &[("has a link count of 2, with its directories it should be 3", &["dir"])]);
}

#[test]
fn what_is_no_directory_is_in_none() {
    let place = Place::new();
    place.change_inode(place.b, |row| row.parent = place.dir);
    let what = format!("is no directory and says it is in directory {}", place.dir);
    place.finds(false, &[(&what, &["dir/b"])]);
}

#[test]
fn a_name_too_few_is_found() {
    let place = Place::new();
    place.remove(Table::Dirents, &place.key_of(place.sub, b"c"));
    place.finds(
        false,
        &[
            ("has 1 names, by its link count it should have 2", &["dir/a"]),
            ("counts 1 names in it, there are 0", &["dir/sub"]),
        ],
    );
}

#[test]
fn a_lost_directory_and_what_is_below_it_are_found() {
    let place = Place::new();
    place.remove(Table::Dirents, &place.key_of(place.dir, b"sub"));
    let lost = format!("(inode {}, without a path)", place.sub);
    place.finds(
        false,
        &[
            ("has 0 names, it should have 1", &[&lost]),
            ("counts 3 names in it, there are 2", &["dir"]),
            ("has a link count of 3, with its directories it should be 2", &["dir"]),
        ],
    );
}

#[test]
fn a_circle_of_directories_is_found() {
    let place = Place::new();
    place.damage(|txn| {
        txn.apply(Table::Dirents, [(place.key_of(ROOT_INO, b"dir"), None::<&[u8]>)]);
        let row = DirentRow { ino: place.dir, kind: libc::S_IFDIR };
        txn.put(Table::Dirents, &place.key_of(place.sub, b"dir"), &row.encode());
    });
    place.change_inode(ROOT_INO, |row| (row.nlink, row.entries) = (row.nlink - 1, row.entries - 1));
    place.change_inode(place.sub, |row| (row.nlink, row.entries) = (row.nlink + 1, row.entries + 1));
    place.change_inode(place.dir, |row| row.parent = place.sub);
    let report = place.check(false);
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    assert!(report.findings[0].what.contains("circle of directories"), "{report:#?}");
    assert!(report.findings[0].files[0].ends_with("dir/sub/dir"), "{report:#?}");
}

#[test]
fn names_of_what_is_not_there_are_found() {
    let place = Place::new();
    place.remove(Table::Inodes, &id_key(place.link));
    place.finds(
        false,
        &[
            (&format!("\"link\" in directory 1 is for inode {}, which is not there", place.link), &["link"]),
            ("the state row counts 9 inodes, there are 8", &[]),
        ],
    );
}

#[test]
fn a_missing_root_is_found() {
    let place = Place::new();
    place.remove(Table::Inodes, &id_key(ROOT_INO));
    place.finds(
        false,
        &[
            ("the root directory is not there", &[]),
            ("inode 1 has names in it and is not there", &["."]),
            ("counts 9 inodes, there are 8", &[]),
        ],
    );
}

#[test]
fn a_name_of_the_wrong_kind_is_found() {
    let place = Place::new();
    place.put_name(place.dir, b"b", place.b, libc::S_IFIFO);
    let what = format!("is for a fifo by its entry, and inode {} is a file", place.b);
    place.finds(false, &[(&what, &["dir/b"])]);
}

#[test]
fn a_name_at_the_wrong_place_is_found() {
    let place = Place::new();
    place.remove(Table::Dirents, &place.key_of(place.dir, b"b"));
    let row = DirentRow { ino: place.b, kind: libc::S_IFREG };
    place.put(Table::Dirents, &dirent_key(place.dir, 77, b"b"), &row.encode());
    place.finds(false, &[("stands at the wrong place and cannot be looked up", &["dir/b"])]);
}

#[test]
fn names_that_no_file_can_have_are_found() {
    for name in [&b"."[..], b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        let place = Place::new();
        place.remove(Table::Dirents, &place.key_of(place.dir, b"b"));
        place.put_name(place.dir, name, place.b, libc::S_IFREG);
        let path = format!("dir/{}", crate::check::names::shown_name(name));
        place.finds(false, &[("is none a file can have", &[&path])]);
    }
}

#[test]
fn a_directory_with_another_parent_is_found() {
    let place = Place::new();
    place.change_inode(place.sub, |row| row.parent = ROOT_INO);
    let what = format!("is for directory {}, which says it is in 1", place.sub);
    place.finds(false, &[(&what, &["dir/sub"])]);
}

#[test]
fn an_inode_of_no_type_and_one_never_given_are_found() {
    let place = Place::new();
    place.change_inode(place.small, |row| row.mode = 0o170_644);
    let report = place.check(false);
    let has = |what: &str| report.findings.iter().any(|f| f.what.contains(what) && f.files == ["small"]);
    assert!(has("which is of no type"), "{report:#?}");

    let place = Place::new();
    let far = 1 << 33;
    let row = place.store.layers().get(Table::Inodes, &id_key(place.link)).unwrap().unwrap();
    place.damage(|txn| {
        txn.put(Table::Inodes, &id_key(far), &row);
        txn.apply(Table::Inodes, [(id_key(place.link), None::<&[u8]>)]);
    });
    place.put_name(ROOT_INO, b"link", far, libc::S_IFLNK);
    place.finds(false, &[("was never given", &["link"])]);
}

#[test]
fn the_deletion_queue_and_the_inodes_agree() {
    let place = Place::new();
    place.remove(Table::Orphans, &id_key(place.gone));
    let gone = format!("(inode {}, without a path)", place.gone);
    place.finds(
        false,
        &[
            ("has no name and is not in the deletion queue", &[&gone]),
            ("counts 1 inodes in the deletion queue, there are 0", &[]),
        ],
    );
    let place = Place::new();
    place.remove(Table::Orphans, &id_key(place.gone));
    place.put(Table::Orphans, &id_key(place.b), b"");
    place.change_inode(place.gone, |row| row.nlink = 1);
    let gone = format!("(inode {}, without a path)", place.gone);
    place.finds(
        false,
        &[
            ("is in the deletion queue: it would be deleted", &["dir/b"]),
            ("has 0 names, by its link count it should have 1", &[&gone]),
        ],
    );
}

#[test]
fn a_half_deleted_file_is_no_fault_and_a_half_lost_one_is() {
    let place = Place::new();
    let lost = |ino: u64| {
        let extent = place.extents(ino).remove(0);
        place.remove(Table::Extents, &extent_key(ino, extent.offset));
        place.add_to_counter(Counter::ReferencedBytes, -(extent.len as i64));
    };
    lost(place.gone);
    assert_eq!(place.check(false).findings, []);
    lost(place.b);
    place.finds(false, &[("bytes of it have chunks", &["dir/b"])]);
}

#[test]
fn attributes_without_a_flag_or_an_inode_are_found() {
    let place = Place::new();
    place.put(Table::Xattrs, &xattr_key(place.b, b"user.x"), b"1");
    place.put(Table::Xattrs, &xattr_key(place.dir, b"system.posix_acl_default"), b"1");
    place.put(Table::Xattrs, &xattr_key(999, b"user.x"), b"1");
    place.finds(
        false,
        &[
            ("has extended attributes which its flags deny", &["dir/b"]),
            ("has extended attributes which its flags deny", &["dir"]),
            ("has a default ACL which its flags deny", &["dir"]),
            ("inode 999 has extended attributes and is not there", &["(inode 999, without a path)"]),
        ],
    );
}

#[test]
fn extents_that_do_not_fit_their_file_are_found() {
    let place = Place::new();
    let size = 200_000;
    place.change_inode(place.b, |row| row.size = size - 1);
    place.finds(false, &[("has extents up to 200000, beyond its size of 199999", &["dir/b"])]);
    place.change_inode(place.b, |row| row.size = size);
    assert_eq!(place.check(false).findings, []);

    let mut extent = place.extents(place.b).remove(0);
    extent = extent.clip(10, 20).unwrap();
    place.put(Table::Extents, &extent_key(place.b, 10), &extent.encode());
    place.add_to_counter(Counter::ReferencedBytes, 10);
    place.change_inode(place.b, |row| row.allocated += 10);
    let report = place.check(false);
    assert!(report.findings[0].what.contains("overlap at offset 10"), "{report:#?}");
    assert!(report.findings.iter().all(|finding| finding.files == ["dir/b"]), "{report:#?}");
}

#[test]
fn extents_of_what_is_no_file_are_found() {
    let place = Place::new();
    let extent = place.extents(place.small).remove(0);
    place.put(Table::Extents, &extent_key(place.link, 0), &extent.encode());
    place.put(Table::Extents, &extent_key(998, 0), &extent.encode());
    place.add_to_counter(Counter::ReferencedBytes, 2 * extent.len as i64);
    place.finds(
        false,
        &[
            ("is a symlink and has extents", &["link"]),
            ("inode 998 has extents and is not there", &["(inode 998, without a path)"]),
        ],
    );
}

#[test]
fn an_extent_that_says_another_length_is_found() {
    let place = Place::new();
    let mut extent = place.extents(place.small).remove(0);
    extent.lens[0] += 5;
    extent.skip += 5;
    place.put(Table::Extents, &extent_key(place.small, 0), &extent.encode());
    let what = format!("refers to 16 bytes of chunk {}, which has 11", extent.first.0);
    place.finds(false, &[(&what, &["small"])]);
}

#[test]
fn an_extent_of_chunks_that_were_never_there_is_found() {
    let place = Place::new();
    let mut extent = place.extents(place.small).remove(0);
    extent.first = ChunkId(1 << 50);
    place.put(Table::Extents, &extent_key(place.small, 0), &extent.encode());
    let report = place.check(false);
    assert_eq!(report.unreferenced_chunks, 1);
    let what = format!("chunk {} is referred to and not there", 1u64 << 50);
    place.finds(false, &[(&what, &["small"])]);
}

#[test]
fn rows_that_do_not_decode_are_found_and_the_others_are_checked() {
    let place = Place::new();
    place.put(Table::Inodes, &id_key(place.b), b"\x09nonsense");
    place.put(Table::Dirents, &place.key_of(ROOT_INO, b"link"), b"");
    place.put(Table::Extents, &extent_key(place.small, 0), b"\xff");
    place.change_inode(place.copy, |row| row.nlink = 7);
    place.finds(
        false,
        &[
            ("cannot be read: an inode row has the unknown version 9", &["dir/b"]),
            ("the name \"link\" in directory 1 cannot be read", &["link"]),
            (&format!("an extent of inode {} cannot be read", place.small), &["small"]),
            ("has 1 names, by its link count it should have 7", &["copy"]),
            (
                "has 0 names, by its link count it should have 1",
                &[&format!("(inode {}, without a path)", place.link)],
            ),
        ],
    );
}

#[test]
fn a_row_with_a_wrong_checksum_is_found_and_the_others_are_checked() {
    let mut place = Place::new();
    place.change_inode(place.copy, |row| row.nlink = 7);
    place.fs.shutdown().unwrap();
    place.store.close().unwrap();
    let path = place.temp.path().join("meta/cairnfs.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let mut changed = 0;
    for at in 0..bytes.len() - TARGET.len() {
        if &bytes[at..at + TARGET.len()] == TARGET {
            bytes[at + 3] ^= 1;
            changed += 1;
        }
    }
    assert!(changed > 0);
    recompute_sums(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    place.store = open(place.temp.path());
    // The file without a name is still queued: nobody reopened the filesystem to work the queue off.
    place.finds(
        false,
        &[
            ("table inodes does not match its checksum", &["link"]),
            ("has 1 names, by its link count it should have 7", &["copy"]),
        ],
    );
}

/// Flips a bit in keys of `dir` in the pages that lead to the leaves of the tree; how many were flipped. Such a page
/// ends with its keys, which hold no more than tells one leaf from the next.
fn lead_lookups_astray(bytes: &mut [u8], dir: u64) -> usize {
    const BRANCH: u8 = 2;
    let mut flipped = 0;
    for page in bytes.chunks_exact_mut(4096).filter(|page| page[0] == BRANCH) {
        let keys: Vec<usize> =
            (8..4096 - 8).filter(|at| page[*at..].starts_with(&dir.to_be_bytes())).collect();
        for at in keys.iter().rev().take(if keys.len() < 6 { 0 } else { 3 }) {
            page[at + 8] ^= 0x40;
            flipped += 1;
        }
    }
    flipped
}

#[test]
fn rows_that_only_a_walk_through_all_finds_are_found_with_the_data() {
    let mut place = Place::new();
    for number in 0..400 {
        place.fs.link(place.b, place.sub, format!("{number:0200}").as_bytes()).unwrap();
    }
    place.fs.shutdown().unwrap();
    place.store.close().unwrap();
    let path = place.temp.path().join("meta/cairnfs.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(lead_lookups_astray(&mut bytes, place.sub) > 0);
    recompute_sums(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    place.store = open(place.temp.path());
    let report = place.check(true);
    let astray = |finding: &Finding| finding.what.contains("a lookup does not find it");
    assert!(!report.findings.is_empty() && report.findings.iter().all(astray), "{report:#?}");
}

#[test]
fn a_damaged_page_of_the_database_is_a_finding_and_no_panic() {
    let mut place = Place::new();
    place.fs.shutdown().unwrap();
    place.store.close().unwrap();
    let path = place.temp.path().join("meta/cairnfs.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    // A leaf begins with where its rows end: in the one with the symlink, the first now ends far outside.
    let has_target = |page: &&mut [u8]| page.windows(TARGET.len()).any(|window| window == TARGET);
    let mut leaves = bytes.chunks_exact_mut(4096).filter(has_target).peekable();
    assert!(leaves.peek().is_some());
    leaves.for_each(|page| page[6] ^= 0x40);
    recompute_sums(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    place.store = open(place.temp.path());
    let report = place.check(false);
    let whats: Vec<&str> = report.findings.iter().map(|finding| finding.what.as_str()).collect();
    assert!(whats.iter().any(|what| what.contains("table inodes cannot be read to its end")), "{whats:#?}");
}

#[test]
fn wrong_sums_are_found() {
    // What was deleted is no sum of anything that is there.
    for counter in Counter::ALL.into_iter().filter(|counter| *counter != Counter::Deleted) {
        let place = Place::new();
        place.add_to_counter(counter, 3);
        place.finds(false, &[("the state row counts", &[])]);
    }
}

#[test]
fn a_missing_state_row_is_found() {
    let place = Place::new();
    place.fs.write(place.small, 4, &noise(4, 9), false).unwrap();
    place.fs.sync().unwrap();
    assert_eq!(place.check(true).findings, []);
    let mut txn = place.store.meta.kv().write().unwrap();
    txn.apply(Table::State, [(STATE_KEY, None::<&[u8]>)]).unwrap();
    txn.commit(true).unwrap();
    let base = place.store.meta.kv().read().unwrap();
    place.store.meta.publish(View::new(Arc::new(base), Vec::new()), Sums::default(), false);
    place.finds(false, &[("the state row is missing, and the table inodes has rows", &[])]);
}
