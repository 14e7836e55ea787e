//! Templates to requests, and requests to bytes on the wire.

use crate::server::{Server, send, template};
use evidence::{Body, Credential, Endpoint, HeaderValue, RequestTemplate};
use load::plan::{Refusal, refuse, refuse_host, refuse_load};
use load::request::redirected;
use load::{Client, Plan, RenderError, render, render_endpoint};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn get(url: &str) -> RequestTemplate {
    template("GET", url, &[], b"")
}

fn check_url(url: &str, host: &str, port: u16, target: &str) {
    let request = render(&get(url), 0, &[]).unwrap();
    assert_eq!((request.host.as_str(), request.port), (host, port), "{url}");
    assert_eq!(request.target, target, "{url}");
}

#[test]
fn urls() {
    check_url("http://127.0.0.1:3000", "127.0.0.1", 3000, "/");
    check_url("https://Example.com/a?b=c#frag", "example.com", 443, "/a?b=c");
    check_url("http://[::1]:8080/a b?q=ü", "::1", 8080, "/a%20b?q=%C3%BC");
    check_url("http://h/p?page={3..9}", "h", 80, "/p?page=3");
    check_url("http://bücher.example/", "xn--bcher-kva.example", 80, "/");
}

fn check_override(url: &str, name: &str, value: &str, target: &str) {
    let overrides = [(name.to_owned(), value.to_owned())];
    assert_eq!(render(&get(url), 0, &overrides).unwrap().target, target, "{url}");
}

#[test]
fn overrides() {
    check_override("http://h/p", "limit", "5", "/p?limit=5");
    check_override("http://h/p?a=%20x+y&limit=9&b", "limit", "5", "/p?a=%20x+y&limit=5&b");
    check_override("http://h/p?limit=1&limit=2", "limit", "5", "/p?limit=5");
    check_override("http://h/p?page%5Bsize%5D=1", "page[size]", "5", "/p?page%5Bsize%5D=5");
    check_override("http://h/p", "a&b", "x y", "/p?a%26b=x+y");
}

#[test]
fn endpoints_set_their_size() {
    let endpoint = Endpoint {
        name: "GET /p".into(),
        template: get("http://h/p?limit=10"),
        size_parameter: Some("limit".into()),
        recorded_ms: None,
    };
    let sized = render_endpoint(&endpoint, 0, Some(3)).unwrap();
    assert_eq!((sized.target.as_str(), sized.endpoint.as_str()), ("/p?limit=3", "GET /p"));
    assert_eq!(render_endpoint(&endpoint, 0, None).unwrap().target, "/p?limit=10");
}

fn check_refused(template: &RequestTemplate, message: &str) {
    let error = render(template, 0, &[]).unwrap_err().to_string();
    assert!(error.contains(message) && error.contains("hint:"), "{error}");
}

#[test]
fn templates_that_cannot_be_sent() {
    check_refused(&get("orders"), "relative URL");
    check_refused(&get("ftp://h/"), "only http and https");
    check_refused(&get("http://"), "empty host");
    check_refused(&get("http://u:topsecret@h/"), "user name or password");
    assert!(
        !render(&get("http://u:topsecret@h/"), 0, &[])
            .unwrap_err()
            .to_string()
            .contains("topsecret")
    );
    check_refused(&template("GET / HTTP/1.1\r\nx:", "http://h/", &[], b""), "not an HTTP method");
    check_refused(&template("GET", "http://h/", &[("a", "b\r\nc: d")], b""), "line break");
    check_refused(&template("GET", "http://h/", &[("a\r\nb", "c")], b""), "line break");
    check_refused(&template("GET", "http://h/", &[("a:b", "c")], b""), "header");
    let mut unstored = get("http://h/");
    unstored.body = Body::Inline { bytes: Vec::new(), length: 12 };
    check_refused(&unstored, "12 bytes were not stored");
    unstored.body = Body::File { path: "/nonexistent/body".into() };
    check_refused(&unstored, "/nonexistent/body");
}

fn secret(credential: Credential, text: &str) -> RequestTemplate {
    let value = HeaderValue::Secret { credential, secret: text.into(), prefix: "Bearer ".into() };
    RequestTemplate { headers: vec![("Authorization".into(), value)], ..get("http://h/") }
}

