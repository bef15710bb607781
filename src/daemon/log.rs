//! Where the daemon's messages go: to the terminal until the daemon detaches from it, then to a bounded file in the
//! store.
//!
//! The file is open only while this process holds the store's lock, so that there is one writer. If the log cannot be
//! written (full disk, read-only host), its messages are dropped: that must not stop a backup.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{Error, Result, on_panic};
use crate::media::{Media, MediaFile, open_or_create};

/// The file's name in the store's directory.
const NAME: &str = "cairnfs.log";
/// The one before it.
const OLD: &str = "cairnfs.log.1";

/// Bytes of early messages that are kept for the file.
const KEPT: usize = 64 << 10;

/// At this size the file becomes `cairnfs.log.1` and a new one is begun.
const ROTATE_AT: u64 = 1 << 20;

enum Sink {
    /// To standard error, from this level on. The messages are kept for the file as well.
    Terminal(Level, Vec<u8>),
    /// To the file.
    File(LogFile),
}

struct LogFile {
    media: Arc<dyn Media>,
    file: Option<Arc<dyn MediaFile>>,
    size: u64,
    rotate_at: u64,
}

/// The destination of all messages of the process, which can change while it runs.
#[derive(Clone)]
pub struct SharedLog(Arc<Mutex<Sink>>);

/// The variable that says what is logged: `debug`, or levels for parts of the program, `warn,cairnfs=info`.
const VARIABLE: &str = "CAIRNFS_LOG";
/// Its default.
const DEFAULT_FILTER: &str = "warn,cairnfs=info";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Begins to log to standard error: messages that pass the filter and have at least this `level`. The filter is
/// `CAIRNFS_LOG`; an invalid one is a usage error.
pub fn start_logging(level: Level) -> Result<SharedLog> {
    let filter = filter(std::env::var_os(VARIABLE))?;
    let log = SharedLog(Arc::new(Mutex::new(Sink::Terminal(level, Vec::new()))));
    on_panic(std::panic::take_hook());
    // A second call in one process (tests) keeps the first logger.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(log.clone());
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(log)
}

/// What is logged. The parser of tracing accepts nearly everything as a filter, and then logs nothing.
fn filter(value: Option<OsString>) -> Result<Targets> {
    let value = value.filter(|value| !value.is_empty()).unwrap_or_else(|| DEFAULT_FILTER.into());
    let words = value.to_string_lossy();
    let refused = |wrong: &str| {
        Error::Usage(format!(
            "{VARIABLE}: `{wrong}` does not say what to log; write a level ({}), or PART=LEVEL such as cairnfs=debug, \
             several with commas between them",
            LEVELS.join(", ")
        ))
    };
    if let Some(wrong) = words.split(',').find(|word| !is_directive(word)) {
        return Err(refused(wrong));
    }
    words.parse().map_err(|_| refused(&words))
}

fn is_directive(word: &str) -> bool {
    let is_level = |level: &str| LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    let is_part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
    };
    match word.split_once('=') {
        Some((part, level)) => is_part(part) && is_level(level),
        None => is_level(word),
    }
}

impl SharedLog {
    /// From now on messages go to the store's log file, and a panic is logged too.
    pub fn to_store(&self, store: Arc<dyn Media>) {
        let mut file = LogFile::open(store, ROTATE_AT);
        let mut sink = self.0.lock();
        if let Sink::Terminal(_, said) = &*sink
            && !said.is_empty()
        {
            file.append(said);
        }
        *sink = Sink::File(file);
        drop(sink);
        on_panic(|info| tracing::error!("{info}"));
    }
}

impl<'a> MakeWriter<'a> for SharedLog {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter(Some(Arc::clone(&self.0)))
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> LogWriter {
        match &*self.0.lock() {
            // In tracing, a more severe level is smaller.
            Sink::Terminal(level, _) if meta.level() > level => LogWriter(None),
            _ => self.make_writer(),
        }
    }
}

