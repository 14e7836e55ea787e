//! The variables of a URL template: `{1..20}` ranges and `{a,b,c}` lists. Braces that are neither
//! are literal and percent-encoded, so that whoever expands templates meets only real ones.

/// Whether the inside of a pair of braces is a range of whole numbers, `1..20`.
pub(crate) fn is_range(inner: &str) -> bool {
    let number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        (1..=18).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    };
    inner.split_once("..").is_some_and(|(from, to)| number(from) && number(to))
}

/// Whether it is a list of at least two plain words, `a,b,c`.
pub(crate) fn is_list(inner: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~%+-".contains(&b) || !b.is_ascii();
    inner.contains(',') && inner.split(',').all(|item| !item.is_empty() && item.bytes().all(plain))
}

/// A placeholder such as `{id}`, for which nobody said what to put in.
fn is_placeholder(inner: &str) -> bool {
    inner.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && inner.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Which braces are variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Braces {
    /// None: the URL was recorded.
    Literal,
    /// Ranges only (curl with `--globoff`, whose own ranges look different).
    Ranges,
    /// Ranges and lists.
    All,
}

/// `text` with its literal braces percent-encoded. A backslash before a brace or bracket (curl's
/// way to write it literally) goes away.
///
/// # Errors
/// The first placeholder (`{id}`), with its offset and name, when lists and ranges are variables.
pub(crate) fn encode_braces(text: &str, braces: Braces) -> Result<String, (usize, String)> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let escaped = rest.strip_prefix('\\').and_then(|r| r.chars().next());
        match (c, escaped) {
            ('\\', Some(e @ ('{' | '}' | '[' | ']'))) => {
                push_literal(&mut out, e);
                at += 2;
            }
            ('{', _) => {
                let inner = rest[1..].split(['{', '}']).next().unwrap_or_default();
                let closed = rest[1 + inner.len()..].starts_with('}');
                let range = braces != Braces::Literal && is_range(inner);
                if closed && (range || braces == Braces::All && is_list(inner)) {
                    out.push_str(&rest[..inner.len() + 2]);
                    at += inner.len() + 2;
                    continue;
                }
                if closed && braces == Braces::All && is_placeholder(inner) {
                    return Err((at, inner.to_string()));
                }
                push_literal(&mut out, c);
                at += 1;
            }
            _ => {
                push_literal(&mut out, c);
                at += c.len_utf8();
            }
        }
    }
    Ok(out)
}

fn push_literal(out: &mut String, c: char) {
    match c {
        '{' => out.push_str("%7B"),
        '}' => out.push_str("%7D"),
        _ => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_variables_keep_their_braces() {
        let check = |text: &str, braces, expected: Result<&str, usize>| {
            let found = encode_braces(text, braces);
            let found = found.as_ref().map(String::as_str).map_err(|e| e.0);
            assert_eq!(found, expected, "{text}");
        };
        check("/a?p={1..20}&q={x,y}", Braces::All, Ok("/a?p={1..20}&q={x,y}"));
        check("/a?p={1..20}&q={x,y}", Braces::Ranges, Ok("/a?p={1..20}&q=%7Bx,y%7D"));
        check("/a?p={1..20}", Braces::Literal, Ok("/a?p=%7B1..20%7D"));
        check("/a/{id}", Braces::All, Err(3));
        check("/a/{id}", Braces::Ranges, Ok("/a/%7Bid%7D"));
        check("/a?f={\"a\":1,\"b\":2}", Braces::All, Ok("/a?f=%7B\"a\":1,\"b\":2%7D"));
        check("/a?f=\\{1..2\\}\\[x\\]", Braces::All, Ok("/a?f=%7B1..2%7D[x]"));
        check("/a?f={{1..2}", Braces::All, Ok("/a?f=%7B{1..2}"));
        check("/a?f={", Braces::All, Ok("/a?f=%7B"));
    }
}
