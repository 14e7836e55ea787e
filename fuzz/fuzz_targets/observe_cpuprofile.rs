//! Any bytes are read as a V8 CPU profile, without panic, into a consistent table.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (profile, _) = observe::runtimes::node::cpuprofile::parse_cpuprofile(bytes);
    for sample in &profile.samples {
        for frame in &profile.stacks[sample.stack as usize] {
            assert!((*frame as usize) < profile.frames.len());
        }
    }
});
