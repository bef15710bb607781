//! Root in a user's store: the store stays the user's, and nothing in it leads root elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::data::noise;
use crate::skip::{need_fuse, need_root};
use crate::world::{Outcome, command, is_mounted, program, run, tool, wait_for};

/// Whom the store belongs to: nobody.
const USER: u32 = 65534;

/// A user's store and a mount point; root works there.
struct Place {
    top: TempDir,
    sabotage: &'static str,
}

impl Place {
    /// `None` where this is not root, or FUSE cannot be used.
    fn new(sabotage: &'static str) -> Option<Self> {
        if !need_root("work in a user's store") || !need_fuse() {
            return None;
        }
        let top = TempDir::with_prefix("cairnfs-owner-").unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "mnt", "elsewhere"] {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        let place = Self { top, sabotage };
        std::os::unix::fs::chown(place.top.path().join("home"), Some(USER), Some(USER)).unwrap();
        let made = place.as_user(&["mkfs", "--reserve", "1M"]);
        assert_eq!(made.code, 0, "{}", made.said());
        Some(place)
    }

    fn store(&self) -> PathBuf {
        self.top.path().join("home/store")
    }

    fn mnt(&self) -> PathBuf {
        self.top.path().join("mnt")
    }

    fn as_user(&self, words: &[&str]) -> Outcome {
        let user = USER.to_string();
        run(command("setpriv")
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .arg(program())
            .args(words)
            .arg(self.store()))
    }

    fn as_root(&self, words: &[&str]) -> Outcome {
        run(command(program()).env("CAIRNFS_SABOTAGE", self.sabotage).args(words).arg(self.store()))
    }

    /// Everything that makes or changes files of a store: a backup, a cycle, a check. False if it was not mounted.
    fn use_it(&self) -> bool {
        let mut mount = command(program());
        mount.env("CAIRNFS_SABOTAGE", self.sabotage).args(["mount", "-o", "gc=off,io_uring=off"]);
        let mounted = run(mount.arg(self.store()).arg(self.mnt()));
        if mounted.code != 0 {
            assert!(mounted.err.len() > 20 && !mounted.err.contains("panicked"), "{}", mounted.said());
            return false;
        }
        let new = self.mnt().join("new");
        // Refused where what is needed for it is a link.
        let written = fs::write(&new, noise(9, 300_000));
        for words in [&["sync"][..], &["gc"], &["check", "--data"]] {
            self.as_root(words);
        }
        if written.is_ok() {
            let _ = fs::remove_file(&new);
        }
        self.umount();
        true
    }

    fn umount(&self) {
        wait_for("the end of the mount", || {
            run(command(program()).arg("umount").arg(self.mnt()));
            !is_mounted(&self.mnt())
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while is_mounted(&self.mnt()) {
            let _ = Command::new("umount").arg("-l").arg(self.mnt()).output();
        }
    }
}

/// Every name below a directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(names(&entry.path()));
        }
    }
    found
}

fn not_the_users(store: &Path) -> Vec<PathBuf> {
    let owner = |path: &PathBuf| fs::symlink_metadata(path).unwrap();
    names(store).into_iter().filter(|path| (owner(path).uid(), owner(path).gid()) != (USER, USER)).collect()
}

#[test]
fn what_root_makes_in_a_users_store_is_the_users() {
    let Some(place) = Place::new("") else { return };
    assert!(place.use_it());
    assert_eq!(place.as_root(&["repair", "--yes"]).code, 0);
    assert_eq!(not_the_users(&place.store()), Vec::<PathBuf>::new());
    assert!(place.store().join("cairnfs.log").exists() && place.store().join("packs/001").exists());
    for words in [&["status"][..], &["check", "--data"], &["gc"], &["repair"]] {
        let said = place.as_user(words);
        assert_eq!(said.code, 0, "{words:?}: {}", said.said());
    }
}

#[test]
fn without_one_owner_the_user_is_shut_out() {
    let Some(place) = Place::new("one-owner") else { return };
    assert!(place.use_it());
    assert_ne!(not_the_users(&place.store()), Vec::<PathBuf>::new());
}

/// The names in the table of docs/format.md.
fn documented() -> Vec<String> {
    let text = include_str!("../../docs/format.md");
    let section = text.split("## The directory").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    let cells = rows.flat_map(|(cell, _)| cell.split('`').step_by(2).map(str::to_owned).collect::<Vec<_>>());
    cells.filter(|name| !matches!(name.as_str(), "" | ", ")).collect()
}

