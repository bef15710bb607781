//! The rows of the store that is kept in `tests/golden`: what was written then is what is written now, byte for byte.
//!
//! `tests/mount/golden.rs` says how that store is made.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use cairnfs::Result;
use cairnfs::chunk::ChunkId;
use cairnfs::media::Media;
use cairnfs::media::host::HostMedia;
use cairnfs::meta::rows::{
    self, DirentRow, Extent, InodeRow, RegionRow, SCRUB_KEY, STATE_KEY, ScrubRow, State, SubvolumeRow,
    UsageRow, bad_pack, bad_row,
};
use cairnfs::meta::{Kv, Table};
use cairnfs::pack::PackId;

/// The row that this program writes for what it reads in this one. `None` where a row has no encoding of its own.
fn again(table: Table, key: &[u8], row: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(Some(match table {
        Table::Inodes => InodeRow::decode(row)?.encode(),
        Table::Dirents => DirentRow::decode(row)?.encode(),
        Table::Extents => Extent::decode(rows::decode_extent_key(key)?.1, row)?.encode(),
        Table::Regions => RegionRow::decode(ChunkId(rows::chunk_of(key)?), row)?.encode(),
        Table::Digests => rows::digest::chunk_ids(row)?.flat_map(|id| rows::id_key(id.0)).collect(),
        Table::State if key == STATE_KEY => State::decode(row)?.encode(),
        Table::State if key == SCRUB_KEY => ScrubRow::decode(row)?.encode(),
        Table::Bad => bad_row(bad_pack(row)?),
        Table::Versions => {
            let parent = rows::decode_version_row(row)?;
            rows::version_rows(rows::split_version(key)?.1, parent)[0].1.to_vec()
        }
        Table::Subvolumes => SubvolumeRow::decode(row)?.encode(),
        Table::Usage => UsageRow::decode(row)?.encode(),
        Table::SubInodes => with_version(row, |row| Ok(InodeRow::decode(row)?.encode()))?,
        Table::SubDirents => with_version(row, |row| Ok(DirentRow::decode(row)?.encode()))?,
        Table::SubExtents => {
            let offset = u64::from_be_bytes(*key.last_chunk().expect("an offset"));
            Extent::decode(offset, row)?.encode()
        }
        Table::Xattrs | Table::Orphans | Table::State => return Ok(None),
        Table::SubXattrs | Table::Owned => return Ok(None),
    }))
}

fn with_version(row: &[u8], again: impl FnOnce(&[u8]) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let value = rows::decode_seen(row)?.map(again).transpose()?;
    Ok(rows::encode_seen(value.as_deref()))
}

#[test]
fn every_row_of_the_golden_store_is_written_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store.tar.zst");
    let tar = dir.path().join("store.tar");
    fs::write(&tar, zstd::decode_all(File::open(kept).unwrap()).unwrap()).unwrap();
    let unpacked =
        Command::new("tar").arg("--no-same-owner").arg("-xf").arg(&tar).current_dir(dir.path()).status();
    assert!(unpacked.unwrap().success());
    let media = HostMedia::open(&dir.path().join("store")).unwrap();
    let kv = Kv::open(media.open("meta/cairnfs.redb", true).unwrap(), 1 << 20).unwrap();
    let view = kv.read().unwrap();
    let mut seen = Vec::new();
    for table in Table::ALL {
        let mut count = 0;
        for row in view.rows(table).unwrap() {
            let (key, row) = row.unwrap();
            let row = row.unwrap();
            let now = again(table, &key, &row).unwrap_or_else(|error| panic!("{table:?} {key:x?}: {error}"));
            assert!(
                now.as_ref().is_none_or(|now| *now == row),
                "{table:?} {key:x?}: {row:x?} is {now:x?} now"
            );
            count += 1;
        }
        seen.push((table.name(), count));
    }
    println!("{seen:?}");
    let empty: Vec<_> = seen.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect();
    assert_eq!(empty, ["orphans", "bad"], "a closed and sound store has a row of every other kind");
    assert_eq!(bad_row(PackId(300)), [0xac, 0x02]);
}
