//! Rewriting the environment of a service we launch, so that it meets the proxy instead of the
//! peer. Conservative: a variable is changed only where its value names the peer's host *and* port;
//! what looks like the peer but is not certain is left alone and reported.

use std::net::SocketAddr;

/// A variable that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Its name. The value is not repeated: it may hold a password.
    pub variable: String,
    /// Host and port it named.
    pub from: String,
    /// Host and port it names now.
    pub to: String,
}

/// A variable that seems to name the peer and was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub variable: String,
    /// Why, and what would help.
    pub reason: String,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The whole environment, changed.
    pub environment: Vec<(String, String)>,
    /// What was changed. Empty: the service does not find this peer through its environment.
    pub changes: Vec<Rewrite>,
    /// What was left alone.
    pub skipped: Vec<Skipped>,
}

/// Ends of names whose value may be `host:port`.
const ADDRESS_NAMES: [&str; 10] =
    ["HOST", "HOSTS", "ADDR", "ADDRESS", "SERVER", "SERVERS", "ENDPOINT", "URL", "URI", "NODES"];

/// Ends of names whose value may be a host.
const HOST_NAMES: [&str; 4] = ["HOSTNAME", "HOSTADDR", "HOST", "SERVER"];

/// Rewrites URLs (`DATABASE_URL`, `REDIS_URL`, `jdbc:…`), pairs (`PGHOST` and `PGPORT`, `DB_HOST`
/// and `DB_PORT`, `MYSQL_…`), connection strings (`host=… port=…`, `tcp(host:port)`) and plain
/// `host:port` from the peer `(host, port)` to `proxy`. Pure.
pub fn rewrite_environment(
    environment: &[(String, String)],
    peer: (&str, u16),
    proxy: SocketAddr,
) -> Rewritten {
    let mut result = Rewritten { environment: environment.to_vec(), ..Rewritten::default() };
    let task = Task { host: peer.0, port: peer.1, proxy };
    for (name, value) in &mut result.environment {
        let upper = name.to_ascii_uppercase();
        if upper.ends_with("_PROXY") || upper == "PATH" {
            continue;
        }
        match task.value(&upper, value) {
            Outcome::Same => {}
            Outcome::Changed(new) => {
                *value = new;
                result.changes.push(task.change(name));
            }
            Outcome::Refused(reason) => {
                result.skipped.push(Skipped { variable: name.clone(), reason });
            }
        }
    }
    task.pairs(&mut result);
    result
}

struct Task<'a> {
    host: &'a str,
    port: u16,
    proxy: SocketAddr,
}

enum Outcome {
    Same,
    Changed(String),
    Refused(String),
}

