//! A verdict from what an endpoint tells of a guard's answer: its text, and at each position the most likely tokens with their
//! log-probabilities.
//!
//! It is read as a guard's own probes and tokens are (`judge.rs`), with two differences. Labels that are not among the listed tokens
//! have a probability that is not known, and how large it can be is told. And where the guard's tokenizer is not known, a label's
//! first token is the most likely listed one with which its word begins: a vocabulary has many beginnings of a word, and the model
//! writes one of them.

use super::{
    judge::Guard,
    policy::Policy,
    question::{AnswerForm, JudgedRole, Label, LabelPosition, LabelWord},
    verdict::{Scores, Verdict},
};
use crate::engine::ProbeResult;

/// By how much a log-probability may be above 0, and the sum of listed probabilities above 1: endpoints compute in single precision,
/// some of them in half.
const ROUNDING: f64 = 1e-2;

/// One of the most likely tokens at a position of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its id, where the endpoint tells it.
    pub id: Option<u32>,
    /// Its bytes, or its text where the endpoint tells no bytes.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f64,
}

/// A position of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedPosition {
    /// The bytes of the token that was written.
    pub token: Vec<u8>,
    /// The most likely tokens.
    pub likely: Vec<Listed>,
}

/// An answer as an endpoint tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedAnswer {
    /// Its text.
    pub text: String,
    /// Its positions in their order.
    pub positions: Vec<ListedPosition>,
}

/// A verdict, and what is not known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedVerdict {
    /// The verdict, in which words of labels that were not listed count as impossible.
    pub verdict: Verdict,
    /// Tokens that were listed at the label's position; 0 where the text never came to it.
    pub listed: usize,
    /// The most that words of labels which were not listed can add to the label mass.
    pub unlisted_mass: f64,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListedProblem {
    /// There is text, and no token of it.
    #[error("it has no log-probabilities of the answer's tokens")]
    NoPositions,
    /// Nothing but the written token is listed where the label stands.
    #[error("it lists no other likely tokens where the label stands")]
    NothingListed,
    /// The tokens and the text are not of one answer.
    #[error("its tokens are not those of its text")]
    OtherText,
    /// A log-probability is not a number, or above 0, or the listed probabilities add up to more than 1.
    #[error("its log-probabilities are not those of one distribution")]
    NoDistribution,
}

impl Guard {
    /// The verdict on a prompt with this policy from what an endpoint tells of the answer.
    ///
    /// # Errors
    /// When what it tells cannot be true of any answer, or has no probabilities where the label stands.
    pub fn listed_verdict(
        &self,
        judged: JudgedRole,
        answer: &ListedAnswer,
        policy: Option<&Policy>,
    ) -> Result<ListedVerdict, ListedProblem> {
        if answer.positions.is_empty() && !answer.text.is_empty() {
            return Err(ListedProblem::NoPositions);
        }
        let form = self.kind().answer_form(judged);
        let pieces = pieces(answer)?;
        let position = label_position(&form, &pieces);
        let (scores, listed, unlisted_mass) = match position.map(|index| answer.positions.get(index)) {
            Some(Some(position)) => {
                let found = Found::at(position, &form, self.label_tokens(judged), self)?;
                (found.scores(&form), position.likely.len(), found.unlisted_mass)
            }
            // The text has ended before the label, or has no words at all.
            Some(None) | None => (Scores::of(None, &form.labels()), 0, 0.0),
        };
        let raw_output = self.settled(judged, &form, &pieces);
        let reading = self.kind().read(judged, &raw_output, self.judged_by(policy));
        Ok(ListedVerdict {
            verdict: Verdict {
                label: reading.label,
                unsafe_score: scores.unsafe_score,
                controversial_score: scores.controversial_score,
                label_mass: scores.label_mass.min(1.0),
                categories: reading.categories,
                refusal: reading.refusal,
                raw_output,
                category_shares: Vec::new(),
            },
            listed,
            unlisted_mass,
        })
    }

