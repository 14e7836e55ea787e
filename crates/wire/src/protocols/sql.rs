//! What a statement is for, judged by its fingerprint; shared by the SQL protocols.

use evidence::Operation;

/// First words of statements that manage a session or a transaction.
const SESSION: [&str; 21] = [
    "begin",
    "commit",
    "rollback",
    "abort",
    "end",
    "start",
    "savepoint",
    "release",
    "set",
    "reset",
    "show",
    "discard",
    "deallocate",
    "listen",
    "unlisten",
    "use",
    "lock",
    "unlock",
    "close",
    "kill",
    "flush",
];

/// Text of a statement without content, which pools send as a ping.
pub(super) const EMPTY: &str = "(empty statement)";

/// Kind of operation of a fingerprint.
pub(super) fn operation(fingerprint: &str) -> Operation {
    let is_ping = ["select ?", "select 1", "select", EMPTY];
    if is_ping.iter().any(|p| fingerprint.eq_ignore_ascii_case(p)) {
        return Operation::Session;
    }
    let word =
        fingerprint.split(|c: char| !c.is_ascii_alphabetic()).find(|w| !w.is_empty()).unwrap_or("");
    if SESSION.iter().any(|s| word.eq_ignore_ascii_case(s)) {
        Operation::Session
    } else if word.eq_ignore_ascii_case("prepare") {
        Operation::Prepare
    } else {
        Operation::Execute
    }
}
