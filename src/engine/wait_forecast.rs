//! How long a sequence that has just arrived waits at least, and whether it can then still meet its deadline.
//!
//! All times are lower bounds, so only sequences that cannot meet their deadlines are refused; one that merely is
//! unlikely to is admitted. Of a prompt, only those tokens are counted that neither the cache has nor another open
//! sequence may put there; an answer is counted as a single token; and of the waiting sequences only those of the same
//! tenant and class are counted, because they certainly go first.

use std::time::{Duration, Instant};

use super::error::{LateAnswer, SequenceError};

/// Shortest time, in seconds, after which a refused caller is told to try again.
const SHORTEST_RETRY: f64 = 0.1;
/// Longest such time, in seconds.
const LONGEST_RETRY: f64 = 60.0;

/// A sequence that certainly goes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EarlierSequence {
    /// Least time that it takes, in seconds.
    pub seconds: f64,
    /// When it ends even if it has not been answered.
    pub deadline: Option<Instant>,
}

/// Refuses a sequence that needs at least `own` seconds after the earlier ones are done, if it would then end after its
/// deadline. Of the earlier ones, only so many are looked at as make it late and fill the longest time after which a caller is
/// told to try again: what they take together is the least wait that the error tells.
///
/// # Errors
/// [`SequenceError::DeadlineUnattainable`] when the deadline cannot be met.
pub(crate) fn check_deadline(
    earlier: impl Iterator<Item = EarlierSequence>,
    own: f64,
    deadline: Instant,
    now: Instant,
) -> Result<(), SequenceError> {
    let until = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
    let remaining = deadline.saturating_duration_since(now);
    let mut wait = 0.0f64;
    for earlier in earlier {
        let done = wait + earlier.seconds;
        let deadline = earlier.deadline.map(until);
        // A sequence that cannot be answered before its own deadline delays those behind it only until then.
        wait = wait.max(deadline.map_or(done, |deadline| done.min(deadline)));
        if wait + own > remaining.as_secs_f64() && wait >= LONGEST_RETRY {
            break;
        }
    }
    if wait + own <= remaining.as_secs_f64() {
        return Ok(());
    }
    let in_time_alone = own <= remaining.as_secs_f64();
    Err(SequenceError::DeadlineUnattainable(LateAnswer {
        predicted: seconds(wait + own),
        wait: seconds(wait),
        remaining,
        retry_after: in_time_alone.then(|| seconds(wait.clamp(SHORTEST_RETRY, LONGEST_RETRY))),
    }))
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier(now: Instant, parts: &[(f64, Option<f64>)]) -> Vec<EarlierSequence> {
        let at = |seconds: f64| now + Duration::from_secs_f64(seconds);
        let earlier = parts.iter().map(|part| EarlierSequence {
            seconds: part.0,
            deadline: part.1.map(at),
        });
        earlier.collect()
    }

    #[test]
    fn earlier_sequences_delay_until_they_are_done_or_their_own_deadlines_pass() {
        let now = Instant::now();
        for (parts, least) in [
            (&[][..], 1.0),
            (&[(2.0, None), (3.0, None)], 6.0),
            (&[(2.0, Some(9.0)), (3.0, Some(4.0))], 5.0),
            // The second ends before its turn could come.
            (&[(5.0, None), (3.0, Some(4.0))], 6.0),
            (&[(7.0, Some(0.0))], 1.0),
        ] {
            let in_time = |timeout: f64| {
                let deadline = now + Duration::from_secs_f64(timeout);
                check_deadline(earlier(now, parts).into_iter(), 1.0, deadline, now).is_ok()
            };
            assert!(in_time(least + 1e-6) && !in_time(least - 1e-6), "{parts:?}");
        }
    }

    #[test]
    fn no_more_is_counted_than_changes_the_answer() {
        let now = Instant::now();
        let endless = std::iter::repeat(EarlierSequence {
            seconds: 0.5,
            deadline: None,
        });
        for (timeout, wait) in [(3, 60), (600, 600)] {
            let deadline = now + Duration::from_secs(timeout);
            let refused = check_deadline(endless.clone(), 0.25, deadline, now).unwrap_err();
            let SequenceError::DeadlineUnattainable(late) = refused else {
                panic!("{refused:?}")
            };
            assert_eq!(late.wait, Duration::from_secs(wait));
            assert_eq!(late.retry_after, Some(Duration::from_secs(60)));
        }
    }

    #[test]
    fn a_refusal_says_how_long_it_would_take_and_when_to_try_again_if_that_helps() {
        let now = Instant::now();
        let refused = |timeout: u64| {
            let deadline = now + Duration::from_secs(timeout);
            check_deadline(earlier(now, &[(10.0, None)]).into_iter(), 2.0, deadline, now).unwrap_err()
        };
        assert_eq!(
            refused(5),
            SequenceError::DeadlineUnattainable(LateAnswer {
                predicted: Duration::from_secs(12),
                wait: Duration::from_secs(10),
                remaining: Duration::from_secs(5),
                retry_after: Some(Duration::from_secs(10)),
            })
        );
        let hopeless = refused(1);
        assert!(
            matches!(
                hopeless,
                SequenceError::DeadlineUnattainable(LateAnswer {
                    retry_after: None,
                    ..
                })
            ),
            "{hopeless:?}"
        );
    }
}
