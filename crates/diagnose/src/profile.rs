//! Stack samples of one endpoint, and the code its CPU goes to: the heaviest path from the root is
//! followed while one child holds most of its parent, and the deepest function of the team's own
//! code on it is named, with the library it ends in.

use crate::case::Case;
use crate::wording::percent;
use evidence::{Frame, FrameKind, StackProfile, Where};
use std::collections::BTreeMap;

/// Samples below which no code is named: the share of one path is then within ± 18 % at best.
const ENOUGH: usize = 30;
/// The heaviest child is followed while it holds this share of its parent; below it the time is
/// spread over several.
const FOLLOW: f64 = 0.7;

/// The hot code of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Hot {
    /// The team's function.
    pub place: Where,
    /// Share of the samples under it.
    pub share: f64,
    /// Library or runtime function in which most of that time ends, if not its own.
    pub into: Option<String>,
    /// Samples the share rests on.
    pub samples: usize,
}

impl Hot {
    /// Share of the computing that goes when this function costs nothing.
    pub fn reach(&self) -> f64 {
        self.share.clamp(0.0, 1.0)
    }

    /// What is known, in words.
    pub fn sentence(&self) -> String {
        let function = self.place.function.as_deref().unwrap_or("a function");
        let place = match self.place.line {
            Some(line) => format!("{}:{line}", self.place.file),
            None => self.place.file.clone(),
        };
        let into = self.into.as_ref().map_or(String::new(), |f| format!(", most of it in `{f}`"));
        format!(
            "{} of {} stack samples are in `{function}` ({place}){into}",
            percent(self.share),
            self.samples
        )
    }
}

/// Where in a tree of merged stacks: children by function and file.
#[derive(Default)]
struct Node<'a> {
    weight: u64,
    frame: Option<&'a Frame>,
    lines: BTreeMap<u32, u64>,
    children: BTreeMap<(&'a str, Option<&'a str>), Node<'a>>,
}

/// The hot code of a case; `None` below [`ENOUGH`] samples or when no own function is on the path.
pub fn hot(case: &Case) -> Option<Hot> {
    let mut root = Node::default();
    let mut samples = 0;
    for profile in &case.knowledge.profiles {
        samples += add(case, profile, &mut root);
    }
    if samples < ENOUGH || root.weight == 0 {
        return None;
    }
    let total = root.weight as f64;
    let path = heaviest_path(&root);
    let deepest = path.iter().rposition(|n| is_user(n))?;
    let node = path[deepest];
    let frame = node.frame?;
    let line = node.lines.iter().max_by_key(|(_, w)| **w).map(|(l, _)| *l);
    let into = path[deepest + 1..].last().and_then(|n| n.frame).map(|f| f.function.clone());
    Some(Hot {
        place: Where {
            file: frame.file.as_deref().map_or("(unknown file)".into(), |f| relative(case, f)),
            line: line.or(frame.line),
            function: Some(frame.function.clone()),
        },
        share: node.weight as f64 / total,
        into,
        samples,
    })
}

/// A file as seen from the service's directory, when it is inside it.
fn relative(case: &Case, file: &str) -> String {
    let file = file.strip_prefix("file://").unwrap_or(file);
    let processes = case.service(None).map_or(&[][..], |s| &s.processes);
    let inside = |directory: &String| {
        let rest = file.strip_prefix(directory.trim_end_matches('/'))?;
        rest.strip_prefix('/').map(String::from)
    };
    let found = processes.iter().filter_map(|p| p.directory.as_ref()).find_map(inside);
    found.unwrap_or_else(|| file.to_string())
}

fn is_user(node: &Node) -> bool {
    node.frame.is_some_and(|f| f.kind == FrameKind::User)
}

fn heaviest_path<'n, 'a>(root: &'n Node<'a>) -> Vec<&'n Node<'a>> {
    let mut path = Vec::new();
    let mut at = root;
    while let Some(next) = at.children.values().max_by_key(|n| n.weight) {
        if (next.weight as f64) < FOLLOW * at.weight as f64 {
            break;
        }
        path.push(next);
        at = next;
    }
    path
}

/// Adds the samples that fall into the endpoint's driven windows; returns how many did.
fn add<'a>(case: &Case<'a>, profile: &'a StackProfile, root: &mut Node<'a>) -> usize {
    let windows: Vec<(u64, u64)> = case
        .knowledge
        .windows
        .values()
        .filter(|w| w.driven && w.endpoint == case.endpoint)
        .map(|w| (w.start.0, w.end.0))
        .collect();
    let mut windows = windows;
    windows.sort_unstable();
    let mut count = 0;
    for s in &profile.samples {
        let n = windows.partition_point(|w| w.0 <= s.at.0);
        let inside = n > 0 && s.at.0 <= windows[n - 1].1;
        let Some(stack) = profile.stacks.get(s.stack as usize).filter(|_| inside) else { continue };
        let frames: Vec<&Frame> =
            stack.iter().rev().filter_map(|f| profile.frames.get(*f as usize)).collect();
        if frames.last().is_none_or(|leaf| is_idle(leaf)) {
            continue;
        }
        insert(root, &frames, s.weight.0.max(1));
        count += 1;
    }
    count
}

/// Frames that stand for not running: V8's own, and waits that samplers report as stacks.
fn is_idle(leaf: &Frame) -> bool {
    matches!(leaf.function.as_str(), "(idle)" | "(program)" | "(root)")
}

/// Recursion is collapsed: a function already on the path is not entered again.
fn insert<'a>(root: &mut Node<'a>, frames: &[&'a Frame], weight: u64) {
    root.weight += weight;
    let mut at = root;
    let mut seen: Vec<(&str, Option<&str>)> = Vec::new();
    for frame in frames.iter().copied().filter(|f| f.function != "(root)") {
        let key = (frame.function.as_str(), frame.file.as_deref());
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        at = at.children.entry(key).or_default();
        at.weight += weight;
        at.frame = Some(frame);
        if let Some(line) = frame.line {
            *at.lines.entry(line).or_default() += weight;
        }
    }
}
