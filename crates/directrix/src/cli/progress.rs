//! Progress on stderr of work that takes more than a second: a bar on a terminal, now and then a line elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use directrix::index;
use indicatif::{ProgressBar, ProgressStyle};

use super::terminal::{duration, remark, thousands};

const SILENT: Duration = Duration::from_secs(1);
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The progress of one piece of work over prompts or steps.
pub(crate) struct Progress {
    what: &'static str,
    unit: &'static str,
    /// How many there are.
    total: usize,
    started: Instant,
    /// Where and when the speed is measured from: work done by an earlier start does not count.
    first: Option<(Instant, usize, u64)>,
    /// Positions per second, once known.
    rate: Option<f64>,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of `what` over this many prompts.
    pub(crate) fn new(what: &'static str, prompts: usize) -> Progress {
        Progress::of(what, "prompts", prompts)
    }

    /// Of `what` over so many of a unit.
    pub(crate) fn of(what: &'static str, unit: &'static str, total: usize) -> Progress {
        let now = Instant::now();
        Progress { what, unit, total, started: now, first: None, rate: None, last_line: now, bar: None }
    }

    /// So many prompts and positions are done.
    pub(crate) fn at(&mut self, prompts: usize, positions: u64) {
        self.at_with(prompts, positions, "");
    }

    /// So many are done, and so many positions; `detail` says how it goes.
    pub(crate) fn at_with(&mut self, prompts: usize, positions: u64, detail: &str) {
        let now = Instant::now();
        let (since, first_prompts, first_positions) = *self.first.get_or_insert((now, prompts, positions));
        let (done, seconds) = (prompts - first_prompts, (now - since).as_secs_f64());
        self.rate = (done > 0 && seconds > 0.0).then(|| (positions - first_positions) as f64 / seconds);
        if now - self.started < SILENT {
            return;
        }
        let speed = self.rate.map_or_else(String::new, |rate| {
            let left = self.total.saturating_sub(prompts) as f64 * seconds / done as f64;
            format!("{} positions/s, {} left", thousands(rate as u64), duration(left))
        });
        let parts: Vec<&str> = [&speed, detail].into_iter().filter(|part| !part.is_empty()).collect();
        self.show(now, prompts, &parts.join("; "));
    }

    fn show(&mut self, now: Instant, prompts: usize, speed: &str) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| new_bar(self.what, self.unit, self.total));
            bar.set_position(prompts as u64);
            bar.set_message(speed.to_owned());
        } else if now - self.last_line >= BETWEEN_LINES {
            remark(&format!(
                "{}: {} of {} {}, {speed}",
                self.what,
                thousands(prompts as u64),
                thousands(self.total as u64),
                self.unit
            ));
            self.last_line = now;
        }
    }

    /// Says how long it took, if it took long.
    pub(crate) fn end(self) {
        let elapsed = self.started.elapsed();
        if elapsed < SILENT {
            return;
        }
        let rate = self.rate.map(|rate| format!(", {} positions/s", thousands(rate as u64)));
        drop(self);
        remark(&format!("{:.1} s{}", elapsed.as_secs_f64(), rate.unwrap_or_default()));
    }

    /// An index is so far.
    pub(crate) fn index(&mut self, done: index::Progress) {
        if done.sorting {
            self.then("sorting by direction");
        } else {
            self.at(done.prompts, done.positions);
        }
    }

    /// What is done now, where it cannot be counted.
    fn then(&mut self, what: &'static str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(what: &'static str, unit: &'static str, total: usize) -> ProgressBar {
    let template = format!("{{prefix}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}  {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style).with_prefix(what)
}
