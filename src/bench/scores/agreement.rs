//! How often the verdicts of several languages agree.

use serde::{Deserialize, Serialize};

use super::{by_prompt::equal_verdicts, result_table::PromptRow};
use crate::bench::{
    statistics::{Interval, wilson},
    taxonomy::Language,
};

/// How often verdicts are the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Number of rows (prompts, once for each seed) judged safe or unsafe in all the languages compared.
    pub n: u64,
    /// Number of these with the same verdict in all the languages.
    pub equal: u64,
    /// 100 * equal / n; absent when n is 0.
    pub percent: Option<f64>,
    /// Wilson's 95 % interval of the percentage, over prompts.
    pub interval_95: Option<Interval>,
}

impl Agreement {
    /// The agreement of these languages over a run's rows, one for each prompt and seed.
    pub fn of(rows: &[PromptRow], languages: &[Language]) -> Self {
        let equal = equal_verdicts(rows, languages);
        Self {
            interval_95: equal.interval().map(|interval| interval.scaled(100.0)),
            ..Self::from_counts(equal.successes, equal.trials)
        }
    }

    /// The agreement when `equal` of `n` independent prompts have equal verdicts.
    pub fn from_counts(equal: u64, n: u64) -> Self {
        Self {
            n,
            equal,
            percent: (n > 0).then(|| 100.0 * equal as f64 / n as f64),
            interval_95: wilson(equal, n).map(|interval| interval.scaled(100.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::result_table::JudgementStatus, *};
    use crate::bench::taxonomy::Category;

    #[test]
    fn agreement_counts_prompts_judged_in_all_languages() {
        let row = |prompt: u32, first: JudgementStatus, second: JudgementStatus| PromptRow {
            prompt,
            category: Category::UNKNOWN,
            seed: 0,
            statuses: [Some(first), Some(second), None, None, None],
        };
        let languages = [Language::ALL[0], Language::ALL[1]];
        let mut rows = vec![
            row(0, JudgementStatus::Safe, JudgementStatus::Safe),
            row(1, JudgementStatus::Unsafe, JudgementStatus::Unsafe),
            row(2, JudgementStatus::Safe, JudgementStatus::Unsafe),
            row(3, JudgementStatus::Safe, JudgementStatus::Undetermined),
            row(4, JudgementStatus::Failed, JudgementStatus::Safe),
        ];
        let agreement = Agreement::of(&rows, &languages);
        assert_eq!((agreement.n, agreement.equal), (3, 2));
        assert_eq!(agreement.interval_95, Agreement::from_counts(2, 3).interval_95);
        // A second seed of the same prompts makes more rows but hardly more evidence: three prompts are too few for an interval.
        rows.extend(rows.clone());
        let agreement = Agreement::of(&rows, &languages);
        assert_eq!(
            (agreement.n, agreement.equal, agreement.interval_95),
            (6, 4, None)
        );
    }
}
