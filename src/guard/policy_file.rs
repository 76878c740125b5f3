//! Reads policies and decision policies from files. They are written in TOML, or in JSON if the name ends with `.json`. A policy
//! has the fields of the protocol's `Policy`, a decision policy those of [`DecisionPolicyText`](super::DecisionPolicyText).

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{DecisionPolicy, Policy, PolicyCategory, PolicyProblem};

/// Bytes of the largest file that is read. No policy is that large.
const MAX_BYTES: u64 = 1 << 20;

/// Why no policy or decision policy could be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not valid TOML or JSON, or does not have the fields that it should have.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file has the fields, but their values are not valid.
    #[error("{path}: {}", shown(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<PolicyProblem>,
    },
}

fn shown(problems: &[PolicyProblem]) -> String {
    let shown = |problem: &PolicyProblem| format!("{} {}", problem.field, problem.description);
    problems.iter().map(shown).collect::<Vec<_>>().join("; ")
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    categories: Vec<PolicyCategory>,
}

/// Reads a policy from a file.
///
/// # Errors
/// [`PolicyFileError`], which lists everything that is wrong with the policy.
pub fn read_policy(path: &Path) -> Result<Policy, PolicyFileError> {
    read_as(path, "policy", |Written { name, categories }| {
        Policy::new(name, categories)
    })
}

/// Reads a decision policy from a file.
///
/// # Errors
/// [`PolicyFileError`], which lists everything that is wrong with the policy.
pub fn read_decision_policy(path: &Path) -> Result<DecisionPolicy, PolicyFileError> {
    read_as(path, "decision policy", DecisionPolicy::new)
}

/// Reads the fields of what is called `what`, and checks them.
fn read_as<W: DeserializeOwned, P>(
    path: &Path,
    what: &str,
    check: impl FnOnce(W) -> Result<P, Vec<PolicyProblem>>,
) -> Result<P, PolicyFileError> {
    let unreadable = |source| PolicyFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let malformed = |reason: String| PolicyFileError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_BYTES {
        return Err(malformed(format!("{bytes} bytes are too many for a {what}")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let written = if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(&text).map_err(|error| format!("no {what} in JSON: {error}"))
    } else {
        toml::from_str(&text).map_err(|error| format!("no {what} in TOML: {}", error.to_string().trim()))
    };
    check(written.map_err(malformed)?).map_err(|problems| PolicyFileError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::with_causes;

    fn read(name: &str, text: &str) -> Result<Policy, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_policy(&path).map_err(|error| with_causes(&error))
    }

    const TOML: &str = "name = \"shop\"\n[[categories]]\ncode = \"S1\"\nname = \"Fraud\"\n\
                        description = \"\"\"\nSelling what is not there.\n\"\"\"\n\
                        [[categories]]\ncode = \"S2\"\nname = \"Insults\"\n";

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = read("shop.toml", TOML).unwrap();
        assert_eq!(
            toml.lines(),
            "S1: Fraud.\nSelling what is not there.\nS2: Insults.\n"
        );
        let json = r#"{"name": "shop", "categories": [
            {"code": "S1", "name": "Fraud", "description": "Selling what is not there."},
            {"code": "S2", "name": "Insults"}]}"#;
        assert_eq!(read("shop.json", json).unwrap(), toml);
    }

    #[test]
    fn wrong_files_say_where() {
        let error = read("a.toml", &TOML.replace("code = \"S2\"", "code = \"2\"")).unwrap_err();
        assert!(error.contains("categories[1].code must be S"), "{error}");
        let error = read("a.toml", &TOML.replace("description", "descriptoin")).unwrap_err();
        assert!(error.contains("descriptoin"), "{error}");
        let error = read("a.json", "{\"name\": 1}").unwrap_err();
        assert!(error.contains("no policy in JSON"), "{error}");
        assert!(
            read("a.toml", "name =")
                .unwrap_err()
                .contains("no policy in TOML")
        );
        let missing = with_causes(&read_policy(Path::new("/nowhere/a.toml")).unwrap_err());
        assert!(missing.starts_with("cannot read /nowhere/a.toml: "), "{missing}");
    }

    fn decision(name: &str, text: &str) -> Result<DecisionPolicy, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_decision_policy(&path).map_err(|error| with_causes(&error))
    }

    #[test]
    fn decision_policies_say_the_same_in_toml_and_json() {
        let toml = decision("a.toml", "name = \"chat\"\nversion = 1\nthresholds.block = 0.5\n").unwrap();
        let json = r#"{"name": "chat", "version": 1, "thresholds": {"block": 0.5}}"#;
        assert_eq!(decision("a.json", json).unwrap(), toml);
    }

    #[test]
    fn wrong_decision_policies_say_where() {
        let error = decision("a.toml", "name = \"chat\"\nversion = 1\nthreshold.block = 0.5\n").unwrap_err();
        assert!(error.contains("`threshold`"), "{error}");
        let error = decision("a.json", "{").unwrap_err();
        assert!(error.contains("no decision policy in JSON"), "{error}");
        let error = decision("a.toml", "name = \"chat\"\nversion = 0\nthresholds.block = 2.0\n").unwrap_err();
        assert!(
            error.contains("version must be") && error.contains("thresholds.block must be"),
            "{error}"
        );
        let missing = read_decision_policy(Path::new("/nowhere/a.toml")).unwrap_err();
        assert!(matches!(missing, PolicyFileError::Unreadable { .. }));
    }
}
