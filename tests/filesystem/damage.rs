//! Damage: bytes of a small store are changed one at a time, its files are cut off or taken away, and then it is opened,
//! read, checked and collected.
//!
//! Whatever is damaged: nothing panics; what is read is right or an error, and never "no such file"; the check tells of
//! it and names the files; and nothing that is needed is freed: with the damage undone, everything reads.
//! `CAIRNFS_DAMAGE=1` tries every byte that is in use, and takes hours; `CAIRNFS_DAMAGE=10` one in ten; otherwise a seed
//! chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, Once};

use cairnfs::check::{self, CheckReport};
use cairnfs::fs::{ROOT_INO, SetAttr};
use cairnfs::media::Media;
use cairnfs::media::sim::SimMedia;
use cairnfs::sabotage::Protection;
use cairnfs::store::StoreConfig;

use crate::random::{self, Random, seeds};
use crate::world::{CALLER, SMALL_CACHE, World, config, new_disk, protected, without};

const DATABASE: &str = "meta/cairnfs.redb";
const NAMES: u64 = 400;

/// A store at rest: its files, and what is in it.
struct Store {
    config: StoreConfig,
    files: BTreeMap<String, Vec<u8>>,
    /// Content by path.
    contents: BTreeMap<String, Vec<u8>>,
    /// Names by directory.
    names: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Damage {
    Flip { file: String, at: u64, bits: u8 },
    Cut { file: String, len: u64 },
    Gone { file: String },
}

impl Damage {
    fn file(&self) -> &str {
        match self {
            Self::Flip { file, .. } | Self::Cut { file, .. } | Self::Gone { file } => file,
        }
    }
}

fn disk_of(files: &BTreeMap<String, Vec<u8>>) -> SimMedia {
    let disk = SimMedia::new();
    for (path, bytes) in files {
        for (at, _) in path.match_indices('/') {
            disk.mkdir(&path[..at]).unwrap();
        }
        let file = disk.create(path).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.sync().unwrap();
    }
    for dir in ["meta", "packs"] {
        disk.mkdir(dir).unwrap();
    }
    disk
}

fn files_of(disk: &SimMedia) -> BTreeMap<String, Vec<u8>> {
    disk.files().into_iter().map(|(path, _)| (path.clone(), disk.contents(&path).unwrap())).collect()
}

impl Store {
    /// Three snapshots that share, with links and attributes; and a pack of garbage that the next cycle frees.
    fn new() -> Self {
        let (disk, config) = (new_disk(), config());
        let world = World::open(&disk, &config).unwrap();
        let mut contents = BTreeMap::new();
        for snapshot in 0..3u64 {
            let dir = world.mkdir(ROOT_INO, &format!("s{snapshot}"));
            for number in 0..6u64 {
                let kind = if number < 3 { number } else { 10 * snapshot + number };
                let bytes = random::content(kind, 3_000 + 2_500 * number as usize);
                let ino = world.create(dir, &format!("file{number}"));
                world.fs.write(ino, 0, &bytes, false).unwrap();
                contents.insert(format!("s{snapshot}/file{number}"), bytes);
            }
            let ino = world.find(&format!("s{snapshot}/file1")).unwrap();
            world.fs.link(ino, dir, b"linked").unwrap();
            contents.insert(format!("s{snapshot}/linked"), contents[&format!("s{snapshot}/file1")].clone());
            world.fs.setxattr(ino, b"user.kept", b"attribute", 0, |_| true).unwrap();
            world.fs.symlink(dir, b"symlink", CALLER, b"file1").unwrap();
            world.fs.sync().unwrap();
        }
        // Names enough for a tree with branches and many leaves.
        let dir = world.mkdir(ROOT_INO, "many");
        for number in 0..NAMES {
            let ino = world.create(dir, &format!("name number {number}"));
            world.fs.forget(ino, 1);
        }
        // A cycle seals the pack, so that the garbage gets one of its own.
        world.collector.run_cycle(false).unwrap();
        let ino = world.create(ROOT_INO, "garbage");
        world.fs.write(ino, 0, &random::content(99, 60_000), false).unwrap();
        world.fs.sync().unwrap();
        world.remove(ROOT_INO, "garbage");
        world.close().unwrap();
        let mut names = BTreeMap::from([(String::new(), BTreeSet::new())]);
        for path in contents.keys() {
            let (dir, name) = path.split_once('/').unwrap();
            names.entry(String::new()).or_default().insert(dir.to_owned());
            names
                .entry(dir.to_owned())
                .or_insert_with(|| BTreeSet::from(["symlink".to_owned()]))
                .insert(name.to_owned());
        }
        let many = (0..NAMES).map(|number| format!("name number {number}")).collect();
        names.insert("many".to_owned(), many);
        names.entry(String::new()).or_default().insert("many".to_owned());
        Self { config, files: files_of(&disk), contents, names }
    }

