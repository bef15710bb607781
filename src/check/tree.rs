//! The tree: inodes, names, attributes, the deletion queue, and each file's extents.
//!
//! The keys of all these tables begin with an inode number, so they are read side by side, once, and each inode is
//! checked together with its rows. Only the names of an inode are not in this order; [`Inodes`] counts them down.

use crate::error::Result;
use crate::meta::kv::CheckedRow;
use roaring::RoaringTreemap;

use crate::meta::rows::{
    DirentRow, InodeRow, NAME_MAX, NameHash, ROOT_INO, dirent_name, id_key, ino_of, xattr, xattr_name,
};
use crate::meta::versions::subvolumes::subvolume_of;
use crate::meta::{Counter, Table};
use crate::store::FIRST_INO;

use super::chunks::Regions;
use super::extents::{FileExtents, References};
use super::findings::{Affected, Kind, sentence};
use super::ids::{Directory, Inodes};
use super::names::shown_name;
use super::rows::{Rows, get};
use super::run::CheckRun;
use super::subvolumes::Subvolumes;

/// Checks everything that has an inode number.
pub(super) fn check(run: &mut CheckRun<'_>, regions: &Regions) -> Result<RoaringTreemap> {
    let mut inodes = read_inodes(run)?;
    let subvolumes = Subvolumes::read(run)?;
    let mut walk = Walk {
        hash: run.store.name_hash(),
        dirents: Rows::open(run, Table::Dirents),
        xattrs: Rows::open(run, Table::Xattrs),
        extents: Rows::open(run, Table::Extents),
        orphans: Rows::open(run, Table::Orphans),
        references: References::new(regions),
        subvolumes,
    };
    let mut rows = Rows::open(run, Table::Inodes);
    while let Some((ino, (key, value))) = rows.up_to(run, None)? {
        run.step(1)?;
        if key.len() != 8 {
            continue;
        }
        let totals = walk.gather(run, &mut inodes, Some(ino))?;
        if let Ok(row) = value.and_then(|value| InodeRow::decode(&value)) {
            check_inode(run, ino, &row, &totals);
        }
    }
    walk.gather(run, &mut inodes, None)?;
    walk.subvolumes.check(run, &mut walk.references)?;
    let referred = walk.references.finish(run);
    check_names(run, &inodes)?;
    check_directories(run, &inodes)?;
    Ok(referred)
}

/// Reads all inode rows for the first time.
fn read_inodes(run: &mut CheckRun<'_>) -> Result<Inodes> {
    let mut inodes = Inodes::default();
    let mut rows = Rows::open(run, Table::Inodes);
    while let Some((key, value)) = rows.next(run)? {
        run.step(1)?;
        run.report.inodes += 1;
        run.count(Counter::Inodes, 1);
        let ino = ino_of(&key).unwrap_or_default();
        if key.len() != 8 {
            let what = format!("a row of the table inodes begins with {ino} and has a key of wrong length");
            run.findings.add(Kind::Row, what, Affected::default());
            continue;
        }
        match value.and_then(|value| InodeRow::decode(&value)) {
            Err(error) => {
                let what = format!("the row of inode {ino} cannot be read: {}", sentence(&error));
                run.findings.add(Kind::Row, what, Affected::inode(ino));
                inodes.push(ino, Inodes::UNKNOWN, 0);
            }
            Ok(row) => {
                let names = match row.is_dir() {
                    // The root is nobody's entry.
                    true => u32::from(row.nlink > 0 && ino != ROOT_INO),
                    false => row.nlink,
                };
                inodes.push(ino, (row.kind() >> 12) as u8, names);
                if row.is_dir() && row.nlink > 0 {
                    inodes.directories.push(Directory { ino, parent: row.parent });
                }
            }
        }
    }
    Ok(inodes)
}

/// The sums over the rows of one inode.
#[derive(Debug, Default)]
struct InodeTotals {
    names: u64,
    directories: u32,
    /// A name could not be read; it may be that of a directory.
    unsure: bool,
    attributes: u64,
    default_acl: bool,
    orphan: bool,
    extents: FileExtents,
}

