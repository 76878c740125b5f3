//! Numbers of a row of logits that is in the host's memory. All arithmetic is in a fixed order, so the same row gives the same
//! bits on every run.

/// The largest logit of a row, or `None` when the row cannot be trusted: when it has a NaN or a positive infinity, or
/// nothing but negative infinities. Single logits of negative infinity are valid, because models mask tokens with them.
pub fn row_max(row: &[f32]) -> Option<f32> {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut sound = true;
    // Two independent folds without early exits, so that the compiler vectorises them.
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
            sound &= x < f32::INFINITY; // false for NaN as well
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
        sound &= x < f32::INFINITY;
    }
    let max = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (sound && max > f32::NEG_INFINITY).then_some(max)
}

/// The lowest token id whose logit is `max`, the row's [`row_max`].
pub fn argmax(row: &[f32], max: f32) -> u32 {
    const CHUNK: usize = 64;
    // Whole chunks are compared without an early exit, which vectorises; then the position in the first match is found.
    let has_max = |chunk: &[f32]| chunk.iter().fold(false, |found, &x| found | (x == max));
    let begin = row.chunks(CHUNK).position(has_max).unwrap_or(0) * CHUNK;
    let offset = row.iter().skip(begin).position(|&x| x == max).unwrap_or(0);
    (begin + offset) as u32
}

/// ln Σ exp(logit) over the row; subtracting it from a logit gives the token's log-probability.
pub fn log_sum_exp(row: &[f32], max: f32) -> f64 {
    let max = f64::from(max);
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    max + sum.ln()
}

/// Log-probability of one token; negative infinity for an id outside the vocabulary.
pub fn logprob(row: &[f32], log_sum_exp: f64, token: u32) -> f64 {
    row.get(token as usize)
        .map_or(f64::NEG_INFINITY, |&x| f64::from(x) - log_sum_exp)
}
