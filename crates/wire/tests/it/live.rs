//! Real servers and real clients, seen by capture and by the proxy: the calls must be what was
//! sent. HTTP runs always; the databases when they listen (`testbed/services up`), and must when
//! PERFWRIGHT_REQUIRE_SERVICES is set.

mod clients;
#[cfg(target_os = "linux")]
mod namespaces;

use evidence::{Call, Operation, Redactor};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use wire::Decoder;
use wire::capture::{Capture, CaptureError, Config};
use wire::proxy::{self, Proxy};

pub const KEY: u64 = 42;

/// What is wanted of one call.
#[derive(Debug, PartialEq)]
pub struct Wanted {
    pub operation: Operation,
    pub text: String,
    pub rows: Option<u64>,
    pub error: Option<String>,
}

pub fn wanted(operation: Operation, text: &str, rows: Option<u64>) -> Wanted {
    Wanted { operation, text: text.to_owned(), rows, error: None }
}

/// Says why something is not tested here, and fails when it has to be.
#[expect(clippy::print_stderr, reason = "a skipped test must be visible")]
pub fn skip(what: &str, hint: &str) {
    assert!(
        std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_none(),
        "{what} is required here\nhint: {hint}"
    );
    eprintln!("skipped: {what} (hint: {hint})");
}

/// Address of a server: a variable with host:port, the testbed's port, or its default.
fn service(variable: &str, testbed: &str, default: u16) -> Option<SocketAddr> {
    let port = std::env::var(testbed).ok().and_then(|p| p.parse().ok()).unwrap_or(default);
    let address = std::env::var(variable)
        .ok()
        .and_then(|a| a.parse().ok())
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
    let up = TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok();
    if !up {
        skip(&format!("a server at {address}"), &format!("testbed/services up, or set {variable}"));
    }
    up.then_some(address)
}

