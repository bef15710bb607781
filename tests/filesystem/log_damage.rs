//! Damage of the log of commits of a store that was killed: an opening refuses it, or has all that was acknowledged; a
//! repair keeps what is not hit and says what is; a power cut during that repair changes nothing of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairnfs::check::repair::{RepairReport, repair};
use cairnfs::media::Media;
use cairnfs::media::sim::SimMedia;
use cairnfs::meta::log::LOG_FILE;
use cairnfs::store::StoreConfig;

use crate::log::{BLOCK, FILES, killed, repaired, there};
use crate::random::{Random, seed, seeds};
use crate::repair::mend;
use crate::world::{World, protected};

/// Bytes of a block that say what it is, with the head of the entry that begins in it.
const HEADS: usize = 16 + 76;

/// The disk as it is, with changes of its own.
fn copy(disk: &SimMedia) -> SimMedia {
    disk.cut_at(disk.op_count(), 1)
}

/// Each entry of the log as the blocks that it takes.
fn entries(disk: &SimMedia) -> Vec<std::ops::Range<usize>> {
    let log = disk.contents(LOG_FILE).unwrap();
    let places: Vec<u32> = log
        .chunks_exact(BLOCK)
        .take_while(|block| block.iter().any(|byte| *byte != 0))
        .map(|block| u32::from_le_bytes(block[8..12].try_into().unwrap()))
        .collect();
    let begins: Vec<usize> = (0..places.len()).filter(|at| places[*at] == 0).collect();
    let ends = begins.iter().skip(1).copied().chain([places.len()]);
    begins.iter().copied().zip(ends).map(|(begin, end)| begin..end).collect()
}

/// What an opening makes of a log of which nothing is right from the entry with this index on.
#[derive(Debug, PartialEq, Eq)]
enum Opened {
    Refused,
    /// So many files are there.
    Files(u64),
}

fn open(disk: &SimMedia, config: &StoreConfig) -> Opened {
    match World::open(disk, config) {
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("log of commits") && error.contains("cairnfs repair"), "{error}");
            Opened::Refused
        }
        Ok(world) => {
            let files = there(&world);
            assert!(files.iter().copied().eq(0..files.len() as u64), "{files:?}: one is gone before another");
            assert!(world.check().is_clean());
            world.close().unwrap();
            Opened::Files(files.len() as u64)
        }
    }
}

/// A repair of a log of which this entry is hit: all others are kept, and it is said.
fn judge_repair(hit: usize, (files, report): (Vec<u64>, RepairReport), what: &str) {
    // The first file is in the database.
    let lost = hit as u64 + 1;
    assert!((0..lost).all(|number| files.contains(&number)), "{what}: {files:?} {report:?}");
    let is_last = lost == FILES - 1;
    assert_eq!(report.log_entries, FILES - 2, "{what}: {report:?}");
    assert_eq!(report.log_fault.is_some(), !is_last, "{what}: {report:?}");
    assert_eq!(report.log_unfinished.is_some(), is_last, "{what}: {report:?}");
    assert_eq!(report.done, !is_last, "{what}: {report:?}");
    assert!(!files.contains(&lost), "{what}: {files:?}");
}

/// Every byte of a head, and of the rest so many of each block, at random.
fn bytes_to_hit(blocks: usize, random: &mut Random, of_rest: usize) -> BTreeSet<usize> {
    let heads = (0..blocks).flat_map(|block| block * BLOCK..block * BLOCK + HEADS);
    let rest = (0..blocks * of_rest).map(|at| at / of_rest * BLOCK + random.below(BLOCK as u64) as usize);
    heads.chain(rest.collect::<Vec<_>>()).collect()
}

#[test]
fn any_byte_of_the_log_is_refused_or_costs_only_what_came_last() {
    let _all = protected();
    let (disk, config) = killed();
    let entries = entries(&disk);
    assert_eq!(entries.len() as u64, FILES - 1);
    let last = entries.len() - 1;
    let mut random = Random::new(seed("bytes of the log", 1500));
    let bytes = bytes_to_hit(entries[last].end, &mut random, 60);
    println!("{} bytes of {} blocks", bytes.len(), entries[last].end);
    for at in bytes {
        let hurt = copy(&disk);
        hurt.flip_byte(LOG_FILE, at as u64);
        let hit = entries.iter().position(|entry| entry.contains(&(at / BLOCK))).unwrap();
        let wanted = if hit == last { Opened::Files(FILES - 1) } else { Opened::Refused };
        assert_eq!(open(&hurt, &config), wanted, "byte {at}");
    }
}

