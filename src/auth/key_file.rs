//! The file of API keys and client certificates. It has the keys' hashes and never the keys.
//!
//! A key is 256 random bits, so nobody can find it by trying, however quickly one guess is hashed. A slow hash such as
//! argon2 protects passwords, which people choose from far fewer; here it would only make every call slow, and give
//! strangers a way to keep the processor busy. Plain SHA-256 is therefore right.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::{Principal, Scope, Scopes, SharedPrincipal};
use crate::{engine::Tenant, files, tls::PeerCertificate};

/// Most bytes of the file.
const FILE_BYTES: u64 = 4 << 20;

/// Most entries of the file.
const MOST_ENTRIES: usize = 10_000;

/// Longest id of an entry, in bytes.
const ID_BYTES: usize = 64;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// It cannot be written.
    #[error("{path} cannot be written: {reason}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// It is not TOML of the right form.
    #[error("{path} is not a file of keys: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An entry is wrong.
    #[error("{path}: {entry}: {reason}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry: its id or, where that may be a key, its place.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFile {
    #[serde(default)]
    pub(super) keys: Vec<KeyEntry>,
    #[serde(default)]
    pub(super) certificates: Vec<CertificateEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyEntry {
    pub(super) id: String,
    /// SHA-256 of the key, in hexadecimal.
    sha256: String,
    pub(super) tenant: String,
    pub(super) scopes: Vec<String>,
    /// When it stops being valid, such as `2027-01-31T00:00:00Z`.
    pub(super) expires: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateEntry {
    pub(super) id: String,
    /// A name of the certificate that is a URI.
    uri: Option<String>,
    /// A DNS name of the certificate.
    dns: Option<String>,
    /// SHA-256 of the whole certificate, in hexadecimal.
    sha256: Option<String>,
    pub(super) tenant: String,
    pub(super) scopes: Vec<String>,
}

/// Keys and certificates as they are looked up.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    /// By the first bytes of the hash. The rest is compared in constant time.
    keys: HashMap<[u8; 8], Vec<KnownKey>>,
    uris: HashMap<String, SharedPrincipal>,
    dns: HashMap<String, SharedPrincipal>,
    fingerprints: HashMap<[u8; 32], SharedPrincipal>,
}

#[derive(Debug)]
struct KnownKey {
    hash: [u8; 32],
    principal: SharedPrincipal,
    expires: Option<SystemTime>,
}

/// A key that is in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Valid(&'a SharedPrincipal),
    Expired,
}

impl KeyTable {
    /// The principal of the key with this hash.
    pub(super) fn key(&self, hash: &[u8; 32], now: SystemTime) -> Option<Found<'_>> {
        let known = self.keys.get(&beginning(hash))?;
        // All of them are compared to their end, so that the time says nothing of how far a guess was right.
        let mut found = None;
        for key in known {
            if bool::from(key.hash.ct_eq(hash)) {
                found = Some(key);
            }
        }
        let key = found?;
        Some(match key.expires {
            Some(expires) if expires <= now => Found::Expired,
            _ => Found::Valid(&key.principal),
        })
    }

    /// The principal of a verified certificate: by its fingerprint, or else by its first name in the file.
    pub(super) fn certificate(&self, certificate: &PeerCertificate) -> Option<&SharedPrincipal> {
        let by_uri = || certificate.uris.iter().find_map(|name| self.uris.get(name));
        let by_dns = || certificate.dns.iter().find_map(|name| self.dns.get(name));
        let by_fingerprint = self.fingerprints.get(&certificate.sha256);
        by_fingerprint.or_else(by_uri).or_else(by_dns)
    }
}

fn beginning(hash: &[u8; 32]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    first
}

/// Reads the file.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    files::read(path, FILE_BYTES).map_err(|reason| KeyFileError::Unreadable {
        path: path.to_owned(),
        reason,
    })
}

/// Reads the file and its entries.
pub(super) fn read(path: &Path) -> Result<(KeyFile, Vec<u8>), KeyFileError> {
    let bytes = read_bytes(path)?;
    Ok((parse(path, &bytes)?, bytes))
}

/// The entries of a text. The library's own errors quote the file, in which a key may have been written at a wrong place, so
/// they are told by their kind and place only.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<KeyFile, KeyFileError> {
    let wrong = |reason: String| KeyFileError::Format {
        path: path.to_owned(),
        reason,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let place = error.span().and_then(|span| place(text, span.start));
        let kind = format_problem(error.message());
        wrong(place.map_or_else(|| kind.to_owned(), |place| format!("{place}: {kind}")))
    })
}

/// Line and column of a byte, both from 1.
fn place(text: &str, byte: usize) -> Option<String> {
    let before = text.get(..byte)?;
    let (line, start) = (
        before.matches('\n').count() + 1,
        before.rfind('\n').map_or(0, |at| at + 1),
    );
    let column = before[start..].chars().count() + 1;
    Some(format!("line {line}, column {column}"))
}

/// What is wrong with the form of the file, by the kind of the library's message, which itself may quote the file.
fn format_problem(message: &str) -> &'static str {
    const KINDS: [(&str, &str); 4] = [
        (
            "unknown field",
            "this is not known here; [[keys]] have id, sha256, tenant, scopes and expires, and [[certificates]] have id, \
             uri, dns or sha256, tenant and scopes",
        ),
        (
            "missing field",
            "a field is missing; [[keys]] must have id, sha256, tenant and scopes, and [[certificates]] id, tenant and \
             scopes",
        ),
        (
            "invalid type",
            "the value has the wrong type: id, sha256, uri, dns, tenant and expires are texts in quotes, and scopes is a \
             list of texts",
        ),
        ("duplicate key", "this is written twice"),
    ];
    let found = KINDS.into_iter().find(|(begins, _)| message.starts_with(begins));
    found.map_or("this is not TOML", |(_, says)| says)
}

