//! curl's flags: names, whether a value follows, and what each means for one request.

/// What a flag does to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Method,
    Header,
    Data(DataKind),
    Json,
    Form {
        literal: bool,
    },
    Upload,
    Query,
    Get,
    Head,
    User,
    Bearer,
    Cookie,
    Agent,
    Referer,
    Range,
    Compressed,
    Insecure,
    Redirects,
    NoGlob,
    Url,
    /// The flag has no meaning for one measured request.
    Ignore,
    /// The request is sent without what the flag asks for.
    Warn(&'static str),
    /// The flag changes where the request goes; guessing would measure the wrong thing.
    Refuse(&'static str),
    /// Another request follows.
    Next,
}

/// The ways curl takes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataKind {
    /// `-d`: `@file` without its line breaks.
    Ascii,
    /// `--data-binary`: `@file` as it is.
    Binary,
    /// `--data-raw`: `@` means nothing.
    Raw,
    /// `--data-urlencode`.
    Encoded,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub short: Option<char>,
    pub long: &'static str,
    /// Whether a value follows.
    pub value: bool,
    pub action: Action,
}

const fn flag(short: char, long: &'static str, value: bool, action: Action) -> Flag {
    Flag { short: if short == ' ' { None } else { Some(short) }, long, value, action }
}

const PROXY: &str = "requests through a proxy measure the proxy too; remove it and run where the \
                     service can be reached directly";
const ELSEWHERE: &str = "it sends the request to another address than the URL's; put the real \
                         address into the URL and the name into -H 'Host: NAME'";
const CERTIFICATE: &str = "client certificates are not sent";
const CHALLENGE: &str = "only Basic and bearer credentials are sent; others need a challenge first";

