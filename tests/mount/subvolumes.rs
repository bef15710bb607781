//! Subvolumes as their users meet them: `cairnfs clone` and `cairnfs rm`, ordinary programs inside, and what is refused.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use crate::data::{Tree, noise};
use crate::programs::script;
use crate::skip::{need_programs, need_root};
use crate::sys;
use crate::world::{Outcome, World, cairnfs, command, program, run, tool, wait_for};

fn clone(source: &Path, target: &Path) -> Outcome {
    cairnfs(&["clone".as_ref(), source.as_os_str(), target.as_os_str()])
}

pub fn made(source: &Path, target: &Path) {
    let said = clone(source, target);
    assert_eq!(said.code, 0, "{}", said.said());
}

fn rm(path: &Path) -> Outcome {
    cairnfs(&["rm".as_ref(), path.as_os_str()])
}

/// One of everything.
fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("below/deep")).unwrap();
    fs::write(dir.join("file"), noise(1, 200_000)).unwrap();
    fs::write(dir.join("below/other"), noise(2, 5_000)).unwrap();
    fs::hard_link(dir.join("file"), dir.join("below/linked")).unwrap();
    symlink("below/other", dir.join("symlink")).unwrap();
    sys::mkfifo(&dir.join("fifo")).unwrap();
    sys::set_xattr(&dir.join("file"), "user.note", b"stones").unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"behind a hole", 1 << 20).unwrap();
}

/// All that can be seen of a tree but the numbers of its inodes.
fn picture(dir: &Path) -> String {
    script(
        dir,
        r"find . -mindepth 1 -printf '%P %y %m %U %G %n %s %T@ %l\n' | sort
          find . -type f -exec md5sum {} + | sort
          find . -print0 | sort -z | xargs -0 getfattr -hdm '^user'",
    )
}

fn world() -> Option<World> {
    let has_all = || need_programs(&["getfattr", "rsync"]);
    World::usual().filter(|_| has_all())
}

