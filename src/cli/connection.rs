//! Flags of the commands that call a server.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::metadata::AsciiMetadataValue;

use super::{
    CommandError,
    arguments::{duration, tenant},
};
use crate::{
    client::{BadToken, BearerToken, Client, ClientIdentity, ClientOptions, PlaintextToken},
    files,
    secret::Secret,
    trace_context::{TRACEPARENT, TRACESTATE, TraceContext},
};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The server that is called when nothing else is said.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// Environment variable that replaces [`DEFAULT_SERVER`].
const SERVER_VARIABLE: &str = "BABELWARD_SERVER_URL";

/// Environment variable that stands for `--ca-file`.
const AUTHORITIES_VARIABLE: &str = "BABELWARD_CA_FILE";

/// Environment variable that stands for `--client-cert`.
const CERTIFICATE_VARIABLE: &str = "BABELWARD_CLIENT_CERT";

/// Environment variable that stands for `--client-key`.
const KEY_VARIABLE: &str = "BABELWARD_CLIENT_KEY";

/// Environment variable that stands for `--token-file`.
const TOKEN_FILE_VARIABLE: &str = "BABELWARD_TOKEN_FILE";

/// Environment variable with an API key or token itself. There is no flag for it, because other users of the machine see the
/// flags of all processes.
const TOKEN_VARIABLE: &str = "BABELWARD_TOKEN";

/// Environment variable that stands for `--insecure-plaintext-token`.
const PLAINTEXT_VARIABLE: &str = "BABELWARD_INSECURE_PLAINTEXT_TOKEN";

/// Most bytes of a file with certificates, a key or a token.
const FILE_BYTES: u64 = 1 << 20;

/// The first line of a certificate in PEM form.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Which server to call, and how. These flags may stand before or after the command's name.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Calling a server")]
pub struct Connection {
    /// Server to call, https:// where it speaks TLS; several that serve the same models with commas between
    /// them, or dns:///NAME:PORT for one at each address of a name (dns+https:/// with TLS) [env: BABELWARD_SERVER_URL] [default:
    /// http://127.0.0.1:50051]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Certificates (PEM) of the authorities to trust for https://, instead of the system's [env: BABELWARD_CA_FILE]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// File with an API key or token to send; BABELWARD_TOKEN has one itself [env: BABELWARD_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send the key or token to another machine although nothing here encrypts it [env: BABELWARD_INSECURE_PLAINTEXT_TOKEN]
    #[arg(long)]
    insecure_plaintext_token: bool,
    /// Certificate (PEM) to show to the server, with --client-key [env: BABELWARD_CLIENT_CERT]
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// Private key (PEM) of --client-cert [env: BABELWARD_CLIENT_KEY]
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Longest time for one call, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Tenant on whose account the server does the work; with authentication, the key or token says it
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    tenant: Option<AsciiMetadataValue>,
}

impl Connection {
    /// These flags; where one is absent, that of `before`, which stand before the command's name.
    pub(super) fn or(self, before: Self) -> Self {
        Self {
            server: self.server.or(before.server),
            ca_file: self.ca_file.or(before.ca_file),
            token_file: self.token_file.or(before.token_file),
            insecure_plaintext_token: self.insecure_plaintext_token || before.insecure_plaintext_token,
            client_cert: self.client_cert.or(before.client_cert),
            client_key: self.client_key.or(before.client_key),
            timeout: self.timeout.or(before.timeout),
            tenant: self.tenant.or(before.tenant),
        }
    }

