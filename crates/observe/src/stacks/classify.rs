//! Whose code a frame is: the team's, a library's, the runtime's, the collector's.
//!
//! Decided from paths first and names second, because a finding must point at a line its reader
//! can change.

use evidence::FrameKind;

/// What is known of the process a frame belongs to.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Working directory of the service.
    pub directory: Option<String>,
    /// Path of the main executable as mapped.
    pub executable: String,
}

/// Parts of a path that mean somebody else's package, in any language.
const LIBRARY_MARKS: &[&str] = &[
    "/node_modules/",
    "/site-packages/",
    "/dist-packages/",
    "/pkg/mod/",
    "/vendor/",
    "/.cargo/registry/",
    "/cargo/registry/",
    "/.cargo/git/",
    "/.m2/",
    "/gems/",
];

/// Executables that run other people's code: their own functions are runtime.
const INTERPRETERS: &[&str] =
    &["node", "nodejs", "python", "pypy", "java", "ruby", "php", "perl", "bun", "deno"];

/// First elements of the import paths of Go's standard library.
const GO_STANDARD: &[&str] = &[
    "archive",
    "bufio",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "testing",
    "text",
    "time",
    "type",
    "unicode",
    "unique",
    "unsafe",
    "weak",
];

/// Functions of Go's collector, by prefix after `runtime.`.
const GO_COLLECTOR: &[&str] = &[
    "gcBgMark",
    "gcDrain",
    "gcAssist",
    "gcMark",
    "gcStart",
    "gcSweep",
    "gcFlush",
    "gcWrite",
    "scanobject",
    "scanblock",
    "scanstack",
    "scanConservative",
    "scanObject",
    "scanSpan",
    "greyobject",
    "markroot",
    "sweepone",
    "bgsweep",
    "bgscavenge",
    "wbBufFlush",
    "tryDeferToSpanScan",
    "findObject",
    "scanframeworker",
    "finishsweep",
    "(*gcWork)",
    "(*mspan).sweep",
    "(*sweepLocked)",
    "(*gcControllerState)",
    "spanQueue",
];

/// Functions of V8's collector, by part of the name.
const V8_COLLECTOR: &[&str] = &[
    "Scavenger",
    "ScavengeVisitor",
    "MarkCompact",
    "ConcurrentMark",
    "MarkingVisitor",
    "MarkingBarrier",
    "Heap::CollectGarbage",
    "Heap::Scavenge",
    "Sweeper",
    "Evacuat",
    "MinorMark",
    "IncrementalMarking",
    "YoungGeneration",
    "PointersUpdating",
    "ArrayBufferSweeper",
    "GCTracer",
    "MainMarking",
    "cppgc::internal::Marker",
    "cppgc::internal::Sweep",
];

/// Functions of CPython's collector.
const PYTHON_COLLECTOR: &[&str] = &[
    "gc_collect",
    "PyGC_Collect",
    "_PyGC_",
    "deduce_unreachable",
    "subtract_refs",
    "visit_reachable",
    "visit_decref",
    "move_unreachable",
    "update_refs",
    "delete_garbage",
    "gc_collect_main",
    "gc_collect_region",
];

/// Whether `file` lies in somebody else's package.
pub fn is_library(file: &str) -> bool {
    LIBRARY_MARKS.iter().any(|mark| file.contains(mark))
        || file.starts_with("node_modules/")
        || file.starts_with("vendor/")
}

/// Kind of a JavaScript frame.
pub fn script(function: &str, file: Option<&str>) -> FrameKind {
    match file {
        _ if function == "(garbage collector)" => FrameKind::Gc,
        None => FrameKind::Runtime,
        Some(file) if file.starts_with("node:") || file.starts_with("internal/") => {
            FrameKind::Runtime
        }
        Some(file) if is_library(file) => FrameKind::Library,
        Some(_) => FrameKind::User,
    }
}

/// Kind of a Python frame.
pub fn python(file: &str, directory: Option<&str>) -> FrameKind {
    if file.starts_with('<') {
        // `<frozen importlib._bootstrap>` is the runtime's; `<string>` is code the service ran.
        return if file.starts_with("<frozen") { FrameKind::Runtime } else { FrameKind::User };
    }
    if is_library(file) || is_entry_script(file) {
        return FrameKind::Library;
    }
    if directory.is_some_and(|directory| inside(file, directory)) && !is_python_standard(file) {
        return FrameKind::User;
    }
    if is_python_standard(file) { FrameKind::Runtime } else { FrameKind::User }
}

