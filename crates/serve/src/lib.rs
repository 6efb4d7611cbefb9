//! The workbench as a server: an HTTP API, and a page that asks it.
//!
//! A [`Workbench`] is what is served: a model with its SAEs, and, where there is one, an index of them. [`Server`] listens and answers:
//!
//! ```text
//! request ──guard──▶ api ──▶ work: many that take moments │ few that take long ──▶ rooms before this one
//! ```
//!
//! - Whoever asks is checked first (`guard.rs`): the server answers to its own name alone, to no other page, and to other machines only with
//!   a token.
//! - What is asked is typed, and described in `/openapi.json` (`api/`). Nothing is computed here that a command could not compute.
//! - Computations have threads of their own (`work.rs`): what takes long gives way to what is looked at. Those that are asked for twice run
//!   once, and one that nobody waits for any more is stopped.
//! - Nothing is written but notes (`notes.rs`), and those only when asked.
//!
//! ```no_run
//! use directrix_corpus::Watch;
//! use directrix_lab::Sources;
//! use directrix_serve::{Server, Workbench};
//!
//! let bench = Workbench::of_index("out/index".as_ref(), &Sources::default())?;
//! let server = Server::listen(bench, ([127, 0, 0, 1], 7171).into(), None)?;
//! println!("{}", server.url());
//! server.run(&Watch::nobody())?;
//! # Ok::<(), directrix_serve::Error>(())
//! ```

mod api;
mod error;
mod guard;
mod notes;
mod page;
mod work;
mod workbench;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use directrix_corpus::Watch;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;

pub use error::{Error, Result};
pub use workbench::Workbench;

use crate::guard::{Guard, guard};
use crate::work::Work;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 1024;
/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether to stop.
const STOPS: Duration = Duration::from_millis(100);

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    served: Arc<Served>,
    guard: Arc<Guard>,
}

/// What requests are answered from.
pub(crate) struct Served {
    pub(crate) bench: Arc<Workbench>,
    pub(crate) work: Work,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Listens at an address; port 0 is any that is free.
    ///
    /// # Errors
    /// [`Error::NoToken`] if others can reach the address and there is no token; [`Error::Listen`] if it is taken.
    pub fn listen(bench: Workbench, address: SocketAddr, token: Option<String>) -> Result<Server> {
        if !address.ip().is_loopback() && token.is_none() {
            return Err(Error::NoToken { address: address.to_string() });
        }
        let listen = |source| Error::Listen { address: address.to_string(), source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        listener.set_nonblocking(true)?;
        let served = Arc::new(Served { bench: Arc::new(bench), work: Work::new()?, address });
        Ok(Server { listener, served, guard: Arc::new(Guard { address, token }) })
    }

    /// Where the page is.
    pub fn url(&self) -> String {
        let token = self.guard.token.as_ref().map_or_else(String::new, |token| format!("?token={token}"));
        format!("http://{}/{token}", self.guard.address)
    }

    /// Answers requests until `watch` says stop.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn run(self, watch: &Watch) -> Result<()> {
        directrix_corpus::durable::survive_if_a_map_shrinks();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                ended = self.serve() => ended,
                () = stopped(watch) => Ok(()),
            }
        })
    }

    async fn serve(self) -> Result<()> {
        let Server { listener, served, guard: guarded } = self;
        let bench = served.bench.clone();
        drop(tokio::task::spawn_blocking(move || bench.prepare()));
        let router = Router::new()
            .merge(api::router())
            .fallback(page::page)
            .layer(RequestBodyTimeoutLayer::new(PATIENCE))
            .layer(CompressionLayer::new())
            .layer(from_fn_with_state(guarded, guard))
            .with_state(served);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of files, or a client that is gone already.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let _place = place;
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(stream), service);
                drop(connection.await);
            });
        }
    }
}

/// Ends when a watch says stop.
async fn stopped(watch: &Watch) {
    while !watch.is_stopped() {
        tokio::time::sleep(STOPS).await;
    }
}
