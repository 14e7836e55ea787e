//! Login pages, cookies, tokens, redirects.

use crate::server::{Server, Step, send, template};
use evidence::Failure;
use load::{Client, LoginError, login};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

fn check_login(answer: &'static str, path: &str, expected: Option<Failure>) {
    let server = Server::start(move |_, _| vec![send(answer), Step::Close]);
    let (exchange, _) = Client::new(1).send(&server.get(path), TIMEOUT, 100_000, false);
    assert_eq!(exchange.failure, expected, "{path}: {answer}");
}

#[test]
fn login_pages_are_failures() {
    let needed = Some(Failure::LoginRequired);
    check_login("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", "/", needed.clone());
    check_login("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", "/", needed.clone());
    let to = "HTTP/1.1 302 Found\r\nlocation: /login?next=/x\r\ncontent-length: 0\r\n\r\n";
    check_login(to, "/x", needed.clone());
    let to =
        "HTTP/1.1 302 Found\r\nlocation: https://id.test/oauth2/x\r\ncontent-length: 0\r\n\r\n";
    check_login(to, "/x", needed.clone());
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<input type=\"password\">";
    check_login(page, "/x", needed);
    check_login(page, "/login", None);
    let json = "HTTP/1.1 200 OK\r\ncontent-type: text/json\r\n\r\n\"<input type='password'>\"";
    check_login(json, "/x", None);
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: /authors\r\ncontent-length: 0\r\n\r\n";
    check_login(elsewhere, "/x", None);
    let gone = "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
    check_login(gone, "/x", Some(Failure::Status { code: 500 }));
}

/// Gives a cookie at /login, wants it everywhere else.
fn shop() -> Server {
    Server::start(|request, _| {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n";
        if request.starts_with("POST /login") && request.ends_with("user=a&pass=b") {
            return vec![send(&format!("{ok}set-cookie: sid=s3cret; Path=/; HttpOnly\r\n\r\n"))];
        }
        let status = if request.contains("cookie: sid=s3cret\r\n") {
            ok
        } else {
            "HTTP/1.1 401 No\r\ncontent-length: 0\r\n"
        };
        vec![send(&format!("{status}\r\n"))]
    })
}

#[test]
fn login_by_cookie() {
    let server = shop();
    let url = format!("http://127.0.0.1:{}/login", server.port);
    let session = login(&template("POST", &url, &[], b"user=a&pass=b"), 1, TIMEOUT).unwrap();
    assert_eq!((session.jar().len(), session.authorization()), (1, None));
    assert!(!format!("{session:?}").contains("s3cret"));
    let mut client = Client::new(2).with_session(session.clone());
    let (exchange, _) = client.send(&server.get("/orders"), TIMEOUT, 1000, false);
    assert_eq!(exchange.failure, None);
    let (exchange, _) = Client::new(3).send(&server.get("/orders"), TIMEOUT, 1000, false);
    assert_eq!(exchange.failure, Some(Failure::LoginRequired));
    let wrong = login(&template("POST", &url, &[], b"user=a&pass=wrong"), 1, TIMEOUT).unwrap_err();
    assert!(matches!(wrong, LoginError::Refused { status: 401, .. }), "{wrong}");
}

#[test]
fn login_by_token() {
    let server = Server::start(|request, _| {
        let body = r#"{"data":{"access_token":"t0ken"}}"#;
        if request.starts_with("POST /auth/login") {
            let length = body.len();
            return vec![send(&format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
            ))];
        }
        let good = request.contains("authorization: Bearer t0ken\r\n");
        let status = if good { "200 OK" } else { "401 No" };
        vec![send(&format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))]
    });
    let url = format!("http://127.0.0.1:{}/auth/login", server.port);
    let session = login(&template("POST", &url, &[], b"{}"), 1, TIMEOUT).unwrap();
    let mut client = Client::new(2).with_session(session);
    assert_eq!(client.send(&server.get("/items"), TIMEOUT, 1000, false).0.failure, None);
    let own = server.request("GET", "/items", &[("Authorization", "Bearer mine")], b"");
    let (exchange, _) = client.send(&own, TIMEOUT, 1000, false);
    assert_eq!(exchange.failure, Some(Failure::LoginRequired), "a given header wins");
}

