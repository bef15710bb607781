//! Subvolumes: random operations in several of them, their clones included, against a model in which a clone is a copy
//! of everything; and what clones, drops and first writes promise while a cycle runs and where the power goes.

use std::collections::BTreeMap;

use cairnfs::Result;
use cairnfs::fs::{Caller, ROOT_INO, RenameFlags, SetAttr};
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::rows::{Extent, content_extent_key, decode_content_key};
use cairnfs::meta::{Counter, Table};

use crate::random::{self, Random, seeds};
use crate::world::{CALLER, World, config, new_disk, protected};

const NAMES: u64 = 8;
const SIZE: u64 = 120_000;

#[derive(Debug, Clone, Default, PartialEq)]
struct File {
    bytes: Vec<u8>,
    mode: u32,
    attributes: BTreeMap<String, Vec<u8>>,
}

/// Files by their numbers, and the names that each has.
#[derive(Debug, Clone, Default, PartialEq)]
struct Tree {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
}

impl World {
    /// What `cairnfs clone` asks for.
    pub fn clone_dir(&self, source: u64, name: &str) -> Result<u64> {
        self.fs.wish_clone(ROOT_INO, name.as_bytes(), source, CALLER)?;
        let ino = self.fs.mkdir(ROOT_INO, name.as_bytes(), CALLER, 0o755, 0)?.ino;
        self.fs.forget(ino, u64::MAX);
        Ok(ino)
    }

    /// What `cairnfs rm` asks for.
    pub fn drop_subvolume(&self, root: u64, name: &str) -> Result<()> {
        self.fs.allow_drop(root, CALLER)?;
        self.fs.rmdir_as(ROOT_INO, name.as_bytes(), CALLER).map(drop)
    }

    /// Everything that waits to be reaped.
    pub fn reap_subvolumes(&self) {
        self.fs.sync().unwrap();
        for _ in 0..4 {
            while self.fs.reap_subvolumes().unwrap() {}
            self.fs.sync().unwrap();
        }
    }

    fn file_in(&self, dir: u64, name: &str) -> Result<u64> {
        let ino = self.fs.lookup(dir, name.as_bytes())?.ino;
        self.fs.forget(ino, 1);
        Ok(ino)
    }

    pub fn save_in(&self, dir: u64, name: &str, bytes: &[u8]) -> u64 {
        let ino = self.create(dir, name);
        self.fs.write(ino, 0, bytes, false).unwrap();
        self.fs.forget(ino, 1);
        ino
    }

    pub fn rows(&self, table: Table) -> usize {
        let mut rows = 0;
        let all = std::ops::Bound::Unbounded;
        let count = |_: &[u8], _: &[u8]| {
            rows += 1;
            Ok(true)
        };
        self.store.layers().scan(table, all, all, count).unwrap();
        rows
    }
}

