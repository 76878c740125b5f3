//! Files of API keys, and what is opened with them.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{path::PathBuf, sync::Arc};

use babelward::{
    auth::{Authenticator, CredentialFiles, NewKey, Scope, TokenRules, append_key, generate_key, remove_key},
    engine::Tenant,
    rpc::{Access, Security},
};
use tonic::Request;

/// A file of keys in a folder of its own.
pub struct KeyFile {
    pub folder: tempfile::TempDir,
}

impl KeyFile {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keys.toml"), "# The keys of a test.\n").unwrap();
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("keys.toml")
    }

    /// A new key of this tenant, whose entry has the tenant's name too.
    pub fn add(&self, tenant: &str, scopes: &[Scope]) -> String {
        let key = generate_key().unwrap();
        let entry = NewKey {
            id: tenant.to_owned(),
            tenant: Tenant::named(tenant).unwrap(),
            scopes: scopes.iter().copied().collect(),
            expires: None,
        };
        append_key(&self.path(), &key, &entry).unwrap();
        key.expose().to_owned()
    }

    /// A key that is no longer valid.
    pub fn add_expired(&self, tenant: &str) -> String {
        let key = generate_key().unwrap();
        let entry = NewKey {
            id: tenant.to_owned(),
            tenant: Tenant::named(tenant).unwrap(),
            scopes: Scope::ALL.into_iter().collect(),
            expires: Some("2020-01-01T00:00:00Z".parse().unwrap()),
        };
        append_key(&self.path(), &key, &entry).unwrap();
        key.expose().to_owned()
    }

    pub fn revoke(&self, tenant: &str) {
        assert!(remove_key(&self.path(), tenant).unwrap());
    }

    /// Adds a client certificate with this name.
    pub fn add_certificate(&self, by: &str, tenant: &str, scopes: &str) {
        let mut text = std::fs::read_to_string(self.path()).unwrap();
        text.push_str(&format!(
            "\n[[certificates]]\nid = \"{tenant}\"\n{by}\ntenant = \"{tenant}\"\nscopes = [{scopes}]\n"
        ));
        std::fs::write(self.path(), text).unwrap();
    }

    pub fn open(&self) -> Arc<Authenticator> {
        self.open_with(None)
    }

    pub fn open_with(&self, tokens: Option<(PathBuf, TokenRules)>) -> Arc<Authenticator> {
        let files = CredentialFiles {
            keys: Some(self.path()),
            tokens,
        };
        Arc::new(Authenticator::open(files).unwrap())
    }
}

/// Callers need a credential, and nothing else is asked for.
pub fn checked(authenticator: &Arc<Authenticator>) -> Security {
    Security {
        access: Access::Checked(Arc::clone(authenticator)),
        ..Security::default()
    }
}

/// A request with a key or token.
pub fn with_key<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}
