//! The rows of inodes, wherever they stand: outside all subvolumes a key has one row, inside one it has versions.
//!
//! Keeps true: rows inside a subvolume know nothing of its number, or they could not be those of its clones too: the
//! numbers of inodes in them are those inside it, and the subvolume's own row has its root's parent and whether it is immutable. Everybody
//! above this file knows the public numbers only.

use std::borrow::Cow;
use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::rows::{
    DirentRow, Extent, IMMUTABLE, InodeRow, content_extent_key, content_key, decode_content_key, dirent_end,
    dirent_key, dirent_name, dirent_start, end_name, extent_key, id_key, local_key, owned_key, split_version,
    xattr_end, xattr_key, xattr_name,
};
use crate::meta::versions::subvolumes::{self, public_ino, split_ino, subvolume_of};
use crate::meta::versions::{self, Rows as AnyRows, Subvolume, Subvolumes, Version};
use crate::meta::{Layers, Memtable, Table};
use crate::store::Batch;
use crate::sync::Arc;

/// Where the rows of an inode in a subvolume stand.
struct Inside {
    number: u64,
    local: u64,
    at: Subvolume,
}

/// `None` outside all subvolumes.
fn inside(subvolumes: &Subvolumes, ino: u64) -> Result<Option<Inside>> {
    match split_ino(ino) {
        (0, _) => Ok(None),
        (number, local) => {
            let at = subvolumes.get(number).ok_or(Error::Posix(libc::ESTALE))?;
            Ok(Some(Inside { number, local, at }))
        }
    }
}

/// The same as the members of a batch see it, which is asked for its subvolumes only if the inode is in one.
fn inside_of(batch: &Batch, ino: u64) -> Result<Option<Inside>> {
    if subvolume_of(ino) == 0 { Ok(None) } else { inside(&batch.subvolumes(), ino) }
}

/// A row that is found by its key alone; extents are found by [`Content`].
#[derive(Debug, Clone, Copy)]
pub(super) enum RowOf<'a> {
    /// An inode.
    Inode(u64),
    /// A name, by its directory, its hash and itself.
    Entry(u64, u64, &'a [u8]),
    /// An attribute of an inode.
    Xattr(u64, &'a [u8]),
}

impl RowOf<'_> {
    /// The inode by which it is decided where the row stands.
    fn ino(self) -> u64 {
        match self {
            Self::Inode(ino) | Self::Entry(ino, ..) | Self::Xattr(ino, _) => ino,
        }
    }

    /// Calls `act` with table and key outside all subvolumes.
    fn plain<R>(self, act: impl FnOnce(Table, &[u8]) -> R) -> R {
        match self {
            Self::Inode(ino) => act(Table::Inodes, &id_key(ino)),
            Self::Entry(dir, hash, name) => act(Table::Dirents, &dirent_key(dir, hash, name)),
            Self::Xattr(ino, name) => act(Table::Xattrs, &xattr_key(ino, name)),
        }
    }

    /// Table and key in a subvolume, without the version. A zero byte ends a name, so that none is the beginning of
    /// another.
    fn versioned(self, local: u64) -> (Table, Vec<u8>) {
        let (table, mut key) = match self {
            Self::Inode(_) => return (Table::SubInodes, local_key(local).to_vec()),
            Self::Entry(_, hash, name) => (Table::SubDirents, dirent_key(local, hash, name)),
            Self::Xattr(_, name) => (Table::SubXattrs, xattr_key(local, name)),
        };
        end_name(&mut key);
        (table, key)
    }
}

/// The rows as an operation sees them.
pub(super) struct Rows<'a> {
    rows: &'a dyn AnyRows,
    subvolumes: &'a Subvolumes,
}

impl<'a> Rows<'a> {
    /// At one moment.
    pub fn at(layers: &'a Layers) -> Self {
        Self { rows: layers, subvolumes: &layers.subvolumes }
    }

