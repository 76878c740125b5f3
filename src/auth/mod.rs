//! Who a caller is, and what it may do: API keys, signed tokens (JWT) and client certificates, each with a tenant and
//! scopes, and how much each tenant may ask for. Knows nothing of HTTP, gRPC or the services.

mod authenticator;
mod key_file;
mod new_key;
mod quota;
mod scope;
mod token;

use std::sync::Arc;

pub use self::{
    authenticator::{Authenticator, CredentialFiles, CredentialsError},
    key_file::{KeyFileError, has_key},
    new_key::{NewKey, append_key, generate_key, listed_keys, remove_key},
    quota::{QuotaKind, QuotaLimits, QuotaRefusal, Quotas, TokenReservation, TokensLeft},
    scope::{Scope, Scopes},
    token::{TokenFileError, TokenRules},
};
use crate::engine::Tenant;

/// A caller whose credential was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The tenant on whose account it works.
    pub tenant: Tenant,
    /// What it may do.
    pub scopes: Scopes,
}

/// A principal that several calls share.
pub type SharedPrincipal = Arc<Principal>;

/// Why a caller is not known. No text of the caller is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// It has sent no credential.
    Missing,
    /// Its `authorization` is not `Bearer` and a key or token.
    Malformed,
    /// Its key is not in the file, its certificate is not in the file, or its token has no valid signature.
    Unknown,
    /// Its key, token or certificate was valid and is no longer.
    Expired,
    /// Its token is not valid yet.
    NotYetValid,
    /// Its token was issued by somebody else.
    Issuer,
    /// Its token was issued for another service.
    Audience,
    /// Its token does not say what a token must say: when it expires, a tenant, and scopes.
    Claims,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
        Self::Claims,
    ];

    /// The name in errors and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
        }
    }
}

/// Counts a caller that was refused: by the name of a [`Rejection`], or `scope` for one that is known and may not do what it asks.
pub(crate) fn count_refusal(reason: &'static str) {
    metrics::counter!("babelward_auth_refused_total", "reason" => reason).increment(1);
}
