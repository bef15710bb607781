//! Protected subvolumes against a model that knows where each is and which flags there are.

use std::collections::BTreeMap;

use cairnfs::Result;
use cairnfs::fs::{ROOT_INO, RenameFlags, SetAttr};
use cairnfs::media::sim::SimMedia;
use cairnfs::sabotage::Protection;

use crate::random::{Random, seeds};
use crate::world::{CALLER, World, config, new_disk, protected, without};

const IMMUTABLE: u32 = 0x10;
const APPEND_ONLY: u32 = 0x20;

/// A subvolume: its root, where it is, and whether its root is immutable.
#[derive(Debug, Clone, Copy)]
struct Subvolume {
    root: u64,
    parent: u64,
    immutable: bool,
}

struct Run {
    disk: SimMedia,
    world: World,
    random: Random,
    plain: u64,
    group: u64,
    append_only: bool,
    subvolumes: BTreeMap<String, Subvolume>,
    made: u64,
}

fn errno<T>(result: Result<T>) -> i32 {
    result.map_or_else(|error| error.errno(), |_| 0)
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = new_disk();
        let world = World::open(&disk, &config()).unwrap();
        let (plain, group) = (world.mkdir(ROOT_INO, "plain"), world.mkdir(ROOT_INO, "group"));
        for name in ["file", "spare"] {
            let ino = world.create(plain, name);
            world.fs.write(ino, 0, b"stones", false).unwrap();
        }
        let (append_only, subvolumes) = (false, BTreeMap::new());
        Self { disk, world, random: Random::new(seed), plain, group, append_only, subvolumes, made: 0 }
    }

    fn is_protected(&self, of: &Subvolume) -> bool {
        let in_group = self.subvolumes.values().filter(|other| other.parent == self.group);
        let newest = in_group.map(|other| other.root >> 36).max();
        let is_sealed = self.append_only && of.parent == self.group && newest != Some(of.root >> 36);
        of.immutable || is_sealed
    }

    fn pick(&mut self) -> Option<(String, Subvolume)> {
        let index = self.random.below(self.subvolumes.len().max(1) as u64) as usize;
        self.subvolumes.iter().nth(index).map(|(name, of)| (name.clone(), *of))
    }

    fn make(&mut self) {
        let source = match self.pick() {
            Some((_, of)) if self.random.below(4) > 0 => of.root,
            _ => self.plain,
        };
        let (parent, immutable) =
            ([ROOT_INO, self.group][self.random.below(2) as usize], self.random.below(4) == 0);
        self.made += 1;
        let name = format!("s{}", self.made);
        let fs = &self.world.fs;
        match immutable {
            true => fs.wish_read_only(parent, name.as_bytes(), source, CALLER).unwrap(),
            false => fs.wish_clone(parent, name.as_bytes(), source, CALLER).unwrap(),
        }
        let root = fs.mkdir(parent, name.as_bytes(), CALLER, 0o755, 0).unwrap().ino;
        self.subvolumes.insert(name, Subvolume { root, parent, immutable });
    }

    fn step(&mut self) {
        let (what, picked) = (self.random.below(6), self.pick());
        match (what, picked) {
            (0, _) | (_, None) => self.make(),
            (1, _) => {
                self.append_only = !self.append_only;
                let flags = if self.append_only { APPEND_ONLY } else { 0 };
                self.world.fs.set_inode_flags(self.group, CALLER, flags).unwrap();
            }
            (2, Some((name, of))) => {
                let flags = if of.immutable { 0 } else { IMMUTABLE };
                self.world.fs.set_inode_flags(of.root, CALLER, flags).unwrap();
                self.subvolumes.insert(name, Subvolume { immutable: !of.immutable, ..of });
            }
            (3 | 4, Some((name, of))) => {
                let (to, flags) = (ROOT_INO + self.group - of.parent, RenameFlags::default());
                let moved = self.world.fs.rename(of.parent, name.as_bytes(), to, name.as_bytes(), flags);
                let is_kept = of.immutable || self.append_only && of.parent == self.group;
                assert_eq!(errno(moved), if is_kept { libc::EPERM } else { 0 }, "{name} moves");
                if !is_kept {
                    self.subvolumes.insert(name, Subvolume { parent: to, ..of });
                }
            }
            (_, Some((name, of))) => {
                let is_kept = of.immutable || self.append_only && of.parent == self.group;
                let expected = if is_kept { libc::EPERM } else { 0 };
                assert_eq!(errno(self.world.fs.check_drop(of.root, CALLER)), expected, "{name} may go");
                let gone = self.world.fs.drop_by_name(of.parent, name.as_bytes(), CALLER);
                assert_eq!(errno(gone), expected, "{name} goes");
                if !is_kept {
                    self.subvolumes.remove(&name);
                }
            }
        }
    }

    /// Tries every kind of change in each subvolume; what differs from the model.
    fn differences(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, of) in &self.subvolumes {
            let expected = if self.is_protected(of) { libc::EPERM } else { 0 };
            for (what, errno) in changes(&self.world, self.plain, of.root) {
                if errno != expected {
                    wrong.push(format!("{what} in {name}: {errno} instead of {expected}"));
                }
            }
        }
        wrong
    }

    fn reopen(mut self) -> Self {
        self.world.close().unwrap();
        self.world = World::open(&self.disk, &config()).unwrap();
        self
    }
}

