//! Reading regions, and walking packs whose regions are not known.
//!
//! An error of the host never counts as damage, and damage never counts as absence: a walk distinguishes regions,
//! holes, damage and the torn tail of an unsealed pack.

use std::io;

use super::format::{self, HEADER_LEN, TRAILER_LEN};
use super::region::{FIXED_LEN, MAX_RECORD};
use super::store::{PackStore, StoredPack};
use super::{Codec, Location, PackId, Region, RegionHeader};
use crate::chunk::is_zero;
use crate::error::{Error, Result};
use crate::sync::Arc;

/// What a walk reads of a record at once: a head with about ninety chunks.
const HEAD_READ: u64 = 4096;
/// What a walk reads at once while it looks for the end of a hole.
const HOLE_READ: u64 = 256 << 10;

/// Reads packs; serves all threads.
#[derive(Debug)]
pub struct PackReader {
    packs: Arc<dyn PackStore>,
    codec: Codec,
}

/// A part of a pack that cannot be read.
#[derive(Debug)]
pub struct Damage {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
    /// What is wrong with it: [`Error::Io`] if the host could not read it.
    pub error: Error,
}

/// What a walk through a pack found.
#[derive(Debug)]
pub struct PackScan {
    /// The uuid of the store the pack was written for; none if the header is damaged, and then `damaged` says how.
    pub store: Option<[u8; 16]>,
    /// Whether it has a footer.
    pub sealed: bool,
    /// Its length.
    pub len: u64,
    /// Every region with a valid head. The bytes were not read: [`PackReader::read_region`] checks them.
    pub regions: Vec<(Location, RegionHeader)>,
    /// Offset and length of each punched range.
    pub punched: Vec<(u64, u64)>,
    /// Other parts that could not be read: the header, the footer, and regions with invalid heads. Only the footer says
    /// where the region after such a one is.
    pub damaged: Vec<Damage>,
    /// The end of an unsealed pack, from the first byte that is no region: a torn write, as a crash leaves it, or damage.
    pub torn: Option<Damage>,
}

impl Damage {
    /// True if the host could not read it: the bytes may still be good.
    pub fn is_of_host(&self) -> bool {
        matches!(self.error, Error::Io { .. })
    }
}

impl PackReader {
    /// A reader of these packs, whose records `codec` opens.
    pub fn new(packs: Arc<dyn PackStore>, codec: Codec) -> Self {
        Self { packs, codec }
    }

    /// Reads and checks a region.
    pub fn read_region(&self, at: &Location) -> Result<Region> {
        self.codec.decode(&self.read_record(at)?).map_err(|error| located(error, at))
    }

    /// Reads and checks a region, and returns its record as well. The error does not say where.
    pub fn read_with_record(&self, at: &Location) -> Result<(Vec<u8>, Region)> {
        let record = self.read_record(at)?;
        let region = self.codec.decode(&record)?;
        Ok((record, region))
    }

