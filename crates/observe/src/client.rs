//! The conductor's side of the stream: an [`Observer`] in this process, behind a command, or on
//! another host. All three speak the same frames.

use crate::clock::{boot, monotonic};
use crate::serve::{ServeOptions, serve_with};
use crate::stacks::StackSource;
use crate::stream::{Command, Pass, ProfileConfig, Reply, VERSION, read_frame, write_frame};
use evidence::{Coverage, EvidenceBody, Nanos, Service};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use thiserror::Error;

/// How often the clock of another host is asked for; the quickest answer is the best.
const CLOCK_QUESTIONS: usize = 9;

/// Why an observer did not answer as asked.
#[derive(Debug, Error)]
pub enum ObserveError {
    /// The stream broke.
    #[error("the observer went away: {0}; start it again")]
    Stream(#[from] io::Error),
    /// It ended.
    #[error("the observer ended; see its own messages")]
    Closed,
    /// It could not be reached.
    #[error("cannot reach the observer {name}: {source}; is `perfwright observe` running there?")]
    Unreachable {
        /// Address or command.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Versions differ.
    #[error("the observer speaks protocol {theirs}, this is {VERSION}; use the same version")]
    Version {
        /// Version of the observer.
        theirs: u32,
    },
    /// It could not do what was asked.
    #[error("{message}\nhint: {hint}")]
    Failed {
        /// What happened and why.
        message: String,
        /// Next step.
        hint: String,
    },
    /// It answered something else.
    #[error("the observer answered {got} to {asked}; use the same version on both sides")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
        /// What came back.
        got: &'static str,
    },
}

/// How the observer's clock differs from ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset {
    /// Theirs minus ours, nanoseconds. Already taken out of every timestamp handed out.
    pub theirs_minus_ours: i64,
    /// Largest error of that figure: half of the quickest round trip; zero on one host.
    pub error: Nanos,
}

/// Attached to an observer. Dropping it ends the observer, which undoes everything.
pub struct Observer {
    reader: Box<dyn Read + Send>,
    writer: Option<Box<dyn Write + Send>>,
    thread: Option<JoinHandle<()>>,
    child: Option<Child>,
    host: String,
    offset: ClockOffset,
}

impl Observer {
    /// An observer in this process, on a thread of its own, behind the same frames.
    ///
    /// # Errors
    /// Pipes or a thread cannot be made.
    pub fn local(stacks: Option<Box<dyn StackSource + Send>>) -> Result<Observer, ObserveError> {
        let (commands, writer) = io::pipe()?;
        let (reader, replies) = io::pipe()?;
        let options = ServeOptions { generator: true, stacks };
        let thread =
            std::thread::Builder::new().name("perfwright-observe".into()).spawn(move || {
                // The conductor sees a broken stream as such.
                let _ = serve_with(commands, replies, options);
            })?;
        Observer::begin_with(Box::new(reader), Box::new(writer), Some(thread), None)
    }

    /// An observer that listens at `address` (`host:port`).
    ///
    /// # Errors
    /// It cannot be reached, or hangs up (wrong token, other version).
    pub fn connect(address: &str, token: Option<&str>) -> Result<Observer, ObserveError> {
        let unreachable = |source| ObserveError::Unreachable { name: address.to_owned(), source };
        let mut stream = connect(address).map_err(unreachable)?;
        stream.set_nodelay(true)?;
        let token = token.unwrap_or("").as_bytes();
        stream.write_all(&(token.len() as u32).to_be_bytes())?;
        stream.write_all(token)?;
        let reader = stream.try_clone()?;
        Observer::begin_with(Box::new(reader), Box::new(stream), None, None)
    }

