//! A connection that begins as TLS and goes on as any bytes: framing never panics, stays
//! bounded, and gives the same calls however the bytes are cut.

#![no_main]

mod wire_conversation;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| wire_conversation::check(b"\x16\x03\x01\0\x02\x01\0", data));
