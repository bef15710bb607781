//! From staged bytes to chunks.
//!
//! Keeps true: the bytes of a file are at every moment in its staging, in its flush, or in its extents, and a reader
//! who looks in that order sees the newest; what is cut and hashed is never changed under the hand; the lookup of
//! chunks and the rows that refer to them are one membership (I4). What a flush cannot store goes back to staging.
//!
//! A change inside a chunk is cut again together with the rest of that chunk, so that the chunks around it stay as they
//! are and a file that was changed in place shares all the others.

use crate::error::Result;
use crate::meta::Layers;
use crate::meta::rows::Piece;
use crate::store::Cut;
use crate::sync::Arc;

use super::inode::{Inode, InodeState};
use super::staging::{Run, copy_part};
use super::{Fs, extents};

/// A stretch of a file that is cut as one: runs, and what of old chunks has to be cut again with them.
pub(super) struct Block {
    start: u64,
    end: u64,
    runs: Vec<Run>,
    /// Old bytes that no run covers.
    old: Vec<Piece>,
}

/// A block, cut.
struct CutBlock {
    start: u64,
    data: Arc<Vec<u8>>,
    cuts: Vec<Cut>,
    /// Its end is old data: there is nothing to wait for behind it.
    closed: bool,
}

/// How a file is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// It grows: its last chunk waits for what comes behind it.
    Growing,
    /// It has not grown for a while.
    Aged,
    /// Somebody waits for it: what another flush has in hand is waited for as well.
    Wanted,
}

