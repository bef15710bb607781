//! A collector that fails, and one that has nothing to do.

use std::path::PathBuf;

use super::*;
use crate::media::Media;
use crate::media::sim::SimMedia;
use crate::meta::Table;
use crate::meta::rows::extent_key;
use crate::store::{MkfsOptions, OpenOptions, StoreConfig, make_database};

const DAY: Duration = Duration::from_secs(86_400);

struct Disk(SimMedia, StoreConfig);

impl Disk {
    fn new() -> Self {
        let disk = SimMedia::new();
        make_database(&disk).unwrap();
        disk.sync_dir("").unwrap();
        Self(disk, StoreConfig::new(&MkfsOptions::default()).unwrap())
    }

    /// The store on it, and a collector that starts cycles by itself if somebody looks.
    fn open(&self) -> (Arc<Store>, Arc<Collector>) {
        let options = OpenOptions { cache_bytes: 12 << 20, workers: 1, ..OpenOptions::default() };
        let (disk, path) = (Arc::new(self.0.clone()), PathBuf::from("/simulated"));
        let store = Store::on_media(disk, self.1.clone(), path, None, &options).unwrap();
        let options = Options { auto: true, ..Options::default() };
        let (collector, _) = Collector::without_thread(store.clone(), options);
        (store, collector)
    }
}

/// Something was deleted.
fn delete(store: &Arc<Store>) {
    store.batches.join().unwrap().rows.count(Counter::Deleted, 1);
    store.commits.commit().unwrap();
}

/// Looks as the thread does, every five seconds of `time` from `begin` on; how often a cycle was tried.
fn look(collector: &Collector, begin: Instant, time: Duration) -> u64 {
    let (mut policy, mut tries, mut at) = (StartPolicy::new(true, None), 0, Duration::ZERO);
    while at < time {
        if collector.is_due(&mut policy, begin + at) {
            collector.run_unattended(begin + at);
            tries += 1;
        }
        at += POLL_INTERVAL;
    }
    tries
}

/// What ends each cycle raises the generation once, and not with every look; and as soon as it is mended, all is well.
#[test]
fn a_cycle_that_fails_is_tried_ever_more_rarely_and_begins_no_generation() {
    let (store, collector) = Disk::new().open();
    let (key, begin) = (extent_key(77, 0), Instant::now());
    store.batches.join().unwrap().rows.put(Table::Extents, &key, b"no extent");
    delete(&store);
    let generation = store.generation();
    assert_eq!(look(&collector, begin, DAY), 11);
    assert_eq!(store.generation(), generation + 1, "only the first one flipped");
    let trouble = collector.recurring_failure().unwrap();
    assert_eq!((trouble.what.as_str(), trouble.failures), ("cycle", 11));
    assert!(trouble.since > 0 && trouble.retry_in > 3600, "{trouble:?}");
    let last = collector.last().unwrap();
    assert_eq!(last.ended_early, Some(trouble.error));

    store.batches.join().unwrap().rows.delete(Table::Extents, &key);
    delete(&store);
    assert_eq!(look(&collector, begin + DAY, DAY), 1);
    assert!(collector.recurring_failure().is_none());
    assert_eq!(store.generation(), generation + 2);
    collector.shutdown();
    store.close().unwrap();
}

/// A cycle that somebody asks for runs at once, also while those that start by themselves wait; one that is whole ends
/// the waiting.
#[test]
fn who_asks_for_a_cycle_gets_one() {
    let (store, collector) = Disk::new().open();
    let key = extent_key(77, 0);
    store.batches.join().unwrap().rows.put(Table::Extents, &key, b"no extent");
    store.commits.commit().unwrap();
    for failures in 1..=3 {
        assert!(collector.run_cycle(false).is_err());
        assert_eq!(collector.recurring_failure().unwrap().failures, failures);
    }
    store.batches.join().unwrap().rows.delete(Table::Extents, &key);
    store.commits.commit().unwrap();
    collector.run_cycle(false).unwrap();
    assert!(collector.recurring_failure().is_none());
    store.close().unwrap();
}

#[test]
fn a_store_that_takes_no_changes_has_no_cycles() {
    let (store, collector) = Disk::new().open();
    delete(&store);
    let generation = store.generation();
    store.batches.latch().set(&Error::damaged("the disk"));
    assert_eq!(look(&collector, Instant::now(), DAY), 0);
    assert!(matches!(collector.run_cycle(false), Err(Error::Latched(_))), "who asks is told");
    assert_eq!((store.generation(), collector.recurring_failure()), (generation, None));
    assert!(collector.last().is_none(), "nothing was begun");
    let _ = store.close();
}

/// The record outlives the mount, a cycle that failed included; a dry run leaves it as it is.
#[test]
fn the_record_of_the_last_cycle_is_kept() {
    let disk = Disk::new();
    let mut last = None;
    for generation in 2..5 {
        let (store, collector) = disk.open();
        assert_eq!(collector.last(), last);
        assert_eq!(CycleRecord::last_of(&store), last);
        let record = collector.run_cycle(false).unwrap();
        assert!(record.generation == generation && record.started > 0 && record.ended >= record.started);
        collector.run_cycle(true).unwrap();
        last = Some(record);
        assert_eq!(collector.last(), last);
        store.close().unwrap();
    }
    let (store, _) = disk.open();
    store.batches.join().unwrap().rows.put(Table::State, b"cycle", b"{");
    assert_eq!(CycleRecord::last_of(&store), None, "for display only");
    store.close().unwrap();
}
