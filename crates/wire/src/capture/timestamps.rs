//! Waiting until the kernel stamps packets on arrival.
//!
//! The first socket of a machine that asks for timestamps switches stamping on, but through a work
//! queue, some milliseconds later on a busy machine. Until then a packet is stamped when it is
//! *read*, which for a capture drained later is wrong by the whole window. So a datagram is sent to
//! ourselves until one comes back with the time it was sent.

use super::CaptureError;
use super::linux::{clock, timestamp};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Time between sending and reading: a stamp must be nearer to the former.
const PAUSE: Duration = Duration::from_millis(1);

/// Attempts before giving up.
const ATTEMPTS: usize = 500;

/// Wait where loopback cannot be used to find out.
const BLIND_WAIT: Duration = Duration::from_millis(100);

/// Returns once packets are stamped on arrival.
pub(super) fn wait() -> Result<(), CaptureError> {
    // Without loopback (a namespace where it is down) there is nothing to try it with.
    let Ok(socket) = probe_socket() else {
        std::thread::sleep(BLIND_WAIT);
        return Ok(());
    };
    for _ in 0..ATTEMPTS {
        let sent = clock(libc::CLOCK_REALTIME);
        if socket.send(&[0]).is_err() {
            std::thread::sleep(BLIND_WAIT);
            return Ok(());
        }
        std::thread::sleep(PAUSE);
        let read = clock(libc::CLOCK_REALTIME);
        if stamp(&socket).is_some_and(|at| at - sent < read - at) {
            return Ok(());
        }
    }
    Err(CaptureError::NoTimestamps)
}

/// A datagram socket connected to itself, with timestamps.
fn probe_socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(socket.local_addr()?)?;
    socket.set_nonblocking(true)?;
    let on: i32 = 1;
    // SAFETY: `on` is valid for its size during the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            4,
        )
    };
    if set == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// Reads one datagram and returns its timestamp, nanoseconds.
fn stamp(socket: &UdpSocket) -> Option<i64> {
    let mut byte = [0u8];
    let mut control = [0u64; 8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all-zero bytes are a valid, empty message header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = std::mem::size_of_val(&control);
    // SAFETY: the header points to buffers that outlive the call.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    if got < 0 { None } else { timestamp(&header) }
}
