//! One `AF_PACKET` socket, without link headers.

use super::{CaptureError, filter};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `PACKET_IGNORE_OUTGOING`, Linux 4.20.
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// A socket; closed when dropped.
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    /// The interface whose packets it refuses, when it captures on all.
    except: Option<u32>,
}

impl Socket {
    /// Opens one that nothing arrives at before it is bound.
    ///
    /// # Errors
    /// [`CaptureError::Permission`] without CAP_NET_RAW, a system error.
    pub(super) fn open(
        loopback: bool,
        except: Option<u32>,
        ports: Option<&[u16]>,
    ) -> Result<Socket, CaptureError> {
        // Protocol 0: nothing arrives yet.
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
        let socket = Socket { fd: unsafe { OwnedFd::from_raw_fd(fd) }, except };
        socket.set_filter(ports)?;
        if loopback {
            let what = "ignoring outgoing packets on loopback (Linux 4.20 or newer)";
            socket
                .option(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
                .map_err(|source| CaptureError::System { what, source })?;
        }
        Ok(socket)
    }

    /// Begins to capture on an interface; 0 is all of them.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn bind(&self, interface: u32) -> Result<(), CaptureError> {
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

    /// Replaces the ports captured.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn set_filter(&self, ports: Option<&[u16]>) -> Result<(), CaptureError> {
        let mut program = filter::program(ports, self.except);
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        self.option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter)
            .map_err(|source| CaptureError::System { what: "attaching the packet filter", source })
    }

    /// Sets an option.
    pub(super) fn option<T>(&self, level: i32, name: i32, value: T) -> io::Result<()> {
        let size = std::mem::size_of::<T>() as u32;
        // SAFETY: `value` is valid for its size during the call, and of the type the option takes.
        let set = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), size)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Packets dropped since the last time it was asked (reading resets the kernel's count).
    pub(super) fn dropped(&self) -> u64 {
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
