//! Closing an inspector that we opened and did not live to close.
//!
//! Runs in a fork of ours after we were killed ([`crate::death_watch`]): system calls on buffers of
//! fixed size, nothing else. It asks the inspector for its list of targets, connects as a debugger
//! would, and has the process close its own inspector.

use super::inspector::start_of;
use super::sockets;
use crate::death_watch::{DeathWatch, Notes};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A process that was signalled just before our end opens its inspector within this time.
const ROUNDS: u32 = 100;
const ROUND_US: u32 = 50_000;
/// Longest wait for an answer, seconds.
const ANSWER_S: libc::time_t = 3;
/// The list of targets is some 600 bytes.
const ANSWER_BYTES: usize = 4096;

const LIST: &[u8] = b"GET /json/list HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const UPGRADE: &[u8] = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: cGVyZndyaWdodCBjbG9zZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
/// Begins the message that says good-bye; the JSON before it has no such byte.
const CLOSE_FRAME: u8 = 0x88;

/// Closes the inspector of a process if we end before this is dropped.
#[derive(Debug)]
pub(super) struct Afterwards(DeathWatch);

impl Afterwards {
    /// Begins before the process is signalled; `evaluate` is what closes the inspector from within.
    pub(super) fn start(pid: i32, start_ticks: u64, evaluate: &str) -> io::Result<Afterwards> {
        let process = pidfd(pid)?;
        if start_of(pid) != Some(start_ticks) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let namespace = sockets::foreign_namespace(pid)?;
        let frame = frame(evaluate);
        let (process, inside) = (process, namespace.as_ref().map(File::as_raw_fd));
        let process_fd = process.as_raw_fd();
        let keep = [process_fd, inside.unwrap_or(process_fd)];
        let undo = |ports: Notes| {
            // SAFETY: a plain system call on a descriptor that was kept.
            let entered =
                inside.is_none_or(|fd| unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0);
            if entered {
                close(process_fd, ports, &frame);
            }
        };
        // SAFETY: `undo` makes system calls on buffers made before or on the stack.
        unsafe { DeathWatch::start(&keep, undo) }.map(Afterwards)
    }

    /// The inspector may be, or soon be, on this port.
    pub(super) fn on_port(&self, port: u16) {
        self.0.note(u32::from(port));
    }
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor is checked and owned at once.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel just gave us this descriptor.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `Runtime.evaluate` as one text message of a client. A client masks; zeros change nothing.
fn frame(expression: &str) -> Vec<u8> {
    let parameters = serde_json::json!({
        "expression": expression, "includeCommandLineAPI": true, "silent": true,
    });
    let call = serde_json::json!({ "id": 1, "method": "Runtime.evaluate", "params": parameters });
    let text = call.to_string();
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend((text.len() as u16).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

/// Tries every port until one was an inspector, the process is gone, or time is up.
fn close(process: i32, ports: Notes, frame: &[u8]) {
    for _ in 0..ROUNDS {
        let mut ended = libc::pollfd { fd: process, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, a local.
        if unsafe { libc::poll(&mut ended, 1, 0) } != 0 {
            return;
        }
        if ports.iter().any(|port| *port != 0 && close_on(*port as u16, frame)) {
            return;
        }
        // SAFETY: a plain sleep.
        unsafe { libc::usleep(ROUND_US) };
    }
}

/// Whether an inspector was there and was told to close.
fn close_on(port: u16, frame: &[u8]) -> bool {
    let mut answer = [0; ANSWER_BYTES];
    let Some(socket) = Socket::connect(port) else { return false };
    if !socket.send(LIST) {
        return false;
    }
    let Some((from, to)) = socket.receive(&mut answer, debugger_path) else { return false };
    drop(socket);
    let Some(socket) = Socket::connect(port) else { return false };
    let asked = socket.send(b"GET ") && socket.send(&answer[from..to]) && socket.send(UPGRADE);
    let mut greeting = [0; ANSWER_BYTES];
    let accepted = asked && socket.receive(&mut greeting, |b| find(b, b"\r\n\r\n", 0)).is_some();
    if !accepted || find(&greeting, b" 101 ", 0).is_none() || !socket.send(frame) {
        return false;
    }
    // The process waits for its debuggers to go: the connection is closed when it says so.
    let mut rest = [0; ANSWER_BYTES];
    let _: Option<()> = socket.receive(&mut rest, |b| b.contains(&CLOSE_FRAME).then_some(()));
    true
}

/// First and last byte of the path in the first `"webSocketDebuggerUrl": "ws://HOST:PORT/PATH"`.
fn debugger_path(answer: &[u8]) -> Option<(usize, usize)> {
    let key = find(answer, b"\"webSocketDebuggerUrl\"", 0)?;
    let url = find(answer, b"ws://", key)? + 5;
    let path = find(answer, b"/", url)?;
    Some((path, find(answer, b"\"", path)?))
}

/// Where `needle` begins, at or after `from`.
fn find(hay: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    (from..hay.len()).find(|at| hay[*at..].starts_with(needle))
}

/// A connection; no allocation, no panic.
struct Socket(i32);

impl Socket {
    fn connect(port: u16) -> Option<Socket> {
        // SAFETY: plain system calls on locals; the descriptor is owned by what is returned.
        unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return None;
            }
            let socket = Socket(fd);
            let wait = libc::timeval { tv_sec: ANSWER_S, tv_usec: 0 };
            for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
                let size = size_of::<libc::timeval>() as libc::socklen_t;
                libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const wait).cast(), size);
            }
            let mut to: libc::sockaddr_in = std::mem::zeroed();
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = port.to_be();
            to.sin_addr.s_addr = libc::INADDR_LOOPBACK.to_be();
            let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            (libc::connect(fd, (&raw const to).cast(), size) == 0).then_some(socket)
        }
    }

    fn send(&self, bytes: &[u8]) -> bool {
        // SAFETY: sends from a slice. What is sent here always fits into the socket's buffer.
        let sent =
            unsafe { libc::send(self.0, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        sent == bytes.len() as isize
    }

    /// Reads until `wanted` finds what it wants in all that came, or nothing more comes or fits.
    fn receive<T>(&self, buffer: &mut [u8], wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let mut length = 0;
        while length < buffer.len() {
            let free = &mut buffer[length..];
            // SAFETY: receives into a slice of that length.
            let got = unsafe { libc::recv(self.0, free.as_mut_ptr().cast(), free.len(), 0) };
            if got <= 0 {
                return None;
            }
            length += got as usize;
            if let Some(found) = wanted(&buffer[..length]) {
                return Some(found);
            }
        }
        None
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_found_in_a_list_of_targets() {
        let check = |answer: &str, expected: Option<&str>| {
            let found = debugger_path(answer.as_bytes()).map(|(from, to)| &answer[from..to]);
            assert_eq!(found, expected);
        };
        let list = "HTTP/1.0 200 OK\r\n\r\n[ {\n \"devtoolsFrontendUrl\": \"devtools://x?ws=1/2\",\n \
                    \"webSocketDebuggerUrl\": \"ws://127.0.0.1:9229/0f2c-41\"\n} ]";
        check(list, Some("/0f2c-41"));
        check(&list[..list.len() - 8], None);
        check("", None);
    }
}
