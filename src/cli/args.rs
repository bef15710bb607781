//! The words of the command line, and the help that `--help` prints.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

use super::mount_options;
use super::size::parse_size;
use crate::fuse::ChildTask;
use crate::pack::Compression;

/// A filesystem in which a backup is a copy and a prune is a delete.
///
/// Everything written to the mount is cut into chunks, and each chunk is stored once, compressed. Space that deletes
/// leave behind is collected in the background.
#[derive(Debug, Parser)]
#[command(name = "cairnfs", version, arg_required_else_help = true, after_help = CLI_EXAMPLES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const CLI_EXAMPLES: &str = "\
Examples:
  cairnfs mkfs /srv/store                     make a store
  cairnfs mount /srv/store /mnt               mount it
  mkdir -p /mnt/home/2026-11-22               a directory for a snapshot
  rsync -aHAX /home/ /mnt/home/2026-11-22/    back up
  rm -rf /mnt/home/2026-10-22                 prune
  cairnfs umount /mnt                         unmount; returns when everything is durable

Exit codes: 0 done, 1 the operation failed, 2 wrong usage, 3 not a store, 4 in use, 5 format not known,
6 damage found, 7 something is missing on this machine.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Mkfs(MkfsArgs),
    Mount(MountArgs),
    Umount(UmountArgs),
    Status(StatusArgs),
    Gc(GcArgs),
    Check(CheckArgs),
    Repair(RepairArgs),
    Sync(SyncArgs),
    Set(SetArgs),
    Get(GetArgs),
    Ls(LsArgs),
    Seal(SealArgs),
    Clone(CloneArgs),
    Rm(RmArgs),
    Protect(ProtectArgs),
    Unprotect(UnprotectArgs),
    Demo(DemoArgs),
    #[command(hide = true)]
    ChildTask(ChildTaskArgs),
}

/// A task that this program runs in a child process of its own
#[derive(Debug, Args)]
pub(super) struct ChildTaskArgs {
    /// Which errand
    #[arg(value_parser = |word: &str| ChildTask::named(word).ok_or("not a task"))]
    pub child_task: ChildTask,
    /// Where
    pub path: PathBuf,
}

/// Make a store in a new or empty directory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cairnfs mkfs /srv/store
  cairnfs mkfs --chunk-size 16K --compression zstd-6 /srv/store")]
pub(super) struct MkfsArgs {
    /// Directory of the store; made if it does not exist
    pub store: PathBuf,
    /// Average size of a chunk: smaller finds more duplicates, larger needs less memory and metadata
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub chunk_size: Option<u64>,
    #[arg(long, value_name = "METHOD", help = format!("How chunks are compressed: {}", Compression::NAMES))]
    pub compression: Option<String>,
    /// Space set aside so that deleting and collecting work on a full disk
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub reserve: Option<u64>,
}

const MOUNT_EXAMPLES: &str = "\
Examples:
  cairnfs mount /srv/store /mnt
  cairnfs mount -o ro,noatime /srv/store /mnt

A line for /etc/fstab:
  /srv/store  /mnt  cairnfs  noatime,nofail  0  0";

/// Mount a store
#[derive(Debug, Args)]
#[command(after_help = format!("{}\n{MOUNT_EXAMPLES}", mount_options::help()))]
pub(super) struct MountArgs {
    /// Directory of the store
    pub store: PathBuf,
    /// Directory to mount it on
    pub mountpoint: PathBuf,
    /// Mount options, see below
    #[arg(short, long = "options", value_name = "OPTIONS", value_parser = NonEmptyStringValueParser::new())]
    pub options: Vec<String>,
    /// Stay in the foreground, log to the terminal; Ctrl-C unmounts
    #[arg(short = 'F', long)]
    pub foreground: bool,
    /// Check the arguments and options, do not mount
    #[arg(short, long)]
    pub fake: bool,
    /// Ignore unknown mount options
    #[arg(short, long)]
    pub sloppy: bool,
    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub from_mount: FromMount,
    /// Set by the program for the process that it starts: report when the mount answers, then leave the terminal
    #[arg(long, hide = true)]
    pub report_ready: bool,
}

/// Options that mount(8) and umount(8) add when they call a helper; they have no effect here.
#[derive(Debug, Args)]
pub(super) struct FromMount {
    /// There is no mtab to write
    #[arg(short = 'n', hide = true)]
    pub no_mtab: bool,
    /// mount(8) has entered the namespace already
    #[arg(short = 'N', hide = true, value_name = "NAMESPACE")]
    pub namespace: Option<OsString>,
    /// Type
    #[arg(short = 't', hide = true, value_name = "TYPE")]
    pub fstype: Option<OsString>,
}

