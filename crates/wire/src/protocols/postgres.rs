//! PostgreSQL frontend/backend protocol 3: start-up, simple and extended queries, pipelines, COPY.
//!
//! Every message of the client that the server answers has an entry in a queue, so that an answer
//! finds the call it belongs to however deep the pipeline is. Statements prepared before the
//! capture began are known by name only; see [`Statement`].

mod backend;
mod frontend;
mod messages;

use super::sql;
use super::tls::Tls;
use crate::codec::{
    Assembler, Codec, Context, Header, Next, OUTSTANDING_LIMIT, Side, Sketch, Step, Turns,
};
use crate::protocols::opaque::Opaque;
use evidence::{Call, Nanos, Operation, Protocol, ValueHash};
use messages::Column;
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
    /// The server takes COPY data, and ignores Sync and Flush until it ends.
    copying: bool,
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
            copying: false,
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
        self.copying = false;
        self.asked = Asked::Nothing;
        self.received = 0;
        self.held = None;
        // What was lost may have given the unnamed ones another text.
        self.statements.remove("");
        self.portals.clear();
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
