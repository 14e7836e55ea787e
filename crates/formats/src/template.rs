//! The variables of a URL template: `{1..20}` ranges and `{a,b,c}` lists. Braces of JSON
//! are literal and percent-encoded, so that whoever expands templates meets only real ones; all
//! others are mistakes, which are told instead of sent.

/// Whether the inside of a pair of braces is a range of whole numbers, `1..20`.
pub(crate) fn is_range(inner: &str) -> bool {
    inner.split_once("..").is_some_and(|(from, to)| is_number(from) && is_number(to))
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (1..=DIGITS).contains(&digits.len()) && is_digits(digits)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Most digits of a number in a range.
const DIGITS: usize = 18;

/// Whether it is a list of at least two plain words, `a,b,c`.
pub(crate) fn is_list(inner: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~%+-".contains(&b) || !b.is_ascii();
    inner.contains(',') && inner.split(',').all(|item| !item.is_empty() && item.bytes().all(plain))
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

/// A pair of braces, or one of them, that is no variable and can hardly be meant literally.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Byte offset of the brace.
    pub at: usize,
    /// The braces with what is between them, cut when long.
    pub text: String,
    /// Why it is no variable.
    pub why: &'static str,
}

/// Longest piece of a text shown in an error, characters.
const SHOWN: usize = 40;

/// `text` with its literal braces percent-encoded. A backslash before a brace or bracket (curl's
/// way to write it literally) goes away; braces around quoted names are JSON and literal.
///
/// # Errors
/// The first [`Fault`]: any brace when lists and ranges are variables, else what looks like a
/// range.
pub(crate) fn encode_braces(text: &str, braces: Braces) -> Result<String, Fault> {
    let mut out = String::with_capacity(text.len());
    let (mut at, mut open) = (0, Vec::new());
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let escaped = rest.strip_prefix('\\').and_then(|r| r.chars().next());
        match (c, escaped) {
            ('\\', Some(e @ ('{' | '}' | '[' | ']'))) => {
                push_literal(&mut out, e);
                at += 2;
                continue;
            }
            ('{', _) if braces != Braces::Literal => {
                let length = group(rest, braces, !open.is_empty())
                    .map_err(|(text, why)| Fault { at, text, why })?;
                if length > 0 {
                    out.push_str(&rest[..length]);
                    at += length;
                    continue;
                }
                open.push(at);
            }
            ('}', _) if open.pop().is_none() && braces == Braces::All => {
                return Err(Fault { at, text: "}".into(), why: "closes nothing" });
            }
            _ => {}
        }
        push_literal(&mut out, c);
        at += c.len_utf8();
    }
    match open.first().filter(|_| braces == Braces::All) {
        Some(&at) => Err(Fault { at, text: cut(&text[at..]), why: "is not closed" }),
        None => Ok(out),
    }
}

/// Length of the variable that `rest` begins with; zero for a literal brace. In JSON (`inside`)
/// braces need no quotes: its objects may be empty.
fn group(rest: &str, braces: Braces, inside: bool) -> Result<usize, (String, &'static str)> {
    let inner = rest[1..].split(['{', '}']).next().unwrap_or_default();
    let closed = rest[1 + inner.len()..].starts_with('}');
    let whole = inner.len() + 2;
    if closed && (is_range(inner) || braces == Braces::All && is_list(inner)) {
        return Ok(whole);
    }
    let name = inner.trim_start_matches("%20").trim_start();
    let json = name.starts_with('"') || name.starts_with("%22") || inside && inner.is_empty();
    if json || braces != Braces::All && !inner.contains("..") {
        return Ok(0);
    }
    match closed {
        true => Err((cut(&rest[..whole]), fault(inner))),
        false => Err((cut(rest), "is not closed")),
    }
}

/// Why what is between braces is no variable.
fn fault(inner: &str) -> &'static str {
    match inner.split_once("..") {
        Some(("", _) | (_, "")) => "is a range without an end on both sides",
        Some((from, to)) if is_digits(from) && is_digits(to) => {
            "is a range beyond what can be counted, 18 digits"
        }
        Some(_) => "is no range of two whole numbers",
        None if inner.is_empty() => "holds nothing",
        None if inner.contains(',') => "is a list with an item that is empty or no plain word",
        None => "is a placeholder that nobody filled",
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
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
        let check = |text: &str, braces, expected: &str| {
            let found = match encode_braces(text, braces) {
                Ok(found) => found,
                Err(Fault { at, text, why }) => format!("{at}: {text} {why}"),
            };
            assert_eq!(found, expected, "{text}");
        };
        let (all, ranges) = (Braces::All, Braces::Ranges);
        check("/a?p={1..20}&q={x,y}", all, "/a?p={1..20}&q={x,y}");
        check("/a?p={5..1}", all, "/a?p={5..1}");
        check("/a?p={1..20}&q={x,y}", ranges, "/a?p={1..20}&q=%7Bx,y%7D");
        check("/a?p={1..20}", Braces::Literal, "/a?p=%7B1..20%7D");
        check("/a?p={1..", Braces::Literal, "/a?p=%7B1..");
        check("/a/{id}", ranges, "/a/%7Bid%7D");
        check("/a/{id", ranges, "/a/%7Bid");
        check("/a?f={\"a\":1,\"b\":2}", all, "/a?f=%7B\"a\":1,\"b\":2%7D");
        check("/a?f={\"a\":{\"b\":{}}}", all, "/a?f=%7B\"a\":%7B\"b\":%7B%7D%7D%7D");
        check("/a?f={ %22a%22:{1..3}}", all, "/a?f=%7B %22a%22:{1..3}%7D");
        check("/a?f=\\{1..2\\}\\[x\\]", all, "/a?f=%7B1..2%7D[x]");
        check("/a?f={\"a\":", all, "5: {\"a\": is not closed");
        check("/a/{id}", all, "3: {id} is a placeholder that nobody filled");
        check("/a?p={1..}", all, "5: {1..} is a range without an end on both sides");
        check("/a?p={..5}", ranges, "5: {..5} is a range without an end on both sides");
        let digits = "9".repeat(20);
        let huge = format!("5: {{1..{digits}}} is a range beyond what can be counted, 18 digits");
        check(&format!("/a?p={{1..{digits}}}"), all, &huge);
        check("/a?p={a..b}", all, "5: {a..b} is no range of two whole numbers");
        check("/a?p={1...5}", all, "5: {1...5} is no range of two whole numbers");
        check("/a?p={1..5", all, "5: {1..5 is not closed");
        check("/a?p={1..5", ranges, "5: {1..5 is not closed");
        check("/a?f={{1..2}", all, "5: {{1..2} is not closed");
        check("/a?p={x,}", all, "5: {x,} is a list with an item that is empty or no plain word");
        check("/a?p={}", all, "5: {} holds nothing");
        check("/a?p=1}", all, "6: } closes nothing");
        check("/a?p=1}", ranges, "/a?p=1%7D");
        let long = format!("1: {{{}… is not closed", "x".repeat(39));
        check(&format!("/{{{}", "x".repeat(99)), all, &long);
    }
}
