//! Drives one URL for some seconds and prints what it cost: `drive URL IN_FLIGHT SECONDS`.
//!
//! For side-by-side measurements (`bench/load`); one line of JSON on stdout.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use evidence::{Body, Nanos, RequestTemplate};
use load::concurrency::run;
use load::{Breaker, ConcurrencyConfig, Session, render};
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, in_flight, seconds] = arguments.as_slice() else {
        return Err("usage: drive URL IN_FLIGHT SECONDS".into());
    };
    let template = RequestTemplate {
        method: "GET".into(),
        url: url.clone(),
        headers: Vec::new(),
        body: Body::Empty,
        insecure: true,
        compressed: false,
        follow_redirects: false,
    };
    let config = ConcurrencyConfig {
        in_flight: in_flight.parse()?,
        duration: Duration::from_secs_f64(seconds.parse()?),
        requests_max: 0,
        timeout: Duration::from_secs(30),
        until: Nanos(u64::MAX),
        body_limit: 1 << 30,
        seed: 1,
        window: 0,
        session: Session::default(),
        cancel: Arc::default(),
    };
    let (wall, cpu) = (load::clock::now(), load::clock::process_cpu());
    let result = run(&[render(&template, 0, &[])?], &config, &Breaker::standard(None));
    let (wall, cpu) = (load::clock::now() - wall, load::clock::process_cpu() - cpu);
    let failed = result.exchanges.iter().filter(|e| e.failure.is_some()).count();
    println!(
        "{{\"requests\":{},\"failed\":{failed},\"rps\":{:.0},\"cpu_us_per_request\":{:.2},\
         \"wall_s\":{:.2},\"generator_limited\":{},\"queue_share\":{:.3}}}",
        result.finished,
        result.rps,
        Nanos(cpu.0 / result.finished.max(1)).as_ms() * 1e3,
        wall.as_ms() / 1e3,
        result.generator_limited,
        result.generator.queue_share,
    );
    Ok(())
}