/// `…/bin/gunicorn`: a script that an installed package brings to start itself. Everything runs
/// below it, so it says nothing about where the time goes.
fn is_entry_script(file: &str) -> bool {
    file.contains("/bin/") && !base_name(file).contains('.')
}

/// `…/lib/python3.12/json/decoder.py`, also as a zip (`…/lib/python312.zip/…`).
fn is_python_standard(file: &str) -> bool {
    let Some(at) = file.find("/lib/python").or_else(|| file.find("/lib64/python")) else {
        return false;
    };
    let rest = file[at + 1..].split('/').nth(1).unwrap_or_default();
    let version = rest.strip_prefix("python").unwrap_or_default();
    version.starts_with(|c: char| c.is_ascii_digit())
}

/// Kind of a Go function. `standard` is the directory of the standard library with a trailing
/// slash (`/usr/local/go/src/`), empty for a binary built with `-trimpath`.
pub fn go(function: &str, file: Option<&str>, standard: &str) -> FrameKind {
    if let Some(name) = function.strip_prefix("runtime.")
        && GO_COLLECTOR.iter().any(|mark| name.starts_with(mark))
    {
        return FrameKind::Gc;
    }
    if function.starts_with("main.") {
        return FrameKind::User;
    }
    if let Some(file) = file {
        if file == "<autogenerated>" {
            return FrameKind::Runtime;
        }
        if is_library(file) || file.contains('@') {
            return FrameKind::Library;
        }
        if !standard.is_empty() {
            return if file.starts_with(standard) { FrameKind::Runtime } else { FrameKind::User };
        }
    }
    let first = function.split(['/', '.']).next().unwrap_or_default();
    if GO_STANDARD.contains(&first) { FrameKind::Runtime } else { FrameKind::User }
}

/// Kind of a native frame in module `module` (path as mapped).
pub fn native(
    function: &str,
    file: Option<&str>,
    module: &str,
    around: &Surroundings,
) -> FrameKind {
    let interpreter = is_interpreter(module);
    if interpreter && is_collector(function) {
        return FrameKind::Gc;
    }
    if interpreter || is_system_library(module) {
        return FrameKind::Runtime;
    }
    if let Some(file) = file {
        if is_runtime_source(file) {
            return FrameKind::Runtime;
        }
        if is_library(file) {
            return FrameKind::Library;
        }
        if around.directory.as_deref().is_some_and(|directory| inside(file, directory)) {
            return FrameKind::User;
        }
    }
    if module != around.executable {
        let own = around.directory.as_deref().is_some_and(|directory| inside(module, directory));
        return if own && !is_library(module) { FrameKind::User } else { FrameKind::Library };
    }
    if is_runtime_name(function) { FrameKind::Runtime } else { FrameKind::User }
}

/// Whether the module is an interpreter or a virtual machine.
pub fn is_interpreter(module: &str) -> bool {
    let name = base_name(module);
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.contains(&plain)
        || ["libpython", "libnode", "libjvm", "libruby", "libv8", "libjulia"]
            .iter()
            .any(|mark| name.starts_with(mark))
}

fn is_collector(function: &str) -> bool {
    PYTHON_COLLECTOR.iter().any(|mark| function.starts_with(mark))
        || ((function.starts_with("v8::") || function.starts_with("cppgc::"))
            && V8_COLLECTOR.iter().any(|mark| function.contains(mark)))
}

fn is_system_library(module: &str) -> bool {
    let name = base_name(module);
    [
        "libc.",
        "libc-",
        "ld-",
        "ld.",
        "libpthread",
        "libm.",
        "libm-",
        "libdl",
        "librt.",
        "librt-",
        "libstdc++",
        "libc++",
        "libgcc_s",
        "linux-vdso",
        "[vdso]",
        "libgo.",
    ]
    .iter()
    .any(|mark| name.starts_with(mark))
}

fn is_runtime_source(file: &str) -> bool {
    (file.starts_with("/rustc/") && file.contains("/library/"))
        || file.contains("/rustlib/src/")
        || file.starts_with("/usr/include/")
        || file.contains("/sysdeps/")
        || file.contains("/glibc")
}

