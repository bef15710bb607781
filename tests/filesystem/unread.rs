//! What the host cannot read at one moment, or will not let be read, is not taken for damage, and not remembered.

use cairnfs::check::repair::repair;
use cairnfs::check::{self, CheckReport, Scrub};
use cairnfs::media::sim::{OpKind, SimMedia};
use cairnfs::sabotage::Protection;
use cairnfs::store::StoreConfig;
use cairnfs::{Error, Result};

use crate::random;
use crate::repair::{DB, media};
use crate::world::{World, config, new_disk, protected, without};

const FILES: u64 = 6;

fn content(number: u64) -> Vec<u8> {
    random::content(60_000 + number, 90_000)
}

fn write(world: &World, name: &str) {
    for number in 0..FILES {
        world.save(&format!("{name}{number}"), &content(number));
    }
    world.fs.sync().unwrap();
}

/// A store with files `a0` to `a5`, opened anew so that nothing of them is in memory.
fn world() -> (SimMedia, StoreConfig, World) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    write(&world, "a");
    world.close().unwrap();
    let world = World::open(&disk, &config).unwrap();
    (disk, config, world)
}

/// Each operation of this kind on a pack that was there fails from now on.
fn fail(disk: &SimMedia, kind: OpKind, errno: i32) {
    let packs: Vec<String> = disk.files().into_iter().map(|(name, _)| name).collect();
    disk.set_fault(Box::new(move |op| {
        (op.kind == kind && op.path.ends_with(".pack") && packs.contains(&op.path)).then_some(errno)
    }));
}

fn all_read(world: &World, name: &str) -> bool {
    let is_right = |number| {
        let found = world.find(&format!("{name}{number}")).and_then(|ino| world.read(ino));
        found.is_ok_and(|bytes| bytes == content(number))
    };
    (0..FILES).all(is_right)
}

fn check_data(world: &World) -> Result<CheckReport> {
    let options = check::Options { data: true, ..check::Options::default() };
    check::check(&world.store, &options)
}

/// A read fails, then the host reads again, and the same content is written once more. How many chunks are taken for
/// damaged, and how many bytes were stored anew.
fn hiccup(errno: i32, kind: OpKind) -> (u64, u64) {
    let (disk, _, world) = world();
    fail(&disk, kind, errno);
    let refused = world.read(world.find("a0").unwrap()).unwrap_err();
    assert_eq!(refused.errno(), libc::EIO, "{refused}");
    disk.clear_faults();
    let before = world.store.status().unwrap();
    write(&world, "b");
    let stored = world.store.status().unwrap().stored_bytes - before.stored_bytes;
    assert!(all_read(&world, "a") && all_read(&world, "b"));
    world.close().unwrap();
    (before.bad_chunks, stored)
}

#[test]
fn a_read_that_fails_and_passes_is_not_remembered() {
    let _all = protected();
    for (errno, kind) in [
        (libc::EIO, OpKind::Read),
        (libc::EIO, OpKind::Open),
        (libc::EMFILE, OpKind::Open),
        (libc::ENOMEM, OpKind::Read),
        (libc::EACCES, OpKind::Open),
    ] {
        assert_eq!(hiccup(errno, kind), (0, 0), "errno {errno} of {kind:?}");
    }
}

#[test]
fn without_that_a_hiccup_condemns_a_region() {
    let _out = without(&[Protection::TransientErrorsPass]);
    assert!(hiccup(libc::EIO, OpKind::Read).0 > 0);
    assert!(hiccup(libc::EMFILE, OpKind::Open).0 > 0);
}

/// What fails again when it is about to be used is bad: what is written then has its own bytes.
#[test]
fn what_the_host_cannot_read_at_two_moments_is_stored_once_more() {
    let _all = protected();
    let (disk, config, world) = world();
    fail(&disk, OpKind::Read, libc::EIO);
    for number in 0..FILES {
        world.read(world.find(&format!("a{number}")).unwrap()).unwrap_err();
    }
    assert_eq!(world.store.status().unwrap().bad_chunks, 0);
    write(&world, "b");
    assert!(all_read(&world, "b") && all_read(&world, "a"), "and what refers to them is whole again");
    world.close().unwrap();
    let world = World::open(&disk, &config).unwrap();
    assert!(all_read(&world, "b"));
    world.close().unwrap();
}

