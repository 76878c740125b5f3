//! Turns the logits after a sequence's last token into its next token, and decides whether that ends the sequence.

use super::{
    event::{Event, FinishReason, ProbeResult, TokenEvent},
    sampler::{self, Sampler},
    sequence::{Ending, Sequence},
};

/// A row of logits without numeric faults.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// One logit for each token of the vocabulary.
    pub logits: &'a [f32],
    /// The largest logit.
    pub max: f32,
}

/// Reports the probe, chooses and reports the next token, and returns the ending if the sequence ends with it.
pub fn next_token(
    sequence: &mut Sequence,
    row: Row<'_>,
    sampler: &mut Sampler,
    context_length: usize,
) -> Option<Ending> {
    let generated = sequence.generated();
    if generated == 0 && sequence.output.probe.is_some() {
        let ending = probe(sequence, row, sampler);
        if ending.is_some() {
            return ending;
        }
    }
    if sequence.output.row && generated == 0 {
        let open = sequence.send(Event::Row(row.logits.to_vec()));
        return Some(if open {
            Ending::Finished(FinishReason::MaxTokens)
        } else {
            Ending::Closed
        });
    }
    if sequence.output.max_new_tokens == 0 {
        return Some(Ending::Finished(FinishReason::MaxTokens));
    }
    let token = sampler.sample(
        row.logits,
        row.max,
        &sequence.tokens,
        &sequence.output.sampling,
        generated as u64,
    );
    if sequence.output.eos.contains(&token) {
        return Some(Ending::Finished(FinishReason::Eos));
    }
    if !report_token(sequence, row, sampler, token) {
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

/// Reports the distribution after the prompt, and ends the sequence if the most likely token is one of those that the
/// probe finishes on. That token is reported too, unless the request wants no tokens at all.
fn probe(sequence: &mut Sequence, row: Row<'_>, sampler: &mut Sampler) -> Option<Ending> {
    let probe = sequence.output.probe.as_ref()?;
    let greedy = sampler::argmax(row.logits, row.max);
    let log_sum_exp = sampler::log_sum_exp(row.logits, row.max);
    let logprobs = probe
        .tokens
        .iter()
        .map(|&token| sampler::logprob(row.logits, log_sum_exp, token))
        .collect();
    let finish = probe.finish_on.contains(&greedy);
    if !sequence.send(Event::Probe(ProbeResult { logprobs, greedy })) {
        return Some(Ending::Closed);
    }
    if !finish {
        return None;
    }
    if sequence.output.max_new_tokens > 0 && !report_token(sequence, row, sampler, greedy) {
        return Some(Ending::Closed);
    }
    Some(Ending::Finished(FinishReason::Probe))
}

/// Sends a token event. Returns `false` when the caller listens no more.
fn report_token(sequence: &mut Sequence, row: Row<'_>, sampler: &mut Sampler, token: u32) -> bool {
    let logprobs = sequence
        .output
        .logprobs
        .map(|top| sampler.token_logprobs(row.logits, row.max, token, top));
    sequence.counts.completion_tokens += 1;
    sequence.send(Event::Token(TokenEvent { id: token, logprobs }))
}
