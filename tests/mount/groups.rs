//! Groups as their users meet them: `cairnfs set`, `get`, `ls` and `seal`, and backups by mkdir(1) and rsync(1).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::data::noise;
use crate::skip::{need_programs, need_root};
use crate::sys;
use crate::world::{Outcome, World, cairnfs, command, run};

fn set(place: &Path, settings: &[&str]) -> Outcome {
    let words: Vec<_> = ["set".as_ref(), place.as_os_str()]
        .into_iter()
        .chain(settings.iter().map(|word| word.as_ref()))
        .collect();
    cairnfs(&words)
}

fn done(said: &Outcome) {
    assert_eq!(said.code, 0, "{}", said.said());
}

fn seal(snapshot: &Path) {
    done(&cairnfs(&["seal".as_ref(), snapshot.as_os_str()]));
}

fn rsync(source: &Path, snapshot: &Path, more: &[&str]) {
    let source = format!("{}/", source.display());
    let said =
        run(command("rsync").args(["-aH", "--delete", "--stats"]).args(more).arg(source).arg(snapshot));
    done(&said);
}

fn snapshots(world: &World, group: &str) -> Vec<serde_json::Value> {
    let listed = cairnfs(&["ls".as_ref(), world.mnt.join(group).as_os_str(), "--json".as_ref()]);
    done(&listed);
    let listing: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    listing["groups"][0]["snapshots"].as_array().cloned().unwrap_or_default()
}

/// Files and bytes below a directory, as find(1) and stat(2) have them.
fn counted(dir: &Path) -> (u64, u64) {
    let (mut files, mut bytes, mut seen) = (0, 0, std::collections::BTreeSet::new());
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if !seen.insert(meta.ino()) {
                continue;
            }
            files += 1;
            bytes += if meta.is_file() { meta.len() } else { 0 };
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    (files, bytes)
}

fn fill(source: &Path) {
    fs::create_dir_all(source.join("dir/deep")).unwrap();
    for number in 0..20 {
        fs::write(source.join(format!("dir/file-{number}")), noise(number, 3000)).unwrap();
    }
    fs::write(source.join("large"), noise(99, 300_000)).unwrap();
    fs::hard_link(source.join("large"), source.join("dir/deep/linked")).unwrap();
}

/// Three days: each snapshot begins as the one before, is what the source was, and stays so.
#[test]
fn a_day_costs_what_changed_on_it() {
    let Some(world) = World::usual().filter(|_| need_programs(&["rsync"])) else { return };
    let (source, group) = (world.host().join("source"), world.mnt.join("home"));
    fill(&source);
    fs::create_dir(&group).unwrap();
    done(&set(&group, &["group=yes", "new=clone", "complete=seal"]));
    let mut kept = Vec::new();
    for day in 1..=3_u64 {
        let snapshot = group.join(format!("2026-11-2{day}"));
        fs::write(source.join("dir/file-3"), noise(100 + day, 4000)).unwrap();
        fs::remove_file(source.join(format!("dir/file-{}", 10 + day))).unwrap();
        // The first by rsync itself, as from another machine.
        if day > 1 {
            fs::create_dir(&snapshot).unwrap();
            assert!(snapshot.join("large").exists(), "it begins as the one before");
        }
        rsync(&source, &snapshot, &[]);
        seal(&snapshot);
        kept.push((snapshot.clone(), counted(&source)));
        assert_eq!(counted(&snapshot), counted(&source));
    }
    let check = |world: &World| {
        let listed = snapshots(world, "home");
        for ((path, (files, bytes)), said) in kept.iter().zip(&listed) {
            assert_eq!(counted(path), (*files, *bytes), "{path:?}");
            assert_eq!(
                (said["files"].as_u64(), said["bytes"].as_u64()),
                (Some(*files), Some(*bytes)),
                "{said}"
            );
            assert_eq!(said["complete"], true);
        }
        assert_eq!(listed.len(), 3);
        assert_eq!(listed[2]["clone_of"], "/home/2026-11-22");
    };
    check(&world);
    world.remount();
    check(&world);
    world.gc();
    check(&world);
    let text = cairnfs(&["ls".as_ref(), world.mnt.as_os_str()]);
    assert!(text.out.contains("/home: group=yes new=clone complete=seal"), "{}", text.said());
    assert!(text.out.contains("2026-11-23") && text.out.contains("/home/2026-11-22"), "{}", text.said());
    world.assert_clean();
    world.close();
}

