//! Passing bytes on: two pumps a connection, each reading only when there is something to read.

use super::{clock, delay};
use crate::{ConnectionKey, Decoder};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Buffers kept for reuse.
const POOL: usize = 64;

/// Longest wait for the peer to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// What the proxy's owner and its thread share.
pub(super) struct Shared {
    pub upstream: Vec<SocketAddr>,
    pub decoder: Mutex<Decoder>,
    pub delay_nanos: AtomicU64,
    pub round_trips: AtomicU64,
    /// Local ports of the connections to the peer, closed ones too.
    pub ports: Mutex<BTreeSet<u16>>,
}

impl Shared {
    fn decoder(&self) -> MutexGuard<'_, Decoder> {
        self.decoder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ports(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the two pumps of a connection share.
struct Link {
    shared: Arc<Shared>,
    key: ConnectionKey,
    /// The peer has spoken since the client did.
    answered: Cell<bool>,
    pool: Rc<RefCell<Vec<Vec<u8>>>>,
}

/// Accepts until stopped; dropping the tasks then closes their connections.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let tasks = LocalSet::new();
    let pool = Rc::new(RefCell::new(Vec::new()));
    let accept = tasks.run_until(async {
        loop {
            match listener.accept().await {
                Ok((client, address)) => {
                    let (shared, pool) = (shared.clone(), pool.clone());
                    tokio::task::spawn_local(async move {
                        relay(client, address, shared, pool).await;
                    });
                }
                // Out of descriptors: the backlog waits until some are free.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    tokio::select! {
        _ = accept => {}
        _ = stopped => {}
    }
}

async fn relay(
    client: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared>,
    pool: Rc<RefCell<Vec<Vec<u8>>>>,
) {
    let opened = clock::now();
    let (server, upstream) = match connect(&shared.upstream).await {
        Ok(connected) => connected,
        Err(_) => {
            let mut decoder = shared.decoder();
            let key = decoder.open_refused(address, shared.upstream[0], opened);
            decoder.broken(key, clock::now());
            // The service sees a reset, the nearest thing to a refusal after accepting.
            let _ = client.set_zero_linger();
            return;
        }
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    if let Ok(local) = server.local_addr() {
        shared.ports().insert(local.port());
    }
    let key = shared.decoder().open(address, upstream, opened, clock::now());
    let link = Link { shared, key, answered: Cell::new(true), pool };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let up = pump(&link, client_in, server_out, true);
    let down = pump(&link, server_in, client_out, false);
    // An error of one direction ends both: dropping the halves closes them.
    if tokio::try_join!(up, down).is_err() {
        link.shared.decoder().broken(key, clock::now());
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, *address)),
            Ok(Err(e)) => last = e,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Passes one direction on until it ends, then ends it on the other side too.
async fn pump(
    link: &Link,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    from_client: bool,
) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer = link.pool.borrow_mut().pop().unwrap_or_else(|| vec![0; CHUNK]);
        let read = from.try_read(&mut buffer);
        let passed = match read {
            Ok(n) => pass(link, &buffer[..n], &mut to, from_client).await.map(|()| n),
            Err(e) => Err(e),
        };
        if link.pool.borrow().len() < POOL {
            link.pool.borrow_mut().push(buffer);
        }
        match passed {
            Ok(0) => {
                link.shared.decoder().ended(link.key, from_client, clock::now());
                // The other side may be gone already.
                let _ = to.shutdown().await;
                return Ok(());
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

async fn pass(
    link: &Link,
    data: &[u8],
    to: &mut OwnedWriteHalf,
    from_client: bool,
) -> io::Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    if from_client {
        link.shared.decoder().bytes(link.key, true, data, clock::now());
        if link.answered.replace(false) {
            link.shared.round_trips.fetch_add(1, Ordering::Relaxed);
            let nanos = link.shared.delay_nanos.load(Ordering::Relaxed);
            if nanos > 0 {
                delay::wait(Duration::from_nanos(nanos)).await?;
            }
        }
        return to.write_all(data).await;
    }
    link.answered.set(true);
    to.write_all(data).await?;
    link.shared.decoder().bytes(link.key, false, data, clock::now());
    Ok(())
}
