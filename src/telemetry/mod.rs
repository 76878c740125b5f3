//! Logs on stderr, and Prometheus metrics on a port of their own. Neither ever contains text of a request.

mod logs;
mod metrics;
mod metrics_connections;
mod metrics_port;
mod service_health;

pub use self::{
    logs::{LogStyle, init_logs},
    metrics::{MetricsError, serve_metrics},
    metrics_port::MetricsOptions,
    service_health::ServiceHealth,
};
