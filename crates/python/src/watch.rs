//! Work that Python waits for: without the interpreter's lock, told of as it goes, ended by an interrupt.

use std::panic::resume_unwind;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use directrix_corpus::{Event, Watch};
use pyo3::prelude::*;

use crate::error::{Failure, Result};

/// How often signals are looked at, and how far the work is.
const LOOK: Duration = Duration::from_millis(50);

/// Who is told how far work is: called with the number of the work, what is being done, how much of it, of how much, and its unit.
static TOLD: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// Calls `told(work, step, done, total, unit)` while something takes long, and `told(work, None, 0, None, "")` when it has ended.
#[pyfunction]
pub(crate) fn set_progress(told: Option<Py<PyAny>>) {
    *lock(&TOLD) = told;
}

/// Does `work` on a thread of its own while this one looks at signals. An interrupt stops it, and is then what is raised.
pub(crate) fn watched<T: Send, E: Into<Failure> + Send>(
    py: Python,
    work: impl FnOnce(&Watch) -> std::result::Result<T, E> + Send,
) -> Result<T> {
    check_process()?;
    let (stop, latest) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Option<Event>>>::default());
    let told = latest.clone();
    let watch = Watch::new(stop.clone(), move |event: &Event| *lock(&told) = Some(event.clone()));
    let ended = (Mutex::new(false), Condvar::new());
    let mut raised = None;
    let mut teller = Teller::new(py);
    let made = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let _ends = Ends(&ended);
            work(&watch)
        });
        while !py.detach(|| waited(&ended)) {
            if raised.is_none() {
                let event = lock(&latest).take();
                let looked = py.check_signals().and_then(|()| event.map_or(Ok(()), |event| teller.tell(py, &event)));
                if let Err(error) = looked {
                    raised = Some(error);
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
        worker.join()
    });
    let told = teller.end(py);
    match (made, raised) {
        // PyO3 makes an exception of it.
        (Err(panic), _) => resume_unwind(panic),
        (_, Some(raised)) => Err(raised.into()),
        (Ok(made), None) => told.map_err(Failure::from).and(made.map_err(E::into)),
    }
}

/// Does short `work` without the interpreter's lock.
pub(crate) fn detached<T: Send>(py: Python, work: impl FnOnce() -> T + Send) -> Result<T> {
    check_process()?;
    Ok(py.detach(work))
}

/// Refuses a process that was forked from one that had used the threads: they are not there.
fn check_process() -> Result<()> {
    static OWNER: AtomicU32 = AtomicU32::new(0);
    let own = process::id();
    match OWNER.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Err(owner) if owner != own => Err(Failure::argument(format!(
            "process {own} was forked from process {owner}, which had used Directrix: its threads are not here; start processes \
             with multiprocessing.get_context(\"spawn\")"
        ))),
        _ => Ok(()),
    }
}

/// Says that the work has ended, also when it panics.
struct Ends<'a>(&'a (Mutex<bool>, Condvar));

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_one();
    }
}

/// Waits a moment for the end; whether it has come.
fn waited((ended, changed): &(Mutex<bool>, Condvar)) -> bool {
    let waits = |ended: &mut bool| !*ended;
    *changed.wait_timeout_while(lock(ended), LOOK, waits).unwrap_or_else(PoisonError::into_inner).0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells of work that takes longer than a second.
struct Teller {
    begun: Instant,
    told: Option<Py<PyAny>>,
    number: u32,
    has_told: bool,
}

impl Teller {
    fn new(py: Python) -> Teller {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let told = lock(&TOLD).as_ref().map(|told| told.clone_ref(py));
        Teller { begun: Instant::now(), told, number: NUMBER.fetch_add(1, Ordering::Relaxed), has_told: false }
    }

    fn tell(&mut self, py: Python, event: &Event) -> PyResult<()> {
        if let Some(told) = self.told.as_ref().filter(|_| self.begun.elapsed() > Duration::from_secs(1)) {
            self.has_told = true;
            told.call1(py, (self.number, &*event.step, event.done, event.total, event.unit))?;
        }
        Ok(())
    }

    fn end(&self, py: Python) -> PyResult<()> {
        match self.told.as_ref().filter(|_| self.has_told) {
            Some(told) => told.call1(py, (self.number, None::<&str>, 0, None::<u64>, "")).map(drop),
            None => Ok(()),
        }
    }
}
