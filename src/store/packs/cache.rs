//! Decoded regions, by bytes.

use lru::LruCache;

use crate::pack::{Location, Region};
use crate::sync::{Arc, Mutex};

/// The regions that were read last.
#[derive(Debug)]
pub(super) struct RegionCache {
    limit: u64,
    inner: Mutex<(u64, LruCache<Location, Arc<Region>>)>,
}

impl RegionCache {
    /// Keeps regions of `limit` plain bytes, and at least one.
    pub fn new(limit: u64) -> Self {
        Self { limit, inner: Mutex::new((0, LruCache::unbounded())) }
    }

    /// How many plain bytes are kept.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn get(&self, at: &Location) -> Option<Arc<Region>> {
        self.inner.lock().1.get(at).cloned()
    }

    pub fn put(&self, at: Location, region: Arc<Region>) {
        let mut inner = self.inner.lock();
        let (bytes, cache) = &mut *inner;
        *bytes += region.plain.len() as u64;
        if let Some((_, old)) = cache.push(at, region) {
            *bytes -= old.plain.len() as u64;
        }
        while *bytes > self.limit && cache.len() > 1 {
            match cache.pop_lru() {
                Some((_, old)) => *bytes -= old.plain.len() as u64,
                None => break,
            }
        }
    }
}