#[test]
fn a_repair_keeps_every_entry_of_the_log_that_is_not_hit() {
    let _all = protected();
    let (disk, config) = killed();
    let entries = entries(&disk);
    let mut random = Random::new(seed("repairs of the log", 1501));
    for at in bytes_to_hit(entries.last().unwrap().end, &mut random, 4) {
        // One of four: a repair takes longer than an opening.
        if random.below(4) > 0 {
            continue;
        }
        let hurt = copy(&disk);
        hurt.flip_byte(LOG_FILE, at as u64);
        let hit = entries.iter().position(|entry| entry.contains(&(at / BLOCK))).unwrap();
        judge_repair(hit, repaired(&hurt, &config), &format!("byte {at}"));
    }
}

/// The log ends early: at each block, and within it. Only its first entry may have been written without being acknowledged
/// while the file was that short.
#[test]
fn a_log_that_was_cut_off_is_refused_if_more_than_one_entry_is_left() {
    let _all = protected();
    let (disk, config) = killed();
    let entries = entries(&disk);
    for block in 0..=entries.last().unwrap().end {
        for within in [0, 1, BLOCK / 2, BLOCK - 1] {
            let len = block * BLOCK + within;
            let hurt = copy(&disk);
            let file = hurt.open(LOG_FILE, true).unwrap();
            file.set_len(len as u64).and_then(|()| file.sync()).unwrap();
            let left = entries.iter().filter(|entry| entry.end * BLOCK <= len).count() as u64;
            let wanted = if left > 1 { Opened::Refused } else { Opened::Files(1 + left) };
            assert_eq!(open(&copy(&hurt), &config), wanted, "cut off at {len}");
            let (files, report) = repaired(&hurt, &config);
            assert!(files.into_iter().eq(0..=left), "cut off at {len}: {report:?}");
            assert_eq!((report.log_entries, report.log_fault.is_some()), (left, left > 1), "at {len}");
        }
    }
}

/// Of the last entry any of its blocks were written, the others are as they were before: nothing, or bytes of older entries.
#[test]
fn a_last_entry_that_is_there_in_part_is_not_there() {
    let _all = protected();
    let (disk, config) = killed();
    let entries = entries(&disk);
    let last = entries.last().unwrap().clone();
    let log = disk.contents(LOG_FILE).unwrap();
    let older = &log[..last.len() * BLOCK];
    for before in [&vec![0; last.len() * BLOCK][..], older] {
        for subset in 0..1u32 << last.len() {
            let hurt = copy(&disk);
            let file = hurt.open(LOG_FILE, true).unwrap();
            for (index, block) in last.clone().enumerate().filter(|(index, _)| subset >> index & 1 == 0) {
                let bytes = &before[index * BLOCK..(index + 1) * BLOCK];
                file.write_at(bytes, (block * BLOCK) as u64).unwrap();
            }
            file.sync().unwrap();
            let is_whole = subset + 1 == 1 << last.len();
            let wanted = FILES - u64::from(!is_whole);
            assert_eq!(open(&copy(&hurt), &config), Opened::Files(wanted), "{subset:b}");
            let (files, report) = repaired(&hurt, &config);
            assert!(files.into_iter().eq(0..wanted) && !report.done, "{subset:b}: {report:?}");
            assert_eq!(report.log_unfinished.is_some(), subset > 0 && !is_whole, "{subset:b}: {report:?}");
        }
    }
}

/// A killed store with a damaged entry is repaired; the power is cut before each operation, and the repair is run again.
#[test]
fn a_power_cut_during_a_repair_of_a_damaged_log_costs_nothing_more() {
    let _all = protected();
    let (disk, config) = killed();
    let entries = entries(&disk);
    let (first, mut cuts) = (seed("power and repair of the log", 1502), 0);
    // Without damage of the log, the database is what is repaired.
    for hit in [Some(0), Some(2), None] {
        let hurt = copy(&disk);
        match hit {
            Some(hit) => hurt.flip_byte(LOG_FILE, (entries[hit].start * BLOCK + 200) as u64),
            None => {
                let file = hurt.open(crate::repair::DB, true).unwrap();
                let len = file.len().unwrap();
                // Of the table's pages; what is not used stays.
                (1..len / 4096)
                    .step_by(3)
                    .for_each(|page| hurt.flip_byte(crate::repair::DB, page * 4096 + 100));
            }
        }
        let hurt = copy(&hurt);
        let whole = copy(&hurt);
        let wanted = repaired(&copy(&hurt), &config).0;
        let begin = whole.op_count();
        assert!(mend(&whole, &config, true).done);
        for op in begin..=whole.op_count() {
            for seed in [first ^ op, first ^ op ^ 1 << 32] {
                let after = whole.cut_at(op, seed);
                let (files, report) = repaired(&after, &config);
                assert_eq!(files, wanted, "seed {first}, {hit:?}, cut before operation {op}: {report:?}");
                cuts += 1;
            }
        }
    }
    println!("{cuts} power cuts during a repair");
}

