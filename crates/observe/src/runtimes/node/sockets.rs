//! Who listens on a TCP port in the network namespace of a process, and connecting to it there.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// State `TCP_LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";
/// Longest wait for a connection on loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Who listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Nobody.
    Nobody,
    /// The process itself.
    Itself,
    /// Another process.
    Other,
}

/// Who listens on `port` in the network namespace of `pid`.
pub fn listening(pid: i32, port: u16) -> Listening {
    let all = listeners(pid);
    if !all.iter().any(|(other, _)| *other == port) {
        Listening::Nobody
    } else if own_ports(pid).contains(&port) {
        Listening::Itself
    } else {
        Listening::Other
    }
}

/// Ports on which `pid` itself listens.
pub fn own_ports(pid: i32) -> BTreeSet<u16> {
    let by_inode: HashMap<u64, u16> =
        listeners(pid).into_iter().map(|(port, inode)| (inode, port)).collect();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let port_of = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        by_inode.get(&inode).copied()
    };
    descriptors.flatten().filter_map(port_of).collect()
}

/// Port and inode of each TCP listener in the network namespace of `pid`.
fn listeners(pid: i32) -> Vec<(u16, u64)> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        found.extend(text.lines().filter_map(listener));
    }
    found
}

/// Port and inode of the socket when `line` of `/proc/net/tcp` is a listener.
fn listener(line: &str) -> Option<(u16, u64)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
    let (_, hex) = local.rsplit_once(':')?;
    let port = u16::from_str_radix(hex, 16).ok()?;
    (*state == LISTEN).then(|| Some((port, inode.parse().ok()?)))?
}

/// Connects to `port` on loopback as `pid` sees it.
///
/// # Errors
/// The connection's, or `EPERM` when entering the network namespace is not allowed.
pub fn connect(pid: i32, port: u16) -> io::Result<TcpStream> {
    within(pid, move || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
    })
}

/// A port that is free on loopback as `pid` sees it.
///
/// # Errors
/// As [`connect`].
pub fn free_port(pid: i32) -> io::Result<u16> {
    within(pid, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|a| a.port()))
}

/// The network namespace of `pid`, when it is not ours.
///
/// # Errors
/// It is gone, or looking is not allowed.
pub fn foreign_namespace(pid: i32) -> io::Result<Option<File>> {
    let theirs = format!("/proc/{pid}/ns/net");
    let same = fs::read_link(&theirs)? == fs::read_link("/proc/self/ns/net")?;
    if same { Ok(None) } else { File::open(theirs).map(Some) }
}

/// Runs `work` in the network namespace of `pid`, on a thread of its own when that is another one.
fn within<T: Send + 'static>(
    pid: i32,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(namespace) = foreign_namespace(pid)? else { return work() };
    let thread = std::thread::Builder::new().name("namespace".into()).spawn(move || {
        // SAFETY: the descriptor is open; only this thread changes its namespace, and it ends here.
        match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => work(),
            _ => Err(io::Error::last_os_error()),
        }
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_apart() {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = own.local_addr().unwrap().port();
        let pid = std::process::id() as i32;
        assert_eq!(listening(pid, port), Listening::Itself);
        drop(own);
        assert_eq!(listening(pid, port), Listening::Nobody);
        assert_eq!(listener("garbage 1 2"), None);
    }
}