/// The tables beside the inodes, each read up to the current inode.
struct Walk<'a> {
    hash: NameHash,
    dirents: Rows,
    xattrs: Rows,
    extents: Rows,
    orphans: Rows,
    references: References<'a>,
    subvolumes: Subvolumes,
}

impl Walk<'_> {
    /// Reads the rows of `ino`. Rows before it have no inode; without `ino`, neither have all remaining rows.
    fn gather(
        &mut self,
        run: &mut CheckRun<'_>,
        inodes: &mut Inodes,
        ino: Option<u64>,
    ) -> Result<InodeTotals> {
        let mut totals = InodeTotals::default();
        let mut dangling = DanglingRows::default();
        while let Some((dir, row)) = self.dirents.up_to(run, ino)? {
            run.step(1)?;
            if Some(dir) != ino {
                dangling.found(run, dir, "names in it");
            }
            let mut other = InodeTotals::default();
            let totals = if Some(dir) == ino { &mut totals } else { &mut other };
            self.take_name(run, inodes, dir, row, totals);
        }
        while let Some((owner, (key, value))) = self.xattrs.up_to(run, ino)? {
            if Some(owner) == ino {
                take_attribute(run, owner, &key, value, &mut totals);
            } else {
                dangling.found(run, owner, "extended attributes");
            }
        }
        let mut stray = (0, FileExtents::default());
        while let Some((owner, row)) = self.extents.up_to(run, ino)? {
            if Some(owner) == ino {
                self.references.take(run, owner, row, &mut totals.extents)?;
                continue;
            }
            dangling.found(run, owner, "extents");
            if stray.0 != owner {
                stray = (owner, FileExtents::default());
            }
            self.references.take(run, owner, row, &mut stray.1)?;
        }
        while let Some((owner, (_, value))) = self.orphans.up_to(run, ino)? {
            run.count(Counter::Orphans, 1);
            if let Err(error) = value {
                run.findings.add(Kind::Row, sentence(&error), Affected::inode(owner));
            }
            match Some(owner) == ino {
                _ if subvolume_of(owner) > 0 && self.subvolumes.is_orphan(run, owner) => {}
                true => totals.orphan = true,
                false => dangling.found(run, owner, "a place in the deletion queue"),
            }
        }
        Ok(totals)
    }

    fn take_name(
        &self,
        run: &mut CheckRun<'_>,
        inodes: &mut Inodes,
        dir: u64,
        (key, value): CheckedRow,
        totals: &mut InodeTotals,
    ) {
        run.report.dirents += 1;
        totals.names += 1;
        let (hash, name) = match dirent_name(&key) {
            Ok(split) => split,
            Err(error) => {
                totals.unsure = true;
                let what = format!("a name in directory {dir} cannot be read: {}", sentence(&error));
                run.findings.add(Kind::Row, what, Affected::inode(dir));
                return;
            }
        };
        let shown = shown_name(name);
        let mut wrong = |kind, what: String| {
            let what = format!("the name \"{shown}\" in directory {dir} {what}");
            run.findings.add(kind, what, Affected::name(dir, name));
        };
        let odd = name.len() > NAME_MAX || name.contains(&b'/') || name.contains(&0);
        if odd || name == b"." || name == b".." {
            wrong(Kind::Name, "is none a file can have".to_owned());
        }
        if hash != self.hash.of(name) {
            wrong(Kind::Name, "stands at the wrong place and cannot be looked up".to_owned());
        }
        let entry = match value.and_then(|value| DirentRow::decode(&value)) {
            Ok(entry) => entry,
            Err(error) => {
                totals.unsure = true;
                wrong(Kind::Row, format!("cannot be read: {}", sentence(&error)));
                return;
            }
        };
        totals.directories += u32::from(entry.kind == libc::S_IFDIR);
        if subvolume_of(entry.ino) > 0 {
            if let Some(what) = self.subvolumes.wrong_entry(dir, &entry) {
                wrong(Kind::Name, what);
            }
            return;
        }
        let Some(index) = inodes.find(entry.ino) else {
            wrong(Kind::Name, format!("is for inode {}, which is not there", entry.ino));
            return;
        };
        inodes.named(index);
        let kind = inodes.kind(index);
        if kind == Inodes::UNKNOWN {
            return;
        }
        if u32::from(kind) << 12 != entry.kind {
            let (says, is) = (kind_name(entry.kind), kind_name(u32::from(kind) << 12));
            wrong(Kind::Name, format!("is for {says} by its entry, and inode {} is {is}", entry.ino));
        }
        if let Some(parent) = inodes.parent(entry.ino).filter(|parent| *parent != dir) {
            wrong(Kind::Name, format!("is for directory {}, which says it is in {parent}", entry.ino));
        }
    }
}

