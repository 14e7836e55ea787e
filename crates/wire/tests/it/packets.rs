//! Conversations as scripts: who says which bytes, played as TCP segments with any cut.

use evidence::{Call, Nanos, Redactor};
use std::fmt::Write;
use std::net::SocketAddr;
use wire::segment::{ACK, FIN, SYN};
use wire::{Decoder, Segment};

/// One utterance.
#[derive(Clone)]
pub enum Say {
    /// The client's.
    Client(Vec<u8>),
    /// The server's.
    Server(Vec<u8>),
    /// A quiet gap.
    Gap,
    /// The client ends its direction.
    ClientEnds,
    /// The server ends its direction.
    ServerEnds,
}

/// A conversation and the calls it amounts to.
pub struct Script {
    pub name: &'static str,
    /// Whether the capture sees the TCP connect; else it starts mid-stream.
    pub opened: bool,
    pub says: Vec<Say>,
    pub calls: &'static str,
}

pub fn c(bytes: impl AsRef<[u8]>) -> Say {
    Say::Client(bytes.as_ref().to_vec())
}

pub fn s(bytes: impl AsRef<[u8]>) -> Say {
    Say::Server(bytes.as_ref().to_vec())
}

pub fn client() -> SocketAddr {
    "127.0.0.1:40000".parse().unwrap()
}

pub fn server() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

/// One TCP connection being played.
pub struct Player<'a> {
    pub decoder: &'a mut Decoder,
    pub next: [u32; 2],
}

impl Player<'_> {
    pub fn segment(&mut self, from_client: bool, flags: u8, data: &[u8], at: u64) {
        let i = usize::from(!from_client);
        let (source, destination) =
            if from_client { (client(), server()) } else { (server(), client()) };
        self.decoder.feed(&Segment {
            at: Nanos(at),
            source,
            destination,
            sequence: self.next[i],
            acknowledged: self.next[1 - i],
            flags: flags | ACK,
            data,
            missing: 0,
        });
        self.next[i] = self.next[i].wrapping_add(data.len() as u32);
    }

    pub fn open(&mut self, at: u64) {
        for (from_client, flags, late) in [(true, SYN, 0), (false, SYN | ACK, 5)] {
            let i = usize::from(!from_client);
            let (source, destination) =
                if from_client { (client(), server()) } else { (server(), client()) };
            self.decoder.feed(&Segment {
                at: Nanos(at + late),
                source,
                destination,
                sequence: self.next[i],
                acknowledged: self.next[1 - i],
                flags,
                data: &[],
                missing: 0,
            });
            self.next[i] = self.next[i].wrapping_add(1);
        }
    }
}

/// Plays a script; utterance `i` happens at 100 × (i + 1). `cut` says how many bytes the next
/// segment takes of those left.
pub fn play(script: &Script, mut cut: impl FnMut(usize) -> usize) -> Vec<Call> {
    let mut decoder = Decoder::new(Redactor::new(1), &[]);
    let mut player = Player { decoder: &mut decoder, next: [u32::MAX - 20, 77] };
    if script.opened {
        player.open(10);
    }
    for (i, say) in script.says.iter().enumerate() {
        let at = (i as u64 + 1) * 100;
        let (from_client, bytes) = match say {
            Say::Client(b) => (true, b),
            Say::Server(b) => (false, b),
            Say::Gap => {
                player.decoder.flush();
                continue;
            }
            Say::ClientEnds => {
                player.segment(true, FIN, &[], at);
                continue;
            }
            Say::ServerEnds => {
                player.segment(false, FIN, &[], at);
                continue;
            }
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let n = cut(rest.len()).clamp(1, rest.len());
            player.segment(from_client, 0, &rest[..n], at);
            rest = &rest[n..];
        }
    }
    assert_eq!(decoder.losses(), wire::Losses::default(), "{}", script.name);
    decoder.take_calls()
}

/// Calls as text, one a line.
pub fn describe(calls: &[Call]) -> String {
    let mut out = String::new();
    for c in calls {
        let operation = format!("{:?}", c.operation).to_lowercase();
        write!(out, "{} {operation} [{}] {}-{}", c.protocol.word(), c.text, c.start.0, c.end.0)
            .unwrap();
        write!(out, " b{} {}>{}", c.batch, c.bytes_sent, c.bytes_received).unwrap();
        if let Some(rows) = c.rows {
            write!(out, " rows={rows}").unwrap();
        }
        if !c.params.is_empty() {
            write!(out, " params={}", c.params.len()).unwrap();
        }
        if !c.columns.is_empty() {
            let columns: Vec<String> =
                c.columns.iter().map(|k| format!("{}:{}", k.name, k.values.len())).collect();
            write!(out, " columns={}", columns.join(",")).unwrap();
        }
        if let Some(error) = &c.error {
            write!(out, " error={error}").unwrap();
        }
        if !c.text_known {
            out.push_str(" unknown");
        }
        out.push('\n');
    }
    out
}