/// Opens a capture, or says why not.
pub fn capture(ports: &[u16]) -> Option<Capture> {
    match Capture::open(&Config::ports(ports)) {
        Ok(capture) => Some(capture),
        Err(e @ CaptureError::Permission) => {
            skip("packet capture", &e.to_string());
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// The calls of the connection on which `marker` was said.
fn of_marker(calls: Vec<Call>, marker: &str) -> Vec<Call> {
    let says = |c: &&Call| c.text.contains(marker);
    let connection = calls.iter().find(says).expect("the marker was seen").connection;
    calls.into_iter().filter(|c| c.connection == connection).collect()
}

/// Runs `client` against the server by capture and by proxy. It returns what it sent; the calls the
/// proxy saw are handed on.
fn check(
    address: SocketAddr,
    marker: &str,
    client: impl Fn(SocketAddr) -> Vec<Wanted>,
) -> Vec<Call> {
    let judge = |calls: Vec<Call>, wanted: &[Wanted], how: &str| -> Vec<Call> {
        let calls = of_marker(calls, marker);
        let connects = calls.iter().filter(|c| c.operation == Operation::Connect).count();
        assert!(connects >= 1, "{how}: {calls:#?}");
        let rest = calls.iter().filter(|c| c.operation != Operation::Connect);
        let got: Vec<Wanted> = rest
            .map(|c| Wanted {
                operation: c.operation,
                text: c.text.clone(),
                rows: c.rows,
                error: c.error.clone(),
            })
            .collect();
        // Drivers set the session up before what we ask of them.
        let from = got.len().checked_sub(wanted.len());
        let from = from.unwrap_or_else(|| panic!("{how}: calls are missing of {got:#?}"));
        assert_eq!(&got[from..], wanted, "{how}");
        assert!(got[..from].iter().all(|w| w.operation != Operation::Push), "{how}");
        assert!(calls.iter().all(|c| c.start <= c.end && c.text_known), "{how}");
        calls
    };
    if let Some(mut capture) = capture(&[address.port()]) {
        let mut decoder = Decoder::new(Redactor::new(KEY), &[]);
        let before = now();
        let wanted = client(address);
        let after = now();
        settle(&mut capture, &mut decoder);
        assert_eq!(capture.statistics().dropped, 0);
        let calls = judge(decoder.take_calls(), &wanted, "capture");
        assert!(calls.iter().all(|c| before <= c.start.0 && c.end.0 <= after + 1_000_000));
    }
    let proxy = Proxy::start(proxy::Config::new(&address.to_string(), Redactor::new(KEY))).unwrap();
    let wanted = client(proxy.address());
    std::thread::sleep(Duration::from_millis(50));
    proxy.flush();
    assert_eq!(proxy.losses(), wire::Losses::default());
    judge(proxy.take_calls(), &wanted, "proxy")
}

pub fn settle(capture: &mut Capture, decoder: &mut Decoder) {
    std::thread::sleep(Duration::from_millis(50));
    capture.drain(|s| decoder.feed(s));
    decoder.flush();
}

fn now() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// A name no other traffic has.
fn marker(of: &str) -> String {
    // Letters only: digits would be masked in a cache key.
    let letters = |n: u64| {
        (0..8).map(move |i| char::from(b'g' + u8::try_from(n >> (i * 4) & 15).unwrap_or(0)))
    };
    let id = (now() / 1000) ^ (u64::from(std::process::id()) << 8);
    format!("wire{of}{}", letters(id).collect::<String>())
}

#[test]
fn postgres() {
    if let Some(address) = service("PERFWRIGHT_PG", "TESTBED_PG_PORT", 25432) {
        let marker = marker("pg");
        let calls = check(address, &marker, |a| clients::postgres(a, &marker));
        one_value_has_one_hash(&calls);
    }
}

/// A binary int4 column, a binary int8 parameter, an inlined literal and a text column.
fn one_value_has_one_hash(calls: &[Call]) {
    let executed = |start: &str| {
        let is = |c: &&Call| c.operation == Operation::Execute && c.text.starts_with(start);
        calls.iter().filter(is).collect::<Vec<_>>()
    };
    let r = Redactor::new(KEY);
    let series = executed("SELECT g AS")[0];
    assert_eq!(series.params, [r.hash_integer(5)]);
    assert!(series.columns[0].values.contains(&r.hash_integer(2)));
    let inserts = executed("INSERT INTO w");
    assert_eq!(inserts[2].params, [r.hash_integer(2), r.hash(b"it's")]);
    let select = executed("SELECT * FROM w")[0];
    assert_eq!(select.params[2..], inserts[2].params);
    assert!(select.columns[0].values.contains(&inserts[2].params[0]));
    assert_eq!(select.columns[1].values, [inserts[2].params[1]]);
}

#[test]
fn mysql() {
    if let Some(address) = service("PERFWRIGHT_MYSQL", "TESTBED_MYSQL_PORT", 23306) {
        let marker = marker("my");
        check(address, &marker, |a| clients::mysql(a, &marker));
    }
}

#[test]
fn redis() {
    if let Some(address) = service("PERFWRIGHT_REDIS", "TESTBED_REDIS_PORT", 26379) {
        let marker = marker("rd");
        check(address, &marker, |a| clients::redis(a, &marker));
    }
}

#[test]
fn memcached() {
    if let Some(address) = service("PERFWRIGHT_MEMCACHED", "TESTBED_MEMCACHED_PORT", 21211) {
        let marker = marker("mc");
        check(address, &marker, |a| clients::memcached(a, &marker));
    }
}

/// A keep-alive HTTP server that answers `n` requests on each of `connections` in turn.
pub fn http_server(listener: TcpListener, connections: usize, n: usize) {
    let mut open = Vec::new();
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..n {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read(&mut byte).unwrap() == 0 {
                    return;
                }
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        }
        open.push(stream);
    }
    let _ = open.last_mut().map(|s| s.read(&mut [0]));
}

fn get(stream: &mut TcpStream, path: &str) {
    ask(stream, path);
    answer(stream);
}

fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: supplier\r\n\r\n").unwrap();
}

fn answer(stream: &mut TcpStream) {
    let mut answer = [0; 40];
    stream.read_exact(&mut answer).unwrap();
}

#[test]
fn http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || http_server(listener, 2, 3));
    check(address, "supplier/", |a| {
        let mut stream = TcpStream::connect(a).unwrap();
        stream.set_nodelay(true).unwrap();
        for id in 1..=3 {
            get(&mut stream, &format!("/items/{id}?token=secret"));
        }
        let text = "GET supplier/items/??token=?";
        (0..3).map(|_| wanted(Operation::Execute, text, None)).collect()
    });
}

