//! From staged bytes to chunks.
//!
//! Keeps true: at every moment the bytes of a file are in its staging, in its flush, or in its extents, and a reader
//! that looks in that order sees the newest. Bytes never change while they are cut and hashed. The lookup of chunks and
//! the rows that refer to them belong to one membership (I4). Bytes that a flush cannot store go back to staging.
//!
//! A change inside a chunk is cut again together with the rest of that chunk. So the chunks around it stay as they are,
//! and a file that was changed in place shares all its other chunks. Where somebody waits and the change is small, that
//! is left for later ([`recut`](super::recut)).

use crate::error::{Error, Result};
use crate::meta::Layers;
use crate::meta::rows::Piece;
use crate::store::{Cut, Member};
use crate::sync::Arc;
use crate::sync::thread::caught;

use super::inode::{Inode, InodeState};
use super::rows::Content;
use super::staging::Run;
use super::{Fs, extents};

/// Bytes that are cut at a time: a larger flush is cut and stored in parts, so that it needs no copy of all its bytes.
const PART: u64 = 8 << 20;
/// No more bytes are stored as patches by one flush than the longest chunk has, divided by this: an average one.
const SMALL: u64 = 4;
/// A patch saves at least so many bytes of old chunks from being stored again as the longest chunk has, divided by this.
const LEAST_SAVED: u64 = 32;

/// A range of a file: staged runs, and the parts of old chunks that have to be cut again with them.
pub(super) struct Block {
    start: u64,
    end: u64,
    runs: Vec<Run>,
    /// Old bytes that no run covers.
    old: Vec<Piece>,
    /// It is a part and the next block continues it: no chunk has to end there.
    continues: bool,
}

impl Block {
    /// Blocks of about [`PART`] that are this one together.
    fn parts(self) -> Vec<Self> {
        let mut parts = Vec::new();
        let (mut start, mut old, mut runs) = (self.start, self.old, Vec::new());
        let last = self.runs.len().saturating_sub(1);
        for (number, run) in self.runs.into_iter().enumerate() {
            let end = run.end();
            runs.push(run);
            if end - start >= PART && number < last {
                let (these, later) = old.into_iter().partition(|piece| piece.offset < end);
                let runs = std::mem::take(&mut runs);
                parts.push(Self { start, end, runs, old: these, continues: true });
                (start, old) = (end, later);
            }
        }
        parts.push(Self { start, end: self.end, runs, old, continues: false });
        parts
    }

    fn new_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.data.len() as u64).sum()
    }

    /// True if little of it is new.
    fn is_patch(&self, longest_chunk: u64) -> bool {
        let old: u64 = self.old.iter().map(|piece| u64::from(piece.len)).sum();
        old >= self.new_bytes().max(longest_chunk / LEAST_SAVED)
    }

    /// Its new bytes alone.
    fn patches(self) -> Vec<Self> {
        let stretches = self.runs.chunk_by(|run, next| run.end() == next.offset);
        let stretch = |runs: &[Run]| {
            let (start, end) = (runs.first()?.offset, runs.last()?.end());
            Some(Self { start, end, runs: runs.to_vec(), old: Vec::new(), continues: false })
        };
        stretches.filter_map(stretch).collect()
    }
}

/// A block, cut.
struct CutBlock {
    start: u64,
    data: Arc<Vec<u8>>,
    cuts: Vec<Cut>,
    /// It ends with old data, so its last chunk need not wait for more.
    closed: bool,
    /// As in [`Block`].
    continues: bool,
}

/// How a file is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// It grows: its last chunk waits for the bytes after it.
    Growing,
    /// It has not grown for a while.
    Aged,
    /// Somebody waits for it: another running flush of the file is waited for as well.
    Wanted,
    /// The same, and how soon it is durable counts for more than how it is cut.
    Synced,
}

impl Fs {
    /// A flush in the background. If it fails, the bytes stay staged, and a later sync reports the error. True if it
    /// did not fail.
    pub(super) fn flush_in_background(self: &Arc<Self>, inode: &Arc<Inode>, how: Flush) -> bool {
        let result = self.flush(inode, how);
        if self.background.wrote_out(&result)
            && let Err(error) = &result
        {
            tracing::warn!("inode {} could not be written out, it stays in memory: {error}", inode.ino);
        }
        result.is_ok()
    }

