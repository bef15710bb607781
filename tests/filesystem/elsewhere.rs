//! A store whose packs are not files: objects that are put once and whole, and in which no holes can be punched.

use std::sync::Arc;

use cairnfs::check::repair::repair_with;
use cairnfs::fs::ROOT_INO;
use cairnfs::media::Media;
use cairnfs::media::sim::SimMedia;
use cairnfs::pack::PackStore;
use cairnfs::pack::store::MemoryPacks;
use cairnfs::sabotage::Protection;
use cairnfs::store::{META_FILE, StoreConfig};

use crate::random;
use crate::world::{Setting, World, config, new_disk, protected, without};

/// A database on a disk, and packs elsewhere.
struct Place {
    disk: SimMedia,
    packs: MemoryPacks,
    config: StoreConfig,
}

impl Place {
    fn new() -> Self {
        Self { disk: new_disk(), packs: MemoryPacks::default(), config: config() }
    }

    fn open(&self) -> World {
        let packs = Arc::new(self.packs.clone());
        World::with_packs((&self.disk, packs), &self.config, Setting::default()).unwrap()
    }

    /// What is left after a power cut now.
    fn cut(&self, seed: u64) -> Self {
        let disk = self.disk.cut_at(self.disk.op_count(), seed);
        Self { disk, packs: self.packs.after_power_cut(), config: self.config.clone() }
    }
}

/// Files of one pack each: name, seed of the content, length.
const FILES: [[(&str, u64, usize); 2]; 3] = [
    [("a third", 1, 300_000), ("two thirds go", 2, 600_000)],
    [("two thirds", 3, 600_000), ("a third goes", 4, 300_000)],
    [("all goes", 5, 400_000), ("and this", 6, 200_000)],
];
const GO: [&str; 4] = ["two thirds go", "a third goes", "all goes", "and this"];

/// Stores the files, those of one pack with one commit.
fn fill(world: &World) {
    for pack in FILES {
        for (name, seed, len) in pack {
            world.save(name, &random::content(seed, len));
        }
        world.fs.sync().unwrap();
    }
}

/// Are the files that were not removed there, and nothing else?
fn holds_what_stays(world: &World) -> bool {
    let stays = FILES.iter().flatten().filter(|(name, ..)| !GO.contains(name));
    let whole =
        |name, seed, len| world.read(world.find(name)?).map(|bytes| bytes == random::content(seed, len));
    stays.clone().all(|&(name, seed, len)| whole(name, seed, len).unwrap_or(false))
        && world.check().is_clean()
}

#[test]
fn a_cycle_rewrites_packs_in_which_no_hole_can_be_punched() {
    let _all = protected();
    let place = Place::new();
    let world = place.open();
    fill(&world);
    let before = place.packs.used();
    let packs = world.store.packs.list().unwrap();
    assert_eq!(packs.len(), FILES.len(), "a commit seals the pack that is written to");
    GO.iter().for_each(|name| world.remove(ROOT_INO, name));
    let record = world.collector.run_cycle(false).unwrap();
    assert_eq!((record.packs_removed, record.packs_compacted, record.packs_punched), (2, 1, 0), "{record:?}");
    assert!((300_000..340_000).contains(&record.moved_bytes), "{record:?}");
    let left = world.store.packs.list().unwrap();
    assert_eq!(packs.iter().filter(|pack| left.contains(pack)).collect::<Vec<_>>(), [&packs[1]]);
    let around = 64 + 40 + 16 * (record.moved_bytes / 20_000);
    let after = before - record.freed_bytes + record.moved_bytes;
    assert!((after..after + around).contains(&place.packs.used()), "{record:?}");
    assert!(holds_what_stays(&world));

    // Nothing more comes of another one.
    let record = world.collector.run_cycle(false).unwrap();
    assert_eq!((record.packs_removed, record.moved_bytes), (0, 0), "{record:?}");
    for seed in 0..4 {
        let left = place.cut(seed);
        let world = left.open();
        assert!(holds_what_stays(&world), "seed {seed}");
        world.close().unwrap();
    }
    world.close().unwrap();
    let world = place.open();
    assert!(holds_what_stays(&world));
    world.close().unwrap();
}

/// What a power cut leaves of files that were synced.
fn synced_survives() -> bool {
    let place = Place::new();
    let world = place.open();
    fill(&world);
    let left = place.cut(1);
    world.close().unwrap();
    let world = left.open();
    let whole = holds_what_stays(&world);
    world.close().unwrap();
    whole
}

#[test]
fn what_was_synced_is_put_before_its_names_are_durable() {
    {
        let _all = protected();
        assert!(synced_survives());
    }
    let _out = without(&[Protection::BytesBeforeNames]);
    assert!(!synced_survives(), "objects that were not put are missed");
}

#[test]
fn a_check_misses_an_object_that_is_gone() {
    let _all = protected();
    let place = Place::new();
    let world = place.open();
    fill(&world);
    let pack = world.store.packs.list().unwrap()[0];
    world.store.packs.remove(pack).unwrap();
    let report = world.check();
    let named = report
        .findings
        .iter()
        .any(|finding| finding.what.starts_with(&format!("object {pack} is not there")));
    assert!(named, "{:?}", report.findings);
    world.close().unwrap();
}

/// The database is lost: the repair finds every chunk in the objects.
#[test]
fn a_repair_finds_every_chunk_in_objects() {
    let _all = protected();
    let place = Place::new();
    let world = place.open();
    fill(&world);
    let (chunks, packs) = (world.store.status().unwrap().chunks, place.packs.list().unwrap().len());
    world.close().unwrap();
    place.disk.remove(META_FILE).unwrap();
    let media: Arc<dyn Media> = Arc::new(place.disk.clone());
    let objects: Arc<dyn PackStore> = Arc::new(place.packs.clone());
    let report = repair_with((&media, &objects), &place.config, true).unwrap();
    assert_eq!((report.packs, report.chunks), (packs as u64, chunks), "{report:?}");
    assert!(report.damaged_packs.total == 0 && report.done, "{report:?}");
    let world = place.open();
    assert!(world.check().is_clean());
    assert_eq!(world.store.status().unwrap().chunks, chunks);
    world.close().unwrap();
}
