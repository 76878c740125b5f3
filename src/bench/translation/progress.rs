//! What a translation reports while it goes on.

/// Shows the progress of a translation. Steps follow one another: each is begun, advanced and ended.
pub trait TranslationProgress {
    /// A step begins that sends this many requests to a model; `name` is that of the translator or the estimator.
    fn begin(&mut self, name: &str, requests: usize);

    /// This many of the step's requests have an answer, including answers of an earlier translation.
    fn advance(&mut self, answered: usize);

    /// The step has ended.
    fn end(&mut self);

    /// Rows of files are left out, because they are about nothing that is translated here.
    fn ignored(&mut self, rows: IgnoredRows);
}

/// Rows of files that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoredRows {
    /// This many candidates are of other prompts or languages.
    Candidates(usize),
    /// This many scores are of other prompts, languages or translators.
    Scores(usize),
}
