//! The loop itself.

use crate::event::Event;
use crate::recorder::Recorder;
use crate::senses::Senses;
use crate::{Config, Error, Stop, answers, experiments, plan, replay};
use diagnose::Knowledge;
use evidence::{Arm, Exchange, Experiment, ExperimentKind, Failure, Report, Risk};
use load::Breaker;
use load::breaker::BreakerState;
use observe::stream::Pass;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A request that was cut off sooner is not worth a word: there is one at the end of most budgets.
const TOLD_WAIT_S: f64 = 1.0;

/// What a run gives.
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// The run's folder.
    pub folder: PathBuf,
    /// Whether the user ended it early.
    pub interrupted: bool,
    /// The error that ended it early: the target or the observer failed while it was measured, or
    /// what was measured could not be stored.
    pub failed: Option<Error>,
    /// Why some of the named endpoints have no answer in it.
    pub unanswered: Vec<Error>,
}

/// One run in progress.
pub(crate) struct Run<'a> {
    pub(crate) config: &'a Config,
    pub(crate) recorder: Recorder,
    pub(crate) senses: Senses,
    pub(crate) stop: &'a Stop,
    pub(crate) events: &'a mut dyn FnMut(Event),
    pub(crate) started: Instant,
    /// Whether all of it goes to this machine.
    pub(crate) loopback: bool,
    /// Whether several requests may be in flight to all of it.
    pub(crate) may_load: bool,
    /// The cheap pass that gives milliseconds.
    pub(crate) pass: Pass,
    /// Opens when the target as a whole suffers: it fails itself, or does not answer.
    pub(crate) breaker: BreakerState,
    /// One for each endpoint: what it refuses or how slow it is says nothing about others.
    pub(crate) endpoint_breakers: BTreeMap<String, BreakerState>,
    /// Endpoints that could not be reached by their probe or did not answer it in time: they are
    /// not tried again.
    pub(crate) silent: BTreeMap<String, Error>,
}

/// Runs the loop: measure a baseline, form hypotheses, run the cheapest experiment that separates
/// them, judge again, until nothing undecided is worth its cost or the budget is spent.
///
/// `events` is told what happens. Everything started is undone before this returns, also on error
/// and when `stop` is set; a run that was stopped keeps and reports what it has.
///
/// # Errors
/// When there is no answer to give; see [`Error`].
pub fn investigate(
    config: &Config,
    stop: &Stop,
    events: &mut dyn FnMut(Event),
) -> Result<Outcome, Error> {
    plan::check(config)?;
    let mut run = crate::experiments::setup::start(config, stop, events)?;
    let failed = match run.baseline().and_then(|()| run.deepen()) {
        Ok(()) if !run.recorder.has_answers() => {
            let silent = Error::Silent { endpoints: config.workload.endpoints.len() };
            return Err(run.give_up(silent));
        }
        Ok(()) => None,
        // A request that was cut off by the user says nothing about the target.
        Err(_) if stop.requested() && run.recorder.has_answers() => None,
        // Nor does one that the end of the budget cut off.
        Err(e) if e.is_out_of_budget() && run.recorder.has_answers() => {
            run.tell_cut_off(&e);
            None
        }
        // What was measured before the target or the observer failed is still worth telling.
        Err(e) if run.recorder.has_answers() => Some(e),
        Err(e) => return Err(run.give_up(e)),
    };
    Ok(run.finish(failed))
}

