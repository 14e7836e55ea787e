//! PostgreSQL frontend/backend protocol 3: start-up, simple and extended queries, pipelines, COPY.
//!
//! Every message of the client that the server answers has an entry in a queue, so that an answer
//! finds the call it belongs to however deep the pipeline is. Statements prepared before the
//! capture began are known by name only; see [`Statement`].

mod messages;

use super::sql;
use super::tls::Tls;
use crate::codec::{
    Assembler, Codec, Context, Frame, Header, Next, OUTSTANDING_LIMIT, Side, Sketch, Step, Turns,
};
use crate::protocols::opaque::Opaque;
use evidence::{Call, Nanos, Operation, Protocol, ValueHash};
use messages::{Bind, Column, cstring};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

pub(crate) use messages::sniff;

/// Bytes kept of a client message: room for any sensible statement and its parameters.
const CLIENT_KEEP: usize = 256 << 10;

/// Bytes kept of a server message.
const SERVER_KEEP: usize = 64 << 10;

/// Prepared statements and portals remembered per connection.
const NAMES_LIMIT: usize = 4096;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// A prepared statement.
#[derive(Debug, Default)]
struct Statement {
    text: String,
    /// Whether the text is the real one; else it was recovered from its name, or is its name.
    known: bool,
    param_types: Vec<u32>,
    columns: Option<Arc<Vec<Column>>>,
}

/// A bound portal.
#[derive(Debug, Default)]
struct Portal {
    statement: String,
    params: Vec<ValueHash>,
    result_formats: Vec<u16>,
    columns: Option<Arc<Vec<Column>>>,
}

/// An execution in progress.
#[derive(Debug)]
struct Running {
    call: Call,
    statement: String,
    portal: String,
    columns: Option<Arc<Vec<Column>>>,
    formats: Vec<u16>,
    sketch: Option<Sketch>,
    rows: u64,
}

/// A simple query: one text, one or more statements.
#[derive(Debug)]
struct Simple {
    waiting: VecDeque<(String, Vec<ValueHash>)>,
    /// Text of the last statement, for servers that make several answers of one.
    last: String,
    start: Nanos,
    batch: u64,
    bytes_sent: u64,
    /// Whether only the beginning of the text was kept.
    cut: bool,
    columns: Option<Arc<Vec<Column>>>,
    sketch: Option<Sketch>,
    rows: u64,
}

/// What the client waits for, in order.
#[derive(Debug)]
enum Expect {
    Startup(Box<Call>),
    Simple(Box<Simple>),
    Function(Box<Call>),
    Parse,
    Bind,
    Close,
    /// Describe of a statement or a portal.
    Describe {
        portal: bool,
        name: String,
    },
    Execute(Box<Running>),
    /// Everything before it is answered: ends a Prepare that was sent with Flush.
    Flushed(Box<Call>),
    /// Sync; with it a Prepare, when nothing was executed since the one before.
    Sync(Option<Box<Call>>),
}

/// Messages since the last Execute, Flush or Sync: they belong to the next call.
#[derive(Debug, Default)]
struct Group {
    start: Option<Nanos>,
    bytes: u64,
    text: Option<(String, bool)>,
    closes: bool,
    /// An Execute was among the messages since the last Sync.
    executed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Tls,
    Gss,
}

/// Framing of one PostgreSQL connection.
#[derive(Debug)]
pub(crate) struct Postgres {
    client: Assembler,
    server: Assembler,
    turns: Turns,
    asked: Asked,
    connecting: Option<Nanos>,
    queue: VecDeque<Expect>,
    /// The last finished execution, until it is known whether ReadyForQuery ends it.
    held: Option<Call>,
    received: u64,
    group: Group,
    /// An error came before the client's Sync: the server skips everything up to it.
    skipping: bool,
    statements: HashMap<String, Statement>,
    portals: HashMap<String, Portal>,
}

impl Postgres {
    pub fn new() -> Postgres {
        Postgres {
            client: Assembler::default(),
            server: Assembler::default(),
            turns: Turns::default(),
            asked: Asked::Nothing,
            connecting: None,
            queue: VecDeque::new(),
            held: None,
            received: 0,
            group: Group::default(),
            skipping: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
        }
    }

    fn batch(&mut self) -> u64 {
        self.turns.batch(self.queue.is_empty())
    }

