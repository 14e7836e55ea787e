//! `observe`: the observer by itself, its framed evidence on stdout or TCP.

use super::exit::ExitStatus;
use super::printer::Printer;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::net::ToSocketAddrs;

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
    let text = match reference.split_once(':') {
        Some(("env", name)) => {
            std::env::var(name).with_context(|| format!("environment variable {name}"))?
        }
        Some(("file", path)) => std::fs::read_to_string(path).with_context(|| path.to_string())?,
        _ => bail!("a token is given as env:NAME or file:PATH, never in clear"),
    };
    Ok(text.lines().next().unwrap_or("").trim().to_string())
}
