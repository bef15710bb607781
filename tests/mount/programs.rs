//! Programs that people run on a mount: rsync, cp, tar, git, SQLite, and what counts space.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::calls;
use crate::data::{Tree, noise, text};
use crate::skip::{need_programs, need_root};
use crate::sys;
use crate::world::{Setup, World, command, run, tool};

/// A mount as people have it, where data is not made of tiny chunks.
pub fn ordinary() -> Option<World> {
    World::new(Setup { mkfs: &["--reserve", "1M"], ..Setup::default() })
}

/// Runs a shell script in a directory; it has to succeed. Returns what it printed.
pub fn script(dir: &Path, text: &str) -> String {
    let said = run(command("sh").args(["-euc", text]).current_dir(dir).env("HOME", dir));
    assert_eq!(said.code, 0, "{text}: {}", said.said());
    said.out
}

/// A tree with everything that a backup of a system meets.
fn everything(dir: &Path) {
    Tree::small(5).write(dir);
    fs::hard_link(dir.join("d0/f00"), dir.join("d1/linked")).unwrap();
    symlink("d0/f00", dir.join("symlink")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    sys::mkfifo(&dir.join("fifo")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("odd \n name \u{fc}"), "odd").unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(&noise(9, 100_000), 3 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sys::set_xattr(&dir.join("d0/f00"), "user.comment", b"stones").unwrap();
    fs::set_permissions(dir.join("d2/f02"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::set_permissions(dir.join("d3"), PermissionsExt::from_mode(0o1770)).unwrap();
    tool!("setfacl", "-m", "u:12345:r,g:54321:rw", dir.join("d0/f04"));
    tool!("setfacl", "-d", "-m", "u:12345:rwx", dir.join("d1"));
    if need_root("files of others and devices") {
        std::os::unix::fs::chown(dir.join("d0/f12"), Some(12345), Some(54321)).unwrap();
        std::os::unix::fs::lchown(dir.join("symlink"), Some(12345), Some(54321)).unwrap();
        calls::mknod(&dir.join("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
    }
    // rsync takes times of the same second for equal.
    script(dir, "find . -depth -exec touch -hd '2020-01-02 03:04:05.678901234' {} +");
    tool!("touch", "-d", "1999-12-31 23:59:59.123456789", dir.join("d0/f08"), dir.join("empty"));
}

/// All that two copies of a tree have in common if they are the same.
fn picture(dir: &Path) -> String {
    let listing = r"
        find . -printf '%P %y %m %U %G %n %T@ %l\n' | sed 's/^\([^ ]* d .*\) [0-9]* \([^ ]* \)$/\1 \2/' | sort
        find . -type f -printf '%s %P\n' | sort
        find . -type f -exec md5sum {} + | sort
        find . ! -type l -print0 | sort -z | xargs -0 getfacl -np
        find . -print0 | sort -z | xargs -0 getfattr -hdm '^user' 2>/dev/null
        find . -samefile d0/f00 | sort";
    script(dir, listing)
}

/// Two pictures are compared line by line.
fn assert_same(found: &str, expected: &str, what: &str) {
    let differences: Vec<_> = expected.lines().zip(found.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(found == expected, "{what}: expected, found: {differences:#?}");
}

#[test]
fn rsync_keeps_everything_and_shares_inodes() {
    let Some(world) = ordinary().filter(|_| need_programs(&["rsync", "setfacl"])) else { return };
    let (source, group) = (world.host().join("source"), world.mnt.join("group"));
    fs::create_dir(&source).unwrap();
    everything(&source);
    fs::create_dir(&group).unwrap();
    let from = |dir: &Path| dir.join("");
    tool!("rsync", "-aHAXS", from(&source), group.join("1"));
    assert_same(&picture(&group.join("1")), &picture(&source), "the first copy");
    let second = picture(&source);
    tool!("rsync", "-aHAXS", "--link-dest=../1", from(&source), group.join("2"));
    for name in ["d0/f00", "d3/f03", "sparse"] {
        let inode = |n: &str| fs::metadata(group.join(n).join(name)).unwrap().ino();
        assert_eq!(inode("1"), inode("2"), "{name} is shared");
    }
    // A changed file gets an inode of its own, and the old snapshot keeps the old one.
    let old = fs::read(source.join("d3/f03")).unwrap();
    fs::write(source.join("d3/f03"), noise(77, 50_000)).unwrap();
    fs::remove_file(source.join("d2/f06")).unwrap();
    tool!("rsync", "-aHAXS", "--link-dest=../2", from(&source), group.join("3"));
    assert!(fs::read(group.join("1/d3/f03")).unwrap() == old);
    assert_ne!(
        fs::metadata(group.join("2/d3/f03")).unwrap().ino(),
        fs::metadata(group.join("3/d3/f03")).unwrap().ino()
    );
    tool!("rm", "-rf", group.join("1"));
    world.deletions_done();
    world.gc();
    world.remount();
    // Link counts go with the other snapshots.
    let counts = [" f ", " l ", " p ", " c "];
    let is_countless = |line: &&str| !counts.iter().any(|kind| line.contains(kind));
    let without_links = |picture: &str| picture.lines().filter(is_countless).collect::<Vec<_>>().join("\n");
    assert_same(&without_links(&picture(&group.join("2"))), &without_links(&second), "the second snapshot");
    // In place, with deletions, into the newest.
    fs::remove_dir_all(source.join("d1")).unwrap();
    let file = File::options().write(true).open(source.join("sparse")).unwrap();
    file.write_all_at(b"changed", 10 << 20).unwrap();
    drop(file);
    tool!("rsync", "-aHAX", "--inplace", "--no-whole-file", "--delete", from(&source), group.join("3"));
    assert!(!group.join("3/d1").exists());
    let again = tool!(
        "rsync",
        "-aHAXn",
        "--delete",
        "--itemize-changes",
        "--checksum",
        from(&source),
        group.join("3")
    );
    assert_eq!(again, "", "nothing is left to do");
    world.close();
}

#[test]
fn cp_keeps_holes_and_clones() {
    let Some(world) = ordinary().filter(|_| need_programs(&["setfacl"])) else { return };
    let source = world.host().join("source");
    fs::create_dir(&source).unwrap();
    everything(&source);
    let expected = picture(&source);
    for (n, options) in ["--reflink=auto", "--sparse=always"].into_iter().enumerate() {
        let copy = world.mnt.join(n.to_string());
        tool!("cp", "-a", options, source, copy);
        assert_same(&picture(&copy), &expected, options);
        let blocks = fs::metadata(copy.join("sparse")).unwrap().blocks() * 512;
        assert!(blocks < 2 << 20, "{options}: {blocks} bytes of a file with holes");
        // And from the mount to the mount.
        let clone = world.mnt.join(format!("clone {n}"));
        tool!("cp", "-a", options, copy, clone);
        assert_same(&picture(&clone), &expected, "a copy inside the mount");
    }
    tool!("cp", "-a", "--sparse=never", world.mnt.join("0/sparse"), world.mnt.join("clone"));
    world.sync();
    let clone = fs::metadata(world.mnt.join("clone")).unwrap();
    assert!(clone.blocks() * 512 < 2 << 20, "{} blocks of a clone with holes", clone.blocks());
    tool!("cmp", world.mnt.join("0/sparse"), world.mnt.join("clone"));
    world.remount();
    let back = world.host().join("back");
    tool!("cp", "-a", "--sparse=always", world.mnt.join("clone 1"), back);
    assert_same(&picture(&back), &expected, "a copy back");
    world.close();
}

#[test]
fn tar_there_and_back() {
    let Some(world) = ordinary().filter(|_| need_programs(&["setfacl", "tar"])) else { return };
    let source = world.host().join("source");
    fs::create_dir(&source).unwrap();
    everything(&source);
    let expected = picture(&source);
    let options = "--xattrs --xattrs-include='*' --acls --sparse --numeric-owner";
    for name in ["there", "back"] {
        fs::create_dir(world.mnt.join(name)).unwrap();
    }
    script(
        &source,
        &format!("tar c {options} . | tar xp {options} -C '{}'", world.mnt.join("there").display()),
    );
    world.remount();
    assert_same(&picture(&world.mnt.join("there")), &expected, "unpacked");
    script(
        &world.mnt,
        &format!("tar cf archive.tar {options} -C there . && tar xpf archive.tar {options} -C back"),
    );
    assert_same(&picture(&world.mnt.join("back")), &expected, "packed and unpacked again");
    world.close();
}

#[test]
fn git_clones_and_checks() {
    let Some(world) = ordinary().filter(|_| need_programs(&["git"])) else { return };
    let top = &world.mnt;
    Tree::small(7).write(&top.join("one"));
    let git = "git -c user.name=n -c user.email=e@e -c init.defaultBranch=main -c gc.auto=0";
    script(top, &format!("cd one && {git} init -q && {git} add . && {git} commit -qm first"));
    script(top, &format!("cd one && for n in 1 2 3; do echo $n >> d0/f00; {git} commit -qam $n; done"));
    script(top, "git clone -q one two && git clone -q --no-local one three && cd three && git gc -q");
    world.remount();
    for name in ["one", "two", "three"] {
        script(&top.join(name), "git fsck --full --strict");
        assert_eq!(script(&top.join(name), "git rev-list --count HEAD").trim(), "4");
        assert_eq!(script(&top.join(name), "git status --porcelain"), "", "{name}");
    }
    world.close();
}

const DATABASE: &str = r"
import sqlite3, sys
path, word = sys.argv[1:]
db = sqlite3.connect(path)
assert db.execute('pragma journal_mode=wal').fetchone()[0] == 'wal'
if word == 'write':
    db.execute('create table t (k integer primary key, v blob)')
    other = sqlite3.connect(path)
    for n in range(10):
        with db:
            db.executemany('insert into t values (?, ?)', ((n * 50 + i, bytes([n]) * 700) for i in range(50)))
        # A second connection sees each commit, through the shared memory of the log.
        assert other.execute('select count(*) from t').fetchone()[0] == n * 50 + 50
    with db:
        db.execute('delete from t where k % 3 = 0')
    db.execute('pragma wal_checkpoint(truncate)')
    with db:
        db.execute('update t set v = ? where k = 1', (b'last',))
print(db.execute('pragma integrity_check').fetchone()[0], db.execute('select count(*), sum(length(v)) from t').fetchone())
";

#[test]
fn sqlite_with_a_write_ahead_log() {
    let Some(world) = ordinary().filter(|_| need_programs(&["python3"])) else { return };
    let path = world.mnt.join("database");
    let python = |word: &str| {
        let said = run(command("python3").args(["-c", DATABASE]).arg(&path).arg(word));
        assert_eq!(said.code, 0, "{}", said.said());
        said.out
    };
    let written = python("write");
    assert_eq!(written, format!("ok (333, {})\n", 332 * 700 + 4));
    world.gc();
    world.remount();
    assert_eq!(python("read"), written);
    world.close();
}

#[test]
fn find_du_and_ls_agree() {
    let Some(world) = ordinary() else { return };
    let dir = world.mnt.join("dir");
    Tree::small(8).write(&dir);
    fs::write(dir.join("text"), text(1, 1 << 20)).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(&noise(9, 200_000), 5 << 20).unwrap();
    sparse.set_len(50 << 20).unwrap();
    drop(sparse);
    fs::hard_link(dir.join("d0/f00"), dir.join("linked")).unwrap();
    for _ in 0..2 {
        world.sync();
        let number = |text: String| text.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        let du = number(tool!("du", "-s", "-B512", dir));
        let found = script(&dir, "find . -printf '%i %b\\n' | sort -u | awk '{ s += $2 } END { print s }'");
        assert_eq!(number(found), du, "blocks by find and by du");
        let listed = script(&dir, "ls -s --block-size=512 sparse text | awk '{ s += $1 } END { print s }'");
        let stated = script(&dir, "stat -c %b sparse text | awk '{ s += $1 } END { print s }'");
        assert_eq!(listed, stated, "blocks by ls and by stat");
        let apparent = number(tool!("du", "-s", "--apparent-size", "-B1", dir));
        let sizes = script(
            &dir,
            "find . -printf '%i %s %y\\n' | sort -u | awk '$3 == \"f\" { s += $2 } END { print s }'",
        );
        let directories = 4096 * number(script(&dir, "find . -type d | wc -l"));
        assert_eq!(apparent, number(sizes) + directories, "bytes");
        let free = |path: &Path| number(script(path, "df --output=size -B1 . | tail -1"));
        assert_eq!(free(&world.mnt), free(&world.store), "the size that df shows is the host's");
        world.remount();
    }
    world.close();
}
