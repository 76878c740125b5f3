//! Files that operators write: configurations, keys, policies.

use std::{collections::HashSet, time::SystemTime};

use babelward::{
    auth::{Authenticator, CredentialFiles, TokenRules},
    config::{self, Inputs},
    guard::{MAX_CATEGORIES, read_policy},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::input::{Folder, part, parts, text};

/// A configuration. Parts: the file, lines NAME=VALUE of the environment. Every problem names its key and what to do. A valid
/// configuration listens beyond this machine only where callers need credentials, or somebody has said that they need none.
pub(crate) fn config(input: &[u8]) {
    let folder = Folder::new();
    let parts = parts(input);
    let path = folder.write("babelward.toml", part(&parts, 0));
    let lines = text(part(&parts, 1));
    let variables = lines.lines().filter_map(|line| line.split_once('='));
    // The file that is named is the one above.
    let variables = variables.filter(|(name, _)| *name != "BABELWARD_CONFIG");
    let loaded = config::load(&Inputs {
        file: Some(path),
        env: variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ..Inputs::default()
    });
    match loaded.config {
        Ok(config) => {
            let server = &config.server;
            let addresses = [
                Some(server.listen),
                server.http_listen,
                server.metrics_listen,
                server.admin_listen,
            ];
            let exposed = addresses
                .into_iter()
                .flatten()
                .any(|address| !address.ip().is_loopback());
            let guarded = config.security.credentials.is_some() || server.insecure_no_auth;
            assert!(!exposed || guarded, "it listens for everybody");
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                assert!(
                    !problem.reason.is_empty() && !problem.fix.is_empty(),
                    "{problem:?}"
                );
            }
        }
    }
}

/// Credentials. Parts: the file of keys, the JWKS file, the value of `authorization`. Nobody is known by a key whose hash is not in
/// the file, and nobody by a token, for which the input would have to hold a signature.
pub(crate) fn credentials(input: &[u8]) {
    let folder = Folder::new();
    let parts = parts(input);
    let (keys, jwks) = (part(&parts, 0), part(&parts, 1));
    let keys_path = folder.write("keys.toml", keys);
    let rules = TokenRules {
        issuer: "https://issuer".to_owned(),
        audience: "babelward".to_owned(),
        leeway: std::time::Duration::from_secs(60),
        tenant_claim: "tenant".to_owned(),
        scope_claim: "scope".to_owned(),
        tenant_prefix: "jwt.".to_owned(),
        scope_prefix: "babelward:".to_owned(),
    };
    let tokens = (!jwks.is_empty()).then(|| (folder.write("jwks.json", jwks), rules));
    let files = CredentialFiles {
        keys: Some(keys_path),
        tokens,
    };
    let Ok(authenticator) = Authenticator::open(files) else {
        return;
    };
    let authorization = part(&parts, 2);
    if authenticator
        .identify(Some(authorization), None, SystemTime::UNIX_EPOCH)
        .is_ok()
    {
        let value = text(authorization);
        let key = value.split_once(' ').map_or("", |(_, key)| key.trim_matches(' '));
        let hash: String = Sha256::digest(key)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let file = text(keys).to_ascii_lowercase();
        assert!(
            file.contains(&hash),
            "somebody is known by a key that is not in the file"
        );
    }
    assert!(
        authenticator
            .identify(None, None, SystemTime::UNIX_EPOCH)
            .is_err()
    );
}

/// The file of a policy: TOML, or JSON where the first byte is `{`. A valid policy keeps the limits, its text for the guard does not
/// forge the parts of a prompt, and it is the same policy when it is written as JSON and read again.
pub(crate) fn policy(input: &[u8]) {
    let folder = Folder::new();
    let name = match input.first() {
        Some(b'{') => "policy.json",
        _ => "policy.toml",
    };
    let path = folder.write(name, input);
    let Ok(policy) = read_policy(&path) else {
        return;
    };
    assert!((1..=MAX_CATEGORIES).contains(&policy.categories().len()));
    let codes: HashSet<_> = policy
        .categories()
        .iter()
        .map(|category| &category.code)
        .collect();
    assert_eq!(codes.len(), policy.categories().len(), "a code is there twice");
    let begins_a_category = |line: &&str| {
        let number = line
            .trim_start()
            .strip_prefix('S')
            .and_then(|rest| rest.split_once(':'));
        number.is_some_and(|(digits, _)| digits.parse::<u8>().is_ok())
    };
    let read = policy.lines().lines().filter(begins_a_category).count();
    assert_eq!(
        read,
        policy.categories().len(),
        "a guard reads other categories: {}",
        policy.lines()
    );
    for mark in ["<BEGIN CONVERSATION>", "<END CONVERSATION>"] {
        let whole = policy.lines().lines().any(|line| line.trim() == mark);
        assert!(!whole, "the policy has the line {mark}");
    }
    let categories: Vec<_> = policy
        .categories()
        .iter()
        .map(|category| json!({"code": category.code, "name": category.name, "description": category.description}))
        .collect();
    let written = json!({"name": policy.name(), "categories": categories}).to_string();
    let again =
        read_policy(&folder.write("again.json", written.as_bytes())).expect("a policy that was just written");
    assert_eq!(again, policy);
}
