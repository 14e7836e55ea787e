//! HAR 1.2 (HTTP Archive) to endpoints, ranked by what the user waited for.
//!
//! Entries are read one by one out of the text: a file that is cut off gives the entries before
//! the cut, a broken entry costs only itself, and nesting or size of the parts not used (response
//! bodies) costs no memory. The format: <http://www.softwareishard.com/blog/har-12-spec/>.

mod entry;
mod rank;

use crate::Problem;
use crate::json::Slice;
use crate::url;
use entry::{Entry, Kind, PhaseFault};
use evidence::Endpoint;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Most entries read; a recording of one page has some hundred.
pub const ENTRY_LIMIT: usize = 100_000;
/// Most broken entries named one by one.
const NAMED_LIMIT: usize = 10;

/// Why a file is no HAR at all.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HarError {
    /// Not JSON.
    #[error(
        "not a HAR file: JSON was expected at byte {0}; in the browser's network panel choose \
         \"Save all as HAR\""
    )]
    NotJson(usize),
    /// JSON without entries.
    #[error(
        "not a HAR file: it holds no log.entries; in the browser's network panel choose \"Save \
         all as HAR\""
    )]
    NoEntries,
}

/// One request of the recording that an investigation can repeat.
struct Recorded {
    entry: Entry,
    position: usize,
}

/// Reads a HAR file: endpoints, the one the user waited longest for first. `recorded_ms` is that
/// waiting time: each moment counts for the request in flight that ended last.
///
/// Left out, and counted in the problems: static files, answers from cache, streams, preflights,
/// redirects, requests without an answer or refused, and other sites than the page's own. Cookies
/// and credentials become secrets that stay in memory. Requests that differ only in ids in the path
/// or in the query are one endpoint; the slowest stands for it.
///
/// # Errors
/// [`HarError`] when nothing in the bytes is a recording.
pub fn parse(bytes: &[u8]) -> Result<(Vec<Endpoint>, Vec<Problem>), HarError> {
    let root = Slice::new(bytes);
    if root.text.first() != Some(&b'{') {
        return Err(HarError::NotJson(root.position));
    }
    let entries = root.get("log").and_then(|l| l.get("entries"));
    let entries = entries.filter(|e| e.text.first() == Some(&b'[')).ok_or(HarError::NoEntries)?;
    let mut problems = Vec::new();
    let (recorded, dropped) = read(entries, &mut problems);
    if !root.whole {
        let message = format!(
            "the file is cut off; {} entries before the cut were read",
            recorded.len() + dropped.values().sum::<usize>()
        );
        problems.push(Problem::new(bytes.len(), message));
    }
    report_dropped(entries.position, &dropped, &mut problems);
    report_phases(&recorded, &mut problems);
    let recorded = own_site(recorded, &mut problems);
    Ok((endpoints(&recorded, &mut problems), problems))
}

/// The entries that can be repeated, and how many of each other kind there were.
fn read(entries: Slice, problems: &mut Vec<Problem>) -> (Vec<Recorded>, BTreeMap<Kind, usize>) {
    let (mut recorded, mut dropped, mut broken) = (Vec::new(), BTreeMap::new(), 0);
    for (number, slice) in entries.elements().enumerate() {
        if number == ENTRY_LIMIT {
            let message = format!("only the first {ENTRY_LIMIT} entries were read");
            problems.push(Problem::new(slice.position, message));
            break;
        }
        match serde_json::from_slice::<Entry>(slice.text) {
            Ok(entry) => match entry.kind() {
                Kind::Endpoint => recorded.push(Recorded { entry, position: slice.position }),
                kind => *dropped.entry(kind).or_default() += 1,
            },
            // Its being cut off is said once, for the file.
            Err(_) if !slice.whole => {}
            Err(e) => {
                broken += 1;
                if broken <= NAMED_LIMIT {
                    let message = format!("entry {} is left out: {e}", number + 1);
                    problems.push(Problem::new(slice.position, message));
                }
            }
        }
    }
    if broken > NAMED_LIMIT {
        let message = format!("{} more broken entries are left out", broken - NAMED_LIMIT);
        problems.push(Problem::new(entries.position, message));
    }
    (recorded, dropped)
}

