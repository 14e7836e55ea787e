//! `runs`, `report`, `replay`: what is on disk.

use super::exit::ExitStatus;
use super::printer::Printer;
use super::workload::usage;
use super::{Format, Global, root};
use anyhow::Result;
use clap::Args;
use evidence::Report;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct RunsArgs {
    /// Format of the list
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Args)]
pub(super) struct ReportArgs {
    /// Run: its id, the beginning of it, a folder, or `latest`
    #[arg(default_value = "latest")]
    run: String,
    /// Format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Every recorded request with its statements and other calls (json: one object a line)
    #[arg(long)]
    requests: bool,
}

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// Run: its id, the beginning of it, a folder, or `latest`
    #[arg(default_value = "latest")]
    run: String,
    /// Format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Bytes of a report in a format.
pub(super) fn render(report: &Report, format: Format, printer: Printer) -> String {
    match format {
        Format::Json => report::json(report),
        Format::Md => report::markdown(report),
        Format::Text => report::text(
            report,
            &report::TextOptions {
                width: printer.width(),
                color: printer.colors_data(),
                verbose: printer.is_verbose(),
            },
        ),
    }
}

/// Writes the report into the run's folder.
pub(super) fn save(folder: &std::path::Path, report: &Report) -> Result<()> {
    store::write_report(folder, "report.json", report::json(report).as_bytes())?;
    store::write_report(folder, "report.md", report::markdown(report).as_bytes())?;
    Ok(())
}

/// The folder of the run a person names; says when `latest` is not the last one started.
fn folder(run: &str, global: &Global, printer: Printer) -> Result<PathBuf> {
    let root = root(global);
    if run == "latest" {
        let (all, _) = store::list(&root)?;
        if let (Some(found), Some(first)) = (store::latest(&all), all.first()) {
            if found.id != first.id {
                printer.talk(&format!(
                    "run {}; later ones were never answered (the last: {})",
                    found.id, first.id
                ));
            }
            return Ok(found.path.clone());
        }
        return Err(usage(
            format!("no runs in {} yet", root.display()),
            "make one: perfwright investigate URL, or perfwright demo; --out DIR looks elsewhere",
        ));
    }
    Ok(store::resolve(&root, run)?)
}

/// Shows the stored report; a run that was killed before it wrote one is replayed.
pub(super) fn report(args: &ReportArgs, global: &Global, printer: Printer) -> Result<ExitStatus> {
    let folder = folder(&args.run, global, printer)?;
    if args.requests {
        return requests(&folder, args.format, printer);
    }
    let stored = folder.join("report.json");
    let report = match std::fs::read(&stored) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            let message = format!("{} is damaged: {e}", stored.display());
            usage(message, format!("perfwright replay {} recomputes it", args.run))
        })?,
        Err(_) => {
            printer.talk("the run has no report yet: recomputing it from its evidence");
            replayed(&folder, printer)?
        }
    };
    printer.data(&render(&report, args.format, printer))?;
    Ok(ExitStatus::Success)
}

/// Shows each request with its calls, from the evidence.
fn requests(folder: &std::path::Path, format: Format, printer: Printer) -> Result<ExitStatus> {
    let (requests, problems) = ::investigate::requests(folder)?;
    for problem in &problems {
        printer.warning(problem, "the rest of the run was read");
    }
    if requests.is_empty() {
        let run = folder.file_name().unwrap_or_default().to_string_lossy();
        printer.error(
            &format!("run {run} holds no request: it ended before one was sent"),
            "perfwright runs lists the others; perfwright report says why this one ended",
        );
        return Ok(ExitStatus::Inconclusive);
    }
    printer.data(&match format {
        Format::Json => report::requests_json(&requests),
        Format::Text | Format::Md => report::requests_text(&requests, printer.width()),
    })?;
    Ok(ExitStatus::Success)
}

/// Recomputes everything from the evidence and stores it.
pub(super) fn replay(args: &ReplayArgs, global: &Global, printer: Printer) -> Result<ExitStatus> {
    let folder = folder(&args.run, global, printer)?;
    let report = replayed(&folder, printer)?;
    save(&folder, &report)?;
    printer.data(&render(&report, args.format, printer))?;
    Ok(ExitStatus::Success)
}

fn replayed(folder: &std::path::Path, printer: Printer) -> Result<Report> {
    let replayed = ::investigate::replay(folder)?;
    for problem in &replayed.problems {
        printer.warning(problem, "the rest of the run was read");
    }
    Ok(replayed.report)
}

/// Lists runs, newest first.
pub(super) fn list(args: &RunsArgs, global: &Global, printer: Printer) -> Result<ExitStatus> {
    let (runs, problems) = store::list(&root(global))?;
    for problem in &problems {
        printer.warning(problem, "");
    }
    let text = match args.format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&runs)?),
        Format::Text | Format::Md => {
            let rows: Vec<report::RunRow> = runs
                .iter()
                .map(|r| report::RunRow {
                    id: r.id.clone(),
                    started: r.started.clone(),
                    state: r.state.clone(),
                    endpoints: r.endpoints.join(", "),
                    p50_ms: r.p50_ms,
                    finding: r.top_finding.clone(),
                })
                .collect();
            report::runs(&rows, printer.width())
        }
    };
    printer.data(&text)?;
    if runs.is_empty() {
        printer.talk("no runs yet; `perfwright demo` makes one");
    }
    Ok(ExitStatus::Success)
}
