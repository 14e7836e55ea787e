//! The client's side of MySQL: handshake response and commands.

use super::packets::{self, Reader};
use super::{
    CLIENT_DEPRECATE_EOF, CLIENT_QUERY_ATTRIBUTES, CLIENT_SSL, Expect, Mysql, Pending, Phase,
};
use crate::codec::{Context, Frame, Step};
use crate::protocols::opaque::Opaque;
use crate::protocols::sql;
use crate::protocols::tls::Tls;
use evidence::{Call, Operation, Protocol, SqlDialect};
use std::collections::VecDeque;

impl Mysql {
    pub(super) fn client_packet(
        &mut self,
        f: &Frame<'_>,
        rest: usize,
        cx: &mut Context<'_>,
    ) -> Step {
        let body = &f.bytes[4..];
        match self.phase {
            Phase::Greeted => return self.handshake_response(body, f.total, rest),
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

    fn handshake_response(&mut self, body: &[u8], total: u64, rest: usize) -> Step {
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
            waiting: VecDeque::new(),
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
        let mut waiting: VecDeque<_> =
            cx.redactor().sql_statements(&text, SqlDialect::Mysql).into();
        let (fingerprint, params) = waiting.pop_front().unwrap_or((sql::EMPTY.into(), vec![]));
        let operation = sql::operation(&fingerprint);
        let mut call = cx.call(Protocol::Mysql, operation, fingerprint, f.begun);
        call.params = params;
        call.text_known = !f.is_cut();
        self.push(call, f.total, Expect::First, false, None);
        if let Some(p) = self.queue.back_mut() {
            p.waiting = waiting;
        }
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
        if bulk {
            // Many rows of parameters in one packet: not told apart.
        } else if let Some(s) = statement {
            let attributes = self.capabilities.is_some_and(|c| c & CLIENT_QUERY_ATTRIBUTES != 0);
            let count = if attributes { None } else { s.params };
            call.params = packets::execute_params(body, count, &mut s.types, cx.redactor());
        } else {
            call.params = packets::guessed_params(body, cx.redactor());
        }
        self.push(call, f.total, Expect::First, true, id);
        Step::Go
    }
}
