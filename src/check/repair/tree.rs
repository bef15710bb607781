//! Makes names, inodes and extents fit together again.
//!
//! Keeps true: no byte of a file becomes zero because something was lost. If a file had chunks that are no longer
//! known, an extent that names chunk 0, which is never used, makes reads fail with EIO. A file that has lost anything
//! is moved below `lost+found`, under its old path if that is known, and keeps its sound ranges.
//!
//! Memory: about 100 bytes an inode, and 100 more a directory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use roaring::RoaringTreemap;

use crate::chunk::ChunkId;
use crate::error::Result;
use crate::meta::rows::{
    DirentRow, Extent, InodeRow, NameHash, Piece, ROOT_INO, Times, Timestamp, decode_extent_key, dirent_key,
    dirent_name, extent_key, id_key, ino_of,
};
use crate::meta::versions::subvolumes::subvolume_of;
use crate::meta::{Counter, Kv, Table};

use super::super::names::shown;
use super::packs::Chunks;
use super::report::RepairReport;
use super::sink::Sink;
use super::subvolumes::Subvolumes;

/// The chunk that stands for lost data; real ids begin at 1.
const LOST: ChunkId = ChunkId(0);
/// Bytes that one such extent stands for at most.
const LOST_LEN: u64 = 1 << 30;
/// No directory is deeper than this.
const MAX_DEPTH: usize = 4096;

/// What is known of an inode.
#[derive(Default)]
struct Node {
    kind: u32,
    parent: u64,
    size: u64,
    allocated: u64,
    /// Names that were found.
    names: u32,
    /// For a directory: entries and directories in it.
    entries: u64,
    subdirs: u32,
    /// Its row is lost; this one is a substitute.
    made_up: bool,
    /// Some of its data is lost.
    hurt: bool,
    is_orphan: bool,
}

/// The extents of one file so far.
struct Seen {
    ino: u64,
    /// The ranges of the file that have extents.
    covered: Vec<(u64, u64)>,
    hurt: bool,
}

/// A name that has to go to `lost+found`.
struct Move {
    /// Where it is now, if it has a name.
    from: Option<(u64, Vec<u8>)>,
    ino: u64,
    /// The names of its path, from the root.
    to: Vec<Vec<u8>>,
}

pub(super) struct TreeRepair<'a, 's> {
    kv: &'a Kv,
    sink: &'a mut Sink<'s>,
    report: &'a mut RepairReport,
    hash: NameHash,
    generation: u64,
    nodes: HashMap<u64, Node>,
    subvolumes: Subvolumes,
    /// Directory and name of each directory.
    dirs: HashMap<u64, (u64, Box<[u8]>)>,
    moves: Vec<Move>,
    /// No inode at or above this number was found.
    pub next_ino: u64,
}

impl<'a, 's> TreeRepair<'a, 's> {
    pub fn new(
        (kv, sink, report, subvolumes): (&'a Kv, &'a mut Sink<'s>, &'a mut RepairReport, Subvolumes),
        name_seed: u64,
        (next_ino, generation): (u64, u64),
    ) -> Self {
        let hash = NameHash::new(name_seed);
        let (nodes, dirs, moves) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { kv, sink, report, hash, generation, nodes, subvolumes, dirs, moves, next_ino }
    }

    /// Runs all steps; adds the sums that only the tree knows to `sums`.
    pub fn run(mut self, chunks: &Chunks, sums: &mut [i64; Counter::ALL.len()]) -> Result<u64> {
        self.inodes()?;
        self.extents(chunks)?;
        self.sink.flush()?;
        let names = self.names()?;
        self.orphans(sums)?;
        self.plan_moves(names)?;
        self.do_moves()?;
        self.write_inodes(sums)?;
        self.attributes()?;
        self.sink.flush()?;
        self.kv.read()?.scan(Table::Extents, Bound::Unbounded, Bound::Unbounded, |key, row| {
            let extent = Extent::decode(decode_extent_key(key)?.1, row)?;
            sums[Counter::ReferencedBytes as usize] += extent.len as i64;
            Ok(true)
        })?;
        let view = self.kv.read()?;
        Subvolumes::extents(&view, chunks, self.report, sums)?;
        self.subvolumes.finish(&view, self.sink)?;
        Ok(self.next_ino)
    }

    fn inodes(&mut self) -> Result<()> {
        self.kv.read()?.scan(Table::Inodes, Bound::Unbounded, Bound::Unbounded, |key, row| {
            let (ino, row) = (ino_of(key)?, InodeRow::decode(row)?);
            let (kind, parent) = (row.kind(), row.parent);
            let node = Node { kind, parent, size: row.size, allocated: row.allocated, ..Node::default() };
            self.nodes.insert(ino, node);
            self.next_ino = self.next_ino.max(ino + 1);
            Ok(true)
        })
    }