    /// Reads a region's record as it is.
    pub fn read_record(&self, at: &Location) -> Result<Vec<u8>> {
        // A wrong row must not make the daemon allocate gigabytes.
        if at.len as usize > MAX_RECORD {
            let what = Error::damaged(format!("no region has more than {MAX_RECORD} bytes"));
            return Err(located(what, at));
        }
        let mut record = vec![0; at.len as usize];
        match self.open(at.pack)?.read_at(&mut record, at.offset) {
            Ok(()) => Ok(record),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(located(Error::damaged("the pack ends before the region does"), at))
            }
            Err(error) => Err(Error::io(format!("reading {at}"), error)),
        }
    }

    /// Punches a range out of a pack; false where the host cannot.
    pub fn punch(&self, pack: PackId, offset: u64, len: u64) -> Result<bool> {
        if offset < HEADER_LEN {
            return Err(Error::Usage(format!("the header of pack {pack} is not to be punched out")));
        }
        self.packs
            .punch(pack, offset, len)
            .map_err(|error| Error::io(format!("punching a hole into pack {pack}"), error))
    }

    /// Where the records of a pack end: at its footer, or, if it was never sealed, at its own end.
    pub fn records_end(&self, pack: PackId) -> Result<u64> {
        let bytes = self.open(pack)?;
        let len = bytes.size().map_err(|error| walk_error(pack, error))?;
        let walk = Walk { pack, len, bytes: &*bytes, codec: &self.codec };
        Ok(walk.index_offset()?.unwrap_or(len))
    }

    /// Every region of a pack, by the heads of their records. Damage is logged and left out, see [`walk`](Self::walk);
    /// an error of the host ends the scan.
    pub fn scan(&self, pack: PackId) -> Result<Vec<(Location, RegionHeader)>> {
        let scan = self.walk(pack)?;
        if let Some(torn) = scan.torn.filter(Damage::is_of_host) {
            return Err(torn.error);
        }
        for damage in scan.damaged {
            if damage.is_of_host() {
                return Err(damage.error);
            }
            tracing::warn!("pack {pack}, {} bytes at {}: {}", damage.len, damage.offset, damage.error);
        }
        Ok(scan.regions)
    }

    /// Walks through a pack: by its footer if it is sealed, otherwise from record to record. Payloads are not read.
    /// Parts that the host cannot read are noted and skipped like damage ([`Damage::is_of_host`]), so that one bad
    /// block does not cost a pack. The walk fails only if the pack cannot be opened.
    pub fn walk(&self, pack: PackId) -> Result<PackScan> {
        let bytes = self.open(pack)?;
        let len = bytes.size().map_err(|error| walk_error(pack, error))?;
        let walk = Walk { pack, len, bytes: &*bytes, codec: &self.codec };
        let mut scan = PackScan {
            store: None,
            sealed: false,
            len: walk.len,
            regions: Vec::new(),
            punched: Vec::new(),
            damaged: Vec::new(),
            torn: None,
        };
        walk.header(&mut scan);
        match walk.footer() {
            Ok(Some(index)) => walk.by_index(&index, &mut scan),
            Ok(None) => walk.by_records(&mut scan),
            Err(damage) => {
                scan.damaged.push(damage);
                walk.by_records(&mut scan);
            }
        }
        Ok(scan)
    }

    fn open(&self, pack: PackId) -> Result<Arc<dyn StoredPack>> {
        self.packs.open(pack).map_err(|error| Error::io(format!("opening pack {pack}"), error))
    }
}

/// Adds the place of the damage.
fn located(error: Error, at: &Location) -> Error {
    match error {
        Error::Damaged(what) => Error::Damaged(format!("{at}: {what}")),
        other => other,
    }
}

fn walk_error(pack: PackId, error: io::Error) -> Error {
    Error::io(format!("reading pack {pack}"), error)
}

/// One walk through one pack.
struct Walk<'a> {
    pack: PackId,
    bytes: &'a dyn StoredPack,
    codec: &'a Codec,
    len: u64,
}

