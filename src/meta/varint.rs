//! Numbers in few bytes: seven bits a byte, least significant first, the top bit says that more follow (LEB128).

use crate::error::{Error, Result};

/// Appends a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number off the front of `from`.
pub fn take(from: &mut &[u8]) -> Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) =
            from.split_first().ok_or_else(|| Error::damaged("a metadata row ends inside a number"))?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Error::damaged("a metadata row holds a number of more than 64 bits"))
}
