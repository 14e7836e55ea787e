//! Facts about the machine that is measured, as far as they can be read.

use evidence::HostFacts;
use std::fs;

/// Kernel, CPUs, memory and load. What cannot be read is empty or zero.
pub fn facts() -> HostFacts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory_kib = read("/proc/meminfo")
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let load = read("/proc/loadavg").split(' ').next().and_then(|l| l.parse::<f64>().ok());
    HostFacts {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        memory_bytes: memory_kib.unwrap_or(0) * 1024,
        load_centi: (load.unwrap_or(0.0) * 100.0) as u32,
    }
}
