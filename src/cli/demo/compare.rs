//! Whether two trees are the same: names, types, contents, link targets, modes, owners and times of files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::show;
use crate::error::{Error, Result};

const BUFFER: usize = 1 << 18;

/// What was compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Same {
    pub files: u64,
    pub bytes: u64,
}

/// Compares two trees. `look` is told the bytes done and can end the work.
pub(super) fn trees(expected: &Path, found: &Path, look: &dyn Fn(u64) -> Result<()>) -> Result<Same> {
    let mut same = Same::default();
    directory(expected, found, &mut same, look)?;
    Ok(same)
}

fn directory(expected: &Path, found: &Path, same: &mut Same, look: &dyn Fn(u64) -> Result<()>) -> Result<()> {
    let (here, mut there) = (entries(expected)?, entries(found)?);
    for (name, meta) in here {
        let (a, b) = (expected.join(&name), found.join(&name));
        let Some(other) = there.remove(&name) else {
            return Err(differs(&b, "is missing"));
        };
        if let Some(what) = attributes(&meta, &other) {
            return Err(differs(&b, what));
        }
        if meta.is_dir() {
            directory(&a, &b, same, look)?;
            continue;
        }
        same.files += 1;
        if meta.is_symlink() {
            let target =
                |p: &Path| fs::read_link(p).map_err(|e| Error::io(format!("reading {}", show(p)), e));
            if target(&a)? != target(&b)? {
                return Err(differs(&b, "points elsewhere"));
            }
        } else if meta.is_file() {
            let equal = contents(&a, &b)
                .map_err(|e| Error::io(format!("comparing {} with {}", show(&a), show(&b)), e))?;
            if !equal {
                return Err(differs(&b, "has other bytes"));
            }
            same.bytes += meta.size();
        }
        look(same.bytes)?;
    }
    match there.keys().next() {
        None => Ok(()),
        Some(name) => Err(differs(&found.join(name), "should not be there")),
    }
}

fn entries(dir: &Path) -> Result<BTreeMap<OsString, Metadata>> {
    fs::read_dir(dir)
        .and_then(|entries| {
            entries.map(|entry| entry.and_then(|e| Ok((e.file_name(), e.metadata()?)))).collect()
        })
        .map_err(|e| Error::io(format!("reading {}", show(dir)), e))
}

/// The first attribute that differs.
fn attributes(a: &Metadata, b: &Metadata) -> Option<&'static str> {
    let owner = |m: &Metadata| (m.uid(), m.gid());
    let time = |m: &Metadata| (m.mtime(), m.mtime_nsec());
    if a.file_type() != b.file_type() {
        Some("is of another type")
    } else if a.mode() != b.mode() {
        Some("has another mode")
    } else if owner(a) != owner(b) {
        Some("has another owner")
    } else if a.is_file() && a.len() != b.len() {
        Some("has another length")
    } else if !a.is_symlink() && time(a) != time(b) {
        Some("has another time of modification")
    } else {
        None
    }
}

fn contents(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (mut here, mut there) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let n = fill(&mut a, &mut here)?;
        let m = fill(&mut b, &mut there)?;
        if here[..n] != there[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut full = 0;
    while full < buffer.len() {
        match file.read(&mut buffer[full..]) {
            Ok(0) => break,
            Ok(n) => full += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(full)
}

fn differs(path: &Path, how: &str) -> Error {
    Error::CheckFailed(format!(
        "the restored {} {how}: what came back is not what was backed up; please report this",
        show(path)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    fn tree(dir: &Path) {
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), vec![7; BUFFER + 1]).unwrap();
        fs::write(dir.join("empty"), "").unwrap();
        symlink("sub/file", dir.join("link")).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for name in ["sub/file", "empty", "sub"] {
            File::open(dir.join(name)).unwrap().set_modified(then).unwrap();
        }
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("is missing", |d| fs::remove_file(d.join("empty")).unwrap()),
            ("should not be there", |d| fs::write(d.join("new"), "").unwrap()),
            ("has another mode", |d| {
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(d.join("empty"), mode).unwrap();
            }),
            ("has another length", |d| fs::write(d.join("empty"), "x").unwrap()),
            ("has other bytes", |d| {
                let time = fs::metadata(d.join("sub/file")).unwrap().modified().unwrap();
                let mut bytes = vec![7; BUFFER + 1];
                bytes[BUFFER] = 8;
                fs::write(d.join("sub/file"), bytes).unwrap();
                let file = File::open(d.join("sub/file")).unwrap();
                file.set_modified(time).unwrap();
            }),
            ("points elsewhere", |d| {
                fs::remove_file(d.join("link")).unwrap();
                symlink("sub/fil2", d.join("link")).unwrap();
            }),
        ];
        let tmp = tempfile::tempdir().unwrap();
        let a = tmp.path().join("a");
        tree(&a);
        for (n, (said, change)) in changes.into_iter().enumerate() {
            let b = tmp.path().join(format!("b{n}"));
            tree(&b);
            let same = trees(&a, &b, &|_| Ok(())).unwrap();
            assert_eq!(same, Same { files: 3, bytes: BUFFER as u64 + 1 });
            change(&b);
            let error = trees(&a, &b, &|_| Ok(())).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 6);
        }
    }
}
