//! Wrong use: a sentence, the documented exit code, never a panic, and the store is as it was.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::data::noise;
use crate::skip::need_root;
use crate::sys;
use crate::world::{Outcome, World, cairnfs, command, program, run};

/// A command that is refused with this code and these words in its sentence.
fn refused(words: &[&dyn AsRef<std::ffi::OsStr>], code: i32, said: &str) {
    let words: Vec<OsString> = words.iter().map(|&word| word.as_ref().to_owned()).collect();
    check(&words, &cairnfs(&words), code, said);
}

fn check(words: &[OsString], outcome: &Outcome, code: i32, said: &str) {
    let all = outcome.said();
    assert_eq!(outcome.code, code, "{words:?}: {all}");
    assert!(outcome.err.contains(said), "{words:?} does not say `{said}`: {all}");
    assert!(!all.contains("panicked"), "{words:?}: {all}");
    assert!(outcome.err.trim().len() > 20, "{words:?} says too little: {all}");
}

/// Every file of the store but the lock and the log, with its contents.
fn fingerprint(store: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut all = Vec::new();
    for dir in [store.to_owned(), store.join("meta")] {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            let stays = name != "lock" && !name.to_string_lossy().starts_with("cairnfs.log");
            if stays && entry.file_type().unwrap().is_file() {
                all.push((name, fs::read(entry.path()).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// A store with a file in it, not mounted.
fn closed_store() -> Option<(World, Vec<u8>)> {
    let world = World::usual()?;
    let bytes = noise(3, 200_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    world.umount();
    Some((world, bytes))
}

fn assert_whole(world: &World, bytes: &[u8]) {
    world.mount();
    assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    world.assert_clean();
}

#[test]
fn wrong_words() {
    let Some((world, bytes)) = closed_store() else { return };
    let before = fingerprint(&world.store);
    let (store, mnt) = (&world.store, &world.mnt);
    refused(&[&"fly"], 2, "fly");
    refused(&[&"mount", store], 2, "required");
    refused(&[&"mount", store, mnt, &"more"], 2, "more");
    refused(&[&"mount", &"-o", &"fast", store, mnt], 2, "`fast` is not known");
    refused(&[&"mount", &"-o", &"commit=0", store, mnt], 2, "from 1 to 3600");
    refused(&[&"mount", &"-o", &"uid=1", store, mnt], 2, "owner of every file");
    refused(&[&"mount", &"--unknown", store, mnt], 2, "--unknown");
    refused(&[&"mount", &"-o", &"cache=1T", store, mnt], 2, "of the memory of this machine");
    refused(&[&"gc", &"--background", &"--dry-run", store], 2, "cannot be used with");
    refused(&[&"gc", &"--background", store], 2, "not mounted");
    refused(&[&"status", store, store], 2, "unexpected");
    refused(&[&"umount", mnt], 2, "not mounted");
    refused(&[&"umount", &"/proc"], 2, "type proc");
    let log = |command: &mut std::process::Command| run(command.env("CAIRNFS_LOG", "foo=bar=baz"));
    for outcome in [
        log(&mut world.mount_command()),
        log(command(program()).args(["mount", "--foreground"]).args([store, mnt])),
        log(command(program()).arg("status").arg(store)),
    ] {
        check(&[], &outcome, 2, "`foo=bar=baz` does not say what to log");
    }
    assert!(fingerprint(store) == before, "the store was changed");
    assert_whole(&world, &bytes);
}

/// With `--json` a failure is one object, of whatever kind it is.
#[test]
fn every_failure_is_one_object() {
    let Some((world, bytes)) = closed_store() else { return };
    let none = world.host().join("none");
    for word in ["status", "gc", "check", "repair"] {
        for (path, more, code) in
            [(&none, &[][..], 3), (&world.store, &["--fly"], 2), (&none, &["b", "c"], 2)]
        {
            let mut words = vec![OsString::from(word), "--json".into(), path.into()];
            words.extend(more.iter().map(OsString::from));
            let outcome = cairnfs(&words);
            assert_eq!(outcome.code, code, "{words:?}: {}", outcome.said());
            let object: serde_json::Value = serde_json::from_str(&outcome.out).expect("one JSON object");
            assert_eq!(object["exit_code"], code, "{words:?}: {object}");
            let sentence = object["error"].as_str().unwrap();
            assert!(outcome.err.contains(sentence.split_whitespace().next().unwrap()), "{object}");
        }
    }
    let log = run(command(program()).args(["gc", "--json"]).arg(&world.store).env("CAIRNFS_LOG", "loud"));
    assert!(log.code == 2 && log.out.contains(r#""exit_code":2"#), "{}", log.said());
    let help = cairnfs(&["gc", "--json", "--help"]);
    assert!(help.code == 0 && help.out.contains("Usage:") && !help.out.contains("exit_code"));
    assert_whole(&world, &bytes);
}

/// Ctrl-C ends a command as it would have by itself, after a sentence and, with `--json`, the one object. A store that the
/// command had open itself is closed in order.
#[test]
fn an_interrupted_command_says_so() {
    let Some(world) = World::usual() else { return };
    fs::write(world.mnt.join("file"), noise(3, 200_000)).unwrap();
    world.sync();
    for is_mounted in [true, false] {
        if !is_mounted {
            world.umount();
        }
        let held = world.hold_cycle("marked");
        let ended = held.interrupt(libc::SIGINT);
        assert_eq!(ended.status.signal(), Some(libc::SIGINT));
        let object: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("one JSON object");
        assert_eq!(object["exit_code"], 130, "{object}");
        let sentence = if is_mounted { "goes on to its end" } else { "was ended early" };
        assert!(object["error"].as_str().unwrap().contains(sentence), "{object}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted by SIGINT"));
    }
    world.mount();
    world.close();
}

/// A user who may not look at a store is told so, and not to make one in its place.
#[test]
fn no_permission_is_not_no_store() {
    let Some((world, bytes)) = closed_store() else { return };
    if !need_root("a look as another user") {
        return;
    }
    fs::set_permissions(world.store.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = world.store.parent().unwrap().join("program");
    fs::copy(program(), &copy).unwrap();
    let as_nobody = |word: &str, mnt: &[&Path]| {
        let mut user = command("setpriv");
        user.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg(word);
        let outcome = run(user.arg(&world.store).args(mnt));
        check(&[word.into()], &outcome, 7, "no permission to look at");
        assert!(!outcome.err.contains("mkfs"), "{}", outcome.said());
    };
    for word in ["status", "gc", "check", "sync", "repair"] {
        as_nobody(word, &[]);
    }
    as_nobody("mount", &[&world.mnt]);
    assert_whole(&world, &bytes);
}

#[test]
fn what_is_no_store() {
    let Some(world) = World::usual() else { return };
    let empty = world.host().join("empty");
    let file = world.host().join("file");
    let none = world.host().join("none");
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "text").unwrap();
    for word in ["status", "gc", "check", "sync"] {
        for path in [&empty, &file, &none] {
            refused(&[&word, path], 3, path.to_str().unwrap());
        }
    }
    for word in ["status", "gc", "check"] {
        let outcome = cairnfs(&[word.as_ref(), "--json".as_ref(), none.as_os_str()]);
        let object: serde_json::Value = serde_json::from_str(&outcome.out).expect("one JSON object");
        assert_eq!(object["exit_code"], 3, "{word}: {object}");
    }
    for path in [&empty, &file, &none] {
        refused(&[&"mount", path, &world.host()], 3, path.to_str().unwrap());
    }
    // The disk of the store may not be mounted.
    for path in [&empty, &none] {
        refused(&[&"mount", path, &world.host()], 3, "that disk is not mounted");
        refused(&[&"status", path], 3, "that disk is not mounted");
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "nothing was made in it");
    world.close();
}

#[test]
fn mount_points_that_do_not_fit() {
    let Some((world, bytes)) = closed_store() else { return };
    let before = fingerprint(&world.store);
    let store = &world.store;
    let file = world.host().join("file");
    fs::write(&file, "text").unwrap();
    refused(&[&"mount", store, &world.host().join("none")], 2, "does not exist");
    refused(&[&"mount", store, &file], 2, "not a directory");
    refused(&[&"mount", store, store], 2, "over itself");
    refused(&[&"mount", store, &store.join("packs")], 2, "over itself");
    refused(&[&"mount", store, &store.parent().unwrap()], 2, "over itself");
    let link = world.host().join("link");
    std::os::unix::fs::symlink(store, &link).unwrap();
    refused(&[&"mount", store, &link], 2, "over itself");
    assert!(fingerprint(store) == before, "the store was changed");
    assert_whole(&world, &bytes);
}

#[test]
fn class_07_a_store_that_is_open() {
    let Some(world) = World::usual() else { return };
    let bytes = noise(4, 300_000);
    fs::write(world.mnt.join("file"), &bytes).unwrap();
    let other = world.host().join("other");
    fs::create_dir(&other).unwrap();
    let holder = world.mnt.to_str().unwrap();
    refused(&[&"mount", &world.store, &other], 4, holder);
    refused(&[&"mount", &world.store, &world.mnt], 4, holder);
    refused(&[&"mkfs", &world.store], 2, "already a cairnfs store");
    // A second store in the same place.
    let second = world.host().join("second");
    assert_eq!(cairnfs(&["mkfs".as_ref(), "--reserve".as_ref(), "1M".as_ref(), second.as_os_str()]).code, 0);
    refused(&[&"mount", &second, &world.mnt], 4, world.store.to_str().unwrap());
    let held = File::open(world.mnt.join("file")).unwrap();
    refused(&[&"umount", &world.mnt], 4, "in use");
    drop(held);
    assert!(fs::read(world.mnt.join("file")).unwrap() == bytes);
    world.close();
}

#[test]
fn class_07_a_lock_that_somebody_holds() {
    let Some((world, bytes)) = closed_store() else { return };
    let lock = File::options().read(true).write(true).open(world.store.join("lock")).unwrap();
    sys::flock(&lock, libc::LOCK_EX | libc::LOCK_NB).unwrap();
    refused(&[&"status", &world.store], 4, world.store.to_str().unwrap());
    let outcome = run(&mut world.mount_command());
    assert_eq!(outcome.code, 4, "{}", outcome.said());
    assert!(!crate::world::is_mounted(&world.mnt));
    drop(lock);
    assert_whole(&world, &bytes);
}

/// `cairnfs.toml` with something else in it: every command says so, and putting the file back is all it takes.
#[test]
fn another_or_a_damaged_configuration() {
    let Some((world, bytes)) = closed_store() else { return };
    let toml = world.store.join("cairnfs.toml");
    let right = fs::read_to_string(&toml).unwrap();
    let cases = [
        (right.replace("format = 2", "format = 3"), "use a cairnfs that is as new as the store"),
        (right.replace("format = 2", "format = 1"), "copy its files into a new store"),
        (right.replace("format = 2", "format = \"new\""), "damaged"),
        (right.replace("uuid", "uvid"), "damaged"),
        (right[..right.len() / 2].to_owned(), "damaged"),
        (String::new(), "damaged"),
        ("\0\0\0\0".to_owned(), "damaged"),
        (right.replace("pack_size = 67108864", "pack_size = 7"), "impossible"),
    ];
    for (text, said) in cases {
        assert_ne!(text, right);
        fs::write(&toml, &text).unwrap();
        let before = fingerprint(&world.store);
        for word in ["status", "gc", "check"] {
            refused(&[&word, &world.store], 5, said);
        }
        refused(&[&"mount", &world.store, &world.mnt], 5, said);
        assert!(fingerprint(&world.store) == before, "the store was changed");
    }
    // Bytes that are no text at all.
    fs::write(&toml, [0xff, 0xfe, 0x00]).unwrap();
    refused(&[&"mount", &world.store, &world.mnt], 5, "damaged");
    fs::write(&toml, right).unwrap();
    assert_whole(&world, &bytes);
}

/// The database is damaged or gone: no panic, and nothing is mounted.
#[test]
fn a_damaged_database() {
    let Some((world, bytes)) = closed_store() else { return };
    let file = world.store.join("meta/cairnfs.redb");
    let right = fs::read(&file).unwrap();
    let zeros = vec![0; right.len()];
    for (what, wrong) in
        [("zeros", &zeros[..]), ("cut off", &right[..right.len() / 3]), ("noise", &noise(9, 70_000))]
    {
        fs::write(&file, wrong).unwrap();
        for words in [["status", ""], ["gc", ""], ["check", "--data"]] {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let outcome = world.ask(&words);
            let said = outcome.said();
            assert!(matches!(outcome.code, 1 | 6), "{what}: {words:?}: {said}");
            assert!(!said.contains("panicked"), "{what}: {words:?}: {said}");
        }
        let outcome = run(&mut world.mount_command());
        assert!(matches!(outcome.code, 1 | 6), "{what}: mount: {}", outcome.said());
        assert!(!outcome.said().contains("panicked"), "{what}: mount: {}", outcome.said());
        assert!(!crate::world::is_mounted(&world.mnt));
    }
    fs::write(&file, right).unwrap();
    assert_whole(&world, &bytes);
}

#[test]
fn mkfs_refuses_what_it_should() {
    let Some((world, bytes)) = closed_store() else { return };
    let before = fingerprint(&world.store);
    let full = world.host().join("full");
    let file = world.host().join("file");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("something"), "text").unwrap();
    fs::write(&file, "text").unwrap();
    refused(&[&"mkfs", &full], 2, "not empty");
    refused(&[&"mkfs", &world.store], 2, "already a cairnfs store");
    refused(&[&"mkfs", &file], 1, file.to_str().unwrap());
    refused(&[&"mkfs", &file.join("b/c")], 1, "file/b");
    refused(&[&"mkfs", &"--reserve", &"1000000T", &world.host().join("a/b/c")], 1, "--reserve");
    assert!(!world.host().join("a").exists(), "the directories above went with it");
    refused(&[&"mkfs", &"/proc/store"], 1, "/proc/store");
    let new = world.host().join("new");
    refused(&[&"mkfs", &"--chunk-size", &"5000", &new], 2, "power of two");
    refused(&[&"mkfs", &"--chunk-size", &"much", &new], 2, "not a size");
    refused(&[&"mkfs", &"--compression", &"zip", &new], 2, "zip");
    refused(&[&"mkfs", &"--reserve", &"1000000T", &new], 1, "--reserve");
    assert!(!new.exists(), "nothing is left behind");
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    assert!(fingerprint(&world.store) == before, "the store was changed");
    assert_whole(&world, &bytes);
}
