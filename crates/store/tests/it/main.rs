//! The run folder on a real file system: what is written reads back, whatever kills the writer.

mod bad_days;
mod folders;

use evidence::{
    Endpoint, EvidenceBody, Exchange, HeaderValue, Nanos, Phases, RequestTemplate, RunInfo,
    SCHEMA_VERSION, Target, Workload,
};

/// A run of one endpoint.
fn info(id: &str) -> RunInfo {
    let template = RequestTemplate {
        method: "GET".into(),
        url: "http://h:1/orders?page=1".into(),
        headers: vec![("accept".into(), HeaderValue::Plain { text: "*/*".into() })],
        body: evidence::Body::Empty,
        insecure: false,
        compressed: false,
        follow_redirects: false,
    };
    let endpoint = Endpoint {
        name: "GET /orders?page=1".into(),
        template,
        size_parameter: None,
        recorded_ms: None,
    };
    RunInfo {
        schema_version: SCHEMA_VERSION,
        id: id.into(),
        started: "2026-08-01T10:15:30Z".into(),
        target: Target { url: "http://h:1/orders".into(), ..Target::default() },
        workload: Workload { endpoints: vec![endpoint], login: None },
        ..RunInfo::default()
    }
}

/// Evidence that follows from its number alone: `n` exchanges with awkward texts.
fn exchanges(number: u32, n: usize) -> EvidenceBody {
    let one = |i: usize| {
        // Numbers that do not compress well, from a fixed multiplicative sequence.
        let word = (u64::from(number) << 32 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Exchange {
            window: number,
            endpoint: "GET /orders?page=1".into(),
            phases: Phases { start: Nanos(word >> 8), end: Nanos(word), ..Phases::default() },
            client_port: i as u16,
            status: 200,
            http: "h1".into(),
            body_bytes: word,
            encoding: None,
            server_timing: Some("a\"b\\c\u{1}ü".into()),
            cacheable: false,
            trace_id: format!("{word:032x}"),
            generator: Nanos(1),
            failure: None,
        }
    };
    EvidenceBody::Exchanges((0..n).map(one).collect())
}

/// An observation's window.
fn window(number: u32) -> (Nanos, Nanos) {
    (Nanos(u64::from(number)), Nanos(u64::from(number) + 1))
}