#[test]
fn secrets() {
    let request = render(&secret(Credential::Inline, "abc"), 0, &[]).unwrap();
    assert_eq!(request.header("authorization"), Some("Bearer abc"));
    assert!(!format!("{request:?}").contains("abc"));
    check_refused(&secret(Credential::Inline, ""), "not stored");
    check_refused(
        &secret(Credential::Env { name: "PERFWRIGHT_NO_SUCH".into() }, ""),
        "PERFWRIGHT_NO_SUCH",
    );
    check_refused(&secret(Credential::File { path: "/nonexistent".into() }, ""), "/nonexistent");
    let file = std::env::temp_dir().join(format!("perfwright-load-{}", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    std::fs::write(&file, "tok \nsecond line\n").unwrap();
    let request = render(&secret(Credential::File { path: path.clone() }, ""), 0, &[]).unwrap();
    assert_eq!(request.header("authorization"), Some("Bearer tok"));
    std::fs::write(&file, "\n").unwrap();
    check_refused(&secret(Credential::File { path }, ""), "empty");
    std::fs::remove_file(file).unwrap();
    check_refused(&secret(Credential::Inline, "a\r\nx: y"), "line break");
}

#[test]
fn bytes_on_the_wire() {
    let seen = Arc::new(Mutex::new(String::new()));
    let heard = seen.clone();
    let server = Server::start(move |request, _| {
        request.clone_into(&mut heard.lock().unwrap());
        vec![send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]
    });
    let headers = [
        ("X-One", " 1 "),
        ("Content-Length", "99"),
        ("Connection", "close"),
        ("traceparent", "00-11111111111111111111111111111111-1111111111111111-01"),
    ];
    let request = server.request("PUT", "/a?b=c", &headers, b"body");
    let (exchange, _) = Client::new(1).send(&request, Duration::from_secs(5), 1000, false);
    let version = env!("CARGO_PKG_VERSION");
    let text = seen.lock().unwrap().clone();
    let (head, trace) = text.split_once("traceparent: 00-").unwrap();
    assert_eq!(
        head,
        format!(
            "PUT /a?b=c HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nx-one: 1\r\nuser-agent: \
             perfwright/{version}\r\naccept: */*\r\ncontent-length: 4\r\n",
            server.port
        )
    );
    assert_eq!(&trace[..32], exchange.trace_id);
    assert!(trace.ends_with("-01\r\n\r\nbody"), "{trace}");
}

#[test]
fn redirects_keep_and_drop_what_browsers_do() {
    let post = render(&template("POST", "http://h:1/a/b", &[("Authorization", "x")], b"y"), 0, &[]);
    let post = post.unwrap();
    let next = redirected(&post, 303, "../c").unwrap();
    assert_eq!((next.method.as_str(), next.url().as_str()), ("GET", "http://h:1/c"));
    assert!(next.body.is_empty() && next.header("content-length").is_none());
    assert!(next.header("authorization").is_some());
    let next = redirected(&post, 307, "/d").unwrap();
    assert_eq!((next.method.as_str(), next.body.as_slice()), ("POST", b"y".as_slice()));
    let next = redirected(&post, 302, "https://other/").unwrap();
    assert_eq!((next.header("authorization"), next.header("host")), (None, Some("other")));
    assert_eq!(redirected(&post, 302, "mailto:x@y"), None);
}

#[test]
fn plans_in_words() {
    let (get, put) = (
        render(&get("http://127.0.0.1:3000/"), 0, &[]).unwrap(),
        template("PUT", "http://h/", &[], b""),
    );
    let put = render(&put, 0, &[]).unwrap();
    let mut plan = Plan::new();
    assert_eq!(plan.describe(), "no requests");
    plan.add(&get, 30, 1);
    plan.add(&get, 8, 4);
    let words = "38 GETs, at most 4 in flight, no other methods, to 127.0.0.1:3000";
    assert_eq!((plan.describe().as_str(), plan.requests()), (words, 38));
    plan.add(&put, 1, 1);
    let words =
        "38 GETs and 1 PUT, at most 4 in flight, no other methods, to 127.0.0.1:3000 and h:80";
    assert_eq!(plan.describe(), words);
}

#[test]
fn refusals() {
    assert!(refuse("GET", false).is_ok() && refuse("POST", true).is_ok());
    for method in ["POST", "DELETE", "get", "PURGE"] {
        assert!(matches!(refuse(method, false), Err(Refusal::Mutating { .. })), "{method}");
    }
    let at = |url: &str| render(&get(url), 0, &[]).unwrap();
    let named = [at("http://a.test/"), at("http://127.0.0.1:3000/")];
    for (url, good) in [
        ("http://a.test/x", true),
        ("https://a.test/x", true),
        ("http://a.test:8080/", false),
        ("http://127.0.0.1:3000/y", true),
        ("http://127.0.0.1:3001/y", false),
        ("http://b.a.test/", false),
    ] {
        assert_eq!(refuse_host(&at(url), &named).is_ok(), good, "{url}");
    }
    for (host, in_flight, good) in [
        ("127.0.0.1", 8, true),
        ("::1", 8, true),
        ("::ffff:127.0.0.1", 8, true),
        ("localhost", 8, true),
        ("a.test", 8, true),
        ("b.test", 8, false),
        ("b.test", 1, true),
        ("localhost.evil.test", 8, false),
    ] {
        let allowed = ["a.test".to_owned()];
        assert_eq!(refuse_load(host, in_flight, &allowed).is_ok(), good, "{host}");
    }
    assert!(matches!(
        render(&template("", "http://h", &[], b""), 0, &[]),
        Err(RenderError::Method { .. })
    ));
}
