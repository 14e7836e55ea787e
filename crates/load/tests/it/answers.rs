//! HTTP/1.1 answers, good and bad, over a real socket.

use crate::server::{Server, Step, send};
use evidence::{Exchange, Failure};
use load::h1::{Keep, ResponseParser};
use load::{Client, Response};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);

fn once(steps: Vec<Step>, method: &str) -> (Exchange, Option<Response>, Client) {
    let server = Server::start(move |_, _| steps.clone());
    let mut client = Client::new(1);
    let request = server.request(method, "/", &[], b"");
    let (exchange, response) = client.send(&request, TIMEOUT, 100_000, true);
    assert_ordered(&exchange);
    (exchange, response, client)
}

pub fn assert_ordered(exchange: &Exchange) {
    let p = &exchange.phases;
    let all =
        [Some(p.start), p.dns, p.connect, p.tls, Some(p.sent), Some(p.first_byte), Some(p.end)];
    let reached: Vec<_> = all.into_iter().flatten().collect();
    assert!(reached.is_sorted(), "{p:?}");
}

fn check(steps: Vec<Step>, status: u16, body: &str) {
    let label = format!("{steps:?}");
    let (exchange, response, client) = once(steps, "GET");
    assert_eq!(exchange.failure, None, "{label}: {:?}", client.detail());
    let response = response.unwrap();
    assert_eq!((response.status, exchange.status), (status, status), "{label}");
    assert_eq!(String::from_utf8_lossy(&response.body), body, "{label}");
    assert_eq!(exchange.body_bytes, body.len() as u64, "{label}");
    assert!(exchange.client_port > 0 && exchange.http == "h1");
}

