//! A TCP connection whose every wait is bounded: by the request's time limit, by a limit for each
//! read, and by a flag that stops it from outside.

use crate::clock;
use crate::request::Request;
use crate::transfer::Sending;
use evidence::{Failure, Nanos};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Longest uninterrupted wait: how fast a stop from outside takes effect.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// When to give up.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// End of the whole exchange.
    pub(crate) deadline: Nanos,
    /// Longest silence within it.
    pub(crate) per_read: Duration,
    /// Set from outside to stop at once.
    pub(crate) cancel: Arc<AtomicBool>,
}

impl Limits {
    /// Time left before `silent_since + per_read` and the deadline.
    ///
    /// # Errors
    /// `TimedOut` when there is none, or when stopped from outside.
    pub(crate) fn left(&self, silent_since: Nanos) -> io::Result<Duration> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::new(ErrorKind::TimedOut, "stopped before an answer came"));
        }
        let silence = silent_since + Nanos(self.per_read.as_nanos() as u64);
        let left = silence.min(self.deadline) - clock::now();
        if left == Nanos::ZERO {
            let why = if silence < self.deadline {
                "silent for too long"
            } else {
                "no complete answer in time"
            };
            return Err(io::Error::new(ErrorKind::TimedOut, why));
        }
        Ok(Duration::from_nanos(left.0))
    }
}

/// What went wrong, by kind and in words.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) failure: Failure,
    pub(crate) detail: String,
    /// The peer spoke about this request: a second try would be a second request.
    pub(crate) refused: bool,
}

impl Broken {
    pub(crate) fn new(failure: Failure, detail: impl Into<String>) -> Broken {
        Broken { failure, detail: detail.into(), refused: false }
    }

    /// An I/O error; timeouts are `Timeout`, everything else is `otherwise`.
    pub(crate) fn io(error: &io::Error, otherwise: Failure) -> Broken {
        let timed_out = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
        Broken::new(if timed_out { Failure::Timeout } else { otherwise }, error.to_string())
    }
}

