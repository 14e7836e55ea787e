//! Libraries that decide the idiom of a fix, from manifests, loaded modules and build information.

use super::{proc, runtime};
use std::fs;
use std::path::{Path, PathBuf};

/// npm packages and the name they go by in reports.
const NODE: [(&str, &str); 16] = [
    ("sequelize", "sequelize"),
    ("typeorm", "typeorm"),
    ("@prisma/client", "prisma"),
    ("knex", "knex"),
    ("objection", "objection"),
    ("drizzle-orm", "drizzle"),
    ("pg", "pg"),
    ("postgres", "postgres"),
    ("mysql2", "mysql2"),
    ("mysql", "mysql"),
    ("ioredis", "ioredis"),
    ("redis", "redis"),
    ("memjs", "memjs"),
    ("express", "express"),
    ("fastify", "fastify"),
    ("koa", "koa"),
];

/// Python packages by folder name.
const PYTHON: [&str; 17] = [
    "django",
    "sqlalchemy",
    "flask_sqlalchemy",
    "peewee",
    "tortoise",
    "psycopg2",
    "psycopg",
    "asyncpg",
    "pymysql",
    "MySQLdb",
    "mysql",
    "aiomysql",
    "redis",
    "pymemcache",
    "flask",
    "fastapi",
    "gunicorn",
];

/// Go modules by the part of their path that names them.
const GO: [(&str, &str); 9] = [
    ("gorm.io/gorm", "gorm"),
    ("entgo.io/ent", "ent"),
    ("github.com/jmoiron/sqlx", "sqlx"),
    ("github.com/jackc/pgx", "pgx"),
    ("github.com/lib/pq", "lib/pq"),
    ("github.com/go-sql-driver/mysql", "go-sql-driver/mysql"),
    ("github.com/redis/go-redis", "go-redis"),
    ("github.com/go-redis/redis", "go-redis"),
    ("github.com/gin-gonic/gin", "gin"),
];

/// Python sources read to see what is imported, at most, and how deep below the process's folder.
const SOURCES: usize = 400;
const DEPTH: u32 = 3;

/// Manifests and sources larger than this are not read.
const MANIFEST_LIMIT: u64 = 1 << 20;

/// Libraries of a process of the named runtime, those it asks for itself first.
pub(crate) fn of(pid: i32, runtime_name: &str) -> Vec<String> {
    let mut found = match runtime_name {
        "node" => node(pid),
        "python" => python(pid),
        "go" => go(pid),
        _ => Vec::new(),
    };
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|name| seen.insert(name.clone()));
    found
}

fn read_manifest(path: &Path) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    (size <= MANIFEST_LIMIT).then(|| fs::read_to_string(path).ok()).flatten()
}

/// Folders in which a Node process looks for its packages: of its main script and its working
/// directory, and their parents.
fn node_folders(pid: i32) -> Vec<PathBuf> {
    let directory = proc::directory(pid);
    let script = proc::command(pid).into_iter().skip(1).find(|a| !a.starts_with('-'));
    let script = script.map(PathBuf::from).map(|s| match (&directory, s.is_absolute()) {
        (Some(d), false) => d.join(s),
        _ => s,
    });
    let mut out: Vec<PathBuf> = Vec::new();
    for start in script.as_deref().and_then(Path::parent).into_iter().chain(directory.as_deref()) {
        for folder in start.ancestors() {
            if !out.iter().any(|o| o == folder) {
                out.push(folder.to_owned());
            }
        }
    }
    out
}

fn node(pid: i32) -> Vec<String> {
    let (mut asked, mut present) = (Vec::new(), Vec::new());
    for folder in node_folders(pid) {
        let folder = proc::inside(pid, &folder);
        let manifest = read_manifest(&folder.join("package.json"));
        if let Some(json) =
            manifest.and_then(|t| serde_json::from_str::<serde_json::Value>(&t).ok())
        {
            let has = |name: &str| json.get("dependencies").is_some_and(|d| d.get(name).is_some());
            asked.extend(NODE.iter().filter(|n| has(n.0)).map(|n| n.1.to_owned()));
        }
        let modules = folder.join("node_modules");
        if modules.is_dir() {
            let has = |name: &str| modules.join(name).join("package.json").is_file();
            present.extend(NODE.iter().filter(|n| has(n.0)).map(|n| n.1.to_owned()));
        }
    }
    asked.extend(present);
    asked
}

/// Folder of installed packages a path lies in.
fn site_of(path: &str) -> Option<&str> {
    ["/site-packages/", "/dist-packages/"]
        .iter()
        .find_map(|part| path.find(part).map(|at| &path[..at + part.len()]))
}

fn python(pid: i32) -> Vec<String> {
    let mut sites: Vec<String> = Vec::new();
    let mut loaded = Vec::new();
    for file in proc::mapped_files(pid) {
        let Some(site) = site_of(&file) else { continue };
        let package = file[site.len()..].split('/').next().unwrap_or("");
        loaded.extend(PYTHON.iter().filter(|p| **p == package).map(|p| (*p).to_owned()));
        if !sites.iter().any(|s| s == site) {
            sites.push(site.to_owned());
        }
    }
    sites.extend(environment_sites(pid));
    let named = named_by_sources(pid);
    for site in sites {
        let folder = proc::inside(pid, Path::new(&site));
        let here = PYTHON.iter().filter(|p| folder.join(p).is_dir());
        // What is installed may belong to something else, where the sources can be asked.
        let used = here.filter(|p| named.as_ref().is_none_or(|n| n.iter().any(|name| name == *p)));
        loaded.extend(used.map(|p| (*p).to_owned()));
    }
    loaded
}

