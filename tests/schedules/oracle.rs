//! What must be true at the end of every schedule, whatever it was.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;

use crate::check::{self, CheckReport};
use crate::chunk::{ChunkId, Digest};
use crate::meta::Table;
use crate::meta::rows::{Extent, decode_content_key, decode_extent_key};

use super::world::{Outcome, World, broken};

/// Files by name, and the number of the content each must have.
pub type Files<'a> = [(&'a str, u64)];

/// Every file has its bytes and the structure is sound, now and after each of two cycles; then there is no garbage.
pub fn settles(world: &World, files: &Files<'_>) -> Outcome {
    is_sound(world, files)?;
    for _ in 0..2 {
        world.cycle()?;
        is_sound(world, files)?;
    }
    has_no_garbage(world)
}

/// The same, and every chunk in use is found by its digest: no sweep was cut off.
pub fn settles_found(world: &World, files: &Files<'_>) -> Outcome {
    settles(world, files)?;
    match checked(world)?.unfound_chunks {
        0 => Ok(()),
        unfound => broken(format!("{unfound} chunks in use are not found by their digest")),
    }
}

/// Every file has its bytes, every extent its chunks, every chunk its digest, and the check finds nothing.
pub fn is_sound(world: &World, files: &Files<'_>) -> Outcome {
    for (name, number) in files {
        world.expect(name, *number)?;
    }
    // What is not in a pack yet has no row.
    world.fs.sync()?;
    every_reference_reads(world)?;
    match checked(world)?.findings.first() {
        None => Ok(()),
        Some(finding) => broken(format!("check: {}", finding.what)),
    }
}

fn checked(world: &World) -> Outcome<CheckReport> {
    let options = check::Options::default();
    Ok(check::check(&world.store, &options)?)
}

/// The chunks of every extent, of files without a name as well, read back and are what their digests say.
fn every_reference_reads(world: &World) -> Outcome {
    references(world)?.into_iter().try_for_each(|id| chunk_reads(world, id))
}

/// The chunks of all extents, each once.
pub fn references(world: &World) -> Outcome<Vec<ChunkId>> {
    let mut ids = BTreeSet::new();
    world.store.layers().scan(Table::Extents, Bound::Unbounded, Bound::Unbounded, |key, row| {
        let extent = Extent::decode(decode_extent_key(key)?.1, row)?;
        ids.extend(extent.pieces().map(|piece| piece.id));
        Ok(true)
    })?;
    world.store.layers().scan(Table::SubExtents, Bound::Unbounded, Bound::Unbounded, |key, row| {
        let extent = Extent::decode(decode_content_key(key)?.2, row)?;
        ids.extend(extent.pieces().map(|piece| piece.id));
        Ok(true)
    })?;
    Ok(ids.into_iter().collect())
}

/// A chunk reads back and is what its digest says.
pub fn chunk_reads(world: &World, id: ChunkId) -> Outcome {
    let (row, region) = world.store.chunks.region_of(id)?;
    let digest = row.entry(id).map(|entry| entry.digest);
    if digest.is_none() || digest != region.chunk(id).map(Digest::of) {
        return broken(format!("chunk {} does not have the bytes of its digest", id.0));
    }
    Ok(())
}

/// No chunk without a reference, and no pack without a live chunk.
fn has_no_garbage(world: &World) -> Outcome {
    let report = checked(world)?;
    if report.unreferenced_chunks > 0 {
        return broken(format!("{} chunks of garbage after two cycles", report.unreferenced_chunks));
    }
    let mut live = HashSet::new();
    world.store.layers().scan(Table::Regions, Bound::Unbounded, Bound::Unbounded, |key, row| {
        let first = ChunkId(crate::meta::rows::chunk_of(key)?);
        live.insert(crate::meta::rows::RegionRow::decode(first, row)?.at.pack);
        Ok(true)
    })?;
    match world.store.packs.list()?.into_iter().find(|pack| !live.contains(pack)) {
        None => Ok(()),
        Some(pack) => broken(format!("pack {pack} has nothing live and is still there after two cycles")),
    }
}
