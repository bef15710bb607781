//! Stores of any size, made in minutes instead of months.
//!
//! What is real: every row of the metadata (inodes, names, extents, regions, digests, the state), encoded by cairnfs's
//! own code and written through its own database layer, with the sums a store of that size would have; the sizes of
//! chunks, regions and packs at mkfs's defaults; the random order of digests.
//!
//! What is not: the content. A digest is a scattered number and not the SHA-256 of anything, and a pack is a file of
//! the right length that has no bytes. So nothing can be read back, and moving regions out of a pack and punching
//! holes, whose cost is bytes and not rows, cannot be measured on such a store. To keep both out of it, a snapshot
//! begins with a new pack, and what is garbage is whole snapshots.
//!
//! How it is built: snapshots with as many files each, files with as many chunks each, no chunk in two files (but for
//! `copies`). Of ten contents one is garbage: it has chunks and no files, as after a prune.

use std::fs::File;
use std::iter::once;
use std::path::Path;
use std::sync::Arc;

use cairnfs::chunk::{ChunkId, Digest};
use cairnfs::meta::rows::{
    DirentRow, Extent, InodeRow, MAX_EXTENT_CHUNKS, NameHash, RegionEntry, RegionRow, STATE_KEY, State,
    Times, Timestamp, dirent_key, extent_key, id_key,
};
use cairnfs::meta::versions::FIRST_VERSION;
use cairnfs::meta::{Counter, Table};
use cairnfs::pack::{HEADER_LEN, Location, PackId};
use cairnfs::store::{FIRST_INO, Store};

use crate::measure::Outcome;

/// The average chunk of a store as mkfs makes it.
pub const CHUNK: u32 = 64 << 10;
/// Chunks in a region, as many as fit.
const REGION_CHUNKS: u64 = 4;
/// A region's record: compressed to a half.
const RECORD: u32 = 128 << 10;
/// Records in a pack of 64 MiB.
const PACK_RECORDS: u64 = 511;
/// Rows in one transaction, and transactions between two syncs.
const ROWS: usize = 100_000;
const UNSYNCED: usize = 8;

const ROOT: u64 = 1;
/// The group that all snapshots are in.
const GROUP: u64 = FIRST_INO;

/// A key and a value.
type Row = (Vec<u8>, Vec<u8>);

/// How large a store is to be.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Files of all snapshots together, those of the garbage included.
    pub files: u64,
    /// Chunks that are stored.
    pub chunks: u64,
    pub snapshots: u64,
    /// So many snapshots after each other have the same content: references are chunks times this.
    pub copies: u64,
    /// One content in so many is garbage.
    pub garbage: u64,
}

impl Size {
    /// Different contents.
    fn contents(&self) -> u64 {
        (self.snapshots / self.copies).max(1)
    }

    fn files_each(&self) -> u64 {
        (self.files / self.snapshots).max(1)
    }

    /// The chunks of a content: ids from and to (excluded).
    fn chunks_of(&self, content: u64) -> (u64, u64) {
        let at = |content| 1 + self.chunks * content / self.contents();
        (at(content), at(content + 1))
    }

    /// The chunks of one file of a content.
    fn chunks_of_file(&self, content: u64, file: u64) -> (u64, u64) {
        let (from, to) = self.chunks_of(content);
        let at = |file| from + (to - from) * file / self.files_each();
        (at(file), at(file + 1))
    }

    fn is_garbage(&self, content: u64) -> bool {
        self.contents() >= self.garbage && content % self.garbage == self.garbage / 2
    }

    /// Snapshots that have files, with their contents.
    fn living(&self) -> impl Iterator<Item = (u64, u64)> + Clone + use<> {
        let size = *self;
        (0..size.contents() * size.copies)
            .map(move |snapshot| (snapshot, snapshot / size.copies))
            .filter(move |(_, content)| !size.is_garbage(*content))
    }

    /// The directory of a snapshot, which has all its files.
    pub fn snapshot_ino(&self, snapshot: u64) -> u64 {
        GROUP + 1 + snapshot
    }

    fn file_ino(&self, snapshot: u64, file: u64) -> u64 {
        GROUP + 1 + self.snapshots + snapshot * self.files_each() + file
    }

    fn next_ino(&self) -> u64 {
        self.file_ino(self.snapshots, 0)
    }
}

/// Fills the empty store with rows.
pub fn fill(store: &Arc<Store>, size: &Size) -> Outcome<()> {
    let mut loader = Loader { store, table: Table::Inodes, rows: Vec::with_capacity(ROWS), unsynced: 0 };
    loader.load(Table::Inodes, inodes(size))?;
    loader.load(Table::Dirents, dirents(store.name_hash(), size))?;
    loader.load(Table::Extents, extents(size))?;
    loader.load(Table::Regions, regions(size).map(|row| (id_key(row.first.0).to_vec(), row.encode())))?;
    loader.load(Table::Digests, digests(size))?;
    let last = regions(size).last().map_or(0, |row| row.at.pack.0);
    make_packs(store.path(), last)?;
    set_state(store, size, PackId(last + 1))
}

