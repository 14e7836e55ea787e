//! Contents of PostgreSQL messages. Every reader takes what is there: a message that is cut short
//! yields its beginning.

use crate::codec::{Context, PARAMS_LIMIT, Sketch};
use crate::protocols::sniff::Verdict;
use evidence::{Redactor, ValueHash};
use sha2::{Digest, Sha256};

/// Columns read from one RowDescription; PostgreSQL allows 1,664.
const COLUMNS_LIMIT: usize = 1664;

/// A result column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub name: String,
    type_oid: u32,
    format: u16,
}

/// A Bind message.
#[derive(Debug, Default)]
pub(super) struct Bind {
    pub portal: String,
    pub statement: String,
    formats: Vec<u16>,
    /// Raw values; `None` for NULL.
    values: Vec<Option<Vec<u8>>>,
    pub result_formats: Vec<u16>,
}

/// The bytes up to the next zero, and the position after it.
pub(super) fn cstring(b: &[u8], at: usize) -> (&[u8], usize) {
    let rest = b.get(at..).unwrap_or(&[]);
    let end = rest.iter().position(|c| *c == 0).unwrap_or(rest.len());
    (&rest[..end], at + end + 1)
}

fn be16(b: &[u8], at: &mut usize) -> Option<u16> {
    let v = b.get(*at..*at + 2)?;
    *at += 2;
    Some(u16::from_be_bytes([v[0], v[1]]))
}

fn be32(b: &[u8], at: &mut usize) -> Option<u32> {
    let v = b.get(*at..*at + 4)?;
    *at += 4;
    Some(u32::from_be_bytes([v[0], v[1], v[2], v[3]]))
}

fn formats(b: &[u8], at: &mut usize) -> Option<Vec<u16>> {
    let n = be16(b, at)?;
    (0..n).map(|_| be16(b, at)).collect()
}

/// A counted list of type oids, as in Parse and ParameterDescription.
pub(super) fn parse_types(b: &[u8], mut at: usize) -> Vec<u32> {
    let Some(n) = be16(b, &mut at) else { return Vec::new() };
    (0..n).map_while(|_| be32(b, &mut at)).collect()
}

impl Bind {
    pub fn read(b: &[u8]) -> Bind {
        let (portal, at) = cstring(b, 0);
        let (statement, mut at) = cstring(b, at);
        let mut bind = Bind {
            portal: String::from_utf8_lossy(portal).into_owned(),
            statement: String::from_utf8_lossy(statement).into_owned(),
            ..Bind::default()
        };
        let _ = bind.read_values(b, &mut at);
        bind
    }

    fn read_values(&mut self, b: &[u8], at: &mut usize) -> Option<()> {
        self.formats = formats(b, at)?;
        let n = be16(b, at)?;
        for i in 0..n {
            let value = match be32(b, at)?.cast_signed() {
                length if length < 0 => None,
                length => {
                    let v = b.get(*at..at.checked_add(length as usize)?)?;
                    *at += v.len();
                    Some(v)
                }
            };
            if usize::from(i) < PARAMS_LIMIT {
                self.values.push(value.map(<[u8]>::to_vec));
            }
        }
        self.result_formats = formats(b, at)?;
        Some(())
    }

    /// Hashes of the parameters, of which the statement's types are known or not.
    pub fn hashes(&self, types: &[u32], redactor: &Redactor) -> Vec<ValueHash> {
        let hash = |(i, v): (usize, &Option<Vec<u8>>)| {
            let Some(v) = v else { return redactor.hash(b"\0null") };
            let type_oid = types.get(i).copied().unwrap_or(0);
            hash_value(v, format_of(&self.formats, i) == 1, type_oid, redactor)
        };
        self.values.iter().enumerate().map(hash).collect()
    }
}

/// Format of the `i`th value: none given means text, one given means that one for all.
fn format_of(formats: &[u16], i: usize) -> u16 {
    match formats {
        [] => 0,
        [one] => *one,
        many => many.get(i).copied().unwrap_or(0),
    }
}

