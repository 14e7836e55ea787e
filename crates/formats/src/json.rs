//! JSON without building it: walks objects and arrays of large or damaged documents and hands out
//! slices of their values. Never recursive, so nesting costs nothing; what was read before a
//! damaged place stays read.

/// The text of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice<'a> {
    /// From its first byte to its last, or to the end of the document when it is cut off.
    pub text: &'a [u8],
    /// Byte offset in the document.
    pub position: usize,
    /// False when the document ends inside it.
    pub whole: bool,
}

impl<'a> Slice<'a> {
    /// The value a document consists of; more may follow (`JSON lines`), see [`documents`].
    pub fn new(document: &'a [u8]) -> Slice<'a> {
        let at = if document.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        slice(document, 0, skip_blanks(document, at))
    }

    /// Key and value pairs when it is an object, else none. Keys are as written, escapes and all.
    pub fn members(self) -> impl Iterator<Item = (&'a [u8], Slice<'a>)> {
        let mut at = if self.text.first() == Some(&b'{') { 1 } else { self.text.len() };
        std::iter::from_fn(move || {
            at = skip_separators(self.text, at);
            if self.text.get(at) != Some(&b'"') {
                return None;
            }
            let (end, whole) = skip_string(self.text, at);
            let colon = skip_blanks(self.text, end);
            if !whole || self.text.get(colon) != Some(&b':') {
                return None;
            }
            let key = &self.text[at + 1..end - 1];
            let value = skip_blanks(self.text, colon + 1);
            if value >= self.text.len() {
                return None;
            }
            let value = slice(self.text, self.position, value);
            at = value.position - self.position + value.text.len();
            Some((key, value))
        })
    }

    /// The value of a key.
    pub fn get(self, key: &str) -> Option<Slice<'a>> {
        self.members().find(|(k, _)| *k == key.as_bytes()).map(|(_, v)| v)
    }

    /// The elements when it is an array, else none.
    pub fn elements(self) -> impl Iterator<Item = Slice<'a>> {
        let mut at = if self.text.first() == Some(&b'[') { 1 } else { self.text.len() };
        std::iter::from_fn(move || {
            at = skip_separators(self.text, at);
            if matches!(self.text.get(at), None | Some(b']' | b'}')) {
                return None;
            }
            let value = slice(self.text, self.position, at);
            at = value.position - self.position + value.text.len();
            Some(value)
        })
    }
}

/// All values of a document, one after the other.
pub(crate) fn documents(document: &[u8]) -> impl Iterator<Item = Slice<'_>> {
    let mut at = if document.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    std::iter::from_fn(move || {
        at = skip_separators(document, at);
        if at >= document.len() {
            return None;
        }
        let value = slice(document, 0, at);
        at += value.text.len();
        Some(value)
    })
}

/// The value that starts at `at`. Always at least one byte long, so that every walk advances.
fn slice(text: &[u8], offset: usize, at: usize) -> Slice<'_> {
    let (end, whole) = match text.get(at) {
        Some(b'"') => skip_string(text, at),
        Some(b'{' | b'[') => skip_nested(text, at),
        Some(_) => skip_scalar(text, at),
        None => (at, false),
    };
    Slice { text: text.get(at..end).unwrap_or_default(), position: offset + at, whole }
}

fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn skip_separators(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(|b| b.is_ascii_whitespace() || *b == b',') {
        at += 1;
    }
    at
}

/// End of the string that starts at `at`.
fn skip_string(text: &[u8], at: usize) -> (usize, bool) {
    let mut i = at + 1;
    while let Some(byte) = text.get(i) {
        match byte {
            b'\\' => i += 2,
            b'"' => return (i + 1, true),
            _ => i += 1,
        }
    }
    (text.len(), false)
}

fn skip_nested(text: &[u8], at: usize) -> (usize, bool) {
    let (mut i, mut depth) = (at, 0_usize);
    while let Some(byte) = text.get(i) {
        match byte {
            b'"' => {
                i = skip_string(text, i).0;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return (i + 1, true);
                }
            }
            _ => {}
        }
        i += 1;
    }
    (text.len(), false)
}

fn skip_scalar(text: &[u8], at: usize) -> (usize, bool) {
    let ends = |b: &u8| b.is_ascii_whitespace() || b",]}:".contains(b);
    let length = text[at..].iter().position(ends).unwrap_or(text.len() - at);
    (at + length.max(1), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_what_is_there() {
        let document = br#" {"a\"b": [1, "x]", {"c":[2]} ,null], "d" : tru"#;
        let root = Slice::new(document);
        assert!(!root.whole);
        let keys: Vec<_> = root.members().map(|m| String::from_utf8_lossy(m.0)).collect();
        assert_eq!(keys, ["a\\\"b", "d"]);
        let array = root.get("a\\\"b").unwrap();
        let items: Vec<_> = array.elements().map(|e| String::from_utf8_lossy(e.text)).collect();
        assert_eq!(items, ["1", "\"x]\"", "{\"c\":[2]}", "null"]);
        let third = array.elements().nth(2).unwrap();
        assert_eq!(&document[third.position..][..third.text.len()], third.text);
        assert!(root.get("d").unwrap().elements().next().is_none());
    }

    #[test]
    fn cut_off_values_reach_to_the_end() {
        let root = Slice::new(br#"{"a":[{"b":1},{"b":"#);
        let elements: Vec<_> = root.get("a").unwrap().elements().collect();
        assert_eq!(elements.iter().map(|e| e.whole).collect::<Vec<_>>(), [true, false]);
        let lines: Vec<_> = documents(b"{}\n{\"a\":1}\n[").map(|d| d.whole).collect();
        assert_eq!(lines, [true, true, false]);
        let deep = vec![b'['; 1 << 20];
        assert!(!Slice::new(&deep).whole);
    }

    #[test]
    fn always_advances() {
        for text in ["{,}", "[}", "[:::]", "{\"a\" 1}", "{\"a\":", "}", "\"", "[\\", "{\"a\":]"] {
            let root = Slice::new(text.as_bytes());
            assert!(root.members().count() + root.elements().count() < 10, "{text}");
            assert!(documents(text.as_bytes()).count() < 10, "{text}");
        }
    }
}
