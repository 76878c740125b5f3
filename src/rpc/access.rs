//! The access log: one line for each call when it ends, and one for each item of a batch or stream at debug level. A line
//! has the method, model and tenant, how the call ended, and its counts and times; it never has a user's text.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use opentelemetry::KeyValue;
use tonic::Code;
use tracing::{Span, field::display};

use super::{clock::now, origin::CallOrigin, status::Reason};
use crate::{
    engine::{SequenceSummary, Tenant},
    registry::Registry,
    status_code::code_name,
    telemetry::ACCESS_TARGET,
};

/// Logged in place of a name that this server does not know, because such a name is the caller's text.
pub(crate) const UNKNOWN: &str = "unknown";

/// The totals of a call, or of an item of one, so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    models: Vec<String>,
    sequences: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    answer_tokens: u64,
    times: SequenceTimes,
    items_ok: u64,
    items_failed: BTreeMap<&'static str, u64>,
    /// From the beginning until the first sequence gave a token, verdict or score.
    first_token: Option<Duration>,
    /// Whether the prompt is no conversation, but text or tokens.
    is_completion: bool,
}

/// How long sequences waited, computed their prompts, and wrote their answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SequenceTimes {
    pub(crate) queue: Duration,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
}

impl From<&SequenceSummary> for SequenceTimes {
    fn from(summary: &SequenceSummary) -> Self {
        Self {
            queue: summary.queue,
            prefill: summary.prefill,
            decode: summary.decode,
        }
    }
}

impl Tally {
    /// Adds a model of the configuration.
    pub(crate) fn add_model(&mut self, id: &str) {
        if self.models.iter().all(|known| known != id) {
            self.models.push(id.to_owned());
        }
    }

    /// Counts a sequence that has been queued.
    pub(crate) fn add_sequence(&mut self, prompt_tokens: usize) {
        self.sequences += 1;
        self.prompt_tokens += prompt_tokens as u64;
    }

    /// Counts tokens of a prompt that were in the prefix cache.
    pub(crate) fn add_cached_tokens(&mut self, tokens: usize) {
        self.cached_tokens += tokens as u64;
    }

    /// Records how long the first token, verdict or score took; later ones have no effect.
    pub(crate) fn note_first_token(&mut self, after: Duration) {
        self.first_token.get_or_insert(after);
    }

    /// Records that the prompt is no conversation, but text or tokens.
    pub(crate) fn note_completion(&mut self) {
        self.is_completion = true;
    }

    /// The model that the request named first, or that answered.
    pub(crate) fn first_model(&self) -> Option<&str> {
        self.models.first().map(String::as_str)
    }

    /// Whether the engine computed exactly one sequence.
    pub(crate) fn has_one_sequence(&self) -> bool {
        self.sequences == 1
    }

    /// See [`Tally::note_first_token`].
    pub(crate) fn first_token(&self) -> Option<Duration> {
        self.first_token
    }

    /// Tokens of the answers.
    pub(crate) fn answer_tokens(&self) -> u64 {
        self.answer_tokens
    }

    /// Whether the prompt is no conversation, but text or tokens.
    pub(crate) fn is_completion(&self) -> bool {
        self.is_completion
    }

    /// Counts tokens of an answer that have been counted elsewhere.
    pub(crate) fn add_answer_tokens(&mut self, tokens: usize) {
        self.answer_tokens += tokens as u64;
    }

    /// Counts a token of an answer.
    pub(crate) fn add_answer_token(&mut self) {
        self.answer_tokens += 1;
    }

    /// Adds the times of a sequence that has ended.
    pub(crate) fn add_times(&mut self, times: SequenceTimes) {
        self.times.queue += times.queue;
        self.times.prefill += times.prefill;
        self.times.decode += times.decode;
    }

