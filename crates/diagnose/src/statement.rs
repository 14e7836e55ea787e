//! The shape of a SQL statement, as far as a fix needs it: verb, table, and the columns compared
//! with parameters. A tokenizer and a few patterns, not a parser: what is not understood stays
//! `None`, and the fix then quotes the statement instead of rewriting it.

use evidence::Protocol;

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads.
    Select,
    /// Adds rows.
    Insert,
    /// Changes rows.
    Update,
    /// Removes rows.
    Delete,
    /// Anything else.
    Other,
}

/// A comparison `column = parameter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Column without its qualifier or quotes.
    pub column: String,
    /// Which parameter, 0-based in order of appearance (or by its number).
    pub param: usize,
    tokens: (usize, usize),
}

/// The shape of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Verb.
    pub verb: Verb,
    /// First table named, without schema or quotes.
    pub table: Option<String>,
    /// Comparisons in the `WHERE` clause.
    pub filters: Vec<Filter>,
    /// Whether it already takes a list: `IN (…, …)` or `= ANY`.
    pub takes_list: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    spaced: bool,
    depth: u16,
}

impl Token {
    fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }
}

/// Reads a statement.
pub fn read(text: &str) -> Shape {
    let tokens = tokens(text);
    let verb = match tokens.first() {
        Some(t) if t.is("select") || t.is("with") => Verb::Select,
        Some(t) if t.is("insert") => Verb::Insert,
        Some(t) if t.is("update") => Verb::Update,
        Some(t) if t.is("delete") => Verb::Delete,
        _ => Verb::Other,
    };
    let table = table(&tokens, verb);
    let (filters, takes_list) = filters(&tokens);
    Shape { verb, table, filters, takes_list, tokens }
}

/// Whether a text holds a placeholder for a value: `$1`, `?`, `%s`, `:name`, `@p1`.
pub fn has_placeholder(text: &str) -> bool {
    tokens(text).iter().any(|t| placeholder(&t.text).is_some())
}

/// Whether a statement is set-up or bookkeeping of a session, not work of the request.
pub fn is_session(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "begin",
        "start",
        "commit",
        "rollback",
        "savepoint",
        "release",
        "set",
        "show",
        "discard",
        "deallocate",
        "reset",
        "listen",
        "unlisten",
        "use",
        "ping",
        "close",
        "prepare",
    ];
    let t = tokens(text);
    let select_one = t.len() == 2 && t[0].is("select") && placeholder(&t[1].text).is_some();
    let one = t.len() == 2 && t[0].is("select") && t[1].is("1");
    select_one || one || t.first().is_some_and(|f| WORDS.iter().any(|w| f.is(w)))
}

/// The statement that fetches for many values of `param` at once, in the dialect of `protocol`:
/// `= ANY($1)` for PostgreSQL, `IN (…)` elsewhere. Drops a `LIMIT` that held for a single value.
/// `None` unless the statement reads and compares a column with that parameter.
pub fn batch(shape: &Shape, param: usize, protocol: Protocol) -> Option<String> {
    if shape.verb != Verb::Select || shape.takes_list {
        return None;
    }
    let filter = shape.filters.iter().find(|f| f.param == param)?;
    let (from, to) = filter.tokens;
    let mut out = String::new();
    let mut i = 0;
    while i < shape.tokens.len() {
        let t = &shape.tokens[i];
        if t.is("limit") && t.depth == 0 {
            i += 2;
            continue;
        }
        if t.spaced && !out.is_empty() {
            out.push(' ');
        }
        if i == from {
            let list = match protocol {
                Protocol::Postgres => format!("= ANY({})", shape.tokens[to].text),
                _ => "IN (?, ?, …)".to_string(),
            };
            out.push_str(&list);
            i = to + 1;
            continue;
        }
        out.push_str(&t.text);
        i += 1;
    }
    Some(with_key(&out, &shape.tokens[from - 1].text, shape))
}

/// Adds the key to the select list when it is not there: the caller joins rows by it.
fn with_key(text: &str, key: &str, shape: &Shape) -> String {
    let from = shape.tokens.iter().position(|t| t.is("from") && t.depth == 0);
    let Some(from) = from else { return text.to_string() };
    let list = &shape.tokens[1..from];
    let same = |t: &Token| bare(&t.text).eq_ignore_ascii_case(&bare(key));
    let has = list.iter().any(|t| t.text.ends_with('*') || same(t));
    if has || !shape.tokens[0].is("select") {
        return text.to_string();
    }
    text.replacen(&shape.tokens[0].text, &format!("{} {key},", shape.tokens[0].text), 1)
}

