//! The client's side of a request: phases on the monotonic clock, and the windows they ran in.

use crate::Nanos;
use serde::{Deserialize, Serialize};

/// Which arm of an experiment a window belongs to. Arms are never averaged together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "arm")]
pub enum Arm {
    /// First requests after a start or a pause; caches and JIT cold.
    Cold,
    /// One request in flight, warmed up: the source of headline latency.
    Warm,
    /// Sent just before another one, so that this one finds service and machine awake as those of
    /// a busy client do. Measures nothing.
    Waking,
    /// As warm, with the answer's size parameter set to `size`.
    Sized {
        /// Value of the size parameter.
        size: u64,
    },
    /// `in_flight` requests at once.
    Concurrent {
        /// Requests kept in flight.
        in_flight: u32,
    },
    /// A traced pass (system calls, stacks): names reasons, never headline latency.
    Traced,
    /// A proxy adds `delay_ms` to each round trip of `peer`.
    Delayed {
        /// Peer name.
        peer: String,
        /// Added delay in milliseconds.
        delay_ms: u32,
    },
    /// As warm, but our system acknowledges each packet of the answer at once instead of waiting
    /// for something to send along.
    Acknowledged,
}

/// A stretch of time in which one request was driven, or (idle) none was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Number, unique within the run.
    pub id: u32,
    /// Endpoint name driven (or, for an idle window, the endpoint it is paired with).
    pub endpoint: String,
    /// Arm of the experiment.
    pub arm: Arm,
    /// Whether requests of ours were in flight.
    pub driven: bool,
    /// Start.
    pub start: Nanos,
    /// End: the last answer plus the settling gap.
    pub end: Nanos,
}

/// Boundaries of the client phases; absent phases (a reused connection) are null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Intended start. Equal to the actual start in a closed loop.
    pub start: Nanos,
    /// Name resolution finished.
    pub dns: Option<Nanos>,
    /// TCP connected.
    pub connect: Option<Nanos>,
    /// TLS handshake finished.
    pub tls: Option<Nanos>,
    /// Last byte of the request handed to the kernel.
    pub sent: Nanos,
    /// First byte of the answer read.
    pub first_byte: Nanos,
    /// Last byte of the answer read.
    pub end: Nanos,
}

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Failure {
    /// Name resolution failed.
    Dns,
    /// Connection refused, reset or unreachable at connect.
    Connect,
    /// TLS handshake or certificate.
    Tls,
    /// No full answer within the time limit.
    Timeout,
    /// The connection broke before the answer was complete.
    Reset,
    /// The answer is not valid HTTP.
    Protocol,
    /// The answer is larger than the limit.
    TooLarge,
    /// A status that is not a success for this workload.
    Status {
        /// HTTP status code.
        code: u16,
    },
    /// 401, 403, a login page, or a redirect to one.
    LoginRequired,
}

/// One request of ours and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Window it ran in.
    pub window: u32,
    /// Endpoint name.
    pub endpoint: String,
    /// Phase boundaries.
    pub phases: Phases,
    /// Our local port; matches packets at the service's own port.
    pub client_port: u16,
    /// HTTP status; 0 when no status line arrived.
    pub status: u16,
    /// Protocol spoken: `h1` or `h2`.
    pub http: String,
    /// Bytes of the answer's body as transferred.
    pub body_bytes: u64,
    /// `content-encoding` of the answer, if any.
    pub encoding: Option<String>,
    /// `Server-Timing` header, if any.
    pub server_timing: Option<String>,
    /// Whether the answer carried a validator (`ETag`, `Last-Modified`) or `Cache-Control`.
    pub cacheable: bool,
    /// Trace id we sent in `traceparent`, 32 hex digits.
    pub trace_id: String,
    /// The generator thread's own CPU and run-queue time within the exchange.
    pub generator: Nanos,
    /// Failure, if it failed.
    pub failure: Option<Failure>,
}

impl Exchange {
    /// Latency as the user sees it: intended start to last byte.
    pub fn latency(&self) -> Nanos {
        self.phases.end - self.phases.start
    }
}

/// What packets at the service's own port say about one exchange: when the request had fully
/// arrived and when the answer left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerEdge {
    /// The client's port.
    pub client_port: u16,
    /// Last packet of the request.
    pub request_end: Nanos,
    /// First packet of the answer.
    pub response_start: Nanos,
    /// Last packet of the answer.
    pub response_end: Nanos,
}