    /// The text up to where more of it cannot change the verdict, after which a guard in this process does not decode either.
    fn settled(&self, judged: JudgedRole, form: &AnswerForm, pieces: &[String]) -> String {
        let mut text = form.begun.to_owned();
        let is_safe_word = |written: &str| {
            let mut safe = form.words.iter().filter(|word| word.label == Label::Safe);
            safe.any(|word| word.text.trim() == written.trim())
        };
        let may_end = form.safe_is_all && !matches!(form.position, LabelPosition::After(_));
        for piece in pieces {
            text.push_str(piece);
            let written = text.get(form.begun.len()..).unwrap_or_default();
            // A word of several tokens may go on: `safe` is also the beginning of `safety`.
            let is_one_token = written.trim() == piece.trim();
            if may_end && is_one_token && is_safe_word(written) || self.kind().is_settled(judged, &text) {
                break;
            }
        }
        text
    }
}

/// The text in the pieces that its tokens have written. Bytes that are no characters by themselves stand in the piece that completes
/// them.
fn pieces(answer: &ListedAnswer) -> Result<Vec<String>, ListedProblem> {
    let text = answer.text.as_bytes();
    let mut pieces = Vec::with_capacity(answer.positions.len());
    let (mut start, mut end) = (0, 0);
    for (index, position) in answer.positions.iter().enumerate() {
        let rest = text.get(end..).unwrap_or_default();
        let token = position.token.as_slice();
        let written = match rest.starts_with(token) {
            true => token.len(),
            // Decoders of SentencePiece leave out the space before the first word.
            false if index == 0 => match token.strip_prefix(b" ").or(token.strip_prefix("▁".as_bytes())) {
                Some(word) if rest.starts_with(word) => word.len(),
                _ => unwritten(token, rest)?,
            },
            false => unwritten(token, rest)?,
        };
        end += written;
        let piece = match answer.text.is_char_boundary(end) {
            true => answer.text.get(start..end).unwrap_or_default(),
            false => "",
        };
        if !piece.is_empty() {
            start = end;
        }
        pieces.push(piece.to_owned());
    }
    match end == text.len() {
        true => Ok(pieces),
        false => Err(ListedProblem::OtherText),
    }
}

/// Bytes of the text's rest that a token has written which does not stand there as it is.
///
/// # Errors
/// When it is plain text, so that it should stand there.
fn unwritten(token: &[u8], rest: &[u8]) -> Result<usize, ListedProblem> {
    let is_special = token.starts_with(b"<") && token.ends_with(b">");
    match std::str::from_utf8(token) {
        // The end of a sequence, which is no text. Nothing stands behind it.
        Ok(_) if is_special || rest.is_empty() => Ok(0),
        Ok(text) if !text.contains(char::REPLACEMENT_CHARACTER) => Err(ListedProblem::OtherText),
        // A part of a character, which an endpoint that tells no bytes cannot show. All that is left counts as its text, so that
        // nothing is left out of what is read.
        Ok(_) | Err(_) => Ok(rest.len()),
    }
}

/// How many tokens stand before the label; `None` where the text does not come to it.
fn label_position(form: &AnswerForm, pieces: &[String]) -> Option<usize> {
    let name = match form.position {
        LabelPosition::First => return Some(0),
        LabelPosition::FirstWord => {
            let first = pieces.iter().position(|piece| !piece.trim().is_empty());
            return Some(first.unwrap_or(pieces.len()));
        }
        LabelPosition::After(example) => example.rsplit('\n').next().unwrap_or(example),
    };
    let mut text = form.begun.to_owned();
    pieces.iter().position(|piece| {
        let line = text.rsplit_once('\n');
        let found = line.is_some_and(|(_, line)| line.trim() == name);
        text.push_str(piece);
        found
    })
}

/// Which listed tokens begin which labels.
struct Found {
    /// Log-probabilities of listed tokens that begin a label, each with the label.
    labelled: Vec<(Label, f64)>,
    /// See [`ListedVerdict::unlisted_mass`].
    unlisted_mass: f64,
}

