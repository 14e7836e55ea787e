//! Targets that are absent, broken, hostile, or die: exit code 3, what happened, a hint, a run that
//! reads back.

use crate::binary::{Folder, Ran, Running};
use crate::server::{Server, Step, answer, fine};
use crate::usage::check_in;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Investigates `server` for a moment by its URL alone.
fn investigate(folder: &Folder, server: &Server, more: &[&str]) -> Ran {
    let url = server.url("/");
    let mut arguments = vec!["investigate", &url, "--url-only", "--budget", "3s", "--seed", "1"];
    arguments.extend(more);
    folder.run(&arguments)
}

/// The server's answer ends the run with 3 and these words; the run that is left says why.
#[track_caller]
fn check(says: &[&str], script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static) -> Ran {
    let (folder, server) = (Folder::new(), Server::start(script));
    let url = server.url("/");
    let arguments =
        ["investigate", &url, "--url-only", "--budget", "3s", "--timeout", "1s", "--seed", "1"];
    let ran = check_in(&folder, &arguments, 3, says);
    assert_eq!(ran.stdout, "");
    let run = folder.only_run();
    let stored = std::fs::read_to_string(run.join("run.json")).unwrap();
    assert!(stored.contains("\"stopped\""), "{stored}");
    let again = folder.run(&["report"]);
    assert_eq!(again.code, 0, "{again:#?}");
    assert!(!again.stdout.contains("nothing here is worth"), "{again:#?}");
    ran
}

#[test]
fn nobody_there() {
    let folder = Folder::new();
    let closed = Server::start(|_| fine(0)).port;
    let url = format!("http://127.0.0.1:{closed}/");
    let arguments = ["investigate", &url, "--budget", "3s"];
    // The port was just closed: nobody listens there.
    check_in(
        &folder,
        &arguments,
        3,
        &["error: GET /", "does not answer", "refused", "hint:", "port"],
    );
    let arguments = ["investigate", "http://no-such-host.invalid/", "--budget", "3s"];
    check_in(&folder, &arguments, 3, &["error: GET /", "no-such-host.invalid", "hint:"]);
    let doctor = folder.run(&["doctor", &url]);
    assert_eq!(doctor.code, 0, "{doctor:#?}");
    assert!(doctor.stdout.contains("L0"), "{doctor:#?}");
}

#[test]
fn answers_that_are_no_success() {
    check(&["error: GET / answers HTTP 500 (1 of 1)", "hint:", "its own log"], |_| {
        answer("500 Internal Server Error", "", "oops")
    });
    check(&["error: GET / answers HTTP 404", "hint:", "curl"], |_| answer("404 Not Found", "", ""));
    check(&["asks for a login (HTTP 401)", "hint:", "--login"], |_| {
        answer("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n", "")
    });
    check(&["asks for a login (HTTP 302 to /login?next=", "hint:", "--cookie"], |_| {
        answer("302 Found", "location: /login?next=%2F\r\n", "")
    });
    let form = "<html><form action=/session method=post><input name=user>\
                <input type=password name=pw></form></html>";
    check(&["asks for a login", "hint:", "--login"], move |_| {
        answer("200 OK", "content-type: text/html\r\n", form)
    });
}

#[test]
fn a_redirect_is_measured_as_it_is_and_told() {
    let (folder, server) =
        (Folder::new(), Server::start(|_| answer("302 Found", "location: /other?token=x\r\n", "")));
    let ran = investigate(&folder, &server, &[]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let said = "warning: GET / answered 302 to /other?token=***; redirects are not followed";
    assert!(ran.stderr.contains(said) && ran.stderr.contains("hint: name the target"), "{ran:#?}");
}

#[test]
fn slow_broken_and_hostile_answers() {
    let send = |text: &str| Step::Send(text.to_string());
    let waits = |_| vec![Step::Wait(Duration::from_secs(30))];
    check(&["no answer from GET / within 1 s, the --timeout", "hint: a longer --timeout"], waits);
    check(&["does not answer", "hint:"], |_| vec![Step::Close]);
    check(&["does not answer", "hint:"], move |_| {
        vec![send("SSH-2.0-OpenSSH_9.2\r\n"), Step::Close]
    });
    check(&["(HTTP 200) broke off", "hint:", "log"], move |_| {
        vec![send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nshort"), Step::Close]
    });
    check(&["does not answer", "hint:"], move |_| {
        vec![send("HTTP/1.1 200 OK\r\n"), Step::Endless("x-header: again and again\r\n".into())]
    });
    check(&["does not answer", "hint:"], move |_| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        vec![send(head), send("zzzz\r\nnonsense\r\n")]
    });
    let ran = check(&["no complete answer from GET / (", "MB of it) within 1 s"], move |_| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        vec![send(head), Step::Endless(format!("2000\r\n{}\r\n", "x".repeat(0x2000)))]
    });
    assert!(ran.took < Duration::from_secs(20), "{ran:#?}");
}