/// Unmount a store; returns when everything is durable and the store is closed
#[derive(Debug, Args)]
pub(super) struct UmountArgs {
    /// Mount point, or directory of a store that is mounted in one place
    pub path: PathBuf,
    /// Detach the mount now, end it when nobody uses it any more; everything written so far is durable
    #[arg(short, long)]
    pub lazy: bool,
    /// Even if the daemon does not answer; as root only
    #[arg(short, long, conflicts_with = "lazy")]
    pub force: bool,
    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,
    /// Accepted for umount(8), without effect
    #[arg(short = 'r', hide = true)]
    pub read_only: bool,
    #[command(flatten)]
    pub from_mount: FromMount,
}

const PATH_HELP: &str = "Directory of a store, or any directory in a mount of it";

/// Show what a store holds and what the collector does
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[arg(help = PATH_HELP)]
    pub path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Run a collection now: find what nothing refers to any more and free it
#[derive(Debug, Args)]
#[command(after_help = "\
A mounted store is collected in the background by itself (unless mounted with gc=off); this command is for those who
want to see it happen. Backups and deletes may run at the same time.")]
pub(super) struct GcArgs {
    #[arg(help = PATH_HELP)]
    pub path: PathBuf,
    /// Find out what would be freed, free nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Ask the daemon of a mounted store to begin, do not wait for the end
    #[arg(long, conflicts_with_all = ["dry_run", "json"])]
    pub background: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Check that a store is sound; exit code 6 if it is not
#[derive(Debug, Args)]
#[command(after_help = "\
If a check of the data is interrupted (by Ctrl-C, by unmounting, by a power cut), the store keeps its position.
--resume continues from there and says so; it reads the regions that were found bad once more. Without --resume, all
data is read, and the old position is removed.

In names, a byte that is not text is shown as \\xHH, and a backslash as two. A damaged file becomes whole when its content
is written again, in any place. For files that the source still has, of a snapshot S of /home in MNT:
    cairnfs check --data --list-damaged list MNT
    grep -z '^S/' list | sed -z 's|^S/||' | rsync -a --from0 --files-from=- /home/ MNT/again/
    rm -rf MNT/again")]
pub(super) struct CheckArgs {
    #[arg(help = PATH_HELP)]
    pub path: PathBuf,
    /// Read all data and compare it with its digests, not only the structure
    #[arg(long)]
    pub data: bool,
    /// Read at most this much of it in a second, such as 50M
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "data")]
    pub limit: Option<u64>,
    /// Resume reading the data where an interrupted check stopped; the structure is checked again
    #[arg(long, requires = "data")]
    pub resume: bool,
    /// Write the paths of all damaged files to FILE, relative to the mount's root, each ended by a NUL
    #[arg(long, value_name = "FILE")]
    pub list_damaged: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Rebuild the metadata of a store from its packs and backups; changes nothing without --yes
#[derive(Debug, Args)]
#[command(after_help = "\
Without --yes, the new database is made beside the old one, checked and removed again: the output says what --yes would
do. With --yes, the old one is kept as meta/cairnfs.redb.damaged-N. Files that have lost something are moved below
/lost+found. The exit code is 0 if nothing is lost, and 6 if something is lost or has to be repaired.")]
pub(super) struct RepairArgs {
    /// Directory of the store, which must not be mounted
    pub store: PathBuf,
    /// Put the new database in the place of the old one
    #[arg(long)]
    pub yes: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Make everything written so far durable (sync(1) does not reach a FUSE filesystem)
#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    #[arg(help = PATH_HELP)]
    pub path: PathBuf,
}

const WHERE_HELP: &str = "A directory in a mount, or STORE::PATH";

/// Change settings of a directory and of what is below it
#[derive(Debug, Args)]
#[command(after_help = "\
Settings:
  group=yes|no                whether a new directory in this one is a snapshot
  new=empty|clone|plain       what a snapshot begins as: empty, as the newest complete one, or no snapshot at all
  name=date|PATTERN           which names are those of snapshots: with a date in them, or such as nightly-*
  complete=always|seal|rename when a snapshot is complete: an hour after its last change, after `cairnfs seal`, or once
                              its name does not end in .partial
All but `group` count below the directory, too. Nothing behind = takes a setting away.

Examples:
  cairnfs set /mnt/home group=yes new=clone
  mkdir /mnt/home/2026-11-22 && rsync -a --delete /home/ /mnt/home/2026-11-22/")]
pub(super) struct SetArgs {
    #[arg(value_name = "WHERE", help = WHERE_HELP)]
    pub place: PathBuf,
    /// What to set
    #[arg(required = true, value_name = "NAME=VALUE")]
    pub settings: Vec<String>,
}

/// Show the settings that count for a directory, and where each comes from
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[arg(value_name = "WHERE", help = WHERE_HELP)]
    pub place: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// List groups and snapshots: files, size, age, whether they are complete, what they are clones of