/// Capital N and D stand for digits.
fn fits(pattern: &str, name: &str) -> bool {
    let same = |(p, c): (char, char)| p == c || (matches!(p, 'N' | 'D') && c.is_ascii_hexdigit());
    pattern.len() == name.len() && pattern.chars().zip(name.chars()).all(same)
}

/// Every name that a store can have, of a store that is in use and in which `file` was written.
fn every_name(store: &Path) -> Vec<String> {
    let below = |path: PathBuf| path.strip_prefix(store).unwrap().to_str().unwrap().to_owned();
    let mut all: Vec<String> = names(store).into_iter().map(below).collect();
    for name in [
        "cairnfs.toml.new",
        "cairnfs.log.1",
        "control.sock",
        "check.position",
        "check.position.new",
        "meta/cairnfs.redb.new",
        "meta/cairnfs.redb.newer",
        "meta/cairnfs.redb.damaged-1",
        "meta-backups/00000002.cmb.new",
        "meta-backups/00000003.cmb.new",
    ] {
        if !all.iter().any(|known| known == name) {
            all.push(name.to_owned());
        }
    }
    all
}

/// What is where the links lead to.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let read = |path: PathBuf| (path.clone(), path.is_file().then(|| fs::read(&path).unwrap()));
    names(dir).into_iter().map(read).collect()
}

/// Puts a link to a copy of what stands there, or to nothing, in place of each name in turn, and uses the store. The
/// names whose links were followed for writing.
fn followed(place: &Place, only: Option<&str>) -> Vec<String> {
    assert!(place.use_it());
    let (store, kept) = (place.store(), place.top.path().join("kept"));
    tool!("cp", "-a", &store, &kept);
    let mut led_away = Vec::new();
    let all = every_name(&store);
    for pattern in documented() {
        assert!(all.iter().any(|name| fits(&pattern, name)), "{pattern} of docs/format.md is not tried");
    }
    for name in all.iter().filter(|name| only.is_none_or(|only| only == *name)) {
        let elsewhere = place.top.path().join("elsewhere");
        fs::remove_dir_all(&elsewhere).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        let (link, target) = (store.join(name), elsewhere.join("target"));
        if name == "cairnfs.log.1" {
            // So long that another one is begun.
            fs::write(store.join("cairnfs.log"), vec![b'x'; 1 << 20]).unwrap();
        }
        if link.exists() {
            fs::rename(&link, &target).unwrap();
        }
        symlink(&target, &link).unwrap();
        let before = contents(&elsewhere);
        place.use_it();
        place.as_root(&["check", "--data", "--resume"]);
        place.as_root(&["repair", "--yes"]);
        if contents(&elsewhere) != before {
            led_away.push(name.clone());
        }
        fs::remove_dir_all(&store).unwrap();
        tool!("cp", "-a", &kept, &store);
    }
    led_away
}

#[test]
fn a_link_in_place_of_any_name_leads_nowhere() {
    let Some(place) = Place::new("") else { return };
    assert_eq!(followed(&place, None), Vec::<String>::new());
}

#[test]
fn links_that_are_followed_are_noticed() {
    let Some(place) = Place::new("no-links") else { return };
    assert_eq!(followed(&place, Some("meta/cairnfs.redb")), ["meta/cairnfs.redb"]);
}

/// Links that are no symbolic ones: root's own file under the name of the store's log.
#[test]
fn a_second_name_of_somebody_elses_file_is_not_written_to() {
    let Some(place) = Place::new("") else { return };
    assert!(place.use_it());
    for name in ["cairnfs.log", "lock", "meta/cairnfs.redb"] {
        let (own, other) = (place.store().join(name), place.top.path().join("elsewhere/file"));
        let aside = place.top.path().join("aside");
        fs::rename(&own, &aside).unwrap();
        fs::copy(&aside, &other).unwrap();
        fs::hard_link(&other, &own).unwrap();
        let before = fs::read(&other).unwrap();
        place.use_it();
        assert!(fs::read(&other).unwrap() == before, "{name}");
        fs::rename(&aside, &own).unwrap();
        fs::remove_file(&other).unwrap();
    }
    assert!(place.use_it());
}
