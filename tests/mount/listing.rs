//! Reading directories with the kernel's own call, while they change and across mounts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::calls;
use crate::data::Numbers;
use crate::sys;
use crate::world::{World, tool};

const STABLE: usize = 20_000;

fn fill(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for n in 0..STABLE {
        File::create(dir.join(format!("stays {n}"))).unwrap();
    }
}

/// Names and the cookies behind them, from `cookie` on, at most about `limit`.
fn listed(dir: &Path, cookie: i64, limit: usize) -> Vec<(String, i64)> {
    let file = File::open(dir).unwrap();
    sys::seek(&file, cookie, libc::SEEK_SET).unwrap();
    let mut found = Vec::new();
    while found.len() < limit {
        let some = calls::entries(&file).unwrap();
        if some.is_empty() {
            break;
        }
        found.extend(some);
    }
    found.retain(|(name, _)| name != "." && name != "..");
    found
}

/// How often each of the names that stay was given.
fn count(seen: &mut BTreeMap<String, usize>, found: &[(String, i64)]) {
    for (name, _) in found.iter().filter(|(name, _)| name.starts_with("stays")) {
        *seen.entry(name.clone()).or_default() += 1;
    }
}

fn assert_each_once(seen: &BTreeMap<String, usize>) {
    let more: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).take(5).collect();
    assert!(more.is_empty(), "given more than once: {more:?}");
    assert_eq!(seen.len(), STABLE, "names that were there all the while are missing");
}

#[test]
fn a_cookie_stays_good_across_changes_and_mounts() {
    let Some(world) = World::usual() else { return };
    let dir = world.mnt.join("dir");
    fill(&dir);
    let (mut seen, mut cookie, mut numbers) = (BTreeMap::new(), 0, Numbers::new(11));
    for round in 0.. {
        let found = listed(&dir, cookie, 3_000);
        let Some((_, last)) = found.last() else { break };
        // Go on in the middle of what was given: what came behind that comes again.
        let keep = found.len() - found.len() / 3;
        let keep = keep.max(1);
        count(&mut seen, &found[..keep]);
        cookie = if keep == found.len() { *last } else { found[keep - 1].1 };
        for n in 0..300 {
            File::create(dir.join(format!("comes {round} {n}"))).unwrap();
            let old = numbers.below(round * 300 + 1);
            let _ = fs::remove_file(dir.join(format!("comes {} {}", old / 300, old % 300)));
        }
        if round % 2 == 1 {
            world.remount();
        }
    }
    assert_each_once(&seen);
    world.close();
}

#[test]
fn entries_come_once_while_others_come_and_go() {
    let Some(world) = World::usual() else { return };
    let dir = world.mnt.join("dir");
    fill(&dir);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut n = 0_u64;
            while !ended.load(Ordering::Relaxed) {
                File::create(dir.join(format!("comes {n}"))).unwrap();
                if n.is_multiple_of(3) {
                    fs::rename(dir.join(format!("comes {n}")), dir.join(format!("goes {n}"))).unwrap();
                    fs::remove_file(dir.join(format!("goes {n}"))).unwrap();
                }
                n += 1;
            }
            n
        });
        for _ in 0..3 {
            let mut seen = BTreeMap::new();
            count(&mut seen, &listed(&dir, 0, usize::MAX));
            assert_each_once(&seen);
        }
        ended.store(true, Ordering::Relaxed);
        assert!(churn.join().unwrap() > 0);
    });
    // rm reads and deletes in turn.
    tool!("rm", "-rf", dir);
    assert!(!dir.exists());
    world.close();
}
