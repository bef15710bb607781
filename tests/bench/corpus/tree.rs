//! A source tree in two versions: the oldest and the newest that the package archive offers of one Debian
//! source package, or, where it has only one, that one and a version derived from it.

use std::path::Path;
use std::process::Command;

use super::files::{copy_below, share, version, walk};
use crate::measure::{Outcome, output, quoted, shell};

/// Small enough to be made in seconds.
const QUICK_FILES: usize = 4000;
const QUICK_LARGEST: u64 = 128 << 10;

pub fn from_package(dir: &Path, package: &str) -> Outcome<String> {
    let offered = versions(package)?;
    let oldest = offered.last().ok_or_else(|| {
        format!(
            "apt-cache knows no {package}; apt-get update, or name another linux-source package with \
             --package"
        )
    })?;
    let newest = &offered[0];
    let v1 = version(dir, 1)?;
    unpack(package, oldest, &v1, dir)?;
    if newest != oldest {
        unpack(package, newest, &version(dir, 2)?, dir)?;
        return Ok(format!("Debian's {package}, versions {oldest} and {newest}, unpacked"));
    }
    let changed = derive(&v1, &dir.join("v2"))?;
    Ok(format!("Debian's {package} {oldest}, unpacked; its second version is derived from it: {changed}"))
}

/// Newest first.
fn versions(package: &str) -> Outcome<Vec<String>> {
    let madison = output(Command::new("apt-cache").args(["madison", package]))?;
    let mut versions: Vec<String> = madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(|version| version.trim().to_owned())
        .collect();
    versions.dedup();
    Ok(versions)
}

fn unpack(package: &str, version: &str, into: &Path, scratch: &Path) -> Outcome<()> {
    let deb = scratch.join("deb");
    std::fs::create_dir(&deb).map_err(|e| format!("{}: {e}", deb.display()))?;
    eprintln!("  fetching {package} {version}");
    output(Command::new("apt-get").current_dir(&deb).arg("download").arg(format!("{package}={version}")))?;
    shell(&format!(
        "dpkg-deb --fsys-tarfile {}/*.deb | tar xO ./usr/src/{package}.tar.xz | \
         tar xJ -C {} --strip-components=1",
        quoted(&deb),
        quoted(into)
    ))?;
    std::fs::remove_dir_all(&deb).map_err(|e| format!("{}: {e}", deb.display()))
}

/// Makes `to` from `from`: of each hundred files 2 are gone, 5 have a line more in the middle, 2 have
/// a changed copy beside them. Which ones depends on their names only.
fn derive(from: &Path, to: &Path) -> Outcome<String> {
    shell(&format!("cp -a {} {}", quoted(from), quoted(to)))?;
    for (path, _) in walk(to)? {
        let fail = |e: std::io::Error| format!("{}: {e}", path.display());
        let relative = path.strip_prefix(to).unwrap_or(&path);
        let share = share(relative, 100);
        match share {
            0..2 => std::fs::remove_file(&path).map_err(fail)?,
            2..9 => {
                let mut bytes = std::fs::read(&path).map_err(fail)?;
                let middle = bytes.len() / 2;
                let line = format!("\n/* changed: {} */\n", relative.display());
                bytes.splice(middle..middle, line.into_bytes());
                let mut target = path.clone().into_os_string();
                if share >= 7 {
                    target.push(".new");
                }
                std::fs::write(&target, bytes).map_err(fail)?;
            }
            _ => {}
        }
    }
    Ok("2 % of the files gone, 5 % with a line added, 2 % copied and changed".into())
}

pub fn from_usr(dir: &Path) -> Outcome<String> {
    let v1 = version(dir, 1)?;
    let usr = Path::new("/usr");
    let mut copied = 0;
    for part in ["include", "share", "lib"] {
        let part = usr.join(part);
        if !part.is_dir() {
            continue;
        }
        let small =
            walk(&part)?.into_iter().filter(|(_, size)| *size <= QUICK_LARGEST).take(QUICK_FILES - copied);
        for (path, _) in small {
            if copy_below(&path, usr, &v1).is_ok() {
                copied += 1;
            }
        }
    }
    let changed = derive(&v1, &dir.join("v2"))?;
    Ok(format!("{copied} small files of this machine's /usr, and a version derived: {changed}"))
}
