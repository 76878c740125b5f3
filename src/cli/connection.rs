//! Flags of the commands that call a server.

use std::{env, time::Duration};

use tonic::metadata::AsciiMetadataValue;

use super::global::duration;
use crate::{
    client::{Client, ClientError, ClientOptions},
    engine::Tenant,
};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a server is by default.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// Names [`DEFAULT_SERVER`] otherwise.
const SERVER_VARIABLE: &str = "BABELWARD_SERVER_URL";

/// Which server to call, and how. They may stand before the command's name, too.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Calling a server")]
pub struct Connection {
    /// Server to call [env: BABELWARD_SERVER_URL] [default: http://127.0.0.1:50051]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Longest time for one call, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Tenant on whose account the server does the work
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    tenant: Option<AsciiMetadataValue>,
}

impl Connection {
    /// These, and where they say nothing, `before`, which stand before the command's name.
    pub(super) fn or(self, before: Self) -> Self {
        Self {
            server: self.server.or(before.server),
            timeout: self.timeout.or(before.timeout),
            tenant: self.tenant.or(before.tenant),
        }
    }

    /// The first flag that is given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--server", self.server.is_some()),
            ("--timeout", self.timeout.is_some()),
            ("--tenant", self.tenant.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// Whether a flag names the server.
    pub(super) fn is_named(&self) -> bool {
        self.server.is_some()
    }

    /// The same, where nobody says how long a call may take.
    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: self.timeout.or(Some(timeout)),
            ..self.clone()
        }
    }

    /// The URL of the server.
    pub(super) fn address(&self) -> String {
        let named = self.server.clone();
        let variable = || env::var(SERVER_VARIABLE).ok().filter(|url| !url.is_empty());
        named
            .or_else(variable)
            .unwrap_or_else(|| DEFAULT_SERVER.to_owned())
    }

    /// Connects, with `--timeout` for each call.
    pub(super) async fn connect(&self) -> Result<Client, ClientError> {
        let options = ClientOptions {
            connect_timeout: self
                .timeout
                .map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT)),
            call_timeout: self.timeout,
            tenant: self.tenant.clone(),
            ..ClientOptions::default()
        };
        Client::connect(&self.address(), options).await
    }
}

/// A tenant's name, as the server takes it.
fn tenant(text: &str) -> Result<AsciiMetadataValue, String> {
    let wrong = || {
        format!(
            "write 1 to {} letters, digits, `.`, `_` and `-`",
            Tenant::MAX_BYTES
        )
    };
    Tenant::named(text)
        .and_then(|_| text.parse().ok())
        .ok_or_else(wrong)
}