#[test]
fn an_answer_of_any_size_is_read() {
    let body = "x".repeat(80 << 20);
    let large = answer("200 OK", "", &body);
    let (folder, server) = (Folder::new(), Server::start(move |_| large.clone()));
    let ran = investigate(&folder, &server, &[]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.stdout.contains("where the time goes"), "{ran:#?}");
}

#[test]
fn the_budget_bounds_a_service_that_stops_answering() {
    let check = |answered: usize, arguments: &[&str], code: i32, says: &[&str]| {
        let server = Server::start(move |n| match n < answered {
            true => fine(2),
            false => vec![Step::Wait(Duration::from_secs(30))],
        });
        let (folder, url) = (Folder::new(), server.url("/"));
        let first = ["investigate", &url, "--url-only", "--budget", "2s", "--seed", "1"];
        folder.write("login.http", "POST /session\n\na=b\n");
        let ran = check_in(&folder, &[&first[..], arguments].concat(), code, says);
        assert!(ran.took < Duration::from_secs(8), "{ran:#?}");
        ran
    };
    let said =
        ["error: no answer from GET / within 2 s, when the --budget ended", "hint: a longer"];
    let never = check(0, &[], 4, &said);
    assert_eq!(never.stdout, "");
    let login = ["--login", "login.http"];
    check(0, &login, 4, &["error: no answer from the login request within 2 s, when the --budget"]);
    let two = ["--endpoint", "GET /a", "--endpoint", "GET /b"];
    check(0, &two, 3, &["GET /a within 0.7 s, its share of the --budget", "error: none of 2"]);
    // What the end of the budget cuts off is no error of a service that answered before.
    for answered in [1, 6, 14] {
        let ran = check(answered, &[], 0, &[]);
        assert!(ran.stdout.contains("GET /"), "{ran:#?}");
        assert!(!ran.stdout.contains("error") && !ran.stderr.contains("error"), "{ran:#?}");
        assert!(ran.stderr.contains("s, when the --budget ended: this request"), "{ran:#?}");
    }
}

#[test]
fn none_of_several_endpoints_answers() {
    let server = Server::start(|_| answer("500 Internal Server Error", "", "oops"));
    let (folder, url) = (Folder::new(), server.url("/"));
    let mut arguments = vec!["investigate", &url, "--url-only", "--budget", "3s"];
    arguments.extend(["--endpoint", "GET /a", "--endpoint", "GET /b"]);
    let ran = check_in(&folder, &arguments, 3, &["error: none of 2 endpoints answered", "hint:"]);
    assert_eq!(ran.stdout, "");
    let told = folder.run(&["report"]);
    assert!(told.stdout.contains("nothing could be measured"), "{told:#?}");
}

