//! Framing of each protocol into Calls, and telling them apart by content.

pub(crate) mod http;
pub(crate) mod memcached;
pub(crate) mod mysql;
pub(crate) mod opaque;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod sniff;
mod sql;
pub(crate) mod tls;
