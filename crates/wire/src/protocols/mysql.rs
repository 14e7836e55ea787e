//! MySQL and MariaDB client/server protocol: handshake, text and prepared statements, multiple
//! results. A connection older than the capture has unknown capabilities; what they change in the
//! framing is inferred from the answers.

mod packets;

use super::opaque::Opaque;
use super::sql;
use super::tls::Tls;
use crate::codec::{
    Assembler, Codec, Context, Frame, Header, Next, OUTSTANDING_LIMIT, Side, Sketch, Step, Turns,
};
use evidence::{Call, Nanos, Operation, Protocol, SqlDialect};
use packets::{Column, Reader};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

pub(crate) use packets::{sniff, sniff_greeting};

/// Bytes kept of a packet.
const KEEP: usize = 256 << 10;

/// Prepared statements remembered per connection.
const STATEMENTS_LIMIT: usize = 4096;

/// Columns remembered of a result; the protocol's own limit is 4,096.
const COLUMNS_LIMIT: u64 = 4096;

const CLIENT_COMPRESS: u32 = 1 << 5;
const CLIENT_SSL: u32 = 1 << 11;
const CLIENT_DEPRECATE_EOF: u32 = 1 << 24;
const CLIENT_ZSTD: u32 = 1 << 26;
const CLIENT_QUERY_ATTRIBUTES: u32 = 1 << 27;

/// Another result set follows.
const MORE_RESULTS: u16 = 8;

/// A prepared statement.
#[derive(Clone, Debug)]
struct Statement {
    text: String,
    known: bool,
    params: Option<u16>,
    /// Types as last sent: they are sent only when they change.
    types: Vec<u16>,
    columns: Option<Arc<Vec<Column>>>,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The server's greeting was seen, the client's answer not yet.
    Greeted,
    /// Authentication goes back and forth.
    Authenticating,
    Commands,
}

/// What the front command's answer has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// OK, ERR, or the number of columns.
    First,
    /// OK, ERR or EOF ends it.
    Simple,
    /// Anything ends it.
    Anything,
    /// Answer to PREPARE.
    Prepared,
    /// This many definitions of parameters, then this many of columns.
    Definitions {
        params: u16,
        columns: u16,
    },
    /// The EOF packet after parameter definitions, when there is one.
    DefinitionsEof {
        columns: u16,
    },
    /// This many column definitions, then rows.
    Columns(u64),
    /// First packet after the column definitions: EOF, or already a row.
    RowsBegin,
    Rows,
    /// Field list: definitions up to EOF.
    Fields,
    /// Authentication of COM_CHANGE_USER.
    Authentication,
}

#[derive(Debug)]
struct Pending {
    call: Call,
    expect: Expect,
    binary: bool,
    statement: Option<u32>,
    columns: Vec<Column>,
    known_columns: Option<Arc<Vec<Column>>>,
    sketch: Option<Sketch>,
    rows: u64,
    affected: u64,
}

/// Framing of one MySQL connection.
#[derive(Debug)]
pub(crate) struct Mysql {
    client: Assembler,
    server: Assembler,
    turns: Turns,
    phase: Phase,
    established: Option<Nanos>,
    /// Capabilities both sides agreed on; `None` when the handshake was not seen.
    capabilities: Option<u32>,
    greeting: u32,
    /// Whether results end without EOF packets after definitions; found out when not agreed on.
    no_eof: Option<bool>,
    connect: Option<Call>,
    queue: VecDeque<Pending>,
    statements: HashMap<u32, Statement>,
    /// Statement prepared last: MariaDB's id −1 means it.
    last_prepared: Option<u32>,
    /// The packet before was of the largest size: the next one continues it.
    continues: [bool; 2],
    /// LOCAL INFILE: the client sends a file.
    sends_file: bool,
}

