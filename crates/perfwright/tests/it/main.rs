//! Integration tests of the binary and of the house.

mod docs;
mod tidy;