    fn damaged(&self, damage: &Damage) -> SimMedia {
        let mut files = self.files.clone();
        match damage {
            Damage::Flip { file, at, bits } => files.get_mut(file).unwrap()[*at as usize] ^= bits,
            Damage::Cut { file, len } => files.get_mut(file).unwrap().truncate(*len as usize),
            Damage::Gone { file } => drop(files.remove(file)),
        }
        disk_of(&files)
    }

    /// Reads everything; says which paths could not be read, and fails on whatever is wrong without an error.
    fn read_all(&self, world: &World) -> Result<BTreeSet<String>, String> {
        let mut hit = BTreeSet::new();
        for (dir, expected) in &self.names {
            let listed = world.find(dir).and_then(|ino| {
                let mut names = BTreeSet::new();
                world.fs.readdir(ino, 0, &mut |entry| {
                    names.insert(String::from_utf8_lossy(entry.name).into_owned());
                    true
                })?;
                Ok(names)
            });
            match listed {
                Ok(mut names) => {
                    names.retain(|name| name != "." && name != "..");
                    if names != *expected {
                        return Err(format!("the directory \"{dir}\" lists {names:?}"));
                    }
                }
                Err(error) if error.errno() == libc::ENOENT => return Err(format!("\"{dir}\" is not there")),
                Err(_) => drop(hit.insert(dir.clone())),
            }
        }
        for (path, expected) in &self.contents {
            let read = world.find(path).and_then(|ino| {
                let attribute = world.fs.getxattr(ino, b"user.kept");
                if path.ends_with("file1") && attribute.as_ref().is_ok_and(|value| value != b"attribute") {
                    return Ok(Vec::new());
                }
                world.read(ino)
            });
            match read {
                Ok(bytes) if bytes == *expected => {}
                Ok(_) => return Err(format!("{path} has other bytes")),
                Err(error) if error.errno() == libc::ENOENT => return Err(format!("{path} is not there")),
                Err(_) => drop(hit.insert(path.clone())),
            }
        }
        for name in &self.names["many"] {
            match world.find(&format!("many/{name}")) {
                Err(error) if error.errno() == libc::ENOENT => {
                    return Err(format!("\"{name}\" is not there"));
                }
                Err(_) => drop(hit.insert("many".to_owned())),
                Ok(_) => {}
            }
        }
        Ok(hit)
    }

    /// What damage leads to. An error is what must never happen.
    fn suffer(&self, damage: &Damage) -> Result<Outcome, String> {
        let disk = self.damaged(damage);
        let mut outcome = Outcome::default();
        match World::open(&disk, &self.config) {
            Err(error) if error.errno() == libc::EIO => outcome.refused = 1,
            Err(error) => return Err(format!("opening says {error}")),
            Ok(world) => {
                let hit = self.read_all(&world)?;
                let report = checked(&world)?;
                self.compare_report(&hit, &report, damage)?;
                outcome.told = u64::from(!hit.is_empty() || !report.is_clean());
                outcome.cycle_ended = u64::from(world.collector.run_cycle(false).is_err());
                // Reads go on, whatever the cycle met.
                self.read_all(&world).map_err(|wrong| format!("after a cycle {wrong}"))?;
                let _ = world.close();
                // What was tried in vain does not make it worse.
                let again = World::open(&disk, &self.config);
                let again = again.map_err(|error| format!("it does not open again: {error}"))?;
                self.read_all(&again).map_err(|wrong| format!("opened again {wrong}"))?;
                let _ = again.close();
            }
        }
        self.undo(&disk, damage).map_err(|wrong| format!("with the damage undone {wrong}"))?;
        Ok(outcome)
    }

