//! Asking the kernel for its sockets (`sock_diag`): faster than `/proc/net/tcp` where there are
//! hundreds of thousands, and the only place that pairs Unix sockets.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes before the content of a message (`nlmsghdr`).
const HEADER: usize = 16;
/// Answers larger than this are refused: over a million sockets.
const ANSWER_LIMIT: usize = 256 << 20;

/// Dumps what `question` (the family's own request) asks for in our own network namespace, and
/// hands over the content of each message.
///
/// # Errors
/// The kernel does not know the family, refuses, or has more sockets than can be taken.
pub(super) fn dump(question: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    // SAFETY: a plain socket call; the descriptor is owned at once.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let request = request(question);
    // SAFETY: sends a local buffer of that length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut buffer = vec![0u8; 64 << 10];
    let mut total = 0;
    loop {
        // SAFETY: receives into a local buffer of that length.
        let n =
            unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        total += n;
        if messages(&buffer[..n], &mut each)? {
            return Ok(());
        }
        if n == 0 || total > ANSWER_LIMIT {
            return Err(io::Error::other("the kernel's answer does not end"));
        }
    }
}

/// `nlmsghdr` and the question.
fn request(question: &[u8]) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = ((HEADER + question.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(question);
    bytes
}

/// Reads the messages of one answer; true when it was the last.
pub(super) fn messages(mut bytes: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while let Some(length) = u32_at(bytes, 0).map(|n| n as usize) {
        let Some(message) = bytes.get(..length).filter(|m| m.len() >= HEADER) else { break };
        let code = || u32_at(message, HEADER).unwrap_or(0).cast_signed();
        match u16_at(message, 4) {
            // A family that is not compiled in ends the dump with an error.
            Some(NLMSG_DONE) if code() >= 0 => return Ok(true),
            Some(NLMSG_DONE | NLMSG_ERROR) => {
                return Err(io::Error::from_raw_os_error(code().wrapping_neg()));
            }
            _ => each(&message[HEADER..]),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_error_at_the_end_is_one() {
        let end = |code: i32| {
            let mut bytes = 20u32.to_ne_bytes().to_vec();
            bytes.extend(NLMSG_DONE.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(code.to_ne_bytes());
            messages(&bytes, &mut |_| {})
        };
        assert!(end(0).unwrap());
        assert_eq!(end(-2).unwrap_err().raw_os_error(), Some(2));
        assert!(end(i32::MIN).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = messages(&bytes, &mut |_| {});
        }
    }
}
