//! What will be sent, in words, before it is sent; and what is refused without consent.

use crate::request::{Request, Scheme};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a run is going to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    counts: BTreeMap<String, u64>,
    hosts: Vec<String>,
    in_flight: u32,
}

impl Plan {
    /// Nothing yet.
    pub fn new() -> Plan {
        Plan::default()
    }

    /// Adds `count` sends of `request`, at most `in_flight` of them at once.
    pub fn add(&mut self, request: &Request, count: u64, in_flight: u32) {
        if count == 0 {
            return;
        }
        *self.counts.entry(request.method.clone()).or_default() += count;
        self.in_flight = self.in_flight.max(in_flight);
        let host = request.host_port();
        if !self.hosts.contains(&host) {
            self.hosts.push(host);
        }
    }

    /// All requests in it.
    pub fn requests(&self) -> u64 {
        self.counts.values().sum()
    }

    /// One line: `38 GETs, at most 4 in flight, no other methods, to 127.0.0.1:3000`.
    pub fn describe(&self) -> String {
        if self.counts.is_empty() {
            return "no requests".into();
        }
        let counts: Vec<String> = self.counts.iter().map(|(m, n)| counted(*n, m)).collect();
        format!(
            "{}, at most {} in flight, no other methods, to {}",
            listed(&counts),
            self.in_flight,
            listed(&self.hosts)
        )
    }
}

fn counted(n: u64, method: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {method}{s}")
}

fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [firsts @ .., last] => format!("{} and {last}", firsts.join(", ")),
    }
}

/// Why a request is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It could change something.
    #[error(
        "{method} can change data, so it is not sent without consent\n\
         hint: add --mutating if repeating this request is harmless"
    )]
    Mutating {
        /// The method.
        method: String,
    },
    /// Nobody named this host.
    #[error(
        "{host} was not named by you, so nothing is sent there\nhint: name its URL to allow it"
    )]
    Host {
        /// Host and port.
        host: String,
    },
    /// Load beyond this machine.
    #[error(
        "{host} is not this machine, so it gets one request at a time\n\
         hint: add --allow-load {host} if you may put load on it"
    )]
    Load {
        /// The host.
        host: String,
    },
}

/// Refuses methods other than GET, HEAD and OPTIONS without consent.
///
/// # Errors
/// [`Refusal::Mutating`].
pub fn refuse(method: &str, mutating_consent: bool) -> Result<(), Refusal> {
    // Methods are case-sensitive, and a `get` may be anything.
    if mutating_consent || matches!(method, "GET" | "HEAD" | "OPTIONS") {
        return Ok(());
    }
    Err(Refusal::Mutating { method: method.into() })
}

/// Refuses a request to a place that none of the requests in `named` goes to.
///
/// # Errors
/// [`Refusal::Host`].
pub fn refuse_host(request: &Request, named: &[Request]) -> Result<(), Refusal> {
    if named.iter().any(|n| is_same_place(n, request)) {
        return Ok(());
    }
    Err(Refusal::Host { host: request.host_port() })
}

/// Refuses more than one request in flight beyond this machine, unless the host was allowed.
///
/// # Errors
/// [`Refusal::Load`].
pub fn refuse_load(host: &str, in_flight: u32, allowed: &[String]) -> Result<(), Refusal> {
    let is_allowed = || allowed.iter().any(|a| a.eq_ignore_ascii_case(host));
    if in_flight <= 1 || is_loopback(host) || is_allowed() {
        return Ok(());
    }
    Err(Refusal::Load { host: host.into() })
}

/// Whether a host is this machine: `localhost` (RFC 6761 §6.3) or a loopback address.
pub fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let name = host.trim_end_matches('.');
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => ip.to_canonical().is_loopback(),
        Ok(ip) => ip.is_loopback(),
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}

/// Whether two requests go to the same service: same host and port, or the step from `http` to
/// `https` on the default ports of one host.
pub fn is_same_place(a: &Request, b: &Request) -> bool {
    let is_default = |r: &Request| match r.scheme {
        Scheme::Http => r.port == 80,
        Scheme::Https => r.port == 443,
    };
    a.host.eq_ignore_ascii_case(&b.host) && (a.port == b.port || is_default(a) && is_default(b))
}
