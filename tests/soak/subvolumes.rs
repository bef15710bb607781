//! Subvolumes: clones of snapshots at once, drops at once, and what must not cross from one into another.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use crate::oracle::{Change, Kind};
use crate::worker::{Res, Stop, Worker};
use crate::world::{cairnfs, program};

/// Bits of an inode's number that say which it is in its subvolume; those above say which subvolume.
const LOCAL_BITS: u32 = 36;

/// The directory that a name is in.
fn above(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Worker {
    /// The subvolume of an inode; 0 outside all of them.
    fn volume(&self, path: &str) -> u64 {
        let fid = self.oracle.names().paths.get(path);
        fid.and_then(|fid| self.oracle.ino(*fid)).map_or(0, |ino| ino >> LOCAL_BITS)
    }

    pub fn is_subvolume(&self, path: &str) -> bool {
        self.volume(path) != self.volume(above(path))
    }

    /// No name can move or be linked from the one directory to the other.
    pub fn are_apart(&self, from: &str, to: &str) -> bool {
        self.volume(above(from)) != self.volume(above(to))
    }

    /// What was refused because of that.
    pub fn must_be_apart(&self, what: &str, result: io::Result<()>) -> Res<()> {
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => Ok(()),
            Ok(()) => Err(Stop::Loss(format!("{what} got a name in another subvolume"))),
            result => self.ok(|| format!("a name for {what} in another subvolume"), result),
        }
    }

    /// Runs the program on names in the mount as this worker has opened it.
    fn program(&self, word: &str, names: &[&str]) -> io::Result<()> {
        // Its own /proc/self is another one.
        let here = format!("/proc/{}/fd/{}", std::process::id(), self.root().as_raw_fd());
        let paths = names.iter().map(|name| PathBuf::from(&here).join(name).into_os_string());
        let words: Vec<_> = [word.into()].into_iter().chain(paths).collect();
        let said = cairnfs(&words);
        if said.code == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!("{} {words:?}: {}", program().display(), said.said())))
    }

    /// `cairnfs clone` of a snapshot, be it a subvolume or not.
    pub fn clone_at_once(&mut self) -> Res<()> {
        let Some(from) = self.snapshot() else { return Ok(()) };
        let group = self.groups()[self.random.below(2) as usize].clone();
        let to = self.free_name(&group, 's');
        let result = self.program("clone", &[&from, &to]);
        let change = self.oracle.clone_of(&from, &to);
        let Change::Clone { made, .. } = &change else { return Ok(()) };
        let new: Vec<_> = made.iter().map(|(path, _, fid)| (format!("{to}{path}"), *fid)).collect();
        self.changed(change, result)?;
        new.iter().try_for_each(|(path, fid)| self.learn(path, *fid))
    }

    /// `cairnfs rm` of some subvolume.
    pub fn drop_one(&mut self) -> Res<()> {
        let roots = self.paths(|kind| *kind == Kind::Dir);
        let roots: Vec<String> = roots.into_iter().filter(|path| self.is_subvolume(path)).collect();
        match self.one_of(&roots) {
            Some(root) => self.drop_subvolume(&root),
            None => Ok(()),
        }
    }

    pub fn drop_subvolume(&mut self, root: &str) -> Res<()> {
        let gone: Vec<_> =
            self.oracle.names().below(root).iter().filter_map(|path| self.content_at(path)).collect();
        let result = self.program("rm", &[root]);
        self.changed(Change::Drop { path: root.to_owned() }, result)?;
        gone.into_iter().for_each(|content| self.remember(Some(content)));
        Ok(())
    }
}
