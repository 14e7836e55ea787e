//! Reading RESP values one by one, whatever the cut of the input. Only the leading words of a value
//! are kept; a value of gigabytes costs no memory.

use evidence::Nanos;

/// Longest line.
const LINE_LIMIT: usize = 64 << 10;

/// Deepest nesting.
const DEPTH_LIMIT: usize = 32;

/// Leading words kept of a value.
pub(super) const WORDS_LIMIT: usize = 300;

/// Bytes kept of one word.
const WORD_LIMIT: usize = 512;

/// One top-level value.
#[derive(Debug, Default)]
pub(super) struct Value {
    /// Its type byte; 0 for an inline command.
    pub kind: u8,
    /// Elements of the outermost aggregate (keys and values of a map counted each).
    pub elements: u64,
    /// Elements that are null.
    pub nulls: u64,
    pub null: bool,
    /// Leading strings of the outermost level, cut to 512 bytes each.
    pub words: Vec<Vec<u8>>,
    /// First word of an error.
    pub error: Option<String>,
    pub number: Option<i64>,
    pub bytes: u64,
    pub begun: Nanos,
}

/// Outcome of [`Reader::next`].
pub(super) enum Read {
    Value(Value),
    More,
    Bad,
}

/// An aggregate being read.
#[derive(Debug)]
struct Level {
    left: u64,
    /// An attribute (`|`): what follows it is the value proper.
    attribute: bool,
}

/// Reader of one direction.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    /// Bytes left of a bulk string, its line end included.
    bulk: u64,
    /// Kind of that bulk string.
    bulk_kind: u8,
    /// Bytes of its word still to be kept.
    keep: usize,
    levels: Vec<Level>,
    value: Option<Value>,
}

impl Reader {
    pub fn buffered(&self) -> usize {
        let words = self.value.as_ref().map_or(0, |v| v.words.iter().map(Vec::capacity).sum());
        self.line.capacity() + words
    }

    /// Missing bytes that lie within a long string are skipped like the rest of it.
    pub fn absorb(&mut self, bytes: u64) -> bool {
        if self.bulk <= bytes {
            return false;
        }
        self.bulk -= bytes;
        self.keep = 0;
        true
    }

    /// Reads the next top-level value off `input`.
    pub fn next(&mut self, input: &mut &[u8], at: Nanos, inline: bool) -> Read {
        loop {
            if self.bulk > 0 {
                self.fill_bulk(input);
                if self.bulk > 0 {
                    return Read::More;
                }
                if self.bulk_kind == b'!' {
                    self.bulk_error();
                }
                if self.element_done() {
                    return self.finish();
                }
                continue;
            }
            if input.is_empty() {
                return Read::More;
            }
            if self.value.is_none() {
                self.value = Some(Value { begun: at, ..Value::default() });
            }
            let end = input.iter().position(|b| *b == b'\n').map_or(input.len(), |p| p + 1);
            let (taken, rest) = input.split_at(end);
            *input = rest;
            self.line.extend_from_slice(taken);
            if let Some(v) = &mut self.value {
                v.bytes += taken.len() as u64;
            }
            if self.line.len() > LINE_LIMIT {
                return Read::Bad;
            }
            if self.line.last() != Some(&b'\n') {
                return Read::More;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r\n").unwrap_or(&line[..line.len() - 1]);
            match self.take_line(line, inline) {
                Some(true) => return self.finish(),
                Some(false) => {}
                None => return Read::Bad,
            }
        }
    }

    fn finish(&mut self) -> Read {
        self.levels.clear();
        Read::Value(self.value.take().unwrap_or_default())
    }

    /// True when the top-level value is complete; `None` when the line is no RESP.
    fn take_line(&mut self, line: &[u8], inline: bool) -> Option<bool> {
        let top = self.levels.is_empty();
        let value = self.value.as_mut()?;
        let Some((kind, rest)) = line.split_first() else {
            // An empty line: ignored between inline commands.
            self.value = None;
            return if top && inline { Some(false) } else { None };
        };
        if inline && top && *kind != b'*' {
            let words = line.split(|b| *b == b' ' || *b == b'\t').filter(|w| !w.is_empty());
            value.words = words.take(WORDS_LIMIT).map(|w| clip(w).to_vec()).collect();
            return Some(true);
        }
        if top {
            value.kind = *kind;
        }
        let attribute = self.levels.last().is_some_and(|l| l.attribute);
        match kind {
            b'$' | b'=' | b'!' => self.start_bulk(*kind, number(rest)?),
            b'*' | b'~' | b'>' | b'%' | b'|' => self.start_aggregate(*kind, number(rest)?),
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                if top {
                    value.number = number(rest);
                    value.null = *kind == b'_';
                }
                if *kind == b'-' && top {
                    value.error = Some(error_word(rest));
                } else if self.levels.len() == 1 && !attribute {
                    value.nulls += u64::from(*kind == b'_');
                    push_word(value, rest);
                }
                Some(self.element_done())
            }
            _ => None,
        }
    }

