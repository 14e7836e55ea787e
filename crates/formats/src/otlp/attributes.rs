//! Attributes: the current semantic conventions' names, and only values that may be stored.
//!
//! Kept are names that say what a span did and to whom; statements, cache keys and URLs as
//! fingerprints. Everything else (headers, bodies, parameters, messages, user names) is left out:
//! what an application puts into its own attributes is not ours to write to disk.

use super::messages::{AnyValue, AnyValueKind, KeyValue};
use evidence::{Redactor, SqlDialect};
use std::collections::BTreeMap;

/// Longest statement that is read, bytes; a longer one is left out, not cut inside a literal.
const STATEMENT_LIMIT: usize = 256 << 10;
/// Longest other value, bytes.
const VALUE_LIMIT: usize = 1_024;

/// Old names and what they are called now (semantic conventions 1.23 to 1.33).
const RENAMED: &[(&str, &str)] = &[
    ("code.column", "code.column.number"),
    ("code.filepath", "code.file.path"),
    ("code.function", "code.function.name"),
    ("code.lineno", "code.line.number"),
    ("db.cassandra.table", "db.collection.name"),
    ("db.mongodb.collection", "db.collection.name"),
    ("db.name", "db.namespace"),
    ("db.operation", "db.operation.name"),
    ("db.redis.database_index", "db.namespace"),
    ("db.sql.table", "db.collection.name"),
    ("db.statement", "db.query.text"),
    ("db.system", "db.system.name"),
    ("http.host", "server.address"),
    ("http.method", "http.request.method"),
    ("http.request_content_length", "http.request.body.size"),
    ("http.response_content_length", "http.response.body.size"),
    ("http.scheme", "url.scheme"),
    ("http.status_code", "http.response.status_code"),
    ("http.target", "url.target"),
    ("http.url", "url.full"),
    ("messaging.destination", "messaging.destination.name"),
    ("messaging.operation", "messaging.operation.type"),
    ("net.host.name", "server.address"),
    ("net.host.port", "server.port"),
    ("net.peer.ip", "network.peer.address"),
    ("net.peer.name", "server.address"),
    ("net.peer.port", "server.port"),
    ("net.sock.peer.addr", "network.peer.address"),
    ("net.sock.peer.port", "network.peer.port"),
    ("net.transport", "network.transport"),
    ("pool.name", "db.client.connection.pool.name"),
    ("rpc.system", "rpc.system.name"),
];

/// Names that are kept as they are.
const KEPT: &[&str] = &[
    "code.column.number",
    "code.file.path",
    "code.function.name",
    "code.line.number",
    "code.namespace",
    "db.client.connection.pool.name",
    "db.collection.name",
    "db.namespace",
    "db.operation.batch.size",
    "db.operation.name",
    "db.response.returned_rows",
    "db.response.status_code",
    "db.stored_procedure.name",
    "error.type",
    "exception.type",
    "graphql.operation.name",
    "graphql.operation.type",
    "http.request.body.size",
    "http.request.method",
    "http.request.resend_count",
    "http.response.body.size",
    "http.response.status_code",
    "http.route",
    "messaging.destination.name",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.system",
    "network.peer.address",
    "network.peer.port",
    "network.protocol.name",
    "network.protocol.version",
    "network.transport",
    "peer.service",
    "rpc.grpc.status_code",
    "rpc.method",
    "rpc.service",
    "rpc.system.name",
    "server.address",
    "server.port",
    "thread.id",
    "thread.name",
    "url.scheme",
    "url.template",
];

/// Old system names and what they are called now.
const SYSTEMS: &[(&str, &str)] = &[
    ("cache", "intersystems.cache"),
    ("cosmosdb", "azure.cosmosdb"),
    ("db2", "ibm.db2"),
    ("dynamodb", "aws.dynamodb"),
    ("mssql", "microsoft.sql_server"),
    ("oracle", "oracle.db"),
    ("postgres", "postgresql"),
    ("spanner", "gcp.spanner"),
];

/// Attributes of a span under their current names, redacted. Where old and new name are both
/// there, the new one wins.
pub(super) fn normalised(
    attributes: Vec<KeyValue>,
    redactor: &Redactor,
) -> BTreeMap<String, String> {
    let mut raw = BTreeMap::new();
    for KeyValue { key, value } in attributes {
        let Some(text) = value.and_then(text_of) else { continue };
        match RENAMED.iter().find(|(old, _)| *old == key) {
            Some((_, new)) => {
                raw.entry((*new).to_string()).or_insert((false, text));
            }
            None => {
                let entry = raw.entry(key).or_insert_with(|| (true, text.clone()));
                if !entry.0 {
                    *entry = (true, text);
                }
            }
        }
    }
    if let Some((new, target)) = raw.remove("url.target") {
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        raw.entry("url.path".into()).or_insert((new, path.to_string()));
        raw.entry("url.query".into()).or_insert((new, query.to_string()));
    }
    let system = raw.get("db.system.name").map(|v| system_name(&v.1)).unwrap_or_default();
    let mut out = BTreeMap::new();
    for (key, (_, text)) in raw {
        if let Some((key, text)) = stored(key, text, &system, redactor) {
            out.entry(key).or_insert(text);
        }
    }
    out
}

