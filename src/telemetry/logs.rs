//! Writes logs through `tracing`, for people or for machines.

use std::io;

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

/// The format of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStyle {
    /// Lines for people.
    Human {
        /// Whether lines are coloured.
        color: bool,
    },
    /// One JSON object per line.
    Json,
}

/// The target of the lines that the access log consists of, for directives such as `info,babelward::access=warn`.
pub const ACCESS_TARGET: &str = "babelward::access";

/// Whether each call has a line in the log when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// It has.
    Written,
    /// It has none, unless a directive names [`ACCESS_TARGET`]. All other lines of a call still have its id.
    LeftOut,
}

/// [`init_logs`] for a server.
pub fn init_server_logs(style: LogStyle, directives: &str, calls: AccessLog) {
    match calls {
        AccessLog::Written => init_logs(style, directives),
        // Not `off`, which would silence the spans of calls, too, and so take the ids from all lines.
        AccessLog::LeftOut => init_logs(style, &format!("{ACCESS_TARGET}=warn,{directives}")),
    }
}

/// Sends logs to stderr from now on. `directives` are those of [`EnvFilter`] (`info`,
/// `info,babelward::engine=debug`); directives that cannot be parsed count as `info`. A second call has no effect.
///
/// The HTTP/2 library logs what peers send in their frames, so it is silenced unless a directive names it.
pub fn init_logs(style: LogStyle, directives: &str) {
    // A later directive for the same target replaces an earlier one.
    let filter = EnvFilter::try_new(format!("h2=off,{directives}"));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("h2=off,info"));
    let logs = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A line that cannot be written, for example on a full disk, is lost. To say so on stderr would panic.
        .log_internal_errors(false);
    let _already_set = match style {
        LogStyle::Human { color } => logs.with_ansi(color).finish().try_init(),
        // The fields of a line are at its top level, and those of its call under `span`.
        LogStyle::Json => logs
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init(),
    };
}
