//! A finished run to bytes: terminal, Markdown, JSON
