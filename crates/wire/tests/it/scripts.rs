//! Scripted conversations per protocol. Each must give the same calls however it is cut.

mod http;
mod memcached;
mod mysql;
mod opaque;
mod postgres;
mod redis;

use crate::packets::{Say, Script, describe, play};
use proptest::prelude::*;

pub fn all() -> Vec<Script> {
    let mut all = postgres::scripts();
    all.extend(mysql::scripts());
    all.extend(redis::scripts());
    all.extend(memcached::scripts());
    all.extend(http::scripts());
    all.extend(opaque::scripts());
    all
}

/// Plays one script whole and in single bytes; what differs from its calls, as text.
fn check(script: &Script) -> Option<String> {
    let lines: Vec<&str> = script.calls.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let wanted: String = lines.iter().map(|l| format!("{l}\n")).collect();
    let whole = describe(&play(script, |n| n));
    let bytes = describe(&play(script, |_| 1));
    let sent: u64 = play(script, |n| n).iter().map(|c| c.bytes_sent).sum();
    let said: usize =
        script.says.iter().map(|s| if let Say::Client(b) = s { b.len() } else { 0 }).sum();
    assert!(sent <= said as u64, "{}: bytes counted twice", script.name);
    if whole != wanted {
        return Some(format!("{}\nwanted\n{wanted}got\n{whole}", script.name));
    }
    (bytes != wanted)
        .then(|| format!("{} in single bytes\nwanted\n{wanted}got\n{bytes}", script.name))
}

#[test]
fn scripts_give_their_calls() {
    let wrong: Vec<String> = all().iter().filter_map(check).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_gives_the_same_calls(cuts in prop::collection::vec(1usize..40, 1..50)) {
        for script in all() {
            let mut i = 0;
            let cut = |_| { i += 1; cuts[i % cuts.len()] };
            prop_assert_eq!(play(&script, cut), play(&script, |n| n), "{}", script.name);
        }
    }
}