    /// Stores what is staged of a file.
    pub(super) fn flush(self: &Arc<Self>, inode: &Arc<Inode>, how: Flush) -> Result<()> {
        let begun = self.begin_flush(inode, how).inspect_err(|_| {
            let mut state = inode.lock();
            self.dirty.push(inode, &mut state);
        });
        let Some(blocks) = begun? else {
            return Ok(());
        };
        // Others wait for the end of this flush.
        caught(|| self.store_blocks(inode, blocks, how)).unwrap_or_else(|| {
            self.end_flush(inode, &mut inode.lock(), false);
            Err(Error::panicked("storing what was written"))
        })
    }

    fn store_blocks(self: &Arc<Self>, inode: &Arc<Inode>, blocks: Vec<Block>, how: Flush) -> Result<()> {
        let last = blocks.len().saturating_sub(1);
        let mut carried = None;
        for (number, block) in blocks.into_iter().enumerate() {
            let end = block.end;
            let blocks = self.cut_block(block, carried.take());
            self.store.chunks.help_write_regions();
            let mut state = inode.lock();
            let installed = self.install(inode.ino, &mut state, &blocks, how);
            if number == last || installed.is_err() {
                self.end_flush(inode, &mut state, installed.is_ok());
                return installed.map(drop);
            }
            carried = installed?;
            self.stored_up_to(&mut state, carried.as_ref().map_or(end, |rest| rest.offset));
        }
        Ok(())
    }

    /// Moves the staged bytes into the flush, and says what has to be cut.
    pub(super) fn begin_flush(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        how: Flush,
    ) -> Result<Option<Vec<Block>>> {
        let waits = matches!(how, Flush::Wanted | Flush::Synced);
        let mut state = if waits { inode.lock_quiescent() } else { inode.lock() };
        if !state.flushing.is_empty() || state.staging.is_empty() || state.dead {
            return Ok(None);
        }
        self.store.batches.writable()?;
        let layers = self.layers();
        // Planned before the bytes are taken, so that an error here cannot lose them.
        let runs = state.staging.take();
        let planned = caught(|| self.plan(&layers, inode.ino, &state, &runs));
        match planned.unwrap_or_else(|| Err(Error::panicked("storing what was written"))) {
            Ok(blocks) => {
                let blocks =
                    if how == Flush::Synced { self.patch(inode, &mut state, blocks) } else { blocks };
                state.flushing = runs;
                self.dirty.flushing(inode);
                Ok(Some(blocks))
            }
            Err(error) => {
                for run in runs {
                    state.staging.write_below(run.offset, &run.data);
                }
                Err(error)
            }
        }
    }

    /// Leaves the old bytes of small changes for later.
    fn patch(&self, inode: &Arc<Inode>, state: &mut InodeState, blocks: Vec<Block>) -> Vec<Block> {
        let new: u64 = blocks.iter().map(Block::new_bytes).sum();
        let longest_chunk = self.store.chunks.max_len();
        if new > longest_chunk / SMALL || blocks.iter().any(|block| block.continues) {
            return blocks;
        }
        let mut patched = Vec::with_capacity(blocks.len());
        for block in blocks {
            if !block.is_patch(longest_chunk) {
                patched.push(block);
                continue;
            }
            let range = (block.start, block.end);
            let patches = block.patches();
            state.patched.add(range, patches.len() as u32);
            self.recuts.push(inode);
            patched.extend(patches);
        }
        patched
    }

    fn plan(&self, layers: &Layers, ino: u64, state: &InodeState, runs: &[Run]) -> Result<Vec<Block>> {
        let mut blocks: Vec<Block> = Vec::new();
        for stretch in runs.chunk_by(|run, next| run.end() == next.offset) {
            let ([first, .., last] | [first @ last]) = stretch else { continue };
            let start = self.cut_from(layers, ino, state, first)?;
            let end = if last.end() < state.disk_size {
                let piece =
                    extents::pieces(layers, Content::of(ino, &state.row), last.end() - 1, last.end() + 1)?;
                cut_to(&whole_pieces(layers, Content::of(ino, &state.row), &piece)?, last.end())
            } else {
                last.end()
            };
            match blocks.last_mut() {
                Some(block) if start < block.end => {
                    block.end = block.end.max(end);
                    block.runs.extend_from_slice(stretch);
                }
                _ => {
                    let (runs, old) = (stretch.to_vec(), Vec::new());
                    blocks.push(Block { start, end, runs, old, continues: false });
                }
            }
        }
        for block in &mut blocks {
            let mut at = block.start;
            let ends = block.runs.iter().map(|run| (run.offset, run.end())).chain([(block.end, block.end)]);
            for (run_start, run_end) in ends {
                if at < run_start {
                    block.old.extend(extents::pieces(layers, Content::of(ino, &state.row), at, run_start)?);
                }
                at = run_end;
            }
        }
        Ok(blocks.into_iter().flat_map(Block::parts).collect())
    }

