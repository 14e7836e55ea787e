//! A Call: one request to a peer, seen on the wire, in a proxy, in a span or as system calls.

use crate::Nanos;
use serde::{Deserialize, Serialize};

/// Keyed hash of one parameter or result value. The key lives only in the memory of the run that
/// made it, so equal values can be joined but never recovered from disk.
pub type ValueHash = u64;

/// What is spoken to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// PostgreSQL frontend/backend protocol 3.
    Postgres,
    /// MySQL and MariaDB client/server protocol.
    Mysql,
    /// SQLite in the process (spans only: there is no wire).
    Sqlite,
    /// Redis, RESP2 and RESP3.
    Redis,
    /// memcached, text and meta.
    Memcached,
    /// HTTP/1.1.
    Http,
    /// Encrypted: peer, bytes and intervals only.
    Tls,
    /// A Unix socket: peer and intervals only.
    Unix,
    /// Anything whose framing is not known: bytes and intervals only.
    Opaque,
}

/// What the call does, as far as the framing tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A statement, command or request that was executed.
    Execute,
    /// Parse or PREPARE only, nothing executed.
    Prepare,
    /// TCP connect, TLS handshake, start-up and authentication.
    Connect,
    /// Ping, SET, session set-up, housekeeping of a pool.
    Session,
    /// Server push, subscription delivery: no request of ours waits for it.
    Push,
}

/// Where the call was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallSource {
    /// Captured packets.
    Wire,
    /// Our proxy in between.
    Proxy,
    /// A span the service exported.
    Span,
    /// System calls on a socket descriptor.
    Syscalls,
    /// Who woke the thread that waited: peers behind Unix sockets.
    Wakeups,
}

/// The values one result column took, as hashes: joins a parent row to a child parameter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnSketch {
    /// Column name as the server sent it.
    pub name: String,
    /// Distinct value hashes, at most 256.
    pub values: Vec<ValueHash>,
}

/// One request to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Peer name, the `name` of a [`crate::Peer`], e.g. `postgres 127.0.0.1:5432`.
    pub peer: String,
    /// What is spoken to it.
    pub protocol: Protocol,
    /// Kind of operation.
    pub operation: Operation,
    /// Where it was seen.
    pub source: CallSource,
    /// Text with literals redacted: the fingerprint. Equal statements have equal text. Never
    /// empty: an unknown text says what is known (`prepared "x"`, `tls 5432`).
    pub text: String,
    /// Whether `text` is the real statement (false: recovered by inference, or not known at all).
    pub text_known: bool,
    /// Hashes of the parameters, in order; inlined literals count as parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<ValueHash>,
    /// Rows returned or affected; elements for a cache command.
    pub rows: Option<u64>,
    /// Bytes sent to the peer for this call.
    pub bytes_sent: u64,
    /// Bytes received from the peer for this call.
    pub bytes_received: u64,
    /// Error code (SQLSTATE, MySQL errno, RESP error word, HTTP status ≥ 500), never values.
    pub error: Option<String>,
    /// First byte of the request on its way (a pipelined call starts when its turn comes).
    pub start: Nanos,
    /// Last byte of the answer.
    pub end: Nanos,
    /// Connection number, unique within the run; see `client_port` for the socket.
    pub connection: u32,
    /// The service's local port of that connection; 0 where there is none.
    #[serde(default)]
    pub client_port: u16,
    /// Calls of one connection with the same batch left in one round trip (pipelined).
    pub batch: u64,
    /// Column values of the answer (bounded), where the wire shows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnSketch>,
    /// Where in the service's code it was issued, when a stack or span tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<crate::Where>,
}

impl Call {
    /// Time from the first byte of the request to the last byte of the answer.
    pub fn duration(&self) -> Nanos {
        self.end - self.start
    }
}

impl Protocol {
    /// Whether the peer is a database server or an embedded database.
    pub fn is_sql(self) -> bool {
        matches!(self, Protocol::Postgres | Protocol::Mysql | Protocol::Sqlite)
    }

    /// Whether the peer is a cache.
    pub fn is_cache(self) -> bool {
        matches!(self, Protocol::Redis | Protocol::Memcached)
    }

    /// Lower-case word used in peer names and reports.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Postgres => "postgres",
            Protocol::Mysql => "mysql",
            Protocol::Sqlite => "sqlite",
            Protocol::Redis => "redis",
            Protocol::Memcached => "memcached",
            Protocol::Http => "http",
            Protocol::Tls => "tls",
            Protocol::Unix => "unix",
            Protocol::Opaque => "opaque",
        }
    }
}
