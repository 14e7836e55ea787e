//! Ending what was launched after our own end, also what left its group: found by the mark in its
//! environment. Runs in a fork of ours ([`crate::death_watch`]): system calls on buffers of fixed
//! size, nothing else.

/// Longest name of a process folder, with the end of the path.
const PATH_BYTES: usize = 64;
const LIST_BYTES: usize = 8 << 10;
const PIECE_BYTES: usize = 4 << 10;
/// Where a name begins in a `linux_dirent64`, and where its record's length is.
const NAME_AT: usize = 19;
const LENGTH_AT: usize = 16;

/// Sends `signal` to every process with `mark` (`NAME=value`) in its environment.
pub(super) fn signal(mark: &[u8], signal: i32) {
    let folder = open(b"/proc\0");
    if folder < 0 {
        return;
    }
    let mut list = [0u8; LIST_BYTES];
    loop {
        // SAFETY: the kernel writes at most the length given.
        let got =
            unsafe { libc::syscall(libc::SYS_getdents64, folder, list.as_mut_ptr(), list.len()) };
        let Some(mut rest) = usize::try_from(got).ok().and_then(|n| list.get(..n)) else { break };
        if rest.is_empty() {
            break;
        }
        while let Some(&[low, high]) = rest.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high])).max(NAME_AT);
            let name = rest.get(NAME_AT..length.min(rest.len())).unwrap_or_default();
            if let Some((pid, digits)) = number(name)
                && carries(digits, mark)
            {
                // SAFETY: a plain signal to a process that has just been looked at.
                unsafe { libc::kill(pid, signal) };
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(folder) };
}

/// The process id that a zero-ended name is, with its digits.
fn number(name: &[u8]) -> Option<(i32, &[u8])> {
    let digits = name.split(|b| *b == 0).next().filter(|d| (1..=9).contains(&d.len()))?;
    let mut pid = 0;
    for digit in digits {
        pid = pid * 10 + i32::from(digit.checked_sub(b'0').filter(|d| *d <= 9)?);
    }
    Some((pid, digits))
}

/// Whether the environment of a process has the mark.
fn carries(pid: &[u8], mark: &[u8]) -> bool {
    let mut path = [0; PATH_BYTES];
    let parts = [b"/proc/".as_slice(), pid, b"/environ"];
    for (place, byte) in path.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    let file = open(&path);
    if file < 0 {
        return false;
    }
    let found = contains(file, mark);
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(file) };
    found
}

/// Whether a file holds `mark`, read piece by piece with what may be its beginning carried over.
fn contains(file: i32, mark: &[u8]) -> bool {
    let mut piece = [0u8; PIECE_BYTES];
    let mut kept = 0;
    if mark.is_empty() || mark.len() > PIECE_BYTES / 2 {
        return false;
    }
    loop {
        let free = &mut piece[kept..];
        // SAFETY: reads into a slice of that length.
        let got = unsafe { libc::read(file, free.as_mut_ptr().cast(), free.len()) };
        let Some(got) = usize::try_from(got).ok().filter(|got| *got > 0) else { return false };
        let filled = kept + got;
        if piece[..filled].windows(mark.len()).any(|w| w == mark) {
            return true;
        }
        let from = filled.saturating_sub(mark.len() - 1);
        piece.copy_within(from..filled, 0);
        kept = filled - from;
    }
}

/// A descriptor, or a negative number. `path` ends with a zero.
fn open(path: &[u8]) -> i32 {
    debug_assert!(path.contains(&0));
    // SAFETY: the path ends with a zero.
    unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn names_of_processes_are_numbers() {
        assert_eq!(number(b"417\0\0\0"), Some((417, b"417".as_slice())));
        assert_eq!(number(b"self\0"), None);
        assert_eq!(number(b"..\0"), None);
        assert_eq!(number(b"\0"), None);
        assert_eq!(number(b"99999999999\0"), None);
    }

    #[test]
    fn a_mark_is_found_across_pieces() {
        for before in [0, PIECE_BYTES - 3, PIECE_BYTES * 2 - 10, PIECE_BYTES * 3 + 1] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![b'x'; before]).unwrap();
            file.write_all(b"MARK=1-2-3\0").unwrap();
            let again = file.reopen().unwrap();
            assert!(contains(again.as_raw_fd(), b"MARK=1-2-3"), "after {before}");
            let again = file.reopen().unwrap();
            assert!(!contains(again.as_raw_fd(), b"MARK=1-2-4"), "after {before}");
        }
    }

    #[test]
    fn only_marked_processes_are_signalled() {
        let mark = format!("own-{}", std::process::id());
        let sleeping = |value: &str| {
            Command::new("sleep").arg("30").env("PERFWRIGHT_TEST", value).spawn().unwrap()
        };
        let (mut marked, mut other) = (sleeping(&mark), sleeping("another"));
        // The environment is there once the program runs.
        std::thread::sleep(std::time::Duration::from_millis(200));
        signal(format!("PERFWRIGHT_TEST={mark}").as_bytes(), libc::SIGTERM);
        assert_eq!(marked.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
