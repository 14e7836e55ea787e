//! What the service talks to: its established outgoing connections and Unix sockets, named by the
//! process that listens at the other end, else by the well-known port.

use super::namespace;
use super::proc::{self, Table};
use super::sockets::{Sockets, Tcp, TcpState};
use crate::sched::{FdKind, Remote};
use evidence::{Call, Peer, ProcessRole, Protocol};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Peers remembered at most.
const PEERS: usize = 4096;

/// The process behind a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Executable or `comm`.
    pub name: String,
    /// Topmost process of that server on this host.
    pub pid: i32,
}

/// What is known of peers, kept between looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    servers: HashMap<SocketAddr, Option<Server>>,
    unix_servers: HashMap<String, Option<Server>>,
    /// Protocols learnt from content.
    pub spoken: HashMap<SocketAddr, Protocol>,
}

/// One look at the descriptors of the service's processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// Peers, ordered by name.
    pub peers: Vec<Peer>,
    /// Kinds of all descriptors.
    pub kinds: HashMap<(i32, i32), FdKind>,
    /// Sockets: process, descriptor, inode.
    pub held: Vec<(i32, i32, u64)>,
    /// Descriptors that lead to peers.
    pub remotes: HashMap<(i32, i32), Remote>,
    /// Servers on this host.
    pub servers: Vec<(ProcessRole, i32)>,
    /// Servers behind Unix sockets, by peer name and topmost process.
    pub unix_servers: BTreeMap<String, i32>,
    /// Ports the service's processes listen on.
    pub listening: BTreeSet<u16>,
    /// Processes whose descriptors may not be read.
    pub refused: Vec<i32>,
    /// Whose connections are whose.
    pub flows: Flows,
}

/// What a capture follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flows {
    /// Ports the service listens on.
    pub listening: BTreeSet<u16>,
    /// Peers by address; an empty name is left to the content.
    pub names: HashMap<SocketAddr, String>,
    /// The service's outgoing connections: local port, remote address.
    pub mine: HashSet<Link>,
    /// Connections of other processes. By both ends: a host with many connections uses the same
    /// port for several.
    pub foreign: HashSet<Link>,
}

/// A connection by its client's port and its server's address.
pub(crate) type Link = (u16, SocketAddr);

impl Flows {
    /// Whether a call's connection is the service's; `None` where that is not known.
    pub(crate) fn owner(&self, call: &Call) -> Option<bool> {
        let server = address_of(call)?;
        let link = (call.client_port, server);
        match self.mine.contains(&link) {
            true => Some(true),
            false => self.foreign.contains(&link).then_some(false),
        }
    }
}

/// Address of the peer, which ends its name.
pub(crate) fn address_of(call: &Call) -> Option<SocketAddr> {
    call.peer.rsplit(' ').next()?.parse().ok()
}

/// Looks at the descriptors of `pids`, which live in the namespace of `sockets`.
pub(crate) fn look(pids: &[i32], sockets: &Sockets, book: &mut Book, table: &Table) -> Look {
    let mut out = Look::default();
    let mut held: Vec<(i32, i32, u64)> = Vec::new();
    for pid in pids {
        match proc::descriptors(*pid) {
            Ok(list) => {
                for (fd, link) in list {
                    out.kinds.insert((*pid, fd), kind(&link));
                    held.extend(proc::socket_inode(&link).map(|inode| (*pid, fd, inode)));
                }
            }
            Err(_) if proc::stat(*pid).is_some() => out.refused.push(*pid),
            Err(_) => {}
        }
    }
    let inodes: HashSet<u64> = held.iter().map(|h| h.2).collect();
    let mine = |t: &&Tcp| inodes.contains(&t.inode);
    let listens = |t: &&Tcp| t.state == TcpState::Listen;
    out.listening =
        sockets.tcp.iter().filter(listens).filter(mine).map(|t| t.local.port()).collect();
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    tcp(&held, sockets, book, table, &mut peers, &mut out);
    unix(&held, pids, sockets, book, table, &mut peers, &mut out);
    out.flows.foreign = outgoing(sockets)
        .filter(|t| t.inode != 0 && !inodes.contains(&t.inode))
        .filter(|t| !out.listening.contains(&t.remote.port()))
        .map(link)
        .collect();
    out.flows.listening = out.listening.clone();
    out.held = held;
    out.peers = peers.into_values().take(PEERS).collect();
    out.servers.sort_unstable();
    out.servers.dedup();
    out
}

fn established(sockets: &Sockets) -> impl Iterator<Item = &Tcp> {
    sockets.tcp.iter().filter(|t| t.state == TcpState::Established)
}

/// Connections that were not accepted at a port somebody listens on.
fn outgoing(sockets: &Sockets) -> impl Iterator<Item = &Tcp> {
    let listens = |t: &&Tcp| t.state == TcpState::Listen;
    let ports: HashSet<u16> = sockets.tcp.iter().filter(listens).map(|t| t.local.port()).collect();
    established(sockets).filter(move |t| !ports.contains(&t.local.port()))
}

fn link(t: &Tcp) -> Link {
    (t.local.port(), t.remote)
}

