//! MySQL and MariaDB client/server protocol: handshake, text and prepared statements, multiple
//! results. A connection older than the capture has unknown capabilities; what they change in the
//! framing is inferred from the answers.

mod commands;
mod packets;
mod results;

use crate::codec::{
    Assembler, Codec, Context, Header, Next, OUTSTANDING_LIMIT, Side, Sketch, Step, Turns,
};
use evidence::{Call, Nanos, Protocol, ValueHash};
use packets::Column;
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
    /// Further statements of the text, each with a result of its own.
    waiting: VecDeque<(String, Vec<ValueHash>)>,
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
    /// `established`: when TCP was, where seen; the server speaks first, the client waits for it.
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
