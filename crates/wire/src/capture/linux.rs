//! Capture with `AF_PACKET` sockets.
//!
//! On loopback each packet passes twice, out and in: only the incoming one is kept. On other
//! interfaces both directions are needed. So there is one socket for loopback, which ignores
//! outgoing packets, and one an interface for the others. A socket for all of them at once would
//! have the kernel copy each packet that leaves over loopback, before its filter refuses it; it is
//! used only where there are very many interfaces.

use super::{CaptureError, Config, Interfaces, Statistics, filter, timestamps};
use crate::segment::{Segment, decode};
use evidence::Nanos;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Packets read with one system call.
const BATCH: usize = 64;

/// Largest packet: the kernel merges segments up to 8 × 64 KiB where it is told to (BIG TCP). Of a
/// buffer only the pages that were ever written take memory.
const PACKET_BYTES: usize = 530_000;

/// `PACKET_IGNORE_OUTGOING`, Linux 4.20.
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Interfaces beside loopback up to which each gets a socket.
const INTERFACES: usize = 16;

/// A step of the wall clock worth telling.
const CLOCK_STEP: u64 = 1_000;

/// An open capture. Packets wait in the kernel until drained.
pub struct Capture {
    sockets: Vec<Socket>,
    buffers: Vec<Vec<u8>>,
    statistics: Statistics,
    offset: i64,
}

struct Socket {
    fd: OwnedFd,
    loopback: bool,
    except: Option<u32>,
}

impl Capture {
    /// Starts capturing.
    ///
    /// # Errors
    /// [`CaptureError::Permission`] without CAP_NET_RAW, an unknown interface, a system error.
    pub fn open(config: &Config) -> Result<Capture, CaptureError> {
        let ports = config.ports.as_deref();
        let mut sockets = Vec::new();
        let loopback = interface("lo");
        match &config.interfaces {
            Interfaces::All => {
                if let Some(lo) = loopback {
                    sockets.push(Socket::open(lo, true, None, ports, config.buffer_bytes)?);
                }
                let others = others(loopback);
                if others.len() > INTERFACES {
                    sockets.push(Socket::open(0, false, loopback, ports, config.buffer_bytes)?);
                } else {
                    for index in others {
                        sockets.push(Socket::open(index, false, None, ports, config.buffer_bytes)?);
                    }
                }
            }
            Interfaces::Named(names) => {
                for name in names {
                    let index = interface(name)
                        .ok_or_else(|| CaptureError::NoInterface { name: name.clone() })?;
                    let lo = Some(index) == loopback;
                    sockets.push(Socket::open(index, lo, None, ports, config.buffer_bytes)?);
                }
            }
        }
        timestamps::wait()?;
        let (offset, error) = clock_offset();
        Ok(Capture {
            sockets,
            buffers: (0..BATCH).map(|_| vec![0; PACKET_BYTES]).collect(),
            statistics: Statistics { clock_error: error, ..Statistics::default() },
            offset,
        })
    }

    /// Replaces the ports captured; packets that wait already are kept.
    ///
    /// # Errors
    /// A system error.
    pub fn set_ports(&mut self, ports: Option<&[u16]>) -> Result<(), CaptureError> {
        self.sockets.iter().try_for_each(|s| s.set_filter(ports))
    }

    /// Reads everything that waits and hands each TCP segment to `each`, on `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// A system error; segments read before it were handed over.
    pub fn drain(&mut self, mut each: impl FnMut(&Segment<'_>)) -> Result<(), CaptureError> {
        let (offset, error) = clock_offset();
        if offset.abs_diff(self.offset) > CLOCK_STEP {
            self.statistics.clock_steps += 1;
        }
        self.offset = offset;
        self.statistics.clock_error = error;
        for socket in &self.sockets {
            read_all(socket, &mut self.buffers, offset, &mut self.statistics, &mut each)?;
            self.statistics.dropped += socket.dropped();
        }
        Ok(())
    }

    /// Whether a buffer is so full that it should be drained now: an eighth.
    pub fn is_filling(&self) -> bool {
        self.sockets.iter().any(|s| s.fill() >= 1.0 / 8.0)
    }

    /// Totals so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }
}

impl Socket {
    fn open(
        interface: u32,
        loopback: bool,
        except: Option<u32>,
        ports: Option<&[u16]>,
        buffer_bytes: usize,
    ) -> Result<Socket, CaptureError> {
        // Protocol 0: nothing arrives before filter and timestamps are set and the socket is bound.
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain system call; the result is checked before use.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            let source = io::Error::last_os_error();
            return Err(match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => CaptureError::Permission,
                _ => CaptureError::System { what: "opening a packet socket", source },
            });
        }
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        let socket = Socket { fd: unsafe { OwnedFd::from_raw_fd(fd) }, loopback, except };
        socket.set_filter(ports)?;
        let size = i32::try_from(buffer_bytes).unwrap_or(i32::MAX);
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN; otherwise as much as is allowed.
        if socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
            socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, size, "setting the buffer size")?;
        }
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1, "asking for timestamps")?;
        if loopback {
            let what = "ignoring outgoing packets on loopback (Linux 4.20 or newer)";
            socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, what)?;
        }
        socket.bind(interface)?;
        Ok(socket)
    }

    fn bind(&self, interface: u32) -> Result<(), CaptureError> {
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = interface.cast_signed();
        let size = std::mem::size_of_val(&address) as u32;
        // SAFETY: the address is valid for `size` bytes during the call.
        let bound = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), size) };
        if bound != 0 {
            let source = io::Error::last_os_error();
            return Err(CaptureError::System { what: "binding to the interface", source });
        }
        Ok(())
    }

    fn set_filter(&self, ports: Option<&[u16]>) -> Result<(), CaptureError> {
        let mut program = filter::program(ports, self.except);
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        self.option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter)
            .map_err(|source| CaptureError::System { what: "attaching the packet filter", source })
    }

    fn set(
        &self,
        level: i32,
        name: i32,
        value: i32,
        what: &'static str,
    ) -> Result<(), CaptureError> {
        self.option(level, name, value).map_err(|source| CaptureError::System { what, source })
    }

    fn option<T>(&self, level: i32, name: i32, value: T) -> io::Result<()> {
        let size = std::mem::size_of::<T>() as u32;
        // SAFETY: `value` is valid for its size during the call, and of the type the option takes.
        let set = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), size)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// How full the kernel's buffer is; 0 where it does not say.
    fn fill(&self) -> f64 {
        // `SO_MEMINFO`: bytes held, and the most that may be.
        const MEMORY: i32 = 55;
        let mut counts = [0u32; 16];
        let mut size = std::mem::size_of_val(&counts) as u32;
        // SAFETY: the array is valid for the bytes named.
        let got = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                MEMORY,
                counts.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let [held, most, ..] = counts;
        if got == 0 && most > 0 { f64::from(held) / f64::from(most) } else { 0.0 }
    }

    /// Packets dropped since the last time it was asked (reading resets the kernel's count).
    fn dropped(&self) -> u64 {
        let mut counts = [0u32; 3];
        let mut size = 12u32;
        // SAFETY: the array is valid for the 12 bytes named.
        let got = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        if got == 0 { u64::from(counts[1]) } else { 0 }
    }
}