impl Mysql {
    /// `established`: when TCP was, where seen: the server speaks first and the client waits for it.
    pub fn new(established: Option<Nanos>) -> Mysql {
        Mysql {
            client: Assembler::default(),
            server: Assembler::default(),
            turns: Turns::default(),
            phase: Phase::Commands,
            established,
            capabilities: None,
            greeting: 0,
            no_eof: None,
            connect: None,
            queue: VecDeque::new(),
            statements: HashMap::new(),
            last_prepared: None,
            continues: [false; 2],
            sends_file: false,
        }
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities.is_some_and(|c| c & capability != 0)
    }

    fn client_packet(&mut self, f: &Frame<'_>, rest: usize, cx: &mut Context<'_>) -> Step {
        let body = &f.bytes[4..];
        match self.phase {
            Phase::Greeted => return self.handshake_response(body, f.total, rest, cx),
            Phase::Authenticating => {
                if let Some(c) = &mut self.connect {
                    c.bytes_sent += f.total;
                }
                return Step::Go;
            }
            Phase::Commands => {}
        }
        // A sequence number above zero continues an exchange: a file, a password.
        if f.bytes[3] != 0 || self.sends_file {
            if body.is_empty() {
                self.sends_file = false;
            }
            if let Some(p) = self.queue.back_mut() {
                p.call.bytes_sent += f.total;
            }
            return Step::Go;
        }
        match body.first() {
            Some(command) => self.command(*command, f, cx),
            None => Step::Lost,
        }
    }

    fn handshake_response(
        &mut self,
        body: &[u8],
        total: u64,
        rest: usize,
        cx: &mut Context<'_>,
    ) -> Step {
        let mut r = Reader::new(body);
        let asked = r.u32().unwrap_or(0);
        let agreed = asked & self.greeting;
        self.capabilities = Some(agreed);
        self.no_eof = Some(agreed & CLIENT_DEPRECATE_EOF != 0);
        // A short response only asks for TLS; everything after it is encrypted.
        if asked & CLIENT_SSL != 0 && body.len() <= 32 {
            let start = self.connect.take().map(|c| c.start);
            return Step::Switch(Box::new(Tls::new(start)), rest);
        }
        self.phase = Phase::Authenticating;
        if let Some(c) = &mut self.connect {
            c.bytes_sent += total;
        }
        let _ = cx;
        Step::Go
    }

    fn command(&mut self, command: u8, f: &Frame<'_>, cx: &mut Context<'_>) -> Step {
        let body = &f.bytes[5..];
        let session = |text: &str| Some((Operation::Session, text.to_owned(), true));
        let (expect, call) = match command {
            0x01 => (None, None),
            0x02 => (Some(Expect::Simple), session("init db")),
            0x03 => return self.query(f, body, cx),
            0x04 => (Some(Expect::Fields), session("field list")),
            0x09 => (Some(Expect::Anything), session("statistics")),
            0x0e => (Some(Expect::Simple), session("ping")),
            0x11 => (
                Some(Expect::Authentication),
                Some((Operation::Connect, "mysql change user".to_owned(), true)),
            ),
            0x12 | 0x1e => return Step::Switch(Box::new(Opaque::new()), 0),
            0x16 => return self.prepare(f, body, cx),
            0x17 | 0xfa => return self.execute(f, body, command == 0xfa, cx),
            // Long data: no answer of its own.
            0x18 => (None, None),
            0x19 => {
                self.statements.remove(&Reader::new(body).u32().unwrap_or(0));
                (None, None)
            }
            0x1a => (Some(Expect::Simple), session("reset statement")),
            0x1b => (Some(Expect::Simple), session("set option")),
            0x1c => (Some(Expect::Rows), Some((Operation::Execute, "fetch".to_owned(), false))),
            0x1f => (Some(Expect::Simple), session("reset connection")),
            0x05..=0x0d => (Some(Expect::Simple), session("command")),
            _ => return Step::Lost,
        };
        if let (Some(expect), Some((operation, text, known))) = (expect, call) {
            let mut call = cx.call(Protocol::Mysql, operation, text, f.begun);
            call.text_known = known;
            if command == 0x1c {
                self.fetch(&mut call, body);
            }
            self.push(call, f.total, expect, command == 0x1c, None);
        }
        Step::Go
    }

