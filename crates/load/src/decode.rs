//! Content codings undone, with a bound on what comes out.

use std::io::Read;

/// Body with its codings undone: `content-encoding` lists them in the order they were applied.
///
/// # Errors
/// Why it cannot be decoded, in words: unknown coding, broken data, or more than `limit` bytes.
pub(crate) fn decode(encoding: &str, body: &[u8], limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = body.to_vec();
    let codings: Vec<&str> = encoding.split(',').map(str::trim).filter(|c| !c.is_empty()).collect();
    if codings.len() > 4 {
        return Err(format!("{} content codings on top of each other", codings.len()));
    }
    for coding in codings.iter().rev() {
        bytes = decode_one(&coding.to_ascii_lowercase(), &bytes, limit)
            .map_err(|(_, why)| format!("{coding}: {why}"))?;
    }
    Ok(bytes)
}

/// As [`decode`], but what could be decoded of a cut or broken body.
pub(crate) fn decode_start(encoding: &str, body: &[u8], limit: u64) -> Vec<u8> {
    match decode_one(&encoding.trim().to_ascii_lowercase(), body, limit) {
        Ok(bytes) | Err((bytes, _)) => bytes,
    }
}

type Partly = (Vec<u8>, String);

fn decode_one(coding: &str, body: &[u8], limit: u64) -> Result<Vec<u8>, Partly> {
    match coding {
        "identity" | "" => Ok(body.to_vec()),
        "gzip" | "x-gzip" => drain(flate2::read::MultiGzDecoder::new(body), limit),
        // RFC 9110 says zlib; some servers send raw deflate.
        "deflate" => drain(flate2::read::ZlibDecoder::new(body), limit)
            .or_else(|_| drain(flate2::read::DeflateDecoder::new(body), limit)),
        "br" => drain(brotli_decompressor::Decompressor::new(body, 4096), limit),
        "zstd" => match zstd::stream::read::Decoder::with_buffer(body) {
            Ok(decoder) => drain(decoder, limit),
            Err(e) => Err((Vec::new(), e.to_string())),
        },
        _ => Err((Vec::new(), "unknown content coding".into())),
    }
}

fn drain(reader: impl Read, limit: u64) -> Result<Vec<u8>, Partly> {
    let mut bytes = Vec::new();
    match reader.take(limit.saturating_add(1)).read_to_end(&mut bytes) {
        Ok(n) if n as u64 > limit => Err((bytes, format!("more than {limit} bytes decoded"))),
        Ok(_) => Ok(bytes),
        Err(e) => Err((bytes, e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn check(encoding: &str, body: &[u8], expected: &[u8]) {
        assert_eq!(decode(encoding, body, 1000).as_deref(), Ok(expected), "{encoding}");
    }

    #[test]
    fn codings() {
        check("", b"plain", b"plain");
        check("gzip", &gzip(b"text"), b"text");
        check("gzip, x-gzip", &gzip(&gzip(b"text")), b"text");
        check("zstd", &zstd::bulk::compress(b"text", 1).unwrap(), b"text");
        // `brotliCompressSync("text")` of Node 20.
        check("BR", &[0x8b, 0x01, 0x80, b't', b'e', b'x', b't', 0x03], b"text");
    }

    #[test]
    fn hostile_bodies_are_refused() {
        let bomb = gzip(&vec![0; 10_000_000]);
        assert!(decode("gzip", &bomb, 1000).unwrap_err().contains("1000"));
        assert!(decode("gzip", b"not gzip", 1000).is_err());
        assert!(decode("rot13", b"text", 1000).is_err());
        assert!(decode("gzip,gzip,gzip,gzip,gzip", b"", 1000).is_err());
    }

    #[test]
    fn start_of_a_cut_body() {
        let whole = gzip(&b"0123456789".repeat(1000));
        let start = decode_start("gzip", &whole[..whole.len() - 8], 5000);
        assert!(start.starts_with(b"0123456789") && start.len() >= 5000);
    }
}
