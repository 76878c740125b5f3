//! A text as the token sequences that a classifier reads, and what is read of them together.

use std::{ops::Range, path::Path, sync::Arc};

use crate::{
    engine::{OutputSpec, Probe, ProbePositions, ProbeResult, Sampling},
    model::{CONFIG, ClassifierConfig, ClassifierFamily, ConfigError, FileError, read_json},
    text::{Allowance, Tokenizer, TokenizerError},
};

/// Most windows that a text is read in. Longer texts are refused.
pub const MOST_WINDOWS: usize = 64;

/// Neighbouring windows share one token in so many.
const OVERLAP: usize = 4;

/// Tokens around each window: one before it and one behind it.
const AROUND: usize = 2;

/// What a classifier says of a text, and what its network is, by its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSet {
    /// Whose network it is, which decides about the tokens around a text.
    pub family: ClassifierFamily,
    /// Names of the labels by their index; at least two.
    pub names: Vec<String>,
}

/// The special tokens before and behind a text.
fn around(family: ClassifierFamily) -> [&'static str; AROUND] {
    match family {
        ClassifierFamily::XlmRoberta | ClassifierFamily::Roberta => ["<s>", "</s>"],
        ClassifierFamily::Deberta => ["[CLS]", "[SEP]"],
    }
}

/// A classifier's tokenizer and labels.
pub struct TextClassifier {
    tokenizer: Arc<Tokenizer>,
    begin: u32,
    end: u32,
    /// Names of the labels by their index; at least two.
    labels: Vec<String>,
    /// Tokens of a text that fit into one window; at least one.
    room: usize,
}

/// Why the labels of a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The configuration cannot be read.
    #[error(transparent)]
    File(Box<FileError>),
    /// The configuration describes no classifier.
    #[error("{CONFIG}: {0}")]
    Config(Box<ConfigError>),
}

/// The labels of the classifier in the folder `path`.
///
/// # Errors
/// When its `config.json` cannot be read or is none of a classifier; names the key.
pub fn labels_of(path: &Path) -> Result<LabelSet, LabelsError> {
    let json = read_json(path, CONFIG).map_err(|error| LabelsError::File(Box::new(error)))?;
    let config = ClassifierConfig::from_json(&json).map_err(|error| LabelsError::Config(Box::new(error)))?;
    Ok(LabelSet {
        family: config.family,
        names: config.labels,
    })
}

/// How probable the labels are in one window.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelOdds {
    /// In the order of the labels; their sum is 1.
    pub probabilities: Vec<f64>,
}

impl LabelOdds {
    /// Index of the most probable label; the first of several.
    pub fn most_probable(&self) -> usize {
        let mut best = 0;
        for (index, probability) in self.probabilities.iter().enumerate() {
            if *probability > self.probabilities[best] {
                best = index;
            }
        }
        best
    }
}

