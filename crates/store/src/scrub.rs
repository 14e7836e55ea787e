//! The last gate before the disk: secret values that the workload holds in memory are replaced in
//! every text written, wherever they turned up (an error message, a log line, a span).

use evidence::{HeaderValue, REDACTED, RunInfo, is_secret_parameter};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};
use std::io::{self, Write};

/// The secrets to look for, as they appear inside JSON strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scrub {
    secrets: Vec<String>,
}

/// Short or plain words are not looked for: replacing every `postgres` because it is someone's
/// password would destroy the evidence, and the parsers have taken it out of its own place.
fn is_distinctive(secret: &str) -> bool {
    let letters = secret.bytes().any(|b| b.is_ascii_alphabetic());
    let others = secret.bytes().any(|b| !b.is_ascii_alphabetic());
    secret.len() >= 8 && letters && others || secret.len() >= 16
}

impl Scrub {
    /// The secrets of a run's workload, longest first.
    pub fn new(info: &RunInfo) -> Scrub {
        let workload = &info.workload;
        let templates = workload.endpoints.iter().map(|e| &e.template).chain(&workload.login);
        let mut secrets = Vec::new();
        for template in templates {
            for (_, value) in &template.headers {
                if let HeaderValue::Secret { secret, .. } = value {
                    secrets.extend(secret.split("; ").map(str::to_string));
                    // Cookies: the values also by themselves.
                    let values = secret.split("; ").filter_map(|p| p.split_once('='));
                    secrets.extend(values.map(|(_, v)| v.to_string()));
                }
            }
            secrets.extend(query_secrets(&template.url));
        }
        secrets.extend(query_secrets(&info.target.url));
        secrets.retain(|s| is_distinctive(s));
        let escaped = |s: &String| {
            let json = serde_json::Value::from(s.as_str()).to_string();
            json[1..json.len() - 1].to_string()
        };
        let mut secrets: Vec<_> = secrets.iter().map(escaped).collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        secrets.dedup();
        Scrub { secrets }
    }

    /// Text with the secrets replaced; none when it held none.
    pub fn text(&self, text: &str) -> Option<String> {
        let mut found = None::<String>;
        for secret in &self.secrets {
            let current = found.as_deref().unwrap_or(text);
            if current.contains(secret.as_str()) {
                found = Some(current.replace(secret, REDACTED));
            }
        }
        found
    }

    /// Writes a value as JSON, every string value scrubbed. Keys are names of ours and stay.
    pub fn write_json(&self, value: &impl Serialize, to: impl Write) -> io::Result<()> {
        if self.secrets.is_empty() {
            return Ok(serde_json::to_writer(to, value)?);
        }
        let formatter = Scrubbing { scrub: self, text: String::new(), key: false };
        value.serialize(&mut Serializer::with_formatter(to, formatter))?;
        Ok(())
    }
}

fn query_secrets(url: &str) -> impl Iterator<Item = String> {
    let query = url.split_once('?').map_or("", |(_, q)| q);
    let pairs = query.split('&').filter_map(|p| p.split_once('='));
    pairs.filter(|(name, _)| is_secret_parameter(name)).map(|(_, v)| v.to_string())
}

/// Collects each string value before it is written.
struct Scrubbing<'a> {
    scrub: &'a Scrub,
    text: String,
    key: bool,
}

impl Formatter for Scrubbing<'_> {
    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.key = true;
        CompactFormatter.begin_object_key(to, first)
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.key = false;
        CompactFormatter.end_object_key(to)
    }

    fn begin_string<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.text.clear();
        CompactFormatter.begin_string(to)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, _: &mut W, s: &str) -> io::Result<()> {
        self.text.push_str(s);
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        _: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        CompactFormatter.write_char_escape(&mut bytes, escape)?;
        self.text.push_str(&String::from_utf8_lossy(&bytes));
        Ok(())
    }

    fn end_string<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        let scrubbed = if self.key { None } else { self.scrub.text(&self.text) };
        to.write_all(scrubbed.as_ref().unwrap_or(&self.text).as_bytes())?;
        CompactFormatter.end_string(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_scrubbed_and_keys_are_not() {
        let scrub = Scrub { secrets: vec!["to\\\"ken-12345".into(), "token-12345".into()] };
        let value = serde_json::json!({ "token-12345": ["x token-12345\n", "to\"ken-12345", 1.5] });
        let mut bytes = Vec::new();
        scrub.write_json(&value, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, r#"{"token-12345":["x ***\n","***",1.5]}"#);
    }

    #[test]
    fn plain_words_are_not_looked_for() {
        for (secret, expected) in
            [("postgres", false), ("a1b2c3d4", true), ("context-switches", true), ("a1", false)]
        {
            assert_eq!(is_distinctive(secret), expected, "{secret}");
        }
    }
}
