//! What a worker does next: drawn from its random numbers and what there is.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::sync::Arc;

use crate::oracle::{Change, Edit, Fid, Kind};
use crate::sys;
use crate::worker::{Res, Stop, Worker};

/// Above this, whole snapshots go.
const BYTES: u64 = 20 << 20;
const NAMES: usize = 220;
/// Deleted contents that are remembered, to be written again.
const REMEMBERED: usize = 24;
const NAMELESS: usize = 4;

impl Worker {
    /// The groups of this worker.
    pub fn groups(&self) -> [String; 2] {
        [format!("w{}a", self.number), format!("w{}b", self.number)]
    }

    /// One operation.
    pub fn step(&mut self) -> Res<()> {
        for group in self.groups() {
            if !self.oracle.names().paths.contains_key(&group) {
                return self.make_dir(&group);
            }
        }
        let full = self.oracle.bytes() > BYTES || self.oracle.names().paths.len() > NAMES;
        let dirs = self.paths(|kind| *kind == Kind::Dir);
        if !dirs.iter().any(|dir| dir.contains('/')) {
            return self.new_dir();
        }
        let file = self.pick(|kind| *kind == Kind::File);
        let Some(file) = file else { return self.counted("create", Self::new_file) };
        match self.random.below(100) {
            _ if full => self.counted("rm -rf", Self::prune),
            0..9 => self.counted("create", Self::new_file),
            9..11 => self.counted("share", Self::share),
            11..12 => self.counted("unshare", Self::unshare),
            12..13 => self.counted("clone a shared file", Self::take_one),
            13..20 => self.counted("overwrite", |w| w.overwrite(&file)),
            20..26 => self.counted("append", |w| w.append(&file)),
            26..30 => self.counted("truncate", |w| w.truncate(&file)),
            30..35 => self.counted("punch, zero, allocate", |w| w.punch(&file)),
            35..39 => self.counted("mmap", |w| w.map(&file)),
            39..44 => self.counted("rename", Self::rename_any),
            44..47 => self.counted("rename a directory", Self::rename_dir),
            47..50 => self.counted("hard link", |w| w.hard_link(&file)),
            50..52 => self.counted("symlink", Self::symlink),
            52..56 => self.counted("xattr, chmod", Self::attribute),
            56..62 => self.counted("unlink", |w| w.unlink(&file)),
            62..66 => self.counted("without a name", |w| w.nameless(&file)),
            66..70 => self.counted("clone a file", |w| w.clone_whole(&file)),
            70..74 => self.counted("clone a stretch", |w| w.clone_part(&file)),
            74..75 => self.counted("clone a snapshot", Self::clone_snapshot),
            75..76 => self.counted("rm -rf", Self::prune),
            76..78 => self.counted("mkdir", Self::new_dir),
            78..83 => self.counted("fsync", |w| w.fsync_path(&file)),
            83..85 => self.counted("fsync of a directory", Self::fsync_dir),
            85..86 => self.counted("cairnfs sync", Self::sync),
            86..87 => self.counted("cairnfs clone", Self::clone_at_once),
            87..88 => self.counted("cairnfs rm", Self::drop_one),
            88..98 => self.counted("read", |w| w.read(&file)),
            98..99 => self.counted("read a shared file", Self::read_shared),
            _ if self.random.below(6) == 0 => self.compare_all(),
            _ => self.counted("read", |w| w.read(&file)),
        }
    }

    fn counted(&mut self, kind: &str, step: impl FnOnce(&mut Self) -> Res<()>) -> Res<()> {
        step(self)?;
        self.count(kind);
        Ok(())
    }

    pub fn paths(&self, wanted: impl Fn(&Kind) -> bool) -> Vec<String> {
        let names = self.oracle.names();
        let found = names.paths.iter().filter(|(_, fid)| wanted(&names.nodes[fid].kind));
        found.map(|(path, _)| path.clone()).collect()
    }

