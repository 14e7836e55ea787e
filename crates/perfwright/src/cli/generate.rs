//! Completions and the man page, from the same definitions as the parser.

use super::exit::ExitStatus;
use super::printer::Printer;
use anyhow::Result;
use clap::{Args, CommandFactory};

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// Shell
    shell: clap_complete::Shell,
}

pub(super) fn completions(args: &CompletionsArgs, printer: Printer) -> Result<ExitStatus> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "perfwright", &mut out);
    printer.data(&String::from_utf8_lossy(&out))?;
    Ok(ExitStatus::Success)
}

pub(super) fn man(printer: Printer) -> Result<ExitStatus> {
    let mut out = Vec::new();
    clap_mangen::Man::new(super::Cli::command()).render(&mut out)?;
    printer.data(&String::from_utf8_lossy(&out))?;
    Ok(ExitStatus::Success)
}
