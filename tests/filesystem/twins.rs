//! The same bytes stored twice: how that comes about, that it is seldom, and that each of the two is found as long as
//! it is there.

use std::sync::{Arc, Mutex};
use std::thread;

use cairnfs::chunk::{ChunkId, Digest};
use cairnfs::fs::ROOT_INO;
use cairnfs::gc::Point;
use cairnfs::meta::Table;
use cairnfs::meta::rows::{Extent, Piece, digest, extent_key};
use cairnfs::store::{Member, Store};

use crate::races::{prune, write_snapshot};
use crate::random;
use crate::world::{World, config, new_disk, protected};

/// The chunks that a digest names in the database.
fn named(store: &Store, of: &Digest) -> Vec<ChunkId> {
    let row = store.layers().view.get(Table::Digests, &of.0).unwrap();
    row.map_or(Vec::new(), |row| digest::chunk_ids(&row).unwrap().collect())
}

/// Stores bytes as the only chunk of a file, as a flush does.
fn put(store: &Arc<Store>, member: &Member, ino: u64, bytes: &[u8]) -> ChunkId {
    let id = store.chunks.put(member, Digest::of(bytes), bytes, bytes.len() as u64).unwrap();
    let len = bytes.len() as u32;
    let extent = Extent::of(Piece { offset: 0, id, chunk_len: len, start: 0, len });
    member.rows.put(Table::Extents, &extent_key(ino, 0), &extent.encode());
    id
}

/// Two writers store the same bytes, the slower one in a batch that is about to be committed: it must not use the chunk
/// of the faster one, which is in the next batch.
fn stored_twice(world: &World, files: [u64; 2], bytes: &[u8]) -> [ChunkId; 2] {
    let store = &world.store;
    let slow = store.batches.join().unwrap();
    // A batch without a row would not be committed.
    world.create(ROOT_INO, "something to commit");
    thread::scope(|scope| {
        scope.spawn(|| store.commits.commit().unwrap());
        // The commit waits for the slow one; whoever joins after the swap is in the next batch.
        let fast = loop {
            let member = store.batches.join().unwrap();
            if member.number > slow.number {
                break member;
            }
            drop(member);
            thread::yield_now();
        };
        let of_fast = put(store, &fast, files[0], bytes);
        let of_slow = put(store, &slow, files[1], bytes);
        drop(slow);
        drop(fast);
        [of_fast, of_slow]
    })
}

#[test]
fn whichever_of_two_equal_chunks_goes_the_other_is_found() {
    let _all = protected();
    let bytes = random::content(77, 9_000);
    let of = Digest::of(&bytes);
    for goes in [0, 1] {
        let world = World::open(&new_disk(), &config()).unwrap();
        let files = ["a", "b"].map(|name| world.create(ROOT_INO, name));
        world.fs.sync().unwrap();
        let ids = stored_twice(&world, files, &bytes);
        assert_ne!(ids[0], ids[1], "one batch depends on the one after it");
        world.store.commits.commit().unwrap();
        let mut both = named(&world.store, &of);
        both.sort();
        let mut stored = ids;
        stored.sort();
        assert_eq!(both, stored, "the digest names both");

        let gone = extent_key(files[goes], 0);
        world
            .store
            .commits
            .rewrite(true, |txn, _| {
                txn.apply(Table::Extents, [(gone, None::<&[u8]>)]);
                Ok(())
            })
            .unwrap();
        world.collector.run_cycle(false).unwrap();
        assert_eq!(named(&world.store, &of), [ids[1 - goes]], "the other one is found");
        let member = world.store.batches.join().unwrap();
        assert_eq!(
            world.store.chunks.put(&member, of, &bytes, bytes.len() as u64).unwrap(),
            ids[1 - goes],
            "and used"
        );
        drop(member);

        let gone = extent_key(files[1 - goes], 0);
        world
            .store
            .commits
            .rewrite(true, |txn, _| {
                txn.apply(Table::Extents, [(gone, None::<&[u8]>)]);
                Ok(())
            })
            .unwrap();
        world.collector.run_cycle(false).unwrap();
        assert_eq!(named(&world.store, &of), [], "nothing is left behind");
        world.close().unwrap();
    }
}

/// What is remembered from before a cycle is going; it is stored anew once, and not once more by each who comes.
#[test]
fn garbage_that_comes_again_in_a_cycle_is_stored_anew_once() {
    let _all = protected();
    let world = Arc::new(World::open(&new_disk(), &config()).unwrap());
    write_snapshot(&world, "s0", 0..3);
    world.fs.sync().unwrap();
    // Found once more, so that the digests are remembered.
    write_snapshot(&world, "again", 0..3);
    world.fs.sync().unwrap();
    prune(&world, "again");
    prune(&world, "s0");
    let chunks = Arc::new(Mutex::new(Vec::new()));
    let (inside, seen) = (Arc::clone(&world), Arc::clone(&chunks));
    world.collector.set_hook(Some(Arc::new(move |at| {
        if at == Point::Swept {
            for name in ["s1", "s2", "s3"] {
                write_snapshot(&inside, name, 0..3);
                inside.fs.sync().unwrap();
                seen.lock().unwrap().push(inside.store.status().unwrap().chunks);
            }
        }
    })));
    world.collector.run_cycle(false).unwrap();
    world.collector.set_hook(None);
    let chunks = chunks.lock().unwrap().clone();
    assert!(chunks[0] > 0, "they were stored anew");
    assert_eq!(chunks, vec![chunks[0]; 3], "chunks after each of the three");
    for name in ["s3", "s1"] {
        prune(&world, name);
        world.collector.run_cycle(false).unwrap();
        let report = world.check();
        assert!(report.is_clean(), "without {name}: {:?}", report.findings);
    }
    Arc::into_inner(world).expect("the hook is gone").close().unwrap();
}
