//! Who is at the other end of a Unix socket: asked of the kernel (sock_diag), since
//! `/proc/net/unix` does not say.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const ATTR_PEER: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
/// Answers larger than this are cut: some 100,000 sockets.
const ANSWER_LIMIT: usize = 8 << 20;

/// Inode of the peer by inode, for all connected Unix sockets of our own network namespace.
///
/// # Errors
/// The kernel has no unix_diag, or refuses.
pub(crate) fn peers() -> io::Result<HashMap<u64, u64>> {
    // SAFETY: a plain socket call; the descriptor is owned at once.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let request = request();
    // SAFETY: sends a local buffer of that length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut out = HashMap::new();
    let mut buffer = vec![0u8; 64 << 10];
    let mut total = 0;
    loop {
        // SAFETY: receives into a local buffer of that length.
        let n =
            unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        total += n;
        if parse(&buffer[..n], &mut out)? || n == 0 || total > ANSWER_LIMIT {
            return Ok(out);
        }
    }
}

/// `nlmsghdr` and `unix_diag_req`: dump all states with names and peers.
fn request() -> Vec<u8> {
    let dump = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = 40u32.to_ne_bytes().to_vec();
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(dump.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend((SHOW_NAME | SHOW_PEER).to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads the messages of one answer; true when it was the last.
fn parse(mut bytes: &[u8], out: &mut HashMap<u64, u64>) -> io::Result<bool> {
    while let Some(length) = u32_at(bytes, 0).map(|n| n as usize) {
        let Some(message) = bytes.get(..length).filter(|m| m.len() >= 16) else { break };
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = u32_at(message, 16).unwrap_or(0) as i32;
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => {}
        }
        // `unix_diag_msg` is 16 bytes: family, type, state, pad, inode, cookie.
        if let Some(inode) = u32_at(message, 20)
            && let Some(peer) = peer_of(message.get(32..).unwrap_or_default())
        {
            out.insert(u64::from(inode), u64::from(peer));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
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
            let _ = parse(&bytes, &mut HashMap::new());
        }
    }
}
