//! Scores and labels of verdicts, and when a guard's text is complete.

use std::sync::Arc;

use super::{
    kind::GuardKind,
    question::{JudgedRole, Label, Refusal},
};
use crate::{
    engine::{ProbeResult, StopCondition},
    text::{TextStream, Tokenizer},
};

/// A guard's judgement of the last message.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The label in the guard's greedy text, or the most probable one of its head.
    pub label: Label,
    /// (p(unsafe) + p(controversial)) / (p(safe) + p(unsafe) + p(controversial)), where the guard has the label controversial,
    /// otherwise p(unsafe) / (p(safe) + p(unsafe)); absent when all of these probabilities underflow, and when the text never
    /// came to a label.
    pub unsafe_score: Option<f64>,
    /// The part of `unsafe_score` that is controversial: p(controversial) / (p(safe) + p(unsafe) + p(controversial)). Absent
    /// where the guard has no such label, or there is no `unsafe_score`.
    pub controversial_score: Option<f64>,
    /// The sum of the labels' probabilities; 0 when the text never came to a label.
    pub label_mass: f64,
    /// Categories as the guard wrote them: codes (`S9`) with their names (empty for codes that the policy does not list), or
    /// names twice, where the guard writes names.
    pub categories: Vec<(String, String)>,
    /// Whether the judged answer refuses; absent where the guard does not say so.
    pub refusal: Option<Refusal>,
    /// Of each category of the guard's own policy, in its order, the probability that the text falls under it, given that it falls
    /// under one. Empty for guards that write text, where it is read from further passes, and where nothing can be said.
    pub category_shares: Vec<f64>,
    /// The text that the guard wrote, after the beginning that was put into its prompt; empty for a guard that writes none.
    pub raw_output: String,
}

/// What the probabilities of the labels say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scores {
    pub(super) unsafe_score: Option<f64>,
    pub(super) controversial_score: Option<f64>,
    pub(super) label_mass: f64,
}

impl Scores {
    /// From the distribution at the label's position; `probe.logprobs` begin with those of the labels, in their order.
    pub(super) fn of(probe: Option<&ProbeResult>, labels: &[Label]) -> Self {
        let logprobs = probe.map_or(&[][..], |probe| &probe.logprobs);
        let of = |wanted: &dyn Fn(Label) -> bool| {
            let labels = labels.iter().zip(logprobs);
            let wanted = labels.filter(|(label, _)| wanted(**label));
            log_sum(wanted.map(|(_, logprob)| *logprob))
        };
        let safe = of(&|label| label == Label::Safe);
        let not_safe = of(&|label| label != Label::Safe);
        let label_mass = safe.exp() + not_safe.exp();
        let has_mass = label_mass > 0.0;
        let has_controversial = labels.contains(&Label::Controversial);
        Self {
            unsafe_score: has_mass.then(|| 1.0 / (1.0 + (safe - not_safe).exp())),
            controversial_score: (has_mass && has_controversial).then(|| {
                let others = of(&|label| label != Label::Controversial);
                1.0 / (1.0 + (others - of(&|label| label == Label::Controversial)).exp())
            }),
            label_mass,
        }
    }
}

/// The logarithm of the sum of what these are the logarithms of, without underflow. That of one is itself, to the bit.
fn log_sum(logarithms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logarithms.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest
        + logarithms
            .map(|logarithm| (logarithm - largest).exp())
            .sum::<f64>()
            .ln()
}

/// Ends decoding as soon as more text cannot change the verdict.
pub(super) struct VerdictStop {
    kind: GuardKind,
    judged: JudgedRole,
    stream: TextStream,
    text: String,
}

impl VerdictStop {
    pub(super) fn new(kind: GuardKind, judged: JudgedRole, tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            kind,
            judged,
            stream: TextStream::new(tokenizer, &[]),
            text: kind.answer_form(judged).begun.to_owned(),
        }
    }
}

impl StopCondition for VerdictStop {
    fn push(&mut self, token: u32) -> bool {
        self.text.push_str(&self.stream.push(token));
        self.kind.is_settled(self.judged, &self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(kind: GuardKind, logprobs: &[f64]) -> Scores {
        let probe = ProbeResult {
            logprobs: logprobs.to_vec(),
            greedy: 0,
        };
        Scores::of(Some(&probe), &kind.answer_form(JudgedRole::User).labels())
    }

    #[test]
    fn scores_come_from_log_probabilities_without_underflow() {
        let scores = |safe: f64, unsafe_: f64| scores(GuardKind::LlamaGuard3_8B, &[safe, unsafe_]);
        let even = scores(0.25f64.ln(), 0.25f64.ln());
        assert_eq!((even.unsafe_score, even.label_mass), (Some(0.5), 0.5));
        assert_eq!(even.controversial_score, None);
        let sure = scores(0.9f64.ln(), 0.1f64.ln());
        assert!((sure.unsafe_score.unwrap() - 0.1).abs() < 1e-12);
        let tiny = scores(-700.0, -701.0);
        assert!((tiny.unsafe_score.unwrap() - 1.0 / (1.0 + 1f64.exp())).abs() < 1e-12);
        assert_eq!(scores(-2000.0, -1999.0).unsafe_score, None);
        assert_eq!(scores(0.0, f64::NEG_INFINITY).unsafe_score, Some(0.0));
        // The same bits as before there were three labels.
        let (safe, unsafe_) = (-0.71, -0.83);
        assert_eq!(
            scores(safe, unsafe_).unsafe_score,
            Some(1.0 / (1.0 + f64::exp(safe - unsafe_)))
        );
    }

    #[test]
    fn the_third_label_is_a_part_of_the_unsafe_score() {
        let [safe, unsafe_, controversial] = [0.2f64, 0.1, 0.5];
        let three = scores(
            GuardKind::Qwen3GuardGen,
            &[safe.ln(), unsafe_.ln(), controversial.ln()],
        );
        assert!((three.label_mass - 0.8).abs() < 1e-12);
        assert!((three.unsafe_score.unwrap() - 0.75).abs() < 1e-12);
        assert!((three.controversial_score.unwrap() - 0.625).abs() < 1e-12);
        let none = scores(GuardKind::Qwen3GuardGen, &[f64::NEG_INFINITY; 3]);
        assert_eq!((none.unsafe_score, none.controversial_score), (None, None));
        let surely = scores(
            GuardKind::Qwen3GuardGen,
            &[f64::NEG_INFINITY, f64::NEG_INFINITY, -1000.0],
        );
        assert_eq!(surely.unsafe_score, None);
    }

    #[test]
    fn without_a_position_there_is_no_score() {
        let labels = GuardKind::WildGuard.answer_form(JudgedRole::Agent).labels();
        let scores = Scores::of(None, &labels);
        assert_eq!((scores.unsafe_score, scores.label_mass), (None, 0.0));
    }
}
