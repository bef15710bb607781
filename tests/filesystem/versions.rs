//! Versions on the real tables: each subvolume is a map of its own, whatever others do, what is reaped meanwhile, and
//! where the power goes; and nothing stays that nobody sees.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use cairnfs::chunk::ChunkId;
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::rows::{
    Extent, InodeRow, content_key, decode_content_key, decode_owned_key, decode_seen, end_name, local_key,
    split_version, version_rows, versioned_key,
};
use cairnfs::meta::versions::reap::{Audit, Budget, Reach, Reap, Removed, Step};
use cairnfs::meta::versions::{Version, VersionTree, delete, get, put, read_tree, scan};
use cairnfs::meta::{Memtable, Table};
use cairnfs::sabotage::Protection;

use crate::random::{Random, seeds};
use crate::world::{World, config, new_disk, protected, without};

/// Names that begin with each other, and one of nothing but high bytes.
const NAMES: [&[u8]; 7] =
    [b"a", b"ab", b"abc", b"b", b"ba", b"\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"];
const FILES: u64 = 4;
const DIRECTORY: u64 = 77;

/// What a subvolume is.
#[derive(Debug, Clone, Default, PartialEq)]
struct Content {
    names: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first chunk of each of a file's extents.
    files: BTreeMap<u64, Vec<u64>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Subvolume {
    leaf: Version,
    content: Content,
}

/// What a power cut takes back.
#[derive(Debug, Clone, Default)]
struct State {
    subvolumes: BTreeMap<u64, Subvolume>,
    dropped: Vec<Version>,
}

struct Run {
    disk: SimMedia,
    world: World,
    random: Random,
    now: State,
    committed: State,
    /// The tree, as the newest batch has it.
    tree: VersionTree,
    numbers: u64,
    /// The reap that goes on, and of which leaves.
    reap: Option<(Vec<Version>, Reap)>,
    audit: Audit,
    removed: Removed,
    /// Extents of a file that a leaf has copied already.
    copying: BTreeMap<(u64, Version), usize>,
}

fn name_key(name: &[u8]) -> Vec<u8> {
    let mut key = [&local_key(DIRECTORY)[..], name].concat();
    end_name(&mut key);
    key
}

fn extent(number: u64, chunk: u64) -> Extent {
    Extent { offset: number * 100, len: 100, first: ChunkId(chunk), skip: 0, lens: vec![100] }
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = new_disk();
        let world = World::open(&disk, &config()).unwrap();
        let mut run = Self {
            disk,
            world,
            random: Random::new(seed),
            now: State::default(),
            committed: State::default(),
            tree: VersionTree::default(),
            numbers: 0,
            reap: None,
            audit: Audit::default(),
            removed: Removed::default(),
            copying: BTreeMap::new(),
        };
        let leaf = run.version(None);
        run.now.subvolumes.insert(0, Subvolume { leaf, content: Content::default() });
        run.commit();
        run
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A new version, in the open batch.
    fn version(&mut self, parent: Option<Version>) -> Version {
        let version = Version((1 << 62) - self.number());
        self.tree.add(version, parent).unwrap();
        let member = self.world.store.batches.join().unwrap();
        for (key, row) in version_rows(version, parent) {
            member.rows.put(Table::Versions, &key, &row);
        }
        version
    }

    fn commit(&mut self) {
        self.world.store.commits.commit().unwrap();
        self.committed = self.now.clone();
    }

    fn some(&mut self) -> u64 {
        let all: Vec<u64> = self.now.subvolumes.keys().copied().collect();
        all[self.random.below(all.len() as u64) as usize]
    }

    /// Changes the rows of some subvolume as a member of the open batch.
    fn change(&mut self, act: impl FnOnce(&mut Self, &Memtable, &mut Subvolume)) {
        let number = self.some();
        let mut subvolume = self.now.subvolumes[&number].clone();
        let member = self.world.store.batches.join().unwrap();
        act(self, &member.rows, &mut subvolume);
        drop(member);
        self.now.subvolumes.insert(number, subvolume);
    }

    fn row(&self, local: u64, leaf: Version) -> Option<InodeRow> {
        let layers = self.world.store.layers();
        let row = get(&*layers, &self.tree, Table::SubInodes, &local_key(local), leaf).unwrap();
        row.map(|row| InodeRow::decode(&row).unwrap())
    }

    fn extents(&self, local: u64, content: u64) -> Vec<Extent> {
        let mut found = Vec::new();
        let (from, to) = (content_key(local, Version(content)), content_key(local, Version(content + 1)));
        let each = |key: &[u8], row: &[u8]| {
            let offset = u64::from_be_bytes(*key.last_chunk().unwrap());
            found.push(Extent::decode(offset, row)?);
            Ok(true)
        };
        self.world
            .store
            .layers()
            .scan(Table::SubExtents, Bound::Included(&from), Bound::Excluded(&to), each)
            .unwrap();
        found
    }

    fn put_extent(rows: &Memtable, local: u64, leaf: Version, extent: &Extent) {
        let key = [&content_key(local, leaf)[..], &extent.offset.to_be_bytes()].concat();
        rows.put(Table::SubExtents, &key, &extent.encode());
    }

    /// Appends to a file; if it is not `whole`, it copies some of the extents, and the rest is for the next time.
    fn write(&mut self, whole: bool) {
        self.change(|run, rows, subvolume| {
            let (local, chunk, leaf) = (run.random.below(FILES), run.number(), subvolume.leaf);
            let mut row = run.row(local, leaf).unwrap_or(InodeRow { content: leaf.0, ..InodeRow::default() });
            if row.content != leaf.0 {
                let old = run.extents(local, row.content);
                let from = run.copying.remove(&(local, leaf)).unwrap_or(0);
                let to = if whole { old.len() } else { old.len().min(from + 1) };
                for extent in &old[from..to] {
                    Self::put_extent(rows, local, leaf, extent);
                }
                run.copying.insert((local, leaf), to);
                row.content = leaf.0;
            }
            if !whole {
                return;
            }
            let chunks = subvolume.content.files.entry(local).or_default();
            Self::put_extent(rows, local, leaf, &extent(chunks.len() as u64, chunk));
            chunks.push(chunk);
            put(rows, Table::SubInodes, &local_key(local), leaf, &row.encode());
        });
    }

    fn remove_file(&mut self) {
        self.change(|run, rows, subvolume| {
            let (local, leaf) = (run.random.below(FILES), subvolume.leaf);
            if run.row(local, leaf).is_none() {
                return;
            }
            run.copying.remove(&(local, leaf));
            for extent in run.extents(local, leaf.0) {
                let key = [&content_key(local, leaf)[..], &extent.offset.to_be_bytes()].concat();
                rows.delete(Table::SubExtents, &key);
            }
            let layers = run.world.store.layers();
            delete(&*layers, &run.tree, rows, (Table::SubInodes, &local_key(local)), leaf).unwrap();
            subvolume.content.files.remove(&local);
        });
    }

    /// A change of the row alone: the content stays that of a version above.
    fn touch(&mut self) {
        self.change(|run, rows, subvolume| {
            let (local, leaf) = (run.random.below(FILES), subvolume.leaf);
            if let Some(row) = run.row(local, leaf) {
                put(rows, Table::SubInodes, &local_key(local), leaf, &row.encode());
            }
        });
    }

    fn change_name(&mut self) {
        self.change(|run, rows, subvolume| {
            let name = NAMES[run.random.below(NAMES.len() as u64) as usize];
            let key = name_key(name);
            if run.random.below(3) == 0 {
                let layers = run.world.store.layers();
                delete(&*layers, &run.tree, rows, (Table::SubDirents, &key), subvolume.leaf).unwrap();
                subvolume.content.names.remove(name);
            } else {
                let value = run.number().to_be_bytes()[6..].to_vec();
                put(rows, Table::SubDirents, &key, subvolume.leaf, &value);
                subvolume.content.names.insert(name.to_vec(), value);
            }
        });
    }

    fn clone_one(&mut self) {
        if self.now.subvolumes.len() > 8 {
            return;
        }
        self.commit();
        let source = self.some();
        let old = self.now.subvolumes[&source].clone();
        let (moved, new) = (self.version(Some(old.leaf)), self.version(Some(old.leaf)));
        let number = self.number();
        self.now.subvolumes.insert(source, Subvolume { leaf: moved, ..old.clone() });
        self.now.subvolumes.insert(number, Subvolume { leaf: new, ..old });
    }

    fn drop_one(&mut self) {
        let number = self.some();
        if self.now.subvolumes.len() > 1 {
            let gone = self.now.subvolumes.remove(&number).unwrap();
            self.now.dropped.push(gone.leaf);
        }
    }

    /// Goes on with a reap of what is durably dropped, or with the audit; true if that is at its end.
    fn remove(&mut self, of: Option<Vec<Version>>, budget: usize) -> bool {
        // As the committed state has it: what was cloned since is in no transaction of the reap.
        let leaves: Vec<Version> =
            self.committed.subvolumes.values().map(|subvolume| subvolume.leaf).collect();
        let reaped = of.as_deref().unwrap_or_default();
        let others: Vec<Version> =
            self.now.dropped.iter().copied().filter(|leaf| !reaped.contains(leaf)).collect();
        let (going_on, audit) = (&mut self.reap, &mut self.audit);
        let (removed, done) = self
            .world
            .store
            .commits
            .rewrite(false, |txn, _| {
                let tree = read_tree(txn)?;
                let reach =
                    Reach::of(&tree, leaves.iter().chain(&others).copied().filter(|leaf| tree.has(*leaf)))?;
                let budget = Budget(budget);
                let mut step = Step { txn, tree: &tree, reach: &reach, budget, removed: Removed::default() };
                let done = match &of {
                    None => audit.step(&mut step)?,
                    Some(leaves) => {
                        let mut reap = match going_on.take() {
                            Some((_, reap)) => reap,
                            None => Reap::of(&tree, &reach, leaves.iter().copied())?,
                        };
                        let done = reap.step(&mut step)?;
                        if done {
                            step.contract(reap.emptied())?;
                        }
                        *going_on = Some((leaves.clone(), reap));
                        done
                    }
                };
                Ok((step.removed, done))
            })
            .unwrap();
        self.removed.rows += removed.rows;
        if done {
            match of {
                None => self.audit = Audit::default(),
                Some(leaves) => {
                    self.reap = None;
                    self.now.dropped.retain(|other| !leaves.contains(other));
                    self.committed.dropped.retain(|other| !leaves.contains(other));
                    self.tree = read_tree(&*self.world.store.layers()).unwrap();
                }
            }
        }
        done
    }

    fn reap(&mut self, budget: usize) {
        let leaves = match &self.reap {
            Some((leaves, _)) => leaves.clone(),
            None => {
                let most = 1 + self.random.below(4) as usize;
                self.committed.dropped.iter().take(most).copied().collect()
            }
        };
        if !leaves.is_empty() {
            self.remove(Some(leaves), budget);
        }
    }

    fn power_cut(&mut self) {
        let at = self.disk.cut_at(self.disk.op_count(), self.random.draw());
        let world = World::open(&at, &config()).unwrap();
        (self.disk, self.now) = (at, self.committed.clone());
        std::mem::replace(&mut self.world, world).close().unwrap();
        self.tree = read_tree(&*self.world.store.layers()).unwrap();
        self.reap = None;
        self.copying.clear();
        self.audit = Audit::default();
    }

    /// What a subvolume is by the rows; the first difference.
    fn differs(&self) -> Option<String> {
        let layers = self.world.store.layers();
        for (number, Subvolume { leaf, content }) in &self.now.subvolumes {
            let mut names = BTreeMap::new();
            let (from, to) = (local_key(DIRECTORY), local_key(DIRECTORY + 1));
            let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
            let each = |key: &[u8], value: &[u8]| {
                let name = key[8..].strip_suffix(&[0]).unwrap_or(&key[8..]);
                names.insert(name.to_vec(), value.to_vec());
                Ok(true)
            };
            scan(&*layers, &self.tree, Table::SubDirents, range, *leaf, each).unwrap();
            if names != content.names {
                return Some(format!("subvolume {number} lists {names:?}, not {:?}", content.names));
            }
            for name in NAMES {
                let found = get(&*layers, &self.tree, Table::SubDirents, &name_key(name), *leaf).unwrap();
                if found.as_ref() != content.names.get(name) {
                    return Some(format!("subvolume {number} has {found:?} for {name:?}"));
                }
            }
            for local in 0..FILES {
                let chunks = self.row(local, *leaf).map(|row| {
                    let extents = self.extents(local, row.content);
                    extents.iter().map(|extent| extent.first.0).collect::<Vec<_>>()
                });
                if chunks.as_ref() != content.files.get(&local) {
                    return Some(format!("subvolume {number} has {chunks:?} in file {local}"));
                }
            }
        }
        None
    }

    /// After everything was committed and reaped: rows that no subvolume sees.
    fn left(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        self.commit();
        for _ in 0..3 {
            while !self.committed.dropped.is_empty() {
                self.reap(1 << 20);
            }
            while !self.remove(None, 1 << 20) {}
        }
        let layers = self.world.store.layers();
        let leaves: BTreeSet<Version> =
            self.now.subvolumes.values().map(|subvolume| subvolume.leaf).collect();
        let (mut needed, mut owned, mut contents) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for table in [Table::SubInodes, Table::SubDirents] {
            let from = local_key(0);
            let each = |whole: &[u8], stored: &[u8]| {
                let (key, version) = split_version(whole)?;
                let seen = |leaf: &Version| {
                    let found =
                        cairnfs::meta::versions::seek(&*layers, &self.tree, table, key, *leaf).unwrap();
                    found.is_some_and(|(at, _)| at == version)
                };
                if leaves.iter().any(seen) {
                    needed.insert((table as u8, whole.to_vec()));
                    if let (Table::SubInodes, Some(row)) = (table, decode_seen(stored)?) {
                        contents.insert((key.to_vec(), InodeRow::decode(row)?.content));
                    }
                } else {
                    left.push(format!("{} {whole:?}", table.name()));
                }
                Ok(true)
            };
            layers.scan(table, Bound::Included(&from), Bound::Unbounded, each).unwrap();
        }
        let each = |whole: &[u8], _: &[u8]| {
            let (version, table, key) = decode_owned_key(whole)?;
            owned.insert((table as u8, versioned_key(key, version)));
            Ok(true)
        };
        layers.scan(Table::Owned, Bound::Unbounded, Bound::Unbounded, each).unwrap();
        if owned != needed {
            left.push(format!(
                "owned differs: {:?}",
                owned.symmetric_difference(&needed).collect::<Vec<_>>()
            ));
        }
        let from = local_key(0);
        let each = |key: &[u8], _: &[u8]| {
            let (local, content, _) = decode_content_key(key)?;
            if !contents.contains(&(local_key(local).to_vec(), content.0)) && !leaves.contains(&content) {
                left.push(format!("an extent of file {local} content {}", content.0));
            }
            Ok(true)
        };
        layers.scan(Table::SubExtents, Bound::Included(&from), Bound::Unbounded, each).unwrap();
        left
    }
}

/// So many steps from one seed: what is wrong, and how many rows were removed.
fn steps(seed: u64, steps: u64) -> std::result::Result<u64, String> {
    let mut run = Run::new(seed);
    for step in 0..steps {
        match run.random.below(100) {
            0..30 => run.change_name(),
            30..50 => run.write(true),
            50..54 => run.write(false),
            54..60 => run.touch(),
            60..68 => run.remove_file(),
            68..76 => run.clone_one(),
            76..82 => run.drop_one(),
            82..87 => run.reap(1 << 20),
            87..89 => run.reap(2),
            89..92 => drop(run.remove(None, 1 + step as usize % 50)),
            92..97 => run.commit(),
            97..98 => run.world.store.commits.fold().unwrap(),
            _ => run.power_cut(),
        }
        // The comparison takes most of the time.
        if step % 4 > 0 && step + 1 < steps {
            continue;
        }
        if let Some(what) = run.differs() {
            return Err(format!("seed {seed}, step {step}: {what}"));
        }
    }
    let left = run.left();
    if !left.is_empty() {
        return Err(format!("seed {seed}: stays: {left:?}"));
    }
    let removed = run.removed.rows;
    run.world.close().unwrap();
    Ok(removed)
}

#[test]
fn each_subvolume_is_a_map_of_its_own() {
    let _all = protected();
    let each = std::env::var("CAIRNFS_VERSION_STEPS").map_or(1_000, |word| word.parse().unwrap());
    let mut removed = 0;
    for seed in seeds("versions", 4_100, 100) {
        removed += steps(seed, each).unwrap();
    }
    assert!(removed > 1_000, "{removed} rows were removed");
}

/// What one of the seeds shows without a protection.
fn seen_without(protection: Protection) -> Option<String> {
    let _out = without(&[protection]);
    (0..40).find_map(|seed| {
        let run = std::panic::catch_unwind(|| steps(seed, 600));
        run.unwrap_or_else(|_| Err("it panicked".to_owned())).err()
    })
}

#[test]
fn without_whiteouts_what_was_deleted_comes_back() {
    let what = seen_without(Protection::Whiteouts).expect("nobody notices");
    assert!(what.contains("subvolume"), "{what}");
}

#[test]
fn without_asking_for_others_what_they_see_goes() {
    let what = seen_without(Protection::SeenByOthers).expect("nobody notices");
    assert!(what.contains("subvolume"), "{what}");
}

#[test]
fn without_keeping_copies_a_file_lacks_what_was_copied() {
    let what = seen_without(Protection::CopiesAreKept).expect("nobody notices");
    assert!(what.contains("in file"), "{what}");
}

#[test]
fn without_an_end_of_names_one_is_taken_for_another() {
    let what = seen_without(Protection::NamesEnd).expect("nobody notices");
    assert!(what.contains("subvolume"), "{what}");
}
