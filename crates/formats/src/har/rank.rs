//! What the user waited for: each moment of a recording belongs to one request in flight.

use std::collections::BTreeSet;

/// Time each interval `(start, end)` accounts for. Every moment in which requests are in flight is
/// charged to the one of them that ends last, since only its end lets the user go on; so the parts
/// sum to the time in which anything was in flight.
pub(super) fn waited(intervals: &[(u64, u64)]) -> Vec<u64> {
    let mut edges: Vec<(u64, bool, usize)> = Vec::with_capacity(intervals.len() * 2);
    for (i, (start, end)) in intervals.iter().enumerate() {
        if start < end {
            edges.push((*start, true, i));
            edges.push((*end, false, i));
        }
    }
    edges.sort_unstable();
    let mut waited = vec![0; intervals.len()];
    let mut in_flight = BTreeSet::new();
    let mut last = 0;
    for (at, begins, i) in edges {
        if let Some((_, charged)) = in_flight.last() {
            waited[*charged] += at - last;
        }
        last = at;
        if begins {
            in_flight.insert((intervals[i].1, i));
        } else {
            in_flight.remove(&(intervals[i].1, i));
        }
    }
    waited
}

/// A path with the segments that are ids replaced by `{id}`.
pub(super) fn path_pattern(path: &str) -> String {
    let segments: Vec<_> = path.split('/').map(|s| if is_id(s) { "{id}" } else { s }).collect();
    segments.join("/")
}

/// Numbers, UUIDs, hexadecimal of 16 digits or more, and long words with digits in them.
fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    if segment.is_empty() || digits == 0 {
        return false;
    }
    let hex = segment.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let plain = segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_~=".contains(&b));
    digits == segment.len()
        || hex && segment.len() >= 16
        || plain && segment.len() >= 20 && digits > 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_belong_to_the_last_to_finish() {
        let check = |intervals: &[(u64, u64)], expected: &[u64]| {
            assert_eq!(waited(intervals), expected, "{intervals:?}");
        };
        check(&[(0, 10)], &[10]);
        check(&[(0, 10), (2, 5)], &[10, 0]);
        check(&[(0, 10), (5, 20)], &[5, 15]);
        check(&[(0, 10), (0, 10)], &[0, 10]);
        check(&[(0, 10), (20, 30), (25, 25)], &[10, 10, 0]);
    }

    proptest! {
        #[test]
        fn the_parts_sum_to_the_time_anything_was_in_flight(
            intervals in prop::collection::vec((0..200_u64, 0..50_u64), 0..40)
        ) {
            let intervals: Vec<_> = intervals.iter().map(|(s, d)| (*s, s + d)).collect();
            let busy = (0..250).filter(|t| intervals.iter().any(|i| i.0 <= *t && *t < i.1));
            prop_assert_eq!(waited(&intervals).iter().sum::<u64>(), busy.count() as u64);
        }
    }

    #[test]
    fn ids_become_patterns() {
        let check = |path: &str, expected: &str| assert_eq!(path_pattern(path), expected);
        check("/api/v2/orders/123/items", "/api/v2/orders/{id}/items");
        check("/o/0b7b2a1e-9f5c-4a57-8a4e-6a4b6c2d1e0f", "/o/{id}");
        check("/blog/10-ways-to-wait", "/blog/10-ways-to-wait");
        check("/_next/data/aB3dE5fG7hI9jK1lM3nO5/x.json", "/_next/data/{id}/x.json");
    }
}
