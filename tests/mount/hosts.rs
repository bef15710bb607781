//! Hosts that are not an empty ext4 of a machine without limits: full ones of other kinds, with a quota, without inodes, very
//! small, pulled out, on which a lock is not seen, and where a process may use little.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::data::noise;
use crate::skip::{need, need_kernel, need_root};
use crate::sys;
use crate::world::{Outcome, Setup, World, cairnfs, command, is_mounted, program, run, tool};

/// A file system of its own in a file.
struct Host(TempDir);

impl Host {
    /// `make` is the command that makes it, the image comes after. `None` where this is not root, or the tool or the file
    /// system is not there.
    fn new(size: u64, make: &[&str]) -> Option<Self> {
        let dir = TempDir::with_prefix("cairnfs-host-").unwrap();
        File::create(dir.path().join("image")).unwrap().set_len(size).unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        let host = Self(dir);
        let image = host.0.path().join("image");
        let made = || Command::new(make[0]).args(&make[1..]).arg(&image).output();
        let is_there = need_root("a file system of its own")
            && need(made().is_ok_and(|made| made.status.success()), format_args!("{} makes none", make[0]))
            && need(host.mount(), format_args!("no loop device, or a kernel without what {} makes", make[0]));
        is_there.then_some(host)
    }

    fn mount(&self) -> bool {
        let (image, disk) = (self.0.path().join("image"), self.path());
        Command::new("mount").args(["-o", "loop"]).args([image, disk]).status().unwrap().success()
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap().join("disk")
    }

