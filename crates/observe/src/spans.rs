//! Spans that the service exports: an OTLP/HTTP receiver on a loopback port, and the environment
//! that makes an instrumented service export to it.
//!
//! It never slows or fails the service's exporter: whatever it cannot take is answered with a
//! success (exporters repeat on 5xx, which would distort the measurement), dropped, and counted.

use crate::clock::monotonic;
use evidence::{LossCount, Redactor, Span};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use formats::otlp::{self, Encoding};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, oneshot};

/// Largest body as sent, bytes. Exporters send 512 spans a request, some 100 kB.
const BODY_LIMIT: usize = 32 << 20;
/// Largest body after decompression, bytes.
const EXPANDED_LIMIT: u64 = 64 << 20;
/// Most spans held between two takes: about 1 GB at 1 kB each.
const SPANS_LIMIT: usize = 1_000_000;
/// Connections at once; a service has one for each of its processes.
const CONNECTIONS_LIMIT: usize = 256;
/// Longest time in which a request must have arrived.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A running receiver; dropping it stops it.
#[derive(Debug)]
pub struct SpanReceiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    spans: Mutex<Vec<Span>>,
    /// Spans beyond the limit.
    dropped: AtomicU64,
    /// Spans that could not be read.
    unreadable: AtomicU64,
    /// Requests of which nothing could be read.
    refused: AtomicU64,
    redactor: Redactor,
}

impl SpanReceiver {
    /// Listens on `127.0.0.1:port`; 0 picks a free port.
    ///
    /// # Errors
    /// When the port is taken or no thread can be started.
    pub fn start(port: u16, redactor: Redactor) -> io::Result<SpanReceiver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared {
            spans: Mutex::default(),
            dropped: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            redactor,
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("spans".into()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(accept(listener, serving));
                // Sent or dropped: either way it is over, and the runtime ends all its tasks.
                let _ = stopped.await;
            });
        })?;
        Ok(SpanReceiver { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://127.0.0.1:PORT`, as exporters take it.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether a peer, named by protocol and address, is this receiver: what the service exports to
    /// us is no part of its requests.
    pub fn is_peer(&self, peer: &str) -> bool {
        peer.rsplit(' ').next() == Some(self.address.to_string().as_str())
    }

    /// The spans received since the last take, in order of start.
    pub fn take(&mut self) -> Vec<Span> {
        let mut spans = std::mem::take(&mut *self.shared.lock());
        spans.sort_by(|a, b| (a.start, &a.span_id).cmp(&(b.start, &b.span_id)));
        spans
    }

    /// What was lost since the last call. The receiver does not know the windows.
    pub fn losses(&mut self) -> Vec<LossCount> {
        let counters = [
            ("spans-dropped", &self.shared.dropped),
            ("spans-unreadable", &self.shared.unreadable),
            ("span-requests-refused", &self.shared.refused),
        ];
        let loss = |(what, counter): (&str, &AtomicU64)| {
            let count = counter.swap(0, Ordering::Relaxed);
            (count > 0).then(|| LossCount { what: what.into(), count, windows: Vec::new() })
        };
        counters.into_iter().filter_map(loss).collect()
    }
}

impl Drop for SpanReceiver {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request's spans in; the number that had no room or could not be read.
    fn add(&self, mut spans: Vec<Span>, unreadable: usize) -> u64 {
        let mut held = self.lock();
        let room = SPANS_LIMIT.saturating_sub(held.len());
        let dropped = spans.len().saturating_sub(room) as u64;
        spans.truncate(room);
        held.append(&mut spans);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.unreadable.fetch_add(unreadable as u64, Ordering::Relaxed);
        dropped + unreadable as u64
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let connections = Arc::new(Semaphore::new(CONNECTIONS_LIMIT));
    loop {
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of file descriptors, say: others may be closed meanwhile.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT * 6);
            // A broken connection is the exporter's to notice; it repeats what was not answered.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let wanted = match (request.method(), request.uri().path().trim_end_matches('/')) {
        (&Method::POST, "" | "/v1/traces") => true,
        // Exporters of other signals find an answer too, or they would log errors.
        (&Method::POST, "/v1/metrics" | "/v1/logs") => false,
        _ => return Ok(reply(StatusCode::NOT_FOUND, Encoding::Json, Vec::new())),
    };
    let (head, body) = request.into_parts();
    let Some(body) = whole(body).await else {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return Ok(reply(StatusCode::PAYLOAD_TOO_LARGE, Encoding::Json, Vec::new()));
    };
    let encoding = encoding_of(&head.headers, &body);
    if !wanted {
        return Ok(reply(StatusCode::OK, encoding, otlp::response(encoding, 0, "")));
    }
    Ok(match take_in(&head.headers, &body, encoding, &shared) {
        Some(0) => reply(StatusCode::OK, encoding, otlp::response(encoding, 0, "")),
        Some(lost) => {
            let why = "more spans than are kept, or spans that cannot be read";
            reply(StatusCode::OK, encoding, otlp::response(encoding, lost, why))
        }
        None => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            reply(StatusCode::BAD_REQUEST, encoding, Vec::new())
        }
    })
}