    fn client_data(&mut self, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let mut input = data;
        loop {
            match self.client.next(&mut input, at, 5, client_header) {
                Next::Frame(f) => self.client_message(&f, cx),
                Next::More => return Step::Go,
                // A client that takes the server's yes for granted sends its TLS hello at once.
                Next::Bad if self.asked == Asked::Tls => {
                    let tls = Tls::new(self.connecting.take());
                    return Step::Switch(Box::new(tls), input.len());
                }
                Next::Bad => return Step::Lost,
            }
            if self.queue.len() > OUTSTANDING_LIMIT {
                return Step::Lost;
            }
        }
    }

    fn server_data(&mut self, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        let mut input = data;
        if self.asked != Asked::Nothing {
            let Some((answer, rest)) = input.split_first() else { return Step::Go };
            match (answer, self.asked) {
                (b'S', Asked::Tls) => {
                    let tls = Tls::new(self.connecting.take());
                    return Step::Switch(Box::new(tls), rest.len());
                }
                (b'G', Asked::Gss) => return Step::Switch(Box::new(Opaque::new()), rest.len()),
                (b'N', _) => input = rest,
                _ => {}
            }
            self.asked = Asked::Nothing;
        }
        loop {
            match self.server.next(&mut input, at, 5, server_header) {
                Next::Frame(f) => self.server_message(&f, at, cx),
                Next::More => return Step::Go,
                Next::Bad => return Step::Lost,
            }
        }
    }

    fn client_message(&mut self, f: &Frame<'_>, cx: &mut Context<'_>) {
        let kind = f.bytes[0];
        if kind == 0 {
            return self.startup(f, cx);
        }
        let body = &f.bytes[5..];
        match kind {
            b'Q' => self.simple(f, body, cx),
            b'F' => {
                let batch = self.batch();
                let text = "function call".to_owned();
                let mut call = cx.call(Protocol::Postgres, Operation::Execute, text, f.begun);
                call.batch = batch;
                call.bytes_sent = f.total;
                self.queue.push_back(Expect::Function(Box::new(call)));
            }
            b'P' | b'B' | b'D' | b'C' | b'E' | b'H' | b'S' => self.extended(kind, f, body, cx),
            // COPY data, passwords, termination: no answer of their own.
            _ => self.sent_more(f.total),
        }
    }

    /// Counts bytes that belong to the call in progress.
    fn sent_more(&mut self, bytes: u64) {
        match self.queue.back_mut() {
            Some(Expect::Startup(call)) => call.bytes_sent += bytes,
            Some(Expect::Simple(s)) => s.bytes_sent += bytes,
            Some(Expect::Execute(r)) => r.call.bytes_sent += bytes,
            _ => {}
        }
    }

    fn startup(&mut self, f: &Frame<'_>, cx: &mut Context<'_>) {
        let code = f.bytes.get(4..8).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let start = *self.connecting.get_or_insert(f.begun);
        match code {
            SSL_REQUEST => self.asked = Asked::Tls,
            GSS_REQUEST => self.asked = Asked::Gss,
            _ => {
                let (operation, text) = match code {
                    CANCEL_REQUEST => (Operation::Session, "cancel request"),
                    _ => (Operation::Connect, "postgres startup and authentication"),
                };
                let batch = self.batch();
                let mut call = cx.call(Protocol::Postgres, operation, text.into(), start);
                call.batch = batch;
                call.bytes_sent = f.total;
                self.connecting = None;
                self.queue.push_back(Expect::Startup(Box::new(call)));
            }
        }
    }

    fn simple(&mut self, f: &Frame<'_>, body: &[u8], cx: &mut Context<'_>) {
        let text = String::from_utf8_lossy(cstring(body, 0).0).into_owned();
        let dialect = evidence::SqlDialect::Standard;
        let waiting: VecDeque<_> = cx.redactor().sql_statements(&text, dialect).into();
        let last = waiting.back().map_or(sql::EMPTY.to_owned(), |(t, _)| t.clone());
        let batch = self.batch();
        self.queue.push_back(Expect::Simple(Box::new(Simple {
            waiting,
            last,
            start: f.begun,
            batch,
            bytes_sent: f.total,
            cut: f.is_cut(),
            columns: None,
            sketch: None,
            rows: 0,
        })));
    }

