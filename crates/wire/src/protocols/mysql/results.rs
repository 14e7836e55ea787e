//! The server's side of MySQL: greeting, authentication, results.

use super::packets::{self, Reader};
use super::{
    CLIENT_COMPRESS, CLIENT_ZSTD, COLUMNS_LIMIT, Expect, MORE_RESULTS, Mysql, Phase,
    STATEMENTS_LIMIT, Statement,
};
use crate::codec::{Context, Frame, Sketch, Step};
use crate::protocols::opaque::Opaque;
use crate::protocols::sql;
use evidence::{Nanos, Operation, Protocol};
use std::sync::Arc;

impl Mysql {
    pub(super) fn server_packet(&mut self, f: &Frame<'_>, at: Nanos, cx: &mut Context<'_>) -> Step {
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
                self.result_done(status, at, cx);
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
            let sketch = front.sketch.get_or_insert_with(|| {
                Sketch::new(front.columns.iter().map(|c| c.name_in(&front.call.text)))
            });
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
        self.result_done(status, at, cx);
    }

    /// A result is complete: so is the call, or its text has another statement, or (a procedure)
    /// the same statement has another result.
    fn result_done(&mut self, status: u16, at: Nanos, cx: &mut Context<'_>) {
        if status & MORE_RESULTS == 0 {
            return self.end(at, cx);
        }
        let Some(front) = self.queue.front_mut() else { return };
        front.expect = Expect::First;
        front.columns.clear();
        let Some((text, params)) = front.waiting.pop_front() else { return };
        let operation = sql::operation(&text);
        let mut next = cx.call(Protocol::Mysql, operation, text, front.call.start);
        next.params = params;
        next.text_known = front.call.text_known;
        next.batch = front.call.batch;
        (front.rows, front.affected) = (0, 0);
        let done = std::mem::replace(&mut front.call, next);
        self.turns.finish(done, at, cx);
    }
}