    /// The inode, made up if its row is lost.
    fn node(&mut self, ino: u64, kind: u32, parent: u64) -> &mut Node {
        self.next_ino = self.next_ino.max(ino.saturating_add(1));
        self.nodes.entry(ino).or_insert_with(|| Node { kind, parent, made_up: true, ..Node::default() })
    }

    /// Checks that every file has all its chunks, and puts unreadable extents where chunks are lost.
    fn extents(&mut self, chunks: &Chunks) -> Result<()> {
        let mut missing = RoaringTreemap::new();
        let mut file: Option<Seen> = None;
        let view = self.kv.read()?;
        view.scan(Table::Extents, Bound::Unbounded, Bound::Unbounded, |key, row| {
            let (ino, offset) = decode_extent_key(key)?;
            let extent = Extent::decode(offset, row)?;
            if file.as_ref().is_none_or(|seen| seen.ino != ino)
                && let Some(seen) = file.replace(Seen { ino, covered: Vec::new(), hurt: false })
            {
                self.end_file(seen.ino, &seen.covered, seen.hurt)?;
            }
            if let Some(seen) = &mut file {
                for id in (0..extent.lens.len() as u64).map(|index| extent.first.0 + index) {
                    if !chunks.has(id) {
                        seen.hurt = true;
                        self.report.chunks_missing += u64::from(id != LOST.0 && missing.insert(id));
                    }
                }
                seen.covered.push((extent.offset, extent.end()));
            }
            Ok(true)
        })?;
        if let Some(seen) = file {
            self.end_file(seen.ino, &seen.covered, seen.hurt)?;
        }
        let without: Vec<u64> =
            self.nodes.iter().filter(|(_, node)| node.allocated > 0).map(|(ino, _)| *ino).collect();
        for ino in without {
            let has_any =
                view.last(Table::Extents, &extent_key(ino, 0), &extent_key(ino, u64::MAX))?.is_some();
            if !has_any {
                self.end_file(ino, &[], true)?;
            }
        }
        Ok(())
    }

    /// Ends a file whose extents were all seen: lost extents are replaced by unreadable ones.
    fn end_file(&mut self, ino: u64, covered: &[(u64, u64)], hurt: bool) -> Result<()> {
        let end = covered.last().map_or(0, |last| last.1);
        let sum: u64 = covered.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
        let node = self.node(ino, libc::S_IFREG, ROOT_INO);
        node.hurt |= hurt;
        if node.made_up {
            // Nothing says that it had holes.
            (node.size, node.allocated) = (end, end);
        }
        node.size = node.size.max(end);
        if node.allocated == sum {
            return Ok(());
        }
        // A range without an extent may be a hole or may be lost; zeros would be a guess.
        node.hurt = true;
        node.allocated = node.size;
        let size = node.size;
        let mut at = 0;
        for (from, to) in covered.iter().copied().chain([(size, size)]) {
            while at < from {
                let len = LOST_LEN.min(from - at) as u32;
                let piece = Piece { offset: at, id: LOST, chunk_len: len, start: 0, len };
                self.sink.put(Table::Extents, &extent_key(ino, at), &Extent::of(piece).encode())?;
                at += u64::from(len);
            }
            at = at.max(to);
        }
        Ok(())
    }

    /// Goes through all names; returns those of incomplete files and of substitutes.
    fn names(&mut self) -> Result<Vec<(u64, Vec<u8>, u64)>> {
        let (mut of_hurt, mut dropped) = (Vec::new(), Vec::new());
        self.kv.read()?.scan(Table::Dirents, Bound::Unbounded, Bound::Unbounded, |key, row| {
            let (dir, (_, name), entry) = (ino_of(key)?, dirent_name(key)?, DirentRow::decode(row)?);
            let is_dir = entry.kind == libc::S_IFDIR;
            let in_dir = self.node(dir, libc::S_IFDIR, ROOT_INO).kind == libc::S_IFDIR;
            if subvolume_of(entry.ino) > 0 {
                if !in_dir || !self.subvolumes.take_name(dir, name, &entry) {
                    dropped.push((key.to_vec(), dir, name.to_vec()));
                    return Ok(true);
                }
                let parent = self.node(dir, libc::S_IFDIR, ROOT_INO);
                (parent.entries, parent.subdirs) = (parent.entries + 1, parent.subdirs + 1);
                return Ok(true);
            }
            if is_dir && !self.nodes.contains_key(&entry.ino) {
                self.node(entry.ino, libc::S_IFDIR, dir);
            }
            let target = self.nodes.get_mut(&entry.ino).filter(|node| {
                in_dir
                    && node.kind == entry.kind
                    && (!is_dir || node.names == 0 && (node.parent == dir || node.made_up))
            });
            let Some(target) = target else {
                dropped.push((key.to_vec(), dir, name.to_vec()));
                return Ok(true);
            };
            target.names += 1;
            if is_dir {
                target.parent = dir;
                self.dirs.insert(entry.ino, (dir, name.into()));
            } else if target.hurt || target.made_up {
                of_hurt.push((dir, name.to_vec(), entry.ino));
            }
            let parent = self.node(dir, libc::S_IFDIR, ROOT_INO);
            parent.entries += 1;
            parent.subdirs += u32::from(is_dir);
            Ok(true)
        })?;
        for (key, dir, name) in dropped {
            let path = shown(&self.path(dir, &name));
            self.report.names_lost.add(|| path);
            self.sink.remove(Table::Dirents, &key)?;
        }
        Ok(of_hurt)
    }