fn read_all(
    socket: &Socket,
    buffers: &mut [Vec<u8>],
    offset: i64,
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Segment<'_>),
) -> Result<(), CaptureError> {
    // Room for a timestamp's control message, aligned as the kernel wants it.
    let mut control = [[0u64; 8]; BATCH];
    loop {
        let mut parts: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .zip(&mut control)
            .map(|(part, control)| {
                // SAFETY: all-zero bytes are a valid, empty message header.
                let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
                m.msg_hdr.msg_iov = part;
                m.msg_hdr.msg_iovlen = 1;
                m.msg_hdr.msg_control = control.as_mut_ptr().cast();
                m.msg_hdr.msg_controllen = std::mem::size_of_val(control);
                m
            })
            .collect();
        // SAFETY: the headers point to buffers that outlive the call.
        let got = unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if got < 0 {
            let source = io::Error::last_os_error();
            match source.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(()),
                Some(libc::EINTR) => continue,
                // The interface went down or away: what waits can still be read later.
                Some(libc::ENETDOWN) => return Ok(()),
                _ => return Err(CaptureError::System { what: "reading packets", source }),
            }
        }
        let got = got as usize;
        for (message, buffer) in messages[..got].iter().zip(buffers.iter()) {
            statistics.packets += 1;
            statistics.bytes += u64::from(message.msg_len);
            let Some(realtime) = timestamp(&message.msg_hdr) else {
                statistics.without_time += 1;
                continue;
            };
            let at = Nanos(u64::try_from(realtime - offset).unwrap_or(0));
            let packet = &buffer[..(message.msg_len as usize).min(buffer.len())];
            if let Some(segment) = decode(packet, at) {
                each(&segment);
            }
        }
        if got < messages.len() {
            return Ok(());
        }
    }
}

/// The kernel's `CLOCK_REALTIME` timestamp of a message, nanoseconds.
pub(super) fn timestamp(header: &libc::msghdr) -> Option<i64> {
    // SAFETY: the header was filled by recvmmsg and its control buffer is alive.
    unsafe {
        let c = libc::CMSG_FIRSTHDR(header);
        if c.is_null() || (*c).cmsg_type != libc::SCM_TIMESTAMPNS {
            return None;
        }
        let t: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(c).cast());
        Some(t.tv_sec * 1_000_000_000 + t.tv_nsec)
    }
}

/// `CLOCK_REALTIME − CLOCK_MONOTONIC` in nanoseconds by the tightest of 20 sandwiches, and the
/// bound of its error.
fn clock_offset() -> (i64, Nanos) {
    let mut best = (0, i64::MAX);
    for _ in 0..20 {
        let before = clock(libc::CLOCK_MONOTONIC);
        let wall = clock(libc::CLOCK_REALTIME);
        let after = clock(libc::CLOCK_MONOTONIC);
        if after - before < best.1 {
            best = (wall - (before + (after - before) / 2), after - before);
        }
    }
    (best.0, Nanos((best.1 as u64).div_ceil(2)))
}

pub(super) fn clock(which: libc::clockid_t) -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for writing; both clocks always exist.
    unsafe { libc::clock_gettime(which, &raw mut t) };
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

/// Indices of the interfaces beside loopback.
fn others(loopback: Option<u32>) -> Vec<u32> {
    let mut out = Vec::new();
    // SAFETY: the list ends with an entry of index 0, and is freed once, after its last use.
    unsafe {
        let list = libc::if_nameindex();
        let mut at = list;
        while !at.is_null() && (*at).if_index != 0 {
            out.push((*at).if_index);
            at = at.add(1);
        }
        if !list.is_null() {
            libc::if_freenameindex(list);
        }
    }
    out.retain(|index| Some(*index) != loopback);
    out
}

fn interface(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a valid C string during the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let loopback = self.sockets.iter().filter(|s| s.loopback).count();
        f.debug_struct("Capture")
            .field("sockets", &self.sockets.len())
            .field("loopback", &loopback)
            .field("statistics", &self.statistics)
            .finish_non_exhaustive()
    }
}
