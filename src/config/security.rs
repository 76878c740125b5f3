//! Who may call, and how, as the configuration says it.

use std::time::Duration;

use super::value::{Raw, Setting, words};
use crate::{
    auth::{CredentialFiles, QuotaLimits},
    engine::Tenant,
    tls::{ClientCertificates, MinVersion, TlsFiles},
};

/// Who may call, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct SecurityFiles {
    /// Certificate and key, if the server speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Keys and tokens' keys, if callers need credentials.
    pub credentials: Option<CredentialFiles>,
    /// Whether the metrics are read without a credential.
    pub open_metrics: bool,
    /// Quotas of each tenant that has none of its own.
    pub quotas: QuotaLimits,
    /// Quotas of single tenants.
    pub tenant_quotas: Vec<(Tenant, QuotaLimits)>,
    /// How often the files are looked at for changes.
    pub reload_interval: Duration,
}

impl Setting for MinVersion {
    const EXPECTS: &'static str = "write 1.2 or 1.3";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "1.2" => Some(Self::Tls12),
            "1.3" => Some(Self::Tls13),
            _ => None,
        }
    }

    fn placeholder() -> Self {
        Self::Tls12
    }
}

impl Setting for ClientCertificates {
    const EXPECTS: &'static str = "write required or optional";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "required" => Some(Self::Required),
            "optional" => Some(Self::Optional),
            _ => None,
        }
    }

    fn placeholder() -> Self {
        Self::Required
    }
}

/// A quota, or `off`.
pub(super) struct PerMinute(pub(super) Option<u32>);

impl PerMinute {
    fn of_text(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self(None)),
            text => {
                let number: u32 = text.parse().ok()?;
                (1..=1_000_000_000)
                    .contains(&number)
                    .then_some(Self(Some(number)))
            }
        }
    }
}

impl Setting for PerMinute {
    const EXPECTS: &'static str = "write a whole number from 1 to 1000000000, or off";

    fn parse(raw: &Raw) -> Option<Self> {
        Self::of_text(raw.text()?)
    }

    fn placeholder() -> Self {
        Self(None)
    }
}

/// A list of tenants with their quotas.
impl Setting for Vec<(Tenant, QuotaLimits)> {
    const EXPECTS: &'static str = "write a list such as [\"team-a=600/100000\", \"team-b=off/50000\"]: a tenant, requests and tokens in a minute";

    fn parse(raw: &Raw) -> Option<Self> {
        let quotas = |word: &str| {
            let (name, limits) = word.split_once('=')?;
            let (requests, tokens) = limits.split_once('/')?;
            let limits = QuotaLimits {
                requests: PerMinute::of_text(requests)?.0,
                tokens: PerMinute::of_text(tokens)?.0,
            };
            Some((Tenant::named(name)?, limits))
        };
        words(raw)?.into_iter().map(quotas).collect()
    }

    fn placeholder() -> Self {
        Self::new()
    }
}
