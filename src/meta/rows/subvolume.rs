//! Rows of subvolumes.

use crate::error::{Error, Result};
use crate::meta::varint;
use crate::meta::versions::Version;

use super::inode::Timestamp;
use super::version::versioned_key;

/// A subvolume: where it is, and at which version it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeRow {
    /// The version at which it reads and writes.
    pub leaf: Version,
    /// The number of its root directory inside it.
    pub root: u64,
    /// The directory that has its name.
    pub parent: u64,
    /// It was removed: what it alone has is to be reaped.
    pub dropped: bool,
    /// Its root is immutable: nothing in it changes.
    pub protected: bool,
    /// The subvolume that it was cloned from; 0 if it was none.
    pub source: u64,
    /// When it was made.
    pub born: Timestamp,
    /// When somebody said that it is complete.
    pub sealed: Option<Timestamp>,
    /// Its name; empty until it has one, and after it was dropped.
    pub name: Vec<u8>,
}

const FORM: u8 = 1;

impl SubvolumeRow {
    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48 + self.name.len());
        out.push(FORM);
        let sealed = self.sealed.unwrap_or(Timestamp { sec: 0, nsec: 0 });
        let flags = u64::from(self.dropped) | u64::from(self.protected) << 1;
        for number in [self.leaf.0, self.root, self.parent, flags, self.source] {
            varint::put(&mut out, number);
        }
        [self.born, sealed].into_iter().for_each(|time| time.put(&mut out));
        out.extend_from_slice(&self.name);
        out
    }

    /// The row from its bytes.
    pub fn decode(from: &[u8]) -> Result<Self> {
        let wrong = || Error::damaged("the row of a subvolume does not decode");
        let (&form, mut rest) = from.split_first().ok_or_else(wrong)?;
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = varint::take(&mut rest)?;
        }
        let [leaf, root, parent, flags, source] = numbers;
        let (born, sealed) = (Timestamp::take(&mut rest)?, Timestamp::take(&mut rest)?);
        let sealed = (sealed != Timestamp { sec: 0, nsec: 0 }).then_some(sealed);
        if form != FORM || flags > 3 {
            return Err(wrong());
        }
        let (leaf, name) = (Version(leaf), rest.to_vec());
        let (dropped, protected) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Self { leaf, root, parent, dropped, protected, source, born, sealed, name })
    }
}

/// The key of one of the rows of a subvolume, of which there are as many as of a version's.
pub fn subvolume_key(copy: u8, number: u64) -> Vec<u8> {
    versioned_key(&[copy], Version(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(row) = SubvolumeRow::decode(&bytes) {
                prop_assert_eq!(SubvolumeRow::decode(&row.encode()).unwrap(), row);
            }
        }

        #[test]
        fn a_row_comes_back(leaf: u64, root: u64, parent: u64, flags: [bool; 3], source: u64, sec: i64, name: Vec<u8>) {
            let born = Timestamp { sec, nsec: 7 };
            let [dropped, protected, sealed] = flags;
            let (leaf, sealed) = (Version(leaf), sealed.then_some(born));
            let row = SubvolumeRow { leaf, root, parent, dropped, protected, source, born, sealed, name };
            prop_assert_eq!(SubvolumeRow::decode(&row.encode()).unwrap(), row);
        }
    }
}
