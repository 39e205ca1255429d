//! The bar shown while a bench runs; silent when not asked for or when nobody looks (no terminal).

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over a known total.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Over `total` steps; `shown: false` draws nothing.
    pub(crate) fn new(shown: bool, total: u64, template: &str) -> Self {
        let bar = if shown {
            ProgressBar::new(total)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Over the measured time of a whole bench.
    pub(crate) fn of_time(shown: bool, total: Duration) -> Self {
        let total_ms = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
        Self::new(shown, total_ms, "{bar:30} {percent:>3} %  {msg}")
    }

    /// Over records being loaded.
    pub(crate) fn of_records(shown: bool, total: u64) -> Self {
        Self::new(
            shown,
            total,
            "{bar:30} {percent:>3} %  {msg}  {human_pos} of {human_len} records, {per_sec}",
        )
    }

    pub(crate) fn say(&self, message: String) {
        self.bar.set_message(message);
    }

    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