    fn fetch(&self, call: &mut Call, body: &[u8]) {
        let id = Reader::new(body).u32().unwrap_or(0);
        if let Some(s) = self.statements.get(&id) {
            call.text = format!("fetch {}", s.text);
            call.text_known = s.known;
        }
    }

    fn push(&mut self, mut call: Call, sent: u64, expect: Expect, binary: bool, of: Option<u32>) {
        call.batch = self.turns.batch(self.queue.is_empty());
        call.bytes_sent = sent;
        let known_columns =
            of.and_then(|id| self.statements.get(&id)).and_then(|s| s.columns.clone());
        self.queue.push_back(Pending {
            call,
            expect,
            binary,
            statement: of,
            columns: Vec::new(),
            known_columns,
            sketch: None,
            rows: 0,
            affected: 0,
        });
    }

    fn query(&mut self, f: &Frame<'_>, body: &[u8], cx: &mut Context<'_>) -> Step {
        let attributes = match self.capabilities {
            Some(c) => c & CLIENT_QUERY_ATTRIBUTES != 0,
            // No statement begins with these two bytes.
            None => body.starts_with(&[0, 1]),
        };
        let text = if attributes { packets::after_attributes(body) } else { body };
        let text = String::from_utf8_lossy(text);
        let (fingerprint, params) = cx.redactor().sql_in(&text, SqlDialect::Mysql);
        let fingerprint = if fingerprint.is_empty() { sql::EMPTY.into() } else { fingerprint };
        let operation = sql::operation(&fingerprint);
        let mut call = cx.call(Protocol::Mysql, operation, fingerprint, f.begun);
        call.params = params;
        call.text_known = !f.is_cut();
        self.push(call, f.total, Expect::First, false, None);
        Step::Go
    }

    fn prepare(&mut self, f: &Frame<'_>, body: &[u8], cx: &mut Context<'_>) -> Step {
        let text = String::from_utf8_lossy(body);
        let (fingerprint, _) = cx.redactor().sql_in(&text, SqlDialect::Mysql);
        let fingerprint = if fingerprint.is_empty() { sql::EMPTY.into() } else { fingerprint };
        let mut call = cx.call(Protocol::Mysql, Operation::Prepare, fingerprint, f.begun);
        call.text_known = !f.is_cut();
        self.push(call, f.total, Expect::Prepared, false, None);
        Step::Go
    }

    fn execute(&mut self, f: &Frame<'_>, body: &[u8], bulk: bool, cx: &mut Context<'_>) -> Step {
        let mut r = Reader::new(body);
        let sent_id = r.u32().unwrap_or(0);
        let latest = self.queue.iter().rev().find(|p| p.expect == Expect::Prepared);
        let (id, known) = match (sent_id, latest, self.last_prepared) {
            // MariaDB: the statement whose PREPARE was sent just before, answered or not.
            (u32::MAX, Some(p), _) => (None, Some((p.call.text.clone(), p.call.text_known))),
            (u32::MAX, None, Some(id)) => (Some(id), None),
            _ => (Some(sent_id), None),
        };
        let statement = id.and_then(|id| self.statements.get_mut(&id));
        let (text, text_known) = match (&statement, known) {
            (Some(s), _) => (s.text.clone(), s.known),
            (None, Some(known)) => known,
            (None, None) => (format!("prepared {sent_id}"), false),
        };
        let operation = sql::operation(&text);
        let mut call = cx.call(Protocol::Mysql, operation, text, f.begun);
        call.text_known = text_known;
        if let (Some(s), false) = (statement, bulk) {
            let attributes = self.capabilities.is_some_and(|c| c & CLIENT_QUERY_ATTRIBUTES != 0);
            let count = if attributes { None } else { s.params };
            call.params = packets::execute_params(body, count, &mut s.types, cx.redactor());
        }
        self.push(call, f.total, Expect::First, true, id);
        Step::Go
    }