    fn extended(&mut self, kind: u8, f: &Frame<'_>, body: &[u8], cx: &mut Context<'_>) {
        let start = *self.group.start.get_or_insert(f.begun);
        self.group.bytes += f.total;
        if self.skipping && kind != b'S' {
            return;
        }
        match kind {
            b'P' => self.parse(body, f.is_cut(), cx),
            b'B' => self.bind(body, cx),
            b'D' => {
                let (name, _) = cstring(body, 1);
                let name = String::from_utf8_lossy(name).into_owned();
                let portal = body.first() == Some(&b'P');
                if !portal && self.group.text.is_none() {
                    let s = self.statement(&name, cx);
                    self.group.text = Some((s.text.clone(), s.known));
                }
                self.expect(Expect::Describe { portal, name });
            }
            b'C' => {
                if body.first() == Some(&b'S') {
                    self.statements.remove(&*String::from_utf8_lossy(cstring(body, 1).0));
                }
                self.group.closes = true;
                self.expect(Expect::Close);
            }
            b'E' => self.execute(body, start, cx),
            b'H' => self.flushed(start, cx),
            _ => self.sync(start, cx),
        }
    }

    /// Queues an answer to wait for. The first one of a round trip opens it.
    fn expect(&mut self, what: Expect) {
        if self.queue.is_empty() {
            self.turns.batch(true);
        }
        self.queue.push_back(what);
    }

    fn parse(&mut self, body: &[u8], cut: bool, cx: &mut Context<'_>) {
        let (name, at) = cstring(body, 0);
        let (text, at) = cstring(body, at);
        let text = String::from_utf8_lossy(text);
        let (fingerprint, _) = cx.redactor().sql(&text);
        let fingerprint = if fingerprint.is_empty() { sql::EMPTY.into() } else { fingerprint };
        let name = String::from_utf8_lossy(name).into_owned();
        if !name.is_empty() && !cut {
            let digest = messages::is_digest(&name, &text);
            cx.shared.names.learn(cx.id.server, &name, &fingerprint, digest);
        }
        self.group.text = Some((fingerprint.clone(), !cut));
        if self.statements.len() >= NAMES_LIMIT {
            self.statements.clear();
        }
        let param_types = messages::parse_types(body, at);
        let statement = Statement { text: fingerprint, known: !cut, param_types, columns: None };
        self.statements.insert(name, statement);
        self.expect(Expect::Parse);
    }

    /// The statement of that name, learnt from its name alone where it was prepared unseen.
    fn statement(&mut self, name: &str, cx: &mut Context<'_>) -> &mut Statement {
        if self.statements.len() >= NAMES_LIMIT && !self.statements.contains_key(name) {
            self.statements.clear();
        }
        self.statements.entry(name.to_owned()).or_insert_with(|| {
            match cx.shared.names.text(cx.id.server, name) {
                // A digest names the same text on every connection; other names only may.
                Some((text, digest)) => {
                    Statement { text: text.to_owned(), known: digest, ..Statement::default() }
                }
                None => Statement { text: messages::name_text(name, cx), ..Statement::default() },
            }
        })
    }

    fn bind(&mut self, body: &[u8], cx: &mut Context<'_>) {
        let bind = Bind::read(body);
        let statement = self.statement(&bind.statement, cx);
        let params = bind.hashes(&statement.param_types, cx.redactor());
        let portal = Portal {
            statement: bind.statement,
            params,
            result_formats: bind.result_formats,
            columns: statement.columns.clone(),
        };
        if self.portals.len() >= NAMES_LIMIT {
            self.portals.clear();
        }
        self.portals.insert(bind.portal, portal);
        self.expect(Expect::Bind);
    }

    fn execute(&mut self, body: &[u8], start: Nanos, cx: &mut Context<'_>) {
        let portal = String::from_utf8_lossy(cstring(body, 0).0).into_owned();
        let (name, params, formats, columns) = match self.portals.get(&portal) {
            Some(p) => {
                (p.statement.clone(), p.params.clone(), p.result_formats.clone(), p.columns.clone())
            }
            None => Default::default(),
        };
        let batch = self.batch();
        let statement = self.statement(&name, cx);
        let operation = sql::operation(&statement.text);
        let mut call = cx.call(Protocol::Postgres, operation, statement.text.clone(), start);
        call.text_known = statement.known;
        call.params = params;
        call.batch = batch;
        call.bytes_sent = self.group.bytes;
        let running =
            Running { call, statement: name, portal, columns, formats, sketch: None, rows: 0 };
        self.queue.push_back(Expect::Execute(Box::new(running)));
        self.group = Group { executed: true, ..Group::default() };
    }