impl Walk<'_> {
    fn header(&self, scan: &mut PackScan) {
        let damage = |error| Damage { offset: 0, len: HEADER_LEN.min(self.len), error };
        if self.len < HEADER_LEN {
            // Its writer ended before it wrote it.
            let what = Error::damaged(format!("pack {} has no header", self.pack));
            scan.torn = Some(damage(what));
            return;
        }
        let mut header = [0; HEADER_LEN as usize];
        match self.read(&mut header, 0).and_then(|()| format::decode_header(&header, self.pack)) {
            Ok(store) => scan.store = Some(store),
            Err(error) => scan.damaged.push(damage(error)),
        }
    }

    /// Where the index of a sealed pack begins.
    fn index_offset(&self) -> Result<Option<u64>> {
        let Some(at) = self.len.checked_sub(TRAILER_LEN) else {
            return Ok(None);
        };
        let mut trailer = [0; TRAILER_LEN as usize];
        self.read(&mut trailer, at)?;
        Ok(format::index_offset(&trailer, self.pack, self.len))
    }

    /// The index of a sealed pack; none where there is no footer or it is wrong.
    fn footer(&self) -> std::result::Result<Option<Vec<format::IndexEntry>>, Damage> {
        let damage = |offset| move |error| Damage { offset, len: self.len - offset, error };
        let Some(begin) = self.index_offset().map_err(damage(self.len.saturating_sub(TRAILER_LEN)))? else {
            return Ok(None);
        };
        // Bounded by the pack's own length, which the trailer's count matches.
        let mut footer = vec![0; (self.len - begin) as usize];
        self.read(&mut footer, begin).map_err(damage(begin))?;
        Ok(format::decode_footer(&footer, self.pack, begin).ok())
    }

    fn by_index(&self, index: &[format::IndexEntry], scan: &mut PackScan) {
        scan.sealed = true;
        for entry in index {
            let at = Location { pack: self.pack, offset: entry.offset, len: entry.len };
            match self.head(at.offset, u64::from(at.len)) {
                Ok(Some(header))
                    if header.record_len() == entry.len && header.chunks.len() == entry.chunks as usize =>
                {
                    scan.regions.push((at, header));
                }
                Ok(None) => scan.punched.push((at.offset, u64::from(at.len))),
                wrong => scan.damaged.push(Damage {
                    offset: at.offset,
                    len: u64::from(at.len),
                    error: match wrong {
                        Err(error) => located(error, &at),
                        Ok(_) => located(Error::damaged("the footer says otherwise"), &at),
                    },
                }),
            }
        }
    }

    fn by_records(&self, scan: &mut PackScan) {
        let mut offset = HEADER_LEN;
        while offset < self.len {
            let rest = self.len - offset;
            let wrong = match self.head(offset, rest) {
                Ok(Some(header)) if u64::from(header.record_len()) <= rest => {
                    let at = Location { pack: self.pack, offset, len: header.record_len() };
                    scan.regions.push((at, header));
                    offset = at.end();
                    continue;
                }
                Ok(None) => match self.hole_end(offset) {
                    Ok(end) if end < self.len => {
                        scan.punched.push((offset, end - offset));
                        offset = end;
                        continue;
                    }
                    Ok(_) => Error::damaged("the pack ends in zeros"),
                    Err(error) => error,
                },
                Ok(Some(_)) => Error::damaged("the pack ends before the region does"),
                Err(error) => error,
            };
            scan.torn = Some(Damage { offset, len: rest, error: wrong });
            break;
        }
    }

    /// The head of the record at `offset`, of which there are at most `rest` bytes; none if there is a hole.
    fn head(&self, offset: u64, rest: u64) -> Result<Option<RegionHeader>> {
        let mut bytes = vec![0; rest.min(HEAD_READ) as usize];
        self.read(&mut bytes, offset)?;
        if is_zero(&bytes[..bytes.len().min(FIXED_LEN)]) {
            return Ok(None);
        }
        let wanted = self.codec.head_len(&bytes)?;
        let known = bytes.len();
        if wanted > known && wanted as u64 <= rest {
            bytes.resize(wanted, 0);
            self.read(&mut bytes[known..], offset + known as u64)?;
        }
        self.codec.header(&bytes).map(Some)
    }

    /// The first byte at or after `offset` that is not zero: a record begins with one that is not.
    fn hole_end(&self, offset: u64) -> Result<u64> {
        let mut at = offset;
        let mut bytes = vec![0; HOLE_READ as usize];
        while at < self.len {
            let piece = &mut bytes[..HOLE_READ.min(self.len - at) as usize];
            self.read(piece, at)?;
            if !is_zero(piece) {
                let zeros = piece.iter().take_while(|byte| **byte == 0).count();
                return Ok(at + zeros as u64);
            }
            at += piece.len() as u64;
        }
        Ok(self.len)
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.bytes.read_at(buf, offset).map_err(|error| walk_error(self.pack, error))
    }
}

#[cfg(test)]
mod tests;
