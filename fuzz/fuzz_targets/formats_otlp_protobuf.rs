//! OTLP/protobuf trace requests: any bytes give spans in order of time with whole ids, and problems within
//! the bytes.

#![no_main]

use evidence::Redactor;
use formats::otlp::{Encoding, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (spans, problems) = decode(bytes, Encoding::Protobuf, 0, &Redactor::new(1));
    assert!(problems.iter().all(|p| p.position <= bytes.len()));
    for span in spans {
        assert!(span.start <= span.end && span.trace_id.len() == 32 && span.span_id.len() == 16);
    }
});
