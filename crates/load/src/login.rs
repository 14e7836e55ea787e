//! Sessions: the login that is sent once before everything else, and telling when one is needed.
//!
//! A login page that comes back fast is not a fast success: it is `Failure::LoginRequired`.

use crate::client::{Client, Response};
use crate::cookies::CookieJar;
use crate::decode;
use crate::form;
use crate::h1::{HTML_START, Head};
use crate::request::{RenderError, Request, redirected, render};
use evidence::{Failure, RequestTemplate};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest answer to it, bytes.
const BODY_LIMIT: u64 = 4 << 20;
/// Words in a path that make it a login page's.
const LOGIN_WORDS: [&str; 7] = ["login", "logon", "signin", "sign-in", "sign_in", "auth", "sso"];
/// A page with a password field and more links than this is a page with a login box in a corner,
/// not a login page: those have a handful (forgotten password, register, imprint, languages).
const LINKS_MAX: usize = 20;

/// What a login gives: cookies and, for APIs, a token. Shared by all clients of a run.
#[derive(Clone, Default)]
pub struct Session {
    jar: Arc<CookieJar>,
    authorization: Option<String>,
}

/// Tokens are secret.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("jar", &self.jar)
            .field("authorization", &self.authorization.is_some())
            .finish()
    }
}

impl Session {
    /// The cookies.
    pub fn jar(&self) -> &Arc<CookieJar> {
        &self.jar
    }

    /// Value of the `Authorization` header, when a token was given.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

/// Why a login gave no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The request cannot be made.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// It was not answered.
    #[error("the login request to {place} failed: {detail}")]
    Failed {
        /// Host and port.
        place: String,
        /// Why.
        detail: String,
    },
    /// The answer says no.
    #[error(
        "the login request to {place} was answered with status {status}\n\
         hint: check user name, password and the body's format; the same request works in curl?"
    )]
    Refused {
        /// Host and port.
        place: String,
        /// HTTP status code.
        status: u16,
    },
    /// The answer is the login page again.
    #[error(
        "the login request to {place} was answered with the login page again\n\
         hint: check user name and password, and that all fields of the form are sent"
    )]
    AsksAgain {
        /// Host and port.
        place: String,
    },
    /// The answer holds neither cookie nor token.
    #[error(
        "the login request to {place} gave neither a cookie nor a token\n\
         hint: expected Set-Cookie, or JSON with token, access_token or data.access_token"
    )]
    NothingGiven {
        /// Host and port.
        place: String,
    },
}

/// Sends the login request and keeps what its answer gives. When a form is refused, its page is
/// fetched once for the hidden tokens it wants back. `seed`: see [`Client::new`]; `within`: the
/// time for all of it.
///
/// # Errors
/// See [`LoginError`].
pub fn login(
    template: &RequestTemplate,
    seed: u64,
    within: Duration,
) -> Result<Session, LoginError> {
    let end = Instant::now() + within;
    let request = render(template, 0, &[])?;
    let place = request.host_port();
    let mut session = Session::default();
    let mut client = Client::new(seed).with_session(session.clone());
    let mut response = ask(&mut client, &request, end)?;
    if is_refused(&request, &response)
        && let Some(page) = form::page_of(&request)
        && let Some(filled) = form::filled(&request, &ask(&mut client, &page, end)?)
    {
        response = ask(&mut client, &filled, end)?;
    }
    if response.status >= 400 {
        return Err(LoginError::Refused { place, status: response.status });
    }
    if is_refused(&request, &response) {
        return Err(LoginError::AsksAgain { place });
    }
    session.authorization = token(&response).map(|token| format!("Bearer {token}"));
    if session.authorization.is_none() && session.jar.is_empty() {
        return Err(LoginError::NothingGiven { place });
    }
    Ok(session)
}

fn ask(client: &mut Client, request: &Request, end: Instant) -> Result<Response, LoginError> {
    let left = end.saturating_duration_since(Instant::now());
    let (_, response) = client.send(request, left, BODY_LIMIT, true);
    response.ok_or_else(|| LoginError::Failed {
        place: request.host_port(),
        detail: client.detail().unwrap_or("no answer").to_owned(),
    })
}

/// Whether a login was not accepted: an error, the login page again, or a redirect back to it.
fn is_refused(request: &Request, response: &Response) -> bool {
    let own = path_of(&request.target);
    let back = response.header("location").filter(|_| is_login_path(own)).is_some_and(|to| {
        redirected(request, response.status, to).is_some_and(|next| path_of(&next.target) == own)
    });
    let is_html = response.header("content-type").is_some_and(|t| t.contains("html"));
    let again = is_html && response.body.len() <= 4 * HTML_START;
    response.status >= 400 || back || again && is_login_page(&response.body, None)
}

