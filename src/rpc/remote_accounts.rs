//! What a request to an endpoint has used, whether it was for a target's answer or for a guard's.

use super::{call_trace::SequenceTrace, record::Record};
use crate::auth::TokenReservation;

/// Bytes of English text for a token, by which tokens are counted that only the endpoint can count, and that it has not counted yet.
pub(super) const BYTES_PER_TOKEN: usize = 4;

/// Adds what a request used to the tenant's quota, to the totals of its call, to the metrics and to the trace, once it has ended.
pub(super) fn settle(record: &Record, reserved: &mut TokenReservation, used: &SequenceTrace<'_>) {
    let SequenceTrace {
        model,
        times,
        prompt_tokens,
        cached_tokens,
        answer_tokens,
        ..
    } = *used;
    reserved.use_tokens(prompt_tokens.saturating_add(answer_tokens));
    record.note(|tally| {
        tally.add_sequence(prompt_tokens);
        tally.add_cached_tokens(cached_tokens);
        tally.add_answer_tokens(answer_tokens);
        tally.add_times(times);
    });
    let tokens = [
        ("prompt", prompt_tokens.saturating_sub(cached_tokens)),
        ("cached", cached_tokens),
        ("generated", answer_tokens),
    ];
    for (kind, count) in tokens.into_iter().filter(|(_, count)| *count > 0) {
        metrics::counter!("babelward_tokens_total", "model" => model.to_owned(), "kind" => kind)
            .increment(count as u64);
    }
    if let Some(trace) = record.trace() {
        trace.end_sequence(used);
    }
}