/// Reports each missing inode once for each kind of row that names it.
#[derive(Debug, Default)]
struct DanglingRows(Option<(u64, &'static str)>);

impl DanglingRows {
    fn found(&mut self, run: &mut CheckRun<'_>, ino: u64, what: &'static str) {
        if self.0.replace((ino, what)) != Some((ino, what)) {
            let what = format!("inode {ino} has {what} and is not there");
            run.findings.add(Kind::Inode, what, Affected::inode(ino));
        }
    }
}

fn take_attribute(
    run: &mut CheckRun<'_>,
    ino: u64,
    key: &[u8],
    value: Result<Vec<u8>>,
    totals: &mut InodeTotals,
) {
    let name = match xattr_name(key) {
        Ok(name) if !name.is_empty() => name,
        _ => {
            let what = format!("an extended attribute of inode {ino} has no name");
            run.findings.add(Kind::Attribute, what, Affected::inode(ino));
            return;
        }
    };
    totals.attributes += 1;
    totals.default_acl |= name == xattr::DEFAULT_ACL;
    if let Err(error) = value {
        let (name, why) = (shown_name(name), sentence(&error));
        let what = format!("the extended attribute \"{name}\" of inode {ino} cannot be read: {why}");
        run.findings.add(Kind::Row, what, Affected::inode(ino));
    }
}

/// Compares the row of an inode with its other rows.
fn check_inode(run: &mut CheckRun<'_>, ino: u64, row: &InodeRow, totals: &InodeTotals) {
    let mut wrong = Vec::new();
    let kind = row.kind();
    if kind_name(kind) == UNKNOWN_KIND {
        wrong.push(format!("has the mode {:o}, which is of no type", row.mode));
    }
    if ino != ROOT_INO && !(FIRST_INO..run.next_ino).contains(&ino) {
        wrong.push(format!("was never given: the next number is {}", run.next_ino));
    }
    match (row.nlink == 0, totals.orphan) {
        (true, false) => wrong.push("has no name and is not in the deletion queue".to_owned()),
        (false, true) => {
            wrong.push("has a name and is in the deletion queue: it would be deleted".to_owned())
        }
        _ => {}
    }
    if !row.is_dir() && row.parent != 0 {
        wrong.push(format!("is no directory and says it is in directory {}", row.parent));
    }
    if row.is_dir() {
        check_directory(ino, row, totals, &mut wrong);
    } else if totals.names > 0 {
        wrong.push(format!("is no directory and has {} names in it", totals.names));
    }
    if totals.attributes > 0 && row.flags & InodeRow::HAS_XATTRS == 0 {
        wrong.push("has extended attributes which its flags deny".to_owned());
    }
    if totals.default_acl && row.flags & InodeRow::HAS_DEFAULT_ACL == 0 {
        wrong.push("has a default ACL which its flags deny".to_owned());
    }
    check_extents(row, totals, &mut wrong);
    for what in wrong {
        run.findings.add(Kind::Inode, format!("inode {ino} {what}"), Affected::inode(ino));
    }
}

fn check_directory(ino: u64, row: &InodeRow, totals: &InodeTotals, wrong: &mut Vec<String>) {
    if row.entries != totals.names {
        wrong.push(format!("counts {} names in it, there are {}", row.entries, totals.names));
    }
    let links = if row.nlink == 0 && ino != ROOT_INO { 0 } else { 2 + totals.directories };
    if row.nlink != links && !totals.unsure {
        wrong.push(format!("has a link count of {}, with its directories it should be {links}", row.nlink));
    }
    if ino == ROOT_INO && row.parent != ROOT_INO {
        wrong.push(format!("is the root and says it is in directory {}", row.parent));
    }
}

fn check_extents(row: &InodeRow, totals: &InodeTotals, wrong: &mut Vec<String>) {
    let extents = &totals.extents;
    if extents.rows > 0 && !row.is_file() {
        wrong.push(format!("is {} and has extents", kind_name(row.kind())));
        return;
    }
    if extents.end > row.size {
        wrong.push(format!("has extents up to {}, beyond its size of {}", extents.end, row.size));
    }
    // The deletion queue removes the extents of a large file in several steps.
    let fits = row.allocated == extents.bytes || totals.orphan && row.allocated > extents.bytes;
    if row.is_file() && !fits && !extents.unsure {
        wrong.push(format!("says {} bytes of it have chunks, {} have", row.allocated, extents.bytes));
    }
}

const UNKNOWN_KIND: &str = "of no known type";

fn kind_name(kind: u32) -> &'static str {
    match kind {
        libc::S_IFREG => "a file",
        libc::S_IFDIR => "a directory",
        libc::S_IFLNK => "a symlink",
        libc::S_IFIFO => "a fifo",
        libc::S_IFSOCK => "a socket",
        libc::S_IFCHR | libc::S_IFBLK => "a device",
        _ => UNKNOWN_KIND,
    }
}

/// Reports inodes with more or fewer names than their rows say.
fn check_names(run: &mut CheckRun<'_>, inodes: &Inodes) -> Result<()> {
    for ino in inodes.misnamed() {
        run.extra_work(1)?;
        let row = get(&run.view(), Table::Inodes, &id_key(ino));
        let row = match row.and_then(|row| row.map(|row| InodeRow::decode(&row)).transpose()) {
            Ok(Some(row)) => row,
            // It was read as part of the whole table.
            found => {
                let why = found.err().map_or("it is not found".to_owned(), |error| sentence(&error));
                let what = format!("the row of inode {ino} cannot be looked up: {why}");
                run.findings.add(Kind::Row, what, Affected::inode(ino));
                continue;
            }
        };
        let what = if row.is_dir() {
            let expected = u32::from(row.nlink > 0 && ino != ROOT_INO);
            let found = inodes.found(ino, expected);
            format!("directory {ino} has {found} names, it should have {expected}")
        } else {
            let found = inodes.found(ino, row.nlink);
            format!("inode {ino} has {found} names, by its link count it should have {}", row.nlink)
        };
        run.findings.add(Kind::Inode, what, Affected::inode(ino));
    }
    Ok(())
}

/// Reports a missing root, and directories that are not below it.
fn check_directories(run: &mut CheckRun<'_>, inodes: &Inodes) -> Result<()> {
    // A store that was never mounted has no inodes.
    if inodes.find(ROOT_INO).is_none() && (run.report.inodes > 0 || run.report.dirents > 0) {
        run.findings.add(Kind::Inode, "the root directory is not there".to_owned(), Affected::default());
    }
    let directories = &inodes.directories;
    let mut is_known = vec![false; directories.len()];
    let mut is_on_way = vec![false; directories.len()];
    let mut way = Vec::new();
    for start in 0..directories.len() {
        run.extra_work(1)?;
        let mut next = Some(start);
        while let Some(index) = next.filter(|index| !is_known[*index]) {
            if is_on_way[index] {
                let ino = directories[index].ino;
                if ino != ROOT_INO {
                    let what = format!("directory {ino} is in a circle of directories, off the root");
                    run.findings.add(Kind::Inode, what, Affected::inode(ino));
                }
                break;
            }
            is_on_way[index] = true;
            way.push(index);
            // A missing parent was already reported, by its missing row or its missing name.
            next = inodes.directory(directories[index].parent);
        }
        for index in way.drain(..) {
            is_known[index] = true;
        }
    }
    Ok(())
}