/// The token in a JSON answer, if it can be carried in a header.
fn token(response: &Response) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
    let names = ["access_token", "token"];
    let places = [Some(&json), json.get("data")];
    let found = places.into_iter().flatten().find_map(|place| {
        names.iter().find_map(|name| place.get(name).and_then(serde_json::Value::as_str))
    })?;
    let visible = found.bytes().all(|b| (0x21..0x7f).contains(&b));
    (visible && !found.is_empty()).then(|| found.to_owned())
}

/// Whether the answer asks for a login instead of answering.
pub(crate) fn is_login_required(
    request: &Request,
    head: &Head,
    body_bytes: u64,
    body: &[u8],
) -> bool {
    match head.status {
        401 | 403 => true,
        // Whoever asks for the login page gets what they asked for.
        _ if is_login_path(path_of(&request.target)) => false,
        301 | 302 | 303 | 307 | 308 => head.header("location").is_some_and(|location| {
            let after_scheme = location.split_once("://").map_or(location, |(_, rest)| rest);
            is_login_path(path_of(after_scheme))
        }),
        200 if head.is_html() && body_bytes <= HTML_START as u64 => {
            is_login_page(body, head.header("content-encoding"))
        }
        _ => false,
    }
}

/// What a failure of an answered request means, in words.
pub(crate) fn explain(failure: &Failure, location: Option<&str>) -> String {
    match failure {
        Failure::LoginRequired => {
            let to = location.map(path_of).map_or(String::new(), |to| format!(" (went to {to})"));
            format!("the service asks for a login{to}\nhint: give --login, --cookie or -H")
        }
        Failure::Status { code } => format!("the service answered with status {code}"),
        other => format!("{other:?}"),
    }
}

fn path_of(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or(target)
}

/// Whether a word of the path is a login word: `/login`, `/users/sign_in`, `/auth/realms/x`, but
/// not `/authors` or `/blogin`.
fn is_login_path(path: &str) -> bool {
    path.to_ascii_lowercase().split('/').any(|segment| {
        let stem = segment.split('.').next().unwrap_or(segment);
        LOGIN_WORDS.iter().any(|word| {
            stem == *word
                || stem.strip_prefix(word).is_some_and(|rest| rest.starts_with(['-', '_']))
                || stem.strip_suffix(word).is_some_and(|rest| rest.ends_with(['-', '_', ':']))
        }) || stem.ends_with("login")
            || matches!(stem, "authorize" | "oauth" | "oauth2" | "openid-connect")
    })
}

fn is_login_page(body: &[u8], encoding: Option<&str>) -> bool {
    let decoded = encoding.map(|e| decode::decode_start(e, body, 4 * HTML_START as u64));
    let page = decoded.as_deref().unwrap_or(body).to_ascii_lowercase();
    let fields = ["type=\"password\"", "type='password'", "type=password"];
    let passwords: usize = fields.iter().map(|field| count(&page, field.as_bytes())).sum();
    // Two fields are a registration or a change of password.
    passwords == 1 && count(&page, b"<a ") <= LINKS_MAX
}

fn count(text: &[u8], word: &[u8]) -> usize {
    let (mut at, mut n) = (0, 0);
    while let Some(i) = text[at..].iter().position(|b| *b == word[0]).map(|i| at + i) {
        let hit = text[i..].starts_with(word);
        n += usize::from(hit);
        at = i + if hit { word.len() } else { 1 };
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_path(path: &str, expected: bool) {
        assert_eq!(is_login_path(path), expected, "{path}");
    }

    #[test]
    fn login_paths() {
        for path in ["/login", "/users/sign_in", "/auth/realms/x", "/Account/Login.aspx"] {
            check_path(path, true);
        }
        for path in ["/wp-login.php", "/login/", "/signin-oidc", "/index.php/Special:UserLogin"] {
            check_path(path, true);
        }
        for path in ["/authors", "/orders", "/", "/blog/in", "/authenticity"] {
            check_path(path, false);
        }
    }

    fn check_page(page: &str, expected: bool) {
        assert_eq!(is_login_page(page.as_bytes(), None), expected, "{page}");
    }

    #[test]
    fn login_pages() {
        check_page("<form><INPUT TYPE=\"password\"></form>", true);
        check_page("<form><input type=password name=p></form>", true);
        check_page("<p>nothing of the kind</p>", false);
        check_page("<input type='password'><input type='password'>", false);
        let box_in_a_corner = format!("{}<input type=password>", "<a href=/x>x</a>".repeat(30));
        check_page(&box_in_a_corner, false);
    }

    fn check_token(body: &str, expected: Option<&str>) {
        let response = Response {
            status: 200,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            undecoded: None,
        };
        assert_eq!(token(&response).as_deref(), expected, "{body}");
    }

    #[test]
    fn tokens() {
        check_token(r#"{"token":"abc"}"#, Some("abc"));
        check_token(r#"{"access_token":"abc","token":"no"}"#, Some("abc"));
        check_token(r#"{"data":{"access_token":"abc"}}"#, Some("abc"));
        check_token(r#"{"token":"a\r\nx: y"}"#, None);
        check_token(r#"{"token":5}"#, None);
        check_token("hello", None);
    }
}
