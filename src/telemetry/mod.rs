//! Logs on stderr, Prometheus metrics on a port of their own, and traces for a collector. None of them ever contains text of a
//! request.

mod logs;
mod metrics;
mod metrics_connections;
mod metrics_port;
mod service_health;
mod traces;

pub(crate) use self::traces::{FinishedSpan, Parent};
pub use self::{
    logs::{ACCESS_TARGET, AccessLog, LogStyle, init_logs, init_server_logs},
    metrics::{MetricsError, serve_metrics},
    metrics_port::{MetricsOptions, Refresh},
    service_health::ServiceHealth,
    traces::{Collector, HeadersError, TraceError, TraceExport, Tracer, read_headers, start_traces},
};