impl Found {
    /// `first` are the labels' first tokens, in the order of the words, of a guard whose tokenizer is known.
    fn at(
        position: &ListedPosition,
        form: &AnswerForm,
        first: &[u32],
        guard: &Guard,
    ) -> Result<Self, ListedProblem> {
        // The written token alone tells nothing of the other labels.
        if position.likely.len() < 2 {
            return Err(ListedProblem::NothingListed);
        }
        let is_logarithm = |one: &Listed| !one.logprob.is_nan() && one.logprob <= ROUNDING;
        let mass: f64 = position.likely.iter().map(|one| one.logprob.exp()).sum();
        if !position.likely.iter().all(is_logarithm) || mass > 1.0 + ROUNDING {
            return Err(ListedProblem::NoDistribution);
        }
        let texts: Vec<_> = position.likely.iter().map(|one| spaced(&one.bytes)).collect();
        // Tokens of white space alone say nothing of how the spaces before words are shown.
        let is_spaced_word = |text: &String| text.starts_with(' ') && !text.trim().is_empty();
        let shows_spaces = texts.iter().any(is_spaced_word);
        let mut taken: Vec<usize> = Vec::new();
        let mut labelled = Vec::new();
        let mut missing = 0;
        for (index, word) in form.words.iter().enumerate() {
            let found = match guard.tokenizer().zip(first.get(index)) {
                Some((tokenizer, id)) => {
                    let text = spaced(tokenizer.token_bytes(*id));
                    let same_text = |listed: &str| match shows_spaces {
                        true => listed == text,
                        false => listed == text.trim_start(),
                    };
                    position
                        .likely
                        .iter()
                        .zip(&texts)
                        .position(|(one, listed)| match one.id {
                            Some(listed) => listed == *id,
                            None => same_text(listed),
                        })
                }
                None => likeliest_beginning(&position.likely, &texts, word, form.words, shows_spaces),
            };
            match found {
                Some(found) if taken.contains(&found) => {}
                Some(found) => {
                    taken.push(found);
                    labelled.push((word.label, position.likely[found].logprob.min(0.0)));
                }
                None => missing += 1,
            }
        }
        let least = position.likely.iter().map(|one| one.logprob).fold(0.0, f64::min);
        let most_each = f64::from(u32::try_from(missing).unwrap_or(u32::MAX)) * least.exp();
        Ok(Self {
            labelled,
            unlisted_mass: most_each.min(1.0 - mass).max(0.0),
        })
    }

    /// Every label of the form has its place, so that one which is not listed counts as impossible.
    fn scores(&self, form: &AnswerForm) -> Scores {
        let mut labels = form.labels();
        let mut logprobs = vec![f64::NEG_INFINITY; labels.len()];
        for (label, logprob) in &self.labelled {
            labels.push(*label);
            logprobs.push(*logprob);
        }
        let probe = ProbeResult { logprobs, greedy: 0 };
        Scores::of(Some(&probe), &labels)
    }
}

/// A token's text with the space before it as a space, however the endpoint shows it.
fn spaced(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.strip_prefix(['▁', 'Ġ']) {
        Some(rest) => format!(" {rest}"),
        None => text.into_owned(),
    }
}

/// The most likely listed token with which a word begins, and no word of another label. `texts` are those of the listed tokens.
fn likeliest_beginning(
    likely: &[Listed],
    texts: &[String],
    word: &LabelWord,
    words: &[LabelWord],
    shows_spaces: bool,
) -> Option<usize> {
    let begins = |word: &LabelWord, text: &str| match shows_spaces {
        true => word.text.starts_with(text),
        false => word.text.trim_start().starts_with(text),
    };
    let is_of_another = |text: &str| {
        let mut others = words.iter().filter(|other| other.label != word.label);
        others.any(|other| begins(other, text))
    };
    let fits = |text: &str| !text.trim().is_empty() && begins(word, text) && !is_of_another(text);
    let fitting = likely.iter().zip(texts).enumerate();
    let fitting = fitting.filter(|(_, (_, text))| fits(text.as_str()));
    let fitting = fitting.map(|(index, (one, _))| (index, one.logprob));
    fitting
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(index, _)| index)
}

#[cfg(test)]
#[path = "listed_tests.rs"]
mod tests;