/// A form as Django serves it: refuses without its token and cookie, and shows itself again when
/// the password is wrong.
fn guarded_form() -> Server {
    Server::start(|request, _| {
        let page = "<form><input type=hidden name=csrfmiddlewaretoken value=t0k>\
                    <input name=user><input type=password name=pass></form>";
        let html = format!("content-type: text/html\r\ncontent-length: {}\r\n", page.len());
        let shown = format!("HTTP/1.1 200 OK\r\nset-cookie: csrftoken=c\r\n{html}\r\n{page}");
        let guarded = request.contains("cookie: csrftoken=c\r\n")
            && request.contains("csrfmiddlewaretoken=t0k");
        if request.starts_with("GET") {
            return vec![send(&shown)];
        }
        if !guarded {
            return vec![send("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")];
        }
        if !request.contains("pass=b%26c") {
            return vec![send(&shown)];
        }
        let good = "HTTP/1.1 302 Found\r\nlocation: /home\r\nset-cookie: sid=1; Path=/\r\n\
                    content-length: 0\r\n\r\n";
        vec![send(good)]
    })
}

#[test]
fn login_by_a_form_with_a_token_against_forgery() {
    let server = guarded_form();
    let url = format!("http://127.0.0.1:{}/accounts/login/", server.port);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let session = login(&template("POST", &url, &form, b"user=a&pass=b%26c"), 1, TIMEOUT).unwrap();
    assert_eq!(session.jar().len(), 2);
    let error = login(&template("POST", &url, &form, b"user=a&pass=no"), 1, TIMEOUT).unwrap_err();
    assert!(matches!(error, LoginError::AsksAgain { .. }), "{error}");
    let json = [("Content-Type", "application/json")];
    let error = login(&template("POST", &url, &json, b"{}"), 1, TIMEOUT).unwrap_err();
    assert!(matches!(error, LoginError::Refused { status: 403, .. }), "{error}");
}

#[test]
fn login_without_a_gift() {
    let server = Server::start(|_, _| vec![send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")]);
    let url = format!("http://127.0.0.1:{}/in", server.port);
    let error = login(&template("POST", &url, &[], b""), 1, TIMEOUT).unwrap_err();
    assert!(
        matches!(error, LoginError::NothingGiven { .. }) && error.to_string().contains("hint:")
    );
}

#[test]
fn redirects_stay_on_the_host() {
    let other = Server::start(|_, _| vec![send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]);
    let away = format!("http://127.0.0.1:{}/", other.port);
    let server = Server::start(move |request, _| {
        let to = match request.split(' ').nth(1).unwrap() {
            "/a" => "b?x=1",
            "/b?x=1" => "/c",
            "/loop" => "/loop",
            "/away" => away.as_str(),
            _ => return vec![send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")],
        };
        vec![send(&format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"))]
    });
    let follow = |path: &str, follow_redirects: bool| {
        let mut request = server.get(path);
        request.follow_redirects = follow_redirects;
        Client::new(1).follow(&request, TIMEOUT, 1000, true)
    };
    let done = follow("/a", true);
    assert_eq!((done.hops.len(), done.request.target.as_str()), (3, "/c"));
    assert_eq!(done.hops[2].1.as_ref().unwrap().body, b"ok");
    assert_eq!((follow("/a", false).hops.len(), follow("/a", false).stopped), (1, None));
    let looped = follow("/loop", true);
    assert!(looped.hops.len() < 20 && looped.stopped.unwrap().contains("in a row"));
    let away = follow("/away", true);
    assert!(away.hops.len() == 1 && away.stopped.unwrap().contains("another host"));
    assert_eq!(other.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}
