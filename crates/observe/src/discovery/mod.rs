//! From an address to what is behind it: the listening socket, the processes that hold it, their
//! parents and children, their runtime and libraries, and what they talk to.

pub(crate) mod embedded;
mod libraries;
pub(crate) mod namespace;
mod peers;
pub(crate) mod proc;
mod runtime;
mod sock_diag;
mod sockets;
mod tcp_diag;
mod tree;
mod unix_diag;

use crate::redact;
use crate::sched::{FdKind, Remote};
use evidence::{Call, CallSource, Coverage, Listener, ProcessInfo, ProcessRole, Runtime, Service};
use peers::{Book, Look};
pub(crate) use peers::{Flows, Link};
use proc::Table;
pub(crate) use sockets::is_local;
use sockets::{Sockets, Tcp};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use tree::Tree;

/// Processes described at most; counters still cover all.
const PROCESSES: usize = 512;

/// A service that was found, and what is needed to watch it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// As reported.
    pub service: Service,
    /// All its processes.
    pub pids: Vec<i32>,
    /// Those that hold the listening socket.
    pub serving: BTreeSet<i32>,
    /// Whose connections are whose.
    pub flows: Flows,
    /// A process of its network namespace, when that is not ours.
    pub foreign: Option<i32>,
    /// Kinds of all descriptors.
    pub kinds: HashMap<(i32, i32), FdKind>,
    /// Descriptors that lead to peers.
    pub remotes: HashMap<(i32, i32), Remote>,
    /// Databases and caches on this host, by their topmost process.
    pub servers: Vec<(ProcessRole, i32)>,
    /// Servers behind Unix sockets, by peer name and topmost process.
    pub unix_servers: Vec<(String, i32)>,
    /// A process of its network namespace.
    anchor: i32,
    /// Owner of the listening socket.
    owner: Option<u32>,
    tops: Vec<i32>,
    root: Option<i32>,
    asked: (String, u16),
    book: Book,
    runtimes: HashMap<(i32, u64), Runtime>,
}

/// The socket a connection would reach.
struct Anchor {
    pid: i32,
    sockets: Sockets,
    listening: Vec<Tcp>,
}

/// Finds what is behind `host:port`. `root` is the process we launched, if we did. A socket whose
/// process is not visible is still a service: its packets may be.
pub(crate) fn find(host: &str, port: u16, root: Option<i32>) -> (Option<Found>, Vec<Coverage>) {
    let table = Table::read();
    let mut coverage = Vec::new();
    let Some(anchor) = anchor(host, port, root, &table, &mut coverage) else {
        return (None, coverage);
    };
    let inodes = anchor.listening.iter().map(|t| t.inode).collect();
    let (holders, refused) = table.holders(&inodes);
    let mut serving: BTreeSet<i32> = holders.into_iter().collect();
    let uid = anchor.listening.first().map(|t| t.uid);
    if serving.is_empty() {
        // Where every descriptor may be read, the holder is none of the processes visible.
        if refused > 0 || root.is_some() {
            serving = guess_by_user(uid, port, root, &table);
        }
        coverage.push(guessed(&serving, refused, uid));
    } else {
        coverage.push(Coverage::ok("process-fds"));
    }
    let inside = serving.first().copied().unwrap_or(anchor.pid);
    let foreign = Some(anchor.pid).filter(|_| namespace::is_foreign(inside));
    let tree = match serving.is_empty() {
        true => Tree::default(),
        false => tree::around(&table, &serving, root),
    };
    let mut found = Found {
        service: empty_service(anchor.listening.first(), port),
        pids: Vec::new(),
        serving,
        flows: Flows::default(),
        foreign,
        kinds: HashMap::new(),
        remotes: HashMap::new(),
        servers: Vec::new(),
        unix_servers: Vec::new(),
        anchor: anchor.pid,
        owner: uid,
        tops: Vec::new(),
        root,
        asked: (host.to_owned(), port),
        book: Book::default(),
        runtimes: HashMap::new(),
    };
    if found.serving.is_empty() {
        found.service.name = "a process that is not visible".into();
    }
    found.describe(&table, tree, &anchor.sockets, uid);
    (Some(found), coverage)
}