    /// From any rows, with the subvolumes as they are there.
    pub fn of(rows: &'a dyn AnyRows, subvolumes: &'a Subvolumes) -> Self {
        Self { rows, subvolumes }
    }

    fn inside(&self, ino: u64) -> Result<Option<Inside>> {
        inside(self.subvolumes, ino)
    }

    fn get(&self, of: RowOf<'_>, place: Option<&Inside>) -> Result<Option<Vec<u8>>> {
        let Some(place) = place else { return of.plain(|table, key| self.rows.get(table, key)) };
        let (table, key) = of.versioned(place.local);
        versions::get(self.rows, &self.subvolumes.tree, table, &key, place.at.leaf)
    }

    /// The row of an inode.
    pub fn inode(&self, ino: u64) -> Result<Option<InodeRow>> {
        let place = self.inside(ino)?;
        let row = self.get(RowOf::Inode(ino), place.as_ref())?;
        let Some(mut row) = row.map(|row| InodeRow::decode(&row)).transpose()? else { return Ok(None) };
        if let Some(Inside { number, local, at }) = place {
            if local == at.root {
                let own = subvolumes::row(self.rows, number)?.ok_or_else(|| subvolumes::missing(number))?;
                row.parent = own.parent;
                row.flags |= if own.protected { IMMUTABLE } else { 0 };
            } else if row.is_dir() {
                row.parent = public_ino(number, row.parent);
            }
        }
        Ok(Some(row))
    }

    /// The entry of a name with this hash in a directory.
    pub fn entry(&self, dir: u64, hash: u64, name: &[u8]) -> Result<Option<DirentRow>> {
        let row = self.get(RowOf::Entry(dir, hash, name), self.inside(dir)?.as_ref())?;
        row.map(|row| entry_in(subvolume_of(dir), &row)).transpose()
    }

    /// Calls `each` with hash, name and entry of the names in a directory whose hash is `hash` or more, in their order,
    /// until it returns false.
    pub fn entries(
        &self,
        dir: u64,
        hash: u64,
        mut each: impl FnMut(u64, &[u8], DirentRow) -> Result<bool>,
    ) -> Result<()> {
        let Some(Inside { number, local, at }) = self.inside(dir)? else {
            let (start, end) = (dirent_start(dir, hash), dirent_end(dir));
            let range = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
            return self.rows.scan(Table::Dirents, range.0, range.1, &mut |key, row| {
                let (hash, name) = dirent_name(key)?;
                each(hash, name, DirentRow::decode(row)?)
            });
        };
        let (start, end) = (dirent_start(local, hash), dirent_end(local));
        let range = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        versions::scan(self.rows, &self.subvolumes.tree, Table::SubDirents, range, at.leaf, |key, row| {
            let (hash, name) = dirent_name(without_end(key)?)?;
            each(hash, name, entry_in(number, row)?)
        })
    }