    /// The call of a group in which nothing was executed.
    fn prepare(&mut self, start: Nanos, cx: &mut Context<'_>) -> Box<Call> {
        let (operation, text, known) = match self.group.text.take() {
            Some((text, known)) => (Operation::Prepare, text, known),
            None if self.group.closes => (Operation::Session, "close statement".into(), true),
            None => (Operation::Session, "sync".into(), true),
        };
        let mut call = cx.call(Protocol::Postgres, operation, text, start);
        call.text_known = known;
        call.batch = self.turns.batch(self.queue.is_empty());
        call.bytes_sent = self.group.bytes;
        Box::new(call)
    }

    fn flushed(&mut self, start: Nanos, cx: &mut Context<'_>) {
        if self.group.text.is_some() {
            let call = self.prepare(start, cx);
            self.queue.push_back(Expect::Flushed(call));
            // What follows up to Sync is its own call, or none.
            self.group = Group { executed: true, ..Group::default() };
        }
    }

    fn sync(&mut self, start: Nanos, cx: &mut Context<'_>) {
        let call = if self.skipping || (self.group.executed && self.group.text.is_none()) {
            self.sent_more(self.group.bytes);
            None
        } else {
            Some(self.prepare(start, cx))
        };
        self.skipping = false;
        self.expect(Expect::Sync(call));
        self.group = Group::default();
    }

    fn server_message(&mut self, f: &Frame<'_>, at: Nanos, cx: &mut Context<'_>) {
        let body = &f.bytes[5..];
        // Notices, parameter changes and notifications may come at any time and belong to no call.
        if matches!(f.bytes[0], b'N' | b'S' | b'A') {
            return;
        }
        self.received += f.total;
        match f.bytes[0] {
            b'1' => self.answered(at, cx, |e| matches!(e, Expect::Parse)),
            b'2' => self.answered(at, cx, |e| matches!(e, Expect::Bind)),
            b'3' => self.answered(at, cx, |e| matches!(e, Expect::Close)),
            b'n' => self.answered(at, cx, |e| matches!(e, Expect::Describe { .. })),
            b't' => self.parameters(body),
            b'T' => self.row_description(body, at, cx),
            b'D' => self.data_row(body, cx),
            b'C' | b'I' | b's' => self.completed(body, at, cx),
            b'E' => self.error(body, at, cx),
            b'Z' => self.ready(at, cx),
            _ => {}
        }
    }

    /// The front of the queue is answered, when it is of the right kind.
    fn answered(&mut self, at: Nanos, cx: &mut Context<'_>, right: fn(&Expect) -> bool) {
        if self.queue.front().is_some_and(right) {
            self.queue.pop_front();
        }
        while let Some(Expect::Flushed(_)) = self.queue.front() {
            if let Some(Expect::Flushed(call)) = self.queue.pop_front() {
                self.hold(*call, at, cx);
                self.release(cx);
            }
        }
    }

    fn parameters(&mut self, body: &[u8]) {
        if let Some(Expect::Describe { portal: false, name }) = self.queue.front()
            && let Some(s) = self.statements.get_mut(name)
        {
            s.param_types = messages::parse_types(body, 0);
        }
    }

    fn row_description(&mut self, body: &[u8], at: Nanos, cx: &mut Context<'_>) {
        let columns = Arc::new(messages::row_description(body));
        match self.queue.front_mut() {
            Some(Expect::Simple(s)) => {
                s.sketch = Some(Sketch::new(columns.iter().map(|c| c.name.as_str())));
                s.columns = Some(columns);
            }
            Some(Expect::Describe { portal, name }) => {
                if *portal {
                    let name = std::mem::take(name);
                    self.described(&name, &columns);
                } else if let Some(s) = self.statements.get_mut(name) {
                    s.describe(&columns);
                }
                self.answered(at, cx, |e| matches!(e, Expect::Describe { .. }));
            }
            _ => {}
        }
    }

    /// A portal was described: its next execution, already on its way, has these columns.
    fn described(&mut self, portal: &str, columns: &Arc<Vec<Column>>) {
        let next = self.queue.iter_mut().find_map(|e| match e {
            Expect::Execute(r) if r.portal == portal => Some(r),
            _ => None,
        });
        if let Some(running) = next {
            running.columns = Some(columns.clone());
            if let Some(s) = self.statements.get_mut(&running.statement) {
                s.describe(columns);
            }
        } else if let Some(p) = self.portals.get_mut(portal) {
            p.columns = Some(columns.clone());
            if let Some(s) = self.statements.get_mut(&p.statement) {
                s.describe(columns);
            }
        }
    }

