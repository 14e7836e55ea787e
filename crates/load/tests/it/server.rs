//! A server that does what a script says, on its own threads.

use evidence::{Body, HeaderValue, RequestTemplate};
use load::{Request, render};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send these bytes at once.
    Send(Vec<u8>),
    /// Send these bytes one at a time.
    Drip(Vec<u8>),
    /// Wait this many milliseconds.
    Wait(u64),
    /// Send this piece over and over.
    Endless(Vec<u8>),
    /// Close the connection.
    Close,
    /// Break the connection (RST).
    Reset,
}

pub fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

/// A running server; stops when dropped.
pub struct Server {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Server {
    /// Answers each request with what `script` says: given the raw request and its number.
    pub fn start(script: impl Fn(&str, usize) -> Vec<Step> + Send + Sync + 'static) -> Server {
        let script = Arc::new(script);
        let requests = Arc::new(AtomicUsize::new(0));
        Server::raw(move |stream| serve(stream, &*script, &requests))
    }

    /// Hands each connection to `handle` on a thread of its own.
    pub fn raw(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped, handle) = (connections.clone(), stop.clone(), Arc::new(handle));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let handle = handle.clone();
                std::thread::spawn(move || handle(stream));
            }
        });
        Server { port, connections, stop }
    }

    /// A GET of `path` on this server.
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path, &[], b"")
    }

    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Request {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        render(&template(method, &url, headers, body), 0, &[]).unwrap()
    }
}

pub fn template(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> RequestTemplate {
    let plain = |text: &str| HeaderValue::Plain { text: text.into() };
    RequestTemplate {
        method: method.into(),
        url: url.into(),
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), plain(v))).collect(),
        body: Body::Inline { bytes: body.to_vec(), length: body.len() as u64 },
        insecure: false,
        compressed: false,
        follow_redirects: false,
    }
}

fn serve(
    mut stream: TcpStream,
    script: &impl Fn(&str, usize) -> Vec<Step>,
    requests: &AtomicUsize,
) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut seen = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut seen) {
        let number = requests.fetch_add(1, Ordering::SeqCst);
        for step in script(&request, number) {
            if !act(&mut stream, step) {
                return;
            }
        }
    }
}

/// One request, head and body, as text.
pub fn read_request(stream: &mut impl Read, seen: &mut Vec<u8>) -> Option<String> {
    let mut piece = [0; 65536];
    loop {
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4) {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))
                .map_or(0, |n| n.parse().unwrap());
            if seen.len() >= end + length {
                let rest = seen.split_off(end + length);
                let whole = std::mem::replace(seen, rest);
                return Some(String::from_utf8_lossy(&whole).into_owned());
            }
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
        Step::Send(bytes) => stream.write_all(&bytes).is_ok(),
        Step::Drip(bytes) => bytes.iter().all(|b| {
            let sent = stream.write_all(&[*b]).is_ok();
            std::thread::sleep(Duration::from_micros(200));
            sent
        }),
        Step::Wait(ms) => {
            std::thread::sleep(Duration::from_millis(ms));
            true
        }
        Step::Endless(bytes) => loop {
            if stream.write_all(&bytes).is_err() {
                return false;
            }
        },
        Step::Close => false,
        Step::Reset => {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            // SAFETY: the descriptor is open and the option is a valid `linger`.
            unsafe {
                use std::os::fd::AsRawFd;
                libc::setsockopt(
                    stream.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&raw const linger).cast(),
                    size_of::<libc::linger>() as libc::socklen_t,
                );
            }
            false
        }
    }
}