struct Run {
    disk: SimMedia,
    world: World,
    random: Random,
    trees: BTreeMap<String, Tree>,
    durable: BTreeMap<String, Tree>,
    steps: Vec<String>,
    made: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = new_disk();
        let world = World::open(&disk, &config()).unwrap();
        let dir = world.mkdir(ROOT_INO, "plain");
        world.save_in(dir, "n0", &random::content(1, 20_000));
        let mut first = Tree::default();
        let file = File { bytes: random::content(1, 20_000), mode: 0o644, ..File::default() };
        first.files.insert(0, file);
        first.names.insert("n0".to_owned(), 0);
        world.clone_dir(dir, "t0").unwrap();
        let trees = BTreeMap::from([("plain".to_owned(), first.clone()), ("t0".to_owned(), first)]);
        Self {
            disk,
            world,
            random: Random::new(seed),
            durable: trees.clone(),
            trees,
            steps: Vec::new(),
            made: 1,
        }
    }

    fn tree(&mut self) -> (String, u64) {
        let index = self.random.below(self.trees.len() as u64) as usize;
        let name = self.trees.keys().nth(index).unwrap().clone();
        let dir = self.world.find(&name).unwrap();
        (name, dir)
    }

    fn some_file(&mut self) -> Option<(String, u64, String, u64)> {
        let (tree, dir) = self.tree();
        let names = &self.trees[&tree].names;
        let index = self.random.below(names.len().max(1) as u64) as usize;
        let (name, number) = names.iter().nth(index).map(|(name, number)| (name.clone(), *number))?;
        Some((tree, dir, name, number))
    }

    fn said(&mut self, step: String) {
        self.steps.push(step);
    }

    fn file(&mut self, tree: &str, number: u64) -> &mut File {
        self.trees.get_mut(tree).unwrap().files.get_mut(&number).unwrap()
    }

    fn create(&mut self) {
        let ((tree, dir), name) = (self.tree(), format!("n{}", self.random.below(NAMES)));
        self.said(format!("create {tree}/{name}"));
        let made = self.world.fs.mknod(dir, name.as_bytes(), CALLER, 0o644, 0, 0);
        let of = self.trees.get_mut(&tree).unwrap();
        assert_eq!(made.is_ok(), !of.names.contains_key(&name));
        if let Ok(attr) = made {
            self.world.fs.forget(attr.ino, 1);
            let number = of.files.keys().last().map_or(0, |last| last + 1);
            of.names.insert(name, number);
            of.files.insert(number, File { mode: 0o644, ..File::default() });
        }
    }

    fn write(&mut self) {
        let Some((tree, dir, name, number)) = self.some_file() else { return };
        let (offset, len) = (self.random.below(SIZE), 1 + self.random.below(40_000) as usize);
        let data = random::content(self.random.below(6), len);
        self.said(format!("write {tree}/{name} {offset}+{len}"));
        let ino = self.world.file_in(dir, &name).unwrap();
        self.world.fs.write(ino, offset, &data, false).unwrap();
        let file = self.file(&tree, number);
        let end = offset as usize + len;
        file.bytes.resize(file.bytes.len().max(end), 0);
        file.bytes[offset as usize..end].copy_from_slice(&data);
    }

    fn change(&mut self) {
        let Some((tree, dir, name, number)) = self.some_file() else { return };
        let ino = self.world.file_in(dir, &name).unwrap();
        let (what, size) = (self.random.below(4), self.random.below(SIZE));
        self.said(format!("change {what} of {tree}/{name}, {size}"));
        let fs = self.world.fs.clone();
        let file = self.file(&tree, number);
        let attribute = format!("user.{}", size % 3);
        match what {
            0 => {
                fs.setattr(ino, CALLER, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
                file.bytes.resize(size as usize, 0);
            }
            1 => {
                let mode = (size % 0o1000) as u32;
                fs.setattr(ino, CALLER, &SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
                file.mode = mode;
            }
            2 => {
                fs.setxattr(ino, attribute.as_bytes(), &size.to_le_bytes(), 0, |_| true).unwrap();
                file.attributes.insert(attribute, size.to_le_bytes().to_vec());
            }
            _ => {
                let removed = fs.removexattr(ino, attribute.as_bytes());
                assert_eq!(removed.is_ok(), file.attributes.remove(&attribute).is_some());
            }
        }
    }

    fn names(&mut self) {
        let Some((tree, dir, name, number)) = self.some_file() else { return };
        let (what, other) = (self.random.below(3), format!("n{}", self.random.below(NAMES)));
        self.said(format!("names {what} {tree}/{name} {other}"));
        let ino = self.world.file_in(dir, &name).unwrap();
        let (fs, names) = (&self.world.fs, (name.as_bytes(), other.as_bytes()));
        let of = self.trees.get_mut(&tree).unwrap();
        match what {
            0 => {
                fs.unlink(dir, names.0).unwrap();
                of.names.remove(&name);
            }
            1 => {
                let linked = fs.link(ino, dir, names.1);
                assert_eq!(linked.is_ok(), !of.names.contains_key(&other));
                of.names.entry(other).or_insert(number);
                fs.forget(ino, u64::from(linked.is_ok()));
            }
            _ => {
                fs.rename(dir, names.0, dir, names.1, RenameFlags::default()).unwrap();
                if of.names.get(&other) != Some(&number) {
                    of.names.remove(&name);
                    of.names.insert(other, number);
                }
            }
        }
        let named: Vec<u64> = of.names.values().copied().collect();
        of.files.retain(|number, _| named.contains(number));
    }

    fn copy_range(&mut self) {
        let (Some(from), Some(to)) = (self.some_file(), self.some_file()) else { return };
        if from == to || (from.0 == to.0 && from.3 == to.3) {
            return;
        }
        let (at, into, len) = (self.random.below(SIZE), self.random.below(SIZE), self.random.below(50_000));
        self.said(format!("copy {}/{} {at} -> {}/{} {into} +{len}", from.0, from.2, to.0, to.2));
        let inos = (self.world.file_in(from.1, &from.2).unwrap(), self.world.file_in(to.1, &to.2).unwrap());
        let copied = self.world.fs.copy_file_range(inos.0, at, inos.1, into, len).unwrap() as usize;
        let part = self.file(&from.0, from.3).bytes.get(at as usize..).unwrap_or_default();
        let part = part[..copied.min(part.len())].to_vec();
        let file = self.file(&to.0, to.3);
        if copied > 0 {
            let end = into as usize + copied;
            file.bytes.resize(file.bytes.len().max(end), 0);
            file.bytes[into as usize..end].copy_from_slice(&part);
        }
    }

    fn clone_one(&mut self) {
        let (tree, dir) = self.tree();
        if self.trees.len() > 6 {
            return;
        }
        let name = format!("t{}", self.made);
        self.made += 1;
        self.said(format!("clone {tree} {name}"));
        let cloned = self.world.clone_dir(dir, &name);
        cloned.unwrap_or_else(|error| panic!("{error:?} ({dir:#x}) after\n{}", self.steps.join("\n")));
        let content = self.trees[&tree].clone();
        self.trees.insert(name, content);
        self.durable = self.trees.clone();
    }

    fn drop_one(&mut self) {
        let (tree, dir) = self.tree();
        if tree == "plain" || self.trees.len() < 3 {
            return;
        }
        self.said(format!("drop {tree}"));
        self.world.drop_subvolume(dir, &tree).unwrap();
        self.trees.remove(&tree);
    }

    fn power_cut(&mut self) {
        self.said("power cut".to_owned());
        self.world.fs.sync().unwrap();
        self.durable = self.trees.clone();
        let at = self.disk.cut_at(self.disk.op_count(), self.random.draw());
        let world = World::open(&at, &config()).unwrap();
        self.disk = at;
        std::mem::replace(&mut self.world, world).close().unwrap();
        self.trees = self.durable.clone();
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..14 => self.create(),
            14..34 => self.write(),
            34..48 => self.change(),
            48..62 => self.names(),
            62..70 => self.copy_range(),
            70..78 => self.clone_one(),
            78..83 => self.drop_one(),
            83..90 => {
                self.said("sync".to_owned());
                self.world.fs.sync().unwrap();
            }
            90..93 => {
                self.said("cycle".to_owned());
                self.world.collector.run_cycle(false).unwrap();
            }
            93..97 => {
                self.said("reap".to_owned());
                self.world.fs.reap_subvolumes().unwrap();
            }
            97..98 => self.power_cut(),
            _ => self.compare(),
        }
    }

    fn compare(&self) {
        for (name, tree) in &self.trees {
            let dir = self.world.find(name).unwrap();
            let (mut found, mut numbers) = (Tree::default(), BTreeMap::new());
            let mut entries = Vec::new();
            let each = &mut |entry: &cairnfs::fs::DirEntry<'_>| {
                entries.push((String::from_utf8_lossy(entry.name).into_owned(), entry.ino));
                true
            };
            self.world.fs.readdir(dir, 0, each).unwrap();
            for (entry, ino) in entries.into_iter().filter(|(entry, _)| !entry.starts_with('.')) {
                assert_eq!(self.world.file_in(dir, &entry).unwrap(), ino);
                let number =
                    *numbers.entry(ino).or_insert_with(|| tree.names.get(&entry).copied().unwrap_or(99));
                found.names.insert(entry, number);
                let attr = self.world.fs.getattr(ino).unwrap();
                let names = self.world.fs.listxattr(ino).unwrap();
                let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                let attributes = names.map(|name| {
                    let value = self.world.fs.getxattr(ino, name).unwrap();
                    (String::from_utf8(name.to_vec()).unwrap(), value)
                });
                let (bytes, mode) = (self.world.read(ino).unwrap(), attr.mode & 0o7777);
                found.files.insert(number, File { bytes, mode, attributes: attributes.collect() });
                let links = tree.names.values().filter(|other| **other == number).count();
                assert_eq!(attr.nlink as usize, links, "{name}: links of inode {ino}");
            }
            if found != *tree {
                let same = |number: &u64| found.files.get(number) == tree.files.get(number);
                let wrong: Vec<_> = tree.files.keys().filter(|number| !same(number)).collect();
                panic!(
                    "{name}: {:?} is not {:?}; files {wrong:?}; after\n{}",
                    found.names,
                    tree.names,
                    self.steps.join("\n")
                );
            }
        }
    }
}