/// Checks the entries.
pub(super) fn table(path: &Path, file: &KeyFile) -> Result<KeyTable, KeyFileError> {
    let mut table = KeyTable::default();
    let mut ids = HashSet::new();
    let count = file.keys.len() + file.certificates.len();
    if count > MOST_ENTRIES {
        return Err(KeyFileError::Format {
            path: path.to_owned(),
            reason: format!("it has {count} entries, and at most {MOST_ENTRIES} are allowed"),
        });
    }
    for (number, entry) in (1..).zip(&file.keys) {
        let wrong = |reason: &str| KeyFileError::Entry {
            path: path.to_owned(),
            entry: name_of(&entry.id, || format!("number {number} of [[keys]]")),
            reason: reason.to_owned(),
        };
        check_id(&entry.id, &mut ids).map_err(wrong)?;
        let principal = principal(&entry.tenant, &entry.scopes).map_err(|reason| wrong(&reason))?;
        let hash = hash_of(&entry.sha256).ok_or_else(|| wrong(HASH))?;
        let expires = entry.expires.as_deref().map(time).transpose().map_err(wrong)?;
        let known = table.keys.entry(beginning(&hash)).or_default();
        if known.iter().any(|key| key.hash == hash) {
            return Err(wrong("another entry has the same sha256; remove one of them"));
        }
        known.push(KnownKey {
            hash,
            principal,
            expires,
        });
    }
    for (number, entry) in (1..).zip(&file.certificates) {
        let wrong = |reason: &str| KeyFileError::Entry {
            path: path.to_owned(),
            entry: name_of(&entry.id, || format!("number {number} of [[certificates]]")),
            reason: reason.to_owned(),
        };
        check_id(&entry.id, &mut ids).map_err(wrong)?;
        let principal = principal(&entry.tenant, &entry.scopes).map_err(|reason| wrong(&reason))?;
        let earlier = match (&entry.uri, &entry.dns, &entry.sha256) {
            (Some(uri), None, None) => table.uris.insert(uri.clone(), principal),
            (None, Some(dns), None) => table.dns.insert(dns.clone(), principal),
            (None, None, Some(sha256)) => {
                let hash = hash_of(sha256).ok_or_else(|| wrong(HASH))?;
                table.fingerprints.insert(hash, principal)
            }
            _ => {
                return Err(wrong(
                    "say one of uri, dns and sha256, by which the certificate is known",
                ));
            }
        };
        if earlier.is_some() {
            return Err(wrong(
                "another entry is for the same certificate; remove one of them",
            ));
        }
    }
    Ok(table)
}

/// What every key begins with, so that people and programs that look for leaked secrets recognise one.
pub(super) const KEY_PREFIX: &str = "bw_";

/// Bytes of a key after its prefix: 256 bits in base 64.
const KEY_DIGITS: usize = 43;

const KEY_AS_NAME: &str = "this looks like a key, and logs have ids and tenants; revoke the key if it is one, and choose a \
                           name that does not begin with bw_";

const HASH: &str = "sha256 must be 64 hexadecimal digits; `babelward keys new` writes it";

/// The name of an entry in errors: its id, unless that is none, because then somebody may have written a key there.
fn name_of(id: &str, place: impl FnOnce() -> String) -> String {
    match is_id(id) && !has_key(id) {
        true => format!("`{id}`"),
        false => place(),
    }
}

fn check_id<'a>(id: &'a str, ids: &mut HashSet<&'a str>) -> Result<(), &'static str> {
    if !is_id(id) {
        return Err("an id has 1 to 64 letters, digits, `.`, `_` and `-`");
    }
    if has_key(id) {
        return Err(KEY_AS_NAME);
    }
    if !ids.insert(id) {
        return Err("another entry has this id");
    }
    Ok(())
}

/// Whether a name is a key by its looks, or has one in it. Ids and tenants may not, because they are logged and listed.
pub fn has_key(name: &str) -> bool {
    let long_enough = |at: usize| name.len() - at >= KEY_PREFIX.len() + KEY_DIGITS;
    name.starts_with(KEY_PREFIX) || name.match_indices(KEY_PREFIX).any(|(at, _)| long_enough(at))
}

/// Whether a text may be the id of an entry.
fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(plain)
}

fn principal(tenant: &str, scopes: &[String]) -> Result<SharedPrincipal, String> {
    if has_key(tenant) {
        return Err(format!("tenant: {KEY_AS_NAME}"));
    }
    let tenant = Tenant::named(tenant)
        .ok_or_else(|| "tenant must have 1 to 64 letters, digits, `.`, `_` and `-`".to_owned())?;
    let scopes: Result<Vec<Scope>, String> = scopes.iter().map(|scope| scope.parse()).collect();
    let scopes: Scopes = scopes
        .map_err(|expects| format!("a scope is not known: {expects}"))?
        .into_iter()
        .collect();
    if scopes.is_empty() {
        return Err("scopes must have at least one: classify, generate, score, admin or metrics".to_owned());
    }
    Ok(Arc::new(Principal { tenant, scopes }))
}

fn hash_of(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(hash)
}

fn time(text: &str) -> Result<SystemTime, &'static str> {
    let expects = "expires must be a time such as 2027-01-31T00:00:00Z, after 1970";
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| expects)?;
    let seconds = u64::try_from(timestamp.as_second()).map_err(|_| expects)?;
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or(expects)
}

#[cfg(test)]
#[path = "key_file_tests.rs"]
mod tests;