/// Names of Rust's and C++'s standard libraries and of process start, for code without lines.
fn is_runtime_name(function: &str) -> bool {
    let name = function.trim_start_matches(['<', '&', '(']);
    ["std::", "core::", "alloc::", "__gnu_cxx::", "operator new", "operator delete", "__rust_"]
        .iter()
        .any(|mark| name.starts_with(mark))
        || matches!(function, "_start" | "__libc_start_main" | "__libc_start_call_main")
}

/// Whether `path` lies below `directory`; the root directory contains nothing, since everything
/// would be the team's.
fn inside(path: &str, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    !directory.is_empty() && path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Last element of a path.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use FrameKind::{Gc, Library, Runtime, User};

    #[test]
    fn script_frames() {
        for (function, file, kind) in [
            ("handler", Some("/app/src/orders.js"), User),
            ("query", Some("/app/node_modules/pg/lib/client.js"), Library),
            ("emit", Some("node:events"), Runtime),
            ("(garbage collector)", None, Gc),
            ("parse", None, Runtime),
        ] {
            assert_eq!(script(function, file), kind, "{function}");
        }
    }

    #[test]
    fn python_frames() {
        for (file, kind) in [
            ("/app/shop/views.py", User),
            ("/usr/lib/python3.12/json/decoder.py", Runtime),
            ("/app/venv/lib/python3.11/site-packages/django/db/models.py", Library),
            ("/usr/lib/python3/dist-packages/psycopg2/__init__.py", Library),
            ("/app/venv/lib/python3.11/json/decoder.py", Runtime),
            ("<frozen importlib._bootstrap>", Runtime),
            ("<string>", User),
            ("/app/venv/bin/gunicorn", Library),
            ("/app/bin/serve.py", User),
            ("work.py", User),
        ] {
            assert_eq!(python(file, Some("/app")), kind, "{file}");
        }
    }

    #[test]
    fn go_frames() {
        let root = "/usr/local/go/src/";
        for (function, file, standard, kind) in [
            ("main.hotLoop", "/app/main.go", root, User),
            ("net/http.(*conn).serve", "/usr/local/go/src/net/http/server.go", root, Runtime),
            ("runtime.gcBgMarkWorker", "/usr/local/go/src/runtime/mgc.go", root, Gc),
            ("encoding/json.arrayEncoder.encode-fm", "<autogenerated>", root, Runtime),
            ("runtime.scanobject", "/usr/local/go/src/runtime/mgcmark.go", root, Gc),
            ("github.com/x/y.F", "/go/pkg/mod/github.com/x/y@v1.0.0/f.go", root, Library),
            ("shop/store.Load", "shop/store/load.go", "", User),
            ("github.com/x/y.F", "github.com/x/y@v1.0.0/f.go", "", Library),
            ("encoding/json.Unmarshal", "encoding/json/decode.go", "", Runtime),
        ] {
            assert_eq!(go(function, Some(file), standard), kind, "{function}");
        }
    }

    #[test]
    fn native_frames() {
        let around =
            Surroundings { directory: Some("/app".into()), executable: "/app/bin/shop".into() };
        let libc = "/lib/x86_64-linux-gnu/libc.so.6";
        let hash = "/rustc/abc/library/core/src/fmt/mod.rs";
        for (function, file, module, kind) in [
            ("shop::render", Some("/app/src/render.rs"), "/app/bin/shop", User),
            ("core::fmt::write", Some(hash), "/app/bin/shop", Runtime),
            (
                "serde::de",
                Some("/home/me/.cargo/registry/src/x/serde/de.rs"),
                "/app/bin/shop",
                Library,
            ),
            ("hot", None, "/app/bin/shop", User),
            ("<alloc::vec::Vec<T> as core::ops::Drop>::drop", None, "/app/bin/shop", Runtime),
            ("memcpy", None, libc, Runtime),
            ("deflate", None, "/usr/lib/libz.so.1", Library),
            ("v8::internal::Scavenger::Process(x)", None, "/usr/bin/node", Gc),
            ("v8::internal::JsonParser::Parse()", None, "/usr/bin/node", Runtime),
            ("gc_collect_main", None, "/usr/lib/libpython3.11.so.1.0", Gc),
            ("_PyEval_EvalFrameDefault", None, "/usr/bin/python3.11", Runtime),
        ] {
            assert_eq!(native(function, file, module, &around), kind, "{function}");
        }
    }
}
