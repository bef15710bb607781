//! Extents: checks that those of one file fit together, and that every chunk that they refer to exists with the right
//! length.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::kv::CheckedRow;
use crate::meta::rows::{Extent, RegionRow, decode_extent_key};
use crate::meta::{Counter, Table};
use crate::sync::Arc;

use super::chunks::{Regions, region_of};
use super::findings::{Affected, Kind, sentence, span};
use super::ids::ranges;
use super::run::CheckRun;

/// Region rows that are cached: files mostly refer to chunks near each other.
const KEPT_ROWS: usize = 1024;

/// The sums over the extents of one file.
#[derive(Debug, Default)]
pub(super) struct FileExtents {
    pub rows: u64,
    /// Bytes that have chunks.
    pub bytes: u64,
    /// Where the last one ends.
    pub end: u64,
    /// One of them cannot be read, so the sums are incomplete.
    pub unsure: bool,
}

/// What all extents refer to.
pub(super) struct References<'a> {
    regions: &'a Regions,
    /// Rows read lately, by their first ids.
    recent: BTreeMap<u64, Arc<RegionRow>>,
    referred: RoaringTreemap,
    /// Chunks that are referred to and exist.
    in_use: u64,
    missing: RoaringTreemap,
}

/// What is known of a chunk.
enum Chunk {
    Len(u32),
    Missing,
    /// Its row cannot be read, which was reported.
    Unknown,
}

impl<'a> References<'a> {
    pub fn new(regions: &'a Regions) -> Self {
        Self {
            regions,
            recent: BTreeMap::new(),
            referred: RoaringTreemap::new(),
            in_use: 0,
            missing: RoaringTreemap::new(),
        }
    }

    /// Takes in the next extent of a file.
    pub fn take(
        &mut self,
        run: &mut CheckRun<'_>,
        ino: u64,
        (key, value): CheckedRow,
        file: &mut FileExtents,
    ) -> Result<()> {
        run.report.extents += 1;
        file.rows += 1;
        let decoded = value.and_then(|value| {
            if key.len() != 16 {
                return Err(Error::damaged("its key has a wrong length"));
            }
            Extent::decode(decode_extent_key(&key)?.1, &value)
        });
        let extent = match decoded {
            Ok(extent) => extent,
            Err(error) => {
                run.set_partial(Table::Extents);
                file.unsure = true;
                let what = format!("an extent of inode {ino} cannot be read: {}", sentence(&error));
                run.findings.add(Kind::Row, what, Affected::inode(ino));
                return Ok(());
            }
        };
        if extent.offset < file.end {
            let what = format!("two extents of inode {ino} overlap at offset {}", extent.offset);
            run.findings.add(Kind::Extent, what, Affected::inode(ino));
        }
        file.end = extent.end().max(file.end);
        file.bytes += extent.len;
        run.count(Counter::ReferencedBytes, extent.len);
        run.extra_work(extent.lens.len() as u64)?;
        self.refer(run, ino, &extent);
        Ok(())
    }

    /// Looks at every chunk that an extent refers to.
    pub fn refer(&mut self, run: &mut CheckRun<'_>, ino: u64, extent: &Extent) {
        for (index, &len) in extent.lens.iter().enumerate() {
            let id = extent.first.0 + index as u64;
            match self.find(run, id) {
                Chunk::Len(found) => {
                    self.in_use += u64::from(self.referred.insert(id));
                    if found != len {
                        let what =
                            format!("inode {ino} refers to {len} bytes of chunk {id}, which has {found}");
                        run.findings.add(Kind::Extent, what, Affected::inode(ino));
                    }
                }
                Chunk::Missing => {
                    self.missing.insert(id);
                }
                Chunk::Unknown => {}
            }
        }
    }

    fn find(&mut self, run: &CheckRun<'_>, id: u64) -> Chunk {
        if self.regions.is_unknown(id) {
            return Chunk::Unknown;
        }
        let known = self.recent.range(..=id).next_back().filter(|(_, row)| id < row.end().0);
        let row = match known {
            Some((_, row)) => row.clone(),
            None => match region_of(&run.view(), id) {
                // Rows that cannot be read are listed as unknown. If a row fails only now, its chunk counts as missing.
                Ok(None) | Err(_) => return Chunk::Missing,
                Ok(Some(row)) => {
                    if self.recent.len() >= KEPT_ROWS {
                        self.recent.clear();
                    }
                    let row = Arc::new(row);
                    self.recent.insert(row.first.0, row.clone());
                    row
                }
            },
        };
        row.entry(ChunkId(id)).map_or(Chunk::Missing, |entry| Chunk::Len(entry.len))
    }

    /// Ends the pass over all extents; returns the chunks that they refer to.
    pub fn finish(self, run: &mut CheckRun<'_>) -> RoaringTreemap {
        run.report.unreferenced_chunks = self.regions.live - self.in_use.min(self.regions.live);
        for (first, end) in ranges(&self.missing) {
            let verb = if end - first == 1 { "is" } else { "are" };
            let what = format!("{} {verb} referred to and not there", span(first, end));
            run.findings.add(Kind::Chunk, what, Affected::chunks([(first, end)]));
        }
        self.referred
    }
}