#[test]
fn a_clone_is_the_same_and_goes_its_own_way() {
    let Some(world) = world() else { return };
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir(at("source")).unwrap();
    fill(&at("source"));
    let before = picture(&at("source"));
    // Of an ordinary directory, of a subvolume, and of a clone.
    made(&at("source"), &at("one"));
    made(&at("one"), &at("two"));
    made(&at("two"), &at("three"));
    for name in ["source", "one", "two", "three"] {
        assert_eq!(picture(&at(name)), before, "{name}");
    }
    let numbers = ["one", "two", "three"].map(|name| fs::metadata(at(name).join("file")).unwrap().ino());
    assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2], "{numbers:?}");
    // Each is changed in another way, the middle one by a program that is in the middle of writing.
    let mut open = File::options().read(true).write(true).open(at("two/file")).unwrap();
    open.write_all(b"changed").unwrap();
    made(&at("two"), &at("four"));
    open.write_all(b" once more").unwrap();
    script(&at("one"), "rm -r below && mv file renamed && chmod 600 renamed && ln renamed again");
    script(
        &at("three"),
        "echo new > below/deep/new && truncate -s 10 file && setfattr -n user.note -v x file",
    );
    let begin = |name: &str, len: usize| {
        let mut bytes = vec![0; len];
        File::open(at(name)).unwrap().read_exact(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert_eq!(begin("two/file", 17), "changed once more");
    assert_eq!(begin("four/file", 7), "changed");
    assert_ne!(begin("four/file", 17), "changed once more");
    assert_eq!(picture(&at("source")), before);
    drop(open);
    let after = ["one", "two", "three", "four"].map(|name| picture(&at(name)));
    world.gc();
    world.remount();
    assert_eq!(["one", "two", "three", "four"].map(|name| picture(&at(name))), after);
    assert_eq!(
        fs::metadata(at("one/again")).unwrap().nlink(),
        3 - 1,
        "its other name went with its directory"
    );
    world.sync();
    world.kill();
    world.mount();
    assert_eq!(["one", "two", "three", "four"].map(|name| picture(&at(name))), after);
    world.close();
}

#[test]
fn rsync_into_a_clone_leaves_the_state_of_today() {
    let Some(world) = world() else { return };
    let at = |name: &str| world.mnt.join(name);
    let source = world.host().join("source");
    Tree::small(3).write(&source);
    fs::create_dir(at("empty")).unwrap();
    made(&at("empty"), &at("monday"));
    let rsync = |to: &str| {
        let (from, to) = (format!("{}/", source.display()), format!("{}/", at(to).display()));
        tool!("rsync", "-aHX", "--delete", from, to);
        tool!(
            "diff",
            "-r",
            "--no-dereference",
            source,
            at(to.trim_end_matches('/').rsplit('/').next().unwrap())
        );
    };
    rsync("monday");
    let monday = picture(&at("monday"));
    made(&at("monday"), &at("tuesday"));
    script(&source, "echo changed > added && rm -rf \"$(ls -d */ | head -1)\"");
    rsync("tuesday");
    assert_eq!(picture(&at("monday")), monday);
    let said = rm(&at("monday"));
    assert_eq!(said.code, 0, "{}", said.said());
    assert!(!at("monday").exists());
    world.gc();
    tool!("diff", "-r", "--no-dereference", source, at("tuesday"));
    world.close();
}

#[test]
fn a_subvolume_goes_at_once_and_its_space_comes_back() {
    let Some(world) = world() else { return };
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir(at("source")).unwrap();
    fill(&at("source"));
    made(&at("source"), &at("kept"));
    made(&at("source"), &at("gone"));
    fs::write(at("gone/own"), noise(9, 3_000_000)).unwrap();
    world.sync();
    let kept = picture(&at("kept"));
    // Whoever has something of it open goes on.
    let mut open = File::open(at("gone/file")).unwrap();
    let said = rm(&at("gone"));
    assert_eq!(said.code, 0, "{}", said.said());
    assert!(!at("gone").exists() && fs::read_dir(&world.mnt).unwrap().count() == 2);
    let mut bytes = Vec::new();
    open.seek(std::io::SeekFrom::Start(0)).unwrap();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == noise(1, 200_000));
    drop(open);
    wait_for("the reap", || {
        world.gc();
        world.figure("plain_bytes") < 3_000_000
    });
    assert_eq!(picture(&at("kept")), kept);
    // Without the command: file by file, and the last rmdir ends the subvolume.
    script(&world.mnt, "rm -rf kept");
    assert!(!at("kept").exists());
    // Its name is free again.
    made(&at("source"), &at("kept"));
    assert_eq!(picture(&at("kept")), kept);
    world.close();
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let Some(world) = world() else { return };
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir(at("source")).unwrap();
    fill(&at("source"));
    made(&at("source"), &at("sub"));
    let wrong = |said: Outcome, code: i32, word: &str| {
        assert!(said.code == code && said.err.contains(word), "{word}: {}", said.said());
    };
    // Nested, a part of one, what contains one, what exists, what is no directory, another file system.
    wrong(clone(&at("sub"), &at("sub/inside")), 2, "not nested");
    wrong(clone(&at("sub/below"), &at("part")), 2, "as a whole");
    wrong(clone(&world.mnt, &at("all")), 2, "subvolumes in it");
    wrong(clone(&at("sub"), &at("missing/name")), 1, "missing");
    wrong(clone(&at("source/file"), &at("other")), 2, "no directory");
    wrong(clone(&at("sub"), &world.host().join("outside")), 2, "one mount");
    wrong(cairnfs(&["clone".as_ref(), at("missing").as_os_str(), at("x").as_os_str()]), 1, "missing");
    wrong(cairnfs(&["clone".as_ref(), at("sub").as_os_str()]), 2, "");
    let target = at("source/file");
    wrong(cairnfs(&["clone".as_ref(), at("sub").as_os_str(), target.as_os_str()]), 2, "exists");
    for name in ["part", "all", "other"] {
        assert!(!at(name).exists(), "{name}");
        // The refused wish is nobody's any more.
        fs::create_dir(at(name)).unwrap();
        assert_eq!(fs::read_dir(at(name)).unwrap().count(), 0);
    }
    // rm of what is no subvolume.
    wrong(rm(&at("source")), 2, "no subvolume");
    wrong(rm(&at("sub/below")), 2, "no subvolume");
    wrong(rm(&at("sub/file")), 2, "no subvolume");
    wrong(rm(&at("missing")), 1, "missing");
    let dry = cairnfs(&["rm".as_ref(), "--dry-run".as_ref(), at("sub").as_os_str()]);
    assert!(dry.code == 0 && at("sub/file").exists(), "{}", dry.said());
    assert!(fs::remove_dir(at("sub")).is_err(), "a look allows nothing");
    // Names do not go across, and programs copy then.
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(fs::rename(at("sub/file"), at("moved"))), Some(libc::EXDEV));
    assert_eq!(errno(fs::hard_link(at("sub/file"), at("linked"))), Some(libc::EXDEV));
    tool!("mv", at("sub/file"), at("moved"));
    assert!(fs::read(at("moved")).unwrap() == noise(1, 200_000));
    // The subvolume itself has a name like any other directory.
    fs::rename(at("sub"), at("source/renamed")).unwrap();
    world.remount();
    assert!(fs::read(at("source/renamed/below/linked")).unwrap() == noise(1, 200_000));
    assert_eq!(
        fs::read_dir(at("source/renamed/..")).unwrap().count(),
        fs::read_dir(at("source")).unwrap().count()
    );
    world.close();
}