    fn server_packet(&mut self, f: &Frame<'_>, at: Nanos, cx: &mut Context<'_>) -> Step {
        let body = &f.bytes[4..];
        let Some(first) = body.first().copied() else { return Step::Go };
        if self.phase == Phase::Authenticating {
            return self.authentication(first, body, f.total, at, cx);
        }
        if self.phase == Phase::Commands && self.queue.is_empty() {
            return if self.capabilities.is_none() {
                self.greet(body, f, at, cx)
            } else {
                Step::Go
            };
        }
        let Some(front) = self.queue.front_mut() else { return Step::Go };
        front.call.bytes_received += f.total;
        if first == 0xff && !matches!(front.expect, Expect::Anything) {
            front.call.error = Some(packets::error_code(body));
            self.end(at, cx);
            return Step::Go;
        }
        self.answer(first, body, f.total, at, cx)
    }

    /// The server's greeting, or an error instead of it (too many connections).
    fn greet(&mut self, body: &[u8], f: &Frame<'_>, at: Nanos, cx: &mut Context<'_>) -> Step {
        let start = self.established.take().unwrap_or(f.begun);
        let text = "mysql handshake and authentication".to_owned();
        let mut call = cx.call(Protocol::Mysql, Operation::Connect, text, start);
        call.batch = self.turns.batch(true);
        call.bytes_received = f.total;
        match body.first() {
            Some(0xff) => {
                call.error = Some(packets::error_code(body));
                self.turns.finish(call, at, cx);
            }
            Some(9 | 10) => {
                self.greeting = packets::greeting_capabilities(body);
                self.connect = Some(call);
                self.phase = Phase::Greeted;
            }
            _ => {}
        }
        Step::Go
    }

    fn authentication(
        &mut self,
        first: u8,
        body: &[u8],
        total: u64,
        at: Nanos,
        cx: &mut Context<'_>,
    ) -> Step {
        let Some(call) = &mut self.connect else { return Step::Go };
        call.bytes_received += total;
        match first {
            0xff => call.error = Some(packets::error_code(body)),
            0x00 => {}
            // A different method, or more of it.
            _ => return Step::Go,
        }
        self.phase = Phase::Commands;
        if let Some(call) = self.connect.take() {
            self.turns.finish(call, at, cx);
        }
        if self.has(CLIENT_COMPRESS) || self.has(CLIENT_ZSTD) {
            return Step::Switch(Box::new(Opaque::new()), 0);
        }
        Step::Go
    }

    fn answer(
        &mut self,
        first: u8,
        body: &[u8],
        total: u64,
        at: Nanos,
        cx: &mut Context<'_>,
    ) -> Step {
        let Some(front) = self.queue.front_mut() else { return Step::Go };
        let eof = first == 0xfe && total < 4 + 9;
        match front.expect {
            Expect::First => return self.first(first, body, at, cx),
            Expect::Simple | Expect::Anything => self.end(at, cx),
            Expect::Authentication => {
                if first == 0 {
                    self.end(at, cx);
                }
            }
            Expect::Prepared => self.prepared(body, at, cx),
            Expect::Fields if eof => self.end(at, cx),
            Expect::Fields => {}
            Expect::Definitions { params, columns } => {
                self.definition(params, columns, body, at, cx);
            }
            Expect::DefinitionsEof { columns } => {
                // With EOF packets unknown, the packet itself tells.
                if eof && total == 4 + 5 {
                    self.no_eof.get_or_insert(false);
                    self.definitions(0, columns, at, cx);
                } else {
                    self.no_eof.get_or_insert(true);
                    self.definitions(0, columns, at, cx);
                    return self.answer_again(first, body, total, at, cx);
                }
            }
            Expect::Columns(left) => {
                if (front.columns.len() as u64) < COLUMNS_LIMIT {
                    front.columns.push(packets::column(body));
                }
                front.expect = match left - 1 {
                    0 if self.no_eof == Some(true) => Expect::Rows,
                    0 => Expect::RowsBegin,
                    left => Expect::Columns(left),
                };
            }
            Expect::RowsBegin => {
                front.expect = Expect::Rows;
                let marks = eof && total == 4 + 5;
                self.no_eof.get_or_insert(!marks);
                if !marks {
                    return self.answer_again(first, body, total, at, cx);
                }
                // A cursor: the rows come by FETCH.
                if packets::eof_status(body) & 0x40 != 0 {
                    self.end(at, cx);
                }
            }
            Expect::Rows => self.row(first, body, total, at, cx),
        }
        Step::Go
    }

