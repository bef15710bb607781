//! A check of the data that is interrupted goes on where it stopped: nothing is read twice but what has to be, nothing
//! is left out, and what the first part found is told by the last.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use cairnfs::check::{self, CheckReport};
use cairnfs::fs::ROOT_INO;
use cairnfs::media::Media;
use cairnfs::media::sim::SimMedia;
use cairnfs::store::{OpenOptions, Store, StoreConfig};
use xxhash_rust::xxh3::xxh3_64;

use crate::random;
use crate::repair::{packs, reader};
use crate::world::{World, config, new_disk, protected};

const FILES: u64 = 200;
const FILE: &str = "check.position";
/// A check is stopped once it has read so many bytes. What was handed to the readers before that, they finish.
const STOP: u64 = 2 << 20;
/// Where the words of the file begin: after the magic number and the uuid.
const WORDS: usize = 24;

/// A store, nobody having it open.
struct Place {
    disk: SimMedia,
    config: StoreConfig,
}

impl Place {
    fn new() -> Self {
        let place = Self { disk: new_disk(), config: config() };
        let world = place.world();
        for number in 0..FILES {
            let ino = world.create(ROOT_INO, &format!("f{number}"));
            world.fs.write(ino, 0, &random::content(70_000 + number, 120_000), false).unwrap();
        }
        world.close().unwrap();
        place
    }

    fn world(&self) -> World {
        World::open(&self.disk, &self.config).unwrap()
    }

    fn open(&self, read_only: bool) -> Arc<Store> {
        let options = OpenOptions { cache_bytes: 12 << 20, workers: 2, read_only, ..OpenOptions::default() };
        let path = PathBuf::from("/simulated");
        Store::on_media(Arc::new(self.disk.clone()), self.config.clone(), path, None, &options).unwrap()
    }

    /// Opens the store, checks it, closes it. None if the check was stopped, after `stop` bytes.
    fn check(&self, read_only: bool, resume: bool, stop: u64) -> Option<CheckReport> {
        let (store, read) = (self.open(read_only), Cell::new(0));
        let progress = |at: check::Progress| read.set(at.bytes);
        let cancelled = || read.get() >= stop;
        let options = check::Options {
            data: true,
            resume,
            progress: &progress,
            cancelled: &cancelled,
            ..check::Options::default()
        };
        let report = check::check(&store, &options);
        store.close().unwrap();
        report.map_err(|error| assert_eq!(error.errno(), libc::EINTR)).ok()
    }

    fn whole(&self, read_only: bool, resume: bool) -> CheckReport {
        self.check(read_only, resume, u64::MAX).unwrap()
    }

    /// A check of the data that is stopped.
    fn part(&self) {
        assert!(self.check(true, false, STOP).is_none() && self.is_noted());
    }

    fn is_noted(&self) -> bool {
        self.disk.contents(FILE).is_some()
    }

    /// Stops the check again and again; the report of the one that came to its end, and how many there were.
    fn in_parts(&self, read_only: bool) -> (CheckReport, u32) {
        let mut parts = 1;
        let mut report = self.check(read_only, false, STOP);
        let mut before = 0;
        while report.is_none() {
            let bytes = self.words()[1];
            assert!(bytes > before && parts < 30, "part {parts}: {bytes} after {before}");
            before = bytes;
            report = self.check(read_only, true, STOP);
            parts += 1;
        }
        (report.unwrap(), parts)
    }

    fn all_bytes(&self) -> u64 {
        let store = self.open(true);
        let bytes = store.status().unwrap().plain_bytes;
        store.close().unwrap();
        bytes
    }

    /// Flips a byte of one region of so many of the packs from `first` on.
    fn damage(&self, every: usize, first: u64) -> usize {
        let packs = packs(&self.disk);
        let reader = reader(&self.disk);
        let packs = packs.list().unwrap().into_iter().filter(|pack| pack.0 >= first);
        let regions = packs.flat_map(|pack| reader.walk(pack).unwrap().regions).step_by(every);
        regions.map(|(at, _)| self.disk.flip_byte(&at.pack.path(), at.end() - 1)).count()
    }