    /// The value of an attribute.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get(RowOf::Xattr(ino, name), self.inside(ino)?.as_ref())
    }

    /// Calls `each` with the names of all attributes.
    pub fn xattrs(&self, ino: u64, mut each: impl FnMut(&[u8]) -> Result<bool>) -> Result<()> {
        let Some(Inside { local, at, .. }) = self.inside(ino)? else {
            let (from, to) = (xattr_key(ino, b""), xattr_end(ino));
            let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
            return self.rows.scan(Table::Xattrs, range.0, range.1, &mut |key, _| each(xattr_name(key)?));
        };
        let (from, to) = (xattr_key(local, b""), xattr_end(local));
        let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        versions::scan(self.rows, &self.subvolumes.tree, Table::SubXattrs, range, at.leaf, |key, _| {
            each(xattr_name(without_end(key)?)?)
        })
    }

    /// The rows that go with an inode, up to `most` and one more, in tables where a subvolume has only its own; those
    /// that clones see, too, stay.
    pub fn rows_with(&self, ino: u64, most: usize) -> Result<RowsWith> {
        let mut found = RowsWith::default();
        let Some(Inside { local, at, .. }) = self.inside(ino)? else {
            Content::plain(ino)
                .scan(self.rows, most, |key, extent| found.extent(Table::Extents, key, extent))?;
            let (from, to) = (xattr_key(ino, b""), xattr_end(ino));
            self.rows.scan(Table::Xattrs, Bound::Included(&from), Bound::Excluded(&to), &mut |key, _| {
                found.keys.push((Table::Xattrs, key.to_vec()));
                Ok(found.keys.len() <= most)
            })?;
            return Ok(found);
        };
        // A content that is named after another version is that of a clone, too.
        let own = Content::at(ino, at.leaf);
        own.scan(self.rows, most, |key, extent| found.extent(Table::SubExtents, key, extent))?;
        let (from, to) = (xattr_key(local, b""), xattr_end(local));
        self.rows.scan(Table::SubXattrs, Bound::Included(&from), Bound::Excluded(&to), &mut |whole, _| {
            let (key, version) = split_version(whole)?;
            if version == at.leaf {
                found.keys.push((Table::SubXattrs, whole.to_vec()));
                found.keys.push((Table::Owned, owned_key(version, Table::SubXattrs, key)));
            }
            Ok(found.keys.len() <= most)
        })?;
        Ok(found)
    }

    /// Removes a row; what versions above have of it is hidden.
    pub fn remove(&self, of: RowOf<'_>, into: &Memtable) -> Result<()> {
        let Some(place) = self.inside(of.ino())? else {
            of.plain(|table, key| into.delete(table, key));
            return Ok(());
        };
        let (table, key) = of.versioned(place.local);
        versions::delete(self.rows, &self.subvolumes.tree, into, (table, &key), place.at.leaf)
    }
}

/// Removes a row in a batch; `layers` are asked for only in a subvolume.
pub(super) fn remove(batch: &Batch, of: RowOf<'_>, layers: impl FnOnce() -> Arc<Layers>) -> Result<()> {
    if subvolume_of(of.ino()) == 0 {
        of.plain(|table, key| batch.rows.delete(table, key));
        return Ok(());
    }
    // The layers first: they are those of this batch or of an earlier one.
    let (layers, subvolumes) = (layers(), batch.subvolumes());
    Rows::of(&*layers, &subvolumes).remove(of, &batch.rows)
}

/// Writes a row. That of a subvolume which is gone is written by nobody and seen by nobody.
fn put<'v>(batch: &Batch, of: RowOf<'_>, encode: impl FnOnce(Option<&Inside>) -> Cow<'v, [u8]>) {
    match inside_of(batch, of.ino()) {
        Ok(None) => {
            let row = encode(None);
            of.plain(|table, key| batch.rows.put(table, key, &row));
        }
        Ok(Some(place)) => {
            let (table, key) = of.versioned(place.local);
            versions::put(&batch.rows, table, &key, place.at.leaf, &encode(Some(&place)));
        }
        Err(_) => {}
    }
}

/// Writes the row of an inode.
pub(super) fn put_inode(batch: &Batch, ino: u64, row: &InodeRow) {
    put(batch, RowOf::Inode(ino), |place| match place {
        None => row.encode().into(),
        Some(Inside { local, at, .. }) => {
            let parent = if *local == at.root { 0 } else { split_ino(row.parent).1 };
            InodeRow { parent, ..row.clone() }.encode().into()
        }
    });
}

/// Writes an entry.
pub(super) fn put_entry(batch: &Batch, (dir, hash, name): (u64, u64, &[u8]), entry: DirentRow) {
    put(batch, RowOf::Entry(dir, hash, name), |place| match place {
        None => entry.encode().to_vec().into(),
        Some(_) => DirentRow { ino: split_ino(entry.ino).1, ..entry }.encode().to_vec().into(),
    });
}

