//! The crate's behaviour from outside: scripted conversations, hostile bytes, and real servers.

mod connections;
mod live;
mod lossy;
mod packets;
mod scripts;
