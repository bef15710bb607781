//! Subvolumes in a new database: their tree, their names, and what the versions have.
//!
//! Keeps true: a version that has rows is in the tree, so nothing of what was copied is taken for garbage. Where the
//! row of a version is lost, nobody knows what was above it: it becomes a beginning of its own, and what it saw of
//! older versions is gone. The table of what each version has is made anew from the rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::error::Result;
use crate::meta::rows::{
    COPIES, DirentRow, Extent, InodeRow, SubvolumeRow, UsageRow, decode_content_key, decode_seen, id_key,
    ino_of, owned_key, split_version, subvolume_key, version_rows,
};
use crate::meta::versions::reap::TABLES;
use crate::meta::versions::subvolumes::{public_ino, read_rows, subvolume_of};
use crate::meta::versions::usage::Recount;
use crate::meta::versions::{self, Rows, Version, VersionTree};
use crate::meta::{Counter, Kv, ReadView, Table};

use super::packs::Chunks;
use super::report::RepairReport;
use super::sink::Sink;

/// The subvolumes of the new database.
#[derive(Default)]
pub(super) struct Subvolumes {
    by_number: BTreeMap<u64, SubvolumeRow>,
    /// Those whose names were met.
    named: BTreeSet<u64>,
    /// All versions below this were never given.
    pub lowest: u64,
    /// No number of an inode in a subvolume at or above this was found.
    pub next_local: u64,
}

impl Subvolumes {
    /// Sets the tree right, and makes the table of what versions have.
    pub fn rebuild(kv: &Kv, sink: &mut Sink<'_>, report: &mut RepairReport) -> Result<Self> {
        sink.flush()?;
        let view = kv.read()?;
        let mut found = Self { by_number: read_rows(&view)?, lowest: u64::MAX, ..Self::default() };
        let mut parents: BTreeMap<Version, Option<Version>> = BTreeMap::new();
        view.scan(Table::Versions, Bound::Unbounded, Bound::Unbounded, |key, row| {
            // The first copy counts, as for whoever opens a store.
            let version = split_version(key)?.1;
            parents.entry(version).or_insert(crate::meta::rows::decode_version_row(row)?);
            Ok(true)
        })?;
        let mut needed: BTreeSet<Version> = found.by_number.values().map(|row| row.leaf).collect();
        for table in TABLES {
            view.scan(table, Bound::Unbounded, Bound::Unbounded, |whole, _| {
                let (key, version) = split_version(whole)?;
                sink.put(Table::Owned, &owned_key(version, table, key), &[])?;
                needed.insert(version);
                if table == Table::SubInodes {
                    found.next_local = found.next_local.max(ino_of(key)?.saturating_add(1));
                }
                Ok(true)
            })?;
        }
        // A parent has a greater number; what says otherwise is damage.
        let known: BTreeSet<Version> = parents.keys().copied().collect();
        for (version, parent) in &mut parents {
            needed.insert(*version);
            if parent.is_some_and(|parent| parent <= *version || !known.contains(&parent)) {
                *parent = None;
                report.versions_lost += 1;
            }
        }
        for version in needed {
            found.lowest = found.lowest.min(version.0);
            report.versions_lost += u64::from(!parents.contains_key(&version));
            let parent = parents.get(&version).copied().flatten();
            for (key, row) in version_rows(version, parent) {
                sink.put(Table::Versions, &key, &row)?;
            }
        }
        sink.flush()?;
        Ok(found)
    }

    /// Takes in an entry of an ordinary directory for an inode in a subvolume; false if it cannot stay.
    pub fn take_name(&mut self, dir: u64, name: &[u8], entry: &DirentRow) -> bool {
        let number = subvolume_of(entry.ino);
        let Some(row) = self.by_number.get_mut(&number).filter(|row| !row.dropped) else { return false };
        if public_ino(number, row.root) != entry.ino
            || entry.kind != libc::S_IFDIR
            || !self.named.insert(number)
        {
            return false;
        }
        (row.parent, row.name) = (dir, name.to_vec());
        true
    }

    /// The roots of those that have lost their names.
    pub fn nameless(&self) -> Vec<u64> {
        let lost = self.by_number.iter().filter(|(number, row)| !row.dropped && !self.named.contains(number));
        lost.map(|(number, row)| public_ino(*number, row.root)).collect()
    }

    /// Does the subvolume of an inode exist?
    pub fn has(&self, ino: u64) -> bool {
        self.by_number.contains_key(&subvolume_of(ino))
    }

    /// One above the greatest number that was found.
    pub fn next_number(&self) -> u64 {
        self.by_number.keys().next_back().map_or(1, |last| last + 1)
    }

    /// Writes the rows of all of them, once all have names.
    pub fn finish(&self, view: &ReadView, sink: &mut Sink<'_>) -> Result<()> {
        let tree = versions::read_tree(view)?;
        let counted = recount(view, &tree)?;
        for (number, row) in &self.by_number {
            for copy in 0..COPIES {
                sink.put(Table::Subvolumes, &subvolume_key(copy, *number), &row.encode())?;
            }
            if let Some((files, bytes)) = counted.get(&row.leaf).copied() {
                let old = view.get(Table::Usage, &id_key(*number))?;
                let old = old.and_then(|old| UsageRow::decode(&old).ok());
                let row = UsageRow { files, bytes, ..old.unwrap_or(UsageRow::empty(row.born)) };
                sink.put(Table::Usage, &id_key(*number), &row.encode())?;
            }
        }
        Ok(())
    }

    /// Sums what files in subvolumes refer to, and reports which of them lack chunks.
    pub fn extents(
        view: &ReadView,
        chunks: &Chunks,
        report: &mut RepairReport,
        sums: &mut [i64; Counter::ALL.len()],
    ) -> Result<()> {
        let mut hurt = BTreeSet::new();
        Rows::scan(view, Table::SubExtents, Bound::Unbounded, Bound::Unbounded, &mut |key, row| {
            let (local, _, offset) = decode_content_key(key)?;
            let extent = Extent::decode(offset, row)?;
            sums[Counter::ReferencedBytes as usize] += extent.len as i64;
            let missing = (0..extent.lens.len() as u64).filter(|index| !chunks.has(extent.first.0 + index));
            let missing = missing.count() as u64;
            report.chunks_missing += missing;
            if missing > 0 && hurt.insert(local) {
                report.hurt_before += 1;
                report.hurt_files.add(|| format!("(inode {local} of subvolumes, left where it is)"));
            }
            Ok(true)
        })
    }
}

/// What each leaf sees: files and bytes.
fn recount(view: &ReadView, tree: &VersionTree) -> Result<HashMap<Version, (u64, u64)>> {
    let mut recount = Recount::new(tree);
    Rows::scan(view, Table::SubInodes, Bound::Unbounded, Bound::Unbounded, &mut |whole, row| {
        let (key, version) = split_version(whole)?;
        let row = decode_seen(row)?.map(InodeRow::decode).transpose()?;
        recount.add(ino_of(key)?, version, row.as_ref())?;
        Ok(true)
    })?;
    recount.finish()
}
