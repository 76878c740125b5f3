//! What a Hugging Face hub says of a repository: its commit, its files with sizes and digests, its licence, and who may have them.
//! All of it is a stranger's text.

use std::{
    io,
    path::{Component, Path},
};

use serde::Deserialize;
use serde_json::Value;

use crate::digest;

/// A hub's description of a repository at a revision.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub(super) sha: String,
    pub(super) siblings: Vec<Sibling>,
    /// Who may have the files: `false` for everybody, or how those are admitted who agree to the terms.
    #[serde(default)]
    gated: Value,
    /// The head of the model card.
    #[serde(default, rename = "cardData")]
    card: Value,
}

/// Who may fetch a repository's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Everybody.
    Open,
    /// Whoever agrees to its terms.
    Agreement,
    /// Whoever agrees to its terms and is admitted by its makers.
    Review,
}

impl Gate {
    /// Its name in data.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Agreement => "agreement",
            Self::Review => "review",
        }
    }
}

impl Listing {
    /// Who may have the files.
    pub(super) fn gate(&self) -> Gate {
        match &self.gated {
            Value::Bool(false) | Value::Null => Gate::Open,
            Value::String(how) if how == "manual" => Gate::Review,
            _ => Gate::Agreement,
        }
    }

    /// The licence that the model card states: its identifier, or its name where it has no identifier of its own.
    pub(super) fn licence(&self) -> Option<String> {
        let text = |key: &str| self.card.get(key).and_then(Value::as_str).map(printable);
        let identifier = text("license")?;
        match text("license_name").filter(|_| identifier == "other") {
            Some(name) => Some(name),
            None => Some(identifier),
        }
    }
}

/// A stranger's text, fit for a terminal: one line of ASCII, of limited length.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        ' '..='~' => c,
        _ => '?',
    };
    text.chars().take(100).map(shown).collect()
}

/// A file of a repository. The hub states sizes and git's hashes of all, and SHA-256 of large ones.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Sibling {
    pub(super) rfilename: String,
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default, rename = "blobId")]
    pub(super) blob: Option<String>,
    #[serde(default)]
    pub(super) lfs: Option<Lfs>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lfs {
    pub(super) sha256: String,
}

/// A digest that a hub states of a file.
pub(super) enum StatedDigest {
    /// As [`digest::of_file`] writes it.
    Sha256(String),
    /// As [`digest::git_blob_of_file`] writes it.
    GitBlob(String),
}

impl StatedDigest {
    pub(super) fn text(&self) -> &str {
        let (Self::Sha256(text) | Self::GitBlob(text)) = self;
        text
    }

    /// The digest that a file has.
    pub(super) fn of(&self, path: &Path) -> io::Result<String> {
        match self {
            Self::Sha256(_) => digest::of_file(path),
            Self::GitBlob(_) => digest::git_blob_of_file(path),
        }
    }
}

impl Sibling {
    /// What its content must be; `None` where the hub does not say. The blob of a file that is kept elsewhere is a note of where,
    /// so its hash says nothing about the content.
    pub(super) fn stated(&self) -> Result<Option<StatedDigest>, String> {
        let stated = match (&self.lfs, &self.blob) {
            (Some(lfs), _) => StatedDigest::Sha256(format!("sha256:{}", lfs.sha256.to_ascii_lowercase())),
            (None, Some(blob)) => StatedDigest::GitBlob(blob.to_ascii_lowercase()),
            (None, None) => return Ok(None),
        };
        let is_one = match &stated {
            StatedDigest::Sha256(text) => digest::is_digest(text),
            StatedDigest::GitBlob(text) => is_commit(text),
        };
        if !is_one {
            return Err("the digest that the hub states is none".to_owned());
        }
        Ok(Some(stated))
    }
}

/// Whether a text is a whole SHA-1 in hexadecimal digits, as commits and blobs of git have.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a path stays in the folder that it is relative to, and can be used in a URL without escaping.
pub(super) fn is_inside(path: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+' | '=');
    !path.is_empty()
        && path.chars().all(known)
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(text: &str) -> Listing {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_licence_is_what_the_card_says_in_a_line_for_terminals() {
        let licence =
            |card: &str| listing(&format!(r#"{{"sha": "", "siblings": [], "cardData": {card}}}"#)).licence();
        assert_eq!(licence(r#"{"license": "apache-2.0"}"#).unwrap(), "apache-2.0");
        let other = r#"{"license": "other", "license_name": "llama3.1"}"#;
        assert_eq!(licence(other).unwrap(), "llama3.1");
        let hostile = licence(r#"{"license": "mit\u001b[2J\n\u202e"}"#).unwrap();
        assert_eq!(hostile, "mit?[2J??");
        for none in ["null", "{}", r#"{"license": ["mit"]}"#, "7"] {
            assert_eq!(licence(none), None, "{none}");
        }
    }

    #[test]
    fn a_gate_is_open_only_where_the_hub_says_nothing_else() {
        let gate =
            |gated: &str| listing(&format!(r#"{{"sha": "", "siblings": [], "gated": {gated}}}"#)).gate();
        assert_eq!(gate("false"), Gate::Open);
        assert_eq!(gate("\"manual\""), Gate::Review);
        assert_eq!(gate("\"auto\""), Gate::Agreement);
        assert_eq!(gate("true"), Gate::Agreement);
        assert_eq!(listing(r#"{"sha": "", "siblings": []}"#).gate(), Gate::Open);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_not_inside() {
        for inside in ["a", "a/b.gguf", "Q4_K_M/model-00001-of-00002.gguf"] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in [
            "",
            "/a",
            "../a",
            "a/../../b",
            "./a",
            "a\\b",
            "a b",
            "a?b",
            "a%2e",
            "C:a",
        ] {
            assert!(!is_inside(outside), "{outside}");
        }
    }
}
