//! How far a long command is, on standard error and only if that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::size::show_size;
use crate::control::Progress;
use crate::gc::Stage;

const PLAIN: &str = "{spinner} {msg}  {elapsed}";
const BYTES: &str = "{spinner} {msg:24} [{bar:30}] {binary_bytes}/{binary_total_bytes}  {elapsed}";
const PERCENT: &str = "{spinner} {msg:24} [{bar:30}] {percent}%  {elapsed}";

/// A line that shows what is being done. Disappears when dropped.
pub(super) struct Display(ProgressBar);

impl Display {
    /// Begins with a text; shows nothing where no terminal is.
    pub(super) fn new(text: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(style(PLAIN));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// Begins with a text and a number of bytes that will be done.
    pub(super) fn of_bytes(text: &str, total: u64) -> Self {
        let display = Self::new(text);
        display.0.set_length(total);
        display.0.set_style(style(BYTES));
        display
    }

    /// Bytes done so far.
    pub(super) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Shows what the store's process tells.
    pub(super) fn update(&self, progress: Progress) {
        match progress {
            Progress::Stage(stage) => self.0.set_message(stage_words(stage)),
            Progress::Check { done, total, bytes } => {
                self.0.set_style(style(PERCENT));
                self.0.set_length(total);
                self.0.set_position(done);
                if bytes > 0 {
                    self.0.set_message(format!("{} read", show_size(bytes)));
                }
            }
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.0.finish_and_clear();
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
    fn the_templates_parse() {
        for template in [PLAIN, BYTES, PERCENT] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