impl Task<'_> {
    fn change(&self, name: &str) -> Rewrite {
        Rewrite {
            variable: name.to_owned(),
            from: format!("{}:{}", self.host, self.port),
            to: self.proxy.to_string(),
        }
    }

    /// Whether a host in the environment is the peer's: equal, or both loopback.
    fn is_host(&self, host: &str) -> bool {
        let plain = |h: &str| h.trim_matches(['[', ']']).to_ascii_lowercase();
        let loopback = |h: &str| matches!(h, "localhost" | "127.0.0.1" | "::1");
        let (a, b) = (plain(host), plain(self.host));
        a == b || (loopback(&a) && loopback(&b))
    }

    /// Whether `text` is the peer's `host:port`.
    fn is_address(&self, text: &str, default_port: Option<u16>) -> bool {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (text, default_port),
        };
        port == Some(self.port) && self.is_host(host)
    }

    fn value(&self, name: &str, value: &str) -> Outcome {
        if value.contains("://") {
            return self.url(value);
        }
        if let Some(new) = self.go_dsn(value).or_else(|| self.keywords(value)) {
            return Outcome::Changed(new);
        }
        if ADDRESS_NAMES.iter().any(|n| name.ends_with(n)) {
            let parts: Vec<&str> = value.split([',', ';', ' ']).collect();
            if parts.iter().any(|p| self.is_address(p, None)) {
                return Outcome::Changed(self.replace_addresses(value));
            }
        }
        Outcome::Same
    }

    fn replace_addresses(&self, list: &str) -> String {
        let proxy = self.proxy.to_string();
        let mut out = String::new();
        for piece in list.split_inclusive([',', ';', ' ']) {
            let address = piece.trim_end_matches([',', ';', ' ']);
            if self.is_address(address, None) {
                out.push_str(&proxy);
                out.push_str(&piece[address.len()..]);
            } else {
                out.push_str(piece);
            }
        }
        out
    }

    /// `scheme://user:password@host:port,host:port/path?query`.
    fn url(&self, value: &str) -> Outcome {
        let Some((scheme, rest)) = value.split_once("://") else { return Outcome::Same };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let default = default_port(scheme);
        if !hosts.split(',').any(|h| self.is_address(h, default)) {
            return Outcome::Same;
        }
        let last = scheme.rsplit(':').next().unwrap_or(scheme);
        let secure = matches!(last, "https" | "rediss" | "wss");
        if secure || tail.contains("verify-full") || tail.contains("verify-ca") {
            let reason = "its TLS certificate names the peer, not the proxy; \
                          use capture, or turn verification off for this run";
            return Outcome::Refused(reason.into());
        }
        let proxy = self.proxy.to_string();
        let hosts: Vec<&str> = hosts
            .split(',')
            .map(|h| if self.is_address(h, default) { proxy.as_str() } else { h })
            .collect();
        Outcome::Changed(format!("{scheme}://{user}{}{tail}", hosts.join(",")))
    }

    /// Go's MySQL form: `user:password@tcp(host:port)/database`.
    fn go_dsn(&self, value: &str) -> Option<String> {
        let start = value.find("tcp(")? + 4;
        let end = start + value[start..].find(')')?;
        let default = Some(3306);
        self.is_address(&value[start..end], default)
            .then(|| format!("{}{}{}", &value[..start], self.proxy, &value[end..]))
    }

    /// `host=… port=…` separated by spaces or semicolons, in any order.
    fn keywords(&self, value: &str) -> Option<String> {
        let mut host = None;
        let mut port = None;
        let mut at = 0;
        for piece in value.split_inclusive([' ', ';']) {
            let pair = piece.trim_end_matches([' ', ';']);
            if let Some((key, content)) = pair.split_once('=') {
                let range = at + key.len() + 1..at + key.len() + 1 + content.len();
                match key.trim().to_ascii_lowercase().as_str() {
                    "host" | "server" | "hostaddr" => host = Some(range),
                    "port" => port = Some(range),
                    _ => {}
                }
            }
            at += piece.len();
        }
        let (host, port) = (host?, port?);
        let found =
            self.is_host(&value[host.clone()]) && value[port.clone()].parse() == Ok(self.port);
        if !found {
            return None;
        }
        let mut edits =
            [(host, self.proxy.ip().to_string()), (port, self.proxy.port().to_string())];
        edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        let mut out = value.to_owned();
        for (range, new) in edits {
            out.replace_range(range, &new);
        }
        Some(out)
    }

    /// `X_HOST` with `X_PORT` beside it, or implied.
    fn pairs(&self, result: &mut Rewritten) {
        let hosts: Vec<(usize, String)> = result
            .environment
            .iter()
            .enumerate()
            .filter(|(_, (_, value))| self.is_host(value))
            .filter_map(|(i, (name, _))| Some((i, port_name(name)?)))
            .collect();
        for (i, port_name) in hosts {
            let name = result.environment[i].0.clone();
            let port = result.environment.iter().position(|(n, _)| *n == port_name);
            let ip = self.proxy.ip().to_string();
            match port {
                Some(p) if result.environment[p].1.trim().parse() == Ok(self.port) => {
                    result.environment[p].1 = self.proxy.port().to_string();
                    result.environment[i].1 = ip;
                }
                Some(_) => continue,
                None if implied_port(&name) != Some(self.port) => continue,
                // libpq honours PGPORT; of others it is not known, and a host alone would mislead
                // unless it stays the same host.
                None if name.starts_with("PG") || self.is_host(&ip) => {
                    result.environment.push((port_name, self.proxy.port().to_string()));
                    result.environment[i].1 = ip;
                }
                None => {
                    let reason =
                        format!("no {port_name} beside it: set one to let it be rewritten");
                    result.skipped.push(Skipped { variable: name, reason });
                    continue;
                }
            }
            result.changes.push(self.change(&name));
        }
    }
}

/// Name of the port variable that belongs to a host variable. `HOST` alone is where the service
/// itself listens.
fn port_name(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let end = HOST_NAMES.iter().find(|n| upper.ends_with(**n))?;
    let prefix = &name[..name.len() - end.len()];
    if prefix.trim_matches('_').is_empty() {
        return None;
    }
    let lower = name.ends_with(|c: char| c.is_ascii_lowercase());
    Some(format!("{prefix}{}", if lower { "port" } else { "PORT" }))
}

