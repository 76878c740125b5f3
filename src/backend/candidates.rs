//! The most likely tokens of a row of logits: what sampling reads of it, so that the row need not leave the device.

use std::cmp::Ordering;

use super::row::{log_sum_exp, row_max};

/// Most tokens that a device returns of a row.
pub const MOST_CANDIDATES: usize = 256;

/// How the next token is drawn: temperature, then top-k, then top-p, as in transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CandidateFilter {
    /// Divides the logits; above 0.
    pub temperature: f64,
    /// Keeps this many of the most likely tokens, and those that are as likely as the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely tokens that together have this probability; 1 keeps all.
    pub top_p: f64,
}

impl CandidateFilter {
    /// Whether [`MOST_CANDIDATES`] tokens are likely to contain all that it keeps.
    pub fn keeps_few(&self) -> bool {
        match self.top_k {
            0 => self.top_p < 1.0,
            k => k < MOST_CANDIDATES,
        }
    }

    /// What differences of logits are multiplied with. It is finite for any temperature above 0.
    pub fn inverse_temperature(&self) -> f64 {
        (1.0 / self.temperature).min(f64::MAX.sqrt())
    }

    /// Whether the candidates of a row of `vocabulary` logits contain all tokens that it keeps.
    pub fn is_covered_by(&self, candidates: &Candidates, vocabulary: usize) -> bool {
        let tokens = &candidates.tokens;
        let Some(last) = tokens.last() else {
            return false;
        };
        if tokens.len() >= vocabulary {
            return true;
        }
        match self.top_k {
            0 => {
                let inverse = self.inverse_temperature();
                let largest = f64::from(tokens[0].logit);
                let weight = |token: &Candidate| ((f64::from(token.logit) - largest) * inverse).exp();
                // The last one is outside when those before it have enough.
                let before: f64 = tokens[..tokens.len() - 1].iter().map(weight).sum();
                before >= self.top_p * candidates.weight
            }
            // All that tie with the k-th are there when the last one does not.
            k => tokens.get(k - 1).is_some_and(|kth| kth.logit > last.logit),
        }
    }
}

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token's id.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

/// The most likely tokens of a row, and what their probabilities are in relation to.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// The most likely first, and of equals the lowest id.
    pub tokens: Vec<Candidate>,
    /// ln Σ exp(logit) over the whole vocabulary.
    pub log_sum_exp: f64,
    /// Σ exp((logit − largest) / temperature) over the whole vocabulary.
    pub weight: f64,
}

impl Candidates {
    /// The `count` most likely tokens of a row in the host's memory: what a device must return of it. `None` where
    /// [`row_max`] finds that the row cannot be trusted.
    pub fn of_row(row: &[f32], count: usize, inverse_temperature: f64) -> Option<Self> {
        let largest = row_max(row)?;
        let mut tokens: Vec<_> = (0..)
            .zip(row)
            .map(|(id, &logit)| Candidate { id, logit })
            .collect();
        // Stable, so that of equal logits, zeros of either sign among them, the lowest id is first.
        let above = |a: &Candidate, b: &Candidate| b.logit.partial_cmp(&a.logit);
        tokens.sort_by(|a, b| above(a, b).unwrap_or(Ordering::Equal));
        tokens.truncate(count);
        let weight = |logit: &f32| ((f64::from(*logit) - f64::from(largest)) * inverse_temperature).exp();
        Some(Self {
            tokens,
            log_sum_exp: log_sum_exp(row, largest),
            weight: row.iter().map(weight).sum(),
        })
    }

    /// The `count` most likely tokens with their log-probabilities.
    pub fn most_likely(&self, count: usize) -> impl Iterator<Item = (u32, f64)> {
        let tokens = self.tokens.iter().take(count);
        tokens.map(|token| (token.id, f64::from(token.logit) - self.log_sum_exp))
    }

    /// The log-probability of one of the tokens; `None` for others.
    pub fn log_probability(&self, token: u32) -> Option<f64> {
        let found = self.tokens.iter().find(|candidate| candidate.id == token)?;
        Some(f64::from(found.logit) - self.log_sum_exp)
    }
}
