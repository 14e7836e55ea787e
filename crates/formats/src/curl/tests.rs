//! Tests: curl command lines as browsers and people write them.

use super::*;
use evidence::Credential;

/// The request in one readable line: `POST http://h/ | name=value | body`.
fn shown(template: &RequestTemplate) -> String {
    let mut out = format!("{} {}", template.method, template.url);
    for (name, value) in &template.headers {
        let value = match value {
            HeaderValue::Plain { text } => text.clone(),
            HeaderValue::Secret { credential, secret, prefix } => match credential {
                Credential::Inline => format!("{prefix}<{secret}>"),
                Credential::Env { name } => format!("{prefix}<env {name}>"),
                Credential::File { path } => format!("{prefix}<file {path}>"),
            },
        };
        out.push_str(&format!(" | {name}={value}"));
    }
    match &template.body {
        Body::Empty => {}
        Body::Inline { bytes, length } => {
            assert_eq!(bytes.len() as u64, *length);
            out.push_str(&format!(" | {}", String::from_utf8_lossy(bytes)));
        }
        Body::File { path } => out.push_str(&format!(" | @{path}")),
    }
    for (on, word) in [
        (template.insecure, "insecure"),
        (template.compressed, "compressed"),
        (template.follow_redirects, "redirects"),
    ] {
        if on {
            out.push_str(&format!(" | {word}"));
        }
    }
    out
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    match path {
        "lines" => Ok(b"a\r\nb\n".to_vec()),
        "jar" => Ok(b"# Netscape\n.h.io\tTRUE\t/\tFALSE\t0\tsid\t1\n\
                     #HttpOnly_h.io\tFALSE\t/\tFALSE\t0\tid\t2\nother\tF\t/\tF\t0\tx\t3\n"
            .to_vec()),
        _ => Err("no such file".into()),
    }
}

fn check(command: &str, expected: &str, problems: &[&str]) {
    let (template, found) = match parse_with(command, Some("http://base:1/x"), &read) {
        Ok(parsed) => parsed,
        Err(error) => {
            let error = format!("error {error}");
            assert!(error.contains(expected), "{command}: {error}");
            return;
        }
    };
    assert_eq!(shown(&template), expected, "{command}");
    assert_eq!(found.len(), problems.len(), "{command}: {found:?}");
    for (problem, part) in found.iter().zip(problems) {
        assert!(problem.message.contains(part), "{command}: {problem}");
        assert!(problem.position <= command.len());
    }
}

const FORM: &str = "content-type=application/x-www-form-urlencoded";

#[test]
fn as_copied_from_chrome_on_linux() {
    let command = r#"curl 'https://shop.example.com/api/orders?page=1&filter=\{%22a%22:1\}' \
  -H 'accept: application/json, text/plain, */*' \
  -H 'authorization: Bearer eyJhbGciOi.J9.x' \
  -b 'sid=s%3Aabc; theme=dark' \
  -H 'user-agent: Mozilla/5.0 (X11; Linux x86_64)' \
  --data-raw $'{"name":"O\'Brien\u0021","n":1}' \
  --compressed ;"#;
    check(
        command,
        "POST https://shop.example.com/api/orders?page=1&filter=%7B%22a%22:1%7D \
         | accept=application/json, text/plain, */* | authorization=Bearer <eyJhbGciOi.J9.x> \
         | user-agent=Mozilla/5.0 (X11; Linux x86_64) | cookie=<sid=s%3Aabc; theme=dark> \
         | content-type=application/x-www-form-urlencoded \
         | {\"name\":\"O'Brien!\",\"n\":1} | compressed",
        &[],
    );
}

#[test]
fn as_copied_from_chrome_on_windows() {
    let command = "curl ^\"https://h.io/a?b=1^&c=^%^20d^\" ^\r\n  -X ^\"PUT^\" ^\r\n  \
                   -H ^\"content-type: application/json^\" ^\r\n  \
                   --data-raw ^\"^{^\\^\"q^\\^\":^\\^\"a^|b^\\^\"^}^\" ^\r\n  --insecure";
    let expected = "PUT https://h.io/a?b=1&c=%20d | content-type=application/json \
                    | {\"q\":\"a|b\"} | insecure";
    check(command, expected, &[]);
}

