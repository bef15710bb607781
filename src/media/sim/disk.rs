//! What is on the simulated disk: names, and the bytes that they stand for.

use std::collections::{BTreeMap, HashSet};

use super::blocks::Blocks;

/// What a name stands for.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Node {
    File(u64),
    Dir,
}

/// Names and bytes.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub names: BTreeMap<String, Node>,
    pub files: BTreeMap<u64, Blocks>,
}

impl Disk {
    /// Drops names whose directory is not there and files that have no name.
    pub fn drop_unreachable(&mut self) {
        // Parents come before their children in the order of the names.
        let mut dirs = HashSet::from([String::new()]);
        let mut inodes = HashSet::new();
        self.names.retain(|path, node| {
            let kept = dirs.contains(parent(path));
            match node {
                Node::Dir if kept => {
                    dirs.insert(path.clone());
                }
                Node::File(ino) if kept => {
                    inodes.insert(*ino);
                }
                _ => {}
            }
            kept
        });
        self.files.retain(|ino, _| inodes.contains(ino));
    }
}

/// The directory a path is in.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
