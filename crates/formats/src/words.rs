//! A command line to words, as the shell that it was copied for would split it: POSIX shells
//! (`'…'`, `"…"`, `$'…'`, backslash) and Windows `cmd` (`^`, then the C runtime's rules).
//!
//! Nothing is ever expanded: `$NAME`, `` `command` `` and `%NAME%` stay as text.

use crate::Problem;

/// One word and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Byte offset of its first character in the command line.
    pub position: usize,
    /// Contents with the quoting taken away. Not always UTF-8: `$'\xff'`.
    pub bytes: Vec<u8>,
}

/// Why a command line could not be split.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QuoteError {
    pub position: usize,
    pub message: String,
}

/// Splits a command line. The dialect is recognised: `cmd` when `^` continues a line or escapes a
/// quote and no single quote came before.
pub(crate) fn split(text: &str) -> Result<(Vec<Word>, Vec<Problem>), QuoteError> {
    if is_cmd(text) { cmd(text) } else { posix(text) }
}

fn is_cmd(text: &str) -> bool {
    let caret = ["^\"", "^\n", "^\r\n"].iter().filter_map(|c| text.find(c)).min();
    caret.is_some_and(|at| !text[..at].contains('\''))
}

const OTHER_COMMAND: &str = "everything from here on is another command and was left out";
const AMPERSAND: &str = "an unquoted & was kept as part of the word; a shell would end the \
                         command here, so quote the URL";

struct Posix<'a> {
    text: &'a str,
    at: usize,
    words: Vec<Word>,
    word: Option<Word>,
    skip_word: bool,
    problems: Vec<Problem>,
}

fn posix(text: &str) -> Result<(Vec<Word>, Vec<Problem>), QuoteError> {
    let mut lexer = Posix {
        text,
        at: 0,
        words: Vec::new(),
        word: None,
        skip_word: false,
        problems: Vec::new(),
    };
    while lexer.at < text.len() {
        if !lexer.step()? {
            break;
        }
    }
    lexer.finish_word();
    Ok((lexer.words, lexer.problems))
}

