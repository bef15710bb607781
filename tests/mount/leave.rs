//! Leaving a mount (P6): whatever happened to paths, places and namespaces, 0 means that everything is durable, and every
//! other end says what is in the way. Whoever has left is shown a SIGKILL of the daemon, which takes what was not durable.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::data::noise;
use crate::skip::{need, need_programs, need_root};
use crate::sys;
use crate::world::{Outcome, Setup, World, cairnfs, command, is_mounted, program, run, tool, wait_for};

/// Words for setpriv(1): a user who is nobody here.
const USER: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Nothing becomes durable by itself.
fn unhurried() -> Setup {
    Setup { options: "gc=off,commit=3600,cache=16M", ..Setup::default() }
}

/// Takes away at the end what a test has mounted beside.
struct Mounts(Vec<PathBuf>);

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            while is_mounted(path) {
                let _ = Command::new("umount").arg("-l").arg(path).output();
            }
        }
    }
}

/// A process that stands in the way, ended at the end.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn umount(words: &[&str], path: &Path, sabotage: &str) -> Outcome {
    run(command(program()).env("CAIRNFS_SABOTAGE", sabotage).arg("umount").args(words).arg(path))
}

/// What keeps a mount alive beyond its unmounting, as a test makes it.
type Keep = fn(&World, &Path) -> Option<Other>;

fn bound(world: &World, second: &Path) -> Option<Other> {
    tool!("mount", "--bind", world.mnt, second);
    None
}

fn bound_in_part(world: &World, second: &Path) -> Option<Other> {
    fs::create_dir(world.mnt.join("part")).unwrap();
    tool!("mount", "--bind", world.mnt.join("part"), second);
    None
}

fn in_another_namespace(_: &World, _: &Path) -> Option<Other> {
    let other = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", "echo there; exec sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut other = other.unwrap();
    // It says so once it has a namespace of its own.
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    Some(Other(other))
}

fn bound_and_out_of_sight(world: &World, second: &Path) -> Option<Other> {
    tool!("mount", "--bind", world.mnt, second);
    let held = Command::new("sleep").arg("1000").current_dir(second).spawn().unwrap();
    tool!("umount", "-l", second);
    Some(Other(held))
}

const KEEPS: [(&str, Keep, &str); 4] = [
    ("a bind mount", bound, "is mounted at"),
    ("a bind mount of a part", bound_in_part, "is mounted at"),
    ("another namespace", in_another_namespace, "in another mount namespace"),
    ("a bind mount that is out of sight", bound_and_out_of_sight, "uses it"),
];

