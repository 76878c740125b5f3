//! What a model is called on a Hugging Face hub.

use std::{fmt, str::FromStr};

use super::listing::is_inside;

/// A repository of a hub, and perhaps which of its files: `OWNER/NAME` or `OWNER/NAME:FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    /// `OWNER/NAME`.
    repository: String,
    /// A path in the repository, a pattern with `*` and `?`, or a quantisation such as `Q4_K_M`.
    file: Option<String>,
}

impl ModelName {
    /// The whole repository, which must be named as [`ModelName::from_str`] takes it.
    pub(super) fn of_repository(repository: &str) -> Self {
        Self {
            repository: repository.to_owned(),
            file: None,
        }
    }

    /// `OWNER/NAME`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `NAME`, without what tells only that its files are GGUF.
    pub fn short(&self) -> &str {
        let name = self.repository.rsplit('/').next().unwrap_or(&self.repository);
        let cut = name.len().saturating_sub("-GGUF".len());
        match name.split_at_checked(cut) {
            Some((short, "-GGUF" | "-gguf")) if !short.is_empty() => short,
            _ => name,
        }
    }

    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "name a repository as OWNER/NAME, or one of its GGUF files as OWNER/NAME:FILE, where FILE is its name, a pattern \
             such as *Q8_0*, or a quantisation such as Q4_K_M"
                .to_owned()
        };
        let (repository, file) = match text.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (text, None),
        };
        let (owner, name) = repository.split_once('/').ok_or_else(expected)?;
        // A pattern is a path but for its stars and question marks.
        let file_is_plain = file.is_none_or(|file| is_inside(&file.replace(['*', '?'], "x")));
        if !is_plain(owner) || !is_plain(name) || !file_is_plain {
            return Err(expected());
        }
        Ok(Self {
            repository: repository.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

/// A branch, tag or commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl FromStr for Revision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match is_inside(text) && text.split('/').all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err("name a branch, a tag or a commit, such as main".to_owned()),
        }
    }
}

/// Whether a text can be a part of an address and of a path, and is none that leads elsewhere.
fn is_plain(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && !text.starts_with('.') && text.chars().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_repository_and_perhaps_a_file() {
        for (text, repository, file, short) in [
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None, "Qwen3-0.6B"),
            ("a/b-GGUF:Q4_K_M", "a/b-GGUF", Some("Q4_K_M"), "b"),
            ("a/b:sub/x.gguf", "a/b", Some("sub/x.gguf"), "b"),
            ("a/-GGUF:*q?_0*", "a/-GGUF", Some("*q?_0*"), "-GGUF"),
        ] {
            let name: ModelName = text.parse().unwrap();
            assert_eq!(
                (name.repository(), name.file(), name.short()),
                (repository, file, short)
            );
            assert_eq!(name.to_string(), text);
        }
        for wrong in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b:",
            "a/b:../c",
            "a/b:/etc/passwd",
            "a/b:*/../c",
            "a b/c",
            "a/b?c",
            "a/b:c:d",
            "https://huggingface.co/a/b",
        ] {
            assert!(wrong.parse::<ModelName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn revisions_are_branches_tags_and_commits() {
        for text in [
            "main",
            "v1.0",
            "refs/pr/1",
            "0123456789abcdef0123456789abcdef01234567",
        ] {
            assert_eq!(text.parse::<Revision>().unwrap().as_str(), text);
        }
        for wrong in ["", "..", "a/../b", "/a", "a b", "a?b", "a%2e", "a/"] {
            assert!(wrong.parse::<Revision>().is_err(), "{wrong}");
        }
    }
}
