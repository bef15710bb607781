//! Suites that others wrote for file systems, on a real mount and on the host's ext4.
//!
//! Keeps true: what ext4 passes on the same machine in the same run, a mount passes. The suites' programs are installed
//! by `.ci/run`.
//!
//! `cargo test --features sim --test suites -- --nocapture` runs a short form of all and prints the tables.
//! `CAIRNFS_FSX_SEEDS=1-100 CAIRNFS_FSX_OPS=100000` before it makes it the long one; a single seed is replayed by
//! `CAIRNFS_SEED=17` with the same number of operations.

#[allow(dead_code)]
#[path = "../filesystem/seed.rs"]
mod seed;
#[allow(dead_code)]
#[path = "../mount/skip.rs"]
mod skip;
#[allow(dead_code)]
#[path = "../mount/sys.rs"]
mod sys;
#[allow(dead_code)]
#[path = "../mount/world.rs"]
mod world;

mod fsx;
mod host;
mod pjdfstest;
mod results;
mod tools;

use std::env;
use std::fs;
use std::path::Path;

use fsx::{CONFIGURATIONS, Fsx};
use host::Host;
use results::print_table;
use skip::{need_fuse, need_root};
use world::{Setup, World, cairnfs};

/// The mount that is compared: as root mounts an ext4 without thinking, set-id programs and devices included.
fn compared() -> Option<World> {
    World::new(Setup {
        mkfs: &["--reserve", "1M"],
        options: "default_permissions,suid,dev",
        ..Setup::default()
    })
}

/// Those that `CAIRNFS_FSX_SEEDS` names, a number or a range of numbers such as `1-100`; or one for each configuration and
/// a fresh one.
fn fsx_seeds() -> Vec<u64> {
    let Ok(word) = env::var("CAIRNFS_FSX_SEEDS") else {
        return seed::wanted().map_or_else(
            || (1..=CONFIGURATIONS.len() as u64).chain([seed::fresh()]).collect(),
            |seed| vec![seed],
        );
    };
    let number =
        |word: &str| word.parse().unwrap_or_else(|_| panic!("CAIRNFS_FSX_SEEDS: {word:?} is no number"));
    match word.split_once('-') {
        Some((first, last)) => (number(first)..=number(last)).collect(),
        None => vec![number(&word)],
    }
}

fn ops() -> u64 {
    let Ok(word) = env::var("CAIRNFS_FSX_OPS") else { return 1_000 };
    word.parse().unwrap_or_else(|_| panic!("CAIRNFS_FSX_OPS: {word:?} is no number"))
}

#[test]
fn every_case_of_pjdfstest_that_the_host_passes() {
    let Some(program) = tools::find("pjdfstest") else { return };
    let Some(world) = compared() else { return };
    let host = Host::new();
    let run =
        |top, elsewhere| pjdfstest::Run { program: &program, top, elsewhere, only: "" }.results(host.own);
    let there = run(&host.top, &world.mnt);
    let here = run(&world.mnt, &host.top);
    print_table(&host.kind(), &[("pjdfstest", &here, &there)]);
    for (name, why) in pjdfstest::EXCUSED {
        println!("excused: {name}: {why}");
    }
    let worse = here.worse_than(&there, &pjdfstest::EXCUSED);
    assert!(worse.is_empty(), "{}", worse.join("\n"));
    assert!(there.count(results::Verdict::Pass) > 10, "the suite ran");
    world.close();
}

/// The same inside a clone of a clone.
#[test]
fn every_case_of_pjdfstest_in_a_clone_of_a_clone() {
    let Some(program) = tools::find("pjdfstest") else { return };
    let Some(world) = compared() else { return };
    let host = Host::new();
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir(at("plain")).unwrap();
    clone(&at("plain"), &at("first"));
    clone(&at("first"), &at("second"));
    let run = |top, elsewhere| pjdfstest::Run { program: &program, top, elsewhere, only: "" }.results(false);
    let there = run(&host.top, &world.mnt);
    let here = run(&at("second"), &host.top);
    let worse = here.worse_than(&there, &pjdfstest::EXCUSED);
    assert!(worse.is_empty(), "{}", worse.join("\n"));
    assert!(there.count(results::Verdict::Pass) > 10, "the suite ran");
    world.close();
}

/// `cairnfs clone`.
fn clone(source: &Path, target: &Path) {
    let said = cairnfs(&["clone".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert_eq!(said.code, 0, "{}", said.said());
}

/// The negative control: nobody checks permissions there, and the suite has to say so.
#[test]
fn pjdfstest_sees_a_mount_without_permissions() {
    let Some(program) = tools::find("pjdfstest") else { return };
    if !need_root("the cases about permissions") {
        return;
    }
    let setup = Setup { options: "nodefault_permissions,allow_other", ..Setup::default() };
    let Some(world) = World::new(setup) else { return };
    let host = Host::new();
    let run = |top, elsewhere| {
        pjdfstest::Run { program: &program, top, elsewhere, only: "unchanged_ctime_failed" }.results(false)
    };
    let worse = run(&world.mnt, &host.top).worse_than(&run(&host.top, &world.mnt), &[]);
    assert!(worse.len() > 5, "{worse:?}");
    world.close();
}

#[test]
fn fsx_finds_the_bytes_it_wrote() {
    let Some(program) = tools::find("fsx") else { return };
    if !need_fuse() {
        return;
    }
    let (seeds, ops) = (fsx_seeds(), ops());
    println!("fsx: seeds {seeds:?}, {ops} operations each");
    let host = Host::new();
    let Some(total) = Fsx::new(program, ops).run(&seeds, &host.top) else { return };
    print_table(&host.kind(), &[("fsx", &total.ours, &total.host)]);
    println!("{} cycles ran meanwhile", total.cycles);
    let worse = total.ours.worse_than(&total.host, &[]);
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

/// Negative controls: a write that does not arrive, and a file that changes while nobody has it mounted.
#[test]
fn fsx_sees_what_is_lost() {
    let Some(program) = tools::find("fsx") else { return };
    let Some(world) = compared() else { return };
    let (file, copy) = (world.mnt.join("file"), world.host().join("copy"));
    let fsx = Fsx::new(program, 500);
    let noticed = (50..450).step_by(20).filter(|n| fsx.notices_a_lost_operation(1, *n, &file));
    assert!(noticed.count() > 1, "of twenty operations several change the file");
    fs::copy(&file, &copy).unwrap();
    assert_eq!(fsx::same(&file, &copy), Ok(()));
    let mut bytes = fs::read(&copy).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&copy, &bytes).unwrap();
    assert_eq!(fsx::same(&file, &copy), Err(last));
    fs::write(&copy, &bytes[..last]).unwrap();
    assert_eq!(fsx::same(&file, &copy), Err(last));
    world.close();
}
