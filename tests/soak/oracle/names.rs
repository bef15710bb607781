//! Names and attributes: the tree that a worker has made, and the trees that a crash may leave.
//!
//! Keeps true: a worker's changes of names come one after the other, each answered before the next, so after a crash
//! the tree is the one after some prefix of them that includes all before the last sync point. [`Journal::cut`] finds
//! that prefix by comparing whole trees, inode numbers and xattrs included, or says that there is none.

use std::collections::BTreeMap;

/// A worker's own name for an inode; never given twice.
pub type Fid = u32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    /// A symbolic link and its target.
    Link(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What stands in the mount.
#[derive(Debug, Clone)]
pub struct Found {
    pub node: Node,
    pub ino: u64,
    pub links: u64,
}

/// What stands in the mount, by path.
pub type Tree = BTreeMap<String, Found>;

/// One change of names or attributes: one system call.
#[derive(Debug, Clone)]
pub enum Change {
    Make {
        path: String,
        fid: Fid,
        kind: Kind,
        mode: u32,
    },
    Link {
        fid: Fid,
        path: String,
    },
    Remove {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        a: String,
        b: String,
    },
    /// Of a directory with all below it: for each path, relative to it, the inode that is cloned and the new one.
    Clone {
        from: String,
        to: String,
        made: Vec<(String, Fid, Fid)>,
    },
    /// Of a subvolume with all that is in it.
    Drop {
        path: String,
    },
    Xattr {
        fid: Fid,
        name: String,
        value: Option<Vec<u8>>,
    },
    Mode {
        fid: Fid,
        mode: u32,
    },
}

/// A tree of names.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub paths: BTreeMap<String, Fid>,
    pub nodes: BTreeMap<Fid, Node>,
}

impl Names {
    /// The inode at a path that is known to be there.
    pub fn fid(&self, path: &str) -> Fid {
        self.paths[path]
    }

    /// How many names an inode has.
    pub fn links(&self, fid: Fid) -> u64 {
        self.paths.values().filter(|other| **other == fid).count() as u64
    }

    /// The paths below a directory, the deepest last.
    pub fn below(&self, dir: &str) -> Vec<String> {
        let prefix = format!("{dir}/");
        let names = self.paths.range(prefix.clone()..);
        names.take_while(|(path, _)| path.starts_with(&prefix)).map(|(path, _)| path.clone()).collect()
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Make { path, fid, kind, mode } => {
                self.paths.insert(path.clone(), *fid);
                let node = Node { kind: kind.clone(), mode: *mode, xattrs: BTreeMap::new() };
                self.nodes.insert(*fid, node);
            }
            Change::Link { fid, path } => {
                self.paths.insert(path.clone(), *fid);
            }
            Change::Remove { path } => self.remove(path),
            Change::Rename { from, to } => self.rename(from, to),
            Change::Exchange { a, b } => {
                let (under_a, under_b) = (self.take_tree(a), self.take_tree(b));
                self.put_tree(b, under_a);
                self.put_tree(a, under_b);
            }
            Change::Clone { to, made, .. } => {
                for (path, old, new) in made {
                    self.paths.insert(format!("{to}{path}"), *new);
                    if let Some(node) = self.nodes.get(old).cloned() {
                        self.nodes.insert(*new, node);
                    }
                }
            }
            Change::Drop { path } => {
                for (_, fid) in self.take_tree(path) {
                    if self.links(fid) == 0 {
                        self.nodes.remove(&fid);
                    }
                }
            }
            Change::Xattr { fid, name, value } => {
                let Some(node) = self.nodes.get_mut(fid) else { return };
                match value {
                    Some(value) => node.xattrs.insert(name.clone(), value.clone()),
                    None => node.xattrs.remove(name),
                };
            }
            Change::Mode { fid, mode } => {
                if let Some(node) = self.nodes.get_mut(fid) {
                    node.mode = *mode;
                }
            }
        }
    }

    fn remove(&mut self, path: &str) {
        if let Some(fid) = self.paths.remove(path)
            && self.links(fid) == 0
        {
            self.nodes.remove(&fid);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        if self.paths.get(from) == self.paths.get(to) {
            // Two names of one inode: rename(2) does nothing.
            return;
        }
        self.remove(to);
        let tree = self.take_tree(from);
        self.put_tree(to, tree);
    }

    /// Takes a path and all below it out; the paths are relative to it.
    fn take_tree(&mut self, top: &str) -> Vec<(String, Fid)> {
        let mut paths = self.below(top);
        paths.push(top.to_owned());
        let take = |path: String| self.paths.remove(&path).map(|fid| (path[top.len()..].to_owned(), fid));
        paths.into_iter().filter_map(take).collect()
    }

    fn put_tree(&mut self, top: &str, tree: Vec<(String, Fid)>) {
        self.paths.extend(tree.into_iter().map(|(path, fid)| (format!("{top}{path}"), fid)));
    }

    /// Where `found` is another tree than this one; empty if it is this one.
    pub fn differences(&self, found: &Tree, inos: &BTreeMap<Fid, u64>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (path, fid) in &self.paths {
            let Some(there) = found.get(path) else {
                wrong.push(format!("{path} is missing"));
                continue;
            };
            let node = &self.nodes[fid];
            if there.node != *node {
                wrong.push(format!("{path} is {:?}, not {node:?}", there.node));
            }
            // A number that the crash kept from being told is not known.
            if inos.get(fid).is_some_and(|ino| *ino != there.ino) {
                wrong.push(format!("{path} has inode {}, not {}", there.ino, inos[fid]));
            }
            if node.kind == Kind::File && there.links != self.links(*fid) {
                wrong.push(format!("{path} has {} links, not {}", there.links, self.links(*fid)));
            }
        }
        let unknown = found.keys().filter(|path| !self.paths.contains_key(*path));
        wrong.extend(unknown.map(|path| format!("{path} is there, and should not be")));
        wrong
    }
}

