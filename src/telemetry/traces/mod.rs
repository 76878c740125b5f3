//! Traces: spans of calls, sent to a collector by OTLP over gRPC. Off unless a collector is named.
//!
//! A call hands its spans to a [`Tracer`], which never waits: a span for which there is no room in the queue is dropped and
//! counted. A task of its own takes them from there to the collector. What a span says is decided by those who make it
//! (`rpc`); nothing of it is a user's text.

mod collector;
mod export;
mod tracer;

pub(crate) use self::tracer::{FinishedSpan, Parent};
pub use self::{
    collector::{Collector, HeadersError, TraceError, read_headers, start_traces},
    export::TraceExport,
    tracer::Tracer,
};
