//! What people see: steps that tick off, and text. Nothing else in this program prints.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use sealwire_report::visible;

/// Steps that tick off, unless nobody looks.
pub(crate) struct Steps {
    quiet: bool,
}

impl Steps {
    /// `quiet` shows nothing, for machines.
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Does a step and ticks it off.
    pub(crate) fn step<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if self.quiet {
            return work();
        }
        let begun = Instant::now();
        let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(Duration::from_millis(80));
        let result = work();
        spinner.finish_and_clear();
        let mark = if result.is_ok() { "✔" } else { "✘" };
        say(&format!(
            "  {mark} {what} ({:.1} s)",
            begun.elapsed().as_secs_f64()
        ));
        result
    }
}

#[allow(clippy::print_stdout, reason = "what people see")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Says something that parts of records stand in: those may come from strangers, and must not move
/// the terminal.
pub(crate) fn say_of_records(text: &str) {
    say(&visible(text));
}

/// Says something beside what is printed.
#[allow(clippy::print_stderr, reason = "standard output is for the result")]
pub(crate) fn remark(text: &str) {
    eprintln!("{text}");
}

pub(crate) fn complain(error: &anyhow::Error) {
    remark(&visible(&format!("sealwire: {error:#}")));
}
