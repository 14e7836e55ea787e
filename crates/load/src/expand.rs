//! Variables in a URL: `{1..20}` ranges and `{a,b,c}` lists, expanded by a variant number.
//!
//! Anything else in braces (`{id}`, JSON) is not a variable and stays as it is. Nothing is ever
//! enumerated: a variant picks one combination by mixed-radix digits, the last group fastest.

use stats::Rng;

/// Groups beyond this many are left as they are.
const GROUPS_MAX: usize = 16;

/// Rounds of the network that draws an order: few bits need more than the usual four.
const ROUNDS: u64 = 8;

/// One piece of a template.
enum Part<'a> {
    Literal(&'a str),
    Range { from: i64, to: i64, width: usize },
    List(Vec<&'a str>),
}

impl Part<'_> {
    fn count(&self) -> u64 {
        match self {
            Part::Literal(_) => 1,
            Part::Range { from, to, .. } => from.abs_diff(*to).saturating_add(1),
            Part::List(items) => items.len() as u64,
        }
    }

    fn write(&self, pick: u64, out: &mut String) {
        match self {
            Part::Literal(text) => out.push_str(text),
            Part::List(items) => out.push_str(items[pick as usize % items.len()]),
            Part::Range { from, to, width } => {
                let step = if to >= from { i128::from(pick) } else { -i128::from(pick) };
                let value = i128::from(*from) + step;
                out.push_str(&format!("{value:0width$}"));
            }
        }
    }
}

/// How many combinations the text has; at least 1, at most `u64::MAX`.
pub fn variants(text: &str) -> u64 {
    parts(text).iter().fold(1u64, |total, part| total.saturating_mul(part.count()))
}

/// The text with its variables set to combination `variant` (modulo [`variants`]).
pub fn expand(text: &str, variant: u64) -> String {
    let parts = parts(text);
    let total = parts.iter().fold(1u64, |total, part| total.saturating_mul(part.count()));
    let mut rest = variant % total;
    let mut picks = vec![0; parts.len()];
    for (part, pick) in parts.iter().zip(&mut picks).rev() {
        *pick = rest % part.count();
        rest /= part.count();
    }
    let mut out = String::with_capacity(text.len());
    for (part, pick) in parts.iter().zip(picks) {
        part.write(pick, &mut out);
    }
    out
}

/// Combination number `number` (modulo `all`) of `all` in an order drawn with `seed`: each comes
/// once in `all` numbers, and the first few are a fair sample. Nothing is enumerated: a Feistel
/// network permutes the smallest power of 4 that holds `all`, again until it lands within.
pub fn drawn(number: u64, all: u64, seed: u64) -> u64 {
    let all = all.max(1);
    let half = (u64::BITS - (all - 1).leading_zeros()).div_ceil(2);
    let mask = (1 << half) - 1;
    let mut at = number % all;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 1..=ROUNDS {
            let key = Rng::new(seed ^ round.rotate_right(8)).next_u64();
            (left, right) = (right, left ^ (Rng::new(key ^ right).next_u64() & mask));
        }
        at = left << half | right;
        if at < all {
            return at;
        }
    }
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut literal_from, mut at, mut groups) = (0, 0, 0);
    while let Some(open) = text[at..].find('{').map(|i| at + i) {
        let Some(close) = text[open..].find('}').map(|i| open + i) else { break };
        at = open + 1;
        if groups < GROUPS_MAX
            && let Some(group) = group(&text[open + 1..close])
        {
            parts.push(Part::Literal(&text[literal_from..open]));
            parts.push(group);
            (literal_from, at) = (close + 1, close + 1);
            groups += 1;
        }
    }
    parts.push(Part::Literal(&text[literal_from..]));
    parts
}

/// What is between braces, when it is a variable.
fn group(inner: &str) -> Option<Part<'_>> {
    if let Some((from, to)) = inner.split_once("..") {
        let width = if is_padded(from) || is_padded(to) { from.len().max(to.len()) } else { 0 };
        return Some(Part::Range { from: integer(from)?, to: integer(to)?, width });
    }
    let items: Vec<&str> = inner.split(',').collect();
    // Only characters a URL may hold bare: `{"a":1,"b":2}` in a query is JSON, not a list.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~%+".contains(c);
    (items.len() > 1 && items.iter().all(|item| item.chars().all(plain)))
        .then_some(Part::List(items))
}

fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn is_padded(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(variants(text), expected.len() as u64, "{text}");
        for (variant, want) in expected.iter().enumerate() {
            assert_eq!(expand(text, variant as u64), *want, "{text} #{variant}");
        }
        assert_eq!(expand(text, expected.len() as u64), expected[0], "{text} wraps");
    }

    #[test]
    fn variables() {
        check("/plain", &["/plain"]);
        check("/p?page={1..3}", &["/p?page=1", "/p?page=2", "/p?page=3"]);
        check("/p/{03..01}", &["/p/03", "/p/02", "/p/01"]);
        check("/{a,b}/{1..2}", &["/a/1", "/a/2", "/b/1", "/b/2"]);
        check("/{x,}", &["/x", "/"]);
        check("/{-1..1}", &["/-1", "/0", "/1"]);
        check("/users/{id}", &["/users/{id}"]);
        check("/q?f={\"a\":1,\"b\":2}", &["/q?f={\"a\":1,\"b\":2}"]);
        check("/q?f={\"a\":{1..2}}", &["/q?f={\"a\":1}", "/q?f={\"a\":2}"]);
        check("/open{1..", &["/open{1.."]);
        check("/{1..x}", &["/{1..x}"]);
    }

    #[test]
    fn a_drawn_order_has_each_once_and_begins_anywhere() {
        for all in [1, 2, 3, 5, 20, 64, 65, 1000] {
            for seed in 0..20 {
                let mut seen: Vec<u64> = (0..all).map(|n| drawn(n, all, seed)).collect();
                assert_eq!(drawn(all, all, seed), seen[0]);
                seen.sort_unstable();
                assert_eq!(seen, (0..all).collect::<Vec<_>>(), "{all} {seed}");
            }
        }
        // The first 5 of 1000, drawn 200 times, lie on both sides of the middle alike.
        let firsts = (0..200).flat_map(|seed| (0..5).map(move |n| drawn(n, 1000, seed)));
        let low = firsts.filter(|n| *n < 500).count();
        assert!((430..=570).contains(&low), "{low} of 1000");
        let orders: std::collections::BTreeSet<Vec<u64>> =
            (0..20).map(|seed| (0..20).map(|n| drawn(n, 20, seed)).collect()).collect();
        assert_eq!(orders.len(), 20);
        assert!(drawn(7, u64::MAX, 1) < u64::MAX);
    }

    #[test]
    fn huge_ranges_are_not_enumerated() {
        let text = "/{0..9223372036854775807}/{-9223372036854775808..9223372036854775807}";
        assert_eq!(variants(text), u64::MAX);
        assert!(expand(text, u64::MAX - 1).starts_with('/'));
    }

    proptest! {
        #[test]
        fn any_text_expands(text in ".{0,80}", variant: u64) {
            expand(&text, variant);
        }

        #[test]
        fn braces_and_dots_expand(text in "[{}.,0-9a-]{0,40}", variant: u64) {
            expand(&text, variant);
        }
    }
}
