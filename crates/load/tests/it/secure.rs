//! TLS with a self-signed certificate, and HTTP/2 when the server chooses it.

use crate::answers::assert_ordered;
use crate::server::{Server, read_request, send, template};
use bytes::Bytes;
use evidence::{Exchange, Failure};
use load::{Client, Request, render};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

fn server_config(alpn: &[&str]) -> Arc<ServerConfig> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// HTTP/1.1 over TLS; closes properly after `requests` answers on a connection.
fn tls_h1(requests: usize) -> Server {
    let config = server_config(&["http/1.1"]);
    Server::raw(move |stream| {
        let session = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(session, stream);
        let mut seen = Vec::new();
        for _ in 0..requests {
            if read_request(&mut stream, &mut seen).is_none() {
                return;
            }
            std::thread::sleep(Duration::from_millis(30));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
            if stream.write_all(answer).is_err() {
                return;
            }
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

/// What an HTTP/2 server does with one request, by its path.
async fn answer(
    request: http::Request<h2::RecvStream>,
    mut reply: h2::server::SendResponse<Bytes>,
) {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let mut received = 0;
    while let Some(Ok(data)) = body.data().await {
        received += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    if path == "/reset" {
        return reply.send_reset(h2::Reason::INTERNAL_ERROR);
    }
    let wait = if path == "/hang" { 5000 } else { 30 };
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let head = http::Response::builder().header("server-timing", "db;dur=1").body(()).unwrap();
    let mut stream = reply.send_response(head, false).unwrap();
    if path == "/endless" {
        loop {
            stream.reserve_capacity(1000);
            match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
                Some(Ok(n)) if n > 0 => stream.send_data(Bytes::from(vec![b'x'; n]), false),
                _ => return,
            }
            .unwrap_or_default();
        }
    }
    let _ = stream.send_data(Bytes::from(format!("{path} {received}")), false);
    let _ = stream.send_trailers(http::HeaderMap::new());
}

/// HTTP/2 over TLS; drops a connection after `requests` answers.
fn tls_h2(requests: usize) -> Server {
    let config = server_config(&["h2", "http/1.1"]);
    Server::raw(move |stream: TcpStream| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(async {
            stream.set_nonblocking(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let stream = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await?;
            let mut connection =
                h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
            let mut served = 0;
            while let Some(Ok((request, reply))) = connection.accept().await {
                served += 1;
                if served > requests {
                    break;
                }
                tokio::spawn(answer(request, reply));
            }
            Ok::<(), std::io::Error>(())
        });
    })
}

fn request(server: &Server, method: &str, path: &str, body: &[u8], insecure: bool) -> Request {
    let url = format!("https://127.0.0.1:{}{path}", server.port);
    let mut template = template(method, &url, &[], body);
    template.insecure = insecure;
    render(&template, 0, &[]).unwrap()
}

fn get(server: &Server, path: &str) -> Request {
    request(server, "GET", path, b"", true)
}

/// The server waits 30 ms between the request and its answer; on a busy machine the generator may
/// itself wait for a CPU between sending and stamping, and says so.
fn assert_wait_is_seen(exchange: &Exchange) {
    let wait = exchange.phases.first_byte - exchange.phases.sent;
    assert!((wait + exchange.generator).as_ms() >= 28.0, "{exchange:?}");
}

#[test]
fn http1_over_tls() {
    let server = tls_h1(5);
    let mut client = Client::new(1);
    let (first, response) = client.send(&get(&server, "/"), TIMEOUT, 1000, true);
    assert_eq!(first.failure, None, "{:?}", client.detail());
    assert_eq!((response.unwrap().body, first.http.as_str()), (b"hello".to_vec(), "h1"));
    let (second, _) = client.send(&get(&server, "/"), TIMEOUT, 1000, true);
    assert!(first.phases.tls.is_some() && second.phases.tls.is_none());
    for exchange in [&first, &second] {
        assert_ordered(exchange);
        assert_wait_is_seen(exchange);
    }
}

#[test]
fn closed_tls_connection_is_noticed_before_sending() {
    let server = tls_h1(1);
    let mut client = Client::new(1);
    for _ in 0..3 {
        let post = request(&server, "POST", "/", b"x=1", true);
        let (exchange, _) = client.send(&post, TIMEOUT, 1000, false);
        assert_eq!((exchange.failure, client.reconnects()), (None, 0));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn http2_when_the_server_chooses_it() {
    let server = tls_h2(100);
    let mut client = Client::new(1);
    let (first, response) = client.send(&get(&server, "/a"), TIMEOUT, 1000, true);
    assert_eq!(first.failure, None, "{:?}", client.detail());
    assert_eq!((response.unwrap().body, first.http.as_str()), (b"/a 0".to_vec(), "h2"));
    assert_eq!((first.body_bytes, first.server_timing.as_deref()), (4, Some("db;dur=1")));
    let (second, _) = client.send(&get(&server, "/b"), TIMEOUT, 1000, true);
    assert!(first.phases.tls.is_some() && second.phases.tls.is_none());
    assert_eq!(first.client_port, second.client_port);
    // Far beyond the server's window of 64 KB, so it is sent piece by piece.
    let post = request(&server, "POST", "/c", &vec![b'x'; 1 << 20], true);
    let (third, response) = client.send(&post, TIMEOUT, 1000, true);
    assert_eq!(third.failure, None, "{:?}", client.detail());
    assert_eq!(response.unwrap().body, b"/c 1048576");
    for exchange in [&first, &second, &third] {
        assert_ordered(exchange);
        assert_wait_is_seen(exchange);
    }
}

#[test]
fn http2_failures() {
    let server = tls_h2(100);
    for (path, ms, expected) in [
        ("/hang", 200, Failure::Timeout),
        ("/reset", 5000, Failure::Reset),
        ("/endless", 5000, Failure::TooLarge),
    ] {
        let mut client = Client::new(1);
        let limit = Duration::from_millis(ms);
        let (exchange, response) = client.send(&get(&server, path), limit, 100_000, true);
        assert_eq!(exchange.failure, Some(expected), "{path}");
        assert!(response.is_none() && client.detail().is_some(), "{path}");
        assert_ordered(&exchange);
        let (next, _) = client.send(&get(&server, "/ok"), TIMEOUT, 100_000, true);
        assert_eq!(next.failure, None, "after {path}");
    }
}

#[test]
fn dropped_http2_connection_is_replaced() {
    // The server goes when the second request arrives.
    let server = tls_h2(1);
    let mut client = Client::new(1);
    for path in ["/a", "/b", "/c"] {
        let (exchange, _) = client.send(&get(&server, path), TIMEOUT, 1000, false);
        assert_eq!(exchange.failure, None, "{path}: {:?}", client.detail());
    }
    assert_eq!(client.reconnects(), 2);
}

#[test]
fn http2_connection_closed_while_idle_is_noticed_before_sending() {
    let server = tls_h2(0);
    let mut client = Client::new(1);
    // With no requests allowed the server goes at once, during the first exchange.
    let (first, _) = client.send(&get(&server, "/"), TIMEOUT, 1000, false);
    assert_eq!(first.failure, Some(Failure::Reset));

    let server = goes_after_an_answer();
    for path in ["/a", "/b", "/c"] {
        let post = request(&server, "POST", path, b"x=1", true);
        let (exchange, _) = client.send(&post, TIMEOUT, 1000, false);
        assert_eq!((exchange.failure, client.reconnects()), (None, 0), "{path}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// HTTP/2 over TLS; says GOAWAY 20 ms after each connection's first answer.
fn goes_after_an_answer() -> Server {
    let config = server_config(&["h2"]);
    Server::raw(move |stream: TcpStream| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(async {
            stream.set_nonblocking(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let stream = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await?;
            let mut connection =
                h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
            if let Some(Ok((request, reply))) = connection.accept().await {
                tokio::spawn(answer(request, reply));
            }
            let more = connection.accept();
            let _ = tokio::time::timeout(Duration::from_millis(50), more).await;
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {}
            Ok::<(), std::io::Error>(())
        });
    })
}

fn check_refused(request: &Request, expected: Failure, hint: &str) {
    let mut client = Client::new(1);
    let (exchange, _) = client.send(request, TIMEOUT, 1000, false);
    let detail = client.detail().unwrap_or_default();
    assert_eq!(exchange.failure, Some(expected), "{detail}");
    assert!(detail.contains(hint), "{detail}");
    assert_ordered(&exchange);
}

#[test]
fn certificates_and_wrong_schemes() {
    let tls = tls_h1(5);
    check_refused(&request(&tls, "GET", "/", b"", false), Failure::Tls, "-k accepts");
    check_refused(&tls.get("/"), Failure::Protocol, "https://");
    let plain = Server::start(|_, _| vec![send("HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n")]);
    // The hello is no request, so nothing is answered until the connection is given up.
    let mut client = Client::new(1);
    let limit = Duration::from_millis(200);
    let (exchange, _) = client.send(&get(&plain, "/"), limit, 1000, false);
    assert_eq!(exchange.failure, Some(Failure::Timeout));
    let talkative = Server::raw(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        std::thread::sleep(Duration::from_millis(200));
    });
    check_refused(&get(&talkative, "/"), Failure::Tls, "http://");
}
