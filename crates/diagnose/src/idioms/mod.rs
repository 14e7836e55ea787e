//! Fixes in the idiom of the framework found: one data file a framework, never a branch in a rule.
//!
//! A file names its library word (as in `Service.libraries`), the runtimes and protocols it speaks
//! of, its rank (an object mapper above a query builder above a driver), and per [`Remedy`] a
//! summary and a patch. `«name»` in them is filled in from the statement and its tables.

use crate::case::Case;
use evidence::Protocol;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What is done about a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// One statement for all rows instead of one each.
    BatchRead,
    /// One grouped aggregate instead of one for each row.
    Aggregate,
    /// One statement that writes all rows.
    BatchWrite,
    /// Run it once per request and keep the answer.
    Once,
    /// Make one statement fast.
    Explain,
    /// One round trip for many cache commands.
    Pipeline,
    /// Independent calls at the same time.
    Parallel,
    /// Do not wait for a slow peer: time limit, cache, or off the path.
    ShieldCall,
    /// Make the computation cheaper or keep its result.
    LessCpu,
    /// Make the computation cheaper or keep its result; what must stay, off the event loop.
    OffLoop,
    /// One flush for many writes.
    OneSync,
    /// Wait for an event instead of a fixed time.
    NoSleep,
    /// Send the answer in one piece.
    WholeAnswer,
}

impl Remedy {
    /// All remedies.
    pub const ALL: [Remedy; 13] = [
        Remedy::BatchRead,
        Remedy::Aggregate,
        Remedy::BatchWrite,
        Remedy::Once,
        Remedy::Explain,
        Remedy::Pipeline,
        Remedy::Parallel,
        Remedy::ShieldCall,
        Remedy::LessCpu,
        Remedy::OffLoop,
        Remedy::OneSync,
        Remedy::NoSleep,
        Remedy::WholeAnswer,
    ];

    /// Key in the data files.
    pub fn key(self) -> &'static str {
        match self {
            Remedy::BatchRead => "batch-read",
            Remedy::Aggregate => "aggregate",
            Remedy::BatchWrite => "batch-write",
            Remedy::Once => "once",
            Remedy::Explain => "explain",
            Remedy::Pipeline => "pipeline",
            Remedy::Parallel => "parallel",
            Remedy::ShieldCall => "shield-call",
            Remedy::LessCpu => "less-cpu",
            Remedy::OffLoop => "off-loop",
            Remedy::OneSync => "one-sync",
            Remedy::NoSleep => "no-sleep",
            Remedy::WholeAnswer => "whole-answer",
        }
    }
}

/// The words of a fix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Text {
    /// One sentence.
    pub summary: String,
    /// Patch or recipe.
    pub patch: String,
}

#[derive(Debug, Deserialize)]
struct Idiom {
    library: String,
    #[serde(default)]
    runtimes: Vec<String>,
    #[serde(default)]
    protocols: Vec<String>,
    rank: u8,
    #[serde(default)]
    remedy: BTreeMap<String, Text>,
}

/// The data files. `generic` has every remedy, so there is always an answer.
const FILES: &[(&str, &str)] = &[
    ("asyncio", include_str!("asyncio.toml")),
    ("database-sql", include_str!("database-sql.toml")),
    ("django", include_str!("django.toml")),
    ("generic", include_str!("generic.toml")),
    ("go", include_str!("go.toml")),
    ("go-redis", include_str!("go-redis.toml")),
    ("ioredis", include_str!("ioredis.toml")),
    ("knex", include_str!("knex.toml")),
    ("mysql2", include_str!("mysql2.toml")),
    ("node", include_str!("node.toml")),
    ("node-redis", include_str!("node-redis.toml")),
    ("pg", include_str!("pg.toml")),
    ("pgx", include_str!("pgx.toml")),
    ("psycopg", include_str!("psycopg.toml")),
    ("psycopg2", include_str!("psycopg2.toml")),
    ("pymysql", include_str!("pymysql.toml")),
    ("python", include_str!("python.toml")),
    ("redis-py", include_str!("redis-py.toml")),
    ("sequelize", include_str!("sequelize.toml")),
    ("sqlalchemy", include_str!("sqlalchemy.toml")),
    ("sqlx", include_str!("sqlx.toml")),
];

