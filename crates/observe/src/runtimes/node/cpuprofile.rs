//! V8's `.cpuprofile` format: a tree of nodes, and samples that point into it.
//!
//! Reads the result of `Profiler.stop` and the files of `node --cpu-prof`, which are the same JSON.
//! Times are microseconds of `CLOCK_MONOTONIC` (V8's `base::TimeTicks` on Linux). Positions in the
//! file are 0-based, here 1-based. What was read before damage is kept.

use crate::stacks::classify;
use crate::stacks::table::{DEPTH_LIMIT, ProfileTable};
use evidence::{Frame, Nanos, StackProfile};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::fmt;

/// Weight of a sample whose duration cannot be told (V8's default interval is 1 ms).
const DEFAULT_WEIGHT: Nanos = Nanos(1_000_000);
/// Problems reported at most.
const PROBLEM_LIMIT: usize = 20;

/// `CallFrame` of the inspector protocol.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CallFrame {
    function_name: String,
    url: String,
    #[serde(deserialize_with = "number")]
    line_number: f64,
}

/// `ProfileNode` of the inspector protocol; older files name the parent, newer ones the children.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    #[serde(deserialize_with = "number")]
    id: f64,
    call_frame: CallFrame,
    children: Vec<i64>,
    parent: Option<i64>,
}

/// A number that may be missing or null.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or_default())
}

/// A CPU profile as written, filled as far as the input could be read.
#[derive(Clone, Debug, Default)]
pub struct CpuProfile {
    nodes: Vec<Node>,
    start_us: Option<f64>,
    end_us: Option<f64>,
    samples: Vec<i64>,
    deltas_us: Vec<f64>,
}

/// Reads a `.cpuprofile`: the profile (method `v8-cpu-prof`, thread 0) and what was wrong with it.
/// Idle time and V8's bookkeeping nodes are left out; garbage collection is a frame of its kind.
pub fn parse_cpuprofile(bytes: &[u8]) -> (StackProfile, Vec<String>) {
    let mut profile = CpuProfile::default();
    let mut problems = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match Fill(&mut profile).deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => {}
        Err(error) => problems.push(format!(
            "the CPU profile is damaged ({error}); kept {} nodes and {} samples before it",
            profile.nodes.len(),
            profile.samples.len()
        )),
    }
    let table = profile.convert("v8-cpu-prof", 0, &mut problems);
    (table.finish(), problems)
}

impl<'de> Deserialize<'de> for CpuProfile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CpuProfile, D::Error> {
        let mut profile = CpuProfile::default();
        Fill(&mut profile).deserialize(deserializer)?;
        Ok(profile)
    }
}

/// Reads a profile into a place, so that it is not lost when the rest of the input is damaged.
struct Fill<'a>(&'a mut CpuProfile);

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a V8 CPU profile object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "nodes" => map.next_value_seed(Extend(&mut self.0.nodes))?,
                "samples" => map.next_value_seed(Extend(&mut self.0.samples))?,
                "timeDeltas" => map.next_value_seed(Extend(&mut self.0.deltas_us))?,
                "startTime" => self.0.start_us = map.next_value()?,
                "endTime" => self.0.end_us = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Appends the elements of an array to a vector, one by one.
