//! The scrub: finds what nobody has read, and goes on where it stopped.

use std::ops::Bound;

use cairnfs::check::Scrub;
use cairnfs::chunk::ChunkId;
use cairnfs::fs::ROOT_INO;
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::Table;
use cairnfs::meta::rows::{RegionRow, chunk_of};

use crate::random;
use crate::repair::{DB, packs, reader};
use crate::world::{World, config, new_disk, protected};

const FILES: u64 = 8;

fn content(number: u64) -> Vec<u8> {
    random::content(40_000 + number, 120_000)
}

fn write(world: &World, name: &str) {
    let dir = world.mkdir(ROOT_INO, name);
    for number in 0..FILES {
        let ino = world.create(dir, &format!("f{number}"));
        world.fs.write(ino, 0, &content(number), false).unwrap();
    }
    world.fs.sync().unwrap();
}

/// Flips a byte of one region in three; returns how many chunks that costs.
fn damage(disk: &SimMedia) -> u64 {
    let packs = packs(disk);
    let reader = reader(disk);
    let regions = packs.list().unwrap().into_iter().flat_map(|pack| reader.walk(pack).unwrap().regions);
    let mut chunks = 0;
    for (at, header) in regions.step_by(3) {
        disk.flip_byte(&at.pack.path(), at.end() - 1);
        chunks += header.chunks.len() as u64;
    }
    chunks
}

#[test]
fn the_scrub_finds_what_nobody_reads_and_goes_on_where_it_stopped() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    write(&world, "s0");
    let all = world.store.status().unwrap().plain_bytes;
    world.close().unwrap();
    let bad = damage(&disk);

    // A little at a time, and the store is closed and opened after each.
    let (mut steps, mut findings) = (0, Vec::new());
    loop {
        let world = World::open(&disk, &config).unwrap();
        let scrub = Scrub::of(&world.store);
        if steps == 0 {
            assert_eq!(scrub.step(1 << 20, 5, &|| true).unwrap(), [], "no pass is under way");
            scrub.begin(1_000);
        }
        let before = scrub.status().bytes;
        findings.extend(scrub.step(200_000, 1_001, &|| true).unwrap());
        scrub.note();
        let status = scrub.status();
        world.close().unwrap();
        steps += 1;
        if !status.running {
            assert_eq!((status.bytes, status.bad, status.last_bad), (all, bad, bad));
            assert_eq!((status.passes, status.began, status.last_ended), (1, 1_000, 1_001));
            break;
        }
        assert!(status.bytes > before, "{status:?}");
    }
    assert!(steps > 3);
    assert!(!findings.is_empty() && findings.iter().all(|finding| finding.files[0].starts_with("s0/f")));

    // Nothing was read by anybody else, and yet all of it is known and heals.
    let world = World::open(&disk, &config).unwrap();
    assert_eq!(world.store.status().unwrap().bad_chunks, bad);
    write(&world, "s1");
    assert_eq!(world.check().findings, []);
    let scrub = Scrub::of(&world.store);
    scrub.begin(2_000);
    assert_eq!(scrub.step(u64::MAX, 2_001, &|| true).unwrap(), []);
    assert_eq!((scrub.status().passes, scrub.status().last_bad), (2, 0));
    world.close().unwrap();
}

#[test]
fn the_scrub_ends_when_told_to_and_trusts_what_reads_again() {
    let _all = protected();
    let (disk, config) = (new_disk(), config());
    let world = World::open(&disk, &config).unwrap();
    write(&world, "s0");
    let scrub = Scrub::of(&world.store);
    scrub.expect_from(7);
    assert!(!scrub.status().running && Scrub::of(&world.store).status().began == 7);
    scrub.begin(1);
    assert_eq!(scrub.step(u64::MAX, 2, &|| false).unwrap(), []);
    assert!(scrub.status().running && scrub.status().bytes == 0);
    let last = ChunkId(world.store.next_chunk().0 - 1);
    let (row, _) = world.store.chunks.region_of(last).unwrap();
    world.store.healing.mark_bad(row.live().map(|(id, _)| id), row.at.pack);
    assert!(world.store.status().unwrap().bad_chunks > 0);
    assert_eq!(scrub.step(u64::MAX, 2, &|| true).unwrap(), []);
    assert_eq!(world.store.status().unwrap().bad_chunks, 0, "they read back");
    world.close().unwrap();
}

/// The rows of all regions, also as they are stored.
fn region_rows(world: &World) -> Vec<(RegionRow, Vec<u8>)> {
    let mut rows = Vec::new();
    let each = |key: &[u8], row: &[u8]| {
        rows.push((RegionRow::decode(ChunkId(chunk_of(key)?), row)?, row.to_vec()));
        Ok(true)
    };
    world.store.layers().view.scan(Table::Regions, Bound::Unbounded, Bound::Unbounded, each).unwrap();
    rows
}

/// A page with rows of regions cannot be read, the first or the last: the scrub comes to its end and reads the others.
#[test]
fn the_scrub_passes_by_rows_that_cannot_be_read() {
    let _all = protected();
    for at_the_end in [false, true] {
        let (disk, config) = (new_disk(), config());
        let world = World::open(&disk, &config).unwrap();
        write(&world, "s0");
        let mut rows = region_rows(&world);
        if at_the_end {
            rows.reverse();
        }
        let ((_, row), (far, _)) = (&rows[0], rows.last().unwrap());
        world.close().unwrap();
        // A byte of the row changes wherever it stands.
        let contents = disk.contents(DB).unwrap();
        let places = contents.windows(row.len()).enumerate().filter(|(_, bytes)| bytes == row);
        places.for_each(|(at, _)| disk.flip_byte(DB, at as u64));
        disk.flip_byte(&far.at.pack.path(), far.at.end() - 1);

        let world = World::open(&disk, &config).unwrap();
        let scrub = Scrub::of(&world.store);
        scrub.begin(1);
        let mut steps = 0;
        while scrub.status().running && steps < 1_000 {
            // Which files are hit may be in what cannot be read.
            let _ = scrub.step(50_000, 2, &|| true);
            steps += 1;
        }
        let status = scrub.status();
        assert_eq!((status.passes, status.last_bad), (1, far.live().count() as u64), "{status:?}");
        assert!(status.bytes < world.store.status().unwrap().plain_bytes, "{status:?}");
        assert!(world.store.healing.is_bad(far.first));
    }
}
