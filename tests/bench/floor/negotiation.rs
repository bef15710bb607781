//! What a FUSE daemon agrees with the kernel and leaves out: the choices that decide how many requests
//! a file costs. One value names a whole set of them, as a list like `threads=2,open=no,acl=stored`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readdirplus {
    No,
    Auto,
    Always,
}

/// What becomes of POSIX ACLs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acl {
    /// The kernel enforces them, and permissions with them.
    Enforced,
    /// They are attributes like others, kept and given back.
    Stored,
    Refused,
}

/// `false` for open, opendir, flush, create and getxattr means that the first such request is answered
/// with ENOSYS, after which the kernel does not ask any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiation {
    pub threads: usize,
    pub clone_fd: bool,
    pub open: bool,
    pub opendir: bool,
    pub flush: bool,
    pub create: bool,
    /// Files created to be written bypass the page cache until they are closed: no copy, and no
    /// question for security.capability before a write.
    pub direct: bool,
    pub getxattr: bool,
    pub writeback: bool,
    pub killpriv: bool,
    pub readdirplus: Readdirplus,
    pub acl: Acl,
    pub parallel_dirops: bool,
    /// "No such name" is remembered by the kernel as long as a name would be.
    pub negative: bool,
    pub permissions: bool,
    /// Microseconds for which the request thread polls the device before it sleeps; 0 for never.
    pub spin: u64,
    pub timeout: u64,
    pub max_write: u32,
    /// KiB that the kernel reads ahead, set from outside after the mount, which needs root; 0 leaves the
    /// kernel's 128.
    pub readahead: u64,
}

impl Default for Negotiation {
    /// What cairnfs negotiates.
    fn default() -> Self {
        Negotiation {
            threads: 2,
            clone_fd: false,
            open: false,
            opendir: false,
            flush: false,
            create: true,
            direct: false,
            getxattr: true,
            writeback: false,
            killpriv: true,
            readdirplus: Readdirplus::Always,
            acl: Acl::Enforced,
            parallel_dirops: true,
            negative: true,
            permissions: true,
            spin: 0,
            timeout: 86_400,
            max_write: 1 << 20,
            readahead: 0,
        }
    }
}

impl Negotiation {
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Asks the kernel for what is wanted, and leaves out what it does not offer.
    pub fn apply(&self, config: &mut KernelConfig) {
        let wanted = [
            (true, InitFlags::FUSE_ASYNC_DIO),
            (true, InitFlags::FUSE_CACHE_SYMLINKS),
            (true, InitFlags::FUSE_EXPORT_SUPPORT),
            (self.direct, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP),
            (self.writeback, InitFlags::FUSE_WRITEBACK_CACHE),
            (self.killpriv, InitFlags::FUSE_HANDLE_KILLPRIV_V2),
            (self.acl == Acl::Enforced, InitFlags::FUSE_POSIX_ACL),
            (self.acl != Acl::Refused, InitFlags::FUSE_DONT_MASK),
            (self.parallel_dirops, InitFlags::FUSE_PARALLEL_DIROPS),
            (self.readdirplus != Readdirplus::No, InitFlags::FUSE_DO_READDIRPLUS),
            (self.readdirplus == Readdirplus::Auto, InitFlags::FUSE_READDIRPLUS_AUTO),
        ];
        for (want, flag) in wanted {
            if want && config.add_capabilities(flag).is_err() {
                eprintln!("floor: this kernel does not offer {flag:?}");
            }
        }
        // Both are clamped to what is allowed, which the error carries.
        if let Err(nearest) = config.set_max_write(self.max_write) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(self.max_write) {
            let _ = config.set_max_readahead(nearest);
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "threads" => self.threads = number(key, value)?.max(1) as usize,
            "clone_fd" => self.clone_fd = truth(key, value)?,
            "open" => self.open = truth(key, value)?,
            "opendir" => self.opendir = truth(key, value)?,
            "flush" => self.flush = truth(key, value)?,
            "direct" => self.direct = truth(key, value)?,
            "create" => self.create = truth(key, value)?,
            "getxattr" => self.getxattr = truth(key, value)?,
            "writeback" => self.writeback = truth(key, value)?,
            "killpriv" => self.killpriv = truth(key, value)?,
            "acl" => {
                self.acl = match value {
                    "enforced" => Acl::Enforced,
                    "stored" => Acl::Stored,
                    "refused" => Acl::Refused,
                    _ => return Err(format!("acl={value}: say enforced, stored or refused")),
                }
            }
            "parallel_dirops" => self.parallel_dirops = truth(key, value)?,
            "negative" => self.negative = truth(key, value)?,
            "permissions" => self.permissions = truth(key, value)?,
            "spin" => self.spin = number(key, value)?,
            "readahead" => self.readahead = number(key, value)?,
            "timeout" => self.timeout = number(key, value)?,
            "max_write" => self.max_write = number(key, value)?.try_into().unwrap_or(u32::MAX),
            "readdirplus" => {
                self.readdirplus = match value {
                    "no" => Readdirplus::No,
                    "auto" => Readdirplus::Auto,
                    "always" => Readdirplus::Always,
                    _ => return Err(format!("readdirplus={value}: say no, auto or always")),
                }
            }
            _ => return Err(format!("{key}: the floor has no such choice")),
        }
        Ok(())
    }
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{key}={value}: say yes or no")),
    }
}

fn number(key: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{key}={value}: say a number"))
}

impl FromStr for Negotiation {
    type Err = String;

    /// The default with the choices named in `list` changed.
    fn from_str(list: &str) -> Result<Self, String> {
        let mut negotiation = Negotiation::default();
        for choice in list.split(',').filter(|choice| !choice.is_empty()) {
            let (key, value) =
                choice.split_once('=').ok_or_else(|| format!("{choice}: write it as {choice}=..."))?;
            negotiation.set(key, value)?;
        }
        Ok(negotiation)
    }
}

impl fmt::Display for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |truth| if truth { "yes" } else { "no" };
        write!(
            f,
            "threads={},clone_fd={},open={},opendir={},flush={},create={},direct={},getxattr={},writeback={},\
             killpriv={},readdirplus={},acl={},parallel_dirops={},negative={},permissions={},spin={},\
             timeout={},max_write={},readahead={}",
            self.threads,
            yes(self.clone_fd),
            yes(self.open),
            yes(self.opendir),
            yes(self.flush),
            yes(self.create),
            yes(self.direct),
            yes(self.getxattr),
            yes(self.writeback),
            yes(self.killpriv),
            match self.readdirplus {
                Readdirplus::No => "no",
                Readdirplus::Auto => "auto",
                Readdirplus::Always => "always",
            },
            match self.acl {
                Acl::Enforced => "enforced",
                Acl::Stored => "stored",
                Acl::Refused => "refused",
            },
            yes(self.parallel_dirops),
            yes(self.negative),
            yes(self.permissions),
            self.spin,
            self.timeout,
            self.max_write,
            self.readahead,
        )
    }
}