/// Peers by the owner column of the socket tables, for when descriptors may not be read.
pub(crate) fn by_user(
    uid: u32,
    sockets: &Sockets,
    listening: &BTreeSet<u16>,
    book: &mut Book,
    table: &Table,
) -> (Vec<Peer>, Flows) {
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    let mut flows = Flows { listening: listening.clone(), ..Flows::default() };
    let own = own_inodes();
    for t in established(sockets).filter(|t| !listening.contains(&t.local.port())) {
        // Clients of the service may be the same user's, we ourselves for one.
        if t.uid != uid || listening.contains(&t.remote.port()) || own.contains(&t.inode) {
            flows.foreign.insert(link(t));
            continue;
        }
        let peer = tcp_peer(t.remote, book, table);
        flows.mine.insert(link(t));
        flows.names.insert(t.remote, given_name(&peer));
        peers.entry(peer.name.clone()).or_insert(peer).connections += 1;
    }
    (peers.into_values().take(PEERS).collect(), flows)
}

fn own_inodes() -> BTreeSet<u64> {
    let own = proc::descriptors(std::process::id() as i32).unwrap_or_default();
    own.iter().filter_map(|(_, link)| proc::socket_inode(link)).collect()
}

fn tcp(
    held: &[(i32, i32, u64)],
    sockets: &Sockets,
    book: &mut Book,
    table: &Table,
    peers: &mut BTreeMap<String, Peer>,
    out: &mut Look,
) {
    let mut counted = BTreeSet::new();
    for (pid, fd, inode) in held {
        let Some(t) = sockets.tcp_of(*inode).filter(|t| t.state == TcpState::Established) else {
            continue;
        };
        if out.listening.contains(&t.local.port()) {
            continue;
        }
        let peer = tcp_peer(t.remote, book, table);
        out.servers.extend(book.server_of(t.remote));
        let (name, protocol) = (peer.name.clone(), peer.protocol);
        let entry = peers.entry(name.clone()).or_insert(peer);
        // A descriptor inherited by several processes is one connection.
        if counted.insert(*inode) {
            entry.connections += 1;
        }
        let client_port = t.local.port();
        out.flows.mine.insert(link(t));
        out.flows.names.insert(t.remote, given_name(entry));
        out.remotes.insert((*pid, *fd), Remote { peer: name, protocol, client_port });
    }
}

fn unix(
    held: &[(i32, i32, u64)],
    pids: &[i32],
    sockets: &Sockets,
    book: &mut Book,
    table: &Table,
    peers: &mut BTreeMap<String, Peer>,
    out: &mut Look,
) {
    let connected: HashMap<u64, Option<&str>> =
        sockets.unix.iter().filter(|u| u.connected).map(|u| (u.inode, u.path.as_deref())).collect();
    // The accepting side carries the path; ours that carry one are clients of the service.
    let ours = held.iter().filter(|h| connected.get(&h.2).is_some_and(Option::is_none));
    let ours: Vec<&(i32, i32, u64)> = ours.collect();
    if ours.is_empty() {
        return;
    }
    let pairs = namespace::within(pids.first().copied(), super::unix_diag::peers);
    let Some(pairs) = pairs.and_then(Result::ok) else { return };
    let mut counted = BTreeSet::new();
    for (pid, fd, inode) in ours {
        let Some(other) = pairs.get(inode) else { continue };
        let Some(Some(path)) = connected.get(other) else { continue };
        let server = book.unix_server((*path).to_owned(), sockets, table);
        if server.as_ref().is_some_and(|s| pids.contains(&s.pid)) {
            continue;
        }
        let word = server.as_ref().map_or("unix", |s| s.name.as_str());
        let name = format!("{word} {path}");
        out.servers.extend(server.as_ref().and_then(|s| Some((role(&s.name)?, s.pid))));
        out.unix_servers.extend(server.as_ref().map(|s| (name.clone(), s.pid)));
        let entry = peers.entry(name.clone()).or_insert_with(|| Peer {
            name: name.clone(),
            address: (*path).to_owned(),
            port: 0,
            protocol: Protocol::Unix,
            connections: 0,
            process: server.as_ref().map(|s| s.name.clone()),
        });
        if counted.insert(*inode) {
            entry.connections += 1;
        }
        let remote = Remote { peer: name, protocol: Protocol::Unix, client_port: 0 };
        out.remotes.insert((*pid, *fd), remote);
    }
}

/// What a peer speaks is known from content, else from the process that listens, else from its
/// port. A database or cache keeps its name whatever is heard (encryption hides it).
fn tcp_peer(address: SocketAddr, book: &mut Book, table: &Table) -> Peer {
    let server = book.server(address, table);
    let guess = well_known(address.port());
    let by_process = server.as_ref().and_then(|s| protocol_of(&s.name));
    let store = by_process.or(Some(guess).filter(|g| g.is_sql() || g.is_cache()));
    let protocol = book.spoken.get(&address).copied().or(store).unwrap_or(guess);
    Peer {
        name: format!("{} {address}", store.unwrap_or(protocol).word()),
        address: address.ip().to_string(),
        port: address.port(),
        protocol,
        connections: 0,
        process: server.map(|s| s.name),
    }
}

