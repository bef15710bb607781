//! The packs of a store: records of regions made, appended, read, moved and freed.
//!
//! Keeps true: a returned region matched its checksums. If a record cannot be appended on a full disk, the reserve is
//! given up and the append is retried, since the data was acknowledged long ago.

mod cache;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::media::{Media, max_open_files_now};
use crate::pack::{
    Appended, Codec, LocalPacks, Location, PackId, PackInfo, PackReader, PackStore, PackWriter, Region,
    RegionChunk,
};
use crate::sabotage::{Protection, out};
use crate::sync::Arc;

use super::batches::Latch;
use super::space::SpaceManager;
use cache::RegionCache;

/// What keeps the packs of the store on `media`.
pub fn pack_store(media: Arc<dyn Media>) -> Arc<dyn PackStore> {
    // No more than a quarter of the files that may be open.
    Arc::new(LocalPacks::new(media, (max_open_files_now() / 4).clamp(4, 256) as usize))
}

/// The packs of one store.
#[derive(Debug)]
pub struct Packs {
    packs: Arc<dyn PackStore>,
    writer: PackWriter,
    reader: PackReader,
    cache: RegionCache,
    codec: Codec,
    space: Arc<SpaceManager>,
    latch: Arc<Latch>,
}

/// The parameters of the packs of a store.
pub struct PackOptions {
    /// The store's uuid, which stands in each pack.
    pub store: [u8; 16],
    /// Bytes after which a pack is sealed.
    pub size: u64,
    /// The first pack that is made.
    pub next: PackId,
    /// Makes and opens records.
    pub codec: Codec,
    /// Plain bytes of decoded regions that are kept.
    pub cache: u64,
}

/// The pack that is written to is none that is looked at.
fn stays_unsealed() -> bool {
    !out(Protection::UnsealedStays)
}

impl Packs {
    /// The packs in this store of packs.
    pub fn new(
        packs: Arc<dyn PackStore>,
        options: PackOptions,
        space: Arc<SpaceManager>,
        latch: Arc<Latch>,
    ) -> Self {
        Self {
            writer: PackWriter::new(
                (packs.clone(), options.codec.clone()),
                options.store,
                options.size,
                options.next,
            ),
            reader: PackReader::new(packs.clone(), options.codec.clone()),
            cache: RegionCache::new(options.cache),
            codec: options.codec,
            packs,
            space,
            latch,
        }
    }

    /// The record of a region with these chunks, whose bytes stand in `plain` one after the other.
    pub fn encode(&self, chunks: &[RegionChunk], plain: &[u8]) -> Vec<u8> {
        self.codec.encode(chunks, plain)
    }

    /// Appends a record; on a full disk the reserve is given up for it. A row may point to it after [`Self::sync`]
    /// (I1).
    pub fn append(&self, record: &[u8]) -> Result<Location> {
        match self.writer.append(record) {
            Err(error) if error.is_no_space() && self.space.give_up_reserve() => self.writer.append(record),
            other => other,
        }
    }

    /// Makes everything appended so far durable (I1, before rows point to it); a failure is final (I8).
    pub fn sync(&self) -> Result<()> {
        self.writer.sync().inspect_err(|error| self.latch.set(error))
    }

    /// The records that no sync covers, if they are few; whoever makes them durable elsewhere need not sync for them.
    pub fn take_few(&self) -> Result<Option<Vec<Appended>>> {
        self.writer.take_few().inspect_err(|error| self.latch.set(error))
    }

    /// Seals the pack that is written to.
    pub fn seal(&self) -> Result<()> {
        self.writer.seal()
    }

    /// Packs below this are sealed.
    pub fn sealed_below(&self) -> PackId {
        // In this order: whichever pack is opened or sealed meanwhile, no pack below the result is still written.
        let next = self.writer.next_pack();
        match self.writer.open_pack() {
            _ if !stays_unsealed() => PackId(u64::MAX),
            Some(open) => open.min(next),
            None => next,
        }
    }

    /// The next pack that will be made.
    pub fn next(&self) -> PackId {
        self.writer.next_pack()
    }

    /// The pack and offset of the next append: nothing before it is written any more.
    pub fn append_position(&self) -> (PackId, u64) {
        self.writer.append_position()
    }

    /// The decoded region at a place.
    pub fn load(&self, at: &Location) -> Result<Arc<Region>> {
        if let Some(region) = self.cache.get(at) {
            return Ok(region);
        }
        let region = Arc::new(self.reader.read_region(at)?);
        self.cache.put(*at, region.clone());
        Ok(region)
    }

    /// How many plain bytes of regions are cached.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.limit()
    }

    /// The record of a region as it stands in its pack, checked, and what it decodes to.
    pub fn record(&self, at: &Location) -> Result<(Vec<u8>, Region)> {
        self.reader.read_with_record(at)
    }

    /// Writes those chunks of a region that are kept to where packs grow now. Returns where the region stands there,
    /// and its plain bytes. A row may point to it after [`Self::sync`] (I1).
    pub fn copy(&self, at: &Location, is_kept: impl Fn(ChunkId) -> bool) -> Result<(Location, u32)> {
        let (record, region) = self.record(at)?;
        let (record, plain) = self.codec.carry((record, &region), is_kept)?;
        Ok((self.append(&record)?, plain))
    }

    /// All packs there are.
    pub fn list(&self) -> Result<Vec<PackId>> {
        self.packs.list()
    }

    /// The size of a pack.
    pub fn info(&self, pack: PackId) -> Result<PackInfo> {
        self.packs
            .info(pack)
            .map_err(|error| Error::io(format!("looking at {}", self.packs.name(pack)), error))
    }

    /// The sizes of all packs.
    pub fn infos(&self) -> Result<Vec<PackInfo>> {
        self.packs.infos()
    }

    /// What messages call a pack.
    pub fn name(&self, pack: PackId) -> String {
        self.packs.name(pack)
    }

    /// Where the records of a pack that is no longer written to end.
    pub fn records_end(&self, pack: PackId) -> Result<u64> {
        self.reader.records_end(pack)
    }

    /// Removes a pack that nothing refers to. Call this only after the batch that removed its last name is durable
    /// (I3).
    pub fn remove(&self, pack: PackId) -> Result<()> {
        self.packs
            .remove(pack)
            .map_err(|error| Error::io(format!("removing {}", self.packs.name(pack)), error))
    }

    /// Whether a part of a pack can be given back.
    pub fn can_punch(&self) -> bool {
        self.packs.can_punch()
    }

    /// Gives back the bytes of a dead stretch of a sealed pack; false where that turns out not to be
    /// possible (I3 as above).
    pub fn punch(&self, pack: PackId, offset: u64, len: u64) -> Result<bool> {
        self.reader.punch(pack, offset, len)
    }
}
