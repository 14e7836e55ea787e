//! A connection that begins as memcached and goes on as any bytes: framing never panics, stays
//! bounded, and gives the same calls however the bytes are cut.

#![no_main]

mod wire_conversation;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| wire_conversation::check(b"get a\r\n", data));
