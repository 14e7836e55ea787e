//! TCP stream order: one direction of one connection, from segments as captured to bytes in order.
//! Retransmitted bytes are dropped, early ones wait within a bound, and what never comes is
//! reported as lost, so that the framing above can find its feet again.

use evidence::Nanos;
use std::collections::VecDeque;

/// Bytes that may wait for earlier ones, per direction. On loopback nothing is reordered; behind a
/// packet that the network lost a whole window arrives before it is sent again, and Linux receives
/// windows of up to 6 MiB.
pub const WAITING_LIMIT: usize = 8 << 20;

/// Segments that may wait for earlier ones, per direction.
const WAITING_SEGMENTS: usize = 8192;

/// A stretch of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The next bytes, and when the receiver could read them.
    Data(&'a [u8], Nanos),
    /// This many bytes were never seen.
    Lost(u64),
    /// The direction ended (FIN), and when the receiver could know.
    End(Nanos),
}

/// A segment sent again after this time was not acknowledged for a whole time-out. One seen twice
/// within less was captured twice (on a bridge and on what is behind it), or is a probe that TCP
/// sends after a few milliseconds to a receiver that has it and is slow to say so.
const SENT_AGAIN: Nanos = Nanos(150_000_000);

/// A segment that comes so long after one behind it was lost on its way here, or held up.
const OVERTAKEN: Nanos = Nanos(1_000_000);

/// What the network lost and TCP sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// Packets.
    pub packets: u64,
    /// How long they were waited for. Where the capture is at the receiver, a packet with nothing
    /// behind it cannot be known to have been late.
    pub waited: Nanos,
}

impl Resent {
    /// Adds others.
    pub fn add(&mut self, other: Resent) {
        self.packets += other.packets;
        self.waited += other.waited;
    }

    fn count(&mut self, waited: Nanos, least: Nanos) {
        if waited >= least {
            self.add(Resent { packets: 1, waited });
        }
    }
}

/// Reassembly of one direction.
#[derive(Clone, Debug, Default)]
pub struct Reassembly {
    next: Option<u32>,
    waiting: VecDeque<Waiting>,
    buffered: usize,
    /// End of the last payload in order, and when it was last seen.
    newest: Option<(u32, Nanos)>,
    resent: Resent,
}

#[derive(Clone, Debug)]
struct Waiting {
    sequence: u32,
    at: Nanos,
    data: Vec<u8>,
    missing: u32,
    /// The direction ends after it.
    last: bool,
}

impl Reassembly {
    /// Starts at a SYN: the stream's first byte has the number after it.
    pub fn start(&mut self, sequence: u32) {
        self.next = Some(sequence.wrapping_add(1));
        self.waiting.clear();
        self.buffered = 0;
    }

    /// The next byte, as the other side's acknowledgement says, where none was seen yet.
    pub fn expect(&mut self, acknowledged: u32) {
        self.next.get_or_insert(acknowledged);
    }

    /// What was sent again since the last time.
    pub fn take_resent(&mut self) -> Resent {
        std::mem::take(&mut self.resent)
    }

    /// Whether segments wait for earlier ones.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes held back.
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Takes a segment's payload (`missing` bytes of its end were not captured; `last`: the
    /// direction ends after it) and delivers what is in order. Without a SYN the stream starts at
    /// the first byte seen.
    pub fn accept(
        &mut self,
        sequence: u32,
        (data, missing, last): (&[u8], u32, bool),
        at: Nanos,
        deliver: &mut dyn FnMut(Piece<'_>),
    ) {
        if data.is_empty() && missing == 0 && !last {
            return;
        }
        let next = *self.next.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next).cast_signed();
        if ahead <= 0 {
            self.watch(sequence.wrapping_add(data.len() as u32).wrapping_add(missing), next, at);
            self.advance(sequence, (data, missing, last), at, deliver);
            self.release(at, deliver);
            return;
        }
        // Most come in order behind the one that is missing.
        let before = |w: &Waiting| sequence.wrapping_sub(w.sequence).cast_signed() >= 0;
        let place = self.waiting.iter().rposition(before).map_or(0, |i| i + 1);
        self.buffered += data.len();
        self.waiting.insert(place, Waiting { sequence, at, data: data.to_vec(), missing, last });
        while self.waiting.len() > WAITING_SEGMENTS || self.buffered > WAITING_LIMIT {
            self.give_up(deliver);
        }
    }

