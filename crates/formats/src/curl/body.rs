//! The body of a curl command: pieces joined as curl joins them, or a multipart form.

use super::flags::DataKind;
use crate::url::percent_encoded;
use crate::{Problem, ReadFile};
use evidence::Body;
use std::hash::{DefaultHasher, Hasher};

/// One piece of `-d` and its relatives.
#[derive(Debug)]
pub(super) struct Piece {
    pub position: usize,
    pub kind: DataKind,
    /// `--json` pieces are joined without `&`.
    pub json: bool,
    pub text: Vec<u8>,
}

/// One field of `-F`.
#[derive(Debug)]
pub(super) struct Field {
    pub position: usize,
    pub literal: bool,
    pub text: Vec<u8>,
}

/// Why a body could not be made, and where.
pub(super) type BodyError = (usize, String);

impl Piece {
    fn file(&self) -> Option<&str> {
        let at = matches!(self.kind, DataKind::Ascii | DataKind::Binary);
        let path = self.text.strip_prefix(b"@").filter(|_| at)?;
        std::str::from_utf8(path).ok()
    }

    fn bytes(&self, read: ReadFile) -> Result<Vec<u8>, BodyError> {
        if self.kind == DataKind::Encoded {
            return self.encoded(read);
        }
        let Some(path) = self.file() else { return Ok(self.text.clone()) };
        let mut bytes = read_file(path, self.position, read)?;
        if self.kind == DataKind::Ascii {
            bytes.retain(|b| !b"\r\n\0".contains(b));
        }
        Ok(bytes)
    }

    /// `content`, `=content`, `name=content`, `@file`, `name@file`.
    fn encoded(&self, read: ReadFile) -> Result<Vec<u8>, BodyError> {
        let mark = self.text.iter().position(|b| *b == b'=' || *b == b'@');
        let Some(mark) = mark else { return Ok(percent_encoded(&self.text).into_bytes()) };
        let (name, content) = (&self.text[..mark], &self.text[mark + 1..]);
        let content = if self.text[mark] == b'@' {
            let path = String::from_utf8_lossy(content);
            read_file(&path, self.position, read)?
        } else {
            content.to_vec()
        };
        let mut out = name.to_vec();
        if !name.is_empty() {
            out.push(b'=');
        }
        out.extend_from_slice(percent_encoded(&content).as_bytes());
        Ok(out)
    }
}

fn read_file(path: &str, position: usize, read: ReadFile) -> Result<Vec<u8>, BodyError> {
    if path == "-" {
        return Err((position, "standard input is not read; write the body to a file".into()));
    }
    read(path).map_err(|why| (position, format!("file {path}: {why}")))
}

/// A body sent as it is in the file.
pub(super) fn file(path: &str) -> Body {
    Body::File { path: path.to_string() }
}

/// A body held in memory.
pub(super) fn inline(bytes: Vec<u8>) -> Body {
    if bytes.is_empty() {
        return Body::Empty;
    }
    let length = bytes.len() as u64;
    Body::Inline { bytes, length }
}

/// The body of all data pieces. A single `--data-binary @file` stays a reference to the file.
pub(super) fn data(
    pieces: &[Piece],
    read: ReadFile,
    problems: &mut Vec<Problem>,
) -> Result<Body, BodyError> {
    if let [piece] = pieces
        && let Some(path) = piece.file().filter(|p| *p != "-")
    {
        if piece.kind == DataKind::Binary {
            return Ok(file(path));
        }
        return Ok(piece.bytes(read).map(inline).unwrap_or_else(|_| {
            let message = "line breaks of the file are kept, which curl's -d @FILE removes; \
                           --data-binary @FILE says so";
            problems.push(Problem::new(piece.position, message));
            file(path)
        }));
    }
    joined(pieces, read).map(inline)
}

/// All pieces in one string, joined by `&`.
pub(super) fn joined(pieces: &[Piece], read: ReadFile) -> Result<Vec<u8>, BodyError> {
    let mut out = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        if i > 0 && !piece.json {
            out.push(b'&');
        }
        out.extend(piece.bytes(read)?);
    }
    Ok(out)
}