    /// Reads everything after a byte of the database changed.
    fn read_changed(&self, at: u64) -> Result<BTreeSet<String>, String> {
        let disk = disk_of(&self.files);
        let world = World::with(&disk, &self.config, SMALL_CACHE).map_err(|error| error.to_string())?;
        disk.flip_byte(DATABASE, at);
        let read = self.read_all(&world);
        // Closing would write.
        drop(world);
        read
    }

    /// The same as [`suffer`](Self::suffer) for a byte of the database that changes while the store is open.
    fn suffer_open(&self, at: u64) -> Result<Outcome, String> {
        let disk = disk_of(&self.files);
        let mut outcome = Outcome::default();
        let world = World::with(&disk, &self.config, SMALL_CACHE).map_err(|error| error.to_string())?;
        disk.flip_byte(DATABASE, at);
        let hit = self.read_all(&world)?;
        let report = checked(&world)?;
        outcome.told = u64::from(!hit.is_empty() || !report.is_clean());
        outcome.cycle_ended = u64::from(world.collector.run_cycle(false).is_err());
        self.read_all(&world).map_err(|wrong| format!("after a cycle {wrong}"))?;
        let _ = world.close();
        self.undo_open(&disk, at as usize).map_err(|wrong| format!("with the damage undone {wrong}"))?;
        Ok(outcome)
    }

    /// The files as the store left them, with the byte that changed while it was open as it was, unless its page was
    /// written since. The database of before would not do: the log goes on from what was folded meanwhile.
    fn undo_open(&self, disk: &SimMedia, at: usize) -> Result<(), String> {
        let (mut files, before) = (files_of(disk), &self.files[DATABASE]);
        let bytes = files.get_mut(DATABASE).ok_or("the database is gone")?;
        let (page, end) = (at / 4096 * 4096, (at / 4096 * 4096 + 4096).min(before.len()).min(bytes.len()));
        let is_as_it_was = |at: usize| bytes[at] == before[at];
        if (page..end).all(|other| other == at || is_as_it_was(other)) && at < end {
            bytes[at] = before[at];
        }
        self.is_whole(&files)
    }

    /// Nothing is hit that the check does not tell of; with only data damaged it names exactly who is.
    fn compare_report(
        &self,
        hit: &BTreeSet<String>,
        report: &CheckReport,
        damage: &Damage,
    ) -> Result<(), String> {
        if !hit.is_empty() && report.is_clean() {
            return Err(format!("{hit:?} cannot be read and the check is clean"));
        }
        if damage.file().starts_with("packs/") {
            let named = report.findings.iter().flat_map(|finding| &finding.files);
            let named: BTreeSet<&str> = named.map(|path| path.trim_start_matches('/')).collect();
            // A file with several names is told by one of them.
            let is_named = |path: &String| {
                named.contains(path.as_str()) || named.contains(path.replace("linked", "file1").as_str())
            };
            if let Some(path) = hit.iter().find(|path| !is_named(path)) {
                return Err(format!("{path} cannot be read and is not named: {:?}", report.findings));
            }
        }
        Ok(())
    }

    /// The packs as the cycle left them, with what was damaged as it was: everything has to be there.
    fn undo(&self, disk: &SimMedia, damage: &Damage) -> Result<(), String> {
        let mut files = files_of(disk);
        let damaged = damage.file();
        match (damage, files.get_mut(damaged)) {
            (Damage::Flip { at, bits, .. }, Some(bytes)) if damaged != DATABASE => {
                bytes[*at as usize] ^= bits
            }
            _ if damaged == DATABASE || self.needed(damaged) => {
                files.insert(damaged.to_owned(), self.files[damaged].clone());
            }
            _ => {}
        }
        self.is_whole(&files)
    }

    fn is_whole(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        let world = World::open(&disk_of(files), &self.config).map_err(|error| error.to_string())?;
        let hit = self.read_all(&world)?;
        let _ = world.close();
        if hit.is_empty() { Ok(()) } else { Err(format!("{hit:?} cannot be read")) }
    }

