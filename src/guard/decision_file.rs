//! Reads decision policies from files, written in TOML, or in JSON if the name ends with `.json`.

use std::path::{Path, PathBuf};

use super::decision::{DecisionPolicy, DecisionPolicyText, DecisionProblem};

/// Bytes of the largest file that is read. No policy is that large.
const MAX_BYTES: u64 = 1 << 20;

/// Why no decision policy could be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum DecisionFileError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not valid TOML or JSON, or does not have the fields of a decision policy.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file has the fields of a decision policy, but their values are not valid.
    #[error("{path}: {}", shown(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<DecisionProblem>,
    },
}

fn shown(problems: &[DecisionProblem]) -> String {
    let shown = |problem: &DecisionProblem| format!("{} {}", problem.field, problem.description);
    problems.iter().map(shown).collect::<Vec<_>>().join("; ")
}

/// Reads a decision policy from a file.
///
/// # Errors
/// [`DecisionFileError`], which lists everything that is wrong with the policy.
pub fn read_decision_policy(path: &Path) -> Result<DecisionPolicy, DecisionFileError> {
    let unreadable = |source| DecisionFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let malformed = |reason: String| DecisionFileError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_BYTES {
        return Err(malformed(format!(
            "{bytes} bytes are too many for a decision policy"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let written: Result<DecisionPolicyText, String> =
        if path.extension().is_some_and(|ending| ending == "json") {
            serde_json::from_str(&text).map_err(|error| format!("no decision policy in JSON: {error}"))
        } else {
            toml::from_str(&text)
                .map_err(|error| format!("no decision policy in TOML: {}", error.to_string().trim()))
        };
    DecisionPolicy::new(written.map_err(malformed)?).map_err(|problems| DecisionFileError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::with_causes;

    fn read(name: &str, text: &str) -> Result<DecisionPolicy, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_decision_policy(&path).map_err(|error| with_causes(&error))
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = read("a.toml", "name = \"chat\"\nversion = 1\nthresholds.block = 0.5\n").unwrap();
        let json = r#"{"name": "chat", "version": 1, "thresholds": {"block": 0.5}}"#;
        assert_eq!(read("a.json", json).unwrap(), toml);
    }

    #[test]
    fn wrong_files_say_where() {
        let error = read("a.toml", "name = \"chat\"\nversion = 1\nthreshold.block = 0.5\n").unwrap_err();
        assert!(error.contains("`threshold`"), "{error}");
        let error = read("a.json", "{").unwrap_err();
        assert!(error.contains("no decision policy in JSON"), "{error}");
        let error = read("a.toml", "name = \"chat\"\nversion = 0\nthresholds.block = 2.0\n").unwrap_err();
        assert!(
            error.contains("version must be") && error.contains("thresholds.block must be"),
            "{error}"
        );
        let missing = read_decision_policy(Path::new("/nowhere/a.toml")).unwrap_err();
        assert!(matches!(missing, DecisionFileError::Unreadable { .. }));
    }
}