/// Hash of a value by format and type oid (0: not known).
fn hash_value(v: &[u8], binary: bool, type_oid: u32, redactor: &Redactor) -> ValueHash {
    if !binary {
        return redactor.hash_text(v);
    }
    // int8 20, int2 21, int4 23, oid 26, float4 700, float8 701, bool 16, uuid 2950; text-like
    // types are their own bytes. Of an unknown type only what is no text is taken for a number.
    let text = v.iter().all(|b| *b >= b' ') && std::str::from_utf8(v).is_ok();
    match (type_oid, v) {
        (16, [b]) => redactor.hash(if *b == 0 { b"f" } else { b"t" }),
        (700, [a, b, c, d]) => {
            redactor.hash(f32::from_be_bytes([*a, *b, *c, *d]).to_string().as_bytes())
        }
        (701, v) if v.len() == 8 => redactor.hash_float(f64::from_bits(be64(v))),
        (26, [a, b, c, d]) => {
            redactor.hash_integer(i128::from(u32::from_be_bytes([*a, *b, *c, *d])))
        }
        (2950, v) | (0, v) if v.len() == 16 && (type_oid == 2950 || !text) => {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(v);
            redactor.hash_uuid(&bytes)
        }
        (20 | 21 | 23 | 0, v) if matches!(v.len(), 2 | 4 | 8) && (type_oid != 0 || !text) => {
            redactor.hash_integer(i128::from(signed(v)))
        }
        _ => redactor.hash_text(v),
    }
}

fn be64(v: &[u8]) -> u64 {
    v.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Two's complement of 1 to 8 big-endian bytes.
fn signed(v: &[u8]) -> i64 {
    let shift = 64 - 8 * v.len().clamp(1, 8);
    (be64(v) << shift).cast_signed() >> shift
}

pub(super) fn row_description(b: &[u8]) -> Vec<Column> {
    let mut at = 0;
    let n = usize::from(be16(b, &mut at).unwrap_or(0)).min(COLUMNS_LIMIT);
    let mut columns = Vec::new();
    for _ in 0..n {
        let (name, next) = cstring(b, at);
        // Table oid, attribute number, type oid, type size, modifier, format.
        let Some(fixed) = b.get(next..next + 18) else { break };
        columns.push(Column {
            name: String::from_utf8_lossy(name).into_owned(),
            type_oid: u32::from_be_bytes([fixed[6], fixed[7], fixed[8], fixed[9]]),
            format: u16::from_be_bytes([fixed[16], fixed[17]]),
        });
        at = next + 18;
    }
    columns
}

/// Adds the values of a DataRow. `formats` are those Bind asked for; the description's own count
/// where there are none.
pub(super) fn sketch_row(
    b: &[u8],
    columns: &[Column],
    formats: &[u16],
    sketch: &mut Sketch,
    redactor: &Redactor,
) {
    if !sketch.wants() {
        return;
    }
    sketch.row();
    let mut at = 0;
    let n = usize::from(be16(b, &mut at).unwrap_or(0)).min(crate::codec::SKETCH_COLUMNS);
    for (i, column) in columns.iter().enumerate().take(n) {
        let Some(length) = be32(b, &mut at) else { return };
        if length.cast_signed() < 0 {
            continue;
        }
        let Some(v) = at.checked_add(length as usize).and_then(|end| b.get(at..end)) else {
            return;
        };
        at += v.len();
        let format = if formats.is_empty() { column.format } else { format_of(formats, i) };
        sketch.value(i, hash_value(v, format == 1, column.type_oid, redactor));
    }
}

/// Rows in a command tag: `SELECT 5`, `INSERT 0 3`.
pub(super) fn tag_rows(body: &[u8]) -> Option<u64> {
    let (tag, _) = cstring(body, 0);
    std::str::from_utf8(tag).ok()?.rsplit(' ').next()?.parse().ok()
}

/// SQLSTATE of an ErrorResponse.
pub(super) fn error_code(b: &[u8]) -> String {
    let mut at = 0;
    while let Some(field) = b.get(at).filter(|f| **f != 0) {
        let (value, next) = cstring(b, at + 1);
        if *field == b'C' && value.len() == 5 && value.iter().all(u8::is_ascii_alphanumeric) {
            return String::from_utf8_lossy(value).into_owned();
        }
        at = next;
    }
    "error".into()
}

/// What is known of a statement of which only the name is: some drivers use the text as its name.
pub(super) fn name_text(name: &str, cx: &Context<'_>) -> String {
    if name.contains([' ', '\'', '"']) {
        return format!("prepared \"{}\"", cx.redactor().sql(name).0);
    }
    let short: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    format!("prepared \"{short}\"")
}

/// Whether a name contains a digest of the text, as pgx's `stmtcache_` and 48 hexadecimal digits of
/// SHA-256 do: then it means the same on every connection.
pub(super) fn is_digest(name: &str, text: &str) -> bool {
    let hex = name.rsplit('_').next().unwrap_or("");
    if hex.len() < 16 || hex.len() > 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return false;
    }
    let digest = Sha256::digest(text.as_bytes());
    let full: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    full.starts_with(&hex.to_ascii_lowercase())
}