    /// Tells a segment that is sent again, which ends at `end`, from one that is new.
    fn watch(&mut self, end: u32, next: u32, at: Nanos) {
        if end.wrapping_sub(next).cast_signed() > 0 {
            if let Some(first) = self.waiting.front().filter(|f| f.sequence == end) {
                self.resent.count(at - first.at, OVERTAKEN);
            }
            self.newest = Some((end, at));
        } else if let Some((_, before)) = self.newest.filter(|n| n.0 == end) {
            self.resent.count(at - before, SENT_AGAIN);
            self.newest = Some((end, at));
        }
    }

    /// The other side has acknowledged up to `sequence`: bytes before it that are missing here
    /// reached it unseen, and waiting for them is over.
    pub fn acknowledged(&mut self, sequence: u32, deliver: &mut dyn FnMut(Piece<'_>)) {
        while let (Some(next), Some(first)) = (self.next, self.waiting.front()) {
            let beyond = |s: u32| sequence.wrapping_sub(s).cast_signed();
            if beyond(next) <= 0 || beyond(first.sequence) < 0 {
                return;
            }
            self.give_up(deliver);
        }
    }

    /// Declares the bytes before the first waiting segment lost, and goes on after them.
    pub fn give_up(&mut self, deliver: &mut dyn FnMut(Piece<'_>)) {
        let (Some(next), Some(first)) = (self.next, self.waiting.front()) else { return };
        let at = first.at;
        deliver(Piece::Lost(u64::from(first.sequence.wrapping_sub(next))));
        self.next = Some(first.sequence);
        self.release(at, deliver);
    }

    /// Delivers a segment that begins at or before the next byte.
    fn advance(
        &mut self,
        sequence: u32,
        (data, missing, last): (&[u8], u32, bool),
        at: Nanos,
        deliver: &mut dyn FnMut(Piece<'_>),
    ) {
        let Some(next) = self.next else { return };
        let seen = next.wrapping_sub(sequence) as usize;
        let fresh = data.get(seen..).unwrap_or(&[]);
        if !fresh.is_empty() {
            deliver(Piece::Data(fresh, at));
        }
        let lost = (data.len() + missing as usize).saturating_sub(seen.max(data.len()));
        if lost > 0 {
            deliver(Piece::Lost(lost as u64));
        }
        self.next = Some(next.wrapping_add((fresh.len() + lost) as u32));
        if last {
            deliver(Piece::End(at));
        }
    }

    /// Delivers waiting segments that are in order by now; none of them could be read before `at`.
    fn release(&mut self, at: Nanos, deliver: &mut dyn FnMut(Piece<'_>)) {
        while let (Some(next), Some(first)) = (self.next, self.waiting.front()) {
            if first.sequence.wrapping_sub(next).cast_signed() > 0 {
                return;
            }
            let Some(w) = self.waiting.pop_front() else { return };
            self.buffered -= w.data.len();
            self.advance(w.sequence, (&w.data, w.missing, w.last), w.at.max(at), deliver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Seen {
        bytes: Vec<u8>,
        lost: u64,
        ended: u64,
    }

    impl Seen {
        fn add(&mut self, piece: Piece<'_>) {
            match piece {
                Piece::Data(d, _) => self.bytes.extend_from_slice(d),
                Piece::Lost(n) => self.lost += n,
                Piece::End(_) => self.ended += 1,
            }
        }
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_gives_the_stream(
            text in prop::collection::vec(any::<u8>(), 1..400),
            isn: u32,
            cuts in prop::collection::vec((0usize..400, 1usize..60), 1..60),
        ) {
            // Every byte is sent at least once: the drawn pieces first, then the whole in order.
            let mut r = Reassembly::default();
            r.start(isn);
            let mut seen = Seen::default();
            let first = isn.wrapping_add(1);
            let whole = (0..text.len()).step_by(50).map(|o| (o, 50));
            for (o, n) in cuts.into_iter().filter(|(o, _)| *o < text.len()).chain(whole) {
                let piece = &text[o..(o + n).min(text.len())];
                let sequence = first.wrapping_add(o as u32);
                let last = o + n >= text.len();
                r.accept(sequence, (piece, 0, last), Nanos(1), &mut |p| seen.add(p));
            }
            prop_assert_eq!(seen.bytes, text);
            prop_assert_eq!(seen.lost, 0);
            prop_assert!(!r.waits() && r.buffered() == 0 && seen.ended > 0);
        }

        #[test]
        fn hostile_segments_stay_bounded(
            segments in prop::collection::vec((any::<u32>(), 0usize..5000, 0u32..9), 0..300)
        ) {
            let mut r = Reassembly::default();
            let data = vec![7; 5000];
            for (sequence, n, missing) in segments {
                r.accept(sequence, (&data[..n], missing, n == 0), Nanos(1), &mut |_| {});
                prop_assert!(r.buffered() <= WAITING_LIMIT);
            }
        }
    }

    #[test]
    fn a_hole_is_lost_once_the_peer_acknowledges_beyond_it() {
        let mut r = Reassembly::default();
        let mut seen = Seen::default();
        r.accept(10, (b"ab", 0, false), Nanos(1), &mut |p| seen.add(p));
        r.accept(15, (b"fg", 0, false), Nanos(2), &mut |p| seen.add(p));
        r.acknowledged(12, &mut |p| seen.add(p));
        assert_eq!((seen.bytes.as_slice(), seen.lost), (&b"ab"[..], 0));
        r.acknowledged(17, &mut |p| seen.add(p));
        assert_eq!((seen.bytes.as_slice(), seen.lost), (&b"abfg"[..], 3));
    }

    #[test]
    fn a_cut_packet_loses_its_end() {
        let mut r = Reassembly::default();
        let mut seen = Seen::default();
        r.accept(10, (b"ab", 4, false), Nanos(1), &mut |p| seen.add(p));
        r.accept(16, (b"g", 0, false), Nanos(2), &mut |p| seen.add(p));
        assert_eq!((seen.bytes.as_slice(), seen.lost), (&b"abg"[..], 4));
    }

    #[test]
    fn the_end_waits_for_what_comes_before_it() {
        let mut r = Reassembly::default();
        let mut seen = Seen::default();
        r.expect(10);
        r.accept(12, (b"", 0, true), Nanos(1), &mut |p| seen.add(p));
        assert_eq!((seen.ended, r.waits()), (0, true));
        r.accept(10, (b"ab", 0, false), Nanos(2), &mut |p| seen.add(p));
        assert_eq!((seen.bytes.as_slice(), seen.ended, r.waits()), (&b"ab"[..], 1, false));
        r.accept(14, (b"", 0, true), Nanos(3), &mut |p| seen.add(p));
        r.acknowledged(15, &mut |p| seen.add(p));
        assert_eq!((seen.lost, seen.ended), (2, 2));
    }

    #[test]
    fn what_is_sent_again_is_counted_with_its_wait() {
        let ms = |n: u64| Nanos(n * 1_000_000);
        let mut r = Reassembly::default();
        let at = |r: &mut Reassembly, sequence, data: &'static [u8], time| {
            r.accept(sequence, (data, 0, false), time, &mut |_| {});
        };
        at(&mut r, 10, b"ab", ms(0));
        // Captured twice, then sent again twice; then a hole that is filled.
        at(&mut r, 10, b"ab", Nanos(9_000));
        assert_eq!(r.take_resent(), Resent::default());
        at(&mut r, 10, b"ab", ms(200));
        at(&mut r, 10, b"ab", ms(600));
        assert_eq!((r.resent.packets, r.resent.waited.0 / 1_000_000), (2, 599));
        r.take_resent();
        at(&mut r, 14, b"ef", ms(700));
        at(&mut r, 12, b"cd", ms(730));
        assert_eq!(r.take_resent(), Resent { packets: 1, waited: ms(30) });
    }
}
