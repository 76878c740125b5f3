//! Signed tokens (JWT, RFC 7519), which an identity provider issues. Its public keys are in a JWKS file (RFC 7517).
//!
//! The file says which key a token may be signed with, and the key says by which algorithm: RS256, ES256 or EdDSA. What a
//! token itself says of its algorithm must agree, so `none` and HMAC with a public key as its secret are refused.
//! The library checks form, times, issuer and audience. The signatures are checked by ring, which TLS uses already.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::{Duration, SystemTime},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Header, Validation,
    crypto::{CryptoProvider, JwkUtils, JwtVerifier},
    errors::{Error as JwtError, ErrorKind},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
    signature,
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Principal, Rejection, Scope, Scopes, SharedPrincipal};
use crate::{engine::Tenant, files};

/// Most bytes of a JWKS file.
const FILE_BYTES: u64 = 1 << 20;

/// Hexadecimal digits of the hash in a tenant's name that cannot be the claim itself: 128 bits.
const HASH_DIGITS: usize = 32;

/// What a token must say to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The issuer (`iss`).
    pub issuer: String,
    /// The service that it is for (`aud`).
    pub audience: String,
    /// How far the clocks of this machine and of the issuer may be apart.
    pub leeway: Duration,
    /// The claim with the tenant.
    pub tenant_claim: String,
    /// What the tenants of tokens begin with, so that no token has the tenant of an API key.
    pub tenant_prefix: String,
    /// The claim with the scopes: a text with spaces between them, or a list.
    pub scope_claim: String,
    /// What a scope begins with in a token, so that scopes of other services with the same names mean nothing here.
    pub scope_prefix: String,
}

impl TokenRules {
    /// Longest prefix of tenants, in bytes.
    pub const PREFIX_BYTES: usize = 16;

    /// The tenant of a claim. A claim that could not be a name as it is, such as `auth0|17` or a SPIFFE id, is named by what
    /// can be read of it and its hash. So is a claim that looks like such a name. Two claims never have the same tenant.
    fn tenant(&self, claim: &str) -> Option<Tenant> {
        let prefix = &self.tenant_prefix;
        if claim.is_empty() {
            return None;
        }
        if !ends_with_hash(claim)
            && let Some(tenant) = Tenant::named(&format!("{prefix}{claim}"))
        {
            return Some(tenant);
        }
        let room = Tenant::MAX_BYTES.checked_sub(prefix.len() + 1 + HASH_DIGITS)?;
        let plain = |letter: char| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => letter,
            _ => '-',
        };
        let readable: String = claim.chars().map(plain).take(room).collect();
        let hash = Sha256::digest(claim);
        let hash: String = hash[..HASH_DIGITS / 2]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Tenant::named(&format!("{prefix}{readable}.{hash}"))
    }

    /// The scopes among these words. Tokens may have scopes of other services too.
    fn scopes(&self, words: &[&str]) -> Scopes {
        let ours = words.iter().filter_map(|word| {
            let name = word.strip_prefix(self.scope_prefix.as_str())?;
            name.parse::<Scope>().ok()
        });
        ours.collect()
    }
}

/// Whether a claim ends as the names of claims do that cannot be names themselves.
fn ends_with_hash(claim: &str) -> bool {
    let Some((_, end)) = claim.rsplit_once('.') else {
        return false;
    };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    end.len() == HASH_DIGITS && end.bytes().all(is_digit)
}

/// Why a JWKS file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// It is not a JWKS.
    #[error("{path} is not a JSON Web Key Set: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It has no key that can be used.
    #[error("{0} has no key for RS256 (RSA from 2048 bits on), ES256 (P-256) or EdDSA (Ed25519)")]
    NoKey(PathBuf),
}

/// A public key and the one algorithm that it is for.
struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Checks tokens by the public keys of one file.
pub(super) struct TokenVerifier {
    keys: Vec<PublicKey>,
    rules: TokenRules,
}

/// What a valid token says.
pub(super) struct Verified {
    pub(super) principal: SharedPrincipal,
    /// When it stops being valid, with the leeway.
    pub(super) until: SystemTime,
}

/// Reads a JWKS file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TokenFileError> {
    files::read(path, FILE_BYTES).map_err(|reason| TokenFileError::Unreadable {
        path: path.to_owned(),
        reason,
    })
}

