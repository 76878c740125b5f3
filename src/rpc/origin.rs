//! Where a call comes from: the id that its log lines have, the trace of its caller, and the address of its peer. All of it
//! is known when the call's headers have arrived, also for calls that are then refused.

use std::{net::SocketAddr, sync::Arc};

use http::{
    Extensions, HeaderMap,
    header::{HeaderName, HeaderValue},
};
use rand::RngExt as _;
use tracing::{Span, field::display};

use super::transport::PeerAddress;
use crate::{
    telemetry::{ACCESS_TARGET, Tracer},
    trace_context::{TRACEPARENT, TRACESTATE, TraceContext},
};

/// The header with the id of a call.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header of an answer with the trace that the call belongs to, and with the call's own span: the draft of Trace
/// Context, level 2.
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Most characters of a request id.
const ID_CHARACTERS: usize = 128;

/// What the caller of the HTTP port speaks, in the extensions of a call's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Door(pub(crate) &'static str);

/// Where a call comes from.
#[derive(Clone)]
pub(crate) struct CallOrigin {
    /// In every line that is logged for the call, and in its answer.
    pub(crate) request_id: Arc<str>,
    /// The span of the caller, if it names one.
    pub(crate) caller: Option<TraceContext>,
    /// The span of the call; `None` for a call in nobody's trace while nothing is traced.
    pub(crate) context: Option<TraceContext>,
    /// The other end of the connection.
    pub(crate) peer: Option<SocketAddr>,
    /// What its caller speaks, if it came over the HTTP port.
    pub(crate) door: Option<Door>,
}

impl CallOrigin {
    /// Reads the headers of a call. `tracer` decides whether it is traced.
    pub(crate) fn of(headers: &HeaderMap, extensions: &Extensions, tracer: &Tracer) -> Self {
        let caller = caller(headers);
        let context = tracer.begin(caller.as_ref());
        Self {
            request_id: request_id(headers.get(REQUEST_ID), context.as_ref()),
            caller,
            context,
            peer: extensions.get::<PeerAddress>().map(|peer| peer.0),
            door: extensions.get().copied(),
        }
    }

    /// The span for the call's log lines: every one of them has its id, method and trace. It has the target of the access log,
    /// at a level that only `off` silences, because all other lines get the id from it.
    pub(crate) fn span(&self, method: &'static str) -> Span {
        let (id, trace_id) = (
            &*self.request_id,
            self.context.as_ref().map(TraceContext::trace_id),
        );
        let trace_id = trace_id.map(display);
        tracing::error_span!(target: ACCESS_TARGET, parent: None, "call", id, method = %method, trace_id)
    }

    /// Tells the caller its call's id and trace.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.request_id) {
            headers.insert(REQUEST_ID, value);
        }
        let trace = self.context.as_ref().map(TraceContext::traceparent);
        if let Some(Ok(value)) = trace.map(HeaderValue::try_from) {
            headers.insert(TRACERESPONSE, value);
        }
    }
}

/// The caller's span. Two headers that contradict each other name none.
fn caller(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let parent = parents
        .next()
        .filter(|_| parents.next().is_none())?
        .to_str()
        .ok()?;
    // Several headers of this name are one list.
    let states: Result<Vec<_>, _> = headers
        .get_all(TRACESTATE)
        .iter()
        .map(HeaderValue::to_str)
        .collect();
    let state = states.ok().filter(|states| !states.is_empty());
    let state = state.map(|states| states.join(","));
    TraceContext::parse(parent, state.as_deref()).ok()
}

/// The id of a request of the HTTP port: the caller's if it is sound, otherwise a random one.
pub(crate) fn http_request_id(headers: &HeaderMap) -> Arc<str> {
    request_id(headers.get(REQUEST_ID), None)
}

/// The caller's request id if it has at most [`ID_CHARACTERS`] visible ASCII characters; otherwise the ids of the call's trace
/// and span, if it has some; otherwise a random one.
fn request_id(value: Option<&HeaderValue>, context: Option<&TraceContext>) -> Arc<str> {
    let is_sound =
        |id: &&str| (1..=ID_CHARACTERS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    let given = value.and_then(|value| value.to_str().ok()).filter(is_sound);
    match (given, context) {
        (Some(id), _) => Arc::from(id),
        (None, Some(context)) => format!("{}-{}", context.trace_id(), context.span_id()).into(),
        (None, None) => format!("{:016x}", rand::rng().random::<u64>()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn origin(headers: &[(&'static str, &str)]) -> CallOrigin {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        CallOrigin::of(&headers.collect(), &Extensions::new(), &Tracer::off())
    }

    #[test]
    fn request_ids_are_kept_if_printable_and_short_and_made_if_not() {
        let id = |id: &str| origin(&[("x-request-id", id)]).request_id;
        assert_eq!(&*id("run-7/item-3"), "run-7/item-3");
        let longest = "x".repeat(ID_CHARACTERS);
        assert_eq!(*id(&longest), longest);
        for made in ["a b", "", "é", &format!("{longest}x")] {
            assert_eq!(id(made).len(), 16, "{made}");
        }
        assert_ne!(origin(&[]).request_id, origin(&[]).request_id);
    }

    #[test]
    fn a_call_without_an_id_is_known_by_its_trace_and_span() {
        let made = origin(&[("traceparent", PARENT)]);
        let span = made.context.unwrap().span_id();
        assert_eq!(
            *made.request_id,
            format!("0af7651916cd43dd8448eb211c80319c-{span}")
        );
        // Several calls may have the same parent.
        assert_ne!(made.request_id, origin(&[("traceparent", PARENT)]).request_id);
        let named = origin(&[("traceparent", PARENT), ("x-request-id", "mine")]);
        assert_eq!(&*named.request_id, "mine");
        let wrong = origin(&[("traceparent", &PARENT.replace("00-", "ff-"))]);
        assert_eq!(wrong.request_id.len(), 16);
        assert_eq!(wrong.context, None);
    }

    #[test]
    fn answers_name_the_trace_of_their_call_and_a_span_of_its_own() {
        let mut headers = HeaderMap::new();
        origin(&[("traceparent", PARENT), ("x-request-id", "mine")]).write(&mut headers);
        assert_eq!(headers["x-request-id"], "mine");
        let told = TraceContext::parse(headers["traceresponse"].to_str().unwrap(), None).unwrap();
        let caller = TraceContext::parse(PARENT, None).unwrap();
        assert_eq!(told.trace_id(), caller.trace_id());
        assert_ne!(told.span_id(), caller.span_id());

        let mut headers = HeaderMap::new();
        origin(&[]).write(&mut headers);
        assert_eq!(headers.len(), 1, "{headers:?}");
    }

    #[test]
    fn traces_that_are_named_twice_are_none_and_states_are_one_list() {
        let twice = origin(&[("traceparent", PARENT), ("traceparent", PARENT)]);
        assert_eq!(twice.context, None);
        let listed = origin(&[
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]);
        assert_eq!(listed.context.unwrap().tracestate().as_deref(), Some("a=1,b=2"));
    }
}