    /// The name of the first flag that is given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--server", self.server.is_some()),
            ("--ca-file", self.ca_file.is_some()),
            ("--token-file", self.token_file.is_some()),
            ("--insecure-plaintext-token", self.insecure_plaintext_token),
            ("--client-cert", self.client_cert.is_some()),
            ("--client-key", self.client_key.is_some()),
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
        let Some(path) = named(self.ca_file.as_ref(), AUTHORITIES_VARIABLE) else {
            return Ok(None);
        };
        certificates("--ca-file", &path).map(Some)
    }

    /// The certificate to show to the server, and its key.
    fn identity(&self) -> Result<Option<ClientIdentity>, CommandError> {
        let certificate = named(self.client_cert.as_ref(), CERTIFICATE_VARIABLE);
        let key = named(self.client_key.as_ref(), KEY_VARIABLE);
        match (certificate, key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(ClientIdentity {
                certificates: certificates("--client-cert", &certificate)?,
                key: secret("--client-key", &key)?,
            })),
            (Some(_), None) => Err(CommandError::usage("--client-cert needs --client-key too")),
            (None, Some(_)) => Err(CommandError::usage("--client-key needs --client-cert too")),
        }
    }

    /// The API key or token to send: from the file that a flag names, or else from a variable, or else from the file that a
    /// variable names.
    fn token(&self) -> Result<Option<BearerToken>, CommandError> {
        let of_file = |path: &Path| {
            let text = secret("--token-file", path)?;
            let wrong =
                |what: &str| CommandError::invalid_data(format!("--token-file {}: {what}", path.display()));
            BearerToken::new(&text).map_err(|error| wrong(&error.to_string()))
        };
        if let Some(path) = &self.token_file {
            return of_file(path).map(Some);
        }
        if let Some(text) = env::var(TOKEN_VARIABLE).ok().filter(|text| !text.is_empty()) {
            let token = BearerToken::new(&Secret::new(text));
            let wrong = |error: BadToken| CommandError::usage(format!("{TOKEN_VARIABLE}: {error}"));
            return token.map(Some).map_err(wrong);
        }
        let path = named(None, TOKEN_FILE_VARIABLE);
        path.map(|path| of_file(&path)).transpose()
    }

    /// Whether the key or token may be sent without encryption.
    fn plaintext_token(&self) -> Result<PlaintextToken, CommandError> {
        if self.insecure_plaintext_token {
            return Ok(PlaintextToken::Sent);
        }
        match env::var(PLAINTEXT_VARIABLE).unwrap_or_default().as_str() {
            "true" => Ok(PlaintextToken::Sent),
            "" | "false" => Ok(PlaintextToken::Refused),
            _ => Err(CommandError::usage(format!(
                "{PLAINTEXT_VARIABLE}: write true or false"
            ))),
        }
    }

    /// Connects, with `--timeout` for each call.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.address(), self.options()?).await?)
    }

    /// The same options for someone who asks again anyway.
    pub(super) fn without_retries(&self) -> Result<ClientOptions, CommandError> {
        let mut options = self.options()?;
        options.retry.max_attempts = 1;
        Ok(options)
    }

    fn options(&self) -> Result<ClientOptions, CommandError> {
        Ok(ClientOptions {
            connect_timeout: self
                .timeout
                .map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT)),
            call_timeout: self.timeout,
            authorities: self.authorities()?,
            identity: self.identity()?,
            token: self.token()?,
            plaintext_token: self.plaintext_token()?,
            tenant: self.tenant.clone(),
            trace: trace(),
            ..ClientOptions::default()
        })
    }
}

/// The span that this command was started for, by the variables in which OpenTelemetry's tools name it. One that is wrong
/// was not meant for us in particular, so the command goes on without.
fn trace() -> Option<TraceContext> {
    let variable = |name: &str| {
        let value = env::var(name.to_ascii_uppercase()).ok();
        value.filter(|value| !value.is_empty())
    };
    let parent = variable(TRACEPARENT)?;
    match TraceContext::parse(&parent, variable(TRACESTATE).as_deref()) {
        Ok(context) => Some(context),
        Err(error) => {
            tracing::warn!(%error, "TRACEPARENT is left out");
            None
        }
    }
}

/// The path that a flag has, or else a variable.
fn named(flag: Option<&PathBuf>, variable: &str) -> Option<PathBuf> {
    let of_variable = || env::var_os(variable).filter(|path| !path.is_empty());
    flag.cloned().or_else(|| of_variable().map(PathBuf::from))
}

/// The certificates of a PEM file.
fn certificates(flag: &str, path: &Path) -> Result<Vec<u8>, CommandError> {
    let wrong = |what: String| CommandError::invalid_data(format!("{flag} {}: {what}", path.display()));
    let text = files::read(path, FILE_BYTES).map_err(|error| wrong(error.to_string()))?;
    let begins = text.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE);
    if !begins {
        return Err(wrong(
            "there is no certificate in it; one begins with -----BEGIN CERTIFICATE-----".to_owned(),
        ));
    }
    Ok(text)
}

/// The text of a file that nobody may see.
fn secret(flag: &str, path: &Path) -> Result<Secret, CommandError> {
    let wrong = |what: String| CommandError::invalid_data(format!("{flag} {}: {what}", path.display()));
    let text = files::read_text(path, FILE_BYTES).map_err(|error| wrong(error.to_string()))?;
    Ok(Secret::new(text))
}
