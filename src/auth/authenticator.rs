//! Says who a caller is, by the credentials that are in force.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};

use super::{
    Rejection, SharedPrincipal,
    key_file::{self, Found, KeyFileError, KeyTable},
    token::{self, TokenFileError, TokenRules, TokenVerifier, Verified},
};
use crate::{
    reload::{Reload, Reloaded},
    secret::warn_if_exposed,
    tls::PeerCertificate,
};

/// Most verified tokens that are remembered, so that a signature is checked once and not for each call. They take about a
/// megabyte.
const REMEMBERED_TOKENS: usize = 4096;

/// Longest key or token, in bytes. A request's headers are not longer than this either.
const CREDENTIAL_BYTES: usize = 16 << 10;

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The file of API keys and client certificates.
    pub keys: Option<PathBuf>,
    /// The JWKS file with the public keys of an identity provider, and what its tokens must say.
    pub tokens: Option<(PathBuf, TokenRules)>,
}

/// Why credentials cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file of keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The JWKS file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
}

/// Says who a caller is. Its files are read again when they change.
pub struct Authenticator {
    files: CredentialFiles,
    current: RwLock<Arc<Credentials>>,
    /// Digest of the content that was tried last, whether or not it is in force.
    tried: Mutex<[u8; 32]>,
}

/// The credentials that are in force, and the tokens that they have verified.
struct Credentials {
    keys: KeyTable,
    tokens: Option<TokenVerifier>,
    /// Verified tokens by their digest. They are forgotten with the keys that verified them.
    verified: Mutex<HashMap<[u8; 32], Verified>>,
}

/// The content of the files.
struct Content {
    keys: Vec<u8>,
    tokens: Vec<u8>,
}

impl Authenticator {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn open(files: CredentialFiles) -> Result<Self, CredentialsError> {
        let content = Content::read(&files)?;
        let credentials = Credentials::new(&files, &content)?;
        if let Some(keys) = &files.keys {
            warn_if_exposed(keys);
        }
        Ok(Self {
            current: RwLock::new(Arc::new(credentials)),
            tried: Mutex::new(content.digest()),
            files,
        })
    }

    /// The principal of a caller, by the value of its `authorization` or else by its verified certificate. A caller that
    /// sends a key or token is known by that alone: one that is not valid does not count as none. Two values of
    /// `authorization` are refused, because others on the way may have looked at the other one.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn identify<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a [u8]>,
        certificate: Option<&PeerCertificate>,
        now: SystemTime,
    ) -> Result<SharedPrincipal, Rejection> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let mut values = authorization.into_iter();
        let value = values.next();
        if values.next().is_some() {
            return Err(Rejection::Malformed);
        }
        match (value, certificate) {
            (Some(value), _) => current.bearer(value, now),
            // The handshake has checked it, perhaps a long time ago.
            (None, Some(certificate)) if certificate.not_after < now => Err(Rejection::Expired),
            (None, Some(certificate)) => {
                let known = current.keys.certificate(certificate);
                known.cloned().ok_or(Rejection::Unknown)
            }
            (None, None) => Err(Rejection::Missing),
        }
    }
}

impl Credentials {
    fn new(files: &CredentialFiles, content: &Content) -> Result<Self, CredentialsError> {
        let keys = match &files.keys {
            Some(path) => key_file::table(path, &key_file::parse(path, &content.keys)?)?,
            None => KeyTable::default(),
        };
        let tokens = match &files.tokens {
            Some((path, rules)) => Some(TokenVerifier::new(path, &content.tokens, rules.clone())?),
            None => None,
        };
        Ok(Self {
            keys,
            tokens,
            verified: Mutex::default(),
        })
    }