fn report_dropped(at: usize, dropped: &BTreeMap<Kind, usize>, problems: &mut Vec<Problem>) {
    let words = dropped.iter().map(|(kind, count)| {
        let what = match kind {
            Kind::Endpoint => "requests",
            Kind::Static => "static files",
            Kind::Cached => "answers from the browser's cache",
            Kind::Stream => "streams",
            Kind::Unwaited => "preflights and beacons",
            Kind::Redirect => "redirects",
            Kind::Unanswered => "requests without an answer",
            Kind::Refused => "requests that were refused (status 4xx)",
            Kind::Local => "data: and extension URLs",
        };
        format!("{count} {what}")
    });
    let words: Vec<_> = words.collect();
    if !words.is_empty() {
        problems.push(Problem::new(at, format!("left out: {}", words.join(", "))));
    }
}

fn report_phases(recorded: &[Recorded], problems: &mut Vec<Problem>) {
    let faults = recorded.iter().filter_map(|r| Some((r.position, r.entry.phase_fault()?)));
    let (mut sums, mut ssl) = (Vec::new(), Vec::new());
    for (position, fault) in faults {
        match fault {
            PhaseFault::Sum(off) => sums.push((position, off)),
            PhaseFault::Ssl => ssl.push(position),
        }
    }
    if let Some((position, _)) = sums.first() {
        let worst = sums.iter().map(|s| s.1).fold(0.0, f64::max);
        let message = format!(
            "{} entries whose phases do not sum to their time (off by up to {worst:.0} ms); their \
             time is used",
            sums.len()
        );
        problems.push(Problem::new(*position, message));
    }
    if let Some(position) = ssl.first() {
        let message =
            format!("{} entries with a TLS phase longer than their connect phase", ssl.len());
        problems.push(Problem::new(*position, message));
    }
}

/// Keeps the requests to the site of the page; traffic to others was not asked for.
fn own_site(recorded: Vec<Recorded>, problems: &mut Vec<Problem>) -> Vec<Recorded> {
    let host = |r: &Recorded| host_of(&r.entry.request.url).to_ascii_lowercase();
    let document = recorded.iter().find(|r| r.entry.is_document()).map(host);
    let busiest = || {
        let mut times = BTreeMap::<String, f64>::new();
        for r in &recorded {
            *times.entry(host(r)).or_default() += r.entry.duration_ms();
        }
        times.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|t| t.0)
    };
    let Some(own) = document.or_else(busiest) else { return recorded };
    let site = site_of(&own);
    let (own, other): (Vec<_>, Vec<_>) =
        recorded.into_iter().partition(|r| site_of(&host(r)) == site);
    if let Some(first) = other.first() {
        let hosts: BTreeSet<_> = other.iter().map(host).collect();
        let named: Vec<_> = hosts.iter().take(5).cloned().collect();
        let message = format!(
            "{} requests to {} other sites are left out ({}{}); measure one of them with --endpoint",
            other.len(),
            hosts.len(),
            named.join(", "),
            if hosts.len() > 5 { ", …" } else { "" }
        );
        problems.push(Problem::new(first.position, message));
    }
    own
}

/// Host of a recorded URL without user info and port.
fn host_of(url: &str) -> &str {
    let authority = url::authority(url);
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    host.split(':').next().unwrap_or(host)
}

/// The registrable domain, as far as the name's shape tells: the last two labels, three under a
/// country's second level (`shop.co.uk`). Addresses are sites of their own; all of loopback is one.
fn site_of(host: &str) -> String {
    if host == "localhost" || host == "[::1]" || host.starts_with("127.") {
        return "localhost".into();
    }
    let labels: Vec<_> = host.split('.').collect();
    let address = host.starts_with('[') || labels.iter().all(|l| l.parse::<u8>().is_ok());
    let second = labels.len().checked_sub(2).map_or("", |n| labels[n]);
    let registry = ["co", "com", "org", "net", "ac", "gov", "edu", "ne", "or", "go"];
    let country = labels.last().is_some_and(|l| l.len() == 2) && registry.contains(&second);
    let keep = if address {
        labels.len()
    } else if country {
        3
    } else {
        2
    };
    labels[labels.len().saturating_sub(keep)..].join(".")
}

