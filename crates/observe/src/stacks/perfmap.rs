//! `/tmp/perf-PID.map`: names that a just-in-time compiler writes down for its own code.
//!
//! Grammar, one symbol a line: `START SIZE NAME`, both numbers hexadecimal. A later line replaces
//! earlier ones that it overlaps, because the memory of collected code is used again.

use std::collections::BTreeMap;

/// Bytes of a map that are read; a busy V8 writes about 100 bytes a function.
pub const MAP_LIMIT: u64 = 256 << 20;

/// Where a name came from, as far as the line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JitName {
    /// Function.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Line, 1-based.
    pub line: Option<u32>,
}

/// Names by address.
#[derive(Clone, Debug, Default)]
pub struct PerfMap {
    /// Start → end and name as written.
    ranges: BTreeMap<u64, (u64, String)>,
}

impl PerfMap {
    /// Reads a map; lines that are not symbols are counted in the second value and left out.
    pub fn parse(bytes: &[u8]) -> (PerfMap, u64) {
        let mut map = PerfMap::default();
        let mut bad = 0;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text = String::from_utf8_lossy(line);
            match parse_line(text.trim_end_matches('\r')) {
                Some((start, end, name)) => map.insert(start, end, name),
                None => bad += 1,
            }
        }
        (map, bad)
    }

    fn insert(&mut self, start: u64, end: u64, name: &str) {
        // The range before may reach into the new one; it is cut, not lost.
        if let Some((_, before)) = self.ranges.range_mut(..start).next_back() {
            before.0 = before.0.min(start);
        }
        while let Some((&inner, _)) = self.ranges.range(start..end).next() {
            self.ranges.remove(&inner);
        }
        self.ranges.insert(start, (end, name.to_owned()));
    }

    /// The name of the code at `address`.
    pub fn find(&self, address: u64) -> Option<JitName> {
        let (_, (end, name)) = self.ranges.range(..=address).next_back()?;
        (address < *end).then(|| split_name(name))
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

fn parse_line(line: &str) -> Option<(u64, u64, &str)> {
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let (start, size) = (hex(start)?, hex(size)?);
    let end = start.checked_add(size).filter(|_| size > 0)?;
    Some((start, end, name))
}

/// Splits `py::run:/app/work.py` (CPython) and `LazyCompile:*run /app/work.js:3:9` (V8; newer ones
/// write `JS:*run file:///…`) into function, file and line.
fn split_name(name: &str) -> JitName {
    let plain = || JitName { function: name.to_owned(), file: None, line: None };
    if let Some(rest) = name.strip_prefix("py::") {
        return match rest.split_once(':') {
            Some((function, file)) => {
                JitName { function: function.into(), file: Some(file.into()), line: None }
            }
            None => plain(),
        };
    }
    let Some((tag, rest)) = name.split_once(':') else { return plain() };
    if !matches!(tag, "LazyCompile" | "Function" | "JS" | "Script" | "Eval") {
        return plain();
    }
    // The tier marker: `*` optimised, `~` interpreted, `^` baseline, `+` maglev, `'` in newer V8.
    let rest = rest.trim_start_matches(['*', '~', '^', '+', '\'']);
    let (function, place) = rest.split_once(' ').unwrap_or((rest, ""));
    let function = if function.is_empty() { "(anonymous)" } else { function };
    let mut parts = place.rsplitn(3, ':');
    let (_column, line, file) = (parts.next(), parts.next(), parts.next());
    JitName {
        function: function.into(),
        file: file.map(|file| file.trim_start_matches("file://").to_owned()),
        line: line.and_then(|line| line.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn later_code_replaces_earlier_and_names_are_split() {
        let text = "1000 100 LazyCompile:*hotLoop /app/work.js:3:9\r\n1080 20 Builtin:Foo\n\
                    2000 10 py::run:/app/work.py\nrubbish\n3000 0 empty\n";
        let (map, bad) = PerfMap::parse(text.as_bytes());
        assert_eq!((map.len(), bad), (3, 2));
        let hot = map.find(0x1010).unwrap();
        assert_eq!((hot.function.as_str(), hot.line), ("hotLoop", Some(3)));
        assert_eq!(hot.file.as_deref(), Some("/app/work.js"));
        assert_eq!(map.find(0x1085).unwrap().function, "Builtin:Foo");
        assert_eq!(map.find(0x10f0), None);
        assert_eq!(map.find(0x2001).unwrap().file.as_deref(), Some("/app/work.py"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_ranges_never_overlap(
            lines in proptest::collection::vec((0u64..4096, 0u64..512, "[ -~]{0,12}"), 0..60),
            noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut text: Vec<u8> = Vec::new();
            for (start, size, name) in &lines {
                text.extend(format!("{start:x} {size:x} {name}\n").bytes());
            }
            text.extend(noise);
            let (map, _) = PerfMap::parse(&text);
            let mut reached = 0;
            for (start, (end, _)) in &map.ranges {
                prop_assert!(*start >= reached && end >= start);
                reached = *end;
            }
        }
    }
}
