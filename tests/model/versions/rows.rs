//! Rows: of versions, subvolumes and their names, of keys at versions, of contents, of chunks; and layers of them.

/// Versions are 1 and up, in the order in which they were made; 0 is none.
pub const VERSIONS: usize = 9;
/// Subvolumes are 1 and up; 0 is none.
pub const SUBS: usize = 5;
/// Keys: files.
pub const KEYS: usize = 2;
/// Chunks are 1 and up; 0 is none.
pub const CHUNKS: usize = 8;

const SUB: usize = VERSIONS;
const NAME: usize = SUB + SUBS;
const ROW: usize = NAME + SUBS;
const CONTENT: usize = ROW + KEYS * VERSIONS;
const CHUNK: usize = CONTENT + KEYS * VERSIONS;
const ALL: usize = CHUNK + CHUNKS;

/// The value of a row of a layer that says that there is none.
const GONE: u8 = 0xfe;
/// The layer says nothing of the row.
const UNSAID: u8 = 0xff;

/// The version or leaf in the value of a row of a version or a subvolume.
pub const NUMBER: u8 = 0x0f;
/// The subvolume has a name.
pub const NAMED: u8 = 0x10;
/// The durable record that it is dropped.
pub const DROPPED: u8 = 0x20;
/// The row does not decode. The number is still there: a repair may have it from the second copy.
pub const ROTTEN: u8 = 0x40;
/// The value of a key that was deleted below rows of other versions.
pub const WHITEOUT: u8 = 0;

/// Which row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At(pub u8);

/// Its value is the parent.
pub fn version(v: u8) -> At {
    At(v)
}

/// Its value is the leaf, with flags.
pub fn sub(n: u8) -> At {
    At((SUB + n as usize) as u8)
}

/// The entry in the directory above.
pub fn name(n: u8) -> At {
    At((NAME + n as usize) as u8)
}

/// The row of a key at a version; its value is the version whose content it names, or a whiteout.
pub fn row(k: usize, v: u8) -> At {
    At((ROW + k * VERSIONS + v as usize) as u8)
}

/// The extents of a content: the chunk of the first stretch, and that of the second or 0, in four bits each.
pub fn content(k: usize, v: u8) -> At {
    At((CONTENT + k * VERSIONS + v as usize) as u8)
}

/// Its value is the digest.
pub fn chunk(id: u8) -> At {
    At((CHUNK + id as usize) as u8)
}

/// The chunks of a content.
pub fn chunks(content: u8) -> impl Iterator<Item = u8> {
    [content >> 4, content & 0x0f].into_iter().filter(|id| *id > 0)
}

/// A layer, or all that is there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rows([u8; ALL]);

impl Rows {
    /// A layer that says nothing.
    pub const fn layer() -> Self {
        Self([UNSAID; ALL])
    }

    /// Nothing is there.
    pub const fn database() -> Self {
        Self([GONE; ALL])
    }

    pub fn get(&self, at: At) -> Option<u8> {
        Some(self.0[at.0 as usize]).filter(|value| *value < GONE)
    }

    pub fn has(&self, at: At) -> bool {
        self.get(at).is_some()
    }

    pub fn put(&mut self, at: At, value: u8) {
        self.0[at.0 as usize] = value;
    }

    pub fn delete(&mut self, at: At) {
        self.put(at, GONE);
    }

    /// True if the layer says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|value| *value == UNSAID)
    }

    /// Lays a layer over this.
    pub fn apply(&mut self, layer: &Rows) {
        for (value, above) in self.0.iter_mut().zip(layer.0) {
            if above != UNSAID {
                *value = above;
            }
        }
    }

    /// Removes all rows of a set.
    pub fn remove(&mut self, gone: Set) {
        gone.all().for_each(|at| self.delete(at));
    }

    /// The leaf of a subvolume.
    pub fn leaf(&self, n: u8) -> Option<u8> {
        self.get(sub(n)).map(|value| value & NUMBER)
    }

    /// Has a name, by its row and its directory, and is not dropped.
    pub fn is_named(&self, n: u8) -> bool {
        self.has(name(n)) && self.get(sub(n)).is_some_and(|value| value & (NAMED | DROPPED) == NAMED)
    }

    /// A version and those above it, as a reader goes who takes a row that does not decode for `absent` or not.
    pub fn upwards(&self, from: u8, absent: bool) -> impl Iterator<Item = u8> + '_ {
        let known = move |v: &u8| {
            let value = self.get(version(*v));
            *v > 0 && value.is_some_and(|value| !absent || value & ROTTEN == 0)
        };
        let above = move |v: &u8| self.get(version(*v)).map(|value| value & NUMBER).filter(known);
        // Where a number is given twice, the way up may be a circle.
        std::iter::successors(Some(from).filter(known), above).take(VERSIONS)
    }

    /// The first row of a key on the way up from a version, and where it stands.
    pub fn first(&self, k: usize, from: u8, absent: bool) -> Option<(u8, u8)> {
        self.upwards(from, absent).find_map(|v| Some((v, self.get(row(k, v))?)))
    }

    /// All versions that are there.
    pub fn versions(&self) -> impl Iterator<Item = u8> + '_ {
        (1..VERSIONS as u8).filter(|v| self.has(version(*v)))
    }

    /// All subvolumes that are there, and their rows.
    pub fn subs(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        (1..SUBS as u8).filter_map(|n| Some((n, self.get(sub(n))?)))
    }

    /// All contents.
    pub fn contents(&self) -> impl Iterator<Item = (usize, u8, u8)> + '_ {
        let all = (0..KEYS).flat_map(|k| (1..VERSIONS as u8).map(move |v| (k, v)));
        all.filter_map(|(k, v)| Some((k, v, self.get(content(k, v))?)))
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = self.0.iter().enumerate().filter(|(_, value)| **value != UNSAID);
        f.debug_map().entries(said).finish()
    }
}

/// Some rows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Set(u128);

impl Set {
    pub fn add(&mut self, at: At) {
        self.0 |= 1 << at.0;
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn all(self) -> impl Iterator<Item = At> {
        (0..ALL as u8).filter(move |at| self.0 >> at & 1 == 1).map(At)
    }
}

/// Some versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Versions(u16);

impl Versions {
    pub fn add(&mut self, v: u8) {
        self.0 |= 1 << v;
    }

    pub fn has(self, v: u8) -> bool {
        self.0 >> v & 1 == 1
    }

    pub fn all(self) -> impl Iterator<Item = u8> {
        (1..VERSIONS as u8).filter(move |v| self.has(*v))
    }
}