    fn start_bulk(&mut self, kind: u8, length: i64) -> Option<bool> {
        let depth = self.levels.len();
        let value = self.value.as_mut()?;
        if length < 0 {
            value.null |= depth == 0;
            value.nulls += u64::from(depth == 1);
            if depth == 1 {
                push_word(value, b"");
            }
            return Some(self.element_done());
        }
        self.keep = 0;
        if value.words.len() < WORDS_LIMIT && (depth == 1 || kind == b'!') {
            value.words.push(Vec::new());
            self.keep = WORD_LIMIT.min(length as usize);
        }
        self.bulk = length as u64 + 2;
        self.bulk_kind = kind;
        Some(false)
    }

    fn start_aggregate(&mut self, kind: u8, count: i64) -> Option<bool> {
        let value = self.value.as_mut()?;
        if self.levels.len() >= DEPTH_LIMIT {
            return None;
        }
        let count = u64::try_from(count).unwrap_or(0);
        let count = if matches!(kind, b'%' | b'|') { count.checked_mul(2)? } else { count };
        if self.levels.is_empty() {
            value.elements = count;
            value.null = count == 0;
        }
        if count == 0 {
            return if kind == b'|' { Some(false) } else { Some(self.element_done()) };
        }
        self.levels.push(Level { left: count, attribute: kind == b'|' });
        Some(false)
    }

    /// An element ended: so may the aggregates around it. True when the outermost has.
    fn element_done(&mut self) -> bool {
        while let Some(level) = self.levels.last_mut() {
            level.left -= 1;
            if level.left > 0 {
                return false;
            }
            if self.levels.pop().is_some_and(|l| l.attribute) {
                if self.levels.is_empty() {
                    self.forget_attribute();
                }
                return false;
            }
        }
        true
    }

    fn forget_attribute(&mut self) {
        if let Some(v) = &mut self.value {
            *v = Value { bytes: v.bytes, begun: v.begun, ..Value::default() };
        }
    }

    fn fill_bulk(&mut self, input: &mut &[u8]) {
        let n = self.bulk.min(input.len() as u64) as usize;
        let (taken, rest) = input.split_at(n);
        *input = rest;
        self.bulk -= n as u64;
        let Some(value) = &mut self.value else { return };
        value.bytes += n as u64;
        let keep = self.keep.min(n);
        if keep > 0
            && let Some(word) = value.words.last_mut()
        {
            word.extend_from_slice(&taken[..keep]);
            self.keep -= keep;
        }
    }

    fn bulk_error(&mut self) {
        if let (true, Some(v)) = (self.levels.is_empty(), &mut self.value) {
            v.error = Some(error_word(v.words.last().map_or(b"", |w| w)));
        }
    }
}

fn push_word(value: &mut Value, word: &[u8]) {
    if value.words.len() < WORDS_LIMIT {
        value.words.push(clip(word).to_vec());
    }
}

fn clip(word: &[u8]) -> &[u8] {
    &word[..word.len().min(WORD_LIMIT)]
}

fn number(text: &[u8]) -> Option<i64> {
    // Streamed aggregates (`*?`) are not sent by any server.
    std::str::from_utf8(text).ok()?.trim().parse().ok().filter(|n: &i64| *n < 1 << 40)
}

/// `WRONGTYPE` of `WRONGTYPE Operation against …`: the word, never the message.
fn error_word(text: &[u8]) -> String {
    let word: String = String::from_utf8_lossy(text)
        .split(' ')
        .next()
        .unwrap_or("")
        .chars()
        .filter(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
        .take(32)
        .collect();
    if word.is_empty() { "ERR".into() } else { word }
}
