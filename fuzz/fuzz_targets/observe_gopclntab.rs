//! Any bytes are taken for a Go function table, and asked for addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observe::runtimes::go::{GoTable, text_of_module_data};

fuzz_target!(|input: (u64, &[u8])| {
    let (address, bytes) = input;
    text_of_module_data(bytes);
    if let Ok(table) = GoTable::parse(bytes.into(), 0x1000) {
        table.find(address);
        table.caller(address);
        if table.len() < 10_000 {
            table.standard_directory();
        }
    }
});
