//! A cookie jar shared by the clients of a run: the part of RFC 6265 that sessions need.
//!
//! Domain, path, `Secure`, `Max-Age` and `Expires` are honoured. There is no public-suffix list: a
//! `Domain` without a dot is refused.

use crate::request::{Request, Scheme};
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// Most cookies kept; the oldest leave first.
const COOKIES_MAX: usize = 300;
/// Largest cookie, name and value, bytes.
const COOKIE_LIMIT: usize = 8 << 10;

#[derive(Clone, PartialEq, Eq)]
struct Cookie {
    name: String,
    value: String,
    domain: String,
    host_only: bool,
    path: String,
    secure: bool,
    expires: Option<SystemTime>,
}

/// Cookies of a run. Held in memory only.
#[derive(Default)]
pub struct CookieJar {
    cookies: Mutex<Vec<Cookie>>,
}

/// Values are secret: only the number is shown.
impl fmt::Debug for CookieJar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieJar").field("cookies", &self.len()).finish()
    }
}

impl CookieJar {
    /// How many cookies it holds.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes one `Set-Cookie` value of the answer to `request`; whether it was accepted.
    pub fn store(&self, request: &Request, set_cookie: &str, now: SystemTime) -> bool {
        let Some(cookie) = parse(request, set_cookie, now) else { return false };
        let mut cookies = self.lock();
        let same = |c: &Cookie| {
            c.name == cookie.name && c.domain == cookie.domain && c.path == cookie.path
        };
        let at = cookies.iter().position(same);
        let expired = cookie.expires.is_some_and(|e| e <= now);
        match (at, expired) {
            (Some(i), true) => drop(cookies.remove(i)),
            (Some(i), false) => cookies[i] = cookie,
            (None, true) => {}
            (None, false) => cookies.push(cookie),
        }
        if cookies.len() > COOKIES_MAX {
            cookies.remove(0);
        }
        true
    }

    /// Value of the `Cookie` header for `request`: the jar's cookies, after those given in `own`
    /// (the request's own header), which lose to a jar's cookie of the same name. `None` for none.
    pub fn header(&self, request: &Request, own: Option<&str>, now: SystemTime) -> Option<String> {
        let cookies = self.lock();
        let mut fit: Vec<&Cookie> = cookies.iter().filter(|c| c.fits(request, now)).collect();
        // RFC 6265 §5.4: longer paths first.
        fit.sort_by_key(|c| std::cmp::Reverse(c.path.len()));
        let own = own.unwrap_or_default().split(';').map(str::trim).filter(|p| !p.is_empty());
        let mut pairs: Vec<String> = own
            .filter(|pair| {
                let name = pair.split('=').next().unwrap_or(pair);
                !fit.iter().any(|c| c.name == name)
            })
            .map(str::to_owned)
            .collect();
        pairs.extend(fit.iter().map(|c| format!("{}={}", c.name, c.value)));
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Cookie>> {
        self.cookies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Cookie {
    fn fits(&self, request: &Request, now: SystemTime) -> bool {
        let host = request.host.to_ascii_lowercase();
        let domain =
            if self.host_only { host == self.domain } else { domain_matches(&host, &self.domain) };
        domain
            && path_matches(path_of(request), &self.path)
            && (!self.secure || is_trustworthy(request))
            && self.expires.is_none_or(|e| e > now)
    }
}

fn parse(request: &Request, text: &str, now: SystemTime) -> Option<Cookie> {
    let mut parts = text.split(';').map(str::trim);
    let (name, value) = parts.next()?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let odd = |s: &str| s.bytes().any(|b| b < 0x20 || b == 0x7f);
    if name.is_empty() || odd(text) || name.len() + value.len() > COOKIE_LIMIT {
        return None;
    }
    let host = request.host.to_ascii_lowercase();
    let mut cookie = Cookie {
        name: name.into(),
        value: value.into(),
        domain: host.clone(),
        host_only: true,
        path: default_path(request),
        secure: false,
        expires: None,
    };
    let mut max_age = None;
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "secure" => cookie.secure = true,
            "path" if value.starts_with('/') => cookie.path = value.into(),
            "expires" => cookie.expires = date(value).or(cookie.expires),
            "max-age" => max_age = value.parse::<i64>().ok().or(max_age),
            "domain" if !value.is_empty() => {
                let domain = value.trim_start_matches('.').to_ascii_lowercase();
                if domain != host {
                    if !domain.contains('.') || !domain_matches(&host, &domain) {
                        return None;
                    }
                    cookie.host_only = false;
                } else {
                    cookie.host_only = !domain.contains('.') || is_address(&host);
                }
                cookie.domain = domain;
            }
            _ => {}
        }
    }
    if let Some(seconds) = max_age {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        // A date beyond what the clock can hold is never.
        cookie.expires = now.checked_add(Duration::from_secs(seconds));
    }
    if cookie.secure && !is_trustworthy(request) {
        return None;
    }
    Some(cookie)
}

/// HTTP dates, and the old cookie format with dashes.
fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text)
        .or_else(|_| httpdate::parse_http_date(&text.replace('-', " ")))
        .ok()
}