/// Flags that matter.
const FLAGS: &[Flag] = &[
    flag('X', "request", true, Action::Method),
    flag('H', "header", true, Action::Header),
    flag('d', "data", true, Action::Data(DataKind::Ascii)),
    flag(' ', "data-ascii", true, Action::Data(DataKind::Ascii)),
    flag(' ', "data-binary", true, Action::Data(DataKind::Binary)),
    flag(' ', "data-raw", true, Action::Data(DataKind::Raw)),
    flag(' ', "data-urlencode", true, Action::Data(DataKind::Encoded)),
    flag(' ', "json", true, Action::Json),
    flag('F', "form", true, Action::Form { literal: false }),
    flag(' ', "form-string", true, Action::Form { literal: true }),
    flag('T', "upload-file", true, Action::Upload),
    flag(' ', "url-query", true, Action::Query),
    flag('G', "get", false, Action::Get),
    flag('I', "head", false, Action::Head),
    flag('u', "user", true, Action::User),
    flag(' ', "oauth2-bearer", true, Action::Bearer),
    flag('b', "cookie", true, Action::Cookie),
    flag('A', "user-agent", true, Action::Agent),
    flag('e', "referer", true, Action::Referer),
    flag('r', "range", true, Action::Range),
    flag(' ', "compressed", false, Action::Compressed),
    flag('k', "insecure", false, Action::Insecure),
    flag('L', "location", false, Action::Redirects),
    flag(' ', "location-trusted", false, Action::Redirects),
    flag('g', "globoff", false, Action::NoGlob),
    flag(' ', "url", true, Action::Url),
    flag(':', "next", false, Action::Next),
    flag('x', "proxy", true, Action::Refuse(PROXY)),
    flag(' ', "preproxy", true, Action::Refuse(PROXY)),
    flag(' ', "socks4", true, Action::Refuse(PROXY)),
    flag(' ', "socks4a", true, Action::Refuse(PROXY)),
    flag(' ', "socks5", true, Action::Refuse(PROXY)),
    flag(' ', "socks5-hostname", true, Action::Refuse(PROXY)),
    flag('p', "proxytunnel", false, Action::Refuse(PROXY)),
    flag(' ', "unix-socket", true, Action::Refuse(ELSEWHERE)),
    flag(' ', "abstract-unix-socket", true, Action::Refuse(ELSEWHERE)),
    flag(' ', "connect-to", true, Action::Refuse(ELSEWHERE)),
    flag(' ', "resolve", true, Action::Refuse(ELSEWHERE)),
    flag(' ', "doh-url", true, Action::Ignore),
    flag('K', "config", true, Action::Refuse("flags in a file are not read; give them here")),
    flag('E', "cert", true, Action::Warn(CERTIFICATE)),
    flag(' ', "cert-type", true, Action::Warn(CERTIFICATE)),
    flag(' ', "key", true, Action::Warn(CERTIFICATE)),
    flag(' ', "key-type", true, Action::Warn(CERTIFICATE)),
    flag(' ', "pass", true, Action::Warn(CERTIFICATE)),
    flag(' ', "digest", false, Action::Warn(CHALLENGE)),
    flag(' ', "ntlm", false, Action::Warn(CHALLENGE)),
    flag(' ', "negotiate", false, Action::Warn(CHALLENGE)),
    flag(' ', "anyauth", false, Action::Warn(CHALLENGE)),
    flag(' ', "aws-sigv4", true, Action::Warn(CHALLENGE)),
    flag('n', "netrc", false, Action::Warn("credentials in .netrc are not read; use -u")),
    flag(' ', "netrc-file", true, Action::Warn("credentials in a file are not read; use -u")),
    flag(' ', "cacert", true, Action::Warn("own CA files are not read; use -k for this host")),
    flag(' ', "capath", true, Action::Warn("own CA files are not read; use -k for this host")),
    flag('0', "http1.0", false, Action::Warn("HTTP/1.1 or HTTP/2 is spoken instead")),
    flag(' ', "http0.9", false, Action::Warn("HTTP/1.1 or HTTP/2 is spoken instead")),
    flag(' ', "http3", false, Action::Warn("HTTP/1.1 or HTTP/2 is spoken instead")),
    flag(' ', "http3-only", false, Action::Warn("HTTP/1.1 or HTTP/2 is spoken instead")),
    flag('z', "time-cond", true, Action::Warn("sent without the time condition")),
    flag('C', "continue-at", true, Action::Warn("sent from the beginning; use -r for a range")),
    flag(' ', "variable", true, Action::Warn("curl variables are not expanded")),
    flag('h', "help", false, Action::Ignore),
    flag('o', "output", true, Action::Ignore),
    flag('O', "remote-name", false, Action::Ignore),
    flag('s', "silent", false, Action::Ignore),
    flag('S', "show-error", false, Action::Ignore),
    flag('v', "verbose", false, Action::Ignore),
    flag('i', "include", false, Action::Ignore),
    flag(' ', "show-headers", false, Action::Ignore),
    flag('f', "fail", false, Action::Ignore),
    flag('w', "write-out", true, Action::Ignore),
    flag('m', "max-time", true, Action::Ignore),
    flag('c', "cookie-jar", true, Action::Ignore),
    flag('D', "dump-header", true, Action::Ignore),
    flag('J', "remote-header-name", false, Action::Ignore),
    flag('R', "remote-time", false, Action::Ignore),
    flag('N', "no-buffer", false, Action::Ignore),
    flag('#', "progress-bar", false, Action::Ignore),
    flag('q', "disable", false, Action::Ignore),
    flag('j', "junk-session-cookies", false, Action::Ignore),
    flag('a', "append", false, Action::Ignore),
    flag('B', "use-ascii", false, Action::Ignore),
    flag('Z', "parallel", false, Action::Ignore),
    flag('Y', "speed-limit", true, Action::Ignore),
    flag('y', "speed-time", true, Action::Ignore),
    flag('t', "telnet-option", true, Action::Ignore),
    flag('Q', "quote", true, Action::Ignore),
    flag('P', "ftp-port", true, Action::Ignore),
    flag('U', "proxy-user", true, Action::Ignore),
    flag('1', "tlsv1", false, Action::Ignore),
    flag('2', "sslv2", false, Action::Ignore),
    flag('3', "sslv3", false, Action::Ignore),
    flag('4', "ipv4", false, Action::Ignore),
    flag('6', "ipv6", false, Action::Ignore),
];

