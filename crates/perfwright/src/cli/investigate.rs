//! `investigate`: the main job.

use super::exit::ExitStatus;
use super::printer::Printer;
use super::workload::{Given, build, is_running, usage};
use super::{Format, Global, root, runs, values};
use ::investigate::{Config, Consents, Event, LaunchConfig, Outcome, Stop};
use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use evidence::{Report, Severity, Verdict};
use formats::objective::Objective;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Args)]
pub(super) struct InvestigateArgs {
    /// URL, or a curl command line in quotes
    target: Option<String>,
    /// A recording of a page: its endpoints, ranked by what the user waited for
    #[arg(long, value_name = "FILE")]
    har: Option<PathBuf>,
    /// `[METHOD] /path?page={1..20} [@body]`; may be repeated
    #[arg(long, value_name = "REQUEST")]
    endpoint: Vec<String>,
    /// How many endpoints of a recording
    #[arg(long, default_value = "5", value_name = "N", allow_negative_numbers = true,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    most: usize,
    /// Header; values may refer to secrets: `Authorization: Bearer env:TOKEN`
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Cookie header
    #[arg(long)]
    cookie: Option<String>,
    /// A request whose answer gives a cookie or token
    #[arg(long, value_name = "FILE")]
    login: Option<PathBuf>,
    /// Accept invalid certificates
    #[arg(short = 'k', long)]
    insecure: bool,
    /// Time for everything after the service is ready: 90s, 2m, 1h
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = values::budget,
          allow_hyphen_values = true)]
    budget: Duration,
    /// Longest time for one request
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = formats::duration::parse,
          allow_hyphen_values = true)]
    timeout: Duration,
    /// How long a launched command may take until it accepts connections
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = formats::duration::parse,
          allow_hyphen_values = true)]
    ready_within: Duration,
    /// Process of the service, when it cannot be found by its port
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Do not look at the host: the URL only
    #[arg(long)]
    url_only: bool,
    /// Agree to a reversible touch of the process (inspector, signal)
    #[arg(long)]
    attach: bool,
    /// Agree to methods other than GET and HEAD
    #[arg(long)]
    mutating: bool,
    /// Agree to several requests in flight beyond loopback
    #[arg(long, value_name = "HOST", value_parser = values::host)]
    allow_load: Vec<String>,
    /// Highest rate agreed to with --allow-load
    #[arg(long, default_value = "50", value_name = "N", value_parser = values::rate,
          allow_negative_numbers = true)]
    max_rps: f64,
    /// Put a proxy between the launched command and its peers (needs no privilege)
    #[arg(long)]
    proxy: bool,
    /// Receive OTLP spans on this loopback port (0: any; a launched command is told)
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    otlp_port: Option<u16>,
    /// An observer on the service's host (`perfwright observe --listen`)
    #[arg(long, value_name = "HOST:PORT", value_parser = values::place)]
    observer: Option<String>,
    /// Its token: env:NAME or file:PATH
    #[arg(long, value_name = "REF", default_value = "env:PERFWRIGHT_TOKEN")]
    observer_token: String,
    /// What is needed: p95<500ms (p50, p99, mean), errors<1%, rate>200/s; exit code 1 when missed
    #[arg(long, value_name = "OBJECTIVE", value_parser = formats::objective::parse)]
    objective: Vec<Objective>,
    /// Exit with 1 when a finding is at least this severe
    #[arg(long, value_enum)]
    fail_on: Option<SeverityArg>,
    /// Seed of random choices [default: from the clock]
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Format of the report on stdout
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Command to launch and investigate
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SeverityArg {
    Low,
    Medium,
    High,
    Critical,
}

impl From<SeverityArg> for Severity {
    fn from(s: SeverityArg) -> Severity {
        match s {
            SeverityArg::Low => Severity::Low,
            SeverityArg::Medium => Severity::Medium,
            SeverityArg::High => Severity::High,
            SeverityArg::Critical => Severity::Critical,
        }
    }
}

pub(super) fn run(args: InvestigateArgs, global: &Global, printer: Printer) -> Result<ExitStatus> {
    let format = args.format;
    let fail_on = args.fail_on.map(Severity::from);
    let config = config(args, global, printer)?;
    conduct(&config, format, fail_on, printer)
}

/// Runs, shows, stores, and says with the exit status whether there is something to do.
pub(super) fn conduct(
    config: &Config,
    format: Format,
    fail_on: Option<Severity>,
    printer: Printer,
) -> Result<ExitStatus> {
    let stop = Stop::new();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once; guards of the kernel's own kind (process
        // death) then undo what is left.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.flag())?;
        signal_hook::flag::register(signal, stop.flag())?;
    }
    let outcome = ::investigate::investigate(config, &stop, &mut |event| tell(&event, printer))?;
    // Shown before it is stored: a full disk must not cost the answer.
    printer.data(&runs::render(&outcome.report, format, printer))?;
    if let Some(e) = &outcome.failed {
        printer.error(&e.to_string(), e.hint());
    }
    tell_unanswered(&outcome, printer);
    tell_objectives(&outcome.report, printer);
    let status = status(&outcome, fail_on);
    match runs::save(&outcome.folder, &outcome.report) {
        Err(e) if outcome.failed.is_none() => Err(e),
        _ => Ok(status),
    }
}

/// Tells which of the named endpoints have no answer: they decide the exit code.
fn tell_unanswered(outcome: &Outcome, printer: Printer) {
    if !outcome.interrupted && outcome.failed.is_none() {
        outcome.unanswered.iter().for_each(|e| printer.error(&e.to_string(), e.hint()));
    }
}

