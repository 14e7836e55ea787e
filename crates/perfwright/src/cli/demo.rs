//! `demo`: investigate the shop that is on board.

use super::exit::ExitStatus;
use super::printer::Printer;
use super::workload::endpoint_of_url;
use super::{Format, Global, investigate, root, values};
use crate::demo;
use ::investigate::{Config, Consents, LaunchConfig};
use anyhow::{Context, Result};
use clap::Args;
use evidence::Workload;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Time for the investigation
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = values::budget,
          allow_hyphen_values = true)]
    budget: Duration,
    /// Seed of random choices
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    seed: u64,
    /// Only start the shop and leave it running until Ctrl-C, to be investigated by hand
    #[arg(long)]
    serve: bool,
    /// Format of the report on stdout
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Args)]
pub(super) struct ShopArgs {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    #[arg(long)]
    folder: PathBuf,
}

pub(super) fn run(args: &DemoArgs, global: &Global, printer: Printer) -> Result<ExitStatus> {
    let folder = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    remove_orphans();
    let guard = Folder(folder.clone());
    if args.serve {
        demo::serve("127.0.0.1:0", folder, None, |line| printer.talk(line))?;
        return Ok(ExitStatus::Success);
    }
    let port = free_port()?;
    let config = config(args, global, port, &folder)?;
    let status = investigate::conduct(&config, args.format, None, printer);
    drop(guard);
    status
}

/// Begins the name of a shop's data folder; our process id ends it.
const PREFIX: &str = "perfwright-demo-";

/// Removes the data of demos that were killed: their process is gone, so nobody else will.
fn remove_orphans() {
    let proc = std::path::Path::new("/proc");
    if !proc.join("self").exists() {
        return; // Without /proc it cannot be told who lives.
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !proc.join(pid.to_string()).exists()) {
            // Another user's stays.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Removes the shop's data when the demo ends.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to remove when the shop never started.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?;
    Ok(listener.local_addr()?.port())
}

fn config(args: &DemoArgs, global: &Global, port: u16, folder: &std::path::Path) -> Result<Config> {
    let listen = format!("127.0.0.1:{port}");
    let endpoints = demo::PAGES
        .iter()
        .map(|(path, _)| endpoint_of_url(&format!("http://{listen}{path}")))
        .collect::<Result<Vec<_>>>()?;
    let own = std::env::current_exe().context("cannot find the own executable")?;
    let argv = [
        own.display().to_string(),
        "demo-shop".into(),
        "--listen".into(),
        listen,
        "--folder".into(),
        folder.display().to_string(),
    ];
    Ok(Config {
        workload: Workload { endpoints, login: None },
        launch: Some(LaunchConfig {
            argv: argv.to_vec(),
            directory: std::env::current_dir()?,
            environment: Vec::new(),
            ready_within: Duration::from_secs(30),
        }),
        pid: None,
        budget: args.budget,
        consents: Consents::default(),
        objectives: Vec::new(),
        root: root(global),
        seed: args.seed,
        command: vec!["perfwright".into(), "demo".into()],
        tool_version: env!("CARGO_PKG_VERSION").into(),
        proxy: false,
        otlp_port: Some(0),
        request_timeout: Duration::from_secs(30),
        url_only: false,
        observer: None,
    })
}

/// The child process: serves, and exports spans where the environment says.
pub(super) fn shop(args: &ShopArgs) -> Result<ExitStatus> {
    let otlp = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
    let printer = Printer::new(false, false);
    demo::serve(&args.listen, args.folder.clone(), otlp, |line| printer.talk(line))?;
    Ok(ExitStatus::Success)
}
