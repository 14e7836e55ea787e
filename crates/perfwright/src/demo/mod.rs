//! The shop of `perfwright demo`: HTTP over SQLite with spans, a supplier it calls, seven slow
//! pages of different kinds and two healthy ones. It runs as a child process of its own, so that
//! it is observed like any other service; nothing needs to be installed.

mod data;
mod pages;
mod supplier;
mod tracer;

use anyhow::{Context, Result, anyhow};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tiny_http::{Header, Response, Server};
use tracer::{RequestTrace, Tracer};

/// Threads that serve requests.
const WORKERS: usize = 4;

/// The pages, in the order they are shown: path, and what is wrong with it.
pub(crate) const PAGES: &[(&str, &str)] = &[
    ("/orders?limit=60", "one statement for each order"),
    ("/report", "one slow statement"),
    ("/prices", "calls to the supplier one after the other"),
    ("/invoice", "burns CPU"),
    ("/checkout", "sleeps between retries"),
    ("/export", "syncs to disk for each line"),
    ("/settings", "the same statement again and again"),
    ("/products?limit=20", "healthy"),
    ("/health", "healthy"),
];

/// What the pages work with.
pub(crate) struct Shop {
    folder: PathBuf,
    supplier: SocketAddr,
    tracer: Tracer,
}

/// Serves until the process ends. Prints `ready URL` when it accepts requests, through `say`.
///
/// # Errors
/// When the port or the data folder cannot be had.
pub(crate) fn serve(
    listen: &str,
    folder: PathBuf,
    otlp: Option<String>,
    say: impl FnOnce(&str),
) -> Result<()> {
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    data::seed(&folder)?;
    let supplier = supplier::start()?;
    let shop = Arc::new(Shop { folder, supplier, tracer: Tracer::start(otlp) });
    let server = Server::http(listen).map_err(|e| anyhow!("cannot listen on {listen}: {e}"))?;
    let server = Arc::new(server);
    say(&format!("ready http://{}", server.server_addr()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|n| {
            let (server, shop) = (Arc::clone(&server), Arc::clone(&shop));
            std::thread::Builder::new()
                .name(format!("shop-{n}"))
                .spawn(move || work(&server, &shop))
        })
        .collect::<std::io::Result<_>>()?;
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a worker of the shop panicked"))??;
    }
    Ok(())
}

/// One worker: its own connection, as a pool would give it.
fn work(server: &Server, shop: &Shop) -> Result<()> {
    let connection = data::open(&shop.folder)?;
    loop {
        let request = server.recv()?;
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        let (path, query) = (path.to_string(), query.to_string());
        let parent = request
            .headers()
            .iter()
            .find(|h| h.field.equiv("traceparent"))
            .map(|h| h.value.as_str().to_string());
        let mut trace = shop.tracer.request(parent.as_deref(), request.method().as_str(), &path);
        let (status, body) = match pages::render(shop, &connection, &mut trace, &path, &query) {
            Ok(Some(body)) => (200, body),
            Ok(None) => (404, r#"{"error":"no such page"}"#.to_string()),
            Err(e) => (500, format!(r#"{{"error":"{e}"}}"#)),
        };
        finish(shop, trace, status);
        let mut response = Response::from_string(body).with_status_code(status);
        if let Ok(header) = Header::from_bytes("content-type", "application/json") {
            response.add_header(header);
        }
        // A client that went away is no concern of the shop.
        drop(request.respond(response));
    }
}

fn finish(shop: &Shop, trace: RequestTrace, status: u16) {
    shop.tracer.finish(trace, status);
}