/// Judges whether a client's message of this protocol begins here.
pub(crate) fn sniff(b: &[u8]) -> Verdict {
    let Some(kind) = b.first() else { return Verdict::More };
    if *kind != 0 && !b"QPBEDSCHFX".contains(kind) {
        return Verdict::No;
    }
    if b.len() < 5 {
        return if *kind == 0 || b.get(1).is_none_or(|b| *b < 4) {
            Verdict::More
        } else {
            Verdict::No
        };
    }
    let mut at = if *kind == 0 { 0 } else { 1 };
    let length = be32(b, &mut at).unwrap_or(0) as usize;
    if *kind == 0 {
        if !(8..=10_000).contains(&length) {
            return Verdict::No;
        }
        let Some(code) = be32(b, &mut at) else { return Verdict::More };
        return Verdict::of(matches!(code, 196_608..=196_620 | 80_877_102..=80_877_104));
    }
    if !(4..1 << 26).contains(&length) {
        return Verdict::No;
    }
    match plausible(*kind, &b[5..], length - 4) {
        // The next message must look like one too.
        Verdict::Yes => match b.get(1 + length) {
            Some(next) => Verdict::of(b"QPBEDSCHFXpdcf".contains(next)),
            None => Verdict::Yes,
        },
        other => other,
    }
}

/// Judges the body of a message: `size` bytes, of which `body` holds the beginning (and perhaps
/// more messages after it).
fn plausible(kind: u8, body: &[u8], size: usize) -> Verdict {
    let whole = body.len() >= size;
    let body = &body[..body.len().min(size)];
    let printable = |s: &[u8]| s.iter().all(|c| *c >= b' ' || matches!(c, b'\t' | b'\n' | b'\r'));
    let zero = body.iter().position(|c| *c == 0);
    let text = &body[..zero.unwrap_or(body.len())];
    match kind {
        b'S' | b'H' | b'X' => return Verdict::of(size == 0),
        b'D' | b'C' if !body.first().is_none_or(|c| matches!(c, b'S' | b'P')) => {
            return Verdict::No;
        }
        b'Q' | b'D' | b'C' if zero.is_some_and(|z| z + 1 != size) => return Verdict::No,
        b'E' if zero.is_some_and(|z| z + 5 != size) => return Verdict::No,
        b'Q' if text.len() >= 64 && printable(text) => return Verdict::Yes,
        _ if !printable(text) => return Verdict::No,
        _ => {}
    }
    if !whole {
        // A long Parse or Bind: both begin with two short names.
        return if body.len() > 1024 { Verdict::of(zero.is_some()) } else { Verdict::More };
    }
    Verdict::of(zero.is_some())
}
