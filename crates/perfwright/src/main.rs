//! perfwright: parse, wire up, print, exit. Everything that thinks or measures is in a library.

mod cli;
mod demo;

fn main() -> std::process::ExitCode {
    cli::main().into()
}