struct Loader<'a> {
    store: &'a Arc<Store>,
    table: Table,
    rows: Vec<Row>,
    unsynced: usize,
}

impl Loader<'_> {
    /// Rows in the order of their keys: pages are filled one after the other.
    fn load(&mut self, table: Table, rows: impl Iterator<Item = Row>) -> Outcome<()> {
        self.table = table;
        for row in rows {
            self.rows.push(row);
            if self.rows.len() == ROWS {
                self.write()?;
            }
        }
        self.write()
    }

    fn write(&mut self) -> Outcome<()> {
        let rows = self.rows.drain(..).map(|(key, value)| (key, Some(value)));
        self.unsynced = (self.unsynced + 1) % UNSYNCED;
        let written = self.store.commits.rewrite(self.unsynced == 0, |txn, _| {
            txn.apply(self.table, rows);
            Ok(())
        });
        written.map_err(|e| format!("table {}: {e}", self.table.name()))
    }
}

fn inode(mode: u32, nlink: u32, parent: u64) -> InodeRow {
    let time = Timestamp { sec: 1_700_000_000, nsec: 123_456_789 };
    InodeRow { mode, nlink, parent, generation: 1, times: Times::all(time), ..InodeRow::default() }
}

fn directory(parent: u64, entries: u64, subdirectories: u64) -> InodeRow {
    let row = inode(libc::S_IFDIR | 0o755, 2 + subdirectories as u32, parent);
    InodeRow { entries, ..row }
}

fn file(bytes: u64, allocated: u64) -> InodeRow {
    InodeRow { size: bytes, allocated, ..inode(libc::S_IFREG | 0o644, 1, 0) }
}

fn inodes(size: &Size) -> impl Iterator<Item = Row> + use<> {
    let size = *size;
    let living = size.living().count() as u64;
    let root = (ROOT, directory(ROOT, 1, 1));
    let group = (GROUP, directory(ROOT, living, living));
    let snapshots = size
        .living()
        .map(move |(snapshot, _)| (size.snapshot_ino(snapshot), directory(GROUP, size.files_each(), 0)));
    let files = size.living().flat_map(move |(snapshot, content)| {
        (0..size.files_each()).map(move |number| {
            let (from, to) = size.chunks_of_file(content, number);
            let bytes = (to - from) * u64::from(CHUNK);
            (size.file_ino(snapshot, number), file(bytes, bytes))
        })
    });
    once(root)
        .chain(once(group))
        .chain(snapshots)
        .chain(files)
        .map(|(ino, row)| (id_key(ino).to_vec(), row.encode()))
}

fn dirents(hash: NameHash, size: &Size) -> impl Iterator<Item = Row> + use<> {
    let size = *size;
    let entry = move |parent, name: String, ino, kind| {
        let key = dirent_key(parent, hash.of(name.as_bytes()), name.as_bytes());
        (key, DirentRow { ino, kind }.encode())
    };
    let root = once(entry(ROOT, "group".to_owned(), GROUP, libc::S_IFDIR));
    let mut snapshots: Vec<Row> = size
        .living()
        .map(|(snapshot, _)| {
            entry(GROUP, format!("snapshot-{snapshot:05}"), size.snapshot_ino(snapshot), libc::S_IFDIR)
        })
        .collect();
    snapshots.sort_unstable();
    let files = size.living().flat_map(move |(snapshot, _)| {
        let parent = size.snapshot_ino(snapshot);
        let files = 0..size.files_each();
        let mut rows: Vec<Row> = files
            .map(|file| entry(parent, file_name(file), size.file_ino(snapshot, file), libc::S_IFREG))
            .collect();
        rows.sort_unstable();
        rows
    });
    root.chain(snapshots).chain(files)
}

/// The name of a file of a snapshot.
pub fn file_name(file: u64) -> String {
    format!("file-{file:08}.dat")
}

fn extents(size: &Size) -> impl Iterator<Item = Row> + use<> {
    let size = *size;
    size.living().flat_map(move |(snapshot, content)| {
        (0..size.files_each()).flat_map(move |number| {
            let (from, to) = size.chunks_of_file(content, number);
            let ino = size.file_ino(snapshot, number);
            (from..to).step_by(MAX_EXTENT_CHUNKS).map(move |first| {
                let count = (to - first).min(MAX_EXTENT_CHUNKS as u64);
                extent(ino, (first - from) * u64::from(CHUNK), ChunkId(first), count)
            })
        })
    })
}

/// The row of `count` whole chunks at an offset of a file.
fn extent(ino: u64, offset: u64, first: ChunkId, count: u64) -> Row {
    let lens = vec![CHUNK; count as usize];
    let extent = Extent { offset, len: count * u64::from(CHUNK), first, skip: 0, lens };
    (extent_key(ino, offset).to_vec(), extent.encode())
}

