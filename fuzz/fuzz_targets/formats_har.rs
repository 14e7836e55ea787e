//! HAR files: any bytes give endpoints with problems within them, or an error; the same recording
//! within a valid frame too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let framed = [b"{\"log\":{\"entries\":[".as_slice(), bytes, b"]}}"].concat();
    for input in [bytes, &framed] {
        if let Ok((endpoints, problems)) = formats::har::parse(input) {
            assert!(problems.iter().all(|p| p.position <= input.len()));
            assert!(endpoints.iter().all(|e| e.template.url.starts_with("http")));
            assert!(endpoints.windows(2).all(|e| e[0].recorded_ms >= e[1].recorded_ms));
        }
    }
});
