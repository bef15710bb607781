//! The options of a mount, in the two forms that mount(2) and fusermount3 need.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::thread;

use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

use crate::fs::AccessTimes;

/// The options of one mount. By default a backup is data: no program in it runs with the rights of its owner and no
/// device node in it works, whoever mounts. Their modes are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing can be changed through the mount.
    pub read_only: bool,
    /// Users other than the one who mounts may use the mount.
    pub allow_other: bool,
    /// The kernel checks owner, group and mode; without it nobody does.
    pub default_permissions: bool,
    /// Shown in the mount table; `Fs` decides which access times are kept.
    pub atime: AccessTimes,
    /// Set-id bits of programs count.
    pub suid: bool,
    /// Device nodes work.
    pub dev: bool,
    /// Programs can be started.
    pub exec: bool,
    /// The first column of the mount table: the store's path.
    pub fsname: OsString,
    /// The type in the mount table is `fuse.` and this.
    pub subtype: String,
    /// Threads that take requests over `/dev/fuse`.
    pub threads: usize,
    /// The way requests come.
    pub io_uring: IoUring,
    /// The kernel gathers small writes, and keeps size and times of open files itself.
    pub writeback: bool,
    /// The kernel sends no OPEN, OPENDIR, CREATE and FLUSH.
    pub no_open: bool,
    /// POSIX ACLs are kept and the kernel applies them. Then it checks owner, group and mode, too.
    pub posix_acl: bool,
}

/// Whether requests come over io_uring instead of `/dev/fuse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoUring {
    /// Where the kernel offers it.
    #[default]
    Auto,
    /// Yes, or the mount fails; root switches it on in the kernel.
    On,
    /// No.
    Off,
}

impl Default for MountOptions {
    fn default() -> Self {
        let root = rustix::process::geteuid().is_root();
        Self {
            read_only: false,
            allow_other: root,
            default_permissions: true,
            atime: AccessTimes::Relative,
            suid: false,
            dev: false,
            exec: true,
            fsname: OsString::from("cairnfs"),
            subtype: String::from("cairnfs"),
            threads: default_threads(),
            io_uring: IoUring::Auto,
            writeback: false,
            no_open: true,
            posix_acl: true,
        }
    }
}

/// At least two, so that one fsync does not stop everything; only a few, since more threads mostly wake each other.
fn default_threads() -> usize {
    thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4))
}

impl MountOptions {
    /// What is switched on in the table of mounts: the flag of mount(2) and the word of fusermount3, which has none for
    /// some.
    fn switches(&self) -> impl Iterator<Item = (MountFlags, Option<&'static str>)> {
        [
            (self.read_only, MountFlags::RDONLY, Some("ro")),
            (self.atime == AccessTimes::Never, MountFlags::NOATIME, Some("noatime")),
            (self.atime == AccessTimes::Always, MountFlags::STRICTATIME, None),
            (!self.suid, MountFlags::NOSUID, Some("nosuid")),
            (!self.dev, MountFlags::NODEV, Some("nodev")),
            (!self.exec, MountFlags::NOEXEC, Some("noexec")),
        ]
        .into_iter()
        .filter_map(|(is_on, flag, word)| is_on.then_some((flag, word)))
    }

    /// The flags of mount(2).
    pub(super) fn flags(&self) -> MountFlags {
        self.switches().map(|(flag, _)| flag).collect()
    }

    /// The type under which the mount stands in the kernel's table.
    pub(super) fn fstype(&self) -> String {
        format!("fuse.{}", self.subtype)
    }

    /// The words that the kernel's fuse type itself understands, each with a leading comma.
    pub(super) fn kernel_words(&self) -> String {
        let mut words = String::new();
        if self.default_permissions {
            words.push_str(",default_permissions");
        }
        if self.allow_other {
            words.push_str(",allow_other");
        }
        words
    }

    /// What follows `fusermount3 -o`. It always adds nosuid and nodev for a plain user.
    pub(super) fn helper_words(&self) -> OsString {
        let writable = (!self.read_only).then_some("rw");
        let words: Vec<&str> =
            writable.into_iter().chain(self.switches().filter_map(|(_, word)| word)).collect();
        let mut words = words.join(",");
        words.push_str(&self.kernel_words());
        words.push_str(",subtype=");
        words.push_str(&self.subtype);
        words.push_str(",fsname=");
        let mut words = words.into_bytes();
        words.extend(escape(self.fsname.as_bytes()));
        OsString::from_vec(words)
    }
}

