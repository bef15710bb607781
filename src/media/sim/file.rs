//! An open file of the simulated disk.

use std::fmt;
use std::io;

use super::blocks::{BLOCK, Blocks};
use super::ops::OpKind;
use super::power::{Change, Edit, SECTOR};
use super::state::{Shared, State, errno};
use crate::media::MediaFile;

/// A file longer than this is a mistake of the test.
const MAX_LEN: u64 = 1 << 36;

/// An open file of a simulated disk.
pub struct SimFile {
    pub disk: Shared,
    pub ino: u64,
    pub path: String,
    pub writable: bool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if let Some(count) = state.open.get_mut(&self.ino) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.ino);
                state.release(self.ino);
            }
        }
    }
}

impl SimFile {
    fn query<T>(
        &self,
        kind: OpKind,
        range: (u64, u64),
        act: impl FnOnce(&Blocks) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.run(kind, &self.path, range, |state| act(&state.live.files[&self.ino]))
    }

    fn change(
        &self,
        kind: OpKind,
        (offset, len): (u64, u64),
        act: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        self.disk.run(kind, &self.path, (offset, len), |state| {
            if !self.writable {
                return Err(errno(libc::EBADF));
            }
            if offset.checked_add(len).is_none_or(|end| end > MAX_LEN) {
                return Err(errno(libc::EFBIG));
            }
            act(state)
        })
    }
}

impl MediaFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range = (offset, buf.len() as u64);
        self.query(OpKind::Read, range, |blocks| {
            if blocks.read(buf, offset) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })
    }

    /// On a full disk the blocks that still fit are written, as a host does.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let written = self.change(OpKind::Write, (offset, data.len() as u64), |state| {
            let free = state.room();
            let blocks = &state.live.files[&self.ino];
            let mut fits = data.len() as u64;
            while blocks.needed(offset, fits) > free {
                fits = ((offset + fits - 1) / BLOCK * BLOCK).saturating_sub(offset);
            }
            if fits > 0 {
                let data = data[..fits as usize].into();
                state.edit(self.ino, Edit::Write { offset, data });
            }
            if fits < data.len() as u64 {
                return Err(state.full());
            }
            Ok(())
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let half = (offset + data.len() as u64 / 2) / SECTOR * SECTOR;
                let data = &data[..half.saturating_sub(offset) as usize];
                self.disk.lock().edit(self.ino, Edit::Write { offset, data: data.into() });
                Err(errno(libc::EIO))
            }
            written => written,
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.query(OpKind::Len, (0, 0), |blocks| Ok(blocks.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(OpKind::SetLen, (len, 0), |state| {
            state.edit(self.ino, Edit::SetLen(len));
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(OpKind::Allocate, (offset, len), |state| {
            if state.live.files[&self.ino].needed(offset, len) > state.room() {
                return Err(state.full());
            }
            state.edit(self.ino, Edit::Allocate { offset, len });
            Ok(())
        })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.change(OpKind::Punch, (offset, len), |state| {
            state.edit(self.ino, Edit::Punch { offset, len });
            Ok(())
        })?;
        Ok(true)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.disk.lock().live.files[&self.ino].allocated())
    }

    fn identity(&self) -> io::Result<u64> {
        Ok(self.ino)
    }

    fn sync(&self) -> io::Result<()> {
        let ino = self.ino;
        let failed = Change::SyncFailed { ino };
        self.disk.run_or(OpKind::Sync, &self.path, (0, 0), failed, |state| {
            state.log.push(Change::Sync { ino });
            Ok(())
        })
    }
}
