//! Capture inside another network namespace, on loopback and on a pair of virtual interfaces.

use super::{KEY, capture, http_server, settle, skip};
use evidence::{Operation, Redactor};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use wire::Decoder;

fn ip(arguments: &str) -> bool {
    let run = Command::new("ip").args(arguments.split(' ')).output();
    run.is_ok_and(|o| o.status.success())
}

/// A namespace of our own name; gone with this value.
struct Namespace(String);

impl Namespace {
    fn new(of: &str) -> Option<Namespace> {
        let n = Namespace(format!("pw{of}{}", std::process::id()));
        ip(&format!("netns add {}", n.0)).then_some(n)
    }

    fn enter(&self) {
        let file = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        // SAFETY: plain system call on a valid descriptor; affects this thread only.
        let entered =
            unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&file), libc::CLONE_NEWNET) };
        assert_eq!(entered, 0);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

#[test]
fn both_directions_are_seen_once_on_an_interface_of_a_namespace() {
    let (Some(a), Some(b)) = (Namespace::new("a"), Namespace::new("b")) else {
        return skip("network namespaces", "run as root with iproute2 installed");
    };
    let (x, y) = (format!("v{}a", std::process::id()), format!("v{}b", std::process::id()));
    assert!(ip(&format!("link add {x} netns {} type veth peer name {y} netns {}", a.0, b.0)));
    for (n, v, address) in [(&a, &x, "10.99.7.1/24"), (&b, &y, "10.99.7.2/24")] {
        assert!(ip(&format!("-n {} addr add {address} dev {v}", n.0)));
        assert!(ip(&format!("-n {} link set {v} up", n.0)));
        assert!(ip(&format!("-n {} link set lo up", n.0)));
    }
    let ready = std::sync::Barrier::new(2);
    std::thread::scope(|s| {
        s.spawn(|| {
            b.enter();
            let listener = TcpListener::bind("10.99.7.2:8080").unwrap();
            ready.wait();
            http_server(listener, 1, 2);
        });
        s.spawn(|| {
            a.enter();
            ready.wait();
            let local = TcpListener::bind("[::1]:8081").unwrap();
            let mut capture = capture(&[8080, 8081]).expect("root may capture");
            let mut decoder = Decoder::new(Redactor::new(KEY), &[]);
            let mut remote = TcpStream::connect("10.99.7.2:8080").unwrap();
            for _ in 0..2 {
                remote.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                remote.read_exact(&mut [0; 40]).unwrap();
            }
            let mut near = TcpStream::connect("[::1]:8081").unwrap();
            let (mut far, _) = local.accept().unwrap();
            near.write_all(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            far.read_exact(&mut [0; 28]).unwrap();
            far.write_all(b"HTTP/1.1 204 No\r\n\r\n").unwrap();
            near.read_exact(&mut [0; 19]).unwrap();
            settle(&mut capture, &mut decoder);
            let calls = decoder.take_calls();
            let executed: Vec<(&str, &str)> = calls
                .iter()
                .filter(|c| c.operation == Operation::Execute)
                .map(|c| (c.peer.as_str(), c.text.as_str()))
                .collect();
            assert_eq!(
                executed,
                [
                    ("http 10.99.7.2:8080", "GET h/a"),
                    ("http 10.99.7.2:8080", "GET h/a"),
                    ("http [::1]:8081", "GET h/b"),
                ]
            );
            assert_eq!(decoder.losses(), wire::Losses::default());
        });
    });
}
