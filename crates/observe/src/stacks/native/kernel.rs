//! Names of kernel functions from `/proc/kallsyms`, when it shows addresses.

use std::fs;

/// Symbols kept; a distribution kernel with modules has about 250,000.
const SYMBOL_LIMIT: usize = 2_000_000;

/// Functions of the kernel by address.
#[derive(Debug, Default)]
pub struct KernelSymbols {
    symbols: Vec<(u64, Box<str>)>,
}

impl KernelSymbols {
    /// Reads them; empty when the kernel hides addresses (`kptr_restrict`).
    pub fn read() -> KernelSymbols {
        KernelSymbols::parse(&fs::read("/proc/kallsyms").unwrap_or_default())
    }

    /// Parses the file's text: `ADDRESS TYPE NAME [MODULE]`.
    pub fn parse(text: &[u8]) -> KernelSymbols {
        let mut symbols = Vec::new();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let address = u64::from_str_radix(address, 16).unwrap_or(0);
            if address == 0 || !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            if symbols.len() >= SYMBOL_LIMIT {
                break;
            }
            symbols.push((address, name.into()));
        }
        symbols.sort_by_key(|(address, _)| *address);
        KernelSymbols { symbols }
    }

    /// The function at `address`.
    pub fn find(&self, address: u64) -> Option<&str> {
        let after = self.symbols.partition_point(|(start, _)| *start <= address);
        self.symbols.get(after.checked_sub(1)?).map(|(_, name)| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_and_hidden_addresses_are_not() {
        let text = b"ffffffff81000000 T do_read\nffffffff81000100 t do_write\nx\n\
                     ffffffff81000050 d data\n0000000000000000 T hidden\n";
        let kernel = KernelSymbols::parse(text);
        assert_eq!(kernel.find(0xffff_ffff_8100_0060), Some("do_read"));
        assert_eq!(kernel.find(0xffff_ffff_8100_0100), Some("do_write"));
        assert_eq!(kernel.find(1), None);
    }
}
