//! Keys and rows of each table, one file for each table. Encoding and decoding are pure. Decoding accepts any bytes and
//! returns [`Error::Damaged`](crate::Error::Damaged) if they are invalid.

mod bad;
pub mod digest;
mod dirent;
mod extent;
mod inode;
mod keys;
mod region;
mod scrub;
mod state;
mod subvolume;
mod usage;
mod version;
pub mod xattr;

pub use bad::{bad_pack, bad_row};
pub use dirent::{DirentRow, NAME_MAX, NameHash};
pub use extent::{Extent, MAX_EXTENT_CHUNKS, Piece};
pub use inode::{
    APPEND_ONLY, IMMUTABLE, InodeRow, NO_ATIME, NO_DUMP, PROTECTING, ROOT_INO, Times, Timestamp,
};
pub use keys::{
    chunk_of, decode_extent_key, dirent_end, dirent_key, dirent_name, dirent_start, extent_key, id_key,
    ino_of, xattr_end, xattr_key, xattr_name,
};
pub use region::{RegionEntry, RegionRow};
pub use scrub::{SCRUB_KEY, ScrubRow};
pub use state::{STATE_KEY, State};
pub use subvolume::{SubvolumeRow, subvolume_key};
pub use usage::UsageRow;
pub use version::{
    COPIES, content_extent_key, content_key, decode_content_key, decode_owned_key, decode_seen,
    decode_version_row, encode_seen, end_name, local_key, owned_key, split_version, version_key,
    version_rows, versioned_key,
};