/// What is one endpoint: origin, method, path without ids, GraphQL operation.
type Key = (String, String, String, Option<String>);

fn endpoints(recorded: &[Recorded], problems: &mut Vec<Problem>) -> Vec<Endpoint> {
    let waited = waited_us(recorded, problems);
    let mut groups = BTreeMap::<Key, (u64, Vec<usize>)>::new();
    for (i, r) in recorded.iter().enumerate() {
        let group = groups.entry(key(&r.entry)).or_default();
        group.0 += waited[i];
        group.1.push(i);
    }
    let mut ranked = Vec::new();
    for (key, (waited, members)) in groups {
        let duration = |i: &usize| recorded[*i].entry.duration_ms();
        let slowest = members.iter().max_by(|a, b| duration(a).total_cmp(&duration(b)));
        let Some(slowest) = slowest.map(|i| &recorded[*i]) else { continue };
        match slowest.entry.template() {
            Ok(template) => {
                let mut endpoint = crate::endpoint::from_template(template);
                endpoint.recorded_ms = Some((waited + 500) / 1_000);
                ranked.push((waited, slowest.position, key, endpoint));
            }
            Err(why) => {
                let message = format!("a request is left out: {why}");
                problems.push(Problem::new(slowest.position, message));
            }
        }
    }
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let keys: Vec<_> = ranked.iter().map(|r| r.2.clone()).collect();
    let name = |(_, _, key, endpoint): (u64, usize, Key, Endpoint)| {
        let (origin, method, path, operation) = key;
        // The same path on two hosts: the host tells them apart.
        let alike = keys.iter().filter(|k| (&k.1, &k.2, &k.3) == (&method, &path, &operation));
        let host = if alike.count() > 1 { url::authority(&origin) } else { "" };
        let operation = operation.map(|o| format!(" {o}")).unwrap_or_default();
        Endpoint { name: format!("{method} {host}{path}{operation}"), ..endpoint }
    };
    ranked.into_iter().map(name).collect()
}

fn key(entry: &Entry) -> Key {
    let url = entry.request.url.split('#').next().unwrap_or_default();
    let path = url::path_and_query(url).split('?').next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let path = rank::path_pattern(path);
    let scheme = url.split("://").next().unwrap_or_default();
    let host = url::authority(url);
    let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
    let origin = format!("{scheme}://{host}").to_ascii_lowercase();
    (origin, entry.request.method.clone(), path, entry.operation())
}

/// Waiting time of each request; one without a readable start counts with its whole duration.
fn waited_us(recorded: &[Recorded], problems: &mut Vec<Problem>) -> Vec<u64> {
    let duration = |r: &Recorded| (r.entry.duration_ms() * 1_000.0) as u64;
    let starts: Vec<_> = recorded.iter().map(|r| r.entry.start_us()).collect();
    let intervals: Vec<_> = recorded
        .iter()
        .zip(&starts)
        .map(|(r, start)| start.map_or((0, 0), |s| (s, s.saturating_add(duration(r)))))
        .collect();
    let mut waited = rank::waited(&intervals);
    let mut unread = Vec::new();
    for (i, r) in recorded.iter().enumerate() {
        if starts[i].is_none() {
            waited[i] = duration(r);
            unread.push(r.position);
        }
    }
    if let Some(position) = unread.first() {
        let message = format!(
            "{} entries whose startedDateTime cannot be read are ranked by their whole time",
            unread.len()
        );
        problems.push(Problem::new(*position, message));
    }
    waited
}

#[cfg(test)]
mod tests;
