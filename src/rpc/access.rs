//! The access log: one line for each call when it ends, and one for each item of a batch or stream at debug. It
//! says what was asked of which model, by whom, how it ended and what it took; never what was said.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::Code;
use tracing::Span;

use super::{record::code_name, status::Reason};
use crate::{engine::SequenceSummary, registry::Registry};

/// The target of these lines, for directives such as `info,babelward::access=warn`. The spans of calls have it
/// too, at a level that only `off` silences: all other lines of a call get its id from there.
pub(crate) const TARGET: &str = "babelward::access";

/// Stands for whatever a caller names that this server does not have: such a name is the caller's text.
pub(crate) const UNKNOWN: &str = "unknown";

/// The span of a call: every line that is logged on its behalf has its id and method.
pub(crate) fn call_span(id: &str, method: &'static str) -> Span {
    tracing::error_span!(target: TARGET, parent: None, "call", id, method = %method)
}

/// What a call, or an item of one, has asked for and taken so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    models: Vec<String>,
    sequences: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    answer_tokens: u64,
    times: Times,
    items_ok: u64,
    items_failed: BTreeMap<&'static str, u64>,
}

/// How long sequences waited, computed their prompts, and wrote their answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) queue: Duration,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
}

impl From<&SequenceSummary> for Times {
    fn from(summary: &SequenceSummary) -> Self {
        Self {
            queue: summary.queue,
            prefill: summary.prefill,
            decode: summary.decode,
        }
    }
}

impl Tally {
    /// A model of the configuration.
    pub(crate) fn use_model(&mut self, id: &str) {
        if self.models.iter().all(|known| known != id) {
            self.models.push(id.to_owned());
        }
    }

    /// A sequence has begun to wait.
    pub(crate) fn queue(&mut self, prompt_tokens: usize) {
        self.sequences += 1;
        self.prompt_tokens += prompt_tokens as u64;
    }

    /// So many of its prompt's tokens were in the prefix cache.
    pub(crate) fn find_cached(&mut self, tokens: usize) {
        self.cached_tokens += tokens as u64;
    }

    /// It has written a token.
    pub(crate) fn answer(&mut self) {
        self.answer_tokens += 1;
    }

    /// It has ended.
    pub(crate) fn spend(&mut self, times: Times) {
        self.times.queue += times.queue;
        self.times.prefill += times.prefill;
        self.times.decode += times.decode;
    }

    /// An item has ended.
    pub(crate) fn count_item(&mut self, code: Code) {
        match code {
            Code::Ok => self.items_ok += 1,
            _ => *self.items_failed.entry(code_name(code)).or_default() += 1,
        }
    }
}

/// The id itself where the configuration has it; `None` for an empty one, which stands for a default.
pub(crate) fn known_model<'a>(registry: &Registry, id: &'a str) -> Option<&'a str> {
    let known = registry.list().iter().any(|declared| declared.id == id);
    match (id, known) {
        ("", _) => None,
        (_, true) => Some(id),
        (_, false) => Some(UNKNOWN),
    }
}

/// The end of a call or item.
pub(crate) struct Ending<'a> {
    pub(crate) code: Code,
    /// Of an error that is from the table in docs/errors.md.
    pub(crate) reason: Option<Reason>,
    pub(crate) total: Duration,
    pub(crate) tally: &'a Tally,
}

impl Ending<'_> {
    /// Logs the end of a call.
    pub(crate) fn log_call(&self, span: &Span, tenant: Option<&dyn fmt::Display>) {
        let Self { tally, .. } = self;
        let failed: u64 = tally.items_failed.values().sum();
        let has_items = tally.items_ok + failed > 0;
        tracing::info!(
            target: TARGET,
            parent: span,
            code = %code_name(self.code),
            reason = self.reason.map(|reason| tracing::field::display(reason.name())),
            model = self.models().map(tracing::field::display),
            tenant = tenant.map(tracing::field::display),
            items_ok = has_items.then_some(tally.items_ok),
            items_failed = has_items.then_some(failed),
            item_errors = (failed > 0).then(|| tracing::field::display(Counts(&tally.items_failed))),
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

    /// Logs the end of the item with this number, from 0, of the call in `span`.
    pub(crate) fn log_item(&self, span: &Span, item: u64) {
        let Self { tally, .. } = self;
        tracing::debug!(
            target: TARGET,
            parent: span,
            item,
            code = %code_name(self.code),
            reason = self.reason.map(|reason| tracing::field::display(reason.name())),
            model = self.models().map(tracing::field::display),
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

    fn models(&self) -> Option<String> {
        let models = &self.tally.models;
        (!models.is_empty()).then(|| models.join(","))
    }

    /// A figure that only work on the engine has.
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

/// A call that is none of our services': its line is written when its answer begins, or when its caller is gone
/// before.
pub(crate) struct ForeignCall {
    kind: Foreign,
    id: Arc<str>,
    span: Span,
    began: Instant,
    told: bool,
}

/// What is asked of the port besides our services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// Health and reflection. Probes come every few seconds, so they are logged at debug only.
    Infrastructure(&'static str),
    /// A method that nobody has. Its path is the caller's text.
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
    /// Begins with the request's headers.
    pub(crate) fn new(path: &str, id: Arc<str>) -> Self {
        let kind = Foreign::of_path(path);
        let method = match kind {
            Foreign::Infrastructure(method) => method,
            Foreign::Unknown => UNKNOWN,
        };
        Self {
            kind,
            span: call_span(&id, method),
            id,
            began: Instant::now(),
            told: false,
        }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Its answer begins.
    pub(crate) fn answered(mut self, code: Code) {
        self.tell(code);
    }

    fn tell(&mut self, code: Code) {
        self.told = true;
        let (span, code, total_ms) = (&self.span, code_name(code), millis(self.began.elapsed()));
        match self.kind {
            Foreign::Infrastructure(_) => {
                tracing::debug!(target: TARGET, parent: span, code = %code, total_ms, "call answered");
            }
            Foreign::Unknown => {
                tracing::info!(target: TARGET, parent: span, code = %code, total_ms, "call ended");
            }
        }
    }
}

impl Drop for ForeignCall {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Code::Cancelled);
        }
    }
}