    pub fn one_of(&mut self, paths: &[String]) -> Option<String> {
        let count = paths.len() as u64;
        (count > 0).then(|| paths[self.random.below(count) as usize].clone())
    }

    fn pick(&mut self, wanted: impl Fn(&Kind) -> bool) -> Option<String> {
        let paths = self.paths(wanted);
        self.one_of(&paths)
    }

    /// A directory that may hold files: a snapshot, or one below.
    fn some_dir(&mut self) -> String {
        let dirs: Vec<String> =
            self.paths(|kind| *kind == Kind::Dir).into_iter().filter(|dir| dir.contains('/')).collect();
        self.one_of(&dirs).unwrap_or_else(|| self.groups()[0].clone())
    }

    pub fn snapshot(&mut self) -> Option<String> {
        let dirs = self.paths(|kind| *kind == Kind::Dir);
        let snapshots: Vec<String> = dirs.into_iter().filter(|dir| dir.matches('/').count() == 1).collect();
        self.one_of(&snapshots)
    }

    pub fn free_name(&mut self, dir: &str, letter: char) -> String {
        loop {
            let name = format!("{dir}/{letter}{}", self.random.below(1000));
            if !self.oracle.names().paths.contains_key(&name) {
                return name;
            }
        }
    }

    /// Asks the mount for the number of an inode that was just made.
    pub fn learn(&mut self, path: &str, fid: Fid) -> Res<()> {
        let meta = self.ok(|| format!("stat of {path}"), fs::symlink_metadata(self.path(path)))?;
        let wrong = self.oracle.learn_ino(fid, std::os::unix::fs::MetadataExt::ino(&meta));
        if wrong.is_empty() { Ok(()) } else { Err(Stop::Loss(format!("{path}: {wrong}"))) }
    }

    pub fn make_dir(&mut self, path: &str) -> Res<()> {
        let fid = self.oracle.new_fid();
        let result = fs::DirBuilder::new().mode(0o755).create(self.path(path));
        self.changed(Change::Make { path: path.to_owned(), fid, kind: Kind::Dir, mode: 0o755 }, result)?;
        self.learn(path, fid)
    }

    /// A snapshot, or a directory in one.
    fn new_dir(&mut self) -> Res<()> {
        let group = self.groups()[self.random.below(2) as usize].clone();
        let parent = if self.random.below(2) == 0 { self.some_dir() } else { group };
        let deep = parent.matches('/').count() >= 3;
        let path = if parent.contains('/') && !deep {
            self.free_name(&parent, 'd')
        } else {
            let group = parent.split('/').next().unwrap_or_default().to_owned();
            self.free_name(&group, 's')
        };
        self.make_dir(&path)
    }

    fn new_file(&mut self) -> Res<()> {
        let dir = self.some_dir();
        let path = self.free_name(&dir, 'f');
        let len = if self.random.below(300) == 0 { 7_000_000 } else { self.length() };
        let data = self.data(len);
        self.create(&path, &data).map(drop)
    }

    fn rename_any(&mut self) -> Res<()> {
        let Some(from) = self.pick(|kind| *kind != Kind::Dir) else { return Ok(()) };
        let to = match self.random.below(3) {
            // Over something that is there.
            0 => self.pick(|kind| *kind != Kind::Dir).unwrap_or_default(),
            _ => {
                let dir = self.some_dir();
                self.free_name(&dir, 'f')
            }
        };
        let exchange = self.oracle.names().paths.contains_key(&to) && self.random.below(2) == 0;
        if exchange && !self.are_apart(&from, &to) {
            let result = sys::rename(&self.path(&from), &self.path(&to), libc::RENAME_EXCHANGE);
            return self.changed(Change::Exchange { a: from, b: to }, result);
        }
        if self.are_apart(&from, &to) {
            return self.must_be_apart(&from, fs::rename(self.path(&from), self.path(&to)));
        }
        let replaced = self.content_at(&to);
        let result = fs::rename(self.path(&from), self.path(&to));
        self.remember(replaced);
        self.changed(Change::Rename { from, to }, result)
    }

