//! Candidates and scores from files, all of them read before the first request: an error in a file is reported at once, and
//! not after hours of translating.

use std::path::PathBuf;

use super::{
    ScoreTable,
    error::TranslateError,
    import,
    translator::{CandidateFile, TranslatorName},
};

/// Candidates and scores that were made elsewhere.
pub struct Imported {
    pub(super) texts: import::Texts,
    pub(super) scores: ScoreTable,
    /// Translators that the command line names, in its order.
    pub(super) named: Vec<String>,
}

impl Imported {
    /// Reads all files.
    ///
    /// # Errors
    /// [`TranslateError::Import`], [`TranslateError::BadName`], [`TranslateError::TranslatedTwice`].
    pub fn read(candidates: &[CandidateFile], score_files: &[PathBuf]) -> Result<Self, TranslateError> {
        let mut texts = import::Texts::new();
        for file in candidates {
            let translator = file.translator.as_ref().map(TranslatorName::as_str);
            for (key, text) in import::candidates(&file.path, translator)? {
                if let Err(reason) = key.translator.parse::<TranslatorName>() {
                    return Err(TranslateError::BadName {
                        path: file.path.clone(),
                        reason,
                    });
                }
                if texts.contains_key(&key) {
                    return Err(TranslateError::TranslatedTwice {
                        path: file.path.clone(),
                        translator: key.translator,
                        id: key.id,
                    });
                }
                texts.insert(key, text);
            }
        }
        let mut scores = ScoreTable::new();
        for file in score_files {
            import::scores(file, &mut scores)?;
        }
        let named = candidates.iter().filter_map(|file| file.translator.as_ref());
        Ok(Self {
            texts,
            scores,
            named: named.map(TranslatorName::to_string).collect(),
        })
    }
}
