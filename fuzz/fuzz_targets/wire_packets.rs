//! Any bytes as IP packets: decoding and stream order never panic and stay bounded.

#![no_main]

use evidence::{Nanos, Redactor};
use libfuzzer_sys::fuzz_target;
use wire::{Decoder, segment};

fuzz_target!(|data: &[u8]| {
    let mut decoder = Decoder::new(Redactor::new(1), &[80]);
    decoder.set_limits(64, 1 << 20);
    // Each packet is preceded by its length.
    let mut rest = data;
    let mut at = 0;
    while let Some((n, after)) = rest.split_first() {
        let (packet, next) = after.split_at(after.len().min(usize::from(*n)));
        rest = next;
        at += 1;
        if let Some(s) = segment::decode(packet, Nanos(at)) {
            decoder.feed(&s);
        }
        assert!(decoder.buffered() <= 1 << 20);
    }
    decoder.flush();
    decoder.take_edges();
    decoder.take_calls();
});
