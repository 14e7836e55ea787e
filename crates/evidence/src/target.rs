//! The Target: processes, runtime, peers, and how much of them can be observed.

use serde::{Deserialize, Serialize};

/// How much can be observed here. Each level includes the ones before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Level {
    /// URL only.
    #[default]
    L0,
    /// And the database.
    L1,
    /// And the wire.
    L2,
    /// And processes and threads.
    L3,
    /// And runtime frames and heap.
    L4,
}

/// A language runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `node`, `python`, `go`, `jvm`, `ruby`, `php`, `native`.
    pub name: String,
    /// Version, when known.
    pub version: Option<String>,
}

/// A process of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id as we see it.
    pub pid: i32,
    /// Parent.
    pub parent: i32,
    /// Kernel start time in clock ticks since boot: with the pid, names the process for good.
    pub start_ticks: u64,
    /// Base name of the executable.
    pub executable: String,
    /// Command line with secrets redacted.
    pub command: Vec<String>,
    /// Working directory, when readable.
    pub directory: Option<String>,
    /// Runtime.
    pub runtime: Runtime,
    /// Number of threads.
    pub threads: u32,
    /// Whether it accepts our connections itself (a worker), as opposed to parents like `npm`.
    pub serving: bool,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Local address, e.g. `127.0.0.1:3000` or `[::]:3000`.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// Something the service talks to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Name used in calls and reports, e.g. `postgres 127.0.0.1:5432`.
    pub name: String,
    /// Address; a path for a Unix socket.
    pub address: String,
    /// Port; 0 for a Unix socket.
    pub port: u16,
    /// What is spoken, as far as known from content, else from the listener's process, else port.
    pub protocol: crate::Protocol,
    /// Open connections from the service when last looked.
    pub connections: u32,
    /// Process serving it, when on this host: `postgres`, `redis-server`.
    pub process: Option<String>,
}

/// One service of the target: a tree of processes that answers on one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name for people: directory or executable.
    pub name: String,
    /// Where it listens.
    pub listener: Listener,
    /// Its processes, parents first.
    pub processes: Vec<ProcessInfo>,
    /// What it talks to.
    pub peers: Vec<Peer>,
    /// Libraries that decide the idiom of a fix: `pg`, `knex`, `sequelize`, `psycopg2`,
    /// `sqlalchemy`, `django`, `pgx`, `sqlx`, … found in manifests or loaded modules.
    pub libraries: Vec<String>,
    /// Whether it runs on the same machine as the generator.
    pub co_located: bool,
}

/// The service under test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// URL as named by the user, without credentials; redacted when serialised.
    #[serde(serialize_with = "crate::secret::url")]
    pub url: String,
    /// Reached level.
    pub level: Level,
    /// Services found behind it.
    pub services: Vec<Service>,
}