/// Writes one message.
pub struct LogWriter(Option<Arc<Mutex<Sink>>>);

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(sink) = self.0.as_ref().filter(|_| !is_everyday(line)) {
            match &mut *sink.lock() {
                Sink::Terminal(_, said) => {
                    if said.len() + line.len() <= KEPT {
                        said.extend_from_slice(line);
                    }
                    io::stderr().write_all(line)?;
                }
                Sink::File(file) => file.append(line),
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// fuser logs an error if the kernel no longer wants an answer, because the program was interrupted or has ended.
fn is_everyday(line: &[u8]) -> bool {
    let said = b"Failed to send FUSE reply: No such file";
    line.windows(said.len()).any(|part| part == said)
}

impl LogFile {
    fn open(media: Arc<dyn Media>, rotate_at: u64) -> Self {
        let file = open_or_create(media.as_ref(), NAME).ok();
        let size = file.as_ref().and_then(|file| file.len().ok()).unwrap_or(0);
        Self { media, file, size, rotate_at }
    }

    fn append(&mut self, line: &[u8]) {
        if self.size >= self.rotate_at && self.media.rename(NAME, OLD).is_ok() {
            *self = Self::open(Arc::clone(&self.media), self.rotate_at);
        }
        if let Some(file) = &self.file
            && file.write_at(line, self.size).is_ok()
        {
            self.size += line.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::media::HostMedia;

    fn media(dir: &Path) -> Arc<dyn Media> {
        Arc::new(HostMedia::open(dir).unwrap())
    }

    #[test]
    fn only_the_reply_that_nobody_wants_any_more_is_left_out() {
        let line = |error: i32| {
            format!("ERROR Failed to send FUSE reply: {}\n", io::Error::from_raw_os_error(error))
        };
        assert!(is_everyday(line(libc::ENOENT).as_bytes()));
        assert!(!is_everyday(line(libc::EINVAL).as_bytes()) && !is_everyday(b"ERROR No such file\n"));
    }

    #[test]
    fn the_file_stays_bounded() {
        let tmp = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(media(tmp.path()), 1000);
        for n in 0..100 {
            log.append(format!("line {n:>50}\n").as_bytes());
        }
        let mut log = LogFile::open(media(tmp.path()), 1000);
        log.append(b"last\n");
        assert!(fs::read_to_string(tmp.path().join(NAME)).unwrap().ends_with("99\nlast\n"));
        let all: u64 = fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(all <= 2 * 1100, "{all}");
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_filter_is_levels_and_nothing_else() {
        use std::os::unix::ffi::OsStringExt;
        let read = |words: &str| filter(Some(words.into()));
        let usual = filter(None).unwrap();
        for (target, level, shown) in [
            ("cairnfs::gc", Level::INFO, true),
            ("cairnfs::gc", Level::DEBUG, false),
            ("fuser", Level::WARN, true),
            ("fuser", Level::INFO, false),
        ] {
            assert_eq!(usual.would_enable(target, &level), shown, "{target} {level}");
        }
        assert_eq!(read("").unwrap(), usual);
        for (right, target, level) in [
            ("debug", "fuser", Level::DEBUG),
            ("WARN", "fuser", Level::WARN),
            ("warn,cairnfs=info", "cairnfs", Level::INFO),
            ("cairnfs::gc=trace,off", "cairnfs::gc::sweep", Level::TRACE),
        ] {
            assert!(read(right).unwrap().would_enable(target, &level), "{right}");
        }
        assert!(!read("cairnfs::gc=trace,off").unwrap().would_enable("cairnfs", &Level::ERROR));
        for wrong in ["foo=bar=baz", "loud", "cairnfs", "=debug", "cairnfs=", "debug,", "[span]=debug", "7"] {
            let error = read(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
            assert!(error.to_string().contains("CAIRNFS_LOG: `"), "{wrong}: {error}");
        }
        assert!(filter(Some(OsString::from_vec(vec![0xff]))).is_err());
    }

    #[test]
    fn a_log_that_cannot_be_written_is_dropped() {
        let (tmp, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let elsewhere = other.path().join("file");
        std::os::unix::fs::symlink(&elsewhere, tmp.path().join(NAME)).unwrap();
        let mut log = LogFile::open(media(tmp.path()), 10);
        log.append(b"into the void\n");
        assert!(log.file.is_none() && !elsewhere.exists());
    }
}