struct Extend<'a, T>(&'a mut Vec<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Extend<'_, T> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Extend<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            self.0.push(element);
        }
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl CpuProfile {
    /// The profile in our vocabulary, all samples on thread `tid`.
    pub fn convert(&self, method: &str, tid: i32, problems: &mut Vec<String>) -> ProfileTable {
        let mut table = ProfileTable::new(method);
        let parents = self.parents(problems);
        let position: HashMap<i64, usize> =
            self.nodes.iter().enumerate().map(|(at, node)| (node.id as i64, at)).collect();
        let mut stacks: HashMap<usize, Option<u32>> = HashMap::new();
        let mut unknown = 0u64;
        for ((id, at), weight) in self.samples.iter().zip(self.times()).zip(self.weights()) {
            let Some(&node) = position.get(id) else {
                unknown += 1;
                continue;
            };
            if is_idle(&self.nodes[node].call_frame) {
                continue;
            }
            let stack = *stacks.entry(node).or_insert_with(|| {
                let frames = self.stack(node, &parents, &mut table);
                table.stack(frames)
            });
            table.sample(at, tid, stack, weight);
        }
        let mut problem = |text: String| {
            if problems.len() < PROBLEM_LIMIT {
                problems.push(text);
            }
        };
        if unknown > 0 {
            problem(format!("{unknown} samples point to nodes that are not in the profile"));
        }
        if self.samples.len() != self.deltas_us.len() {
            let (samples, deltas) = (self.samples.len(), self.deltas_us.len());
            problem(format!("{samples} samples but {deltas} time differences; used the smaller"));
        }
        if self.start_us.is_none() && !self.samples.is_empty() {
            problem("no startTime: instants are relative to the first sample".into());
        }
        table
    }

    /// Parent of each node by position.
    fn parents(&self, problems: &mut Vec<String>) -> Vec<Option<usize>> {
        let position: HashMap<i64, usize> =
            self.nodes.iter().enumerate().map(|(at, node)| (node.id as i64, at)).collect();
        let mut parents: Vec<Option<usize>> = self
            .nodes
            .iter()
            .map(|node| node.parent.and_then(|parent| position.get(&parent).copied()))
            .collect();
        for (at, node) in self.nodes.iter().enumerate() {
            for child in &node.children {
                if let Some(&child) = position.get(child).filter(|child| **child != at) {
                    parents[child] = Some(at);
                }
            }
        }
        if position.len() < self.nodes.len() {
            let twice = self.nodes.len() - position.len();
            problems.push(format!("{twice} node ids occur twice; the last one counts"));
        }
        parents
    }

    /// Frames of a node, leaf first, without the root. A cycle ends at the depth limit.
    fn stack(&self, leaf: usize, parents: &[Option<usize>], table: &mut ProfileTable) -> Vec<u32> {
        let mut frames = Vec::new();
        let mut next = Some(leaf);
        while let Some(at) = next.filter(|_| frames.len() < DEPTH_LIMIT) {
            let call = &self.nodes[at].call_frame;
            if call.function_name != "(root)" {
                frames.push(table.frame(frame(call)));
            }
            next = parents[at];
        }
        frames
    }

    /// Instant of each sample.
    fn times(&self) -> impl Iterator<Item = Nanos> + '_ {
        let mut at = self.start_us.filter(|us| us.is_finite()).unwrap_or_default();
        self.deltas_us.iter().map(move |delta| {
            at += delta;
            from_us(at)
        })
    }

    /// What each sample stands for: the time to the next one; for the last, to the profile's end.
    fn weights(&self) -> impl Iterator<Item = Nanos> + '_ {
        let total: f64 = self.deltas_us.iter().sum();
        let rest = match (self.start_us, self.end_us) {
            (Some(start), Some(end)) if end - start - total >= 0.0 => from_us(end - start - total),
            _ => DEFAULT_WEIGHT,
        };
        let mean = self.mean_delta();
        self.deltas_us.iter().skip(1).map(|delta| from_us(*delta)).chain([rest.min(mean)])
    }

    fn mean_delta(&self) -> Nanos {
        if self.deltas_us.is_empty() {
            return DEFAULT_WEIGHT;
        }
        let positive: f64 = self.deltas_us.iter().filter(|delta| **delta > 0.0).sum();
        from_us(positive / self.deltas_us.len() as f64)
    }
}

/// Whether the sample says that nothing of ours ran.
fn is_idle(call: &CallFrame) -> bool {
    matches!(call.function_name.as_str(), "(idle)" | "(root)") && call.url.is_empty()
}

fn from_us(us: f64) -> Nanos {
    Nanos((us * 1e3).round().max(0.0) as u64)
}