/// Writes an attribute.
pub(super) fn put_xattr(batch: &Batch, ino: u64, name: &[u8], value: &[u8]) {
    put(batch, RowOf::Xattr(ino, name), |_| value.into());
}

/// The version at which the members of a batch write in the subvolume of an inode; `None` outside all of them.
pub(super) fn leaf_of(batch: &Batch, ino: u64) -> Result<Option<Version>> {
    Ok(inside_of(batch, ino)?.map(|place| place.at.leaf))
}

/// Rows of an inode in other tables than that of inodes.
#[derive(Default)]
pub(super) struct RowsWith {
    /// Where they are.
    pub keys: Vec<(Table, Vec<u8>)>,
    /// Bytes of chunks that its extents refer to.
    pub bytes: u64,
}

impl RowsWith {
    fn extent(&mut self, table: Table, key: &[u8], extent: Extent) {
        self.bytes += extent.len;
        self.keys.push((table, key.to_vec()));
    }
}

fn entry_in(number: u64, row: &[u8]) -> Result<DirentRow> {
    let entry = DirentRow::decode(row)?;
    Ok(if number == 0 { entry } else { DirentRow { ino: public_ino(number, entry.ino), ..entry } })
}

fn without_end(key: &[u8]) -> Result<&[u8]> {
    key.strip_suffix(&[0]).ok_or_else(|| Error::damaged("a name in a subvolume has no end"))
}

/// The extents of a file: their table, and what their keys begin with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    /// Where its extents are.
    pub table: Table,
    local: u64,
    /// `None` outside all subvolumes.
    version: Option<Version>,
}

impl Content {
    /// That of a file with this row.
    pub fn of(ino: u64, row: &InodeRow) -> Self {
        match split_ino(ino) {
            (0, _) => Self::plain(ino),
            (_, local) => Self::in_subvolume(local, Version(row.content)),
        }
    }

    /// That which it has at a version.
    pub fn at(ino: u64, version: Version) -> Self {
        Self::in_subvolume(split_ino(ino).1, version)
    }

    fn plain(ino: u64) -> Self {
        Self { table: Table::Extents, local: ino, version: None }
    }

    fn in_subvolume(local: u64, version: Version) -> Self {
        Self { table: Table::SubExtents, local, version: Some(version) }
    }

    /// The key of the extent that begins at `offset`.
    pub fn key(&self, offset: u64) -> ExtentKey {
        let mut key = ExtentKey { bytes: [0; 24], len: 24 };
        match self.version {
            None => {
                key.len = 16;
                key.bytes[..16].copy_from_slice(&extent_key(self.local, offset));
            }
            Some(version) => key.bytes = content_extent_key(self.local, version, offset),
        }
        key
    }

    /// The offset in the key of an extent.
    pub fn offset(&self, key: &[u8]) -> Result<u64> {
        match self.version {
            None => Ok(crate::meta::rows::decode_extent_key(key)?.1),
            Some(_) => Ok(decode_content_key(key)?.2),
        }
    }

    /// Calls `each` for up to `most` extents, and one more.
    fn scan(&self, rows: &dyn AnyRows, most: usize, mut each: impl FnMut(&[u8], Extent)) -> Result<()> {
        let (mut count, from) = (0, self.key(0));
        let end = match self.version {
            None => id_key(self.local + 1).to_vec(),
            Some(version) => content_key(self.local, Version(version.0 + 1)).to_vec(),
        };
        rows.scan(self.table, Bound::Included(&from), Bound::Excluded(&end), &mut |key, row| {
            each(key, Extent::decode(self.offset(key)?, row)?);
            count += 1;
            Ok(count <= most)
        })
    }
}

/// The key of an extent.
pub(super) struct ExtentKey {
    bytes: [u8; 24],
    len: usize,
}

impl std::ops::Deref for ExtentKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// True for two inodes of which one is in a subvolume and the other is not in the same.
pub(super) fn are_apart(a: u64, b: u64) -> bool {
    subvolume_of(a) != subvolume_of(b)
}
