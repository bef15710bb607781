//! A file with changes that are only in memory: for reading a database that must not be changed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::MediaFile;

const PAGE: u64 = 4096;

/// Reads come from a file, except for the ranges that were written since. Nothing is ever written to the file.
#[derive(Debug)]
pub struct Overlay {
    below: Arc<dyn MediaFile>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    len: u64,
    /// Bytes of the file below at or above this offset no longer exist.
    below_len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    /// Over `below`, which must not change meanwhile.
    pub fn new(below: Arc<dyn MediaFile>) -> io::Result<Self> {
        let len = below.len()?;
        Ok(Self { below, inner: Mutex::new(Inner { len, below_len: len, pages: BTreeMap::new() }) })
    }

    fn page(&self, inner: &Inner, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(page) = inner.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize];
        let begin = number * PAGE;
        if begin < inner.below_len {
            let there = PAGE.min(inner.below_len - begin) as usize;
            self.below.read_at(&mut page[..there], begin)?;
        }
        Ok(page.into())
    }
}

impl MediaFile for Overlay {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.inner.lock();
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= inner.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut at = offset;
        while at < end {
            let page = self.page(&inner, at / PAGE)?;
            let from = (at % PAGE) as usize;
            let len = (PAGE as usize - from).min((end - at) as usize);
            let to = (at - offset) as usize;
            buf[to..to + len].copy_from_slice(&page[from..from + len]);
            at += len as u64;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let mut page = self.page(&inner, at / PAGE)?;
            let from = (at % PAGE) as usize;
            let len = (PAGE as usize - from).min((end - at) as usize);
            let source = (at - offset) as usize;
            page[from..from + len].copy_from_slice(&data[source..source + len]);
            inner.pages.insert(at / PAGE, page);
            at += len as u64;
        }
        inner.len = inner.len.max(end);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inner.lock().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if len < inner.len {
            inner.below_len = inner.below_len.min(len);
            inner.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = inner.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
        }
        inner.len = len;
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.len = inner.len.max(offset + len);
        Ok(())
    }

    fn punch(&self, _offset: u64, _len: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn identity(&self) -> io::Result<u64> {
        self.below.identity()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Media;
    use crate::media::sim::{Rng, SimMedia};

    #[test]
    fn it_is_like_a_file_and_the_file_stays() {
        let media = SimMedia::new();
        let below = media.create("f").unwrap();
        let original: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        below.write_at(&original, 0).unwrap();
        let overlay = Overlay::new(below).unwrap();
        let mut model = original.clone();
        let mut rng = Rng::new(1);
        for _ in 0..2000 {
            let at = rng.below(30_000) as usize;
            match rng.below(4) {
                0 => {
                    overlay.set_len(at as u64).unwrap();
                    model.resize(at, 0);
                }
                1 | 2 => {
                    let data: Vec<u8> = (0..rng.below(9_000)).map(|_| rng.draw() as u8).collect();
                    overlay.write_at(&data, at as u64).unwrap();
                    model.resize(model.len().max(at + data.len()), 0);
                    model[at..at + data.len()].copy_from_slice(&data);
                }
                _ => {
                    let mut all = vec![0; model.len()];
                    overlay.read_at(&mut all, 0).unwrap();
                    assert!(all == model);
                    assert!(overlay.read_at(&mut [0; 1], model.len() as u64).is_err());
                }
            }
        }
        assert_eq!(media.contents("f").unwrap(), original);
    }
}
