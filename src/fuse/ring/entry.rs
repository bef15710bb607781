//! One entry of a queue: the memory for one request and its reply at a time, and the io_uring that signals them.
//!
//! Keeps true: from the completion of a request to the submission of its reply, the memory is ours. At all other times
//! it belongs to the kernel, and nothing here touches it. The memory outlives the ring that refers to it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{EntryState, InHeader, OutHeader};
use crate::fuse::init::MAX_WRITE;

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// struct fuse_uring_req_header: the request's or reply's header, the operation's own, and the transport's.
const HEADER_SIZE: usize = 288;
const OPERATION_AT: usize = 128;
const STATE_AT: usize = 256;

/// Where io_uring's entry has the length that belongs to its address.
const SQE_LEN_AT: usize = 24;
const PAGE: usize = 4096;

type Ring = IoUring<squeue::Entry128, cqueue::Entry>;

/// An entry with its ring. Belongs to one thread.
pub(super) struct Entry {
    /// Dropped before the memory it names.
    ring: Ring,
    /// The connection.
    connection: Arc<OwnedFd>,
    queue: u16,
    /// The last submission, which is repeated after an interruption by a signal.
    last: (u32, u64),
    /// The addresses that REGISTER hands over: header and payload.
    vectors: Box<[libc::iovec; 2]>,
    /// Holds both; aligned to pages inside.
    memory: Vec<u8>,
}

/// A request.
pub(super) struct Request {
    /// The header.
    pub header: InHeader,
    /// The header of the operation; bytes that it does not fill are from earlier requests.
    pub operation: [u8; OPERATION_AT],
    /// Bytes of the payload that belong to it.
    pub payload: usize,
    /// Names the request when its reply is committed.
    commit_id: u64,
}

/// A ring such as entries use. Fails where the system does not allow io_uring.
pub(super) fn new_ring() -> io::Result<Ring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(2)
}

impl Entry {
    /// A new entry for the queue of one processor, to be used by the calling thread.
    pub(super) fn new(connection: Arc<OwnedFd>, queue: u16) -> io::Result<Self> {
        // Zeroed memory of this size costs nothing until it is touched.
        let mut memory = vec![0_u8; 3 * PAGE + MAX_WRITE as usize];
        let start = memory.as_mut_ptr();
        // In bounds: at most a page less one byte is skipped, and there is a page for that.
        let header = start.wrapping_add(start.align_offset(PAGE));
        let payload = header.wrapping_add(PAGE);
        let vectors = Box::new([
            libc::iovec { iov_base: header.cast(), iov_len: HEADER_SIZE },
            libc::iovec { iov_base: payload.cast(), iov_len: MAX_WRITE as usize },
        ]);
        Ok(Self { ring: new_ring()?, connection, queue, last: (REGISTER, 0), vectors, memory })
    }

    /// Registers the entry with the kernel.
    pub(super) fn register(&mut self) -> io::Result<()> {
        self.push(REGISTER, 0)?;
        self.ring.submit().map(drop)
    }

    /// Waits for a request; `None` when the connection has ended.
    pub(super) fn wait(&mut self) -> io::Result<Option<Request>> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let Some(completion) = self.ring.completion().next() else {
                continue;
            };
            match -completion.result() {
                0 => return Ok(Some(self.request())),
                libc::EINTR | libc::EAGAIN => self.push(self.last.0, self.last.1)?,
                libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV => return Ok(None),
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }

    /// The payload: that of the request, and the space for that of the reply.
    pub(super) fn payload(&mut self) -> &mut [u8] {
        let at = self.offset(1);
        &mut self.memory[at..at + MAX_WRITE as usize]
    }

    /// Prepares the reply: a payload of so many bytes, or an errno. The next `wait` submits it.
    pub(super) fn commit(&mut self, request: &Request, outcome: Result<usize, i32>) -> io::Result<()> {
        let (size, error) = match outcome {
            Ok(size) => (size as u32, 0),
            Err(errno) => (0, -errno),
        };
        let out =
            OutHeader { len: size + size_of::<OutHeader>() as u32, error, unique: request.header.unique };
        let header = self.header();
        header[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
        let size_at = STATE_AT + std::mem::offset_of!(EntryState, payload_size);
        header[size_at..size_at + 4].copy_from_slice(&size.to_ne_bytes());
        self.push(COMMIT_AND_FETCH, request.commit_id)
    }

    fn header(&mut self) -> &mut [u8] {
        let at = self.offset(0);
        &mut self.memory[at..at + HEADER_SIZE]
    }

    /// Where in the memory one of the two parts begins.
    fn offset(&self, part: usize) -> usize {
        self.vectors[part].iov_base as usize - self.memory.as_ptr() as usize
    }

    fn request(&mut self) -> Request {
        // The kernel has written here through the addresses that REGISTER gave it, behind the compiler's back.
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Acquire);
        let header = self.header();
        // Both fit: their sizes are less than the distances between them, which a test of `abi` pins down.
        let read = InHeader::read_from_prefix(header).map(|(header, _)| header);
        let state = EntryState::read_from_prefix(&header[STATE_AT..]).map(|(state, _)| state);
        let mut operation = [0; OPERATION_AT];
        operation.copy_from_slice(&header[OPERATION_AT..STATE_AT]);
        let (Ok(header), Ok(state)) = (read, state) else { unreachable!("the header has room for both") };
        let payload = (state.payload_size as usize).min(MAX_WRITE as usize);
        Request { header, operation, payload, commit_id: state.commit_id }
    }

    fn push(&mut self, command: u32, commit_id: u64) -> io::Result<()> {
        self.last = (command, commit_id);
        // struct fuse_uring_cmd_req: flags, commit id, queue.
        let mut words = [0_u8; 80];
        words[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        words[16..18].copy_from_slice(&self.queue.to_ne_bytes());
        let fd = types::Fd(self.connection.as_raw_fd());
        let entry =
            opcode::UringCmd80::new(fd, command).cmd(words).addr(Some(self.vectors.as_ptr() as u64)).build();
        let entry = with_length(entry, self.vectors.len() as u32);
        // SAFETY: the entry names the connection and memory that both live as long as the ring does.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::Error::other("the ring is full"))
    }
}

/// The number of vectors, which the crate has no word for.
fn with_length(entry: squeue::Entry128, length: u32) -> squeue::Entry128 {
    // SAFETY: an entry is the kernel's struct io_uring_sqe of 128 bytes, plain numbers in any pattern.
    let mut bytes: [u8; 128] = unsafe { std::mem::transmute(entry) };
    bytes[SQE_LEN_AT..SQE_LEN_AT + 4].copy_from_slice(&length.to_ne_bytes());
    // SAFETY: as above.
    unsafe { std::mem::transmute(bytes) }
}
