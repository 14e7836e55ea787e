//! Redaction: statements to fingerprints, values to keyed hashes. Nothing that was a literal, a
//! key's variable part or a parameter leaves this module readable.

mod names;
mod sql;

use crate::ValueHash;

pub use sql::SqlDialect;

/// Hashed literals kept for one statement; the fingerprint still covers all of them. A bulk
/// insert would otherwise cost more memory than the rows it sends.
pub const VALUES_LIMIT: usize = 256;

/// Turns foreign text and values into what may be stored. The key lives in memory only.
#[derive(Clone, Debug)]
pub struct Redactor {
    key: u64,
}

impl Redactor {
    /// A redactor whose hashes are keyed by `key`, drawn at random per run and never stored.
    pub fn new(key: u64) -> Redactor {
        Redactor { key }
    }

    /// Keyed hash of a value in its canonical text form (integers as decimal digits, so that a
    /// binary parameter and a text result column of the same number agree). SipHash-1-3 with the
    /// run's key: not reversible without it.
    pub fn hash(&self, canonical: &[u8]) -> ValueHash {
        use std::hash::{DefaultHasher, Hasher};
        let mut h = DefaultHasher::new();
        h.write_u64(self.key);
        h.write(canonical);
        h.finish()
    }

    /// Hash of a value received as text: a text parameter, an inlined literal, a text column. A
    /// leading `+` of a number and the case of a UUID do not matter; everything else does.
    pub fn hash_text(&self, text: &[u8]) -> ValueHash {
        match text {
            [b'+', digits @ ..] if is_number(digits) => self.hash(digits),
            _ if text.len() == 36 && is_uuid(text) => self.hash(&text.to_ascii_lowercase()),
            _ => self.hash(text),
        }
    }

    /// Hash of a value received as a binary integer; equal to [`Redactor::hash_text`] of its
    /// decimal digits.
    pub fn hash_integer(&self, value: i128) -> ValueHash {
        self.hash(value.to_string().as_bytes())
    }

    /// Hash of a value received as a binary floating point number: its shortest decimal form, as
    /// PostgreSQL and JSON write it.
    pub fn hash_float(&self, value: f64) -> ValueHash {
        self.hash(value.to_string().as_bytes())
    }

    /// Hash of 16 raw bytes as the UUID they are.
    pub fn hash_uuid(&self, bytes: &[u8; 16]) -> ValueHash {
        let mut text = String::with_capacity(36);
        for (i, b) in bytes.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for nibble in [b >> 4, b & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        self.hash(text.as_bytes())
    }

    /// Fingerprint of SQL text in the standard dialect (PostgreSQL, SQLite), and the hashes of the
    /// literals it held, in order. See [`Redactor::sql_in`].
    pub fn sql(&self, text: &str) -> (String, Vec<ValueHash>) {
        self.sql_in(text, SqlDialect::Standard)
    }

    /// Fingerprint of SQL text: literals become `?`, parameters (`$1`, `?`) and quoted identifiers
    /// stay, comments go, whitespace folds to one space, `IN`, `VALUES` and `ARRAY` lists of any
    /// length fold to their first element. Applying it twice changes nothing. The hashes are those
    /// of the first [`VALUES_LIMIT`] literals.
    pub fn sql_in(&self, text: &str, dialect: SqlDialect) -> (String, Vec<ValueHash>) {
        let mut fingerprint = String::new();
        let mut values = Vec::new();
        for (text, mut found) in self.sql_statements(text, dialect) {
            if !fingerprint.is_empty() {
                fingerprint.push_str("; ");
            }
            fingerprint.push_str(&text);
            values.append(&mut found);
        }
        values.truncate(VALUES_LIMIT);
        (fingerprint, values)
    }

    /// As [`Redactor::sql_in`], one entry for each statement of a text that holds several. Empty
    /// statements are left out.
    pub fn sql_statements(&self, text: &str, dialect: SqlDialect) -> Vec<(String, Vec<ValueHash>)> {
        sql::statements(text, dialect)
            .into_iter()
            .map(|s| (s.text, s.values.iter().map(|v| self.hash_text(v)).collect()))
            .collect()
    }

    /// A cache key with its variable parts (numbers, UUIDs, hexadecimal, long random words,
    /// addresses) replaced by `?`: `user:42:cart` becomes `user:?:cart`.
    pub fn cache_key(&self, key: &str) -> String {
        names::cache_key(key)
    }

    /// A URL path with variable segments replaced by `?`, and every value of its query string:
    /// `/orders/42?page=3` becomes `/orders/?` and `?page=?`. Applying it twice changes nothing.
    pub fn url_path(&self, path: &str) -> String {
        names::url_path(path)
    }
}

fn is_number(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
        && text.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

/// `8-4-4-4-12` hexadecimal digits.
fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests;
