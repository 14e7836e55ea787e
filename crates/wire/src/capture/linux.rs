//! Capture with `AF_PACKET` sockets.
//!
//! On loopback each packet passes twice, out and in: only the incoming one is kept. On other
//! interfaces both directions are needed. So there is one socket for loopback, which ignores
//! outgoing packets, and one an interface for the others. A socket for all of them at once would
//! have the kernel copy each packet that leaves over loopback, before its filter refuses it; it is
//! used only where there are very many interfaces.

use super::ring::{self, Ring};
use super::socket::Socket;
use super::{CaptureError, Config, Interfaces, Statistics};
use crate::segment::{Segment, decode};
use evidence::Nanos;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::time::Duration;

/// Interfaces beside loopback up to which each gets a socket.
const INTERFACES: usize = 16;

/// Share of the buffer that the interfaces beside loopback get, all together: a network is slower.
const OTHERS: usize = 2;

/// A step of the wall clock worth telling.
const CLOCK_STEP: u64 = 1_000;

/// An open capture. Packets wait in memory shared with the kernel until drained.
pub struct Capture {
    taps: Vec<Tap>,
    statistics: Statistics,
    offset: i64,
}

/// Where packets are taken from.
struct Tap {
    socket: Socket,
    ring: Ring,
}

impl Capture {
    /// Starts capturing.
    ///
    /// # Errors
    /// [`CaptureError::Permission`] without CAP_NET_RAW, an unknown interface, a system error.
    pub fn open(config: &Config) -> Result<Capture, CaptureError> {
        let ports = config.ports.as_deref();
        let loopback = interface("lo");
        let open = |index, except, bytes| {
            let is_loopback = Some(index) == loopback;
            Tap::open(index, is_loopback, except, ports, bytes)
        };
        let mut taps = Vec::new();
        match &config.interfaces {
            Interfaces::All => {
                if let Some(lo) = loopback {
                    taps.push(open(lo, None, config.buffer_bytes)?);
                }
                let others = others(loopback)?;
                let bytes = config.buffer_bytes / OTHERS;
                if others.len() > INTERFACES {
                    taps.push(open(0, loopback, bytes)?);
                } else {
                    let each = bytes / others.len().max(1);
                    for index in others {
                        taps.push(open(index, None, each)?);
                    }
                }
            }
            Interfaces::Named(names) => {
                for name in names {
                    let index = interface(name)
                        .ok_or_else(|| CaptureError::NoInterface { name: name.clone() })?;
                    taps.push(open(index, None, config.buffer_bytes)?);
                }
            }
        }
        let (offset, error) = clock_offset();
        let statistics = Statistics { clock_error: error, ..Statistics::default() };
        Ok(Capture { taps, statistics, offset })
    }

    /// Replaces the ports captured; packets that wait already are kept.
    ///
    /// # Errors
    /// A system error.
    pub fn set_ports(&mut self, ports: Option<&[u16]>) -> Result<(), CaptureError> {
        self.taps.iter().try_for_each(|t| t.socket.set_filter(ports))
    }

    /// Reads everything that waits and hands each TCP segment to `each`, on `CLOCK_MONOTONIC`.
    /// Packets of the last [`Capture::longest_wait`] may be left for the next time.
    pub fn drain(&mut self, mut each: impl FnMut(&Segment<'_>)) {
        let (offset, error) = clock_offset();
        let statistics = &mut self.statistics;
        if offset.abs_diff(self.offset) > CLOCK_STEP {
            statistics.clock_steps += 1;
        }
        self.offset = offset;
        statistics.clock_error = error;
        for Tap { socket, ring } in &mut self.taps {
            ring.drain(|packet| {
                statistics.packets += 1;
                statistics.bytes += packet.bytes.len() as u64;
                let at = Nanos(u64::try_from(packet.at - offset).unwrap_or(0));
                if let Some(segment) = decode(packet.bytes, at) {
                    each(&segment);
                }
            });
            statistics.dropped += socket.dropped();
        }
    }

    /// How long after it was seen a packet may not be there to be drained yet.
    pub fn longest_wait(&self) -> Duration {
        ring::longest_wait()
    }

    /// Whether a buffer is so full that it should be drained now: a quarter.
    pub fn is_filling(&self) -> bool {
        self.taps.iter().any(|t| t.ring.is_filling())
    }

    /// Totals so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }
}

impl Tap {
    fn open(
        interface: u32,
        loopback: bool,
        except: Option<u32>,
        ports: Option<&[u16]>,
        bytes: usize,
    ) -> Result<Tap, CaptureError> {
        let socket = Socket::open(loopback, except, ports)?;
        let ring = Ring::open(&socket, bytes)?;
        socket.bind(interface)?;
        Ok(Tap { socket, ring })
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

fn clock(which: libc::clockid_t) -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for writing; both clocks always exist.
    unsafe { libc::clock_gettime(which, &raw mut t) };
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

/// Indices of the interfaces beside loopback that are up. Of one that is down nothing can come, and
/// its ring's timer would interrupt the service all the same.
fn others(loopback: Option<u32>) -> Result<Vec<u32>, CaptureError> {
    let mut out = BTreeSet::new();
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list ends with a null pointer, names are C strings, and it is freed once, after
    // its last use.
    unsafe {
        if libc::getifaddrs(&raw mut list) != 0 {
            let (what, source) = ("listing the interfaces", std::io::Error::last_os_error());
            return Err(CaptureError::System { what, source });
        }
        let mut at = list;
        while !at.is_null() {
            if (*at).ifa_flags & libc::IFF_UP as u32 != 0 {
                out.insert(libc::if_nametoindex((*at).ifa_name));
            }
            at = (*at).ifa_next;
        }
        libc::freeifaddrs(list);
    }
    out.remove(&0);
    Ok(out.into_iter().filter(|index| Some(*index) != loopback).collect())
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
        f.debug_struct("Capture")
            .field("taps", &self.taps.len())
            .field("statistics", &self.statistics)
            .finish_non_exhaustive()
    }
}