impl TextClassifier {
    /// `context` is the model's longest sequence in tokens, and `vocab_size` the number of tokens that it knows.
    ///
    /// # Errors
    /// When the tokenizer lacks a special token that the sequences need, or has tokens that a model of this vocabulary has not.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        labels: LabelSet,
        context: usize,
        vocab_size: usize,
    ) -> Result<Self, TokenizerError> {
        tokenizer.check_vocabulary(vocab_size)?;
        let special = |text: &str| {
            tokenizer.special_id(text).ok_or_else(|| {
                TokenizerError::Invalid(format!(
                    "there is no special token `{text}`, which the classifier needs"
                ))
            })
        };
        let [first, last] = around(labels.family);
        let (begin, end) = (special(first)?, special(last)?);
        let room = context.saturating_sub(AROUND);
        if room == 0 {
            return Err(TokenizerError::Invalid(format!(
                "a context of {context} tokens has no room for a text between `{first}` and `{last}`"
            )));
        }
        Ok(Self {
            tokenizer,
            begin,
            end,
            labels: labels.names,
            room,
        })
    }

    /// Turns texts into its tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Names of the labels by their index.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Tokens of the longest text that is read.
    pub fn most_tokens(&self) -> usize {
        self.room + (MOST_WINDOWS - 1) * step(self.room)
    }

    /// The tokens of a text, without those around a window. Special tokens that are spelled in it stay text.
    ///
    /// # Errors
    /// When the text has more tokens than the allowance, or a character that cannot be encoded.
    pub fn encode_within(&self, text: &str, allowance: Allowance<'_>) -> Result<Vec<u32>, TokenizerError> {
        self.tokenizer.encode_plain_within(text, allowance)
    }

    /// The windows of a text of so many tokens: one that has all of them, or several that overlap by a quarter, of which the last
    /// one ends with the text.
    pub fn windows(&self, tokens: usize) -> Vec<Range<usize>> {
        windows(tokens, self.room)
    }

    /// The sequence that the model reads for a window of a text's tokens.
    pub fn sequence(&self, window: &[u32]) -> Vec<u32> {
        let mut sequence = Vec::with_capacity(window.len() + AROUND);
        sequence.push(self.begin);
        sequence.extend_from_slice(window);
        sequence.push(self.end);
        sequence
    }

    /// What the engine produces for a sequence: to it, a label is the next token, and it ends there.
    pub fn output_spec(&self) -> OutputSpec {
        let labels: Vec<u32> = (0..).take(self.labels.len()).collect();
        OutputSpec {
            max_new_tokens: 0,
            eos: Arc::new([]),
            sampling: Sampling::greedy(),
            logprobs: None,
            probe: Some(Probe {
                finish_on: labels.clone(),
                tokens: labels,
                positions: ProbePositions::AfterPrompt,
            }),
            score: false,
            stop: None,
            pin_prompt: false,
        }
    }

    /// What a probe of a sequence says.
    pub fn odds(&self, probe: &ProbeResult) -> LabelOdds {
        LabelOdds {
            probabilities: probe.logprobs.iter().map(|logprob| logprob.exp()).collect(),
        }
    }

    /// The window that counts: where the harmless label is least probable, and the first of several.
    pub fn worst(&self, windows: &[LabelOdds], harmless: usize) -> usize {
        let of = |index: usize| windows[index].probabilities.get(harmless).copied();
        let mut worst = 0;
        for index in 1..windows.len() {
            if of(index) < of(worst) {
                worst = index;
            }
        }
        worst
    }
}

/// How many tokens each window begins after the one before.
fn step(room: usize) -> usize {
    (room - room / OVERLAP).max(1)
}

fn windows(tokens: usize, room: usize) -> Vec<Range<usize>> {
    let mut windows = Vec::new();
    let mut start = 0;
    while start + room < tokens {
        windows.push(start..start + room);
        start += step(room);
    }
    windows.push(tokens.saturating_sub(room)..tokens);
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_hold_every_token_overlap_and_are_full(tokens in 0usize..3000, room in 1usize..600) {
            let windows = windows(tokens, room);
            prop_assert_eq!(windows.first().map(|window| window.start), Some(0));
            prop_assert_eq!(windows.last().map(|window| window.end), Some(tokens));
            for pair in windows.windows(2) {
                prop_assert!(pair[1].start > pair[0].start);
                prop_assert!(pair[1].start + room / OVERLAP <= pair[0].end);
            }
            if windows.len() > 1 {
                prop_assert!(windows.iter().all(|window| window.len() == room));
            }
        }

        #[test]
        fn the_longest_text_has_the_most_windows(room in 1usize..600) {
            let most = room + (MOST_WINDOWS - 1) * step(room);
            prop_assert_eq!(windows(most, room).len(), MOST_WINDOWS);
            prop_assert_eq!(windows(most + 1, room).len(), MOST_WINDOWS + 1);
        }
    }
}