    fn data_row(&mut self, body: &[u8], cx: &Context<'_>) {
        match self.queue.front_mut() {
            Some(Expect::Simple(s)) => {
                s.rows += 1;
                if let (Some(sketch), Some(columns)) = (&mut s.sketch, &s.columns) {
                    messages::sketch_row(body, columns, &[], sketch, cx.redactor());
                }
            }
            Some(Expect::Execute(r)) => {
                r.rows += 1;
                if r.columns.is_none() {
                    r.columns = self.statements.get(&r.statement).and_then(|s| s.columns.clone());
                }
                let Some(columns) = &r.columns else { return };
                let sketch = r
                    .sketch
                    .get_or_insert_with(|| Sketch::new(columns.iter().map(|c| c.name.as_str())));
                messages::sketch_row(body, columns, &r.formats, sketch, cx.redactor());
            }
            _ => {}
        }
    }

    /// CommandComplete, EmptyQueryResponse, PortalSuspended.
    fn completed(&mut self, body: &[u8], at: Nanos, cx: &mut Context<'_>) {
        let tag = messages::tag_rows(body);
        match self.queue.front_mut() {
            Some(Expect::Simple(s)) => {
                let mut call = s.next_call(cx);
                call.rows = tag.or((s.rows > 0).then_some(s.rows));
                call.columns = s.sketch.take().map(|mut k| k.take()).unwrap_or_default();
                s.rows = 0;
                self.hold(call, at, cx);
            }
            Some(Expect::Execute(_)) => {
                let Some(Expect::Execute(r)) = self.queue.pop_front() else { return };
                let Running { mut call, sketch, rows, statement, .. } = *r;
                if let (false, Some(s)) = (call.text_known, self.statements.get(&statement)) {
                    call.text.clone_from(&s.text);
                }
                call.rows = tag.or((rows > 0).then_some(rows));
                call.columns = sketch.map(|mut k| k.take()).unwrap_or_default();
                self.hold(call, at, cx);
                self.answered(at, cx, |_| false);
            }
            _ => {}
        }
    }

    fn error(&mut self, body: &[u8], at: Nanos, cx: &mut Context<'_>) {
        let code = Some(messages::error_code(body));
        match self.queue.front_mut() {
            Some(Expect::Startup(call)) => call.error = code,
            Some(Expect::Function(call)) => call.error = code,
            Some(Expect::Simple(s)) => {
                let mut call = s.next_call(cx);
                call.error = code;
                self.hold(call, at, cx);
                if let Some(Expect::Simple(s)) = self.queue.front_mut() {
                    s.waiting.clear();
                    s.last.clear();
                }
            }
            Some(_) => self.fail_pipeline(code, at, cx),
            None => {}
        }
    }

    /// The server skips everything up to the next Sync.
    fn fail_pipeline(&mut self, code: Option<String>, at: Nanos, cx: &mut Context<'_>) {
        let mut failed: Option<Call> = None;
        while let Some(e) = self.queue.front_mut() {
            match e {
                Expect::Sync(prepare) => {
                    if let (None, Some(call)) = (&failed, prepare.as_mut()) {
                        call.error = code;
                        return;
                    }
                    break;
                }
                Expect::Execute(r) if failed.is_none() => failed = Some(r.call.clone()),
                Expect::Flushed(call) if failed.is_none() => failed = Some((**call).clone()),
                _ => {}
            }
            self.queue.pop_front();
        }
        self.skipping = self.queue.is_empty();
        if failed.is_none() && self.skipping && self.group.text.is_some() {
            let start = self.group.start.unwrap_or(at);
            failed = Some(*self.prepare(start, cx));
        }
        if let Some(mut call) = failed {
            call.error = code;
            self.hold(call, at, cx);
        }
    }

    fn ready(&mut self, at: Nanos, cx: &mut Context<'_>) {
        while let Some(e) = self.queue.pop_front() {
            match e {
                Expect::Startup(call) | Expect::Function(call) | Expect::Sync(Some(call)) => {
                    self.release(cx);
                    self.held = Some(*call);
                    break;
                }
                Expect::Simple(mut s) => {
                    // Some poolers answer an empty text with ReadyForQuery alone.
                    if self.held.is_none() && !s.last.is_empty() {
                        self.held = Some(s.next_call(cx));
                    }
                    break;
                }
                Expect::Sync(None) => break,
                _ => {}
            }
        }
        let received = std::mem::take(&mut self.received);
        if let Some(mut call) = self.held.take() {
            call.bytes_received += received;
            self.turns.finish(call, at, cx);
        }
    }

