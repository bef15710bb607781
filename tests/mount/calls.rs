//! System calls about flags, handles, locks and attributes, beside those of `sys`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const GET_FLAGS: u64 = 0x8008_6601;
const SET_FLAGS: u64 = 0x4008_6602;
const GET_XFLAGS: u64 = 0x801c_581f;
const SET_XFLAGS: u64 = 0x401c_5820;

/// FS_IMMUTABLE_FL.
pub const IMMUTABLE: u32 = 0x10;
/// FS_APPEND_FL.
pub const APPEND_ONLY: u32 = 0x20;
/// FS_NODUMP_FL.
pub const NO_DUMP: u32 = 0x40;
/// FS_XFLAG_IMMUTABLE.
pub const X_IMMUTABLE: u32 = 0x08;
/// FS_XFLAG_APPEND.
pub const X_APPEND: u32 = 0x10;

/// The errno of a result; 0 if there was no error.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().expect("an errno"))
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no path here has a NUL")
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// FS_IOC_GETFLAGS.
pub fn flags(path: &Path) -> io::Result<u32> {
    let file = File::open(path)?;
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    done(unsafe { libc::ioctl(file.as_raw_fd(), GET_FLAGS as _, &mut flags) })?;
    Ok(flags as u32)
}

/// FS_IOC_SETFLAGS.
pub fn set_flags(path: &Path, flags: u32) -> io::Result<()> {
    let file = File::open(path)?;
    let flags = flags as libc::c_int;
    // SAFETY: the kernel reads one int.
    done(unsafe { libc::ioctl(file.as_raw_fd(), SET_FLAGS as _, &flags) })
}

/// FS_IOC_FSGETXATTR, its flags.
pub fn xflags(path: &Path) -> io::Result<u32> {
    let file = File::open(path)?;
    let mut fsxattr = [0_u32; 7];
    // SAFETY: the kernel writes a struct fsxattr, 28 bytes.
    done(unsafe { libc::ioctl(file.as_raw_fd(), GET_XFLAGS as _, &mut fsxattr) })?;
    Ok(fsxattr[0])
}

/// FS_IOC_FSSETXATTR with these flags.
pub fn set_xflags(path: &Path, flags: u32) -> io::Result<()> {
    let file = File::open(path)?;
    let fsxattr = [flags, 0, 0, 0, 0, 0, 0_u32];
    // SAFETY: the kernel reads a struct fsxattr, 28 bytes.
    done(unsafe { libc::ioctl(file.as_raw_fd(), SET_XFLAGS as _, &fsxattr) })
}

/// A file handle as name_to_handle_at(2) gives it.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

/// name_to_handle_at(2).
pub fn handle(path: &Path) -> io::Result<Handle> {
    let path = c_path(path);
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0;
    // SAFETY: the string ends with NUL; the handle has the room that it says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            std::ptr::from_mut(&mut handle),
            std::ptr::from_mut::<i32>(&mut mount),
            0,
        )
    };
    done(result as _).map(|()| handle)
}

/// open_by_handle_at(2). Programs that other tests start do not inherit the file: they would keep the mount busy.
pub fn open_handle(mount: &Path, handle: &Handle, flags: i32) -> io::Result<File> {
    let (mount, flags) = (File::open(mount)?, flags | libc::O_CLOEXEC);
    // SAFETY: the handle is as long as it says.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), std::ptr::from_ref(handle), flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else has the descriptor.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

/// removexattr(2).
pub fn remove_xattr(path: &Path, name: &CStr) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: both strings end with NUL.
    done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
}

/// mknod(2).
pub fn mknod(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string ends with NUL.
    done(unsafe { libc::mknod(path.as_ptr(), mode, device) })
}

/// A lock of fcntl(2), with F_OFD_SETLK: `kind` is F_RDLCK, F_WRLCK or F_UNLCK.
pub fn record_lock(file: &File, kind: i32, start: i64, len: i64) -> io::Result<()> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (kind as _, libc::SEEK_SET as _, start, len);
    // SAFETY: the lock outlives the call; the descriptor is open.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) })
}

/// Some more entries of an open directory, by getdents64(2): names, and the cookies behind them.
pub fn entries(dir: &File) -> io::Result<Vec<(String, i64)>> {
    let mut buffer = vec![0_u8; 32 << 10];
    // SAFETY: the kernel writes no more than the buffer has.
    let len =
        unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut rest, mut found) = (&buffer[..len as usize], Vec::new());
    while !rest.is_empty() {
        let cookie = i64::from_ne_bytes(rest[8..16].try_into().unwrap());
        let size = u16::from_ne_bytes(rest[16..18].try_into().unwrap());
        let (entry, behind) = rest.split_at(size.into());
        let name = CStr::from_bytes_until_nul(&entry[19..]).unwrap();
        found.push((name.to_string_lossy().into_owned(), cookie));
        rest = behind;
    }
    Ok(found)
}

/// truncate(2), by name.
pub fn truncate(path: &Path, len: i64) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string ends with NUL.
    done(unsafe { libc::truncate(path.as_ptr(), len) })
}
