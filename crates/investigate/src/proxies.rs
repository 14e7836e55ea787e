//! Proxies between a launched service and its peers: calls without any privilege, and the delay
//! experiment.

use evidence::{Call, Redactor};
use std::time::Duration;
use wire::proxy::{Config, Proxy, rewrite_environment};

/// Schemes of URLs that name a peer we can read, with their default ports.
const SCHEMES: &[(&str, u16)] = &[
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("mysql2", 3306),
    ("mariadb", 3306),
    ("redis", 6379),
    ("memcached", 11211),
    ("http", 80),
];

/// The proxies of a run, each with its peer's `host:port`.
#[derive(Default)]
pub(crate) struct Proxies(Vec<(String, Proxy)>);

/// An environment with its peers' addresses replaced by our proxies'.
pub(crate) struct Rewritten {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) proxies: Proxies,
    /// What was rewritten or left alone, for the user.
    pub(crate) notes: Vec<String>,
}

impl Proxies {
    /// Starts a proxy for every peer that `environment` names by URL or by host and port.
    pub(crate) fn for_environment(environment: &[(String, String)], salt: u64) -> Rewritten {
        let mut environment = environment.to_vec();
        let mut proxies = Vec::new();
        let mut notes = Vec::new();
        for (host, port) in peers_of(&environment) {
            let upstream = format!("{host}:{port}");
            let proxy = match Proxy::start(Config::new(&upstream, Redactor::new(salt))) {
                Ok(proxy) => proxy,
                Err(e) => {
                    notes.push(format!("no proxy for {upstream}: {e}"));
                    continue;
                }
            };
            let new = rewrite_environment(&environment, (&host, port), proxy.address());
            for change in &new.changes {
                notes.push(format!("{}: {} goes through {}", change.variable, upstream, change.to));
            }
            for skipped in &new.skipped {
                notes.push(format!("{} left alone: {}", skipped.variable, skipped.reason));
            }
            if !new.changes.is_empty() {
                environment = new.environment;
                proxies.push((upstream, proxy));
            }
        }
        Rewritten { environment, proxies: Proxies(proxies), notes }
    }

    /// Calls that ended since the last time. Asked in a quiet gap.
    pub(crate) fn take_calls(&mut self) -> Vec<Call> {
        self.0
            .iter()
            .flat_map(|(_, proxy)| {
                proxy.flush();
                proxy.take_calls()
            })
            .collect()
    }

    /// Whether `peer` can be delayed.
    pub(crate) fn covers(&self, peer: &str) -> bool {
        self.of(peer).is_some()
    }

    /// Adds `delay_ms` to each round trip of `peer`; 0 takes it out.
    pub(crate) fn delay(&self, peer: &str, delay_ms: u32) {
        if let Some(proxy) = self.of(peer) {
            proxy.set_delay(Duration::from_millis(u64::from(delay_ms)));
        }
    }

    /// Whether there is any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether packets or system calls show what a proxy tells of anyway: the service talks to the
    /// proxy, or the proxy to the peer.
    pub(crate) fn tells(&self, call: &Call) -> bool {
        let address = call.peer.rsplit(' ').next().unwrap_or(&call.peer);
        let to_proxy = |p: &Proxy| is_same(&p.address().to_string(), address);
        self.0.iter().any(|(_, proxy)| to_proxy(proxy))
            || self.of(&call.peer).is_some_and(|proxy| proxy.owns_port(call.client_port))
    }

    /// Peers are named by protocol and address: `postgres 127.0.0.1:5432`.
    fn of(&self, peer: &str) -> Option<&Proxy> {
        let address = peer.rsplit(' ').next().unwrap_or(peer);
        self.0.iter().find(|(upstream, _)| is_same(upstream, address)).map(|(_, proxy)| proxy)
    }
}

fn is_same(a: &str, b: &str) -> bool {
    let plain = |s: &str| s.replace("localhost:", "127.0.0.1:");
    plain(a) == plain(b)
}

/// Peers that an environment names: by URL, or by `…HOST` and `…PORT`.
fn peers_of(environment: &[(String, String)]) -> Vec<(String, u16)> {
    let mut peers = Vec::new();
    let mut add = |peer: Option<(String, u16)>| {
        if let Some(peer) = peer.filter(|p| !peers.contains(p)) {
            peers.push(peer);
        }
    };
    for (name, value) in environment {
        let upper = name.to_ascii_uppercase();
        if upper.ends_with("_PROXY") || upper.starts_with("OTEL_") {
            continue;
        }
        add(peer_of_url(value));
        if let Some(stem) = upper.strip_suffix("HOST") {
            let port = environment
                .iter()
                .find(|(n, _)| n.to_ascii_uppercase() == format!("{stem}PORT"))
                .and_then(|(_, port)| port.trim().parse().ok());
            let is_host = !value.is_empty() && !value.contains(['/', ' ', '@']);
            add(port.filter(|_| is_host && !stem.is_empty()).map(|port| (value.clone(), port)));
        }
    }
    peers
}

fn peer_of_url(value: &str) -> Option<(String, u16)> {
    let (scheme, rest) = value.split_once("://")?;
    let scheme = scheme.rsplit(':').next().unwrap_or(scheme);
    let scheme = scheme.split('+').next().unwrap_or(scheme);
    let (_, default) = SCHEMES.iter().find(|(s, _)| s.eq_ignore_ascii_case(scheme))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit('@').next()?;
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (place, *default),
    };
    (!host.is_empty()).then(|| (host.to_string(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(environment: &[(&str, &str)], expected: &[(&str, u16)]) {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let expected: Vec<(String, u16)> =
            expected.iter().map(|(h, p)| (h.to_string(), *p)).collect();
        assert_eq!(peers_of(&environment), expected);
    }

    #[test]
    fn peers_are_found_where_they_are_named() {
        check(&[("DATABASE_URL", "postgres://u:p@db:6000/shop")], &[("db", 6000)]);
        check(&[("DATABASE_URL", "postgresql+psycopg2://db/shop")], &[("db", 5432)]);
        check(&[("JDBC", "jdbc:mysql://127.0.0.1/x")], &[("127.0.0.1", 3306)]);
        check(&[("PGHOST", "localhost"), ("PGPORT", "5433")], &[("localhost", 5433)]);
        check(&[("PGHOST", "/run/postgresql"), ("PGPORT", "5433")], &[]);
        check(&[("HTTP_PROXY", "http://proxy:3128"), ("HOST", "x"), ("PORT", "1")], &[]);
    }
}
