//! Subvolumes: the tree of versions, and every row of every version, each looked at once, however many subvolumes see
//! it.
//!
//! A row is judged as one of the leaves sees it that see it at all: a name is right if that leaf sees the inode that it
//! names, a directory if it sees as many names. The version of a row alone says nothing: what it saw may be reaped by
//! now, since every leaf has its own. Some leaves are tried for each row, so that the time goes by rows; what none of
//! them sees is judged by itself. What nobody sees any more and was not reaped yet is no fault.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::meta::kv::{CheckedRow, hex};
use crate::meta::rows::{
    DirentRow, Extent, InodeRow, NameHash, SubvolumeRow, UsageRow, decode_content_key, decode_owned_key,
    decode_seen, decode_version_row, dirent_name, ino_of, local_key, owned_key, split_version, versioned_key,
};
use crate::meta::versions::subvolumes::{public_ino, split_ino, subvolume_of};
use crate::meta::versions::usage::Recount;
use crate::meta::versions::{self, Version, VersionTree};
use crate::meta::{Counter, Table};

use super::extents::References;
use super::findings::{Affected, Kind, sentence};
use super::names::shown_name;
use super::rows::{Rows, get};
use super::run::CheckRun;

/// What the rows of subvolumes say.
#[derive(Default)]
pub(super) struct Subvolumes {
    /// None if it cannot be read, or is no tree.
    tree: Option<VersionTree>,
    by_number: BTreeMap<u64, SubvolumeRow>,
    /// Public numbers of the roots of those that have a name.
    roots: HashMap<u64, u64>,
}

impl Subvolumes {
    /// Reads both tables, of which every row is there twice.
    pub fn read(run: &mut CheckRun<'_>) -> Result<Self> {
        let parents = both(run, Table::Versions, decode_version_row)?;
        let by_number: BTreeMap<u64, SubvolumeRow> = both(run, Table::Subvolumes, SubvolumeRow::decode)?;
        let parents = parents.into_iter().map(|(version, parent)| (Version(version), parent));
        let tree = match VersionTree::of(parents) {
            Ok(tree) => Some(tree),
            Err(error) => {
                run.findings.add(Kind::Row, sentence(&error), Affected::default());
                None
            }
        };
        let named = by_number.iter().filter(|(_, row)| !row.dropped && !row.name.is_empty());
        let roots = named.map(|(number, row)| (public_ino(*number, row.root), row.parent)).collect();
        Ok(Self { tree, by_number, roots })
    }

    /// What is wrong with an entry in `dir` for an inode that is in a subvolume.
    pub fn wrong_entry(&self, dir: u64, entry: &DirentRow) -> Option<String> {
        match self.roots.get(&entry.ino) {
            None => Some(format!("is for inode {}, which is no root of a subvolume", entry.ino)),
            Some(parent) if *parent != dir => {
                Some(format!("is for subvolume {}, which says it is in {parent}", subvolume_of(entry.ino)))
            }
            Some(_) => None,
        }
    }

    /// Checks everything that is in subvolumes.
    pub fn check(&self, run: &mut CheckRun<'_>, references: &mut References<'_>) -> Result<()> {
        let Some(tree) = &self.tree else { return Ok(()) };
        let mut walk = Walk { subvolumes: self, tree, hash: run.store.name_hash(), leaves: HashMap::new() };
        walk.find_leaves();
        walk.leaves(run)?;
        let contents = walk.contents(run, references)?;
        walk.inodes(run, &contents)?;
        walk.names(run)?;
        walk.attributes(run)?;
        walk.owned(run)
    }

    /// Compares what the rows of subvolumes say that they hold with what their leaves see.
    fn usages(&self, run: &mut CheckRun<'_>, counted: &HashMap<Version, (u64, u64)>) -> Result<()> {
        let (mut rows, mut said) = (Rows::open(run, Table::Usage), BTreeMap::new());
        while let Some((key, value)) = rows.next(run)? {
            match ino_of(&key).and_then(|number| Ok((number, UsageRow::decode(&value?)?))) {
                Ok((number, row)) => drop(said.insert(number, row)),
                Err(error) => {
                    let what = format!("what a subvolume holds cannot be read: {}", sentence(&error));
                    run.findings.add(Kind::Row, what, Affected::default());
                }
            }
        }
        for (number, row) in self.by_number.iter().filter(|(_, row)| !row.dropped) {
            let there = counted.get(&row.leaf).copied().unwrap_or_default();
            let said = said.get(number).map(|said| (said.files, said.bytes));
            if said != Some(there) {
                let said =
                    said.map_or("nothing".into(), |(files, bytes)| format!("{files} files, {bytes} bytes"));
                let (files, bytes) = there;
                let what = format!(
                    "subvolume {number} is said to hold {said}; it holds {files} files, {bytes} bytes"
                );
                run.findings.add(Kind::Counter, what, Affected::default());
            }
        }
        Ok(())
    }

