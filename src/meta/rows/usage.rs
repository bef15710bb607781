//! Rows of what subvolumes hold.

use crate::error::{Error, Result};
use crate::meta::varint;

use super::inode::Timestamp;

/// What is in a subvolume, its root not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageRow {
    /// Inodes with a name.
    pub files: u64,
    /// The sizes of all regular files among them, as stat(2) shows them.
    pub bytes: u64,
    /// When anything in it was changed last.
    pub changed: Timestamp,
}

const FORM: u8 = 1;

impl UsageRow {
    /// Of a subvolume that was made, with nothing in it.
    pub fn empty(born: Timestamp) -> Self {
        Self { files: 0, bytes: 0, changed: born }
    }

    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORM];
        varint::put(&mut out, self.files);
        varint::put(&mut out, self.bytes);
        self.changed.put(&mut out);
        out
    }

    /// The row from its bytes.
    pub fn decode(from: &[u8]) -> Result<Self> {
        let wrong = || Error::damaged("the row of what a subvolume holds does not decode");
        let (&form, mut rest) = from.split_first().ok_or_else(wrong)?;
        let (files, bytes) = (varint::take(&mut rest)?, varint::take(&mut rest)?);
        let changed = Timestamp::take(&mut rest)?;
        if form != FORM || !rest.is_empty() {
            return Err(wrong());
        }
        Ok(Self { files, bytes, changed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(row) = UsageRow::decode(&bytes) {
                prop_assert_eq!(UsageRow::decode(&row.encode()).unwrap(), row);
            }
        }

        #[test]
        fn a_row_comes_back(files: u64, bytes: u64, sec: i64) {
            let row = UsageRow { files, bytes, changed: Timestamp { sec, nsec: 7 } };
            prop_assert_eq!(UsageRow::decode(&row.encode()).unwrap(), row);
        }
    }
}