impl Run<'_> {
    /// Probe and solo of every endpoint: what every answer starts from.
    fn baseline(&mut self) -> Result<(), Error> {
        for endpoint in &self.config.workload.endpoints {
            if self.over() {
                break;
            }
            self.perform(&base(ExperimentKind::Probe, &endpoint.name))?;
        }
        for endpoint in &self.config.workload.endpoints {
            if self.over() {
                break;
            }
            if self.silent.contains_key(&endpoint.name) {
                continue;
            }
            self.perform(&base(ExperimentKind::Solo, &endpoint.name))?;
            self.say(&endpoint.name)?;
        }
        if self.stop.requested() && !self.recorder.has_answers() {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// While a hypothesis is undecided and the budget allows: the experiment with the most
    /// information per second, then the least risk.
    fn deepen(&mut self) -> Result<(), Error> {
        let mut done: BTreeSet<(ExperimentKind, String)> = BTreeSet::new();
        while !self.over() {
            let knowledge = self.recorder.knowledge()?;
            let left = self.senses.left().as_secs_f64();
            let next = knowledge
                .endpoints()
                .iter()
                .flat_map(|e| diagnose::hypotheses::experiments(&knowledge, e))
                .filter(|x| !done.contains(&(x.kind.clone(), x.endpoint.clone())))
                .filter(|x| self.config.consents.grants(x.consent, self.may_load))
                .filter(|x| x.cost_s <= left && experiments::possible(self, x))
                .max_by(|a, b| worth(a).total_cmp(&worth(b)).then(b.risk.cmp(&a.risk)));
            let Some(next) = next else { break };
            done.insert((next.kind.clone(), next.endpoint.clone()));
            self.perform(&next)?;
            self.say(&next.endpoint)?;
        }
        Ok(())
    }

    fn perform(&mut self, experiment: &Experiment) -> Result<(), Error> {
        (self.events)(Event::Experiment(experiment.clone()));
        let at = self.started.elapsed().as_millis() as u64;
        self.recorder.update(|run| run.experiments.push((at, experiment.clone())))?;
        experiments::perform(self, experiment)
    }

    /// Tells the best sentence about an endpoint.
    pub(crate) fn say(&mut self, endpoint: &str) -> Result<(), Error> {
        let knowledge = self.recorder.knowledge()?;
        let text = diagnose::headline::of(&knowledge, endpoint);
        let seconds = self.started.elapsed().as_secs_f64();
        (self.events)(Event::Sentence { endpoint: endpoint.into(), text, seconds });
        Ok(())
    }

    /// Whether budget, user or a suffering target end the run.
    pub(crate) fn over(&self) -> bool {
        self.stop.requested() || self.senses.left().is_zero() || self.breaker.trip().is_some()
    }

    /// An endpoint's part of what is left, when `n` share it.
    pub(crate) fn share(&self, n: usize) -> Duration {
        self.senses.left() / n.max(1) as u32
    }

    /// Tells a warning.
    pub(crate) fn warn(&mut self, message: &str, hint: &str) {
        (self.events)(Event::Warning { message: message.into(), hint: hint.into() });
    }

    /// Tells that the end of the budget cut off a request, when it had been waited for.
    fn tell_cut_off(&mut self, error: &Error) {
        if let Error::Unanswered { seconds, .. } = error
            && *seconds >= TOLD_WAIT_S
        {
            self.warn(&format!("{error}: this request is left out"), error.hint());
        }
    }

    /// Whether the endpoint may be driven on after this exchange; tells why not.
    pub(crate) fn may_go_on(&mut self, exchange: &Exchange) -> bool {
        let (latency, failed) = (exchange.latency(), exchange.failure.is_some());
        let fresh = || BreakerState::new(Breaker::standard(None));
        let own = self.endpoint_breakers.entry(exchange.endpoint.clone()).or_insert_with(fresh);
        own.finished(latency, failed);
        let trip = own.trip();
        if !is_refusal(exchange) && !self.breaker.finished(latency, failed) {
            let why = self.breaker.trip().or(trip).map(|t| t.to_string()).unwrap_or_default();
            self.warn(&format!("stopped driving the target: {why}"), "look at the service's log");
            return false;
        }
        if let Some(why) = trip {
            let what = exchange.failure.as_ref().map(answers::what);
            let what = what.map_or(String::new(), |what| format!(" (the last: {what})"));
            let message = format!("stopped driving {}: {why}{what}", exchange.endpoint);
            self.warn(&message, "look at the service's log");
        }
        trip.is_none()
    }

    /// Why there is nothing to say about an endpoint yet; none once it has answered.
    pub(crate) fn missing(&mut self, endpoint: &str) -> Result<Option<Error>, Error> {
        Ok(answers::missing(&self.recorder.knowledge()?, endpoint))
    }

    /// Median latency of the endpoint's warm requests, zero when there are none.
    pub(crate) fn typical_latency(&mut self, endpoint: &str) -> Result<Duration, Error> {
        let knowledge = self.recorder.knowledge()?;
        let warm: Vec<f64> =
            knowledge.exchanges_of(endpoint, &Arm::Warm).map(|e| e.latency().0 as f64).collect();
        Ok(Duration::from_nanos(stats::median(&warm).unwrap_or(0.0) as u64))
    }

    /// Tells what failed of endpoints that were also answered.
    fn tell_failures(&mut self, known: &Knowledge) {
        for endpoint in &self.config.workload.endpoints {
            if let Some(what) = answers::failures(known, &endpoint.name) {
                let message = format!("some requests to {} failed: {what}", endpoint.name);
                self.warn(&message, "they are in no latency; the service's own log may tell why");
            }
        }
    }

    /// Ends a run that has answers. When they can no longer be stored, they are still told.
    fn finish(mut self, failed: Option<Error>) -> Outcome {
        let interrupted = self.stop.requested();
        let ended = failed.as_ref().map(ToString::to_string);
        let ended = ended.or_else(|| interrupted.then(|| "interrupted".to_string()));
        let unstored = self.close(ended).err();
        let known = self.recorder.known();
        self.tell_failures(&known);
        let report = replay::conclude_from(&known);
        let folder = self.recorder.folder().path().to_path_buf();
        let names = self.config.workload.endpoints.iter().map(|e| &e.name);
        let unanswered = names
            .filter_map(|name| {
                answers::missing(&known, name).map(|e| self.silent.remove(name).unwrap_or(e))
            })
            .collect();
        Outcome { report, folder, interrupted, failed: failed.or(unstored), unanswered }
    }

    /// Ends a run that has none; why is what the user is told, also when that cannot be stored.
    pub(crate) fn give_up(&mut self, error: Error) -> Error {
        let error = if self.stop.requested() { Error::Interrupted } else { error };
        drop(self.close(Some(error.to_string())));
        error
    }

    /// Undoes everything that was started and seals `run.json`.
    fn close(&mut self, ended: Option<String>) -> Result<(), Error> {
        self.senses.close(&mut self.recorder)?;
        let seconds = self.started.elapsed().as_secs_f64();
        self.recorder.finish(ended, (seconds * 1e3).round() / 1e3)
    }
}

/// Whether the target is well and just does not want this request.
fn is_refusal(exchange: &Exchange) -> bool {
    match &exchange.failure {
        Some(Failure::Status { code }) => *code < 500,
        Some(Failure::LoginRequired) => true,
        _ => false,
    }
}

/// Information per second.
fn worth(experiment: &Experiment) -> f64 {
    experiment.information / experiment.cost_s.max(0.1)
}

fn base(kind: ExperimentKind, endpoint: &str) -> Experiment {
    let purpose = match kind {
        ExperimentKind::Probe => "is it up, and what comes back",
        _ => "where does one request spend its time",
    };
    Experiment {
        kind,
        endpoint: endpoint.into(),
        purpose: purpose.into(),
        cost_s: 1.0,
        information: 1.0,
        risk: Risk::None,
        consent: evidence::Consent::None,
    }
}
