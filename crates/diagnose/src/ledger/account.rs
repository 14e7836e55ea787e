//! One request's account: its time by label and what its calls did, before averaging.

use super::{foreign, reasons, sweep};
use crate::Knowledge;
use crate::background::{self, Background};
use crate::timeline::{self, Edges, Keep, SEND_WAIT};
use evidence::{Arm, CallSource, Exchange, Line, ProcessRole, Timeline};
use std::collections::{BTreeMap, BTreeSet};

/// Line and detail.
pub(crate) type Key = (Line, String);

/// Fewest windows without foreign requests for which the others are left out: below it an
/// interval over so few means little (t(0.95, 4) = 2.13 against 1.64).
const CLEAN_ENOUGH: usize = 5;
/// Idle CPU below this share of a core is not worth a correction: it is the observer's error.
const IDLE_CPU_FLOOR: f64 = 0.005;

/// What the calls of one kind did in one request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallSums {
    pub calls: f64,
    pub rows: f64,
    pub round_trips: f64,
    pub elapsed: f64,
    pub chain: f64,
}

/// One request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// Nanoseconds; `time` sums to it.
    pub latency: f64,
    pub time: BTreeMap<Key, f64>,
    pub calls: BTreeMap<Key, CallSums>,
}

/// All requests of an arm.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    pub list: Vec<Account>,
    /// Half widths, nanoseconds, of errors that all requests share.
    pub shared_error: BTreeMap<Key, f64>,
    /// Where edges, threads and calls come from.
    pub packets: bool,
    pub sources: BTreeMap<Key, CallSource>,
    pub counters: bool,
    pub switches: bool,
    /// Added to the method of keys.
    pub remarks: BTreeMap<Key, String>,
    /// How windows were chosen; added to the method of what the service did.
    pub selection: Selection,
}

/// Which requests of an arm a ledger rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All: no other client's request was seen.
    #[default]
    All,
    /// Only those that no other client's request overlaps.
    Clean {
        /// Used.
        used: usize,
        /// All.
        of: usize,
    },
    /// All, minus what idle windows lead to expect of other clients' requests.
    Subtracted {
        /// Overlapped by other clients' requests.
        overlapped: usize,
        /// All.
        of: usize,
    },
}

impl Selection {
    /// For the `method` of an entry.
    fn remark(&self) -> String {
        match self {
            Selection::All => String::new(),
            Selection::Clean { used, of } => format!("; {used} of {of} windows, free of others"),
            Selection::Subtracted { .. } => "; idle windows subtracted".into(),
        }
    }
}

impl Accounts {
    pub(crate) fn method(&self, key: &Key) -> String {
        let base = match key.0 {
            Line::Dns | Line::Connect | Line::Tls | Line::Generator => return "client".into(),
            Line::Send | Line::Receive if key.1 != SEND_WAIT => {
                return if self.packets { "packets" } else { "client" }.into();
            }
            Line::Gc => "stack samples",
            Line::Queueing => "remainder of windows with other clients' requests",
            _ => match self.sources.get(key) {
                Some(CallSource::Wire) => "packets",
                Some(CallSource::Proxy) => "proxy",
                Some(CallSource::Span) => "spans",
                Some(CallSource::Syscalls) => "system calls",
                Some(CallSource::Wakeups) => "wake-ups",
                None if key.0 == Line::Unattributed => "remainder",
                None if self.switches => "context switches",
                None if self.counters => "counters",
                None => "client",
            },
        };
        let remark = self.remarks.get(key).map_or("", String::as_str);
        format!("{base}{remark}{}", self.selection.remark())
    }
}

/// Which exchanges of an arm its ledger rests on, by index into `exchanges_of`, and why.
pub fn selection(k: &Knowledge, endpoint: &str, arm: &Arm) -> (Vec<usize>, Selection) {
    let background = Background::learn(k, endpoint, arm);
    let exchanges: Vec<&Exchange> = k.exchanges_of(endpoint, arm).collect();
    select(k, &background, &exchanges)
}

fn select(k: &Knowledge, b: &Background, all: &[&Exchange]) -> (Vec<usize>, Selection) {
    let clean: Vec<usize> = (0..all.len())
        .filter(|n| {
            let inside = Edges::of(k, all[*n]).inside();
            b.foreign_within(inside.0, inside.1).next().is_none()
        })
        .collect();
    let (used, of) = (clean.len(), all.len());
    if used == of {
        (clean, Selection::All)
    } else if used >= CLEAN_ENOUGH {
        (clean, Selection::Clean { used, of })
    } else {
        ((0..of).collect(), Selection::Subtracted { overlapped: of - used, of })
    }
}

/// The accounts of an arm, with what other sources say of lines the arm itself cannot tell apart.
pub(crate) fn of(k: &Knowledge, endpoint: &str, arm: &Arm) -> Accounts {
    let mut accounts = plain(k, endpoint, arm);
    reasons::apply(k, endpoint, arm, &mut accounts);
    accounts
}

/// The accounts of an arm from its own windows alone.
pub(crate) fn plain(k: &Knowledge, endpoint: &str, arm: &Arm) -> Accounts {
    let background = Background::learn(k, endpoint, arm);
    let all: Vec<&Exchange> = k.exchanges_of(endpoint, arm).collect();
    let (chosen, selection) = select(k, &background, &all);
    let exchanges: Vec<&Exchange> = chosen.into_iter().map(|n| all[n]).collect();
    let mut accounts = Accounts { selection, ..Accounts::default() };
    if matches!(accounts.selection, Selection::Subtracted { .. }) {
        foreign::fill(k, &background, &exchanges, &mut accounts);
    } else {
        for x in &exchanges {
            let t = timeline::of_exchange(k, x, &Keep::calls(&|_, c| !background.is_noise(c)));
            let account = count(k, &t, &mut accounts);
            accounts.list.push(account);
        }
    }
    idle_cpu(k, &background, &mut accounts);
    accounts.packets = exchanges.iter().any(|x| Edges::of(k, x).packets);
    counters(k, endpoint, &exchanges, &mut accounts);
    accounts
}

