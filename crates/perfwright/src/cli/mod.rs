//! The command line: definitions, dispatch, exit codes. clap's types stop here.

mod demo;
mod doctor;
mod exit;
mod generate;
mod investigate;
mod observe;
mod printer;
mod runs;
mod values;
mod workload;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use exit::ExitStatus;
use printer::Printer;
use std::path::PathBuf;

const EXAMPLES: &str = "\
EXAMPLES
  perfwright demo                                        a small shop with slow pages, on board
  perfwright investigate http://127.0.0.1:3000/orders    a service that is already running
  perfwright investigate 'curl https://… -H \"Authorization: …\"'   as copied from a browser
  perfwright investigate --har dashboard.har             a page: endpoints by what the user waited
  perfwright investigate --endpoint 'GET /orders?page={1..20}' http://127.0.0.1:3000 -- npm run dev
  perfwright doctor http://127.0.0.1:3000                what can be observed here

EXIT CODES
  0 fine   1 finding at or above --fail-on   2 usage or tool error   3 the target failed
  4 inconclusive   130 interrupted: what was recorded is kept and shown";

/// A performance engineer in one binary: where does every millisecond of a request go, why, and
/// what would fix it.
#[derive(Parser)]
#[command(name = "perfwright", version, before_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Args, Clone)]
struct Global {
    /// Errors only
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Say everything
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Folder that holds the runs [default: .perfwright here]
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Find where the time of a request goes, why, and what would fix it
    Investigate(Box<investigate::InvestigateArgs>),
    /// Investigate a small slow shop that is on board: nothing needs to be installed
    Demo(demo::DemoArgs),
    /// What can be observed here, at which level, and the exact command that would raise it
    Doctor(doctor::DoctorArgs),
    /// Show a finished run again
    Report(runs::ReportArgs),
    /// Recompute a run's conclusions from its stored evidence
    Replay(runs::ReplayArgs),
    /// List runs
    Runs(runs::RunsArgs),
    /// Watch a service here and stream framed evidence to a conductor elsewhere
    Observe(observe::ObserveArgs),
    /// Print shell completions
    Completions(generate::CompletionsArgs),
    /// Print the man page
    Man,
    /// The shop of `demo`
    #[command(hide = true)]
    DemoShop(demo::ShopArgs),
}

/// Format of the data on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal
    Text,
    /// Markdown
    Md,
    /// The JSON contract `perfwright/report/1`
    Json,
}

/// Parses, runs, prints errors, returns the exit status.
pub(crate) fn main() -> ExitStatus {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let words: Vec<String> =
                std::env::args_os().map(|w| w.to_string_lossy().into_owned()).collect();
            if let Some((message, hint)) = one_argument(&e, &words) {
                Printer::new(false, false).error(&message, hint);
                return ExitStatus::Error;
            }
            let help = !e.use_stderr();
            // clap chooses the stream: help to stdout, usage errors to stderr.
            return match e.print() {
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => ExitStatus::Error,
                // A reader that has seen enough, as `head` has, is no error.
                _ if help => ExitStatus::Success,
                _ => ExitStatus::Error,
            };
        }
    };
    let printer = Printer::new(cli.global.quiet, cli.global.verbose);
    survive_file_limit();
    match run(cli, printer) {
        Ok(status) => status,
        Err(e) => {
            let (message, hint) = told(&e);
            printer.error(&message, &hint);
            status_of(&e)
        }
    }
}

/// Beyond a limit of file size the kernel sends a signal that kills; caught, the write fails with
/// an error that can be told. Not ignored: a launched command would inherit that.
fn survive_file_limit() {
    let seen = std::sync::Arc::default();
    // Where the signal cannot be caught, it stays as it was.
    drop(signal_hook::flag::register(signal_hook::consts::SIGXFSZ, seen));
}

fn run(cli: Cli, printer: Printer) -> Result<ExitStatus> {
    let global = &cli.global;
    match cli.command {
        Command::Investigate(args) => investigate::run(*args, global, printer),
        Command::Demo(args) => demo::run(&args, global, printer),
        Command::Doctor(args) => doctor::run(&args, printer),
        Command::Report(args) => runs::report(&args, global, printer),
        Command::Replay(args) => runs::replay(&args, global, printer),
        Command::Runs(args) => runs::list(&args, global, printer),
        Command::Observe(args) => observe::run(&args, printer),
        Command::Completions(args) => generate::completions(&args, printer),
        Command::Man => generate::man(printer),
        Command::DemoShop(args) => demo::shop(&args),
    }
}

/// The folder that holds `runs/`.
fn root(global: &Global) -> PathBuf {
    global.out.clone().unwrap_or_else(|| PathBuf::from(".perfwright")).join("runs")
}

/// What happened, and the next step. An error of a library says both in one sentence: `what: why;
/// next step`.
fn told(error: &anyhow::Error) -> (String, String) {
    let message = chained(error);
    if let Some(e) = error.downcast_ref::<workload::UsageError>() {
        return (message, e.hint.clone());
    }
    let split = message.rsplit_once("; ").filter(|_| !message.contains("\nhint: "));
    match (error.downcast_ref::<::investigate::Error>(), split) {
        (Some(::investigate::Error::Store(_)) | None, Some((what, hint))) => {
            (what.into(), hint.into())
        }
        (Some(e), _) => (message, e.hint().into()),
        (None, None) => (message, String::new()),
    }
}

/// An error and what caused it; a cause that the error itself has told is not told again.
fn chained(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|c| !c.is_empty()) {
        match out.is_empty() {
            true => out = cause,
            false if out.contains(&cause) => {}
            false => out = format!("{out}: {cause}"),
        }
    }
    out
}

/// What clap cannot know: which words were meant as one.
fn one_argument(error: &clap::Error, words: &[String]) -> Option<(String, &'static str)> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let unknown = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(word) if error.kind() == ErrorKind::UnknownArgument => word,
        _ => return None,
    };
    let before = words.iter().take_while(|w| *w != "--");
    if before.clone().any(|w| w == "curl" || w.ends_with("/curl")) {
        return Some(("the words of a curl command came one by one".into(), workload::QUOTE_CURL));
    }
    let url = |word: &str| word.contains("://") || word.starts_with('/');
    let urls = before.filter(|w| url(w)).count();
    (url(unknown) && urls > 1).then(|| {
        (
            format!("`{unknown}` is one URL too many"),
            "put a URL with {1..20} in quotes, since a shell makes many of it; further requests \
             are given with --endpoint 'METHOD /path'",
        )
    })
}

fn status_of(error: &anyhow::Error) -> ExitStatus {
    error.downcast_ref::<::investigate::Error>().map_or(ExitStatus::Error, status_of_failure)
}

fn status_of_failure(error: &::investigate::Error) -> ExitStatus {
    match error {
        ::investigate::Error::Interrupted => ExitStatus::Interrupted,
        ::investigate::Error::Observer(_) => ExitStatus::Inconclusive,
        e if e.is_out_of_budget() => ExitStatus::Inconclusive,
        e if e.is_target_failure() => ExitStatus::Target,
        _ => ExitStatus::Error,
    }
}
