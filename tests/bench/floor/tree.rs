//! The floor's inodes: names, sizes, modes and times in memory, and no data.
//!
//! One mutex guards all of it. Every critical section is a few hash lookups, well below what the
//! request itself costs, so with one or two request threads the lock is not what is measured.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};

pub type Reply<T> = Result<T, Errno>;

/// A directory's names, twice: to find one, and to list them from a cookie that stays valid.
#[derive(Default)]
pub struct Dir {
    by_name: HashMap<OsString, (u64, u64)>,
    by_cookie: BTreeMap<u64, (OsString, u64)>,
    last_cookie: u64,
}

impl Dir {
    fn insert(&mut self, name: &OsStr, ino: u64) {
        self.last_cookie += 1;
        self.by_name.insert(name.to_owned(), (ino, self.last_cookie));
        self.by_cookie.insert(self.last_cookie, (name.to_owned(), ino));
    }

    fn remove(&mut self, name: &OsStr) -> Option<u64> {
        let (ino, cookie) = self.by_name.remove(name)?;
        self.by_cookie.remove(&cookie);
        Some(ino)
    }

    fn get(&self, name: &OsStr) -> Option<u64> {
        self.by_name.get(name).map(|(ino, _)| *ino)
    }

    /// Entries after `cookie`, in the order of their cookies.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &OsStr, u64)> {
        self.by_cookie.range(cookie + 1..).map(|(cookie, (name, ino))| (*cookie, name.as_os_str(), *ino))
    }
}

pub struct Node {
    pub attr: FileAttr,
    pub dir: Option<Dir>,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// References the kernel holds: an inode without links goes when they do.
    lookups: u64,
}

pub struct New<'a> {
    pub name: &'a OsStr,
    pub kind: FileType,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub target: &'a [u8],
}

pub struct Tree {
    nodes: HashMap<u64, Node>,
    last_ino: u64,
}

impl Tree {
    pub fn new(uid: u32, gid: u32) -> Self {
        let mut tree = Tree { nodes: HashMap::new(), last_ino: 1 };
        let root = New {
            name: OsStr::new(""),
            kind: FileType::Directory,
            perm: 0o755,
            uid,
            gid,
            rdev: 0,
            target: b"",
        };
        tree.nodes.insert(1, node(1, &root));
        tree
    }

    pub fn node(&mut self, ino: INodeNo) -> Reply<&mut Node> {
        self.nodes.get_mut(&ino.0).ok_or(Errno::ESTALE)
    }

    fn dir(&mut self, ino: INodeNo) -> Reply<&mut Dir> {
        self.node(ino)?.dir.as_mut().ok_or(Errno::ENOTDIR)
    }

    fn child(&mut self, parent: INodeNo, name: &OsStr) -> Reply<u64> {
        self.dir(parent)?.get(name).ok_or(Errno::ENOENT)
    }

    /// The attributes of `ino`, with one more reference held by the kernel.
    pub fn refer(&mut self, ino: u64) -> Reply<FileAttr> {
        let node = self.node(INodeNo(ino))?;
        node.lookups += 1;
        Ok(node.attr)
    }

    pub fn lookup(&mut self, parent: INodeNo, name: &OsStr) -> Reply<FileAttr> {
        let ino = self.child(parent, name)?;
        self.refer(ino)
    }

    pub fn forget(&mut self, ino: u64, count: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 && node.attr.nlink == 0 {
            self.nodes.remove(&ino);
        }
    }

    /// The mount is gone and with it every reference the kernel held.
    pub fn forget_all(&mut self) {
        self.nodes.retain(|_, node| node.attr.nlink > 0);
        for node in self.nodes.values_mut() {
            node.lookups = 0;
        }
    }

    pub fn add(&mut self, parent: INodeNo, new: &New<'_>) -> Reply<FileAttr> {
        self.last_ino += 1;
        let ino = self.last_ino;
        let dir = self.dir(parent)?;
        if dir.get(new.name).is_some() {
            return Err(Errno::EEXIST);
        }
        dir.insert(new.name, ino);
        self.nodes.insert(ino, node(ino, new));
        let links = u32::from(new.kind == FileType::Directory);
        self.touch(parent, i64::from(links))?;
        self.refer(ino)
    }

