//! A finished run to bytes: terminal text, Markdown, JSON. Pure: data in, text out.
//!
//! Everything foreign (statements, paths, log lines) passes through [`words::clean`] before it is
//! shown: control characters and terminal escapes of a hostile service never reach a terminal.

mod doctor;
mod json;
mod markdown;
mod requests;
mod style;
mod text;
mod words;

pub use doctor::{doctor, service_line};
pub use json::{json, schema};
pub use markdown::markdown;
pub use requests::{requests_json, requests_text};
pub use text::{RunRow, TextOptions, runs, text};
pub use words::{cut, experiment_word, verdict_word};
