//! Reads verdicts from a guard's text and log-probabilities.

use std::sync::Arc;

use super::policy::Policy;
use crate::{
    engine::{ProbeResult, StopCondition},
    text::{TextStream, Tokenizer},
};

/// The label that the guard's text begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// The first line is `safe`.
    Safe,
    /// The first line is `unsafe`.
    Unsafe,
    /// The first line is neither. It is never counted as safe.
    Undetermined,
}

/// A guard's judgement of the last message.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The label in the guard's greedy text.
    pub label: Label,
    /// p(unsafe) / (p(safe) + p(unsafe)); absent when both probabilities underflow.
    pub unsafe_score: Option<f64>,
    /// p(safe) + p(unsafe).
    pub label_mass: f64,
    /// Category codes as the guard wrote them (`S9`), with their names (empty for codes that the policy does not list).
    pub categories: Vec<(String, String)>,
    /// The text that the guard wrote.
    pub raw_output: String,
}

/// Bytes that are decoded of a text which is not a verdict, for `raw_output`.
const UNDETERMINED_BYTES: usize = 64;

/// The label in a guard's text, and the categories as they are written.
pub(super) fn parse(text: &str, policy: &Policy) -> (Label, Vec<(String, String)>) {
    let mut lines = text.trim().lines().map(str::trim);
    let label = match lines.next() {
        Some(line) if line.eq_ignore_ascii_case("safe") => Label::Safe,
        Some(line) if line.eq_ignore_ascii_case("unsafe") => Label::Unsafe,
        _ => Label::Undetermined,
    };
    let mut categories: Vec<(String, String)> = Vec::new();
    if label == Label::Unsafe {
        for code in lines.next().unwrap_or("").split(',').map(str::trim) {
            let digits = code.strip_prefix('S').unwrap_or("");
            let is_code = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            if is_code && !categories.iter().any(|(known, _)| known == code) {
                categories.push((code.to_owned(), policy.name_of(code).to_owned()));
            }
        }
    }
    (label, categories)
}

/// The verdict for a guard's text. `probe.logprobs` are those of the first tokens of `safe` and `unsafe`.
pub(super) fn assemble(probe: &ProbeResult, raw_output: String, policy: &Policy) -> Verdict {
    let (label, categories) = parse(&raw_output, policy);
    let logprob = |index: usize| probe.logprobs.get(index).copied().unwrap_or(f64::NEG_INFINITY);
    let (safe, unsafe_) = (logprob(0), logprob(1));
    let label_mass = safe.exp() + unsafe_.exp();
    let unsafe_score = (label_mass > 0.0).then(|| 1.0 / (1.0 + (safe - unsafe_).exp()));
    Verdict {
        label,
        unsafe_score,
        label_mass,
        categories,
        raw_output,
    }
}

/// Ends decoding as soon as more text cannot change the verdict: after the line of categories, or when the first line is
/// neither `safe` nor `unsafe`.
pub(super) struct VerdictStop {
    stream: TextStream,
    text: String,
}

impl VerdictStop {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            stream: TextStream::new(tokenizer, &[]),
            text: String::new(),
        }
    }
}

impl StopCondition for VerdictStop {
    fn push(&mut self, token: u32) -> bool {
        self.text.push_str(&self.stream.push(token));
        is_settled(&self.text)
    }
}

/// Whether more text cannot change the verdict. What counts as a space is the same as in [`parse`].
fn is_settled(text: &str) -> bool {
    let text = text.trim_start();
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or("").trim_end();
    let second_begun = lines.next().is_some();
    if first.eq_ignore_ascii_case("unsafe") {
        return lines.next().is_some();
    }
    if first.eq_ignore_ascii_case("safe") {
        return second_begun;
    }
    // The text may still become one of the words. If not, it is decoded until enough of it is kept.
    let begins = |word: &str| {
        let beginning = word.get(..first.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(first))
    };
    let may_become = !second_begun && ["unsafe", "safe"].into_iter().any(begins);
    !may_become && text.len() >= UNDETERMINED_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> (Label, Vec<String>) {
        let (label, categories) = parse(text, &Policy::native(14));
        (label, categories.into_iter().map(|(code, _)| code).collect())
    }

    #[test]
    fn only_whole_lines_count() {
        for safe in ["safe", "\n\nsafe", " Safe \n", "SAFE\nS1"] {
            assert_eq!(codes(safe), (Label::Safe, vec![]), "{safe:?}");
        }
        for neither in [
            "",
            "safely",
            "unsafe.",
            "it is safe",
            "safe unsafe",
            "not unsafe",
            "un\nsafe",
            "S1",
        ] {
            assert_eq!(codes(neither), (Label::Undetermined, vec![]), "{neither:?}");
        }
    }

    #[test]
    fn categories_are_read_in_order_and_only_real_codes() {
        assert_eq!(
            codes("unsafe\nS1,S10"),
            (Label::Unsafe, vec!["S1".into(), "S10".into()])
        );
        assert_eq!(
            codes("\n\nunsafe\r\n S2 , S2,S99, hate,S,S123,s4"),
            (Label::Unsafe, vec!["S2".into(), "S99".into()])
        );
        assert_eq!(codes("unsafe"), (Label::Unsafe, vec![]));
        assert_eq!(
            parse("unsafe\nS9,S77", &Policy::native(14)).1[0].1,
            "Indiscriminate Weapons"
        );
        assert_eq!(parse("unsafe\nS9,S77", &Policy::native(14)).1[1].1, "");
    }

    #[test]
    fn scores_come_from_log_probabilities_without_underflow() {
        let verdict = |safe: f64, unsafe_: f64| {
            assemble(
                &ProbeResult {
                    logprobs: vec![safe, unsafe_],
                    greedy: 0,
                },
                "safe".into(),
                &Policy::native(14),
            )
        };
        let even = verdict(0.25f64.ln(), 0.25f64.ln());
        assert_eq!((even.unsafe_score, even.label_mass), (Some(0.5), 0.5));
        let sure = verdict(0.9f64.ln(), 0.1f64.ln());
        assert!((sure.unsafe_score.unwrap() - 0.1).abs() < 1e-12);
        let tiny = verdict(-700.0, -701.0);
        assert!((tiny.unsafe_score.unwrap() - 1.0 / (1.0 + 1f64.exp())).abs() < 1e-12);
        assert_eq!(verdict(-2000.0, -1999.0).unsafe_score, None);
        assert_eq!(verdict(0.0, f64::NEG_INFINITY).unsafe_score, Some(0.0));
    }

    #[test]
    fn decoding_ends_when_the_verdict_cannot_change() {
        for (text, settled) in [
            ("", false),
            ("\n\n", false),
            ("uns", false),
            ("unsafe", false),
            ("unsafe\nS1,S2", false),
            ("unsafe\nS1,S2\n", true),
            ("safe", false),
            ("safe\n", true),
            ("The answer", false),
            (
                "The answer to this question depends on many things, and on others too.",
                true,
            ),
            // Spaces beyond ASCII, which the label's line may have around it.
            (&"\u{a0}".repeat(UNDETERMINED_BYTES), false),
            (
                "unsafe\u{85}\nS1,S2,S3,S4,S5,S6,S7,S8,S9,S10,S11,S12,S13,S14,S15,S16,S17,S18,S19,S20",
                false,
            ),
            ("unsafe\u{85}\nS1\n", true),
        ] {
            assert_eq!(is_settled(text), settled, "{text:?}");
        }
    }
}
