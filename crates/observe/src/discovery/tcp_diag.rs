//! TCP sockets of our own network namespace, asked of the kernel (inet_diag): those that listen and
//! those with a connection.

use super::sock_diag::{self, u32_at};
use super::sockets::{Tcp, TcpState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// All sockets that listen or are connected, IPv4 first.
///
/// # Errors
/// The kernel has no inet_diag, or refuses.
pub(super) fn sockets() -> io::Result<Vec<Tcp>> {
    let mut out = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        sock_diag::dump(&question(family as u8), |message| out.extend(socket(message)))?;
    }
    Ok(out)
}

/// `inet_diag_req_v2`: family, protocol, no extensions, states, any address.
fn question(family: u8) -> Vec<u8> {
    let mut bytes = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    bytes.extend((1u32 << ESTABLISHED | 1 << LISTEN).to_ne_bytes());
    bytes.extend([0; 48]);
    bytes
}

/// `inet_diag_msg`: family, state, timer, retransmits; ports and addresses, interface and cookie;
/// expiry, queues, user, inode.
fn socket(message: &[u8]) -> Option<Tcp> {
    let state = match *message.get(1)? {
        ESTABLISHED => TcpState::Established,
        LISTEN => TcpState::Listen,
        _ => TcpState::Other,
    };
    let address = |port: usize, at: usize| {
        let ip = match i32::from(*message.first()?) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::from(bytes_at::<4>(message, at)?)),
            // A dual-stack socket speaks IPv4 on the wire.
            _ => Ipv6Addr::from(bytes_at::<16>(message, at)?).to_canonical(),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(bytes_at(message, port)?)))
    };
    Some(Tcp {
        local: address(4, 8)?,
        remote: address(6, 24)?,
        state,
        uid: u32_at(message, 64)?,
        inode: u64::from(u32_at(message, 68)?),
    })
}

fn bytes_at<const N: usize>(message: &[u8], at: usize) -> Option<[u8; N]> {
    message.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn it_says_what_proc_says() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let served = listener.accept().unwrap().0;
            let ours = |all: Vec<Tcp>| {
                let ports = [listener.local_addr(), client.local_addr(), served.peer_addr()];
                let ports = ports.map(|a| a.unwrap().port());
                // Nobody's, left by an earlier connection of the same port (TIME_WAIT).
                let lives = |t: &Tcp| t.state != TcpState::Other;
                let mut ours: Vec<Tcp> = all
                    .into_iter()
                    .filter(|t| lives(t) && ports.contains(&t.local.port()))
                    .collect();
                ours.sort_by_key(|t| t.inode);
                ours
            };
            let asked = ours(sockets().unwrap());
            assert_eq!(asked.len(), 3, "{asked:?}");
            assert_eq!(asked, ours(super::super::sockets::from_proc(std::process::id() as i32)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = socket(&bytes);
        }
    }
}
