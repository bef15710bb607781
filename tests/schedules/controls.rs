//! Each protection taken out once: a schedule must be found that breaks a promise.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use libtest_mimic::Failed;

use crate::sabotage::{Protection, take_out};

use super::explore::{Scenario, search, seed};
use super::{names, protect, scenarios, subvolumes};

/// Protections that are taken out together, and the scenario that must notice.
pub struct Control {
    /// The name of its test.
    pub name: &'static str,
    pub out: &'static [Protection],
    pub scenario: &'static Scenario,
}

/// Schedules after which a protection that nobody missed counts as not tested.
const ENOUGH: u64 = 20_000;

/// All controls.
pub const ALL: &[Control] = &[
    Control {
        name: "without_both_halves_the_advisory_loses_data",
        out: &[Protection::MarkOnHit, Protection::OneSnapshot],
        scenario: &scenarios::ADVISORY,
    },
    Control {
        name: "without_the_mark_on_a_hit_revived_garbage_is_lost",
        out: &[Protection::MarkOnHit],
        scenario: &scenarios::REVIVED,
    },
    Control {
        name: "without_one_decision_per_chunk_revived_garbage_is_lost",
        out: &[Protection::OneDecision],
        scenario: &scenarios::REVIVED,
    },
    Control {
        name: "without_looking_what_a_digest_names_the_index_is_broken",
        out: &[Protection::DigestStillNames],
        scenario: &scenarios::REVIVED,
    },
    Control {
        name: "without_the_watermark_new_chunks_are_lost",
        out: &[Protection::Watermark],
        scenario: &scenarios::FRESH,
    },
    Control {
        name: "without_draining_before_the_snapshot_uncommitted_chunks_are_lost",
        out: &[Protection::DrainBeforeSnapshot],
        scenario: &scenarios::FRESH,
    },
    Control {
        name: "without_forgetting_a_remembered_answer_is_used_after_the_cycle",
        out: &[Protection::ClearDigestCache],
        scenario: &scenarios::REMEMBERED,
    },
    Control {
        name: "without_the_grace_at_the_end_a_condemned_chunk_is_reused",
        out: &[Protection::Grace],
        scenario: &scenarios::REVIVED,
    },
    Control {
        name: "without_a_second_look_a_region_that_moved_is_damage",
        out: &[Protection::SecondLook],
        scenario: &scenarios::MOVED,
    },
    Control {
        name: "without_waiting_for_batches_rows_outlive_their_inode",
        out: &[Protection::WaitForBatches],
        scenario: &scenarios::QUEUED,
    },
    Control {
        name: "without_waiting_for_the_kernel_an_open_file_is_lost",
        out: &[Protection::WaitForForget],
        scenario: &scenarios::OPEN,
    },
    Control {
        name: "without_marking_orphans_an_open_file_is_lost",
        out: &[Protection::MarkOrphans],
        scenario: &scenarios::OPEN,
    },
    Control {
        name: "without_bytes_before_names_a_power_cut_breaks_a_promise",
        out: &[Protection::BytesBeforeNames],
        scenario: &scenarios::POWER,
    },
    Control {
        name: "without_durable_before_free_a_power_cut_breaks_a_promise",
        out: &[Protection::DurableBeforeFree],
        scenario: &scenarios::POWER,
    },
    Control {
        name: "without_syncing_the_log_a_power_cut_breaks_a_promise",
        out: &[Protection::LogIsSynced],
        scenario: &scenarios::FOLD,
    },
    Control {
        name: "without_syncing_packs_before_a_fold_a_power_cut_breaks_a_promise",
        out: &[Protection::PacksBeforeFold],
        scenario: &scenarios::FOLD,
    },
    Control {
        name: "without_a_durable_fold_before_the_log_is_begun_anew_a_power_cut_breaks_a_promise",
        out: &[Protection::FoldBeforeCut],
        scenario: &scenarios::FOLD,
    },
    Control {
        name: "without_ending_on_an_error_the_cycle_goes_on",
        out: &[Protection::ErrorEndsCycle],
        scenario: &scenarios::BAD_ROW,
    },
    Control {
        name: "without_being_alone_two_moves_make_a_circle",
        out: &[Protection::TreeAlone],
        scenario: &names::CIRCLE,
    },
    Control {
        name: "without_waiting_for_changes_a_protected_subvolume_changes",
        out: &[Protection::WaitForChanges],
        scenario: &protect::PROTECTED,
    },
    Control {
        name: "without_waiting_for_changes_a_sealed_snapshot_changes",
        out: &[Protection::WaitForChanges],
        scenario: &protect::SEALED,
    },
    Control {
        // Who moves a directory is alone with the names, so either is enough.
        name: "without_waiting_for_changes_and_alone_a_snapshot_sealed_by_a_move_changes",
        out: &[Protection::WaitForChanges, Protection::TreeAlone],
        scenario: &protect::SEALED_BY_MOVE,
    },
    Control {
        name: "without_refusing_names_a_directory_that_is_gone_gets_one",
        out: &[Protection::NamelessStaysSo],
        scenario: &names::PARENT_GOES,
    },
    Control {
        name: "without_refusing_names_a_file_that_is_gone_gets_one",
        out: &[Protection::NamelessStaysSo],
        scenario: &names::LAST_NAME,
    },
    Control {
        name: "without_a_second_look_a_name_goes_twice",
        out: &[Protection::SecondLookAtNames],
        scenario: &names::OLDER,
    },
    Control {
        name: "without_the_lock_of_subvolumes_one_is_cloned_and_dropped",
        out: &[Protection::SubvolumeLock],
        scenario: &subvolumes::DROPPED,
    },
    Control {
        name: "without_marking_subvolumes_first_writes_lose_what_they_copied",
        out: &[Protection::MarkSubvolumes],
        scenario: &subvolumes::FIRST_WRITES,
    },
    Control {
        name: "without_whiteouts_what_a_clone_deleted_comes_back",
        out: &[Protection::Whiteouts],
        scenario: &subvolumes::DELETES,
    },
    Control {
        name: "without_seeing_a_drop_a_lookup_brings_back_what_is_reaped",
        out: &[Protection::DroppedIsSeen],
        scenario: &subvolumes::LOOKED_UP,
    },
    Control {
        name: "without_asking_for_others_a_reap_takes_what_they_see",
        out: &[Protection::SeenByOthers],
        scenario: &subvolumes::FIRST_WRITES,
    },
    Control {
        name: "without_waiting_for_the_kernel_an_open_file_of_a_dropped_subvolume_is_lost",
        out: &[Protection::WaitForForget],
        scenario: &subvolumes::STILL_OPEN,
    },
];

/// Held for writing while a protection is out of this process, for reading by all others.
static PROTECTIONS: RwLock<()> = RwLock::new(());

/// Keeps every protection in place while it is held.
pub fn protected() -> RwLockReadGuard<'static, ()> {
    PROTECTIONS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Puts protections back when dropped.
struct Out(&'static [Protection]);

impl Drop for Out {
    fn drop(&mut self) {
        for protection in self.0 {
            take_out(*protection, false);
        }
    }
}

/// The test of a control.
pub fn is_caught(control: &'static Control) -> Result<(), Failed> {
    let _alone = PROTECTIONS.write().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let out = Out(control.out);
    for protection in control.out {
        take_out(*protection, true);
    }
    let run = search(control.scenario, seed(), ENOUGH, true);
    drop(out);
    match run.broken {
        Some(what) => {
            let (spent, what) =
                (begun.elapsed().as_secs_f64(), what.lines().next().unwrap_or_default().to_owned());
            println!("without {:?}: schedule {} ({spent:.1} s): {what}", control.out, run.schedules);
            Ok(())
        }
        None => {
            Err(format!("without {:?}, {} schedules broke no promise", control.out, run.schedules).into())
        }
    }
}