    fn bearer(&self, value: &[u8], now: SystemTime) -> Result<SharedPrincipal, Rejection> {
        let credential = credential(value).ok_or(Rejection::Malformed)?;
        let hash: [u8; 32] = Sha256::digest(credential).into();
        match self.keys.key(&hash, now) {
            Some(Found::Valid(principal)) => return Ok(Arc::clone(principal)),
            Some(Found::Expired) => return Err(Rejection::Expired),
            None => {}
        }
        let Some(tokens) = self.tokens.as_ref().filter(|_| looks_like_token(credential)) else {
            return Err(Rejection::Unknown);
        };
        if let Some(known) = self.lock_verified().get(&hash) {
            // Its times were checked when it was verified; since then only its end can have passed.
            return match known.until > now {
                true => Ok(Arc::clone(&known.principal)),
                false => Err(Rejection::Expired),
            };
        }
        let verified = tokens.verify(credential)?;
        let principal = Arc::clone(&verified.principal);
        self.remember(hash, verified, now);
        Ok(principal)
    }

    fn remember(&self, hash: [u8; 32], verified: Verified, now: SystemTime) {
        let mut known = self.lock_verified();
        if known.len() >= REMEMBERED_TOKENS {
            known.retain(|_, token| token.until > now);
        }
        if known.len() >= REMEMBERED_TOKENS {
            // All of them are valid. Those that are used again are verified again.
            known.clear();
        }
        known.insert(hash, verified);
    }

