//! The spans of a call that is traced.
//!
//! The span of the call has children which follow each other without gaps: `rpc`, while its request arrives, is checked and
//! becomes tokens; `queue`, `prefill` and `decode` of its sequence; and `reply`, until the answer has been handed on. Where
//! a call has several sequences, they lie beside each other, and what is between them is `rpc` again. The items of a batch
//! or stream are children of their call, each with such children of its own; between them their call has none.
//!
//! The times in queue, prefill and decode are those of the sequence itself, however many others shared its steps.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    KeyValue,
    trace::{SpanKind, Status},
};

use super::{
    access::{SequenceTimes, Tally},
    method::Method,
    origin::CallOrigin,
};
use crate::{
    engine::Stage,
    telemetry::{FinishedSpan, Parent, Tracer},
    trace_context::TraceContext,
};

/// One moment on both clocks: durations are measured on one, and spans have the time of the other.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    instant: Instant,
    system: SystemTime,
}

impl Clocks {
    /// The time of a moment that is not before this one.
    fn time_of(self, instant: Instant) -> SystemTime {
        let later = instant.saturating_duration_since(self.instant);
        self.system.checked_add(later).unwrap_or(self.system)
    }
}

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Call(Method),
    /// An item of a batch or stream.
    Item,
}

/// A call that is traced, or an item of one.
pub(crate) struct CallTrace {
    tracer: Tracer,
    context: TraceContext,
    parent: Option<Parent>,
    subject: Subject,
    clocks: Clocks,
    began: Instant,
    work: Mutex<Work>,
}

/// The sequences or items of a call.
struct Work {
    /// How many there were.
    begun: u64,
    /// How many there are.
    open: u64,
    /// Since when there are none.
    idle_since: Instant,
}

/// A sequence that has ended, as far as it got.
pub(crate) struct SequenceTrace<'a> {
    /// Its number among the sequences of its call or item, from 0.
    pub(crate) number: u64,
    pub(crate) model: &'a str,
    pub(crate) class: &'static str,
    /// When it was queued.
    pub(crate) admitted: Instant,
    pub(crate) times: SequenceTimes,
    /// The stage that it got to.
    pub(crate) reached: Stage,
    pub(crate) prompt_tokens: usize,
    pub(crate) cached_tokens: usize,
    pub(crate) answer_tokens: usize,
}

/// How a call or item ended, for its span.
pub(crate) struct SpanEnding<'a> {
    pub(crate) at: Instant,
    /// The name of its status code.
    pub(crate) code: &'static str,
    /// Whether the code says that this server has failed, and not its caller.
    pub(crate) is_fault: bool,
    /// The reason of its error, if it has one of ours.
    pub(crate) reason: Option<&'static str>,
    pub(crate) tally: &'a Tally,
    /// What is known of a call or item besides.
    pub(crate) attributes: Vec<KeyValue>,
}

impl CallTrace {
    /// The trace of a call that begins; `None` if it is not sampled.
    pub(crate) fn call(tracer: &Tracer, origin: &CallOrigin, method: Method, began: Instant) -> Option<Self> {
        let context = origin.context.clone().filter(TraceContext::is_sampled)?;
        let parent = origin
            .caller
            .as_ref()
            .map(|caller| Parent::Remote(caller.span_id()));
        let clocks = Clocks {
            instant: began,
            system: SystemTime::now()
                .checked_sub(began.elapsed())
                .unwrap_or(SystemTime::UNIX_EPOCH),
        };
        Some(Self {
            tracer: tracer.clone(),
            context,
            parent,
            subject: Subject::Call(method),
            clocks,
            began,
            work: Mutex::new(Work::new(began)),
        })
    }

    /// The trace of an item of this call, which begins.
    pub(crate) fn item(&self, began: Instant) -> Self {
        self.begin_work(began);
        Self {
            tracer: self.tracer.clone(),
            context: self.context.new_span(),
            parent: Some(Parent::Here(self.context.span_id())),
            subject: Subject::Item,
            clocks: self.clocks,
            began,
            work: Mutex::new(Work::new(began)),
        }
    }