    fn orphans(&mut self, sums: &mut [i64; Counter::ALL.len()]) -> Result<()> {
        let mut stale = Vec::new();
        self.kv.read()?.scan(Table::Orphans, Bound::Unbounded, Bound::Unbounded, |key, _| {
            let ino = ino_of(key)?;
            match self.nodes.get_mut(&ino) {
                _ if subvolume_of(ino) > 0 && self.subvolumes.has(ino) => {
                    sums[Counter::Orphans as usize] += 1;
                }
                Some(node) if node.names == 0 => {
                    node.is_orphan = true;
                    sums[Counter::Orphans as usize] += 1;
                }
                _ => stale.push(key.to_vec()),
            }
            Ok(true)
        })?;
        for key in stale {
            self.sink.remove(Table::Orphans, &key)?;
        }
        Ok(())
    }

    /// The names of a path, from the root. If a directory has lost its name, the path begins with its number.
    fn path(&self, mut dir: u64, name: &[u8]) -> Vec<Vec<u8>> {
        let mut parts = vec![name.to_vec()];
        while dir != ROOT_INO && parts.len() < MAX_DEPTH {
            match self.dirs.get(&dir) {
                Some((above, name)) => {
                    parts.push(name.to_vec());
                    dir = *above;
                }
                None => {
                    parts.push(format!("#{dir}").into_bytes());
                    break;
                }
            }
        }
        parts.reverse();
        parts
    }

    fn plan_moves(&mut self, of_hurt: Vec<(u64, Vec<u8>, u64)>) -> Result<()> {
        for (dir, name, ino) in of_hurt {
            let to = self.path(dir, &name);
            if to.first().is_some_and(|first| first.starts_with(b"lost+found")) {
                // An earlier repair moved it.
                self.report.hurt_files.add(|| shown(&to));
                self.report.hurt_before += 1;
                continue;
            }
            let lists = if self.nodes.get(&ino).is_some_and(|node| node.hurt) {
                &mut self.report.hurt_files
            } else {
                &mut self.report.nameless
            };
            lists.add(|| shown(&to));
            self.moves.push(Move { from: Some((dir, name)), ino, to });
        }
        let is_lost = |(ino, node): &(&u64, &Node)| **ino != ROOT_INO && node.names == 0 && !node.is_orphan;
        let mut nameless: Vec<u64> = self.nodes.iter().filter(is_lost).map(|(ino, _)| *ino).collect();
        nameless.sort_unstable();
        for ino in nameless {
            let name = format!("#{ino}");
            self.report.nameless.add(|| name.clone());
            self.moves.push(Move { from: None, ino, to: vec![name.into_bytes()] });
        }
        for root in self.subvolumes.nameless() {
            let name = format!("subvolume {}", subvolume_of(root));
            self.report.nameless.add(|| name.clone());
            self.moves.push(Move { from: None, ino: root, to: vec![name.into_bytes()] });
        }
        Ok(())
    }

