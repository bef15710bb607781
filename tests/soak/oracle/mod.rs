//! What must be in the mount: names and bytes that one worker has made there, in memory.
//!
//! Exact while the daemon lives. After it was killed, what is found must be what the rules of docs/semantics.md leave:
//!
//! - P5, P6: at a *sync point* (fsync of a file or directory, `cairnfs sync`, umount) every change of names and
//!   attributes answered before is durable, also those of other files; the bytes of the file that was fsynced too; at
//!   `cairnfs sync` and umount those of all files.
//! - fdatasync makes the bytes of its file durable, and is no sync point.
//! - A clone of a directory is one change of names: all of it is there or nothing. What it has is what was there when
//!   it was asked for, durable with its name. So is a drop.
//! - P7: the names are those after a prefix of the changes since the sync point ([`names`]).
//! - P8: each byte is one that it was since the sync point, or a hole where the file was shorter; the size is one
//!   that the file grew through ([`content`]). Truncating, punching and cloning go with the names, in their order;
//!   what was written may be stored in any part and as late as the next sync point.
//! - What was found after a crash was read from what is durable: from then on it is the state of the sync point.

pub mod content;
pub mod names;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use content::{Content, Edit};
pub use names::{Change, Cut, Fid, Kind, Tree};
use names::{Journal, Names};

/// Steps of one file that are kept for the message of a loss.
const HISTORY: usize = 60;

#[derive(Debug, Default)]
pub struct Oracle {
    seq: u64,
    /// Changes up to this number were made durable by a sync point.
    committed: u64,
    journal: Journal,
    /// Also of files that are gone, as long as a crash may bring them back.
    contents: BTreeMap<Fid, Content>,
    /// Files that are open and have no name.
    nameless: BTreeSet<Fid>,
    /// Inode numbers, as far as the mount has told them. They are for ever.
    inos: BTreeMap<Fid, u64>,
    next_fid: Fid,
    history: BTreeMap<Fid, VecDeque<String>>,
}

impl Oracle {
    pub fn names(&self) -> &Names {
        &self.journal.now
    }

    pub fn new_fid(&mut self) -> Fid {
        self.next_fid += 1;
        self.next_fid
    }

    pub fn content(&self, fid: Fid) -> &Content {
        &self.contents[&fid]
    }

    /// The number of a change that is about to come; later ones have higher numbers.
    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub fn note(&mut self, fid: Fid, what: String) {
        let seq = self.seq;
        let history = self.history.entry(fid).or_default();
        history.push_back(format!("{seq}: {what}"));
        if history.len() > HISTORY {
            history.pop_front();
        }
    }

    /// A change of names or attributes was asked for.
    pub fn change(&mut self, change: Change) {
        let seq = self.next_seq();
        match &change {
            Change::Make { fid, kind, path, .. } => {
                if *kind == Kind::File {
                    self.contents.insert(*fid, Content::default());
                }
                self.note(*fid, format!("made as {path}"));
            }
            Change::Link { fid, path } => self.note(*fid, format!("linked as {path}")),
            Change::Rename { from: path, .. }
            | Change::Remove { path }
            | Change::Exchange { a: path, .. } => {
                let fid = self.names().fid(path);
                self.note(fid, format!("{change:?}"));
            }
            Change::Clone { from, to, made } => {
                for (path, old, new) in made {
                    if let Some(content) = self.contents.get(old) {
                        // What it has now is durable with the name of the clone.
                        let bytes = content.now().to_vec();
                        self.contents.entry(*new).or_default().adopt(bytes);
                    }
                    self.note(*new, format!("cloned from {from}{path} to {to}{path}"));
                }
            }
            Change::Drop { path } => {
                for below in self.names().below(path) {
                    self.note(self.names().fid(&below), format!("dropped with {path}"));
                }
            }
            Change::Xattr { .. } | Change::Mode { .. } => {}
        }
        self.journal.push(seq, change);
    }