#[test]
fn one_endpoint_that_fails_does_not_stop_the_one_beside_it() {
    let check = |failing: &'static [Step], code: i32, says: &[&str]| {
        let server = Server::by_target(move |target, _| match target {
            "/fine" => fine(2),
            _ => failing.to_vec(),
        });
        let (folder, url) = (Folder::new(), server.url("/"));
        let arguments = ["investigate", &url, "--url-only", "--budget", "4s", "--timeout", "1s"];
        let both = ["--endpoint", "GET /bad", "--endpoint", "GET /fine"];
        let ran = check_in(&folder, &[&arguments[..], &both].concat(), code, says);
        assert!(ran.stdout.contains("GET /fine") && ran.stdout.contains("where the"), "{ran:#?}");
        assert!(!ran.stderr.contains("stopped driving"), "{ran:#?}");
    };
    let of = |status| Vec::leak(answer(status, "", "no"));
    check(of("404 Not Found"), 3, &["error: GET /bad answers HTTP 404 (", "hint: try the same"]);
    check(of("500 Oops"), 3, &["error: GET /bad answers HTTP 500 (", "hint: the service itself"]);
    check(of("401 No"), 3, &["error: GET /bad asks for a login (HTTP 401)", "hint: pass -H"]);
    let wait = Vec::leak(vec![Step::Wait(Duration::from_secs(9))]);
    check(wait, 3, &["error: no answer from GET /bad within 1 s, the --timeout"]);
    check(&[Step::Close], 3, &["error: GET /bad does not answer: the connection broke", "hint:"]);
}

#[test]
fn an_endpoint_that_begins_to_refuse_is_left_alone_and_others_are_not() {
    let server = Server::by_target(|target, n| match target {
        "/late" if n >= 14 => answer("404 Not Found", "", ""),
        _ => fine(2),
    });
    let (folder, url) = (Folder::new(), server.url("/"));
    let arguments = ["investigate", &url, "--url-only", "--budget", "4s", "--seed", "1"];
    let both = ["--endpoint", "GET /late", "--endpoint", "GET /fine"];
    let ran = folder.run(&[&arguments[..], &both].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.stderr.contains("warning: stopped driving GET /late: 11 of the last "), "{ran:#?}");
    assert!(ran.stderr.contains(" requests failed (the last: HTTP 404)"), "{ran:#?}");
    let told = "warning: some requests to GET /late failed: HTTP 404 (1";
    assert!(ran.stderr.contains(told), "{ran:#?}");
    assert_eq!(ran.stdout.matches("where the time goes").count(), 2, "{ran:#?}");
}

