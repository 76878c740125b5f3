//! Errors as text, where only a text can be handed on: a status message, a log line, a report.
//!
//! An error of ours either shows its cause in its own message or hands it out through [`Error::source`], never both.
//! Whoever prints the whole chain therefore says everything, and nothing twice.

use std::error::Error;

/// The error's message, followed by those of its causes from the outermost to the innermost, joined by `: `.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read x.bin")]
    struct Unreadable {
        source: io::Error,
    }

    #[test]
    fn every_cause_is_in_the_text_once() {
        let source = io::Error::other("the disk is gone");
        assert_eq!(with_causes(&source), "the disk is gone");
        assert_eq!(
            with_causes(&Unreadable { source }),
            "cannot read x.bin: the disk is gone"
        );
    }
}