    /// An observer behind a command (`docker run …`, `ssh host perfwright observe`), on its
    /// standard input and output. Its standard error is ours.
    ///
    /// # Errors
    /// The command cannot be started, or ends.
    pub fn spawn(command: &[String]) -> Result<Observer, ObserveError> {
        let name = command.first().cloned().unwrap_or_default();
        let unreachable = |source| ObserveError::Unreachable { name: name.clone(), source };
        let mut child = std::process::Command::new(&name)
            .args(command.iter().skip(1))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(unreachable)?;
        let (Some(writer), Some(reader)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ObserveError::Closed);
        };
        Observer::begin_with(Box::new(reader), Box::new(writer), None, Some(child))
    }

    fn begin_with(
        reader: Box<dyn Read + Send>,
        writer: Box<dyn Write + Send>,
        thread: Option<JoinHandle<()>>,
        child: Option<Child>,
    ) -> Result<Observer, ObserveError> {
        let offset = ClockOffset::default();
        let writer = Some(writer);
        let mut observer = Observer { reader, writer, thread, child, host: String::new(), offset };
        observer.hello()?;
        Ok(observer)
    }

    /// Agrees on the version and compares clocks. Called on attaching; call it again in long runs,
    /// clocks drift.
    ///
    /// # Errors
    /// The versions differ or the stream broke.
    pub fn hello(&mut self) -> Result<ClockOffset, ObserveError> {
        let mut best: Option<ClockOffset> = None;
        for _ in 0..CLOCK_QUESTIONS {
            let sent = monotonic();
            let reply = self.ask(&Command::Hello { version: VERSION })?;
            let back = monotonic();
            let Reply::Welcome { version, host, clock, boot: theirs } = reply else {
                return Err(unexpected("hello", &reply));
            };
            if version != VERSION {
                return Err(ObserveError::Version { theirs: version });
            }
            self.host = host;
            if !theirs.is_empty() && theirs == boot() {
                best = Some(ClockOffset::default());
                break;
            }
            let middle = (sent.0 + back.0) / 2;
            let error = Nanos((back - sent).0.div_ceil(2));
            if best.is_none_or(|b| error < b.error) {
                let theirs_minus_ours = clock.0.wrapping_sub(middle) as i64;
                best = Some(ClockOffset { theirs_minus_ours, error });
            }
        }
        self.offset = best.unwrap_or_default();
        Ok(self.offset)
    }

    /// Name of the observer's host, for `observe@host`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How its clock differs.
    pub fn offset(&self) -> ClockOffset {
        self.offset
    }

    /// Finds the service behind `host:port` and probes what can be observed. `pid` is the process
    /// the conductor launched, if it did. May be asked again at any time: the answer then holds
    /// new workers and peers by what they were heard to speak.
    ///
    /// # Errors
    /// The stream broke.
    pub fn find(
        &mut self,
        host: &str,
        port: u16,
        pid: Option<i32>,
    ) -> Result<(Option<Service>, Vec<Coverage>), ObserveError> {
        match self.ask(&Command::Find { host: host.to_owned(), port, pid })? {
            Reply::Found { service, coverage } => Ok((service.map(|s| *s), coverage)),
            other => Err(unexpected("find", &other)),
        }
    }

    /// Names threads of the generator whose intervals are wanted as well, from the next attach on.
    /// Only sensible for [`Observer::local`].
    ///
    /// # Errors
    /// The stream broke.
    pub fn watch_generator(&mut self, threads: &[i32]) -> Result<(), ObserveError> {
        self.done(&Command::Generator { threads: threads.to_vec() }, "generator").map(|_| ())
    }

    /// Starts a pass; a running one is stopped first. Returns what turned out not to work.
    ///
    /// # Errors
    /// No service was found, or the stream broke.
    pub fn attach(&mut self, pass: Pass, salt: u64) -> Result<Vec<Coverage>, ObserveError> {
        self.done(&Command::Attach { pass, salt }, "attach")
    }

    /// A window begins.
    ///
    /// # Errors
    /// The stream broke.
    pub fn begin(&mut self, window: u32) -> Result<Vec<Coverage>, ObserveError> {
        self.done(&Command::Begin { window }, "begin")
    }

    /// A window has ended, its settling gap included: everything seen since the last drain.
    ///
    /// # Errors
    /// The stream broke.
    pub fn end(&mut self, window: u32) -> Result<Vec<EvidenceBody>, ObserveError> {
        self.batch(&Command::End { window }, "end")
    }

    /// Starts taking stacks.
    ///
    /// # Errors
    /// Stacks cannot be taken; the hint says why.
    pub fn start_profile(&mut self, config: ProfileConfig) -> Result<Vec<Coverage>, ObserveError> {
        self.done(&Command::StartProfile { config }, "start-profile")
    }

    /// Stops taking stacks and hands out profiles, and what was learnt about coverage.
    ///
    /// # Errors
    /// None were being taken, or the stream broke.
    pub fn stop_profile(&mut self) -> Result<Vec<EvidenceBody>, ObserveError> {
        self.batch(&Command::StopProfile, "stop-profile")
    }

    /// Undoes everything and ends the observer.
    ///
    /// # Errors
    /// The stream broke before it answered.
    pub fn stop(mut self) -> Result<(), ObserveError> {
        self.done(&Command::Stop, "stop").map(|_| ())
    }

    fn ask(&mut self, command: &Command) -> Result<Reply, ObserveError> {
        let writer = self.writer.as_mut().ok_or(ObserveError::Closed)?;
        write_frame(writer, command)?;
        read_frame(&mut self.reader)?.ok_or(ObserveError::Closed)
    }

    fn done(
        &mut self,
        command: &Command,
        asked: &'static str,
    ) -> Result<Vec<Coverage>, ObserveError> {
        match self.ask(command)? {
            Reply::Done { coverage } => Ok(coverage),
            other => Err(unexpected(asked, &other)),
        }
    }

    fn batch(
        &mut self,
        command: &Command,
        asked: &'static str,
    ) -> Result<Vec<EvidenceBody>, ObserveError> {
        match self.ask(command)? {
            Reply::Batch { mut evidence } => {
                evidence.iter_mut().for_each(|e| shift(e, self.offset.theirs_minus_ours));
                Ok(evidence)
            }
            other => Err(unexpected(asked, &other)),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // The observer undoes everything when its stream ends.
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(mut child) = self.child.take() {
            self.reader = Box::new(io::empty());
            let _ = child.wait();
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn unexpected(asked: &'static str, reply: &Reply) -> ObserveError {
    let got = match reply {
        Reply::Failed { message, hint } => {
            return ObserveError::Failed { message: message.clone(), hint: hint.clone() };
        }
        Reply::Welcome { .. } => "welcome",
        Reply::Found { .. } => "found",
        Reply::Done { .. } => "done",
        Reply::Batch { .. } => "batch",
    };
    ObserveError::Unexpected { asked, got }
}

/// Moves every timestamp from the observer's clock to ours.
fn shift(body: &mut EvidenceBody, offset: i64) {
    if offset == 0 {
        return;
    }
    let ours = |t: &mut Nanos| *t = Nanos(t.0.saturating_add_signed(offset.saturating_neg()));
    match body {
        EvidenceBody::Calls(calls) => calls.iter_mut().for_each(|c| {
            ours(&mut c.start);
            ours(&mut c.end);
        }),
        EvidenceBody::ServerEdges(edges) => edges.iter_mut().for_each(|e| {
            ours(&mut e.request_end);
            ours(&mut e.response_start);
            ours(&mut e.response_end);
        }),
        EvidenceBody::Intervals(intervals) => intervals.iter_mut().for_each(|i| {
            ours(&mut i.start);
            ours(&mut i.end);
        }),
        EvidenceBody::Profile(profile) => {
            profile.samples.iter_mut().for_each(|s| ours(&mut s.at));
        }
        // The rest carries no instants of the observer.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::ServerEdge;

    #[test]
    fn timestamps_move_to_our_clock() {
        let edge = |t| ServerEdge {
            client_port: 1,
            request_end: Nanos(t),
            response_start: Nanos(t + 1),
            response_end: Nanos(t + 2),
        };
        for (offset, want) in [(400, 600), (-400, 1400), (0, 1000), (5000, 0)] {
            let mut body = EvidenceBody::ServerEdges(vec![edge(1000)]);
            shift(&mut body, offset);
            let EvidenceBody::ServerEdges(edges) = body else { unreachable!() };
            assert_eq!(edges[0].request_end, Nanos(want));
        }
    }
}
