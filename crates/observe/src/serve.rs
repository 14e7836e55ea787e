//! The observer's side of the stream: one command, one reply. Whatever was attached is undone when
//! the conductor says `Stop`, when the stream ends, and when it breaks.

use crate::clock::monotonic;
use crate::session::Session;
use crate::stacks::StackSource;
use crate::stream::{Command, ProfileConfig, Reply, VERSION, read_frame, write_frame};
use evidence::EvidenceBody;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use thiserror::Error;

/// Longest token accepted over TCP, bytes.
pub const TOKEN_LIMIT: usize = 1024;
/// How long a connection may take to say its token.
const TOKEN_WAIT: Duration = Duration::from_secs(5);

/// Why serving ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The stream broke or carried something that is not a command.
    #[error("the evidence stream broke: {0}; everything attached was undone")]
    Stream(#[from] io::Error),
    /// The first command was not `Hello` with our version.
    #[error(
        "the conductor speaks protocol {theirs}, this observer {VERSION}; use the same version"
    )]
    Version {
        /// Version of the conductor.
        theirs: u32,
    },
    /// The first command was something else.
    #[error("the conductor did not begin with hello; connect with perfwright")]
    NoHello,
    /// An address beyond loopback without a token.
    #[error("{address} can be reached from other machines; give a token, or listen on 127.0.0.1")]
    TokenNeeded {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another port")]
    Bind {
        /// Where it was to listen.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

/// How to serve.
#[derive(Default)]
pub struct ServeOptions {
    /// The conductor is this very process: count it as the generator.
    pub generator: bool,
    /// Who takes stacks, if anybody.
    pub stacks: Option<Box<dyn StackSource + Send>>,
}

/// Serves one conductor until it stops or goes away.
///
/// # Errors
/// The stream broke or the versions differ.
pub fn serve(reader: impl Read, writer: impl Write) -> Result<(), ServeError> {
    serve_with(reader, writer, ServeOptions::default())
}

/// Serves one conductor, with options.
///
/// # Errors
/// As [`serve`].
pub fn serve_with(
    mut reader: impl Read,
    mut writer: impl Write,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let mut server = Server {
        session: Session::new(options.generator),
        stacks: options.stacks,
        profiling: false,
    };
    let Some(first) = read_frame::<Command>(&mut reader)? else { return Ok(()) };
    let Command::Hello { version } = first else { return Err(ServeError::NoHello) };
    write_frame(&mut writer, &welcome())?;
    if version != VERSION {
        return Err(ServeError::Version { theirs: version });
    }
    while let Some(command) = read_frame::<Command>(&mut reader)? {
        let last = command == Command::Stop;
        let reply = server.answer(command);
        write_frame(&mut writer, &reply)?;
        if last {
            break;
        }
    }
    Ok(())
}

fn welcome() -> Reply {
    Reply::Welcome {
        version: VERSION,
        host: crate::clock::host_name(),
        clock: monotonic(),
        boot: crate::clock::boot(),
    }
}

struct Server {
    session: Session,
    stacks: Option<Box<dyn StackSource + Send>>,
    profiling: bool,
}

impl Server {
    fn answer(&mut self, command: Command) -> Reply {
        match command {
            Command::Hello { .. } => welcome(),
            Command::Find { host, port, pid } => self.session.find(&host, port, pid),
            Command::Generator { threads } => self.session.generator(threads),
            Command::Attach { pass, salt } => self.session.attach(pass, salt),
            Command::Begin { window } => self.session.begin(window),
            Command::End { window } => self.session.end(window),
            Command::StartProfile { config } => self.start_profile(&config),
            Command::StopProfile => self.stop_profile(),
            Command::Stop => {
                self.stop();
                Reply::Done { coverage: Vec::new() }
            }
        }
    }

    fn start_profile(&mut self, config: &ProfileConfig) -> Reply {
        let Some(service) = self.session.service() else {
            return Reply::Failed {
                message: "no process of the service is known, so there is nothing to sample".into(),
                hint: "find the service first; see the coverage of process-fds".into(),
            };
        };
        let Some(stacks) = self.stacks.as_mut() else {
            return Reply::Failed {
                message: "this observer cannot take stacks".into(),
                hint: "run the perfwright binary of this machine's system as the observer".into(),
            };
        };
        self.profiling = true;
        Reply::Done { coverage: stacks.start(service, config) }
    }

    fn stop_profile(&mut self) -> Reply {
        match self.stacks.as_mut().filter(|_| self.profiling) {
            Some(stacks) => {
                self.profiling = false;
                let profiles = stacks.stop().into_iter().map(|p| EvidenceBody::Profile(p.into()));
                let news = EvidenceBody::Coverage(stacks.news());
                let evidence = profiles.chain([news]).collect();
                Reply::Batch { evidence }
            }
            None => Reply::Failed {
                message: "no profile is being taken".into(),
                hint: "start one first".into(),
            },
        }
    }

    fn stop(&mut self) {
        if let Some(stacks) = self.stacks.as_mut().filter(|_| self.profiling) {
            stacks.stop();
        }
        self.profiling = false;
        self.session.stop();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A TCP port that serves conductors, one after the other.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    token: Option<String>,
}

impl Listener {
    /// Listens on `address`. Beyond loopback a token is required.
    ///
    /// # Errors
    /// No token, or the address is taken.
    pub fn bind(address: SocketAddr, token: Option<String>) -> Result<Listener, ServeError> {
        let token = token.filter(|t| !t.is_empty());
        if token.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::TokenNeeded { address });
        }
        let listener =
            TcpListener::bind(address).map_err(|source| ServeError::Bind { address, source })?;
        Ok(Listener { listener, token })
    }

    /// Where it listens: the port is the system's choice when 0 was asked for.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the next conductor that says the right token; others are hung up on. Ends when that
    /// conductor does.
    ///
    /// # Errors
    /// As [`serve`]. The listener can serve on.
    pub fn serve_next(&self, options: ServeOptions) -> Result<(), ServeError> {
        loop {
            let (stream, _) = self.listener.accept()?;
            stream.set_nodelay(true)?;
            if self.accepts(&stream).unwrap_or(false) {
                return serve_with(stream.try_clone()?, stream, options);
            }
        }
    }

    fn accepts(&self, mut stream: &TcpStream) -> io::Result<bool> {
        stream.set_read_timeout(Some(TOKEN_WAIT))?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > TOKEN_LIMIT {
            return Ok(false);
        }
        let mut given = vec![0; length];
        stream.read_exact(&mut given)?;
        stream.set_read_timeout(None)?;
        let wanted = self.token.as_deref().unwrap_or("").as_bytes();
        Ok(self.token.is_none() || same(wanted, &given))
    }
}

/// Compares without telling by time where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y)) == 0
}

/// Listens and serves conductors for ever, one after the other. `options` is asked for each.
///
/// # Errors
/// The address cannot be used. A conductor that breaks off is not an error.
pub fn listen(
    address: SocketAddr,
    token: Option<String>,
    mut options: impl FnMut() -> ServeOptions,
) -> Result<(), ServeError> {
    let listener = Listener::bind(address, token)?;
    loop {
        match listener.serve_next(options()) {
            Ok(()) | Err(ServeError::Version { .. } | ServeError::NoHello) => {}
            Err(ServeError::Stream(_)) => std::thread::sleep(Duration::from_millis(100)),
            Err(e) => return Err(e),
        }
    }
}
