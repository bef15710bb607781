//! The negotiation with the kernel when the mount begins. Each capability is requested only if it is offered, so an
//! older kernel gives a slower mount, not none.

use fuser::{InitFlags, KernelConfig};

use super::options::MountOptions;

/// The largest read or write in one request. `/proc/sys/fs/fuse/max_pages_limit` may lower it.
pub(super) const MAX_WRITE: u32 = 1024 * 1024;

/// Read-ahead and other requests that nobody waits for, at one time.
const MAX_BACKGROUND: u16 = 64;

/// The result of the negotiation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Negotiated {
    /// Requests come over io_uring: the kernel holds all of them until every queue has an entry.
    pub rings: bool,
}

impl From<InitFlags> for Negotiated {
    fn from(negotiated: InitFlags) -> Self {
        Self { rings: negotiated.contains(InitFlags::FUSE_OVER_IO_URING) }
    }
}

/// Sets everything that differs from fuser's defaults (which are ASYNC_READ, BIG_WRITES and MAX_PAGES, and times to the
/// nanosecond). `rings` says that requests can be taken over io_uring.
pub(super) fn negotiate(config: &mut KernelConfig, opts: &MountOptions, rings: bool) -> Negotiated {
    let offered = config.capabilities();
    let mut wanted = wanted(opts) & offered;
    if rings {
        wanted |= InitFlags::FUSE_OVER_IO_URING & offered;
    }
    if let Err(refused) = config.add_capabilities(wanted) {
        tracing::debug!(?refused, "capabilities not offered after all");
    }
    // Each of these returns the nearest possible value if ours is not possible.
    if let Err(nearest) = config.set_max_write(MAX_WRITE) {
        let _ = config.set_max_write(nearest);
    }
    // The kernel's value is its present read-ahead; more is set on the mount itself later.
    if let Err(nearest) = config.set_max_readahead(MAX_WRITE) {
        let _ = config.set_max_readahead(nearest);
    }
    if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
        let _ = config.set_max_background(nearest);
    }
    tracing::debug!(
        abi = %config.kernel_abi(),
        ?offered,
        ?wanted,
        "the kernel's side of the protocol"
    );
    wanted.into()
}

fn wanted(opts: &MountOptions) -> InitFlags {
    // Not wanted: ATOMIC_O_TRUNC (OPEN may not come, so truncation has to be a SETATTR), POSIX_LOCKS and FLOCK_LOCKS
    // (the kernel locks by itself), AUTO_INVAL_DATA (only the kernel's own writes change a file: a new mtime is no
    // reason to drop pages), READDIRPLUS_AUTO (who lists a directory nearly always looks at its files next; auto asks
    // for each of them), SETXATTR_EXT (fuser does not know that form of the request).
    let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        // Without it, every write(2) requests security.capability.
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
    if opts.no_open {
        wanted |= InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    }
    if opts.writeback {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    if opts.posix_acl {
        // The umask does not count where the directory has a default ACL, so `Fs` must apply it, not the kernel.
        wanted |= InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
    }
    wanted
}