/// A client that makes a directory and renames it, as file managers over SMB do, makes an ordinary one.
#[test]
fn names_decide_what_is_a_snapshot() {
    let Some(world) = World::usual() else { return };
    let group = world.mnt.join("group");
    fs::create_dir(&group).unwrap();
    done(&set(&group, &["group=yes", "complete=rename", "new=clone"]));
    fs::create_dir(group.join("New folder")).unwrap();
    fs::rename(group.join("New folder"), group.join("2026-11-20")).unwrap();
    assert_eq!(snapshots(&world, "group").len(), 0);
    // Complete once it has its name.
    fs::create_dir(group.join("2026-11-21.partial")).unwrap();
    fs::write(group.join("2026-11-21.partial/file"), "stones").unwrap();
    fs::create_dir(group.join("2026-11-22.partial")).unwrap();
    assert!(!group.join("2026-11-22.partial/file").exists(), "nothing is complete yet");
    fs::rename(group.join("2026-11-21.partial"), group.join("2026-11-21")).unwrap();
    fs::create_dir(group.join("2026-11-23.partial")).unwrap();
    assert_eq!(fs::read(group.join("2026-11-23.partial/file")).unwrap(), b"stones");
    let complete: Vec<bool> = snapshots(&world, "group").iter().map(|one| one["complete"] == true).collect();
    assert_eq!(complete, [true, false, false]);
    world.close();
}

#[test]
fn settings_are_shown_and_cannot_be_written_as_attributes() {
    let Some(world) = World::usual().filter(|_| need_programs(&["getfattr"])) else { return };
    let group = world.mnt.join("a/group");
    fs::create_dir_all(&group).unwrap();
    done(&set(&world.mnt.join("a"), &["new=clone"]));
    done(&set(&group, &["group=yes"]));
    let get = |place: &str| cairnfs(&["get", place, "--json"]);
    let shown = get(group.to_str().unwrap());
    assert_eq!(
        shown.out.trim(),
        r#"{"settings":[{"name":"group","value":"yes","origin":"/a/group"},{"name":"new","value":"clone","origin":"/a"}]}"#
    );
    let store = world.store.display();
    assert_eq!(get(&format!("{store}::/a/group")).out, shown.out, "by the path in the store");
    let shown_as = |name: &str| run(command("getfattr").args(["--only-values", "-n", name]).arg(&group));
    assert_eq!(shown_as("user.cairnfs.new").out, "clone");
    assert_ne!(shown_as("user.cairnfs.keep").code, 0);
    let refused = sys::set_xattr(&group, "user.cairnfs.new", b"plain").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert!(sys::set_xattr(&group, "cairnfs.new", b"plain").is_err());
    let listed = run(command("getfattr").arg("-dm-").arg(&group));
    assert!(!listed.out.contains("cairnfs"), "{}", listed.said());
    for (words, told) in [
        (&["colour=red"][..], "colour is no setting; there are group, new, name, complete"),
        (&["new=fast"], "new is `empty`, `clone` or `plain`"),
        (&["new"], "NAME=VALUE"),
    ] {
        let said = set(&group, words);
        assert!(said.code == 2 && said.err.contains(told), "{}", said.said());
    }
    let said = set(&world.mnt.join("nothing"), &["group=yes"]);
    assert!(said.code != 0 && said.err.contains("nothing"), "{}", said.said());
    let said = cairnfs(&["seal".as_ref(), group.as_os_str()]);
    assert!(said.code == 2 && said.err.contains("is no snapshot"), "{}", said.said());
    // The same without a mount.
    world.umount();
    assert_eq!(get(&format!("{store}::a/group")).out, shown.out);
    done(&set(Path::new(&format!("{store}::a")), &["new="]));
    assert!(!get(&format!("{store}::a/group")).out.contains("clone"));
    let said = get(&format!("{store}::b"));
    assert!(said.code == 1 && said.err.contains("::b"), "{}", said.said());
    world.mount();
    world.close();
}

/// A user who may make directories in a group does not see what another one keeps there.
#[test]
fn a_stranger_begins_with_nothing() {
    let Some(world) = World::usual().filter(|_| need_root("two users")) else { return };
    let group = world.mnt.join("group");
    fs::create_dir(&group).unwrap();
    fs::set_permissions(&group, PermissionsExt::from_mode(0o777)).unwrap();
    fs::set_permissions(&world.mnt, PermissionsExt::from_mode(0o755)).unwrap();
    done(&set(&group, &["group=yes", "new=clone", "complete=seal"]));
    let mkdir = |uid: &str, name: &str| {
        let user = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()];
        done(&run(command("setpriv").args(user).args(["mkdir", "-m", "700"]).arg(group.join(name))));
    };
    mkdir("65533", "2026-11-21");
    fs::write(group.join("2026-11-21/secret"), "stones").unwrap();
    seal(&group.join("2026-11-21"));
    mkdir("65534", "2026-11-22");
    mkdir("65533", "2026-11-23");
    let has = |name: &str| group.join(name).join("secret").exists();
    assert!(!has("2026-11-22") && has("2026-11-23"));
    let owner = fs::metadata(group.join("2026-11-23")).unwrap();
    assert_eq!((owner.uid(), owner.mode() & 0o777), (65533, 0o700));
    assert_eq!(fs::metadata(group.join("2026-11-22")).unwrap().uid(), 65534);
    world.close();
}
