//! MySQL and MariaDB.

use crate::packets::{Say, Script, c, s};

const PROTOCOL_41: u32 = 1 << 9 | 1 << 15;
const SSL: u32 = 1 << 11;
const DEPRECATE_EOF: u32 = 1 << 24;
const ATTRIBUTES: u32 = 1 << 27;

/// A packet.
fn p(sequence: u8, body: &[u8]) -> Vec<u8> {
    let n = (body.len() as u32).to_le_bytes();
    [&[n[0], n[1], n[2], sequence], body].concat()
}

fn command(code: u8, body: &[u8]) -> Vec<u8> {
    p(0, &[&[code], body].concat())
}

fn greeting(capabilities: u32) -> Vec<u8> {
    let cap = capabilities.to_le_bytes();
    let mut body = b"\x0a8.0.1\0\x01\0\0\0saltsalt\0".to_vec();
    body.extend([cap[0], cap[1], 33, 2, 0, cap[2], cap[3], 21]);
    body.extend([0; 10]);
    body.extend(b"saltsaltsalt\0mysql_native_password\0");
    p(0, &body)
}

fn response(capabilities: u32) -> Vec<u8> {
    let mut body = capabilities.to_le_bytes().to_vec();
    body.extend([0; 28]);
    body.extend(b"me\0\x06secret");
    p(1, &body)
}

fn ok(sequence: u8, affected: u8, status: u8) -> Vec<u8> {
    p(sequence, &[0, affected, 0, status, 0, 0, 0])
}

fn eof(sequence: u8, status: u8) -> Vec<u8> {
    p(sequence, &[0xfe, 0, 0, status, 0])
}

/// OK in place of EOF.
fn ok_eof(sequence: u8, status: u8) -> Vec<u8> {
    p(sequence, &[0xfe, 0, 0, status, 0, 0, 0])
}

/// A column of a table, or (`stored` false) an expression.
fn column(sequence: u8, name: &str, kind: u8, stored: bool) -> Vec<u8> {
    let text = |s: &str| [&[s.len() as u8], s.as_bytes()].concat();
    let mut body = [text("def"), text("db"), text("t"), text("t"), text(name)].concat();
    body.extend(text(if stored { name } else { "" }));
    body.extend([0x0c, 33, 0, 255, 0, 0, 0, kind, 0, 0, 0, 0, 0]);
    p(sequence, &body)
}

