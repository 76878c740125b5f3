//! Flags that every subcommand has.

use std::{future::Future, io, io::IsTerminal as _};

use anyhow::Context as _;

use super::{Connection, Format, output::wants_color};
use crate::{
    client::Client,
    fetch::Progress,
    telemetry::{LogStyle, init_logs},
};

/// Flags that every subcommand has.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// Format of data on stdout and of errors on stderr
    #[arg(long, global = true, value_enum, default_value = "human")]
    pub format: Format,
    /// No colours (also: NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Write nothing but errors to stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log more to stderr: -v adds what happens in each call, -vv each step of the engine as well
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// The connection flags, from before and after the command's name.
    #[arg(skip)]
    pub connection: Connection,
}

impl Global {
    /// The log directives for `-q` and `-v`.
    pub fn log_level(&self) -> Option<&'static str> {
        match (self.quiet, self.verbose) {
            (true, _) => Some("error"),
            (false, 0) => None,
            (false, 1) => Some("info,babelward=debug"),
            (false, _) => Some("info,babelward=trace"),
        }
    }

    /// Sends a client command's logs to stderr: warnings, unless asked for more or less.
    pub fn init_logs(&self) {
        let style = match self.format {
            Format::Human => self.log_style(),
            Format::Json | Format::Jsonl => LogStyle::Json,
        };
        init_logs(style, self.log_level().unwrap_or("warn"));
    }

    /// The style of logs for people, with colours where stderr shows them.
    pub fn log_style(&self) -> LogStyle {
        LogStyle::Human {
            color: wants_color(self.no_color, io::stderr().is_terminal()),
        }
    }

    /// Progress of downloads on stderr.
    pub fn progress(&self) -> Progress {
        Progress::on_stderr(self.quiet)
    }

    /// Connects to `--server`, with `--timeout` for each call.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        self.connection.connect().await
    }

    /// Runs a client command to its end.
    pub fn block_on<T>(&self, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.init_logs();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .context("the runtime could not be started")?
            .block_on(command)
    }
}
