//! Command lines that a report tells the user to run.

use evidence::REDACTED;

/// The command line that repeats a run, with more flags; empty when none was recorded (`given` is
/// [`evidence::RunInfo::command`]: method, body, headers, files and a launched service's command
/// as they were given, secrets as references).
///
/// `flags` may end with `-- COMMAND`, which is left out where a service was launched already. A
/// flag that was given too is replaced. Where a secret stood the line says so in a comment.
pub fn again(given: &[String], flags: &str) -> String {
    let Some((_, arguments)) = given.split_first() else { return String::new() };
    let at = arguments.iter().position(|a| a == "--").unwrap_or(arguments.len());
    let (own, launched) = arguments.split_at(at);
    let (flags, to_launch) = match flags.split_once("-- ") {
        Some((flags, command)) => (flags.trim(), format!("-- {command}")),
        None => (flags, String::new()),
    };
    let mut words = vec!["perfwright".to_string()];
    words.extend(without(own, flags).iter().map(|w| quoted(w)));
    words.extend((!flags.is_empty()).then(|| flags.to_string()));
    match launched.is_empty() {
        true => words.extend((!to_launch.is_empty()).then_some(to_launch)),
        false => words.extend(launched.iter().map(|w| quoted(w))),
    }
    let line = words.join(" ");
    match line.contains(REDACTED) {
        true => format!("{line}  # your own value in place of {REDACTED}"),
        false => line,
    }
}

/// `arguments` without what `flags` say anew.
fn without(arguments: &[String], flags: &str) -> Vec<String> {
    let anew: Vec<&str> = flags.split(' ').filter(|f| SINGLE.contains(f)).collect();
    let mut out = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
        if !anew.contains(&flag) {
            out.push(word.clone());
        } else if flag == word {
            words.next();
        }
    }
    out
}

/// Flags that stand once and take a value.
const SINGLE: &[&str] = &["--budget", "--observer", "--otlp-port"];

/// A word as a POSIX shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let check = |given: &str, flags: &str, expected: &str| {
            let given: Vec<String> =
                given.split('|').filter(|w| !w.is_empty()).map(String::from).collect();
            assert_eq!(again(&given, flags), expected);
        };
        let post = "/bin/perfwright|investigate|curl -X POST h:1/a -d 'x=1'|--mutating";
        check("", "--budget 2m", "");
        check(post, "", r"perfwright investigate 'curl -X POST h:1/a -d '\''x=1'\''' --mutating");
        check(
            "pw|investigate|http://h/a?b|-H|A: env:T",
            "",
            "perfwright investigate 'http://h/a?b' -H 'A: env:T'",
        );
        let budget = "perfwright investigate http://h/ --budget 2m";
        check("pw|investigate|--budget|8s|http://h/", "--budget 2m", budget);
        check("pw|investigate|http://h/|--budget=8s", "--budget 2m", budget);
        let npm = "pw|investigate|--endpoint|GET /a|--|npm|run|dev|--|-p|1";
        check(
            npm,
            "--budget 2m",
            "perfwright investigate --endpoint 'GET /a' --budget 2m -- npm run dev -- -p 1",
        );
        check(
            npm,
            "-- COMMAND",
            "perfwright investigate --endpoint 'GET /a' -- npm run dev -- -p 1",
        );
        let secret = "perfwright investigate u -H 'A: ***'  # your own value in place of ***";
        check("pw|investigate|u|-H|A: ***", "", secret);
        check("pw|investigate|u", "-- COMMAND", "perfwright investigate u -- COMMAND");
    }
}
