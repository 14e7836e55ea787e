//! What the user needs, as written on a command line: `p95<500ms`, `errors<1%`, `rate>200/s`; and
//! whether a measured endpoint gives it.

use crate::duration::{self, DurationError};
use evidence::{EndpointReport, ObjectiveReport, Verdict};
use thiserror::Error;

/// What is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Mean,
    P50,
    P95,
    P99,
    Errors,
    Rate,
}

const MEASURES: [(&str, Measure); 6] = [
    ("mean", Measure::Mean),
    ("p50", Measure::P50),
    ("p95", Measure::P95),
    ("p99", Measure::P99),
    ("errors", Measure::Errors),
    ("rate", Measure::Rate),
];

/// One objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    measure: Measure,
    /// Milliseconds, share of requests, or requests per second.
    limit: f64,
    text: String,
}

/// Why a text is no objective. The text itself is not repeated: who shows this shows it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ObjectiveError {
    /// No comparison.
    #[error("write what is needed as p95<500ms, errors<1% or rate>200/s")]
    Shape,
    /// Something that is not measured.
    #[error("`{0}` is not measured; use p50, p95, p99, mean, errors or rate, as in p95<500ms")]
    Measure(String),
    /// The wrong way round.
    #[error("`{0}` is to be {1}, as in {2}")]
    Direction(&'static str, &'static str, &'static str),
    /// The limit of a latency.
    #[error("`{0}` is no time: {1}")]
    Time(String, DurationError),
    /// The limit of a latency has no unit.
    #[error("`{0}` has no unit; is it {0}ms or {0}s?")]
    Unit(String),
    /// The limit of errors.
    #[error("`{0}` is no share of requests; write a percentage between 0 and 100, as in errors<1%")]
    Share(String),
    /// The limit of a rate.
    #[error("`{0}` is no rate; write requests per second above zero, as in rate>200/s")]
    Rate(String),
}

/// Requests above the limit of which half prove a percentile missed: that at least two of three
/// are above what 95 % of all are below is a matter of 0.7 %.
const HALF_PROVES: u64 = 3;

impl Objective {
    /// As given, without blanks.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Successful requests that it takes to tell that a latency is below the limit
    /// ([`stats::quantile_bounded`]).
    pub fn requests(&self) -> usize {
        let share = match self.measure {
            Measure::P95 => 0.95,
            Measure::P99 => 0.99,
            _ => return 0,
        };
        stats::quantile_needs(share)
    }

    /// As it stands in a report: judged by what was measured of `endpoint`.
    pub fn report(&self, endpoint: &EndpointReport) -> ObjectiveReport {
        let (verdict, why) = self.judge(endpoint);
        ObjectiveReport { objective: self.text.clone(), verdict, why }
    }

    /// Judges an endpoint; the second part says by what. No request answered, or too few requests
    /// for a percentile, leave it unknown, unless the median alone is beyond a percentile's limit.
    fn judge(&self, endpoint: &EndpointReport) -> (Verdict, String) {
        let latency = endpoint.latency_ms.as_ref();
        let (name, value) = match self.measure {
            Measure::Errors => return self.errors(endpoint),
            Measure::Rate => return self.rate(endpoint),
            Measure::Mean => ("mean", latency.map(|l| l.mean)),
            Measure::P50 => ("p50", latency.map(|l| l.p50)),
            Measure::P95 => ("p95", latency.and_then(|l| l.p95)),
            Measure::P99 => ("p99", latency.and_then(|l| l.p99)),
        };
        match value {
            Some(ms) if ms < self.limit => (Verdict::Met, format!("{name} is {ms:.1} ms")),
            Some(ms) => (Verdict::Missed, format!("{name} is {ms:.1} ms")),
            None if latency.is_none() => (Verdict::Unknown, "no request succeeded".into()),
            None => self.beyond_median(name, endpoint),
        }
    }

    /// A percentile of too few requests.
    fn beyond_median(&self, name: &str, endpoint: &EndpointReport) -> (Verdict, String) {
        let answered = endpoint.requests - endpoint.errors.min(endpoint.requests);
        let p50 = endpoint.latency_ms.map_or(0.0, |l| l.p50);
        if p50 >= self.limit && answered >= HALF_PROVES {
            return (Verdict::Missed, format!("even p50 is {p50:.1} ms"));
        }
        let needed = self.requests();
        let why = format!("{answered} requests are too few for a {name}; it takes {needed}");
        (Verdict::Unknown, why)
    }

    fn errors(&self, endpoint: &EndpointReport) -> (Verdict, String) {
        let why = format!("{} of {} measured requests failed", endpoint.errors, endpoint.requests);
        if endpoint.requests == 0 {
            return (Verdict::Unknown, "nothing was sent".into());
        }
        let share = endpoint.errors as f64 / endpoint.requests as f64;
        (if share < self.limit { Verdict::Met } else { Verdict::Missed }, why)
    }

    /// What was reached is a lower bound: nothing was driven to its limit.
    fn rate(&self, endpoint: &EndpointReport) -> (Verdict, String) {
        let reached = endpoint.curve.iter().map(|p| p.rps).reduce(f64::max);
        match reached {
            Some(rps) if rps > self.limit => (Verdict::Met, format!("{rps:.0}/s were reached")),
            Some(rps) => {
                let why = format!("{rps:.0}/s were reached, not driven to the limit");
                (Verdict::Unknown, why)
            }
            None => (Verdict::Unknown, "no load was put on it".into()),
        }
    }
}

