//! How far a long command is, on standard error: a line that moves on a terminal; elsewhere nothing, or for what may
//! take hours a plain line now and then.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::size::show_size;
use crate::control::Progress;
use crate::gc::Stage;

const PLAIN: &str = "{spinner} {msg}  {elapsed}";
const BYTES: &str = "{spinner} {msg:24} [{bar:30}] {binary_bytes}/{binary_total_bytes}  {elapsed}";
const PERCENT: &str = "{spinner} {msg:32} [{bar:30}] {percent}%  {elapsed}, {eta} left";

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(30);

/// A line that shows what is being done. Disappears when dropped.
pub(super) struct Display {
    bar: ProgressBar,
    /// When the last plain line was written; none where there are none.
    plain: Option<Cell<Instant>>,
    begin: Instant,
}

impl Display {
    /// Begins with a text; shows nothing where no terminal is.
    pub(super) fn new(text: &str) -> Self {
        let begin = Instant::now();
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), plain: None, begin };
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(style(PLAIN));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, plain: None, begin }
    }

    /// The same, with plain lines where no terminal is.
    pub(super) fn with_lines(text: &str) -> Self {
        let mut display = Self::new(text);
        display.plain = display.bar.is_hidden().then(|| Cell::new(Instant::now()));
        display
    }

    /// Begins with a text and a number of bytes that will be done.
    pub(super) fn of_bytes(text: &str, total: u64) -> Self {
        let display = Self::new(text);
        display.bar.set_length(total);
        display.bar.set_style(style(BYTES));
        display
    }

    /// Bytes done so far.
    pub(super) fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Shows what the store's process tells.
    pub(super) fn update(&self, progress: Progress) {
        match progress {
            Progress::Stage(stage) => self.bar.set_message(stage_words(stage)),
            Progress::Check { done, total, bytes } => {
                self.bar.set_style(style(PERCENT));
                self.bar.set_length(total);
                self.bar.set_position(done);
                let rate = bytes / self.begin.elapsed().as_secs().max(1);
                if bytes > 0 {
                    self.bar.set_message(format!("{} read, {}/s", show_size(bytes), show_size(rate)));
                }
                self.line(done, total, (bytes, rate));
            }
        }
    }
}

impl Display {
    /// A plain line, if one is due.
    fn line(&self, done: u64, total: u64, (bytes, rate): (u64, u64)) {
        let Some(last) = &self.plain else { return };
        if last.get().elapsed() >= PLAIN_EVERY {
            last.set(Instant::now());
            eprintln!("{}", plain_line(done, total, (bytes, rate), self.begin.elapsed()));
        }
    }
}

fn plain_line(done: u64, total: u64, (bytes, rate): (u64, u64), elapsed: Duration) -> String {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    let left =
        u128::from(total.saturating_sub(done)) * u128::from(elapsed.as_secs()) / u128::from(done.max(1));
    let minutes = left.div_ceil(60);
    format!("{percent}%, {} read, {}/s, about {minutes} minutes left", show_size(bytes), show_size(rate))
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The templates are ours and their syntax is covered by a test; one that did not parse would only look plainer.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// A stage for people.
pub(super) fn stage_words(stage: Stage) -> &'static str {
    match stage {
        Stage::Idle => "idle",
        Stage::Drain => "working off deleted files",
        Stage::Flip => "raising the generation",
        Stage::Mark => "marking what is in use",
        Stage::Sweep => "sweeping what is not",
        Stage::Reclaim => "giving space back",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_has_rate_and_time_left() {
        let line = plain_line(250, 1000, (1 << 30, 1 << 20), Duration::from_secs(1024));
        assert_eq!(line, "25%, 1.00 GiB read, 1.00 MiB/s, about 52 minutes left");
        assert_eq!(plain_line(0, 0, (0, 0), Duration::ZERO), "0%, 0 B read, 0 B/s, about 0 minutes left");
    }

    #[test]
    fn the_templates_parse() {
        for template in [PLAIN, BYTES, PERCENT] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