/// Says of each endpoint that does not give what is needed, or of which that cannot be told, that
/// it is so: it decides the exit code.
fn tell_objectives(report: &Report, printer: Printer) {
    for endpoint in &report.endpoints {
        let name = short(&endpoint.name);
        for o in &endpoint.objectives {
            let hint = match o.verdict {
                Verdict::Met => continue,
                Verdict::Unknown if !o.objective.starts_with("rate") => {
                    "more --budget gives more requests"
                }
                Verdict::Missed | Verdict::Unknown => "",
            };
            let word = report::verdict_word(o.verdict);
            printer.error(&format!("objective {} {word} by {name}: {}", o.objective, o.why), hint);
        }
    }
}

fn status(outcome: &Outcome, fail_on: Option<Severity>) -> ExitStatus {
    if outcome.interrupted {
        return ExitStatus::Interrupted;
    }
    let unanswered = outcome.unanswered.iter().find(|e| e.is_target_failure());
    let unanswered = unanswered.or(outcome.unanswered.first());
    if let Some(e) = outcome.failed.as_ref().or(unanswered) {
        return super::status_of_failure(e);
    }
    let report = &outcome.report;
    let objectives = || report.endpoints.iter().flat_map(|e| &e.objectives);
    let is_any = |verdict: Verdict| objectives().any(|o| o.verdict == verdict);
    let worst = report.findings.iter().map(|f| f.severity).max();
    match (fail_on, worst) {
        (Some(limit), Some(worst)) if worst >= limit => ExitStatus::Finding,
        _ if is_any(Verdict::Missed) => ExitStatus::Finding,
        _ if is_any(Verdict::Unknown) => ExitStatus::Inconclusive,
        _ => ExitStatus::Success,
    }
}

fn config(args: InvestigateArgs, global: &Global, printer: Printer) -> Result<Config> {
    let given = Given {
        target: args.target.as_deref(),
        har: args.har.as_deref(),
        endpoints: &args.endpoint,
        headers: &args.headers,
        cookie: args.cookie.as_deref(),
        login: args.login.as_deref(),
        insecure: args.insecure,
        most: args.most,
        mutating: args.mutating,
    };
    if args.observer.is_none() {
        is_running(args.pid)?;
    }
    if args.proxy && args.command.is_empty() {
        return Err(usage(
            "--proxy needs a command: it is put between that command and its peers",
            "add what starts the service: perfwright investigate --proxy URL -- COMMAND",
        ));
    }
    let (workload, remarks) = build(&given)?;
    for remark in remarks {
        printer.warning(&remark, "");
    }
    if workload.endpoints.is_empty() {
        return Err(usage(
            "nothing to investigate",
            "name a URL, 'curl …', --har FILE, or --endpoint 'GET /path' with a URL",
        ));
    }
    let launch = (!args.command.is_empty()).then(|| -> Result<LaunchConfig> {
        Ok(LaunchConfig {
            argv: args.command.clone(),
            directory: std::env::current_dir()?,
            environment: Vec::new(),
            ready_within: args.ready_within,
        })
    });
    let observer = match &args.observer {
        Some(address) => Some((address.clone(), super::observe::token(&args.observer_token)?)),
        None => None,
    };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Config {
        workload,
        launch: launch.transpose()?,
        pid: args.pid,
        budget: args.budget,
        consents: Consents {
            attach: args.attach,
            mutating: args.mutating,
            allow_load: args.allow_load.iter().map(|h| (h.clone(), args.max_rps)).collect(),
        },
        objectives: args.objective.clone(),
        root: root(global),
        seed: args.seed.unwrap_or(clock.as_nanos() as u64),
        command: evidence::redacted_command(&std::env::args().collect::<Vec<_>>()),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        proxy: args.proxy,
        otlp_port: args.otlp_port,
        request_timeout: args.timeout,
        url_only: args.url_only,
        observer,
    })
}

/// Tells what happens, on stderr.
pub(super) fn tell(event: &Event, printer: Printer) {
    match event {
        Event::Started { run } => printer.detail(&format!("run {run}")),
        Event::Plan(plan) => printer.talk(&format!("plan: {plan}")),
        Event::Ready { seconds } => printer.talk(&format!("ready after {seconds:.1} s")),
        Event::Found { service, level, coverage } => {
            if let Some(service) = service {
                printer.talk(&format!("found: {} ({level:?})", report::service_line(service)));
            } else {
                printer.talk(&format!("found: only the URL ({level:?})"));
            }
            for line in coverage.iter().filter(|c| !c.reason.is_empty()) {
                printer.detail(&format!("  {}: {}", line.probe, line.reason));
            }
        }
        Event::Sentence { text, seconds, endpoint } => {
            clear(printer);
            printer.talk(&format!("[{seconds:5.1} s] {}: {text}", short(endpoint)));
        }
        Event::Experiment(experiment) => {
            let name = report::experiment_word(&experiment.kind);
            let endpoint = short(&experiment.endpoint);
            printer.detail(&format!("{name} {endpoint}: {}", experiment.purpose));
        }
        Event::Progress { endpoint, done } => {
            if printer.is_live() {
                printer.live(&format!("  {}: {done} requests", short(endpoint)));
            }
        }
        Event::Warning { message, hint } => {
            clear(printer);
            printer.warning(message, hint);
        }
    }
}

/// An endpoint's name as a label of talk.
fn short(endpoint: &str) -> String {
    report::cut(endpoint, 48)
}

fn clear(printer: Printer) {
    if printer.is_live() {
        printer.live("");
    }
}