impl Fs {
    /// A flush whose failure is told to whoever syncs later: the bytes stay staged. True if it did not fail.
    pub(super) fn flush_in_background(self: &Arc<Self>, inode: &Arc<Inode>, how: Flush) -> bool {
        let result = self.flush(inode, how);
        if let Err(error) = &result {
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
        let blocks: Vec<CutBlock> = blocks.into_iter().flat_map(|block| self.cut_block(block)).collect();
        self.store.relieve();
        let mut state = inode.lock();
        let result = self.install(inode.ino, &mut state, &blocks, how);
        self.end_flush(inode, &mut state, result.is_ok());
        result
    }

    /// Moves the staged bytes into the flush, and says what has to be cut.
    pub(super) fn begin_flush(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        how: Flush,
    ) -> Result<Option<Vec<Block>>> {
        let mut state = if how == Flush::Wanted { inode.lock_settled() } else { inode.lock() };
        if !state.flushing.is_empty() || state.staging.is_empty() || state.dead {
            return Ok(None);
        }
        self.store.writable()?;
        let layers = self.now();
        // What is planned before the bytes are taken cannot strand them.
        let runs = state.staging.take();
        match self.plan(&layers, inode.ino, &state, &runs) {
            Ok(blocks) => {
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

    fn plan(&self, layers: &Layers, ino: u64, state: &InodeState, runs: &[Run]) -> Result<Vec<Block>> {
        let mut blocks: Vec<Block> = Vec::new();
        for run in runs {
            let start = self.cut_from(layers, ino, state, run)?;
            let end = if run.end() < state.disk_size {
                let last = extents::pieces(layers, ino, run.end() - 1, run.end() + 1)?;
                cut_to(&whole_pieces(layers, ino, &last)?, run.end())
            } else {
                run.end()
            };
            match blocks.last_mut() {
                Some(block) if start < block.end => {
                    block.end = block.end.max(end);
                    block.runs.push(run.clone());
                }
                _ => blocks.push(Block { start, end, runs: vec![run.clone()], old: Vec::new() }),
            }
        }
        for block in &mut blocks {
            let mut at = block.start;
            for run in &block.runs {
                block.old.extend(extents::pieces(layers, ino, at, run.offset)?);
                at = run.end();
            }
            block.old.extend(extents::pieces(layers, ino, at, block.end)?);
        }
        Ok(blocks)
    }

    /// Where cutting has to begin for a run: at the start of the old chunk that it changes, or that it follows at the
    /// end of the file, since that one ended where the file did and not where its content says.
    fn cut_from(&self, layers: &Layers, ino: u64, state: &InodeState, run: &Run) -> Result<u64> {
        let Some(before) = run.offset.checked_sub(1) else {
            return Ok(0);
        };
        if before >= state.disk_size || state.content_cut == Some(run.offset) {
            return Ok(run.offset);
        }
        let at = extents::pieces(layers, ino, before, before + 1)?;
        let Some(piece) = whole_pieces(layers, ino, &at)?.into_iter().next() else {
            return Ok(run.offset);
        };
        let end = piece.offset + u64::from(piece.len);
        let inside = end > run.offset;
        let at_end = end == state.disk_size && u64::from(piece.len) < self.store.max_chunk();
        Ok(if inside || at_end { piece.offset } else { run.offset })
    }

    fn cut_block(&self, block: Block) -> Vec<CutBlock> {
        let cut = |start: u64, data: Arc<Vec<u8>>, closed: bool| {
            let cuts = self.store.cut(&data);
            CutBlock { start, data, cuts, closed }
        };
        let closed = block.runs.last().is_some_and(|run| run.end() < block.end);
        match block.runs.as_slice() {
            [run] if block.old.is_empty() && run.offset == block.start => {
                vec![cut(run.offset, run.data.clone(), closed)]
            }
            runs => match self.merged(&block) {
                Ok(data) => vec![cut(block.start, Arc::new(data), closed)],
                // Old bytes that cannot be read must not keep new ones from being stored: these stand alone then.
                Err(_) => runs.iter().map(|run| cut(run.offset, run.data.clone(), false)).collect(),
            },
        }
    }

    /// The bytes of a block: the old ones with the runs over them.
    fn merged(&self, block: &Block) -> Result<Vec<u8>> {
        let mut data = vec![0; (block.end - block.start) as usize];
        for piece in &block.old {
            let mut bytes = Vec::with_capacity(piece.len as usize);
            self.store.read_pieces(std::slice::from_ref(piece), &mut bytes)?;
            copy_part(piece.offset, &bytes, block.start, &mut data);
        }
        for run in &block.runs {
            copy_part(run.offset, &run.data, block.start, &mut data);
        }
        Ok(data)
    }

    /// Puts the chunks of all blocks into the file, as one member of one batch.
    fn install(
        self: &Arc<Self>,
        ino: u64,
        state: &mut InodeState,
        blocks: &[CutBlock],
        how: Flush,
    ) -> Result<()> {
        if state.dead {
            return Ok(());
        }
        let member = self.join()?;
        let layers = self.now();
        for block in blocks {
            let cuts = cuts_to_store(state, block, how);
            let mut at = 0usize;
            let mut pieces = Vec::with_capacity(cuts.len());
            for cut in cuts {
                let bytes = &block.data[at..at + cut.len as usize];
                if let Some(digest) = cut.digest {
                    let id = self.store.put(&member, digest, bytes)?;
                    let offset = block.start + at as u64;
                    pieces.push(Piece { offset, id, chunk_len: cut.len, start: 0, len: cut.len });
                }
                at += cut.len as usize;
            }
            let end = block.start + at as u64;
            extents::replace(&member, &layers, ino, state, (block.start, end), pieces)?;
            state.disk_size = state.disk_size.max(end);
            state.content_cut = None;
            if at < block.data.len() {
                state.content_cut = Some(end);
                let before = state.staging.bytes();
                state.staging.write_below(end, &block.data[at..]);
                self.dirty.add(state.staging.bytes() - before);
            }
        }
        state.settle_size();
        state.save(ino, &member.rows);
        Ok(())
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

/// All cuts of a block, but for the last of a file that is still growing: where it ends is not known yet.
fn cuts_to_store<'a>(state: &InodeState, block: &'a CutBlock, how: Flush) -> &'a [Cut] {
    let end = block.start + block.data.len() as u64;
    let growing = how == Flush::Growing && !block.closed && end >= state.row.size && block.cuts.len() > 1;
    if growing { &block.cuts[..block.cuts.len() - 1] } else { &block.cuts }
}

/// The parts of `clipped` as the file has them, not cut off at the range that was asked for.
fn whole_pieces(layers: &Layers, ino: u64, clipped: &[Piece]) -> Result<Vec<Piece>> {
    let mut whole = Vec::new();
    for part in clipped {
        if let Some(extent) = extents::at_or_before(layers, ino, part.offset)? {
            whole.extend(extent.pieces().filter(|piece| {
                piece.offset <= part.offset && part.offset < piece.offset + u64::from(piece.len)
            }));
        }
    }
    Ok(whole)
}

/// Where cutting may end for a run that ends at `end`: behind the old chunk that it changes.
fn cut_to(pieces: &[Piece], end: u64) -> u64 {
    let inside = pieces.iter().find(|piece| piece.offset < end && piece.offset + u64::from(piece.len) > end);
    inside.map_or(end, |piece| piece.offset + u64::from(piece.len))
}
