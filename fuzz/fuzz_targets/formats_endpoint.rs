//! Endpoints, headers and login files: any text gives a request or an error; URLs that come out are
//! absolute, and redacting them twice changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(endpoint) = formats::endpoint::parse(text, Some("http://base")) {
        let url = &endpoint.template.url;
        assert!(url.starts_with("http://") || url.starts_with("https://"));
        let once = evidence::redacted_url(url);
        assert_eq!(evidence::redacted_url(&once), once);
        // What was understood once is understood again, as the same.
        let again = formats::endpoint::parse(url, None).unwrap();
        assert_eq!(&again.template.url, url);
    }
    let _ = formats::endpoint::header(text);
    let _ = formats::login::parse(text, Some("http://base"));
});
