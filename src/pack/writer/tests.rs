use std::sync::mpsc;

use super::*;
use crate::chunk::{ChunkId, Digest};
use crate::media::Media;
use crate::media::sim::{OpKind, SimMedia};
use crate::pack::HEADER_LEN;
use crate::pack::store::MemoryPacks;
use crate::pack::{Compression, LocalPacks, PackReader, RegionChunk};

const STORE: [u8; 16] = [9; 16];

/// A record of one chunk with the id and `len` bytes.
fn record(id: u64, len: usize) -> Vec<u8> {
    let plain = vec![id as u8; len];
    let chunk = RegionChunk { id: ChunkId(id), digest: Digest::of(&plain), len: len as u32 };
    codec().encode(&[chunk], &plain)
}

fn codec() -> Codec {
    Codec::new(Compression::None)
}

fn packs(media: &SimMedia) -> Arc<dyn PackStore> {
    Arc::new(LocalPacks::new(Arc::new(media.clone()), 4))
}

fn writer(media: &SimMedia, limit: u64) -> PackWriter {
    PackWriter::new((packs(media), codec()), STORE, limit, PackId(5))
}

fn reader(media: &SimMedia) -> PackReader {
    PackReader::new(packs(media), codec())
}

fn ids(media: &SimMedia, pack: PackId) -> Vec<u64> {
    let regions = reader(media).scan(pack).unwrap();
    let chunks = regions.iter().flat_map(|(_, header)| &header.chunks);
    chunks.map(|chunk| chunk.id.0).collect()
}

#[test]
fn records_go_one_after_the_other_and_packs_are_sealed_at_their_limit() {
    let media = SimMedia::new();
    let writer = writer(&media, 1000);
    assert_eq!((writer.next_pack(), writer.open_pack()), (PackId(5), None));
    let mut offset = HEADER_LEN;
    for id in 0..3 {
        let record = record(id, 100);
        let at = writer.append(&record).unwrap();
        assert_eq!((at.pack, at.offset, at.len as usize), (PackId(5), offset, record.len()));
        assert_eq!(reader(&media).read_region(&at).unwrap().chunk(ChunkId(id)).unwrap().len(), 100);
        offset = at.end();
    }
    assert_eq!((writer.next_pack(), writer.open_pack()), (PackId(6), Some(PackId(5))));
    // 64 + 3 * 184 bytes, and 312 more with a footer of 104.
    assert_eq!(writer.append(&record(3, 128)).unwrap().pack, PackId(5));
    assert_eq!(writer.append(&record(4, 100)).unwrap().pack, PackId(6));
    assert_eq!(writer.append(&record(5, 5000)).unwrap().pack, PackId(7));
    assert_eq!(writer.append(&record(6, 1)).unwrap().pack, PackId(8));
    let lengths = media.files();
    assert!(lengths[0].1 <= 1000, "{lengths:?}");
    for (pack, sealed, chunks) in
        [(5, true, vec![0, 1, 2, 3]), (6, true, vec![4]), (7, true, vec![5]), (8, false, vec![6])]
    {
        let scan = reader(&media).walk(PackId(pack)).unwrap();
        assert_eq!((scan.sealed, scan.store), (sealed, Some(STORE)));
        assert!(scan.damaged.is_empty() && scan.torn.is_none());
        assert_eq!(ids(&media, PackId(pack)), chunks);
    }
    writer.seal().unwrap();
    writer.seal().unwrap();
    assert_eq!(writer.open_pack(), None);
    assert!(reader(&media).walk(PackId(8)).unwrap().sealed);
}

/// The worked sizes of the format page.
#[test]
fn sizes_are_as_documented() {
    let media = SimMedia::new();
    let writer = writer(&media, 1 << 30);
    assert_eq!(writer.append(&record(1, 5)).unwrap().len, 89);
    assert_eq!(writer.append(&record(2, 65_536)).unwrap().len, 65_620);
    writer.seal().unwrap();
    assert_eq!(media.files()[0].1, 64 + 89 + 65_620 + 2 * 16 + 40);
}

