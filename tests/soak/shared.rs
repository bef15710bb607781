//! The directory that all workers share, without a lock between them.
//!
//! A file there never changes, and its name says what is in it: so whoever finds it knows what it must hold, whoever
//! put it there, and whoever takes it away or replaces it at that moment. It gets its name after its fsync, so that
//! this holds after a kill as well. Clones of such files are where several processes refer to the same chunks in the
//! same moment, and lose their source while they do.

use std::fs::{self, File};
use std::io::{self, Write};

use crate::data::noise;
use crate::oracle::Fid;
use crate::worker::{Res, Stop, Worker, read_anew};

/// Its name in the root of the mount.
pub const SHARED: &str = "shared";
/// Few enough that each is made and removed again and again, by all.
const KINDS: u64 = 12;
const LENGTHS: [usize; 3] = [5_000, 60_000, 400_000];
/// What fsync of a file outside of the oracle is noted under: names are durable after it, and no content.
const OUTSIDE: Fid = 0;

fn content(name: &str) -> Option<Vec<u8>> {
    let (kind, len) = name.strip_prefix('k')?.split_once('-')?;
    Some(noise(kind.parse().ok()?, len.parse().ok()?))
}

impl Worker {
    fn some_shared(&mut self) -> String {
        let len = LENGTHS[self.random.below(LENGTHS.len() as u64) as usize];
        format!("k{}-{len}", self.random.below(KINDS))
    }

    /// A file of another worker's, or one's own, if it is there at this moment.
    fn open_shared(&self, name: &str) -> Res<Option<File>> {
        match File::open(self.path(SHARED).join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => self.ok(|| format!("opening shared {name}"), result).map(Some),
        }
    }

    /// Puts a file there, over an equal one if there is one.
    pub fn share(&mut self) -> Res<()> {
        let name = self.some_shared();
        let bytes = content(&name).expect("the name says it");
        let new = self.path(SHARED).join(format!("new-{}", self.number));
        let written = File::create(&new).and_then(|mut file| file.write_all(&bytes).map(|()| file));
        let file = self.ok(|| format!("writing shared {name}"), written)?;
        self.stats.bytes_written += bytes.len() as u64;
        self.fsync(&file, OUTSIDE)?;
        let renamed = fs::rename(&new, self.path(SHARED).join(&name));
        self.ok(|| format!("renaming to shared {name}"), renamed)
    }

    /// Takes one away, whoever uses it.
    pub fn unshare(&mut self) -> Res<()> {
        let name = self.some_shared();
        match fs::remove_file(self.path(SHARED).join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => self.ok(|| format!("removing shared {name}"), result),
        }
    }

    /// Clones one into a file of this worker's own.
    pub fn take_shared(&mut self, to: &str) -> Res<()> {
        let name = self.some_shared();
        let Some(file) = self.open_shared(&name)? else { return Ok(()) };
        let bytes = content(&name).expect("the name says it");
        self.create_as(to, |worker, output, fid| {
            worker.clone_stretch((&file, &bytes, 0), (output, fid, 0), bytes.len())
        })?;
        Ok(())
    }

    pub fn read_shared(&mut self) -> Res<()> {
        let name = self.some_shared();
        self.compare_shared(&name)
    }

    fn compare_shared(&mut self, name: &str) -> Res<()> {
        let (Some(mut file), Some(bytes)) = (self.open_shared(name)?, content(name)) else { return Ok(()) };
        let found = self.ok(|| format!("reading shared {name}"), read_anew(&mut file))?;
        self.stats.files_compared += 1;
        self.stats.bytes_compared += found.len() as u64;
        if found == bytes {
            return Ok(());
        }
        let at = found.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(found.len().min(bytes.len()));
        let text =
            format!("shared {name} has {} bytes, and others than its name says from {at} on", found.len());
        Err(Stop::Loss(text))
    }

    fn shared_names(&self) -> Res<Vec<String>> {
        let listed = fs::read_dir(self.path(SHARED)).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
        });
        self.ok(|| "listing what is shared".to_owned(), listed)
    }

    /// All that is there at this moment.
    pub fn compare_all_shared(&mut self) -> Res<()> {
        for name in self.shared_names()? {
            self.compare_shared(&name)?;
        }
        Ok(())
    }

    /// Everything goes; others are at it as well.
    pub fn delete_all_shared(&mut self) -> Res<()> {
        for name in self.shared_names()? {
            match fs::remove_file(self.path(SHARED).join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => self.ok(|| format!("removing shared {name}"), result)?,
            }
        }
        Ok(())
    }
}
