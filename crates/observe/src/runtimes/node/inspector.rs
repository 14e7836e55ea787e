//! The inspector of a running Node process: opened by a signal, used, and closed again.
//!
//! Opening is the only touch of the process, needs consent, and prints two lines on its standard
//! error. The signal is sent only to a process that catches it, on a handle that cannot be taken
//! over by another process meanwhile. What was opened here is closed here, also on errors, and by
//! [`super::afterwards`] when we are killed.

use super::afterwards::Afterwards;
use super::sockets::{self, Listening};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

/// Port a Node process opens when nothing else was asked for.
const DEFAULT_PORT: u16 = 9229;
/// How long a process may take to open its inspector: 60–155 ms were seen, 433 ms when busy.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a process may take to install its handler.
const STARTING: Duration = Duration::from_secs(1);
/// After this long a new port that is not the expected one is taken for the inspector's.
const OTHER_PORT: Duration = Duration::from_millis(500);
/// How long a command may take; it waits for the running JavaScript to reach a safe point.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long fetching a profile may take.
const RESULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest message accepted: minutes of profile at 1 ms.
const MESSAGE_LIMIT: usize = 512 << 20;
/// Largest answer to the list of targets.
const LIST_LIMIT: u64 = 1 << 20;
/// Pause between two looks at the port.
const LOOK: Duration = Duration::from_millis(5);

/// Closes the inspector from within.
const CLOSE: &str = "inspector.close()";

/// Why the inspector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InspectorError {
    /// The signal would kill the process.
    #[error("process {0} does not catch SIGUSR1, so it would die of the signal")]
    NotCaught(i32),
    /// Ended, or its number was given to another one.
    #[error("process {0} is gone")]
    Gone(i32),
    /// May not be signalled or entered.
    #[error("process {pid}: {error}")]
    Denied {
        /// Process.
        pid: i32,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Somebody else has the port.
    #[error("port {port} is in use, so process {pid} cannot open its inspector there")]
    PortTaken {
        /// Process.
        pid: i32,
        /// Port.
        port: u16,
    },
    /// The signal had no effect.
    #[error("process {0} did not open its inspector on SIGUSR1: it has its own handler for it")]
    OwnHandler(i32),
    /// Broken connection or unexpected answer.
    #[error("the inspector of process {pid} failed: {reason}")]
    Failed {
        /// Process.
        pid: i32,
        /// What happened.
        reason: String,
    },
    /// Could not be closed again.
    #[error("the inspector of process {pid} is still open on port {port}")]
    StillOpen {
        /// Process.
        pid: i32,
        /// Port.
        port: u16,
    },
}

impl InspectorError {
    /// The next step.
    pub fn hint(&self) -> &'static str {
        match self {
            InspectorError::NotCaught(_) => {
                "start it with --cpu-prof, or launch it with perfwright (`-- node app.js`)"
            }
            InspectorError::Gone(_) => "",
            InspectorError::Denied { .. } => {
                "run as root or as the user that owns the process; in a container, run perfwright \
                 inside its network namespace"
            }
            InspectorError::PortTaken { .. } => {
                "end the other debugger, or start the service with another --inspect-port"
            }
            InspectorError::OwnHandler(_) => {
                "start it with --cpu-prof or --inspect, or launch it with perfwright"
            }
            InspectorError::Failed { .. } => "try again; or start the service with --cpu-prof",
            InspectorError::StillOpen { .. } => {
                "run require('inspector').close() in the process, or restart it"
            }
        }
    }
}

/// An open inspector.
#[derive(Debug)]
pub struct Inspector {
    pid: i32,
    port: u16,
    ours: bool,
    socket: Option<WebSocket<TcpStream>>,
    last_id: u64,
    afterwards: Option<Afterwards>,
}

/// An inspector that may open after we gave up waiting, because the process was busy.
#[derive(Debug)]
pub struct LateInspector {
    pid: i32,
    before: BTreeSet<u16>,
    afterwards: Option<Afterwards>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "webSocketDebuggerUrl")]
    url: Option<String>,
}

impl Inspector {
    /// Opens the inspector of `pid` and connects to it. `start_ticks` (field 22 of
    /// `/proc/PID/stat`) makes sure that it still is the process that was meant. An inspector that
    /// was open before is used and left open.
    ///
    /// # Errors
    /// See [`InspectorError`]; a signal that was sent in vain comes with a [`LateInspector`].
    pub fn open(
        pid: i32,
        start_ticks: u64,
    ) -> Result<Inspector, (InspectorError, Option<LateInspector>)> {
        let plain = |error| (error, None);
        let (port, asked) = debug_port(pid);
        let mut inspector = match sockets::listening(pid, port) {
            Listening::Itself if asked => Inspector::on(pid, port),
            Listening::Nobody => Inspector::provoke(pid, start_ticks, port)?,
            _ => return Err(plain(InspectorError::PortTaken { pid, port })),
        };
        match inspector.connect() {
            Ok(()) => Ok(inspector),
            Err(error) => {
                // Dropping closes what was opened.
                drop(inspector);
                Err(plain(error))
            }
        }
    }

