//! Contents of MySQL packets. Every reader takes what is there: a packet that is cut short yields
//! its beginning.

use crate::codec::{PARAMS_LIMIT, SKETCH_COLUMNS, Sketch};
use crate::protocols::sniff::Verdict;
use evidence::{Protocol, Redactor, ValueHash};

/// Flag of an unsigned column.
const UNSIGNED: u16 = 32;

/// Bit of an unsigned parameter type.
const UNSIGNED_PARAM: u16 = 0x8000;

/// Reads little-endian fields off a packet.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A length-encoded integer. `None` also for NULL (0xfb).
    pub fn length(&mut self) -> Option<u64> {
        let size = match self.u8()? {
            n @ 0..=0xfa => return Some(u64::from(n)),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            _ => return None,
        };
        Some(unsigned(self.bytes(size)?))
    }

    /// A length-encoded string.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.length()?).ok()?;
        self.bytes(n)
    }
}

fn unsigned(b: &[u8]) -> u64 {
    b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// A result column.
#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    name: String,
    /// It is a table's column, as opposed to an expression.
    stored: bool,
    kind: u8,
    unsigned: bool,
}

impl Column {
    /// Its name, as far as it may be told. An expression without an alias is named by its text,
    /// literals included: such a name is told only when the fingerprint has it as a word.
    pub fn name_in(&self, fingerprint: &str) -> &str {
        let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        let told = self.stored || fingerprint.split(|c| !word(c)).any(|w| w == self.name);
        if told { &self.name } else { "?" }
    }
}

pub(super) fn column(body: &[u8]) -> Column {
    read_column(body).unwrap_or_default()
}

fn read_column(body: &[u8]) -> Option<Column> {
    let mut r = Reader::new(body);
    // Catalogue, schema, table, original table.
    for _ in 0..4 {
        r.string()?;
    }
    let name = String::from_utf8_lossy(r.string()?).into_owned();
    let stored = !r.string()?.is_empty();
    // MariaDB's extended metadata stands before the fixed part, which is 13 bytes.
    if r.rest.len() > 13 {
        r.string()?;
    }
    r.bytes(7)?;
    let kind = r.u8()?;
    let unsigned = r.u16()? & UNSIGNED != 0;
    Some(Column { name, stored, kind, unsigned })
}

/// Capabilities in a greeting.
pub(super) fn greeting_capabilities(body: &[u8]) -> u32 {
    let version = body.iter().position(|b| *b == 0).unwrap_or(body.len());
    let mut r = Reader::new(body.get(version + 1..).unwrap_or(&[]));
    // Thread id, eight bytes of salt, a filler.
    r.bytes(13);
    let low = r.u16().unwrap_or(0);
    // Character set, status.
    r.bytes(3);
    u32::from(r.u16().unwrap_or(0)) << 16 | u32::from(low)
}

/// Affected rows and status of an OK packet.
pub(super) fn ok(body: &[u8]) -> (u64, u16) {
    let mut r = Reader::new(body.get(1..).unwrap_or(&[]));
    let affected = r.length().unwrap_or(0);
    let _last_id = r.length();
    (affected, r.u16().unwrap_or(0))
}

/// Status of an EOF packet.
pub(super) fn eof_status(body: &[u8]) -> u16 {
    let mut r = Reader::new(body.get(3..).unwrap_or(&[]));
    r.u16().unwrap_or(0)
}

/// Error number of an ERR packet.
pub(super) fn error_code(body: &[u8]) -> String {
    let mut r = Reader::new(body.get(1..).unwrap_or(&[]));
    r.u16().map_or("error".into(), |n| n.to_string())
}

/// Statement id, columns and parameters of a PREPARE's OK.
pub(super) fn prepare_ok(body: &[u8]) -> Option<(u32, u16, u16)> {
    let mut r = Reader::new(body);
    if r.u8()? != 0 {
        return None;
    }
    Some((r.u32()?, r.u16()?, r.u16()?))
}