#[test]
fn each_clone_is_a_copy_of_its_own() {
    let _all = protected();
    let steps = std::env::var("CAIRNFS_SUBVOLUME_STEPS").map_or(300, |word| word.parse().unwrap());
    for seed in seeds("subvolumes", 6_000, 24) {
        let mut run = Run::new(seed);
        for _ in 0..steps {
            run.step();
        }
        run.compare();
        run.world.reap_subvolumes();
        run.compare();
        let report = run.world.check();
        assert!(report.is_clean(), "seed {seed}: {report:?}");
        // Nothing is left of what was dropped.
        for name in run.trees.keys().filter(|name| *name != "plain") {
            run.world.drop_subvolume(run.world.find(name).unwrap(), name).unwrap();
        }
        run.world.reap_subvolumes();
        run.world.fs.drain_orphans().unwrap();
        for table in [
            Table::SubInodes,
            Table::SubDirents,
            Table::SubXattrs,
            Table::SubExtents,
            Table::Owned,
            Table::Subvolumes,
        ] {
            assert_eq!(
                run.world.rows(table),
                0,
                "seed {seed}: rows of {}, after\n{}",
                table.name(),
                run.steps.join("\n")
            );
        }
        run.world.close().unwrap();
    }
}

#[test]
fn what_has_no_name_when_its_subvolume_is_cloned_is_not_kept_by_the_clone() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let source = world.clone_dir(plain, "source").unwrap();
    let ino = world.create(source, "open");
    world.fs.write(ino, 0, &random::content(3, 50_000), false).unwrap();
    world.fs.unlink(source, b"open").unwrap();
    world.clone_dir(source, "clone").unwrap();
    assert_eq!(world.read(ino).unwrap().len(), 50_000, "it is still open");
    world.fs.forget(ino, u64::MAX);
    world.fs.drain_orphans().unwrap();
    // What several branches hide goes with an audit, which comes after a drop.
    let other = world.clone_dir(plain, "other").unwrap();
    world.drop_subvolume(other, "other").unwrap();
    world.reap_subvolumes();
    assert_eq!((world.rows(Table::SubExtents), world.rows(Table::Orphans)), (0, 0));
    assert!(world.check().is_clean());
    world.close().unwrap();
}