    /// Where cutting has to begin for a run: at the start of the old chunk that it changes. If the run appends to the
    /// file, at the start of the last chunk, since that chunk ended at the end of the file and not at a cut point.
    fn cut_from(&self, layers: &Layers, ino: u64, state: &InodeState, run: &Run) -> Result<u64> {
        let Some(before) = run.offset.checked_sub(1) else {
            return Ok(0);
        };
        if before >= state.disk_size || state.content_cut == Some(run.offset) {
            return Ok(run.offset);
        }
        let at = extents::pieces(layers, Content::of(ino, &state.row), before, before + 1)?;
        let Some(piece) = whole_pieces(layers, Content::of(ino, &state.row), &at)?.into_iter().next() else {
            return Ok(run.offset);
        };
        let end = piece.offset + u64::from(piece.len);
        let inside = end > run.offset;
        let at_end = end == state.disk_size && u64::from(piece.len) < self.store.chunks.max_len();
        Ok(if inside || at_end { piece.offset } else { run.offset })
    }

    /// Cuts a block; `carried` is what the previous block left over.
    fn cut_block(&self, block: Block, carried: Option<Run>) -> Vec<CutBlock> {
        let cut = |start: u64, data: Arc<Vec<u8>>, closed: bool, continues: bool| {
            let cuts = self.store.chunks.cut_together(&data);
            CutBlock { start, data, cuts, closed, continues }
        };
        let closed = block.runs.last().is_some_and(|run| run.end() < block.end);
        if let ([run], None) = (block.runs.as_slice(), &carried)
            && block.old.is_empty()
            && run.offset == block.start
        {
            return vec![cut(run.offset, run.data.clone(), closed, block.continues)];
        }
        match self.merged(&block, carried.as_ref()) {
            Ok(run) => vec![cut(run.offset, run.data, closed, block.continues)],
            // If old bytes cannot be read, the new ones are stored without them.
            Err(_) => {
                let runs = carried.into_iter().chain(block.runs);
                runs.map(|run| cut(run.offset, run.data, false, false)).collect()
            }
        }
    }

    /// The bytes of a block after the carried ones: the new bytes, and the old ones where there are no new ones.
    fn merged(&self, block: &Block, carried: Option<&Run>) -> Result<Run> {
        let start = carried.map_or(block.start, |run| run.offset);
        let mut data = Vec::with_capacity((block.end - start) as usize);
        data.extend_from_slice(carried.map_or(&[][..], |run| &run.data));
        let mut old = block.old.as_slice();
        for run in &block.runs {
            let (before, behind) = old.split_at(old.partition_point(|piece| piece.offset < run.offset));
            self.append_old(before, start, run.offset, &mut data)?;
            data.extend_from_slice(&run.data);
            old = behind;
        }
        self.append_old(old, start, block.end, &mut data)?;
        Ok(Run { offset: start, data: Arc::new(data) })
    }

    /// Extends `data`, which begins at `start` of a file, up to `end` with the bytes of the file.
    fn append_old(&self, pieces: &[Piece], start: u64, end: u64, data: &mut Vec<u8>) -> Result<()> {
        let at = data.len();
        data.resize((end - start) as usize, 0);
        self.store.chunks.read_pieces(pieces, start + at as u64, false, &mut data[at..])
    }

