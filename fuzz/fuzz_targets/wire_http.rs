//! A connection that begins as HTTP and goes on as any bytes: framing never panics, stays
//! bounded, and gives the same calls however the bytes are cut.

#![no_main]

mod wire_conversation;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| wire_conversation::check(b"GET / HTTP/1.1\r\n\r\n", data));
