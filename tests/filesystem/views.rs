//! No view of the database is held while data is read or moved: under one the database cannot use its pages again, and
//! grows by all that is committed meanwhile.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairnfs::check::{self, Progress, Scrub};
use cairnfs::fs::{Fs, FsOptions, ROOT_INO};
use cairnfs::media::sim::{OpKind, SimMedia};
use cairnfs::meta::{ReadView, Table};
use cairnfs::store::{MkfsOptions, OpenOptions, Store, StoreConfig, mkfs};

use crate::random;
use crate::world::{CALLER, World, config, new_disk, protected};

/// The most who held the newest view at any read of a pack, or any hole made in one, beside the store itself.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn watch(disk: &SimMedia, store: &Arc<Store>) -> Self {
        let most = Arc::new(AtomicUsize::new(0));
        let (store, seen) = (Arc::downgrade(store), most.clone());
        disk.set_fault(Box::new(move |op| {
            if matches!(op.kind, OpKind::Read | OpKind::Punch)
                && op.path.ends_with(".pack")
                && let Some(store) = store.upgrade()
            {
                // One is the store's own.
                seen.fetch_max(Arc::strong_count(store.layers().view.base()), Ordering::SeqCst);
            }
            None
        }));
        Self(most)
    }

    /// How many there were since the last time.
    fn most(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// A store with a pack to be rewritten, and one to be punched.
fn half_dead() -> (SimMedia, World) {
    let (disk, config) = (new_disk(), StoreConfig { region_size: 64 << 10, ..config() });
    let world = World::open(&disk, &config).unwrap();
    for number in 0..40 {
        world.save(&format!("f{number}"), &random::content(80_000 + number, 60_000));
        world.fs.sync().unwrap();
    }
    for number in (0..40).filter(|number| if *number < 20 { number % 10 > 0 } else { number % 2 > 0 }) {
        world.remove(ROOT_INO, &format!("f{number}"));
    }
    world.close().unwrap();
    let world = World::open(&disk, &config).unwrap();
    (disk, world)
}

#[test]
fn no_view_is_held_while_packs_are_read_or_moved() {
    let _all = protected();
    let (disk, world) = half_dead();
    let held = Held::watch(&disk, &world.store);
    let options = check::Options { data: true, ..check::Options::default() };
    assert!(check::check(&world.store, &options).unwrap().is_clean());
    assert_eq!(held.most(), 1, "a check");
    let scrub = Scrub::of(&world.store);
    scrub.begin(1);
    scrub.step(u64::MAX, 1, &|| true).unwrap();
    assert_eq!(held.most(), 1, "the scrub");
    let record = world.collector.run_cycle(false).unwrap();
    assert!(record.moved_bytes > 0 && record.packs_punched > 0, "{record:?}");
    assert_eq!(held.most(), 1, "a cycle");
    // The watch sees one. What the cycle has noted is committed, or the check would, and the view be an old one.
    world.store.commits.commit().unwrap();
    world.store.commits.fold().unwrap();
    let view: Arc<ReadView> = world.store.layers().view.base().clone();
    assert!(check::check(&world.store, &options).unwrap().is_clean());
    assert_eq!(held.most(), 2);
    drop(view);
    world.close().unwrap();
}

/// What others make durable while a check reads data.
const COMMITS: u64 = 300;

/// How many times its space on the host's disk the database has after a check beside which others have committed.
fn growth(hold_a_view: bool) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    mkfs(dir.path(), &MkfsOptions { reserve: 1 << 20, ..MkfsOptions::default() }).unwrap();
    let store =
        Store::open(dir.path(), &OpenOptions { cache_bytes: 12 << 20, ..OpenOptions::default() }).unwrap();
    let fs = Fs::new(store.clone(), FsOptions::default()).unwrap();
    let ino = fs.mknod(ROOT_INO, b"file", CALLER, libc::S_IFREG | 0o644, 0, 0).unwrap().ino;
    fs.write(ino, 0, &random::content(9, 4 << 20), false).unwrap();
    fs.sync().unwrap();
    let commit = |number: u64| {
        let rows = (0..200u64).map(|row| ((row * 7919 % 5000).to_be_bytes(), Some(number.to_be_bytes())));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable();
        rows.dedup_by_key(|row| row.0);
        store
            .commits
            .rewrite(true, |txn, _| {
                txn.apply(Table::Xattrs, rows);
                Ok(())
            })
            .unwrap();
        store.commits.fold().unwrap();
    };
    (0..20).for_each(commit);
    let on_disk = || std::fs::metadata(dir.path().join("meta/cairnfs.redb")).unwrap().blocks() * 512;
    let before = on_disk();
    let view = hold_a_view.then(|| store.layers().view.base().clone());
    let committed = std::cell::Cell::new(false);
    let progress = |at: Progress| {
        if at.bytes > 0 && !committed.replace(true) {
            (0..COMMITS).for_each(commit);
        }
    };
    let options = check::Options { data: true, progress: &progress, ..check::Options::default() };
    check::check(&store, &options).unwrap();
    drop(view);
    assert!(committed.get());
    let after = on_disk();
    fs.shutdown().unwrap();
    store.close().unwrap();
    after as f64 / before as f64
}

#[test]
fn a_check_does_not_grow_the_database_by_what_others_commit_meanwhile() {
    let _all = protected();
    let (without, with) = (growth(false), growth(true));
    println!("the database has {without:.2} times its space after a check, with a view held {with:.2}");
    assert!(without < 2.0, "{without}");
    assert!(with > 4.0, "{with}: the other half of the test would notice nothing");
}
