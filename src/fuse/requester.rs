//! The caller of a request, and its groups.

use std::fs;

use crate::fs::Caller;

/// The caller of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requester {
    /// User, and the group that new files get.
    pub caller: Caller,
    /// The calling thread; 0 for the kernel itself and for a thread that cannot be seen from here.
    pub pid: u32,
}

impl Requester {
    /// True for root and for members of this group. The protocol names one group of each caller; `/proc` has the
    /// others. If it does not show the caller, these do not count.
    pub(super) fn is_in(&self, gid: u32) -> bool {
        let Caller { uid, gid: first } = self.caller;
        uid == 0 || first == gid || self.has_other(gid)
    }

    fn has_other(&self, gid: u32) -> bool {
        // Each thread has a directory of its own, although listings show only the first thread of a process.
        let path = format!("/proc/{}/status", self.pid);
        self.pid != 0 && fs::read_to_string(path).is_ok_and(|status| lists(&status, gid))
    }
}

/// Is a group among the supplementary groups of a `/proc/PID/status`?
fn lists(status: &str, gid: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|word| word.parse() == Ok(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_groups_are_found() {
        let status = "Name:\tx\nGid:\t7\t7\t7\t7\nGroups:\t4 24 1000 \nVmPeak:\t 30 kB\n";
        assert!([4, 24, 1000].into_iter().all(|gid| lists(status, gid)));
        assert!([7, 2, 30, 100].into_iter().all(|gid| !lists(status, gid)));
        assert!(!lists("Groups:\t\n", 0) && !lists("", 0));
    }

    #[test]
    fn who_cannot_be_seen_is_in_one_group() {
        let requester = |uid, pid| Requester { caller: Caller { uid, gid: 5 }, pid };
        assert!(requester(1, 0).is_in(5) && !requester(1, 0).is_in(6) && !requester(1, u32::MAX).is_in(6));
        assert!(requester(0, 0).is_in(6), "root may do so everywhere");
    }
}
