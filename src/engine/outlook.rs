//! Whether a sequence that has just arrived can be in time, by what is certain of it and of those before it.
//!
//! Nothing here is an average over other requests: a prompt's tokens are counted as far as neither the cache has them
//! nor another open sequence may put them there, an answer as a single token, and of the waiting sequences only those
//! of the same tenant and class, which certainly go first. All times are lower bounds, so what they refuse is
//! hopeless; what is merely unlikely is admitted.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use super::SequenceError;

/// Bounds of the time to try again after, in seconds.
const RETRY: (f64, f64) = (0.1, 60.0);

/// A prompt's full blocks, for telling what two prompts have in common.
#[derive(Debug, Clone, Default)]
pub struct Outline {
    /// Hashes of the prompt up to the end of each block. Where two agree, all before them do.
    chain: Box<[u64]>,
    /// Leading blocks that the cache had when the sequence arrived.
    cached: usize,
    /// Leading blocks that the cache had, or that other sequences may compute before this one is to.
    expected: usize,
}

impl Outline {
    /// Of a prompt whose first `cached` blocks are in the cache.
    pub fn new(prompt: &[u32], block_size: usize, cached: usize) -> Self {
        let mut hasher = DefaultHasher::new();
        let chain = prompt.chunks_exact(block_size).map(|block| {
            block.hash(&mut hasher);
            hasher.finish()
        });
        Self {
            chain: chain.collect(),
            cached,
            expected: cached,
        }
    }

    /// Leading blocks that another sequence may put into the cache, if its answer makes it up to `blocks` blocks long.
    pub fn shared_with(&self, other: &Self, blocks: usize) -> usize {
        let both = self.chain.len().min(other.chain.len());
        let (mut common, mut differs) = (0, both + 1);
        while common + 1 < differs {
            let middle = common.midpoint(differs);
            if self.chain[middle - 1] == other.chain[middle - 1] {
                common = middle;
            } else {
                differs = middle;
            }
        }
        // Where this prompt goes on after all of the other's, the other's answer may be how.
        let reach = if common == other.chain.len() {
            blocks
        } else {
            common
        };
        reach.min(self.chain.len())
    }

    /// Others may compute so many of the leading blocks.
    pub fn expect(&mut self, blocks: usize) {
        self.expected = self.expected.max(blocks);
    }

    /// Leading blocks that need not be computed for this sequence.
    pub fn spared(&self) -> usize {
        self.expected
    }

    /// Whether it may be held back until another sequence has computed a common beginning; others pass it then.
    pub fn may_be_passed(&self) -> bool {
        self.expected > self.cached
    }
}

/// A sequence that certainly goes first.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// Least seconds that it takes.
    pub seconds: f64,
    /// When it ends in any case.
    pub deadline: Option<Instant>,
}

/// Refuses what needs `own` seconds at least once those ahead are done, if that is later than `deadline`.
///
/// # Errors
/// [`SequenceError::DeadlineUnattainable`].
pub fn check(
    ahead: impl Iterator<Item = Ahead>,
    own: f64,
    deadline: Instant,
    now: Instant,
) -> Result<(), SequenceError> {
    let until = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
    // One that does not get through before its own deadline holds up those behind it until then.
    let wait = ahead.fold(0.0f64, |wait, ahead| {
        let done = wait + ahead.seconds;
        wait.max(ahead.deadline.map_or(done, |deadline| done.min(until(deadline))))
    });
    let remaining = deadline.saturating_duration_since(now);
    if wait + own <= remaining.as_secs_f64() {
        return Ok(());
    }
    let alone = own <= remaining.as_secs_f64();
    Err(SequenceError::DeadlineUnattainable {
        predicted: seconds(wait + own),
        wait: seconds(wait),
        remaining,
        retry_after: alone.then(|| seconds(wait.clamp(RETRY.0, RETRY.1))),
    })
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(prompt: &[u32]) -> Outline {
        Outline::new(prompt, 2, 0)
    }

    #[test]
    fn outlines_tell_how_many_blocks_two_prompts_have_in_common() {
        let long = outline(&[1, 1, 2, 2, 3, 3, 4]);
        for (other, blocks, shared) in [
            (&[1, 1, 2, 2, 9, 9][..], 3, 2),
            (&[9, 9, 2, 2, 3, 3], 3, 0),
            (&[1, 1, 2, 2, 3, 3, 4], 3, 3),
            // All of the other prompt: its answer may go on as this prompt does.
            (&[1, 1], 1, 1),
            (&[1, 1], 2, 2),
            (&[1], 9, 3),
        ] {
            assert_eq!(
                long.shared_with(&outline(other), blocks),
                shared,
                "{other:?} {blocks}"
            );
        }
    }

    #[test]
    fn what_others_may_compute_is_not_counted_and_may_hold_a_sequence_back() {
        let mut outline = Outline::new(&[1, 1, 2, 2, 3, 3], 2, 1);
        outline.expect(1);
        assert_eq!((outline.spared(), outline.may_be_passed()), (1, false));
        outline.expect(3);
        outline.expect(2);
        assert_eq!((outline.spared(), outline.may_be_passed()), (3, true));
    }

    fn ahead(now: Instant, parts: &[(f64, Option<f64>)]) -> Vec<Ahead> {
        let at = |seconds: f64| now + Duration::from_secs_f64(seconds);
        let ahead = |&(seconds, deadline): &(f64, Option<f64>)| Ahead {
            seconds,
            deadline: deadline.map(at),
        };
        parts.iter().map(ahead).collect()
    }

    #[test]
    fn those_ahead_hold_up_until_they_are_done_or_their_own_deadlines_pass() {
        let now = Instant::now();
        for (parts, least) in [
            (&[][..], 1.0),
            (&[(2.0, None), (3.0, None)], 6.0),
            (&[(2.0, Some(9.0)), (3.0, Some(4.0))], 5.0),
            // It is gone before its turn could come.
            (&[(5.0, None), (3.0, Some(4.0))], 6.0),
            (&[(7.0, Some(0.0))], 1.0),
        ] {
            let in_time = |timeout: f64| {
                let deadline = now + Duration::from_secs_f64(timeout);
                check(ahead(now, parts).into_iter(), 1.0, deadline, now).is_ok()
            };
            assert!(in_time(least + 1e-6) && !in_time(least - 1e-6), "{parts:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_it_would_take_and_when_to_come_back_if_that_helps() {
        let now = Instant::now();
        let refused = |timeout: u64| {
            let deadline = now + Duration::from_secs(timeout);
            check(ahead(now, &[(10.0, None)]).into_iter(), 2.0, deadline, now).unwrap_err()
        };
        assert_eq!(
            refused(5),
            SequenceError::DeadlineUnattainable {
                predicted: Duration::from_secs(12),
                wait: Duration::from_secs(10),
                remaining: Duration::from_secs(5),
                retry_after: Some(Duration::from_secs(10)),
            }
        );
        let hopeless = refused(1);
        assert!(
            matches!(
                hopeless,
                SequenceError::DeadlineUnattainable {
                    retry_after: None,
                    ..
                }
            ),
            "{hopeless:?}"
        );
    }
}
