//! Cache keys and URL paths to templates: what differs from one request to the next becomes `?`.

use super::is_uuid;

/// Words with digits that are names, not values.
const NAMES_WITH_DIGITS: [&str; 14] = [
    "oauth2", "s3", "h2", "ipv4", "ipv6", "base64", "md5", "sha1", "sha256", "sha512", "web3",
    "http2", "utf8", "ec2",
];

/// Longest word that can be a name; anything longer is taken for a random value.
const NAME_LIMIT: usize = 32;

/// Longest template returned, bytes.
const TEMPLATE_LIMIT: usize = 512;

pub(super) fn cache_key(key: &str) -> String {
    let mut out = String::new();
    let mut rest = key;
    while !rest.is_empty() && out.len() < TEMPLATE_LIMIT {
        if rest.as_bytes().get(..36).is_some_and(is_uuid) {
            push_place(&mut out);
            rest = &rest[36..];
            continue;
        }
        let end = rest.find(is_separator).unwrap_or(rest.len());
        if end > 0 {
            push_word(&mut out, &rest[..end]);
        }
        if let Some(separator) = rest[end..].chars().next() {
            out.push(if separator.is_control() { ' ' } else { separator });
            rest = &rest[end + separator.len_utf8()..];
        } else {
            rest = "";
        }
    }
    out
}

pub(super) fn url_path(path: &str) -> String {
    let path = path.split('#').next().unwrap_or("");
    let (path, query) = split_query(path);
    let mut out = String::new();
    for (i, segment) in path.split('/').enumerate() {
        if out.len() >= TEMPLATE_LIMIT {
            return out;
        }
        if i > 0 {
            out.push('/');
        }
        out.push_str(if is_name(segment) || segment == "*" { segment } else { "?" });
    }
    let Some(query) = query else { return out };
    out.push('?');
    for (i, pair) in query.split('&').enumerate() {
        if out.len() >= TEMPLATE_LIMIT {
            return out;
        }
        if i > 0 {
            out.push('&');
        }
        match pair.split_once('=') {
            Some((name, _)) => {
                out.push_str(if is_name(name) { name } else { "?" });
                out.push_str("=?");
            }
            None => out.push_str(if is_name(pair) { pair } else { "?" }),
        }
    }
    out
}

/// The path and, after the first `?` that is not itself a whole segment (a template's), the query.
fn split_query(path: &str) -> (&str, Option<&str>) {
    let bytes = path.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        let opens = i == 0 || bytes[i - 1] == b'/';
        let closes = bytes.get(i + 1).is_none_or(|n| matches!(n, b'/' | b'?'));
        if *b == b'?' && !(opens && closes) {
            return (&path[..i], Some(&path[i + 1..]));
        }
    }
    (path, None)
}

fn is_separator(c: char) -> bool {
    matches!(c, ':' | '/' | '.' | '-' | '|' | '#' | ',' | '=' | '&' | ';' | '{' | '}' | '[' | ']')
        || matches!(c, '(' | ')' | ' ' | '_' | '"' | '\'' | '?' | '*')
        || c.is_control()
}

fn push_place(out: &mut String) {
    if !out.ends_with('?') {
        out.push('?');
    }
}

/// A word of a key: whole when it is a name, else without its digits (`user42` is `user?`) or not
/// at all.
fn push_word(out: &mut String, word: &str) {
    if is_name(word) {
        out.push_str(word);
        return;
    }
    let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
    if !letters.is_empty() && letters.len() < word.len() && is_name(letters) {
        out.push_str(letters);
    }
    push_place(out);
}

/// Whether a word names something, as opposed to being a value: short, plain, and without digits
/// other than a version's.
fn is_name(word: &str) -> bool {
    if word.is_empty() {
        return true;
    }
    if word.len() > NAME_LIMIT || !word.bytes().all(is_name_byte) {
        return false;
    }
    if !word.bytes().any(|b| b.is_ascii_digit()) {
        let hexadecimal = word.len() >= 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
        return !hexadecimal && !is_scrambled(word);
    }
    is_version(word) || NAMES_WITH_DIGITS.iter().any(|n| word.eq_ignore_ascii_case(n))
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'~' | b'[' | b']' | b'$')
}

fn is_version(word: &str) -> bool {
    word.strip_prefix(['v', 'V'])
        .is_some_and(|d| (1..=2).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit()))
}

/// Many changes between lower and upper case: base64 and other random text, not camelCase.
fn is_scrambled(word: &str) -> bool {
    let bytes = word.as_bytes();
    let rises =
        bytes.windows(2).filter(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase()).count();
    bytes.len() >= 16 && rises * 4 > bytes.len()
}