    /// Everything but the pack of garbage, which the cycle may have freed.
    fn needed(&self, file: &str) -> bool {
        self.files.keys().rfind(|path| path.starts_with("packs/")).is_none_or(|last| last != file)
    }
}

/// What a check of everything says.
fn checked(world: &World) -> Result<CheckReport, String> {
    let options = check::Options { data: true, ..check::Options::default() };
    check::check(&world.store, &options).map_err(|error| format!("check: {error}"))
}

#[derive(Debug, Default)]
struct Outcome {
    refused: u64,
    told: u64,
    cycle_ended: u64,
}

/// Panics of the store's own threads since the tests began: those are not seen by whoever waits for them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_panics() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if let Some(name) = thread.name().filter(|name| name.starts_with("cairn-")) {
                PANICS.lock().unwrap().push(format!("{name}: {info}"));
            }
            before(info);
        }));
    });
}

fn try_all(store: &Store, what: &str, damages: impl IntoIterator<Item = Damage>) {
    try_each(what, damages, |damage| store.suffer(damage));
}

fn try_each<D: std::fmt::Debug>(
    what: &str,
    damages: impl IntoIterator<Item = D>,
    suffer: impl Fn(&D) -> Result<Outcome, String>,
) {
    watch_panics();
    let (mut tried, mut sum) = (0, Outcome::default());
    for damage in damages {
        let outcome = suffer(&damage).unwrap_or_else(|wrong| panic!("{damage:?}: {wrong}"));
        tried += 1;
        sum.refused += outcome.refused;
        sum.told += outcome.told;
        sum.cycle_ended += outcome.cycle_ended;
        let panics = PANICS.lock().unwrap();
        assert!(panics.is_empty(), "{damage:?}: {panics:?}");
    }
    println!(
        "{what}: {tried} damages; {} times the store was not opened, {} times reads or the check told, {} cycles \
         ended early, never a wrong answer",
        sum.refused, sum.told, sum.cycle_ended
    );
    assert!(tried > 0);
}

/// One byte in how many is changed, if not chosen ones.
fn stride() -> Option<usize> {
    let word = std::env::var("CAIRNFS_DAMAGE").ok()?;
    Some(word.parse().unwrap_or_else(|_| panic!("CAIRNFS_DAMAGE: {word:?} is no number")))
}

/// Flips in the pages of one file that are in use: one byte in so many, or about `wanted` chosen ones; half of those at
/// the heads of pages.
fn flips(store: &Store, file: &str, wanted: usize, random: &mut Random) -> Vec<Damage> {
    let bytes = &store.files[file];
    let flip = |at: u64, bits| Damage::Flip { file: file.to_owned(), at, bits };
    let bits = |random: &mut Random| match random.below(3) {
        0 => 1 << random.below(8),
        1 => 0xff,
        _ => 1 + random.below(255) as u8,
    };
    if let Some(stride) = stride() {
        let each = (0..bytes.len() as u64).step_by(stride).filter(|at| in_use(bytes, at / 4096 * 4096));
        return each.map(|at| flip(at, bits(random))).collect();
    }
    let used: Vec<u64> = (0..bytes.len() as u64).step_by(4096).filter(|at| in_use(bytes, *at)).collect();
    let chosen = (0..wanted as u64).map(|number| {
        let page = used[random.below(used.len() as u64) as usize];
        let within = if number % 2 == 0 { random.below(64) } else { random.below(4096) };
        flip((page + within).min(bytes.len() as u64 - 1), bits(random))
    });
    chosen.collect()
}

fn in_use(bytes: &[u8], page: u64) -> bool {
    bytes[page as usize..].iter().take(4096).any(|byte| *byte != 0)
}

#[test]
fn a_changed_byte_of_the_database_gives_no_wrong_answer() {
    let _all = protected();
    let store = Store::new();
    for seed in seeds("damage of the database", 11, 1) {
        let mut random = Random::new(seed);
        try_all(&store, DATABASE, flips(&store, DATABASE, 160, &mut random));
    }
}

