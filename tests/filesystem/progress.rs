//! What a check tells: every file that is hit, with every byte of its name; backups that are damaged; and how far it
//! is.

use std::collections::BTreeSet;

use cairnfs::check::{self, CheckReport, Progress};
use cairnfs::fs::ROOT_INO;
use cairnfs::media::sim::SimMedia;

use crate::random;
use crate::repair::media;
use crate::world::{CALLER, World, config, new_disk, protected};

fn check(world: &World, all_names: bool) -> CheckReport {
    let options = check::Options { data: true, all_names, ..check::Options::default() };
    check::check(&world.store, &options).unwrap()
}

fn first_pack(disk: &SimMedia) -> String {
    disk.files().into_iter().map(|(name, _)| name).find(|name| name.ends_with(".pack")).unwrap()
}

#[test]
fn all_files_of_a_lost_pack_are_listed_with_the_bytes_of_their_names() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let mut names: BTreeSet<Vec<u8>> = (0..150).map(|number| format!("f{number}").into_bytes()).collect();
    let odd: [&[u8]; 5] =
        [b"caf\xe9", b"caf\xe8", b"line\nfeed", b"\x1b[31mred", b"(inode 7, without a path)"];
    names.extend(odd.map(<[u8]>::to_vec));
    for (number, name) in names.iter().enumerate() {
        let ino = world.fs.mknod(ROOT_INO, name, CALLER, libc::S_IFREG | 0o644, 0, 0).unwrap().ino;
        world.fs.write(ino, 0, &random::content(70_000 + number as u64, 3000), false).unwrap();
    }
    world.fs.sync().unwrap();
    world.close().unwrap();
    let pack = first_pack(&disk);
    media(&disk).remove(&pack).unwrap();

    let world = World::open(&disk, &config).unwrap();
    let (some, all) = (check(&world, false), check(&world, true));
    let most = |report: &CheckReport| report.findings.iter().map(|finding| finding.files.len()).max();
    assert_eq!((most(&some), most(&all)), (Some(100), Some(names.len())), "{:?}", all.findings);
    assert!(some.findings.iter().all(|finding| finding.files_total == names.len() as u64));
    assert_eq!(all.damaged_files(), names);
    let text = format!("{:?}", all.findings);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{fffd}'), "{text}");
    world.close().unwrap();
}

#[test]
fn a_damaged_backup_is_found() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    world.save("f", b"content");
    world.fs.sync().unwrap();
    for _ in 0..2 {
        world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
    }
    let report = check(&world, false);
    assert!(report.is_clean() && report.backups == 2, "{report:?}");
    disk.flip_byte("meta-backups/00000002.cmb", 70);
    let report = check(&world, false);
    assert!(report.backups == 1 && report.findings.len() == 1, "{report:?}");
    assert!(report.findings[0].what.contains("the metadata backup 00000002.cmb"), "{report:?}");
    world.close().unwrap();
}

/// The structure goes from nothing to all of it, then the data does, by its bytes.
#[test]
fn the_progress_is_of_the_structure_and_then_of_the_bytes() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    for number in 0..40 {
        world.save(&format!("f{number}"), &random::content(72_000 + number, 90_000));
    }
    world.fs.sync().unwrap();
    let all = world.store.status().unwrap().plain_bytes;
    let told = std::cell::RefCell::new(Vec::new());
    let progress = |at: Progress| told.borrow_mut().push(at);
    let options = check::Options { data: true, progress: &progress, ..check::Options::default() };
    check::check(&world.store, &options).unwrap();
    let told = told.into_inner();
    let (structure, data): (Vec<_>, Vec<_>) = told.into_iter().partition(|at| !at.reads_data);
    assert!(structure.iter().all(|at| at.bytes == 0 && at.done <= at.total));
    assert!(data.len() > 2 && data.iter().all(|at| at.total == all && at.done == at.bytes), "{data:?}");
    assert_eq!(data.last().map(|at| at.done), Some(all));
    world.close().unwrap();
}
