//! Setup: everything before the first request of an experiment. Run folder, spans, proxies,
//! launch, observer, discovery, login; each owned by a guard from the moment it exists.

use crate::error::Limit;
use crate::event::Event;
use crate::proxies::Proxies;
use crate::recorder::Recorder;
use crate::run::Run;
use crate::senses::{Senses, lost, stacks};
use crate::{Config, Error, Stop, checkout, plan};
use evidence::{Coverage, EvidenceBody, Redactor, RunInfo, SCHEMA_VERSION, Service, Target};
use load::breaker::BreakerState;
use load::{Breaker, LoginError, Request};
use observe::launch::{LaunchError, Launched};
use observe::spans::SpanReceiver;
use observe::stream::Pass;
use observe::{ObserveError, Observer};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use store::RunFolder;

/// Starts everything and returns the run, ready for its first experiment.
pub(crate) fn start<'a>(
    config: &'a Config,
    stop: &'a Stop,
    events: &'a mut dyn FnMut(Event),
) -> Result<Run<'a>, Error> {
    let first = first_request(config)?;
    let requests = requests(config);
    let loopback = requests.iter().all(|r| load::plan::is_loopback(&r.host));
    let may_load = config.consents.may_load(requests.iter().map(|r| r.host.as_str()));
    let info = run_info(config, &first);
    let folder = RunFolder::create(&config.root, &info)?;
    events(Event::Started { run: info.id.clone() });
    events(Event::Plan(plan::sentence(config, &hosts(&requests), may_load)));
    let salt = random();
    let mut run = Run {
        config,
        recorder: Recorder::new(folder, info),
        senses: Senses::new(config, salt, stop.flag()),
        stop,
        events,
        started: Instant::now(),
        loopback,
        may_load,
        pass: Pass { wire: true, switches: true, wakeups: true, syscalls: false },
        breaker: BreakerState::new(Breaker::errors_only()),
        endpoint_breakers: BTreeMap::new(),
        silent: BTreeMap::new(),
    };
    match prepare(&mut run, &first, salt) {
        Ok(()) => Ok(run),
        Err(e) => Err(run.give_up(e)),
    }
}

fn prepare(run: &mut Run, first: &Request, salt: u64) -> Result<(), Error> {
    listen_for_spans(run, salt)?;
    launch(run, first, salt)?;
    observe(run, first)?;
    run.started = Instant::now();
    run.senses.deadline = run.started + run.config.budget;
    login(run)
}

fn first_request(config: &Config) -> Result<Request, Error> {
    let endpoint = config.workload.endpoints.first().ok_or(Error::NoEndpoint)?;
    super::request(config, endpoint, 0, None)
}

/// A request of each endpoint. One that cannot be rendered says so when its turn comes.
fn requests(config: &Config) -> Vec<Request> {
    let endpoints = config.workload.endpoints.iter();
    endpoints.filter_map(|e| super::request(config, e, 0, None).ok()).collect()
}

/// Distinct `host:port` of the workload.
fn hosts(requests: &[Request]) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for host in requests.iter().map(Request::host_port) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

fn run_info(config: &Config, first: &Request) -> RunInfo {
    let target = format!("{}-{}", first.host, first.port);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    RunInfo {
        schema_version: SCHEMA_VERSION,
        tool_version: config.tool_version.clone(),
        id: store::run_id(now, &target, random() as u32),
        started: store::rfc3339(now),
        seed: config.seed,
        target: Target { url: first.origin(), ..Target::default() },
        workload: config.workload.clone(),
        objectives: config.objectives.iter().map(|o| o.text().to_string()).collect(),
        command: config.command.clone(),
        host: observe::host::facts(),
        ..RunInfo::default()
    }
}

fn listen_for_spans(run: &mut Run, salt: u64) -> Result<(), Error> {
    let Some(port) = run.config.otlp_port else { return Ok(()) };
    let coverage = match SpanReceiver::start(port, Redactor::new(salt)) {
        Ok(receiver) => {
            run.senses.spans = Some(receiver);
            Coverage::ok("spans")
        }
        Err(e) => Coverage::unavailable(
            "spans",
            format!("no OTLP receiver on port {port}: {e}"),
            "choose a free port with --otlp-port",
        ),
    };
    run.recorder.add("spans", EvidenceBody::Coverage(vec![coverage]))
}

fn launch(run: &mut Run, first: &Request, salt: u64) -> Result<(), Error> {
    let Some(launch) = &run.config.launch else { return Ok(()) };
    let mut environment = launch.environment.clone();
    if run.config.proxy {
        let mut whole: Vec<(String, String)> = std::env::vars().collect();
        whole.extend(environment);
        let rewritten = Proxies::for_environment(&whole, salt);
        for note in &rewritten.notes {
            (run.events)(Event::Warning { message: note.clone(), hint: String::new() });
        }
        if rewritten.proxies.is_empty() {
            run.warn(
                "no peer is named in the environment, so no proxy was put in between",
                "name the database in DATABASE_URL or DB_HOST and DB_PORT",
            );
        }
        environment = rewritten.environment;
        if !rewritten.proxies.is_empty() {
            run.recorder.add("proxy", EvidenceBody::Coverage(vec![Coverage::ok("proxy")]))?;
        }
        run.senses.proxies = rewritten.proxies;
    }
    if let Some(spans) = &run.senses.spans {
        environment.extend(observe::spans::otel_environment(&spans.endpoint_url(), "service"));
    }
    let started = Instant::now();
    let log = run.recorder.folder().raw("service.log")?;
    let failed = |e: LaunchError| Error::Launch(e.to_string());
    let launched = Launched::start(&launch.argv, &environment, Some(&launch.directory), &log)
        .map_err(failed)?;
    let address = Some((first.host.as_str(), first.port));
    let stop = run.stop;
    let ready = launched.wait_ready(address, launch.ready_within, &|| stop.requested());
    // Owned from here on, so that it is ended also when it did not become ready.
    run.senses.launched = Some(launched);
    ready.map_err(failed)?;
    (run.events)(Event::Ready { seconds: started.elapsed().as_secs_f64() });
    Ok(())
}

