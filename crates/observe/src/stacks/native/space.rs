//! The executable memory of one process, kept up to date by mapping records, and unwinding in it.

use super::elf::SectionBytes;
use super::maps;
use super::modules::{ModuleId, Modules};
use super::registers::Registers;
#[cfg(target_arch = "x86_64")]
use crate::runtimes::go::GoCaller;
use framehop::{
    CacheNative, FrameAddress, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder,
    UnwinderNative,
};
use std::collections::BTreeMap;
use std::fs;

/// Frames of one stack, at most.
const FRAME_LIMIT: usize = 512;
/// Mappings of one process, at most; beyond it new ones are not named.
const MAPPING_LIMIT: usize = 32_768;

/// Rules for unwinding by address, shared by all processes.
pub type UnwindCache = CacheNative<MayAllocateDuringUnwind>;

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In a file, at the address stated there.
    File(ModuleId, u64),
    /// In anonymous memory of a process: code made at run time.
    Memory(i32, u64),
    /// In the kernel.
    Kernel(u64),
}

/// One mapping.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    end: u64,
    module: Option<ModuleId>,
    bias: u64,
}

/// The executable memory of one process.
#[derive(Clone)]
pub struct Space {
    pid: i32,
    mapped: BTreeMap<u64, Mapped>,
    unwinder: UnwinderNative<SectionBytes, MayAllocateDuringUnwind>,
}

impl Space {
    /// An empty one, as after `execve`.
    pub fn empty(pid: i32) -> Space {
        Space { pid, mapped: BTreeMap::new(), unwinder: UnwinderNative::new() }
    }

    /// As it is now, from `/proc/PID/maps`; empty when that cannot be read.
    pub fn read(pid: i32, modules: &mut Modules) -> Space {
        let mut space = Space::empty(pid);
        let text = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some(map) = maps::parse_line(line).filter(|map| map.executable) {
                space.map(modules, map.start, map.end, map.offset, map.inode, &map.path);
            }
        }
        space
    }

    /// The memory of a child that was just forked.
    pub fn forked(&self, pid: i32) -> Space {
        Space { pid, ..self.clone() }
    }

    /// A new mapping; whatever was there before is gone.
    pub fn map(
        &mut self,
        modules: &mut Modules,
        start: u64,
        end: u64,
        offset: u64,
        inode: u64,
        path: &str,
    ) {
        self.unmap(start, end);
        if start >= end || self.mapped.len() >= MAPPING_LIMIT {
            return;
        }
        let module = modules.of_mapping(self.pid, path, inode, start, end);
        let image = module.and_then(|id| modules.get(id)).and_then(|found| found.image.as_ref());
        let bias = image.and_then(|image| image.bias(start, offset));
        if let (Some(image), Some(bias)) = (image, bias) {
            let sections = image.sections();
            self.unwinder.add_module(Module::new(path.to_owned(), start..end, bias, sections));
        }
        // Without segments the best that can be said is the offset in the file.
        let bias = bias.unwrap_or(start.wrapping_sub(offset));
        self.mapped.insert(start, Mapped { end, module, bias });
    }

    fn unmap(&mut self, start: u64, end: u64) {
        let first = self.mapped.range(..start).next_back();
        let first = first.filter(|(_, map)| map.end > start).map_or(start, |(at, _)| *at);
        let gone: Vec<u64> = self.mapped.range(first..end).map(|(at, _)| *at).collect();
        for at in gone {
            self.mapped.remove(&at);
            self.unwinder.remove_module(at);
        }
    }

    fn mapping(&self, address: u64) -> Option<&Mapped> {
        let (_, mapped) = self.mapped.range(..=address).next_back()?;
        (address < mapped.end).then_some(mapped)
    }

    /// Where `address` lies.
    pub fn place(&self, address: u64) -> Place {
        match self.mapping(address) {
            Some(Mapped { module: Some(module), bias, .. }) => {
                Place::File(*module, address.wrapping_sub(*bias))
            }
            _ => Place::Memory(self.pid, address),
        }
    }

    /// Addresses of a stack, leaf first, each inside its call instruction, by unwind tables over
    /// the copied stack; where that ends early, frame pointers (`chain`, from the kernel) go on.
    pub fn unwind(
        &self,
        modules: &Modules,
        cache: &mut UnwindCache,
        registers: Registers,
        stack: &[u8],
        chain: &[u64],
    ) -> Vec<u64> {
        let mut walk = Walk {
            space: self,
            #[cfg(target_arch = "x86_64")]
            modules,
            stack: StackDump { base: registers.sp, bytes: stack },
            registers: registers.native(),
            next: FrameAddress::from_instruction_pointer(registers.ip),
        };
        let mut frames = vec![registers.ip];
        let mut raw = vec![registers.ip];
        let complete = loop {
            if frames.len() >= FRAME_LIMIT {
                break true;
            }
            match walk.step(cache) {
                Ok(Some(address)) => {
                    frames.push(address.address_for_lookup());
                    raw.push(address.address());
                    walk.next = address;
                }
                Ok(None) => break true,
                Err(()) => break false,
            }
        };
        if !complete {
            frames.extend(self.continuation(&raw, chain));
        }
        frames.truncate(FRAME_LIMIT);
        frames
    }

    /// What the frame-pointer chain knows beyond the last frame that both know.
    fn continuation(&self, raw: &[u64], chain: &[u64]) -> Vec<u64> {
        let common = raw.iter().rev().find_map(|address| {
            chain.iter().rposition(|other| other == address).map(|at| (*address, at))
        });
        let Some((address, at)) = common else { return Vec::new() };
        // Frames the unwinder found beyond the common one are right more often than the chain.
        if raw.last() != Some(&address) {
            return Vec::new();
        }
        chain[at + 1..]
            .iter()
            .take_while(|address| self.mapping(**address).is_some())
            .map(|address| address.saturating_sub(1))
            .collect()
    }
}

