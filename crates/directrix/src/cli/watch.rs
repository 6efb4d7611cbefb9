//! What the user sees of long work, and how it is stopped: ctrl-C, and progress on stderr of what takes more than a second,
//! a bar on a terminal, now and then a line elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use directrix::corpus::{Event, Watch};
use directrix::lab::Sources;
use indicatif::{ProgressBar, ProgressStyle};

use super::terminal::{duration, remark, thousands};

const SILENT: Duration = Duration::from_secs(1);
const BETWEEN_LINES: Duration = Duration::from_secs(10);

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether ctrl-C was pressed.
pub(crate) fn is_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Where models, SAEs and corpora are found; downloads are shown.
pub(crate) fn sources() -> Sources {
    Sources::watched(&shown())
}

/// A watch that the first ctrl-C stops, for work that can end cleanly; the second one ends the process. To be made once.
pub(crate) fn watch() -> Watch {
    let set = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        remark("stopping; press ctrl-C again to stop at once");
    });
    // A system that offers no handler keeps its own: ctrl-C ends the process.
    drop(set);
    shown()
}

/// A watch that shows what it is told.
fn shown() -> Watch {
    let shown: Mutex<Option<Progress>> = Mutex::new(None);
    Watch::new(STOP.clone(), move |event| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_some_and(|progress| progress.step != event.step) {
            *shown = None;
        }
        if event.unit == "sections" {
            let of = event.total.map_or_else(String::new, |total| format!("/{total}"));
            return remark(&format!("[{}{of}] {}", event.done, event.detail));
        }
        shown.get_or_insert_with(|| Progress::of(event)).at(event);
    })
}

/// The progress of one step.
struct Progress {
    step: String,
    unit: &'static str,
    started: Instant,
    /// Where the speed is measured from: work done by an earlier start does not count.
    first: u64,
    done: u64,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn of(event: &Event) -> Progress {
        let (now, done) = (Instant::now(), event.done);
        Progress {
            step: event.step.to_string(),
            unit: event.unit,
            started: now,
            first: done,
            done,
            last_line: now,
            bar: None,
        }
    }

    fn at(&mut self, event: &Event) {
        let now = Instant::now();
        self.done = event.done;
        if now - self.started < SILENT {
            return;
        }
        let left = self.rate().zip(event.total).map(|(rate, total)| total.saturating_sub(event.done) as f64 / rate);
        let parts = [
            self.rate().map(|rate| format!("{} {}/s", thousands(rate as u64), self.unit)),
            left.map(|seconds| format!("{} left", duration(seconds))),
            Some(event.detail.clone()).filter(|detail| !detail.is_empty()),
        ];
        let message = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| new_bar(event));
            bar.set_position(event.done);
            bar.set_message(message);
        } else if now - self.last_line >= BETWEEN_LINES {
            let of = event.total.map_or_else(String::new, |total| format!(" of {}", thousands(total)));
            remark(&format!("{}: {}{of} {}, {message}", self.step, thousands(event.done), self.unit));
            self.last_line = now;
        }
    }

    /// How much is done in a second.
    fn rate(&self) -> Option<f64> {
        let (done, seconds) = (self.done.saturating_sub(self.first), self.started.elapsed().as_secs_f64());
        Some(done as f64 / seconds).filter(|rate| rate.is_finite() && *rate >= 1.0)
    }
}

/// Says how long the step took, if it took long.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let elapsed = self.started.elapsed();
        if elapsed >= SILENT && !is_stopped() {
            let rate = self.rate().map(|rate| format!(", {} {}/s", thousands(rate as u64), self.unit));
            remark(&format!("{}: {:.1} s{}", self.step, elapsed.as_secs_f64(), rate.unwrap_or_default()));
        }
    }
}

fn new_bar(event: &Event) -> ProgressBar {
    let Event { unit, total, .. } = event;
    let (bar, end) = if total.is_some() { ("{wide_bar} ", "/{human_len}") } else { ("", "") };
    let template = format!("{{prefix}} {bar}{{human_pos}}{end} {unit}  {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(style).with_prefix(event.step.to_string())
}