impl TokenVerifier {
    /// A verifier with the keys of a JWKS. Keys of kinds that are not known are left out, as RFC 7517 (section 5) asks.
    pub(super) fn new(path: &Path, bytes: &[u8], rules: TokenRules) -> Result<Self, TokenFileError> {
        install_ring();
        let set: Value = serde_json::from_slice(bytes).map_err(|error| TokenFileError::Format {
            path: path.to_owned(),
            reason: format!("line {}: it is not JSON", error.line()),
        })?;
        let Some(Value::Array(keys)) = set.get("keys") else {
            return Err(TokenFileError::Format {
                path: path.to_owned(),
                reason: "it has no list `keys`".to_owned(),
            });
        };
        // One by one, because the library refuses a set as a whole for one key that it does not know.
        let known = keys.iter().filter_map(|key| {
            let set = serde_json::json!({"keys": [key]});
            serde_json::from_value::<JwkSet>(set).ok()?.keys.pop()
        });
        let keys: Vec<_> = known.filter_map(|key| public_key(&key)).collect();
        if keys.is_empty() {
            return Err(TokenFileError::NoKey(path.to_owned()));
        }
        Ok(Self { keys, rules })
    }

    /// Checks a token.
    pub(super) fn verify(&self, token: &str) -> Result<Verified, Rejection> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Rejection::Unknown)?;
        // Nothing that a token declares critical is understood here (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(Rejection::Unknown);
        }
        let key = self.key_for(&header).ok_or(Rejection::Unknown)?;
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = self.rules.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.rules.issuer]);
        validation.set_audience(&[&self.rules.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation);
        let claims = decoded.map_err(|error| rejection(&error))?.claims;
        self.read_claims(&claims).ok_or(Rejection::Claims)
    }

    /// The key that a token names. A token that names none is accepted where there is only one key for its algorithm.
    fn key_for(&self, header: &Header) -> Option<&PublicKey> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == header.alg);
        match &header.kid {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }

    fn read_claims(&self, claims: &Map<String, Value>) -> Option<Verified> {
        let tenant = self
            .rules
            .tenant(claims.get(&self.rules.tenant_claim)?.as_str()?)?;
        let words: Vec<&str> = match claims.get(&self.rules.scope_claim)? {
            Value::String(text) => text.split_ascii_whitespace().collect(),
            Value::Array(words) => words.iter().map(Value::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        let scopes = self.rules.scopes(&words);
        let expires = match claims.get("exp")? {
            Value::Number(number) => number.as_u64().or_else(|| whole_seconds(number.as_f64()?))?,
            _ => return None,
        };
        let until = Duration::from_secs(expires).checked_add(self.rules.leeway)?;
        Some(Verified {
            principal: Arc::new(Principal { tenant, scopes }),
            until: SystemTime::UNIX_EPOCH.checked_add(until)?,
        })
    }
}

/// Seconds of a time with a fraction. `None` where it is not a time that this system can express.
fn whole_seconds(seconds: f64) -> Option<u64> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .map(|time| time.as_secs())
}

fn rejection(error: &JwtError) -> Rejection {
    match error.kind() {
        ErrorKind::ExpiredSignature => Rejection::Expired,
        ErrorKind::ImmatureSignature => Rejection::NotYetValid,
        ErrorKind::InvalidIssuer => Rejection::Issuer,
        ErrorKind::InvalidAudience => Rejection::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Rejection::Claims,
        _ => Rejection::Unknown,
    }
}

/// The key, if it is for checking signatures by an algorithm of ours.
fn public_key(jwk: &Jwk) -> Option<PublicKey> {
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let common = &jwk.common;
    let is_for_it = common.key_algorithm.is_none_or(|algorithm| algorithm == named);
    let is_for_signatures = match &common.public_key_use {
        None => true,
        Some(purpose) => *purpose == PublicKeyUse::Signature,
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let is_long = match key.kind() {
        // From 2048 bits on, as the verification itself demands.
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len() >= 256,
        DecodingKeyKind::SecretOrDer(_) => true,
    };
    (is_for_it && is_for_signatures && is_long).then(|| PublicKey {
        id: common.key_id.clone(),
        algorithm,
        key,
    })
}

/// Checks one signature with ring.
struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl signature::Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let checked = match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            _ => return Err(signature::Error::new()),
        };
        checked.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Gives the library its cryptography, once for the process. This service signs no tokens.
fn install_ring() {
    static RING: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
        verifier_factory: |algorithm, key| {
            Ok(Box::new(RingVerifier {
                algorithm: *algorithm,
                key: key.clone(),
            }))
        },
        jwk_utils: JwkUtils::new_unimplemented(),
    };
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // It fails only if another has been installed, and nothing else in this program does that.
        let _ = RING.install_default();
    });
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