#[test]
fn a_name_that_is_taken_is_never_written_over() {
    let media = SimMedia::new();
    let first = writer(&media, 1000);
    let at = first.append(&record(1, 10)).unwrap();
    let before = media.contents(&at.pack.path());
    let second = writer(&media, 1000);
    assert_eq!(second.append(&record(2, 10)).unwrap().pack, PackId(6));
    assert_eq!(second.next_pack(), PackId(7));
    assert_eq!(media.contents(&at.pack.path()), before);
}

#[test]
fn what_is_no_record_is_not_stored() {
    let media = SimMedia::new();
    let writer = writer(&media, 1000);
    let mut longer = record(1, 10);
    longer.push(0);
    for wrong in [&longer[..], &longer[..60], b""] {
        assert!(matches!(writer.append(wrong), Err(Error::Damaged(_))));
    }
    assert_eq!(media.op_count(), 0);
    writer.append(&record(1, 10)).unwrap();
}

/// Power is cut before every change of a run; what a sync had covered by then must be readable (I1).
#[test]
fn what_a_sync_covered_survives_every_power_cut() {
    let media = SimMedia::new();
    media.mkdir("packs").unwrap();
    let writer = writer(&media, 2500);
    let mut appended = Vec::new();
    let mut covered = Vec::new();
    for round in 0..8u64 {
        for n in 0..round % 4 {
            let id = round * 10 + n;
            appended.push((id, writer.append(&record(id, 700)).unwrap()));
        }
        if round == 5 {
            writer.seal().unwrap();
        }
        writer.sync().unwrap();
        covered.push((media.op_count(), appended.clone()));
    }
    assert!(writer.next_pack() > PackId(8), "the run filled some packs");
    for n in 0..=media.op_count() {
        let safe = covered.iter().rev().find(|(after, _)| *after <= n);
        for seed in 0..12 {
            let disk = media.cut_at(n, seed);
            let reader = reader(&disk);
            for (id, at) in safe.iter().flat_map(|(_, appended)| appended) {
                let region =
                    reader.read_region(at).unwrap_or_else(|error| panic!("cut {n} seed {seed}: {error}"));
                assert!(region.chunk(ChunkId(*id)).is_some());
                let found = reader.scan(at.pack).unwrap();
                assert!(found.iter().any(|(found, _)| found == at), "cut {n} seed {seed}: {at}");
            }
        }
    }
}

#[test]
fn a_footer_is_durable_after_the_sync_that_follows_it() {
    let media = SimMedia::new();
    let writer = writer(&media, 1000);
    writer.append(&record(1, 10)).unwrap();
    writer.sync().unwrap();
    writer.seal().unwrap();
    writer.sync().unwrap();
    for seed in 0..50 {
        let disk = media.cut_at(media.op_count(), seed);
        assert!(reader(&disk).walk(PackId(5)).unwrap().sealed, "seed {seed}");
    }
}

#[test]
fn any_failed_write_or_sync_is_final() {
    // One run to learn the numbers, then every change fails once.
    let script = |media: &SimMedia| {
        let writer = writer(media, 600);
        let run = || -> Result<()> {
            for id in 0..4 {
                writer.append(&record(id, 200))?;
                writer.sync()?;
            }
            writer.seal()
        };
        (run(), writer)
    };
    let media = SimMedia::new();
    script(&media).0.unwrap();
    for n in 0..media.op_count() {
        let media = SimMedia::new();
        media.fail_op(n, libc::EIO);
        let (result, writer) = script(&media);
        assert_eq!(result.unwrap_err().errno(), libc::EIO, "change {n}");
        let before = media.op_count();
        for result in [writer.append(&record(9, 1)).map(drop), writer.sync(), writer.seal()] {
            assert!(matches!(result, Err(Error::Latched(_))), "change {n}: {result:?}");
        }
        assert_eq!(media.op_count(), before, "nothing is written after change {n}");
    }
}