/// Name to give a capture for a peer: that of a store; others are named by what is heard.
fn given_name(peer: &Peer) -> String {
    let word = peer.name.split(' ').next().unwrap_or_default();
    let stores = [Protocol::Postgres, Protocol::Mysql, Protocol::Redis, Protocol::Memcached];
    match stores.iter().any(|p| p.word() == word) {
        true => peer.name.clone(),
        false => String::new(),
    }
}

/// What the server program named speaks.
fn protocol_of(process: &str) -> Option<Protocol> {
    Some(match process {
        "postgres" | "postmaster" | "pgbouncer" => Protocol::Postgres,
        "mysqld" | "mariadbd" | "proxysql" => Protocol::Mysql,
        "redis-server" | "valkey-server" | "keydb-server" => Protocol::Redis,
        "memcached" => Protocol::Memcached,
        _ => return None,
    })
}

fn well_known(port: u16) -> Protocol {
    match port {
        5432 | 6432 => Protocol::Postgres,
        3306 => Protocol::Mysql,
        6379 => Protocol::Redis,
        11211 => Protocol::Memcached,
        80 | 8080 => Protocol::Http,
        443 => Protocol::Tls,
        _ => Protocol::Opaque,
    }
}

fn role(process: &str) -> Option<ProcessRole> {
    match protocol_of(process)? {
        Protocol::Postgres | Protocol::Mysql => Some(ProcessRole::Database),
        Protocol::Redis | Protocol::Memcached => Some(ProcessRole::Cache),
        _ => None,
    }
}

fn kind(link: &str) -> FdKind {
    match link {
        l if l.starts_with("socket:") => FdKind::Socket,
        l if l.starts_with("pipe:") => FdKind::Pipe,
        "anon_inode:[eventfd]" => FdKind::Event,
        "anon_inode:[timerfd]" => FdKind::Timer,
        l if l.starts_with('/') && !l.starts_with("/dev/") => FdKind::File,
        _ => FdKind::Unknown,
    }
}

impl Book {
    fn server_of(&self, address: SocketAddr) -> Option<(ProcessRole, i32)> {
        let server = self.servers.get(&address)?.as_ref()?;
        Some((role(&server.name)?, server.pid))
    }

    fn server(&mut self, address: SocketAddr, table: &Table) -> Option<Server> {
        if let Some(known) = self.servers.get(&address) {
            let alive = known.as_ref().is_none_or(|s| table.stats.contains_key(&s.pid));
            if alive {
                return known.clone();
            }
        }
        let server = find_server(address, table);
        if self.servers.len() < PEERS {
            self.servers.insert(address, server.clone());
        }
        server
    }

    fn unix_server(&mut self, path: String, sockets: &Sockets, table: &Table) -> Option<Server> {
        if let Some(known) = self.unix_servers.get(&path) {
            return known.clone();
        }
        let listens = |u: &&super::sockets::Unix| u.listening && u.path.as_ref() == Some(&path);
        let inodes: BTreeSet<u64> = sockets.unix.iter().filter(listens).map(|u| u.inode).collect();
        let server = table.holders(&inodes).0.first().map(|pid| named(*pid, table));
        if self.unix_servers.len() < PEERS {
            self.unix_servers.insert(path, server.clone());
        }
        server
    }
}

/// The process listening at an address, in whichever namespace of this host the address is local.
fn find_server(address: SocketAddr, table: &Table) -> Option<Server> {
    let ip: IpAddr = address.ip();
    for pid in namespace::representatives(table) {
        if !super::sockets::is_local(pid, ip) {
            continue;
        }
        let sockets = Sockets::read(pid);
        let inodes = sockets.listening(Some(ip), address.port()).iter().map(|t| t.inode).collect();
        if let Some(holder) = table.holders(&inodes).0.first() {
            return Some(named(*holder, table));
        }
    }
    None
}

fn named(pid: i32, table: &Table) -> Server {
    let name = server_name(pid, table);
    let mut top = pid;
    while let Some(parent) = table.stats.get(&top).map(|s| s.parent).filter(|p| *p > 1) {
        if server_name(parent, table) != name {
            break;
        }
        top = parent;
    }
    Server { name, pid: top }
}

/// Name of a server: a known store by its `comm` (Debian's redis-server is a link to
/// redis-check-rdb), else the executable.
fn server_name(pid: i32, table: &Table) -> String {
    let comm = table.stats.get(&pid).map(|s| s.comm.as_str()).unwrap_or_default();
    match protocol_of(comm) {
        Some(_) => comm.to_owned(),
        None => program(pid, table),
    }
}

/// Base name of the executable, else `comm`.
pub(crate) fn program(pid: i32, table: &Table) -> String {
    let path = proc::executable(pid);
    let name = path.as_deref().and_then(std::path::Path::file_name);
    name.map(|n| n.to_string_lossy().into_owned())
        .or_else(|| table.stats.get(&pid).map(|s| s.comm.clone()))
        .unwrap_or_default()
}
