//! How probable each category is: which continuations of a guard's prompt are asked for, and what their answers say.
//!
//! A guard names categories after its label, `unsafe\nS10` for instance. The prompt is continued with the label, and the
//! distribution over the next token is read: one short pass on the prompt's cached keys and values tells all categories
//! apart whose codes differ in one token. Where a code takes several tokens, such as `S`, `1`, `0`, each branching costs one
//! more pass, and all passes are computed in one batch.

use std::collections::BTreeMap;

/// The positions at which the codes of a policy part, as tokens after a guard's prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoryTree {
    branches: Vec<Branch>,
    /// The tokens of each code after the prompt, in the policy's order.
    codes: Vec<Vec<u32>>,
}

/// A position where codes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The tokens after the guard's prompt that lead here.
    pub path: Vec<u32>,
    /// The next tokens of the codes that come through here, each once.
    pub next: Vec<u32>,
}

impl CategoryTree {
    /// The tree of some codes, each as the tokens that follow the prompt: the beginning that all of them share, then the
    /// code's own. `None` when two codes have the same tokens, so that no answer could tell them apart.
    pub fn new(codes: Vec<Vec<u32>>) -> Option<Self> {
        let mut next: BTreeMap<&[u32], Vec<u32>> = BTreeMap::new();
        for code in &codes {
            for (at, token) in code.iter().enumerate() {
                let followers = next.entry(&code[..at]).or_default();
                if !followers.contains(token) {
                    followers.push(*token);
                }
            }
        }
        // Where there is only one way to go on, nothing is decided.
        let branches = next
            .into_iter()
            .filter(|(path, next)| next.len() > 1 || codes.iter().any(|code| code == path))
            .map(|(path, next)| Branch {
                path: path.to_vec(),
                next,
            })
            .collect();
        let alike = codes
            .iter()
            .enumerate()
            .any(|(index, code)| codes[..index].contains(code));
        (!alike).then_some(Self { branches, codes })
    }

