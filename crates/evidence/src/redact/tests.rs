//! What redaction promises: no literal survives, applying it twice changes nothing, nothing panics.

use super::*;
use proptest::prelude::*;

fn check(dialect: SqlDialect, cases: &[(&str, &str, &[&str])]) {
    let r = Redactor::new(7);
    for (text, fingerprint, values) in cases {
        let (got, hashes) = r.sql_in(text, dialect);
        assert_eq!(got, *fingerprint, "fingerprint of {text}");
        let wanted: Vec<_> = values.iter().map(|v| r.hash(v.as_bytes())).collect();
        assert_eq!(hashes, wanted, "values of {text}");
    }
}

#[test]
fn standard_sql() {
    check(
        SqlDialect::Standard,
        &[
            ("SELECT 1", "SELECT ?", &["1"]),
            ("select  *\n from t where id = $1;", "select * from t where id = $1", &[]),
            (
                "SELECT * FROM t WHERE a='it''s' AND b=-5",
                "SELECT * FROM t WHERE a=? AND b=?",
                &["it's", "-5"],
            ),
            ("SELECT a-1, a - 2, -3", "SELECT a-?, a - ?, ?", &["1", "2", "-3"]),
            ("x IN (1,2, 3)", "x IN (?)", &["1", "2", "3"]),
            ("x IN ($1, $2)", "x IN ($1)", &[]),
            ("x IN (select 1)", "x IN (select ?)", &["1"]),
            ("(a,b) IN ((1,2),(3,4))", "(a, b) IN ((?, ?))", &["1", "2", "3", "4"]),
            (
                "INSERT INTO t(a,b) VALUES (1,now()), (2,now())",
                "INSERT INTO t(a, b) VALUES (?, now())",
                &["1", "2"],
            ),
            ("ARRAY[1,2]", "ARRAY[?]", &["1", "2"]),
            ("a /* x /* y */ z */ b -- c\nd", "a b d", &[]),
            ("SELECT $$it's$$, $a$ $b$ $a$", "SELECT ?, ?", &["it's", " $b$ "]),
            (r"SELECT E'a\'b', 'c\', 'd'", "SELECT ?, ?, ?", &["a'b", r"c\", "d"]),
            ("\"Or der\".\"a\"\"b\" = x'1F'", "\"Or der\".\"a\"\"b\" = ?", &["1F"]),
            (
                "0xFF + 1e-5 + .5 + t1.c2 + 1_000",
                "? + ? + ? + t1.c2 + ?",
                &["0xFF", "1e-5", ".5", "1000"],
            ),
            ("'x'::text || interval '1 day'", "?::text || interval ?", &["x", "1 day"]),
            ("a->>'k' = 'v' and j ? 'x'", "a->>? = ? and j ? ?", &["k", "v", "x"]),
            ("SELECT 'unterminated", "SELECT ?", &["unterminated"]),
            ("SELECT \"unterminated", "SELECT ?", &["unterminated"]),
            ("LIMIT 10 OFFSET 20", "LIMIT ? OFFSET ?", &["10", "20"]),
            ("BEGIN; SELECT 1;; COMMIT;", "BEGIN; SELECT ?; COMMIT", &["1"]),
        ],
    );
}

#[test]
fn mysql() {
    check(
        SqlDialect::Mysql,
        &[
            (r#"SELECT "a\"b", 'c\'d', `e f`"#, "SELECT ?, ?, `e f`", &["a\"b", "c'd"]),
            ("SELECT 1 # c\n-- d\n, 5--1", "SELECT ?, ?- ?", &["1", "5", "-1"]),
            ("/*!40101 SET x = 1 */ y", "SET x = ? y", &["1"]),
            ("SELECT _utf8mb4'x'", "SELECT _utf8mb4?", &["x"]),
            ("a /* b /* c */ d", "a d", &[]),
        ],
    );
}

#[test]
fn the_same_number_hashes_equal_however_it_travels() {
    let r = Redactor::new(3);
    let literal = r.sql("SELECT * FROM t WHERE id = 42").1[0];
    assert_eq!(literal, r.hash_integer(42));
    assert_eq!(literal, r.hash_text(b"42"));
    assert_eq!(literal, r.hash_text(b"+42"));
    assert_eq!(r.hash_integer(-7), r.sql("WHERE id = -7").1[0]);
    assert_ne!(literal, Redactor::new(4).hash_integer(42));
    let uuid = "00112233-4455-6677-8899-AABBCCDDEEFF";
    let bytes: [u8; 16] = std::array::from_fn(|i| (i * 17) as u8);
    assert_eq!(r.hash_uuid(&bytes), r.hash_text(uuid.as_bytes()));
    assert_eq!(r.hash_float(12.5), r.hash_text(b"12.5"));
}

#[test]
fn keys_and_paths() {
    let r = Redactor::new(1);
    for (key, template) in [
        ("user:42:cart", "user:?:cart"),
        ("user42", "user?"),
        ("session:0b9f2f5c-1c5b-4f0e-9d0c-6f8a6a2b9c11", "session:?"),
        ("tok:9f86d081884c7d65", "tok:?"),
        ("mail:bob@example.com", "mail:?.com"),
        (":1:views.decorators.cache.header", ":?:views.decorators.cache.header"),
        ("plain", "plain"),
        ("v2:product", "v2:product"),
        ("a:QmFzZSBzaXh0eUZvdXIgdGV4dA", "a:?"),
    ] {
        assert_eq!(r.cache_key(key), template, "{key}");
    }
    for (path, template) in [
        ("/orders/42", "/orders/?"),
        ("/api/v1/users/7/items?page=3&q=secret&flag", "/api/v1/users/?/items?page=?&q=?&flag"),
        ("/o/0b9f2f5c-1c5b-4f0e-9d0c-6f8a6a2b9c11/x", "/o/?/x"),
        ("/search/hello%20world", "/search/?"),
        ("/", "/"),
        ("*", "*"),
        ("/a?b=c?d", "/a?b=?"),
    ] {
        assert_eq!(r.url_path(path), template, "{path}");
    }
}

/// Pieces of SQL in which `{}` is a literal's place.
fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(
        prop::sample::select(vec![
            "SELECT ",
            "a",
            " = ",
            "'{}'",
            "{n}",
            ", ",
            "(",
            ")",
            " IN (",
            " VALUES (",
            "-- c\n",
            "/* c */",
            "\"id\"",
            "$1",
            "?",
            "-",
            ";",
            "E'{}'",
            " $${}$$",
            " $t${}$t$",
            "[",
            "]",
            "x'{}'",
            "::text",
            ".",
            " ARRAY[",
            "+",
            "'it''s {}'",
        ]),
        0..24,
    )
}

proptest! {
    #[test]
    fn no_literal_survives(pieces in pieces(), number in 70_000u32..99_999) {
        let text: String = pieces.iter()
            .map(|p| p.replace("{}", "zqsecretqz").replace("{n}", &number.to_string()))
            .collect();
        let got = Redactor::new(1).sql(&text).0;
        prop_assert!(!got.contains("zqsecretqz"), "{text} -> {got}");
        // A digit run glued to a word belongs to the identifier.
        let glued = text.contains(&format!("a{number}")) || text.contains(&format!("text{number}"))
            || text.contains(&format!("$1{number}")) || text.contains(&format!("$t{number}"));
        prop_assert!(glued || !got.contains(&number.to_string()), "{text} -> {got}");
    }

    #[test]
    fn twice_is_once(pieces in pieces(), mysql: bool) {
        let dialect = if mysql { SqlDialect::Mysql } else { SqlDialect::Standard };
        let r = Redactor::new(1);
        let text: String = pieces.concat();
        let once = r.sql_in(&text, dialect).0;
        prop_assert_eq!(r.sql_in(&once, dialect).0, once.clone(), "{}", text);
    }

    #[test]
    fn any_text_is_safe(text in "\\PC*|[-'\"`$/*#?;:.,()\\[\\]\\\\ a1eExX\n]{0,40}", mysql: bool) {
        let dialect = if mysql { SqlDialect::Mysql } else { SqlDialect::Standard };
        let r = Redactor::new(1);
        let once = r.sql_in(&text, dialect).0;
        prop_assert_eq!(r.sql_in(&once, dialect).0, once.clone());
        let key = r.cache_key(&text);
        prop_assert_eq!(r.cache_key(&key), key.clone());
        let path = r.url_path(&text);
        prop_assert_eq!(r.url_path(&path), path.clone());
    }
}
