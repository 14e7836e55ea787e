//! Secrets out of command lines and log lines, before they are stored or shown.

/// What a secret is replaced with.
pub const MASK: &str = "***";

const WORDS: [&str; 12] = [
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "credential",
    "authorization",
    "private_key",
    "access_key",
    "dsn",
];

fn names_a_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    WORDS.iter().any(|w| lower.contains(w)) || lower.ends_with("pwd") || lower.ends_with("_key")
}

/// A command line with secrets masked: `--password x`, `TOKEN=x`, `postgres://user:x@host`.
pub fn command(arguments: &[String]) -> Vec<String> {
    let mut next_is_secret = false;
    arguments
        .iter()
        .map(|argument| {
            if std::mem::take(&mut next_is_secret) && !argument.starts_with('-') {
                return MASK.to_owned();
            }
            let is_flag = argument.starts_with('-') && !argument.contains('=');
            next_is_secret = is_flag && names_a_secret(argument);
            line(argument)
        })
        .collect()
}

/// A line of text with secrets masked: the user part of URLs, `name=value`, `"name": "value"` and
/// `Bearer x`.
pub fn line(text: &str) -> String {
    assignments(&bearer(&urls(text)))
}

/// `scheme://user:password@host` loses the password; other users of `@` stay.
fn urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<'))
            .unwrap_or(tail.len());
        let authority = &tail[..end];
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                out.push_str(user.split(':').next().unwrap_or(user));
                if user.contains(':') {
                    out.push(':');
                    out.push_str(MASK);
                }
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = &tail[end..];
    }
    out.push_str(rest);
    out
}

fn bearer(text: &str) -> String {
    let mut out = text.to_owned();
    for scheme in ["Bearer ", "bearer ", "Basic "] {
        let mut from = 0;
        while let Some(at) = out[from..].find(scheme).map(|i| from + i + scheme.len()) {
            let end = at + out[at..].find([' ', '"', '\'', ',']).unwrap_or(out.len() - at);
            // Ordinary words may follow "Basic"; credentials are long.
            if end - at >= 8 {
                out.replace_range(at..end, MASK);
            }
            from = at;
        }
    }
    out
}

/// Masks the value after a secret's name and `=` or `:`.
fn assignments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (head, tail) = rest.split_at(at + 1);
        out.push_str(head);
        rest = tail;
        let name = head[..at].trim_end_matches(['"', '\'', ' ']);
        let start = name.rfind(|c: char| !(c.is_alphanumeric() || "_-.".contains(c)));
        let name =
            &name[start.map_or(0, |i| i + name[i..].chars().next().map_or(1, char::len_utf8))..];
        if !names_a_secret(name) || tail.starts_with("//") {
            continue;
        }
        let lead = tail.len() - tail.trim_start_matches([' ', '"', '\'']).len();
        let value = &tail[lead..];
        let end = value
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | '}'))
            .unwrap_or(value.len());
        if end > 0 {
            out.push_str(&tail[..lead]);
            out.push_str(MASK);
            rest = &value[end..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(given: &str, want: &str) {
        assert_eq!(line(given), want);
    }

    #[test]
    fn secrets_are_masked_and_the_rest_stays() {
        check("postgres://app:s3cret@db:5432/shop", "postgres://app:***@db:5432/shop");
        check("see http://example.com/a@b", "see http://example.com/a@b");
        check("redis://:pw@127.0.0.1", "redis://:***@127.0.0.1");
        check("PGPASSWORD=abc DEBUG=1", "PGPASSWORD=*** DEBUG=1");
        check("--api-key=abc", "--api-key=***");
        check(r#"{"token": "abc", "page": 3}"#, r#"{"token": "***", "page": 3}"#);
        check("Authorization: Bearer abcdef.ghijkl", "Authorization: *** ***");
        check("listening on port: 3000", "listening on port: 3000");
        check("token: ", "token: ");
    }

    #[test]
    fn a_flag_hides_the_argument_after_it() {
        let given: Vec<String> =
            ["app", "--password", "x", "--token", "-v", "--port", "80"].map(String::from).to_vec();
        assert_eq!(command(&given).join(" "), "app --password *** --token -v --port 80");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}") {
            let _ = line(&text);
            let _ = line(&format!("token={text}://é@ Bearer {text}"));
        }
    }
}