/// Sums up a timeline.
pub(crate) fn count(k: &Knowledge, t: &Timeline, accounts: &mut Accounts) -> Account {
    let time = sweep(t).into_iter().map(|(l, d, ns)| ((l, d), ns as f64)).collect();
    accounts.switches |= t.intervals.iter().any(|i| i.tid.is_some());
    Account { latency: t.latency().0 as f64, time, calls: call_sums(k, t, accounts) }
}

/// What the calls of a timeline did, by line and detail.
pub(crate) fn call_sums(
    k: &Knowledge,
    t: &Timeline,
    accounts: &mut Accounts,
) -> BTreeMap<Key, CallSums> {
    let mut sums: BTreeMap<Key, CallSums> = BTreeMap::new();
    let mut trips: BTreeMap<Key, BTreeSet<(u32, u64)>> = BTreeMap::new();
    let mut ends: BTreeMap<Key, (u64, u64)> = BTreeMap::new();
    for i in &t.intervals {
        let Some(call) = i.call.and_then(|n| k.calls.get(n)) else { continue };
        let key = (i.line, i.detail.clone());
        accounts.sources.entry(key.clone()).or_insert(call.source);
        let s = sums.entry(key.clone()).or_default();
        s.calls += 1.0;
        s.rows += call.rows.unwrap_or(0) as f64;
        s.elapsed += (i.end - i.start).0 as f64;
        trips.entry(key.clone()).or_default().insert((call.connection, call.batch));
        let e = ends.entry(key).or_insert((i.start.0, i.end.0));
        *e = (e.0.min(i.start.0), e.1.max(i.end.0));
    }
    for (key, s) in &mut sums {
        s.round_trips = trips.get(key).map_or(0.0, |t| t.len() as f64);
        s.chain = ends.get(key).map_or(0.0, |e| (e.1 - e.0) as f64);
    }
    sums
}

/// Background CPU of serving threads: what idle windows show is taken out of `cpu` and is
/// `queueing` behind work that is not the request's.
fn idle_cpu(k: &Knowledge, b: &Background, accounts: &mut Accounts) {
    let rates = background::quiet_cpu_rates(k, b);
    // Only what is surely there: the lower bound of the mean must be above zero.
    if !accounts.switches
        || stats::mean(&rates) < IDLE_CPU_FLOOR
        || stats::mean_interval(&rates).low <= 0.0
    {
        return;
    }
    let rate = stats::mean(&rates);
    let error = stats::mean_interval(&rates).high - rate;
    let latency = stats::mean(&accounts.list.iter().map(|a| a.latency).collect::<Vec<_>>());
    let own = (Line::Cpu, String::new());
    let other = (Line::Queueing, "background work of the service".to_string());
    for a in &mut accounts.list {
        let part = rate * a.latency;
        *a.time.entry(own.clone()).or_default() -= part;
        *a.time.entry(other.clone()).or_default() += part;
    }
    accounts.shared_error.insert(own.clone(), error * latency);
    accounts.shared_error.insert(other, error * latency);
    accounts.remarks.insert(own, "; idle windows subtracted".into());
}

/// Without scheduler records: the threads' CPU and run-queue time from counters, beyond what idle
/// windows use anyway, is taken out of `unattributed`, and never more than there is. Sums have no
/// position: waiting for a CPU that may have passed during calls is left where it is, so that a
/// sleep is not taken for it on a busy machine.
fn counters(k: &Knowledge, endpoint: &str, exchanges: &[&Exchange], accounts: &mut Accounts) {
    let rates = background::counter_rates(k, endpoint, ProcessRole::Service).unwrap_or((0.0, 0.0));
    for (x, a) in exchanges.iter().zip(&mut accounts.list) {
        let recorded = k.busy_within(x.phases.start, x.phases.end).any(|i| i.state.is_running());
        let window = k.windows.get(&x.window);
        let used = k.counters_of(x.window, ProcessRole::Service);
        let (false, Some(window), Some(used)) = (recorded, window, used) else { continue };
        let sharers = k.exchanges.iter().filter(|o| o.window == x.window).count().max(1) as f64;
        let length = (window.end - window.start).0 as f64;
        let room_key = (Line::Unattributed, String::new());
        let mut room = a.time.remove(&room_key).unwrap_or(0.0);
        let in_calls: f64 =
            a.time.iter().filter(|(key, _)| a.calls.contains_key(key)).map(|(_, ns)| *ns).sum();
        let parts = [
            (Line::Cpu, used.cpu, rates.0, 0.0),
            (Line::Runnable, used.runnable, rates.1, in_calls),
        ];
        for (line, spent, rate, elsewhere) in parts {
            let own = (spent.0 as f64 - rate * length) / sharers - elsewhere;
            let part = own.clamp(0.0, room.max(0.0));
            room -= part;
            if part > 0.0 {
                accounts.counters = true;
                *a.time.entry((line, String::new())).or_default() += part;
            }
        }
        a.time.insert(room_key, room);
    }
}
