//! Sockets of a network namespace: asked of the kernel, else `/proc/PID/net/{tcp,tcp6,unix}`.

use super::{namespace, proc, tcp_diag};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// State of a TCP socket, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcpState {
    Established,
    Listen,
    Other,
}

/// One line of `net/tcp` or `net/tcp6`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: TcpState,
    pub uid: u32,
    pub inode: u64,
}

/// One line of `net/unix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unix {
    pub inode: u64,
    pub listening: bool,
    pub connected: bool,
    pub path: Option<String>,
}

/// All sockets of one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    pub tcp: Vec<Tcp>,
    pub unix: Vec<Unix>,
    by_inode: HashMap<u64, usize>,
}

impl Sockets {
    /// Reads the tables of the namespace `pid` lives in.
    pub(crate) fn read(pid: i32) -> Sockets {
        let asked = namespace::within(Some(pid), tcp_diag::sockets);
        let tcp = asked.and_then(Result::ok).unwrap_or_else(|| from_proc(pid));
        let unix = table(pid, "unix").lines().skip(1).filter_map(parse_unix).collect();
        let by_inode = tcp.iter().enumerate().map(|(n, t)| (t.inode, n)).collect();
        Sockets { tcp, unix, by_inode }
    }

    /// The TCP socket with this inode.
    pub(crate) fn tcp_of(&self, inode: u64) -> Option<&Tcp> {
        self.by_inode.get(&inode).and_then(|n| self.tcp.get(*n))
    }

    /// Sockets listening at a port that a connection to `ip` would reach.
    pub(crate) fn listening(&self, ip: Option<IpAddr>, port: u16) -> Vec<&Tcp> {
        let at_port = |t: &&Tcp| t.state == TcpState::Listen && t.local.port() == port;
        let reached =
            |t: &&Tcp| ip.is_none_or(|ip| t.local.ip() == ip || t.local.ip().is_unspecified());
        self.tcp.iter().filter(at_port).filter(reached).collect()
    }
}

fn table(pid: i32, name: &str) -> String {
    proc::read_lossy(&format!("/proc/{pid}/net/{name}")).unwrap_or_default()
}

/// TCP sockets as `/proc` lists them: where the kernel may not be asked, or has no inet_diag.
pub(super) fn from_proc(pid: i32) -> Vec<Tcp> {
    let mut tcp: Vec<Tcp> = Vec::new();
    for name in ["tcp", "tcp6"] {
        tcp.extend(table(pid, name).lines().skip(1).filter_map(parse_tcp));
    }
    tcp
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| u32::from_str_radix(ip.get(8 * n..8 * n + 8)?, 16).ok();
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[4 * n..4 * n + 4].copy_from_slice(&word(n)?.to_ne_bytes());
            }
            // A dual-stack socket speaks IPv4 on the wire.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn parse_tcp(line: &str) -> Option<Tcp> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let state = match *words.get(3)? {
        "01" => TcpState::Established,
        "0A" => TcpState::Listen,
        _ => TcpState::Other,
    };
    Some(Tcp {
        local: parse_address(words.get(1)?)?,
        remote: parse_address(words.get(2)?)?,
        state,
        uid: words.get(7)?.parse().ok()?,
        inode: words.get(9)?.parse().ok()?,
    })
}

fn parse_unix(line: &str) -> Option<Unix> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
    Some(Unix {
        inode: words.get(6)?.parse().ok()?,
        listening: flags & 0x1_0000 != 0,
        connected: *words.get(4)? == "0001" && *words.get(5)? == "03",
        path: words.get(7).map(|_| words[7..].join(" ")),
    })
}

/// Whether an address belongs to an interface of the namespace `pid` lives in.
pub(crate) fn is_local(pid: i32, ip: IpAddr) -> bool {
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    match ip {
        IpAddr::V4(ip) => local_v4(&table(pid, "fib_trie"), ip),
        IpAddr::V6(ip) => {
            let wanted: String = ip.octets().iter().map(|b| format!("{b:02x}")).collect();
            table(pid, "if_inet6").lines().any(|l| l.starts_with(&wanted))
        }
    }
}

/// A leaf of the routing trie followed by `/32 host LOCAL` is an address of this host.
fn local_v4(trie: &str, ip: Ipv4Addr) -> bool {
    let leaf = format!("|-- {ip}");
    let mut lines = trie.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if line == leaf && lines.peek().is_some_and(|l| l.contains("host LOCAL")) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tcp_lines_are_read() {
        let line = "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                    1000        0 4711 1 0000000000000000 100 0 0 10 0";
        let t = parse_tcp(line).unwrap();
        assert_eq!(t.local, "127.0.0.1:3000".parse().unwrap());
        assert_eq!((t.state, t.uid, t.inode), (TcpState::Listen, 1000, 4711));
        let mapped = "0: 0000000000000000FFFF00000100007F:0BB8 \
                      0000000000000000FFFF00000100007F:1F90 01 0:0 0:0 0 0 0 9 1";
        let t = parse_tcp(mapped).unwrap();
        assert_eq!(t.remote, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(t.state, TcpState::Established);
    }

    #[test]
    fn unix_lines_are_read() {
        let line = "00000000af0b4a38: 00000002 00000000 00010000 0001 01 1654 /run/a b.sock";
        let u = parse_unix(line).unwrap();
        assert!(u.listening && !u.connected);
        assert_eq!((u.inode, u.path.as_deref()), (1654, Some("/run/a b.sock")));
    }

    #[test]
    fn own_addresses_are_known() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n\
                         |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert!(local_v4(trie, Ipv4Addr::new(10, 0, 0, 5)));
        assert!(!local_v4(trie, Ipv4Addr::new(10, 0, 0, 255)));
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in "\\PC{0,160}") {
            let _ = parse_tcp(&line);
            let _ = parse_unix(&line);
        }
    }
}
