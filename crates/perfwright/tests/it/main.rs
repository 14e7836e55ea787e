//! Integration tests of the binary and of the house.

#[cfg(target_os = "linux")]
mod binary;
#[cfg(target_os = "linux")]
mod disk;
mod docs;
#[cfg(target_os = "linux")]
mod launches;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod snapshots;
#[cfg(target_os = "linux")]
mod targets;
mod tidy;
#[cfg(target_os = "linux")]
mod usage;

/// Says why something is not tested here, and fails when it has to be.
#[cfg(target_os = "linux")]
#[expect(clippy::print_stderr, reason = "a skipped test must be visible")]
fn skip(what: &str, hint: &str) {
    let required = std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_some();
    assert!(!required, "{what} is required here\nhint: {hint}");
    eprintln!("skipped: {what} (hint: {hint})");
}
