//! SQL text to fingerprint: a lexer that knows what is a literal, and the folding of lists. It is
//! not a parser: text that is no SQL at all still comes out with every literal replaced.

use super::VALUES_LIMIT;

/// Rules of quoting and comments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SqlDialect {
    /// PostgreSQL and SQLite: `"x"` is an identifier, a backslash is an ordinary character except
    /// in `E'…'`, `$tag$…$tag$` quotes, comments nest.
    #[default]
    Standard,
    /// MySQL and MariaDB: `"x"` is a string, a backslash escapes, `#` starts a comment, `/*!` holds
    /// text that is executed.
    Mysql,
}

/// One statement of a text.
pub(super) struct Statement {
    /// Fingerprint.
    pub text: String,
    /// Literals as the server would read them, at most [`VALUES_LIMIT`].
    pub values: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Word,
    /// A literal that was, or a parameter.
    Place,
    /// A quoted identifier.
    Quoted,
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    kind: Kind,
    /// Whether whitespace or a comment stood before it.
    spaced: bool,
}

impl Token<'_> {
    fn is(&self, text: &str) -> bool {
        self.kind != Kind::Quoted && self.text.eq_ignore_ascii_case(text)
    }

    /// Whether a `-` after this token is a subtraction.
    fn is_operand(&self) -> bool {
        match self.kind {
            Kind::Place | Kind::Quoted => true,
            Kind::Word => !BEFORE_VALUE.iter().any(|k| self.text.eq_ignore_ascii_case(k)),
            Kind::Other => matches!(self.text, ")" | "]"),
        }
    }
}

/// Keywords after which `-5` is a negative number.
const BEFORE_VALUE: [&str; 19] = [
    "select",
    "where",
    "and",
    "or",
    "in",
    "between",
    "limit",
    "offset",
    "then",
    "else",
    "when",
    "values",
    "set",
    "by",
    "return",
    "returning",
    "like",
    "not",
    "on",
];

