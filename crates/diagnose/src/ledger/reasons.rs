//! Names for off-CPU time from the traced pass. Tracing system calls slows the target too much for
//! its milliseconds to count, so it only gives the shares of reasons inside the untraced arm's
//! remainder, and the collector's share of the CPU from stack samples.

use super::account::{self, Account, Accounts, Key};
use crate::Knowledge;
use crate::timeline::{DEVICE_WAIT, OTHER_WAIT, SEND_WAIT, SOCKET_WAIT, UNKNOWN_WAIT};
use evidence::{Arm, Line};
use std::collections::BTreeMap;

/// In the method of what the traced pass told.
pub const TRACED_SHARE: &str = "share from the traced pass";

/// Splits the remainder of an untraced arm by what the traced arm says.
pub(crate) fn apply(k: &Knowledge, endpoint: &str, arm: &Arm, accounts: &mut Accounts) {
    if *arm == Arm::Traced || accounts.list.is_empty() {
        return;
    }
    let traced = account::plain(k, endpoint, &Arm::Traced);
    if traced.list.is_empty() {
        return;
    }
    let any = |test: &dyn Fn(&Key) -> bool| accounts.list.iter().any(|a| a.time.keys().any(test));
    let known = any(&|key| names_reason(key) && !is_device_wait(key));
    let device = any(&is_device_wait);
    // Where waits were recorded, only they are divided: what no thread explains is no wait.
    let waits = any(&is_unknown_wait);
    let from = if waits { is_unknown_wait } else { is_remainder };
    let collected = any(&|key| key.0 == Line::Gc);
    if !known {
        // The scheduler tells waiting for a device apart; which call it was, only the trace.
        let named = |key: &Key| names_reason(key) && !(device && key.0 == Line::Disk);
        split(accounts, &traced, from, |key| from(key) || named(key));
        split(accounts, &traced, is_device_wait, |key| key.0 == Line::Disk);
    }
    if !collected {
        let gc = |key: &Key| key.0 == Line::Gc || is_cpu(key);
        split(accounts, &traced, is_cpu, gc);
    }
}

/// Off-CPU time that has no name.
fn is_remainder(key: &Key) -> bool {
    key.0 == Line::Unattributed && (key.1.is_empty() || key.1 == UNKNOWN_WAIT)
}

fn is_unknown_wait(key: &Key) -> bool {
    key.0 == Line::Unattributed && key.1 == UNKNOWN_WAIT
}

/// Waiting for a device, in which call is not known.
fn is_device_wait(key: &Key) -> bool {
    key.0 == Line::Disk && key.1 == DEVICE_WAIT
}

/// A reason that only system calls tell.
fn names_reason(key: &Key) -> bool {
    matches!(key.0, Line::Timer | Line::Disk | Line::Lock)
        || key.0 == Line::Unattributed && (key.1 == SOCKET_WAIT || key.1 == OTHER_WAIT)
        || key.0 == Line::Receive && key.1 == SEND_WAIT
}

fn is_cpu(key: &Key) -> bool {
    key.0 == Line::Cpu && !key.1.starts_with("worker thread")
}

/// Divides the time of the keys in `from` over the traced keys in `to`, by their traced shares.
/// Keys that are in `from` themselves stay as they were, together.
fn split(
    accounts: &mut Accounts,
    traced: &Accounts,
    from: impl Fn(&Key) -> bool,
    to: impl Fn(&Key) -> bool,
) {
    let shares = shares(&traced.list, &from, &to);
    if shares.is_empty() {
        return;
    }
    let taken =
        |a: &Account| -> f64 { a.time.iter().filter(|t| from(t.0)).map(|t| t.1.max(0.0)).sum() };
    let mean = stats::mean(&accounts.list.iter().map(taken).collect::<Vec<_>>());
    for a in &mut accounts.list {
        let amount = taken(a);
        let moved: f64 = shares.values().map(|s| s.0).sum();
        for (_, ns) in a.time.iter_mut().filter(|t| from(t.0)) {
            *ns -= ns.max(0.0) * moved;
        }
        for (key, (share, _)) in &shares {
            *a.time.entry(key.clone()).or_default() += amount * share;
        }
    }
    for (key, (_, error)) in &shares {
        accounts.shared_error.insert(key.clone(), error * mean);
        accounts.remarks.insert(key.clone(), format!(", {TRACED_SHARE}"));
    }
}

/// Mean share of each named key in the traced requests, with the half width of its 90 % interval.
fn shares(
    traced: &[Account],
    from: &impl Fn(&Key) -> bool,
    to: &impl Fn(&Key) -> bool,
) -> BTreeMap<Key, (f64, f64)> {
    let total = |a: &Account| -> f64 { a.time.iter().filter(|t| to(t.0)).map(|t| *t.1).sum() };
    let sum: f64 = traced.iter().map(total).sum();
    let mut out = BTreeMap::new();
    let keys = traced.iter().flat_map(|a| a.time.keys()).filter(|k| to(k) && !from(k));
    for key in keys {
        let of = |a: &Account| a.time.get(key).copied().unwrap_or(0.0);
        let share = traced.iter().map(of).sum::<f64>() / sum;
        if sum <= 0.0 || share <= 0.0 {
            continue;
        }
        // Ratio estimator: spread of what each request has beyond its share.
        let residuals: Vec<f64> = traced.iter().map(|a| of(a) - share * total(a)).collect();
        let i = stats::mean_interval(&residuals);
        let error = (i.high - i.low) / 2.0 / (sum / traced.len() as f64);
        out.insert(key.clone(), (share.min(1.0), error));
    }
    out
}