    fn do_moves(&mut self) -> Result<()> {
        self.node(ROOT_INO, libc::S_IFDIR, ROOT_INO).names = 1;
        if self.moves.is_empty() {
            return Ok(());
        }
        let top = self.free_name()?;
        self.report.lost_found = Some(shown(&[top.as_slice()]));
        let top_ino = self.new_dir(ROOT_INO, &top)?;
        let mut made: BTreeMap<Vec<Vec<u8>>, u64> = BTreeMap::from([(Vec::new(), top_ino)]);
        for step in std::mem::take(&mut self.moves) {
            let of_subvolume = subvolume_of(step.ino) > 0;
            let unknown = if of_subvolume { libc::S_IFDIR } else { libc::S_IFREG };
            let kind = self.nodes.get(&step.ino).map_or(unknown, |node| node.kind);
            if let Some((dir, name)) = &step.from {
                self.sink.remove(Table::Dirents, &dirent_key(*dir, self.hash.of(name), name))?;
                self.node(*dir, libc::S_IFDIR, ROOT_INO).entries -= 1;
            } else if let Some(node) = self.nodes.get_mut(&step.ino) {
                node.names = 1;
            }
            let Some((name, above)) = step.to.split_last() else { continue };
            let mut dir = top_ino;
            for depth in 1..=above.len() {
                let path = above[..depth].to_vec();
                dir = match made.get(&path) {
                    Some(ino) => *ino,
                    None => {
                        let ino = self.new_dir(dir, &above[depth - 1])?;
                        made.insert(path, ino);
                        ino
                    }
                };
            }
            self.link(dir, name, step.ino, kind)?;
            if of_subvolume {
                self.subvolumes.take_name(dir, name, &DirentRow { ino: step.ino, kind });
            }
        }
        Ok(())
    }

    /// `lost+found`, or the first such name that is free in the root.
    fn free_name(&self) -> Result<Vec<u8>> {
        let view = self.kv.read()?;
        for number in 1u64.. {
            let name = if number == 1 { "lost+found".to_owned() } else { format!("lost+found.{number}") };
            let key = dirent_key(ROOT_INO, self.hash.of(name.as_bytes()), name.as_bytes());
            if view.get(Table::Dirents, &key)?.is_none() {
                return Ok(name.into_bytes());
            }
        }
        Ok(b"lost+found".to_vec())
    }

    fn new_dir(&mut self, above: u64, name: &[u8]) -> Result<u64> {
        let ino = self.next_ino;
        self.node(ino, libc::S_IFDIR, above).names = 1;
        self.link(above, name, ino, libc::S_IFDIR)?;
        Ok(ino)
    }

    fn link(&mut self, dir: u64, name: &[u8], ino: u64, kind: u32) -> Result<()> {
        let row = DirentRow { kind, ino };
        self.sink.put(Table::Dirents, &dirent_key(dir, self.hash.of(name), name), &row.encode())?;
        let is_dir = kind == libc::S_IFDIR;
        if is_dir && let Some(node) = self.nodes.get_mut(&ino) {
            node.parent = dir;
        }
        let node = self.node(dir, libc::S_IFDIR, ROOT_INO);
        node.entries += 1;
        node.subdirs += u32::from(is_dir);
        Ok(())
    }

    /// Corrects the rows of all inodes by what was found.
    fn write_inodes(&mut self, sums: &mut [i64; Counter::ALL.len()]) -> Result<()> {
        let (view, now) = (self.kv.read()?, Timestamp::now());
        for (ino, node) in std::mem::take(&mut self.nodes) {
            sums[Counter::Inodes as usize] += 1;
            let key = id_key(ino);
            let old = view.get(Table::Inodes, &key)?.map(|row| InodeRow::decode(&row)).transpose()?;
            let mut row = old.clone().unwrap_or_else(|| InodeRow {
                mode: node.kind | if node.kind == libc::S_IFDIR { 0o700 } else { 0o600 },
                flags: InodeRow::HAS_XATTRS,
                generation: self.generation,
                times: Times::all(now),
                ..InodeRow::default()
            });
            if node.kind == libc::S_IFDIR {
                (row.nlink, row.entries, row.parent) = (2 + node.subdirs, node.entries, node.parent);
            } else {
                (row.nlink, row.parent) = (node.names, 0);
            }
            if node.kind == libc::S_IFREG {
                (row.size, row.allocated) = (node.size, node.allocated);
            }
            if old.as_ref() != Some(&row) {
                self.report.counts_mended += u64::from(old.is_some());
                self.sink.put(Table::Inodes, &key, &row.encode())?;
            }
        }
        Ok(())
    }

    /// Removes extended attributes of inodes that do not exist.
    fn attributes(&mut self) -> Result<()> {
        self.sink.flush()?;
        let view = self.kv.read()?;
        let (mut last, mut stale) = ((0, false), Vec::new());
        view.scan(Table::Xattrs, Bound::Unbounded, Bound::Unbounded, |key, _| {
            let ino = ino_of(key)?;
            if last.0 != ino {
                last = (ino, view.get(Table::Inodes, &id_key(ino))?.is_some());
            }
            if !last.1 {
                stale.push(key.to_vec());
            }
            Ok(true)
        })?;
        for key in stale {
            self.sink.remove(Table::Xattrs, &key)?;
        }
        Ok(())
    }
}
