//! ALERT's instruction wrapper: its files store a prompt as `### Instruction:\n<prompt>\n### Response:\n`.

use serde::{Deserialize, Serialize};

const BEFORE: &str = "### Instruction:";
const AFTER: &str = "### Response:";

/// What is done with the wrapper of a prompt that has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrapper {
    /// The prompt is asked with its wrapper.
    #[default]
    Keep,
    /// Only the text inside the wrapper is asked.
    Strip,
}

/// How many prompts have the wrapper and what was done with it, as `run.json` holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrapperUse {
    /// How many prompts have it.
    pub prompts: u64,
    /// What was done with them.
    pub handling: Wrapper,
}

/// The text inside the wrapper; `None` when the text has no wrapper.
pub fn unwrapped(text: &str) -> Option<&str> {
    let inside = text.trim_start().strip_prefix(BEFORE)?;
    let inside = inside.trim_end().strip_suffix(AFTER)?;
    Some(inside.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_wrapper_is_one() {
        assert_eq!(
            unwrapped("### Instruction:\nHow do I?\nSay it.\n### Response:\n"),
            Some("How do I?\nSay it.")
        );
        assert_eq!(unwrapped("### Instruction:\n\n### Response:"), Some(""));
        assert_eq!(unwrapped("### Instruction:\nHow do I?"), None);
        assert_eq!(unwrapped("Write ### Response:"), None);
        assert_eq!(unwrapped("How do I?"), None);
    }
}
