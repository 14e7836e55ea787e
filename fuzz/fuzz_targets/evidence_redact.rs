//! Any text as SQL, cache key and URL: redaction never panics, and twice is once.

#![no_main]

use evidence::{Redactor, SqlDialect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let r = Redactor::new(1);
    for dialect in [SqlDialect::Standard, SqlDialect::Mysql] {
        let once = r.sql_in(text, dialect).0;
        assert_eq!(r.sql_in(&once, dialect).0, once);
    }
    let key = r.cache_key(text);
    assert_eq!(r.cache_key(&key), key);
    let path = r.url_path(text);
    assert_eq!(r.url_path(&path), path);
});
