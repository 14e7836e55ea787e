//! What every protocol's framing is built from: the interface of a codec, the assembling of
//! length-prefixed frames, and the book-keeping of calls on one connection.

use evidence::{Call, CallSource, ColumnSketch, Nanos, Operation, Protocol, Redactor, ValueHash};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;

/// Calls outstanding on one connection before its framing is given up as lost.
pub(crate) const OUTSTANDING_LIMIT: usize = 1 << 16;

/// Distinct values kept for one result column.
const SKETCH_VALUES: usize = 256;

/// Result columns sketched.
pub(crate) const SKETCH_COLUMNS: usize = 16;

/// Parameters hashed for one call.
pub(crate) const PARAMS_LIMIT: usize = evidence::VALUES_LIMIT;

/// Leading rows sketched.
const SKETCH_ROWS: u64 = 1024;

/// Longest text of a call, bytes; a longer fingerprint is cut.
const TEXT_LIMIT: usize = 16 << 10;

/// Direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What becomes of a connection after some bytes.
pub(crate) enum Step {
    Go,
    /// Another protocol from here on; this many bytes at the end of the data are its first.
    Switch(Box<dyn Codec>, usize),
    /// The bytes make no sense: framing is lost.
    Lost,
}

/// Framing of one connection.
pub(crate) trait Codec: Send {
    /// What is spoken.
    fn protocol(&self) -> Protocol;
    /// The next bytes of one direction.
    fn data(&mut self, side: Side, data: &[u8], at: Nanos, cx: &mut Context<'_>) -> Step;
    /// Bytes are missing. True when they lie within a frame whose content does not matter.
    fn absorb(&mut self, side: Side, bytes: u64) -> bool;
    /// Forgets partial frames and outstanding calls, keeps what was learnt. Returns the number of
    /// calls forgotten.
    fn reset(&mut self) -> u64;
    /// The direction ended.
    fn finished(&mut self, _side: Side, _at: Nanos, _cx: &mut Context<'_>) {}
    /// The connection is over: whatever waits for an answer will not get one.
    fn closed(&mut self, at: Nanos, cx: &mut Context<'_>);
    /// A quiet gap: calls that have no end of their own end with the last byte seen.
    fn flush(&mut self, _cx: &mut Context<'_>) {}
    /// Bytes buffered.
    fn buffered(&self) -> usize;
}

/// Who speaks on a connection.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub connection: u32,
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// Peer name, empty until the protocol is known.
    pub name: String,
}

/// What all connections of a decoder share.
pub(crate) struct Shared {
    pub redactor: Redactor,
    pub source: CallSource,
    pub calls: Vec<Call>,
    pub losses: crate::Losses,
    pub names: StatementNames,
}

/// A codec's view of the world.
pub(crate) struct Context<'a> {
    pub shared: &'a mut Shared,
    pub id: &'a Identity,
}

impl Context<'_> {
    /// A call that began at `at`.
    pub fn call(&self, protocol: Protocol, operation: Operation, text: String, at: Nanos) -> Call {
        Call {
            peer: self.id.name.clone(),
            protocol,
            operation,
            source: self.shared.source,
            text: clip(text),
            text_known: true,
            params: Vec::new(),
            rows: None,
            bytes_sent: 0,
            bytes_received: 0,
            error: None,
            start: at,
            end: at,
            connection: self.id.connection,
            client_port: self.id.client.port(),
            batch: 0,
            columns: Vec::new(),
            issued_at: None,
        }
    }

    pub fn redactor(&self) -> &Redactor {
        &self.shared.redactor
    }
}

fn clip(mut text: String) -> String {
    if text.len() > TEXT_LIMIT {
        let cut = (0..=TEXT_LIMIT).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// Round trips of one connection, and when its last call ended.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    batch: u64,
    last_end: Nanos,
}

impl Turns {
    /// Number of the round trip a call sent now belongs to: a new one when nothing is outstanding.
    pub fn batch(&mut self, nothing_outstanding: bool) -> u64 {
        if nothing_outstanding {
            self.batch += 1;
        }
        self.batch
    }

    /// Sets start and end: a pipelined call begins when the one before it on this connection ended.
    pub fn end(&mut self, call: &mut Call, at: Nanos) {
        call.start = call.start.max(self.last_end);
        call.end = at.max(call.start);
        self.last_end = call.end;
    }

    /// Ends and hands over a call.
    pub fn finish(&mut self, mut call: Call, at: Nanos, cx: &mut Context<'_>) {
        self.end(&mut call, at);
        cx.shared.calls.push(call);
    }

    /// Hands over a call whose connection ended before its answer did.
    pub fn abort(&mut self, mut call: Call, at: Nanos, cx: &mut Context<'_>) {
        call.error.get_or_insert_with(|| "connection-closed".into());
        self.finish(call, at, cx);
    }
}

/// Texts of prepared statements by server and name, learnt on other connections.
#[derive(Debug, Default)]
pub(crate) struct StatementNames {
    texts: HashMap<(SocketAddr, String), Option<Named>>,
}

#[derive(Debug)]
struct Named {
    text: String,
    /// The name is a digest of the text.
    digest: bool,
}

/// Statement names remembered.
const NAMES_LIMIT: usize = 65_536;

impl StatementNames {
    /// A name was given to a text. A name given to different texts (a counter) says nothing.
    pub fn learn(&mut self, server: SocketAddr, name: &str, text: &str, digest: bool) {
        if self.texts.len() >= NAMES_LIMIT {
            self.texts.clear();
        }
        let named = || Some(Named { text: text.to_owned(), digest });
        let known = self.texts.entry((server, name.to_owned())).or_insert_with(named);
        if known.as_ref().is_some_and(|k| k.text != text) {
            *known = None;
        }
    }

    /// The text that was given that name, and whether the name is a digest of it, which makes it
    /// certain.
    pub fn text(&self, server: SocketAddr, name: &str) -> Option<(&str, bool)> {
        let named = self.texts.get(&(server, name.to_owned()))?.as_ref()?;
        Some((&named.text, named.digest))
    }
}

/// Collects the values of result columns.
#[derive(Debug, Default)]
pub(crate) struct Sketch {
    columns: Vec<ColumnSketch>,
    rows: u64,
}

impl Sketch {
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Sketch {
        let column = |name: &str| ColumnSketch { name: name.to_owned(), values: Vec::new() };
        Sketch { columns: names.take(SKETCH_COLUMNS).map(column).collect(), rows: 0 }
    }

    /// Whether more rows would add anything.
    pub fn wants(&self) -> bool {
        !self.columns.is_empty() && self.rows < SKETCH_ROWS
    }

    pub fn row(&mut self) {
        self.rows += 1;
    }

    pub fn value(&mut self, column: usize, hash: ValueHash) {
        if let Some(c) = self.columns.get_mut(column)
            && c.values.len() < SKETCH_VALUES
            && !c.values.contains(&hash)
        {
            c.values.push(hash);
        }
    }

    pub fn take(&mut self) -> Vec<ColumnSketch> {
        self.rows = 0;
        std::mem::take(&mut self.columns)
    }
}

/// What the first bytes of a frame say.
pub(crate) enum Header {
    /// Length of the whole frame, and how many of its leading bytes are worth keeping.
    Frame { total: u64, keep: usize },
    /// No frame of this protocol.
    Bad,
}

/// A whole frame.
pub(crate) struct Frame<'a> {
    /// Its leading bytes, header included.
    pub bytes: Cow<'a, [u8]>,
    /// Its length.
    pub total: u64,
    /// When its first byte was seen.
    pub begun: Nanos,
}

impl Frame<'_> {
    /// Whether only its beginning was kept.
    pub fn is_cut(&self) -> bool {
        (self.bytes.len() as u64) < self.total
    }
}

