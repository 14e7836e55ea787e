//! The evidence stream: the one path evidence takes from an observer to the conductor, local or
//! remote. Frames are a 4-byte big-endian length and that many bytes of zstd-compressed JSON.
//!
//! A local run serves the same frames over a socket pair inside the process, so that the remote
//! path never rots.

use evidence::{Coverage, EvidenceBody, Nanos, Service};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Largest frame accepted, bytes after the length. A frame beyond it is a protocol error.
pub const FRAME_LIMIT: u32 = 256 << 20;

/// Which parts of observation a pass switches on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Capture packets.
    pub wire: bool,
    /// Context-switch records.
    pub switches: bool,
    /// Wake-ups with their waker.
    pub wakeups: bool,
    /// System calls: names reasons, slows the target; never in a pass that gives milliseconds.
    pub syscalls: bool,
}

/// How stacks may be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileConfig {
    /// Samples per second.
    pub hertz: u32,
    /// The user agreed to a reversible touch of the process (inspector, signal).
    pub attach: bool,
}

/// What the conductor asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// First frame: versions must agree.
    Hello {
        /// Protocol version of the conductor.
        version: u32,
    },
    /// Find the service behind a listening port (or a process), and probe what can be observed.
    Find {
        /// Address that will be connected to.
        host: String,
        /// Port.
        port: u16,
        /// Root process, when the conductor launched it.
        pid: Option<i32>,
    },
    /// Threads of the conductor itself, when it runs on the same host: their intervals tell its own
    /// delay from the service's. Takes effect with the next `Attach`.
    Generator {
        /// Thread ids.
        threads: Vec<i32>,
    },
    /// Start a pass. A running one is stopped first.
    Attach {
        /// Parts.
        pass: Pass,
        /// Key of value hashes for this run (see `evidence::Redactor`); never stored.
        salt: u64,
    },
    /// A window begins: snapshot counters.
    Begin {
        /// Window number.
        window: u32,
    },
    /// A window ended (settling gap included): drain everything since the last drain.
    End {
        /// Window number.
        window: u32,
    },
    /// Start sampling stacks.
    StartProfile {
        /// How.
        config: ProfileConfig,
    },
    /// Stop sampling; the answer carries the profiles.
    StopProfile,
    /// Undo everything and end.
    Stop,
}

/// What the observer answers, one reply a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum Reply {
    /// Answer to `Hello`.
    Welcome {
        /// Protocol version of the observer.
        version: u32,
        /// Host name, for `observe@host`.
        host: String,
        /// The observer's monotonic clock when it answered; the conductor computes the offset.
        clock: Nanos,
        /// Identifies the observer's kernel run: equal values share the monotonic clock.
        #[serde(default)]
        boot: String,
    },
    /// Answer to `Find`.
    Found {
        /// The service, when its processes could be found.
        service: Option<Box<Service>>,
        /// What can be observed.
        coverage: Vec<Coverage>,
    },
    /// Done; coverage learnt on the way.
    Done {
        /// News about coverage.
        coverage: Vec<Coverage>,
    },
    /// Answer to `End` and `StopProfile`.
    Batch {
        /// Evidence.
        evidence: Vec<EvidenceBody>,
    },
    /// The command failed; the observer goes on.
    Failed {
        /// What happened and why.
        message: String,
        /// Next step.
        hint: String,
    },
}

/// Protocol version spoken here.
pub const VERSION: u32 = 1;

/// Writes one frame.
///
/// # Errors
/// The writer's error, or a value larger than [`FRAME_LIMIT`].
pub fn write_frame<T: Serialize>(writer: &mut impl Write, value: &T) -> io::Result<()> {
    let json = serde_json::to_vec(value)?;
    let packed = zstd::bulk::compress(&json, 1)?;
    let length = u32::try_from(packed.len())
        .ok()
        .filter(|n| *n <= FRAME_LIMIT)
        .ok_or_else(|| io::Error::other("evidence frame exceeds the limit"))?;
    writer.write_all(&length.to_be_bytes())?;
    writer.write_all(&packed)?;
    writer.flush()
}

/// Reads one frame; `None` when the stream ended between frames.
///
/// # Errors
/// The reader's error, a truncated or oversized frame, or bytes that are not the expected value.
pub fn read_frame<T: for<'a> Deserialize<'a>>(reader: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = u32::from_be_bytes(length);
    if length > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "evidence frame too large"));
    }
    let mut packed = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut packed)?;
    if packed.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Bounded: a hostile frame must not expand without limit.
    let mut json = Vec::new();
    let mut decoder = zstd::Decoder::new(packed.as_slice())?.take(u64::from(FRAME_LIMIT) * 8);
    decoder.read_to_end(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_truncation_is_an_error() {
        let sent = Command::Find { host: "127.0.0.1".into(), port: 80, pid: None };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &sent).unwrap();
        assert_eq!(read_frame::<Command>(&mut bytes.as_slice()).unwrap(), Some(sent));
        assert_eq!(read_frame::<Command>(&mut [].as_slice()).unwrap(), None);
        let cut = &bytes[..bytes.len() - 1];
        assert!(read_frame::<Command>(&mut &cut[..]).is_err());
    }
}
