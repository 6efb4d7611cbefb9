//! How long work is watched from outside: what it tells, and how it is stopped.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::team::Team;

/// Where work tells how far it is, and learns that it should stop. Clones share both.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use directrix_corpus::{Event, Watch};
///
/// let stop = Arc::new(AtomicBool::new(false));
/// let watch = Watch::new(stop.clone(), |event: &Event| eprintln!("{}: {} {}", event.step, event.done, event.unit));
/// watch.tell(Event::new("index", 2048, "positions").of(351_752));
/// stop.store(true, Ordering::Relaxed);
/// assert!(watch.is_stopped());
/// ```
#[derive(Clone)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    event: Arc<dyn Fn(&Event) + Send + Sync>,
    /// Who does it together with this process.
    team: Option<Arc<Team>>,
}

/// How far a step of some work is.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What is being done.
    pub step: Cow<'static, str>,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, where that is known.
    pub total: Option<u64>,
    /// What `done` and `total` count: `positions`, `prompts`.
    pub unit: &'static str,
    /// What else is worth a look just now, such as the loss; may be empty.
    pub detail: String,
}

impl Watch {
    /// Work that ends early when `stop` is set, and tells `event` how far it is.
    pub fn new(stop: Arc<AtomicBool>, event: impl Fn(&Event) + Send + Sync + 'static) -> Watch {
        Watch { stop, event: Arc::new(event), team: None }
    }

    /// Nobody watches.
    pub fn nobody() -> Watch {
        Watch::new(Arc::default(), |_| ())
    }

    /// Whether the work should end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A watch of a part of the work: stopped with this one, which is told what `change` makes of its events.
    #[must_use]
    pub fn through(&self, change: impl Fn(Event) -> Event + Send + Sync + 'static) -> Watch {
        let whole = self.event.clone();
        Watch { event: Arc::new(move |event| whole(&change(event.clone()))), ..self.clone() }
    }

    /// The same work with others, each of whom does some of its units.
    #[must_use]
    pub fn with_team(mut self, team: Arc<Team>) -> Watch {
        self.team = Some(team);
        self
    }

    /// The same, of what this process does by itself.
    #[must_use]
    pub fn alone(&self) -> Watch {
        Watch { team: None, ..self.clone() }
    }

    /// Those who do the work together, if this process is not alone.
    pub fn team(&self) -> Option<&Team> {
        self.team.as_deref()
    }

    /// Tells how far the work is.
    pub fn tell(&self, event: Event) {
        (self.event)(&event);
    }
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::nobody()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stop", &self.stop).finish_non_exhaustive()
    }
}

impl Event {
    /// `done` of an unknown number.
    pub fn new(step: impl Into<Cow<'static, str>>, done: u64, unit: &'static str) -> Event {
        Event { step: step.into(), done, total: None, unit, detail: String::new() }
    }

    /// The same, of `total`.
    #[must_use]
    pub fn of(mut self, total: u64) -> Event {
        self.total = Some(total);
        self
    }

    /// The same, with what else is worth a look.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Event {
        self.detail = detail.into();
        self
    }
}