impl Found {
    /// Looks again: new workers, new connections. Cheap enough for every gap between windows.
    pub(crate) fn refresh(&mut self, table: &Table) {
        if self.serving.is_empty() {
            let sockets = Sockets::read(self.anchor);
            self.describe(table, Tree::default(), &sockets, self.owner);
            return;
        }
        if !self.serving.iter().any(|p| table.stats.contains_key(p)) {
            // Restarted (a file watcher, a supervisor): find it anew, keep what was learnt.
            let (host, port) = self.asked.clone();
            if let (Some(mut again), _) = find(&host, port, self.root) {
                again.inherit(self);
                *self = again;
            }
            return;
        }
        let Some(pid) = self.serving.iter().copied().find(|p| table.stats.contains_key(p)) else {
            return;
        };
        let tree = tree::collect(table, self.tops.clone());
        let uid = proc::user(pid);
        self.describe(table, tree, &Sockets::read(pid), uid);
    }

    /// Takes over what was heard of peers, when the same service is found anew.
    pub(crate) fn inherit(&mut self, earlier: &Found) {
        self.book.spoken.extend(&earlier.book.spoken);
        self.refresh(&Table::read());
    }

    /// Remembers what is spoken to peers, as the content of calls showed.
    pub(crate) fn learn(&mut self, calls: &[Call]) {
        for call in calls {
            if let Some(address) =
                peers::address_of(call).filter(|_| call.source == CallSource::Wire)
            {
                self.book.spoken.insert(address, call.protocol);
            }
        }
    }

    fn describe(&mut self, table: &Table, tree: Tree, sockets: &Sockets, uid: Option<u32>) {
        let Tree { pids, tops } = tree;
        let look = peers::look(&pids, sockets, &mut self.book, table);
        self.workers(&look, sockets, &pids);
        let listening = match look.listening.is_empty() {
            true => BTreeSet::from([self.service.listener.port]),
            false => look.listening.clone(),
        };
        let blind = look.refused.len() == pids.len();
        (self.service.peers, self.flows) = match uid.filter(|_| blind) {
            Some(uid) => peers::by_user(uid, sockets, &listening, &mut self.book, table),
            None => (look.peers, Flows { listening, ..look.flows }),
        };
        self.processes(&pids, table);
        (self.pids, self.tops) = (pids, tops);
        (self.kinds, self.remotes, self.servers) = (look.kinds, look.remotes, look.servers);
        self.unix_servers = look.unix_servers.into_iter().collect();
    }

    /// Processes that hold the listening socket now.
    fn workers(&mut self, look: &Look, sockets: &Sockets, pids: &[i32]) {
        let port = self.service.listener.port;
        let inodes: BTreeSet<u64> = sockets.listening(None, port).iter().map(|t| t.inode).collect();
        if look.refused.len() == pids.len() || inodes.is_empty() {
            return;
        }
        let holds = look.held.iter().filter(|(_, _, inode)| inodes.contains(inode));
        let serving: BTreeSet<i32> = holds.map(|(pid, _, _)| *pid).collect();
        if !serving.is_empty() {
            self.serving = serving;
        }
    }

    fn processes(&mut self, pids: &[i32], table: &Table) {
        let mut described = Vec::new();
        let mut alike: HashMap<(String, Vec<String>), Runtime> = HashMap::new();
        for pid in pids.iter().take(PROCESSES) {
            let Some(stat) = table.stats.get(pid) else { continue };
            let (executable, command) = (peers::program(*pid, table), proc::command(*pid));
            // A forked process is what its parent is: detecting reads whole executables.
            let detect = || {
                let alike = alike.entry((executable.clone(), command.clone()));
                alike.or_insert_with(|| runtime::detect(*pid)).clone()
            };
            let known = self.runtimes.entry((*pid, stat.start_ticks));
            let runtime = known.or_insert_with(detect).clone();
            described.push(ProcessInfo {
                pid: *pid,
                parent: stat.parent,
                start_ticks: stat.start_ticks,
                executable,
                command: redact::command(&command),
                directory: proc::directory(*pid).map(|d| d.to_string_lossy().into_owned()),
                runtime,
                threads: stat.threads,
                serving: self.serving.contains(pid),
            });
        }
        let main = described.iter().find(|p| p.serving).or(described.first());
        let fresh = self.service.processes.iter().filter(|p| p.serving).map(|p| p.pid).next()
            != main.map(|p| p.pid);
        if let Some(main) = main.filter(|_| fresh) {
            self.service.name = service_name(main);
            self.service.libraries = libraries::of(main.pid, &main.runtime.name);
        }
        self.service.processes = described;
    }