    /// One that is open already, and not ours.
    fn on(pid: i32, port: u16) -> Inspector {
        Inspector { pid, port, ours: false, socket: None, last_id: 0, afterwards: None }
    }

    /// Has the process open its inspector, on `port` as far as is known.
    fn provoke(
        pid: i32,
        start_ticks: u64,
        port: u16,
    ) -> Result<Inspector, (InspectorError, Option<LateInspector>)> {
        let plain = |error| (error, None);
        let before = sockets::own_ports(pid);
        let afterwards = Afterwards::start(pid, start_ticks, &within(CLOSE))
            .map_err(|error| plain(InspectorError::Denied { pid, error }))?;
        if port != 0 {
            afterwards.on_port(port);
        }
        signal(pid, start_ticks).map_err(plain)?;
        let afterwards = Some(afterwards);
        match wait_for_new(pid, port, &before) {
            Some(port) => {
                afterwards.iter().for_each(|a| a.on_port(port));
                let mut inspector = Inspector::on(pid, port);
                (inspector.ours, inspector.afterwards) = (true, afterwards);
                Ok(inspector)
            }
            None => {
                let late = LateInspector { pid, before, afterwards };
                Err((InspectorError::OwnHandler(pid), Some(late)))
            }
        }
    }

    fn fail(&self, reason: impl ToString) -> InspectorError {
        InspectorError::Failed { pid: self.pid, reason: reason.to_string() }
    }

