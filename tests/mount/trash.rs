//! `/.cairnfs/trash`: what is moved there is gone at once.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use crate::calls::errno;
use crate::data::noise;
use crate::skip::{need_programs, need_root};
use crate::subvolumes::made;
use crate::world::{World, command, run, tool, wait_for};

/// A subvolume with some files at `path`, and a directory "plain" beside it.
fn subvolume(world: &World, path: &Path) {
    let plain = world.mnt.join("plain");
    fs::create_dir_all(plain.join("below")).unwrap();
    for n in 0..20 {
        fs::write(plain.join(format!("below/{n}")), noise(n, 10_000)).unwrap();
    }
    made(&plain, path);
}

fn is_empty(trash: &Path) -> bool {
    fs::read_dir(trash).unwrap().next().is_none()
}

#[test]
fn what_is_moved_into_the_trash_is_gone_at_once() {
    let Some(world) = World::usual().filter(|_| need_programs(&["python3"])) else { return };
    let (trash, snap) = (world.mnt.join(".cairnfs/trash"), world.mnt.join("snap"));
    let python = "import os, sys; os.rename(sys.argv[1], sys.argv[2])";
    let ways: [&dyn Fn(); 4] = [
        &|| drop(tool!("mv", &snap, trash.join(""))),
        &|| drop(tool!("mv", &snap, trash.join("other name"))),
        &|| drop(tool!("mv", "-n", &snap, &trash)),
        &|| drop(tool!("python3", "-c", python, &snap, trash.join("snap"))),
    ];
    for way in ways {
        subvolume(&world, &snap);
        let mut open = File::open(snap.join("below/7")).unwrap();
        way();
        assert!(is_empty(&trash) && fs::symlink_metadata(&snap).is_err());
        wait_for("the kernel forgets the name that it thinks there is", || {
            fs::symlink_metadata(trash.join("snap")).is_err()
        });
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).unwrap();
        assert!(bytes == noise(7, 10_000), "what is open stays");
    }
    world.remount();
    assert!(fs::symlink_metadata(&snap).is_err());
    world.close();
}

#[test]
fn nothing_else_goes_into_the_trash() {
    let Some(world) = World::usual().filter(|_| need_root("chattr +i")) else { return };
    let (trash, snap) = (world.mnt.join(".cairnfs/trash"), world.mnt.join("snap"));
    subvolume(&world, &snap);
    fs::write(world.mnt.join("file"), "x").unwrap();
    for name in ["file", "plain", "plain/below", "snap/below", "snap/below/1", ".cairnfs/status"] {
        let moved = fs::rename(world.mnt.join(name), trash.join("x"));
        assert_eq!(errno(moved), libc::EPERM, "{name}");
        // Nor does mv(1) copy it there and remove it here.
        let mv = run(command("mv").arg(world.mnt.join(name)).arg(&trash));
        assert!(mv.code != 0 && world.mnt.join(name).exists(), "{name}: {}", mv.said());
    }
    tool!("chattr", "+i", &snap);
    assert_eq!(errno(fs::rename(&snap, trash.join("snap"))), libc::EPERM);
    tool!("chattr", "-i", &snap);
    // Somebody who may write the directory that has the name, but does not own the subvolume.
    let group = world.mnt.join("group");
    fs::create_dir(&group).unwrap();
    std::os::unix::fs::chown(&group, Some(1000), Some(1000)).unwrap();
    fs::rename(&snap, group.join("snap")).unwrap();
    let of_user = |path: &Path| {
        let (uid, gid) = ("--reuid=1000", "--regid=1000");
        run(command("setpriv").args([uid, gid, "--clear-groups", "mv"]).arg(path).arg(&trash)).code
    };
    assert_ne!(of_user(&group.join("snap")), 0);
    assert!(group.join("snap/below/1").exists());
    std::os::unix::fs::chown(group.join("snap"), Some(1000), Some(1000)).unwrap();
    assert_eq!(of_user(&group.join("snap")), 0);
    assert!(is_empty(&trash) && !group.join("snap").exists());
    for made in [fs::create_dir(trash.join("x")), fs::write(trash.join("x"), "x"), fs::remove_dir(&trash)] {
        assert_eq!(errno(made), libc::EPERM);
    }
    world.close();
}