/// The body, with or without a length given; none when it is too large or does not arrive in time.
async fn whole(body: Incoming) -> Option<Bytes> {
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return None;
    }
    let body = Limited::new(body, BODY_LIMIT).collect();
    let body = tokio::time::timeout(REQUEST_TIMEOUT, body).await.ok()?;
    Some(body.ok()?.to_bytes())
}

fn reply(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// By the content type; an exporter that sends none is known by its first byte.
fn encoding_of(headers: &HeaderMap, body: &[u8]) -> Encoding {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let json = kind.contains("json") || kind.is_empty() && body.first() == Some(&b'{');
    if json { Encoding::Json } else { Encoding::Protobuf }
}

/// Stores a request's spans; the number lost, none when nothing of it could be read.
fn take_in(headers: &HeaderMap, body: &[u8], encoding: Encoding, shared: &Shared) -> Option<u64> {
    let bytes = expanded(headers, body)?;
    let (spans, problems) = otlp::decode(&bytes, encoding, clock_offset(), &shared.redactor);
    if spans.is_empty() && !problems.is_empty() {
        return None;
    }
    Some(shared.add(spans, problems.len()))
}

/// The body decompressed; none when it is broken, too large, or packed in an unknown way.
fn expanded(headers: &HeaderMap, body: &[u8]) -> Option<Vec<u8>> {
    let packed = headers.get(CONTENT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("identity");
    let mut bytes = Vec::new();
    let read = match packed.trim().to_ascii_lowercase().as_str() {
        "identity" | "" => return Some(body.to_vec()),
        "gzip" => MultiGzDecoder::new(body).take(EXPANDED_LIMIT).read_to_end(&mut bytes),
        "deflate" => ZlibDecoder::new(body).take(EXPANDED_LIMIT).read_to_end(&mut bytes),
        _ => return None,
    };
    read.ok().filter(|n| (*n as u64) < EXPANDED_LIMIT).map(|_| bytes)
}

/// What added to nanoseconds since 1970 gives the monotonic clock. Read anew for each request,
/// since the wall clock is steered; the reading with the least time around it of five counts.
fn clock_offset() -> i64 {
    let read = || {
        let before = monotonic().0;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let after = monotonic().0;
        let middle = i128::from(before) + i128::from(after - before) / 2;
        let offset = middle - i128::try_from(unix).unwrap_or(i128::MAX);
        (after - before, i64::try_from(offset).unwrap_or(0))
    };
    (0..5).map(|_| read()).min().map_or(0, |(_, offset)| offset)
}

/// Environment for a launched command: an OpenTelemetry SDK in it, if there is one, exports its
/// spans to `url`, all of them, at least twice a second, and nothing else.
///
/// The names are those of the OpenTelemetry specification; the traces-only ones are set too,
/// because they win over the general ones when the service's own environment has them.
pub fn otel_environment(url: &str, service_name: &str) -> Vec<(String, String)> {
    let traces = format!("{}/v1/traces", url.trim_end_matches('/'));
    [
        ("OTEL_SDK_DISABLED", "false"),
        ("OTEL_SERVICE_NAME", service_name),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &traces),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_BSP_SCHEDULE_DELAY", "500"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65536"),
        ("OTEL_PROPAGATORS", "tracecontext,baggage"),
        // Python keeps the old attribute names unless told; both are understood.
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database"),
        // Node would ask cloud metadata services, which wait for time-outs.
        ("OTEL_NODE_RESOURCE_DETECTORS", "env,process,host"),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::SpanKind;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;
    use std::net::TcpStream;

    fn json(name: &str) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        format!(
            r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"service.name","value":
            {{"stringValue":"shop"}}}}]}},"scopeSpans":[{{"spans":[{{"name":"{name}","kind":2,
            "traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708",
            "startTimeUnixNano":"{now}","endTimeUnixNano":"{now}"}}]}}]}}]}}"#
        )
        .into_bytes()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Sends a request and gives the status line and the body of the answer.
    fn send(receiver: &SpanReceiver, head: &str, body: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(receiver.address).unwrap();
        stream.write_all(format!("{head}Connection: close\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        // The receiver may close before all of a refused body is sent.
        let _ = stream.write_all(body);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (head.lines().next().unwrap_or_default().to_string(), body.to_string())
    }

    fn post(path: &str, kind: &str, more: &str, length: usize) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}"
        )
    }

    #[test]
    fn spans_arrive_in_every_packing() {
        let mut receiver = SpanReceiver::start(0, Redactor::new(0)).unwrap();
        let before = monotonic().0;
        let plain = json("plain");
        let kind = "application/json";
        let ok = ("HTTP/1.1 200 OK".to_string(), "{}".to_string());
        let head = post("/v1/traces", kind, "", plain.len());
        assert_eq!(send(&receiver, &head, &plain), ok);
        let packed = gzip(&json("gzip"));
        let head = post("/", kind, "Content-Encoding: gzip\r\n", packed.len());
        assert_eq!(send(&receiver, &head, &packed), ok);
        // Node's exporter: chunked, without a length.
        let packed = gzip(&json("chunked"));
        let (a, b) = packed.split_at(packed.len() / 2);
        let mut chunked = Vec::new();
        for chunk in [a, b, &[]] {
            chunked.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
        }
        let head = "POST /v1/traces HTTP/1.1\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n";
        assert_eq!(send(&receiver, head, &chunked), ok);
        // An empty protobuf request and other signals: an empty answer.
        for path in ["/v1/traces", "/v1/metrics", "/v1/logs"] {
            let answer = send(&receiver, &post(path, "application/x-protobuf", "", 0), b"");
            assert_eq!(answer, ("HTTP/1.1 200 OK".into(), String::new()), "{path}");
        }
        let spans = receiver.take();
        let names: Vec<_> = spans.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["plain", "gzip", "chunked"]);
        for span in &spans {
            assert_eq!((span.service.as_str(), span.kind), ("shop", SpanKind::Server));
            let slack = 50_000_000;
            assert!(span.start.0 + slack > before && span.start.0 < monotonic().0 + slack);
        }
        assert_eq!((receiver.take(), receiver.losses()), (vec![], vec![]));
    }

    #[test]
    fn what_cannot_be_taken_is_counted_and_never_a_server_error() {
        let mut receiver = SpanReceiver::start(0, Redactor::new(0)).unwrap();
        let status = |head: &str, body: &[u8]| send(&receiver, head, body).0;
        let kind = "application/json";
        assert!(status(&post("/v1/traces", kind, "", 6), b"<html>").contains("400"));
        let lie = post("/v1/traces", kind, "Content-Encoding: gzip\r\n", 6);
        assert!(status(&lie, b"<html>").contains("400"));
        let bomb = gzip(&vec![0; EXPANDED_LIMIT as usize]);
        let head = post("/v1/traces", kind, "Content-Encoding: gzip\r\n", bomb.len());
        assert!(status(&head, &bomb).contains("400"));
        let huge = status(&post("/v1/traces", kind, "", BODY_LIMIT + 1), &[b' '; 1 << 16]);
        assert!(huge.contains("413"), "{huge}");
        assert!(status("GET / HTTP/1.1\r\n", b"").contains("404"));
        assert_eq!(receiver.take(), []);
        let losses = receiver.losses();
        assert_eq!((losses[0].what.as_str(), losses[0].count), ("span-requests-refused", 4));
        assert_eq!(receiver.losses(), []);
    }

    #[test]
    fn a_full_receiver_drops_and_counts() {
        let receiver = SpanReceiver::start(0, Redactor::new(0)).unwrap();
        let one = formats::otlp::decode(&json("x"), Encoding::Json, 0, &Redactor::new(0)).0;
        *receiver.shared.lock() = vec![one[0].clone(); SPANS_LIMIT - 1];
        assert_eq!(receiver.shared.add(vec![one[0].clone(); 3], 1), 3);
        assert_eq!(receiver.shared.lock().len(), SPANS_LIMIT);
        assert_eq!(receiver.shared.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn dropping_it_frees_the_port_and_a_taken_port_is_an_error() {
        let receiver = SpanReceiver::start(0, Redactor::new(0)).unwrap();
        let port = receiver.address.port();
        let idle = TcpStream::connect(receiver.address).unwrap();
        assert!(SpanReceiver::start(port, Redactor::new(0)).is_err());
        drop(receiver);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        drop(idle);
    }

    #[test]
    fn the_environment_names_the_receiver() {
        let environment = otel_environment("http://127.0.0.1:4318", "shop");
        let value =
            |name: &str| environment.iter().find(|e| e.0 == name).map_or("", |e| e.1.as_str());
        assert_eq!(value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(value("OTEL_SERVICE_NAME"), "shop");
    }
}