/// A blocking TCP stream that obeys [`Limits`].
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    limits: Limits,
    read_wait: Duration,
    write_wait: Duration,
    acknowledge_at_once: bool,
    /// An exchange went over it before.
    used: bool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, limits: Limits) -> io::Result<Socket> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        let (read_wait, write_wait) = (TICK, TICK);
        let (acknowledge_at_once, used) = (false, false);
        Ok(Socket { stream, limits, read_wait, write_wait, acknowledge_at_once, used })
    }

    /// How the next exchange goes.
    ///
    /// On a connection in use, where each request follows the last answer closely, Linux delays
    /// acknowledgements (`pingpong` mode); after 40 ms of silence it may go back to sending them at
    /// once. Requests with idle windows between them are to see what those of a busy client see,
    /// so the mode is set.
    pub(crate) fn arm(&mut self, sending: &Sending<'_>) {
        self.limits = sending.limits.clone();
        self.acknowledge_at_once = sending.acknowledge_at_once;
        if self.used && !self.acknowledge_at_once {
            // Where it cannot be set, it is as the system likes it.
            let _ = quick_acknowledgements(&self.stream, false);
        }
        self.used = true;
    }

    /// What an idle connection holds: nothing, bytes nobody asked for, or its end.
    pub(crate) fn idle(&self) -> Idle {
        let mut byte = [0u8];
        if self.stream.set_nonblocking(true).is_err() {
            return Idle::Ended;
        }
        let seen = self.stream.peek(&mut byte);
        if self.stream.set_nonblocking(false).is_err() {
            return Idle::Ended;
        }
        match seen {
            Ok(0) => Idle::Ended,
            Ok(_) => Idle::Bytes,
            Err(e) if e.kind() == ErrorKind::WouldBlock => Idle::Quiet,
            Err(_) => Idle::Ended,
        }
    }

    fn wait(&mut self, silent_since: Nanos, writing: bool) -> io::Result<()> {
        // A timeout of zero would mean none.
        let wait = self.limits.left(silent_since)?.min(TICK).max(Duration::from_micros(100));
        let set = if writing { &mut self.write_wait } else { &mut self.read_wait };
        if *set != wait {
            *set = wait;
            return if writing {
                self.stream.set_write_timeout(Some(wait))
            } else {
                self.stream.set_read_timeout(Some(wait))
            };
        }
        Ok(())
    }

    /// Runs one read or write, going on after ticks until the limits say stop.
    fn bounded(
        &mut self,
        writing: bool,
        mut act: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let since = clock::now();
        loop {
            self.wait(since, writing)?;
            match act(&mut self.stream) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// Whether acknowledgements are sent at once, also one that is held back now (`TCP_QUICKACK`). It
/// does not last: the system goes back to its own ways by itself (tcp(7)).
#[cfg(target_os = "linux")]
fn quick_acknowledgements(stream: &TcpStream, on: bool) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_quickack(on)
}

/// There is no way to ask for it here; see `Client::CAN_ACKNOWLEDGE_AT_ONCE`.
#[cfg(not(target_os = "linux"))]
fn quick_acknowledgements(_: &TcpStream, _: bool) -> io::Result<()> {
    Ok(())
}

/// See [`Socket::idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Quiet,
    Bytes,
    Ended,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at_once = self.acknowledge_at_once;
        self.bounded(false, |stream| {
            let n = stream.read(buffer)?;
            if at_once {
                quick_acknowledgements(stream, true)?;
            }
            Ok(n)
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bounded(true, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TCP connection and when its steps finished.
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    pub(crate) dns: Option<Nanos>,
    pub(crate) connect: Nanos,
    pub(crate) client_port: u16,
}

/// Resolves the name and connects to the first address that accepts.
pub(crate) fn connect(request: &Request, limits: &Limits) -> Result<Connected, Broken> {
    let literal = request.host.parse::<IpAddr>().ok();
    let addresses = match literal {
        Some(ip) => vec![SocketAddr::new(ip, request.port)],
        None => resolve(&request.host, request.port, limits)?,
    };
    let dns = literal.is_none().then(clock::now);
    let stream = connect_any(&addresses, limits)?;
    let connect = clock::now();
    let failed = |e: io::Error| Broken::io(&e, Failure::Connect);
    stream.set_nodelay(true).map_err(failed)?;
    let client_port = stream.local_addr().map_err(failed)?.port();
    Ok(Connected { stream, dns, connect, client_port })
}

/// The system's resolver has no time limit of its own, so it runs on a thread that is left behind
/// when it takes too long; it ends by itself.
fn resolve(host: &str, port: u16, limits: &Limits) -> Result<Vec<SocketAddr>, Broken> {
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    let lookup = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // The receiver is gone when the time limit passed first.
        let _ = sender.send(found);
    };
    let thread = std::thread::Builder::new().name("resolve".into()).spawn(lookup);
    thread.map_err(|e| Broken::io(&e, Failure::Dns))?;
    let since = clock::now();
    loop {
        let left = limits.left(since).map_err(|e| Broken::io(&e, Failure::Dns))?;
        match receiver.recv_timeout(left.min(TICK)) {
            Ok(Ok(addresses)) if !addresses.is_empty() => return Ok(addresses),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Err(e)) => return Err(no_address(host, &e.to_string())),
            Ok(Ok(_)) | Err(_) => return Err(no_address(host, "no address")),
        }
    }
}

fn no_address(host: &str, why: &str) -> Broken {
    let detail = format!(
        "the name `{host}` cannot be resolved: {why}\n\
         hint: check its spelling, or use an IP address"
    );
    Broken::new(Failure::Dns, detail)
}

fn connect_any(addresses: &[SocketAddr], limits: &Limits) -> Result<TcpStream, Broken> {
    let mut last = Broken::new(Failure::Connect, "no address to connect to");
    for (i, address) in addresses.iter().enumerate() {
        let left = limits.left(clock::now()).map_err(|e| Broken::io(&e, Failure::Connect))?;
        // An address that swallows packets must leave time for the ones after it.
        let share = left / (addresses.len() - i) as u32;
        match connect_one(*address, share, limits) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = no_connection(*address, &e),
        }
    }
    Err(last)
}

/// Connects within `share`; a stop from outside is heeded each tick, also while a full accept
/// queue swallows our SYN.
#[cfg(unix)]
fn connect_one(address: SocketAddr, share: Duration, limits: &Limits) -> io::Result<TcpStream> {
    use std::os::fd::AsRawFd;
    let kind = socket2::Type::STREAM;
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
        _ => {}
    }
    let limits = Limits { per_read: share.min(limits.per_read), ..limits.clone() };
    let since = clock::now();
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    while poll.revents == 0 {
        let wait = limits.left(since)?.min(TICK).as_millis().max(1) as libc::c_int;
        // SAFETY: one valid pollfd whose descriptor `socket` keeps open.
        if unsafe { libc::poll(&mut poll, 1, wait) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket.into()),
    }
}

/// Connects within `share`.
#[cfg(not(unix))]
fn connect_one(address: SocketAddr, share: Duration, _: &Limits) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, share.max(Duration::from_millis(1)))
}

fn no_connection(address: SocketAddr, error: &io::Error) -> Broken {
    let hint = match error.kind() {
        ErrorKind::ConnectionRefused => "is the service running, and listening on this port?",
        ErrorKind::TimedOut => "is a firewall in between, or the service too busy to accept?",
        _ => "check host, port and network",
    };
    let broken = Broken::io(error, Failure::Connect);
    Broken { detail: format!("cannot connect to {address}: {error}\nhint: {hint}"), ..broken }
}