#[test]
fn flags() {
    check("curl localhost:3000", "GET http://localhost:3000/", &[]);
    check("$ /usr/bin/curl /orders", "GET http://base:1/orders", &[]);
    check("curl -sSkLv -XDELETE h.io", "DELETE http://h.io/ | insecure | redirects", &[]);
    check("curl --request=PATCH --url=h.io/a", "PATCH http://h.io/a", &[]);
    check("curl -I h.io", "HEAD http://h.io/", &[]);
    check("curl h.io -o /dev/null -w '%{time_total}' -m 5", "GET http://h.io/", &[]);
    check("curl h.io --http2 --tlsv1.2 --no-buffer", "GET http://h.io/", &[]);
    check("curl -u me:pw h.io", "GET http://h.io/ | authorization=Basic <bWU6cHc=>", &[]);
    check("curl me:p%77@h.io", "GET http://h.io/ | authorization=Basic <bWU6cHc=>", &[]);
    check("curl -u me h.io", "GET http://h.io/ | authorization=Basic <bWU6>", &["password"]);
    check("curl h.io -A x -e y;auto", "GET http://h.io/ | user-agent=x | referer=y", &["another"]);
    check("curl h.io -e 'y;auto'", "GET http://h.io/ | referer=y", &[]);
    check("curl h.io -H 'A;' -H B: -H 'Content-Length: 3'", "GET http://h.io/ | A=", &[]);
    check("curl h.io -H 'T: env:T' -H bad", "GET http://h.io/ | T=<env T>", &["not a header"]);
    check("curl h.io -H \"X-Api-Key: $KEY\"", "GET http://h.io/ | X-Api-Key=<$KEY>", &["env:KEY"]);
    check("curl h.io -b a=1 -b 'b=2;'", "GET http://h.io/ | cookie=<a=1; b=2>", &[]);
    check("curl h.io -b jar -c out", "GET http://h.io/ | cookie=<sid=1; id=2>", &[]);
    check("curl h.io -b none", "GET http://h.io/", &["no such file"]);
    check("curl h.io -r 0-99", "GET http://h.io/ | range=bytes=0-99", &[]);
    check("curl h.io --frobnicate -sW", "GET http://h.io/", &["--frobnicate", "-W"]);
    check("curl h.io i.io", "GET http://h.io/", &["first URL"]);
    check("curl h.io --next j.io", "GET http://h.io/", &["--next"]);
    check("curl h.io --digest --cert x", "GET http://h.io/", &["challenge", "certificates"]);
    check("curl 'h.io/[1-20]?a={x,y}'", "GET http://h.io/{1..20}?a={x,y}", &[]);
    check("curl -g 'h.io/[1-20]?a={x,y}'", "GET http://h.io/[1-20]?a=%7Bx,y%7D", &[]);
    check("curl 'h.io/x?a=[a-z]&b[]=1'", "GET http://h.io/x?a=[a-z]&b[]=1", &["[a-z]"]);
    check("curl -g 'h.io/{id}'", "GET http://h.io/%7Bid%7D", &[]);
    check("curl 'h.io/x?f={\"a\":1}'", "GET http://h.io/x?f=%7B%22a%22:1%7D", &[]);
    check("curl h.io/#x --compressed", "GET http://h.io/ | compressed", &[]);
}

#[test]
fn what_may_be_the_value_of_an_unknown_flag_is_not_the_url() {
    let left_out = &["--new is not known", "`3` was left out with --new"];
    check("curl --new 3 http://h.io", "GET http://h.io/", left_out);
    check("curl h.io --new 3", "GET http://h.io/", left_out);
    check("curl -sW 3 http://h.io", "GET http://h.io/", &["-W", "`3` was left out with -W"]);
    check("curl --new http://h.io", "GET http://h.io/", &["--new"]);
    check("curl --new=3 h.io", "GET http://h.io/", &["--new"]);
    check("curl --new -s h.io", "GET http://h.io/", &["--new"]);
    check("curl --new 3 --url http://h.io", "GET http://h.io/", left_out);
    let refused = "flag --new is not known, so `";
    check("curl --new 3", refused, &[]);
    check("curl --new h.io", refused, &[]);
    check("curl --new 3 h.io", refused, &[]);
    check("curl --new http://h.io i.io", refused, &[]);
    check("curl --new http://h.io http://i.io", refused, &[]);
    check("curl --new a http://h.io http://i.io", "remove --new, or write the URL first", &[]);
    check("curl http://3", "byte 5: `3` is a number", &[]);
    check("curl 3:80/x", "`3` is a number", &[]);
}