#[test]
fn a_delay_is_added_once_a_round_trip() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || http_server(listener, 1, 40));
    let proxy = Proxy::start(proxy::Config::new(&address.to_string(), Redactor::new(KEY))).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    // The fastest of 20: a loaded machine adds to most of them.
    let mut run = |delay: Duration| {
        proxy.set_delay(delay);
        let mut one = || {
            let begun = Instant::now();
            get(&mut stream, "/x");
            begun.elapsed()
        };
        (0..20).map(|_| one()).min().unwrap()
    };
    let plain = run(Duration::ZERO);
    let delayed = run(Duration::from_millis(5));
    let added = delayed.saturating_sub(plain).as_secs_f64() * 1e3;
    assert!(delayed >= Duration::from_millis(5), "{delayed:?}");
    // The rounding of a coarse timer would add up to a millisecond to each.
    assert!((4.5..5.8).contains(&added), "{added} ms a round trip");
    assert_eq!(proxy.round_trips(), 40);
    std::thread::sleep(Duration::from_millis(20));
    let calls = proxy.take_calls();
    assert_eq!(calls.len(), 41);
    assert!(calls[21..].iter().all(|c| c.duration().as_ms() >= 5.0), "{calls:#?}");
}

#[test]
fn the_proxy_serves_many_connections_and_leaves_nothing() {
    const N: usize = 150;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || http_server(listener, N, 1));
    let proxy = Proxy::start(proxy::Config::new(&address.to_string(), Redactor::new(KEY))).unwrap();
    let at = proxy.address();
    let mut streams: Vec<TcpStream> = (0..N).map(|_| TcpStream::connect(at).unwrap()).collect();
    // The server may see them in another order: none waits for one that has not asked.
    streams.iter_mut().for_each(|s| ask(s, "/y"));
    streams.iter_mut().for_each(answer);
    std::thread::sleep(Duration::from_millis(50));
    let calls = proxy.take_calls();
    assert_eq!(calls.iter().filter(|c| c.operation == Operation::Execute).count(), N);
    drop(proxy);
    assert_eq!(streams[0].read(&mut [0]).unwrap_or(0), 0, "its connections are closed");
}

#[test]
fn a_peer_that_refuses_is_a_failed_connect() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(proxy::Config::new(&port.to_string(), Redactor::new(KEY))).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    std::thread::sleep(Duration::from_millis(20));
    let calls = proxy.take_calls();
    assert_eq!(calls.len(), 1, "{calls:#?}");
    assert_eq!(calls[0].error.as_deref(), Some("connection-refused"));
}

#[test]
fn background_draining_outlasts_the_buffer_and_no_loss_goes_unnoticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let Some(capture) = capture(&[address.port()]) else { return };
    const BYTES: usize = 200 << 20;
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 19]).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").unwrap();
        let chunk = vec![7; 1 << 20];
        for _ in 0..BYTES >> 20 {
            stream.write_all(&chunk).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let decoder = std::sync::Arc::new(std::sync::Mutex::new(Decoder::new(Redactor::new(KEY), &[])));
    let feed = decoder.clone();
    let background = capture
        .drain_in_background(Duration::from_millis(5), move |s| feed.lock().unwrap().feed(s))
        .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\n\r\n").unwrap();
    let mut left = BYTES;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0);
        left = left.saturating_sub(n);
    }
    std::thread::sleep(Duration::from_millis(50));
    let capture = background.stop().unwrap();
    let mut decoder = decoder.lock().unwrap();
    let dropped = capture.statistics().dropped;
    assert_eq!(dropped > 0, decoder.losses().stream_gaps > 0, "{dropped} packets dropped");
    let calls = decoder.take_calls();
    let last = calls.last().unwrap();
    assert!(dropped > 0 || last.bytes_received > BYTES as u64, "{last:?}");
}