impl Posix<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn word(&mut self) -> &mut Vec<u8> {
        let position = self.at;
        &mut self.word.get_or_insert_with(|| Word { position, bytes: Vec::new() }).bytes
    }

    fn finish_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.skip_word)
        {
            self.words.push(word);
        }
    }

    fn problem(&mut self, message: &str) {
        if !self.problems.iter().any(|p| p.message == message) {
            self.problems.push(Problem::new(self.at, message));
        }
    }

    /// Handles what is at the cursor; false when the command ends here.
    fn step(&mut self) -> Result<bool, QuoteError> {
        let Some(c) = self.rest().chars().next() else { return Ok(false) };
        match c {
            ' ' | '\t' | '\r' => {
                self.finish_word();
                self.at += 1;
            }
            '\n' => return Ok(self.newline()),
            '#' if self.word.is_none() => {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            }
            '\\' => self.backslash(),
            '\'' => self.single()?,
            '"' => self.double()?,
            '$' => self.dollar()?,
            '|' | ';' | '(' | ')' => return Ok(self.other_command()),
            '&' => return Ok(self.ampersand()),
            '>' | '<' => self.redirect(),
            '“' | '”' | '‘' | '’' => {
                return Err(QuoteError {
                    position: self.at,
                    message: "a typographic quote, as text processors make them; replace it by \
                              ' or \""
                        .into(),
                });
            }
            '`' => {
                self.problem("`commands` in backquotes are not executed; kept as text");
                self.push(c);
            }
            _ => self.push(c),
        }
        Ok(true)
    }

    fn push(&mut self, c: char) {
        let mut buffer = [0; 4];
        let encoded = c.encode_utf8(&mut buffer).as_bytes();
        self.word().extend_from_slice(encoded);
        self.at += encoded.len();
    }

    /// A line break ends the command unless the next line goes on with a flag: a lost backslash.
    fn newline(&mut self) -> bool {
        self.finish_word();
        let next = self.rest().trim_start();
        let goes_on = self.words.is_empty() || next.starts_with('-') || next.starts_with("'-");
        if !goes_on && !next.is_empty() {
            self.problem(OTHER_COMMAND);
        }
        self.at += 1;
        goes_on
    }

    fn other_command(&mut self) -> bool {
        self.finish_word();
        if !self.rest().trim_matches([';', ' ', '\n']).is_empty() {
            self.problem(OTHER_COMMAND);
        }
        false
    }

    fn ampersand(&mut self) -> bool {
        let next = self.rest()[1..].chars().next();
        if next.is_none_or(|c| c.is_whitespace() || c == '&') || self.word.is_none() {
            return self.other_command();
        }
        self.problem(AMPERSAND);
        self.push('&');
        true
    }

    /// `2>/dev/null`: where output goes does not matter here; the file's name is skipped.
    fn redirect(&mut self) {
        let digits = self.word.as_ref().is_some_and(|w| w.bytes.iter().all(u8::is_ascii_digit));
        if digits {
            self.word = None;
        }
        self.finish_word();
        if self.rest().starts_with('<') {
            self.problem("input from a file is not read; use --data-binary @FILE");
        }
        self.at += self.rest().len() - self.rest().trim_start_matches(['>', '<', '&']).len();
        self.skip_word = true;
    }

    fn backslash(&mut self) {
        let after = &self.rest()[1..];
        let blank = after.trim_start_matches([' ', '\t', '\r']);
        if blank.starts_with('\n') {
            // A continuation, also with the blanks that copying sometimes leaves behind it.
            self.at += self.rest().len() - blank.len() + 1;
            return;
        }
        self.word();
        self.at += 1;
        if let Some(c) = self.rest().chars().next() {
            self.push(c);
        }
    }

    fn unclosed(&self, quote: &str) -> QuoteError {
        QuoteError {
            position: self.at,
            message: format!(
                "the quote {quote} opened here is never closed; copy the whole command"
            ),
        }
    }

    fn single(&mut self) -> Result<(), QuoteError> {
        let end = self.rest()[1..].find('\'').ok_or_else(|| self.unclosed("'"))?;
        let text = self.text;
        let start = self.at + 1;
        self.word().extend_from_slice(&text.as_bytes()[start..start + end]);
        self.at = start + end + 1;
        Ok(())
    }

    fn double(&mut self) -> Result<(), QuoteError> {
        let unclosed = self.unclosed("\"");
        self.word();
        self.at += 1;
        while let Some(c) = self.rest().chars().next() {
            match c {
                '"' => {
                    self.at += 1;
                    return Ok(());
                }
                '\\' => {
                    self.at += 1;
                    match self.rest().chars().next() {
                        Some('\n') => self.at += 1,
                        Some(e @ ('$' | '`' | '"' | '\\')) => self.push(e),
                        _ => self.word().push(b'\\'),
                    }
                }
                '$' => self.variable(),
                '`' => {
                    self.problem("`commands` in backquotes are not executed; kept as text");
                    self.push(c);
                }
                _ => self.push(c),
            }
        }
        Err(unclosed)
    }

    fn dollar(&mut self) -> Result<(), QuoteError> {
        if self.rest().starts_with("$'") {
            return self.ansi_c();
        }
        if self.rest().starts_with("$\"") {
            self.word();
            self.at += 1;
            return self.double();
        }
        self.variable();
        Ok(())
    }

    fn variable(&mut self) {
        let name = self.rest()[1..].trim_start_matches(['{', '(']);
        if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            let name: String =
                name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            self.problem(&format!(
                "${name} is not expanded, it was kept as text; in a header write env:{name}"
            ));
        }
        self.push('$');
    }

    fn ansi_c(&mut self) -> Result<(), QuoteError> {
        let unclosed = self.unclosed("$'");
        self.word();
        self.at += 2;
        while let Some(c) = self.rest().chars().next() {
            match c {
                '\'' => {
                    self.at += 1;
                    return Ok(());
                }
                '\\' => {
                    let (bytes, length) = ansi_c_escape(&self.rest()[1..]);
                    self.word().extend_from_slice(&bytes);
                    self.at += 1 + length;
                }
                _ => self.push(c),
            }
        }
        Err(unclosed)
    }
}

