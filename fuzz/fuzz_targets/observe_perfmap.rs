//! Any bytes are read as a map of run-time code, and asked for an address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observe::stacks::perfmap::PerfMap;

fuzz_target!(|input: (u64, &[u8])| {
    let (map, _) = PerfMap::parse(input.1);
    map.find(input.0);
});