    /// What the note says: first chunk not read, bytes read, pack and offset of what is final, and the lengths and members of its lists.
    fn words(&self) -> Vec<u64> {
        let bytes = self.disk.contents(FILE).unwrap();
        let words = bytes[WORDS..bytes.len() - 8].chunks(8);
        words.map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// Makes another note of the one that there is, and a valid one.
    fn rewrite(&self, change: impl FnOnce(&mut Vec<u64>)) {
        let mut words = self.words();
        change(&mut words);
        let mut bytes = self.disk.contents(FILE).unwrap()[..WORDS].to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        let file = self.disk.open(FILE, true).unwrap();
        file.set_len(0).unwrap();
        file.write_at(&bytes, 0).unwrap();
    }
}

fn sentences(report: &CheckReport) -> Vec<String> {
    let mut all: Vec<String> = report.findings.iter().map(|finding| finding.what.clone()).collect();
    all.sort();
    all
}

#[test]
fn the_parts_of_a_check_read_everything_exactly_once() {
    let _all = protected();
    for read_only in [true, false] {
        let place = Place::new();
        let all = place.all_bytes();
        let (report, parts) = place.in_parts(read_only);
        let from = report.resumed.expect("it went on");
        assert!(parts > 2 && from.chunk > 0 && from.bytes > all / 4, "{parts} parts, {from:?} of {all}");
        assert_eq!(from.bytes + report.bytes_read, all);
        assert_eq!(report.findings, []);
        assert!(!place.is_noted(), "a check that ended leaves nothing");
        let again = place.whole(read_only, true);
        assert_eq!((again.resumed, again.bytes_read), (None, all), "there is nothing to go on with");
        assert_eq!(again.began_anew.as_deref(), Some("no check had been interrupted"));
    }
}

#[test]
fn without_being_asked_to_or_with_a_note_that_does_not_fit_a_check_begins_anew() {
    let _all = protected();
    let place = Place::new();
    let all = place.all_bytes();
    let anew = |resume: bool| {
        let report = place.whole(true, resume);
        assert_eq!((report.resumed, report.bytes_read), (None, all));
        assert!(!place.is_noted());
        report.began_anew.unwrap_or_default()
    };
    place.part();
    assert_eq!(anew(false), "");
    place.part();
    place.disk.flip_byte(FILE, 30);
    assert!(anew(true).contains("damaged or of another store"));
    // Ids and packs that the store has not given yet: it was put back from an older copy.
    for word in [0, 2] {
        place.part();
        place.rewrite(|words| words[word] += 1 << 40);
        assert!(anew(true).contains("newer state of the store"));
    }
    // And a note that fits is gone on with.
    place.part();
    place.rewrite(|_| {});
    assert!(place.whole(true, true).resumed.is_some());
}

#[test]
fn what_any_part_found_is_told_at_the_end() {
    let _all = protected();
    for read_only in [true, false] {
        let place = Place::new();
        place.damage(20, 0);
        let expected = sentences(&place.whole(true, false));
        assert!(expected.len() > 20, "{}", expected.len());
        let (report, parts) = place.in_parts(read_only);
        assert!(parts > 2 && report.resumed.is_some());
        assert_eq!(sentences(&report), expected, "read-only: {read_only}");
    }
    // What the list of bad regions is for.
    let place = Place::new();
    place.damage(20, 0);
    let expected = sentences(&place.whole(true, false));
    place.part();
    place.rewrite(|words| {
        assert!(words[5] > 0, "the first part found damage");
        words.truncate(6 + words[4] as usize);
        words[5] = 0;
    });
    let report = place.whole(true, true);
    assert!(report.resumed.is_some() && sentences(&report).len() < expected.len());
}

/// What a cycle copies from one pack to another after it was read is read in its new place, too.
#[test]
fn what_moved_between_two_parts_is_read_once_more() {
    let _all = protected();
    let found = |is_known: bool| {
        let place = Place::new();
        // Every chunk below is read, and garbage is all over the packs.
        assert!(place.check(true, false, place.all_bytes() - (1 << 20)).is_none());
        let [below, _, next_pack, ..] = place.words()[..] else { panic!("the note is too short") };
        let world = place.world();
        (0..FILES * 3 / 4)
            .filter(|number| number % 10 > 0)
            .for_each(|number| world.remove(ROOT_INO, &format!("f{number}")));
        world.fs.drain_orphans().unwrap();
        world.collector.run_cycle(false).unwrap();
        world.close().unwrap();
        let all = place.all_bytes();
        assert!(place.damage(3, next_pack) > 3, "regions moved");
        if !is_known {
            place.rewrite(|words| words[2] = packs(&place.disk).list().unwrap().last().unwrap().0 + 1);
        }
        let report = place.whole(true, true);
        assert_eq!(report.resumed.map(|from| from.chunk), Some(below));
        assert!(!is_known || report.bytes_read < all, "what did not move is not read again");
        report.findings.len()
    };
    assert!(found(true) > 3);
    // The same, told that nothing was written since.
    assert_eq!(found(false), 0);
}

/// A disk with some packs is not mounted while the first part runs; when it is back, there is damage in them.
#[test]
fn what_was_gone_in_one_part_is_read_by_the_next() {
    let _all = protected();
    let place = Place::new();
    let media: Arc<dyn Media> = Arc::new(place.disk.clone());
    let pack = packs(&place.disk).list().unwrap()[0];
    let regions = reader(&place.disk).walk(pack).unwrap().regions;
    let (path, contents) = (pack.path(), place.disk.contents(&pack.path()).unwrap());
    media.remove(&path).unwrap();
    place.part();
    let file = media.create(&path).unwrap();
    file.write_at(&contents, 0).unwrap();
    let (first, _) = &regions[0];
    place.disk.flip_byte(&path, first.end() - 1);
    let report = place.whole(true, true);
    let hit = |report: &CheckReport| sentences(report).iter().any(|what| what.contains(&first.to_string()));
    assert!(report.resumed.is_some() && hit(&report), "{:?}", sentences(&report));
    place.disk.flip_byte(&path, first.end() - 1);
    assert_eq!(sentences(&place.whole(true, false)), [""; 0]);
}
