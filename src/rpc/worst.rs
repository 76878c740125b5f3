//! Several verdicts together: which one counts, and what they took.

use std::{cmp::Ordering, iter::Sum};

use super::usage;
use crate::proto;

/// Most verdicts of one request that are under way at a time, so that a request with many does not fill the queue alone.
pub(super) const OPEN_VERDICTS: usize = 32;

/// How bad a label is.
fn severity(label: proto::Label) -> u8 {
    match label {
        proto::Label::Unspecified | proto::Label::Safe => 0,
        proto::Label::Undetermined => 1,
        proto::Label::Controversial => 2,
        proto::Label::Unsafe => 3,
    }
}

fn compare(one: &proto::Verdict, other: &proto::Verdict) -> Ordering {
    let score = |verdict: &proto::Verdict| verdict.unsafe_score.unwrap_or(f64::NEG_INFINITY);
    let by_label = severity(one.label()).cmp(&severity(other.label()));
    by_label.then(score(one).total_cmp(&score(other)))
}

/// The index of the worst verdict: by its label, then by its score; the first of equals.
pub(super) fn worst<'a>(verdicts: impl IntoIterator<Item = &'a proto::Verdict>) -> Option<usize> {
    let mut found: Option<(usize, &proto::Verdict)> = None;
    for (index, verdict) in verdicts.into_iter().enumerate() {
        if found.is_none_or(|(_, worst)| compare(verdict, worst) == Ordering::Greater) {
            found = Some((index, verdict));
        }
    }
    found.map(|(index, _)| index)
}

/// What verdicts took together, with the probabilities of their categories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TotalUsage {
    usage: proto::Usage,
    /// Verdicts, each of a whole message or of a window.
    pub(super) verdicts: usize,
}

impl TotalUsage {
    /// What one verdict took.
    pub(super) fn of(verdict: &proto::Verdict) -> Self {
        let parts = [verdict.usage, verdict.category_usage];
        Self {
            usage: usage::sum(parts.into_iter().flatten()),
            verdicts: 1,
        }
    }

    /// For the answer; `None` where one verdict says it all.
    pub(super) fn told(self) -> Option<proto::Usage> {
        (self.verdicts > 1).then_some(self.usage)
    }
}

impl Sum for TotalUsage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            usage: usage::sum([sum.usage, one.usage]),
            verdicts: sum.verdicts + one.verdicts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Label::{Controversial, Safe, Undetermined, Unsafe};

    fn verdict(label: proto::Label, unsafe_score: Option<f64>) -> proto::Verdict {
        proto::Verdict {
            label: label.into(),
            unsafe_score,
            ..proto::Verdict::default()
        }
    }

    #[test]
    fn the_worst_verdict_is_that_of_the_worst_label_then_of_the_highest_score() {
        let of = |verdicts: &[proto::Verdict]| worst(verdicts);
        assert_eq!(of(&[]), None);
        let labels = [
            verdict(Safe, Some(0.9)),
            verdict(Undetermined, None),
            verdict(Controversial, Some(0.2)),
            verdict(Unsafe, Some(0.1)),
        ];
        for end in 1..=labels.len() {
            assert_eq!(of(&labels[..end]), Some(end - 1));
        }
        let scores = [None, Some(0.6), Some(0.8), Some(0.8)];
        assert_eq!(of(&scores.map(|score| verdict(Unsafe, score))), Some(2));
    }

    #[test]
    fn what_one_verdict_took_is_not_told_twice() {
        let usage = |prompt_tokens| proto::Usage {
            prompt_tokens,
            completion_tokens: 1,
            cached_prompt_tokens: 2,
            forward_passes: 3,
        };
        let one = TotalUsage::of(&proto::Verdict {
            usage: Some(usage(10)),
            category_usage: Some(usage(5)),
            ..proto::Verdict::default()
        });
        assert_eq!(one.told(), None);
        let told = [one, one].into_iter().sum::<TotalUsage>().told().unwrap();
        assert_eq!((told.prompt_tokens, told.completion_tokens), (30, 4));
        assert_eq!((told.cached_prompt_tokens, told.forward_passes), (8, 12));
    }
}