/// Secure cookies go over TLS, and, as in browsers, to this machine itself.
fn is_trustworthy(request: &Request) -> bool {
    request.scheme == Scheme::Https || crate::plan::is_loopback(&request.host)
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

/// RFC 6265 §5.1.3.
fn domain_matches(host: &str, domain: &str) -> bool {
    host == domain
        || (!is_address(host) && host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}

/// RFC 6265 §5.1.4.
fn path_matches(path: &str, cookie: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

fn path_of(request: &Request) -> &str {
    request.target.split('?').next().unwrap_or("/")
}

fn default_path(request: &Request) -> String {
    match path_of(request).rfind('/') {
        None | Some(0) => "/".into(),
        Some(i) => path_of(request)[..i].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::render;
    use evidence::{Body, RequestTemplate};

    fn get(url: &str) -> Request {
        let template = RequestTemplate {
            method: "GET".into(),
            url: url.into(),
            headers: Vec::new(),
            body: Body::Empty,
            insecure: false,
            compressed: false,
            follow_redirects: false,
        };
        render(&template, 0, &[]).unwrap()
    }

    const NOW: u64 = 1_700_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// What is sent to `to` after these were set by `from`.
    fn check(from: &str, set: &[&str], to: &str, expected: Option<&str>) {
        let jar = CookieJar::default();
        for text in set {
            jar.store(&get(from), text, at(NOW));
        }
        let header = jar.header(&get(to), None, at(NOW + 10));
        assert_eq!(header.as_deref(), expected, "{set:?} {from} -> {to}");
    }

    #[test]
    fn domains() {
        let (a, sub) = ("http://a.test/", "http://x.a.test/");
        check(a, &["k=v"], a, Some("k=v"));
        check(a, &["k=v"], sub, None);
        check(a, &["k=v; Domain=a.test"], sub, Some("k=v"));
        check(sub, &["k=v; Domain=.A.test"], a, Some("k=v"));
        check(a, &["k=v; Domain=b.test"], "http://b.test/", None);
        check(a, &["k=v; Domain=test"], a, None);
        check("http://ba.test/", &["k=v; Domain=a.test"], a, None);
        check(
            "http://127.0.0.1/",
            &["k=v; Domain=127.0.0.1"],
            "http://127.0.0.1:8080/",
            Some("k=v"),
        );
        check("http://127.0.0.1/", &["k=v; Domain=0.0.1"], "http://127.0.0.1/", None);
    }

    #[test]
    fn paths() {
        let a = "http://a.test/x/y";
        check(a, &["k=v"], "http://a.test/x/z", Some("k=v"));
        check(a, &["k=v"], "http://a.test/xy", None);
        check(a, &["k=v; Path=/"], "http://a.test/q", Some("k=v"));
        check(a, &["k=v; Path=/x"], "http://a.test/x?q=/", Some("k=v"));
        check(a, &["k=1; Path=/", "k=2; Path=/x"], "http://a.test/x", Some("k=2; k=1"));
    }

    #[test]
    fn lifetimes() {
        let a = "http://a.test/";
        check(a, &["k=v; Max-Age=5"], a, None);
        check(a, &["k=v; Max-Age=50; Expires=Thu, 01 Jan 1970 00:00:00 GMT"], a, Some("k=v"));
        check(a, &["k=v; Expires=Thu, 01-Jan-1970 00:00:00 GMT"], a, None);
        check(a, &["k=v; Expires=Fri, 01 Jan 2100 00:00:00 GMT"], a, Some("k=v"));
        check(a, &["k=v; Expires=whenever"], a, Some("k=v"));
        check(a, &["k=v", "k=; Max-Age=0"], a, None);
        check(a, &["k=v; Max-Age=9223372036854775807"], a, Some("k=v"));
        check(a, &["k=1", "k=2"], a, Some("k=2"));
    }

    #[test]
    fn secure_and_odd_ones() {
        let (plain, tls) = ("http://a.test/", "https://a.test/");
        check(tls, &["k=v; Secure"], tls, Some("k=v"));
        check(tls, &["k=v; Secure"], plain, None);
        check(plain, &["k=v; Secure"], tls, None);
        check("http://localhost/", &["k=v; Secure"], "http://localhost/", Some("k=v"));
        check(plain, &["novalue", "=v", "a\u{1}=b", "k=\"q\""], plain, Some("k=\"q\""));
        check(plain, &[&format!("k={}", "v".repeat(COOKIE_LIMIT))], plain, None);
    }

    #[test]
    fn jar_wins_over_the_request_and_stays_small() {
        let jar = CookieJar::default();
        let request = get("http://a.test/");
        jar.store(&request, "sid=new", at(NOW));
        let merged = jar.header(&request, Some("lang=en; sid=old"), at(NOW));
        assert_eq!(merged.as_deref(), Some("lang=en; sid=new"));
        for i in 0..1000 {
            jar.store(&request, &format!("c{i}=1"), at(NOW));
        }
        assert_eq!(jar.len(), COOKIES_MAX);
        assert!(!format!("{jar:?}").contains("new"));
    }
}
