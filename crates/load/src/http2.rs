//! One HTTP/2 connection, used for one request at a time, with the same phases as HTTP/1.1.

use crate::clock;
use crate::h1::{Head, Keep};
use crate::request::{Request, Scheme};
use crate::socket::{Broken, Limits};
use crate::tls::bounded;
use crate::transfer::{Progress, Sending, headers};
use bytes::Bytes;
use evidence::{Failure, Nanos};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Receive window of a stream and of the connection, bytes: large enough that the generator's own
/// acknowledgements never hold up an answer.
const WINDOW: u32 = 8 << 20;
/// Largest head accepted, bytes.
const HEAD_LIMIT: u32 = 64 << 10;

/// A connection. Its driver runs on the client's own runtime, only while the client waits.
pub(crate) struct Http2 {
    requests: SendRequest<Bytes>,
    written: Arc<Written>,
    ended: Arc<AtomicBool>,
}

/// When the connection last had all of a request written.
#[derive(Debug, Default)]
struct Written {
    /// Bytes that must still be written before the request counts as sent.
    missing: AtomicU64,
    /// When the last of them was.
    at: AtomicU64,
}

impl Written {
    fn expect(&self, bytes: u64) {
        self.at.store(0, Ordering::Relaxed);
        self.missing.store(bytes, Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        let missing = self.missing.load(Ordering::Relaxed);
        if missing > 0 {
            let left = missing.saturating_sub(bytes as u64);
            self.missing.store(left, Ordering::Relaxed);
            self.at.store(clock::now().0, Ordering::Relaxed);
        }
    }
}

/// A stream whose writes are counted and stamped.
struct Stamped<S> {
    stream: S,
    written: Arc<Written>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Stamped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stamped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(n)) = poll {
            self.written.wrote(n);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Http2 {
    /// Starts HTTP/2 on a stream that chose it, on the current runtime.
    pub(crate) async fn start<S>(stream: S, limits: &Limits) -> Result<Http2, Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let written = Arc::new(Written::default());
        let stream = Stamped { stream, written: written.clone() };
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(HEAD_LIMIT)
            .enable_push(false);
        let (requests, connection) = bounded(limits, builder.handshake(stream))
            .await
            .map_err(|e| Broken::io(&e, Failure::Reset))?
            .map_err(|e| broken(&e))?;
        // Errors of the driver reach the request that waits for it.
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        tokio::spawn(async move {
            let _ = connection.await;
            end.store(true, Ordering::Relaxed);
        });
        Ok(Http2 { requests, written, ended })
    }

    /// Whether the connection still stands, after a look at what arrived while it was idle. The
    /// driver only runs while somebody waits, so this waits one tick of the timer, 1 ms.
    pub(crate) async fn is_quiet(&self) -> bool {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        // The timer and the socket may wake together, and this future is polled first.
        tokio::task::yield_now().await;
        !self.ended.load(Ordering::Relaxed)
    }

    /// Sends one request and reads its answer.
    pub(crate) async fn exchange(
        &mut self,
        request: &Request,
        sending: &Sending<'_>,
        progress: &mut Progress,
    ) -> Result<(), Broken> {
        let limits = sending.limits;
        let head = head(request, sending.extra)?;
        wait(limits, std::future::poll_fn(|context| self.requests.poll_ready(context))).await?;
        let empty = request.body.is_empty();
        self.written.expect((request.body.len() as u64).max(1));
        let (answer, body) = self.requests.send_request(head, empty).map_err(|e| broken(&e))?;
        if !empty {
            send_body(body, &request.body, limits).await?;
        }
        let read = read_answer(answer, sending, progress).await;
        let sent = Nanos(self.written.at.load(Ordering::Relaxed));
        if sent > Nanos::ZERO {
            progress.sent = Some(sent);
        }
        read
    }
}

/// Awaits an HTTP/2 step within the limits.
async fn wait<T>(
    limits: &Limits,
    step: impl Future<Output = Result<T, h2::Error>>,
) -> Result<T, Broken> {
    match bounded(limits, step).await {
        Ok(done) => done.map_err(|e| broken(&e)),
        Err(e) => Err(Broken::io(&e, Failure::Reset)),
    }
}

/// Sends as much as the peer's window allows at a time.
async fn send_body(
    mut stream: SendStream<Bytes>,
    body: &[u8],
    limits: &Limits,
) -> Result<(), Broken> {
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let capacity = std::future::poll_fn(|context| stream.poll_capacity(context));
        let granted = match bounded(limits, capacity).await {
            Ok(Some(Ok(granted))) => granted,
            Ok(Some(Err(e))) => return Err(broken(&e)),
            // The peer answered without reading all of it; its answer tells why.
            Ok(None) => return Ok(()),
            Err(e) => return Err(Broken::io(&e, Failure::Reset)),
        };
        let piece = rest.split_to(granted.min(rest.len()));
        let last = rest.is_empty();
        if stream.send_data(piece, last).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn read_answer(
    answer: ResponseFuture,
    sending: &Sending<'_>,
    progress: &mut Progress,
) -> Result<(), Broken> {
    let response = wait(sending.limits, answer).await?;
    progress.first_byte = Some(clock::now());
    let (parts, body) = response.into_parts();
    let headers = parts
        .headers
        .iter()
        .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    progress.head = Head { status: parts.status.as_u16(), minor: 0, headers };
    progress.end = progress.first_byte;
    read_body(body, sending, progress).await
}

async fn read_body(
    mut body: RecvStream,
    sending: &Sending<'_>,
    progress: &mut Progress,
) -> Result<(), Broken> {
    loop {
        let next = std::future::poll_fn(|context| body.poll_data(context));
        let data = match bounded(sending.limits, next).await {
            Ok(Some(Ok(data))) => data,
            Ok(None) => break,
            Ok(Some(Err(e))) => return Err(broken(&e)),
            Err(e) => return Err(Broken::io(&e, Failure::Reset)),
        };
        progress.end = Some(clock::now());
        progress.body_bytes += data.len() as u64;
        if progress.body_bytes > sending.body_limit {
            let detail = format!("the body is larger than {} bytes", sending.body_limit);
            return Err(Broken::new(Failure::TooLarge, detail));
        }
        let keep: Keep = sending.keep;
        keep.append(&progress.head, &mut progress.body, &data);
        body.flow_control().release_capacity(data.len()).map_err(|e| broken(&e))?;
    }
    wait(sending.limits, std::future::poll_fn(|context| body.poll_trailers(context))).await?;
    progress.end = Some(clock::now());
    Ok(())
}

/// The head as HTTP/2 wants it: the host becomes the authority.
fn head(request: &Request, extra: &[(String, String)]) -> Result<http::Request<()>, Broken> {
    let authority = request.header("host").unwrap_or(&request.host);
    let uri = format!("{}://{authority}{}", Scheme::Https.as_str(), request.target);
    let mut builder = http::Request::builder()
        .method(request.method.as_str())
        .uri(uri)
        .version(http::Version::HTTP_2);
    for (name, value) in headers(request, extra).filter(|(name, _)| name != "host") {
        builder = builder.header(name.as_str(), value.as_bytes());
    }
    builder.body(()).map_err(|e| {
        let detail = format!("HTTP/2 cannot carry this request: {e}");
        Broken::new(Failure::Protocol, detail)
    })
}

fn broken(error: &h2::Error) -> Broken {
    let failure = if error.is_io() || error.is_go_away() || error.is_reset() {
        Failure::Reset
    } else {
        Failure::Protocol
    };
    let refused = error.is_reset() && error.reason() != Some(h2::Reason::REFUSED_STREAM);
    Broken { refused, ..Broken::new(failure, format!("HTTP/2: {error}")) }
}
