//! Which trace a call belongs to, as the W3C's Trace Context writes it (<https://www.w3.org/TR/trace-context/>): read from
//! the headers `traceparent` and `tracestate`, and written for others. What is recorded of a call is not known here.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use rand::RngExt as _;

/// The header with ids and flags.
pub const TRACEPARENT: &str = "traceparent";

/// The header with what tracing systems add for themselves.
pub const TRACESTATE: &str = "tracestate";

/// Characters of a `traceparent` of version 00: version, trace id, span id and flags, with `-` between them.
const LENGTH: usize = 55;

/// Most bytes of a `tracestate`, which every system has to pass on. A longer one is dropped.
const STATE_BYTES: usize = 512;

/// A span of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext(SpanContext);

/// Why a `traceparent` is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no traceparent of the W3C: it has the form 00-TRACE-SPAN-FLAGS, with 32, 16 and 2 hexadecimal digits in small \
     letters, and TRACE and SPAN are not zero"
)]
pub struct BadTraceContext;

impl TraceContext {
    /// Reads the values of the two headers. A wrong `traceparent` is an error; a wrong or long `tracestate` is left out, as
    /// the recommendation says.
    ///
    /// # Errors
    /// [`BadTraceContext`].
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Result<Self, BadTraceContext> {
        let (trace, span, flags) = fields(traceparent).ok_or(BadTraceContext)?;
        let trace = TraceId::from_hex(trace).map_err(|_| BadTraceContext)?;
        let span = SpanId::from_hex(span).map_err(|_| BadTraceContext)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| BadTraceContext)?;
        // Only this flag has a meaning that is known here.
        let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
        let state = tracestate.filter(|state| state.len() <= STATE_BYTES);
        let state = state.and_then(|state| state.parse().ok());
        let context = SpanContext::new(trace, span, flags, true, state.unwrap_or_default());
        context.is_valid().then_some(Self(context)).ok_or(BadTraceContext)
    }

    /// A span of a trace of its own, with random ids.
    pub fn new_trace() -> Self {
        let mut random = rand::rng();
        // Zero is no id.
        let trace = TraceId::from(random.random_range(1..=u128::MAX));
        Self(SpanContext::new(
            trace,
            new_span_id(),
            TraceFlags::NOT_SAMPLED,
            false,
            TraceState::NONE,
        ))
    }

    /// A span of the same trace, with a random id.
    pub fn new_span(&self) -> Self {
        Self(SpanContext::new(
            self.0.trace_id(),
            new_span_id(),
            self.0.trace_flags(),
            false,
            self.0.trace_state().clone(),
        ))
    }

    /// The same span, which is recorded or not.
    pub fn with_sampled(self, sampled: bool) -> Self {
        let flags = self.0.trace_flags().with_sampled(sampled);
        let Self(context) = self;
        Self(SpanContext::new(
            context.trace_id(),
            context.span_id(),
            flags,
            context.is_remote(),
            context.trace_state().clone(),
        ))
    }

    /// The id of the trace: shown as 32 hexadecimal digits.
    pub fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }

    /// The id of the span: shown as 16 hexadecimal digits.
    pub fn span_id(&self) -> SpanId {
        self.0.span_id()
    }

    /// Whether the span is recorded. Those who are called should record theirs as well.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }

    /// The value of `traceparent`.
    pub fn traceparent(&self) -> String {
        let flags = u8::from(self.is_sampled());
        format!("00-{}-{}-{flags:02x}", self.trace_id(), self.span_id())
    }

    /// The value of `tracestate`; `None` if nothing is in it.
    pub fn tracestate(&self) -> Option<String> {
        Some(self.0.trace_state().header()).filter(|state| !state.is_empty())
    }
}

/// As exporters take it.
impl From<TraceContext> for SpanContext {
    fn from(TraceContext(context): TraceContext) -> Self {
        context
    }
}

fn new_span_id() -> SpanId {
    SpanId::from(rand::rng().random_range(1..=u64::MAX))
}

/// Trace id, span id and flags of a `traceparent`. Versions to come may add something after the flags.
fn fields(text: &str) -> Option<(&str, &str, &str)> {
    let bytes = text.as_bytes();
    let known = bytes.get(..LENGTH)?;
    let is_formed = known.iter().enumerate().all(|(place, byte)| match place {
        2 | 35 | 52 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    });
    let ends = match &known[..2] {
        b"ff" => false,
        b"00" => bytes.len() == LENGTH,
        _ => matches!(bytes.get(LENGTH), None | Some(b'-')),
    };
    (is_formed && ends).then(|| (&text[3..35], &text[36..52], &text[53..55]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the recommendation.
    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parsed(traceparent: &str) -> Result<TraceContext, BadTraceContext> {
        TraceContext::parse(traceparent, None)
    }

    #[test]
    fn what_is_read_is_written_again() {
        let context = TraceContext::parse(EXAMPLE, Some("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE")).unwrap();
        assert_eq!(context.traceparent(), EXAMPLE);
        assert_eq!(
            context.tracestate().as_deref(),
            Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
        );
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id().to_string(), "b7ad6b7169203331");
        assert!(context.is_sampled());
        let unsampled = EXAMPLE.replace("-01", "-00");
        assert!(!parsed(&unsampled).unwrap().is_sampled());
    }

    #[test]
    fn flags_without_a_known_meaning_are_not_passed_on() {
        let all = EXAMPLE.replace("-01", "-ff");
        assert_eq!(parsed(&all).unwrap().traceparent(), EXAMPLE);
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let later = |rest: &str| format!("cc{}{rest}", &EXAMPLE[2..]);
        for rest in ["", "-", "-what-the-future-will-be-like"] {
            assert_eq!(parsed(&later(rest)).unwrap().traceparent(), EXAMPLE, "{rest}");
        }
        assert_eq!(parsed(&later(".more")), Err(BadTraceContext));
    }

    #[test]
    fn what_has_another_form_is_refused() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let wrong = [
            String::new(),
            "00".to_owned(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-"),
            format!(" {EXAMPLE}"),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replacen("00", "ff", 1),
            EXAMPLE.replacen("00", "0+", 1),
            EXAMPLE.replacen('-', "_", 1),
            EXAMPLE.replace("0af7", "+af7"),
            EXAMPLE.replace("0af7", "\u{e9}7"),
            zero_trace,
            zero_span,
        ];
        for text in wrong {
            assert_eq!(parsed(&text), Err(BadTraceContext), "{text}");
        }
    }

    #[test]
    fn a_tracestate_that_is_wrong_or_long_is_left_out() {
        let long = format!("a={}", "x".repeat(STATE_BYTES));
        for state in ["no-value", "UPPER=1", long.as_str(), ""] {
            let context = TraceContext::parse(EXAMPLE, Some(state)).unwrap();
            assert_eq!(context.tracestate(), None, "{state}");
        }
    }

    #[test]
    fn new_spans_stay_in_their_trace() {
        let caller = TraceContext::parse(EXAMPLE, Some("a=1")).unwrap();
        let span = caller.new_span();
        assert_eq!(span.trace_id(), caller.trace_id());
        assert_ne!(span.span_id(), caller.span_id());
        assert_eq!(span.tracestate(), caller.tracestate());
        assert!(span.is_sampled());
        assert!(!span.with_sampled(false).is_sampled());
        assert_ne!(
            TraceContext::new_trace().trace_id(),
            TraceContext::new_trace().trace_id()
        );
    }
}
