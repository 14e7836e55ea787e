//! Which user registers unwinding needs, by architecture, and their numbers in the kernel's ABI
//! (`asm/perf_regs.h`).

use crate::stacks::record::REGISTER_LIMIT;
use framehop::UnwindRegsNative;

/// Registers asked for: rbp (6), rsp (7), rip (8).
#[cfg(target_arch = "x86_64")]
pub const MASK: u64 = 1 << 6 | 1 << 7 | 1 << 8;
/// Registers asked for: x29 (29), lr (30), sp (31), pc (32).
#[cfg(target_arch = "aarch64")]
pub const MASK: u64 = 1 << 29 | 1 << 30 | 1 << 31 | 1 << 32;

/// Number of registers in a sample.
pub const COUNT: usize = MASK.count_ones() as usize;

/// Registers of one sample, by meaning.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub fp: u64,
    /// Link register.
    #[cfg(target_arch = "aarch64")]
    pub link: u64,
}

impl Registers {
    /// From a sample, in ascending order of register number.
    #[cfg(target_arch = "x86_64")]
    pub fn from_sample(values: &[u64; REGISTER_LIMIT]) -> Registers {
        Registers { fp: values[0], sp: values[1], ip: values[2] }
    }

    /// From a sample, in ascending order of register number.
    #[cfg(target_arch = "aarch64")]
    pub fn from_sample(values: &[u64; REGISTER_LIMIT]) -> Registers {
        Registers { fp: values[0], link: values[1], sp: values[2], ip: values[3] }
    }

    /// As framehop wants them.
    #[cfg(target_arch = "x86_64")]
    pub fn native(self) -> UnwindRegsNative {
        UnwindRegsNative::new(self.ip, self.sp, self.fp)
    }

    /// As framehop wants them. Pointer authentication bits above 48 are stripped.
    #[cfg(target_arch = "aarch64")]
    pub fn native(self) -> UnwindRegsNative {
        let mask = framehop::aarch64::PtrAuthMask::new_24_40();
        UnwindRegsNative::new_with_ptr_auth_mask(mask, self.link, self.sp, self.fp)
    }
}