fn system_name(text: &str) -> String {
    let name = text.to_ascii_lowercase();
    let new = SYSTEMS.iter().find(|(old, _)| *old == name).map(|(_, new)| (*new).to_string());
    new.unwrap_or(name)
}

/// What is stored of one attribute.
fn stored(
    key: String,
    text: String,
    system: &str,
    redactor: &Redactor,
) -> Option<(String, String)> {
    let text = match key.as_str() {
        "db.system.name" => system.to_string(),
        "db.query.text" => statement(&text, system, redactor)?,
        "url.full" => url(&text, redactor),
        "url.path" => path(&text, redactor),
        "url.query" => parameters(&text, redactor)?,
        // Which value it was is nobody's; whether two are equal tells an N+1 from a repetition.
        _ if key.starts_with(evidence::SPAN_PARAMETER) => {
            format!("{:016x}", redactor.hash_text(text.as_bytes()))
        }
        _ if KEPT.contains(&key.as_str()) => text,
        _ => return None,
    };
    let text = if key == "db.query.text" { text } else { cut(text) };
    Some((key, text))
}

fn cut(mut text: String) -> String {
    let mut end = VALUE_LIMIT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// A statement's fingerprint by what its system speaks; none when it is too long or its language
/// is not known, where literals could not be told from names.
pub(super) fn statement(text: &str, system: &str, redactor: &Redactor) -> Option<String> {
    if text.len() > STATEMENT_LIMIT {
        return None;
    }
    let fingerprint = match system {
        "redis" | "valkey" | "memcached" => return Some(command(text, redactor)),
        "mysql" | "mariadb" => redactor.sql_in(text, SqlDialect::Mysql).0,
        "mongodb" | "elasticsearch" | "opensearch" | "couchbase" | "couchdb" | "neo4j" => {
            return None;
        }
        _ => redactor.sql(text).0,
    };
    (!fingerprint.is_empty()).then_some(fingerprint)
}

/// `GET user:?` of `GET user:17 …`: the command and its first key as a template.
fn command(text: &str, redactor: &Redactor) -> String {
    let mut words = text.split_whitespace();
    let word = |w: &str| w.len() <= 32 && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let verb = words.next().filter(|w| word(w)).unwrap_or("?").to_ascii_uppercase();
    let secret = ["AUTH", "HELLO", "EVAL", "EVALSHA", "CONFIG", "ACL", "SCRIPT", "FUNCTION"];
    match words.next().filter(|_| !secret.contains(&verb.as_str())) {
        Some(key) => format!("{verb} {}", redactor.cache_key(key)),
        None => verb,
    }
}

/// A URL without user info, ids and query: `http://h.io/orders/{id}`.
fn url(text: &str, redactor: &Redactor) -> String {
    let authority = text.find("://").map_or(0, |n| n + 3);
    let end = text[authority..].find(['/', '?', '#']).map_or(text.len(), |n| authority + n);
    let host = text[authority..end].rsplit('@').next().unwrap_or_default();
    format!("{}{host}{}", &text[..authority], path(&text[end..], redactor))
}

/// A path with its variable segments as `{id}`. The redactor's own `?` would look like a query.
fn path(text: &str, redactor: &Redactor) -> String {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let fingerprint = redactor.url_path(path);
    let segments = fingerprint.split('/').map(|s| if s == "?" { "{id}" } else { s });
    segments.collect::<Vec<_>>().join("/")
}

/// A query with names only: `page=?&limit=?`.
fn parameters(query: &str, redactor: &Redactor) -> Option<String> {
    let fingerprint = redactor.url_path(&format!("/?{query}"));
    fingerprint.strip_prefix("/?").filter(|q| !q.is_empty()).map(str::to_string)
}

/// A span's name with what looks like a statement or a URL's query redacted.
pub(super) fn span_name(
    name: String,
    attributes: &BTreeMap<String, String>,
    redactor: &Redactor,
) -> String {
    const VERBS: [&str; 8] =
        ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "CALL", "MERGE", "REPLACE"];
    let first = name.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let literal = name.contains(['\'', '"', '=']) || name.bytes().any(|b| b.is_ascii_digit());
    let system = attributes.get("db.system.name").map_or("", String::as_str);
    if (VERBS.contains(&first.as_str()) || !system.is_empty()) && literal {
        let short = statement(&name, system, redactor);
        return cut(short.unwrap_or(first));
    }
    match name.find(['?', '#']) {
        Some(query) if name.contains('/') => cut(name[..query].to_string()),
        _ => cut(name),
    }
}

/// A value as text: numbers in decimal, lists and maps as JSON; bytes are left out.
pub(super) fn text_of(value: AnyValue) -> Option<String> {
    match value.value? {
        AnyValueKind::StringValue(text) => Some(text),
        AnyValueKind::BoolValue(value) => Some(value.to_string()),
        AnyValueKind::IntValue(value) => Some(value.to_string()),
        AnyValueKind::DoubleValue(value) => Some(value.to_string()),
        AnyValueKind::ArrayValue(list) => {
            let texts = list.values.into_iter().filter_map(text_of).take(64);
            Some(serde_json::Value::from_iter(texts).to_string())
        }
        AnyValueKind::KvlistValue(_) | AnyValueKind::BytesValue(_) => None,
    }
}
