//! What a user can get wrong before anything is sent: exit code 2, what happened and why on
//! stderr, the next step as a hint, nothing on stdout.

use crate::binary::{Folder, Ran};

/// Runs and expects a failure with all of these words on stderr, in this order.
#[track_caller]
pub fn check_in(folder: &Folder, arguments: &[&str], code: i32, says: &[&str]) -> Ran {
    let ran = folder.run(arguments);
    assert_eq!(ran.code, code, "{arguments:?}: {ran:#?}");
    let mut rest = ran.stderr.as_str();
    for word in says {
        let Some(at) = rest.find(word) else {
            panic!("{arguments:?} does not say {word:?} where it should: {ran:#?}");
        };
        rest = &rest[at + word.len()..];
    }
    ran
}

#[track_caller]
fn check(arguments: &[&str], says: &[&str]) {
    check_with(arguments, &[], says);
}

#[track_caller]
fn check_with(arguments: &[&str], files: &[(&str, &[u8])], says: &[&str]) {
    let folder = Folder::new();
    for (name, bytes) in files {
        folder.write(name, bytes);
    }
    let ran = check_in(&folder, arguments, 2, says);
    assert_eq!(ran.stdout, "", "{arguments:?}");
    assert_eq!(folder.runs().len(), 0, "{arguments:?} left a run");
}

#[test]
fn nothing_or_something_unknown() {
    check(&[], &["Usage:"]);
    check(&["frobnicate"], &["frobnicate", "--help"]);
    check(&["investigate"], &["error: nothing to investigate", "hint: name a URL"]);
    check(&["investigate", "--"], &["error: nothing to investigate", "hint: name a URL"]);
    check(&["investigate", "http://127.0.0.1:1/", "--fail-on", "big"], &["big", "critical"]);
    check(&["runs", "--quiet", "--verbose"], &["cannot be used with", "--verbose"]);
}

#[test]
fn urls_and_endpoints() {
    check(&["investigate", "localhost:3000/x"], &["not a URL", "hint:", "http://localhost:3000/x"]);
    let form = "hint: a URL is http://HOST:PORT/PATH";
    for typo in ["htp:/foo", "http:/127.0.0.1/x", "/x", "http//x y"] {
        check(&["investigate", typo], &[&format!("error: {typo} is not a URL"), form]);
    }
    check(&["investigate", "htp://127.0.0.1/"], &["error: `htp` URLs cannot be requested"]);
    check(&["investigate", "ftp://127.0.0.1/x"], &["error:", "ftp"]);
    check(&["investigate", "http://"], &["error:", "host"]);
    check(&["investigate", "http://127.0.0.1:99999/"], &["error:", "99999"]);
    check(&["investigate", "--endpoint", "GET /x"], &["error:", "/x", "hint:"]);
    let placeholder = ["investigate", "--endpoint", "GET /x{id}", "http://127.0.0.1:1"];
    let said = "error: `{id}` at character 3 of `/x{id}` is a placeholder";
    check(&placeholder, &[said, "hint: a range is {1..20}", "%7B"]);
    let half = ["investigate", "http://127.0.0.1:1/x?p={1..}"];
    check(&half, &["error: `{1..}` at character 24", "without an end on both sides", "hint:"]);
    check(
        &["investigate", "--endpoint", "POST /orders", "http://127.0.0.1:1"],
        &["error: POST", "may change data", "hint:", "--mutating"],
    );
    check(&["doctor", "localhost:3000"], &["not a URL", "hint:", "http://localhost:3000"]);
}

#[test]
fn durations_and_numbers() {
    let with = |flag, value, said: &[&str]| {
        check(&["investigate", "http://127.0.0.1:1/", flag, value], said);
    };
    with("--budget", "soon", &["'soon'", "--budget", "a number and a unit"]);
    with("--budget", "5d", &["'5d'", "--budget", "d is no unit of time; use ms, s, m or h"]);
    with("--budget", "0s", &["'0s'", "--budget", "more than zero"]);
    with("--budget", "-5s", &["'-5s'", "--budget", "a number and a unit"]);
    with("--objective", "p95<foo", &["'p95<foo'", "--objective", "no time"]);
    with("--objective", "p42<1s", &["'p42<1s'", "--objective", "not measured"]);
    with("--pid", "x", &["--pid"]);
    with("--pid", "0", &["--pid"]);
}

