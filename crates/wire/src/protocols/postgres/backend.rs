//! The server's messages: each finds what it answers at the front of the queue.

use super::messages::{self, Column};
use super::{Expect, Group, Postgres, Running};
use crate::codec::{Context, Frame, Sketch};
use evidence::{Call, Nanos};
use std::sync::Arc;

impl Postgres {
    pub(super) fn server_message(&mut self, f: &Frame<'_>, at: Nanos, cx: &mut Context<'_>) {
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
            b'G' => self.copy_in(),
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

    /// CopyInResponse to an Execute: a Sync already sent behind it is read as part of the copy, and
    /// ignored.
    fn copy_in(&mut self) {
        if let Some(Expect::Execute(_)) = self.queue.front() {
            self.copying = true;
            self.queue.retain(|e| !matches!(e, Expect::Sync(_)));
            // The Sync after the data belongs to this call.
            self.group = Group { executed: true, ..Group::default() };
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
        self.copying = false;
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
}