/// In fusermount3 a comma ends a value unless a backslash precedes it.
fn escape(value: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(value.len());
    for &byte in value {
        if matches!(byte, b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// The changes of an existing mount; `None` keeps the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remount {
    /// Nothing can be changed through the mount.
    pub read_only: Option<bool>,
    /// Set-id bits of programs count.
    pub suid: Option<bool>,
    /// Device nodes work.
    pub dev: Option<bool>,
    /// Programs can be started.
    pub exec: Option<bool>,
}

impl Remount {
    /// The flags for mount(2), which clears every flag that is not given again.
    pub(super) fn flags(self, present: StatVfsMountFlags) -> MountFlags {
        let mut flags = MountFlags::empty();
        let has = |flag| present.contains(flag);
        for (flag, stays, wanted) in [
            (MountFlags::RDONLY, has(StatVfsMountFlags::RDONLY), self.read_only),
            (MountFlags::NOSUID, has(StatVfsMountFlags::NOSUID), self.suid.map(|suid| !suid)),
            (MountFlags::NODEV, has(StatVfsMountFlags::NODEV), self.dev.map(|dev| !dev)),
            (MountFlags::NOEXEC, has(StatVfsMountFlags::NOEXEC), self.exec.map(|exec| !exec)),
            (MountFlags::NOATIME, has(StatVfsMountFlags::NOATIME), None),
            (MountFlags::NODIRATIME, has(StatVfsMountFlags::NODIRATIME), None),
            (MountFlags::RELATIME, has(StatVfsMountFlags::RELATIME), None),
        ] {
            flags.set(flag, wanted.unwrap_or(stays));
        }
        let is_strict = !flags.intersects(MountFlags::NOATIME | MountFlags::RELATIME);
        flags.set(MountFlags::STRICTATIME, is_strict);
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> MountOptions {
        MountOptions { allow_other: false, fsname: OsString::from("/srv/a,b\\c"), ..MountOptions::default() }
    }

    #[test]
    fn set_id_programs_and_devices_do_not_work_unless_it_is_said() {
        assert_eq!(MountOptions::default().flags(), MountFlags::NOSUID | MountFlags::NODEV);
    }

    #[test]
    fn flags_follow_the_options() {
        assert_eq!(plain().flags(), MountFlags::NOSUID | MountFlags::NODEV);
        let opts = MountOptions {
            read_only: true,
            atime: AccessTimes::Never,
            suid: true,
            dev: true,
            exec: false,
            ..plain()
        };
        assert_eq!(opts.flags(), MountFlags::RDONLY | MountFlags::NOATIME | MountFlags::NOEXEC);
    }

    #[test]
    fn the_helper_gets_a_word_for_each_switch() {
        let opts = MountOptions { read_only: true, atime: AccessTimes::Never, exec: false, ..plain() };
        let words = opts.helper_words();
        let words = words.to_str().unwrap();
        assert!(words.starts_with("ro,noatime,nosuid,nodev,noexec,default_permissions,subtype="), "{words}");
    }

    #[test]
    fn the_helper_gets_commas_escaped() {
        assert_eq!(
            plain().helper_words(),
            "rw,nosuid,nodev,default_permissions,subtype=cairnfs,fsname=/srv/a\\,b\\\\c"
        );
    }

    #[test]
    fn a_remount_keeps_what_is_not_said() {
        let present = StatVfsMountFlags::NOSUID | StatVfsMountFlags::RELATIME;
        let change = Remount { read_only: Some(true), suid: None, dev: Some(false), exec: None };
        let kept = MountFlags::NOSUID | MountFlags::RELATIME;
        assert_eq!(change.flags(present), kept | MountFlags::RDONLY | MountFlags::NODEV);
        let back = Remount { read_only: Some(false), suid: Some(true), dev: None, exec: None };
        assert_eq!(back.flags(present | StatVfsMountFlags::RDONLY), MountFlags::RELATIME);
    }
}