    /// Adds what the span of the call or item says of them.
    pub(crate) fn describe(&self, attributes: &mut Vec<KeyValue>) {
        if let Some(models) = self.models() {
            attributes.push(KeyValue::new("gen_ai.request.model", models));
        }
        let failed: u64 = self.items_failed.values().sum();
        let items = [
            ("babelward.items_ok", self.items_ok),
            ("babelward.items_failed", failed),
        ];
        let tokens = [
            ("babelward.sequences", self.sequences),
            ("gen_ai.usage.input_tokens", self.prompt_tokens),
            ("gen_ai.usage.cache_read.input_tokens", self.cached_tokens),
            ("gen_ai.usage.output_tokens", self.answer_tokens),
        ];
        let items = items.into_iter().filter(|_| self.items_ok + failed > 0);
        let tokens = tokens.into_iter().filter(|_| self.sequences > 0);
        let number = |figure: u64| i64::try_from(figure).unwrap_or(i64::MAX);
        attributes.extend(
            items
                .chain(tokens)
                .map(|(name, figure)| KeyValue::new(name, number(figure))),
        );
    }

    /// The models, separated by commas; `None` if there are none.
    fn models(&self) -> Option<String> {
        (!self.models.is_empty()).then(|| self.models.join(","))
    }

    /// Counts an item that has ended.
    pub(crate) fn count_item(&mut self, code: Code) {
        match code {
            Code::Ok => self.items_ok += 1,
            _ => *self.items_failed.entry(code_name(code)).or_default() += 1,
        }
    }
}

/// The id as it may be logged: itself if it is configured, otherwise [`UNKNOWN`]; `None` for an empty one, which stands
/// for a default.
pub(crate) fn known_model<'a>(registry: &Registry, id: &'a str) -> Option<&'a str> {
    let known = registry.list().iter().any(|declared| declared.id == id);
    match (id, known) {
        ("", _) => None,
        (_, true) => Some(id),
        (_, false) => Some(UNKNOWN),
    }
}

/// How a call or item has ended.
pub(crate) struct CallEnding<'a> {
    pub(crate) code: Code,
    /// The reason of its error; `None` for errors that are not in docs/errors.md.
    pub(crate) reason: Option<Reason>,
    pub(crate) total: Duration,
    pub(crate) tally: &'a Tally,
}

impl CallEnding<'_> {
    /// Logs the end of a call of this tenant, from this origin.
    pub(crate) fn log_call(&self, span: &Span, tenant: &Tenant, origin: &CallOrigin) {
        let Self { tally, .. } = self;
        let failed: u64 = tally.items_failed.values().sum();
        let has_items = tally.items_ok + failed > 0;
        tracing::info!(
            target: ACCESS_TARGET,
            parent: span,
            code = %code_name(self.code),
            reason = self.reason.map(|reason| display(reason.name())),
            model = tally.models().map(display),
            tenant = (!tenant.is_unnamed()).then(|| display(tenant)),
            peer = origin.peer.map(display),
            door = origin.door.map(|door| display(door.0)),
            items_ok = has_items.then_some(tally.items_ok),
            items_failed = has_items.then_some(failed),
            item_errors = (failed > 0).then(|| display(Counts(&tally.items_failed))),
            sequences = self.of_sequences(tally.sequences),
            prompt_tokens = self.of_sequences(tally.prompt_tokens),
            cached_tokens = self.of_sequences(tally.cached_tokens),
            answer_tokens = self.of_sequences(tally.answer_tokens),
            queue_ms = self.of_sequences(millis(tally.times.queue)),
            prefill_ms = self.of_sequences(millis(tally.times.prefill)),
            decode_ms = self.of_sequences(millis(tally.times.decode)),
            total_ms = millis(self.total),
            "call ended"
        );
    }

    /// Logs the end of a call of somebody who is not known. Otherwise strangers could fill the log, with ids of their choice.
    pub(crate) fn log_stranger(&self, span: &Span) {
        tracing::debug!(
            target: ACCESS_TARGET,
            parent: span,
            code = %code_name(self.code),
            reason = self.reason.map(|reason| tracing::field::display(reason.name())),
            total_ms = millis(self.total),
            "call refused"
        );
    }

    /// Logs the end of the item with this number, from 0, of the call in `span`.
    pub(crate) fn log_item(&self, span: &Span, item: u64) {
        let Self { tally, .. } = self;
        tracing::debug!(
            target: ACCESS_TARGET,
            parent: span,
            item,
            code = %code_name(self.code),
            reason = self.reason.map(|reason| display(reason.name())),
            model = tally.models().map(display),
            sequences = self.of_sequences(tally.sequences),
            prompt_tokens = self.of_sequences(tally.prompt_tokens),
            cached_tokens = self.of_sequences(tally.cached_tokens),
            answer_tokens = self.of_sequences(tally.answer_tokens),
            queue_ms = self.of_sequences(millis(tally.times.queue)),
            prefill_ms = self.of_sequences(millis(tally.times.prefill)),
            decode_ms = self.of_sequences(millis(tally.times.decode)),
            total_ms = millis(self.total),
            "item ended"
        );
    }

    /// A figure, if the call had sequences on the engine.
    fn of_sequences<T>(&self, figure: T) -> Option<T> {
        (self.tally.sequences > 0).then_some(figure)
    }
}