pub(super) fn statements(text: &str, dialect: SqlDialect) -> Vec<Statement> {
    let mut lexer = Lexer { text, at: 0, dialect, spaced: false, tokens: vec![], values: vec![] };
    let mut all = Vec::new();
    loop {
        let more = lexer.statement();
        let tokens = std::mem::take(&mut lexer.tokens);
        let values = std::mem::take(&mut lexer.values);
        if !tokens.is_empty() {
            all.push(Statement { text: render(&fold(&tokens)), values });
        }
        if !more {
            return all;
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    dialect: SqlDialect,
    spaced: bool,
    tokens: Vec<Token<'a>>,
    values: Vec<Vec<u8>>,
}

impl<'a> Lexer<'a> {
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at.min(self.text.len())..]
    }

    fn push(&mut self, text: &'a str, kind: Kind) {
        self.tokens.push(Token { text, kind, spaced: self.spaced });
        self.spaced = false;
    }

    fn literal(&mut self, value: Vec<u8>) {
        if self.values.len() < VALUES_LIMIT {
            self.values.push(value);
        }
        self.push("?", Kind::Place);
    }

    /// Reads tokens up to the next `;`. False at the end of the text.
    fn statement(&mut self) -> bool {
        while self.at < self.text.len() {
            if self.skip_comment() {
                self.spaced = true;
                continue;
            }
            let c = self.byte(0);
            match c {
                b';' => {
                    self.at += 1;
                    return true;
                }
                _ if c.is_ascii_whitespace() || c.is_ascii_control() => {
                    self.at += 1;
                    self.spaced = true;
                }
                b'\'' => self.string(b'\'', self.dialect == SqlDialect::Mysql),
                b'"' if self.dialect == SqlDialect::Mysql => self.string(b'"', true),
                b'"' | b'`' => self.identifier(c),
                b'$' if self.dialect == SqlDialect::Standard => self.dollar(),
                b'0'..=b'9' => self.number(),
                b'.' if self.byte(1).is_ascii_digit() && !self.joins_left() => self.number(),
                b'?' => {
                    self.at += 1;
                    // SQLite numbers its places (`?1`); the number is not a literal.
                    while self.byte(0).is_ascii_digit() {
                        self.at += 1;
                    }
                    self.push("?", Kind::Place);
                }
                _ if is_word(c) => self.word(),
                _ => self.other(),
            }
        }
        false
    }

    /// Whether a `.` here continues a name.
    fn joins_left(&self) -> bool {
        !self.spaced && self.tokens.last().is_some_and(Token::is_operand)
    }

    fn other(&mut self) {
        // `--` that is no comment in MySQL (`1--1`) must not become one when spaces move.
        if self.byte(0) == b'-' && self.tokens.last().is_some_and(|t| t.text == "-") {
            self.spaced = true;
        }
        let text = &self.text[self.at..self.at + 1];
        self.at += 1;
        self.push(text, Kind::Other);
    }

    fn skip_comment(&mut self) -> bool {
        let mysql = self.dialect == SqlDialect::Mysql;
        let rest = self.rest();
        match rest {
            [b'-', b'-', next @ ..]
                if !mysql || next.first().is_none_or(|c| *c <= b' ' || *c == 0x7f) =>
            {
                self.skip_line();
            }
            [b'#', ..] if mysql => self.skip_line(),
            // Executed by the server: only the delimiters go.
            [b'/', b'*', b'!', ..] if mysql => self.skip_version(3),
            [b'/', b'*', b'M', b'!', ..] if mysql => self.skip_version(4),
            [b'*', b'/', ..] if mysql => self.at += 2,
            [b'/', b'*', ..] => self.skip_block(!mysql),
            _ => return false,
        }
        true
    }

    fn skip_line(&mut self) {
        let rest = self.rest();
        self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }

    fn skip_version(&mut self, mark: usize) {
        self.at += mark;
        self.at += self.rest().iter().take_while(|b| b.is_ascii_digit()).count();
    }

    fn skip_block(&mut self, nests: bool) {
        let mut depth = 0u32;
        while self.at < self.text.len() {
            match (self.byte(0), self.byte(1)) {
                (b'/', b'*') if nests || depth == 0 => depth += 1,
                (b'*', b'/') => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 2;
                        return;
                    }
                }
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            self.at += 2;
        }
    }

    /// A string from its opening quote. An unterminated one ends with the text.
    fn string(&mut self, quote: u8, backslash: bool) {
        let bytes = self.text.as_bytes();
        let mut value = Vec::new();
        self.at += 1;
        while self.at < bytes.len() {
            let c = bytes[self.at];
            self.at += 1;
            if c == quote {
                if self.byte(0) != quote {
                    break;
                }
                self.at += 1;
                value.push(quote);
            } else if c == b'\\' && backslash && self.at < bytes.len() {
                value.push(match bytes[self.at] {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'0' => 0,
                    other => other,
                });
                self.at += 1;
            } else {
                value.push(c);
            }
        }
        self.literal(value);
    }

    /// A quoted identifier, kept. An unterminated one may be anything, and is treated as a literal.
    fn identifier(&mut self, quote: u8) {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        while end < bytes.len() {
            if bytes[end] != quote {
                end += 1;
            } else if bytes.get(end + 1) == Some(&quote) {
                end += 2;
            } else {
                self.at = end + 1;
                self.push(&self.text[start..=end], Kind::Quoted);
                return;
            }
        }
        self.at = bytes.len();
        self.literal(bytes[start + 1..].to_vec());
    }

    fn dollar(&mut self) {
        let rest = self.rest();
        let digits = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 {
            let text = &self.text[self.at..=self.at + digits];
            self.at += 1 + digits;
            return self.push(text, Kind::Place);
        }
        let tag = rest[1..].iter().take_while(|b| is_word(**b) && **b != b'$').count();
        if rest.get(1 + tag) != Some(&b'$') {
            return self.other();
        }
        let delimiter = &self.text[self.at..self.at + tag + 2];
        let body = &self.text[self.at + tag + 2..];
        let (value, used) = match body.find(delimiter) {
            Some(end) => (&body[..end], end + delimiter.len()),
            None => (body, body.len()),
        };
        self.at += delimiter.len() + used;
        self.literal(value.as_bytes().to_vec());
    }

    fn number(&mut self) {
        let rest = self.rest();
        let radix = matches!(rest, [b'0', b'x' | b'X' | b'b' | b'B' | b'o' | b'O', ..]);
        let mut used = 0;
        while let Some(c) = rest.get(used) {
            let sign = matches!(c, b'+' | b'-')
                && !radix
                && used > 0
                && matches!(rest[used - 1], b'e' | b'E')
                && rest.get(used + 1).is_some_and(u8::is_ascii_digit);
            if !(c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.') || sign) {
                break;
            }
            used += 1;
        }
        let mut value: Vec<u8> = rest[..used].iter().copied().filter(|b| *b != b'_').collect();
        self.at += used;
        if self.take_sign() == Some(b'-') {
            value.insert(0, b'-');
        }
        self.literal(value);
    }

    /// A sign before the number, when it is one and not an operation on the token before it.
    fn take_sign(&mut self) -> Option<u8> {
        let sign = self.tokens.last().filter(|t| matches!(t.text, "-" | "+"))?;
        let (byte, spaced) = (sign.text.as_bytes()[0], sign.spaced);
        let before = self.tokens.len().checked_sub(2).map(|i| self.tokens[i]);
        if before.is_some_and(|t| t.is_operand()) {
            return None;
        }
        self.tokens.pop();
        self.spaced = spaced;
        Some(byte)
    }

    fn word(&mut self) {
        let start = self.at;
        self.at += self.rest().iter().take_while(|b| is_word(**b)).count();
        let text = &self.text[start..self.at];
        let mysql = self.dialect == SqlDialect::Mysql;
        match (self.byte(0), self.byte(1)) {
            (b'\'', _) if text.eq_ignore_ascii_case("e") => self.string(b'\'', true),
            (b'\'', _) if ["n", "x", "b"].iter().any(|p| text.eq_ignore_ascii_case(p)) => {
                self.string(b'\'', mysql);
            }
            (b'&', b'\'') if !mysql && text.eq_ignore_ascii_case("u") => {
                self.at += 1;
                self.string(b'\'', false);
            }
            _ => self.push(text, Kind::Word),
        }
    }
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$') || c >= 0x80
}

