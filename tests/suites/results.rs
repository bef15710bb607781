//! What became of the cases of a suite, here and on the host, and which of them count against cairnfs.
//!
//! Keeps true: a case that the host passes and the mount does not is always told, by name, unless a list excuses it
//! with a reason; an excuse that is no longer needed is told as well, so that the list cannot outlive its reasons.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
    Skip,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub verdict: Verdict,
    /// Why it was skipped, or what failed.
    pub why: String,
}

/// The cases of a suite, by name.
#[derive(Debug, Clone, Default)]
pub struct Results(pub BTreeMap<String, Case>);

/// A case that the mount need not pass, and why.
pub type Excuse = (&'static str, &'static str);

impl Results {
    pub fn add(&mut self, name: &str, verdict: Verdict, why: impl Into<String>) {
        self.0.insert(name.to_owned(), Case { verdict, why: why.into() });
    }

    pub fn count(&self, verdict: Verdict) -> usize {
        self.0.values().filter(|case| case.verdict == verdict).count()
    }

    fn passes(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|case| case.verdict == Verdict::Pass)
    }

    /// What counts against the mount that these results are of; empty if it is as good as the host.
    pub fn worse_than(&self, host: &Results, excuses: &[Excuse]) -> Vec<String> {
        let mut told = Vec::new();
        for name in host.0.keys().filter(|name| host.passes(name) && !self.passes(name)) {
            if excuses.iter().any(|(excused, _)| excused == name) {
                continue;
            }
            told.push(match self.0.get(name) {
                None => format!("{name}: did not run"),
                Some(case) => format!("{name}: {:?}: {}", case.verdict, case.why),
            });
        }
        for (name, _) in excuses.iter().filter(|(name, _)| self.passes(name)) {
            told.push(format!("{name}: passes, and is excused all the same"));
        }
        told
    }
}

/// `passed / failed / skipped`.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [pass, fail, skip] = [Verdict::Pass, Verdict::Fail, Verdict::Skip].map(|it| self.count(it));
        write!(f, "{pass} / {fail} / {skip}")
    }
}

/// The table of the documentation, one row for each suite.
pub fn print_table(host_kind: &str, rows: &[(&str, &Results, &Results)]) {
    println!("| suite | cases | pass | fail | skip | on {host_kind}: pass / fail / skip |");
    println!("|---|---|---|---|---|---|");
    for (suite, ours, host) in rows {
        let [pass, fail, skip] = [Verdict::Pass, Verdict::Fail, Verdict::Skip].map(|it| ours.count(it));
        println!("| {suite} | {} | {pass} | {fail} | {skip} | {host} |", ours.0.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(cases: &[(&str, Verdict)]) -> Results {
        let mut results = Results::default();
        for (name, verdict) in cases {
            results.add(name, *verdict, "because");
        }
        results
    }

    #[test]
    fn one_more_failure_is_told() {
        use Verdict::{Fail, Pass, Skip};
        let host = results(&[("a", Pass), ("b", Pass), ("c", Fail), ("d", Skip)]);
        assert!(host.worse_than(&host, &[]).is_empty());
        let told = |cases: &[(&str, Verdict)], excuses: &[Excuse]| results(cases).worse_than(&host, excuses);
        assert_eq!(told(&[("a", Pass), ("b", Fail)], &[]), ["b: Fail: because"]);
        assert_eq!(told(&[("a", Pass), ("b", Skip), ("c", Pass)], &[]), ["b: Skip: because"]);
        assert_eq!(told(&[("a", Pass), ("c", Fail)], &[]), ["b: did not run"]);
        assert!(told(&[("a", Pass), ("b", Fail), ("c", Fail)], &[("b", "known")]).is_empty());
    }

    #[test]
    fn an_excuse_that_is_not_needed_is_told() {
        let host = results(&[("a", Verdict::Pass)]);
        assert_eq!(host.worse_than(&host, &[("a", "once")]), ["a: passes, and is excused all the same"]);
    }
}