    /// Begins a sequence or an item, and returns its number, from 0.
    pub(crate) fn begin_work(&self, at: Instant) -> u64 {
        let mut work = self.work();
        let number = work.begun;
        // Between the items of a stream, the server only waits for its client.
        let is_between = number > 0 && matches!(self.subject, Subject::Call(method) if method.counts_items());
        if work.open == 0 && !is_between {
            let since = work.idle_since;
            self.child("rpc", since, at, Vec::new());
        }
        work.begun += 1;
        work.open += 1;
        number
    }

    /// Ends a sequence or an item.
    pub(crate) fn end_work(&self, at: Instant) {
        let mut work = self.work();
        work.open = work.open.saturating_sub(1);
        work.idle_since = work.idle_since.max(at);
    }

    /// Ends a sequence, with its spans.
    pub(crate) fn end_sequence(&self, sequence: &SequenceTrace<'_>) {
        let common = || {
            vec![
                KeyValue::new("gen_ai.request.model", sequence.model.to_owned()),
                KeyValue::new("babelward.sequence", count(sequence.number)),
            ]
        };
        let SequenceTimes {
            queue,
            prefill,
            decode,
        } = sequence.times;
        let mut at = sequence.admitted;
        let mut phase = |name, time: Duration, more: &[KeyValue]| {
            let mut attributes = common();
            attributes.extend_from_slice(more);
            let ended = at + time;
            self.child(name, at, ended, attributes);
            at = ended;
        };
        phase(
            "queue",
            queue,
            &[KeyValue::new("babelward.class", sequence.class)],
        );
        if sequence.reached != Stage::Queue {
            let tokens = [
                KeyValue::new("gen_ai.usage.input_tokens", count(sequence.prompt_tokens)),
                KeyValue::new(
                    "gen_ai.usage.cache_read.input_tokens",
                    count(sequence.cached_tokens),
                ),
            ];
            phase("prefill", prefill, &tokens);
        }
        if sequence.reached == Stage::Decode {
            let tokens = KeyValue::new("gen_ai.usage.output_tokens", count(sequence.answer_tokens));
            phase("decode", decode, &[tokens]);
        }
        self.end_work(at);
    }

    /// Ends the call or item.
    pub(crate) fn end(&self, ending: SpanEnding<'_>) {
        let at = ending.at;
        {
            let work = self.work();
            if work.open == 0 {
                let name = if work.begun == 0 { "rpc" } else { "reply" };
                self.child(name, work.idle_since, at, Vec::new());
            }
        }
        let mut attributes = ending.attributes;
        let name = match self.subject {
            Subject::Call(method) => {
                attributes.push(KeyValue::new("rpc.system.name", "grpc"));
                attributes.push(KeyValue::new("rpc.method", method.name()));
                method.name()
            }
            Subject::Item => "item",
        };
        attributes.push(KeyValue::new("rpc.response.status_code", ending.code));
        if ending.is_fault {
            attributes.push(KeyValue::new("error.type", ending.reason.unwrap_or(ending.code)));
        }
        if let Some(reason) = ending.reason {
            attributes.push(KeyValue::new("babelward.reason", reason));
        }
        ending.tally.describe(&mut attributes);
        self.tracer.record(FinishedSpan {
            context: self.context.clone(),
            parent: self.parent,
            kind: match self.subject {
                Subject::Call(_) => SpanKind::Server,
                Subject::Item => SpanKind::Internal,
            },
            name,
            began: self.clocks.time_of(self.began),
            ended: self.clocks.time_of(at),
            attributes,
            status: match ending.is_fault {
                true => Status::error(ending.reason.unwrap_or(ending.code)),
                false => Status::Unset,
            },
        });
    }

    /// Records a span below this one.
    fn child(&self, name: &'static str, began: Instant, ended: Instant, attributes: Vec<KeyValue>) {
        self.tracer.record(FinishedSpan {
            context: self.context.new_span(),
            parent: Some(Parent::Here(self.context.span_id())),
            kind: SpanKind::Internal,
            name,
            began: self.clocks.time_of(began),
            ended: self.clocks.time_of(ended.max(began)),
            attributes,
            status: Status::Unset,
        });
    }

    fn work(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn new(began: Instant) -> Self {
        Self {
            begun: 0,
            open: 0,
            idle_since: began,
        }
    }
}

/// A number as attributes have it.
pub(crate) fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
