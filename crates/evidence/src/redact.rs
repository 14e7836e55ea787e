//! Redaction: statements to fingerprints, values to keyed hashes. Nothing that was a literal, a
//! key's variable part or a parameter leaves this module readable.

use crate::ValueHash;

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
}
