//! Types and checks the keys about TLS, credentials and quotas, and whether the listen addresses are protected as they
//! must be.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{ProblemKind, SecurityFiles, Server, read::Reader, security::PerMinute};
use crate::{
    auth::{CredentialFiles, QuotaLimits, TokenRules},
    engine::Tenant,
    tls::TlsFiles,
};

/// Longest difference between clocks that can be allowed for. A token is accepted for so long after its end.
const LONGEST_LEEWAY: Duration = Duration::from_secs(600);

impl Reader<'_> {
    pub(super) fn security(&mut self) -> SecurityFiles {
        let credentials = self.credentials();
        let security = SecurityFiles {
            tls: self.tls(credentials.as_ref()),
            open_metrics: self.get("auth.open_metrics"),
            quotas: QuotaLimits {
                requests: self.get::<PerMinute>("quotas.requests_per_minute").0,
                tokens: self.get::<PerMinute>("quotas.tokens_per_minute").0,
            },
            tenant_quotas: self.optional("quotas.tenants").unwrap_or_default(),
            reload_interval: self.positive_time("server.reload_interval"),
            credentials,
        };
        if security.credentials.is_none() && security.open_metrics {
            let reason = "without authentication, the metrics are open anyway";
            let fix = "set auth.keys_file or auth.jwks_file, or remove it";
            self.problem("auth.open_metrics", reason, fix);
        }
        if security.credentials.is_none() {
            let quotas = [
                ("quotas.requests_per_minute", security.quotas.requests.is_some()),
                ("quotas.tokens_per_minute", security.quotas.tokens.is_some()),
                ("quotas.tenants", !security.tenant_quotas.is_empty()),
            ];
            for (key, _) in quotas.into_iter().filter(|(_, is_set)| *is_set) {
                let reason = "without authentication, anybody can claim to be any tenant";
                self.problem(key, reason, "set auth.keys_file or auth.jwks_file, or remove it");
            }
        }
        security
    }

    /// A file that must exist.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        let path: PathBuf = self.optional(key)?;
        if !path.exists() {
            let reason = format!("{} does not exist", path.display());
            self.problem_of(ProblemKind::File, key, reason, "name an existing file, or none");
        }
        Some(path)
    }

    fn tls(&mut self, credentials: Option<&CredentialFiles>) -> Option<TlsFiles> {
        let [certificate, key, client_ca, client_crl] =
            ["tls.certificate", "tls.key", "tls.client_ca", "tls.client_crl"].map(|name| self.file(name));
        let client_certificates = self.get("tls.client_certificates");
        let min_version = self.get("tls.min_version");
        if client_ca.is_some() && certificate.is_none() {
            let reason = "clients show certificates only to a server that speaks TLS";
            self.problem(
                "tls.client_ca",
                reason,
                "set tls.certificate and tls.key, or remove it",
            );
        }
        if client_crl.is_some() && client_ca.is_none() {
            let reason = "without tls.client_ca clients show no certificates";
            self.problem("tls.client_crl", reason, "set tls.client_ca, or remove it");
        }
        if client_ca.is_some() && credentials.is_none_or(|files| files.keys.is_none()) {
            let reason = "nothing says which client has which tenant and scopes";
            let fix = "set auth.keys_file, a file with a [[certificates]] entry for each client";
            self.problem("tls.client_ca", reason, fix);
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles {
                certificate,
                key,
                client_ca,
                client_crl,
                client_certificates,
                min_version,
            }),
            (Some(_), None) => {
                self.problem("tls.certificate", "it has no key", "set tls.key too");
                None
            }
            (None, Some(_)) => {
                self.problem("tls.key", "it has no certificate", "set tls.certificate too");
                None
            }
            (None, None) => None,
        }
    }

    fn credentials(&mut self) -> Option<CredentialFiles> {
        let keys = self.file("auth.keys_file");
        let jwks = self.file("auth.jwks_file");
        let [issuer, audience] =
            ["auth.jwt_issuer", "auth.jwt_audience"].map(|name| (name, self.optional::<String>(name)));
        let leeway = self.get::<Duration>("auth.jwt_leeway");
        if leeway > LONGEST_LEEWAY {
            let reason = "a token would be accepted for too long after its end";
            self.problem("auth.jwt_leeway", reason, "write at most 10m");
        }
        let [tenant_claim, scope_claim, tenant_prefix, scope_prefix] = [
            "auth.jwt_tenant_claim",
            "auth.jwt_scope_claim",
            "auth.jwt_tenant_prefix",
            "auth.jwt_scope_prefix",
        ]
        .map(|name| self.get::<String>(name));
        let is_plain = tenant_prefix.is_empty() || Tenant::named(&tenant_prefix).is_some();
        if !is_plain || tenant_prefix.len() > TokenRules::PREFIX_BYTES {
            let fix = format!(
                "write at most {} letters, digits, `.`, `_` and `-`",
                TokenRules::PREFIX_BYTES
            );
            self.problem("auth.jwt_tenant_prefix", "no tenant can begin with it", fix);
        }
        for (name, value) in [&issuer, &audience] {
            match (value.as_deref(), &jwks) {
                (None | Some(""), Some(_)) => {
                    let reason = "tokens of any issuer, and for any service, would be accepted";
                    self.problem(
                        name,
                        reason,
                        "set it to what the tokens of your identity provider have",
                    );
                }
                (Some(_), None) => {
                    let reason = "without auth.jwks_file no token is accepted";
                    self.problem(name, reason, "set auth.jwks_file, or remove it");
                }
                _ => {}
            }
        }
        let rules = TokenRules {
            issuer: issuer.1.unwrap_or_default(),
            audience: audience.1.unwrap_or_default(),
            leeway,
            tenant_claim,
            tenant_prefix,
            scope_claim,
            scope_prefix,
        };
        let tokens = jwks.map(|path| (path, rules));
        (keys.is_some() || tokens.is_some()).then_some(CredentialFiles { keys, tokens })
    }

    /// Refuses addresses that other machines can reach, unless callers need credentials which are encrypted on the way,
    /// or somebody has said that the network sees to it.
    pub(super) fn check_exposure(&mut self, server: &Server, security: &SecurityFiles) {
        let addresses = server.addresses();
        for (key, address) in addresses {
            let Some(address) = address.filter(is_exposed) else {
                continue;
            };
            if security.credentials.is_none() && !server.insecure_no_auth {
                let reason = format!("{address} can be reached by other machines without authentication");
                let fix = "listen on 127.0.0.1, set auth.keys_file or auth.jwks_file, or say --insecure-no-auth where the \
                           network is trusted";
                self.problem(key, reason, fix);
            }
            if security.credentials.is_some() && security.tls.is_none() && !server.insecure_no_tls {
                let reason = format!(
                    "{address} can be reached by other machines, and keys and tokens are not encrypted"
                );
                let fix = "set tls.certificate and tls.key, or say --insecure-no-tls where a proxy or mesh encrypts";
                self.problem(key, reason, fix);
            }
        }
        let used: Vec<_> = addresses
            .into_iter()
            .filter_map(|(key, address)| Some((key, address.filter(|address| address.port() != 0)?)))
            .collect();
        for (place, (key, address)) in used.iter().enumerate() {
            if let Some((other, _)) = used[..place].iter().find(|(_, other)| other == address) {
                let reason = format!("{address} is {other} too");
                self.problem(key, reason, "choose another port");
            }
        }
        if server.admin_listen.is_some() && !server.allow_admin {
            let reason = "AdminService does not answer anywhere";
            self.problem(
                "server.admin_listen",
                reason,
                "say --allow-admin (server.allow_admin = true) too",
            );
        }
    }
}

/// Whether other machines can reach it.
fn is_exposed(address: &SocketAddr) -> bool {
    !address.ip().is_loopback()
}

impl Server {
    /// The addresses to listen on, with their keys.
    fn addresses(&self) -> [(&'static str, Option<SocketAddr>); 4] {
        [
            ("server.listen", Some(self.listen)),
            ("server.http_listen", self.http_listen),
            ("server.admin_listen", self.admin_listen),
            ("server.metrics_listen", self.metrics_listen),
        ]
    }

    /// Whether other machines can reach any of the addresses that it listens on.
    pub fn is_exposed(&self) -> bool {
        let mut addresses = self.addresses().into_iter().filter_map(|(_, address)| address);
        addresses.any(|address| is_exposed(&address))
    }
}
