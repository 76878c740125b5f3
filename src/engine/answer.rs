//! Turns what a step read after a sequence's last token into its next token, and decides whether that ends the sequence.

use super::{
    error::SequenceError,
    event::{Event, FinishReason, ProbeResult, TokenEvent, TokenLogprobs},
    sampler::Sampler,
    sequence::{Ending, Sequence},
};
use crate::backend::{Candidates, ProbeReading, Reading, Readout, StepOutput, read_row, row_max};

/// What a step read after a sequence's last token, without numeric faults.
pub(crate) enum Read<'a> {
    /// All logits.
    Row(Row<'a>),
    /// The most likely tokens.
    Candidates(&'a Candidates),
    /// What its probe asked for.
    Probe(&'a ProbeReading),
    /// The score that a quality estimator computed.
    Score(f32),
}

/// A row of logits without numeric faults.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// One logit for each token of the vocabulary.
    pub logits: &'a [f32],
    /// The largest logit.
    pub max: f32,
}

/// What log-probabilities of tokens are read from.
#[derive(Clone, Copy)]
enum Distribution<'a> {
    Row(Row<'a>),
    Candidates(&'a Candidates),
}

impl Distribution<'_> {
    /// Log-probabilities of the chosen token and of the `top` most likely ones.
    fn token_logprobs(self, sampler: &mut Sampler, chosen: u32, top: usize) -> TokenLogprobs {
        match self {
            Self::Row(row) => sampler.token_logprobs(row.logits, row.max, chosen, top),
            Self::Candidates(candidates) => TokenLogprobs {
                chosen: candidates.log_probability(chosen).unwrap_or(f64::NEG_INFINITY),
                top: candidates.most_likely(top).collect(),
            },
        }
    }
}

impl<'a> Read<'a> {
    /// # Errors
    /// When what was read is not a number, or not there.
    pub(crate) fn new(
        reading: &'a Reading,
        output: &'a StepOutput,
        width: usize,
    ) -> Result<Self, SequenceError> {
        match reading {
            Reading::Logits { row } => {
                let logits = output.row(*row, width).ok_or(SequenceError::NumericFault)?;
                let max = row_max(logits).ok_or(SequenceError::NumericFault)?;
                Ok(Self::Row(Row { logits, max }))
            }
            Reading::Candidates(candidates) => Ok(Self::Candidates(candidates)),
            Reading::Probe(probe) => Ok(Self::Probe(probe)),
            Reading::Score(score) if score.is_finite() => Ok(Self::Score(*score)),
            Reading::Score(_) | Reading::NotFinite => Err(SequenceError::NumericFault),
        }
    }
}

/// Reports the probe or the score, chooses and reports the next token, and returns the ending if the sequence ends with it.
pub(crate) fn next_token(
    sequence: &mut Sequence,
    read: &Read<'_>,
    sampler: &mut Sampler,
    context_length: usize,
) -> Option<Ending> {
    match read {
        Read::Score(score) => Some(match sequence.send(Event::Score(*score)) {
            true => Ending::Finished(FinishReason::MaxTokens),
            false => Ending::Closed,
        }),
        Read::Probe(probe) => {
            // The sequence is greedy, so the most likely token is its next one.
            let ending = match sequence.probe() {
                Some(_) => report_probe(sequence, probe, None, sampler),
                None => None,
            };
            ending.or_else(|| take_token(sequence, probe.most_likely, None, sampler, context_length))
        }
        Read::Candidates(candidates) => {
            let draw = sequence.generated() as u64;
            let token = sampler.sample_candidates(candidates, &sequence.output.sampling, draw);
            let distribution = Distribution::Candidates(candidates);
            take_token(sequence, token, Some(distribution), sampler, context_length)
        }
        Read::Row(row) => {
            let distribution = Distribution::Row(*row);
            let generated = sequence.generated();
            if let Some(probe) = sequence.probe() {
                let readout = Readout::Probe {
                    tokens: probe.tokens.clone(),
                };
                if let Some(Reading::Probe(probe)) = read_row(&readout, 0, row.logits) {
                    let ending = report_probe(sequence, &probe, Some(distribution), sampler);
                    if ending.is_some() {
                        return ending;
                    }
                }
            }
            if sequence.output.max_new_tokens == 0 {
                return Some(Ending::Finished(FinishReason::MaxTokens));
            }
            let output = &sequence.output;
            let draw = generated as u64;
            let token = sampler.sample(row.logits, row.max, &sequence.tokens, &output.sampling, draw);
            take_token(sequence, token, Some(distribution), sampler, context_length)
        }
    }
}

/// Adds a token to the answer, and says whether that ends it.
fn take_token(
    sequence: &mut Sequence,
    token: u32,
    distribution: Option<Distribution<'_>>,
    sampler: &mut Sampler,
    context_length: usize,
) -> Option<Ending> {
    if sequence.output.max_new_tokens == 0 {
        return Some(Ending::Finished(FinishReason::MaxTokens));
    }
    if sequence.output.eos.contains(&token) {
        return Some(Ending::Finished(FinishReason::Eos));
    }
    if !report_token(sequence, distribution, sampler, token) {
        return Some(Ending::Closed);
    }
    sequence.tokens.push(token);
    let stopped = sequence.output.stop.as_mut().is_some_and(|stop| stop.push(token));
    if stopped {
        Some(Ending::Finished(FinishReason::Stop))
    } else if sequence.generated() >= sequence.output.max_new_tokens {
        Some(Ending::Finished(FinishReason::MaxTokens))
    } else if sequence.tokens.len() >= context_length {
        Some(Ending::Finished(FinishReason::ContextWindow))
    } else {
        None
    }
}

/// Reports a distribution, and ends the sequence if it is the one after the prompt and its most likely token is one of those that
/// the probe finishes on. That token is reported too, unless the request wants no tokens at all.
fn report_probe(
    sequence: &mut Sequence,
    read: &ProbeReading,
    distribution: Option<Distribution<'_>>,
    sampler: &mut Sampler,
) -> Option<Ending> {
    let probe = sequence.output.probe.as_ref()?;
    let finish = sequence.generated() == 0 && probe.finish_on.contains(&read.most_likely);
    let result = ProbeResult {
        logprobs: read.log_probabilities.clone(),
        greedy: read.most_likely,
    };
    if !sequence.send(Event::Probe(result)) {
        return Some(Ending::Closed);
    }
    if !finish {
        return None;
    }
    if sequence.output.max_new_tokens > 0 && !report_token(sequence, distribution, sampler, read.most_likely)
    {
        return Some(Ending::Closed);
    }
    Some(Ending::Finished(FinishReason::Probe))
}

/// Sends a token event. Returns `false` when the caller listens no more. A sequence that wants log-probabilities reads a
/// `distribution`.
fn report_token(
    sequence: &mut Sequence,
    distribution: Option<Distribution<'_>>,
    sampler: &mut Sampler,
    token: u32,
) -> bool {
    let top = sequence.output.logprobs;
    let logprobs = distribution
        .zip(top)
        .map(|(distribution, top)| distribution.token_logprobs(sampler, token, top));
    sequence.counts.completion_tokens += 1;
    sequence.send(Event::Token(TokenEvent { id: token, logprobs }))
}
