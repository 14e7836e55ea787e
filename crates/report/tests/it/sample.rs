//! Sample reports.

use evidence::*;

fn row(line: &str, detail: &str, ms: f64, of: f64, calls: f64) -> LedgerRow {
    LedgerRow {
        line: line.into(),
        detail: detail.into(),
        ms,
        low: ms * 0.95,
        high: ms * 1.05,
        share: ms / of,
        calls,
        rows: calls,
        elapsed_ms: ms,
        chain_ms: if calls > 1.0 { ms * 1.6 } else { ms },
        method: "packets".into(),
    }
}

fn bar(line: &str, detail: &str, start_ms: f64, ms: f64, count: u32) -> WaterfallBar {
    WaterfallBar { line: line.into(), detail: detail.into(), start_ms, ms, count }
}

fn base() -> Report {
    Report {
        schema: SCHEMA.into(),
        run: ReportRun {
            id: "20260102T030405Z-127.0.0.1-3000-a1b2c3".into(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
            dirty: Some(false),
            started: "2026-01-02T03:04:05Z".into(),
            tool: "perfwright 0.1.0".into(),
            seed: 7,
            seconds: Some(21.5),
            ended_because: None,
            command: "perfwright investigate http://127.0.0.1:3000/orders?page=1".into(),
        },
        target: ReportTarget {
            url: "http://127.0.0.1:3000".into(),
            level: "L3".into(),
            services: vec!["shop: node 20.20.2 (pid 4711) on 127.0.0.1:3000".into()],
            peers: vec!["postgres 127.0.0.1:5432".into(), "redis 127.0.0.1:6379".into()],
            co_located: true,
        },
        objective: None,
        endpoints: vec![],
        findings: vec![],
        exonerated: vec![],
        undecided: vec![],
        resources: vec![],
        coverage: vec![Coverage::ok("packet-capture"), Coverage::ok("context-switches")],
        warnings: vec!["The generator runs on the service's machine.".into()],
        comparison: None,
        monitoring: vec![],
    }
}

fn endpoint(name: &str, headline: &str, mean: f64) -> EndpointReport {
    EndpointReport {
        name: name.into(),
        headline: headline.into(),
        requests: 30,
        errors: 0,
        availability: 1.0,
        latency_ms: Some(LatencyMs { mean, typical: mean, p50: mean * 0.98, p95: None, p99: None }),
        cold_ms: Some(mean * 1.4),
        throughput_rps: None,
        capacity_rps: None,
        curve: vec![],
        ledger: vec![],
        tail_ledger: vec![],
        other_kind: None,
        objectives: vec![],
        demand: vec![],
        waterfalls: vec![],
    }
}

pub fn n_plus_one() -> Report {
    let child = "select id, ref, amount from orders where customer_id = $1 order by created_at";
    let mut e = endpoint(
        "GET /orders?page=1",
        "3.02 s: 2.4 s are 101 SQL statements, 100 of them alike.",
        3020.0,
    );
    e.ledger = vec![
        row("database", child, 2380.0, 3020.0, 100.0),
        row("cpu", "user", 410.0, 3020.0, 0.0),
        row("database", "select * from customers limit ?", 120.0, 3020.0, 1.0),
        row("runnable", "", 80.0, 3020.0, 0.0),
        row("receive", "", 9.0, 3020.0, 0.0),
        row("send", "", 1.0, 3020.0, 0.0),
        row("unattributed", "", 20.0, 3020.0, 0.0),
    ];
    e.demand = vec![
        DemandEntry { resource: "cpu:service".into(), per_request: 480.2, unit: "ms".into() },
        DemandEntry { resource: "statements".into(), per_request: 101.0, unit: "count".into() },
        DemandEntry {
            resource: "bytes:postgres".into(),
            per_request: 81_200.0,
            unit: "bytes".into(),
        },
    ];
    e.waterfalls = vec![WaterfallReport {
        which: "typical".into(),
        ms: 3010.0,
        bars: vec![
            bar("send", "", 0.0, 1.0, 1),
            bar("database", "select * from customers limit ?", 3.0, 118.0, 1),
            bar("database", child, 130.0, 2760.0, 100),
            bar("cpu", "user", 2890.0, 110.0, 1),
        ],
    }];
    e.curve = vec![
        CurvePoint {
            concurrency: 1,
            rps: 0.33,
            p50: 3010.0,
            p95: None,
            errors: 0,
            generator_limited: false,
        },
        CurvePoint {
            concurrency: 8,
            rps: 1.9,
            p50: 4100.0,
            p95: None,
            errors: 0,
            generator_limited: false,
        },
    ];
    let mut r = base();
    r.endpoints = vec![e];
    r.findings = vec![finding(child)];
    r.exonerated = vec![Exoneration {
        rule: "cpu-hot-path".into(),
        endpoint: "GET /orders?page=1".into(),
        why: "410 of 3020 ms are CPU, spread between the calls".into(),
        evidence: vec![EvidenceId("E3".into())],
    }];
    r.coverage.push(Coverage::partial(
        "cpu-stacks",
        "JavaScript frames have no names without the inspector",
        "add --attach",
    ));
    r
}

fn finding(child: &str) -> Finding {
    Finding {
        id: "F1".into(),
        rule: "sql-n-plus-one".into(),
        severity: Severity::Critical,
        confidence: 0.97,
        endpoint: "GET /orders?page=1".into(),
        claim: format!("100 of 101 statements are `{child}`, one for each row of customers."),
        cost_ms: 2700.0,
        share: 0.89,
        evidence: vec![EvidenceId("E12".into()), EvidenceId("E15".into())],
        location: Some(Where {
            file: "src/orders.js".into(),
            line: Some(41),
            function: Some("listOrders".into()),
        }),
        fix: Fix {
            summary: "Fetch the orders of all customers with one statement.".into(),
            kind: FixKind::Query,
            patch: "const { rows } = await pool.query(\n  'select id, ref, amount, customer_id from orders where customer_id = any($1)',\n  [ids]);".into(),
            effort: Effort::Hours,
            risk: "The order of rows is the application's to restore.".into(),
            verify: "perfwright investigate http://127.0.0.1:3000/orders?page=1".into(),
        },
        prediction: Some(Prediction {
            method: PredictionMethod::Modelled,
            p50_ms: Estimate { now: 2960.0, after: 310.0, low: 260.0, high: 400.0 },
            p95_ms: None,
            mean_ms: None,
            capacity_rps: None,
            holds_for: Some("the orders of all customers at once".into()),
        }),
    }
}

pub fn url_only() -> Report {
    let mut e = endpoint(
        "GET /search?q=shoes",
        "840 ms: 838 ms are spent behind the URL; nothing there can be observed from here.",
        840.0,
    );
    e.ledger = vec![
        row("unattributed", "waiting for the first byte", 838.0, 840.0, 0.0),
        row("receive", "", 2.0, 840.0, 0.0),
    ];
    let mut r = base();
    r.target = ReportTarget {
        url: "https://shop.example".into(),
        level: "L0".into(),
        ..Default::default()
    };
    r.endpoints = vec![e];
    r.undecided = vec![
        Undecided {
            rule: "sql-slow-statement".into(),
            endpoint: "GET /search?q=shoes".into(),
            missing: "time does not grow with the answer, so one slow statement is likelier than many; the database would show one statement of about 800 ms".into(),
            command: "perfwright observe --listen 0.0.0.0:7070 --token env:PERFWRIGHT_TOKEN".into(),
        },
        Undecided {
            rule: "slow-dependency".into(),
            endpoint: "GET /search?q=shoes".into(),
            missing: "a call to another service would stay as slow when warm".into(),
            command: "perfwright investigate https://shop.example/search?q=shoes --observer api:7070".into(),
        },
    ];
    r.coverage = vec![Coverage::unavailable(
        "observer",
        "shop.example is another machine",
        "run `perfwright observe --listen` there and pass --observer HOST:PORT",
    )];
    r
}

pub fn healthy() -> Report {
    let mut e = endpoint("GET /products", "3.4 ms: nothing stands out.", 3.4);
    e.latency_ms = Some(LatencyMs { mean: 3.4, typical: 3.4, p50: 3.3, p95: Some(4.1), p99: None });
    e.ledger = vec![
        row("cpu", "user", 2.1, 3.4, 0.0),
        row("database", "select * from products order by id limit $1", 1.1, 3.4, 1.0),
        row("unattributed", "", 0.2, 3.4, 0.0),
    ];
    let mut r = base();
    r.endpoints = vec![e];
    r
}

/// A run that Ctrl-C ended before the reasons of waiting were looked at.
pub fn interrupted() -> Report {
    let mut e = endpoint("GET /report", "2.4 s: nothing runs and no call is outstanding.", 2_400.0);
    e.ledger = vec![
        row("unattributed", "off the CPU, reason not traced", 2_380.0, 2_400.0, 0.0),
        row("cpu", "", 20.0, 2_400.0, 0.0),
    ];
    let mut r = base();
    r.run.ended_because = Some("interrupted".into());
    r.endpoints = vec![e];
    r
}
