//! Flags of the commands that call a server.

use std::{env, fs, path::PathBuf, time::Duration};

use tonic::metadata::AsciiMetadataValue;

use super::{
    CommandError,
    arguments::{duration, tenant},
};
use crate::client::{Client, ClientOptions};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The server that is called when nothing else is said.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// Environment variable that replaces [`DEFAULT_SERVER`].
const SERVER_VARIABLE: &str = "BABELWARD_SERVER_URL";

/// Environment variable that stands for `--ca-file`.
const AUTHORITIES_VARIABLE: &str = "BABELWARD_CA_FILE";

/// The first line of a certificate in PEM form.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Which server to call, and how. These flags may stand before or after the command's name.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Calling a server")]
pub struct Connection {
    /// Server to call, https:// where a proxy in front of it speaks TLS; several that serve the same models with commas between
    /// them, or dns:///NAME:PORT for one at each address of a name [env: BABELWARD_SERVER_URL] [default:
    /// http://127.0.0.1:50051]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Certificates (PEM) of the authorities to trust for https://, instead of the system's [env: BABELWARD_CA_FILE]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Longest time for one call, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Tenant on whose account the server does the work
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    tenant: Option<AsciiMetadataValue>,
}

impl Connection {
    /// These flags; where one is absent, that of `before`, which stand before the command's name.
    pub(super) fn or(self, before: Self) -> Self {
        Self {
            server: self.server.or(before.server),
            ca_file: self.ca_file.or(before.ca_file),
            timeout: self.timeout.or(before.timeout),
            tenant: self.tenant.or(before.tenant),
        }
    }

    /// The name of the first flag that is given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--server", self.server.is_some()),
            ("--ca-file", self.ca_file.is_some()),
            ("--timeout", self.timeout.is_some()),
            ("--tenant", self.tenant.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// The value of `--server`.
    pub(super) fn named(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The same flags, with this time for a call where `--timeout` is absent.
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

    /// The certificates of the authorities to trust, from the file that a flag or a variable names.
    fn authorities(&self) -> Result<Option<Vec<u8>>, CommandError> {
        let variable = || env::var_os(AUTHORITIES_VARIABLE).filter(|path| !path.is_empty());
        let Some(path) = self.ca_file.clone().or_else(|| variable().map(PathBuf::from)) else {
            return Ok(None);
        };
        let wrong =
            |what: String| CommandError::invalid_data(format!("--ca-file {}: {what}", path.display()));
        let text = fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        let begins = text.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE);
        if !begins {
            return Err(wrong(
                "there is no certificate in it; one begins with -----BEGIN CERTIFICATE-----".to_owned(),
            ));
        }
        Ok(Some(text))
    }

    /// Connects, with `--timeout` for each call.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let options = ClientOptions {
            connect_timeout: self
                .timeout
                .map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT)),
            call_timeout: self.timeout,
            authorities: self.authorities()?,
            tenant: self.tenant.clone(),
            ..ClientOptions::default()
        };
        Ok(Client::connect(&self.address(), options).await?)
    }
}
