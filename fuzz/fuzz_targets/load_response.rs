//! HTTP/1.1 answers: any bytes, in any pieces, give the same outcome, within the limits.
//!
//! First byte: the size of pieces and whether the request was HEAD; the rest: the answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use load::h1::{Keep, ParseError, ResponseParser};

const BODY_LIMIT: u64 = 4096;

fn outcome(bytes: &[u8], piece: usize, to_head: bool) -> (Result<(), ParseError>, ResponseParser) {
    let mut parser = ResponseParser::new(to_head, BODY_LIMIT, Keep::Body);
    let mut fed = Ok(());
    for part in bytes.chunks(piece) {
        match parser.feed(part) {
            Ok(used) => assert!(used == part.len() || parser.is_done() && used < part.len()),
            Err(e) => {
                fed = Err(e);
                break;
            }
        }
        if parser.is_done() {
            break;
        }
    }
    (fed.and_then(|()| parser.finish()), parser)
}

fuzz_target!(|data: &[u8]| {
    let [how, bytes @ ..] = data else { return };
    let (piece, to_head) = (usize::from(how >> 1) + 1, how & 1 == 1);
    let (whole, a) = outcome(bytes, bytes.len().max(1), to_head);
    let (split, b) = outcome(bytes, piece, to_head);
    assert_eq!(whole.is_ok(), split.is_ok(), "{whole:?} {split:?}");
    assert_eq!(a.head(), b.head());
    if whole.is_ok() {
        assert_eq!((a.body(), a.body_bytes()), (b.body(), b.body_bytes()));
        assert!(a.body_bytes() <= BODY_LIMIT && a.body().len() as u64 == a.body_bytes());
    }
});