    /// Puts the chunks of all blocks into the file, as one member of one batch. Returns what is left over if another
    /// part follows.
    fn install(
        self: &Arc<Self>,
        ino: u64,
        state: &mut InodeState,
        blocks: &[CutBlock],
        how: Flush,
    ) -> Result<Option<Run>> {
        if state.dead {
            return Ok(None);
        }
        let member = self.join_to_change(ino, state)?;
        let mut carried = None;
        for block in blocks {
            let cuts = self.cuts_to_store(state, block, how);
            let at = self.store_cuts(&member, (ino, state), block.start, &block.data, cuts)?;
            let end = block.start + at as u64;
            state.disk_size = state.disk_size.max(end);
            state.content_cut = None;
            if at < block.data.len() && block.continues {
                carried = Some(Run { offset: end, data: Arc::new(block.data[at..].to_vec()) });
            } else if at < block.data.len() {
                state.content_cut = Some(end);
                let before = state.staging.bytes();
                state.staging.write_below(end, &block.data[at..]);
                self.dirty.add(state.staging.bytes() - before);
            }
        }
        state.settle_size();
        state.save(ino, &member);
        Ok(carried)
    }

    /// Puts the chunks of `data` that `cuts` has into the file from `start` on; how many bytes these are.
    pub(super) fn store_cuts(
        &self,
        member: &Member,
        (ino, state): (u64, &mut InodeState),
        start: u64,
        data: &[u8],
        cuts: &[Cut],
    ) -> Result<usize> {
        let layers = self.layers();
        let mut at = 0usize;
        let mut pieces = Vec::with_capacity(cuts.len());
        for cut in cuts {
            let bytes = &data[at..at + cut.len as usize];
            if let Some(digest) = cut.digest {
                let id = self.store.chunks.put(member, digest, bytes, state.row.size)?;
                let offset = start + at as u64;
                pieces.push(Piece { offset, id, chunk_len: cut.len, start: 0, len: cut.len });
            }
            at += cut.len as usize;
        }
        let batch = (member, &*self.store.collection.barrier);
        extents::replace(batch, &layers, ino, state, (start, start + at as u64), pieces)?;
        Ok(at)
    }

    /// All cuts of a block, without the last one if its end is not known yet: in a part, or in a file that still grows.
    fn cuts_to_store<'a>(&self, state: &InodeState, block: &'a CutBlock, how: Flush) -> &'a [Cut] {
        let end = block.start + block.data.len() as u64;
        let growing = how == Flush::Growing && !block.closed && end >= state.row.size && block.cuts.len() > 1;
        match block.cuts.split_last() {
            Some((last, others)) if block.continues && u64::from(last.len) < self.store.chunks.max_len() => {
                others
            }
            Some((_, others)) if growing => others,
            _ => &block.cuts,
        }
    }

    /// The bytes of a flush before `offset` are stored; its other parts go on.
    fn stored_up_to(&self, state: &mut InodeState, offset: u64) {
        let mut bytes = 0;
        state.flushing.retain(|run| {
            let is_stored = run.end() <= offset;
            bytes += if is_stored { run.data.len() as u64 } else { 0 };
            !is_stored
        });
        self.dirty.sub(bytes);
    }

    pub(super) fn end_flush(&self, inode: &Arc<Inode>, state: &mut InodeState, stored: bool) {
        let runs = std::mem::take(&mut state.flushing);
        let bytes: u64 = runs.iter().map(|run| run.data.len() as u64).sum();
        if !stored && !state.dead {
            let before = state.staging.bytes();
            for run in runs {
                state.staging.write_below(run.offset, &run.data);
            }
            self.dirty.add(state.staging.bytes() - before);
        }
        self.dirty.sub(bytes);
        if !state.staging.is_empty() {
            self.dirty.push(inode, state);
        }
        self.dirty.flushed(inode);
        inode.flushed.notify_all();
    }
}

/// The parts of `clipped` with their full extent in the file, not clipped to the range.
fn whole_pieces(layers: &Layers, content: Content, clipped: &[Piece]) -> Result<Vec<Piece>> {
    let mut whole = Vec::new();
    for part in clipped {
        if let Some(extent) = extents::at_or_before(layers, content, part.offset)? {
            whole.extend(extent.pieces().filter(|piece| {
                piece.offset <= part.offset && part.offset < piece.offset + u64::from(piece.len)
            }));
        }
    }
    Ok(whole)
}

/// Where cutting may end for a run that ends at `end`: after the old chunk that it changes.
fn cut_to(pieces: &[Piece], end: u64) -> u64 {
    let inside = pieces.iter().find(|piece| piece.offset < end && piece.offset + u64::from(piece.len) > end);
    inside.map_or(end, |piece| piece.offset + u64::from(piece.len))
}

#[cfg(all(test, feature = "sim"))]
mod panics;
#[cfg(all(test, feature = "sim"))]
mod tests;
