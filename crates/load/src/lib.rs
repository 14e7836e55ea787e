//! Generate traffic without lying about latency.
//!
//! What is sent is rendered from the workload's templates ([`request`]), said in words before it
//! leaves ([`plan`]), and sent by a [`client::Client`]: one connection, phases stamped on the
//! monotonic clock, every wait bounded. [`solo`] plans one request at a time between idle windows,
//! [`concurrency`] keeps several in flight behind a circuit breaker.

pub mod breaker;
pub mod client;
pub mod clock;
pub mod concurrency;
pub mod cookies;
mod decode;
pub mod expand;
mod form;
pub mod h1;
mod http2;
pub mod login;
pub mod plan;
pub mod request;
mod socket;
pub mod solo;
mod tls;
mod transfer;

pub use breaker::{Breaker, Trip};
pub use client::{Client, Response};
pub use concurrency::{ConcurrencyConfig, ConcurrencyResult, Generator};
pub use cookies::CookieJar;
pub use login::{LoginError, Session, login};
pub use plan::{Plan, Refusal};
pub use request::{RenderError, Request, Scheme, render, render_endpoint};
