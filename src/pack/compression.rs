//! How the bytes of a region are compressed: the only file that knows the methods, their names, and their numbers in the
//! field `codec` of a record.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Result};

/// Stored as they are.
pub(super) const RAW: u8 = 0;
/// One zstd frame.
const ZSTD: u8 = 1;

/// How regions are compressed.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Compression {
    /// Not at all: `none`.
    None,
    /// With zstd at a level from 1 to 19: `zstd-3`.
    Zstd(i32),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd(level) => write!(f, "zstd-{level}"),
        }
    }
}

impl Compression {
    /// The names of all of them, for people.
    pub const NAMES: &str = "none, or zstd-1 (fast) to zstd-19 (small)";

    fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::None).chain((1..=19).map(Self::Zstd))
    }

    /// Hands bytes to `store` as they are to be stored, and how that is. They stay as they are where compression does not
    /// save at least a sixteenth, or fails, which is no reason not to store them.
    pub(super) fn with_stored<T>(self, plain: &[u8], store: impl FnOnce(u8, &[u8]) -> T) -> T {
        match self {
            Self::None => store(RAW, plain),
            Self::Zstd(level) => CONTEXTS.with_borrow_mut(|contexts| {
                let payload = contexts.compress(plain, level).filter(|payload| is_worth_it(payload, plain));
                let result = match payload {
                    Some(payload) => store(ZSTD, payload),
                    None => store(RAW, plain),
                };
                contexts.scratch.shrink_to(SCRATCH_KEPT);
                result
            }),
        }
    }
}

fn is_worth_it(payload: &[u8], plain: &[u8]) -> bool {
    payload.len() <= plain.len() - plain.len().div_ceil(16)
}

/// Can bytes that are stored so be read?
pub(super) fn is_known(codec: u8) -> bool {
    matches!(codec, RAW | ZSTD)
}

/// What was stored as `payload`, in the way that `codec` says: `plain_len` bytes and no others.
pub(super) fn restored(codec: u8, payload: &[u8], plain_len: usize) -> Result<Vec<u8>> {
    let plain = match codec {
        RAW => payload.to_vec(),
        ZSTD => decompressed(payload, plain_len)?,
        other => {
            return Err(Error::damaged(format!("a region is stored with codec {other}, which is not known")));
        }
    };
    if plain.len() != plain_len {
        return Err(wrong(format!("{} bytes, not {plain_len}", plain.len())));
    }
    Ok(plain)
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // Looked up by name, which refuses signs and leading zeros.
        let named = Self::all().find(|it| it.to_string() == text);
        named.ok_or_else(|| {
            Error::Usage(format!("{text:?} is not a compression; give \"none\" or \"zstd-1\" to \"zstd-19\""))
        })
    }
}

impl From<Compression> for String {
    fn from(compression: Compression) -> Self {
        compression.to_string()
    }
}

impl TryFrom<String> for Compression {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// The zstd contexts of a thread: making one costs more than compressing a region.
#[derive(Default)]
struct Contexts {
    compressor: Option<(i32, Compressor<'static>)>,
    decompressor: Option<Decompressor<'static>>,
    /// Where compressed bytes go before their length is known.
    scratch: Vec<u8>,
}

/// More scratch space than this is given back after use.
const SCRATCH_KEPT: usize = 4 << 20;

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

impl Contexts {
    fn compress(&mut self, plain: &[u8], level: i32) -> Option<&[u8]> {
        let compressor = match &mut self.compressor {
            Some((set, compressor)) => {
                if *set != level {
                    compressor.set_compression_level(level).ok()?;
                    *set = level;
                }
                compressor
            }
            none => &mut none.insert((level, Compressor::new(level).ok()?)).1,
        };
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        compressor.compress_to_buffer(plain, &mut self.scratch).ok()?;
        Some(&self.scratch)
    }
}

fn wrong(what: String) -> Error {
    Error::damaged(format!("the bytes of a region match their checksum but do not decompress: {what}"))
}

fn decompressed(payload: &[u8], len: usize) -> Result<Vec<u8>> {
    CONTEXTS.with_borrow_mut(|contexts| {
        let decompressor = match &mut contexts.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(|error| wrong(error.to_string()))?),
        };
        // The capacity bounds the output.
        let mut plain = Vec::with_capacity(len);
        decompressor.decompress_to_buffer(payload, &mut plain).map_err(|error| wrong(error.to_string()))?;
        Ok(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_have_names() {
        for (compression, name) in [
            (Compression::None, "none"),
            (Compression::Zstd(1), "zstd-1"),
            (Compression::Zstd(19), "zstd-19"),
        ] {
            assert_eq!(compression.to_string(), name);
            assert_eq!(name.parse::<Compression>().unwrap(), compression);
            let json = serde_json::to_string(&compression).unwrap();
            assert_eq!(json, format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<Compression>(&json).unwrap(), compression);
        }
        for name in ["", "zstd", "zstd-", "zstd-0", "zstd-20", "zstd--1", "zstd-+3", "lz4", "None"] {
            assert!(name.parse::<Compression>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_number_that_is_no_codec_is_refused() {
        for codec in 0..=u8::MAX {
            assert_eq!(restored(codec, b"plain", 5).is_ok(), codec == RAW, "{codec}");
            assert_eq!(is_known(codec), codec <= ZSTD, "{codec}");
        }
        assert!(restored(RAW, b"plain", 4).is_err(), "another length");
    }
}
