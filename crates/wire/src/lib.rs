//! What a service says to its peers: framing into Calls, from capture or from a proxy.
//!
//! [`Decoder`] is the middle: segments in, [`evidence::Call`]s out. It is pure and portable.
//! [`capture`] feeds it packets (Linux only), [`proxy`] feeds it bytes it passes on.

pub mod capture;
mod clock;
mod codec;
mod conversation;
mod decoder;
mod edges;
mod losses;
mod protocols;
pub mod proxy;
pub mod segment;
pub mod stream;

pub use decoder::{BUFFER_LIMIT, CONNECTIONS_LIMIT, ConnectionKey, Decoder};
pub use losses::Losses;
pub use segment::Segment;
pub use stream::Resent;