/// The text of a COM_QUERY after its attributes.
pub(super) fn after_attributes(body: &[u8]) -> &[u8] {
    let skip = || -> Option<&[u8]> {
        let mut r = Reader::new(body);
        let count = usize::try_from(r.length()?).ok()?;
        r.length()?;
        if count == 0 {
            return Some(r.rest);
        }
        let nulls = r.bytes(count.div_ceil(8))?;
        r.u8()?;
        let mut types = Vec::new();
        for _ in 0..count {
            types.push(r.u16()?);
            r.string()?;
        }
        for (i, kind) in types.iter().enumerate() {
            if nulls[i / 8] >> (i % 8) & 1 == 0 {
                value(&mut r, *kind as u8)?;
            }
        }
        Some(r.rest)
    };
    skip().unwrap_or(body)
}

/// Statement id, cursor flags and iterations before the parameters of COM_STMT_EXECUTE, bytes.
const EXECUTE_HEADER: usize = 9;
/// Most parameters guessed at: beyond it no fit is a coincidence worth having.
const GUESSED_PARAMS: u16 = 64;

/// Hashes of the parameters of a COM_STMT_EXECUTE body (after the command byte). `count` is `None`
/// where the packet itself gives it (query attributes). Types are sent once and remembered.
pub(super) fn execute_params(
    body: &[u8],
    count: Option<u16>,
    types: &mut Vec<u16>,
    redactor: &Redactor,
) -> Vec<ValueHash> {
    let mut hashes = Vec::new();
    let _ = read_params(body, count, types, redactor, &mut hashes);
    hashes
}

/// Hashes of the parameters of an execution whose statement was prepared before the capture began,
/// so that their number is not known: the smallest number with which types and values fill the
/// packet exactly; else one hash of all of them, which still tells equal ones from others.
pub(super) fn guessed_params(body: &[u8], redactor: &Redactor) -> Vec<ValueHash> {
    let all = body.get(EXECUTE_HEADER..).unwrap_or_default();
    if all.is_empty() {
        return Vec::new();
    }
    for count in 1..=GUESSED_PARAMS {
        let (mut types, mut hashes) = (Vec::new(), Vec::new());
        let left = read_params(body, Some(count), &mut types, redactor, &mut hashes);
        if left == Some(0) && hashes.len() == usize::from(count) {
            return hashes;
        }
    }
    vec![redactor.hash(all)]
}

/// Reads the parameters; the number of bytes left after them, `None` when they are cut off.
fn read_params(
    body: &[u8],
    count: Option<u16>,
    types: &mut Vec<u16>,
    redactor: &Redactor,
    hashes: &mut Vec<ValueHash>,
) -> Option<usize> {
    let mut r = Reader::new(body);
    r.bytes(EXECUTE_HEADER)?;
    let named = count.is_none();
    let count = match count {
        Some(n) => usize::from(n),
        None => usize::try_from(r.length()?).ok()?,
    };
    let nulls = r.bytes(count.div_ceil(8))?;
    if r.u8()? == 1 {
        types.clear();
        for _ in 0..count {
            types.push(r.u16()?);
            if named {
                r.string()?;
            }
        }
    }
    for (i, kind) in types.iter().enumerate().take(count.min(PARAMS_LIMIT)) {
        if nulls[i / 8] >> (i % 8) & 1 == 1 {
            hashes.push(redactor.hash(b"\0null"));
            continue;
        }
        let v = value(&mut r, *kind as u8)?;
        hashes.push(hash_value(v, *kind as u8, kind & UNSIGNED_PARAM != 0, redactor));
    }
    Some(r.rest.len())
}

/// A binary value of a type.
fn value<'a>(r: &mut Reader<'a>, kind: u8) -> Option<&'a [u8]> {
    match kind {
        1 => r.bytes(1),
        2 | 13 => r.bytes(2),
        3 | 4 | 9 => r.bytes(4),
        5 | 8 => r.bytes(8),
        6 => Some(&[]),
        7 | 10 | 11 | 12 => {
            let n = usize::from(r.u8()?);
            r.bytes(n)
        }
        _ => r.string(),
    }
}

