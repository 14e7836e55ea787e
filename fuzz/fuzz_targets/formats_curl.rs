//! curl command lines: any text gives a request, problems within the text, or an error within it;
//! and what is redacted stays redacted.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let files = |_: &str| Ok(b"h.io\tTRUE\t/\tFALSE\t0\ta\t1".to_vec());
    for command in [text.to_string(), format!("curl h.io {text}")] {
        match formats::curl::parse_with(&command, Some("http://base"), &files) {
            Ok((template, problems)) => {
                assert!(template.url.starts_with("http"));
                assert!(problems.iter().all(|p| p.position <= command.len()));
            }
            Err(e) => assert!(e.position <= command.len()),
        }
    }
    let once = evidence::redacted_text(text);
    assert_eq!(evidence::redacted_text(&once), once);
});
