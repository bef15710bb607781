//! The ioctls a file answers: generation (`lsattr -v`), flags (`lsattr`, `chattr`) in their two forms.
//!
//! Note the sizes. The numbers of GETVERSION and GETFLAGS say 8 bytes, but every program passes an `int`, and the
//! kernel copies out as many bytes as the reply has. So the reply must have 4.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Result};
use crate::fs::{APPEND_ONLY, Caller, Fs, IMMUTABLE, NO_ATIME, NO_DUMP, PROTECTING};

const GET_VERSION: u32 = 0x8008_7601;
const GET_VERSION_32: u32 = 0x8004_7601;
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const FS_GET_XATTR: u32 = 0x801c_581f;
const FS_SET_XATTR: u32 = 0x401c_5820;

/// struct fsxattr.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    _pad: [u8; 8],
}

/// FS_SYNC_FL, which is known and not kept.
const SYNC: u32 = 0x08;

/// FS_XFLAG_x and the FS_x_FL of the same meaning.
const FLAG_PAIRS: [(u32, u32); 5] =
    [(0x08, IMMUTABLE), (0x10, APPEND_ONLY), (0x20, SYNC), (0x40, NO_ATIME), (0x80, NO_DUMP)];

/// True for the commands that change an inode.
pub(super) fn changes(command: u32) -> bool {
    matches!(command, SET_FLAGS | FS_SET_XATTR)
}

/// True for the commands that set a flag against changes.
pub(super) fn protects(command: u32, input: &[u8]) -> bool {
    let flags = match command {
        SET_FLAGS => passed(input),
        FS_SET_XATTR => from_fsxattr(input),
        _ => return false,
    };
    flags.is_ok_and(|flags| flags & PROTECTING != 0)
}

/// Answers one ioctl with the bytes to copy out.
pub(super) fn answer(fs: &Fs, ino: u64, caller: Caller, command: u32, input: &[u8]) -> Result<Vec<u8>> {
    match command {
        GET_VERSION | GET_VERSION_32 => {
            // The kernel also keeps the low 32 bits.
            let generation = fs.getattr(ino)?.generation as u32;
            Ok(generation.to_ne_bytes().to_vec())
        }
        GET_FLAGS => Ok(fs.inode_flags(ino)?.to_ne_bytes().to_vec()),
        SET_FLAGS => {
            fs.set_inode_flags(ino, caller, passed(input)?)?;
            Ok(Vec::new())
        }
        FS_GET_XATTR => {
            let xflags = to_xflags(fs.inode_flags(ino)?);
            Ok(FsXattr { xflags, ..FsXattr::default() }.as_bytes().to_vec())
        }
        FS_SET_XATTR => {
            fs.set_inode_flags(ino, caller, from_fsxattr(input)?)?;
            Ok(Vec::new())
        }
        _ => Err(Error::Posix(libc::ENOTTY)),
    }
}

/// What a program has passed.
fn passed<T: FromBytes>(input: &[u8]) -> Result<T> {
    T::read_from_prefix(input).map(|(passed, _)| passed).map_err(|_| Error::Posix(libc::EINVAL))
}

fn to_xflags(flags: u32) -> u32 {
    FLAG_PAIRS.iter().filter(|(_, flag)| flags & flag != 0).fold(0, |all, (xflag, _)| all | xflag)
}

/// The flags of a struct fsxattr that asks for nothing else: extent sizes and projects do not exist here.
fn from_fsxattr(input: &[u8]) -> Result<u32> {
    let FsXattr { xflags, extsize, projid, cowextsize, .. } = passed(input)?;
    let known = FLAG_PAIRS.iter().fold(0, |all, (xflag, _)| all | xflag);
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
            let input = FsXattr { xflags: to_xflags(flags), ..FsXattr::default() };
            assert_eq!(from_fsxattr(input.as_bytes()).ok(), Some(kept));
        }
    }

    #[test]
    fn what_does_not_exist_here_is_refused() {
        for at in [4, 12, 16] {
            let mut input = [0; 28];
            input[at] = 1;
            let error = from_fsxattr(&input).map_err(|error| error.errno());
            assert_eq!(error, Err(libc::EOPNOTSUPP));
        }
        let error = from_fsxattr(&[0; 3]).map_err(|error| error.errno());
        assert_eq!(error, Err(libc::EINVAL));
    }
}