/// A name without qualifier and quotes: `"o"."id"` gives `id`.
pub fn bare(name: &str) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.trim_matches(['"', '`', '[', ']']).to_string()
}

/// A plural table name as the thing it holds: `order_items` gives `order_item`.
pub fn singular(table: &str) -> String {
    if let Some(stem) = table.strip_suffix("ies") {
        return format!("{stem}y");
    }
    for es in ["sses", "xes", "ches", "shes"] {
        if table.ends_with(es) {
            return table[..table.len() - 2].to_string();
        }
    }
    match table.strip_suffix('s') {
        Some(stem) if !stem.ends_with('s') && !stem.is_empty() => stem.to_string(),
        _ => table.to_string(),
    }
}

/// Whether a statement reads nothing but aggregates: `SELECT SUM(total) FROM …` without groups.
pub fn is_aggregate(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let Some((list, rest)) = text.strip_prefix("select ").and_then(|t| t.split_once(" from "))
    else {
        return false;
    };
    let list = list.trim_start().trim_start_matches("coalesce(");
    let functions = ["count(", "sum(", "avg(", "min(", "max("];
    functions.iter().any(|f| list.starts_with(f)) && !rest.contains("group by")
}

/// `order_item` as a class name: `OrderItem`.
pub fn class_name(table: &str) -> String {
    let word = |w: &str| {
        let mut c = w.chars();
        c.next().map(|f| f.to_uppercase().collect::<String>() + c.as_str()).unwrap_or_default()
    };
    singular(table).split(['_', '-']).map(word).collect()
}

fn table(tokens: &[Token], verb: Verb) -> Option<String> {
    let before = match verb {
        Verb::Select | Verb::Delete => "from",
        Verb::Insert => "into",
        Verb::Update => return tokens.get(1).map(|t| bare(&t.text)),
        Verb::Other => return None,
    };
    let at = tokens.iter().position(|t| t.is(before))?;
    let next = tokens.get(at + 1)?;
    is_name(&next.text).then(|| bare(&next.text))
}

fn filters(tokens: &[Token]) -> (Vec<Filter>, bool) {
    let mut out = Vec::new();
    let mut takes_list = false;
    let Some(from) = tokens.iter().position(|t| t.is("where")) else { return (out, false) };
    let mut ordinal = tokens[..from].iter().filter(|t| placeholder(&t.text) == Some(None)).count();
    for i in from..tokens.len() {
        let t = &tokens[i];
        if t.is("any") {
            takes_list = true;
        }
        if t.is("in") && tokens.get(i + 3).is_some_and(|c| c.text == "," || c.text == "…") {
            takes_list = true;
        }
        let Some(number) = placeholder(&t.text) else { continue };
        let param = number.unwrap_or(ordinal);
        if number.is_none() {
            ordinal += 1;
        }
        let compared = i >= 2 && tokens[i - 1].text == "=" && is_name(&tokens[i - 2].text);
        if compared {
            let column = bare(&tokens[i - 2].text);
            out.push(Filter { column, param, tokens: (i - 1, i) });
        }
    }
    (out, takes_list)
}

/// `Some(Some(n))` for a numbered placeholder (0-based), `Some(None)` for one known by its place.
fn placeholder(token: &str) -> Option<Option<usize>> {
    if let Some(n) = token.strip_prefix('$') {
        return n.parse::<usize>().ok().filter(|n| *n > 0).map(|n| Some(n - 1));
    }
    let by_place = token == "?"
        || token == "%s"
        || (token.starts_with("%(") && token.ends_with(")s"))
        || (token.len() > 1 && token.starts_with([':', '@']) && !token.starts_with("::"));
    by_place.then_some(None)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '"' || c == '`' || c == '[')
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut i, mut depth, mut spaced) = (Vec::new(), 0, 0u16, false);
    while i < chars.len() {
        let start = i;
        let c = chars[i];
        if c.is_whitespace() {
            spaced = true;
            i += 1;
            continue;
        }
        i = token_end(&chars, i);
        if c == ')' {
            depth = depth.saturating_sub(1);
        }
        out.push(Token { text: chars[start..i].iter().collect(), spaced, depth });
        if c == '(' {
            depth = depth.saturating_add(1);
        }
        spaced = false;
    }
    out
}