    fn connect(&mut self) -> Result<(), InspectorError> {
        let denied = |error| InspectorError::Denied { pid: self.pid, error };
        let (pid, port) = (self.pid, self.port);
        let stream = sockets::connect(pid, port).map_err(denied)?;
        let path = self.target_path(stream)?;
        let stream = sockets::connect(pid, port).map_err(denied)?;
        stream.set_read_timeout(Some(COMMAND_TIMEOUT)).map_err(|e| self.fail(e))?;
        stream.set_nodelay(true).map_err(|e| self.fail(e))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT));
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (socket, _) =
            tungstenite::client::client_with_config(url.as_str(), stream, Some(config))
                .map_err(|error| self.fail(error))?;
        self.socket = Some(socket);
        Ok(())
    }

    /// Asks for the list of targets over HTTP; the path of the first one's socket.
    fn target_path(&self, mut stream: TcpStream) -> Result<String, InspectorError> {
        let ask = format!(
            "GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n",
            self.port
        );
        stream.set_read_timeout(Some(COMMAND_TIMEOUT)).map_err(|e| self.fail(e))?;
        stream.write_all(ask.as_bytes()).map_err(|e| self.fail(e))?;
        let body = read_body(stream).map_err(|e| self.fail(e))?;
        let listed: Vec<Listed> = serde_json::from_slice(&body)
            .map_err(|error| self.fail(format!("not a list of targets: {error}")))?;
        let url = listed.into_iter().find_map(|target| target.url);
        url.and_then(|url| {
            let rest = url.strip_prefix("ws://")?;
            rest.find('/').map(|at| rest[at..].to_owned())
        })
        .ok_or_else(|| self.fail("no target to debug; another debugger may be attached"))
    }

    /// Sends a command and waits for its result.
    ///
    /// # Errors
    /// A broken connection, a time-out, or the error the inspector answered.
    pub fn call<T: for<'a> Deserialize<'a>>(
        &mut self,
        method: &str,
        parameters: &Value,
    ) -> Result<T, InspectorError> {
        #[derive(Deserialize)]
        struct Answer<T> {
            id: Option<u64>,
            #[serde(default = "Option::default")]
            result: Option<T>,
            error: Option<Value>,
        }
        #[derive(Deserialize)]
        struct AnswerId {
            id: Option<u64>,
        }
        let id = self.send(method, parameters)?;
        let deadline = Instant::now()
            + if method == "Profiler.stop" { RESULT_TIMEOUT } else { COMMAND_TIMEOUT };
        loop {
            let text = self.receive(method, deadline)?;
            // Events and answers to others are skipped before their content is looked at.
            let head: AnswerId = serde_json::from_str(&text).map_err(|error| self.fail(error))?;
            if head.id != Some(id) {
                continue;
            }
            let answer: Answer<T> =
                serde_json::from_str(&text).map_err(|error| self.fail(error))?;
            debug_assert_eq!(answer.id, Some(id));
            return match (answer.result, answer.error) {
                (Some(result), None) => Ok(result),
                (_, error) => Err(self.fail(format!("{method}: {}", error.unwrap_or_default()))),
            };
        }
    }

    fn send(&mut self, method: &str, parameters: &Value) -> Result<u64, InspectorError> {
        self.last_id += 1;
        let id = self.last_id;
        let text = json!({ "id": id, "method": method, "params": parameters }).to_string();
        let sent = match &mut self.socket {
            Some(socket) => socket.send(Message::text(text)).map_err(|error| error.to_string()),
            None => Err("not connected".to_owned()),
        };
        sent.map_err(|error| self.fail(error))?;
        Ok(id)
    }

    fn receive(&mut self, method: &str, deadline: Instant) -> Result<String, InspectorError> {
        loop {
            let Some(socket) = &mut self.socket else { return Err(self.fail("not connected")) };
            match socket.read() {
                Ok(Message::Text(text)) => return Ok(text.as_str().to_owned()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Err(self.fail(format!("{method}: {error}"))),
            }
            if Instant::now() >= deadline {
                return Err(self.fail(format!("{method}: no answer in time")));
            }
        }
    }

    /// Moves the inspector to another free port, so that the next process can open its own on the
    /// usual one.
    ///
    /// # Errors
    /// When it does not come up there.
    pub fn relocate(&mut self) -> Result<(), InspectorError> {
        let pid = self.pid;
        let port =
            sockets::free_port(pid).map_err(|error| InspectorError::Denied { pid, error })?;
        self.afterwards.iter().for_each(|a| a.on_port(port));
        self.run(&format!("{CLOSE}; inspector.open({port}, '127.0.0.1')"));
        self.port = port;
        if !wait_for(pid, port, Listening::Itself, OPEN_TIMEOUT) {
            return Err(self.fail("it did not open on another port"));
        }
        self.connect()
    }

    /// Whether it was opened here.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// Runs a statement that ends the connection.
    fn run(&mut self, statement: &str) {
        let parameters = json!({
            "expression": within(statement),
            "includeCommandLineAPI": true,
            "silent": true,
        });
        if self.send("Runtime.evaluate", &parameters).is_ok()
            && let Some(socket) = &mut self.socket
        {
            // Answer the closing handshake: the process waits for it. Any error is the end.
            let deadline = Instant::now() + CLOSE_TIMEOUT;
            while Instant::now() < deadline && socket.read().is_ok() {}
        }
        self.socket = None;
    }

    /// Closes the inspector if it was opened here, and makes sure that the port is closed.
    ///
    /// # Errors
    /// [`InspectorError::StillOpen`] when it is not.
    pub fn close(mut self) -> Result<(), InspectorError> {
        self.undo()
    }

    fn undo(&mut self) -> Result<(), InspectorError> {
        if !std::mem::take(&mut self.ours) {
            self.socket = None;
            return Ok(());
        }
        let (pid, port) = (self.pid, self.port);
        // The second attempt is for a connection that broke: it needs a new one.
        for _ in 0..2 {
            if sockets::listening(pid, port) != Listening::Itself {
                return Ok(());
            }
            if self.socket.is_some() || self.connect().is_ok() {
                self.run(CLOSE);
            }
            if wait_for(pid, port, Listening::Nobody, CLOSE_TIMEOUT) {
                return Ok(());
            }
        }
        Err(InspectorError::StillOpen { pid, port })
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        // Nobody is left to tell; `close` is the way that reports.
        drop(self.undo());
    }
}

impl LateInspector {
    /// Closes the inspector if it has opened meanwhile.
    ///
    /// # Errors
    /// [`InspectorError::StillOpen`] when it cannot be closed.
    pub fn close(mut self) -> Result<(), InspectorError> {
        let (pid, _until_here) = (self.pid, self.afterwards.take());
        for port in sockets::own_ports(pid).difference(&self.before) {
            let mut found = Inspector::on(pid, *port);
            // Only what answers as an inspector is one; the service may have opened a port too.
            if found.connect().is_ok() {
                found.ours = true;
                found.close()?;
            }
        }
        Ok(())
    }
}