    /// The clone of a directory with all below it.
    pub fn clone_of(&mut self, from: &str, to: &str) -> Change {
        let mut new_of: BTreeMap<Fid, Fid> = BTreeMap::new();
        let mut made = Vec::new();
        for path in [from.to_owned()].into_iter().chain(self.names().below(from)) {
            let old = self.names().fid(&path);
            let new = *new_of.entry(old).or_insert_with(|| {
                self.next_fid += 1;
                self.next_fid
            });
            made.push((path[from.len()..].to_owned(), old, new));
        }
        Change::Clone { from: from.to_owned(), to: to.to_owned(), made }
    }

    /// The number of an inode, if the mount has told it.
    pub fn ino(&self, fid: Fid) -> Option<u64> {
        self.inos.get(&fid).copied()
    }

    /// A change of a file's bytes was asked for.
    pub fn edit(&mut self, fid: Fid, edit: Edit) {
        let seq = self.next_seq();
        self.note(fid, edit.describe());
        self.contents.entry(fid).or_default().push(seq, edit);
    }

    /// The mount says what number an inode has. Empty, or what is wrong with it.
    pub fn learn_ino(&mut self, fid: Fid, ino: u64) -> String {
        match self.inos.insert(fid, ino) {
            Some(before) if before != ino => format!("inode {before} has become {ino}"),
            _ => String::new(),
        }
    }

    /// What is written to this file may stay with the kernel until its fsync.
    pub fn mapped(&mut self, fid: Fid) {
        self.contents.entry(fid).or_default().mapped = true;
    }

    /// fsync(2) has returned 0.
    pub fn fsynced(&mut self, fid: Fid) {
        self.names_synced();
        if let Some(content) = self.contents.get_mut(&fid) {
            content.synced();
            self.note(fid, "fsynced".to_owned());
        }
    }

    /// fdatasync(2) has returned 0: that says nothing of anything else.
    pub fn data_synced(&mut self, fid: Fid) {
        if let Some(content) = self.contents.get_mut(&fid) {
            content.synced();
            self.note(fid, "its data synced".to_owned());
        }
    }

    /// Everything that the daemon was told is durable.
    pub fn all_synced(&mut self) {
        self.names_synced();
        self.contents.values_mut().filter(|content| !content.mapped).for_each(Content::synced);
    }

    fn names_synced(&mut self) {
        self.committed = self.seq;
        self.journal.synced();
        self.forget_gone();
    }

    /// Nothing brings back what has no name in the last sync point and none since.
    fn forget_gone(&mut self) {
        let names = &self.journal.now;
        let stays = |fid: &Fid| names.nodes.contains_key(fid) || self.nameless.contains(fid);
        self.contents.retain(|fid, _| stays(fid));
        self.history.retain(|fid, _| stays(fid));
    }

    /// A file is open and about to lose its last name.
    pub fn opened(&mut self, fid: Fid) {
        self.nameless.insert(fid);
    }

    pub fn closed(&mut self, fid: Fid) {
        self.nameless.remove(&fid);
    }

    pub fn differences(&self, found: &Tree) -> Vec<String> {
        self.names().differences(found, &self.inos)
    }

    /// Which prefix of the changes a crash has left.
    pub fn cut(&self, found: &Tree) -> Result<Cut, String> {
        let mut cut = self.journal.cut(found, &self.inos)?;
        cut.there = cut.there.max(self.committed);
        Ok(cut)
    }

    /// A reopened store was found to be in a state that is allowed: that is the state from now on.
    pub fn adopt(&mut self, cut: Cut, found: &Tree, contents: BTreeMap<Fid, Vec<u8>>) {
        for (path, fid) in &cut.names.paths {
            self.inos.insert(*fid, found[path].ino);
        }
        for (fid, bytes) in contents {
            let len = bytes.len();
            self.contents.entry(fid).or_default().adopt(bytes);
            self.note(fid, format!("found after a crash with {len} bytes"));
        }
        self.journal.adopt(cut.names);
        self.names_synced();
    }

    /// What was done to a file, for the message of a loss.
    pub fn history(&self, fid: Fid) -> String {
        let steps = self.history.get(&fid);
        steps.into_iter().flatten().cloned().collect::<Vec<_>>().join("\n    ")
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let there = |fid: &Fid| self.names().nodes.contains_key(fid) || self.nameless.contains(fid);
        let files = self.contents.iter().filter(|(fid, _)| there(fid));
        files.map(|(_, content)| content.now().len() as u64).sum()
    }
}