/// Parses one objective.
///
/// # Errors
/// [`ObjectiveError`], which names the grammar.
pub fn parse(text: &str) -> Result<Objective, ObjectiveError> {
    let text: String = text.split_whitespace().collect();
    let at = text.find(['<', '>']).ok_or(ObjectiveError::Shape)?;
    let (name, rest) = text.split_at(at);
    let value = rest[1..].strip_prefix('=').unwrap_or(&rest[1..]);
    if name.is_empty() || value.is_empty() {
        return Err(ObjectiveError::Shape);
    }
    let measure = MEASURES.iter().find(|m| m.0 == name).map(|m| m.1);
    let cut = |text: &str| text.chars().take(40).collect::<String>();
    let measure = measure.ok_or_else(|| ObjectiveError::Measure(cut(name)))?;
    let below = rest.starts_with('<');
    let limit = match measure {
        Measure::Rate if below => {
            return Err(ObjectiveError::Direction("rate", "at least something", "rate>200/s"));
        }
        Measure::Rate => rate(value).ok_or_else(|| ObjectiveError::Rate(cut(value)))?,
        Measure::Errors if !below => {
            return Err(ObjectiveError::Direction("errors", "below a share", "errors<1%"));
        }
        Measure::Errors => share(value).ok_or_else(|| ObjectiveError::Share(cut(value)))?,
        _ if !below => {
            return Err(ObjectiveError::Direction("latency", "below a time", "p95<500ms"));
        }
        _ if value.parse::<f64>().is_ok_and(|v| v > 0.0 && v.is_finite()) => {
            return Err(ObjectiveError::Unit(cut(value)));
        }
        _ => {
            let time = duration::parse(value);
            time.map_err(|e| ObjectiveError::Time(cut(value), e))?.as_secs_f64() * 1e3
        }
    };
    Ok(Objective { measure, limit, text })
}

/// `200/s` or `200`.
fn rate(value: &str) -> Option<f64> {
    number(value.strip_suffix("/s").unwrap_or(value)).filter(|v| *v > 0.0)
}

/// `1%`.
fn share(value: &str) -> Option<f64> {
    number(value.strip_suffix('%')?).filter(|v| *v > 0.0 && *v <= 100.0).map(|v| v / 100.0)
}

fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse().ok().filter(|v: &f64| plain && v.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::{CurvePoint, LatencyMs};

    #[test]
    fn objectives() {
        let check = |text: &str, expected: &str| {
            let found = parse(text).map_or_else(|e| e.to_string(), |o| format!("{}", o.limit));
            assert!(found.starts_with(expected), "{text}: {found}");
        };
        check("p95<500ms", "500");
        check(" p99 <= 2 s", "2000");
        check("mean<1.5s", "1500");
        check("errors<1%", "0.01");
        check("rate>200/s", "200");
        check("rate>=0.5", "0.5");
        for shape in ["", "p95", "p95=5ms", "<500ms", "p95<", "foo"] {
            check(shape, "write what is needed as p95<500ms");
        }
        check("p95<foo", "`foo` is no time: write a number and a unit");
        check("p95<-5ms", "`-5ms` is no time: write a number and a unit");
        check("p95<0ms", "`0ms` is no time: that is no time at all");
        check("p95<500", "`500` has no unit; is it 500ms or 500s?");
        check("p95<NaN", "`NaN` is no time");
        check("p95<99999h", "`99999h` is no time: the longest time is a day");
        check("p95>500ms", "`latency` is to be below a time, as in p95<500ms");
        check("p77<5ms", "`p77` is not measured; use p50");
        check("errors<200%", "`200%` is no share of requests");
        check("errors<0%", "`0%` is no share of requests");
        check("errors<0.01", "`0.01` is no share of requests");
        check("errors>1%", "`errors` is to be below a share, as in errors<1%");
        check("rate>0/s", "`0/s` is no rate");
        check("rate>inf", "`inf` is no rate");
        check("rate<5/s", "`rate` is to be at least something, as in rate>200/s");
    }

    #[test]
    fn verdicts() {
        let latency = LatencyMs { mean: 20.0, p50: 10.0, p95: Some(80.0), ..Default::default() };
        let point = CurvePoint {
            concurrency: 8,
            rps: 100.0,
            p50: 10.0,
            p95: None,
            errors: 0,
            generator_limited: false,
        };
        let endpoint = EndpointReport {
            name: "GET /".into(),
            headline: String::new(),
            requests: 60,
            errors: 3,
            availability: 0.95,
            latency_ms: Some(latency),
            cold_ms: None,
            throughput_rps: None,
            capacity_rps: None,
            curve: vec![point],
            ledger: vec![],
            tail_ledger: vec![],
            other_kind: None,
            objectives: vec![],
            demand: vec![],
            waterfalls: vec![],
        };
        let check = |text: &str, expected: Verdict, why: &str| {
            let found = parse(text).unwrap().judge(&endpoint);
            assert_eq!((found.0, found.1.as_str()), (expected, why), "{text}");
        };
        check("p50<11ms", Verdict::Met, "p50 is 10.0 ms");
        check("p95<80ms", Verdict::Missed, "p95 is 80.0 ms");
        let few = "57 requests are too few for a p99; it takes 299";
        check("p99<1s", Verdict::Unknown, few);
        check("p99<10ms", Verdict::Missed, "even p50 is 10.0 ms");
        check("mean<10ms", Verdict::Missed, "mean is 20.0 ms");
        check("errors<10%", Verdict::Met, "3 of 60 measured requests failed");
        check("errors<5%", Verdict::Missed, "3 of 60 measured requests failed");
        check("rate>50/s", Verdict::Met, "100/s were reached");
        check("rate>200/s", Verdict::Unknown, "100/s were reached, not driven to the limit");
    }
}