/// Starts the observer and finds what is behind the URL. Whatever cannot be observed lowers the
/// level and is said in coverage; only an observer that was named and does not answer ends the run.
fn observe(run: &mut Run, first: &Request) -> Result<(), Error> {
    let mut coverage = Vec::new();
    if !run.config.url_only {
        match connect(run.config) {
            Ok(observer) => {
                run.senses.observer_name = format!("observe@{}", observer.host());
                run.senses.observer = Some(observer);
            }
            // Who names one wants to look inside; from outside alone it would be another answer.
            Err(e) if run.config.observer.is_some() => {
                return Err(Error::NoObserver(e.to_string()));
            }
            Err(e) => coverage.push(lost("observer", &e)),
        }
    }
    let pid = run.config.pid.or(run.senses.launched.as_ref().map(Launched::pid));
    if let Some(observer) = &mut run.senses.observer {
        match observer.find(&first.host, first.port, pid) {
            Ok((service, found)) => {
                run.senses.service = service;
                coverage.extend(found);
            }
            Err(e) => coverage.push(lost("discovery", &e)),
        }
    }
    judge_pid(run, &mut coverage);
    tell_others(run, first);
    let source = run.senses.observer_name.clone();
    run.recorder.add(&source, EvidenceBody::Coverage(coverage.clone()))?;
    if run.senses.service.is_none() {
        // Nothing to watch: without a service the observer would only cost.
        run.senses.observer = None;
    } else {
        let pass = run.pass;
        run.senses.attach(&mut run.recorder, pass)?;
    }
    record_target(run, coverage)
}

/// One service is observed, that of the first endpoint.
fn tell_others(run: &mut Run, first: &Request) {
    let mut others = hosts(&requests(run.config));
    others.retain(|host| *host != first.host_port());
    if !others.is_empty() && !run.config.url_only {
        run.warn(
            &format!(
                "only what answers at {} is observed; {} is seen from the client's side only",
                first.host_port(),
                others.join(", ")
            ),
            "investigate each host in a run of its own to see what is behind it",
        );
    }
}

/// A process that was named and is not the one that answers is told, not silently left out.
fn judge_pid(run: &mut Run, coverage: &mut Vec<Coverage>) {
    let Some(pid) = run.config.pid else { return };
    let Some(service) = &run.senses.service else {
        let why = coverage.iter().find(|c| c.probe == "process").map(|c| c.reason.as_str());
        let why = why.unwrap_or("nothing of the target is seen");
        run.warn(&format!("--pid {pid} is of no use: {why}"), "see `perfwright doctor URL`");
        return;
    };
    if let Some(other) = crate::doctor::unrelated(service, pid) {
        run.warn(&other.reason, &other.hint);
        coverage.push(other);
    }
}

/// An observer of this machine unless another is named: only it can tell whether an address is
/// one of ours.
fn connect(config: &Config) -> Result<Observer, ObserveError> {
    match &config.observer {
        Some((address, token)) => Observer::connect(address, Some(token)),
        None => Observer::local(stacks()),
    }
}

fn record_target(run: &mut Run, coverage: Vec<Coverage>) -> Result<(), Error> {
    let knowledge = run.recorder.knowledge()?;
    let service = run.senses.service.clone();
    let level = observe::level(service.as_ref(), &knowledge.coverage);
    let target = Target {
        url: run.recorder.run().target.url.clone(),
        level,
        services: service.clone().into_iter().collect(),
    };
    let directory = service.as_ref().and_then(directory_of);
    let checkout = directory.as_deref().and_then(checkout::of);
    run.recorder.update(|info| {
        info.target = target.clone();
        if let Some(checkout) = checkout {
            info.commit = Some(checkout.commit);
            info.branch = checkout.branch;
            info.dirty = Some(checkout.dirty);
        }
    })?;
    let source = run.senses.observer_name.clone();
    run.recorder.add(&source, EvidenceBody::Target(Box::new(target)))?;
    (run.events)(Event::Found { service: service.map(Box::new), level, coverage });
    Ok(())
}

fn directory_of(service: &Service) -> Option<PathBuf> {
    let serving = service.processes.iter().find(|p| p.serving)?;
    serving.directory.as_deref().map(Path::new).map(Path::to_path_buf)
}

fn login(run: &mut Run) -> Result<(), Error> {
    let Some(template) = &run.config.workload.login else { return Ok(()) };
    let left = run.senses.left();
    let within = run.config.request_timeout.min(left);
    let session = load::login(template, run.config.seed ^ 1, within).map_err(|e| match e {
        LoginError::Failed { .. } if run.over() => {
            Error::unanswered_by("answer from the login request".into(), left, Limit::Budget)
        }
        e => e.into(),
    })?;
    run.senses.log_in(session);
    Ok(())
}

/// 64 bits from the operating system's random source, as the standard library seeds its maps.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