/// Which changes a crash has left.
#[derive(Debug)]
pub struct Cut {
    /// The tree that was found.
    pub names: Names,
    /// All up to this number are there.
    pub there: u64,
    /// This one and all after it are not.
    pub gone: u64,
}

/// The tree at the last sync point, and every change since.
#[derive(Debug, Default)]
pub struct Journal {
    durable: Names,
    changes: Vec<(u64, Change)>,
    pub now: Names,
}

impl Journal {
    pub fn push(&mut self, seq: u64, change: Change) {
        self.now.apply(&change);
        self.changes.push((seq, change));
    }

    /// Everything so far is durable.
    pub fn synced(&mut self) {
        self.durable = self.now.clone();
        self.changes.clear();
    }

    /// What was found is what is there from now on.
    pub fn adopt(&mut self, names: Names) {
        self.now = names;
        self.synced();
    }

    /// The prefix of the changes that leads to `found`. Where several do, the shortest and the longest bound it.
    pub fn cut(&self, found: &Tree, inos: &BTreeMap<Fid, u64>) -> Result<Cut, String> {
        let mut names = self.durable.clone();
        let mut cut: Option<Cut> = None;
        let mut nearest: Option<(usize, Vec<String>)> = None;
        for done in 0..=self.changes.len() {
            if done > 0 {
                names.apply(&self.changes[done - 1].1);
            }
            let wrong = names.differences(found, inos);
            if wrong.is_empty() {
                let last = done.checked_sub(1).map_or(0, |last| self.changes[last].0);
                let there = cut.as_ref().map_or(last, |cut| cut.there);
                let gone = self.changes.get(done).map_or(u64::MAX, |(seq, _)| *seq);
                cut = Some(Cut { names: names.clone(), there, gone });
            } else if nearest.as_ref().is_none_or(|(_, least)| wrong.len() <= least.len()) {
                nearest = Some((done, wrong));
            }
        }
        cut.ok_or_else(|| {
            let (done, wrong) = nearest.unwrap_or_default();
            let all: Vec<String> = self.changes.iter().map(|(seq, change)| format!("{seq}: {change:?}")).collect();
            format!(
                "the tree is that after no prefix of the {} changes since the last sync point; the nearest is that \
                 after {done}, from which it differs so:\n  {}\nchanges:\n  {}",
                self.changes.len(),
                wrong.join("\n  "),
                all.join("\n  ")
            )
        })
    }
}
