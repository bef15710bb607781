//! The helpers as mount(8) and umount(8) call them, and a plain user's mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip::{need, need_root};
use crate::world::{World, command, is_mounted, mount_table, program, run};

/// A helper, called with the words that mount(8) or umount(8) give it, with the program in PATH.
fn helper(name: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers").join(name);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = command(script);
    command.env("PATH", format!("{}:{path}", bin_dir().display()));
    command
}

/// The program under the name that the helpers look for.
fn bin_dir() -> PathBuf {
    program().parent().expect("the program is in a directory").to_owned()
}

#[test]
fn the_helpers_of_mount_and_umount() {
    let Some(world) = World::usual() else { return };
    fs::write(world.mnt.join("file"), "kept").unwrap();
    for (mount, umount) in
        [("mount.cairnfs", "umount.cairnfs"), ("mount.fuse.cairnfs", "umount.fuse.cairnfs")]
    {
        let said = run(helper(umount).arg(&world.mnt).args(["-t", "fuse.cairnfs"]));
        assert_eq!(said.code, 0, "{umount}: {}", said.said());
        assert!(!is_mounted(&world.mnt));
        world.forget_daemon();
        let words = ["-s", "-o", "rw,noatime,nofail,x-systemd.automount,defaults"];
        let said = run(helper(mount).args([&world.store, &world.mnt]).args(words));
        assert_eq!(said.code, 0, "{mount}: {}", said.said());
        world.adopt_daemon();
        assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
        let table = mount_table();
        let line = table.lines().find(|line| line.contains(world.mnt.to_str().unwrap())).unwrap();
        assert!(line.contains("fuse.cairnfs") && line.contains("noatime"), "{line}");
        assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    }
    let said = run(helper("umount.cairnfs").arg("/proc"));
    assert_eq!(said.code, 2, "{}", said.said());
    world.close();
}

#[test]
fn the_helper_of_mkfs() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let said = run(helper("mkfs.cairnfs").args(["--reserve", "1M"]).arg(&store));
    assert_eq!(said.code, 0, "{}", said.said());
    let toml = fs::read_to_string(store.join("cairnfs.toml")).unwrap();
    assert!(toml.contains("format = "), "{toml}");
    let mode = fs::metadata(&store).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "a store is its owner's alone");
}

/// As user `nobody`, where that user may open /dev/fuse.
#[test]
fn a_plain_user_mounts_with_fusermount() {
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let may =
        || run(command("setpriv").args(user).args(["test", "-r", "/dev/fuse", "-a", "-w", "/dev/fuse"]));
    let is_let = || need(may().code == 0, "a plain user may not open /dev/fuse");
    if !need_root("a mount of another user") || !is_let() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let (store, mnt) = (dir.path().join("store"), dir.path().join("mnt"));
    let copy = dir.path().join("cairnfs");
    fs::copy(program(), &copy).unwrap();
    let as_user = |words: &[&str], paths: &[&Path]| {
        let said = run(command("setpriv").args(user).arg(&copy).args(words).args(paths));
        assert_eq!(said.code, 0, "{words:?}: {}", said.said());
    };
    let user_runs = |script: &str| run(command("setpriv").args(user).args(["sh", "-c", script]).arg(&mnt));
    assert_eq!(user_runs("mkdir \"$0\"").code, 0);
    as_user(&["mkfs", "--reserve", "1M"], &[&store]);
    for round in 0..2 {
        as_user(&["mount"], &[&store, &mnt]);
        let said = user_runs("cat \"$0\"/f 2>/dev/null; echo x >> \"$0\"/f && mkdir -p \"$0\"/d");
        assert_eq!((said.code, said.out), (0, "x\n".repeat(round)), "{}", said.err);
        as_user(&["umount"], &[&mnt]);
    }
    as_user(&["check", "--data"], &[&store]);
}