fn default_port(scheme: &str) -> Option<u16> {
    // `jdbc:postgresql`, `postgresql+psycopg2`.
    let scheme = scheme.rsplit(':').next()?.split('+').next()?;
    Some(match scheme.to_ascii_lowercase().as_str() {
        "postgres" | "postgresql" | "pgsql" | "postgis" => 5432,
        "mysql" | "mysql2" | "mariadb" => 3306,
        "redis" | "rediss" | "valkey" => 6379,
        "memcached" | "memcache" => 11211,
        "http" => 80,
        "https" => 443,
        _ => return None,
    })
}

fn implied_port(name: &str) -> Option<u16> {
    let upper = name.to_ascii_uppercase();
    let has = |word: &str| upper.contains(word);
    if upper.starts_with("PG") || has("POSTGRES") {
        Some(5432)
    } else if has("MYSQL") || has("MARIADB") {
        Some(3306)
    } else if has("REDIS") || has("VALKEY") {
        Some(6379)
    } else if has("MEMCACHE") {
        Some(11211)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: (&str, u16), before: &[(&str, &str)], after: &[(&str, &str)]) {
        let own = |v: &[(&str, &str)]| -> Vec<(String, String)> {
            v.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        let proxy = SocketAddr::from(([127, 0, 0, 1], 4000));
        let got = rewrite_environment(&own(before), peer, proxy);
        assert_eq!(got.environment, own(after));
        let changed = before != after;
        assert_eq!(!got.changes.is_empty(), changed, "{:?}", got.changes);
    }

    const PG: (&str, u16) = ("127.0.0.1", 5432);

    #[test]
    fn urls() {
        let url = |a: &str, b: &str| check(PG, &[("DATABASE_URL", a)], &[("DATABASE_URL", b)]);
        url("postgres://u:p%40@localhost:5432/x?a=b", "postgres://u:p%40@127.0.0.1:4000/x?a=b");
        url("postgresql+psycopg2://u@127.0.0.1/x", "postgresql+psycopg2://u@127.0.0.1:4000/x");
        url("jdbc:postgresql://[::1]:5432/x", "jdbc:postgresql://127.0.0.1:4000/x");
        url("postgres://db.example:5432/x", "postgres://db.example:5432/x");
        url("postgres://localhost:5433/x", "postgres://localhost:5433/x");
        url("mysql://localhost/x", "mysql://localhost/x");
        url("postgres://a:1,localhost:5432/x", "postgres://a:1,127.0.0.1:4000/x");
        url("host=localhost port=5432 dbname=x", "host=127.0.0.1 port=4000 dbname=x");
        url("Port=5432;Server=localhost;Pwd=a", "Port=4000;Server=127.0.0.1;Pwd=a");
        url(
            "postgres://localhost/x?sslmode=verify-full",
            "postgres://localhost/x?sslmode=verify-full",
        );
        let my = ("127.0.0.1", 3306);
        check(my, &[("DSN", "u:p@tcp(localhost:3306)/x")], &[("DSN", "u:p@tcp(127.0.0.1:4000)/x")]);
    }

    #[test]
    fn pairs_and_lists() {
        check(
            PG,
            &[("PGHOST", "localhost"), ("PGPORT", "5432"), ("HOST", "127.0.0.1"), ("PORT", "5432")],
            &[("PGHOST", "127.0.0.1"), ("PGPORT", "4000"), ("HOST", "127.0.0.1"), ("PORT", "5432")],
        );
        check(PG, &[("PGHOST", "localhost")], &[("PGHOST", "127.0.0.1"), ("PGPORT", "4000")]);
        check(
            PG,
            &[("DB_HOST", "localhost"), ("DB_PORT", "5432")],
            &[("DB_HOST", "127.0.0.1"), ("DB_PORT", "4000")],
        );
        check(PG, &[("DB_HOST", "localhost")], &[("DB_HOST", "localhost")]);
        check(("10.0.0.5", 6379), &[("REDIS_HOST", "10.0.0.5")], &[("REDIS_HOST", "10.0.0.5")]);
        check(
            ("127.0.0.1", 11211),
            &[("MEMCACHED_SERVERS", "a:1,localhost:11211"), ("X", "localhost:11211")],
            &[("MEMCACHED_SERVERS", "a:1,127.0.0.1:4000"), ("X", "localhost:11211")],
        );
        check(
            ("127.0.0.1", 80),
            &[("http_proxy", "http://localhost:80")],
            &[("http_proxy", "http://localhost:80")],
        );
    }

    #[test]
    fn what_is_left_alone_is_reported() {
        let env = [("DATABASE_URL".to_owned(), "https://localhost:5432/".to_owned())];
        let got = rewrite_environment(&env, PG, SocketAddr::from(([127, 0, 0, 1], 4000)));
        assert_eq!(got.skipped.len(), 1);
        assert_eq!(got.environment, env);
    }
}