    /// Is an inode in the deletion queue one that a subvolume has, without a name?
    pub fn is_orphan(&self, run: &CheckRun<'_>, ino: u64) -> bool {
        let (number, local) = split_ino(ino);
        let (Some(tree), Some(row)) = (&self.tree, self.by_number.get(&number)) else { return false };
        let view = run.view();
        let found = versions::get(&*view, tree, Table::SubInodes, &local_key(local), row.leaf);
        match found {
            // Gone with its subvolume, and soon from here.
            Ok(None) => row.dropped,
            Ok(Some(row)) => InodeRow::decode(&row).is_ok_and(|row| row.nlink == 0),
            Err(_) => true,
        }
    }
}

/// Rows of which there are two copies; either is enough, and both are to be there.
fn both<R: PartialEq>(
    run: &mut CheckRun<'_>,
    table: Table,
    decode: impl Fn(&[u8]) -> Result<R>,
) -> Result<BTreeMap<u64, R>> {
    let (mut found, mut once) = (BTreeMap::new(), BTreeMap::new());
    let mut rows = Rows::open(run, table);
    while let Some((key, value)) = rows.next(run)? {
        let split = split_version(&key).map(|(_, number)| number.0);
        match split.and_then(|number| Ok((number, value.and_then(|value| decode(&value))?))) {
            Ok((number, row)) => {
                let same = found.get(&number).is_none_or(|other| *other == row);
                found.entry(number).or_insert(row);
                let copies: &mut u64 = once.entry(number).or_default();
                *copies += 1;
                if !same {
                    let what = format!("the two rows of {number} in the table {} differ", table.name());
                    run.findings.add(Kind::Row, what, Affected::default());
                }
            }
            Err(error) => {
                let what = format!("row {} of the table {}: {}", hex(&key), table.name(), sentence(&error));
                run.findings.add(Kind::Row, what, Affected::default());
            }
        }
    }
    for (number, _) in once.into_iter().filter(|(_, copies)| *copies != 2) {
        let what = format!("one of the two rows of {number} in the table {} is missing", table.name());
        run.findings.add(Kind::Row, what, Affected::default());
    }
    Ok(found)
}

/// The extents of one content of a file: bytes, and where they end; `None` if one of them cannot be read.
type Contents = HashMap<(u64, u64), Option<(u64, u64)>>;

struct Walk<'a> {
    subvolumes: &'a Subvolumes,
    tree: &'a VersionTree,
    hash: NameHash,
    /// Some of the leaves below each version, itself included.
    leaves: HashMap<Version, Vec<Version>>,
}

/// Leaves that are tried for a row.
const LEAVES: usize = 4;