    /// A call is answered. When its round trip ends with a Sync it is held: the next answer shows
    /// that it was not the last, or ReadyForQuery that it was, and ends it.
    fn hold(&mut self, mut call: Call, at: Nanos, cx: &mut Context<'_>) {
        self.release(cx);
        call.bytes_received = std::mem::take(&mut self.received);
        call.end = at;
        self.held = Some(call);
        let ends = |e: &Expect| matches!(e, Expect::Sync(_) | Expect::Simple(_));
        if !self.queue.iter().any(ends) {
            self.release(cx);
        }
    }

    fn release(&mut self, cx: &mut Context<'_>) {
        if let Some(call) = self.held.take() {
            let at = call.end;
            self.turns.finish(call, at, cx);
        }
    }
}

impl Statement {
    fn describe(&mut self, columns: &Arc<Vec<Column>>) {
        if self.columns.is_none() && !self.known && self.text.starts_with("prepared ") {
            let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
            self.text = format!("{} ({})", self.text, names.join(", "));
        }
        self.columns = Some(columns.clone());
    }
}

impl Simple {
    /// The call of the next statement of the text.
    fn next_call(&mut self, cx: &Context<'_>) -> Call {
        let (text, params) = match self.waiting.pop_front() {
            Some(next) => next,
            None if self.last.is_empty() => (sql::EMPTY.to_owned(), Vec::new()),
            None => (self.last.clone(), Vec::new()),
        };
        let operation = sql::operation(&text);
        let mut call = cx.call(Protocol::Postgres, operation, text, self.start);
        call.params = params;
        call.batch = self.batch;
        call.text_known = !self.cut;
        call.bytes_sent = std::mem::take(&mut self.bytes_sent);
        call
    }
}

impl Codec for Postgres {
    fn protocol(&self) -> Protocol {
        Protocol::Postgres
    }

    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step {
        match side {
            Side::Client => self.client_data(data, at, cx),
            Side::Server => self.server_data(data, at, cx),
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
        self.group = Group::default();
        self.skipping = false;
        self.asked = Asked::Nothing;
        self.received = 0;
        self.held = None;
        let calls = |e: &Expect| {
            matches!(
                e,
                Expect::Startup(_)
                    | Expect::Simple(_)
                    | Expect::Function(_)
                    | Expect::Execute(_)
                    | Expect::Flushed(_)
                    | Expect::Sync(Some(_))
            )
        };
        let lost = self.queue.iter().filter(|e| calls(e)).count();
        self.queue.clear();
        lost as u64
    }

    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>) {
        self.release(cx);
        for e in std::mem::take(&mut self.queue) {
            match e {
                Expect::Startup(call) if call.operation == Operation::Session => {
                    self.turns.finish(*call, at, cx);
                }
                Expect::Startup(call)
                | Expect::Function(call)
                | Expect::Flushed(call)
                | Expect::Sync(Some(call)) => self.turns.abort(*call, at, cx),
                Expect::Execute(r) => self.turns.abort(r.call, at, cx),
                Expect::Simple(mut s) if !s.last.is_empty() => {
                    let call = s.next_call(cx);
                    self.turns.abort(call, at, cx);
                }
                _ => {}
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        if self.queue.is_empty() {
            self.release(cx);
        }
    }

    fn buffered(&self) -> usize {
        self.client.buffered() + self.server.buffered()
    }
}

fn client_header(b: &[u8]) -> Header {
    let be = |o: usize| u32::from_be_bytes([b[o], b[o + 1], b[o + 2], b[o + 3]]);
    if b[0] == 0 {
        return match be(0) {
            n @ 8..=10_000 => Header::Frame { total: u64::from(n), keep: 8 },
            _ => Header::Bad,
        };
    }
    let length = be(1);
    if !b"QPBEDSCHFXpdcf".contains(&b[0]) || !(4..1 << 30).contains(&length) {
        return Header::Bad;
    }
    // Passwords and rows are not kept at all.
    let keep = if matches!(b[0], b'p' | b'd' | b'f') { 0 } else { CLIENT_KEEP };
    Header::Frame { total: 1 + u64::from(length), keep }
}

fn server_header(b: &[u8]) -> Header {
    let length = u32::from_be_bytes([b[1], b[2], b[3], b[4]]);
    if !b"RKSZ12CTDEntIGHWVsAN3dcv".contains(&b[0]) || !(4..1 << 30).contains(&length) {
        return Header::Bad;
    }
    let keep = if matches!(b[0], b'd' | b'R' | b'K') { 0 } else { SERVER_KEEP };
    Header::Frame { total: 1 + u64::from(length), keep }
}
