//! Plays any bytes as a conversation, whole and in single bytes.

use evidence::{Call, Nanos, Redactor};
use std::net::SocketAddr;
use wire::Decoder;

/// `first` is what the client begins with; `data` is a list of utterances: a byte whose lowest bit
/// says who speaks and whose other bits give the length, then that many bytes.
pub fn check(first: &[u8], data: &[u8]) {
    let whole = play(first, data, usize::MAX);
    let cut = play(first, data, 1);
    // Once framing is lost, where a message begins is judged packet by packet.
    if let (Some(whole), Some(cut)) = (whole, cut) {
        assert_eq!(whole, cut);
    }
}

fn play(first: &[u8], data: &[u8], step: usize) -> Option<Vec<Call>> {
    let mut decoder = Decoder::new(Redactor::new(1), &[]);
    decoder.set_limits(4, 1 << 20);
    let client: SocketAddr = ([127, 0, 0, 1], 40_000).into();
    let server: SocketAddr = ([127, 0, 0, 1], 9).into();
    let key = decoder.open(client, server, Nanos(1), Nanos(2));
    let mut say = |decoder: &mut Decoder, from_client: bool, bytes: &[u8], at: u64| {
        for piece in bytes.chunks(step.min(bytes.len().max(1))) {
            decoder.bytes(key, from_client, piece, Nanos(at));
            assert!(decoder.buffered() <= 1 << 20);
        }
    };
    say(&mut decoder, true, first, 10);
    let mut rest = data;
    let mut at = 20;
    while let Some((mark, after)) = rest.split_first() {
        let (bytes, next) = after.split_at(after.len().min(usize::from(mark >> 1)));
        rest = next;
        at += 10;
        say(&mut decoder, mark & 1 == 0, bytes, at);
    }
    decoder.flush();
    decoder.broken(key, Nanos(at + 10));
    let calls = decoder.take_calls();
    for c in &calls {
        assert!(!c.text.is_empty() && c.start <= c.end);
    }
    (decoder.losses() == wire::Losses::default()).then_some(calls)
}
