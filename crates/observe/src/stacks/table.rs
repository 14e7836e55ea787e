//! Builds a [`StackProfile`]: equal frames and stacks are stored once, and growth is bounded.

use evidence::{Frame, Nanos, StackProfile, StackSample};
use std::collections::HashMap;

/// Samples kept by one profile. At 499 Hz on 8 busy cores this is more than 15 minutes.
pub const SAMPLE_LIMIT: usize = 4 << 20;
/// Distinct stacks kept by one profile.
pub const STACK_LIMIT: usize = 1 << 20;
/// Frames kept of one stack, counted from the leaf.
pub const DEPTH_LIMIT: usize = 512;

/// A profile being built.
#[derive(Debug, Default)]
pub struct ProfileTable {
    profile: StackProfile,
    frames: HashMap<Frame, u32>,
    stacks: HashMap<Vec<u32>, u32>,
    dropped: u64,
}

impl ProfileTable {
    /// An empty profile taken by `method` (see [`StackProfile::method`]).
    pub fn new(method: &str) -> ProfileTable {
        ProfileTable {
            profile: StackProfile { method: method.into(), ..StackProfile::default() },
            ..ProfileTable::default()
        }
    }

    /// Index of `frame`, added when new.
    pub fn frame(&mut self, frame: Frame) -> u32 {
        let next = self.profile.frames.len() as u32;
        *self.frames.entry(frame).or_insert_with_key(|frame| {
            self.profile.frames.push(frame.clone());
            next
        })
    }

    /// Index of the stack `frames` (leaf first), added when new; `None` beyond [`STACK_LIMIT`].
    pub fn stack(&mut self, mut frames: Vec<u32>) -> Option<u32> {
        frames.truncate(DEPTH_LIMIT);
        if let Some(index) = self.stacks.get(&frames) {
            return Some(*index);
        }
        if self.profile.stacks.len() >= STACK_LIMIT {
            return None;
        }
        let index = self.profile.stacks.len() as u32;
        self.profile.stacks.push(frames.clone());
        self.stacks.insert(frames, index);
        Some(index)
    }

    /// Adds a sample of `stack` (`None`, or one beyond [`SAMPLE_LIMIT`], counts as dropped).
    pub fn sample(&mut self, at: Nanos, tid: i32, stack: Option<u32>, weight: Nanos) {
        match stack {
            Some(stack) if self.profile.samples.len() < SAMPLE_LIMIT => {
                self.profile.samples.push(StackSample { at, tid, stack, weight });
            }
            _ => self.dropped += 1,
        }
    }

    /// Samples that did not fit.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The profile, samples in time order.
    pub fn finish(mut self) -> StackProfile {
        self.profile.samples.sort_by_key(|sample| (sample.at, sample.tid));
        self.profile
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::FrameKind;

    #[test]
    fn equal_frames_and_stacks_are_stored_once_and_samples_are_ordered() {
        let frame = |name: &str| Frame {
            function: name.into(),
            file: None,
            line: None,
            kind: FrameKind::User,
        };
        let mut table = ProfileTable::new("cpu-clock");
        let (a, b) = (table.frame(frame("a")), table.frame(frame("b")));
        assert_eq!(table.frame(frame("a")), a);
        let stack = table.stack(vec![a, b]);
        assert_eq!(table.stack(vec![a, b]), stack);
        table.sample(Nanos(20), 1, stack, Nanos(10));
        table.sample(Nanos(10), 1, stack, Nanos(10));
        table.sample(Nanos(30), 1, None, Nanos(10));
        assert_eq!(table.dropped(), 1);
        let profile = table.finish();
        assert_eq!((profile.frames.len(), profile.stacks.len()), (2, 1));
        assert_eq!(profile.samples.iter().map(|s| s.at.0).collect::<Vec<_>>(), [10, 20]);
    }
}