/// Whichever byte of a log is changed, a repair leaves a store that opens, with files as they were written, and the
/// first of them, which is in the database; what is not there any more, it has said.
#[test]
fn a_repair_of_a_log_with_any_changed_byte_invents_nothing() {
    let _all = protected();
    let (disk, config) = killed();
    let log = disk.contents(LOG_FILE).unwrap();
    let used: Vec<usize> = (0..log.len())
        .filter(|at| log[at / BLOCK * BLOCK..].iter().take(BLOCK).any(|byte| *byte != 0))
        .collect();
    for seed in seeds("changed bytes of a log, repaired", 800, 3) {
        let mut random = Random::new(seed);
        for _ in 0..40 {
            let at = used[random.below(used.len() as u64) as usize];
            let hurt = disk.cut_at(disk.op_count(), 1);
            hurt.flip_byte(LOG_FILE, at as u64);
            let (files, report) = repaired(&hurt, &config);
            assert!(files.starts_with(&[0]), "byte {at}: {files:?}");
            let is_told = report.log_fault.is_some() || report.lost_something();
            // The last entry may never have been acknowledged; all others are missed.
            let lost = FILES as usize - files.len();
            assert!(
                is_told || lost == 0 || lost == 1 && !files.contains(&(FILES - 1)),
                "byte {at}: {files:?} {report:?}"
            );
        }
    }
}

/// A log that ends anywhere, or of which any block was not written: an opening has what stands before, or is refused;
/// a repair always helps.
#[test]
fn a_log_that_is_torn_anywhere_has_what_stands_before_or_is_refused() {
    let _all = protected();
    let (disk, config) = killed();
    let log = disk.contents(LOG_FILE).unwrap();
    let blocks = (0..log.len() / BLOCK)
        .filter(|block| log[block * BLOCK..][..BLOCK].iter().any(|byte| *byte != 0))
        .count();
    let (mut opened, mut refused) = (0, 0);
    let ends = (0..=blocks).map(|block| block * BLOCK).chain((0..blocks).map(|block| block * BLOCK + 1_234));
    for (is_end, at) in ends.map(|at| (true, at)).chain((0..blocks).map(|block| (false, block * BLOCK))) {
        let hurt = disk.cut_at(disk.op_count(), 1);
        let file = hurt.open(LOG_FILE, true).unwrap();
        if is_end {
            file.set_len(at as u64).unwrap();
        } else {
            file.write_at(&[0; BLOCK], at as u64).unwrap();
        }
        file.sync().unwrap();
        match World::open(&hurt, &config) {
            Ok(world) => {
                opened += 1;
                let files = there(&world);
                assert!(files.iter().copied().eq(0..files.len() as u64), "block at {at}: {files:?}");
                // What others stand behind is never left out in silence.
                assert!(is_end || files.len() as u64 + 1 >= FILES, "block at {at}: {files:?}");
                world.close().unwrap();
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("cairnfs repair"), "{error}");
                let (files, report) = repaired(&hurt, &config);
                assert!(files.starts_with(&[0]) && report.log_fault.is_some(), "{files:?} {report:?}");
            }
        }
    }
    println!("opened {opened} times, refused {refused} times");
    assert!(opened > 3 && refused > 3, "{opened}, {refused}");
}

/// The power fails at each operation of a repair that takes what a log has; the next repair has it all the same.
#[test]
fn a_power_cut_during_a_repair_keeps_what_the_log_has() {
    let _all = protected();
    let (disk, config) = killed();
    // Damage, so that there is something to repair: the second entry.
    let start = disk.cut_at(disk.op_count(), 1);
    start.flip_byte(LOG_FILE, BLOCK as u64 * 2 + 100);
    let (wanted, _) = repaired(&start.cut_at(start.op_count(), 1), &config);
    let mended = start.cut_at(start.op_count(), 1);
    let begin = mended.op_count();
    repair(&(Arc::new(mended.clone()) as Arc<dyn Media>), &config, true).unwrap();
    let mut cuts = 0;
    for op in begin..=mended.op_count() {
        cuts += 1;
        let (files, _) = repaired(&mended.cut_at(op, op), &config);
        assert_eq!(files, wanted, "cut before operation {op}");
    }
    assert!(cuts > 20, "{cuts}");
}