#[test]
fn a_full_disk_at_an_append_is_ordinary() {
    let script = |media: &SimMedia, fail: Option<u64>| {
        if let Some(n) = fail {
            media.fail_op(n, libc::ENOSPC);
        }
        let writer = writer(media, 600);
        let mut full = 0;
        for id in 0..5 {
            while let Err(error) = writer.append(&record(id, 200)) {
                assert!(error.is_no_space(), "{error}");
                full += 1;
            }
        }
        let appends = media.op_count();
        writer.sync().unwrap();
        (appends, writer.next_pack(), full)
    };
    let media = SimMedia::new();
    let (appends, next, _) = script(&media, None);
    for n in 0..appends {
        let media = SimMedia::new();
        let (_, same, full) = script(&media, Some(n));
        assert_eq!((same, full), (next, 1), "change {n}");
        let all: Vec<u64> = (5..next.0).flat_map(|pack| ids(&media, PackId(pack))).collect();
        assert_eq!(all, [0, 1, 2, 3, 4], "change {n}");
    }
}

#[test]
fn a_torn_record_on_a_full_disk_is_written_over_and_cut_off() {
    let media = SimMedia::new();
    let writer = writer(&media, 1 << 20);
    let first = writer.append(&record(1, 1000)).unwrap();
    media.set_capacity(Some(3 * 4096));
    assert!(writer.append(&record(2, 100_000)).unwrap_err().is_no_space());
    writer.sync().unwrap();
    let scan = reader(&media).walk(first.pack).unwrap();
    assert_eq!(scan.regions.len(), 1);
    assert_eq!(scan.torn.unwrap().offset, first.end());
    let second = writer.append(&record(3, 500)).unwrap();
    assert_eq!(second.offset, first.end());
    assert!(media.files()[0].1 > second.end() + 1000, "torn bytes are left");
    writer.seal().unwrap();
    let scan = reader(&media).walk(first.pack).unwrap();
    assert!(scan.sealed && scan.torn.is_none());
    assert_eq!(ids(&media, first.pack), [1, 3]);
}

#[test]
fn a_full_disk_at_a_sync_is_final() {
    let media = SimMedia::new();
    let writer = writer(&media, 1000);
    writer.append(&record(1, 10)).unwrap();
    media.set_fault(Box::new(|op| (op.kind == OpKind::Sync).then_some(libc::ENOSPC)));
    assert!(writer.sync().unwrap_err().is_no_space());
    media.clear_faults();
    assert!(matches!(writer.sync(), Err(Error::Latched(_))));
}

/// A sync that waits for the disk does not hold up appends, and a second one does not return before it.
#[test]
fn appends_go_on_during_a_sync_and_a_second_sync_waits() {
    let media = SimMedia::new();
    let writer = writer(&media, 1 << 20);
    writer.append(&record(1, 10)).unwrap();
    let (enter, entered) = mpsc::channel();
    let (go, going) = mpsc::channel::<()>();
    let ends = Mutex::new((enter, going));
    media.set_fault(Box::new(move |op| {
        if op.kind == OpKind::Sync {
            let ends = ends.lock();
            ends.0.send(op.number).unwrap();
            ends.1.recv().unwrap();
        }
        None
    }));
    let (first, second, held) = std::thread::scope(|scope| {
        scope.spawn(|| writer.sync().unwrap());
        let first = entered.recv().unwrap();
        writer.append(&record(2, 10)).unwrap();
        let held = writer.syncing.is_locked();
        scope.spawn(|| writer.sync().unwrap());
        go.send(()).unwrap();
        let second = entered.recv().unwrap();
        go.send(()).unwrap();
        (first, second, held)
    });
    // The append, the first sync and its three directories come before the second one does anything.
    assert_eq!(second, first + 5);
    assert!(held, "a sync that runs keeps others out");
    for seed in 0..20 {
        let disk = media.cut_at(media.op_count(), seed);
        assert_eq!(ids(&disk, PackId(5)), [1, 2]);
    }
}

