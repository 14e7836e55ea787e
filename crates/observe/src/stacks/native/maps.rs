//! `/proc/PID/maps`.

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Whether it may be executed.
    pub executable: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Inode, 0 for anonymous memory.
    pub inode: u64,
    /// File, a name in brackets, or empty.
    pub path: String,
}

/// Parses one line; `None` when it is not one.
pub fn parse_line(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let trimmed = rest.trim_start_matches(' ');
        let (head, tail) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
        rest = tail;
        head
    };
    let (range, rights, offset, _device, inode) = (word(), word(), word(), word(), word());
    let (start, end) = range.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        executable: rights.as_bytes().get(2) == Some(&b'x'),
        offset: hex(offset)?,
        inode: inode.parse().ok()?,
        path: rest.trim_start_matches(' ').to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_with_spaces_stay_whole() {
        let line =
            "7f00-7f10 r-xp 00002000 fd:01 1234                       /opt/my app/x (deleted)";
        let mapping = parse_line(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f00, 0x7f10, 0x2000));
        assert_eq!((mapping.executable, mapping.inode), (true, 1234));
        assert_eq!(mapping.path, "/opt/my app/x (deleted)");
        assert_eq!(parse_line("1000-2000 rw-p 00000000 00:00 0").unwrap().path, "");
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in "[ -~]{0,120}") {
            parse_line(&line);
        }
    }
}
