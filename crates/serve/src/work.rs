//! Where computations run: what is looked at beside what takes long, each asked for once however many wait for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use directrix_corpus::{Watch, durable};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::error::{Answered, Refused};

/// Requests of each kind that compute at a time; others wait.
const LIGHT: usize = 16;
const HEAVY: usize = 2;
/// Requests of each kind that may wait; more are turned away.
const WAITING: usize = 512;

/// How long a computation takes, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Some milliseconds.
    Moments,
    /// Seconds: it has threads of its own, which give way to others.
    Long,
}

type Answer = Answered<Bytes>;
type Computing = BoxFuture<'static, Answer>;

/// Threads of both kinds, and what is being computed.
pub(crate) struct Work {
    light: Lane,
    heavy: Lane,
    running: Mutex<HashMap<String, WeakShared<Computing>>>,
}

struct Lane {
    pool: Arc<rayon::ThreadPool>,
    permits: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Lane {
    fn new(name: &'static str, permits: usize, gives_way: bool) -> std::io::Result<Lane> {
        let builder = rayon::ThreadPoolBuilder::new()
            .num_threads(rayon::current_num_threads())
            .thread_name(move |i| format!("{name}-{i}"));
        let builder = builder.start_handler(move |_| {
            if gives_way {
                give_way();
            }
        });
        Ok(Lane {
            pool: Arc::new(builder.build().map_err(std::io::Error::other)?),
            permits: Arc::new(Semaphore::new(permits)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        })
    }
}

/// Lets all other threads go first.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: changes the priority of the calling thread, as Linux understands 0 here, and nothing else.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    }
}

/// Says stop when it is dropped: when nobody waits for an answer any more.
pub(crate) struct Stops(Arc<AtomicBool>);

impl Stops {
    pub(crate) fn new() -> (Stops, Watch) {
        let stop = Arc::new(AtomicBool::new(false));
        (Stops(stop.clone()), Watch::new(stop, |_| ()))
    }
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Work {
    pub(crate) fn new() -> std::io::Result<Work> {
        Ok(Work {
            light: Lane::new("look", LIGHT, false)?,
            heavy: Lane::new("long", HEAVY, true)?,
            running: Mutex::default(),
        })
    }

    /// Runs `compute` on threads of its kind. When the future is dropped, its watch says stop.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        takes: Takes,
        compute: impl FnOnce(&Watch) -> Answered<T> + Send + 'static,
    ) -> impl Future<Output = Answered<T>> + Send + 'static {
        let lane = if takes == Takes::Moments { &self.light } else { &self.heavy };
        let (pool, permits, waiting) = (lane.pool.clone(), lane.permits.clone(), lane.waiting.clone());
        async move {
            let too_many =
                || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "too much is asked at a time; ask again in a moment");
            let _place = waiting.try_acquire_owned().map_err(|_| too_many())?;
            let permit = permits.acquire_owned().await.map_err(|_| too_many())?;
            let (stops, watch) = Stops::new();
            let done = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                pool.install(|| compute(&watch))
            });
            let found = done.await;
            drop(stops);
            let found = found.map_err(|_| {
                Refused::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "this went wrong in Directrix itself; its terminal says more",
                )
            })?;
            whole()?;
            found
        }
    }

    /// As [`run`](Work::run), as JSON; requests with the same `key` share one computation while it runs, which is given up when none of
    /// them waits any more.
    pub(crate) async fn answer<T: Serialize + Send + 'static>(
        &self,
        takes: Takes,
        key: String,
        compute: impl FnOnce(&Watch) -> Answered<T> + Send + 'static,
    ) -> Answered<Response> {
        let shared = {
            let mut running = lock(&self.running);
            running.retain(|_, computing| computing.upgrade().is_some());
            if let Some(shared) = running.get(&key).and_then(WeakShared::upgrade) {
                shared
            } else {
                let failed =
                    |error: serde_json::Error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
                let computed = self
                    .run(takes, move |watch| Ok(Bytes::from(serde_json::to_vec(&compute(watch)?).map_err(failed)?)));
                let shared: Shared<Computing> = computed.boxed().shared();
                if let Some(weak) = shared.downgrade() {
                    running.insert(key, weak);
                }
                shared
            }
        };
        Ok(json(shared.await?))
    }
}

/// A body that is JSON already.
pub(crate) fn json(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from(bytes)).into_response()
}

/// That no mapped file was cut short: what was read of one is no answer.
fn whole() -> Answered<()> {
    match durable::shrunken() {
        None => Ok(()),
        Some(path) => Err(Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "`{}` became shorter while it was served; put the whole file back and start `directrix serve` again",
                path.display()
            ),
        )),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