/// The bytes an escape of `$'…'` stands for, and the length of what follows the backslash.
fn ansi_c_escape(after: &str) -> (Vec<u8>, usize) {
    let Some(c) = after.chars().next() else { return (vec![b'\\'], 0) };
    let simple = match c {
        'n' => Some(b'\n'),
        't' => Some(b'\t'),
        'r' => Some(b'\r'),
        'a' => Some(7),
        'b' => Some(8),
        'e' | 'E' => Some(27),
        'f' => Some(12),
        'v' => Some(11),
        '\\' | '\'' | '"' | '?' => Some(c as u8),
        _ => None,
    };
    if let Some(byte) = simple {
        return (vec![byte], 1);
    }
    match c {
        '0'..='7' => {
            let (value, length) = digits(after, 8, 3);
            (vec![value as u8], length)
        }
        'x' | 'u' | 'U' => {
            let limit = if c == 'x' {
                2
            } else if c == 'u' {
                4
            } else {
                8
            };
            let (value, length) = digits(&after[1..], 16, limit);
            let bytes = match (length, c) {
                (0, _) => format!("\\{c}").into_bytes(),
                (_, 'x') => vec![value as u8],
                _ => char::from_u32(value).unwrap_or('\u{fffd}').to_string().into_bytes(),
            };
            (bytes, 1 + length)
        }
        'c' if after.len() > 1 && after.as_bytes()[1].is_ascii() => {
            (vec![after.as_bytes()[1] & 0x1f], 2)
        }
        _ => (format!("\\{c}").into_bytes(), c.len_utf8()),
    }
}

fn digits(text: &str, radix: u32, limit: usize) -> (u32, usize) {
    let length = text.chars().take(limit).take_while(|c| c.is_digit(radix)).count();
    (u32::from_str_radix(&text[..length], radix).unwrap_or(0), length)
}

fn cmd(text: &str) -> Result<(Vec<Word>, Vec<Problem>), QuoteError> {
    let (characters, problems) = cmd_carets(text);
    Ok((c_runtime_words(&characters)?, problems))
}

/// What `cmd.exe` passes on: carets outside its quotes make the next character literal; a caret
/// before a line break takes the break away.
fn cmd_carets(text: &str) -> (Vec<(char, usize)>, Vec<Problem>) {
    let (mut out, mut problems) = (Vec::new(), Vec::<Problem>::new());
    let mut quoted = false;
    let mut characters = text.char_indices().filter(|(_, c)| *c != '\r').peekable();
    while let Some((at, c)) = characters.next() {
        let rest = &text[at + c.len_utf8()..];
        match c {
            '^' if !quoted => {
                characters.next_if(|(_, c)| *c == '\n');
                out.extend(characters.next().map(|(at, c)| (c, at)));
            }
            '"' => {
                quoted = !quoted;
                out.push((c, at));
            }
            '\n' if !quoted && (out.is_empty() || rest.trim_start().starts_with('-')) => {
                out.push((' ', at));
            }
            '\n' | '|' if !quoted => {
                if !rest.trim().is_empty() {
                    problems.push(Problem::new(at, OTHER_COMMAND));
                }
                break;
            }
            '&' if !quoted => {
                if rest.starts_with([' ', '&']) || rest.is_empty() {
                    problems.push(Problem::new(at, OTHER_COMMAND));
                    break;
                }
                if problems.is_empty() {
                    problems.push(Problem::new(at, AMPERSAND));
                }
                out.push((c, at));
            }
            _ => out.push((c, at)),
        }
    }
    (out, problems)
}

