//! The mount against the oracle: exactly while the daemon lives, by the rules of the oracle after it was killed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::oracle::names::{Found, Node};
use crate::oracle::{Fid, Kind, Tree};
use crate::worker::{Res, Stop, Worker, open, read_anew};

impl Worker {
    /// Names, attributes and bytes of everything: exactly what was acknowledged.
    pub fn compare_all(&mut self) -> Res<()> {
        let found = self.tree()?;
        let wrong = self.oracle.differences(&found);
        if !wrong.is_empty() {
            return Err(Stop::Loss(format!("no crash, and the tree differs:\n  {}", wrong.join("\n  "))));
        }
        for (fid, path) in self.files() {
            let bytes = self.bytes_of(&path)?;
            if let Some(text) = self.oracle.content(fid).differs(&bytes) {
                return Err(self.loss(fid, &path, &text));
            }
        }
        for at in 0..self.nameless.len() {
            self.compare_nameless(at)?;
        }
        self.count("compare all");
        self.compare_all_shared()
    }

    /// A file that is open and has no name.
    pub fn compare_nameless(&mut self, at: usize) -> Res<()> {
        let (fid, file) = &mut self.nameless[at];
        let (fid, result) = (*fid, read_anew(file));
        let bytes = self.ok(|| format!("reading nameless file {fid}"), result)?;
        self.stats.files_compared += 1;
        self.stats.bytes_compared += bytes.len() as u64;
        match self.oracle.content(fid).differs(&bytes) {
            Some(text) => Err(self.loss(fid, "(open, without a name)", &text)),
            None => Ok(()),
        }
    }

    /// After a new mount: what is there must be what a crash may leave. It is the state from then on.
    pub fn compare_after_crash(&mut self) -> Res<()> {
        let found = self.tree()?;
        let cut = self.oracle.cut(&found).map_err(Stop::Loss)?;
        let mut contents: BTreeMap<Fid, Vec<u8>> = BTreeMap::new();
        for (path, fid) in &cut.names.paths {
            if found[path].node.kind != Kind::File || contents.contains_key(fid) {
                continue;
            }
            let bytes = self.bytes_of(path)?;
            if let Some(text) = self.oracle.content(*fid).crash_differs(&bytes, cut.there, cut.gone) {
                return Err(self.loss(*fid, path, &text));
            }
            contents.insert(*fid, bytes);
        }
        self.stats.after_crashes += 1;
        self.oracle.adopt(cut, &found, contents);
        self.compare_all_shared()
    }

    pub fn loss(&self, fid: Fid, path: &str, text: &str) -> Stop {
        Stop::Loss(format!("{path}: {text}\n  what was done to it:\n    {}", self.oracle.history(fid)))
    }

    /// One path of each file.
    pub fn files(&self) -> BTreeMap<Fid, String> {
        let names = self.oracle.names();
        let is_file = |fid: &Fid| names.nodes[fid].kind == Kind::File;
        let files = names.paths.iter().filter(|(_, fid)| is_file(fid));
        files.map(|(path, fid)| (*fid, path.clone())).collect()
    }

    pub fn bytes_of(&mut self, path: &str) -> Res<Vec<u8>> {
        let result = open(&self.path(path)).and_then(|mut file| read_anew(&mut file));
        let bytes = self.ok(|| format!("reading {path}"), result)?;
        self.stats.files_compared += 1;
        self.stats.bytes_compared += bytes.len() as u64;
        Ok(bytes)
    }

    /// Everything of this worker that stands in the mount.
    fn tree(&self) -> Res<Tree> {
        let mut tree = Tree::new();
        for group in self.groups() {
            match fs::symlink_metadata(self.path(&group)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => {
                    self.ok(|| format!("stat of {group}"), other)?;
                    self.look(&group, &mut tree)?;
                }
            }
        }
        Ok(tree)
    }

    fn look(&self, name: &str, tree: &mut Tree) -> Res<()> {
        let path = self.path(name);
        let meta = self.ok(|| format!("stat of {name}"), fs::symlink_metadata(&path))?;
        let kind = if meta.is_dir() {
            Kind::Dir
        } else if meta.is_symlink() {
            let target = self.ok(|| format!("readlink of {name}"), fs::read_link(&path))?;
            Kind::Link(target.to_string_lossy().into_owned())
        } else {
            Kind::File
        };
        let xattrs = match kind {
            Kind::Link(_) => BTreeMap::new(),
            _ => self.ok(|| format!("xattrs of {name}"), xattrs(&path))?,
        };
        let is_dir = kind == Kind::Dir;
        let node = Node { kind, mode: meta.mode() & 0o7777, xattrs };
        tree.insert(name.to_owned(), Found { node, ino: meta.ino(), links: meta.nlink() });
        if is_dir {
            let entries = self.ok(|| format!("listing {name}"), fs::read_dir(&path))?;
            for entry in entries {
                let entry = self.ok(|| format!("listing {name}"), entry)?;
                self.look(&format!("{name}/{}", entry.file_name().to_string_lossy()), tree)?;
            }
        }
        Ok(())
    }
}

fn xattrs(path: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut list = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut list)?;
    let names = list[..len].split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let mut found = BTreeMap::new();
    for name in names.filter(|name| name.starts_with("user.")) {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, &*name, &mut value)?;
        found.insert(name.into_owned(), value[..len].to_vec());
    }
    Ok(found)
}