/// The copied top of a stack.
#[derive(Clone, Copy)]
struct StackDump<'a> {
    base: u64,
    bytes: &'a [u8],
}

impl StackDump<'_> {
    fn read(self, address: u64) -> Result<u64, ()> {
        let at = usize::try_from(address.checked_sub(self.base).ok_or(())?).map_err(|_| ())?;
        let bytes = self.bytes.get(at..at.checked_add(8).ok_or(())?).ok_or(())?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| ())?))
    }
}

/// One unwinding.
struct Walk<'a> {
    space: &'a Space,
    #[cfg(target_arch = "x86_64")]
    modules: &'a Modules,
    stack: StackDump<'a>,
    registers: UnwindRegsNative,
    next: FrameAddress,
}

impl Walk<'_> {
    /// The caller of the current frame; `None` at the outermost.
    fn step(&mut self, cache: &mut UnwindCache) -> Result<Option<FrameAddress>, ()> {
        #[cfg(target_arch = "x86_64")]
        match self.go_caller() {
            Some(GoCaller::Above(delta)) => return self.go_step(delta).ok_or(()).map(Some),
            Some(GoCaller::Nobody) => return Ok(None),
            Some(GoCaller::OtherStack) => return Err(()),
            None => {}
        }
        let stack = self.stack;
        let caller = self
            .space
            .unwinder
            .unwind_frame(self.next, &mut self.registers, cache, &mut |at| stack.read(at))
            .map_err(|_| ())?;
        Ok(caller.and_then(FrameAddress::from_return_address))
    }

    /// Go code knows at every instruction how far the return address is from the stack pointer;
    /// frame pointers alone would lose the caller of a leaf without a frame.
    #[cfg(target_arch = "x86_64")]
    fn go_caller(&self) -> Option<GoCaller> {
        let Place::File(module, address) = self.space.place(self.next.address_for_lookup()) else {
            return None;
        };
        self.modules.get(module)?.image.as_ref()?.go.as_ref()?.caller(address)
    }

    #[cfg(target_arch = "x86_64")]
    fn go_step(&mut self, delta: u64) -> Option<FrameAddress> {
        let slot = self.registers.sp().checked_add(delta)?;
        let caller = FrameAddress::from_return_address(self.stack.read(slot).ok()?)?;
        let saved = slot.wrapping_sub(8);
        if delta >= 8 && self.registers.bp() == saved {
            self.registers.set_bp(self.stack.read(saved).ok()?);
        }
        self.registers.set_sp(slot.wrapping_add(8));
        self.registers.set_ip(caller.address());
        Some(caller)
    }
}
