//! One request over one connection: open it, send, read the answer, and know when each step ended.

use crate::clock;
use crate::h1::{Head, Keep, ParseError, ResponseParser};
use crate::http2::Http2;
use crate::request::{Request, Scheme};
use crate::socket::{Broken, Connected, Idle, Limits, Socket, connect};
use crate::tls;
use evidence::{Failure, Nanos, Phases};
use rustls::{ClientConnection, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use tokio::runtime::Runtime;

/// Bytes read at once.
const READ_SIZE: usize = 64 << 10;
/// A body up to this size leaves in one write with its head, bytes.
const JOIN_SIZE: usize = 16 << 10;
/// A connection idle for longer is looked at before use; within it, a tight loop saves the call.
const LOOK_AFTER: Nanos = Nanos(1_000_000);

const NO_RUNTIME: &str = "TLS needs the client's event loop, which could not be started";

/// How one request is to be sent.
pub(crate) struct Sending<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) body_limit: u64,
    pub(crate) keep: Keep,
    /// Headers added at this send: trace id, cookies, token.
    pub(crate) extra: &'a [(String, String)],
    /// Acknowledge what is read at once.
    pub(crate) acknowledge_at_once: bool,
}

/// How far an exchange came; filled in while it runs, kept when it breaks.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) sent: Option<Nanos>,
    pub(crate) first_byte: Option<Nanos>,
    pub(crate) end: Option<Nanos>,
    pub(crate) head: Head,
    pub(crate) body_bytes: u64,
    pub(crate) body: Vec<u8>,
}

enum Transport {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
    Http2(Http2),
}

/// An open connection.
pub(crate) struct Connection {
    transport: Transport,
    place: Place,
    pub(crate) client_port: u16,
    used_at: Nanos,
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    scheme: Scheme,
    host: String,
    port: u16,
    insecure: bool,
}

impl Place {
    fn is_of(&self, request: &Request) -> bool {
        self.host == request.host
            && self.port == request.port
            && self.scheme == request.scheme
            && self.insecure == request.insecure
    }
}

impl Connection {
    /// Opens a connection for `request`, stamping the phases.
    pub(crate) fn open(
        request: &Request,
        limits: &Limits,
        runtime: Option<&Runtime>,
        phases: &mut Phases,
    ) -> Result<Connection, Broken> {
        let Connected { stream, dns, connect, client_port } = connect(request, limits)?;
        phases.dns = dns;
        phases.connect = Some(connect);
        let plain = |stream| {
            Socket::new(stream, limits.clone()).map_err(|e| Broken::io(&e, Failure::Connect))
        };
        let transport = match (request.scheme, runtime) {
            (Scheme::Http, _) => Transport::Plain(plain(stream)?),
            (Scheme::Https, None) => return Err(Broken::new(Failure::Tls, NO_RUNTIME)),
            (Scheme::Https, Some(runtime)) => runtime.block_on(async {
                let stream = tls::handshake(request, stream, limits).await?;
                phases.tls = Some(clock::now());
                if tls::chose_h2(&stream) {
                    return Ok(Transport::Http2(Http2::start(stream, limits).await?));
                }
                let (stream, session) = stream.into_inner();
                let stream = stream.into_std().map_err(|e| Broken::io(&e, Failure::Tls))?;
                let stream = StreamOwned::new(session, plain(stream)?);
                Ok(Transport::Tls(Box::new(stream)))
            })?,
        };
        let place = Place {
            scheme: request.scheme,
            host: request.host.clone(),
            port: request.port,
            insecure: request.insecure,
        };
        Ok(Connection { transport, place, client_port, used_at: clock::now() })
    }

    /// `h1` or `h2`.
    pub(crate) fn protocol(&self) -> &'static str {
        if matches!(self.transport, Transport::Http2(_)) { "h2" } else { "h1" }
    }

    /// Whether this connection can carry `request` as far as can be told without sending. Not to
    /// be called once the request's time runs.
    pub(crate) fn is_usable(&mut self, request: &Request, runtime: Option<&Runtime>) -> bool {
        if !self.place.is_of(request) {
            return false;
        }
        if clock::now() - self.used_at < LOOK_AFTER {
            return true;
        }
        match (&mut self.transport, runtime) {
            (Transport::Plain(socket), _) => socket.idle() == Idle::Quiet,
            (Transport::Tls(stream), _) => is_tls_quiet(stream),
            (Transport::Http2(http2), Some(runtime)) => runtime.block_on(http2.is_quiet()),
            (Transport::Http2(_), None) => false,
        }
    }

    /// Sends one request and reads its answer. `Ok(true)`: the connection can be used again.
    pub(crate) fn exchange(
        &mut self,
        request: &Request,
        sending: &Sending<'_>,
        runtime: Option<&Runtime>,
        progress: &mut Progress,
    ) -> Result<bool, Broken> {
        let done = match (&mut self.transport, runtime) {
            (Transport::Plain(socket), _) => {
                socket.arm(sending);
                exchange_h1(socket, request, sending, progress)
            }
            (Transport::Tls(stream), _) => {
                stream.sock.arm(sending);
                exchange_h1(stream.as_mut(), request, sending, progress)
            }
            (Transport::Http2(http2), Some(runtime)) => {
                runtime.block_on(http2.exchange(request, sending, progress)).map(|()| true)
            }
            (Transport::Http2(_), None) => Err(Broken::new(Failure::Protocol, NO_RUNTIME)),
        };
        self.used_at = clock::now();
        done
    }
}

