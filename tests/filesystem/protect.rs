//! Protected directories against a model that knows where each name is.

use std::collections::{BTreeMap, BTreeSet};

use cairnfs::fs::{Fs, ROOT_INO, RenameFlags};
use cairnfs::media::sim::Rng;

use crate::world::{CALLER, World, config, new_disk, protected};

const IMMUTABLE: u32 = 0x10;
const NAMES: u64 = 12;

/// Where everything is: (directory, name) -> file, and directory -> the one it is in.
#[derive(Default)]
struct Places {
    names: BTreeMap<(u64, String), u64>,
    above: BTreeMap<u64, u64>,
}

impl Places {
    fn is_below(&self, mut at: u64, directory: u64) -> bool {
        while at != directory && at != ROOT_INO {
            at = self.above[&at];
        }
        at == directory
    }

    fn files(&self) -> BTreeSet<u64> {
        self.names.values().copied().collect()
    }

    /// Is this file protected by `directory`? A model that looks at one name only is the wrong one.
    fn is_protected(&self, file: u64, directory: u64, all_names: bool) -> bool {
        let mut names = self.names.iter().filter(|(_, ino)| **ino == file).map(|((parent, _), _)| *parent);
        if all_names {
            names.any(|parent| self.is_below(parent, directory))
        } else {
            names.next().is_some_and(|parent| self.is_below(parent, directory))
        }
    }
}

/// Links, unlinks and renames at random, directories as well.
fn shuffle(world: &World, places: &mut Places, rng: &mut Rng, steps: usize) {
    let fs: &std::sync::Arc<Fs> = &world.fs;
    for _ in 0..steps {
        let directories: Vec<u64> = places.above.keys().copied().collect();
        let pick = |rng: &mut Rng| directories[rng.below(directories.len() as u64) as usize];
        let (from, to) = (pick(rng), pick(rng));
        let (old, new) = (format!("n{}", rng.below(NAMES)), format!("n{}", rng.below(NAMES)));
        let source = places.names.get(&(from, old.clone())).copied();
        match (rng.below(5), source) {
            (0, None) => {
                let ino = world.create(from, &old);
                places.names.insert((from, old), ino);
            }
            (1, Some(ino)) if !places.names.contains_key(&(to, new.clone())) => {
                fs.link(ino, to, new.as_bytes()).unwrap();
                places.names.insert((to, new), ino);
            }
            (2, Some(_)) => {
                fs.unlink(from, old.as_bytes()).unwrap();
                places.names.remove(&(from, old));
            }
            (3, Some(ino)) => {
                let target = places.names.get(&(to, new.clone())).copied();
                let flags = RenameFlags { exchange: target.is_some() && rng.below(2) == 0, noreplace: false };
                fs.rename(from, old.as_bytes(), to, new.as_bytes(), flags).unwrap();
                if target != Some(ino) {
                    places.names.insert((to, new), ino);
                    match target {
                        Some(target) if flags.exchange => places.names.insert((from, old), target),
                        _ => places.names.remove(&(from, old)),
                    };
                }
            }
            (4, _) if from != ROOT_INO && !places.is_below(to, from) => {
                let name = format!("dir {from}");
                let above = places.above[&from];
                fs.rename(above, name.as_bytes(), to, name.as_bytes(), RenameFlags::default()).unwrap();
                places.above.insert(from, to);
            }
            _ => {}
        }
    }
}

/// Compares who is refused a write with the model, for each directory in turn; returns what differs.
fn differences(world: &World, places: &Places, all_names: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for &directory in places.above.keys() {
        world.fs.set_inode_flags(directory, CALLER, IMMUTABLE).unwrap();
        for file in places.files() {
            let refused =
                world.fs.write(file, 0, b"x", false).is_err_and(|error| error.errno() == libc::EPERM);
            if refused != places.is_protected(file, directory, all_names) {
                wrong.push(format!("file {file} below directory {directory}: refused is {refused}"));
            }
        }
        world.fs.set_inode_flags(directory, CALLER, 0).unwrap();
    }
    wrong
}

#[test]
fn whoever_has_a_name_below_is_protected_and_nobody_else() {
    let _protected = protected();
    let (disk, config) = (new_disk(), config());
    let mut world = World::open(&disk, &config).unwrap();
    let (mut places, mut rng) = (Places::default(), Rng::new(41));
    places.above.insert(ROOT_INO, ROOT_INO);
    for n in 0..9 {
        let all: Vec<u64> = places.above.keys().copied().collect();
        let above = all[n * 7 % all.len()];
        let ino = world.mkdir(above, "new");
        world
            .fs
            .rename(above, b"new", above, format!("dir {ino}").as_bytes(), RenameFlags::default())
            .unwrap();
        places.above.insert(ino, above);
    }
    let mut caught = 0;
    for round in 0..8 {
        shuffle(&world, &mut places, &mut rng, 400);
        let wrong = differences(&world, &places, true);
        assert!(wrong.is_empty(), "round {round}: {wrong:?}");
        caught += differences(&world, &places, false).len();
        if round % 2 == 1 {
            world.close().unwrap();
            world = World::open(&disk, &config).unwrap();
        }
    }
    assert!(caught > 20, "files with names in several places: {caught}");
    let report = world.check();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    world.close().unwrap();
}
