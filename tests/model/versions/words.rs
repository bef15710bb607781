//! Steps as sentences.

use super::protocol::Act;
use super::state::{Kind, Member};

pub fn of(act: Act) -> String {
    match act {
        Act::Join(member) => format!("joins: {}, at leaf {}", of_member(member), member.leaf),
        Act::Leave(member) => {
            let batch = if member.old { "sealed" } else { "open" };
            format!("acts in the {batch} batch and leaves: {}, at leaf {}", of_member(member), member.leaf)
        }
        Act::Seal => "the batch is sealed, another one opened".to_owned(),
        Act::Commit => "the sealed batch is committed".to_owned(),
        Act::CloneSwap(n) => format!("a clone of subvolume {n} begins"),
        Act::CloneNamed => "the clone gets its name".to_owned(),
        Act::CloneRefused => "the name of the clone is taken; it is dropped".to_owned(),
        Act::Open(n) => format!("the kernel remembers an inode of subvolume {n}"),
        Act::Forget(n) => format!("the kernel forgets the last inode of subvolume {n}"),
        Act::Note(n) => format!("nobody uses subvolume {n} from here on"),
        Act::Reap(n, k) => format!("the reap of subvolume {n} looks at file {k}"),
        Act::ReapEnds(n) => format!("the reap of subvolume {n} ends, and its record goes"),
        Act::Audit(k) => format!("an audit looks at file {k}"),
        Act::AuditSees(k) => format!("an audit looks at file {k} in a snapshot"),
        Act::AuditRemoves => "the audit removes what it saw".to_owned(),
        Act::Contract(v) => format!("version {v} is taken out of the tree"),
        Act::Flip => "a cycle begins: the batch is sealed, the barrier armed".to_owned(),
        Act::Mark => "the mark reads all contents".to_owned(),
        Act::Condemn => "the sweep condemns".to_owned(),
        Act::Sweep => "the sweep removes what was condemned".to_owned(),
        Act::End => "the cycle ends: the batch is sealed".to_owned(),
        Act::Disarm => "the barrier is disarmed".to_owned(),
        Act::Rot(at) => format!("row {} does not decode any more", at.0),
        Act::Crash => "the power goes; the store is opened again".to_owned(),
    }
}

fn of_member(member: Member) -> String {
    let Member { kind, n, k, what, .. } = member;
    match kind {
        Kind::Nobody => "nobody".to_owned(),
        Kind::Write => format!("digest {what} is written to file {k} of subvolume {n}"),
        Kind::First => format!("the first stretch of file {k} of subvolume {n} is copied"),
        Kind::Rest => format!("the copy of file {k} of subvolume {n} goes on, and digest {what} is written"),
        Kind::Touch => format!("an attribute of file {k} of subvolume {n} changes"),
        Kind::Delete => format!("file {k} of subvolume {n} is deleted"),
        Kind::Copy => format!("file {k} of subvolume {what} is cloned to that of subvolume {n}"),
        Kind::Drop => format!("subvolume {n} is dropped"),
    }
}