/// Session tickets may lie unread in an idle TLS connection; its end or an alert may, too.
fn is_tls_quiet(stream: &mut StreamOwned<ClientConnection, Socket>) -> bool {
    match stream.sock.idle() {
        Idle::Quiet => true,
        Idle::Ended => false,
        Idle::Bytes => {
            let read = stream.conn.read_tls(&mut stream.sock);
            let state = stream.conn.process_new_packets();
            let quiet =
                |s: rustls::IoState| !s.peer_has_closed() && s.plaintext_bytes_to_read() == 0;
            matches!(read, Ok(n) if n > 0) && state.is_ok_and(quiet)
        }
    }
}

fn exchange_h1(
    stream: &mut (impl Read + Write),
    request: &Request,
    sending: &Sending<'_>,
    progress: &mut Progress,
) -> Result<bool, Broken> {
    let written = write_request(stream, request, sending.extra);
    progress.sent = Some(clock::now());
    let mut parser =
        ResponseParser::new(request.method == "HEAD", sending.body_limit, sending.keep);
    let read = match &written {
        Err(e) if e.kind() == ErrorKind::TimedOut => Ok(()),
        // A peer that refuses a body may answer and close before it has read all of it.
        _ => read_answer(stream, &mut parser, progress),
    };
    let keep_alive = parser.is_keep_alive() && written.is_ok();
    let done = parser.is_done();
    progress.body_bytes = parser.body_bytes();
    (progress.head, progress.body) = parser.into_parts();
    match (written, read) {
        (Err(e), _) if !done => Err(Broken::io(&e, Failure::Reset)),
        (_, Err(broken)) => Err(broken),
        _ => Ok(keep_alive),
    }
}

fn write_request(
    stream: &mut impl Write,
    request: &Request,
    extra: &[(String, String)],
) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    for part in [&request.method, " ", &request.target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers(request, extra) {
        for part in [name, ": ", value, "\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
    }
    head.extend_from_slice(b"\r\n");
    if request.body.len() <= JOIN_SIZE {
        head.extend_from_slice(&request.body);
        stream.write_all(&head)?;
    } else {
        stream.write_all(&head)?;
        stream.write_all(&request.body)?;
    }
    stream.flush()
}

/// The request's headers and those of this send; one given by both is taken from the latter.
pub(crate) fn headers<'a>(
    request: &'a Request,
    extra: &'a [(String, String)],
) -> impl Iterator<Item = &'a (String, String)> {
    let own = request.headers.iter().filter(|(name, _)| extra.iter().all(|(n, _)| n != name));
    own.chain(extra)
}

fn read_answer(
    stream: &mut impl Read,
    parser: &mut ResponseParser,
    progress: &mut Progress,
) -> Result<(), Broken> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(READ_SIZE, 0);
        while !parser.is_done() {
            let n = match stream.read(buffer) {
                Ok(n) => n,
                // A TLS peer that closes without saying so: an end like any other.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => 0,
                Err(e) => return Err(Broken::io(&e, Failure::Reset)),
            };
            progress.end = Some(clock::now());
            if n == 0 {
                return parser.finish().map_err(|e| explain(&e));
            }
            let used = feed(parser, &buffer[..n], progress).map_err(|e| explain(&e))?;
            if used < n {
                parser.refuse_reuse();
            }
        }
        Ok(())
    })
}

thread_local! {
    /// The read buffer: one a thread, not one a connection.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Feeds what one read brought. The first byte is that of the final answer, not of an interim one.
fn feed(
    parser: &mut ResponseParser,
    bytes: &[u8],
    progress: &mut Progress,
) -> Result<usize, ParseError> {
    let (was_started, interim) = (parser.is_started(), parser.interim());
    let used = parser.feed(bytes);
    let restarted = parser.interim() != interim;
    if restarted && !parser.is_started() {
        progress.first_byte = None;
    } else if restarted || !was_started {
        progress.first_byte = progress.end;
    }
    used
}

fn explain(error: &ParseError) -> Broken {
    let failure = match error {
        ParseError::Invalid { .. } => Failure::Protocol,
        ParseError::TooLarge { .. } => Failure::TooLarge,
        ParseError::Truncated { .. } => Failure::Reset,
    };
    let hint = match error {
        // A TLS record (RFC 8446 §5.1): an alert that complains about a plain request.
        ParseError::Invalid { why, at: 0 } if why.starts_with("starts with `\\u{15}\\u{3}") => {
            "\nhint: this port seems to speak TLS; try https://"
        }
        ParseError::Invalid { at: 0, .. } => "\nhint: check that this port speaks HTTP",
        _ => "",
    };
    Broken::new(failure, format!("{error}{hint}"))
}
