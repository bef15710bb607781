//! The progress of a long command, on standard error. On a terminal it is a moving line. Otherwise there is none, or a
//! plain line at intervals for commands that may take hours.

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
    /// When the last plain line was written; none if there are no plain lines.
    plain: Option<Cell<Instant>>,
    begin: Instant,
    /// When a check began to read data.
    data: Cell<Option<Instant>>,
}

impl Display {
    /// Begins with a text; shows nothing without a terminal.
    pub(super) fn new(text: &str) -> Self {
        let begin = Instant::now();
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), plain: None, begin, data: Cell::new(None) };
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(style(PLAIN));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, plain: None, begin, data: Cell::new(None) }
    }

    /// The same, with plain lines if there is no terminal.
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

    /// Shows the progress that the store's process reports.
    pub(super) fn update(&self, progress: Progress) {
        match progress {
            Progress::Stage(stage) => self.bar.set_message(stage_words(stage)),
            Progress::Check { done, total, bytes, reads_data } => {
                if reads_data && self.data.get().is_none() {
                    // Reading data is another kind of work: the speed of the structure check does not apply.
                    self.data.set(Some(Instant::now()));
                    self.bar.reset();
                }
                self.bar.set_style(style(PERCENT));
                self.bar.set_length(total);
                self.bar.set_position(done);
                let begin = self.data.get().unwrap_or(self.begin);
                let at = At { done, total, bytes, reads_data, elapsed: begin.elapsed() };
                self.bar.set_message(at.what());
                self.line(&at);
            }
        }
    }
}

impl Display {
    /// A plain line, if one is due.
    fn line(&self, at: &At) {
        let Some(last) = &self.plain else { return };
        if last.get().elapsed() >= PLAIN_EVERY {
            last.set(Instant::now());
            eprintln!("{}", at.plain_line());
        }
    }
}

/// The progress of a check, with the time since it began with the structure, or with the data.
struct At {
    done: u64,
    total: u64,
    /// Plain bytes read.
    bytes: u64,
    reads_data: bool,
    elapsed: Duration,
}

impl At {
    fn rate(&self) -> u64 {
        let rate = u128::from(self.bytes) * 1000 / self.elapsed.as_millis().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    fn what(&self) -> String {
        match self.reads_data {
            true => format!("{} read, {}/s", show_size(self.bytes), show_size(self.rate())),
            false => "the structure".to_owned(),
        }
    }

    fn plain_line(&self) -> String {
        let percent = u128::from(self.done) * 100 / u128::from(self.total.max(1));
        // Skipped data took no time.
        let worked = if self.reads_data { self.bytes } else { self.done };
        let left = u128::from(self.total.saturating_sub(self.done)) * self.elapsed.as_millis()
            / u128::from(worked.max(1));
        let minutes = left.div_ceil(60_000);
        format!(
            "{percent}% of {}, about {minutes} minutes left",
            match self.reads_data {
                true => format!("the data, {}", self.what()),
                false => self.what(),
            }
        )
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A test covers the syntax of the templates; an invalid one would only look plainer.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// A stage for people.
pub(super) fn stage_words(stage: Stage) -> &'static str {
    match stage {
        Stage::Idle => "idle",
        Stage::Drain => "draining the deletion queue",
        Stage::Flip => "raising the generation",
        Stage::Mark => "marking what is in use",
        Stage::Sweep => "removing what is not in use",
        Stage::Reclaim => "giving space back",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_has_rate_and_time_left() {
        let seconds = Duration::from_secs(1024);
        let line = |done, total, bytes, reads_data, elapsed| {
            At { done, total, bytes, reads_data, elapsed }.plain_line()
        };
        assert_eq!(
            line(1 << 30, 4 << 30, 1 << 30, true, seconds),
            "25% of the data, 1.00 GiB read, 1.00 MiB/s, about 52 minutes left"
        );
        // Half was read by an earlier check.
        assert_eq!(
            line(3 << 30, 4 << 30, 1 << 30, true, seconds),
            "75% of the data, 1.00 GiB read, 1.00 MiB/s, about 18 minutes left"
        );
        assert_eq!(line(250, 1000, 0, false, seconds), "25% of the structure, about 52 minutes left");
        assert_eq!(
            line(0, 0, 0, true, Duration::ZERO),
            "0% of the data, 0 B read, 0 B/s, about 0 minutes left"
        );
    }

    #[test]
    fn the_templates_parse() {
        for template in [PLAIN, BYTES, PERCENT] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