fn regions(size: &Size) -> impl Iterator<Item = RegionRow> + use<> {
    let size = *size;
    let scatter = Scatter::over(size.chunks);
    let mut pack = 0;
    (0..size.contents()).flat_map(move |content| {
        let (from, to) = size.chunks_of(content);
        let first_pack = pack + 1;
        let count = (to - from).div_ceil(REGION_CHUNKS);
        pack += count.div_ceil(PACK_RECORDS);
        (0..count).map(move |number| {
            let first = from + number * REGION_CHUNKS;
            let chunks = (to - first).min(REGION_CHUNKS);
            let at = Location {
                pack: PackId(first_pack + number / PACK_RECORDS),
                offset: HEADER_LEN + number % PACK_RECORDS * u64::from(RECORD),
                len: RECORD,
            };
            let entry = |id| Some(RegionEntry { len: CHUNK, digest: scatter.digest(id) });
            let entries = (first..first + chunks).map(entry).collect();
            RegionRow { first: ChunkId(first), at, plain: CHUNK * chunks as u32, entries }
        })
    })
}

fn digests(size: &Size) -> impl Iterator<Item = Row> + use<> {
    let scatter = Scatter::over(size.chunks);
    scatter.in_order().map(move |id| (scatter.digest(id).0.to_vec(), id_key(id).to_vec()))
}

/// Ids in an order that has nothing to do with their own, and can be walked.
#[derive(Clone, Copy)]
struct Scatter {
    chunks: u64,
    bits: u32,
}

impl Scatter {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    fn over(chunks: u64) -> Self {
        Self { chunks, bits: chunks.max(2).next_power_of_two().trailing_zeros() }
    }

    fn digest(&self, id: u64) -> Digest {
        let place = (id - 1).wrapping_mul(Self::FACTOR) << (64 - self.bits);
        let mut bytes = [0; 32];
        let mut word = place;
        for part in bytes.chunks_exact_mut(8) {
            part.copy_from_slice(&word.to_be_bytes());
            word = (word ^ id).wrapping_mul(Self::FACTOR).rotate_left(29);
        }
        Digest(bytes)
    }

    /// All ids in the order of their digests.
    fn in_order(self) -> impl Iterator<Item = u64> {
        // The inverse of an odd number by Newton's steps, each of which doubles the bits that are right.
        let inverse = (0..6).fold(1u64, |inverse, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(Self::FACTOR.wrapping_mul(inverse)))
        });
        let mask = (1u64 << self.bits) - 1;
        let chunks = self.chunks;
        (0..=mask).map(move |place| 1 + (place.wrapping_mul(inverse) & mask)).filter(move |id| *id <= chunks)
    }
}

/// Files of the length of packs, without bytes.
fn make_packs(store: &Path, last: u64) -> Outcome<()> {
    for pack in (1..=last).map(PackId) {
        let path = store.join(pack.path());
        let fail = |e: std::io::Error| format!("{}: {e}", path.display());
        std::fs::create_dir_all(store.join(pack.dir())).map_err(fail)?;
        File::create(&path).and_then(|file| file.set_len(64 << 20)).map_err(fail)?;
    }
    Ok(())
}

fn set_state(store: &Arc<Store>, size: &Size, next_pack: PackId) -> Outcome<()> {
    let living: Vec<u64> = size.living().map(|(_, content)| content).collect();
    let referenced: u64 =
        living.iter().map(|content| size.chunks_of(*content)).map(|(from, to)| to - from).sum();
    let records: u64 = (0..size.contents())
        .map(|c| size.chunks_of(c))
        .map(|(from, to)| (to - from).div_ceil(REGION_CHUNKS))
        .sum();
    let sums = [
        (Counter::Inodes, 2 + living.len() as u64 * (1 + size.files_each())),
        (Counter::Chunks, size.chunks),
        (Counter::PlainBytes, size.chunks * u64::from(CHUNK)),
        (Counter::StoredBytes, records * u64::from(RECORD)),
        (Counter::ReferencedBytes, referenced * u64::from(CHUNK)),
    ];
    write_state(store, &sums, (size.chunks + 1, size.next_ino(), next_pack.0))
}

/// Writes the store's sums and its next numbers: of chunks, inodes and packs.
fn write_state(store: &Arc<Store>, sums: &[(Counter, u64)], next: (u64, u64, u64)) -> Outcome<()> {
    let written = store.commits.rewrite(true, |txn, counters| {
        for (counter, value) in sums {
            counters[*counter as usize] = *value as i64;
        }
        let (next_chunk, next_ino, next_pack) = next;
        let state = State {
            generation: 1,
            next_chunk,
            next_ino,
            next_pack,
            next_version: FIRST_VERSION,
            next_subvolume: 1,
            counters: *counters,
        };
        txn.put(Table::State, STATE_KEY, &state.encode());
        Ok(())
    });
    written.map_err(|e| format!("the state: {e}"))
}