    /// A snapshot or a directory below one, within its group or to the other.
    fn rename_dir(&mut self) -> Res<()> {
        let from = self.some_dir();
        let to = if from.matches('/').count() == 1 {
            let group = self.groups()[self.random.below(2) as usize].clone();
            self.free_name(&group, 's')
        } else {
            let parent = self.some_dir();
            if parent == from || parent.starts_with(&format!("{from}/")) {
                return Ok(());
            }
            self.free_name(&parent, 'd')
        };
        let result = fs::rename(self.path(&from), self.path(&to));
        if self.are_apart(&from, &to) {
            return self.must_be_apart(&from, result);
        }
        self.changed(Change::Rename { from, to }, result)
    }

    fn hard_link(&mut self, file: &str) -> Res<()> {
        let dir = self.some_dir();
        let path = self.free_name(&dir, 'h');
        let fid = self.oracle.names().fid(file);
        let result = fs::hard_link(self.path(file), self.path(&path));
        if self.are_apart(file, &path) {
            return self.must_be_apart(file, result);
        }
        self.changed(Change::Link { fid, path }, result)
    }

    fn symlink(&mut self) -> Res<()> {
        let dir = self.some_dir();
        let path = self.free_name(&dir, 'l');
        let target = format!("../target-{}", self.random.draw());
        let fid = self.oracle.new_fid();
        let result = std::os::unix::fs::symlink(&target, self.path(&path));
        let kind = Kind::Link(target);
        self.changed(Change::Make { path: path.clone(), fid, kind, mode: 0o777 }, result)?;
        self.learn(&path, fid)
    }

    fn attribute(&mut self) -> Res<()> {
        let Some(path) = self.pick(|kind| !matches!(kind, Kind::Link(_))) else { return Ok(()) };
        let fid = self.oracle.names().fid(&path);
        let name = format!("user.n{}", self.random.below(4));
        let there = self.oracle.names().nodes[&fid].xattrs.contains_key(&name);
        match self.random.below(4) {
            0 => {
                let mode = 0o600 | self.random.below(0o100) as u32;
                let mode =
                    if self.oracle.names().nodes[&fid].kind == Kind::Dir { mode | 0o700 } else { mode };
                let result = fs::set_permissions(self.path(&path), fs::Permissions::from_mode(mode));
                self.changed(Change::Mode { fid, mode }, result)
            }
            1 if there => {
                let result = rustix::fs::lremovexattr(self.path(&path), &*name).map_err(Into::into);
                self.changed(Change::Xattr { fid, name, value: None }, result)
            }
            _ => {
                let len = self.random.below(500) as usize;
                let value = crate::data::noise(self.random.draw(), len);
                let result = sys::set_xattr(&self.path(&path), &name, &value);
                self.changed(Change::Xattr { fid, name, value: Some(value) }, result)
            }
        }
    }

    /// The content that goes if this name does.
    pub fn content_at(&self, path: &str) -> Option<Arc<Vec<u8>>> {
        let names = self.oracle.names();
        let fid = *names.paths.get(path)?;
        let last = names.nodes[&fid].kind == Kind::File && names.links(fid) == 1;
        last.then(|| self.oracle.content(fid).now().clone())
    }

    pub fn remember(&mut self, content: Option<Arc<Vec<u8>>>) {
        let Some(content) = content.filter(|content| content.len() > 4096) else { return };
        self.deleted.push_back(content);
        if self.deleted.len() > REMEMBERED {
            self.deleted.pop_front();
        }
    }

    fn unlink(&mut self, path: &str) -> Res<()> {
        let gone = self.content_at(path);
        let result = fs::remove_file(self.path(path));
        self.changed(Change::Remove { path: path.to_owned() }, result)?;
        self.remember(gone);
        Ok(())
    }