    /// Runtime of a process of the service.
    pub(crate) fn runtime_of(&self, pid: i32) -> Option<&str> {
        let process = self.service.processes.iter().find(|p| p.pid == pid);
        process.map(|p| p.runtime.name.as_str())
    }
}

fn empty_service(listening: Option<&Tcp>, port: u16) -> Service {
    let address = listening.map_or_else(|| format!("*:{port}"), |t| t.local.to_string());
    Service {
        name: String::new(),
        listener: Listener { address, port: listening.map_or(port, |t| t.local.port()) },
        processes: Vec::new(),
        peers: Vec::new(),
        libraries: Vec::new(),
        co_located: true,
    }
}

/// Name for people: the folder it was started in, unless that says nothing.
fn service_name(process: &ProcessInfo) -> String {
    let folder = process.directory.as_deref().map(Path::new);
    let says_something = |f: &&Path| f.components().count() > 2;
    let name = folder.filter(says_something).and_then(Path::file_name);
    name.map_or_else(|| process.executable.clone(), |n| n.to_string_lossy().into_owned())
}

/// Addresses of a host name; the name itself may be an address.
fn resolve(host: &str, port: u16) -> Vec<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return vec![ip.to_canonical()];
    }
    let found = (bare, port).to_socket_addrs().map(|a| a.map(|s| s.ip().to_canonical()).collect());
    found.unwrap_or_default()
}

fn anchor(
    host: &str,
    port: u16,
    root: Option<i32>,
    table: &Table,
    coverage: &mut Vec<Coverage>,
) -> Option<Anchor> {
    let ips = resolve(host, port);
    let spaces = namespace::representatives(table);
    let own = spaces.first().copied()?;
    for pid in root.into_iter().chain(spaces.iter().copied()) {
        let here = ips.iter().copied().filter(|ip| {
            let loopback = ip.is_loopback() && pid != own && Some(pid) != root;
            !loopback && sockets::is_local(pid, *ip)
        });
        for ip in here.collect::<Vec<_>>() {
            if let Some(anchor) = anchored(pid, Some(ip), port) {
                return Some(follow_proxy(anchor, &spaces, table));
            }
        }
    }
    // A port forwarded by packet rules has no listener here; the same port in exactly one other
    // namespace is what it most likely leads to.
    let others: Vec<Anchor> =
        spaces[1..].iter().filter_map(|pid| anchored(*pid, None, port)).collect();
    let local = ips.iter().any(|ip| sockets::is_local(own, *ip));
    match others.len() {
        1 if local || ips.is_empty() => {
            coverage.push(Coverage::partial(
                "network-namespace",
                format!("port {port} was found in another network namespace only"),
                "",
            ));
            others.into_iter().next()
        }
        n => {
            coverage.push(crate::doctor::not_here(host, port, local, n));
            None
        }
    }
}

fn anchored(pid: i32, ip: Option<IpAddr>, port: u16) -> Option<Anchor> {
    let sockets = Sockets::read(pid);
    let listening: Vec<Tcp> = sockets.listening(ip, port).into_iter().cloned().collect();
    (!listening.is_empty()).then_some(Anchor { pid, sockets, listening })
}

