//! Chooses tokens and reads log-probabilities from rows of logits.
//!
//! Filters follow Hugging Face transformers, in its order: repetition penalty, temperature, top-k, top-p. All arithmetic
//! is in f64 and in a fixed order, so the same row and the same draw give the same token on every run.

use super::{event::TokenLogprobs, request::Sampling};
use crate::{
    backend::{Candidate, Candidates, argmax, log_sum_exp, logprob},
    random::{GOLDEN, mix},
};

/// A uniform number in [0, 1): draw `n` of the stream of `seed`. It is counter-based (splitmix64 at position `n`, from a
/// state that is itself a hash of the seed, so that the streams of neighbouring seeds do not overlap). So a draw does not
/// depend on earlier draws, on the batch, or on a preemption.
pub(crate) fn uniform(seed: u64, n: u64) -> f64 {
    let state = mix(seed ^ 0x6a09_e667_f3bc_c909).wrapping_add(n.wrapping_add(1).wrapping_mul(GOLDEN));
    (mix(state) >> 11) as f64 / (1u64 << 53) as f64
}

/// Chooses tokens. Its buffers are reused for all rows.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// Logits of the row, after penalty and temperature.
    scores: Vec<f64>,
    /// Candidates for the k-th largest score; during a draw, the weights of the kept tokens.
    selection: Vec<f64>,
    /// Tokens that the filters keep.
    kept: Vec<u32>,
    /// Candidates in ascending order of id.
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// Chooses the next token. `max` is the row's [`row_max`](crate::backend::row_max), `context` the prompt and the answer so far,
    /// `draw` the number of tokens generated before this one.
    pub(crate) fn sample(
        &mut self,
        row: &[f32],
        max: f32,
        context: &[u32],
        sampling: &Sampling,
        draw: u64,
    ) -> u32 {
        if sampling.takes_the_most_likely() {
            return argmax(row, max);
        }
        self.load(row);
        if sampling.penalises() {
            self.penalise(row, context, sampling.repetition_penalty);
        }
        if sampling.is_greedy() {
            return self.best();
        }
        self.temper(sampling.temperature);
        let kept_all = self.filter(sampling, None);
        self.draw(kept_all, uniform(sampling.seed, draw))
    }

    /// Chooses the next token among the most likely ones, which contain all that the filters keep. It is the token that
    /// [`Sampler::sample`] chooses from the whole row. There is no penalty.
    pub(crate) fn sample_candidates(
        &mut self,
        candidates: &Candidates,
        sampling: &Sampling,
        draw: u64,
    ) -> u32 {
        let Some(most_likely) = candidates.tokens.first() else {
            return 0;
        };
        if sampling.is_greedy() {
            return most_likely.id;
        }
        // In the order of the row, in which weights are summed.
        self.candidates.clear();
        self.candidates.extend_from_slice(&candidates.tokens);
        self.candidates.sort_unstable_by_key(|token| token.id);
        self.scores.clear();
        self.scores
            .extend(self.candidates.iter().map(|token| f64::from(token.logit)));
        self.temper(sampling.temperature);
        let kept_all = self.filter(sampling, Some(candidates.weight));
        let chosen = self.draw(kept_all, uniform(sampling.seed, draw));
        self.candidates[chosen as usize].id
    }

    /// Makes scores relative to the best one, so that a tiny temperature cannot overflow, and divides them by it.
    fn temper(&mut self, temperature: f64) {
        let best = self.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for score in &mut self.scores {
            *score = (*score - best) / temperature;
        }
    }

    /// Log-probabilities of the chosen token and of the `top` most likely ones (of equals, the lowest id first).
    pub(crate) fn token_logprobs(&mut self, row: &[f32], max: f32, chosen: u32, top: usize) -> TokenLogprobs {
        let log_sum_exp = log_sum_exp(row, max);
        let mut best = Vec::new();
        if top > 0 {
            self.load(row);
            self.keep_top(top);
            self.sort_kept();
            self.kept.truncate(top);
            best.extend(self.kept.iter().map(|&id| (id, logprob(row, log_sum_exp, id))));
        }
        TokenLogprobs {
            chosen: logprob(row, log_sum_exp, chosen),
            top: best,
        }
    }

    fn load(&mut self, row: &[f32]) {
        self.scores.clear();
        self.scores.extend(row.iter().map(|&x| f64::from(x)));
    }

    /// Applies the repetition penalty. A token that occurs several times is penalised once, because each time starts from
    /// the unmodified logit.
    fn penalise(&mut self, row: &[f32], context: &[u32], penalty: f64) {
        for &token in context {
            if let (Some(score), Some(&x)) = (self.scores.get_mut(token as usize), row.get(token as usize)) {
                let x = f64::from(x);
                *score = if x < 0.0 { x * penalty } else { x / penalty };
            }
        }
    }

    fn best(&self) -> u32 {
        let mut best = 0;
        for (id, &score) in self.scores.iter().enumerate() {
            if score > self.scores[best] {
                best = id;
            }
        }
        best as u32
    }

    /// Applies top-k and top-p. `weight` is the weight of the whole row, where the scores are only a part of it. Returns
    /// `true` when all tokens are kept; then `kept` is not filled.
    fn filter(&mut self, sampling: &Sampling, weight: Option<f64>) -> bool {
        let vocab = self.scores.len();
        let top_k = match sampling.top_k {
            0 => vocab,
            k => k.min(vocab),
        };
        let nucleus = sampling.top_p < 1.0;
        if top_k == vocab && !nucleus {
            return true;
        }
        if top_k < vocab {
            self.keep_top(top_k);
        }
        if nucleus {
            self.keep_nucleus(top_k < vocab, sampling.top_p, weight);
        }
        false
    }

    /// Keeps the `k` best tokens and, as transformers does, all that tie with the last of them, in ascending order of id.
    fn keep_top(&mut self, k: usize) {
        let threshold = self.kth_largest(k);
        self.kept.clear();
        let scores = &self.scores;
        self.kept
            .extend((0..scores.len() as u32).filter(|&id| scores[id as usize] >= threshold));
    }

    /// Keeps the fewest best tokens that together have at least probability `top_p`: a token is kept when those before it
    /// have less. At least one is kept.
    fn keep_nucleus(&mut self, filtered: bool, top_p: f64, row_weight: Option<f64>) {
        let max = self.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |score: f64| (score - max).exp();
        let vocab = self.scores.len();
        let total: f64 = if filtered {
            self.kept.iter().map(|&id| weight(self.scores[id as usize])).sum()
        } else {
            row_weight.unwrap_or_else(|| self.scores.iter().map(|&score| weight(score)).sum())
        };
        let mut candidates = 64;
        loop {
            // The nucleus is nearly always small, so it is looked for among a few of the best before all are sorted.
            if !filtered {
                self.keep_top(candidates.min(vocab));
            }
            self.sort_kept();
            let mut above = 0.0;
            let size = self
                .kept
                .iter()
                .position(|&id| {
                    let outside = above >= top_p * total;
                    above += weight(self.scores[id as usize]);
                    outside
                })
                .unwrap_or(self.kept.len());
            if size < self.kept.len() || filtered || self.kept.len() == vocab || above >= top_p * total {
                self.kept.truncate(size.max(1));
                return;
            }
            candidates *= 8;
        }
    }

    /// Sorts the kept tokens, the best first and equals by id.
    fn sort_kept(&mut self) {
        let scores = &self.scores;
        self.kept
            .sort_unstable_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
    }

    /// The k-th largest score (1 ≤ k ≤ length), found in one pass that rarely does more than compare.
    fn kth_largest(&mut self, k: usize) -> f64 {
        let k = k.clamp(1, self.scores.len().max(1));
        let capacity = (2 * k).max(256);
        let mut threshold = f64::NEG_INFINITY;
        let selection = &mut self.selection;
        selection.clear();
        for &score in &self.scores {
            if score >= threshold {
                selection.push(score);
                if selection.len() == capacity {
                    let (_, &mut kth, _) = selection.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
                    threshold = kth;
                    selection.truncate(k);
                }
            }
        }
        if selection.len() < k {
            return threshold;
        }
        let (_, &mut kth, _) = selection.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        kth
    }

    /// Inverse transform sampling: the first kept token at which the cumulative weight exceeds `uniform` times the total.
    fn draw(&mut self, kept_all: bool, uniform: f64) -> u32 {
        if kept_all {
            self.kept.clear();
            self.kept.extend(0..self.scores.len() as u32);
        }
        let scores = &self.scores;
        let max = self
            .kept
            .iter()
            .map(|&id| scores[id as usize])
            .fold(f64::NEG_INFINITY, f64::max);
        self.selection.clear();
        self.selection
            .extend(self.kept.iter().map(|&id| (scores[id as usize] - max).exp()));
        let target = uniform * self.selection.iter().sum::<f64>();
        let mut cumulative = 0.0;
        let mut chosen = 0;
        for (&id, &weight) in self.kept.iter().zip(&self.selection) {
            if weight > 0.0 {
                cumulative += weight;
                chosen = id;
                if cumulative > target {
                    break;
                }
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::backend::row_max;

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        temperature: f64,
        top_k: usize,
        top_p: f64,
        repetition_penalty: f64,
        logits: Vec<f32>,
        context: Vec<u32>,
        kept: Vec<u32>,
        probabilities: Vec<f64>,
        logprob_0: f64,
    }

    fn goldens() -> Vec<Case> {
        serde_json::from_str::<Golden>(include_str!("../../tests/golden/sampler.json"))
            .unwrap()
            .cases
    }

    fn sampling(case: &Case, seed: u64) -> Sampling {
        Sampling {
            temperature: case.temperature,
            top_k: case.top_k,
            top_p: case.top_p,
            repetition_penalty: case.repetition_penalty,
            seed,
        }
    }

    /// The golden values are those of Hugging Face transformers' processors in f64, written by tests/golden/sampler.py.
    #[test]
    fn keeps_what_transformers_keeps_with_the_same_probabilities() {
        let mut sampler = Sampler::default();
        for (index, case) in goldens().iter().enumerate() {
            let max = row_max(&case.logits).unwrap();
            let logprob_0 = logprob(&case.logits, log_sum_exp(&case.logits, max), 0);
            assert!((logprob_0 - case.logprob_0).abs() < 1e-12, "case {index}");
            // After a draw, the sampler still has the kept ids and their weights.
            let chosen = sampler.sample(&case.logits, max, &case.context, &sampling(case, 1), 0);
            assert!(case.kept.contains(&chosen));
            let total: f64 = sampler.selection.iter().sum();
            let mut kept: Vec<_> = sampler.kept.iter().copied().zip(&sampler.selection).collect();
            kept.sort_unstable_by_key(|&(id, _)| id);
            let ids: Vec<u32> = kept.iter().map(|&(id, _)| id).collect();
            assert_eq!(ids, case.kept, "case {index}");
            for ((_, weight), expected) in kept.iter().zip(&case.probabilities) {
                assert!((*weight / total - expected).abs() < 1e-12, "case {index}");
            }
        }
    }

    /// Compares the frequencies of 20,000 draws with the probabilities. The draws are fixed, so the result is the same on
    /// every run.
    #[test]
    fn draws_follow_the_distribution() {
        let mut sampler = Sampler::default();
        let goldens = goldens();
        let case = &goldens[7];
        let max = row_max(&case.logits).unwrap();
        let mut counts = vec![0u32; case.logits.len()];
        let draws = 20_000;
        for n in 0..draws {
            counts[sampler.sample(&case.logits, max, &case.context, &sampling(case, 42), n) as usize] += 1;
        }
        assert_eq!(counts.iter().sum::<u32>() as u64, draws);
        for (&id, &p) in case.kept.iter().zip(&case.probabilities) {
            let frequency = f64::from(counts[id as usize]) / draws as f64;
            let deviation = (p * (1.0 - p) / draws as f64).sqrt();
            assert!(
                (frequency - p).abs() < 5.0 * deviation + 1e-9,
                "token {id}: {frequency} for {p}"
            );
        }
    }

    #[test]
    fn uniform_numbers_are_uniform_and_neighbouring_seeds_unrelated() {
        let mean = |numbers: &mut dyn Iterator<Item = f64>| numbers.sum::<f64>() / 10_000.0;
        assert!((mean(&mut (0..10_000).map(|n| uniform(7, n))) - 0.5).abs() < 0.015);
        assert!((mean(&mut (0..10_000).map(|seed| uniform(seed, 3))) - 0.5).abs() < 0.015);
        // Products of independent uniform numbers have mean 1/4.
        assert!((mean(&mut (0..10_000).map(|n| uniform(7, n) * uniform(8, n))) - 0.25).abs() < 0.015);
        assert!((mean(&mut (0..10_000).map(|n| uniform(7, n) * uniform(7, n + 1))) - 0.25).abs() < 0.015);
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_before_and_after_a_penalty() {
        let mut sampler = Sampler::default();
        let row = [1.0, 4.0, -2.0, 4.0, 3.0];
        assert_eq!(sampler.sample(&row, 4.0, &[1], &Sampling::greedy(), 0), 1);
        let penalised = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::greedy()
        };
        assert_eq!(sampler.sample(&row, 4.0, &[1, 1], &penalised, 0), 3);
        assert_eq!(sampler.sample(&row, 4.0, &[1, 3], &penalised, 0), 4);
        let negative = [-1.0, -1.5];
        assert_eq!(sampler.sample(&negative, -1.0, &[0], &penalised, 0), 1);
    }

    #[test]
    fn argmax_finds_every_position() {
        for position in 0..200 {
            let mut row = vec![-1.0; 200];
            row[position] = 0.5;
            row[199] = 0.5;
            assert_eq!(argmax(&row, 0.5), position as u32);
        }
    }

    #[test]
    fn rows_that_cannot_be_trusted() {
        let inf = f32::INFINITY;
        for position in [0, 15, 16, 40] {
            for (value, sound) in [(f32::NAN, false), (inf, false), (-inf, true), (9.0, true)] {
                let mut row = vec![1.0; 41];
                row[position] = value;
                assert_eq!(row_max(&row).is_some(), sound, "{value} at {position}");
            }
        }
        assert_eq!(row_max(&[-inf; 20]), None);
        assert_eq!(row_max(&[-inf, -3.0]), Some(-3.0));
    }

    #[test]
    fn masked_tokens_are_never_drawn_and_extreme_parameters_do_no_harm() {
        let mut sampler = Sampler::default();
        let row = [f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY, 1.0];
        for n in 0..100 {
            let plain = Sampling {
                temperature: 2.0,
                ..Sampling::greedy()
            };
            assert!([1, 3].contains(&sampler.sample(&row, 2.0, &[], &plain, n)));
        }
        for (temperature, top_p) in [(1e-300, 1.0), (1.0, 0.0), (1.0, 1e-300), (f64::NAN, f64::NAN)] {
            let extreme = Sampling {
                temperature,
                top_p,
                ..Sampling::greedy()
            };
            assert_eq!(
                sampler.sample(&row, 2.0, &[0], &extreme, 0),
                1,
                "{temperature} {top_p}"
            );
        }
    }

    /// Among candidates that contain all that the filters keep, the same tokens are chosen as from whole rows, and
    /// candidates that do not are not taken for covering them.
    #[test]
    fn tokens_drawn_from_candidates_are_those_drawn_from_rows() {
        let mut sampler = Sampler::default();
        let (mut covered, mut chosen_outside) = (0, 0);
        for case in 0..4000u64 {
            let random = |n| uniform(case, n);
            let vocabulary = 3 + (random(0) * 60.0) as usize;
            let spread = [1.0, 4.0, 10.0][case as usize % 3];
            // Rounded, so that there are ties.
            let row: Vec<f32> = (0..vocabulary)
                .map(|i| (random(10 + i as u64) * spread).round() as f32 / 2.0)
                .collect();
            let sampling = Sampling {
                temperature: [0.3, 1.0, 1.7][case as usize / 3 % 3],
                top_k: [0, 1, 2, 7][case as usize / 9 % 4],
                top_p: [1.0, 0.5, 0.9][case as usize / 36 % 3],
                repetition_penalty: 1.0,
                seed: case,
            };
            let count = (1 + (random(1) * 12.0) as usize).min(vocabulary);
            let filter = sampling.filter().unwrap();
            let candidates = Candidates::of_row(&row, count, filter.inverse_temperature()).unwrap();
            let chosen = sampler.sample(&row, row_max(&row).unwrap(), &[], &sampling, 5);
            if filter.is_covered_by(&candidates, vocabulary) {
                covered += 1;
                assert_eq!(
                    sampler.sample_candidates(&candidates, &sampling, 5),
                    chosen,
                    "case {case}"
                );
            } else if candidates.tokens.iter().all(|token| token.id != chosen) {
                chosen_outside += 1;
            }
        }
        assert!(
            covered > 1000 && chosen_outside > 200,
            "{covered}, {chosen_outside}"
        );
    }

    proptest! {
        /// Compares the threshold search with sorting everything. There are few distinct values, so there are many ties.
        #[test]
        fn top_keeps_the_best_and_their_ties(
            values in prop::collection::vec(-20i8..20, 1..2000),
            pick in any::<prop::sample::Index>(),
        ) {
            let k = pick.index(values.len()) + 1;
            let row: Vec<f32> = values.iter().map(|&v| f32::from(v)).collect();
            let mut sampler = Sampler::default();
            sampler.load(&row);
            sampler.keep_top(k);
            let mut sorted = row.clone();
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            let expected: Vec<u32> =
                (0..row.len() as u32).filter(|&id| row[id as usize] >= sorted[k - 1]).collect();
            prop_assert_eq!(&sampler.kept, &expected);

            let max = row_max(&row).unwrap();
            let top = sampler.token_logprobs(&row, max, 0, k).top;
            let mut ranked: Vec<u32> = (0..row.len() as u32).collect();
            ranked.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
            prop_assert_eq!(top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), &ranked[..k]);
        }
    }
}