/// Unmounts beside what keeps the mount alive, then kills; whether the file is there afterwards.
fn kept_beside(keep: Keep, words: &[&str], said: &str, sabotage: &str) -> Option<bool> {
    let world = World::new(unhurried())?;
    let second = world.host().join("second");
    fs::create_dir(&second).unwrap();
    let _mounts = Mounts(vec![second.clone()]);
    let other = keep(&world, &second);
    let bytes = noise(7, 300_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    let left = umount(words, &world.mnt, sabotage);
    assert_eq!(left.code, 0, "{}", left.said());
    assert!(left.err.contains("keeps the store open") && left.err.contains(said), "{}", left.said());
    assert!(left.err.contains(&format!("process {}", world.pid())), "{}", left.said());
    assert!(!is_mounted(&world.mnt));
    world.kill();
    drop((other, _mounts));
    world.mount();
    let found = fs::read(world.mnt.join("file")).unwrap_or_default();
    world.close();
    Some(found == bytes)
}

#[test]
fn what_keeps_the_mount_alive_is_named_and_everything_is_durable() {
    if !need_root("to bind") {
        return;
    }
    for (what, keep, said) in KEEPS {
        let Some(kept) = kept_beside(keep, &[], said, "") else { return };
        assert!(kept, "beside {what} umount returned 0, and a kill took what was written");
    }
    assert_eq!(kept_beside(bound, &[], "is mounted at", "durable-before-leave"), Some(false), "the control");
}

#[test]
fn a_lazy_umount_makes_everything_durable_and_names_the_programs() {
    let keep: Keep = |world, _| {
        let held = Command::new("sleep").arg("1000").current_dir(&world.mnt).spawn().unwrap();
        Some(Other(held))
    };
    let Some(kept) = kept_beside(keep, &["-l"], "(sleep) uses it", "") else { return };
    assert!(kept, "umount -l returned 0, and a kill took what was written");
    assert_eq!(kept_beside(keep, &["-l"], "uses it", "durable-before-leave"), Some(false), "the control");
}

/// Paths that change between mount and umount. The result is where the mount and the store are then.
type Change = fn(&World) -> (PathBuf, PathBuf);

const CHANGES: [(&str, Change); 4] = [
    ("the mount was moved", |world| {
        let away = world.host().join("away");
        fs::create_dir(&away).unwrap();
        // A mount can be moved only where its surroundings are not shared.
        tool!("mount", "--bind", world.host(), world.host());
        tool!("mount", "--make-private", world.host());
        let away = world.host().join("away");
        tool!("mount", "--bind", world.mnt, away);
        tool!("umount", "-i", world.mnt);
        (away, world.store.clone())
    }),
    ("the store was renamed", |world| {
        let store = world.host().join("renamed");
        fs::rename(&world.store, &store).unwrap();
        (world.mnt.clone(), store)
    }),
    ("the store is hidden", |world| {
        tool!("mount", "-t", "tmpfs", "none", world.store);
        (world.mnt.clone(), world.store.clone())
    }),
    ("a file system was mounted over the mount, and the mount over that", |world| {
        let over = world.host().join("over");
        fs::create_dir(&over).unwrap();
        tool!("mount", "-t", "tmpfs", "none", over);
        tool!("mount", "--bind", world.mnt, over);
        tool!("umount", "-i", world.mnt);
        (over, world.store.clone())
    }),
];

#[test]
fn umount_waits_for_the_process_wherever_mount_and_store_are() {
    if !need_root("to bind") {
        return;
    }
    for (what, change) in CHANGES {
        let Some(world) = World::new(unhurried()) else { return };
        let host = fs::canonicalize(world.host()).unwrap();
        let _mounts = Mounts(vec![host.clone(), host.join("over"), host.join("away"), world.store.clone()]);
        let bytes = noise(8, 3_000_000);
        fs::write(world.mnt.join("file"), &bytes).unwrap();
        let (mnt, store) = change(&world);
        let pid = world.pid();
        let left = umount(&["-v"], &mnt, "");
        assert!(!sys::is_alive(pid), "{what}: umount returned before the process was gone: {}", left.said());
        assert_eq!(left.code, 0, "{what}: {}", left.said());
        world.take_daemon();
        while is_mounted(&world.store) {
            tool!("umount", world.store);
        }
        if store != world.store {
            fs::rename(&store, &world.store).unwrap();
        }
        world.mount();
        assert!(fs::read(world.mnt.join("file")).unwrap() == bytes, "{what}");
        world.close();
    }
}

/// A store and a mount point whose names are no text.
#[test]
fn names_that_are_no_text_and_a_parent_that_was_renamed() {
    let Some(world) = World::usual() else { return };
    world.umount();
    let odd = |name: &[u8]| world.host().join(OsStr::from_bytes(name));
    let (store, old, new) = (odd(b"st\xffore \\040,x"), odd(b"old\xfe"), odd(b"new\n\xfd"));
    fs::rename(&world.store, &store).unwrap();
    fs::create_dir_all(old.join("mnt")).unwrap();
    let mounted = run(command(program()).args(["mount", "-v"]).arg(&store).arg(old.join("mnt")));
    assert_eq!(mounted.code, 0, "{}", mounted.said());
    let pid = mounted.out.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap();
    fs::rename(&old, &new).unwrap();
    fs::write(new.join("mnt/file"), "kept").unwrap();
    for path in [&new.join("mnt"), &store] {
        let said = cairnfs(&[OsStr::new("sync"), path.as_os_str()]);
        assert_eq!(said.code, 0, "{}", said.said());
    }
    let again = cairnfs(&[OsStr::new("mount"), store.as_os_str(), world.mnt.as_os_str()]);
    assert_eq!(again.code, 4, "{}", again.said());
    // By the store: the daemon knows its own, whatever the table of mounts calls it.
    let left = cairnfs(&[OsStr::new("umount"), store.as_os_str()]);
    assert_eq!(left.code, 0, "{}", left.said());
    assert!(!sys::is_alive(pid));
    fs::rename(&store, &world.store).unwrap();
    world.mount();
    assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
    world.close();
}

#[test]
fn another_store_at_the_same_path_is_not_asked() {
    if !need_root("to bind") {
        return;
    }
    let Some(world) = World::new(unhurried()) else { return };
    let uuid = world.ask_json(&["status"])["store"]["uuid"].clone();
    let other = world.host().join("other");
    assert_eq!(cairnfs(&["mkfs".as_ref(), "--reserve".as_ref(), "1M".as_ref(), other.as_os_str()]).code, 0);
    fs::write(world.mnt.join("file"), "kept").unwrap();
    let _mounts = Mounts(vec![world.store.clone()]);
    tool!("mount", "--bind", other, world.store);
    let status = |sabotage: &str| -> serde_json::Value {
        let mut command = command(program());
        let said = run(command.env("CAIRNFS_SABOTAGE", sabotage).args(["status", "--json"]).arg(&world.mnt));
        assert_eq!(said.code, 0, "{}", said.said());
        serde_json::from_str(&said.out).unwrap()
    };
    assert_eq!(status("")["store"]["uuid"], uuid);
    assert_eq!(status("")["holder"]["pid"], world.pid());
    assert_ne!(status("ask-through-mount")["store"]["uuid"], uuid, "the control");
    assert_eq!(cairnfs(&[OsStr::new("sync"), world.mnt.as_os_str()]).code, 0);
    world.kill();
    // The daemon of that mount is gone; the store at its path was closed in order, and is another one.
    wait_for("the end of the mount", || sys::statvfs(&world.mnt).is_err());
    assert_eq!(cairnfs(&[OsStr::new("sync"), world.mnt.as_os_str()]).code, 7);
    tool!("umount", world.store);
    world.mount();
    assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
    world.close();
}

#[test]
fn a_refused_umount_says_who_is_in_the_way_and_leaves_everything_as_it_was() {
    if !need_root("to mount in it") {
        return;
    }
    let Some(world) = World::usual() else { return };
    let refused = |path: &Path, said: &str| {
        let left = umount(&[], path, "");
        assert!(left.code == 4 && left.err.contains(said), "not `{said}`: {}", left.said());
        assert!(is_mounted(&world.mnt) && sys::is_alive(world.pid()));
    };
    let inside = world.mnt.join("inside");
    fs::create_dir(&inside).unwrap();
    let _mounts = Mounts(vec![inside.clone(), world.mnt.clone()]);
    tool!("mount", "-t", "tmpfs", "none", inside);
    refused(&world.mnt, "inside is mounted in it");
    tool!("umount", inside);
    let standing = Other(Command::new("sleep").arg("1000").current_dir(&world.mnt).spawn().unwrap());
    refused(&world.mnt, &format!("pid {} (", standing.0.id()));
    drop(standing);
    tool!("mount", "-t", "tmpfs", "none", world.mnt);
    let left = umount(&[], &world.mnt, "");
    assert!(left.code == 2 && left.err.contains("type tmpfs"), "{}", left.said());
    refused(&world.store, "something else is mounted over it");
    tool!("umount", world.mnt);
    world.close();
}

/// The last line of the store's log.
fn log_says(world: &World, said: &str) -> bool {
    fs::read_to_string(world.store.join("cairnfs.log")).is_ok_and(|log| log.contains(said))
}

/// A lazily detached mount, a program that writes to it, SIGTERM, SIGKILL. Whether both files are there afterwards.
fn terminated_out_of_sight(sabotage: &'static str) -> Option<bool> {
    let world = World::new(Setup { sabotage, ..unhurried() })?;
    let mut held = File::create(world.mnt.join("held")).unwrap();
    fs::write(world.mnt.join("early"), "early").unwrap();
    tool!("umount", "-i", "-l", world.mnt);
    held.write_all(b"written").unwrap();
    sys::kill(world.pid(), libc::SIGTERM);
    wait_for("the log to say what is durable", || log_says(&world, "is still used by a program"));
    world.kill();
    drop(held);
    world.mount();
    let all = [("early", "early"), ("held", "written")];
    let kept =
        all.iter().all(|(name, text)| fs::read(world.mnt.join(name)).is_ok_and(|b| b == text.as_bytes()));
    world.close();
    Some(kept)
}

#[test]
fn a_signal_makes_everything_durable_whatever_the_table_of_mounts_says() {
    let Some(kept) = terminated_out_of_sight("") else { return };
    assert!(kept, "SIGTERM, then SIGKILL: what was written is gone");
    assert_eq!(terminated_out_of_sight("durable-before-leave"), Some(false), "the control");
}

#[test]
fn a_signal_takes_the_mount_away_wherever_it_is() {
    if !need_root("to bind") {
        return;
    }
    let Some(world) = World::new(unhurried()) else { return };
    let (first, second) = (world.host().join("first"), world.host().join("second"));
    for dir in [&first, &second] {
        fs::create_dir(dir).unwrap();
        tool!("mount", "--bind", world.mnt, dir);
    }
    let _mounts = Mounts(vec![first.clone(), second.clone()]);
    fs::write(second.join("file"), "kept").unwrap();
    tool!("umount", "-i", world.mnt);
    sys::kill(world.pid(), libc::SIGTERM);
    world.forget_daemon();
    assert!(![&first, &second, &world.mnt].into_iter().any(|place| is_mounted(place)));
    world.mount();
    assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
    // Something else is mounted over it: that is not the daemon's to take away.
    let _over = Mounts(vec![world.mnt.clone()]);
    tool!("mount", "-t", "tmpfs", "none", world.mnt);
    sys::kill(world.pid(), libc::SIGTERM);
    wait_for("the log to say so", || log_says(&world, "where something else is mounted over it"));
    assert!(sys::is_alive(world.pid()));
    sys::kill(world.pid(), libc::SIGTERM);
    world.forget_daemon();
    tool!("umount", world.mnt);
    world.mount();
    world.close();
}

#[test]
fn after_a_lazy_umount_a_mount_says_at_once_what_is_in_the_way() {
    let Some(world) = World::usual() else { return };
    fs::write(world.mnt.join("file"), "kept").unwrap();
    let held = Other(Command::new("sleep").arg("1000").current_dir(&world.mnt).spawn().unwrap());
    assert_eq!(umount(&["-l"], &world.mnt, "").code, 0);
    let status = world.ask_json(&["status"]);
    assert_eq!(status["holder"]["detached"], true, "{status}");
    assert!(world.ask(&["status"]).out.contains("no longer: it was detached"));
    let refused = run(&mut world.mount_command());
    assert_eq!(refused.code, 4, "{}", refused.said());
    for said in [format!("pid {}", world.pid()), format!("pid {} (", held.0.id()), "detached".into()] {
        assert!(refused.err.contains(&said), "not `{said}`: {}", refused.said());
    }
    let left = umount(&[], &world.store, "");
    assert!(left.code == 4 && left.err.contains("still open in process"), "{}", left.said());
    drop(held);
    world.forget_daemon();
    world.mount();
    assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
    world.close();
}

#[test]
fn nobody_waits_without_a_bound_for_a_daemon_that_is_silent() {
    let Some(world) = World::usual() else { return };
    fs::write(world.mnt.join("file"), "kept").unwrap();
    let pid = world.pid();
    sys::kill(pid, libc::SIGSTOP);
    wait_for("the daemon to stop", || sys::is_stopped(pid));
    let asked = thread::scope(|scope| {
        let (mnt, store) = (&world.mnt, &world.store);
        let words = [("status", mnt), ("status", store), ("sync", mnt), ("sync", store), ("umount", mnt)];
        let all = words
            .map(|(word, path)| scope.spawn(move || (word, cairnfs(&[OsStr::new(word), path.as_os_str()]))));
        let mount = scope.spawn(|| ("mount", run(&mut world.mount_command())));
        all.into_iter().chain([mount]).map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let still = is_mounted(&world.mnt);
    sys::kill(pid, libc::SIGCONT);
    for (word, said) in asked {
        assert!([1, 4, 7].contains(&said.code) && said.err.contains("not answer"), "{word}: {}", said.said());
    }
    assert!(still, "what may hold unstored bytes was taken away");
    assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
    world.close();
}

/// Killed in the first moments of a mount, nothing is stuck: no thread of the daemon waits for its own mount.
/// `CAIRNFS_KILLS=200` makes it the long form.
#[test]
fn a_kill_right_after_mounting_leaves_nothing_that_cannot_end() {
    let Some(world) = World::usual() else { return };
    world.umount();
    // The kernel's switch is root's.
    let both = need_root("io_uring");
    let transports = if both { &["off", "on"][..] } else { &["off"] };
    let rounds =
        std::env::var("CAIRNFS_KILLS").map_or(20, |word| word.parse().expect("CAIRNFS_KILLS: a number"));
    for (transport, round) in transports.iter().flat_map(|way| (0..rounds).map(move |round| (way, round))) {
        let mut daemon = Command::new(program())
            .args(["mount", "--foreground", "-o", &format!("io_uring={transport},gc=off")])
            .args([&world.store, &world.mnt])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the mount", || is_mounted(&world.mnt));
        // Each round a little later.
        for _ in 0..round % 20 {
            is_mounted(&world.mnt);
        }
        let pid = daemon.id() as i32;
        sys::kill(pid, libc::SIGKILL);
        wait_for("the end of the daemon", || !sys::is_alive(pid));
        daemon.wait().unwrap();
        tool!("umount", "-i", "-l", world.mnt);
    }
    world.mount();
    world.close();
}

/// mount(8) drops PATH for a line of fstab with `user`.
#[test]
fn a_user_mounts_without_path() {
    if !need_root("to become another user") || !need_programs(&["fusermount3"]) {
        return;
    }
    let may = run(command("setpriv").args(USER).args(["test", "-r", "/dev/fuse", "-a", "-w", "/dev/fuse"]));
    if !need(may.code == 0, "a plain user may not open /dev/fuse") {
        return;
    }
    let Some(world) = World::usual() else { return };
    world.umount();
    let top = world.host().parent().unwrap().to_owned();
    tool!("chown", "-R", "65534:65534", top);
    let user = |words: &[OsString]| {
        let mut command = command("setpriv");
        command.args(USER).args(["env", "-i"]).arg(program());
        run(command.args(words))
    };
    let mounted = user(&["mount".into(), world.store.clone().into(), world.mnt.clone().into()]);
    assert_eq!(mounted.code, 0, "{}", mounted.said());
    let status = user(&["status".into(), "--json".into(), world.mnt.clone().into()]);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let pid = status["holder"]["pid"].as_i64().unwrap() as i32;
    // Root, who may not look into it, leaves it all the same; the store's directory leads to its daemon.
    let left = umount(&[], &world.mnt, "");
    assert!(left.code == 0 && !sys::is_alive(pid), "{}", left.said());
    let mounted = user(&["mount".into(), world.store.clone().into(), world.mnt.clone().into()]);
    assert_eq!(mounted.code, 0, "{}", mounted.said());
    let left = user(&["umount".into(), world.mnt.clone().into()]);
    assert_eq!(left.code, 0, "{}", left.said());
    tool!("chown", "-R", "0:0", top);
    world.mount();
    world.close();
}

#[test]
fn root_without_the_right_is_told_which() {
    if !need_root("to give up a right") {
        return;
    }
    let Some(world) = World::usual() else { return };
    world.umount();
    let mut command = command("setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]).arg(program()).arg("mount");
    let refused = run(command.args([&world.store, &world.mnt]));
    assert_eq!(refused.code, 7, "{}", refused.said());
    assert!(refused.err.contains("CAP_SYS_ADMIN"), "{}", refused.said());
    world.mount();
    world.close();
}

/// A terminal that closes ends a mount in its foreground, in order, unless the signal was ignored from the beginning.
#[test]
fn nohup_keeps_a_mount_in_the_foreground() {
    let Some(world) = World::usual() else { return };
    world.umount();
    let script = "trap '' HUP; exec \"$0\" mount --foreground \"$1\" \"$2\"";
    let mut daemon = Other(
        Command::new("sh")
            .args(["-c", script])
            .args([program().as_os_str(), world.store.as_os_str(), world.mnt.as_os_str()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    // A mount that ends before it has answered has failed.
    let mut said = BufReader::new(daemon.0.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("mounted at")));
    let pid = daemon.0.id() as i32;
    sys::kill(pid, libc::SIGHUP);
    fs::write(world.mnt.join("file"), "kept").unwrap();
    assert!(sys::is_alive(pid) && is_mounted(&world.mnt));
    sys::kill(pid, libc::SIGTERM);
    assert!(daemon.0.wait().unwrap().success());
    world.mount();
    assert_eq!(fs::read(world.mnt.join("file")).unwrap(), b"kept");
    world.close();
}