#[test]
fn a_subvolume_that_its_directory_does_not_name_is_not_taken_for_a_dropped_one() {
    let _all = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let root = world.clone_dir(plain, "kept").unwrap();
    let file = world.save_in(root, "file", b"kept");
    world.fs.sync().unwrap();
    let lose_name = |txn: &mut cairnfs::meta::Txn<'_>, _: &mut cairnfs::meta::Sums| {
        let rows = txn.rows(Table::Dirents, &[0], &[0xff], usize::MAX)?;
        let (name, _) = rows.iter().find(|(key, _)| key.ends_with(b"kept")).unwrap();
        txn.remove_range(Table::Dirents, name, &[name, &[0][..]].concat(), 1).map(drop)
    };
    world.store.commits.rewrite(true, lose_name).unwrap();
    world.close().unwrap();
    let world = World::open(&disk, &config()).unwrap();
    world.reap_subvolumes();
    assert_eq!(world.read(file).unwrap(), b"kept");
    world.close().unwrap();
}

#[test]
fn a_copy_that_was_cut_off_is_counted_once() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let source = world.clone_dir(plain, "source").unwrap();
    let file = world.save_in(source, "file", &random::content(5, 50_000));
    world.fs.sync().unwrap();
    world.clone_dir(source, "clone").unwrap();
    world.fs.sync().unwrap();
    // What a power cut leaves between two steps of the first write.
    let leaf = world.store.layers().subvolumes.get(file >> 36).unwrap().leaf;
    let cut_off = |txn: &mut cairnfs::meta::Txn<'_>, sums: &mut cairnfs::meta::Sums| {
        for (key, row) in txn.rows(Table::SubExtents, &[0], &[0xff], usize::MAX)? {
            let (local, _, offset) = decode_content_key(&key)?;
            txn.put(Table::SubExtents, &content_extent_key(local, leaf, offset), &row);
            sums[Counter::ReferencedBytes as usize] += Extent::decode(offset, &row)?.len as i64;
        }
        Ok(())
    };
    world.store.commits.rewrite(true, cut_off).unwrap();
    world.fs.write(file, 10, b"first", false).unwrap();
    world.fs.sync().unwrap();
    let mut referenced = 0;
    let all = std::ops::Bound::Unbounded;
    let add = |key: &[u8], row: &[u8]| {
        referenced += Extent::decode(decode_content_key(key)?.2, row)?.len;
        Ok(true)
    };
    world.store.layers().scan(Table::SubExtents, all, all, add).unwrap();
    assert_eq!(world.store.commits.counter(Counter::ReferencedBytes), referenced);
    world.close().unwrap();
}

#[test]
fn wishes_for_clones_do_not_pile_up_and_count_for_owners_alone() {
    let _all = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let plain = world.mkdir(ROOT_INO, "plain");
    let user = Caller { uid: 1000, ..CALLER };
    let own = world.fs.mkdir(ROOT_INO, b"own", user, 0o755, 0).unwrap().ino;
    for number in 0..3_000 {
        world.fs.wish_clone(ROOT_INO, format!("never{number}").as_bytes(), own, user).unwrap();
    }
    world.clone_dir(plain, "clone").unwrap();
    assert_eq!(world.rows(Table::Subvolumes), 2, "two rows of one subvolume");
    world.fs.wish_clone(ROOT_INO, b"late", own, user).unwrap();
    let given = SetAttr { uid: Some(0), ..SetAttr::default() };
    world.fs.setattr(own, CALLER, &given).unwrap();
    let refused = world.fs.mkdir(ROOT_INO, b"late", user, 0o755, 0);
    assert!(matches!(refused, Err(cairnfs::Error::Posix(libc::EPERM))), "{refused:?}");
    world.close().unwrap();
}
