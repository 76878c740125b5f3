//! What a translation reports while it goes on.

/// Shows the progress of a translation. Steps follow one another: each is begun, advanced and ended.
pub trait TranslationProgress {
    /// A model is asked so many things from here on; `name` is the translator's or the estimator's.
    fn begin(&mut self, name: &str, requests: usize);

    /// So many of the requests have an answer, those of earlier times included.
    fn advance(&mut self, answered: usize);

    /// The step has ended.
    fn end(&mut self);

    /// Rows of files are left out, because they are about nothing that is translated here.
    fn ignored(&mut self, rows: IgnoredRows);
}

/// Rows of files that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoredRows {
    /// So many candidates are of other prompts or languages.
    Candidates(usize),
    /// So many scores are of other prompts, languages or translators.
    Scores(usize),
}
