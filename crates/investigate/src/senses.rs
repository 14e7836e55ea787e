//! The senses of one run: the client, the observer, the span receiver and the proxies, driven
//! window by window. A window is the unit of evidence: counters before, one request or silence,
//! a settling gap, counters after, everything drained.

use crate::error::Limit;
use crate::proxies::Proxies;
use crate::recorder::Recorder;
use crate::{Config, Error};
use evidence::{Arm, Call, Coverage, EvidenceBody, Exchange, Failure, Nanos, Service, Window};
use load::{Client, Request, Response, Session};
use observe::launch::Launched;
use observe::spans::SpanReceiver;
use observe::stream::{Pass, ProfileConfig};
use observe::{ObserveError, Observer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Quiet time after an answer, so that late packets and records belong to their window.
pub(crate) const GAP: Duration = Duration::from_millis(20);
/// Idle windows are as long as driven ones within these bounds: long enough to see a background
/// job, short enough not to eat the budget of a slow endpoint.
const IDLE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// Requests this short are sent to a service that is awake: after a pause of 40 ms everything on
/// their way is cold, which made 0.88 ms of a Python service with 14 statements 1.65 ms, and 3.5 ms
/// of one with 30 statements and 2 ms of computing 4.3 ms.
const SHORT: Nanos = Nanos(50_000_000);
/// How long after the one that wakes it a request is sent, less what the observer needs: the
/// service has tidied up (0.88 ms after 3 ms, 0.98 ms after 10 ms).
const AWAKE: Duration = Duration::from_millis(2);
/// Connections refused in a row that make a target gone.
const GONE: u32 = 3;
/// Answers are read and counted, not kept: only time bounds them.
pub(crate) const ANY_SIZE: u64 = u64::MAX;

/// Everything a run measures with. Dropping it undoes what was started, in this order.
pub(crate) struct Senses {
    pub(crate) observer: Option<Observer>,
    pub(crate) observer_name: String,
    pub(crate) spans: Option<SpanReceiver>,
    pub(crate) proxies: Proxies,
    pub(crate) session: Session,
    pub(crate) service: Option<Service>,
    pub(crate) launched: Option<Launched>,
    client: Client,
    cancel: Arc<AtomicBool>,
    seed: u64,
    salt: u64,
    refusals: u32,
    next_window: u32,
    /// Longest wait for one answer, within the budget.
    pub(crate) timeout: Duration,
    /// End of the budget: no answer is waited for beyond.
    pub(crate) deadline: Instant,
    /// The last request that may be repeated, and how long its answer took.
    last: Option<(Request, Nanos)>,
}

impl Senses {
    pub(crate) fn new(config: &Config, salt: u64, cancel: Arc<AtomicBool>) -> Senses {
        let client = Client::new(config.seed).with_cancel(Arc::clone(&cancel));
        Senses {
            observer: None,
            observer_name: "observe".into(),
            spans: None,
            proxies: Proxies::default(),
            session: Session::default(),
            service: None,
            launched: None,
            client,
            cancel,
            seed: config.seed,
            salt,
            refusals: 0,
            next_window: 1,
            timeout: config.request_timeout,
            deadline: Instant::now() + config.budget,
            last: None,
        }
    }

    /// Starts a pass of the observer; what cannot be had is recorded as coverage.
    pub(crate) fn attach(&mut self, recorder: &mut Recorder, pass: Pass) -> Result<(), Error> {
        let Some(observer) = &mut self.observer else { return Ok(()) };
        let coverage = match observer.attach(pass, self.salt) {
            Ok(coverage) => coverage,
            Err(e) => vec![lost("observer", &e)],
        };
        recorder.add(&self.observer_name, EvidenceBody::Coverage(coverage))
    }

    /// One driven window: sends `request`, waits the gap, drains everything.
    pub(crate) fn drive(
        &mut self,
        recorder: &mut Recorder,
        endpoint: &str,
        arm: &Arm,
        request: &Request,
    ) -> Result<(Exchange, Option<Response>), Error> {
        if !matches!(arm, Arm::Cold | Arm::Traced) {
            self.wake(recorder, &request.endpoint)?;
        }
        let id = self.begin(recorder)?;
        let start = load::clock::now();
        let (mut exchange, response) = self.send(request)?;
        exchange.window = id;
        std::thread::sleep(GAP);
        let window = ended_now(id, endpoint, arm, true, start);
        recorder.add("load", EvidenceBody::Exchanges(vec![exchange.clone()]))?;
        self.end(recorder, window)?;
        self.look_after(&exchange)?;
        let repeatable =
            exchange.failure.is_none() && load::plan::refuse(&request.method, false).is_ok();
        self.last = repeatable.then(|| (request.clone(), exchange.latency()));
        Ok((exchange, response))
    }

    /// Sends the endpoint's last request once more, outside any window that is looked into, when
    /// it was short. Not the one about to be measured: a cache would answer that.
    fn wake(&mut self, recorder: &mut Recorder, endpoint: &str) -> Result<(), Error> {
        let short = |l: &&(Request, Nanos)| l.0.endpoint == endpoint && l.1 < SHORT;
        let Some((request, _)) = self.last.as_ref().filter(short).cloned() else { return Ok(()) };
        let start = load::clock::now();
        let (mut exchange, _) = self.send(&request)?;
        exchange.window = self.next_window;
        self.next_window += 1;
        let window = ended_now(exchange.window, endpoint, &Arm::Waking, true, start);
        recorder.add("load", EvidenceBody::Windows(vec![window]))?;
        recorder.add("load", EvidenceBody::Exchanges(vec![exchange.clone()]))?;
        self.look_after(&exchange)?;
        std::thread::sleep(AWAKE);
        Ok(())
    }

    fn send(&mut self, request: &Request) -> Result<(Exchange, Option<Response>), Error> {
        let left = self.left();
        let limit = self.timeout.min(left);
        let answer = self.client.send(request, limit, ANY_SIZE, false);
        // Cut off by the user or the end of the budget: that says nothing about the service.
        if answer.0.failure.is_some() && self.is_cancelled() {
            return Err(Error::Interrupted);
        }
        if matches!(answer.0.failure, Some(Failure::Timeout)) && left == limit {
            return Err(Error::unanswered(&answer.0, limit, Limit::Budget));
        }
        Ok(answer)
    }

    /// What is left of the budget.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// A target that refuses several connections in a row is gone.
    fn look_after(&mut self, exchange: &Exchange) -> Result<(), Error> {
        let refused = matches!(exchange.failure, Some(Failure::Connect));
        self.refusals = if refused { self.refusals + 1 } else { 0 };
        if self.refusals < GONE { Ok(()) } else { Err(Error::Gone { why: self.detail() }) }
    }

    /// One idle window of about the given length.
    pub(crate) fn idle(
        &mut self,
        recorder: &mut Recorder,
        endpoint: &str,
        arm: &Arm,
        like: Nanos,
    ) -> Result<(), Error> {
        let id = self.begin(recorder)?;
        let start = load::clock::now();
        std::thread::sleep(Duration::from_nanos(like.0).clamp(IDLE.0, IDLE.1));
        let window = ended_now(id, endpoint, arm, false, start);
        self.end(recorder, window)
    }

    /// A window in which `drive` sends as it likes; the exchanges are numbered afterwards.
    pub(crate) fn crowd(
        &mut self,
        recorder: &mut Recorder,
        endpoint: &str,
        arm: &Arm,
        drive: impl FnOnce(u32, &Session) -> Vec<Exchange>,
    ) -> Result<(), Error> {
        let id = self.begin(recorder)?;
        let start = load::clock::now();
        let mut exchanges = drive(id, &self.session);
        if self.is_cancelled() {
            exchanges.retain(|x| x.failure.is_none());
        }
        std::thread::sleep(GAP);
        let window = ended_now(id, endpoint, arm, true, start);
        recorder.add("load", EvidenceBody::Exchanges(exchanges))?;
        self.end(recorder, window)
    }

    /// Starts sampling stacks.
    pub(crate) fn start_profile(
        &mut self,
        recorder: &mut Recorder,
        config: ProfileConfig,
    ) -> Result<bool, Error> {
        let Some(observer) = &mut self.observer else { return Ok(false) };
        match observer.start_profile(config) {
            Ok(coverage) => {
                recorder.add(&self.observer_name, EvidenceBody::Coverage(coverage))?;
                Ok(true)
            }
            Err(e) => {
                let c = lost("cpu-stacks", &e);
                recorder.add(&self.observer_name, EvidenceBody::Coverage(vec![c]))?;
                Ok(false)
            }
        }
    }

    /// Stops sampling and records the profiles.
    pub(crate) fn stop_profile(&mut self, recorder: &mut Recorder) -> Result<(), Error> {
        let Some(observer) = &mut self.observer else { return Ok(()) };
        match observer.stop_profile() {
            Ok(bodies) => {
                bodies.into_iter().try_for_each(|body| recorder.add(&self.observer_name, body))
            }
            Err(e) => {
                let c = lost("cpu-stacks", &e);
                recorder.add(&self.observer_name, EvidenceBody::Coverage(vec![c]))
            }
        }
    }

    /// Closes the connection, so that the next request pays for dns, connect and tls again.
    pub(crate) fn disconnect(&mut self) {
        self.client.disconnect();
    }

    /// Whether our system acknowledges each packet of an answer at once, from now on.
    pub(crate) fn acknowledge_at_once(&mut self, on: bool) {
        self.client.acknowledge_at_once(on);
    }

    /// Cookies and token of a login, for all later requests.
    pub(crate) fn log_in(&mut self, session: Session) {
        let cancel = Arc::clone(&self.cancel);
        self.client = Client::new(self.seed).with_session(session.clone()).with_cancel(cancel);
        self.session = session;
    }

    /// What went wrong in the last exchange, in words.
    pub(crate) fn detail(&self) -> String {
        self.client.detail().unwrap_or("no answer").to_string()
    }

    /// Undoes everything that was started: observer, proxies, receiver, launched command.
    pub(crate) fn close(&mut self, recorder: &mut Recorder) -> Result<(), Error> {
        self.client.disconnect();
        if let Some(observer) = self.observer.take()
            && let Err(e) = observer.stop()
        {
            let c = lost("observer", &e);
            recorder.add(&self.observer_name, EvidenceBody::Coverage(vec![c]))?;
        }
        self.proxies = Proxies::default();
        self.spans = None;
        if let Some(launched) = self.launched.take() {
            recorder.add("launch", EvidenceBody::Log(launched.troubles()))?;
            let left = launched.stop();
            if !left.is_empty() {
                let reason = format!("processes {left:?} of the command could not be ended");
                let c = Coverage::partial("launch", reason, "end them by hand");
                recorder.add("launch", EvidenceBody::Coverage(vec![c]))?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, recorder: &mut Recorder) -> Result<u32, Error> {
        let id = self.next_window;
        self.next_window += 1;
        if let Some(observer) = &mut self.observer {
            let news = observer.begin(id).map_err(|e| Error::Observer(e.to_string()))?;
            recorder.add(&self.observer_name, EvidenceBody::Coverage(news))?;
        }
        Ok(id)
    }

    fn end(&mut self, recorder: &mut Recorder, window: Window) -> Result<(), Error> {
        let id = window.id;
        let length = Duration::from_nanos((window.end - window.start).0);
        recorder.add("load", EvidenceBody::Windows(vec![window]))?;
        if let Some(observer) = &mut self.observer {
            let batch = observer.end(id).map_err(|e| Error::Observer(e.to_string()))?;
            for mut body in batch {
                if let EvidenceBody::Calls(calls) = &mut body {
                    let exports =
                        |c: &Call| self.spans.as_ref().is_some_and(|s| s.is_peer(&c.peer));
                    calls.retain(|c| !self.proxies.tells(c) && !exports(c));
                }
                recorder.add(&self.observer_name, body)?;
            }
        }
        recorder.add("proxy", EvidenceBody::Calls(self.proxies.take_calls()))?;
        if let Some(spans) = &mut self.spans {
            recorder.add("spans", EvidenceBody::Spans(spans.take()))?;
            recorder.add("spans", EvidenceBody::Losses(spans.losses()))?;
        }
        recorder.settle(length)
    }
}

/// The profilers the observer is given.
pub(crate) fn stacks() -> Option<Box<dyn observe::StackSource + Send>> {
    Some(Box::new(observe::stacks::Stacks::default()))
}

/// A probe lost to an observer's error, with its hint.
pub(crate) fn lost(probe: &str, error: &ObserveError) -> Coverage {
    match error {
        ObserveError::Failed { message, hint } => Coverage::unavailable(probe, message, hint),
        other => Coverage::unavailable(probe, other.to_string(), ""),
    }
}

/// Whether a failed exchange means the target asks for a login.
pub(crate) fn asks_for_login(exchange: &Exchange) -> bool {
    matches!(exchange.failure, Some(Failure::LoginRequired))
}

/// A window that ends now, its settling gap included.
fn ended_now(id: u32, endpoint: &str, arm: &Arm, driven: bool, start: Nanos) -> Window {
    let end = load::clock::now();
    Window { id, endpoint: endpoint.into(), arm: arm.clone(), driven, start, end }
}
