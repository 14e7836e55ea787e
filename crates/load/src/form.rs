//! Hidden fields of a login form: the tokens against cross-site requests that Django, Rails,
//! Laravel and ASP.NET put there and want back. Reads HTML as far as that needs, no further.

use crate::client::Response;
use crate::request::Request;

/// Bytes of a page that are read.
const PAGE_LIMIT: usize = 256 << 10;
/// Most tags of a page that are read.
const TAGS_MAX: usize = 500;
/// Most hidden fields taken from a page, and most attributes of a tag.
const FIELDS_MAX: usize = 50;
/// What names of such fields contain: `csrfmiddlewaretoken`, `authenticity_token`, `_token`,
/// `__RequestVerificationToken`.
const NAME_WORDS: [&str; 3] = ["csrf", "token", "nonce"];

/// The GET that fetches the form which `login` sends, when it sends one.
pub(crate) fn page_of(login: &Request) -> Option<Request> {
    let content_type = login.header("content-type").unwrap_or_default();
    if login.method != "POST" || !content_type.starts_with("application/x-www-form-urlencoded") {
        return None;
    }
    let mut page = login.clone();
    page.method = "GET".into();
    page.body.clear();
    page.headers.retain(|(name, _)| !name.starts_with("content-"));
    Some(page)
}

/// `login` with the tokens of the form it belongs to; `None` when the page has none.
pub(crate) fn filled(login: &Request, page: &Response) -> Option<Request> {
    let html = String::from_utf8_lossy(&page.body[..page.body.len().min(PAGE_LIMIT)]);
    let tokens: Vec<(String, String)> = hidden_fields(&html)
        .into_iter()
        .filter(|(name, _)| {
            let lower = name.to_ascii_lowercase();
            NAME_WORDS.iter().any(|word| lower.contains(word))
        })
        .collect();
    if tokens.is_empty() {
        return None;
    }
    let given = url::form_urlencoded::parse(&login.body);
    let given = given.filter(|(name, _)| tokens.iter().all(|(n, _)| n != name));
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(given);
    body.extend_pairs(&tokens);
    let mut filled = login.clone();
    filled.body = body.finish().into_bytes();
    let length = filled.body.len().to_string();
    filled.headers.retain(|(name, _)| name != "content-length");
    filled.headers.push(("content-length".into(), length));
    // Django wants to see where a form over TLS came from.
    if filled.header("referer").is_none() {
        filled.headers.push(("referer".into(), login.url()));
    }
    Some(filled)
}

/// Names and values of the hidden fields of a page.
fn hidden_fields(html: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let lower = html.to_ascii_lowercase();
    for (start, opening) in lower.match_indices("<input").take(TAGS_MAX) {
        let tag = attributes(&html[start + opening.len()..]);
        let get = |name: &str| tag.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        if get("type").is_some_and(|t| t.eq_ignore_ascii_case("hidden"))
            && let (Some(name), Some(value)) = (get("name"), get("value"))
        {
            fields.push((name, value));
        }
        if fields.len() == FIELDS_MAX {
            break;
        }
    }
    fields
}

/// Attributes of a tag whose name was just read, names in lower case.
fn attributes(tag: &str) -> Vec<(String, String)> {
    let mut attributes = Vec::new();
    let mut rest = tag;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        let end = rest
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/'))
            .unwrap_or(rest.len());
        if end == 0 || attributes.len() == FIELDS_MAX {
            return attributes;
        }
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let Some(value) = rest.strip_prefix('=') else {
            attributes.push((name, String::new()));
            continue;
        };
        let value = value.trim_start();
        let (value, after) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let inner = &value[1..];
                inner.split_once(quote).unwrap_or((inner, ""))
            }
            _ => {
                let unquoted = |c: char| c.is_ascii_whitespace() || c == '>';
                value.split_at(value.find(unquoted).unwrap_or(value.len()))
            }
        };
        attributes.push((name, unescaped(value)));
        rest = after;
    }
}

/// The character references that occur in tokens.
fn unescaped(value: &str) -> String {
    [("&#43;", "+"), ("&#x2B;", "+"), ("&#61;", "="), ("&#x3D;", "="), ("&#x2F;", "/")]
        .iter()
        .fold(value.to_owned(), |text, (from, to)| text.replace(from, to))
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(html: &str, expected: &[(&str, &str)]) {
        let found = hidden_fields(html);
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(found, expected, "{html}");
    }

    #[test]
    fn fields() {
        check(
            r#"<form><input type="hidden" name="csrfmiddlewaretoken" value="aB3"><input name=u>"#,
            &[("csrfmiddlewaretoken", "aB3")],
        );
        check(
            "<INPUT value='a&#43;b==' Name='authenticity_token' TYPE=Hidden />",
            &[("authenticity_token", "a+b==")],
        );
        check("<input hidden name=a value=b><input type=hidden name=c value=d>", &[("c", "d")]);
        check("<input type=hidden name=\"open value=", &[]);
        check("<input", &[]);
        check("<input =><input type=hidden name=a value=>", &[("a", "")]);
    }

    proptest! {
        #[test]
        fn any_page_is_survived(html in "(<input|[ a-z=\"'>/ü&;#]){0,40}") {
            hidden_fields(&html);
        }
    }
}
