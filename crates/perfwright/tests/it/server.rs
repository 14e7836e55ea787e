//! A server on loopback that answers each request with what a test says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A running server; it closes its port when dropped or told to.
pub struct Server {
    pub port: u16,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
}

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    Send(String),
    Wait(Duration),
    /// The same piece until the client is gone.
    Endless(String),
    Close,
}

/// A whole answer.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    vec![Step::Send(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    ))]
}

/// A healthy answer after some milliseconds.
pub fn fine(ms: u64) -> Vec<Step> {
    let mut steps = vec![Step::Wait(Duration::from_millis(ms))];
    steps.extend(answer("200 OK", "content-type: application/json\r\n", "{\"ok\":true}"));
    steps
}

impl Server {
    /// Answers each request by its number, from 0.
    pub fn start(script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static) -> Server {
        Server::by_target(move |_, number| script(number))
    }

    /// Answers each request by its target, such as `/orders?page=1`, and its number.
    pub fn by_target(script: impl Fn(&str, usize) -> Vec<Step> + Send + Sync + 'static) -> Server {
        let (server, listener) = Server::bind();
        let (stop, served, script) = (server.stop.clone(), server.served.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (script, served) = (script.clone(), served.clone());
                std::thread::spawn(move || serve(stream, &*script, &served, usize::MAX));
            }
        });
        server
    }

    /// Answers `requests` and dies: the connection is closed, new ones are refused.
    pub fn dying(requests: usize) -> Server {
        let (server, listener) = Server::bind();
        let served = server.served.clone();
        std::thread::spawn(move || {
            // One connection after the other, so that nothing is open when the listener goes.
            while served.load(Ordering::SeqCst) < requests
                && let Ok((stream, _)) = listener.accept()
            {
                serve(stream, &|_, _| fine(5), &served, requests);
            }
        });
        server
    }

    fn bind() -> (Server, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (stop, served) = (Arc::default(), Arc::default());
        (Server { port, stop, served }, listener)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// Answers the requests of one connection until the client goes, a step closes it, or `limit`
/// requests were served by the whole server.
fn serve(
    mut stream: TcpStream,
    script: &impl Fn(&str, usize) -> Vec<Step>,
    served: &AtomicUsize,
    limit: usize,
) {
    drop(stream.set_nodelay(true));
    let mut seen = Vec::new();
    while served.load(Ordering::SeqCst) < limit
        && let Some(target) = read_head(&mut stream, &mut seen)
    {
        let number = served.fetch_add(1, Ordering::SeqCst);
        if !script(&target, number).into_iter().all(|step| act(&mut stream, step)) {
            return;
        }
    }
}

/// Reads one request without a body; its target.
fn read_head(stream: &mut TcpStream, seen: &mut Vec<u8>) -> Option<String> {
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            seen.drain(..end + 4);
            return Some(head.split(' ').nth(1).unwrap_or_default().to_string());
        }
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => seen.extend_from_slice(&piece[..n]),
            _ => return None,
        }
    }
}

/// Whether the connection goes on.
fn act(stream: &mut TcpStream, step: Step) -> bool {
    match step {
        Step::Send(text) => stream.write_all(text.as_bytes()).is_ok(),
        Step::Wait(time) => {
            std::thread::sleep(time);
            true
        }
        Step::Endless(text) => {
            while stream.write_all(text.as_bytes()).is_ok() {}
            false
        }
        Step::Close => false,
    }
}
