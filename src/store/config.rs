//! `cairnfs.toml`: the parameters of a store. mkfs writes it once; it never changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::chunk::CutParams;
use crate::error::{Error, Result};
use crate::media::{HostMedia, read_whole};
use crate::pack::{Codec, Compression};

/// The name of the file.
pub const CONFIG_FILE: &str = "cairnfs.toml";
/// The format this program writes and reads.
pub const FORMAT: u32 = 2;
/// The file that is given up when the disk is full.
pub const RESERVE_FILE: &str = "reserve";
/// The metadata database.
pub const META_FILE: &str = "meta/cairnfs.redb";
/// Bytes of the file that are read at most.
const MAX_LEN: u64 = 1 << 20;

/// The choices of mkfs.
#[derive(Debug, Clone)]
pub struct MkfsOptions {
    /// Average size of a chunk in bytes; a power of two.
    pub avg_chunk: u32,
    /// How regions are compressed.
    pub compression: Compression,
    /// Bytes of the reserve, with which deletes and cycles work on a full disk.
    pub reserve: u64,
    /// The smallest reserve, on a disk that is too small for that.
    pub least_reserve: u64,
}

impl Default for MkfsOptions {
    fn default() -> Self {
        Self {
            avg_chunk: 64 << 10,
            compression: Compression::Zstd(1),
            reserve: 64 << 20,
            least_reserve: 512 << 10,
        }
    }
}

/// The content of `cairnfs.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreConfig {
    /// Version of everything in the directory.
    pub format: u32,
    /// Identifies the store; every pack has it.
    pub uuid: uuid::Uuid,
    /// Average size of a chunk in bytes.
    pub avg_chunk: u32,
    /// How new regions are compressed: "none" or "zstd-N".
    pub compression: String,
    /// Plain bytes of a region at which it is closed.
    pub region_size: u32,
    /// Bytes at which a pack is sealed.
    pub pack_size: u64,
    /// Bytes of the reserve.
    pub reserve: u64,
    /// Key of the hash of names.
    pub name_seed: u64,
}

impl StoreConfig {
    /// The configuration of a new store, with a new uuid.
    pub fn new(options: &MkfsOptions) -> Result<Self> {
        CutParams::new(options.avg_chunk)?;
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        let config = Self {
            format: FORMAT,
            uuid: uuid::Uuid::new_v4(),
            avg_chunk: options.avg_chunk,
            compression: options.compression.to_string(),
            region_size: (512 << 10).max(options.avg_chunk * 4),
            pack_size: 64 << 20,
            reserve: options.reserve,
            // TOML's integers are signed.
            name_seed: seed >> 1,
        };
        Ok(config)
    }

    /// The text of the file. Its last line is a checksum of all values: a changed `name_seed`, for instance, would hide
    /// every name.
    pub(super) fn to_text(&self) -> Result<String> {
        let values = self.values()?;
        let sum = checksum(&values);
        let head = "# A cairnfs store. Written once; the data cannot be read without it.";
        Ok(format!("{head}\n{values}checksum = \"{sum}\"\n"))
    }