    /// Opens a file and takes its last name away; works on one of those; closes one.
    fn nameless(&mut self, file: &str) -> Res<()> {
        let count = self.nameless.len() as u64;
        let fid = self.oracle.names().fid(file);
        if count == 0 || self.nameless.len() < NAMELESS && self.random.below(3) == 0 {
            if self.oracle.names().links(fid) == 1 {
                let open = self.open_for_writing(file)?;
                self.nameless.push((fid, open));
                self.oracle.opened(fid);
                return self.unlink(file);
            }
            return Ok(());
        }
        let at = self.random.below(count) as usize;
        match self.random.below(4) {
            0 => {
                let (fid, file) = self.nameless.remove(at);
                drop(file);
                self.oracle.closed(fid);
                Ok(())
            }
            1 => {
                let fid = self.nameless[at].0;
                let file = self.nameless[at].1.try_clone();
                let file = self.ok(|| "dup".to_owned(), file)?;
                let len = self.length().min(100_000);
                let (data, offset) = (self.data(len), self.random.below(100_000) as usize);
                let result = std::os::unix::fs::FileExt::write_all_at(&file, &data, offset as u64);
                self.edited(fid, Edit::Write { at: offset, data: Arc::new(data) }, result)
            }
            _ => self.compare_nameless(at),
        }
    }

    fn clone_whole(&mut self, file: &str) -> Res<()> {
        let dir = self.some_dir();
        let to = self.free_name(&dir, 'c');
        self.clone_file(file, &to)
    }

    fn take_one(&mut self) -> Res<()> {
        let dir = self.some_dir();
        let to = self.free_name(&dir, 'c');
        self.take_shared(&to)
    }

    fn clone_part(&mut self, from: &str) -> Res<()> {
        let Some(to) = self.pick(|kind| *kind == Kind::File) else { return Ok(()) };
        self.clone_range(from, &to)
    }

    /// `cp -r` of a snapshot, data by copy_file_range.
    fn clone_snapshot(&mut self) -> Res<()> {
        let Some(from) = self.snapshot() else { return Ok(()) };
        let group = self.groups()[self.random.below(2) as usize].clone();
        let to = self.free_name(&group, 's');
        self.make_dir(&to)?;
        for path in self.oracle.names().below(&from) {
            let copy = format!("{to}{}", &path[from.len()..]);
            let names = self.oracle.names();
            match names.nodes[&names.fid(&path)].kind.clone() {
                Kind::Dir => self.make_dir(&copy)?,
                Kind::File => self.clone_file(&path, &copy)?,
                Kind::Link(_) => {}
            }
        }
        Ok(())
    }

    /// A whole snapshot goes.
    fn prune(&mut self) -> Res<()> {
        match self.snapshot() {
            Some(snapshot) if self.is_subvolume(&snapshot) && self.random.below(2) == 0 => {
                self.drop_subvolume(&snapshot)
            }
            Some(snapshot) => self.remove_tree(&snapshot),
            None => Ok(()),
        }
    }

    fn remove_tree(&mut self, top: &str) -> Res<()> {
        // A path sorts before those below it.
        for path in self.oracle.names().below(top).into_iter().rev().chain([top.to_owned()]) {
            let names = self.oracle.names();
            if names.nodes[&names.fid(&path)].kind == Kind::Dir {
                let result = fs::remove_dir(self.path(&path));
                self.changed(Change::Remove { path }, result)?;
            } else {
                self.unlink(&path)?;
            }
        }
        Ok(())
    }

    fn fsync_dir(&mut self) -> Res<()> {
        let dir = self.some_dir();
        self.fsync_path(&dir)
    }

    /// Everything this worker has.
    pub fn delete_all(&mut self) -> Res<()> {
        for group in self.groups() {
            if self.oracle.names().paths.contains_key(&group) {
                self.remove_tree(&group)?;
            }
        }
        self.delete_all_shared()
    }
}
