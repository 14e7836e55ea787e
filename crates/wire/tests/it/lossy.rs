//! Bad networks and bad captures: packets lost, repeated and out of order, drawn from seeds.
//!
//! What the *network* loses is sent again: nothing may be missing, doubled or counted as lost. What
//! the *capture* loses is gone: every call that is told must be a true one, or the loss be counted.

use crate::packets::{Say, Script, client, describe, play, server};
use crate::scripts;
use evidence::{Call, Nanos, Redactor};
use proptest::prelude::*;
use wire::segment::{ACK, FIN, SYN};
use wire::{Decoder, Losses, Segment};

/// Small numbers in seeded order.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        (self.0 >> 33) % below.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next(n) == 0
    }
}

/// A segment on its way, or a quiet gap.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Segment { from_client: bool, sequence: u32, acknowledged: u32, flags: u8, data: Vec<u8> },
    Gap,
}

/// A script as the segments that a network without losses would carry, by utterance.
fn bursts(script: &Script, draw: &mut Draw, most: u64) -> Vec<Vec<Event>> {
    let mut next = [u32::MAX - 20, 77u32];
    let mut out = Vec::new();
    let mut segment = |from_client: bool, flags: u8, data: &[u8]| {
        let i = usize::from(!from_client);
        let first = flags & SYN != 0 && flags & ACK == 0;
        let acknowledged = if first { 0 } else { next[1 - i] };
        let sequence = next[i];
        next[i] = sequence.wrapping_add(data.len() as u32 + u32::from(flags & (SYN | FIN) != 0));
        let flags = if first { flags } else { flags | ACK };
        Event::Segment { from_client, sequence, acknowledged, flags, data: data.to_vec() }
    };
    if script.opened {
        out.push(vec![segment(true, SYN, &[])]);
        out.push(vec![segment(false, SYN | ACK, &[])]);
    }
    for say in &script.says {
        let (from_client, bytes) = match say {
            Say::Client(b) => (true, b),
            Say::Server(b) => (false, b),
            Say::Gap => {
                out.push(vec![Event::Gap]);
                continue;
            }
            Say::ClientEnds => {
                out.push(vec![segment(true, FIN, &[])]);
                continue;
            }
            Say::ServerEnds => {
                out.push(vec![segment(false, FIN, &[])]);
                continue;
            }
        };
        let mut burst = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let n = (draw.next(most) as usize + 1).min(rest.len());
            burst.push(segment(from_client, 0, &rest[..n]));
            rest = &rest[n..];
        }
        out.push(burst);
    }
    out
}

/// What a lossy network makes of it: within an utterance any order, some segments twice, and some
/// of the earlier ones again later on.
fn shaken(bursts: Vec<Vec<Event>>, draw: &mut Draw, opened: bool) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::new();
    for (n, mut burst) in bursts.into_iter().enumerate() {
        // Where the capture starts mid-stream, the first byte seen is taken for the first there is.
        let from = usize::from(!opened && n == 0).min(burst.len());
        for i in (from + 1..burst.len()).rev() {
            burst.swap(i, from + draw.next((i - from + 1) as u64) as usize);
        }
        for event in burst {
            if draw.one_in(4) {
                out.push(event.clone());
            }
            out.push(event);
            let data = |e: &Event| matches!(e, Event::Segment { data, .. } if !data.is_empty());
            if draw.one_in(6) && !out.is_empty() {
                let again = out[draw.next(out.len() as u64) as usize].clone();
                out.extend(Some(again).filter(data));
            }
        }
    }
    out
}

/// The calls that come of it; `quiet`: a gap follows.
fn feed(events: &[Event], quiet: bool) -> (Vec<Call>, Losses) {
    let mut decoder = Decoder::new(Redactor::new(1), &[]);
    decoder.set_limits(8, 1 << 20);
    for (i, event) in events.iter().enumerate() {
        let Event::Segment { from_client, sequence, acknowledged, flags, data } = event else {
            decoder.flush();
            continue;
        };
        let (source, destination) =
            if *from_client { (client(), server()) } else { (server(), client()) };
        decoder.feed(&Segment {
            at: Nanos((i as u64 + 1) * 10),
            source,
            destination,
            sequence: *sequence,
            acknowledged: *acknowledged,
            flags: *flags,
            data,
            missing: 0,
        });
        assert!(decoder.buffered() <= 1 << 20);
    }
    if quiet {
        decoder.flush();
    }
    let calls = decoder.take_calls();
    (calls, decoder.losses())
}

/// Calls as text without their times; `whole`: with the number of their round trip and their bytes,
/// which depend on what came before.
fn timeless(calls: &[Call], whole: bool) -> Vec<String> {
    let timeless = |c: &Call| match whole {
        true => Call { start: Nanos(0), end: Nanos(0), ..c.clone() },
        false => Call {
            start: Nanos(0),
            end: Nanos(0),
            batch: 0,
            bytes_sent: 0,
            bytes_received: 0,
            ..c.clone()
        },
    };
    calls.iter().map(|c| describe(&[timeless(c)])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_the_network_loses_repeats_and_reorders_changes_no_call(seed: u64, most in 16u64..1500) {
        for script in scripts::all() {
            let mut draw = Draw(seed);
            let events = shaken(bursts(&script, &mut draw, most), &mut draw, script.opened);
            let (calls, losses) = feed(&events, false);
            prop_assert_eq!(losses, Losses::default(), "{}: {:?}", script.name, events);
            let wanted = timeless(&play(&script, |n| n), true);
            prop_assert_eq!(timeless(&calls, true), wanted, "{}: {:?}", script.name, events);
            prop_assert!(calls.iter().all(|c| c.start <= c.end));
        }
    }

    #[test]
    fn what_the_capture_loses_is_counted_or_changes_no_call(
        seed: u64, most in 1u64..1500, one_in in 2u64..30,
    ) {
        for script in scripts::all() {
            let mut draw = Draw(seed);
            let mut events = bursts(&script, &mut draw, most).concat();
            let before = events.len();
            // What is lost before the first byte seen is not known to have been.
            let first = events.first().cloned();
            events.retain(|e| matches!(e, Event::Gap) || !draw.one_in(one_in));
            if !script.opened && events.first() != first.as_ref() {
                continue;
            }
            let (calls, losses) = feed(&events, true);
            if losses != Losses::default() || before == events.len() {
                continue;
            }
            // Nothing was noticed: what is told is true, and only the end may be missing.
            let whole = bursts(&script, &mut Draw(seed), most).concat();
            let whole = timeless(&feed(&whole, true).0, false);
            let told = timeless(&calls, false);
            // Seen from within a message on, what is spoken may not be known, which is said.
            // An answer to what was not captured looks like one that nobody asked for.
            let vague = |c: &String| {
                let known = c.contains(" execute [") || script.opened && !c.contains(" push [");
                !known || c.ends_with("unknown\n") || c.starts_with("opaque ")
            };
            let is_true = |call: &String| vague(call) || whole.contains(call);
            prop_assert!(told.iter().all(is_true), "{}: {:#?} {:?}", script.name, told, events);
            let certain = told.iter().filter(|c| !vague(c)).count();
            prop_assert!(certain <= whole.len(), "{}: {:#?}", script.name, told);
        }
    }
}
