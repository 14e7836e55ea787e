//! Several in flight, and the breaker.

use crate::server::{Server, Step, send};
use evidence::Nanos;
use load::concurrency::run;
use load::{Breaker, Client, ConcurrencyConfig, Session, Trip};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn config(in_flight: u32, ms: u64) -> ConcurrencyConfig {
    ConcurrencyConfig {
        in_flight,
        duration: Duration::from_millis(ms),
        requests_max: 0,
        timeout: Duration::from_secs(20),
        until: Nanos(u64::MAX),
        body_limit: 1 << 20,
        seed: 7,
        window: 3,
        session: Session::default(),
        cancel: Arc::default(),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn in_flight_is_kept_and_rate_follows() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (now, most.clone());
    let server = Server::start(move |_, _| {
        peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        inside.fetch_sub(1, Ordering::SeqCst);
        vec![send(OK)]
    });
    let result = run(&[server.get("/")], &config(4, 600), &Breaker::standard(None));
    assert_eq!((most.load(Ordering::SeqCst), result.tripped), (4, None));
    assert_eq!(result.finished as usize, result.exchanges.len());
    assert!(result.exchanges.iter().all(|e| e.window == 3 && e.failure.is_none()));
    // 4 in flight at 20 ms are 200 a second; a busy machine gives less.
    assert!(result.rps > 40.0 && result.rps <= 201.0, "{}", result.rps);
    let traces: std::collections::BTreeSet<_> =
        result.exchanges.iter().map(|e| &e.trace_id).collect();
    assert_eq!(traces.len(), result.exchanges.len());
    let shares = result.generator;
    assert!(shares.cpu_share < 0.5 && shares.cpu_per_request > Nanos::ZERO, "{shares:?}");
}

#[test]
fn requests_max_is_exact() {
    let server = Server::start(|_, _| vec![send(OK)]);
    let config = ConcurrencyConfig { requests_max: 10, ..config(3, 5000) };
    let requests = [server.get("/a"), server.get("/b")];
    let result = run(&requests, &config, &Breaker::standard(None));
    assert_eq!(result.finished, 10);
    assert_eq!(result.exchanges.iter().filter(|e| e.endpoint == "GET /a").count(), 5);
}

fn check_trip(
    script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static,
    baseline_ms: f64,
    within_ms: u64,
    expected: fn(Trip) -> bool,
) {
    let server = Server::start(move |_, n| script(n));
    let began = Instant::now();
    let breaker = Breaker::standard(Some(Nanos::from_ms(baseline_ms)));
    let result = run(&[server.get("/")], &config(4, 15_000), &breaker);
    let took = began.elapsed();
    assert!(result.tripped.is_some_and(expected), "{:?}", result.tripped);
    assert!(took < Duration::from_millis(within_ms), "{took:?}");
}

#[test]
fn breaker_stops_traffic() {
    let oops = || vec![send("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")];
    check_trip(move |_| oops(), 10.0, 1000, |t| matches!(t, Trip::Errors { .. }));
    check_trip(|_| vec![Step::Reset], 10.0, 1000, |t| matches!(t, Trip::Errors { .. }));
    // Hangs: noticed 1 s after the first request began to hang, and stopped within another.
    let hang = |n| if n < 20 { vec![send(OK)] } else { vec![Step::Wait(15_000)] };
    check_trip(hang, 5.0, 2500, |t| matches!(t, Trip::Latency { .. }));
    let slow = |n| if n < 20 { vec![send(OK)] } else { vec![Step::Wait(400), send(OK)] };
    check_trip(slow, 5.0, 2500, |t| matches!(t, Trip::Latency { .. }));
}

#[test]
fn cancel_ends_a_run() {
    let server = Server::start(|_, _| vec![Step::Wait(15_000)]);
    let config = config(2, 15_000);
    let cancel = config.cancel.clone();
    let began = Instant::now();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.store(true, Ordering::Relaxed);
    });
    let result = run(&[server.get("/")], &config, &Breaker::standard(None));
    stopper.join().unwrap();
    assert!(began.elapsed() < Duration::from_millis(1000));
    assert_eq!((result.finished, result.tripped), (0, None));
}

#[test]
fn what_the_end_cuts_off_is_not_counted() {
    let server = Server::start(|_, n| match n {
        0..4 => vec![send(OK)],
        _ => vec![Step::Wait(15_000)],
    });
    let until = load::clock::now() + Nanos::from_ms(500.0);
    let config = ConcurrencyConfig { until, ..config(2, 15_000) };
    let began = Instant::now();
    let result = run(&[server.get("/")], &config, &Breaker::standard(None));
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!((result.finished, result.tripped), (4, None));
    assert!(result.exchanges.iter().all(|e| e.failure.is_none()));
}

#[test]
fn cancel_is_heeded_while_an_accept_queue_is_full() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let short = Duration::from_millis(100);
    let fill = || std::net::TcpStream::connect_timeout(&address, short);
    let queued: Vec<_> = std::iter::from_fn(|| fill().ok()).take(8).collect();
    let url = format!("http://{address}/");
    let template = crate::server::template("GET", &url, &[], b"");
    let request = load::render(&template, 0, &[]).unwrap();
    let config = config(2, 15_000);
    let cancel = config.cancel.clone();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            cancel.store(true, Ordering::Relaxed);
        });
        run(&[request], &config, &Breaker::standard(None));
    });
    assert!(began.elapsed() < Duration::from_millis(1000), "{:?}", began.elapsed());
    drop(queued);
}

#[test]
fn no_requests_is_no_run() {
    assert_eq!(run(&[], &config(4, 1000), &Breaker::standard(None)).finished, 0);
}

/// A server whose system holds back the second piece of an answer until the first is acknowledged.
#[cfg(target_os = "linux")]
#[test]
fn answers_in_pieces_arrive_at_once_when_acknowledged_at_once() {
    use std::io::Write;
    let server = Server::raw(|mut stream| {
        let mut seen = Vec::new();
        while crate::server::read_request(&mut stream, &mut seen).is_some() {
            let head = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
            if head.and_then(|()| stream.write_all(b"hello")).is_err() {
                return;
            }
        }
    });
    let mut client = Client::new(1);
    let request = server.get("/");
    // Apart, as solo drives them, they are to see what a busy client's see.
    let mut held = |at_once: bool| {
        client.acknowledge_at_once(at_once);
        let mut held = 0;
        for _ in 0..20 {
            let (exchange, _) = client.send(&request, Duration::from_secs(10), 100, false);
            assert_eq!(exchange.failure, None);
            held += u32::from((exchange.phases.end - exchange.phases.first_byte).as_ms() >= 20.0);
            std::thread::sleep(Duration::from_millis(60));
        }
        held
    };
    let (delayed, at_once) = (held(false), held(true));
    assert!(delayed >= 17 && at_once <= 2, "{delayed} held back, {at_once} at once");
}
