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
    #[error("{path}: `{id}`: {reason}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry's id.
        id: String,
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

/// The entries of a text. What TOML's own errors quote of the file is left out, because a key may have been written there.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<KeyFile, KeyFileError> {
    let wrong = |reason: String| KeyFileError::Format {
        path: path.to_owned(),
        reason,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| {
            1 + text
                .bytes()
                .take(span.start)
                .filter(|byte| *byte == b'\n')
                .count()
        });
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        wrong(format!("{place}{}", error.message()))
    })
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
    for entry in &file.keys {
        let wrong = |reason: &str| entry_error(path, &entry.id, reason);
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
    for entry in &file.certificates {
        let wrong = |reason: &str| entry_error(path, &entry.id, reason);
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

const HASH: &str = "sha256 must be 64 hexadecimal digits; `babelward keys new` writes it";

fn entry_error(path: &Path, id: &str, reason: &str) -> KeyFileError {
    KeyFileError::Entry {
        path: path.to_owned(),
        id: id.chars().take(ID_BYTES).collect(),
        reason: reason.to_owned(),
    }
}

fn check_id<'a>(id: &'a str, ids: &mut HashSet<&'a str>) -> Result<(), &'static str> {
    if !is_id(id) {
        return Err("an id has 1 to 64 letters, digits, `.`, `_` and `-`");
    }
    if !ids.insert(id) {
        return Err("another entry has this id");
    }
    Ok(())
}

/// Whether a text may be the id of an entry.
pub(super) fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(plain)
}

fn principal(tenant: &str, scopes: &[String]) -> Result<SharedPrincipal, String> {
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
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn hex(text: &str) -> String {
        crate::digest::of_bytes(text)
            .strip_prefix("sha256:")
            .unwrap()
            .to_owned()
    }

    fn read_text(text: &str) -> Result<KeyTable, KeyFileError> {
        let path = Path::new("keys.toml");
        table(path, &parse(path, text.as_bytes())?)
    }

    fn key(id: &str, key: &str, rest: &str) -> String {
        format!(
            "[[keys]]\nid = \"{id}\"\nsha256 = \"{}\"\ntenant = \"team\"\nscopes = [\"score\"]\n{rest}\n",
            hex(key)
        )
    }

    #[test]
    fn keys_are_found_by_their_hash_until_they_expire() {
        let text = key("a", "one", "") + &key("b", "two", "expires = \"2027-01-31T00:00:00Z\"");
        let table = read_text(&text).unwrap();
        let hash = |key: &str| Sha256::digest(key).into();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let end = 1_801_353_600;
        let Some(Found::Valid(one)) = table.key(&hash("one"), at(end)) else {
            panic!("it has no end");
        };
        assert_eq!(one.tenant.to_string(), "team");
        assert!(one.scopes.has_any(&[Scope::Score]) && !one.scopes.has_any(&[Scope::Admin]));
        assert!(matches!(
            table.key(&hash("two"), at(end - 1)),
            Some(Found::Valid(_))
        ));
        assert_eq!(table.key(&hash("two"), at(end)), Some(Found::Expired));
        assert_eq!(table.key(&hash("three"), at(0)), None);
        // A hash with the same beginning is another one.
        let mut close: [u8; 32] = hash("one");
        close[31] ^= 1;
        assert_eq!(table.key(&close, at(0)), None);
    }

    #[test]
    fn certificates_are_found_by_fingerprint_or_name() {
        let entry = |id: &str, by: &str| {
            format!("[[certificates]]\nid = \"{id}\"\n{by}\ntenant = \"{id}\"\nscopes = [\"classify\"]\n")
        };
        let text = entry("uri", "uri = \"spiffe://x/a\"")
            + &entry("dns", "dns = \"a.example\"")
            + &entry("hash", &format!("sha256 = \"{}\"", hex("certificate")));
        let table = read_text(&text).unwrap();
        let tenant = |sha256: &str, uris: &[&str], dns: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let certificate = PeerCertificate {
                sha256: Sha256::digest(sha256).into(),
                uris: owned(uris),
                dns: owned(dns),
            };
            table
                .certificate(&certificate)
                .map(|principal| principal.tenant.to_string())
        };
        assert_eq!(tenant("certificate", &["spiffe://x/a"], &[]).unwrap(), "hash");
        assert_eq!(tenant("other", &["spiffe://x/a"], &["a.example"]).unwrap(), "uri");
        assert_eq!(tenant("other", &[], &["b.example", "a.example"]).unwrap(), "dns");
        assert_eq!(tenant("other", &["spiffe://x/ab"], &["x.a.example"]), None);
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_told_without_its_content() {
        let cases = [
            (key("a b", "x", ""), "an id has"),
            (
                key("a", "x", "") + &key("a", "y", ""),
                "another entry has this id",
            ),
            (key("a", "x", "") + &key("b", "x", ""), "the same sha256"),
            (key("a", "x", "expires = \"soon\""), "expires must be"),
            (
                key("a", "x", "expires = \"1969-01-01T00:00:00Z\""),
                "expires must be",
            ),
            (key("a", "x", "key = \"bw_secret\""), "unknown field"),
            (key("a", "x", "").replace("score", "root"), "a scope is not known"),
            (key("a", "x", "").replace("\"score\"", ""), "at least one"),
            (key("a", "x", "").replace("team", "a/b"), "tenant must have"),
            (
                key("a", "x", "").replace(&hex("x"), "bw_secret"),
                "64 hexadecimal",
            ),
            ("[[keys]]\nid = bw_secret\n".to_owned(), "line 2"),
            (
                "[[certificates]]\nid = \"c\"\ntenant = \"t\"\nscopes = [\"score\"]\n".to_owned(),
                "say one of",
            ),
        ];
        for (text, says) in cases {
            let error = read_text(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
            assert!(!error.contains("bw_secret"), "{error}");
        }
    }
}