/// More flags without meaning here, that take a value.
const IGNORED_WITH_VALUE: &[&str] = &[
    "alt-svc",
    "ciphers",
    "connect-timeout",
    "create-file-mode",
    "crlfile",
    "curves",
    "dns-interface",
    "dns-ipv4-addr",
    "dns-ipv6-addr",
    "dns-servers",
    "ech",
    "etag-compare",
    "etag-save",
    "expect100-timeout",
    "happy-eyeballs-timeout-ms",
    "hsts",
    "interface",
    "ip-tos",
    "keepalive-cnt",
    "keepalive-time",
    "libcurl",
    "limit-rate",
    "local-port",
    "max-filesize",
    "max-redirs",
    "noproxy",
    "output-dir",
    "parallel-max",
    "pinnedpubkey",
    "proto",
    "proto-default",
    "proto-redir",
    "proxy-header",
    "rate",
    "retry",
    "retry-delay",
    "retry-max-time",
    "stderr",
    "tls-max",
    "tls13-ciphers",
    "trace",
    "trace-ascii",
    "trace-config",
    "vlan-priority",
    "request-target",
];

/// More flags without meaning here, that take none.
const IGNORED: &[&str] = &[
    "basic",
    "cert-status",
    "compressed-ssh",
    "create-dirs",
    "disallow-username-in-url",
    "fail-early",
    "fail-with-body",
    "form-escape",
    "http1.1",
    "http2",
    "http2-prior-knowledge",
    "ignore-content-length",
    "keepalive",
    "mptcp",
    "no-clobber",
    "no-keepalive",
    "no-progress-meter",
    "no-sessionid",
    "parallel-immediate",
    "path-as-is",
    "post301",
    "post302",
    "post303",
    "progress-meter",
    "raw",
    "remote-name-all",
    "remove-on-error",
    "retry-all-errors",
    "retry-connrefused",
    "skip-existing",
    "ssl",
    "ssl-no-revoke",
    "ssl-reqd",
    "ssl-revoke-best-effort",
    "styled-output",
    "suppress-connect-headers",
    "tcp-fastopen",
    "tcp-nodelay",
    "tlsv1.0",
    "tlsv1.1",
    "tlsv1.2",
    "tlsv1.3",
    "tr-encoding",
    "trace-ids",
    "trace-time",
    "xattr",
];

/// The flag of a single letter.
pub(super) fn short(letter: char) -> Option<Flag> {
    FLAGS.iter().find(|f| f.short == Some(letter)).copied()
}

/// The flag of a long name, also with `no-` before it, or of an unambiguous beginning.
pub(super) fn long(name: &str) -> Option<Flag> {
    let ignored = |list: &[&'static str], value| {
        list.iter().find(|n| **n == name).map(|n| flag(' ', n, value, Action::Ignore))
    };
    let exact = FLAGS.iter().find(|f| f.long == name).copied();
    let exact = exact.or_else(|| ignored(IGNORED_WITH_VALUE, true));
    if let Some(found) = exact.or_else(|| ignored(IGNORED, false)) {
        return Some(found);
    }
    if let Some(positive) = name.strip_prefix("no-") {
        let known = FLAGS.iter().any(|f| f.long == positive && !f.value);
        let known = known || IGNORED.contains(&positive);
        return known.then_some(flag(' ', "no-", false, Action::Ignore));
    }
    let mut beginning = FLAGS.iter().filter(|f| name.len() >= 3 && f.long.starts_with(name));
    beginning.next().filter(|_| beginning.next().is_none()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut names: Vec<_> = FLAGS.iter().map(|f| f.long).collect();
        names.extend(IGNORED.iter().chain(IGNORED_WITH_VALUE));
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
        let mut letters: Vec<_> = FLAGS.iter().filter_map(|f| f.short).collect();
        letters.sort_unstable();
        assert!(letters.windows(2).all(|w| w[0] != w[1]), "{letters:?}");
        assert_eq!(long("insec").map(|f| f.action), Some(Action::Insecure));
        assert_eq!(long("no-compressed").map(|f| f.action), Some(Action::Ignore));
        assert_eq!(long("data").map(|f| f.action), Some(Action::Data(DataKind::Ascii)));
        assert!(long("socks").is_none(), "ambiguous");
    }
}
