//! `cairnfs mount`, also what mount(8) calls.
//!
//! Without `--foreground` the program starts itself once more with `--report-ready` and waits for a word on a pipe,
//! which says that the mount answers. Otherwise the new process has printed the reason on standard error, and its exit
//! code becomes ours. A new process, unlike fork(), has no half-copied threads. The process that will serve the mount
//! checks everything, so that all refusals are in one place.

mod limits;
mod refuse;
mod remount;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::args::MountArgs;
use super::mount_options::{self, Wanted};
use super::{environment, output, show};
use crate::daemon::{self, Setup, SharedLog, start_logging};
use crate::error::{Error, Result};
use crate::fuse::MountOptions;
use crate::media::Media;
use crate::store::OpenOptions;

/// The word on the pipe.
const READY: &str = "ready";

/// How long a mount waits for the store's lock: the daemon of an umount just done may still be closing the store.
const LOCK_WAIT: Duration = Duration::from_secs(15);

pub(super) fn run(args: &MountArgs) -> Result<()> {
    let wanted = mount_options::parse(&args.options, args.sloppy)?;
    if wanted.remount {
        return remount::run(args, &wanted);
    }
    mount_options::refuse_more_than(mount_options::memory_of_this_machine(), &wanted)?;
    environment::has_proc()?;
    if args.report_ready || args.foreground || args.fake {
        return serve(args, wanted);
    }
    in_background(args)
}

/// A variable of glibc, see mallopt(3). By default glibc makes eight arenas for each processor, and memory freed in one
/// cannot be used by another. The daemon's buffers go from thread to thread, so they took a third more memory. A value
/// that the user has set is kept.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Starts the process that will serve, and waits until it does.
fn in_background(args: &MountArgs) -> Result<()> {
    // The daemon outlives its caller and must not keep the caller's files and locks open.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let started = |e| Error::io("starting the daemon", e);
    let myself = std::env::current_exe().map_err(started)?;
    let mut command = Command::new(myself);
    command.arg("mount").arg("--report-ready");
    if std::env::var_os(ARENAS).is_none() {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        command.env(ARENAS, processors.max(2).to_string());
    }
    if args.sloppy {
        command.arg("--sloppy");
    }
    for list in &args.options {
        command.arg("-o").arg(list);
    }
    command.arg("--").arg(&args.store).arg(&args.mountpoint);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(started)?;
    let mut word = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe).read_line(&mut word).map_err(|e| Error::io("waiting for the daemon", e))?;
    }
    if word.trim_end() == READY {
        if args.verbose {
            output::print(&format!(
                "{} is mounted at {} by process {}\n",
                show(&args.store),
                show(&args.mountpoint),
                child.id()
            ))?;
        }
        return Ok(());
    }
    let status = child.wait().map_err(|e| Error::io("waiting for the daemon", e))?;
    match status.code() {
        // It has already printed the reason; this process need not repeat it.
        Some(code) if code != 0 => std::process::exit(code),
        _ => Err(Error::Environment(format!("the daemon ended before the mount answered ({status})"))),
    }
}

/// Serves in this process until the mount is gone.
fn serve(args: &MountArgs, wanted: Wanted) -> Result<()> {
    let log = start_logging(if args.foreground { tracing::Level::INFO } else { tracing::Level::WARN })?;
    let places = refuse::checked(&args.store, &args.mountpoint)?;
    if args.fake {
        return Ok(());
    }
    environment::can_mount()?;
    limits::ensure(wanted.open.cache_bytes)?;
    let setup = Setup {
        open: OpenOptions {
            who: format!("mounted at {}", show(&places.mountpoint)),
            lock_wait: LOCK_WAIT,
            ..wanted.open
        },
        fs: wanted.fs,
        collect: wanted.collect,
        collect_interval: wanted.collect_interval,
        scrub: wanted.scrub,
        fuse: MountOptions { fsname: places.store.as_os_str().to_owned(), ..wanted.fuse },
        store: places.store,
        mountpoint: places.mountpoint,
    };
    if args.report_ready {
        leave_session()?;
    }
    let ready = |store| if args.report_ready { leave_terminal(&log, store) } else { Ok(()) };
    daemon::serve(setup, ready).map_err(limits::explained)
}

/// A daemon has no controlling terminal and keeps no directory busy.
fn leave_session() -> Result<()> {
    rustix::process::setsid().map_err(|e| Error::io("starting a session of its own", e.into()))?;
    std::env::set_current_dir("/").map_err(|e| Error::io("changing to /", e))
}

/// Reports to the waiting process that the mount answers; from then on nobody reads this process's output.
fn leave_terminal(log: &SharedLog, store: Arc<dyn Media>) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(|_| {
        Error::Environment("nobody waits for this mount any more (interrupted?); it is taken down".into())
    })?;
    drop(out);
    log.to_store(store);
    let leaving = |e: rustix::io::Errno| Error::io("leaving the terminal", e.into());
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Error::io("opening /dev/null", e))?;
    rustix::stdio::dup2_stdin(&null).map_err(leaving)?;
    rustix::stdio::dup2_stdout(&null).map_err(leaving)?;
    rustix::stdio::dup2_stderr(&null).map_err(leaving)
}