    /// Others fill the disk to its last byte.
    fn fill(&self) {
        for (name, len) in [("a", 64 << 10), ("b", 4096), ("c", 512)] {
            for round in 0..4 {
                let Ok(mut file) = File::create(self.path().join(format!("{name}{round}"))) else { break };
                while file.write_all(&vec![1; len]).is_ok() {}
                let _ = file.sync_all();
            }
        }
        let small = self.path().join("small");
        let _ = fs::create_dir(&small);
        for number in 0..20_000 {
            if fs::write(small.join(number.to_string()), "x").is_err() {
                break;
            }
        }
        tool!("sync", "-f", self.path());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// A store on this host. The world goes first when both are dropped.
fn on(host: &Host, below: &Path) -> Option<World> {
    assert!(below.starts_with(host.path()));
    World::new(Setup {
        mkfs: &["--reserve", "4M"],
        options: "gc=off,commit=1,cache=16M",
        below: Some(below.to_owned()),
        ..Setup::default()
    })
}

fn write(path: &Path, seed: u64, len: usize) -> Vec<u8> {
    let bytes = noise(seed, len);
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes).and_then(|()| file.sync_all()).unwrap();
    bytes
}

/// A store that was closed on a disk that others then fill can be mounted, and deleting leads out of it.
fn closed_and_then_filled(make: &[&str]) {
    let Some(host) = Host::new(320 << 20, make) else { return };
    let Some(world) = on(&host, &host.path()) else { return };
    let kept = write(&world.mnt.join("keep"), 1, 2 << 20);
    write(&world.mnt.join("old"), 2, 20 << 20);
    world.umount();
    host.fill();
    // It says that the reserve is gone where opening took it.
    let status = world.ask(&["status"]);
    assert!([0, 8].contains(&status.code), "{}", status.said());
    world.mount();
    assert!(fs::read(world.mnt.join("keep")).unwrap() == kept);
    fs::remove_file(world.mnt.join("old")).unwrap();
    let record = world.gc();
    println!("{record}");
    // Some give back what was freed with their next transaction.
    tool!("sync", "-f", host.path());
    let space = sys::statvfs(&host.path()).unwrap();
    assert!(space.f_bavail * space.f_frsize > 8 << 20, "{record}");
    world.umount();
    world.assert_clean();
}

#[test]
fn a_full_xfs_is_led_out_of() {
    closed_and_then_filled(&["mkfs.xfs", "-qf"]);
}

#[test]
fn a_full_btrfs_is_led_out_of() {
    closed_and_then_filled(&["mkfs.btrfs", "-qf"]);
}

#[test]
fn a_full_ext4_is_led_out_of() {
    closed_and_then_filled(&["mkfs.ext4", "-qF", "-m", "0"]);
}

/// Fills what a quota allows without a sync, and deletes its way out.
fn within_a_quota(host: &Host, below: &Path) {
    let Some(world) = on(host, below) else { return };
    fs::create_dir(world.mnt.join("old")).unwrap();
    let kept = write(&world.mnt.join("keep"), 1, 8 << 20);
    let mut refused = None;
    for number in 0..30 {
        let written = fs::write(world.mnt.join(format!("old/{number}")), noise(100 + number, 4 << 20));
        if let Err(error) = written {
            refused = error.raw_os_error();
            break;
        }
    }
    assert_eq!(refused, Some(libc::ENOSPC), "it is told at write");
    // What was acknowledged is stored.
    world.sync();
    assert_eq!(world.ask_json(&["status"])["store"]["read_only_because"], serde_json::Value::Null);
    tool!("rm", "-rf", world.mnt.join("old"));
    world.deletions_done();
    let record = world.gc();
    println!("{record}");
    world.remount();
    assert!(fs::read(world.mnt.join("keep")).unwrap() == kept);
    write(&world.mnt.join("new"), 3, 4 << 20);
    world.close();
}

#[test]
fn a_quota_of_btrfs_is_led_out_of() {
    let Some(host) = Host::new(600 << 20, &["mkfs.btrfs", "-qf"]) else { return };
    let sub = host.path().join("sub");
    tool!("btrfs", "quota", "enable", host.path());
    tool!("btrfs", "subvolume", "create", &sub);
    tool!("btrfs", "qgroup", "limit", "60M", &sub);
    within_a_quota(&host, &sub);
}

#[test]
fn a_quota_of_an_xfs_project_is_led_out_of() {
    let Some(host) = Host::new(600 << 20, &["mkfs.xfs", "-qf"]) else { return };
    tool!("umount", host.path());
    let image = host.0.path().join("image");
    let mounted = Command::new("mount").args(["-o", "loop,prjquota"]).args([image, host.path()]).status();
    if !need_kernel(mounted.is_ok_and(|status| status.success()), "xfs-quota") {
        return;
    }
    let sub = host.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let project = format!("project -s -p {} 7", sub.display());
    tool!("xfs_quota", "-x", "-c", &project, host.path());
    tool!("xfs_quota", "-x", "-c", "limit -p bhard=60m 7", host.path());
    within_a_quota(&host, &sub);
}

#[test]
fn a_host_without_a_free_inode_can_be_mounted_and_made_room_on() {
    let Some(host) = Host::new(300 << 20, &["mkfs.ext4", "-qF", "-N", "64"]) else { return };
    let Some(world) = on(&host, &host.path()) else { return };
    let kept = write(&world.mnt.join("keep"), 1, 1 << 20);
    write(&world.mnt.join("old"), 2, 5 << 20);
    world.umount();
    let others = host.path().join("others");
    fs::create_dir(&others).unwrap();
    let mut number = 0;
    while File::create(others.join(number.to_string())).is_ok() {
        number += 1;
    }
    world.mount();
    assert!(fs::read(world.mnt.join("keep")).unwrap() == kept);
    let refused = fs::write(world.mnt.join("new"), noise(3, 100_000)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "it is told at write");
    fs::remove_file(world.mnt.join("old")).unwrap();
    world.sync();
    world.gc();
    world.umount();
    // Taken by others, too: then there is no socket.
    while File::create(others.join(number.to_string())).is_ok() {
        number += 1;
    }
    fs::remove_file(world.store.join("reserve")).ok();
    while File::create(others.join(number.to_string())).is_ok() {
        number += 1;
    }
    let mounted = run(&mut world.mount_command());
    assert_eq!(mounted.code, 0, "{}", mounted.said());
    assert!(fs::read(world.mnt.join("keep")).unwrap() == kept);
    assert!(!world.store.join("control.sock").exists());
    tool!("umount", &world.mnt);
    fs::remove_dir_all(&others).unwrap();
    crate::world::wait_for("the end of the daemon", || world.ask(&["check"]).code == 0);
    world.mount();
    world.close();
}

#[test]
fn mkfs_fits_a_small_disk_and_takes_a_fresh_one() {
    for size in [12, 32, 128] {
        let Some(host) = Host::new(size << 20, &["mkfs.ext4", "-qF"]) else { return };
        let made = cairnfs(&["mkfs".as_ref(), host.path().as_os_str()]);
        assert_eq!(made.code, 0, "{size} MiB: {}", made.said());
        assert!(host.path().join("lost+found").is_dir());
        let reserve = fs::metadata(host.path().join("reserve")).unwrap().len();
        assert!(reserve >= 512 << 10 && reserve <= (size << 20) / 16, "{size} MiB: {reserve}");
        let checked = cairnfs(&["check".as_ref(), host.path().as_os_str()]);
        assert_eq!(checked.code, 0, "{}", checked.said());
    }
}

/// The disk is gone from one moment to the next, and comes back.
fn pulled_out_and_plugged_in(make: &[&str]) {
    let Some(host) = Host::new(320 << 20, make) else { return };
    let Some(world) = on(&host, &host.path()) else { return };
    let synced = write(&world.mnt.join("synced"), 1, 3 << 20);
    fs::write(world.mnt.join("before"), noise(2, 200_000)).unwrap();
    world.sync();
    fs::write(world.mnt.join("lost"), noise(3, 200_000)).unwrap();
    sys::shut_down(&File::open(host.path()).unwrap()).unwrap();
    let file = File::create(world.mnt.join("later"));
    assert!(file.and_then(|file| file.sync_all()).is_err(), "nothing can be made durable");
    let left = cairnfs(&["umount".as_ref(), world.mnt.as_os_str()]);
    assert!(!is_mounted(&world.mnt), "{}", left.said());
    assert_ne!(left.code, 0, "not everything is durable: {}", left.said());
    world.forget_daemon();
    tool!("umount", host.path());
    assert!(host.mount());
    world.mount();
    assert!(fs::read(world.mnt.join("synced")).unwrap() == synced);
    assert!(fs::read(world.mnt.join("before")).unwrap() == noise(2, 200_000));
    world.close();
}

#[test]
fn a_disk_that_was_pulled_out_has_all_that_was_synced() {
    pulled_out_and_plugged_in(&["mkfs.ext4", "-qF"]);
    pulled_out_and_plugged_in(&["mkfs.xfs", "-qf"]);
}

/// A second view of the store, as another machine has it: its lock is not seen, and nobody listens at its socket.
fn second_view(world: &World, sabotage: &str) -> Outcome {
    let view = world.host().join("view");
    fs::create_dir_all(&view).unwrap();
    tool!("mount", "--bind", &world.store, &view);
    let _ = fs::remove_file(view.join("control.sock"));
    let said = run(command(program()).env("CAIRNFS_SABOTAGE", sabotage).arg("repair").arg(&view));
    tool!("umount", &view);
    said
}

#[test]
fn where_a_lock_is_not_seen_the_holders_note_keeps_others_out() {
    if !need_root("a second view") {
        return;
    }
    let Some(world) = World::new(Setup { sabotage: "lock-is-seen", ..Setup::default() }) else { return };
    write(&world.mnt.join("file"), 1, 100_000);
    let lock = world.store.join("lock");
    let ours = fs::read_to_string(&lock).unwrap();
    let said = second_view(&world, "lock-is-seen");
    assert_eq!(said.code, 4, "{}", said.said());
    assert!(said.err.contains(&format!("in use by pid {}: mounted at", world.pid())), "{}", said.said());
    // Without the note both have it.
    let said = second_view(&world, "lock-is-seen,holder-is-read");
    assert_ne!(said.code, 4, "{}", said.said());
    let pid = world.pid();
    world.kill();
    crate::world::wait_for("the end of the daemon", || !sys::is_alive(pid));
    fs::write(&lock, &ours).unwrap();
    let said = second_view(&world, "lock-is-seen");
    assert_eq!(said.code, 0, "its note is that of a dead process: {}", said.said());
    // What another machine wrote, and did not take back.
    let boot = ours.split("boot ").nth(1).unwrap().split(' ').next().unwrap();
    let machine = ours.split("machine ").nth(1).unwrap().split(' ').next().unwrap();
    let theirs = ours.replace(boot, "b").replace(machine, "m");
    fs::write(&lock, &theirs).unwrap();
    let said = second_view(&world, "lock-is-seen");
    assert!(said.code == 4 && said.err.contains("truncate -s 0"), "{}", said.said());
    // Here locks are seen, so nobody has it.
    let said = second_view(&world, "");
    assert_eq!(said.code, 0, "{}", said.said());
    fs::write(&lock, theirs).unwrap();
    File::create(&lock).unwrap();
    let said = second_view(&world, "lock-is-seen");
    assert_eq!(said.code, 0, "a person has said so: {}", said.said());
    while is_mounted(&world.mnt) {
        tool!("umount", "-l", &world.mnt);
    }
}

#[test]
fn limits_of_the_process_refuse_a_mount_or_are_lived_with() {
    let Some(world) = World::usual() else { return };
    let kept = write(&world.mnt.join("file"), 1, 300_000);
    world.umount();
    let limited = |limit: &str, io_uring: &str| {
        run(command("prlimit")
            .args([limit, "--"])
            .arg(program())
            .args(["mount", "-o", "gc=off,cache=16M", "-o", io_uring])
            .args([&world.store, &world.mnt]))
    };
    for (limit, named) in
        [("--nofile=60", "ulimit -n"), ("--fsize=1000000", "ulimit -f"), ("--as=300000000", "ulimit -v")]
    {
        let said = limited(limit, "io_uring=off");
        assert!(said.code == 7 && said.err.contains(named), "{limit}: {}", said.said());
        assert!(!is_mounted(&world.mnt));
    }
    for limit in ["--nofile=128", "--as=1100000000"] {
        for io_uring in ["io_uring=off", "io_uring=auto"] {
            let said = limited(limit, io_uring);
            assert_eq!(said.code, 0, "{limit}: {}", said.said());
            world.adopt_daemon();
            assert!(fs::read(world.mnt.join("file")).unwrap() == kept);
            for number in 0..40 {
                fs::write(world.mnt.join(format!("{number}")), noise(number, 200_000)).unwrap();
            }
            world.sync();
            world.assert_clean();
            world.umount();
        }
    }
    // A command that meets the limit says so and is not killed.
    let made = run(command("prlimit")
        .args(["--fsize=500000", "--"])
        .arg(program())
        .args(["mkfs", "--reserve", "1M"])
        .arg(world.host().join("other")));
    assert!(made.code == 1 && made.err.contains("File too large"), "{}", made.said());
    assert!(!world.host().join("other").exists());
    world.assert_clean();
}

#[test]
fn without_proc_a_mount_is_refused_by_name() {
    if !need_root("to take /proc away") {
        return;
    }
    let Some(world) = World::usual() else { return };
    world.umount();
    let script = "umount -l /proc && exec \"$0\" mount \"$1\" \"$2\"";
    let said = run(command("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(program())
        .args([&world.store, &world.mnt]));
    assert!(said.code == 7 && said.err.contains("/proc is not mounted"), "{}", said.said());
    for word in ["status", "check"] {
        let script = format!("umount -l /proc && exec \"$0\" {word} \"$1\"");
        let said = run(command("unshare").args(["-m", "sh", "-c", &script]).arg(program()).arg(&world.store));
        assert_eq!(said.code, 0, "{word}: {}", said.said());
    }
    world.mount();
    world.close();
}

#[test]
fn a_copy_without_the_zeros_of_its_reserve_gets_them_back() {
    let Some(world) = World::usual() else { return };
    world.umount();
    let reserve = world.store.join("reserve");
    let len = fs::metadata(&reserve).unwrap().len();
    let file = File::options().write(true).open(&reserve).unwrap();
    file.set_len(0).and_then(|()| file.set_len(len)).unwrap();
    world.mount();
    let found = fs::metadata(&reserve).unwrap();
    assert!(found.len() == len && found.blocks() * 512 >= len, "{} blocks", found.blocks());
    world.close();
}