/// Packages that the sources below a process's folder import, or its requirements name; `None`
/// where there are no sources.
fn named_by_sources(pid: i32) -> Option<Vec<&'static str>> {
    let start = proc::directory(pid)?;
    let script = proc::command(pid).into_iter().skip(1).find(|a| a.ends_with(".py"));
    let beside = script.map(|s| start.join(s)).and_then(|s| Some(s.parent()?.to_owned()));
    let mut folders = vec![(start, 0)];
    folders.extend(beside.map(|b| (b, 0)));
    folders.retain(|(f, _)| f.parent().is_some());
    let (mut texts, mut left) = (Vec::new(), SOURCES);
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(proc::inside(pid, &folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
            let foreign = name.starts_with('.') || name.contains("env") || name == "node_modules";
            if is_folder && !foreign && depth < DEPTH {
                folders.push((folder.join(&name), depth + 1));
            } else if !is_folder && is_python_source(&name) && left > 0 {
                left -= 1;
                texts.extend(read_manifest(&entry.path()).map(|text| folded(&text)));
            }
        }
    }
    let beneath = |p: &str| (p == "sqlalchemy").then_some("flask_sqlalchemy");
    let named = |p: &&&str| {
        let through = beneath(p);
        texts.iter().any(|t| names(t, p) || through.is_some_and(|by| names(t, by)))
    };
    (!texts.is_empty()).then(|| PYTHON.iter().filter(named).copied().collect())
}

fn is_python_source(name: &str) -> bool {
    name.ends_with(".py")
        || name.starts_with("requirements") && name.ends_with(".txt")
        || ["pyproject.toml", "Pipfile", "setup.cfg"].contains(&name)
}

/// Lower case, `_` for `-`: distributions write their names one way or the other.
fn folded(text: &str) -> String {
    text.to_ascii_lowercase().replace('-', "_")
}

/// Whether a folded text imports a package or asks for it: the name as a word that begins a line or
/// follows `import`, `from`, a quote or a comma.
fn names(folded: &str, package: &str) -> bool {
    let package = package.to_ascii_lowercase();
    folded.match_indices(&package).any(|(at, _)| {
        let before = folded[..at].trim_end_matches([' ', '\t']);
        let starts = before.is_empty()
            || before.ends_with(['\n', '"', '\'', ','])
            || before.ends_with("import")
            || before.ends_with("from");
        let after = folded[at + package.len()..].chars().next();
        let word_goes_on = after.is_some_and(|c| c.is_alphanumeric() || c == '_');
        // `psycopg2_binary` is how psycopg2 is asked for.
        starts && (!word_goes_on || folded[at + package.len()..].starts_with("_binary"))
    })
}

/// Package folders of the virtual environment a process was started from.
fn environment_sites(pid: i32) -> Vec<String> {
    let mut roots: Vec<PathBuf> =
        proc::environment(pid, "VIRTUAL_ENV").map(PathBuf::from).into_iter().collect();
    for argument in proc::command(pid).iter().take(2) {
        let path = Path::new(argument);
        if path.is_absolute() && path.parent().is_some_and(|p| p.ends_with("bin")) {
            roots.extend(path.ancestors().nth(2).map(Path::to_owned));
        }
    }
    let mut sites = Vec::new();
    for root in roots.into_iter().filter(|r| r.parent().is_some()) {
        let library = fs::read_dir(proc::inside(pid, &root.join("lib"))).into_iter().flatten();
        for entry in library.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("python") {
                sites.push(format!("{}/lib/{name}/site-packages/", root.display()));
            }
        }
    }
    sites
}

fn go(pid: i32) -> Vec<String> {
    let info = runtime::go_build_info(Path::new(&format!("/proc/{pid}/exe")));
    let modules = info.map(|i| i.modules).unwrap_or_default();
    let has = |path: &str| modules.iter().any(|m| m == path || m.starts_with(&format!("{path}/")));
    GO.iter().filter(|g| has(g.0)).map(|g| g.1.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_name_their_packages() {
        for (text, package, is) in [
            ("import flask\n", "flask", true),
            ("from django.db import models", "django", true),
            ("import os, redis", "redis", true),
            ("flask_sqlalchemy==3\n", "flask", false),
            ("Flask-SQLAlchemy>=3", "flask_sqlalchemy", true),
            ("psycopg2-binary==2.9\n", "psycopg2", true),
            ("dependencies = [\"SQLAlchemy>=2\"]", "sqlalchemy", true),
            ("# not a flask at all", "flask", false),
            ("import flasket", "flask", false),
        ] {
            assert_eq!(names(&folded(text), package), is, "{text}: {package}");
        }
    }

    #[test]
    fn package_folders_are_found_in_paths() {
        let path = "/app/venv/lib/python3.11/site-packages/psycopg2/_psycopg.so";
        assert_eq!(site_of(path), Some("/app/venv/lib/python3.11/site-packages/"));
        assert_eq!(site_of("/usr/lib/libc.so"), None);
    }
}