/// A multipart form and its content type. The boundary follows from the contents, so that the
/// same command always gives the same bytes.
pub(super) fn multipart(fields: &[Field], read: ReadFile) -> Result<(Body, String), BodyError> {
    let parts = fields.iter().map(|f| part(f, read)).collect::<Result<Vec<_>, _>>()?;
    let mut hasher = DefaultHasher::new();
    parts.iter().for_each(|p| hasher.write(p));
    let boundary = format!("------------------------{:016x}", hasher.finish());
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        bytes.extend(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok((inline(bytes), format!("multipart/form-data; boundary={boundary}")))
}

/// Headers and contents of one field.
fn part(field: &Field, read: ReadFile) -> Result<Vec<u8>, BodyError> {
    let shape = "a form field is NAME=CONTENT, NAME=@FILE or NAME=<FILE";
    let equals = field.text.iter().position(|b| *b == b'=');
    let equals = equals.ok_or_else(|| (field.position, shape.to_string()))?;
    let (name, value) = (&field.text[..equals], &field.text[equals + 1..]);
    let (value, options) = if field.literal { (value, Vec::new()) } else { options(value) };
    let option = |key: &str| options.iter().find(|o| o.0 == key).map(|o| o.1.clone());
    let mut filename = option("filename");
    let mut kind = option("type");
    let content = match value.first() {
        Some(mark @ (b'@' | b'<')) if !field.literal => {
            let path = String::from_utf8_lossy(&value[1..]).into_owned();
            if *mark == b'@' {
                let base = path.rsplit(['/', '\\']).next().unwrap_or_default().to_string();
                filename.get_or_insert(base);
                kind.get_or_insert_with(|| content_type(&path).to_string());
            }
            read_file(&path, field.position, read)?
        }
        _ => value.to_vec(),
    };
    let name = quoted(&String::from_utf8_lossy(name));
    let mut out = format!("Content-Disposition: form-data; name=\"{name}\"");
    if let Some(filename) = filename {
        out.push_str(&format!("; filename=\"{}\"", quoted(&filename)));
    }
    if let Some(kind) = kind {
        out.push_str(&format!("\r\nContent-Type: {}", kind.replace(['\r', '\n'], "")));
    }
    out.push_str("\r\n\r\n");
    let mut out = out.into_bytes();
    out.extend(content);
    Ok(out)
}

/// As browsers quote names in a form.
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

/// `value;type=text/plain;filename=x` to the value and its options. A quoted value is unquoted.
fn options(value: &[u8]) -> (&[u8], Vec<(String, String)>) {
    let known = [";type=", ";filename=", ";headers=", ";encoder="];
    let text = String::from_utf8_lossy(value);
    let lossless = text.len() == value.len();
    let end = known.iter().filter_map(|k| text.find(k)).min().filter(|_| lossless);
    let end = end.unwrap_or(value.len());
    let mut options: Vec<(String, String)> = Vec::new();
    for item in text.get(end..).unwrap_or_default().split(';').filter(|o| !o.is_empty()) {
        match (item.split_once('='), options.last_mut()) {
            (Some((key, content)), _) if known.contains(&format!(";{key}=").as_str()) => {
                options.push((key.to_string(), content.trim_matches('"').to_string()));
            }
            // `type=text/html; charset=utf-8`
            (_, Some(last)) => last.1.push_str(&format!(";{item}")),
            _ => {}
        }
    }
    let plain = &value[..end];
    let unquoted = plain.strip_prefix(b"\"").and_then(|p| p.strip_suffix(b"\""));
    (unquoted.unwrap_or(plain), options)
}

/// Content type by a file name's ending; `application/octet-stream` when it says nothing.
pub(crate) fn content_type(path: &str) -> &'static str {
    let ending = path.rsplit_once('.').map_or("", |(_, e)| e).to_ascii_lowercase();
    match ending.as_str() {
        "json" => "application/json",
        "xml" => "application/xml",
        "html" | "htm" => "text/html",
        "txt" => "text/plain",
        "csv" => "text/csv",
        "form" => "application/x-www-form-urlencoded",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}