/// Changes of every kind, each taken back if it succeeds.
fn changes(world: &World, plain: u64, root: u64) -> Vec<(&'static str, i32)> {
    let fs = &world.fs;
    let find = |name: &[u8]| fs.lookup(root, name).unwrap().ino;
    let (file, none) = (find(b"file"), RenameFlags::default());
    let source = fs.lookup(plain, b"file").unwrap().ino;
    let mode = SetAttr { mode: Some(0o640), ..SetAttr::default() };
    let size = SetAttr { size: Some(6), ..SetAttr::default() };
    let back = |done: Result<()>, back: &dyn Fn() -> Result<()>| done.and_then(|()| back());
    vec![
        ("write", errno(fs.write(file, 0, b"s", false))),
        ("chmod", errno(fs.setattr(file, CALLER, &mode))),
        ("truncate", errno(fs.setattr(file, CALLER, &size))),
        (
            "chmod of the root",
            errno(fs.setattr(root, CALLER, &SetAttr { mode: Some(0o755), ..SetAttr::default() })),
        ),
        ("setxattr", errno(fs.setxattr(file, b"user.a", b"x", 0, |_| true))),
        ("fallocate", errno(fs.fallocate(file, 0, 1, 0))),
        ("copy", errno(fs.copy_file_range(source, 0, file, 0, 6))),
        (
            "flags",
            errno(fs.set_inode_flags(file, CALLER, 0x40).and_then(|()| fs.set_inode_flags(file, CALLER, 0))),
        ),
        (
            "protecting a file",
            errno(
                fs.set_inode_flags(file, CALLER, IMMUTABLE)
                    .and_then(|()| fs.set_inode_flags(file, CALLER, 0)),
            ),
        ),
        (
            "make",
            errno(back(fs.mknod(root, b"n", CALLER, libc::S_IFREG, 0, 0).map(drop), &|| {
                fs.unlink(root, b"n")
            })),
        ),
        ("mkdir", errno(back(fs.mkdir(root, b"d", CALLER, 0o755, 0).map(drop), &|| fs.rmdir(root, b"d")))),
        ("link", errno(back(fs.link(file, root, b"l").map(drop), &|| fs.unlink(root, b"l")))),
        (
            "rename",
            errno(back(fs.rename(root, b"spare", root, b"r", none), &|| {
                fs.rename(root, b"r", root, b"spare", none)
            })),
        ),
        ("unlink", errno(back(fs.unlink(root, b"spare"), &|| fs.link(file, root, b"spare").map(drop)))),
    ]
}

