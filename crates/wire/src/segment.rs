//! One TCP segment, and its decoding from an IP packet.

use evidence::Nanos;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP flag: sender is done.
pub const FIN: u8 = 1;
/// TCP flag: first segment of a direction.
pub const SYN: u8 = 2;
/// TCP flag: connection aborted.
pub const RST: u8 = 4;
/// TCP flag: the acknowledgement number is valid.
pub const ACK: u8 = 16;

/// One TCP segment, in the order it was seen.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// When it was seen, on the run's monotonic clock.
    pub at: Nanos,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Sequence number of the first byte of `data` (of the SYN, when that flag is set).
    pub sequence: u32,
    /// Next byte its sender expects, valid with [`ACK`].
    pub acknowledged: u32,
    /// TCP flags.
    pub flags: u8,
    /// Payload.
    pub data: &'a [u8],
    /// Payload bytes that followed `data` in the packet but were not captured.
    pub missing: u32,
}

impl Segment<'_> {
    /// Whether the flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Sequence number after this segment's payload.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.sequence.wrapping_add(self.data.len() as u32).wrapping_add(self.missing)
    }
}

/// Decodes an IPv4 or IPv6 packet (without link header) of which `packet` was captured. `None` for
/// anything that is no TCP segment, for later fragments, and for headers that are cut short.
/// IPv4-mapped IPv6 addresses become IPv4.
pub fn decode(packet: &[u8], at: Nanos) -> Option<Segment<'_>> {
    let (source, destination, tcp, end) = match packet.first()? >> 4 {
        4 => decode_v4(packet)?,
        6 => decode_v6(packet)?,
        _ => return None,
    };
    let header = packet.get(tcp..tcp + 20)?;
    let word =
        |o: usize| u32::from_be_bytes([header[o], header[o + 1], header[o + 2], header[o + 3]]);
    let start = tcp + usize::from(header[12] >> 4) * 4;
    if start < tcp + 20 || start > end {
        return None;
    }
    let captured = end.min(packet.len());
    let data = packet.get(start..captured).unwrap_or(&[]);
    Some(Segment {
        at,
        source: SocketAddr::new(source, be16(header, 0)),
        destination: SocketAddr::new(destination, be16(header, 2)),
        sequence: word(4),
        acknowledged: word(8),
        flags: header[13],
        data,
        missing: (end - start - data.len()) as u32,
    })
}

fn be16(b: &[u8], o: usize) -> u16 {
    u16::from_be_bytes([b[o], b[o + 1]])
}

fn decode_v4(p: &[u8]) -> Option<(IpAddr, IpAddr, usize, usize)> {
    if p.len() < 20 || p[9] != 6 || be16(p, 6) & 0x1fff != 0 {
        return None;
    }
    let ip = |o: usize| IpAddr::V4(Ipv4Addr::new(p[o], p[o + 1], p[o + 2], p[o + 3]));
    // A total length of 0 is a packet the kernel has merged beyond 64 KiB.
    let total = match be16(p, 2) {
        0 => p.len(),
        n => usize::from(n),
    };
    Some((ip(12), ip(16), usize::from(p[0] & 15).max(5) * 4, total))
}

fn decode_v6(p: &[u8]) -> Option<(IpAddr, IpAddr, usize, usize)> {
    if p.len() < 40 {
        return None;
    }
    let ip = |o: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&p[o..o + 16]);
        let v6 = Ipv6Addr::from(bytes);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    };
    let end = match be16(p, 4) {
        0 => p.len(),
        n => 40 + usize::from(n),
    };
    let (mut next, mut at) = (p[6], 40);
    // Hop-by-hop, routing and destination options; a fragment is not followed.
    for _ in 0..8 {
        match next {
            6 => return Some((ip(8), ip(24), at, end)),
            0 | 43 | 60 => {
                let extension = p.get(at..at + 8)?;
                next = extension[0];
                at += 8 + usize::from(extension[1]) * 8;
            }
            _ => return None,
        }
    }
    None
}
