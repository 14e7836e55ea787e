//! The client's messages: what they ask for joins the queue of what is waited for.

use super::messages::{self, Bind, cstring};
use super::{
    Asked, CANCEL_REQUEST, Expect, GSS_REQUEST, Group, NAMES_LIMIT, Portal, Postgres, Running,
    SSL_REQUEST, Simple, Statement,
};
use crate::codec::{Context, Frame};
use crate::protocols::sql;
use evidence::{Call, Nanos, Operation, Protocol};
use std::collections::VecDeque;

impl Postgres {
    pub(super) fn client_message(&mut self, f: &Frame<'_>, cx: &mut Context<'_>) {
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
            b'H' | b'S' if self.copying => self.sent_more(f.total),
            b'P' | b'B' | b'D' | b'C' | b'E' | b'H' | b'S' => self.extended(kind, f, body, cx),
            // COPY data, passwords, termination: no answer of their own.
            _ => {
                self.copying &= !matches!(kind, b'c' | b'f');
                self.sent_more(f.total);
            }
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
    pub(super) fn prepare(&mut self, start: Nanos, cx: &mut Context<'_>) -> Box<Call> {
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
}
