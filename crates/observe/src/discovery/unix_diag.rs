//! Who is at the other end of a Unix socket: asked of the kernel (sock_diag), since
//! `/proc/net/unix` does not say.

use super::sock_diag::{self, u16_at, u32_at};
use std::collections::HashMap;
use std::io;

const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const ATTR_PEER: u16 = 2;

/// Inode of the peer by inode, for all connected Unix sockets of our own network namespace.
///
/// # Errors
/// The kernel has no unix_diag, or refuses.
pub(crate) fn peers() -> io::Result<HashMap<u64, u64>> {
    let mut out = HashMap::new();
    sock_diag::dump(&question(), |message| out.extend(pair(message)))?;
    Ok(out)
}

/// `unix_diag_req`: all states with names and peers.
fn question() -> Vec<u8> {
    let mut bytes = vec![libc::AF_UNIX as u8, 0, 0, 0];
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend((SHOW_NAME | SHOW_PEER).to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

/// Inode and peer's inode. `unix_diag_msg` is 16 bytes: family, type, state, pad, inode, cookie.
fn pair(message: &[u8]) -> Option<(u64, u64)> {
    let peer = peer_of(message.get(16..)?)?;
    Some((u64::from(u32_at(message, 4)?), u64::from(peer)))
}

fn peer_of(mut attributes: &[u8]) -> Option<u32> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        if length < 4 {
            return None;
        }
        if u16_at(attributes, 2)? == ATTR_PEER {
            return u32_at(attributes, 4);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_pair_knows_each_other() {
        let (a, b) = UnixStream::pair().unwrap();
        let inode = |s: &UnixStream| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", s.as_raw_fd())).unwrap();
            super::super::proc::socket_inode(&link.to_string_lossy()).unwrap()
        };
        assert_eq!(peers().unwrap().get(&inode(&a)), Some(&inode(&b)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = pair(&bytes);
        }
    }
}