/// Docker's proxy listens for a container: go on to the container's own socket.
fn follow_proxy(anchor: Anchor, spaces: &[i32], table: &Table) -> Anchor {
    if !table.stats.values().any(|s| s.comm == "docker-proxy") {
        return anchor;
    }
    let inodes = anchor.listening.iter().map(|t| t.inode).collect();
    let holder = table.holders(&inodes).0.first().copied();
    let Some(pid) = holder.filter(|p| peers::program(*p, table) == "docker-proxy") else {
        return anchor;
    };
    let command = proc::command(pid);
    let after = |flag: &str| command.iter().skip_while(|a| *a != flag).nth(1);
    let ip = after("-container-ip").and_then(|a| a.parse::<IpAddr>().ok());
    let port = after("-container-port").and_then(|a| a.parse::<u16>().ok());
    let (Some(ip), Some(port)) = (ip, port) else { return anchor };
    let inside = spaces.iter().copied().skip(1).filter(|p| sockets::is_local(*p, ip));
    inside.filter_map(|p| anchored(p, Some(ip), port)).next().unwrap_or(anchor)
}

/// Where descriptors may not be read: the processes of the socket's owner that name the port in
/// their command line, or its only program.
fn guess_by_user(uid: Option<u32>, port: u16, root: Option<i32>, table: &Table) -> BTreeSet<i32> {
    if let Some(root) = root.filter(|r| table.stats.contains_key(r)) {
        let below = table.below(root);
        let leaf = below.iter().copied().filter(|p| !table.children.contains_key(p));
        return leaf.collect();
    }
    // Our own command line names the port too, and so do those of the shells above us.
    let own = std::process::id() as i32;
    let ours: BTreeSet<i32> = table.above(own).into_iter().chain(table.below(own)).collect();
    let candidates = table.stats.keys().copied().filter(|p| !ours.contains(p) && *p != own);
    let owned = candidates.filter(|p| uid.is_some() && proc::user(*p) == uid);
    let owned: Vec<i32> = owned.filter(|p| !proc::command(*p).is_empty()).collect();
    let port = port.to_string();
    let names = |pid: &i32| {
        let says = |a: &String| a.split(|c: char| !c.is_ascii_digit()).any(|w| w == port);
        proc::command(*pid).iter().any(says)
    };
    let named: BTreeSet<i32> = owned.iter().copied().filter(names).collect();
    match (named.is_empty(), owned.len()) {
        (false, _) => named,
        (true, 1) if uid != Some(0) => owned.into_iter().collect(),
        _ => BTreeSet::new(),
    }
}

fn guessed(serving: &BTreeSet<i32>, refused: usize, uid: Option<u32>) -> Coverage {
    let owner = uid.map_or_else(String::new, |uid| format!(" of user {uid}"));
    let how = format!("descriptors of {refused} processes may not be read");
    let hint = crate::doctor::fds_hint(uid);
    match serving.is_empty() {
        true if refused == 0 => Coverage::unavailable(
            "process-fds",
            format!(
                "a process{owner} outside our pid namespace holds the socket: its threads cannot \
                 be seen, its peers are those of the user"
            ),
            "run perfwright in the service's pid namespace: docker run --pid=container:NAME \
             --network=container:NAME …, or nsenter --target PID --pid --mount --net perfwright …",
        ),
        true => Coverage::unavailable(
            "process-fds",
            format!("{how}: which process{owner} holds the socket is not known"),
            hint,
        ),
        false => Coverage::partial(
            "process-fds",
            format!("{how}: the process{owner} was guessed, its peers are those of the user"),
            hint,
        ),
    }
}

/// TCP ports that processes listen on, in their own namespaces.
pub(crate) fn listening_ports(pids: &BTreeSet<i32>) -> BTreeSet<u16> {
    let Some(first) = pids.first() else { return BTreeSet::new() };
    let descriptors = pids.iter().flat_map(|pid| proc::descriptors(*pid).unwrap_or_default());
    let held: BTreeSet<u64> = descriptors.filter_map(|(_, l)| proc::socket_inode(&l)).collect();
    let listens = |t: &&Tcp| t.state == sockets::TcpState::Listen && held.contains(&t.inode);
    Sockets::read(*first).tcp.iter().filter(listens).map(|t| t.local.port()).collect()
}