/// A command of a plain user with a path at its end.
fn as_user(words: &[&str], more: &[&str], path: &Path) -> Outcome {
    let mut command = command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    run(command.args(words).args(more).arg(path))
}

#[test]
fn users_clone_what_is_theirs() {
    if !need_root("to become another user") || !need_programs(&["setfattr"]) {
        return;
    }
    let Some(world) = World::new(crate::world::Setup { options: "allow_other", ..Default::default() }) else {
        return;
    };
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir(at("theirs")).unwrap();
    fs::create_dir(at("roots")).unwrap();
    for name in ["theirs", "roots"] {
        fs::create_dir(at(name).join("dir")).unwrap();
        fs::write(at(name).join("dir/file"), name).unwrap();
    }
    tool!("chown", "-R", "65534:65534", at("theirs"));
    let user = |words: &[&std::ffi::OsStr]| {
        let mut command = command("setpriv");
        run(command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program()).args(words))
    };
    let (own, clone) = (at("theirs/dir"), at("theirs/clone"));
    let said = user(&["clone".as_ref(), own.as_ref(), clone.as_ref()]);
    assert_eq!(said.code, 0, "{}", said.said());
    assert_eq!(fs::metadata(clone.join("file")).unwrap().uid(), 65_534);
    // What is root's, and where they may not write.
    let said = user(&["clone".as_ref(), at("roots/dir").as_ref(), at("theirs/x").as_ref()]);
    assert!(said.code == 1 && said.err.contains("owner"), "{}", said.said());
    let said = user(&["clone".as_ref(), own.as_ref(), at("roots/x").as_ref()]);
    assert_eq!(said.code, 1, "{}", said.said());
    let said = cairnfs(&["clone".as_ref(), own.as_os_str(), at("roots/clone").as_os_str()]);
    assert_eq!(said.code, 0, "{}", said.said());
    let said = user(&["rm".as_ref(), at("roots/clone").as_ref()]);
    assert_eq!(said.code, 1, "{}", said.said());
    assert!(at("roots/clone/file").exists());
    // A leave to remove everything is that of who asked for it: root's rmdir takes nothing with it.
    let said = as_user(
        &["setfattr", "-n", "cairnfs.drop", "-v"],
        &[&fs::metadata(&clone).unwrap().ino().to_string()],
        &at("theirs"),
    );
    assert_eq!(said.code, 0, "{}", said.said());
    assert_eq!(fs::remove_dir(&clone).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    // What cannot be reached cannot be cloned by its number.
    tool!("chmod", "700", at("roots"));
    tool!("chown", "65534:65534", at("roots/dir"));
    let number = format!("{} got", fs::metadata(at("theirs")).unwrap().ino());
    let said = as_user(&["setfattr", "-n", "cairnfs.clone", "-v"], &[&number], &at("roots/dir"));
    assert!(said.code != 0, "{}", said.said());
    let said = as_user(&["mkdir"], &[], &at("theirs/got"));
    assert!(said.code == 0 && fs::read_dir(at("theirs/got")).unwrap().count() == 0, "{}", said.said());
    let said = user(&["rm".as_ref(), clone.as_ref()]);
    assert_eq!(said.code, 0, "{}", said.said());
    assert!(!clone.exists());
    world.close();
}
