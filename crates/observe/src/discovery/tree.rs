//! Which processes belong to the service: those that hold its socket, everything below them, and
//! the wrappers above them (npm, sh, a gunicorn or cluster parent) up to what is no longer theirs.

use super::proc::{self, Stat, Table};
use std::collections::{BTreeSet, HashMap};

/// Programs that start many services: whoever they start is not part of what they are.
const SUPERVISORS: [&str; 26] = [
    "systemd",
    "init",
    "tini",
    "dumb-init",
    "docker-init",
    "catatonit",
    "conmon",
    "s6-supervise",
    "runsv",
    "runit",
    "supervisord",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "runc",
    "dockerd",
    "sshd",
    "login",
    "su",
    "sudo",
    "cron",
    "crond",
    "screen",
    "tmux",
    "tmux: server",
    "start-stop-daem",
    "pm2",
];

const SHELLS: [&str; 7] = ["sh", "bash", "zsh", "dash", "fish", "ksh", "ash"];

/// The processes of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// All of them, parents first.
    pub pids: Vec<i32>,
    /// The topmost; everything below them belongs to the service.
    pub tops: Vec<i32>,
}

/// The tree around `holders`. With `root` (a process we launched) everything below it belongs.
pub(crate) fn around(table: &Table, holders: &BTreeSet<i32>, root: Option<i32>) -> Tree {
    if let Some(root) = root.filter(|r| table.stats.contains_key(r)) {
        let mut tops = vec![root];
        let below: BTreeSet<i32> = table.below(root).into_iter().collect();
        tops.extend(holders.iter().filter(|h| !below.contains(h)));
        return collect(table, tops);
    }
    let own = std::process::id() as i32;
    let ours: BTreeSet<i32> = table.above(own).into_iter().chain([own]).collect();
    let mut tops: BTreeSet<i32> = BTreeSet::new();
    let mut members: BTreeSet<i32> = BTreeSet::new();
    for holder in holders {
        if !members.contains(holder) {
            members.extend(table.below(*holder));
        }
    }
    // A server that forks has thousands of holders with one parent: each step is climbed once.
    let mut top_of: HashMap<i32, i32> = HashMap::new();
    for holder in holders {
        let (mut top, mut path) = (*holder, vec![*holder]);
        loop {
            if let Some(known) = top_of.get(&top) {
                top = *known;
                break;
            }
            let Some(parent) = parent_of(table, top, &members, holders, &ours) else { break };
            top = parent;
            path.push(top);
            if !top_of.contains_key(&top) {
                members.extend(table.below(top));
            }
        }
        top_of.extend(path.into_iter().map(|pid| (pid, top)));
        tops.insert(top);
    }
    // A holder below another holder's top is part of that tree.
    let nested = |t: &i32| table.above(*t).iter().any(|a| tops.contains(a));
    collect(table, tops.iter().copied().filter(|t| !nested(t)).collect())
}

/// Reads the tree below the same tops again.
pub(crate) fn collect(table: &Table, tops: Vec<i32>) -> Tree {
    let mut seen = BTreeSet::new();
    let alive = tops.iter().filter(|t| table.stats.contains_key(t));
    let pids = alive.flat_map(|t| table.below(*t)).filter(|p| seen.insert(*p)).collect();
    Tree { pids, tops }
}

/// The parent, when it is a wrapper of this service and of nothing else.
fn parent_of(
    table: &Table,
    pid: i32,
    members: &BTreeSet<i32>,
    holders: &BTreeSet<i32>,
    ours: &BTreeSet<i32>,
) -> Option<i32> {
    let child = table.stats.get(&pid)?;
    let parent = table.stats.get(&child.parent)?;
    if parent.pid <= 1 && !holders.contains(&parent.pid) {
        return None;
    }
    if ours.contains(&parent.pid) || SUPERVISORS.contains(&parent.comm.as_str()) {
        return None;
    }
    if holders.contains(&parent.pid) {
        return Some(parent.pid);
    }
    let same_container = proc::namespace(pid, "pid") == proc::namespace(parent.pid, "pid");
    if parent.session != child.session || !same_container || is_interactive(parent) {
        return None;
    }
    let children = table.children.get(&parent.pid)?;
    children.iter().all(|c| members.contains(c)).then_some(parent.pid)
}

/// A shell without a script or `-c`: somebody's terminal.
fn is_interactive(process: &Stat) -> bool {
    let name = process.comm.trim_start_matches('-');
    if !SHELLS.contains(&name) {
        return false;
    }
    let command = proc::command(process.pid);
    !command.is_empty() && command.iter().skip(1).all(|a| a.starts_with('-') && !a.contains('c'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(pid, parent, session, name)`.
    fn table(rows: &[(i32, i32, i32, &str)]) -> Table {
        let one = |(pid, parent, session, comm): &(i32, i32, i32, &str)| {
            let comm = (*comm).to_owned();
            Stat { pid: *pid, parent: *parent, session: *session, comm, ..Stat::default() }
        };
        Table::of(rows.iter().map(|r| (r.0, one(r))).collect())
    }

    const BASE: i32 = 90_000_000;

    fn check(rows: &[(i32, i32, i32, &str)], holders: &[i32], want: &[i32]) {
        let rows: Vec<_> = rows.iter().map(|r| (r.0 + BASE, r.1 + BASE, r.2 + BASE, r.3)).collect();
        let holders = holders.iter().map(|h| h + BASE).collect();
        let tree = around(&table(&rows), &holders, None);
        let got: Vec<i32> = tree.pids.iter().map(|p| p - BASE).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn wrappers_belong_and_supervisors_do_not() {
        let npm =
            [(10, 1, 10, "tini"), (11, 10, 10, "npm"), (12, 11, 10, "sh"), (13, 12, 10, "node")];
        check(&npm, &[13], &[11, 12, 13]);
        let shared = [(10, 1, 10, "make"), (11, 10, 10, "node"), (12, 10, 10, "postgres")];
        check(&shared, &[11], &[11]);
        let forked = [(11, 1, 11, "gunicorn"), (12, 11, 11, "gunicorn"), (13, 11, 11, "gunicorn")];
        check(&forked, &[11, 12, 13], &[11, 12, 13]);
        check(&forked, &[12, 13], &[11, 12, 13]);
        let helper = [(11, 1, 11, "node"), (12, 11, 11, "convert")];
        check(&helper, &[11], &[11, 12]);
        let other_session = [(10, 1, 10, "bash"), (11, 10, 11, "node")];
        check(&other_session, &[11], &[11]);
    }
}