    /// The positions at which distributions are read, each with one pass.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The probability of each code, in their order, that it is what the guard names first, given that it names one: the
    /// product over the branches on its way. `logprobs` are the natural log-probabilities of each branch's next tokens, in
    /// the order of [`CategoryTree::branches`]. What is missing counts as impossible. The sum is at most one; what is left
    /// is the probability of texts that are no code of the policy.
    pub fn probabilities(&self, logprobs: &[Vec<f64>]) -> Vec<f64> {
        let of_code = |code: &Vec<u32>| {
            let mut product = 1.0;
            for (branch, read) in self.branches.iter().zip(logprobs) {
                let Some(rest) = code.strip_prefix(branch.path.as_slice()) else {
                    continue;
                };
                let probability = |index: usize| read.get(index).map_or(0.0, |logprob| logprob.exp());
                product *= match rest.first() {
                    Some(token) => {
                        let index = branch.next.iter().position(|next| next == token);
                        index.map_or(0.0, probability)
                    }
                    // The code ends here, so what follows is anything that makes it no longer code.
                    None => (1.0 - (0..branch.next.len()).map(probability).sum::<f64>()).max(0.0),
                };
            }
            match logprobs.len() == self.branches.len() {
                true => product,
                false => 0.0,
            }
        };
        self.codes.iter().map(of_code).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn tree(codes: &[&[u32]]) -> CategoryTree {
        CategoryTree::new(codes.iter().map(|code| code.to_vec()).collect()).unwrap()
    }

    #[test]
    fn codes_that_part_once_take_one_pass() {
        // `unsafe`, line break, `S`, then a number in one token.
        let tree = tree(&[&[7, 8, 9, 1], &[7, 8, 9, 2], &[7, 8, 9, 10]]);
        let branch = Branch {
            path: vec![7, 8, 9],
            next: vec![1, 2, 10],
        };
        assert_eq!(tree.branches(), [branch]);
        let read = [0.5_f64, 0.25, 0.125].map(f64::ln).to_vec();
        let found = tree.probabilities(&[read]);
        for (found, wanted) in found.iter().zip([0.5, 0.25, 0.125]) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
    }

    #[test]
    fn a_code_that_another_begins_with_is_what_the_other_leaves() {
        // `S1` and `S10` to `S12`, digit by digit, and `S2`.
        let tree = tree(&[&[9, 1], &[9, 1, 0], &[9, 1, 1], &[9, 1, 2], &[9, 2]]);
        let branches: Vec<_> = tree
            .branches()
            .iter()
            .map(|branch| (branch.path.as_slice(), branch.next.as_slice()))
            .collect();
        assert_eq!(branches, [(&[9][..], &[1, 2][..]), (&[9, 1][..], &[0, 1, 2][..])]);
        let read = [
            vec![0.75_f64.ln(), 0.25_f64.ln()],
            vec![0.5_f64.ln(), 0.25_f64.ln(), 0.0_f64.ln()],
        ];
        let found = tree.probabilities(&read);
        for (found, wanted) in found.iter().zip([0.1875, 0.375, 0.1875, 0.0, 0.25]) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
    }

    #[test]
    fn what_was_not_read_is_no_probability() {
        let tree = tree(&[&[9, 1], &[9, 1, 0], &[9, 2]]);
        assert_eq!(tree.probabilities(&[]), [0.0; 3]);
        assert_eq!(tree.probabilities(&[vec![0.0], vec![]])[2], 0.0);
        assert_eq!(CategoryTree::new(vec![vec![1, 2], vec![1, 2]]), None);
    }

    /// A made-up model: a distribution over six tokens after each text, by a hash of the text.
    fn distribution(path: &[u32]) -> Vec<f64> {
        let seed = path.iter().fold(1u64, |seed, token| {
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(u64::from(*token) + 1)
        });
        let mut random = Random::new(seed);
        let weights: Vec<f64> = (0..6)
            .map(|_| (random.bits() >> 11) as f64 / (1u64 << 53) as f64 + 1e-3)
            .collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    #[test]
    fn probabilities_are_those_of_the_texts_under_any_model() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut codes: Vec<Vec<u32>> = Vec::new();
            for _ in 0..random.below(12) + 1 {
                let length = random.below(4) + 1;
                let code: Vec<u32> = (0..length)
                    .map(|_| u32::try_from(random.below(5)).unwrap())
                    .collect();
                if !codes.contains(&code) {
                    codes.push(code);
                }
            }
            let tree = CategoryTree::new(codes.clone()).unwrap();
            let read: Vec<Vec<f64>> = tree
                .branches()
                .iter()
                .map(|branch| {
                    let distribution = distribution(&branch.path);
                    branch
                        .next
                        .iter()
                        .map(|token| distribution[*token as usize].ln())
                        .collect()
                })
                .collect();
            let found = tree.probabilities(&read);
            assert!(found.iter().sum::<f64>() <= 1.0 + 1e-9, "{codes:?} {found:?}");
            for (code, found) in codes.iter().zip(found) {
                // Token by token over the whole text, with every step at which something else could have been a code.
                let mut wanted = 1.0;
                for at in 0..=code.len() {
                    let path = &code[..at];
                    let goes_on = |token: u32| {
                        codes
                            .iter()
                            .any(|other| other.starts_with(&[path, &[token]].concat()))
                    };
                    let ways = (0..6).filter(|token| goes_on(*token)).count();
                    let is_code = codes.iter().any(|other| other == path);
                    let distribution = distribution(path);
                    if at < code.len() {
                        if ways > 1 || is_code {
                            wanted *= distribution[code[at] as usize];
                        }
                    } else if ways > 0 {
                        let longer = (0..6).filter(|token| goes_on(*token));
                        wanted *= 1.0 - longer.map(|token| distribution[token as usize]).sum::<f64>();
                    }
                }
                assert!(
                    (found - wanted).abs() < 1e-9,
                    "{codes:?} {code:?} {found} {wanted}"
                );
            }
        }
    }
}