    /// The packet belongs to what follows; the front changed its expectation.
    fn answer_again(
        &mut self,
        first: u8,
        body: &[u8],
        total: u64,
        at: Nanos,
        cx: &mut Context<'_>,
    ) -> Step {
        match self.queue.front().map(|p| p.expect) {
            Some(Expect::Rows | Expect::Definitions { .. }) => {
                self.answer(first, body, total, at, cx)
            }
            _ => Step::Go,
        }
    }

    fn first(&mut self, first: u8, body: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let Some(front) = self.queue.front_mut() else { return Step::Go };
        match first {
            0x00 => {
                let (affected, status) = packets::ok(body);
                front.affected += affected;
                front.call.rows = Some(front.affected + front.rows);
                if status & MORE_RESULTS == 0 {
                    self.end(at, cx);
                }
            }
            0xfb => self.sends_file = true,
            _ => {
                let mut r = Reader::new(body);
                let Some(columns) = r.length() else { return Step::Lost };
                if columns == 0 || columns > COLUMNS_LIMIT {
                    return Step::Lost;
                }
                // MariaDB may leave out definitions the client has from PREPARE.
                if body.len() == 2 && body[1] == 0 {
                    front.columns = front.known_columns.as_deref().cloned().unwrap_or_default();
                    front.expect =
                        if self.no_eof == Some(true) { Expect::Rows } else { Expect::RowsBegin };
                } else {
                    front.columns.clear();
                    front.expect = Expect::Columns(columns);
                }
            }
        }
        Step::Go
    }

    fn prepared(&mut self, body: &[u8], at: Nanos, cx: &mut Context<'_>) {
        let Some(front) = self.queue.front_mut() else { return };
        let Some((id, columns, params)) = packets::prepare_ok(body) else {
            return self.end(at, cx);
        };
        if self.statements.len() >= STATEMENTS_LIMIT {
            self.statements.clear();
        }
        front.statement = Some(id);
        self.last_prepared = Some(id);
        let statement = Statement {
            text: front.call.text.clone(),
            known: front.call.text_known,
            params: Some(params),
            types: Vec::new(),
            columns: None,
        };
        self.statements.insert(id, statement);
        self.definitions(params, columns, at, cx);
    }

    /// Waits for the definitions left after a PREPARE, or ends it.
    fn definitions(&mut self, params: u16, columns: u16, at: Nanos, cx: &mut Context<'_>) {
        if params == 0 && columns == 0 {
            return self.end(at, cx);
        }
        if let Some(front) = self.queue.front_mut() {
            front.expect = Expect::Definitions { params, columns };
        }
    }

    fn definition(
        &mut self,
        params: u16,
        columns: u16,
        body: &[u8],
        at: Nanos,
        cx: &mut Context<'_>,
    ) {
        let no_eof = self.no_eof == Some(true);
        let Some(front) = self.queue.front_mut() else { return };
        // Known without EOF packets, or not known and this is none: a definition.
        if params > 0 {
            return match params - 1 {
                0 if no_eof => self.definitions(0, columns, at, cx),
                0 => front.expect = Expect::DefinitionsEof { columns },
                left => front.expect = Expect::Definitions { params: left, columns },
            };
        }
        front.columns.push(packets::column(body));
        if columns > 1 {
            front.expect = Expect::Definitions { params: 0, columns: columns - 1 };
            return;
        }
        let known = Arc::new(std::mem::take(&mut front.columns));
        if let Some(s) = front.statement.and_then(|id| self.statements.get_mut(&id)) {
            s.columns = Some(known);
        }
        if no_eof {
            self.end(at, cx);
        } else {
            front.expect = Expect::DefinitionsEof { columns: 0 };
        }
    }