fn error(sequence: u8, number: u16) -> Vec<u8> {
    let mut body = vec![0xff];
    body.extend(number.to_le_bytes());
    body.extend(b"#42S02Table 'secret' doesn't exist");
    p(sequence, &body)
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

pub fn scripts() -> Vec<Script> {
    vec![handshake(), results(), prepared(true), prepared(false), tls(), midstream(), refused()]
}

fn handshake() -> Script {
    let caps = PROTOCOL_41 | DEPRECATE_EOF | ATTRIBUTES;
    Script {
        name: "handshake with a changed method, query attributes, no EOF",
        opened: true,
        says: vec![
            s(greeting(caps)),
            c(response(caps)),
            s(p(2, b"\xfecaching_sha2_password\0salt")),
            c(p(3, b"secret")),
            s(join(&[p(4, &[1, 3]), ok(5, 0, 2)])),
            c(command(3, b"\0\x01SELECT name, 'lit' FROM t WHERE id = 5")),
            s(join(&[p(1, &[2]), column(2, "name", 253, true), column(3, "lit", 253, false)])),
            s(join(&[p(4, b"\x01a\x03lit"), p(5, b"\xfb\x03lit"), ok_eof(6, 2)])),
            c(command(0x0e, b"")),
            s(ok(1, 0, 2)),
            c(command(1, b"")),
            Say::ClientEnds,
            Say::ServerEnds,
        ],
        calls: "
            mysql connect [tcp connect] 10-15 b0 0>0
            mysql connect [mysql handshake and authentication] 15-500 b1 56>125
            mysql execute [SELECT name, ? FROM t WHERE id = ?] 600-800 b2 45>106 rows=2 params=2 columns=name:1,?:1
            mysql session [ping] 900-1000 b3 5>11
        ",
    }
}

fn results() -> Script {
    Script {
        name: "several statements, a procedure's results, errors, a file",
        opened: false,
        says: vec![
            c(command(3, b"INSERT INTO t VALUES (1),(2); SELECT id FROM t; COMMIT")),
            s(join(&[ok(1, 2, 8), p(2, &[1]), column(3, "id", 3, true), eof(4, 8)])),
            s(join(&[p(5, b"\x011"), p(6, b"\x012"), eof(7, 8), ok(8, 0, 0)])),
            c(command(3, b"CALL report(7)")),
            s(join(&[p(1, &[1]), column(2, "a", 3, true), eof(3, 8), p(4, b"\x011"), eof(5, 8)])),
            s(join(&[p(6, &[1]), column(7, "a", 3, true), eof(8, 8), p(9, b"\x012"), eof(10, 8)])),
            s(ok(11, 0, 0)),
            c(command(3, b"SELECT * FROM nope")),
            s(error(1, 1146)),
            c(command(3, b"LOAD DATA LOCAL INFILE 'f' INTO TABLE t")),
            s(p(1, b"\xfbf")),
            c(join(&[p(2, b"1\n2\n"), p(3, b"")])),
            s(ok(4, 2, 0)),
            c(command(2, b"shop")),
            s(ok(1, 0, 0)),
        ],
        calls: "
            mysql execute [INSERT INTO t VALUES (?)] 100-200 b1 59>11 rows=2 params=2
            mysql execute [SELECT id FROM t] 200-300 b1 0>69 rows=2 columns=id:2
            mysql session [COMMIT] 300-300 b1 0>11 rows=0
            mysql execute [CALL report(?)] 400-700 b2 19>133 rows=2 params=1 columns=a:1
            mysql execute [SELECT * FROM nope] 800-900 b3 23>41 error=1146
            mysql execute [LOAD DATA LOCAL INFILE ? INTO TABLE t] 1000-1300 b4 56>17 rows=2 params=1
            mysql session [init db] 1400-1500 b5 9>11
        ",
    }
}

fn prepared(deprecate: bool) -> Script {
    let caps = if deprecate { PROTOCOL_41 | DEPRECATE_EOF } else { PROTOCOL_41 };
    let marks = |p: Vec<u8>| if deprecate { vec![] } else { p };
    let end = |n| if deprecate { ok_eof(n, 2) } else { eof(n, 2) };
    let execute = |new: bool| {
        let mut body = vec![1, 0, 0, 0, 0, 1, 0, 0, 0, 0, u8::from(new)];
        if new {
            body.extend([3, 0, 253, 0]);
        }
        body.extend([42, 0, 0, 0, 2, b'h', b'i']);
        command(0x17, &body)
    };
    let rows = || {
        join(&[
            p(1, &[2]),
            column(2, "id", 3, true),
            column(3, "name", 253, true),
            marks(eof(4, 2)),
            p(5, &[0, 0, 42, 0, 0, 0, 2, b'h', b'i']),
            p(6, &[0, 8, 43, 0, 0, 0]),
            end(7),
        ])
    };
    Script {
        name: if deprecate { "prepared, without EOF" } else { "prepared, with EOF" },
        opened: true,
        says: vec![
            s(greeting(caps)),
            c(response(caps)),
            s(ok(2, 0, 2)),
            c(command(0x16, b"SELECT id, name FROM t WHERE id >= ? AND name = ?")),
            s(join(&[
                p(1, &[0, 1, 0, 0, 0, 2, 0, 2, 0, 0, 0, 0]),
                column(2, "?", 253, false),
                column(3, "?", 253, false),
                marks(eof(4, 2)),
                column(5, "id", 3, true),
                column(6, "name", 253, true),
                marks(eof(7, 2)),
            ])),
            c(execute(true)),
            s(rows()),
            c(join(&[execute(false), command(0x19, &[1, 0, 0, 0])])),
            s(rows()),
        ],
        calls: if deprecate {
            "
            mysql connect [tcp connect] 10-15 b0 0>0
            mysql connect [mysql handshake and authentication] 15-300 b1 46>88
            mysql prepare [SELECT id, name FROM t WHERE id >= ? AND name = ?] 400-500 b2 54>150
            mysql execute [SELECT id, name FROM t WHERE id >= ? AND name = ?] 600-700 b3 27>111 rows=2 params=2 columns=id:2,name:1
            mysql execute [SELECT id, name FROM t WHERE id >= ? AND name = ?] 800-900 b4 23>111 rows=2 params=2 columns=id:2,name:1
            "
        } else {
            "
            mysql connect [tcp connect] 10-15 b0 0>0
            mysql connect [mysql handshake and authentication] 15-300 b1 46>88
            mysql prepare [SELECT id, name FROM t WHERE id >= ? AND name = ?] 400-500 b2 54>168
            mysql execute [SELECT id, name FROM t WHERE id >= ? AND name = ?] 600-700 b3 27>118 rows=2 params=2 columns=id:2,name:1
            mysql execute [SELECT id, name FROM t WHERE id >= ? AND name = ?] 800-900 b4 23>118 rows=2 params=2 columns=id:2,name:1
            "
        },
    }
}

fn tls() -> Script {
    let caps = PROTOCOL_41 | SSL;
    let request = p(1, &[&caps.to_le_bytes()[..], &[0; 28]].concat());
    Script {
        name: "TLS, its hello in the same packet as the request for it",
        opened: true,
        says: vec![
            s(greeting(caps)),
            c(join(&[request, vec![0x16, 3, 1, 0, 2, 1, 0]])),
            s([0x16, 3, 3, 0, 1, 2]),
            c([0x14, 3, 3, 0, 1, 1, 0x17, 3, 3, 0, 1, 9]),
            c([&[0x17, 3, 3, 0, 90][..], &[0; 90]].concat()),
            s([0x17, 3, 3, 0, 1, 7]),
            Say::Gap,
        ],
        calls: "
            mysql connect [tcp connect] 10-15 b0 0>0
            tls connect [tls handshake] 15-300 b1 19>6
            tls execute [tls 9] 500-600 b2 95>6 unknown
        ",
    }
}

fn midstream() -> Script {
    Script {
        name: "capabilities and statement unknown",
        opened: false,
        says: vec![
            c(command(0x17, &[9, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 5, 0, 0, 0])),
            s(join(&[
                p(1, &[1]),
                column(2, "id", 3, true),
                p(3, &[0, 0, 5, 0, 0, 0]),
                ok_eof(4, 2),
            ])),
            c(command(3, b"\0\x01SELECT id FROM t")),
            s(join(&[p(1, &[1]), column(2, "id", 3, true), ok_eof(3, 2)])),
        ],
        calls: "
            mysql execute [prepared 9] 100-200 b1 22>60 rows=1 params=1 columns=id:1 unknown
            mysql execute [SELECT id FROM t] 300-400 b2 23>50 rows=0
        ",
    }
}

fn refused() -> Script {
    Script {
        name: "too many connections",
        opened: true,
        says: vec![s(error(0, 1040)), Say::ServerEnds, Say::ClientEnds],
        calls: "
            mysql connect [tcp connect] 10-15 b0 0>0
            mysql connect [mysql handshake and authentication] 15-100 b1 0>41 error=1040
        ",
    }
}