/// The C runtime's splitting: `\"` is a quote, `""` within quotes too. Two backslashes are one
/// wherever they stand, not only before a quote as for the C runtime: browsers double all of them,
/// and the request they recorded is what is wanted.
fn c_runtime_words(characters: &[(char, usize)]) -> Result<Vec<Word>, QuoteError> {
    let (mut words, mut word) = (Vec::new(), None::<(usize, String)>);
    let mut opened = None;
    let mut i = 0;
    while i < characters.len() {
        let (c, at) = characters[i];
        let next = characters.get(i + 1).map(|n| n.0);
        i += 1;
        if c.is_whitespace() && opened.is_none() {
            words.extend(word.take().map(|(position, s)| Word { position, bytes: s.into_bytes() }));
            continue;
        }
        let word = &mut word.get_or_insert((at, String::new())).1;
        match c {
            '\\' => {
                let run = characters[i - 1..].iter().take_while(|(c, _)| *c == '\\').count();
                let quote = characters.get(i - 1 + run).is_some_and(|(c, _)| *c == '"');
                i += run - 1;
                word.extend(std::iter::repeat_n('\\', run / 2));
                match (run % 2 == 1, quote) {
                    (true, true) => {
                        word.push('"');
                        i += 1;
                    }
                    (true, false) => word.push('\\'),
                    (false, _) => {}
                }
            }
            '"' if opened.is_some() && next == Some('"') => {
                word.push('"');
                i += 1;
            }
            '"' => opened = if opened.is_some() { None } else { Some(at) },
            _ => word.push(c),
        }
    }
    if let Some(position) = opened {
        let message = "the quote \" opened here is never closed; copy the whole command".into();
        return Err(QuoteError { position, message });
    }
    words.extend(word.map(|(position, s)| Word { position, bytes: s.into_bytes() }));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str], problems: usize) {
        let (words, found) = split(text).unwrap();
        let words: Vec<_> =
            words.iter().map(|w| String::from_utf8_lossy(&w.bytes).into_owned()).collect();
        assert_eq!(words, expected, "{text}");
        assert_eq!(found.len(), problems, "{text}: {found:?}");
    }

    #[test]
    fn posix_words() {
        check("curl 'a b' c\"d e\"f", &["curl", "a b", "cd ef"], 0);
        check("curl 'it'\\''s' \"a\\\"b\\c\"", &["curl", "it's", "a\"b\\c"], 0);
        check("curl \\\n  -H \\\r\n x \\  \n y", &["curl", "-H", "x", "y"], 0);
        check(r"curl $'a\n\x41\u00e9\101\'\q'", &["curl", "a\nAéA'\\q"], 0);
        check("curl '' \"\"", &["curl", "", ""], 0);
        check("curl x # rest", &["curl", "x"], 0);
        check("curl x 2>/dev/null > out -s", &["curl", "x", "-s"], 0);
        check("curl x | jq .", &["curl", "x"], 1);
        check("curl x;", &["curl", "x"], 0);
        check("curl h?a=1&b=2&c=3", &["curl", "h?a=1&b=2&c=3"], 1);
        check("curl x\n-H y", &["curl", "x", "-H", "y"], 0);
        check("curl x\nls", &["curl", "x"], 1);
        check("curl \"$TOKEN\" ${B} $(c) $5", &["curl", "$TOKEN", "${B}", "$"], 4);
    }

    #[test]
    fn cmd_words() {
        check("curl ^\"http://h/a^\" ^\n  -H ^\"a: b^\"", &["curl", "http://h/a", "-H", "a: b"], 0);
        check(
            "curl ^\"h^\" --data-raw ^\"^{^\\^\"a^\\^\":1^}^\"",
            &["curl", "h", "--data-raw", "{\"a\":1}"],
            0,
        );
        check("curl \"h?a=1&b=2\" ^\r\n -d \"a\"\"b\"", &["curl", "h?a=1&b=2", "-d", "a\"b"], 0);
        check("curl ^\"h^\" -d ^\"x^\n\ny^\"", &["curl", "h", "-d", "x\ny"], 0);
        check("curl \"a\" ^\n -d \"50\"^%\"\"", &["curl", "a", "-d", "50%"], 0);
    }

    #[test]
    fn open_quotes_say_where() {
        for (text, position) in
            [("curl 'a", 5), ("curl x \"a", 7), ("curl $'a", 5), ("curl “a”", 5)]
        {
            assert_eq!(split(text).unwrap_err().position, position, "{text}");
        }
        assert_eq!(split("curl ^\"a").unwrap_err().position, 6);
    }
}