fn idioms() -> Vec<Idiom> {
    // The files are part of the program and a test parses each one.
    FILES.iter().filter_map(|(_, text)| toml::from_str(text).ok()).collect()
}

/// Words of the fix for `remedy`, in the most specific idiom that the service uses.
pub fn write(
    case: &Case,
    peer: &str,
    protocol: Protocol,
    remedy: Remedy,
    values: &BTreeMap<&str, String>,
) -> Text {
    let service = case.service(Some(peer));
    let libraries: &[String] = service.map_or(&[], |s| &s.libraries);
    choose(libraries, case.runtime(), protocol, remedy, values)
}

/// As [`write`], from the facts themselves.
pub fn choose(
    libraries: &[String],
    runtime: &str,
    protocol: Protocol,
    remedy: Remedy,
    values: &BTreeMap<&str, String>,
) -> Text {
    let fits = |i: &Idiom| {
        let library =
            i.library == "generic" || i.library == runtime || libraries.contains(&i.library);
        let by_runtime = i.runtimes.is_empty() || i.runtimes.iter().any(|r| r == runtime);
        let by_protocol =
            i.protocols.is_empty() || i.protocols.iter().any(|p| p == protocol.word());
        library && by_runtime && by_protocol && i.remedy.contains_key(remedy.key())
    };
    let best = idioms().into_iter().filter(fits).max_by_key(|i| i.rank);
    let text = best.and_then(|mut i| i.remedy.remove(remedy.key()));
    let Some(text) = text else {
        return Text { summary: remedy.key().replace('-', " "), patch: String::new() };
    };
    Text { summary: fill(&text.summary, values), patch: fill(text.patch.trim_end(), values) }
}

/// Fills `«name»`; a name without a value loses only its marks.
fn fill(template: &str, values: &BTreeMap<&str, String>) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(open) = rest.find('«') {
        out.push_str(&rest[..open]);
        rest = &rest[open + '«'.len_utf8()..];
        let Some(close) = rest.find('»') else { break };
        let name = &rest[..close];
        out.push_str(values.get(name).map_or(name, String::as_str));
        rest = &rest[close + '»'.len_utf8()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_knows_its_remedies() {
        for (name, text) in FILES {
            let idiom: Idiom = toml::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            for key in idiom.remedy.keys() {
                assert!(Remedy::ALL.iter().any(|r| r.key() == key), "{name}: unknown {key}");
            }
        }
    }

    #[test]
    fn generic_has_every_remedy() {
        let all = idioms();
        let generic = all.iter().find(|i| i.library == "generic").expect("generic");
        for r in Remedy::ALL {
            assert!(generic.remedy.contains_key(r.key()), "{}", r.key());
        }
    }

    #[test]
    fn the_mapper_wins_over_its_driver() {
        let libraries = ["psycopg2".to_string(), "django".to_string()];
        let text = choose(
            &libraries,
            "python",
            Protocol::Postgres,
            Remedy::BatchRead,
            &BTreeMap::from([("class", "OrderItem".to_string())]),
        );
        assert!(text.patch.contains("prefetch_related"), "{}", text.patch);
    }

    #[test]
    fn a_sleep_is_not_located_but_searched_for() {
        let words = [("node", "setTimeout"), ("python", "time.sleep"), ("go", "time.Sleep")];
        for (runtime, word) in words.into_iter().chain([("jvm", "sleep")]) {
            let text = choose(&[], runtime, Protocol::Opaque, Remedy::NoSleep, &BTreeMap::new());
            let place = text.patch.lines().next().unwrap_or_default();
            assert!(place.contains("where: not observed; search"), "{runtime}: {place}");
            assert!(place.contains(word), "{runtime}: {place}");
        }
    }

    #[test]
    fn placeholders_are_filled() {
        let values = BTreeMap::from([("a", "1".to_string())]);
        assert_eq!(fill("x «a» «b» {c}", &values), "x 1 b {c}");
    }
}
