//! System calls that the standard library has no words for. The only `unsafe` of these tests.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no path here has a NUL")
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub fn kill(pid: i32, signal: i32) {
    assert!(pid > 0);
    // SAFETY: takes numbers only.
    unsafe { libc::kill(pid, signal) };
}

/// True until a process has ended, reaped or not.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// True while a process is stopped, as by SIGSTOP.
pub fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

/// renameat2(2).
pub fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c_path(from), c_path(to));
    // SAFETY: both strings end with NUL and outlive the call.
    done(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
}

/// lseek(2) with SEEK_DATA or SEEK_HOLE.
pub fn seek(file: &File, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: takes numbers only; the descriptor is open.
    match unsafe { libc::lseek(file.as_raw_fd(), offset, whence) } {
        -1 => Err(io::Error::last_os_error()),
        found => Ok(found),
    }
}

/// Ends a file system as if its disk were pulled out: `EXT4_IOC_SHUTDOWN`, which XFS has too, without writing its log.
pub fn shut_down(dir: &File) -> io::Result<()> {
    const SHUTDOWN: libc::c_ulong = 0x8004_587d;
    let without_log: u32 = 2;
    // SAFETY: the descriptor is open, and the request reads four bytes that outlive the call.
    done(unsafe { libc::ioctl(dir.as_raw_fd(), SHUTDOWN as _, &without_log) })
}

pub fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> io::Result<()> {
    // SAFETY: takes numbers only; the descriptor is open.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// copy_file_range(2) with both offsets given.
pub fn copy_range(from: &File, mut at: i64, to: &File, mut to_at: i64, len: usize) -> io::Result<usize> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: the offsets outlive the call; the descriptors are open.
    match unsafe { libc::copy_file_range(from, &mut at, to, &mut to_at, len, 0) } {
        -1 => Err(io::Error::last_os_error()),
        copied => Ok(copied as usize),
    }
}

/// Has the kernel forget the pages of a file, so that the next read asks the daemon.
pub fn forget_pages(file: &File) {
    // SAFETY: takes numbers only; the descriptor is open.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0, "posix_fadvise");
}

/// A file mapped to memory, shared.
pub struct Mapped {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapped {
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the kernel chooses the place.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at, len }) }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped until dropped, and the tests let nobody else change the file meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }

    /// Stores one byte, while others may write elsewhere in the same page.
    pub fn store(&mut self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.at.cast::<u8>().add(at).write_volatile(byte) };
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping is whole.
        done(unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// statfs of the file system at a path.
pub fn statvfs(path: &Path) -> io::Result<libc::statvfs> {
    let path = c_path(path);
    // SAFETY: plain numbers, for which zero is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the string ends with NUL, and the kernel fills in what `found` is.
    done(unsafe { libc::statvfs(path.as_ptr(), &mut found) })?;
    Ok(found)
}

/// The lock that a store's owner holds.
pub fn flock(file: &File, operation: i32) -> io::Result<()> {
    // SAFETY: takes numbers only; the descriptor is open.
    done(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

/// A named pipe.
pub fn mkfifo(path: &Path) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string ends with NUL.
    done(unsafe { libc::mkfifo(path.as_ptr(), 0o644) })
}

/// Sets a user xattr.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).expect("no NUL"));
    let bytes = value.as_ptr().cast();
    // SAFETY: both strings end with NUL; the value is as long as is said.
    done(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), bytes, value.len(), 0) })
}

pub fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}