#[test]
fn a_check_that_may_not_look_says_that_and_finds_nothing() {
    let _all = protected();
    for (errno, kind) in
        [(libc::EACCES, OpKind::Open), (libc::EMFILE, OpKind::Open), (libc::ENOMEM, OpKind::Read)]
    {
        let (disk, _, world) = world();
        fail(&disk, kind, errno);
        let error = check_data(&world).expect_err("it could not look");
        assert!(matches!(error, Error::Io { .. }) && error.exit_code() == 1, "{error}");
        let scrub = Scrub::of(&world.store);
        scrub.begin(1);
        assert!(scrub.step(u64::MAX, 1, &|| true).is_err());
        assert!(scrub.status().running && scrub.status().bad == 0, "it goes on there");
        disk.clear_faults();
        assert_eq!(world.store.status().unwrap().bad_chunks, 0);
        assert!(scrub.step(u64::MAX, 1, &|| true).unwrap().is_empty() && scrub.status().passes == 1);
        assert!(check_data(&world).unwrap().is_clean());
        world.close().unwrap();
    }
}

#[test]
fn a_check_finds_what_the_host_cannot_read_only_if_it_does_not_pass() {
    let _all = protected();
    let (disk, _, world) = world();
    let first = disk.query_count();
    assert!(check_data(&world).unwrap().is_clean());
    // Once for some of the reads, of packs as well; none of those that look once more, at the end, is among them.
    let (reads, next) = (disk.query_count() - first, disk.query_count());
    (next..next + reads * 3 / 4).step_by(7).for_each(|query| disk.fail_query(query, libc::EIO));
    let once = check_data(&world);
    disk.clear_faults();
    if let Ok(report) = once {
        let said: Vec<_> =
            report.findings.iter().filter(|finding| finding.what.contains("not read back")).collect();
        assert!(said.is_empty(), "{said:?}");
    }
    assert_eq!(world.store.status().unwrap().bad_chunks, 0);
    fail(&disk, OpKind::Read, libc::EIO);
    let report = check_data(&world).unwrap();
    let files: Vec<&String> = report.findings.iter().flat_map(|finding| &finding.files).collect();
    assert!(files.iter().any(|file| *file == "a0"), "{report:?}");
    assert!(world.store.status().unwrap().bad_chunks > 0);
    disk.clear_faults();
    assert!(check_data(&world).unwrap().is_clean());
    assert_eq!(world.store.status().unwrap().bad_chunks, 0, "what reads back is trusted again");
    world.close().unwrap();
}

#[test]
fn a_repair_that_may_not_look_changes_nothing() {
    let _all = protected();
    let (disk, config, world) = world();
    world.store.backups.write(&mut || Ok(())).unwrap().unwrap();
    world.close().unwrap();
    media(&disk).open(DB, true).unwrap().set_len(10_000).unwrap();
    for (ends, kind) in
        [(".pack", OpKind::Open), (".pack", OpKind::Read), (".cmb", OpKind::Open), (".redb", OpKind::Open)]
    {
        disk.set_fault(Box::new(move |op| {
            (op.kind == kind && op.path.ends_with(ends)).then_some(libc::EACCES)
        }));
        let before = disk.contents(DB);
        let error = repair(&media(&disk), &config, true).expect_err("it could not look");
        assert!(error.to_string().contains("denied"), "{error}");
        assert_eq!(disk.contents(DB), before);
    }
    disk.clear_faults();
    assert!(repair(&media(&disk), &config, true).unwrap().done);
    let world = World::open(&disk, &config).unwrap();
    assert!(all_read(&world, "a"));
    world.close().unwrap();
}