/// Folds lists: `IN (?, ?)`, `ARRAY[?, ?]` and `VALUES (…), (…)` keep their first element.
fn fold<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut out: Vec<Token<'a>> = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        let token = tokens[i];
        out.push(token);
        i += 1;
        let next = tokens.get(i).map_or("", |t| t.text);
        if token.kind != Kind::Word {
            continue;
        }
        if (token.is("in") && next == "(") || (token.is("array") && next == "[") {
            i = fold_constants(tokens, i, &mut out);
        } else if (token.is("values") || token.is("value")) && next == "(" {
            i = fold_tuples(tokens, i, &mut out);
        }
    }
    out
}

/// Index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, t) in tokens.iter().enumerate().skip(open) {
        match t.text {
            "(" | "[" => depth += 1,
            ")" | "]" => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

/// Copies the bracketed list at `open`, only its first element when all are constants. Returns the
/// index after what was consumed.
fn fold_constants<'a>(tokens: &[Token<'a>], open: usize, out: &mut Vec<Token<'a>>) -> usize {
    let Some(close) = closing(tokens, open) else { return open };
    let inside = &tokens[open + 1..close];
    let constant = |t: &Token<'_>| match t.kind {
        Kind::Place => true,
        Kind::Word => ["null", "true", "false", "default"].iter().any(|k| t.is(k)),
        Kind::Quoted => false,
        Kind::Other => matches!(t.text, "(" | ")" | "," | "-" | "+"),
    };
    if !inside.iter().all(constant) {
        return open;
    }
    let mut depth = 0i32;
    let first = inside.iter().take_while(|t| {
        depth += i32::from(t.text == "(") - i32::from(t.text == ")");
        depth > 0 || t.text != ","
    });
    out.push(tokens[open]);
    out.extend(first);
    out.push(tokens[close]);
    close + 1
}

/// Copies the tuples at `open`, leaving out each that looks like the one before it.
fn fold_tuples<'a>(tokens: &[Token<'a>], open: usize, out: &mut Vec<Token<'a>>) -> usize {
    let Some(mut close) = closing(tokens, open) else { return open };
    let mut kept = open..close + 1;
    out.extend(&tokens[kept.clone()]);
    while tokens.get(close + 1).is_some_and(|t| t.text == ",")
        && tokens.get(close + 2).is_some_and(|t| t.text == "(")
    {
        let start = close + 2;
        let Some(end) = closing(tokens, start) else { break };
        let alike = |a: &Token<'_>, b: &Token<'_>| {
            a.kind == b.kind && (a.kind == Kind::Place || a.text == b.text)
        };
        let (a, b) = (&tokens[kept.clone()], &tokens[start..=end]);
        if a.len() != b.len() || !a.iter().zip(b).all(|(a, b)| alike(a, b)) {
            out.extend(&tokens[close + 1..=end]);
            kept = start..end + 1;
        }
        close = end;
    }
    close + 1
}

fn render(tokens: &[Token<'_>]) -> String {
    let mut out = String::with_capacity(tokens.iter().map(|t| t.text.len() + 1).sum());
    let mut before = "(";
    for t in tokens {
        let glued = matches!(before, "(" | "[") || matches!(t.text, ")" | "]" | ",");
        if (t.spaced && !glued) || (before == "," && t.text != ",") {
            out.push(' ');
        }
        out.push_str(t.text);
        before = t.text;
    }
    out
}
