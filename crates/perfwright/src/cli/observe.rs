//! `observe`: the observer by itself, its framed evidence on stdout or TCP.

use super::exit::ExitStatus;
use super::printer::Printer;
use super::workload::{unreadable, usage};
use anyhow::{Context, Result};
use clap::Args;
use std::env::VarError;
use std::net::ToSocketAddrs;
use std::path::Path;

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
        None => {
            observe::serve_with(std::io::stdin().lock(), std::io::stdout().lock(), options())?;
        }
        Some(address) => {
            let token = args.token.as_deref().map(token).transpose()?;
            let address = address
                .to_socket_addrs()
                .with_context(|| format!("{address} is no HOST:PORT"))?
                .next()
                .with_context(|| format!("{address} has no address"))?;
            let listener = observe::Listener::bind(address, token)?;
            printer.talk(&format!("observing for conductors on {}", listener.address()?));
            loop {
                // One conductor after the other; a failed one does not end the observer.
                if let Err(e) = listener.serve_next(options()) {
                    printer.warning(&e.to_string(), "");
                }
            }
        }
    }
    Ok(ExitStatus::Success)
}

/// An observer by itself: the conductor is elsewhere, stacks are taken here.
fn options() -> observe::ServeOptions {
    let stacks = Box::new(observe::stacks::Stacks::default());
    observe::ServeOptions { generator: false, stacks: Some(stacks) }
}

/// A secret named by reference, never written on a command line.
pub(super) fn token(reference: &str) -> Result<String> {
    let (text, hint) = match reference.split_once(':') {
        Some(("env", name)) => {
            let hint = format!("export {name}=… and run again");
            let why = |e| match e {
                VarError::NotPresent => format!("environment variable {name} is not set"),
                VarError::NotUnicode(_) => format!("environment variable {name} holds no text"),
            };
            (std::env::var(name).map_err(|e| usage(why(e), hint.clone()))?, hint)
        }
        Some(("file", path)) => {
            let text = std::fs::read_to_string(path);
            (text.map_err(|e| unreadable(Path::new(path), &e))?, format!("write it to {path}"))
        }
        _ => {
            return Err(usage(
                "a token is given as env:NAME or file:PATH, never in clear",
                "export PERFWRIGHT_TOKEN=… is what is used when nothing is said",
            ));
        }
    };
    match text.lines().next().unwrap_or_default().trim() {
        "" => Err(usage(format!("{reference} is empty"), hint)),
        token => Ok(token.to_string()),
    }
}