/// Until a sync has ended, nothing of what it is to cover is durable.
#[test]
fn what_is_under_a_sync_is_taken_all_the_same() {
    let media = SimMedia::new();
    let writer = Arc::new(writer(&media, 1 << 20));
    let places = |taken: Result<Option<Vec<Appended>>>| -> Vec<Location> {
        taken.unwrap().unwrap().into_iter().map(|(at, _)| at).collect()
    };
    let first = writer.append(&record(1, 10)).unwrap();
    let (during, taken) = (writer.clone(), Arc::new(Mutex::new(Vec::new())));
    let noted = taken.clone();
    media.set_fault(Box::new(move |op| {
        if op.kind == OpKind::Sync {
            noted.lock().push(places(during.take_few()));
        }
        None
    }));
    writer.sync().unwrap();
    media.clear_faults();
    assert_eq!(taken.lock().first(), Some(&vec![first]));
    // What was appended before a sync that has ended, and nobody took, is durable.
    assert_eq!(places(writer.take_few()), []);
    writer.append(&record(2, 10)).unwrap();
    writer.sync().unwrap();
    assert_eq!(places(writer.take_few()), []);
    let last = writer.append(&record(3, 10)).unwrap();
    assert_eq!(places(writer.take_few()), [last]);
    // So many that they are not remembered: not while they are under a sync either.
    writer.append(&record(4, FEW_BYTES)).unwrap();
    let (during, taken) = (writer.clone(), Arc::new(Mutex::new(Vec::new())));
    let noted = taken.clone();
    media.set_fault(Box::new(move |op| {
        if op.kind == OpKind::Sync {
            noted.lock().push(during.take_few().unwrap().is_none());
        }
        None
    }));
    writer.sync().unwrap();
    media.clear_faults();
    assert!(!taken.lock().is_empty() && taken.lock().iter().all(|none| *none));
}

#[test]
fn threads_append_side_by_side() {
    let media = SimMedia::new();
    let writer = writer(&media, 4000);
    let mut all: Vec<(u64, Location)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let writer = &writer;
                scope.spawn(move || {
                    (0..50)
                        .map(|n| {
                            let id = thread * 100 + n;
                            (id, writer.append(&record(id, 100 + n as usize)).unwrap())
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let reader = reader(&media);
    for (id, at) in &all {
        assert!(reader.read_region(at).unwrap().chunk(ChunkId(*id)).is_some());
    }
    all.sort_by_key(|(_, at)| *at);
    assert!(all.is_sorted_by(|(_, a), (_, b)| a.pack < b.pack || a.end() <= b.offset));
}

/// Where packs are objects, each sync puts what was appended, as sealed packs, once and whole.
#[test]
fn where_packs_do_not_grow_a_sync_seals_them() {
    let packs = MemoryPacks::default();
    let writer = PackWriter::new((Arc::new(packs.clone()), codec()), STORE, 1000, PackId(5));
    let reader = PackReader::new(Arc::new(packs.clone()), codec());
    let mut synced: Vec<(u64, Location)> = Vec::new();
    for round in 0..6 {
        let begin = synced.len();
        for id in (round * 10..).take(round as usize % 4) {
            let at = writer.append(&record(id, 300)).unwrap();
            assert!(reader.read_region(&at).unwrap().chunk(ChunkId(id)).is_some(), "before it is put");
            synced.push((id, at));
        }
        let before = packs.after_power_cut().list().unwrap();
        assert!(synced[begin..].iter().all(|(_, at)| !before.contains(&at.pack)), "{before:?}");
        writer.sync().unwrap();
        writer.sync().unwrap();
        let left = PackReader::new(Arc::new(packs.after_power_cut()), codec());
        for (id, at) in &synced {
            assert!(left.read_region(at).unwrap().chunk(ChunkId(*id)).is_some());
            let scan = left.walk(at.pack).unwrap();
            assert!(
                scan.sealed && scan.damaged.is_empty() && scan.regions.iter().any(|(found, _)| found == at)
            );
        }
    }
    assert_eq!(packs.list().unwrap(), (5..10).map(PackId).collect::<Vec<_>>());
    assert_eq!((writer.next_pack(), writer.open_pack()), (PackId(10), None));

    writer.append(&record(90, 10)).unwrap();
    packs.refuse_puts(true);
    assert_eq!(writer.sync().unwrap_err().errno(), libc::EIO);
    packs.refuse_puts(false);
    for result in [writer.append(&record(91, 1)).map(drop), writer.sync(), writer.seal()] {
        assert!(matches!(result, Err(Error::Latched(_))), "a put that failed is final: {result:?}");
    }
}