/// A statement that can use `inspector`, the module that closes and opens it, in CommonJS, in
/// modules and in bundles.
fn within(statement: &str) -> String {
    let module = "globalThis.process?.getBuiltinModule?.('node:inspector') ?? \
        (typeof require === 'function' ? require : process.mainModule.require)('inspector')";
    format!("(() => {{ const inspector = {module}; {statement} }})()")
}

/// Body of an HTTP answer. Node keeps the connection open, so the stated length must be obeyed.
fn read_body(stream: impl Read) -> io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream.take(LIST_LIMIT));
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(body)
}

/// Waits until `pid` listens on a port it did not listen on before: the expected one, or another
/// when the program has set `process.debugPort` itself.
fn wait_for_new(pid: i32, expected: u16, before: &BTreeSet<u16>) -> Option<u16> {
    let start = Instant::now();
    while start.elapsed() < OPEN_TIMEOUT {
        let now = sockets::own_ports(pid);
        if now.contains(&expected) {
            return Some(expected);
        }
        if let Some(port) = now.difference(before).next()
            && (expected == 0 || start.elapsed() > OTHER_PORT)
        {
            return Some(*port);
        }
        std::thread::sleep(LOOK);
    }
    None
}

/// Waits until the port of `pid` is as `wanted` (`Nobody`: not its own any more).
fn wait_for(pid: i32, port: u16, wanted: Listening, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let own = sockets::listening(pid, port) == Listening::Itself;
        if own == (wanted == Listening::Itself) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Port the process uses for its inspector (0: any), and whether it was started with an open one.
fn debug_port(pid: i32) -> (u16, bool) {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let options = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"NODE_OPTIONS="))
        .unwrap_or_default();
    let mut text = String::from_utf8_lossy(options).into_owned();
    for word in command.split(|byte| *byte == 0) {
        text.push(' ');
        text.push_str(&String::from_utf8_lossy(word));
    }
    port_of_options(&text)
}

/// As [`debug_port`], from the options themselves.
fn port_of_options(text: &str) -> (u16, bool) {
    let (mut port, mut open) = (DEFAULT_PORT, false);
    for word in text.split_ascii_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let opens = matches!(name, "--inspect" | "--inspect-brk" | "--inspect-wait");
        if !opens && !matches!(name, "--inspect-port" | "--debug-port") {
            continue;
        }
        open |= opens;
        let digits = value.rsplit(':').next().unwrap_or_default();
        port = digits.parse().unwrap_or(port);
    }
    (port, open)
}

/// Sends SIGUSR1 to exactly the process that was meant, if it catches it.
fn signal(pid: i32, start_ticks: u64) -> Result<(), InspectorError> {
    let denied = |error| InspectorError::Denied { pid, error };
    // SAFETY: plain system calls; the descriptor is checked and owned at once.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let handle = match i32::try_from(fd) {
        // SAFETY: the kernel just gave us this descriptor.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(InspectorError::Gone(pid)),
    };
    // Checked with the handle in hand: from here on the number cannot come to mean another one.
    if start_of(pid) != Some(start_ticks) {
        return Err(InspectorError::Gone(pid));
    }
    // A process that has just started installs its handler within some 100 ms.
    let deadline = Instant::now() + STARTING;
    while !catches(pid, libc::SIGUSR1) {
        if Instant::now() >= deadline {
            return Err(InspectorError::NotCaught(pid));
        }
        std::thread::sleep(LOOK);
    }
    // SAFETY: the descriptor is open and no signal information is passed.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            handle.as_raw_fd(),
            libc::SIGUSR1,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent == 0 { Ok(()) } else { Err(denied(io::Error::last_os_error())) }
}

/// Field 22 of `/proc/PID/stat`: when the process started.
pub fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether `/proc/PID/status` shows a handler for `signal`.
fn catches(pid: i32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_options() {
        for (options, expected) in [
            ("node app.js", (9229, false)),
            ("node --inspect app.js", (9229, true)),
            ("node --inspect=0.0.0.0:9333 app.js", (9333, true)),
            ("node --inspect-port=9400 app.js", (9400, false)),
            ("node --inspect-port=9400 --inspect-port=0 app.js", (0, false)),
            ("node --inspect-brk=[::1]:7000 x", (7000, true)),
        ] {
            assert_eq!(port_of_options(options), expected, "{options}");
        }
    }

    #[test]
    fn we_do_not_catch_the_signal_and_would_not_be_sent_it() {
        let pid = std::process::id() as i32;
        let error = signal(pid, start_of(pid).unwrap()).unwrap_err();
        assert!(matches!(error, InspectorError::NotCaught(_)), "{error}");
        assert!(matches!(signal(pid, 0).unwrap_err(), InspectorError::Gone(_)));
    }
}
