//! Operations on the bytes of files, and when they become durable.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use crate::data::{noise, text};
use crate::oracle::{Change, Edit, Fid, Kind};
use crate::sys::{self, Mapped};
use crate::worker::{Res, Stop, Worker, read_anew};
use crate::world::{command, program, run};

/// Kinds of content that all workers know; equal ones are the same bytes, whoever writes them.
const KINDS: u64 = 160;
/// No file grows beyond.
const LARGEST: usize = 1_500_000;

impl Worker {
    /// How long a file, or a stretch of one, is to be.
    pub fn length(&mut self) -> usize {
        let limit = match self.random.below(12) {
            0 => 300,
            1..6 => 20_000,
            6..11 => 150_000,
            _ => 900_000,
        };
        1 + self.random.below(limit) as usize
    }

    /// Bytes to write: much of it was written before, by anybody, or was deleted a moment ago.
    pub fn data(&mut self, len: usize) -> Vec<u8> {
        match self.random.below(10) {
            0 => vec![0; len],
            1..5 => {
                let kind = self.random.below(KINDS);
                if kind.is_multiple_of(4) { text(kind, len) } else { noise(kind, len) }
            }
            5..8 if !self.deleted.is_empty() => {
                let at = self.random.below(self.deleted.len() as u64) as usize;
                let mut bytes = (*self.deleted[at]).clone();
                bytes.truncate(len);
                bytes.resize(len, 0);
                bytes
            }
            _ => noise(self.random.draw(), len),
        }
    }

