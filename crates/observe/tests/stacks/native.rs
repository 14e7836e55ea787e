//! C, Rust and Go programs: unwinding without frame pointers, names in stripped binaries.

use super::*;
use evidence::{FrameKind, ProbeState};
use observe::stacks::{StackSource, Stacks};
use observe::stream::ProfileConfig;
use tempfile::TempDir;

const C_PROGRAM: &str = r#"
#include <stdint.h>
volatile uint64_t sink;
__attribute__((noinline)) uint64_t hot_loop(uint64_t n) {
    uint64_t s = 0;
    for (uint64_t i = 0; i < n; i++) s += i * i ^ s;
    return s;
}
__attribute__((noinline)) uint64_t middle(uint64_t n) { return hot_loop(n) + 1; }
__attribute__((noinline)) uint64_t outer(uint64_t n) { char pad[300]; pad[n % 300] = 1;
    sink = pad[0]; return middle(n) + 1; }
int main(void) { for (;;) sink += outer(1000000); }
"#;

const RUST_PROGRAM: &str = "
#[inline(never)] fn hot_loop(n: u64) -> u64 { (0..n).fold(0, |s, i| s + (i * i ^ s) % 7) }
#[inline(never)] fn outer(n: u64) -> u64 { hot_loop(std::hint::black_box(n)) + 1 }
fn main() { loop { std::hint::black_box(outer(1_000_000)); } }
";

const GO_PROGRAM: &str = "package main

import \"os\"

//go:noinline
func hotLoop(n int) int {
\ts := 0
\tfor i := 0; i < n; i++ {
\t\ts += i*i ^ s
\t}
\treturn s
}

//go:noinline
func outer(n int) int { return hotLoop(n) + 1 }

func main() {
\tgo func() { select {} }()
\tfor {
\t\tif outer(1000000) == 42 {
\t\t\tos.Exit(1)
\t\t}
\t}
}
";

/// Profiles `program` for a second; the profile by `cpu-clock`.
fn profile(program: &str, runtime: &str, directory: &std::path::Path) -> Option<StackProfile> {
    let running = Running::start(&mut Command::new(program));
    let_run(running.pid(), 50);
    let mut stacks = Stacks::default();
    let from = now();
    let config = ProfileConfig { hertz: 199, attach: false };
    let coverage = stacks.start(&service(&[running.pid()], runtime, directory), &config);
    if coverage.iter().any(|probe| probe.state == ProbeState::Unavailable) {
        let refused = format!("performance events are refused here: {coverage:?}");
        assert!(std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_none(), "{refused}");
        eprintln!("skipped: {refused}");
        return None;
    }
    let_run(running.pid(), 800);
    let mut profiles = stacks.stop();
    assert_eq!(profiles.len(), 1);
    let profile = profiles.remove(0);
    assert_eq!(profile.method, "cpu-clock");
    check_clock(&profile, from);
    assert!(profile.samples.len() > 25, "{}", shown(&profile));
    Some(profile)
}

/// Runs a compiler; whether it could.
fn build(command: &mut Command) {
    let output = command.output().expect("the compiler starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn c_without_frame_pointers_is_unwound_to_main() {
    let _alone = alone();
    if !has("gcc", "--version") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let source = file(directory.path(), "hot.c", C_PROGRAM);
    for (options, line) in [(&["-O2", "-g"][..], true), (&["-O2"][..], false)] {
        let program = directory.path().join("hot").to_string_lossy().into_owned();
        let options = [options, &["-fomit-frame-pointer", "-fno-optimize-sibling-calls"]].concat();
        build(Command::new("gcc").args(options).args(["-o", &program, &source]));
        let Some(profile) = profile(&program, "native", directory.path()) else { return };
        let whole = |frames: &[&Frame]| {
            let names: Vec<&str> = frames.iter().map(|frame| frame.function.as_str()).collect();
            names.starts_with(&["hot_loop", "middle", "outer", "main"])
                && frames[0].kind == FrameKind::User
                && (!line
                    || (frames[0].line.is_some_and(|l| (4..=8).contains(&l))
                        && frames[0].file.as_deref() == Some(source.as_str())))
        };
        assert!(share(&profile, whole) > 0.9, "{}", shown(&profile));
    }
}

#[test]
fn rust_names_are_demangled_and_the_standard_library_is_runtime() {
    let _alone = alone();
    if !has("rustc", "--version") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let source = file(directory.path(), "hot.rs", RUST_PROGRAM);
    let program = directory.path().join("hot").to_string_lossy().into_owned();
    let mut rustc = Command::new("rustc");
    build(rustc.args(["-O", "-g", "-C", "force-frame-pointers=no", "-o", &program, &source]));
    let Some(profile) = profile(&program, "native", directory.path()) else { return };
    let whole = |frames: &[&Frame]| {
        let at = frames.iter().position(|frame| frame.function.ends_with("hot_loop"));
        at.is_some_and(|at| {
            frames[at].kind == FrameKind::User
                && frames[at].line == Some(2)
                && frames.iter().any(|frame| frame.function.ends_with("outer"))
                && frames.iter().any(|frame| frame.kind == FrameKind::Runtime)
        })
    };
    assert!(share(&profile, whole) > 0.9, "{}", shown(&profile));
}

#[test]
fn go_names_and_lines_survive_stripping() {
    let _alone = alone();
    if !has("go", "version") {
        return;
    }
    let directory = TempDir::new().unwrap();
    file(directory.path(), "go.mod", "module demo\n\ngo 1.21\n");
    let source = file(directory.path(), "main.go", GO_PROGRAM);
    for options in [&[][..], &["-ldflags=-s -w"], &["-buildmode=pie"], &["-trimpath"]] {
        let mut go = Command::new("go");
        go.current_dir(directory.path()).env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local");
        build(go.arg("build").args(options).args(["-o", "hot", "."]));
        let program = directory.path().join("hot").to_string_lossy().into_owned();
        let Some(profile) = profile(&program, "go", directory.path()) else { return };
        let whole = |frames: &[&Frame]| {
            let names: Vec<&str> = frames.iter().map(|frame| frame.function.as_str()).collect();
            names.starts_with(&["main.hotLoop", "main.outer", "main.main", "runtime.main"])
                && frames[0].kind == FrameKind::User
                && frames[3].kind == FrameKind::Runtime
                && frames[0].line.is_some_and(|line| (6..=12).contains(&line))
        };
        assert!(share(&profile, whole) > 0.9, "{options:?}: {}", shown(&profile));
        let path = profile.frames.iter().find(|f| f.function == "main.hotLoop").unwrap();
        let expected = if options == ["-trimpath"] { "demo/main.go" } else { source.as_str() };
        assert_eq!(path.file.as_deref(), Some(expected), "{options:?}");
    }
}