#[derive(Debug, Args)]
pub(super) struct LsArgs {
    #[arg(value_name = "WHERE", help = WHERE_HELP, default_value = ".")]
    pub place: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Say that snapshots are complete, in groups with complete=seal
#[derive(Debug, Args)]
pub(super) struct SealArgs {
    /// Snapshots: directories in a mount, or STORE::PATH
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<PathBuf>,
}

/// Make a copy of a directory at once: a subvolume, which costs nothing until it is changed
///
/// A subvolume is cloned in no time, whatever its size and whatever is open in it; what was written before the command
/// was called is in the clone. An ordinary directory is copied once, without its data, and the copy is a subvolume.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cairnfs clone /mnt/home/current /mnt/home/2026-11-22      a snapshot of what is there now
  cairnfs clone /mnt/home/2026-11-21 /mnt/home/2026-11-22   a directory to rsync the next state into
  cairnfs clone /mnt/a /mnt/b /mnt/backups/                 several, into a directory")]
pub(super) struct CloneArgs {
    /// Directories to clone, and what the clone is to be called or the directory that is to get the clones
    #[arg(required = true, num_args = 2.., value_name = "SRC... DST")]
    pub paths: Vec<PathBuf>,
    /// Protect the clone from the moment it is there, as `cairnfs protect` does; as root only
    #[arg(long)]
    pub read_only: bool,
}

/// Remove subvolumes at once, with everything in them
#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Subvolumes
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<PathBuf>,
    /// Say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Protect subvolumes: nothing in them changes, and they cannot be removed, until `cairnfs unprotect`; as root only
#[derive(Debug, Args)]
#[command(after_help = "\
This is `chattr +i` of the subvolume's root. `chattr +a` of a directory with subvolumes protects all of them but the
newest, and whatever will be made there.")]
pub(super) struct ProtectArgs {
    /// Subvolumes
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<PathBuf>,
}

/// End the protection of subvolumes; as root only
#[derive(Debug, Args)]
pub(super) struct UnprotectArgs {
    /// Subvolumes
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<PathBuf>,
}

/// Show the whole of it on real files: back up twice, prune during a collection, restore, compare
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Directory to back up; can be given several times. Default: a part of /usr, about 200 MiB
    #[arg(long, value_name = "DIR")]
    pub source: Vec<PathBuf>,
    /// Work in a new directory below this one. Default: the directory for temporary files
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the store behind, to look at it
    #[arg(long)]
    pub keep: bool,
}

/// The name of the program also selects a command: as `mkfs.cairnfs` it is `cairnfs mkfs`, as a helper of mount(8) it
/// mounts.
pub(super) fn by_program_name(mut words: Vec<OsString>) -> Vec<OsString> {
    let name =
        words.first().and_then(|w| Path::new(w).file_name()).and_then(|n| n.to_str()).unwrap_or_default();
    let command = match name {
        "mkfs.cairnfs" => "mkfs",
        "mount.cairnfs" | "mount.fuse.cairnfs" => "mount",
        "umount.cairnfs" | "umount.fuse.cairnfs" => "umount",
        _ => return words,
    };
    words.splice(0..1, ["cairnfs".into(), command.into()]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &[&str]) -> Result<Command, clap::Error> {
        let words = words.iter().map(OsString::from).collect();
        Cli::try_parse_from(by_program_name(words)).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn helpers_are_called_as_mount_calls_them() {
        let Command::Mount(args) = parse(&[
            "/sbin/mount.cairnfs",
            "/srv/store",
            "/mnt",
            "-n",
            "-s",
            "-v",
            "-N",
            "/proc/1/ns/mnt",
            "-o",
            "rw,noatime",
            "-t",
            "fuse.cairnfs",
        ])
        .unwrap() else {
            panic!("not a mount")
        };
        assert!(args.sloppy && args.verbose && !args.fake);
        assert_eq!(args.options, ["rw,noatime"]);
        assert_eq!(args.mountpoint, Path::new("/mnt"));

        let Command::Umount(args) =
            parse(&["umount.fuse.cairnfs", "/mnt", "-l", "-t", "fuse.cairnfs"]).unwrap()
        else {
            panic!("not an umount")
        };
        assert!(args.lazy);
        let Command::Mkfs(args) = parse(&["mkfs.cairnfs", "--chunk-size", "16K", "/s"]).unwrap() else {
            panic!("not a mkfs")
        };
        assert_eq!(args.chunk_size, Some(16 << 10));
    }

    #[test]
    fn the_help_of_mount_has_its_options() {
        let help = Cli::command().find_subcommand_mut("mount").unwrap().render_long_help().to_string();
        assert!(help.contains(&mount_options::help()), "{help}");
    }

    #[test]
    fn wrong_words_are_refused() {
        for words in [
            &["cairnfs", "fly"][..],
            &["cairnfs", "mount", "/only-one"],
            &["cairnfs", "mkfs", "/s", "--chunk-size", "big"],
            &["cairnfs", "gc", "/s", "--background", "--json"],
            &["cairnfs", "check", "/s", "--resume"],
            &["mount.cairnfs", "/s", "/m", "--unknown"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