#[test]
fn a_byte_of_the_database_that_changes_under_an_open_store_gives_no_wrong_answer() {
    let _all = protected();
    let store = Store::new();
    for seed in seeds("damage under an open store", 15, 1) {
        let mut random = Random::new(seed);
        let flips = flips(&store, DATABASE, 160, &mut random).into_iter().filter_map(|damage| match damage {
            Damage::Flip { at, .. } => Some(at),
            _ => None,
        });
        try_each("while it is open", flips, |at| store.suffer_open(*at));
    }
}

#[test]
fn a_changed_byte_of_any_other_file_gives_no_wrong_answer() {
    let _all = protected();
    let store = Store::new();
    for seed in seeds("damage of packs", 12, 1) {
        let mut random = Random::new(seed);
        for file in store.files.keys().filter(|file| *file != DATABASE && !store.files[*file].is_empty()) {
            let wanted = if file.starts_with("packs/") { 60 } else { 4 };
            let flips = match in_use(&store.files[file], 0) {
                true => flips(&store, file, wanted, &mut random),
                false => vec![Damage::Flip { file: file.clone(), at: 7, bits: 1 }],
            };
            try_all(&store, file, flips);
        }
    }
}

#[test]
fn a_file_that_is_cut_off_or_gone_gives_no_wrong_answer() {
    let _all = protected();
    let store = Store::new();
    for seed in seeds("files cut off", 13, 1) {
        let mut random = Random::new(seed);
        for (file, bytes) in &store.files {
            let all = bytes.len() as u64;
            let mut lens =
                BTreeSet::from([0, 1, 47, 4096, all / 2, all.saturating_sub(1), all - 4096.min(all)]);
            lens.extend((0..5).map(|_| random.below(all.max(1))));
            let cut =
                lens.into_iter().filter(|len| *len < all).map(|len| Damage::Cut { file: file.clone(), len });
            try_all(&store, file, cut.chain([Damage::Gone { file: file.clone() }]));
        }
    }
}

/// The negative control: the engine alone lets some changes of a page pass as other content.
#[test]
fn without_page_sums_a_changed_byte_gives_a_wrong_answer() {
    let _out = without(&[Protection::PageSums]);
    let store = Store::new();
    let bytes = &store.files[DATABASE];
    // Bytes 2 and 3 of a page count its rows. Nothing is written: where the engine panics on such a page in the middle of
    // a change, it takes the process with it.
    let pages = (0..bytes.len() as u64).step_by(4096).filter(|at| in_use(bytes, *at));
    let wrong =
        pages.map(|page| page + 2).find_map(|at| store.read_changed(at).err().map(|wrong| (at, wrong)));
    println!("without page sums: {wrong:?}");
    assert!(wrong.is_some(), "the sums of pages were not compared and nothing went wrong");
}

/// Truncating a file changes what its extents mean; that an attribute cannot be set on a damaged store is said.
#[test]
fn changes_of_a_damaged_store_are_made_or_refused() {
    let _all = protected();
    let store = Store::new();
    for seed in seeds("changes of a damaged store", 14, 1) {
        let mut random = Random::new(seed);
        let mut refused = 0;
        for damage in flips(&store, DATABASE, 40, &mut random) {
            let Ok(world) = World::open(&store.damaged(&damage), &store.config) else { continue };
            for path in store.contents.keys() {
                let Ok(ino) = world.find(path) else { continue };
                let set = SetAttr { size: Some(1_000), ..SetAttr::default() };
                let changed = world.fs.setattr(ino, CALLER, &set).and_then(|_| world.fs.fsync(ino));
                match changed {
                    Ok(()) => {
                        let read = world.read(ino);
                        let expected = &store.contents[path][..1_000];
                        assert!(read.is_ok_and(|bytes| bytes == expected), "{damage:?}: {path}");
                    }
                    Err(error) => {
                        assert!(
                            matches!(error.errno(), libc::EIO | libc::EROFS),
                            "{damage:?}: {path}: {error}"
                        );
                        refused += 1;
                    }
                }
            }
            let _ = world.close();
        }
        println!("{refused} changes were refused");
    }
}