    fn row(&mut self, first: u8, body: &[u8], total: u64, at: Nanos, cx: &mut Context<'_>) {
        let no_eof = self.no_eof == Some(true);
        let Some(front) = self.queue.front_mut() else { return };
        // A row beginning with 0xfe would be one of more than 16 MiB.
        let ends = first == 0xfe && total < if no_eof { 0xff_ffff } else { 4 + 9 };
        if !ends {
            front.rows += 1;
            let sketch = front
                .sketch
                .get_or_insert_with(|| Sketch::new(front.columns.iter().map(|c| c.name.as_str())));
            packets::sketch_row(body, front.binary, &front.columns, sketch, cx.redactor());
            return;
        }
        let status = if total == 4 + 5 { packets::eof_status(body) } else { packets::ok(body).1 };
        front.call.rows = Some(front.rows + front.affected);
        if let Some(mut s) = front.sketch.take()
            && front.call.columns.is_empty()
        {
            front.call.columns = s.take();
        }
        if status & MORE_RESULTS == 0 {
            self.end(at, cx);
        } else {
            front.expect = Expect::First;
            front.columns.clear();
        }
    }

    fn end(&mut self, at: Nanos, cx: &mut Context<'_>) {
        if let Some(p) = self.queue.pop_front() {
            self.turns.finish(p.call, at, cx);
        }
    }
}

impl Codec for Mysql {
    fn protocol(&self) -> Protocol {
        Protocol::Mysql
    }

    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let mut input = data;
        loop {
            let assembler = match side {
                Side::Client => &mut self.client,
                Side::Server => &mut self.server,
            };
            let f = match assembler.next(&mut input, at, 4, header) {
                Next::Frame(f) => f,
                Next::More => return Step::Go,
                Next::Bad => return Step::Lost,
            };
            let continued = &mut self.continues[side as usize];
            let skip = std::mem::replace(continued, f.total == 4 + 0xff_ffff);
            let step = if skip {
                Step::Go
            } else if side == Side::Client {
                self.client_packet(&f, input.len(), cx)
            } else {
                self.server_packet(&f, at, cx)
            };
            match step {
                Step::Go if self.queue.len() <= OUTSTANDING_LIMIT => {}
                Step::Go => return Step::Lost,
                Step::Switch(codec, _) => return Step::Switch(codec, input.len()),
                Step::Lost => return Step::Lost,
            }
        }
    }

    fn absorb(&mut self, side: Side, bytes: u64) -> bool {
        match side {
            Side::Client => self.client.absorb(bytes),
            Side::Server => self.server.absorb(bytes),
        }
    }

    fn reset(&mut self) -> u64 {
        self.client.clear();
        self.server.clear();
        self.continues = [false; 2];
        self.sends_file = false;
        self.phase = Phase::Commands;
        let connecting = u64::from(self.connect.take().is_some());
        connecting + std::mem::take(&mut self.queue).len() as u64
    }

    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>) {
        if let Some(call) = self.connect.take() {
            self.turns.abort(call, at, cx);
        }
        for p in std::mem::take(&mut self.queue) {
            self.turns.abort(p.call, at, cx);
        }
    }

    fn buffered(&self) -> usize {
        self.client.buffered() + self.server.buffered()
    }
}

fn header(b: &[u8]) -> Header {
    let length = u64::from(u32::from_le_bytes([b[0], b[1], b[2], 0]));
    Header::Frame { total: 4 + length, keep: KEEP }
}
