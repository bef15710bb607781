//! File handles: what NFS and backup programs keep of a file instead of its name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::calls::{self, Handle, errno};
use crate::skip::{need, need_root};
use crate::world::World;

const FILES: [&str; 3] = ["file", "d/e/f/g/h/deep", "d/linked"];
const DIRS: [&str; 3] = ["", "d", "d/e/f/g/h"];

/// True if handles can be opened; says why not otherwise.
fn may_open(world: &World) -> bool {
    let tried = calls::handle(&world.mnt).and_then(|handle| calls::open_handle(&world.mnt, &handle, 0));
    need_root("files by their handles") && need(errno(tried) != libc::EPERM, "CAP_DAC_READ_SEARCH")
}

fn made(world: &World) -> BTreeMap<&'static str, Handle> {
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir_all(at("d/e/f/g/h")).unwrap();
    for name in FILES {
        fs::write(at(name), name).unwrap();
    }
    fs::hard_link(at("d/linked"), at("d/e/other")).unwrap();
    let all = FILES.into_iter().chain(DIRS);
    all.map(|name| (name, calls::handle(&at(name)).unwrap())).collect()
}

fn content(file: io::Result<File>) -> io::Result<String> {
    let mut text = String::new();
    file?.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn handles_stay_good_across_mounts() {
    let Some(world) = World::usual().filter(may_open) else { return };
    let handles = made(&world);
    for round in 0..3 {
        // Nothing was looked up since the mount.
        let open = |name: &str, flags| calls::open_handle(&world.mnt, &handles[name], flags);
        for name in FILES {
            assert_eq!(content(open(name, libc::O_RDONLY)).unwrap(), name, "round {round}");
        }
        for name in DIRS {
            let dir = open(name, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
            let path = fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap();
            assert_eq!(path, world.mnt.join(name).components().collect::<std::path::PathBuf>());
            let found = fs::read_dir(path).unwrap().count();
            assert_eq!(found, fs::read_dir(world.mnt.join(name)).unwrap().count());
        }
        world.remount();
    }
    // To be written to, renamed and found again.
    let file = calls::open_handle(&world.mnt, &handles["file"], libc::O_RDWR).unwrap();
    file.write_all_at(b"FILE", 0).unwrap();
    drop(file);
    fs::rename(world.mnt.join("file"), world.mnt.join("d/e/renamed")).unwrap();
    fs::remove_file(world.mnt.join("d/linked")).unwrap();
    world.remount();
    let read = |name: &str| content(calls::open_handle(&world.mnt, &handles[name], 0)).unwrap();
    assert_eq!(read("file"), "FILE");
    assert_eq!(read("d/linked"), "d/linked", "by its other name");
    world.close();
}

#[test]
fn a_handle_of_what_is_gone_is_stale() {
    let Some(world) = World::usual().filter(may_open) else { return };
    let handles = made(&world);
    fs::remove_dir_all(world.mnt.join("d")).unwrap();
    fs::remove_file(world.mnt.join("file")).unwrap();
    let open = |name: &str| errno(calls::open_handle(&world.mnt, &handles[name], libc::O_RDONLY));
    let gone = || handles.keys().filter(|name| !name.is_empty()).map(|name| open(name)).collect::<Vec<_>>();
    world.deletions_done();
    world.gc();
    assert_eq!(gone(), [libc::ESTALE; 5], "after a cycle");
    for name in 0..200 {
        fs::write(world.mnt.join(name.to_string()), "another").unwrap();
    }
    assert_eq!(gone(), [libc::ESTALE; 5], "with others in their places");
    world.remount();
    assert_eq!(gone(), [libc::ESTALE; 5], "after a mount");
    assert_eq!(open(""), 0, "the root stays");
    world.close();
}

/// A file that is protected stays so for somebody who has nothing but its handle.
#[test]
fn a_handle_is_no_way_around_protection() {
    let Some(world) = World::usual().filter(may_open) else { return };
    made(&world);
    crate::subvolumes::made(&world.mnt.join("d"), &world.mnt.join("snap"));
    let handle_of = |name: &str| calls::handle(&world.mnt.join(name)).unwrap();
    let names = [("snap/e/f/g/h/deep", libc::EPERM), ("snap/linked", libc::EPERM), ("file", 0)];
    let handles = names.map(|(name, _)| handle_of(name));
    calls::set_flags(&world.mnt.join("snap"), calls::IMMUTABLE).unwrap();
    for _ in 0..2 {
        for ((name, expected), handle) in names.iter().zip(&handles) {
            let file = calls::open_handle(&world.mnt, handle, libc::O_RDWR).unwrap();
            assert_eq!(errno(file.write_at(b"x", 0)), *expected, "{name}");
        }
        world.remount();
    }
    world.close();
}