    pub fn link(&mut self, ino: INodeNo, parent: INodeNo, name: &OsStr) -> Reply<FileAttr> {
        if self.dir(parent)?.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.dir(parent)?.insert(name, ino.0);
        self.touch(parent, 0)?;
        let node = self.node(ino)?;
        node.attr.nlink += 1;
        node.attr.ctime = SystemTime::now();
        self.refer(ino.0)
    }

    pub fn remove(&mut self, parent: INodeNo, name: &OsStr, dir_wanted: bool) -> Reply<()> {
        let ino = self.child(parent, name)?;
        let node = self.node(INodeNo(ino))?;
        match (&node.dir, dir_wanted) {
            (Some(dir), true) if !dir.by_name.is_empty() => return Err(Errno::ENOTEMPTY),
            (Some(_), false) => return Err(Errno::EISDIR),
            (None, true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.dir(parent)?.remove(name);
        self.touch(parent, -i64::from(u8::from(dir_wanted)))?;
        self.unlinked(ino)
    }

    fn unlinked(&mut self, ino: u64) -> Reply<()> {
        let node = self.node(INodeNo(ino))?;
        node.attr.ctime = SystemTime::now();
        node.attr.nlink = match node.dir {
            Some(_) => 0,
            None => node.attr.nlink - 1,
        };
        if node.attr.nlink == 0 && node.lookups == 0 {
            self.nodes.remove(&ino);
        }
        Ok(())
    }

    pub fn rename(&mut self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Reply<()> {
        let ino = self.child(from.0, from.1)?;
        let is_dir = self.node(INodeNo(ino))?.dir.is_some();
        if let Ok(old) = self.child(to.0, to.1) {
            if old == ino {
                return Ok(());
            }
            self.remove(to.0, to.1, is_dir)?;
        }
        self.dir(from.0)?.remove(from.1);
        self.dir(to.0)?.insert(to.1, ino);
        let moved = i64::from(u8::from(is_dir && from.0 != to.0));
        self.touch(from.0, -moved)?;
        self.touch(to.0, moved)
    }

    /// A directory changed: its times, and its link count by `links`.
    fn touch(&mut self, dir: INodeNo, links: i64) -> Reply<()> {
        let attr = &mut self.node(dir)?.attr;
        attr.nlink = u32::try_from(i64::from(attr.nlink) + links).unwrap_or(2);
        attr.mtime = SystemTime::now();
        attr.ctime = attr.mtime;
        Ok(())
    }
}

impl Node {
    /// Sets the size, and the blocks as if every byte of it were stored: a file with fewer blocks
    /// than bytes looks sparse to cp and tar, and they would ask for its holes.
    pub fn resize(&mut self, size: u64) {
        self.attr.size = size;
        self.attr.blocks = size.div_ceil(512);
        self.attr.mtime = SystemTime::now();
        self.attr.ctime = self.attr.mtime;
    }

    /// Bytes up to `end` were written; set-id bits go if the kernel says so.
    pub fn written(&mut self, end: u64, kill_set_id: bool) {
        self.resize(self.attr.size.max(end));
        if kill_set_id {
            self.attr.perm &= 0o1777;
        }
    }

    pub fn xattr(&self, name: &OsStr) -> Reply<Vec<u8>> {
        let value = self.xattrs.get(name).cloned();
        value.ok_or(Errno::from_i32(libc::ENODATA))
    }
}

fn node(ino: u64, new: &New<'_>) -> Node {
    let now = SystemTime::now();
    let is_dir = new.kind == FileType::Directory;
    let attr = FileAttr {
        ino: INodeNo(ino),
        size: new.target.len() as u64,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind: new.kind,
        perm: new.perm,
        nlink: if is_dir { 2 } else { 1 },
        uid: new.uid,
        gid: new.gid,
        rdev: new.rdev,
        blksize: 4096,
        flags: 0,
    };
    Node {
        attr,
        dir: is_dir.then(Dir::default),
        target: new.target.to_vec(),
        xattrs: BTreeMap::new(),
        lookups: 0,
    }
}