/// Outcome of [`Assembler::next`].
pub(crate) enum Next<'a> {
    Frame(Frame<'a>),
    More,
    Bad,
}

/// Puts length-prefixed frames together. A frame that lies whole in the input is not copied; of a
/// longer one only the leading bytes are kept.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    kept: Vec<u8>,
    begun: Nanos,
    seen: u64,
    frame: Option<(u64, usize)>,
}

impl Assembler {
    /// Takes the next frame off `input`. `header` is shown at least `need` bytes.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        at: Nanos,
        need: usize,
        header: fn(&[u8]) -> Header,
    ) -> Next<'a> {
        if self.frame.is_none() {
            if self.kept.is_empty() {
                if input.is_empty() {
                    return Next::More;
                }
                self.begun = at;
                if input.len() >= need {
                    let Header::Frame { total, keep } = header(input) else { return Next::Bad };
                    let total = total.max(need as u64);
                    if total <= input.len() as u64 {
                        let (whole, rest) = input.split_at(total as usize);
                        *input = rest;
                        let bytes = Cow::Borrowed(&whole[..whole.len().min(keep.max(need))]);
                        return Next::Frame(Frame { bytes, total, begun: at });
                    }
                    self.frame = Some((total, keep.max(need)));
                }
            }
            if self.frame.is_none() {
                let (taken, rest) = input.split_at(input.len().min(need - self.kept.len()));
                self.kept.extend_from_slice(taken);
                self.seen = self.kept.len() as u64;
                *input = rest;
                if self.kept.len() < need {
                    return Next::More;
                }
                let Header::Frame { total, keep } = header(&self.kept) else { return Next::Bad };
                self.frame = Some((total.max(need as u64), keep.max(need)));
            }
        }
        self.fill(input)
    }

    fn fill<'a>(&mut self, input: &mut &'a [u8]) -> Next<'a> {
        let Some((total, keep)) = self.frame else { return Next::More };
        let left = total.saturating_sub(self.seen).min(input.len() as u64) as usize;
        let (taken, rest) = input.split_at(left);
        *input = rest;
        self.seen += left as u64;
        let room = keep.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&taken[..left.min(room)]);
        if self.seen < total {
            return Next::More;
        }
        let bytes = Cow::Owned(std::mem::take(&mut self.kept));
        self.frame = None;
        self.seen = 0;
        Next::Frame(Frame { bytes, total, begun: self.begun })
    }

    /// Bytes are missing. True when they belong to the frame at hand, which then comes out cut.
    pub fn absorb(&mut self, bytes: u64) -> bool {
        let Some((total, keep)) = &mut self.frame else { return false };
        if *total - self.seen < bytes {
            return false;
        }
        *keep = self.kept.len().min(*keep);
        self.seen += bytes;
        true
    }

    pub fn clear(&mut self) {
        *self = Assembler::default();
    }

    pub fn buffered(&self) -> usize {
        self.kept.capacity()
    }
}
