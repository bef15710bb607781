//! The ioctls a file answers: generation (`lsattr -v`), flags (`lsattr`, `chattr`) in their two forms.
//!
//! Sizes are a trap. The numbers of GETVERSION and GETFLAGS say 8 bytes, every program passes an `int`, and the
//! kernel copies out as many bytes as the reply has: all three must be 4.

use crate::error::{Error, Result};
use crate::fs::{Caller, Fs};

const GET_VERSION: u32 = 0x8008_7601;
const GET_VERSION_32: u32 = 0x8004_7601;
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const FS_GET_XATTR: u32 = 0x801c_581f;
const FS_SET_XATTR: u32 = 0x401c_5820;

/// struct fsxattr: xflags, extsize, nextents, projid, cowextsize (32 bits each), 8 bytes of padding.
const FSXATTR_SIZE: usize = 28;

/// FS_IMMUTABLE_FL and FS_APPEND_FL.
const PROTECTING: u32 = 0x30;

/// FS_XFLAG_x and the FS_x_FL of the same meaning.
const FLAG_PAIRS: [(u32, u32); 5] = [
    (0x08, 0x10), // immutable
    (0x10, 0x20), // append
    (0x20, 0x08), // sync
    (0x40, 0x80), // noatime
    (0x80, 0x40), // nodump
];

/// True for the commands that change an inode.
pub(super) fn changes(command: u32) -> bool {
    matches!(command, SET_FLAGS | FS_SET_XATTR)
}

/// True for the commands that set a flag against changes.
pub(super) fn protects(command: u32, input: &[u8]) -> bool {
    let flags = match command {
        SET_FLAGS => word(input, 0),
        FS_SET_XATTR => from_fsxattr(input),
        _ => return false,
    };
    flags.is_ok_and(|flags| flags & PROTECTING != 0)
}

/// Answers one ioctl with the bytes to copy out.
pub(super) fn answer(fs: &Fs, ino: u64, caller: Caller, command: u32, input: &[u8]) -> Result<Vec<u8>> {
    match command {
        GET_VERSION | GET_VERSION_32 => {
            // The kernel, too, keeps the low 32 bits.
            let generation = fs.getattr(ino)?.generation as u32;
            Ok(generation.to_ne_bytes().to_vec())
        }
        GET_FLAGS => Ok(fs.inode_flags(ino)?.to_ne_bytes().to_vec()),
        SET_FLAGS => {
            fs.set_inode_flags(ino, caller, word(input, 0)?)?;
            Ok(Vec::new())
        }
        FS_GET_XATTR => {
            let mut answer = vec![0; FSXATTR_SIZE];
            let flags = to_xflags(fs.inode_flags(ino)?);
            answer[..4].copy_from_slice(&flags.to_ne_bytes());
            Ok(answer)
        }
        FS_SET_XATTR => {
            fs.set_inode_flags(ino, caller, from_fsxattr(input)?)?;
            Ok(Vec::new())
        }
        _ => Err(Error::Posix(libc::ENOTTY)),
    }
}

fn word(input: &[u8], at: usize) -> Result<u32> {
    let bytes =
        input.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or(Error::Posix(libc::EINVAL))?;
    Ok(u32::from_ne_bytes(bytes))
}

fn to_xflags(flags: u32) -> u32 {
    FLAG_PAIRS.iter().filter(|(_, flag)| flags & flag != 0).fold(0, |all, (xflag, _)| all | xflag)
}

/// The flags of a struct fsxattr that asks for nothing else: extent sizes and projects do not exist here.
fn from_fsxattr(input: &[u8]) -> Result<u32> {
    let xflags = word(input, 0)?;
    let known = FLAG_PAIRS.iter().fold(0, |all, (xflag, _)| all | xflag);
    let (extsize, projid, cowextsize) = (word(input, 4)?, word(input, 12)?, word(input, 16)?);
    if xflags & !known != 0 || extsize != 0 || projid != 0 || cowextsize != 0 {
        return Err(Error::Posix(libc::EOPNOTSUPP));
    }
    Ok(FLAG_PAIRS.iter().filter(|(xflag, _)| xflags & xflag != 0).fold(0, |all, (_, flag)| all | flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_flags_agree() {
        for flags in 0..=0xff_u32 {
            let kept = flags & 0xf8;
            let mut input = [0; FSXATTR_SIZE];
            input[..4].copy_from_slice(&to_xflags(flags).to_ne_bytes());
            assert_eq!(from_fsxattr(&input).ok(), Some(kept));
        }
    }

    #[test]
    fn what_does_not_exist_here_is_refused() {
        for at in [4, 12, 16] {
            let mut input = [0; FSXATTR_SIZE];
            input[at] = 1;
            let error = from_fsxattr(&input).map_err(|error| error.errno());
            assert_eq!(error, Err(libc::EOPNOTSUPP));
        }
        let error = from_fsxattr(&[0; 3]).map_err(|error| error.errno());
        assert_eq!(error, Err(libc::EINVAL));
    }
}
