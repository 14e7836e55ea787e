//! A proxy on loopback between a service and one of its peers: for machines that allow no capture,
//! and for the `delay` experiment. It passes bytes on unchanged, TLS included, and frames what it
//! passes with the same [`crate::Decoder`].
//!
//! One thread serves all connections; idle ones hold no buffers.

mod delay;
mod environment;
mod relay;

pub use environment::{Rewrite, Rewritten, Skipped, rewrite_environment};

use crate::losses::Losses;
use crate::{Decoder, clock};
use evidence::{Call, CallSource, Redactor};
use relay::Shared;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// What to put in front of what.
#[derive(Clone, Debug)]
pub struct Config {
    /// The peer, `host:port`.
    pub upstream: String,
    /// Name of the peer in Calls; empty to make it of protocol and address.
    pub peer: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Redacts what is seen.
    pub redactor: Redactor,
    /// Added to each round trip, see [`Proxy::set_delay`].
    pub delay: Duration,
}

/// Why a proxy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The peer's name has no address.
    #[error("the proxy's peer `{upstream}` cannot be resolved: {source}\nhint: give host:port")]
    Resolve {
        /// As configured.
        upstream: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// The listening socket could not be had.
    #[error("the proxy cannot listen on {address}: {source}\nhint: port 0 takes a free one")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// Thread or event loop could not be started.
    #[error("the proxy cannot start: {source}\nhint: check the limits of threads and open files")]
    Start {
        /// The system's answer.
        source: io::Error,
    },
}

/// A running proxy. Dropping it closes its connections and ends its thread.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Config {
    /// A proxy for `upstream` on a free port of loopback, without delay.
    pub fn new(upstream: &str, redactor: Redactor) -> Config {
        Config {
            upstream: upstream.to_owned(),
            peer: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            redactor,
            delay: Duration::ZERO,
        }
    }
}

impl Proxy {
    /// Starts listening. Whether the peer can be reached shows with the first connection.
    ///
    /// # Errors
    /// The peer's name has no address, the socket cannot be had, no thread can be started.
    pub fn start(config: Config) -> Result<Proxy, ProxyError> {
        let upstream = resolve(&config.upstream)?;
        let listen = |source| ProxyError::Listen { address: config.listen, source };
        let listener = std::net::TcpListener::bind(config.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let mut decoder = Decoder::with_source(config.redactor, &[], CallSource::Proxy);
        let names = upstream.iter().map(|a| (*a, config.peer.clone()));
        decoder.set_peers(names.collect::<HashMap<_, _>>());
        let shared = Arc::new(Shared {
            upstream,
            decoder: Mutex::new(decoder),
            delay_nanos: AtomicU64::new(nanos(config.delay)),
            round_trips: AtomicU64::new(0),
            ports: Mutex::new(BTreeSet::new()),
        });
        let start = |source| ProxyError::Start { source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
        let (stop, stopped) = oneshot::channel();
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("wire-proxy".into())
            .spawn(move || runtime.block_on(relay::serve(listener, serving, stopped)))
            .map_err(start)?;
        Ok(Proxy { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where the service has to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls that ended since the last time.
    pub fn take_calls(&self) -> Vec<Call> {
        self.decoder().take_calls()
    }

    /// A quiet gap, see [`Decoder::flush`].
    pub fn flush(&self) {
        self.decoder().flush();
    }

    /// Adds this much to every round trip from now on: to the first bytes a client sends after it
    /// was answered (or at the start). Pipelined requests share one delay, as they would share a
    /// slower network's. The TCP connect itself is not delayed.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.delay_nanos.store(nanos(delay), Ordering::Relaxed);
    }

    /// Round trips passed on so far.
    pub fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::Relaxed)
    }

    /// Whether a connection to the peer from this local port was the proxy's own, so that who also
    /// captures packets does not take it for the service's.
    pub fn owns_port(&self, port: u16) -> bool {
        self.shared.ports().contains(&port)
    }

    /// What was not understood so far.
    pub fn losses(&self) -> Losses {
        self.decoder().losses()
    }

    fn decoder(&self) -> MutexGuard<'_, Decoder> {
        // A panic while decoding leaves data that is at worst incomplete.
        self.shared.decoder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic on the thread was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("upstream", &self.shared.upstream)
            .finish_non_exhaustive()
    }
}

fn resolve(upstream: &str) -> Result<Vec<SocketAddr>, ProxyError> {
    let failed = |source| ProxyError::Resolve { upstream: upstream.to_owned(), source };
    let addresses: Vec<SocketAddr> = upstream.to_socket_addrs().map_err(failed)?.collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "no address")));
    }
    Ok(addresses)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
