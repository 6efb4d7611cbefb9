//! ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use directrix::corpus::{Event, Watch};

use super::terminal::remark;

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The user stopped the command.
#[derive(Debug)]
pub(crate) struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped; nothing was written")
    }
}

impl std::error::Error for Stopped {}

/// A flag that the first ctrl-C sets, for work that can end cleanly; the second one ends the process.
pub(crate) fn flag() -> &'static AtomicBool {
    let set = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        remark("stopping; press ctrl-C again to stop at once");
    });
    // A system that offers no handler keeps its own: ctrl-C ends the process.
    drop(set);
    &STOP
}

/// Work that the first ctrl-C ends, and that tells `event` how far it is.
pub(crate) fn watch(event: impl Fn(&Event) + Send + Sync + 'static) -> Watch {
    flag();
    Watch::new(STOP.clone(), event)
}