    fn values(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Format(error.to_string()))
    }

    /// How new regions are compressed.
    pub fn compression(&self) -> Result<Compression> {
        Compression::from_str(&self.compression)
    }

    /// What makes and opens the records of regions.
    pub fn codec(&self) -> Result<Codec> {
        Ok(Codec::new(self.compression()?))
    }

    /// Reads the configuration of the store in `dir`.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::read(&open_dir(dir)?)
    }

    /// The same from the opened directory.
    pub fn read(media: &HostMedia) -> Result<Self> {
        let dir = media.path();
        let path = dir.join(CONFIG_FILE);
        let bytes = read_whole(media, CONFIG_FILE, MAX_LEN);
        let text =
            bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into()));
        match text {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Err(Error::NotAStore(format!(
                "{} is a symbolic link, and no link is followed inside a store; put the file itself there",
                path.display()
            ))),
            Err(error) => Err(not_a_store(dir, &path, error)),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        #[derive(Deserialize)]
        struct Checksum {
            checksum: String,
        }
        let is_damaged = |why: &str| {
            Error::Format(format!(
                "{} is damaged ({why}); put back a copy of it, every other file of the store is as it was",
                path.display(),
            ))
        };
        let damaged = |error: toml::de::Error| is_damaged(error.message());
        let version: Version = toml::from_str(text).map_err(damaged)?;
        if version.format != FORMAT {
            let (path, format) = (path.display(), version.format);
            return Err(Error::Format(if format < FORMAT {
                format!(
                    "{path} has format {format}, which came before the first release; this program knows format {FORMAT}. Mount the store with the cairnfs that made it, and copy its files into a new store"
                )
            } else {
                format!(
                    "{path} has format {format}, this program knows format {FORMAT}; use a cairnfs that is as new as the store"
                )
            }));
        }
        let config: Self = toml::from_str(text).map_err(damaged)?;
        let sizes = config.region_size >= 4096
            && config.region_size <= 16 << 20
            && config.pack_size >= 1 << 20
            && config.pack_size <= 16 << 30;
        if !sizes {
            return Err(Error::Format(format!("{} holds impossible sizes", path.display())));
        }
        let stored: Checksum = toml::from_str(text).map_err(damaged)?;
        if stored.checksum != checksum(&config.values()?) {
            return Err(is_damaged("its values do not match its checksum"));
        }
        CutParams::new(config.avg_chunk)?;
        config.compression()?;
        Ok(config)
    }
}

/// The error for a directory without a store. It does not simply advise to make a new store: the disk of the store may
/// not be mounted, and backups would then go into the new one.
pub fn no_store(dir: &Path) -> Error {
    let shown = dir.display();
    let is_missing = fs::symlink_metadata(dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let is_empty = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    let unmounted = "if the store is on a disk of its own, that disk is not mounted";
    Error::NotAStore(if is_missing {
        format!("{shown} does not exist; {unmounted}. `cairnfs mkfs` makes a new store")
    } else if is_empty {
        format!(
            "{shown} is an empty directory and neither a cairnfs store nor in a mount of one; {unmounted}, and if this is \
             where a store is to be mounted, it is not. `cairnfs mkfs` makes a new store"
        )
    } else {
        format!(
            "{shown} is not a cairnfs store (it has no {CONFIG_FILE}), nor in a mount of one; is the path right?"
        )
    })
}

/// The error if the host refuses access: no permission is not the same as no store.
pub fn access_error(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::Environment(format!(
            "no permission to look at {}; run the command as the user who owns the store, or as root",
            path.display()
        ));
    }
    Error::io(format!("looking at {}", path.display()), error)
}

fn not_a_store(dir: &Path, path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => no_store(dir),
        io::ErrorKind::InvalidData => Error::Format(format!(
            "{} is damaged (it is not text); put back a copy of it, every other file of the store is as it was",
            path.display()
        )),
        _ => access_error(path, error),
    }
}

/// Opens the directory of a store, or says what is wrong with it.
pub fn open_dir(dir: &Path) -> Result<HostMedia> {
    HostMedia::open(dir).map_err(|error| not_a_store(dir, dir, error))
}

/// A store's directory, absolute and without symbolic links.
pub fn real_path(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().map_err(|error| not_a_store(dir, dir, error))
}

fn checksum(values: &str) -> String {
    format!("{:016x}", xxh3_64(values.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_refused_or_means_nothing() {
        let config = StoreConfig::new(&MkfsOptions::default()).unwrap();
        let text = config.to_text().unwrap();
        let path = Path::new("cairnfs.toml");
        assert_eq!(StoreConfig::parse(&text, path).unwrap(), config);
        for at in 0..text.len() {
            for bits in 1..=255u8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= bits;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                if let Ok(parsed) = StoreConfig::parse(&text, path) {
                    assert_eq!(parsed, config, "byte {at} with bits {bits}");
                }
            }
            let cut = StoreConfig::parse(&text[..at], path);
            assert!(cut.is_err() || at >= text.len() - 1, "cut off after {at}");
        }
    }
}
