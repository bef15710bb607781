//! What keeps the file system of a mount alive after it was unmounted at one place: other places, other mount
//! namespaces, and programs that still have its files open.
//!
//! All of it comes from /proc, without access to the mount. What /proc does not show to this user is left out, so an
//! empty answer proves nothing; [`is_alive`] does.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::mount_table::{Entry, MountTable};

/// One user of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// It is mounted here, too.
    Place(PathBuf),
    /// It is mounted in the mount namespace of this process.
    Namespace(Program, PathBuf),
    /// This program has a file of it open, or its working directory in it.
    Program(Program),
}

/// A process and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pid: u32,
    name: String,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({})", self.pid, self.name)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(path) => write!(f, "it is mounted at {}, too", path.display()),
            Self::Namespace(program, path) => {
                write!(f, "{program} has it at {} in another mount namespace", path.display())
            }
            Self::Program(program) => write!(f, "{program} uses it"),
        }
    }
}

/// Whether the kernel still has the file system of this mount, at any place. `None` if that cannot be seen (no /sys).
/// The number may belong to a newer mount.
pub fn is_alive(entry: &Entry) -> Option<bool> {
    let all = Path::new("/sys/class/bdi");
    all.is_dir().then(|| all.join(format!("{}:{}", entry.major, entry.minor)).exists())
}

/// The users of the file system of this mount, without the process `server` and this one.
pub fn list_users(entry: &Entry, server: u32) -> Vec<User> {
    let table = MountTable::read().ok();
    let places = table.iter().flat_map(|table| table.places_of(entry));
    let mut found: Vec<User> = places.map(|place| User::Place(place.mountpoint.clone())).collect();
    let mut namespaces: HashSet<PathBuf> = fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    for pid in processes().filter(|pid| ![server, std::process::id()].contains(pid)) {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let program = || Program { pid, name: name_of(&dir) };
        if fs::read_link(dir.join("ns/mnt")).is_ok_and(|namespace| namespaces.insert(namespace)) {
            let text = fs::read(dir.join("mountinfo")).unwrap_or_default();
            if let Some(place) = MountTable::parse(&text).places_of(entry).next() {
                found.push(User::Namespace(program(), place.mountpoint.clone()));
            }
        }
        if uses(&dir, entry) {
            found.push(User::Program(program()));
        }
    }
    found
}

fn processes() -> impl Iterator<Item = u32> {
    let dir = fs::read_dir("/proc").into_iter().flatten().flatten();
    dir.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn name_of(dir: &Path) -> String {
    let name = fs::read_to_string(dir.join("comm")).unwrap_or_default();
    name.trim().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn uses(dir: &Path, entry: &Entry) -> bool {
    let open = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten().map(|file| file.path());
    let mapped = fs::read_dir(dir.join("map_files")).into_iter().flatten().flatten().map(|file| file.path());
    let stands = ["cwd", "root", "exe"].map(|name| dir.join(name));
    stands.into_iter().chain(open).chain(mapped).any(|path| is_on(&path, entry))
}

/// Looks at the target of a link in /proc without a request to its file system: `AT_STATX_DONT_SYNC` uses cached
/// attributes.
fn is_on(path: &Path, entry: &Entry) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE)
        .is_ok_and(|found| (found.stx_dev_major, found.stx_dev_minor) == (entry.major, entry.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stands_in_a_mount_is_named() {
        let table = MountTable::read().unwrap();
        let proc = table.at(Path::new("/proc")).unwrap();
        assert_eq!(is_alive(&Entry { major: 0, minor: u32::MAX, ..proc.clone() }), Some(false));
        let mut child = std::process::Command::new("sleep").arg("1000").current_dir("/proc").spawn().unwrap();
        let found = list_users(proc, 0);
        assert!(found.contains(&User::Place("/proc".into())), "{found:?}");
        let standing = found.iter().any(|user| user.to_string().contains(&format!("pid {} (", child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(standing, "{found:?}");
    }
}
