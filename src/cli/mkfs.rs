//! `cairnfs mkfs`.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::args::MkfsArgs;
use super::size::show_size;
use super::{output, show};
use crate::error::{Error, Result};
use crate::fs::{Fs, FsOptions};
use crate::media::Media;
use crate::pack::Compression;
use crate::store::{self, MkfsOptions, OpenOptions, Store, StoreConfig};

pub(super) fn run(args: &MkfsArgs) -> Result<()> {
    let mut options = MkfsOptions::default();
    if let Some(size) = args.chunk_size {
        options.avg_chunk = u32::try_from(size)
            .map_err(|_| Error::Usage(format!("a chunk size of {} is too large", show_size(size))))?;
    }
    if let Some(method) = &args.compression {
        options.compression = parse_compression(method)?;
    }
    if let Some(reserve) = args.reserve {
        (options.reserve, options.least_reserve) = (reserve, reserve);
    }
    store::mkfs_and(&args.store, &options, make_root)?;
    output::print(&format!(
        "{0} is a store now; mount it with `cairnfs mount {0} MOUNTPOINT`\n",
        show(&args.store)
    ))
}

/// Makes the root directory, so that a new store can also be mounted read-only.
fn make_root(media: Arc<dyn Media>, config: &StoreConfig, path: &Path) -> Result<()> {
    let store = Store::on_media(media, config.clone(), path.to_owned(), None, &OpenOptions::default())?;
    let made = Fs::new(Arc::clone(&store), FsOptions::default()).and_then(|fs| fs.shutdown());
    made.and(store.close())
}

fn parse_compression(method: &str) -> Result<Compression> {
    Compression::from_str(method).map_err(|_| {
        Error::Usage(format!("the compression `{method}` is not known; write {}", Compression::NAMES))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_words() {
        for right in ["none", "zstd-1", "zstd-19"] {
            assert!(parse_compression(right).is_ok(), "{right}");
        }
        for wrong in ["", "zstd", "zstd-", "zstd-0", "zstd--1", "lz4"] {
            let error = parse_compression(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }
}