#[test]
fn a_short_run_sees_all_parts_of_a_range() {
    let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
    let into = Arc::clone(&seen);
    let server = Server::by_target(move |target, _| {
        let page = target.rsplit('=').next().and_then(|page| page.parse::<u32>().ok());
        into.lock().unwrap().extend(page);
        fine(1)
    });
    let pages = || {
        let (folder, url) = (Folder::new(), server.url("/orders?page={1..1000}"));
        let ran = folder.run(&["investigate", &url, "--url-only", "--budget", "2s", "--seed", "5"]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        std::mem::take(&mut *seen.lock().unwrap())
    };
    let (first, again) = (pages(), pages());
    assert_eq!(first[..6], again[..6], "one seed, one order");
    let low = first[..20].iter().filter(|page| **page <= 500).count();
    assert!((4..=16).contains(&low), "{first:?}");
}

#[test]
fn the_latest_run_is_the_last_that_was_answered() {
    let (folder, server) = (Folder::new(), Server::start(|_| fine(1)));
    let good = investigate(&folder, &server, &[]);
    assert_eq!(good.code, 0, "{good:#?}");
    let closed = Server::start(|_| fine(0)).port;
    let nobody = format!("http://127.0.0.1:{closed}/");
    let arguments = ["investigate", &nobody, "--url-only", "--budget", "3s"];
    check_in(&folder, &arguments, 3, &["error: GET /", "hint:"]);
    let told = folder.run(&["report"]);
    assert_eq!((told.code, &told.stdout), (0, &good.stdout));
    assert!(told.stderr.contains("later ones were never answered"), "{told:#?}");
    // Also after its report was written, which says nothing either.
    let failed = folder.runs().pop().unwrap();
    let failed = failed.file_name().unwrap().to_str().unwrap();
    let replayed = folder.run(&["replay", failed]);
    assert!(replayed.stdout.contains("nothing could be measured"), "{replayed:#?}");
    assert_eq!(folder.run(&["report"]).stdout, good.stdout);
    assert!(!good.stdout.contains("sudo"), "{good:#?}");
}

#[test]
fn requests_of_a_run_without_any() {
    let folder = Folder::new();
    let arguments = ["investigate", "http://127.0.0.1:1/", "--budget", "3s", "--", "false"];
    let ran = check_in(&folder, &arguments, 3, &["ended (exit code 1)", "it printed nothing"]);
    assert!(!ran.stderr.contains("last lines"), "{ran:#?}");
    for format in ["text", "json"] {
        let told = folder.run(&["report", "--requests", "--format", format]);
        assert_eq!((told.code, told.stdout.as_str()), (4, ""), "{told:#?}");
        assert!(told.stderr.contains("holds no request"), "{told:#?}");
    }
}

#[test]
fn a_login_that_fails() {
    let (folder, server) = (Folder::new(), Server::start(|_| answer("403 Forbidden", "", "no")));
    folder
        .write("login.http", "POST /session\ncontent-type: application/json\n\n{\"user\":\"a\"}\n");
    let url = server.url("/");
    let arguments = ["investigate", &url, "--url-only", "--budget", "3s", "--login", "login.http"];
    let ran = check_in(&folder, &arguments, 3, &["error: the login request to", "403", "hint:"]);
    assert_eq!(ran.stderr.matches("the login request").count(), 1, "{ran:#?}");
}

#[test]
fn an_objective_that_is_missed_decides_the_exit_code_and_is_said() {
    let (folder, server) = (Folder::new(), Server::start(|_| fine(20)));
    let check = |objective: &str, code: i32, says: &str, but: &str| {
        let ran = investigate(&folder, &server, &["--quiet", "--objective", objective]);
        assert_eq!(ran.code, code, "{objective}: {ran:#?}");
        assert!(ran.stderr.contains(says) && !ran.stderr.contains(but), "{objective}: {ran:#?}");
    };
    check("p50<1ms", 1, "error: objective p50<1ms is missed by GET /: p50 is ", " met ");
    check("p99<1ms", 1, "error: objective p99<1ms is missed by GET /: even p50 is ", " met ");
    check("p50<10s", 0, "", "objective");
    check("p99<10s", 4, "requests are too few for a p99; it takes 299", " met ");
    check("rate>100000/s", 4, "error: objective rate>100000/s cannot be told by GET /", " met ");
    let told = folder.run(&["report"]);
    assert!(told.stdout.contains("objective rate>100000/s cannot be told"), "{told:#?}");
}

#[test]
fn a_target_that_dies_is_reported_as_far_as_it_was_measured() {
    let (folder, server) = (Folder::new(), Server::dying(16));
    let ran = investigate(&folder, &server, &[]);
    assert_eq!(ran.code, 3, "{ran:#?}");
    assert!(ran.stderr.contains("error: the target stopped answering"), "{ran:#?}");
    assert!(ran.stderr.contains("hint:"), "{ran:#?}");
    assert!(ran.stdout.contains("where the time goes"), "{ran:#?}");
    let again = folder.run(&["report"]);
    assert_eq!((again.code, &again.stdout), (0, &ran.stdout));
}

#[test]
fn a_target_that_begins_to_fail_is_left_alone() {
    let folder = Folder::new();
    let server = Server::start(|n| match n {
        0..14 => fine(2),
        _ => answer("503 Service Unavailable", "", ""),
    });
    let ran = investigate(&folder, &server, &[]);
    assert!(ran.stderr.contains("warning: stopped driving"), "{ran:#?}");
    assert!(server.served() < 200, "{} requests were sent", server.served());
}

#[test]
fn a_request_that_the_user_cuts_off_is_no_error_of_the_service() {
    let server = Server::start(|n| if n < 14 { fine(2) } else { fine(30_000) });
    let (folder, url) = (Folder::new(), server.url("/"));
    let arguments = ["investigate", &url, "--url-only", "--budget", "25s", "--timeout", "20s"];
    let running = Running::start(&mut folder.command(&arguments));
    let begun = Instant::now();
    while server.served() < 14 && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // The next one is under way by then.
    std::thread::sleep(Duration::from_millis(500));
    running.signal(libc::SIGINT);
    let ran = running.finish();
    assert_eq!(ran.code, 130, "{ran:#?}");
    assert!(ran.stdout.contains("where the time goes"), "{ran:#?}");
    assert!(!ran.stdout.contains("errors"), "{ran:#?}");
}
