//! Packet capture: TCP segments as the kernel sees them, on the run's monotonic clock.
//!
//! Linux only (`AF_PACKET`); elsewhere [`Capture::open`] says so. Sockets are opened by the calling
//! thread, so a thread that has entered another network namespace captures there.

#[cfg(target_os = "linux")]
mod background;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(target_os = "linux")]
mod socket;

#[cfg(target_os = "linux")]
pub use background::Background;
#[cfg(target_os = "linux")]
pub use linux::Capture;
#[cfg(not(target_os = "linux"))]
pub use other::{Background, Capture};

use evidence::Nanos;

/// Bytes held between two drains on loopback, and half of it on all other interfaces. A 3 s request
/// rarely moves more; a window that may needs [`Capture::drain_in_background`].
pub const BUFFER_BYTES: usize = 64 << 20;

/// Which interfaces to capture on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// All of the network namespace that are up when it begins.
    #[default]
    All,
    /// These, by name.
    Named(Vec<String>),
}

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// On which interfaces.
    pub interfaces: Interfaces,
    /// TCP from or to these ports, and every SYN (so that a peer's first connection shows). `None`
    /// captures all TCP.
    pub ports: Option<Vec<u16>>,
    /// Bytes shared with the kernel for packets of loopback or of each interface named; the others
    /// share half as much.
    pub buffer_bytes: usize,
}

/// What a capture has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets read.
    pub packets: u64,
    /// Bytes read, headers included.
    pub bytes: u64,
    /// Packets the kernel dropped for want of buffer: evidence of this time is incomplete.
    pub dropped: u64,
    /// Times the wall clock was stepped by more than 1 µs between two drains: timestamps of the
    /// window before are off by the step.
    pub clock_steps: u64,
    /// Bound of the clock offset's error: half of the tightest of 20 readings.
    pub clock_error: Nanos,
}

/// Why capture is not possible.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The right is missing.
    #[error(
        "packet capture was refused: it needs the capability CAP_NET_RAW\n\
         hint: sudo setcap cap_net_raw+ep \"$(command -v perfwright)\", or in a container \
         `docker run --cap-add NET_RAW`, or run as root"
    )]
    Permission,
    /// The platform has no packet sockets.
    #[error(
        "packet capture works on Linux only\n\
         hint: put the proxy in front of the peers, or run `perfwright observe` on the Linux host"
    )]
    Unsupported,
    /// No such interface in this network namespace.
    #[error("there is no network interface `{name}` here\nhint: `ip -brief link` lists them")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// A system call failed.
    #[error("packet capture failed: {what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Config {
    /// Capture of these ports on all interfaces.
    pub fn ports(ports: &[u16]) -> Config {
        Config {
            interfaces: Interfaces::All,
            ports: Some(ports.to_vec()),
            buffer_bytes: BUFFER_BYTES,
        }
    }
}