    fn lock_verified(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key or token of `Bearer KEY`. The scheme is read without regard to case (RFC 9110, section 11.1).
fn credential(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let credential = rest.trim_matches(' ');
    let plain = credential.bytes().all(|byte| byte.is_ascii_graphic());
    let fits = (1..=CREDENTIAL_BYTES).contains(&credential.len());
    (scheme.eq_ignore_ascii_case("bearer") && plain && fits).then_some(credential)
}

/// Tokens have three parts.
fn looks_like_token(credential: &str) -> bool {
    credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Content {
    fn read(files: &CredentialFiles) -> Result<Self, CredentialsError> {
        let keys = files.keys.as_deref().map(key_file::read_bytes);
        let tokens = files.tokens.as_ref().map(|(path, _)| token::read(path));
        Ok(Self {
            keys: keys.transpose()?.unwrap_or_default(),
            tokens: tokens.transpose()?.unwrap_or_default(),
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [&self.keys, &self.tokens] {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl Reload for Authenticator {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn reload(&self) -> Reloaded {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Content::read(&self.files);
        let digest = match &read {
            Ok(content) => content.digest(),
            Err(error) => Sha256::digest(error.to_string()).into(),
        };
        if std::mem::replace(&mut *tried, digest) == digest {
            return Reloaded::Unchanged;
        }
        match read.and_then(|content| Credentials::new(&self.files, &content)) {
            Ok(credentials) => {
                if let Some(keys) = &self.files.keys {
                    warn_if_exposed(keys);
                }
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
                Reloaded::Replaced
            }
            Err(error) => Reloaded::Kept(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use super::*;
    use crate::auth::{NewKey, Scope, append_key, generate_key, remove_key};
    use crate::engine::Tenant;

    fn opened(path: &Path) -> Authenticator {
        Authenticator::open(CredentialFiles {
            keys: Some(path.to_owned()),
            tokens: None,
        })
        .unwrap()
    }

    fn entry(id: &str) -> NewKey {
        NewKey {
            id: id.to_owned(),
            tenant: Tenant::named(id).unwrap(),
            scopes: [Scope::Classify].into_iter().collect(),
            expires: None,
        }
    }

    #[test]
    fn keys_come_and_go_with_the_file_and_a_bad_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let [old, new] = [(); 2].map(|()| generate_key().unwrap());
        append_key(&path, &old, &entry("old")).unwrap();
        let authenticator = opened(&path);
        let identify = |key: &str| {
            let value = format!("Bearer {key}");
            let found = authenticator.identify(Some(value.as_bytes()), None, SystemTime::now());
            found.map(|principal| principal.tenant.to_string())
        };
        assert_eq!(identify(old.expose()), Ok("old".to_owned()));
        assert_eq!(identify(new.expose()), Err(Rejection::Unknown));
        append_key(&path, &new, &entry("new")).unwrap();
        assert_eq!(authenticator.reload(), Reloaded::Replaced);
        assert_eq!(authenticator.reload(), Reloaded::Unchanged);
        assert_eq!(identify(old.expose()), Ok("old".to_owned()));
        assert_eq!(identify(new.expose()), Ok("new".to_owned()));
        remove_key(&path, "old").unwrap();
        assert_eq!(authenticator.reload(), Reloaded::Replaced);
        assert_eq!(identify(old.expose()), Err(Rejection::Unknown));
        fs::write(&path, "[[keys]]\n").unwrap();
        assert!(matches!(authenticator.reload(), Reloaded::Kept(_)));
        assert_eq!(authenticator.reload(), Reloaded::Unchanged, "it is told once");
        assert_eq!(identify(new.expose()), Ok("new".to_owned()));
        fs::remove_file(&path).unwrap();
        assert!(
            matches!(authenticator.reload(), Reloaded::Kept(reason) if reason.contains("cannot be read"))
        );
        assert_eq!(identify(new.expose()), Ok("new".to_owned()));
    }

    #[test]
    fn only_a_bearer_with_one_plain_word_is_a_credential() {
        assert_eq!(credential(b"Bearer bw_x"), Some("bw_x"));
        assert_eq!(credential(b"bearer  bw_x "), Some("bw_x"));
        let long = format!("Bearer {}", "x".repeat(CREDENTIAL_BYTES + 1));
        for wrong in [
            "",
            "bw_x",
            "Bearer",
            "Bearer ",
            "Basic bw_x",
            "Bearer a b",
            "Bearer \u{e4}",
            long.as_str(),
        ] {
            assert_eq!(credential(wrong.as_bytes()), None, "{wrong:.20}");
        }
    }

    #[test]
    fn a_wrong_key_does_not_count_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let text = "[[certificates]]\nid = \"c\"\ndns = \"a\"\ntenant = \"t\"\nscopes = [\"score\"]\n";
        fs::write(&path, text).unwrap();
        let authenticator = opened(&path);
        let certificate = PeerCertificate {
            sha256: [0; 32],
            uris: Vec::new(),
            dns: vec!["a".to_owned()],
            not_after: SystemTime::now() + Duration::from_secs(60),
        };
        let now = SystemTime::now();
        assert!(authenticator.identify(None, Some(&certificate), now).is_ok());
        let both = authenticator.identify(Some(&b"Bearer bw_x"[..]), Some(&certificate), now);
        assert_eq!(both, Err(Rejection::Unknown));
        assert_eq!(authenticator.identify(None, None, now), Err(Rejection::Missing));
        let twice = [&b"Bearer bw_x"[..]; 2];
        assert_eq!(
            authenticator.identify(twice, Some(&certificate), now),
            Err(Rejection::Malformed)
        );
    }

    #[test]
    fn a_certificate_that_ends_while_its_connection_is_open_is_refused_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let text = "[[certificates]]\nid = \"c\"\ndns = \"a\"\ntenant = \"t\"\nscopes = [\"score\"]\n";
        fs::write(&path, text).unwrap();
        let authenticator = opened(&path);
        let end = SystemTime::now();
        let certificate = PeerCertificate {
            sha256: [0; 32],
            uris: Vec::new(),
            dns: vec!["a".to_owned()],
            not_after: end,
        };
        let identify = |at| authenticator.identify(None, Some(&certificate), at).map(drop);
        assert_eq!(identify(end), Ok(()));
        assert_eq!(identify(end + Duration::from_millis(1)), Err(Rejection::Expired));
        // Its entry is removed, as all entries may be, while its connection is open.
        fs::write(&path, "").unwrap();
        assert_eq!(authenticator.reload(), Reloaded::Replaced);
        assert_eq!(identify(end), Err(Rejection::Unknown));
    }
}
