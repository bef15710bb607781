//! What is wrong with a store, as its status shows it: sentences for people, kinds and the exit code of `cairnfs
//! status` for a monitor.

use serde::{Deserialize, Serialize};

use super::StatusReport;
use crate::error::{Error, Result};

/// A kind of problem. A program must accept kinds that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Bytes in the store are not what was written.
    Damage,
    /// The store takes no more changes since a write or sync failed.
    ReadOnly,
    /// The process that had the store open ended without closing it.
    Killed,
    /// A background task of the mount fails.
    Failing,
    /// One that this program does not know.
    #[serde(other)]
    Other,
}

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind it is of.
    pub kind: ProblemKind,
    /// A sentence that says what is wrong and what to do.
    pub text: String,
}

impl StatusReport {
    /// Fills in what is wrong: what the figures say, and `others`.
    #[must_use]
    pub fn with_problems(mut self, others: Vec<Problem>) -> Self {
        let mut problems = Vec::new();
        let mut add = |kind, text: String| problems.push(Problem { kind, text });
        let store = &self.store;
        if store.bad_chunks > 0 {
            let chunks = if store.bad_chunks == 1 { "chunk does" } else { "chunks do" };
            let text = format!(
                "{} {chunks} not read back; `cairnfs check --data` names the files that are hit",
                store.bad_chunks
            );
            add(ProblemKind::Damage, text);
        }
        if let Some(why) = &store.read_only_because {
            add(ProblemKind::ReadOnly, Error::Latched(why.clone()).to_string());
        }
        for trouble in &self.failing {
            let times = if trouble.failures == 1 { "once" } else { &format!("{} times", trouble.failures) };
            let minutes = trouble.retry_in.div_ceil(60);
            let text =
                format!("{} failed {times}, next try in {minutes} minutes: {}", trouble.what, trouble.error);
            add(ProblemKind::Failing, text);
        }
        problems.extend(others);
        self.problems = problems;
        self
    }

    /// An error for the exit code if anything is wrong, damage before all else.
    pub fn verdict(&self) -> Result<()> {
        let sentence = |problem: &Problem| format!("{}: {}", self.path, problem.text);
        let damage = self.problems.iter().find(|problem| problem.kind == ProblemKind::Damage);
        match (damage, self.problems.first()) {
            (Some(problem), _) => Err(Error::CheckFailed(sentence(problem))),
            (None, Some(problem)) => Err(Error::Unwell(sentence(problem))),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::Stage;
    use crate::retry::RecurringFailure;
    use crate::store::StoreStatus;

    fn report(store: StoreStatus, failing: Vec<RecurringFailure>) -> StatusReport {
        StatusReport {
            version: String::new(),
            path: "/srv/store".into(),
            holder: None,
            stage: Stage::Idle,
            last_cycle: None,
            scrub: Default::default(),
            dropped: Vec::new(),
            failing,
            problems: Vec::new(),
            store,
        }
    }

    #[test]
    fn each_problem_has_its_kind_and_damage_its_own_code() {
        let code = |report: &StatusReport| report.verdict().map_or_else(|error| error.exit_code(), |()| 0);
        let kinds =
            |report: &StatusReport| report.problems.iter().map(|problem| problem.kind).collect::<Vec<_>>();
        let well = report(StoreStatus::default(), Vec::new()).with_problems(Vec::new());
        assert_eq!((code(&well), well.problems.len()), (0, 0));

        let trouble = RecurringFailure {
            what: "cycle".into(),
            error: "no".into(),
            failures: 3,
            since: 7,
            retry_in: 61,
        };
        let latched =
            StoreStatus { read_only_because: Some("a sync failed".into()), ..StoreStatus::default() };
        // That is what the reserve is for; who watches the disk is told by the figures.
        let full = StoreStatus { reserve_given_up: true, ..StoreStatus::default() };
        assert_eq!(code(&report(full, Vec::new()).with_problems(Vec::new())), 0);
        let killed =
            || vec![Problem { kind: ProblemKind::Killed, text: "it ended without closing it".into() }];
        let figures = |store, failing| report(store, failing).with_problems(Vec::new());
        for (report, kind, said) in [
            (figures(latched.clone(), Vec::new()), ProblemKind::ReadOnly, "a sync failed"),
            (figures(StoreStatus::default(), vec![trouble]), ProblemKind::Failing, "in 2 minutes: no"),
            (
                report(StoreStatus::default(), Vec::new()).with_problems(killed()),
                ProblemKind::Killed,
                "ended",
            ),
        ] {
            assert_eq!((code(&report), kinds(&report)), (8, vec![kind]));
            let text = report.verdict().unwrap_err().to_string();
            assert!(text.starts_with("/srv/store: ") && text.contains(said), "{text}");
        }
        let all = StoreStatus { bad_chunks: 1, ..latched };
        let all = report(all, Vec::new()).with_problems(killed());
        assert_eq!(kinds(&all), [ProblemKind::Damage, ProblemKind::ReadOnly, ProblemKind::Killed]);
        assert_eq!(code(&all), 6);
        let other: ProblemKind = serde_json::from_str("\"of_a_later_program\"").unwrap();
        assert_eq!(other, ProblemKind::Other);
    }
}
