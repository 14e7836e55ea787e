//! Disks that are full, runs that are damaged, readers that are gone.

use crate::binary::{Folder, Ran, Running};
use crate::server::{Server, fine};
use crate::usage::check_in;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Investigates a small service by its URL for a moment.
pub fn investigated(folder: &Folder, more: &[&str]) -> (Server, Ran) {
    let server = Server::start(|_| fine(20));
    let url = server.url("/orders");
    let mut arguments = vec!["investigate", &url, "--url-only", "--budget", "2s", "--seed", "1"];
    arguments.extend(more);
    let ran = folder.run(&arguments);
    assert_eq!(ran.code, 0, "{ran:#?}");
    (server, ran)
}

#[test]
fn no_file_may_grow() {
    // The limit lets run.json and small evidence be written, and refuses the next larger piece.
    for (limit, begins) in [(0, false), (1_500, true)] {
        let (folder, server) = (Folder::new(), Server::start(|_| fine(5)));
        let url = server.url("/");
        let arguments = ["investigate", &url, "--url-only", "--budget", "3s", "--seed", "1"];
        let mut command = folder.command(&arguments);
        let cap = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: one async-signal-safe call on a copied value.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_FSIZE, &cap) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let ran = Running::start(&mut command).finish();
        assert_eq!(ran.code, 2, "{limit}: {ran:#?}");
        assert!(ran.stderr.contains("no space left"), "{limit}: {ran:#?}");
        assert!(ran.stderr.contains("--out DIR"), "{limit}: {ran:#?}");
        assert_eq!(folder.runs().len(), usize::from(begins), "{limit}: {ran:#?}");
    }
}

#[test]
fn a_full_disk() {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        crate::skip("mounting a small disk", "run as root");
        return;
    }
    let (folder, server) = (Folder::new(), Server::start(|_| fine(2)));
    folder.write("mount", "");
    let script = "mkdir small && mount -t tmpfs -o size=64k tmpfs small && \
                  for n in 1 2 3 4 5 6 7 8; do set -- \"$@\" --endpoint \"GET /$n\"; done; \
                  \"$0\" investigate \"$@\" --url-only --budget 5s --seed 1 --out small; code=$?; \
                  find small -name '*.zst' | wc -l; \"$0\" report --out small >/dev/null || exit 99; exit $code";
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        script,
        env!("CARGO_BIN_EXE_perfwright"),
        &server.url("/"),
    ]);
    command.current_dir(folder.path());
    let ran = Running::start(&mut command).finish();
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("no space left"), "{ran:#?}");
    assert!(ran.stdout.contains("where the time goes"), "{ran:#?}");
}

#[test]
fn runs_that_are_not_there() {
    let folder = Folder::new();
    for command in ["report", "replay"] {
        let none = ["error: no runs in .perfwright/runs yet", "hint: make one: perfwright"];
        check_in(&folder, &[command], 2, &none);
        check_in(&folder, &[command, "latest"], 2, &none);
        check_in(&folder, &[command, "nonsense"], 2, &["error: no run `nonsense`", "hint:"]);
        check_in(&folder, &[command, "./nowhere"], 2, &["./nowhere is not a run", "hint:"]);
    }
    let list = folder.run(&["runs"]);
    assert_eq!((list.code, list.stdout.lines().count() < 2), (0, true), "{list:#?}");
    assert!(list.stderr.contains("no runs yet"), "{list:#?}");
}

#[test]
fn runs_that_are_damaged() {
    let folder = Folder::new();
    investigated(&folder, &[]);
    let run = folder.only_run();
    let id = run.file_name().unwrap().to_str().unwrap();
    let check = |command: &str, code: i32, says: &[&str]| {
        check_in(&folder, &[command, id], code, says);
    };
    std::fs::write(run.join("report.json"), "{\"schema\":").unwrap();
    check("report", 2, &["error:", "report.json is damaged", "hint: perfwright replay"]);
    let list = folder.run(&["runs"]);
    assert_eq!(list.code, 0, "{list:#?}");
    assert!(list.stderr.contains("report.json"), "{list:#?}");
    check("replay", 0, &[]);
    check("report", 0, &[]);
    let evidence = files(&run.join("evidence"));
    let whole = std::fs::read(&evidence[0]).unwrap();
    std::fs::write(&evidence[0], &whole[..whole.len() / 2]).unwrap();
    check("replay", 0, &["warning:", "cut off or damaged", "hint:"]);
    std::fs::write(run.join("run.json"), "\0\0\0").unwrap();
    check("replay", 0, &["warning:", "run.json"]);
    std::fs::remove_file(run.join("run.json")).unwrap();
    std::fs::remove_dir_all(run.join("evidence")).unwrap();
    check("replay", 2, &["error: no run `", "hint:"]);
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_folder_that_cannot_be_written() {
    let (folder, server) = (Folder::new(), Server::start(|_| fine(1)));
    folder.write("file", "not a folder");
    let url = server.url("/");
    let arguments = ["investigate", &url, "--url-only", "--budget", "2s", "--out", "file"];
    check_in(&folder, &arguments, 2, &["error: cannot create", "file", "hint:", "--out DIR"]);
}

/// The reader of `stream` takes one byte and goes; the command ends by itself.
#[track_caller]
fn check_gone(folder: &Folder, arguments: &[&str], code: i32) {
    for both in [false, true] {
        let mut command = folder.command(arguments);
        let (mut reader, writer) = std::io::pipe().unwrap();
        if both {
            command.stderr(writer.try_clone().unwrap());
        } else {
            command.stderr(Stdio::piped());
        }
        command.stdout(writer);
        let child = command.spawn().unwrap();
        drop(command);
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        drop(reader);
        let out = child.wait_with_output();
        let out = out.unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}, both {both}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn readers_that_go_away() {
    let folder = Folder::new();
    let (server, _) = investigated(&folder, &[]);
    let url = server.url("/");
    check_gone(&folder, &["--help"], 0);
    check_gone(&folder, &["investigate", "--help"], 0);
    check_gone(&folder, &["report", "--format", "json"], 0);
    check_gone(&folder, &["man"], 0);
    check_gone(&folder, &["completions", "bash"], 0);
    check_gone(&folder, &["investigate", &url, "--url-only", "--budget", "2s", "-v"], 0);
}

#[test]
fn a_folder_of_somebody_else() {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        crate::skip("being another user", "run as root");
        return;
    }
    let (folder, server) = (Folder::new(), Server::start(|_| fine(1)));
    let own = folder.path().join("perfwright");
    std::fs::copy(env!("CARGO_BIN_EXE_perfwright"), &own).unwrap();
    std::fs::create_dir(folder.path().join("closed")).unwrap();
    for (path, mode) in
        [(folder.path().to_path_buf(), 0o755), (folder.path().join("closed"), 0o700)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let url = server.url("/");
    let investigate = ["investigate", &url, "--budget", "2s", "--out", "closed"];
    for (arguments, code) in [(&investigate[..], 2), (&["runs", "--out", "closed"][..], 2)] {
        let mut command = Command::new(&own);
        command.args(arguments).current_dir(folder.path()).uid(65_534).gid(65_534);
        let ran = Running::start(&mut command).finish();
        assert_eq!(ran.code, code, "{ran:#?}");
        for word in ["error: cannot", "closed", "ermission denied", "hint:", "--out DIR"] {
            assert!(ran.stderr.contains(word), "no {word}: {ran:#?}");
        }
    }
}
