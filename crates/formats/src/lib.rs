//! Foreign bytes to evidence and back: curl command lines, HAR, OTLP. Pure, portable, fuzzed.
//!
//! Every parser takes bytes or text and returns what could be read together with the [`Problem`]s
//! it met. None reads a file, a clock or the environment: where a format refers to a file, the
//! caller passes a function that reads it.

pub mod credential;
pub mod curl;
pub mod duration;
pub mod endpoint;
pub mod har;
mod json;
pub mod login;
pub mod objective;
pub mod otlp;
mod template;
mod url;
mod words;

use std::fmt;

/// Something in the input that could not be used, or not as written; the rest was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Byte offset into the input.
    pub position: usize,
    /// What it is, what was done about it and, where there is one, the next step.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(position: usize, message: impl Into<String>) -> Problem {
        Problem { position, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.message)
    }
}

/// Reads a file an input refers to (`--data @body.json`); the error says why it could not.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, String>;

/// A command line as it may be stored: secrets in URLs, headers, credential flags and curl commands
/// replaced. `env:` and `file:` references stay.
pub fn redact_command_line(arguments: impl Iterator<Item = String>) -> Vec<String> {
    evidence::redacted_command(&arguments.collect::<Vec<_>>())
}