impl Walk<'_> {
    fn find_leaves(&mut self) {
        for row in self.subvolumes.by_number.values().filter(|row| !row.dropped) {
            self.leaves.insert(row.leaf, vec![row.leaf]);
        }
        for (version, parent) in self.tree.upwards() {
            if let (Some(parent), Some(below)) = (parent, self.leaves.get(&version).cloned()) {
                let above = self.leaves.entry(parent).or_default();
                above.extend(below);
                above.truncate(LEAVES);
            }
        }
    }

    /// A leaf that sees this row.
    fn seen_by(&self, run: &CheckRun<'_>, table: Table, key: &[u8], version: Version) -> Option<Version> {
        let view = run.view();
        let sees = |leaf: &&Version| {
            let found = versions::seek(&*view, self.tree, table, key, **leaf);
            matches!(found, Ok(Some((at, _))) if at == version)
        };
        self.leaves.get(&version)?.iter().find(sees).copied()
    }

    fn leaves(&mut self, run: &mut CheckRun<'_>) -> Result<()> {
        let mut at: HashMap<Version, u64> = HashMap::new();
        for (number, row) in &self.subvolumes.by_number {
            let mut wrong = Vec::new();
            if !self.tree.has(row.leaf) {
                wrong.push(format!("is at version {}, which is not there", row.leaf.0));
            } else if !row.dropped {
                let view = run.view();
                let root = versions::get(&*view, self.tree, Table::SubInodes, &local_key(row.root), row.leaf);
                if !matches!(root, Ok(Some(_))) {
                    wrong.push("has no root that can be read".to_owned());
                }
            }
            if let Some(other) = at.insert(row.leaf, *number) {
                wrong.push(format!("is at the version of subvolume {other}"));
            }
            for what in wrong {
                let what = format!("subvolume {number} {what}");
                run.findings.add(Kind::Inode, what, Affected::inode(public_ino(*number, row.root)));
            }
        }
        for (child, parent) in self.tree.upwards() {
            if let Some(number) = parent.and_then(|parent| at.get(&parent)) {
                let what = format!("version {} is below that of subvolume {number}", child.0);
                run.findings.add(Kind::Inode, what, Affected::default());
            }
        }
        Ok(())
    }

    fn contents(&self, run: &mut CheckRun<'_>, references: &mut References<'_>) -> Result<Contents> {
        let mut contents = Contents::new();
        let mut rows = Rows::open(run, Table::SubExtents);
        while let Some((key, value)) = rows.next(run)? {
            run.report.extents += 1;
            let decoded = decode_content_key(&key).and_then(|(local, content, offset)| {
                Ok((local, content.0, Extent::decode(offset, &value?)?))
            });
            let (local, content, extent) = match decoded {
                Ok(decoded) => decoded,
                Err(error) => {
                    run.set_partial(Table::Extents);
                    if let Ok((local, content, _)) = decode_content_key(&key) {
                        contents.insert((local, content.0), None);
                    }
                    let what = format!("an extent in subvolumes cannot be read: {}", sentence(&error));
                    run.findings.add(Kind::Row, what, Affected::default());
                    continue;
                }
            };
            run.count(Counter::ReferencedBytes, extent.len);
            run.extra_work(extent.lens.len() as u64)?;
            references.refer(run, local, &extent);
            let Some(sums) = contents.entry((local, content)).or_insert(Some((0, 0))) else { continue };
            if extent.offset < sums.1 {
                let what = format!("two extents of inode {local} in subvolumes overlap at {}", extent.offset);
                run.findings.add(Kind::Extent, what, self.affected(local));
            }
            *sums = (sums.0 + extent.len, sums.1.max(extent.end()));
        }
        Ok(contents)
    }

    /// An inode as whoever reads a report knows it: by its number in one of the subvolumes.
    fn affected(&self, local: u64) -> Affected {
        let number = self.subvolumes.by_number.keys().next().copied().unwrap_or_default();
        Affected::inode(public_ino(number, local))
    }

    /// Takes a row of a table with versions apart: its key, its version, and its value or that it is a whiteout. What
    /// is wrong with it is a finding, and `None`.
    fn take(
        &self,
        run: &mut CheckRun<'_>,
        table: Table,
        (key, value): CheckedRow,
    ) -> Option<(Vec<u8>, Version, Option<Vec<u8>>)> {
        let found = value.and_then(|value| {
            let (plain, version) = split_version(&key)?;
            if !self.tree.has(version) {
                return Err(Error::damaged(format!("its version {} is not there", version.0)));
            }
            if get(&run.view(), Table::Owned, &owned_key(version, table, plain))?.is_none() {
                return Err(Error::damaged("its version is not said to have it"));
            }
            Ok((plain.to_vec(), version, decode_seen(&value)?.map(<[u8]>::to_vec)))
        });
        found
            .inspect_err(|error| {
                let what = format!("row {} of the table {}: {}", hex(&key), table.name(), sentence(error));
                run.findings.add(Kind::Row, what, Affected::default());
            })
            .ok()
    }

    fn inodes(&self, run: &mut CheckRun<'_>, contents: &Contents) -> Result<()> {
        let mut rows = Rows::open(run, Table::SubInodes);
        let (mut recount, mut is_whole) = (Recount::new(self.tree), true);
        while let Some(row) = rows.next(run)? {
            run.report.inodes += 1;
            let taken = self.take(run, Table::SubInodes, row);
            let Some((key, version, value)) = taken else {
                is_whole = false;
                continue;
            };
            let decoded = value.as_ref().map(|value| InodeRow::decode(value)).transpose();
            let (Ok(row), Ok(local)) = (decoded, ino_of(&key)) else {
                let what = format!("the row {} of an inode in subvolumes cannot be read", hex(&key));
                run.findings.add(Kind::Row, what, Affected::default());
                is_whole = false;
                continue;
            };
            recount.add(local, version, row.as_ref())?;
            let Some(row) = row else { continue };
            let mut wrong = Vec::new();
            if !row.is_dir() && row.parent != 0 {
                wrong.push(format!("is no directory and says it is in directory {}", row.parent));
            }
            if row.is_file() {
                let sums = contents.get(&(local, row.content)).copied().unwrap_or(Some((0, 0)));
                if sums.is_some_and(|(bytes, end)| bytes != row.allocated || end > row.size) {
                    wrong.push("has other extents than its row counts".to_owned());
                }
            }
            if row.is_dir()
                && row.nlink > 0
                && let Some(leaf) = self.seen_by(run, Table::SubInodes, &key, version)
            {
                self.count_names(run, (local, leaf), &row, &mut wrong)?;
            }
            for what in wrong {
                let what = format!("inode {local} of version {} {what}", version.0);
                run.findings.add(Kind::Inode, what, self.affected(local));
            }
        }
        // Sums over a part say nothing.
        if is_whole { self.subvolumes.usages(run, &recount.finish()?) } else { Ok(()) }
    }

    /// Compares a directory's row with the names that a leaf sees.
    fn count_names(
        &self,
        run: &mut CheckRun<'_>,
        (local, leaf): (u64, Version),
        row: &InodeRow,
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        use std::ops::Bound;
        let (from, to) = (local_key(local), local_key(local + 1));
        let (mut names, mut directories) = (0, 0);
        let view = run.view();
        let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let counted = versions::scan(&*view, self.tree, Table::SubDirents, range, leaf, |_, entry| {
            names += 1;
            directories += u32::from(DirentRow::decode(entry).is_ok_and(|entry| entry.kind == libc::S_IFDIR));
            Ok(true)
        });
        run.extra_work(names)?;
        // What cannot be read is a finding of its own.
        if counted.is_ok() && (row.entries != names || row.nlink != 2 + directories) {
            wrong.push(format!("counts {} names in it, there are {names}", row.entries));
        }
        Ok(())
    }

    fn names(&self, run: &mut CheckRun<'_>) -> Result<()> {
        let mut rows = Rows::open(run, Table::SubDirents);
        while let Some(row) = rows.next(run)? {
            run.report.dirents += 1;
            let Some((whole, version, value)) = self.take(run, Table::SubDirents, row) else { continue };
            let key = whole.strip_suffix(&[0]).unwrap_or(&whole);
            let Ok((hash, name)) = dirent_name(key) else {
                let what = format!("the name {} in subvolumes cannot be read", hex(key));
                run.findings.add(Kind::Row, what, Affected::default());
                continue;
            };
            let mut wrong = Vec::new();
            if hash != self.hash.of(name) {
                wrong.push("stands at the wrong place and cannot be looked up".to_owned());
            }
            if let Some(value) = value {
                match DirentRow::decode(&value) {
                    Err(error) => wrong.push(format!("cannot be read: {}", sentence(&error))),
                    Ok(entry) => {
                        let seen = self.seen_by(run, Table::SubDirents, &whole, version);
                        if seen.is_some_and(|leaf| !self.sees_inode(run, leaf, &entry)) {
                            wrong.push(format!("is for inode {}, which is not there", entry.ino));
                        }
                    }
                }
            }
            for what in wrong {
                let what = format!("the name \"{}\" of version {} {what}", shown_name(name), version.0);
                run.findings.add(Kind::Name, what, Affected::default());
            }
        }
        Ok(())
    }

    fn sees_inode(&self, run: &CheckRun<'_>, leaf: Version, entry: &DirentRow) -> bool {
        let view = run.view();
        let found = versions::get(&*view, self.tree, Table::SubInodes, &local_key(entry.ino), leaf);
        let found = found.and_then(|row| row.map(|row| InodeRow::decode(&row)).transpose());
        matches!(found, Ok(Some(row)) if row.kind() == entry.kind && row.nlink > 0)
    }

    fn attributes(&self, run: &mut CheckRun<'_>) -> Result<()> {
        let mut rows = Rows::open(run, Table::SubXattrs);
        while let Some(row) = rows.next(run)? {
            self.take(run, Table::SubXattrs, row);
        }
        Ok(())
    }

    /// What a version is said to have is there.
    fn owned(&self, run: &mut CheckRun<'_>) -> Result<()> {
        let mut rows = Rows::open(run, Table::Owned);
        while let Some((key, value)) = rows.next(run)? {
            let there = value.and_then(|_| {
                let (version, table, plain) = decode_owned_key(&key)?;
                Ok(get(&run.view(), table, &versioned_key(plain, version))?.is_some())
            });
            if !matches!(there, Ok(true)) {
                let what = format!(
                    "row {} of the table {} is for a row that is not there",
                    hex(&key),
                    Table::Owned.name()
                );
                run.findings.add(Kind::Row, what, Affected::default());
            }
        }
        Ok(())
    }
}