fn run(seed: u64, steps: usize) -> Result<(), String> {
    let mut run = Run::new(seed);
    for step in 0..steps {
        run.step();
        if run.random.below(8) == 0 {
            run = run.reopen();
        }
        let wrong = run.differences();
        if !wrong.is_empty() {
            return Err(format!("seed {seed}, step {step}: {wrong:?}"));
        }
    }
    let report = run.world.check();
    assert!(report.findings.is_empty(), "seed {seed}: {:?}", report.findings);
    run.world.close().unwrap();
    Ok(())
}

#[test]
fn what_is_in_a_protected_subvolume_does_not_change_and_everything_else_may() {
    let _all = protected();
    for seed in seeds("what_is_in_a_protected_subvolume_does_not_change_and_everything_else_may", 41, 6) {
        run(seed, 60).unwrap();
    }
}

#[test]
fn without_asking_by_number_what_is_protected_changes() {
    let _out = without(&[Protection::ProtectedByNumber]);
    let what = run(41, 60).expect_err("nobody notices");
    println!("caught: ProtectedByNumber: {what}");
}

/// On directories that are no roots the flags concern the names in them and nothing below.
#[test]
fn on_ordinary_directories_the_flags_are_those_of_ext4() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let below = world.mkdir(plain, "below");
    let file = world.create(below, "file");
    world.clone_dir(plain, "sub").unwrap();
    let sub = world.fs.lookup(ROOT_INO, b"sub").unwrap().ino;
    let in_sub = world.fs.lookup(sub, b"below").unwrap().ino;
    for (dir, file) in [(below, file), (in_sub, world.fs.lookup(in_sub, b"file").unwrap().ino)] {
        let deep = world.mkdir(dir, "deep");
        for (flags, adds) in [(IMMUTABLE, libc::EPERM), (APPEND_ONLY, 0)] {
            world.fs.set_inode_flags(dir, CALLER, flags).unwrap();
            let name = format!("new{flags}");
            assert_eq!(errno(world.fs.mkdir(dir, name.as_bytes(), CALLER, 0o755, 0)), adds);
            assert_eq!(errno(world.fs.unlink(dir, b"file")), libc::EPERM);
            let rename = world.fs.rename(dir, b"file", deep, b"file", RenameFlags::default());
            assert_eq!(errno(rename), libc::EPERM);
            world.fs.write(file, 0, b"x", false).unwrap();
            world.create(deep, &name);
            world.fs.unlink(deep, name.as_bytes()).unwrap();
        }
        world.fs.set_inode_flags(dir, CALLER, 0).unwrap();
        world.fs.unlink(dir, b"file").unwrap();
    }
    world.close().unwrap();
}

/// What was acknowledged before is there, also after a crash; the flag is as durable as any other row.
#[test]
fn what_was_written_before_is_kept_and_the_flag_survives() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let root = world.clone_dir(plain, "sub").unwrap();
    let ino = world.create(root, "file");
    world.fs.write(ino, 0, b"staged", false).unwrap();
    world.fs.set_inode_flags(root, CALLER, IMMUTABLE).unwrap();
    assert_eq!(errno(world.fs.write(ino, 0, b"later!", false)), libc::EPERM);
    world.fs.sync().unwrap();
    let after = World::open(&disk.cut_at(disk.op_count(), 1), &config()).unwrap();
    let (ino, _) = (after.fs.lookup(root, b"file").unwrap().ino, ());
    assert_eq!(after.fs.read(ino, 0, 100).unwrap(), b"staged");
    assert_eq!(errno(after.fs.write(ino, 0, b"later!", false)), libc::EPERM);
    assert_eq!(after.fs.inode_flags(root).unwrap(), IMMUTABLE);
    // A clone of it is free, and was never shown the flag.
    let clone = after.clone_dir(root, "clone").unwrap();
    assert_eq!(after.fs.inode_flags(clone).unwrap(), 0);
    after.create(clone, "new");
    after.close().unwrap();
    world.close().unwrap();
}
