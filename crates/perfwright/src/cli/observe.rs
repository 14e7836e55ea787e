//! `observe`: the observer by itself, its framed evidence on stdout or TCP.

use super::exit::ExitStatus;
use super::printer::Printer;
use anyhow::{Context, Result, bail};
use clap::Args;

#[derive(Args)]
pub(super) struct ObserveArgs {
    /// Listen on this address instead of speaking on stdin and stdout; beyond loopback a token is
    /// needed
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where the token comes from: env:NAME or file:PATH
    #[arg(long, value_name = "REF")]
    token: Option<String>,
}

pub(super) fn run(args: &ObserveArgs, printer: Printer) -> Result<ExitStatus> {
    match &args.listen {
        None => observe::serve::serve(&mut std::io::stdin().lock(), &mut std::io::stdout())?,
        Some(address) => {
            let token = args.token.as_deref().map(token).transpose()?;
            let listener = observe::serve::Listener::bind(address, token)?;
            printer.talk(&format!("observing for conductors on {}", listener.address()));
            listener.run()?;
        }
    }
    Ok(ExitStatus::Success)
}

/// A secret named by reference, never written on a command line.
pub(super) fn token(reference: &str) -> Result<String> {
    let text = match reference.split_once(':') {
        Some(("env", name)) => {
            std::env::var(name).with_context(|| format!("environment variable {name}"))?
        }
        Some(("file", path)) => std::fs::read_to_string(path).with_context(|| path.to_string())?,
        _ => bail!("a token is given as env:NAME or file:PATH, never in clear"),
    };
    Ok(text.lines().next().unwrap_or("").trim().to_string())
}
