//! The supplier: another service the shop calls for prices. Each answer takes a while.

use anyhow::{Result, anyhow};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tiny_http::{Response, Server};

/// What one price takes.
const PRICE_TAKES: Duration = Duration::from_millis(25);
const WORKERS: usize = 8;

/// Starts the supplier on a port of its own.
pub(super) fn start() -> Result<SocketAddr> {
    let server = Server::http("127.0.0.1:0").map_err(|e| anyhow!("supplier: {e}"))?;
    let address = server.server_addr().to_ip().ok_or_else(|| anyhow!("supplier: no address"))?;
    let server = std::sync::Arc::new(server);
    for n in 0..WORKERS {
        let server = std::sync::Arc::clone(&server);
        std::thread::Builder::new().name(format!("supplier-{n}")).spawn(move || {
            while let Ok(request) = server.recv() {
                std::thread::sleep(PRICE_TAKES);
                let body = r#"{"price_cents":1999}"#;
                // A shop that went away is no concern of the supplier.
                drop(request.respond(Response::from_string(body)));
            }
        })?;
    }
    Ok(address)
}

/// Asks for one product's price, on a connection that is kept.
pub(super) struct SupplierClient {
    stream: BufReader<TcpStream>,
}

impl SupplierClient {
    /// Connects.
    pub(super) fn connect(address: SocketAddr) -> Result<SupplierClient> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(SupplierClient { stream: BufReader::new(stream) })
    }

    /// `GET /price/{product}`.
    pub(super) fn price(&mut self, product: u32) -> Result<String> {
        let request = format!("GET /price/{product} HTTP/1.1\r\nhost: supplier\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(anyhow!("the supplier closed the connection"));
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}
