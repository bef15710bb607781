//! Random operations on the filesystem and on a model of it: a map from names to arrays of bytes.
//!
//! The model knows nothing of chunks, batches or cycles. Commits, cycles, and closing and opening again are operations
//! like all others and may change nothing that can be seen.

use std::collections::BTreeMap;

use cairnfs::fs::{ROOT_INO, RenameFlags, SetAttr};

use crate::random::{self, Random, seeds};
use crate::world::{CALLER, World, config, new_disk, protected};

const NAMES: u64 = 12;
const SIZE: u64 = 300_000;

struct Run {
    random: Random,
    world: World,
    files: BTreeMap<String, Vec<u8>>,
    steps: Vec<String>,
}

impl Run {
    fn name(&mut self) -> String {
        format!("file{}", self.random.below(NAMES))
    }

    fn existing(&mut self) -> Option<String> {
        let index = self.random.below(self.files.len().max(1) as u64) as usize;
        self.files.keys().nth(index).cloned()
    }

    fn ino(&self, name: &str) -> u64 {
        self.world.find(name).unwrap()
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..15 => self.create(),
            15..45 => self.write(),
            45..48 => self.patch(),
            48..52 => self.truncate(),
            52..58 => self.punch(),
            58..66 => self.clone_range(),
            66..72 => self.rename(),
            72..80 => self.unlink(),
            80..86 => self.link_and_unlink(),
            86..94 => {
                self.steps.push("sync".to_owned());
                self.world.fs.sync().unwrap();
            }
            94..97 => {
                self.steps.push("cycle".to_owned());
                self.world.collector.run_cycle(false).unwrap();
            }
            _ => self.compare_one(),
        }
    }

    fn create(&mut self) {
        let name = self.name();
        self.steps.push(format!("create {name}"));
        let made = self.world.fs.mknod(ROOT_INO, name.as_bytes(), CALLER, 0o644, 0, 0);
        assert_eq!(made.is_ok(), !self.files.contains_key(&name));
        if let Ok(attr) = made {
            self.world.fs.forget(attr.ino, 1);
            self.files.insert(name, Vec::new());
        }
    }

    fn write(&mut self) {
        let Some(name) = self.existing() else { return };
        let offset = self.random.below(SIZE);
        let len = match self.random.below(3) {
            0 => self.random.below(300),
            1 => self.random.below(20_000),
            _ => self.random.below(150_000),
        } as usize;
        // Few kinds of content: much of it is there already. Kind 0 is zeros.
        let kind = self.random.below(6);
        let data = if kind == 0 { vec![0; len] } else { random::content(kind, len) };
        self.steps.push(format!("write {name} {offset}+{len} kind {kind}"));
        self.world.fs.write(self.ino(&name), offset, &data, false).unwrap();
        let Some(file) = self.files.get_mut(&name) else { return };
        if !data.is_empty() {
            let end = offset as usize + len;
            file.resize(file.len().max(end), 0);
            file[offset as usize..end].copy_from_slice(&data);
        }
    }

    /// A small change that is waited for.
    fn patch(&mut self) {
        let Some(name) = self.existing() else { return };
        for _ in 0..1 + self.random.below(3) {
            let data = random::content(self.random.below(6), 1 + self.random.below(2_000) as usize);
            let file = self.files.get_mut(&name).unwrap();
            let offset = self.random.below(file.len() as u64 + 1);
            self.steps.push(format!("patch {name} {offset}+{}", data.len()));
            self.world.fs.write(self.world.find(&name).unwrap(), offset, &data, false).unwrap();
            self.world.fs.fsync(self.world.find(&name).unwrap()).unwrap();
            let end = offset as usize + data.len();
            file.resize(file.len().max(end), 0);
            file[offset as usize..end].copy_from_slice(&data);
        }
    }

    fn truncate(&mut self) {
        let Some(name) = self.existing() else { return };
        let size = self.random.below(SIZE);
        self.steps.push(format!("truncate {name} {size}"));
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.world.fs.setattr(self.ino(&name), CALLER, &set).unwrap();
        self.files.entry(name).and_modify(|file| file.resize(size as usize, 0));
    }

    fn punch(&mut self) {
        let Some(name) = self.existing() else { return };
        let (offset, len) = (self.random.below(SIZE), 1 + self.random.below(60_000));
        self.steps.push(format!("punch {name} {offset}+{len}"));
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.world.fs.fallocate(self.ino(&name), offset, len, mode).unwrap();
        if let Some(file) = self.files.get_mut(&name) {
            let (from, to) = ((offset as usize).min(file.len()), ((offset + len) as usize).min(file.len()));
            file[from..to].fill(0);
        }
    }

    fn clone_range(&mut self) {
        let (Some(from), Some(to)) = (self.existing(), self.existing()) else { return };
        let (at, into, len) = (self.random.below(SIZE), self.random.below(SIZE), self.random.below(100_000));
        self.steps.push(format!("clone {from} {at} -> {to} {into} +{len}"));
        let copied = self.world.fs.copy_file_range(self.ino(&from), at, self.ino(&to), into, len);
        let source = self.files[&from].clone();
        let end = ((at + len) as usize).min(source.len());
        let part = source.get(at as usize..end).unwrap_or_default().to_vec();
        let overlaps = from == to && at < into + part.len() as u64 && into < at + part.len() as u64;
        if overlaps && !part.is_empty() {
            assert_eq!(copied.unwrap_err().errno(), libc::EINVAL);
            return;
        }
        assert_eq!(copied.unwrap(), part.len() as u64);
        if let Some(file) = self.files.get_mut(&to)
            && !part.is_empty()
        {
            let end = into as usize + part.len();
            file.resize(file.len().max(end), 0);
            file[into as usize..end].copy_from_slice(&part);
        }
    }

    fn rename(&mut self) {
        let Some(from) = self.existing() else { return };
        let to = self.name();
        self.steps.push(format!("rename {from} {to}"));
        let names = (from.as_bytes(), to.as_bytes());
        self.world.fs.rename(ROOT_INO, names.0, ROOT_INO, names.1, RenameFlags::default()).unwrap();
        if let Some(file) = self.files.remove(&from) {
            self.files.insert(to, file);
        }
    }

    fn unlink(&mut self) {
        let Some(name) = self.existing() else { return };
        self.steps.push(format!("unlink {name}"));
        self.world.remove(ROOT_INO, &name);
        self.files.remove(&name);
    }

    /// A second name keeps the inode; then the first goes, so that the file is under the second.
    fn link_and_unlink(&mut self) {
        let Some(name) = self.existing() else { return };
        let other = self.name();
        self.steps.push(format!("link {name} {other}"));
        let ino = self.ino(&name);
        let linked = self.world.fs.link(ino, ROOT_INO, other.as_bytes());
        assert_eq!(linked.is_ok(), !self.files.contains_key(&other));
        if linked.is_ok() {
            self.world.fs.unlink(ROOT_INO, name.as_bytes()).unwrap();
            self.world.fs.forget(ino, 1);
            if let Some(file) = self.files.remove(&name) {
                self.files.insert(other, file);
            }
        }
    }

    fn compare_one(&mut self) {
        let Some(name) = self.existing() else { return };
        let got = self.world.read(self.ino(&name)).unwrap();
        self.same(&name, &got);
    }

    fn same(&self, name: &str, got: &[u8]) {
        let wanted = &self.files[name];
        let differ = got.iter().zip(wanted).position(|(a, b)| a != b);
        if got.len() != wanted.len() || differ.is_some() {
            panic!(
                "{name}: {} bytes, wanted {}, first difference at {differ:?}, after\n{}",
                got.len(),
                wanted.len(),
                self.steps.join("\n")
            );
        }
    }

    fn compare_all(&self) {
        let mut names = Vec::new();
        self.world
            .fs
            .readdir(ROOT_INO, 0, &mut |entry| {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
                true
            })
            .unwrap();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        assert_eq!(names, self.files.keys().cloned().collect::<Vec<_>>());
        for name in &names {
            self.same(name, &self.world.read(self.ino(name)).unwrap());
        }
    }
}

fn run(seed: u64, steps: usize) {
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    let mut run = Run { random: Random::new(seed), world, files: BTreeMap::new(), steps: Vec::new() };
    for step in 1..=steps {
        run.step();
        if step % 100 == 0 {
            run.compare_all();
            let report = run.world.check();
            assert!(report.is_clean(), "{:?}\n{}", report.findings, run.steps.join("\n"));
            run.steps.push("close and open".to_owned());
            run.world.close().unwrap();
            run.world = World::open(&disk, &config).unwrap();
            run.compare_all();
        }
    }
    run.world.close().unwrap();
}

#[test]
fn random_operations_leave_what_the_model_has() {
    let _all = protected();
    for seed in seeds("model", 1, 12) {
        println!("seed {seed}");
        run(seed, 400);
    }
}
