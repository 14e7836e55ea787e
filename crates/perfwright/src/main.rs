//! perfwright: parse, wire up, print, exit.
fn main() {}