#[test]
fn bodies() {
    check("curl h.io -d a=1 -d b=2", &format!("POST http://h.io/ | {FORM} | a=1&b=2"), &[]);
    check("curl h.io -da=1", &format!("POST http://h.io/ | {FORM} | a=1"), &[]);
    check("curl h.io -d @lines", &format!("POST http://h.io/ | {FORM} | ab"), &[]);
    check("curl h.io -d @no", &format!("POST http://h.io/ | {FORM} | @no"), &["line breaks"]);
    check("curl h.io --data-binary @no", &format!("POST http://h.io/ | {FORM} | @no"), &[]);
    check("curl h.io --data-raw @no", &format!("POST http://h.io/ | {FORM} | @no"), &[]);
    check("curl h.io -d '' -H 'Content-Type:'", "POST http://h.io/", &[]);
    check(
        "curl h.io --data-urlencode 'q=a b&c' --data-urlencode =é --data-urlencode f@lines",
        &format!("POST http://h.io/ | {FORM} | q=a%20b%26c&%C3%A9&f=a%0D%0Ab%0A"),
        &[],
    );
    check(
        "curl h.io?z=0 -G -d a=1 -d 'b=x y{1..3}'",
        "GET http://h.io/?z=0&a=1&b=x%20y{1..3}",
        &[],
    );
    check(
        "curl h.io --json '{\"a\":1}'",
        "POST http://h.io/ | accept=application/json | content-type=application/json | {\"a\":1}",
        &[],
    );
    check("curl h.io -T up.bin", "PUT http://h.io/ | @up.bin", &[]);
    check("curl -d '<b>' -X PUT h.io", &format!("PUT http://h.io/ | {FORM} | <b>"), &[]);
}

#[test]
fn forms() {
    let command = "curl h.io -F a=1 -F 'f=@lines;type=text/x; charset=u;filename=\"n.txt\"' \
                   -F 't=<lines' --form-string 's=@x;type=y'";
    let (template, problems) = parse_with(command, None, &read).unwrap();
    assert_eq!(problems, []);
    let text = shown(&template);
    let boundary = text.split("boundary=").nth(1).unwrap().split(' ').next().unwrap();
    let body = text.split(" | ").last().unwrap().replace(boundary, "B");
    let expected = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
        --B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"n.txt\"\r\n\
        Content-Type: text/x; charset=u\r\n\r\na\r\nb\n\r\n\
        --B\r\nContent-Disposition: form-data; name=\"t\"\r\n\r\na\r\nb\n\r\n\
        --B\r\nContent-Disposition: form-data; name=\"s\"\r\n\r\n@x;type=y\r\n--B--\r\n";
    assert_eq!(body, expected);
}

#[test]
fn what_cannot_be_used_says_where_and_why() {
    check("", "byte 0: the command is empty", &[]);
    check("wget h.io", "starts with `wget`", &[]);
    check("fetch('http://h')", "Copy as cURL", &[]);
    check("curl -s", "no URL", &[]);
    check("curl 'h.io", "at byte 5: the quote", &[]);
    check("curl h.io -H", "byte 12: --header needs a value", &[]);
    check("curl h.io -X 'A B'", "byte 13: `A B` is not an HTTP method", &[]);
    check("curl -x p:1 h.io", "byte 6: --proxy: requests through a proxy", &[]);
    check("curl h.io --resolve a:1:2", "byte 10: --resolve", &[]);
    check("curl ftp://h.io", "byte 5: `ftp` URLs", &[]);
    check("curl h.io -d @-", "standard input", &[]);
    check("curl h.io -F a", "form field", &[]);
    check("curl h.io -F a=@no", "no such file", &[]);
    check("curl h.io -H 'Cookie: a=env:X; b'", "header `Cookie`", &[]);
    check("curl h.io -K conf", "flags in a file", &[]);
}

#[test]
fn secrets_are_not_serialised() {
    let command = "curl 'http://u:pw1x@h.io/?api_key=qq7' -H 'X-Auth-Token: qq7' -d pass=qq7";
    let (template, _) = parse(command, None).unwrap();
    let json = serde_json::to_string(&template).unwrap();
    assert!(!json.contains("qq7") && !json.contains("pw1x"), "{json}");
    assert!(is_curl("curl h") && is_curl(" $ curl.exe h") && !is_curl("http://curl"));
}