fn check_failure(steps: Vec<Step>, expected: Failure) {
    let label = format!("{steps:?}");
    let (exchange, response, client) = once(steps, "GET");
    assert_eq!(exchange.failure, Some(expected), "{label}: {:?}", client.detail());
    assert!(response.is_none(), "{label}");
    assert!(client.detail().is_some_and(|d| !d.is_empty()), "{label}");
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
    5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n";

#[test]
fn framings() {
    check(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")], 200, "hello");
    check(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")], 200, "");
    check(vec![send(CHUNKED)], 200, "hello world");
    check(vec![Step::Drip(CHUNKED.into())], 200, "hello world");
    check(vec![send("HTTP/1.0 200 OK\r\n\r\nhello"), Step::Close], 200, "hello");
    check(vec![send("HTTP/1.1 204 No Content\r\n\r\n")], 204, "");
    check(vec![send("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n")], 304, "");
    check(vec![send("HTTP/1.1 200 OK\ncontent-length: 2\n\nok")], 200, "ok");
    check(vec![send("\r\nHTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok")], 200, "ok");
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    check(vec![send(interim), send(answer)], 200, "ok");
    check(vec![send(&format!("{interim}{answer}"))], 200, "ok");
    check(vec![send(interim), Step::Wait(20), Step::Drip(answer.into())], 200, "ok");
}

#[test]
fn head_has_no_body() {
    let (exchange, response, _) =
        once(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")], "HEAD");
    assert_eq!((exchange.failure, exchange.body_bytes), (None, 0));
    assert!(response.unwrap().body.is_empty());
}

#[test]
fn broken_answers() {
    check_failure(vec![send("SSH-2.0-OpenSSH_9.2\r\n"), Step::Wait(500)], Failure::Protocol);
    check_failure(vec![send("HTTP/1.1 abc OK\r\n\r\n")], Failure::Protocol);
    check_failure(vec![send("HTTP/1.1 000 OK\r\n\r\n")], Failure::Protocol);
    check_failure(vec![send("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n")], Failure::Protocol);
    let bad_length = "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n";
    check_failure(vec![send(bad_length)], Failure::Protocol);
    let two_lengths = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello";
    check_failure(vec![send(two_lengths)], Failure::Protocol);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check_failure(vec![send(chunked), send("zz\r\n")], Failure::Protocol);
    check_failure(vec![send(chunked), send("ffffffffffffffffff\r\n")], Failure::Protocol);
    check_failure(vec![send(chunked), send("1\r\nab\r\n")], Failure::Protocol);
    check_failure(vec![send(chunked), send("5\r\nhel"), Step::Close], Failure::Reset);
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello";
    check_failure(vec![send(short), Step::Close], Failure::Reset);
    check_failure(vec![send(short), Step::Wait(20), Step::Reset], Failure::Reset);
    check_failure(vec![send("HTTP/1.1 200 OK\r\nx"), Step::Close], Failure::Reset);
    check_failure(vec![Step::Close], Failure::Reset);
    check_failure(vec![Step::Reset], Failure::Reset);
}

#[test]
fn endless_answers_are_bounded() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check_failure(vec![send(chunked), Step::Endless(b"5\r\nhello\r\n".into())], Failure::TooLarge);
    check_failure(
        vec![send("HTTP/1.1 200 OK\r\n\r\n"), Step::Endless(vec![b'x'; 999])],
        Failure::TooLarge,
    );
    let declared = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
    check_failure(vec![send(declared), Step::Wait(100)], Failure::TooLarge);
    check_failure(
        vec![send("HTTP/1.1 200 OK\r\n"), Step::Endless(b"a: b\r\n".into())],
        Failure::TooLarge,
    );
    check_failure(
        vec![send(chunked), send("0\r\n"), Step::Endless(b"a: b\r\n".into())],
        Failure::TooLarge,
    );
    check_failure(vec![send(chunked), Step::Endless(b"0".into())], Failure::TooLarge);
    check_failure(vec![Step::Endless(b"\r\n".into())], Failure::Protocol);
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    check_failure(vec![Step::Endless(interim.into())], Failure::Protocol);
}

#[test]
fn slow_answers_time_out_and_keep_what_came() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver-timing: db;dur=3\r\n\r\nhe";
    let server = Server::start(move |_, _| vec![send(head), Step::Wait(3000)]);
    let mut client = Client::new(1);
    let began = Instant::now();
    let timeout = Duration::from_millis(150);
    let (exchange, response) = client.send(&server.get("/"), timeout, 1000, true);
    let took = began.elapsed();
    assert!(took >= timeout && took < Duration::from_millis(600), "{took:?}");
    assert_eq!(exchange.failure, Some(Failure::Timeout));
    assert_eq!((exchange.status, exchange.body_bytes), (200, 2));
    assert_eq!(exchange.server_timing.as_deref(), Some("db;dur=3"));
    assert!(response.is_none());
    assert_ordered(&exchange);
}

#[test]
fn dripping_headers_end_at_the_total_limit_and_silence_at_its_own() {
    let drip = Step::Drip(vec![b'H'; 1]);
    let steps = [vec![drip], vec![Step::Wait(30); 1], vec![Step::Drip(b"TTP/1.1 200 OK".into())]];
    let slow = Server::start(move |_, _| {
        let lines = (0..200).flat_map(|_| [Step::Drip(b"a: b\r\n".into()), Step::Wait(20)]);
        steps.concat().into_iter().chain([send("\r\n")]).chain(lines).collect()
    });
    let mut client = Client::new(1);
    let (exchange, _) = client.send(&slow.get("/"), Duration::from_millis(300), 1000, false);
    assert_eq!(exchange.failure, Some(Failure::Timeout));
    assert!(exchange.latency().as_ms() < 700.0);

    let silent = Server::start(|_, _| vec![Step::Wait(5000)]);
    let mut client = Client::new(1).with_read_limit(Duration::from_millis(100));
    let (exchange, _) = client.send(&silent.get("/"), TIMEOUT, 1000, false);
    assert_eq!(exchange.failure, Some(Failure::Timeout));
    assert!(exchange.latency().as_ms() < 600.0);
}

#[test]
fn kept_alive_connections_are_reused() {
    let server = Server::start(|_, _| vec![send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")]);
    let mut client = Client::new(1);
    let (first, _) = client.send(&server.get("/"), TIMEOUT, 1000, false);
    let (second, _) = client.send(&server.get("/"), TIMEOUT, 1000, false);
    assert!(first.phases.connect.is_some() && second.phases.connect.is_none());
    assert_eq!(first.client_port, second.client_port);
    assert_ne!(first.trace_id, second.trace_id);
    client.disconnect();
    let (third, _) = client.send(&server.get("/"), TIMEOUT, 1000, false);
    assert!(third.phases.connect.is_some());
    assert_eq!(client.reconnects(), 0);
}

#[test]
fn connections_that_cannot_be_reused_are_not() {
    for head in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
    ] {
        let server = Server::start(move |_, _| vec![send(head)]);
        let mut client = Client::new(1);
        for _ in 0..2 {
            let (exchange, _) = client.send(&server.get("/"), TIMEOUT, 1000, false);
            assert!(exchange.failure.is_none() && exchange.phases.connect.is_some(), "{head}");
        }
    }
}

/// Answers the first request of each connection, then breaks it when the next one arrives.
fn one_request_a_connection() -> Server {
    Server::raw(|mut stream| {
        let mut seen = Vec::new();
        use std::io::Write;
        if crate::server::read_request(&mut stream, &mut seen).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            let _ = crate::server::read_request(&mut stream, &mut seen);
        }
    })
}

#[test]
fn stale_connection_is_replaced_once_for_idempotent_methods_only() {
    let server = one_request_a_connection();
    let mut client = Client::new(1);
    client.send(&server.get("/"), TIMEOUT, 1000, false);
    let (second, _) = client.send(&server.get("/"), TIMEOUT, 1000, false);
    assert_eq!((second.failure, client.reconnects()), (None, 1));
    assert!(second.phases.connect.is_some());
    let post = server.request("POST", "/", &[], b"x=1");
    let (third, _) = client.send(&post, TIMEOUT, 1000, false);
    assert_eq!((third.failure, client.reconnects()), (Some(Failure::Reset), 1));
}

#[test]
fn connection_closed_while_idle_is_noticed_before_sending() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let server = Server::start(move |_, _| vec![send(answer), Step::Close]);
    let mut client = Client::new(1);
    for _ in 0..3 {
        let post = server.request("POST", "/", &[], b"x=1");
        let (exchange, _) = client.send(&post, TIMEOUT, 1000, false);
        assert_eq!((exchange.failure, client.reconnects()), (None, 0));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn unreachable_places() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = format!("http://127.0.0.1:{free}/");
    for (url, expected) in
        [(refused.as_str(), Failure::Connect), ("http://no-such-host.invalid/", Failure::Dns)]
    {
        let template = crate::server::template("GET", url, &[], b"");
        let request = load::render(&template, 0, &[]).unwrap();
        let mut client = Client::new(1);
        let (exchange, response) = client.send(&request, TIMEOUT, 1000, false);
        assert_eq!(exchange.failure, Some(expected), "{url}");
        assert!(response.is_none() && client.detail().unwrap().contains("hint:"), "{url}");
        assert_ordered(&exchange);
    }
}

#[test]
fn names_are_resolved_and_literals_are_not() {
    let server = Server::start(|_, _| vec![send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")]);
    for (host, named) in [("127.0.0.1", false), ("localhost", true)] {
        let url = format!("http://{host}:{}/", server.port);
        let template = crate::server::template("GET", &url, &[], b"");
        let request = load::render(&template, 0, &[]).unwrap();
        let (exchange, _) = Client::new(1).send(&request, TIMEOUT, 1000, false);
        assert_eq!((exchange.failure, exchange.phases.dns.is_some()), (None, named), "{host}");
    }
}

#[test]
fn large_bodies_are_sent_and_early_refusals_are_read() {
    let server = Server::start(|request, _| {
        let length = request.split("\r\n\r\n").nth(1).unwrap().len().to_string();
        vec![send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{length}", length.len()))]
    });
    let body = vec![b'x'; 3 << 20];
    let request = server.request("POST", "/", &[], &body);
    let (exchange, response) = Client::new(1).send(&request, TIMEOUT, 1000, true);
    assert_eq!(exchange.failure, None);
    assert_eq!(response.unwrap().body, (3 << 20).to_string().as_bytes());
}

#[test]
fn encoded_bodies_are_decoded_but_counted_as_transferred() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&[b'a'; 5000]).unwrap();
    let packed = encoder.finish().unwrap();
    let length = packed.len();
    let server = Server::start(move |request, _| {
        assert!(request.contains("accept-encoding: gzip, deflate, br\r\n"));
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\netag: x\r\n\
             content-length: {length}\r\n\r\n"
        );
        vec![Step::Send([head.as_bytes(), &packed].concat())]
    });
    let url = format!("http://127.0.0.1:{}/", server.port);
    let mut template = crate::server::template("GET", &url, &[], b"");
    template.compressed = true;
    let request = load::render(&template, 0, &[]).unwrap();
    let (exchange, response) = Client::new(1).send(&request, TIMEOUT, 10_000, true);
    assert_eq!(exchange.body_bytes, length as u64);
    assert_eq!((exchange.encoding.as_deref(), exchange.cacheable), (Some("gzip"), true));
    assert_eq!(response.unwrap().body, [b'a'; 5000]);
}

#[test]
fn cancel_stops_a_waiting_client() {
    let server = Server::start(|_, _| vec![Step::Wait(5000)]);
    let cancel = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut client = Client::new(1).with_cancel(cancel.clone());
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let (exchange, _) = client.send(&server.get("/"), TIMEOUT, 1000, false);
    stopper.join().unwrap();
    assert_eq!(exchange.failure, Some(Failure::Timeout));
    assert!(exchange.latency().as_ms() < 500.0);
}

/// A valid answer and how its body was framed.
fn valid_answer() -> impl Strategy<Value = (Vec<u8>, u64, bool)> {
    let chunks = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6);
    (chunks, 0..3, any::<bool>()).prop_map(|(chunks, framing, interim)| {
        let body: Vec<u8> = chunks.concat();
        let mut bytes = Vec::new();
        if interim {
            bytes.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        }
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nserver: x\r\n");
        match framing {
            0 => bytes.extend_from_slice(b"\r\n"),
            1 => bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes()),
            _ => bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        }
        if framing == 2 {
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nx-trailer: y\r\n\r\n");
        } else {
            bytes.extend_from_slice(&body);
        }
        (bytes, body.len() as u64, framing == 0)
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answer(
        (bytes, length, until_close) in valid_answer(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len())).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let mut split = ResponseParser::new(false, 1000, Keep::Body);
        for pair in at.windows(2) {
            prop_assert_eq!(split.feed(&bytes[pair[0]..pair[1]]), Ok(pair[1] - pair[0]));
        }
        let mut whole = ResponseParser::new(false, 1000, Keep::Body);
        prop_assert_eq!(whole.feed(&bytes), Ok(bytes.len()));
        prop_assert_eq!(split.is_done(), !until_close);
        split.finish().unwrap();
        whole.finish().unwrap();
        prop_assert_eq!(split.body_bytes(), length);
        prop_assert_eq!(split.is_keep_alive(), !until_close);
        prop_assert_eq!(split.into_parts(), whole.into_parts());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut: u8) {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for start in [&b""[..], &answer[..usize::from(cut) % answer.len()], answer] {
            let mut parser = ResponseParser::new(false, 100, Keep::Body);
            let all = [start, &bytes].concat();
            let _ = all.chunks(7).try_for_each(|piece| parser.feed(piece).map(|_| ()));
            prop_assert!(parser.body().len() <= 100 + 7);
        }
    }
}