fn frame(call: &CallFrame) -> Frame {
    let file = (!call.url.is_empty()).then(|| path_of(&call.url));
    let function = if call.function_name.is_empty() { "(anonymous)" } else { &call.function_name };
    Frame {
        function: function.to_owned(),
        line: file
            .as_ref()
            .filter(|_| call.line_number >= 0.0)
            .map(|_| (call.line_number.min(f64::from(u32::MAX - 1)) as u32).saturating_add(1)),
        kind: classify::script(function, file.as_deref()),
        file,
    }
}

/// `file:///a%20b.js` → `/a b.js`; other addresses stay.
fn path_of(url: &str) -> String {
    let Some(path) = url.strip_prefix("file://") else { return url.to_owned() };
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = if escaped.is_some() { &tail[2..] } else { tail };
        bytes.push(escaped.unwrap_or(*first));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::FrameKind;
    use proptest::prelude::*;

    const PROFILE: &str = r#"{"nodes":[
        {"id":1,"callFrame":{"functionName":"(root)","scriptId":"0","url":"","lineNumber":-1,
            "columnNumber":-1},"hitCount":0,"children":[2,3,4]},
        {"id":2,"callFrame":{"functionName":"(idle)","url":"","lineNumber":-1}},
        {"id":3,"callFrame":{"functionName":"(garbage collector)","url":"","lineNumber":-1}},
        {"id":4,"callFrame":{"functionName":"","url":"file:///app/my%20work.js","lineNumber":0},
            "children":[5]},
        {"id":5,"callFrame":{"functionName":"hotLoop","url":"file:///app/my%20work.js",
            "lineNumber":2}}],
        "startTime":1000,"endTime":6000,"samples":[5,5,2,3],"timeDeltas":[0,1000,1500,1000]}"#;

    #[test]
    fn stacks_times_and_kinds() {
        let (profile, problems) = parse_cpuprofile(PROFILE.as_bytes());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(profile.samples.len(), 3, "idle is left out");
        let first = profile.samples[0];
        assert_eq!((first.at, first.weight), (Nanos(1_000_000), Nanos(1_000_000)));
        let frames: Vec<&Frame> =
            profile.stacks[0].iter().map(|at| &profile.frames[*at as usize]).collect();
        assert_eq!(frames[0].function, "hotLoop");
        assert_eq!((frames[0].line, frames[0].kind), (Some(3), FrameKind::User));
        assert_eq!(frames[0].file.as_deref(), Some("/app/my work.js"));
        assert_eq!(frames[1].function, "(anonymous)");
        let last = profile.samples[2];
        let gc = &profile.frames[profile.stacks[last.stack as usize][0] as usize];
        assert_eq!((gc.kind, last.at), (FrameKind::Gc, Nanos(4_500_000)));
    }

    #[test]
    fn a_truncated_profile_keeps_what_was_read() {
        let cut = &PROFILE[..PROFILE.find("1500").unwrap()];
        let (profile, problems) = parse_cpuprofile(cut.as_bytes());
        assert_eq!(profile.samples.len(), 2);
        assert!(problems[0].contains("column"), "{problems:?}");
    }

    #[test]
    fn cycles_and_unknown_nodes_end() {
        let text = r#"{"nodes":[{"id":1,"callFrame":{"functionName":"a"},"children":[2]},
            {"id":2,"callFrame":{"functionName":"b"},"children":[1]}],
            "samples":[1,9],"timeDeltas":[1,-5]}"#;
        let (profile, problems) = parse_cpuprofile(text.as_bytes());
        assert_eq!(profile.stacks[0].len(), DEPTH_LIMIT);
        assert!(problems.iter().any(|problem| problem.contains("not in the profile")));
    }

    proptest! {
        #[test]
        fn damaged_profiles_never_panic(
            cut in 0usize..900, at in 0usize..900, byte in any::<u8>(),
        ) {
            let mut bytes = PROFILE.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.min(bytes.len()));
            let (profile, _) = parse_cpuprofile(&bytes);
            prop_assert!(profile.samples.len() <= 4);
        }

        #[test]
        fn any_text_is_read(text in "[ -~]{0,200}") {
            parse_cpuprofile(text.as_bytes());
        }
    }
}
