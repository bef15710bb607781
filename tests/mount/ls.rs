//! What `cairnfs ls`, `rm --json` and `status` say of subvolumes is what find(1), du(1) and stat(2) see in them.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;

use crate::data::noise;
use crate::programs::script;
use crate::world::{Outcome, World, cairnfs, wait_for};

fn object(said: &Outcome) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.said()))
}

fn clone(source: &Path, target: &Path) {
    let said = cairnfs(&["clone".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert_eq!(said.code, 0, "{}", said.said());
}

/// Name, files and bytes of every subvolume in the root of the mount.
fn listed(world: &World) -> Vec<(String, u64, u64)> {
    let said = cairnfs(&["ls".as_ref(), world.mnt.as_os_str(), "--json".as_ref()]);
    let groups = object(&said);
    let all = groups["groups"][0]["snapshots"].as_array().cloned().unwrap_or_default();
    let one = |one: &Value| {
        let number = |name: &str| one[name].as_u64().unwrap();
        (one["name"].as_str().unwrap().to_owned(), number("files"), number("bytes"))
    };
    all.iter().map(one).collect()
}

/// The same by find(1): an inode with several names counts once.
fn found(dir: &Path) -> (u64, u64) {
    let counted = script(
        dir,
        r#"find . -mindepth 1 -printf '%i %y %s\n' | sort -u |
          awk '{ files++ } $2 == "f" { bytes += $3 } END { printf "%d %d", files, bytes }'"#,
    );
    let mut numbers = counted.split_whitespace().map(|word| word.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn assert_listed(world: &World, names: &[&str]) {
    let listed = listed(world);
    assert_eq!(listed.len(), names.len(), "{listed:?}");
    for (name, files, bytes) in &listed {
        assert_eq!((*files, *bytes), found(&world.mnt.join(name)), "{name}");
    }
}

/// One of everything, in a subvolume and in clones of it that go ways of their own.
fn three(world: &World) -> [&'static str; 3] {
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir_all(at("source/dir/deep")).unwrap();
    fs::write(at("source/large"), noise(1, 300_000)).unwrap();
    for number in 0..30 {
        fs::write(at(&format!("source/dir/file-{number}")), noise(number, 2000)).unwrap();
    }
    script(&at("source"), "ln large dir/linked && ln -s large symlink && mkfifo fifo && mkdir empty");
    clone(&at("source"), &at("one"));
    clone(&at("one"), &at("two"));
    script(&at("two"), "rm -rf dir && truncate -s 12345 large && ln large again && rmdir empty");
    clone(&at("two"), &at("three"));
    script(&at("three"), "truncate -s 5M sparse && mkdir -p a/b/c && mv symlink a/b && rm again");
    ["one", "two", "three"]
}

#[test]
fn counts_are_what_find_sees() {
    let Some(world) = World::usual() else { return };
    let names = three(&world);
    world.sync();
    assert_listed(&world, &names);
    world.kill();
    world.mount();
    assert_listed(&world, &names);
    // A file without a name that is open is in no count, as find(1) does not see it.
    let open = File::open(world.mnt.join("one/large")).unwrap();
    fs::remove_file(world.mnt.join("one/large")).unwrap();
    fs::remove_file(world.mnt.join("one/dir/linked")).unwrap();
    assert_listed(&world, &names);
    drop(open);
    world.remount();
    assert_listed(&world, &names);
    world.assert_clean();
    world.close();
}

#[test]
fn what_is_removed_is_told_with_what_it_held() {
    let Some(world) = World::usual() else { return };
    three(&world);
    world.sync();
    let at = |name: &str| world.mnt.join(name);
    let held = ["one", "two"].map(|name| found(&at(name)));
    let rm = |more: &[&str]| {
        let (one, two) = (at("one"), at("two"));
        let words = ["rm".as_ref(), "--json".as_ref(), one.as_os_str(), two.as_os_str()];
        cairnfs(&words.into_iter().chain(more.iter().map(|word| word.as_ref())).collect::<Vec<_>>())
    };
    for dry in [true, false] {
        let said = rm(if dry { &["--dry-run"] } else { &[] });
        assert_eq!(said.code, 0, "{}", said.said());
        let told = object(&said);
        assert_eq!((&told["dry_run"], &told["error"]), (&Value::Bool(dry), &Value::Null));
        for (index, name) in ["one", "two"].iter().enumerate() {
            let one = &told["snapshots"][index];
            assert_eq!(one["name"], *name);
            assert_eq!(
                (one["files"].as_u64(), one["bytes"].as_u64()),
                (Some(held[index].0), Some(held[index].1))
            );
            assert_eq!(at(name).exists(), dry, "{name}");
        }
    }
    // What went before a failure is told with it.
    let (three, source) = (at("three"), at("source"));
    let said = cairnfs(&["rm".as_ref(), "--json".as_ref(), three.as_os_str(), source.as_os_str()]);
    let told = object(&said);
    assert_eq!((said.code, &told["exit_code"]), (2, &2.into()), "{}", said.said());
    assert!(told["error"].as_str().unwrap().contains("is no subvolume"), "{told}");
    assert_eq!(told["snapshots"].as_array().unwrap().len(), 1);
    assert!(!three.exists() && source.exists());
    world.close();
}

#[test]
fn status_says_what_holds_a_removed_subvolume_back() {
    let Some(world) = World::usual() else { return };
    three(&world);
    let dropped = || object(&world.ask(&["status", "--json"]))["dropped"].clone();
    assert_eq!(dropped(), Value::Array(Vec::new()));
    let open = File::open(world.mnt.join("one/large")).unwrap();
    let said = cairnfs(&["rm".as_ref(), world.mnt.join("one").as_os_str()]);
    assert_eq!(said.code, 0, "{}", said.said());
    let told = dropped();
    let one = &told[0];
    assert_eq!((&one["name"], &one["held_by"]), (&"one".into(), &"kernel".into()), "{told}");
    assert!(one["remembered"].as_u64().unwrap() > 0, "{told}");
    let text = world.ask(&["status"]);
    assert!(text.out.contains("one: the kernel remembers"), "{}", text.said());
    drop(open);
    wait_for("the removed subvolume to be reaped", || {
        world.sync();
        dropped() == Value::Array(Vec::new())
    });
    world.close();
}