#[test]
fn options_that_would_do_nothing() {
    let proxy = ["investigate", "http://127.0.0.1:1/", "--proxy"];
    check(&proxy, &["error: --proxy needs a command", "hint: add what starts the service"]);
}

#[test]
fn curl_lines() {
    let alone = "error: no URL in the curl command line";
    check(&["investigate", "curl"], &[alone, "hint: put the whole command in quotes"]);
    check(&["investigate", "curl 'http://127.0.0.1:1/"], &["error:", "quot"]);
    let unknown = ["investigate", "curl --frobnicate 3"];
    check(&unknown, &["--frobnicate is not known", "`3` may be", "hint: remove --frobnicate"]);
    check(&["investigate", "curl 3"], &["`3` is a number", "hint: write a name"]);
    check(
        &["investigate", "curl http://127.0.0.1:1/ --data-binary @missing.json", "--mutating"],
        &["error: POST / cannot be sent", "missing.json", "No such file", "hint: check that"],
    );
    check(
        &["investigate", "curl -X DELETE http://127.0.0.1:1/orders/1"],
        &["error: DELETE", "hint:", "--mutating"],
    );
}

#[test]
fn recordings() {
    let whole = br#"{"log":{"entries":[{"request":{"method":"GET","url":"http://127.0.0.1:1/a","headers":[]},"response":{"status":200},"time":12}]}}"#;
    let har = &["investigate", "--har", "page.har"];
    check(har, &["error: cannot read page.har", "No such file", "hint:"]);
    check_with(har, &[("page.har", b"")], &["error: page.har", "hint:"]);
    check_with(har, &[("page.har", b"not json")], &["error: page.har", "byte", "hint:"]);
    check_with(har, &[("page.har", b"{}")], &["error: page.har", "hint:"]);
    check_with(har, &[("page.har", br#"{"log":{"entries":[]}}"#)], &["error:", "hint:"]);
    let cut = &whole[..whole.len() - 40];
    check_with(har, &[("page.har", cut)], &["page.har", "byte"]);
    let deep = "[".repeat(100_000);
    check_with(har, &[("page.har", deep.as_bytes())], &["error: page.har", "byte"]);
    check_with(har, &[("page.har", &[0xff, 0xfe, 0x00, 0x01])], &["error: page.har"]);
}

#[test]
fn login_files_and_secrets() {
    let url = "http://127.0.0.1:1/";
    check(
        &["investigate", url, "--login", "login.http"],
        &["error: cannot read login.http", "No such file", "hint:"],
    );
    check_with(
        &["investigate", url, "--login", "login.http"],
        &[("login.http", b"\x00\x01")],
        &["error: login file login.http"],
    );
    check_with(
        &["investigate", url, "--login", "login.http"],
        &[("login.http", b"POST /login\n\np={{env:PERFWRIGHT_NO_SUCH}}")],
        &["error: login file login.http", "{{env:PERFWRIGHT_NO_SUCH}} is not available"],
    );
    check(&["investigate", url, "-H", "no colon here"], &["error:", "no colon here"]);
    let cookie = ["investigate", url, "--cookie", ""];
    check(&cookie, &["error: the cookie is empty", "hint: write 'name=value'"]);
    check(
        &["investigate", url, "-H", "Authorization: Bearer env:PERFWRIGHT_NO_SUCH"],
        &["error:", "PERFWRIGHT_NO_SUCH", "hint:"],
    );
    check(&["investigate", url, "--observer", "127.0.0.1:1"], &["error:", "PERFWRIGHT_TOKEN"]);
    check(
        &["investigate", url, "--observer", "127.0.0.1:1", "--observer-token", "sesame"],
        &["error:", "env:NAME or file:PATH"],
    );
}

#[test]
fn observers() {
    let folder = Folder::new();
    check_in(&folder, &["observe", "--listen", "nonsense"], 2, &["error: nonsense", "HOST:PORT"]);
    let token = &["observe", "--listen", "0.0.0.0:0"];
    check_in(&folder, token, 2, &["error:", "token"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check_in(&folder, &["observe", "--listen", &address], 2, &["cannot listen", "another port"]);
    // One that is named and not there.
    drop(taken);
    folder.write("token", "sesame");
    let named = ["--observer", &address, "--observer-token", "file:token"];
    let args = [&["investigate", "http://127.0.0.1:9/"][..], &named].concat();
    check_in(&folder, &args, 2, &["error: cannot reach the observer", "hint:", "--observer"]);
    // A conductor that says nothing.
    assert_eq!(folder.run(&["observe"]).code, 0);
}