fn hash_value(v: &[u8], kind: u8, is_unsigned: bool, redactor: &Redactor) -> ValueHash {
    match (kind, v) {
        (1 | 2 | 3 | 8 | 9 | 13, _) if !v.is_empty() => {
            let n = unsigned(v);
            if is_unsigned || kind == 13 {
                return redactor.hash_integer(i128::from(n));
            }
            let shift = 64 - 8 * v.len().min(8);
            redactor.hash_integer(i128::from((n << shift).cast_signed() >> shift))
        }
        (4, [a, b, c, d]) => {
            redactor.hash(f32::from_le_bytes([*a, *b, *c, *d]).to_string().as_bytes())
        }
        (5, v) if v.len() == 8 => redactor.hash_float(f64::from_bits(unsigned(v))),
        _ => redactor.hash_text(v),
    }
}

/// Adds the values of a row.
pub(super) fn sketch_row(
    body: &[u8],
    binary: bool,
    columns: &[Column],
    sketch: &mut Sketch,
    redactor: &Redactor,
) {
    if !sketch.wants() {
        return;
    }
    sketch.row();
    let _ = if binary {
        sketch_binary(body, columns, sketch, redactor)
    } else {
        sketch_text(body, columns, sketch, redactor)
    };
}

fn sketch_text(body: &[u8], columns: &[Column], sketch: &mut Sketch, r: &Redactor) -> Option<()> {
    let mut fields = Reader::new(body);
    for i in 0..columns.len().min(SKETCH_COLUMNS) {
        if fields.rest.first() == Some(&0xfb) {
            fields.u8();
            continue;
        }
        sketch.value(i, r.hash_text(fields.string()?));
    }
    Some(())
}

fn sketch_binary(body: &[u8], columns: &[Column], sketch: &mut Sketch, r: &Redactor) -> Option<()> {
    let mut fields = Reader::new(body);
    fields.u8()?;
    let nulls = fields.bytes((columns.len() + 9) / 8)?;
    for (i, c) in columns.iter().enumerate().take(SKETCH_COLUMNS) {
        if nulls[(i + 2) / 8] >> ((i + 2) % 8) & 1 == 1 {
            continue;
        }
        let v = value(&mut fields, c.kind)?;
        sketch.value(i, hash_value(v, c.kind, c.unsigned, r));
    }
    Some(())
}

/// Judges whether a client's command begins here (a connection older than the capture).
pub(crate) fn sniff(b: &[u8]) -> Verdict {
    if b.get(3).is_some_and(|sequence| *sequence != 0) {
        return Verdict::No;
    }
    let [l0, l1, l2, _, command, body @ ..] = b else { return Verdict::More };
    let length = u32::from_le_bytes([*l0, *l1, *l2, 0]) as usize;
    let printable = |b: &[u8]| b.iter().all(|c| *c >= b' ' || matches!(c, b'\t' | b'\n' | b'\r'));
    match (command, length) {
        (0x01 | 0x09 | 0x0e | 0x1f, 1) | (0x19 | 0x1a, 5) | (0x1b, 3) | (0x1c, 9) => {
            Verdict::of(body.len() + 1 >= length).or_more()
        }
        (0x02 | 0x03 | 0x16, 2..) => {
            let body = body.strip_prefix(&[0, 1]).unwrap_or(body);
            let seen = &body[..body.len().min(length - 1).min(16)];
            match seen {
                [] | [0] => Verdict::More,
                _ => Verdict::of(printable(seen)),
            }
        }
        (0x17, 10..) => match body {
            // Flags name a cursor, or none; one iteration.
            [_, _, _, _, flags, 1, 0, 0, 0, ..] => Verdict::of(*flags <= 8),
            _ if body.len() >= 9 => Verdict::No,
            _ => Verdict::More,
        },
        _ => Verdict::No,
    }
}

impl Verdict {
    fn or_more(self) -> Verdict {
        if self == Verdict::No { Verdict::More } else { self }
    }
}

/// Judges the first bytes of a server that speaks first. `None`: more are needed.
pub(crate) fn sniff_greeting(b: &[u8]) -> Option<Protocol> {
    if b.len() < 6 {
        return None;
    }
    let plausible = b[1] < 8 && b[2] == 0 && b[3] == 0;
    let greets = matches!(b[4], 9 | 10) && (b[5].is_ascii_digit() || b[5] == 0);
    let mysql = plausible && (greets || b[4] == 0xff);
    Some(if mysql { Protocol::Mysql } else { Protocol::Opaque })
}
