//! Names for people: Rust and C++ symbols without their mangling.

use cpp_demangle::{DemangleOptions, Symbol};

/// Longest symbol that is demangled; hostile symbols can expand without limit.
const NAME_LIMIT: usize = 4 << 10;
/// Longest name shown.
const SHOWN_LIMIT: usize = 512;

/// `symbol` demangled when it is a Rust or C++ one, else as it is; bounded in length.
pub fn demangle(symbol: &str) -> String {
    let plain = strip_version(symbol);
    let name = if plain.len() > NAME_LIMIT {
        plain.to_owned()
    } else if let Ok(rust) = rustc_demangle::try_demangle(plain) {
        format!("{rust:#}")
    } else if plain.starts_with("_Z") || plain.starts_with("__Z") {
        let options = DemangleOptions::new().no_return_type().hide_expression_literal_types();
        Symbol::new(plain)
            .ok()
            .and_then(|name| name.demangle_with_options(&options).ok())
            .unwrap_or_else(|| plain.to_owned())
    } else {
        plain.to_owned()
    };
    shorten(name)
}

/// Removes the version of a dynamic symbol (`memcpy@@GLIBC_2.14`).
fn strip_version(symbol: &str) -> &str {
    match symbol.find('@') {
        Some(0) | None => symbol,
        Some(at) => &symbol[..at],
    }
}

fn shorten(mut name: String) -> String {
    if name.len() > SHOWN_LIMIT {
        let cut = (0..=SHOWN_LIMIT).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name.truncate(cut);
        name.push('…');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_readable() {
        for (symbol, expected) in [
            ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
            ("_ZN2v88internal4Heap14CollectGarbageEv", "v8::internal::Heap::CollectGarbage()"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("main", "main"),
            ("main.(*Server).handle", "main.(*Server).handle"),
        ] {
            assert_eq!(demangle(symbol), expected);
        }
    }

    proptest! {
        #[test]
        fn no_symbol_panics_and_names_are_bounded(symbol in "(_ZN|_R|_Z)?[ -~é]{0,80}") {
            prop_assert!(demangle(&symbol).len() <= SHOWN_LIMIT + 4);
        }
    }
}
