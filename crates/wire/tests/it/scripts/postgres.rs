//! PostgreSQL.

use crate::packets::{Say, Script, c, s};

/// A typed message.
fn m(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// An untyped message.
fn untyped(code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
    out.extend(code.to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn q(text: &str) -> Vec<u8> {
    m(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    m(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// Bind with values, all text or all binary.
fn bind(name: &str, binary: bool, values: &[&[u8]]) -> Vec<u8> {
    let mut body = format!("\0{name}\0").into_bytes();
    body.extend([0, 1, 0, u8::from(binary)]);
    body.extend((values.len() as u16).to_be_bytes());
    for v in values {
        body.extend((v.len() as u32).to_be_bytes());
        body.extend_from_slice(v);
    }
    body.extend([0, 1, 0, u8::from(binary)]);
    m(b'B', &body)
}

fn describe_portal() -> Vec<u8> {
    m(b'D', b"P\0")
}

fn describe_statement(name: &str) -> Vec<u8> {
    m(b'D', format!("S{name}\0").as_bytes())
}

fn execute() -> Vec<u8> {
    m(b'E', &[0, 0, 0, 0, 0])
}

fn sync() -> Vec<u8> {
    m(b'S', &[])
}

fn columns(names: &[(&str, u32)]) -> Vec<u8> {
    let mut body = (names.len() as u16).to_be_bytes().to_vec();
    for (name, oid) in names {
        body.extend(format!("{name}\0").as_bytes());
        body.extend([0; 6]);
        body.extend(oid.to_be_bytes());
        body.extend([0; 8]);
    }
    m(b'T', &body)
}

fn row(values: &[&[u8]]) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for v in values {
        body.extend((v.len() as u32).to_be_bytes());
        body.extend_from_slice(v);
    }
    m(b'D', &body)
}

fn done(tag: &str) -> Vec<u8> {
    m(b'C', format!("{tag}\0").as_bytes())
}

fn ready() -> Vec<u8> {
    m(b'Z', b"I")
}

fn error(code: &str) -> Vec<u8> {
    m(b'E', format!("SERROR\0C{code}\0Mrelation \"secret\" does not exist\0\0").as_bytes())
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

pub fn scripts() -> Vec<Script> {
    let mut all = simple();
    all.extend(extended());
    all.extend(prepared());
    all.extend(copied());
    all.extend(flushed_and_unknown());
    all.extend(sessions());
    all
}

fn simple() -> Vec<Script> {
    vec![
        Script {
            name: "start-up, then several statements in one text",
            opened: true,
            says: vec![
                c(untyped(196_608, b"user\0me\0\0")),
                s(join(&[m(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])])),
                c(m(b'p', b"md5secret\0")),
                s(join(&[m(b'R', &[0; 4]), m(b'S', b"a\0b\0"), m(b'K', &[0; 8]), ready()])),
                c(q("SELECT 1; SELECT name FROM t WHERE id IN (1, 2); SET x = 'y'")),
                s(join(&[columns(&[("?column?", 23)]), row(&[b"1"]), done("SELECT 1")])),
                s(join(&[columns(&[("name", 25)]), row(&[b"a"]), row(&[b"b"]), done("SELECT 2")])),
                s(join(&[m(b'N', b"notice"), done("SET"), ready()])),
                Say::ClientEnds,
                Say::ServerEnds,
            ],
            calls: "
                postgres connect [tcp connect] 10-15 b0 0>0
                postgres connect [postgres startup and authentication] 100-400 b1 32>41
                postgres session [SELECT ?] 500-600 b2 66>60 rows=1 params=1 columns=?column?:1
                postgres execute [SELECT name FROM t WHERE id IN (?)] 600-700 b2 0>68 rows=2 params=2 columns=name:2
                postgres session [SET x = ?] 700-800 b2 0>15 params=1
            ",
        },
        Script {
            name: "an error ends the text; an empty text is a ping",
            opened: false,
            says: vec![
                c(q("SELECT * FROM nope; SELECT 2")),
                s(join(&[error("42P01"), ready()])),
                c(q("")),
                s(join(&[m(b'I', &[]), ready()])),
                c(q("ROLLBACK")),
                s(join(&[done("ROLLBACK"), ready()])),
            ],
            calls: "
                postgres execute [SELECT * FROM nope] 100-200 b1 34>60 error=42P01
                postgres session [(empty statement)] 300-400 b2 6>11
                postgres session [ROLLBACK] 500-600 b3 14>20
            ",
        },
        Script {
            name: "COPY both ways",
            opened: false,
            says: vec![
                c(q("COPY t FROM STDIN")),
                s(m(b'G', &[0, 0, 0])),
                c(join(&[m(b'd', b"1\tsecret\n"), m(b'd', b"2\tsecret\n"), m(b'c', &[])])),
                s(join(&[done("COPY 2"), ready()])),
                c(q("COPY t TO STDOUT")),
                s(join(&[m(b'H', &[0, 0, 0]), m(b'd', b"1\ta\n"), m(b'd', b"2\tb\n")])),
                s(join(&[m(b'c', &[]), done("COPY 2"), ready()])),
            ],
            calls: "
                postgres execute [COPY t FROM STDIN] 100-400 b1 56>26 rows=2
                postgres execute [COPY t TO STDOUT] 500-700 b2 22>49 rows=2
            ",
        },
    ]
}

fn extended() -> Vec<Script> {
    let answer = || join(&[m(b'1', &[]), m(b'2', &[]), columns(&[("id", 23)])]);
    vec![
        Script {
            name: "unnamed statement in one round trip, then a pipeline of two",
            opened: false,
            says: vec![
                c(join(&[
                    parse("", "SELECT id FROM t WHERE id = $1"),
                    bind("", true, &[&42u32.to_be_bytes()]),
                    describe_portal(),
                    execute(),
                    sync(),
                ])),
                s(join(&[answer(), row(&[&42u32.to_be_bytes()])])),
                s(join(&[done("SELECT 1"), ready()])),
                c(join(&[
                    parse("", "UPDATE t SET a = $1"),
                    bind("", false, &[b"x"]),
                    execute(),
                    sync(),
                ])),
                c(join(&[parse("", "DELETE FROM t"), bind("", false, &[]), execute(), sync()])),
                s(join(&[m(b'1', &[]), m(b'2', &[]), done("UPDATE 3"), ready()])),
                s(join(&[m(b'1', &[]), m(b'2', &[]), done("DELETE 4"), ready()])),
            ],
            calls: "
                postgres execute [SELECT id FROM t WHERE id = $1] 100-300 b1 86>73 rows=1 params=1 columns=id:1
                postgres execute [UPDATE t SET a = $1] 400-600 b2 65>30 rows=3 params=1
                postgres execute [DELETE FROM t] 600-700 b2 54>30 rows=4
            ",
        },
    ]
}

fn prepared() -> Vec<Script> {
    vec![
        Script {
            name: "prepare, execute twice, an error in a pipeline skips to Sync",
            opened: false,
            says: vec![
                c(join(&[parse("s1", "SELECT name FROM t WHERE id = $1"), describe_statement("s1"), sync()])),
                s(join(&[m(b'1', &[]), m(b't', &[0, 1, 0, 0, 0, 23]), columns(&[("name", 25)]), ready()])),
                c(join(&[bind("s1", true, &[&7u32.to_be_bytes()]), execute(), sync()])),
                s(join(&[m(b'2', &[]), row(&[b"n"]), done("SELECT 1"), ready()])),
                c(join(&[
                    bind("s1", true, &[&7u32.to_be_bytes()]),
                    execute(),
                    parse("", "SELECT 1/0"),
                    bind("", false, &[]),
                    execute(),
                    parse("", "SELECT 3"),
                    bind("", false, &[]),
                    execute(),
                    sync(),
                ])),
                s(join(&[m(b'2', &[]), done("SELECT 0"), m(b'1', &[]), m(b'2', &[])])),
                s(join(&[error("22012"), ready()])),
                c(join(&[m(b'C', b"Ss1\0"), sync()])),
                s(join(&[m(b'3', &[]), ready()])),
            ],
            calls: "
                postgres prepare [SELECT name FROM t WHERE id = $1] 100-200 b1 57>52
                postgres execute [SELECT name FROM t WHERE id = $1] 300-400 b2 42>37 rows=1 params=1 columns=name:1
                postgres execute [SELECT name FROM t WHERE id = $1] 500-600 b3 37>19 rows=0 params=1
                postgres execute [SELECT ?/?] 600-700 b3 46>70 error=22012
                postgres session [close statement] 800-900 b4 14>11
            ",
        },
    ]
}

fn copied() -> Vec<Script> {
    vec![Script {
        name: "COPY by the extended protocol: Sync during the copy is ignored",
        opened: false,
        says: vec![
            c(join(&[parse("", "COPY t FROM STDIN"), bind("", false, &[]), execute(), sync()])),
            s(join(&[m(b'1', &[]), m(b'2', &[]), m(b'G', &[0, 0, 0])])),
            c(join(&[m(b'd', b"1\n"), m(b'c', &[]), sync()])),
            s(join(&[done("COPY 1"), ready()])),
            c(join(&[parse("", "COPY t FROM STDIN"), bind("", false, &[]), execute(), sync()])),
            s(join(&[m(b'1', &[]), m(b'2', &[]), m(b'G', &[0, 0, 0])])),
            c(m(b'd', b"bad\n")),
            s(error("22P04")),
            c(join(&[m(b'c', &[]), sync()])),
            s(ready()),
            c(q("SELECT 1 FROM t")),
            s(join(&[done("SELECT 0"), ready()])),
        ],
        calls: "
                postgres execute [COPY t FROM STDIN] 100-400 b1 75>36 rows=1
                postgres execute [COPY t FROM STDIN] 500-800 b2 67>72 error=22P04
                postgres execute [SELECT ? FROM t] 1100-1200 b4 21>20 rows=0 params=1
            ",
    }]
}

fn flushed_and_unknown() -> Vec<Script> {
    vec![
        Script {
            name: "Flush instead of Sync (asyncpg), portal suspended",
            opened: false,
            says: vec![
                c(join(&[parse("a", "SELECT g FROM g"), describe_statement("a"), m(b'H', &[])])),
                s(join(&[m(b'1', &[]), m(b't', &[0, 0]), columns(&[("g", 23)])])),
                c(join(&[bind("a", true, &[]), execute(), sync()])),
                s(join(&[m(b'2', &[]), row(&[&1u32.to_be_bytes()]), m(b's', &[]), ready()])),
            ],
            calls: "
                postgres prepare [SELECT g FROM g] 100-200 b1 38>39
                postgres execute [SELECT g FROM g] 300-400 b2 33>31 rows=1 columns=g:1
            ",
        },
        Script {
            name: "named before the capture: described each time, or never",
            opened: false,
            says: vec![
                c(join(&[bind("by-id", false, &[b"1"]), describe_portal(), execute(), sync()])),
                s(join(&[m(b'2', &[]), columns(&[("id", 23), ("ref", 25)]), row(&[b"1", b"x"])])),
                s(join(&[done("SELECT 1"), ready()])),
                c(join(&[bind("by-id", false, &[b"2"]), execute(), sync()])),
                s(join(&[m(b'2', &[]), row(&[b"2", b"y"]), done("SELECT 1"), ready()])),
                c(join(&[bind("other", false, &[b"2"]), execute(), sync()])),
                s(join(&[m(b'2', &[]), row(&[b"2"]), done("SELECT 1"), ready()])),
            ],
            calls: "
                postgres execute [prepared \"by-id\" (id, ref)] 100-300 b1 49>92 rows=1 params=1 columns=id:1,ref:1 unknown
                postgres execute [prepared \"by-id\" (id, ref)] 400-500 b2 42>42 rows=1 params=1 columns=id:1,ref:1 unknown
                postgres execute [prepared \"other\"] 600-700 b3 42>37 rows=1 params=1 unknown
            ",
        },
    ]
}

fn sessions() -> Vec<Script> {
    vec![
        Script {
            name: "TLS refused",
            opened: true,
            says: vec![
                c(untyped(80_877_103, &[])),
                s(b"N"),
                c(untyped(196_608, b"user\0me\0\0")),
                s(join(&[m(b'R', &[0; 4]), ready()])),
            ],
            calls: "
                postgres connect [tcp connect] 10-15 b0 0>0
                postgres connect [postgres startup and authentication] 100-400 b1 17>15
            ",
        },
        Script {
            name: "TLS accepted",
            opened: true,
            says: vec![
                c(untyped(80_877_103, &[])),
                s(b"S"),
                c([&[0x16, 3, 1, 0, 4, 1][..], &[0; 3]].concat()),
                s([0x16, 3, 3, 0, 2, 2, 0]),
                c([&[0x14, 3, 3, 0, 1, 1, 0x17, 3, 3, 0, 53][..], &[0; 53]].concat()),
                c([&[0x17, 3, 3, 0, 100][..], &[0; 100]].concat()),
                s([&[0x17, 3, 3, 0, 10][..], &[0; 10]].concat()),
                Say::Gap,
            ],
            calls: "
                postgres connect [tcp connect] 10-15 b0 0>0
                tls connect [tls handshake] 100-400 b1 73>7
                tls execute [tls 9] 600-700 b2 105>15 unknown
            ",
        },
        Script {
            name: "failed start-up, cancel, and a connection that dies in a call",
            opened: true,
            says: vec![
                c(untyped(196_608, b"user\0me\0\0")),
                s(error("28000")),
                Say::ServerEnds,
                Say::ClientEnds,
            ],
            calls: "
                postgres connect [tcp connect] 10-15 b0 0>0
                postgres connect [postgres startup and authentication] 100-400 b1 17>0 error=28000
            ",
        },
        Script {
            name: "cancel request",
            opened: true,
            says: vec![c(untyped(80_877_102, &[0; 8])), Say::ServerEnds, Say::ClientEnds],
            calls: "
                postgres connect [tcp connect] 10-15 b0 0>0
                postgres session [cancel request] 100-300 b1 16>0
            ",
        },
        Script {
            name: "the connection dies in a call",
            opened: false,
            says: vec![c(q("SELECT pg_sleep(9)")), Say::ServerEnds, Say::ClientEnds],
            calls: "
                postgres execute [SELECT pg_sleep(?)] 100-300 b1 24>0 params=1 error=connection-closed
            ",
        },
    ]
}
