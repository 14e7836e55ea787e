//! From coverage to a level: the same words on every system.

use evidence::{Coverage, Level, ProbeState};

/// Level that the coverage amounts to. `found` says whether the service's processes are known. A
/// database to ask (L1) is the conductor's to add.
pub fn level(found: bool, coverage: &[Coverage]) -> Level {
    let works =
        |name: &str| coverage.iter().any(|c| c.probe == name && c.state != ProbeState::Unavailable);
    let frames = ["cpu-stacks", "python-stacks", "node-inspector"].iter().any(|p| works(p));
    let threads = found && (works("context-switches") || works("thread-counters"));
    match (works("packet-capture"), threads, frames) {
        (true, true, true) => Level::L4,
        (true, true, false) => Level::L3,
        (true, false, _) => Level::L2,
        (false, _, _) => Level::L0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: bool, works: &[&str], want: Level) {
        let coverage: Vec<Coverage> = works.iter().map(|p| Coverage::ok(p)).collect();
        assert_eq!(level(found, &coverage), want);
    }

    #[test]
    fn levels_follow_from_what_works() {
        check(false, &[], Level::L0);
        check(true, &["context-switches"], Level::L0);
        check(false, &["packet-capture"], Level::L2);
        check(true, &["packet-capture", "thread-counters"], Level::L3);
        check(true, &["packet-capture", "context-switches", "cpu-stacks"], Level::L4);
    }
}
