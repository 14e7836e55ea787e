//! The table of connections: whose segments are followed, losses and getting over them, server
//! edges, limits, names, hostile bytes.

use crate::packets::{Player, Script, c, client, describe, play, s, server};
use evidence::{Nanos, Operation, Redactor};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use wire::segment::{ACK, FIN, RST, SYN, decode};
use wire::{Decoder, Segment};

fn decoder() -> Decoder {
    Decoder::new(Redactor::new(1), &[])
}

fn q(text: &str) -> Vec<u8> {
    let mut out = vec![b'Q'];
    out.extend((text.len() as u32 + 5).to_be_bytes());
    out.extend(text.as_bytes());
    out.push(0);
    out
}

/// Rows of `bytes` each, then the end.
fn rows(n: usize, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..n {
        out.push(b'D');
        out.extend((bytes as u32 + 10).to_be_bytes());
        out.extend([0, 1]);
        out.extend((bytes as u32).to_be_bytes());
        out.extend(vec![b'x'; bytes]);
    }
    out.extend(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
    out
}

#[test]
fn a_hole_in_a_row_is_bridged_a_hole_elsewhere_costs_one_call() {
    let mut d = decoder();
    let mut p = Player { decoder: &mut d, next: [1, 1] };
    p.segment(true, 0, &q("SELECT big FROM t"), 100);
    let answer = rows(1, 100_000);
    p.segment(false, 0, &answer[..50_000], 200);
    p.next[1] += 1448;
    p.segment(false, 0, &answer[51_448..], 300);
    p.segment(true, 0, &q("SELECT a FROM t"), 400);
    let calls = p.decoder.take_calls();
    assert_eq!(calls.len(), 1, "{}", describe(&calls));
    assert_eq!(p.decoder.losses().stream_gaps, 1);
    assert_eq!(p.decoder.losses().resynchronised, 0);
    // Now the whole answer is lost: that call cannot end, the next one is whole again.
    p.next[1] += 500;
    p.segment(false, 0, b"tail of something", 450);
    p.segment(true, 0, &q("SELECT b FROM t"), 500);
    p.segment(false, 0, &rows(1, 5), 600);
    let calls = p.decoder.take_calls();
    assert_eq!(describe(&calls), "postgres execute [SELECT b FROM t] 500-600 b3 21>36 rows=1\n");
    let losses = p.decoder.losses();
    assert_eq!((losses.resynchronised, losses.calls_abandoned), (1, 1));
    assert!(losses.entries().iter().any(|(name, n)| *name == "stream-gaps" && *n == 2));
}

#[test]
fn an_unnamed_statement_is_not_what_it_was_before_a_hole() {
    let m = |kind: u8, body: &[u8]| {
        let mut out = vec![kind];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    };
    let run = [m(b'B', b"\0\0\0\0\0\0\0\0"), m(b'E', b"\0\0\0\0\0"), m(b'S', b"")].concat();
    let done = [m(b'2', b""), m(b'C', b"SELECT 0\0"), m(b'Z', b"I")].concat();
    let mut d = decoder();
    let mut p = Player { decoder: &mut d, next: [1, 1] };
    p.segment(true, 0, &[m(b'P', b"\0SELECT a\0\0\0"), run.clone()].concat(), 100);
    p.segment(false, 0, &[m(b'1', b""), done.clone()].concat(), 200);
    // Another text is given to the same name, unseen.
    p.next[0] += 20;
    p.segment(true, 0, &run, 300);
    p.segment(false, 0, &done, 400);
    p.segment(true, 0, &run, 500);
    p.segment(false, 0, &done, 600);
    p.decoder.flush();
    let calls = p.decoder.take_calls();
    assert!(calls[0].text == "SELECT a" && calls.len() > 1, "{}", describe(&calls));
    assert!(calls[1..].iter().all(|c| !c.text_known), "{}", describe(&calls));
    assert_eq!(p.decoder.losses().stream_gaps, 1);
}

#[test]
fn names_learnt_on_another_connection_are_certain_only_when_they_are_digests() {
    let text = "SELECT id FROM t WHERE id = $1";
    // SHA-256 of the text, as pgx names its statements.
    let digest = {
        use sha2::Digest;
        let all: String = sha2::Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect();
        format!("stmtcache_{}", &all[..48])
    };
    let message = |kind: u8, body: String| {
        let mut out = vec![kind];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend(body.as_bytes());
        out
    };
    let parse = |name: &str, text: &str| {
        [message(b'P', format!("{name}\0{text}\0\0\0")), message(b'S', String::new())].concat()
    };
    let run = |name: &str| {
        let bind = message(b'B', format!("\0{name}\0\0\0\0\0\0\0"));
        [bind, message(b'E', "\0\0\0\0\0".into()), message(b'S', String::new())].concat()
    };
    let mut d = decoder();
    let server: SocketAddr = "127.0.0.1:5432".parse().unwrap();
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let first = d.open(at(50_001), server, Nanos(1), Nanos(2));
    for (name, text) in
        [(digest.as_str(), text), ("by-id", text), ("S_1", "SELECT 1"), ("S_1", text)]
    {
        d.bytes(first, true, &parse(name, text), Nanos(10));
        d.bytes(first, false, b"1\0\0\0\x04Z\0\0\0\x05I", Nanos(20));
    }
    let second = d.open(at(50_002), server, Nanos(30), Nanos(31));
    d.take_calls();
    let mut got = Vec::new();
    for name in [digest.as_str(), "by-id", "S_1"] {
        d.bytes(second, true, &run(name), Nanos(40));
        d.bytes(second, false, b"2\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I", Nanos(50));
        let calls = d.take_calls();
        let call = calls.iter().find(|c| c.operation == Operation::Execute).unwrap();
        got.push((call.text.clone(), call.text_known));
    }
    let wanted =
        [(text.to_owned(), true), (text.to_owned(), false), ("prepared \"S_1\"".into(), false)];
    assert_eq!(got, wanted);
}

#[test]
fn only_what_belongs_to_the_target_is_followed() {
    let script = Script {
        name: "",
        opened: true,
        says: vec![c("GET /a HTTP/1.1\r\n\r\n"), s("HTTP/1.1 204 No\r\n\r\n")],
        calls: "",
    };
    assert_eq!(play(&script, |n| n).len(), 2);
    let run = |set: &dyn Fn(&mut Decoder)| {
        let mut d = decoder();
        set(&mut d);
        let mut p = Player { decoder: &mut d, next: [1, 1] };
        p.open(1);
        p.segment(true, 0, b"GET /a HTTP/1.1\r\n\r\n", 10);
        p.segment(false, 0, b"HTTP/1.1 204 No\r\n\r\n", 20);
        d.take_calls().iter().map(|c| c.peer.clone()).collect::<Vec<_>>()
    };
    let other: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let peers = |a: SocketAddr, name: &str| HashMap::from([(a, name.to_owned())]);
    assert_eq!(run(&|d| d.set_peers(peers(other, ""))), Vec::<String>::new());
    assert_eq!(run(&|d| d.set_peers(peers(server(), ""))), ["http 127.0.0.1:9"; 2]);
    assert_eq!(run(&|d| d.set_peers(peers(server(), "http supplier"))), ["http supplier"; 2]);
    assert_eq!(run(&|d| d.set_client_ports(HashSet::from([1]))), Vec::<String>::new());
    assert_eq!(run(&|d| d.set_client_ports(HashSet::from([40_000]))).len(), 2);
    assert_eq!(run(&|d| d.set_filter(|_, _| false)).len(), 0);
    assert_eq!(run(&|d| d.set_filter(|a, b| a == client() && b == server())).len(), 2);
}

#[test]
fn packets_at_the_own_port_are_edges() {
    let mut d = Decoder::new(Redactor::new(1), &[9]);
    let mut p = Player { decoder: &mut d, next: [1, 1] };
    p.open(1);
    p.segment(true, 0, b"GET / HT", 10);
    p.segment(true, 0, b"TP/1.1\r\n\r\n", 20);
    p.segment(false, 0, b"HTTP", 30);
    p.segment(false, 0, b"/1.1", 40);
    p.segment(true, 0, b"GET /2", 50);
    p.segment(false, 0, b"x", 60);
    assert_eq!(p.decoder.take_edges().len(), 1);
    // The same bytes again (a retransmission) change nothing.
    p.next[0] -= 6;
    p.segment(true, 0, b"GET /2", 70);
    p.decoder.flush();
    let edges = p.decoder.take_edges();
    assert_eq!(edges.len(), 1);
    let e = edges[0];
    assert_eq!(
        (e.client_port, e.request_end, e.response_start, e.response_end),
        (40_000, Nanos(50), Nanos(60), Nanos(60))
    );
    assert!(d.take_calls().is_empty());
}

#[test]
fn refused_and_reset_connections() {
    let mut d = decoder();
    let segment = |from_client: bool, flags: u8, at: u64| {
        let (source, destination) =
            if from_client { (client(), server()) } else { (server(), client()) };
        Segment {
            at: Nanos(at),
            source,
            destination,
            sequence: 1,
            acknowledged: 2,
            flags,
            data: &[],
            missing: 0,
        }
    };
    d.feed(&segment(true, SYN, 10));
    d.feed(&segment(true, SYN, 20));
    d.feed(&segment(false, RST | ACK, 30));
    d.feed(&segment(true, ACK, 40));
    d.feed(&segment(true, FIN | ACK, 50));
    let calls = d.take_calls();
    assert_eq!(
        describe(&calls),
        "opaque connect [tcp connect] 10-30 b0 0>0 error=connection-refused\n"
    );
    assert_eq!((d.connections(), calls[0].peer.as_str()), (0, "opaque 127.0.0.1:9"));
}

#[test]
fn a_hundred_thousand_connections_fit_and_more_are_evicted() {
    let mut d = decoder();
    d.set_limits(100_000, 64 << 20);
    let server: SocketAddr = "10.0.0.1:5432".parse().unwrap();
    let mut keys = Vec::new();
    for i in 0..120_000u32 {
        let client =
            SocketAddr::from(((0x0a00_0002 + i / 50_000).to_be_bytes(), (i % 50_000) as u16));
        let at = Nanos(u64::from(i) * 1_000);
        let key = d.open(client, server, at, at);
        d.bytes(key, true, &q("SELECT 1")[..9], at);
        keys.push(key);
    }
    assert!(d.connections() <= 100_000);
    assert!(d.buffered() <= 64 << 20, "{}", d.buffered());
    assert!(d.losses().connections_evicted >= 20_000);
    // The newest one is still whole.
    let last = *keys.last().unwrap();
    d.bytes(last, true, &q("SELECT 1")[9..], Nanos(u64::MAX / 2));
    d.bytes(last, false, &rows(1, 1), Nanos(u64::MAX / 2));
    assert_eq!(d.take_calls().len(), 2);
}

#[test]
fn buffers_stay_within_their_limit() {
    let mut d = decoder();
    d.set_limits(1000, 1 << 20);
    let server: SocketAddr = "10.0.0.1:5432".parse().unwrap();
    let long = q(&"SELECT 1 -- x".repeat(10_000));
    for i in 0..100u16 {
        let key = d.open(SocketAddr::from(([10, 0, 0, 2], i + 1)), server, Nanos(1), Nanos(1));
        d.bytes(key, true, &long[..long.len() - 1], Nanos(2));
        assert!(d.buffered() <= 1 << 20);
    }
    assert!(d.losses().resynchronised > 0);
}

/// A packet with the given network header.
fn packet(v6: bool, data: &[u8]) -> Vec<u8> {
    let mut tcp = vec![0x9c, 0x40, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0, 0, 0, 0, 0, 0];
    tcp.extend(data);
    // A packet merged beyond 64 KiB has no length of its own.
    let n = u16::try_from(tcp.len()).ok().filter(|n| *n < 65_000).unwrap_or(0);
    let mut out = if v6 {
        let mut h = vec![0x60, 0, 0, 0];
        h.extend(n.to_be_bytes());
        h.extend([6, 64]);
        h.extend([0; 10].iter().chain(&[0xff, 0xff, 127, 0, 0, 1]));
        h.extend([0; 15].iter().chain(&[1]));
        h
    } else {
        let mut h = vec![0x45, 0];
        h.extend(if n == 0 { 0 } else { n + 20 }.to_be_bytes());
        h.extend([0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2]);
        h
    };
    out.extend(tcp);
    out
}

#[test]
fn packets_decode() {
    for (v6, source) in [(false, "127.0.0.1:40000"), (true, "127.0.0.1:40000")] {
        let bytes = packet(v6, b"hello");
        let s = decode(&bytes, Nanos(7)).unwrap();
        assert_eq!(s.source, source.parse().unwrap());
        assert_eq!((s.data, s.missing, s.sequence, s.flags), (&b"hello"[..], 0, 1, 0x18));
        let cut = decode(&bytes[..bytes.len() - 2], Nanos(7)).unwrap();
        assert_eq!((cut.data, cut.missing), (&b"hel"[..], 2));
        assert!(decode(&bytes[..30], Nanos(7)).is_none());
        let merged = packet(v6, &[7; 400_000]);
        let s = decode(&merged, Nanos(7)).unwrap();
        assert_eq!((s.data.len(), s.missing), (400_000, 0));
    }
}

proptest! {
    #[test]
    fn hostile_packets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, Nanos(1));
        let mut forged = packet(false, &bytes);
        for (i, b) in bytes.iter().enumerate().take(40) {
            forged[i] ^= b;
        }
        let _ = decode(&forged, Nanos(1));
    }

    #[test]
    fn hostile_bytes_never_panic(
        start in prop::sample::select(vec![
            &b"Q\0\0\0\x0dSELECT 1\0"[..], b"*1\r\n$4\r\nPING\r\n", b"get a\r\n", b"\x05\0\0\0\x03SEL1",
            b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\x02\x01\0", b"", b"\x01\0\0\0\x0e",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
        ]),
        says in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)), 0..30),
        shift in 0u32..3,
    ) {
        let mut d = decoder();
        d.set_limits(100, 1 << 20);
        let mut p = Player { decoder: &mut d, next: [1, 1] };
        p.segment(true, 0, start, 1);
        for (i, (from_client, bytes)) in says.iter().enumerate() {
            p.segment(*from_client, 0, bytes, 10 + i as u64);
            p.next[usize::from(*from_client)] += shift * (i as u32 % 2);
        }
        p.decoder.flush();
        p.segment(true, RST, &[], 1000);
        for call in p.decoder.take_calls() {
            prop_assert!(!call.text.is_empty() && call.start <= call.end, "{call:?}");
        }
    }

    /// A valid conversation with bytes changed: whatever comes of it, it is bounded and sane.
    #[test]
    fn corrupted_conversations_never_panic(
        at in 0usize..120,
        with in prop::collection::vec(any::<u8>(), 1..8),
        cut in 1usize..50,
    ) {
        let answer = rows(3, 10);
        let mut says = vec![(true, q("SELECT 1; SELECT 2")), (false, answer)];
        says.push((true, b"P\0\0\0\x0ea\0SELECT\0\0\0S\0\0\0\x04".to_vec()));
        says.push((false, b"1\0\0\0\x04Z\0\0\0\x05I".to_vec()));
        let mut left = at;
        for (_, bytes) in &mut says {
            for b in &with {
                let n = bytes.len();
                bytes[left % n] ^= b;
                left += 7;
            }
        }
        let mut d = decoder();
        let mut p = Player { decoder: &mut d, next: [1, 1] };
        for (i, (from_client, bytes)) in says.iter().enumerate() {
            for piece in bytes.chunks(cut) {
                p.segment(*from_client, 0, piece, i as u64);
            }
        }
        p.decoder.flush();
    }
}