fn token_end(chars: &[char], start: usize) -> usize {
    let c = chars[start];
    let next = chars.get(start + 1).copied().unwrap_or(' ');
    let until = |from: usize, stop: char| {
        chars[from..].iter().position(|&x| x == stop).map_or(chars.len(), |n| from + n + 1)
    };
    let word = |x: char| x.is_alphanumeric() || "_$.\"`*".contains(x);
    match c {
        '\'' => until(start + 1, '\''),
        '[' if next.is_alphabetic() => until(start + 1, ']'),
        '%' if next == 's' => start + 2,
        '%' if next == '(' => until(start, ')').min(chars.len().saturating_sub(1)) + 1,
        ':' if next == ':' => start + 2,
        ':' | '@' | '$' if next.is_alphanumeric() || next == '_' => {
            let rest = &chars[start + 1..];
            let more = |x: &char| x.is_alphanumeric() || *x == '_';
            start + 1 + rest.iter().take_while(|x| more(x)).count()
        }
        c if c.is_alphanumeric() || "_\"`".contains(c) => {
            start + chars[start..].iter().take_while(|&&x| word(x)).count()
        }
        '<' | '>' | '!' if next == '=' || (c == '<' && next == '>') => start + 2,
        _ => start + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, protocol: Protocol, table: &str, column: &str, expected: Option<&str>) {
        let shape = read(text);
        assert_eq!(shape.table.as_deref(), Some(table), "{text}");
        let filter = shape.filters.first().expect("a filter");
        assert_eq!(filter.column, column, "{text}");
        assert_eq!(batch(&shape, filter.param, protocol).as_deref(), expected, "{text}");
    }

    #[test]
    fn aggregates_are_told_from_rows() {
        let check = |text: &str, want: bool| assert_eq!(is_aggregate(text), want, "{text}");
        check("SELECT SUM(total) FROM orders WHERE placed >= ?", true);
        check("select coalesce(max(id), ?) from t where owner = $1", true);
        check("select count(*) from t where owner = ?", true);
        check("select owner, count(*) from t where owner in (?) group by owner", false);
        check("select count_of from t where id = ?", false);
        check("update t set n = ?", false);
    }

    #[test]
    fn shapes() {
        use Protocol::{Mysql, Postgres};
        check(
            "select * from items where order_id = $1",
            Postgres,
            "items",
            "order_id",
            Some("select * from items where order_id = ANY($1)"),
        );
        check(
            r#"SELECT "c"."name" FROM "s"."people" AS "c" WHERE "c"."id" = $1 LIMIT $2"#,
            Postgres,
            "people",
            "id",
            Some(
                r#"SELECT "c"."id", "c"."name" FROM "s"."people" AS "c" WHERE "c"."id" = ANY($1)"#,
            ),
        );
        check(
            "select `id`, `n` from `t` where `id` = ? and x = ? limit ?",
            Mysql,
            "t",
            "id",
            Some("select `id`, `n` from `t` where `id` IN (?, ?, …) and x = ?"),
        );
        check("update t set a = ? where id = ?", Mysql, "t", "id", None);
        check(
            "SELECT x FROM t WHERE id = %s",
            Postgres,
            "t",
            "id",
            Some("SELECT id, x FROM t WHERE id = ANY(%s)"),
        );
    }

    #[test]
    fn parameters_are_numbered() {
        let shape = read("update t set a = ?, b = ? where id = ?");
        assert_eq!(shape.filters[0].param, 2);
        assert_eq!(read("select 1 from t where b = $2 and a = $1").filters[0].param, 1);
        assert!(read("select * from t where id in (?, ?)").takes_list);
        assert!(read("select * from t where id = any($1)").takes_list);
        assert!(is_session("BEGIN") && is_session("select 1") && !is_session("select a from t"));
    }

    #[test]
    fn names() {
        assert_eq!(class_name("order_items"), "OrderItem");
        assert_eq!(singular("categories"), "category");
        assert_eq!(singular("boxes"), "box");
        assert_eq!(singular("address"), "address");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,80}", p in 0usize..3) {
            let shape = read(&text);
            let _ = (batch(&shape, p, Protocol::Postgres), is_session(&text));
            let _ = (has_placeholder(&text), class_name(&text));
        }
    }
}