    pub fn open_for_writing(&mut self, path: &str) -> Res<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if self.random.below(20) == 0 {
            options.custom_flags(libc::O_DIRECT);
        }
        let result = options.open(self.path(path));
        self.ok(|| format!("opening {path}"), result)
    }

    /// Writes at a place, in one call or several.
    pub fn write_at(&mut self, file: &File, fid: Fid, at: usize, data: &[u8]) -> Res<()> {
        let piece = match self.random.below(4) {
            0 => data.len(),
            1 => 4096,
            _ => 65_536,
        };
        let mut at = at;
        for part in data.chunks(piece.max(1)) {
            let result = file.write_all_at(part, at as u64);
            self.edited(fid, Edit::Write { at, data: Arc::new(part.to_vec()) }, result)?;
            at += part.len();
        }
        Ok(())
    }

    /// A new file, written from its start to its end.
    pub fn create(&mut self, path: &str, data: &[u8]) -> Res<Fid> {
        self.create_as(path, |worker, file, fid| {
            worker.write_at(file, fid, 0, data)?;
            if worker.random.below(6) == 0 { worker.fsync(file, fid) } else { Ok(()) }
        })
    }

    pub fn create_as(&mut self, path: &str, fill: impl FnOnce(&mut Self, &File, Fid) -> Res<()>) -> Res<Fid> {
        let fid = self.oracle.new_fid();
        let mut options = OpenOptions::new();
        // Without reading, the kernel writes past its page cache.
        let reads = self.random.below(2) == 0;
        let result = options.create_new(true).read(reads).write(true).mode(0o644).open(self.path(path));
        let made = Change::Make { path: path.to_owned(), fid, kind: Kind::File, mode: 0o644 };
        let file = self.changed(made, result)?;
        self.learn(path, fid)?;
        fill(self, &file, fid)?;
        Ok(fid)
    }

    pub fn overwrite(&mut self, path: &str) -> Res<()> {
        let (fid, size) = self.sized(path);
        let file = self.open_for_writing(path)?;
        let at = self.random.below((size as u64 + 20_000).min(LARGEST as u64)) as usize;
        let len = self.length().min(LARGEST - at.min(LARGEST - 1));
        let data = self.data(len);
        self.write_at(&file, fid, at, &data)
    }

    pub fn append(&mut self, path: &str) -> Res<()> {
        let (fid, size) = self.sized(path);
        let result = OpenOptions::new().append(true).open(self.path(path));
        let mut file = self.ok(|| format!("opening {path}"), result)?;
        let mut at = size;
        for _ in 0..1 + self.random.below(4) {
            let len = self.length().min(200_000);
            if at + len > LARGEST {
                break;
            }
            let data = self.data(len);
            let result = file.write_all(&data);
            self.edited(fid, Edit::Write { at, data: Arc::new(data) }, result)?;
            at += len;
        }
        Ok(())
    }

    pub fn truncate(&mut self, path: &str) -> Res<()> {
        let (fid, size) = self.sized(path);
        let file = self.open_for_writing(path)?;
        let to = self.random.below((size as u64 * 5 / 4 + 100).min(LARGEST as u64));
        let result = file.set_len(to);
        self.edited(fid, Edit::Truncate(to as usize), result)
    }

    /// Punches, zeroes or allocates.
    pub fn punch(&mut self, path: &str) -> Res<()> {
        let (fid, size) = self.sized(path);
        let file = self.open_for_writing(path)?;
        let from = self.random.below(size as u64 + 1);
        let len = 1 + self.random.below(60_000);
        let (from_at, to) = (from as usize, (from + len) as usize);
        let (mode, edit) = match self.random.below(4) {
            0 | 1 => (
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                Edit::Zero { from: from_at, to, extends: false },
            ),
            2 => (FallocateFlags::ZERO_RANGE, Edit::Zero { from: from_at, to, extends: true }),
            _ => (FallocateFlags::empty(), Edit::Extend(to)),
        };
        let result = rustix::fs::fallocate(&file, mode, from, len).map_err(io::Error::from);
        self.edited(fid, edit, result)
    }

    /// Writes through shared memory. What no fsync followed may stay with the kernel for as long as it likes.
    pub fn map(&mut self, path: &str) -> Res<()> {
        let (fid, size) = self.sized(path);
        if size == 0 {
            return Ok(());
        }
        let file = self.open_for_writing(path)?;
        let mut mapped = self.ok(|| format!("mapping {path}"), Mapped::new(&file, size))?;
        for _ in 0..1 + self.random.below(4) {
            let at = self.random.below(size as u64) as usize;
            let len = (1 + self.random.below(30_000) as usize).min(size - at);
            let data = self.data(len);
            // By a call that copies: where the daemon is gone, that is an error, while a plain store would be a signal.
            let result = self.scratch.write_all_at(&data, 0);
            self.ok(|| "writing to memory".to_owned(), result)?;
            let result = self.scratch.read_exact_at(&mut mapped.bytes()[at..at + len], 0);
            self.oracle.mapped(fid);
            self.edited(fid, Edit::Write { at, data: Arc::new(data) }, result)?;
        }
        if self.random.below(2) == 0 {
            let result = mapped.sync();
            self.ok(|| format!("msync of {path}"), result)?;
            self.oracle.fsynced(fid);
        }
        Ok(())
    }

    /// copy_file_range(2) of a stretch, until all of it is there.
    pub fn clone_stretch(
        &mut self,
        from: (&File, &[u8], usize),
        to: (&File, Fid, usize),
        len: usize,
    ) -> Res<()> {
        let mut done = 0;
        while done < len {
            let (at, into, left) = (from.2 + done, to.2 + done, len - done);
            let source = from.1;
            let data = source[at.min(source.len())..(at + left).min(source.len())].to_vec();
            let result = sys::copy_range(from.0, at as i64, to.0, into as i64, left);
            let copied = match &result {
                Ok(copied) if *copied == 0 || *copied > data.len() => {
                    return Err(Stop::Loss(format!("copy_file_range of {left} at {at} copied {copied}")));
                }
                Ok(copied) => *copied,
                Err(_) => data.len(),
            };
            let data = Arc::new(data[..copied].to_vec());
            self.edited(to.1, Edit::Clone { at: into, data }, result)?;
            done += copied;
        }
        Ok(())
    }

    /// A stretch of one file into another, or into itself.
    pub fn clone_range(&mut self, from: &str, to: &str) -> Res<()> {
        let ((source, source_size), (target, target_size)) = (self.sized(from), self.sized(to));
        if source_size == 0 {
            return Ok(());
        }
        let at = self.random.below(source_size as u64) as usize;
        let mut len = (1 + self.random.below(200_000) as usize).min(source_size - at);
        let into = self.random.below((target_size as u64 + 1).min(LARGEST as u64)) as usize;
        if source == target {
            // Stretches of one file must not overlap.
            len = len.min(at.abs_diff(into));
        }
        let (input, output) = (self.open_for_writing(from)?, self.open_for_writing(to)?);
        let bytes = self.oracle.content(source).now().clone();
        self.clone_stretch((&input, &bytes, at), (&output, target, into), len)
    }

    /// A whole file, as `cp` does it.
    pub fn clone_file(&mut self, from: &str, to: &str) -> Res<()> {
        let bytes = self.oracle.content(self.oracle.names().fid(from)).now().clone();
        let input = self.open_for_writing(from)?;
        self.create_as(to, |worker, output, fid| {
            worker.clone_stretch((&input, &bytes, 0), (output, fid, 0), bytes.len())
        })?;
        Ok(())
    }

    pub fn fsync(&mut self, file: &File, fid: Fid) -> Res<()> {
        let is_file = self.oracle.names().nodes.get(&fid).is_some_and(|node| node.kind == Kind::File);
        if is_file && self.random.below(4) == 0 {
            let result = file.sync_data();
            self.ok(|| format!("fdatasync of inode {fid}"), result)?;
            self.oracle.data_synced(fid);
            return Ok(());
        }
        let result = file.sync_all();
        self.ok(|| format!("fsync of inode {fid}"), result)?;
        self.oracle.fsynced(fid);
        Ok(())
    }

    /// fsync of a file or directory.
    pub fn fsync_path(&mut self, path: &str) -> Res<()> {
        let fid = self.oracle.names().fid(path);
        let result = File::open(self.path(path));
        let file = self.ok(|| format!("opening {path}"), result)?;
        self.fsync(&file, fid)
    }

    /// `cairnfs sync`. It counts if the daemon of before still answers after it: then it was asked.
    pub fn sync(&mut self) -> Res<()> {
        let outcome = run(command(program()).arg("sync").arg(&self.store));
        if !self.is_alive() {
            return Err(Stop::Dead);
        }
        if outcome.code != 0 {
            return Err(Stop::Loss(format!("cairnfs sync: {}", outcome.said())));
        }
        self.oracle.all_synced();
        Ok(())
    }

    /// A stretch or the whole of a file: exactly what was written.
    pub fn read(&mut self, path: &str) -> Res<()> {
        let (fid, size) = self.sized(path);
        let result = File::open(self.path(path));
        let mut file = self.ok(|| format!("opening {path}"), result)?;
        if self.random.below(2) == 0 {
            let bytes = self.ok(|| format!("reading {path}"), read_anew(&mut file))?;
            self.stats.files_compared += 1;
            self.stats.bytes_compared += bytes.len() as u64;
            return match self.oracle.content(fid).differs(&bytes) {
                Some(text) => Err(self.loss(fid, path, &text)),
                None => Ok(()),
            };
        }
        let at = self.random.below(size as u64 + 1) as usize;
        let mut bytes = vec![0; 1 + self.random.below(70_000) as usize];
        let wanted = bytes.len().min(size - at);
        let result = read_fully(&file, &mut bytes, at);
        let len = self.ok(|| format!("reading {path} at {at}"), result)?;
        self.stats.bytes_compared += len as u64;
        if bytes[..len] != self.oracle.content(fid).now()[at..at + wanted] {
            return Err(self.loss(fid, path, &format!("{len} bytes at {at} are others than were written")));
        }
        Ok(())
    }

    /// An inode and its size.
    pub fn sized(&self, path: &str) -> (Fid, usize) {
        let fid = self.oracle.names().fid(path);
        (fid, self.oracle.content(fid).now().len())
    }
}

/// Reads until the buffer is full or the file ends.
fn read_fully(file: &File, bytes: &mut [u8], at: usize) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], (at + len) as u64)? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}