/// `CODE:count,CODE:count`.
struct Counts<'a>(&'a BTreeMap<&'static str, u64>);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (code, count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{code}:{count}")?;
        }
        Ok(())
    }
}

/// Milliseconds with one decimal.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// A call that is not for our services. Its line is logged when its answer begins, or when its caller is gone before
/// that.
pub(crate) struct ForeignCall {
    kind: Foreign,
    origin: CallOrigin,
    span: Span,
    began: Instant,
    logged: bool,
}

/// Calls at the port that are not for our services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// Health and reflection. Probes come every few seconds, so they are logged at debug level only.
    Infrastructure(&'static str),
    /// A method that does not exist. Its path is the caller's text.
    Unknown,
}

impl Foreign {
    fn of_path(path: &str) -> Self {
        const METHODS: [&str; 5] = [
            "grpc.health.v1.Health/Check",
            "grpc.health.v1.Health/List",
            "grpc.health.v1.Health/Watch",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ];
        let name = path.strip_prefix('/').unwrap_or(path);
        let known = METHODS.into_iter().find(|method| *method == name);
        known.map_or(Self::Unknown, Self::Infrastructure)
    }
}

impl ForeignCall {
    /// A call whose headers have arrived.
    pub(crate) fn new(path: &str, origin: CallOrigin) -> Self {
        let kind = Foreign::of_path(path);
        let method = match kind {
            Foreign::Infrastructure(method) => method,
            Foreign::Unknown => UNKNOWN,
        };
        Self {
            kind,
            span: origin.span(method),
            origin,
            began: now(),
            logged: false,
        }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn origin(&self) -> &CallOrigin {
        &self.origin
    }

    /// Logs the call, because its answer begins.
    pub(crate) fn answered(mut self, code: Code) {
        self.log(code);
    }

    /// Logs the call of somebody who is not known; see [`CallEnding::log_stranger`].
    pub(crate) fn refused(mut self, code: Code) {
        self.logged = true;
        let (span, code, total_ms) = (&self.span, code_name(code), millis(self.began.elapsed()));
        tracing::debug!(target: ACCESS_TARGET, parent: span, code = %code, total_ms, "call refused");
    }

    fn log(&mut self, code: Code) {
        self.logged = true;
        let (span, code, total_ms) = (
            &self.span,
            code_name(code),
            millis(now().saturating_duration_since(self.began)),
        );
        let peer = self.origin.peer.map(display);
        match self.kind {
            Foreign::Infrastructure(_) => {
                tracing::debug!(target: ACCESS_TARGET, parent: span, code = %code, peer, total_ms, "call answered");
            }
            Foreign::Unknown => {
                tracing::info!(target: ACCESS_TARGET, parent: span, code = %code, peer, total_ms, "call ended");
            }
        }
    }
}

impl Drop for ForeignCall {
    fn drop(&mut self) {
        if !self.logged {
            self.log(Code::Cancelled);
        }
    }
}
